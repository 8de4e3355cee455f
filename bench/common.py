"""What the measurements share: the lab's Engines, our manager, Docker Swarm Mode beside it, rounds and tables.

Both sides speak the Docker Engine API on a unix socket, so one client drives them: what is measured is the time
between a request and an answer of the same API, polled alike.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from carried import ROOT, pack  # noqa: E402
from tabulate import tabulate  # noqa: E402

from tests.e2e.labctl import COMMAND, Lab, LabFailed  # noqa: E402

Json = dict[str, Any]
SWARMSH = str(Path(sys.executable).with_name("swarmsh"))
COUNTED = str(Path(__file__).with_name("counted_manager.py"))
POLL_S = 0.05
PATIENCE_S = 240.0  # for one step of a round; these machines start six containers in 20 s, more when shared
LABEL = "swarmsh.bench"
INSIDE = "/opt/swarmsh-bench"  # our manager in a machine of the lab; /run there is mounted noexec
INSIDE_UNIT = "swarmsh-bench-manager"


# --- arguments ------------------------------------------------------------------------------------------
def parser(doc: str | None, *, rounds: int = 5, compares: bool = False) -> argparse.ArgumentParser:
    """Options that every script has, and those of one that compares both sides; `doc` is the script's own text."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--lab", default="bench", help="name of a running lab that nothing else uses (default: bench)"
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"rounds of each side (default: {rounds})")
    made.add_argument("--image", default="", help="default: web:1 by its id, which spares Swarm a pull that fails")
    made.add_argument("--keep-log", type=Path, metavar="FILE", help="copy the manager's log there at the end")
    made.add_argument("--times", action="store_true", help="print every single time as well")
    made.set_defaults(manager_on="")
    if compares:
        made.add_argument(
            "--manager-on",
            metavar="NODE",
            help="run our manager inside this machine; Swarm's runs on n1 (default: on this host)",
        )
    return made


def run(main: Callable[[], None]) -> None:
    """Run a script; a step that did not come to its end is told without a traceback, with exit code 1."""
    try:
        main()
    except (BenchFailed, LabFailed) as err:
        sys.exit(f"{Path(sys.argv[0]).name}: {err}")


# --- one Docker API on a socket -------------------------------------------------------------------------
class Api:
    """A client of an Engine API: one kept connection a thread of use. Not for use by two threads at once."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and parsed body; a kept connection that turns out to be closed is opened anew, once."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        for attempt in (1, 2):
            kept = self._connection is not None
            connection = self._connection = self._connection or _UnixConnection(str(self.path))
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                raw = response.read()
                break
            except (http.client.HTTPException, OSError):
                self.close()
                if attempt == 2 or not kept:
                    raise
        try:
            return response.status, json.loads(raw) if raw else None
        except ValueError:
            return response.status, raw.decode(errors="replace")

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The parsed answer; raises BenchFailed unless the status is 2xx or 304."""
        status, answer = self.call(method, path, body)
        if status >= 400 or (status >= 300 and status != 304):
            raise BenchFailed(f"{self.name}: {method} {path}: {status} {answer}")
        return answer

    def clone(self) -> Api:
        """Another client of the same socket, for another thread."""
        return Api(self.path, self.name)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class BenchFailed(Exception):
    """A step of a measurement did not come to its end; the message says which and what was seen."""


def poll(reached: Callable[[], bool], what: Callable[[], str] | str, timeout_s: float = PATIENCE_S) -> float:
    """Ask every 50 ms until it is so; the seconds that took. Raises BenchFailed at the deadline."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        if reached():
            return time.monotonic() - began
        if asked - began > timeout_s:
            raise BenchFailed(f"not within {timeout_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(max(0.0, asked + POLL_S - time.monotonic()))


# --- services, on either side ---------------------------------------------------------------------------
def service_spec(name: str, image: str, replicas: int, *, constraint: str = "") -> Json:
    """A service as both sides get it: no networks, no ports, restarts without a delay, a short stop."""
    task: Json = {
        "ContainerSpec": {"Image": image, "StopGracePeriod": 1_000_000_000},
        "RestartPolicy": {"Condition": "any", "Delay": 0},
        "Placement": {"Constraints": [constraint]} if constraint else {},
    }
    return {"Name": name, "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": replicas}}}


class Side:
    """One of the two orchestrators: an API, and what is done with services on it."""

    def __init__(self, name: str, api: Api) -> None:
        self.name, self.api = name, api

    def create(self, spec: Json) -> str:
        """The new service's id."""
        return str(self.api.ask("POST", "/services/create", spec)["ID"])

    def tasks(self, service: str) -> list[Json]:
        filters = quote(json.dumps({"service": {service: True}}))
        return list(self.api.ask("GET", f"/tasks?filters={filters}"))

    def running(self, service: str) -> list[Json]:
        """Tasks that are wanted and run."""
        return [
            t for t in self.tasks(service) if t["Status"]["State"] == "running" and t["DesiredState"] == "running"
        ]

    def wait_running(self, service: str, count: int) -> float:
        return poll(
            lambda: len(self.running(service)) == count,
            lambda: f"{count} tasks of {service}: {self.story(service)}",
        )

    def story(self, service: str) -> str:
        return "; ".join(
            f"{t.get('Slot')} {t['DesiredState']} {t['Status']['State']} {t['Status'].get('Err', '')}"
            for t in self.tasks(service)
        )

    def nodes(self) -> dict[str, str]:
        """Node ids and the machines' names."""
        return {n["ID"]: n["Description"]["Hostname"] for n in self.api.ask("GET", "/nodes")}

    def ready(self) -> set[str]:
        """Names of the machines that are ready."""
        return {
            n["Description"]["Hostname"]
            for n in self.api.ask("GET", "/nodes")
            if n["Status"]["State"] == "ready" and n["Spec"]["Availability"] == "active"
        }

    def remove_all(self) -> None:
        for service in self.api.ask("GET", "/services"):
            self.api.call("DELETE", f"/services/{service['ID']}")


# --- the machines ---------------------------------------------------------------------------------------
class Machines:
    """The lab's nodes and their bare Engines, each through an ssh-forwarded socket of our own."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.status = lab.status()
        off = [n.name for n in self.status.nodes.values() if n.state != "running" or not n.engine]
        if off:
            raise BenchFailed(f"lab {lab.name}: {', '.join(off)} not running; `vagrant/lab up --name {lab.name}`")
        self.names = sorted(self.status.nodes)
        self.engines: dict[str, Api] = {}
        self._forwards: dict[str, subprocess.Popen[bytes]] = {}

    def open(self, name: str) -> Api:
        """Forward the Engine's socket of one machine (again, after it was off)."""
        self.hang_up(name)
        path = self.directory / f"{name}.sock"
        self._forwards[name] = self.forward(name, path, "/var/run/docker.sock")
        engine = self.engines[name] = Api(path, f"Engine of {name}")
        poll(lambda: path.exists() and _answers(engine), f"the forwarded Engine of {name}", 60)
        return engine

    def forward(self, name: str, path: Path, remote: str) -> subprocess.Popen[bytes]:
        """A process that makes the socket `remote` of a machine appear as `path` here, until it ends."""
        path.unlink(missing_ok=True)
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes",
                   "IdentitiesOnly=yes", "ExitOnForwardFailure=yes", "ServerAliveInterval=5")  # fmt: skip
        return self.lab.popen(
            *("ssh", "-F", "none", "-N", "-i", str(self.lab.directory / "id_ed25519")),
            *(word for option in options for word in ("-o", option)),
            *("-L", f"{path}:{remote}", f"root@{self.status.nodes[name].address}"),
            stderr=subprocess.DEVNULL,
        )

    def open_all(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.open, self.names))

    def close(self) -> None:
        for name in list(self._forwards):
            self.hang_up(name)

    def hang_up(self, name: str) -> None:
        """End the forward of a machine that is off, or about to be."""
        if (engine := self.engines.pop(name, None)) is not None:
            engine.close()
        if (forward := self._forwards.pop(name, None)) is not None:
            forward.terminate()
            forward.wait(20)

    def clean(self) -> None:
        """What an earlier run that was killed may have left: a manager, a swarm, a helper, containers."""
        for name in self.names:  # the manager first: it would start the helpers again
            self.lab.ssh(name, f"systemctl stop {INSIDE_UNIT} 2>/dev/null; rm -rf {INSIDE}", timeout_s=120)
        for name in self.names:
            self.lab.ssh(
                name,
                "docker swarm leave --force >/dev/null 2>&1; systemctl stop swarmsh-helper 2>/dev/null; "
                "docker ps -aq | xargs -r docker rm -f >/dev/null; "
                "if [ -e /run/swarmsh/net-before.json ]; then "
                "PYTHONPATH=/run/swarmsh/helper.pyz python3 -m remote_helpers.net purge >/dev/null; fi; "
                "umount -l /run/swarmsh/secrets; rm -rf /run/swarmsh; "
                "ip xfrm policy flush; ip xfrm state flush; true",
                timeout_s=180,
            )

    def containers(self, name: str) -> list[Json]:
        return list(self.engines[name].ask("GET", "/containers/json?all=1"))

    def wait_empty(self, *, settle_s: float = 1.5) -> None:
        """Until no Engine has a container, then a moment more: removal costs what is measured next."""
        poll(lambda: not any(self.containers(name) for name in self.engines), "no container left", 120)
        time.sleep(settle_s)

    def image_id(self, tag: str) -> str:
        ids = {e.ask("GET", f"/images/{tag}/json")["Id"] for e in self.engines.values()}
        if len(ids) != 1:
            raise BenchFailed(f"image {tag} is not the same on all machines: {ids}")
        return str(ids.pop())

    def start_bare(self, image: str, places: Sequence[str]) -> float:
        """Seconds until containers, one for each name in `places`, were created and started by the Engines."""

        def run(name: str) -> None:
            engine = self.engines[name].clone()
            body = {"Image": image, "Labels": {LABEL: "floor"}, "HostConfig": {"RestartPolicy": {"Name": "no"}}}
            made = engine.ask("POST", "/containers/create", body)["Id"]
            engine.ask("POST", f"/containers/{made}/start")
            engine.close()

        with ThreadPoolExecutor(len(places)) as pool:
            began = time.monotonic()
            list(pool.map(run, places))
            took = time.monotonic() - began
        self.remove_bare()
        return took

    def remove_bare(self) -> None:
        for name, engine in self.engines.items():
            for container in self.containers(name):
                if LABEL in container["Labels"]:
                    engine.call("DELETE", f"/containers/{container['Id']}?force=1")


def _answers(api: Api) -> bool:
    try:
        return api.call("GET", "/_ping")[0] == 200
    except (OSError, http.client.HTTPException):
        api.close()
        return False


# --- Docker Swarm Mode ------------------------------------------------------------------------------------------
class SwarmMode:
    """The real one: n1 its manager, the others workers; driven through n1's forwarded socket."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._manager, *self._workers = machines.names
        self.side = Side("swarm", machines.engines[self._manager].clone())

    def start(self) -> None:
        address = self._machines.status.nodes[self._manager].address
        lab = self._machines.lab
        lab.ssh(self._manager, "docker", "swarm", "init", "--advertise-addr", address, timeout_s=180)
        token = lab.ssh(self._manager, "docker", "swarm", "join-token", "-q", "worker", timeout_s=120).strip()
        for worker in self._workers:
            lab.ssh(worker, "docker", "swarm", "join", "--token", token, f"{address}:2377", timeout_s=180)
        poll(lambda: len(self.side.ready()) == len(self._machines.names), "all nodes of the swarm ready")

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # n1 may be what failed: the machines are left clean anyhow
            self.side.remove_all()
        for name in (*self._workers, self._manager):
            self._machines.lab.call("ssh", name, "--", "docker", "swarm", "leave", "--force", check=False,
                                    timeout_s=120)  # fmt: skip
        self.side.api.close()


# --- our manager ----------------------------------------------------------------------------------------
class OurManager:
    """`swarmsh manager run` on this host, inside the lab's network; its processes end with it."""

    def __init__(self, machines: Machines, directory: Path, *, counted: bool = False) -> None:
        self._machines = machines
        self.state = directory / "state"
        self.socket = directory / "swarmsh.sock"
        self.log = directory / "manager.log"
        self.counts = directory / "counts.json"
        self.side = Side("ours", Api(self.socket, "our manager"))
        self.process: subprocess.Popen[bytes] | None = None
        self._counted = counted

    def start(self, inventory: Path | None = None) -> None:
        """Start it, with an inventory of one's own if given, and wait for its nodes."""
        self._launch(inventory or self._machines.lab.inventory)
        names = set(self._machines.names)
        # After a restart a node is ready by what was known of it: its session counts.
        poll(lambda: self.connected() == self.side.ready() == names, lambda: f"nodes ready\n{self.log_tail()}")

    def _launch(self, inventory: Path) -> None:
        """Start the process; returns when its socket answers."""
        arguments = ["--state", str(self.state), "--socket", str(self.socket), "--inventory", str(inventory)]
        command = [sys.executable, COUNTED, str(self.counts)] if self._counted else [SWARMSH, "manager", "run"]
        with self.log.open("ab") as log:
            self.process = self._machines.lab.popen(*command, *arguments, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode().strip()
        if line != f"unix://{self.socket}":
            raise BenchFailed(f"our manager did not start: {line!r}\n{self.log_tail()}")

    def connected(self) -> set[str]:
        """Names of the nodes with a session."""
        sessions = self.side.api.ask("GET", "/swarmsh/status")["sessions"]
        return {s["name"] for s in sessions if s["connected"]}

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def use(self) -> ProcessUse:
        """What its process has used and holds."""
        return use_of(self.pid)

    def counters(self) -> dict[str, Json]:
        """Numbers of the sessions by node, as the process holds them now; only of a counted manager."""
        self.counts.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        poll(self.counts.exists, "the manager's counters", 10)
        return dict(json.loads(self.counts.read_text()))

    def stop(self) -> None:
        """End the process; the helpers stay, and what they run."""
        self.side.api.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.process = None

    def leave(self) -> None:
        """Leave the machines as they were found, and end."""
        if self.running:
            with contextlib.suppress(Exception):  # a manager in trouble: the machines are cleaned anyhow
                self.side.remove_all()
                for node in self.side.api.ask("GET", "/nodes"):
                    self.side.api.call("DELETE", f"/nodes/{node['ID']}?force=1")
                poll(lambda: self.side.api.ask("GET", "/swarmsh/status")["nodes"]["total"] == 0, "nodes left", 20)
                time.sleep(0.5)
        self.stop()

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class OurManagerInside(OurManager):
    """The same inside a machine of the lab, its state too; asked through a forwarded socket, as Swarm's is."""

    def __init__(self, machines: Machines, directory: Path, node: str) -> None:
        super().__init__(machines, directory)
        self._node = node
        self._archive = directory / "manager.tar.gz"

    def _launch(self, inventory: Path) -> None:
        self._copy(inventory)
        arguments = [f"--{what}={INSIDE}/{what}" for what in ("state", "socket", "inventory")]
        self._machines.lab.ssh(
            self._node,
            *(
                "systemd-run",
                "--quiet",
                "--collect",
                f"--unit={INSIDE_UNIT}",
                f"--setenv=PYTHONPATH={INSIDE}/{ROOT}",
            ),
            *("--property=TimeoutStopSec=20", "--property=StandardOutput=null"),
            f"--property=StandardError=append:{INSIDE}/log",
            *("python3", "-m", "swarmsh", "manager", "run", *arguments),
        )
        self.process = self._machines.forward(self._node, self.socket, f"{INSIDE}/socket")
        poll(
            lambda: self.socket.exists() and _answers(self.side.api),
            lambda: f"our manager on {self._node}\n{self.log_tail()}",
            120,
        )

    def _copy(self, inventory: Path) -> None:
        """Bring there what it runs on, and the lab's key with an inventory that names it."""
        ours = f"{sys.version_info.major}.{sys.version_info.minor}"
        version = "import sys; print(*sys.version_info[:2], sep='.')"
        theirs = self._machines.lab.ssh(self._node, "python3", "-c", version).strip()
        if theirs != ours:
            raise BenchFailed(f"our manager's packages are of Python {ours}, {self._node} has {theirs}")
        pattern = r"(ansible_ssh_private_key_file:).*"
        hosts = re.sub(pattern, rf"\1 {INSIDE}/key", inventory.read_text())
        key = (self._machines.lab.directory / "id_ed25519").read_bytes()
        pack(self._archive, {"key": key, "inventory": hosts.encode()})
        unpack = f"mkdir -p -m 700 {INSIDE} && tar -xzf - --no-same-owner -C {INSIDE}"
        with self._archive.open("rb") as archive:
            done = subprocess.run(
                [str(COMMAND), "ssh", f"--name={self._machines.lab.name}", self._node, "--", unpack],
                stdin=archive,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        if done.returncode != 0:
            raise BenchFailed(f"our manager could not be copied to {self._node}: {done.stderr}")

    def use(self) -> ProcessUse:
        used = use_of_unit(self._machines.lab, self._node, INSIDE_UNIT)
        time.sleep(1.0)  # the machine clears away the session in which that was read
        return used

    def stop(self) -> None:
        self._fetch_log()
        if self.process is not None:
            self._machines.lab.call("ssh", self._node, "--", "systemctl", "stop", INSIDE_UNIT, check=False)
        super().stop()

    def log_tail(self, lines: int = 25) -> str:
        self._fetch_log()
        return super().log_tail(lines)

    def _fetch_log(self) -> None:
        """As far as it can be had."""
        done = self._machines.lab.call("ssh", self._node, "--", "cat", f"{INSIDE}/log", check=False)
        if done.returncode == 0:
            self.log.write_text(done.stdout)


# --- all of it ------------------------------------------------------------------------------------------
@dataclass
class Bench:
    """What a script measures on; a context that leaves nothing behind, whatever happens in it."""

    lab: Lab
    with_swarm: bool = True
    counted: bool = False
    image_wanted: str = ""
    keep_log: Path | None = None
    manager_on: str = ""  # a machine's name; "": on this host
    image: str = field(init=False, default="")
    machines: Machines = field(init=False)
    ours: OurManager = field(init=False)
    swarm_mode: SwarmMode = field(init=False)
    _cleanup: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)

    @classmethod
    def of(cls, options: argparse.Namespace, *, with_swarm: bool = True, counted: bool = False) -> Self:
        lab, manager_on = Lab(options.lab), options.manager_on or ""
        return cls(lab, with_swarm, counted, options.image, options.keep_log, manager_on)

    @property
    def swarm(self) -> Side:
        return self.swarm_mode.side

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmsh-bench-")))
            self.machines = Machines(self.lab, directory)
            if self.manager_on and self.manager_on not in self.machines.names:
                raise BenchFailed(f"lab {self.lab.name} has no machine {self.manager_on} for our manager")
            self.machines.clean()
            stack.callback(self._clean)
            stack.callback(self.machines.close)
            self.machines.open_all()
            self.image = self.image_wanted or self.machines.image_id("web:1")
            if self.manager_on:
                self.ours = OurManagerInside(self.machines, directory, self.manager_on)
            else:
                self.ours = OurManager(self.machines, directory, counted=self.counted)
            stack.callback(self._save_log)
            stack.callback(self.ours.leave)
            if self.with_swarm:
                self.swarm_mode = SwarmMode(self.machines)
                stack.callback(self.swarm_mode.stop)
                self.swarm_mode.start()
            self.ours.start()
            # The first container after a boot costs several times what the next ones do.
            self.machines.start_bare(self.image, self.machines.names)
            self.machines.wait_empty()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._cleanup.close()

    def _save_log(self) -> None:
        if self.keep_log is not None and self.ours.log.exists():
            self.keep_log.write_bytes(self.ours.log.read_bytes())

    def _clean(self) -> None:
        try:
            for name, node in self.lab.status().nodes.items():
                if node.state == "off":
                    self.lab.fault(name, "power-on", "--wait")
            self.machines.clean()
        except LabFailed:
            if self.lab.call("status", check=False).returncode == 0:
                raise
            # Whatever else failed, failed because of this.
            raise BenchFailed(f"lab {self.lab.name} is gone: it was taken down under the measurement") from None

    def header(self) -> str:
        node = next(iter(self.machines.status.nodes.values()))
        load = os.getloadavg()[0]
        return (
            f"lab {self.lab.name}: {len(self.machines.names)} machines, {node.suite}, Engine {node.engine}; "
            f"our manager on {self.manager_on or 'the host'}; "
            f"{os.cpu_count()} cores, load {load:.1f}; {time.strftime('%Y-%m-%d %H:%M')}"
        )


# --- figures --------------------------------------------------------------------------------------------
@dataclass
class Times:
    """Measured values by what was measured, in rounds."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, value: float) -> None:
        self.values.setdefault(what, []).append(value)
        print(f"  {what}: {value:.2f}", file=sys.stderr, flush=True)

    def median(self, what: str) -> float:
        return statistics.median(self.values[what])

    def print(self, unit: str = "s", *, every: bool = False) -> None:
        rows = [
            (what, len(v), statistics.median(v), min(v), max(v), " ".join(f"{x:.2f}" for x in v) if every else "")
            for what, v in self.values.items()
        ]
        heads = ("measured", "rounds", f"median {unit}", "min", "max", "each" if every else "")
        print(tabulate(rows, heads, tablefmt="simple", floatfmt=".2f"))


@dataclass(frozen=True)
class Target:
    """A figure that was asked for: at most `limit`."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def print_targets(targets: Sequence[Target]) -> None:
    rows = [(t.what, f"{t.value:.2f} {t.unit}", f"≤ {t.limit:g} {t.unit}", _verdict(t)) for t in targets]
    print(tabulate(rows, ("figure", "is", "asked for", ""), tablefmt="simple", disable_numparse=True))


def _verdict(target: Target) -> str:
    if math.isnan(target.value):
        return "no figure: Swarm was no slower than the floor"
    return "met" if target.met else "MISSED"


def above(ours: float, swarm: float, floor: float) -> float:
    """Our time above the floor as a share of Swarm's; NaN if noise made Swarm no slower than the floor."""
    return (ours - floor) / (swarm - floor) if swarm > floor else math.nan


def rounds(count: int, sides: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Sides in turn; every other round begins with the other one, so that none always follows the same."""
    for number in range(count):
        for side in sides if number % 2 == 0 else reversed(sides):
            print(f"round {number + 1}: {side}", file=sys.stderr, flush=True)
            yield number, side


# --- processes ------------------------------------------------------------------------------------------
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessUse:
    """What a process has used and holds."""

    cpu_s: float  # user and system time since its start
    rss_mb: float
    pss_mb: float
    children_s: float  # of processes that it has waited for


def parse_use(stat: str, rollup: str) -> ProcessUse:
    """From the texts of /proc/PID/stat (proc(5): fields 14 to 17) and /proc/PID/smaps_rollup."""
    fields = stat.rpartition(")")[2].split()
    sizes: Mapping[str, str] = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE))
    own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    rss_mb, pss_mb = int(sizes["Rss"]) / 1024, int(sizes["Pss"]) / 1024
    return ProcessUse(own / CLOCK_TICKS, rss_mb, pss_mb, children / CLOCK_TICKS)


def use_of_unit(lab: Lab, node: str, unit: str) -> ProcessUse:
    """The main process of a systemd unit, read on its machine."""
    said = lab.ssh(node, f"cd /proc/$(systemctl show -p MainPID --value {unit}) && cat stat smaps_rollup")
    stat, _, rollup = said.partition("\n")
    return parse_use(stat, rollup)


def use_of(pid: int) -> ProcessUse:
    """A process of this host."""
    proc = Path(f"/proc/{pid}")
    return parse_use((proc / "stat").read_text(), (proc / "smaps_rollup").read_text())
