"""The test lab (`vagrant/lab`) as tests use it: a thin typed face of the command, nothing of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = CHECKOUT / "vagrant" / "lab"
AWAY_ADDRESS = "10.98.0.9"  # free in every lab: machines begin at .11
UP_LIMIT_S = 1800.0  # the first one ever builds images


class LabFailed(Exception):
    """A lab command or a command in the lab failed; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One machine as `vagrant/lab status` tells of it."""

    name: str
    address: str
    suite: str
    pid: int | None  # of its first process on the host; None: off
    state: str  # running, off, frozen
    sshd: bool
    engine: str | None  # the Engine's version; None: it does not answer
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab as `vagrant/lab status` tells of it."""

    name: str
    namespace: str
    directory: Path
    inventory: Path
    host_address: str  # of the manager's and clients' side
    registry: str | None  # host:port
    nodes: dict[str, NodeStatus]


class Lab:
    """One lab by its name; commands raise LabFailed unless told `check=False`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def directory(self) -> Path:
        """The lab's folder; exists while the lab does."""
        base = os.environ.get("SWARMSH_LAB_DIR")
        return (Path(base).absolute() if base else CHECKOUT / ".lab") / self.name

    @property
    def inventory(self) -> Path:
        """The Ansible inventory of the lab's machines."""
        return self.directory / "inventory.yml"

    def call(
        self,
        command: str,
        *arguments: str,
        check: bool = True,
        timeout_s: float = 60.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Any command of `vagrant/lab` on this lab, with its exit code and both streams."""
        argv = self._argv(command, *arguments)
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                env=dict(env) if env is not None else None,
            )
        except subprocess.TimeoutExpired as err:
            if check:
                raise LabFailed(f"{' '.join(argv)}: no end within {timeout_s:.0f} s") from err
            return subprocess.CompletedProcess(argv, 124, "", f"no end within {timeout_s:.0f} s\n")
        if check and done.returncode != 0:
            words = done.stdout[-2000:] + done.stderr[-4000:]
            raise LabFailed(f"{' '.join(argv)}: exit {done.returncode}\n{words}")
        return done

    def up(
        self,
        *,
        nodes: int = 3,
        suite: str = "mixed",
        registry: bool = False,
        registry_auth: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Make the lab, or complete it; returns when every machine is of use."""
        options = [f"--nodes={nodes}", f"--suite={suite}", *(["--registry"] if registry else [])]
        if registry_auth is not None:
            options.append(f"--registry-auth={registry_auth}")
        return self.call("up", *options, check=check, timeout_s=UP_LIMIT_S)

    def down(self) -> None:
        """Remove the lab; no error if there is none."""
        self.call("down", timeout_s=120)

    def status(self) -> LabStatus:
        """What is there now."""
        told = json.loads(self.call("status", "--format=json", timeout_s=60).stdout)
        nodes = {node["name"]: NodeStatus(**{**node, "faults": tuple(node["faults"])}) for node in told["nodes"]}
        return LabStatus(
            name=told["name"],
            namespace=told["namespace"],
            directory=Path(told["dir"]),
            inventory=Path(told["inventory"]),
            host_address=told["host_address"],
            registry=told["registry"],
            nodes=nodes,
        )

    def ssh(
        self, node: str, *argv: str, check: bool = True, timeout_s: float = 60.0, stdin: str | None = None
    ) -> str:
        """Output of a command on a machine as root: one word is a shell line, several are an exact argv."""
        return self.call("ssh", node, "--", *argv, check=check, timeout_s=timeout_s, stdin=stdin).stdout

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout_s: float = 60.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Output of a command of this host, run inside the lab's network."""
        return self.call("run", "--", *argv, check=check, timeout_s=timeout_s, stdin=stdin, env=env).stdout

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """A command of this host inside the lab's network, running; its pid is the command's own.

        `options` are those of subprocess.Popen.
        """
        return subprocess.Popen(self._argv("run", "--", *argv), **{"stdin": subprocess.DEVNULL, **options})

    def fault(self, *words: str, timeout_s: float = 400.0) -> None:
        """`fault("n1", "reboot", "--wait")`, `fault("cut-pair", "n1", "n2")`; returns when it is so."""
        self.call("fault", *words, timeout_s=timeout_s)

    def move_host(self, left: str, taken: str) -> None:
        """Give the side of manager and clients another address in the place of its own, as a changed network does.

        What was connected from the old one hears no more, and no end either. May be repeated.
        """
        self.run(
            "sh",
            "-c",
            f"ip address del {left}/24 dev br0 2>/dev/null; ip address replace {taken}/24 broadcast + dev br0",
        )

    def docker_cli(self, suite: str) -> str:
        """Path of a docker client of a suite (bullseye, bookworm: 20.10; trixie 26.1; forky 28.5)."""
        return self.call("docker-cli", suite, timeout_s=UP_LIMIT_S).stdout.strip()

    def image(self, tag: str, tar: Path, *nodes: str) -> None:
        """Load an image tar on machines (all, if none is named)."""
        self.call("image", tag, str(tar), *nodes, timeout_s=400)

    def describe(self) -> str:
        """The state of all machines as text, for a failed test's report; never raises."""
        parts = [self.call("status", check=False, timeout_s=60).stdout]
        for node in ("n1", "n2", "n3"):
            told = self.call("ssh", node, "--", DESCRIBE, check=False, timeout_s=40)
            parts.append(f"--- {node}\n{told.stdout}{told.stderr}")
        return "\n".join(parts)

    def _argv(self, command: str, *arguments: str) -> list[str]:
        return [str(COMMAND), command, f"--name={self.name}", *arguments]


DESCRIBE = (
    "uptime; timeout 10 docker ps -a --format 'table {{.ID}} {{.Names}} {{.Image}} {{.Status}}'; "
    "systemctl --failed --no-legend; journalctl -b -p warning -n 25 --no-pager -o short-monotonic | cut -c1-240"
)
