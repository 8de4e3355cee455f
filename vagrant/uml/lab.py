"""A lab as a whole: bring it up, look at it, take it down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from . import host, image, inventory, keys, machine, network, registry, testimages
from .errors import LabError
from .machine import Machine, Power
from .paths import LabPaths
from .process import wait_until
from .progress import Progress
from .shell import Shell

MIXED = "mixed"
BOOT_LIMIT_S = 240.0
MAX_NODES = 40
DEFAULT_MEMORY_MB = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a lab consists of; kept in its folder, so that later commands need no options."""

    nodes: int = 3
    suite: str = "bookworm"
    memory_mb: int = DEFAULT_MEMORY_MB
    registry: bool = False
    registry_auth: str = ""  # USER:PASSWORD, or none

    def suites(self) -> list[str]:
        """The suite of each machine, in order."""
        dealt = image.SUITES if self.suite == MIXED else (self.suite,)
        return [dealt[i % len(dealt)] for i in range(self.nodes)]


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a lab, and the way in."""

    name: str
    suite: str
    address: str
    machine: Machine
    shell: Shell


class Lab:
    """The lab in one folder."""

    def __init__(self, paths: LabPaths) -> None:
        self.paths = paths

    def plan(self) -> Plan | None:
        """What was asked of `up`, or None if there is no such lab."""
        try:
            return Plan(**json.loads(self.paths.state.read_text())["plan"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as err:
            raise LabError(f"{self.paths.state} is not readable: {err}", "`down` removes the lab.") from err

    def existing_plan(self) -> Plan:
        """The plan, or an error that says how to make the lab."""
        plan = self.plan()
        if plan is None:
            raise LabError(
                f"there is no lab {self.paths.name}", f"`vagrant/lab up --name {self.paths.name}` makes it."
            )
        return plan

    def nodes(self) -> list[Node]:
        """All machines, first one first."""
        state = self.existing_plan()
        images = self._images()
        return [
            self._node(i, suite, images.get(suite, Path("/nonexistent")), state.memory_mb)
            for i, suite in enumerate(state.suites(), 1)
        ]

    def node(self, name: str) -> Node:
        """The machine called `name`."""
        nodes = self.nodes()
        for node in nodes:
            if node.name == name:
                return node
        raise LabError(
            f"lab {self.paths.name} has no machine {name}", f"It has {', '.join(n.name for n in nodes)}."
        )

    def up(self, plan: Plan, *, quiet: bool = False) -> None:
        """Make it so: every machine runs, its sshd and Engine answer, the test images are loaded."""
        old = self.plan()
        if old is not None and (old.nodes, old.suite, old.memory_mb) != (plan.nodes, plan.suite, plan.memory_mb):
            raise LabError(
                f"lab {self.paths.name} exists with other machines "
                f"({old.nodes} nodes, {old.suite}, {old.memory_mb} MB each)",
                f"`vagrant/lab down --name {self.paths.name}` first, or use another --name.",
            )
        if not 1 <= plan.nodes <= MAX_NODES:
            raise LabError(f"a lab has 1 to {MAX_NODES} machines, not {plan.nodes}")
        with host.locked(self.paths.run.parent / f"{self.paths.tag}.lock"):
            self._prepare(plan, quiet=quiet)
            nodes = self.nodes()
            for node in nodes:
                if machine.power(node.machine) is Power.FROZEN:
                    machine.thaw(node.machine)
                machine.power_on(node.machine)
            progress = Progress([node.name for node in nodes], quiet=quiet)
            archive = testimages.ensure_web_images()
            self.on_each(nodes, lambda node: _finish_boot(node, archive, progress))
            if plan.registry:
                registry.ensure(self.paths, plan.registry_auth, nodes[-1].shell)

    def down(self) -> None:
        """Remove the lab: processes, networks, files. Works on what is left of one, too."""
        with host.locked(self.paths.run.parent / f"{self.paths.tag}.lock"):
            # What runs is recorded in the run folder, so it is found even if the lab's own folder is gone.
            for record in [*self.paths.run.glob("n*.process"), *self.paths.run.glob("n*.ssh")]:
                node = self._node(int(record.stem[1:]), "", Path(), 0)
                node.shell.hang_up()
                machine.power_off(node.machine)
            registry.stop(self.paths)
            if shutil.which("ip"):
                network.remove_network(self.paths)
            image.release(self.paths.tag)
            for folder in (self.paths.memory, self.paths.run, self.paths.root):
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.paths.root.parent.rmdir()
        (self.paths.run.parent / f"{self.paths.tag}.lock").unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """What is there, as plain data (see docs/lab.md for the fields)."""
        plan = self.existing_plan()
        cuts = (
            {name: network.cut_elements(self.paths, name) for name in ("cut", "cut_manager", "cut_pair")}
            if network.exists(self.paths.namespace)
            else {}
        )
        return {
            "name": self.paths.name,
            "namespace": self.paths.namespace,
            "dir": str(self.paths.root),
            "inventory": str(self.paths.inventory),
            "host_address": network.HOST_ADDRESS,
            "registry": registry.address(self.paths) if plan.registry else None,
            "suite": plan.suite,
            "nodes": self.on_each(self.nodes(), lambda node: _node_status(node, cuts)),
        }

    def on_each(self, nodes: Iterable[Node], act: Callable[[Node], T]) -> list[T]:
        """Do something on all machines at once; results in order, the first failure is raised at the end."""
        pool = ThreadPoolExecutor(max_workers=MAX_NODES)
        futures = [pool.submit(act, node) for node in nodes]
        try:
            wait(futures)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for them
        return [future.result() for future in futures]

    def wait_ready(self, node: Node, *, quiet: bool = False) -> None:
        """Return when a machine that was started answers by SSH and its Engine does too."""
        _wait_ready(node, Progress([node.name], quiet=quiet))

    def _prepare(self, plan: Plan, *, quiet: bool) -> None:
        """Everything but the machines' running: packages, images, links, seeds, inventory."""
        self.paths.root.mkdir(parents=True, exist_ok=True)
        self.paths.root.chmod(0o700)
        suites = list(dict.fromkeys(plan.suites()))
        progress = Progress(["host", *suites], quiet=quiet)
        if host.missing_packages():
            progress.show("host", f"installing {', '.join(host.missing_packages())}")
            host.ensure_packages()
        old_images = self._images()
        images = {}
        for suite in suites:
            kept = old_images.get(suite)  # its disks stand on it: a newer recipe is for new labs
            images[suite] = (
                kept if kept and kept.is_file() else image.ensure_image(suite, partial(progress.show, suite))
            )
        _write_whole(
            self.paths.state,
            json.dumps({"plan": asdict(plan), "images": {k: str(v) for k, v in images.items()}}, indent=2),
        )
        self.paths.run.mkdir(parents=True, exist_ok=True)
        network.ensure_network(self.paths, plan.nodes)
        login = keys.ensure_key(self.paths.key, f"swarmsh lab {self.paths.name}")
        nodes = self.nodes()
        hosts = {node.name: node.address for node in nodes}
        for node in nodes:
            _prepare_node(node, login, hosts)
            image.claim(node.machine.image, f"{self.paths.tag}-{node.name}", node.machine.folder)
        inventory.write(
            self.paths.inventory,
            [
                inventory.Host(
                    node.name, node.address, node.suite, keys.fingerprint(node.machine.folder / "host_key.pub")
                )
                for node in nodes
            ],
            self.paths.key,
        )

    def _images(self) -> dict[str, Path]:
        """The disk image of each suite, as chosen when the lab was made."""
        if not self.paths.state.exists():
            return {}
        return {k: Path(v) for k, v in json.loads(self.paths.state.read_text()).get("images", {}).items()}

    def _node(self, index: int, suite: str, base: Path, memory_mb: int) -> Node:
        name, address = f"n{index}", network.node_address(index)
        return Node(
            name,
            suite,
            address,
            Machine(self.paths, name, index, base, memory_mb),
            Shell(self.paths, name, address),
        )


def _prepare_node(node: Node, login: keys.KeyPair, hosts: dict[str, str]) -> None:
    folder = node.machine.folder
    folder.mkdir(exist_ok=True)
    seed = folder / "seed.tar"
    if not seed.exists():
        host_key = keys.ensure_key(folder / "host_key", f"root@{node.name}")
        unfinished = folder / "seed.tmp"
        keys.write_seed(
            unfinished, name=node.name, address=node.address, host_key=host_key, login_key=login, hosts=hosts
        )
        unfinished.rename(seed)


def _finish_boot(node: Node, archive: Path, progress: Progress) -> None:
    _wait_ready(node, progress)
    progress.show(node.name, "loading test images")
    load_images(node, archive)
    progress.show(node.name, f"ready ({node.suite}, {node.address})")


def _wait_ready(node: Node, progress: Progress) -> None:
    """Wait for sshd, then for the Engine; a kernel that dies or hangs is told with its last words."""
    progress.show(node.name, "booting")
    seen: list[str] = []

    def sshd_or_dead() -> bool:
        if machine.power(node.machine) is Power.OFF:
            seen.append("its kernel ended")
        elif network.port_answers(node.shell.paths.admin_namespace, node.address, 22):
            return True
        return bool(seen)

    answered = wait_until(sshd_or_dead, timeout_s=BOOT_LIMIT_S, every_s=0.25)
    if seen or not answered:
        why = seen[0] if seen else f"no sshd after {BOOT_LIMIT_S:.0f} s"
        raise LabError(
            f"machine {node.name} ({node.suite}) did not boot: {why}; its console ends with:\n"
            f"{machine.console_tail(node.machine)}",
            f"The whole console: {node.machine.console}; `down` and `up` start afresh.",
        )
    progress.show(node.name, "sshd answers, waiting for the Engine")
    # `start` joins the start job that the boot has queued, and returns when the Engine says it is ready.
    try:
        node.shell.run("systemctl start docker && docker version >/dev/null", timeout_s=BOOT_LIMIT_S)
    except LabError as err:
        log = node.shell.run("journalctl -u docker -n 15 --no-pager -o cat | cut -c1-200", timeout_s=20)
        raise LabError(f"machine {node.name} ({node.suite}): its Engine does not start: {err}\n{log}") from err


def load_images(node: Node, archive: Path) -> None:
    """Load a `docker save` archive unless the machine has just those images."""
    wanted = testimages.image_ids(archive)
    found = node.shell.run("docker image inspect --format '{{.Id}}' " + " ".join(wanted) + " 2>/dev/null || true")
    if found.split() != list(wanted.values()):
        with archive.open("rb") as file:
            node.shell.run("docker load -q", stdin=file, timeout_s=180)


def _node_status(node: Node, cuts: dict[str, set[str]]) -> dict[str, Any]:
    state = machine.power(node.machine)
    supervisor = machine.supervisor_process(node.machine)
    sshd, engine, slow = _ask(node) if state is Power.RUNNING else (False, None, False)
    return {
        "name": node.name,
        "address": node.address,
        "suite": node.suite,
        "state": state.value,
        "pid": supervisor.pid if supervisor else None,
        "sshd": sshd,
        "engine": engine,
        "faults": _cuts_of(node, cuts) + (["slow"] if slow else []),
    }


def _ask(node: Node) -> tuple[bool, str | None, bool]:
    """Whether an SSH session can be had, the Engine's version (None: no answer), whether the link is slow."""
    # By a session rather than a bare connection: newer sshd keep away those who connect and say nothing.
    try:
        answer = node.shell.run(
            "timeout 5 docker version --format '{{.Server.Version}}' 2>/dev/null || echo; "
            "tc qdisc show dev vec0 | grep -c netem; true",
            timeout_s=15,
        ).splitlines()
    except LabError:
        return False, None, False
    return True, answer[0].strip() or None, answer[-1] == "1"


def _cuts_of(node: Node, cuts: dict[str, set[str]]) -> list[str]:
    tap = f"tap{node.machine.index}"
    named = [name.replace("_", "-") for name in ("cut", "cut_manager") if tap in cuts.get(name, ())]
    others = [pair.split(" . ")[1] for pair in cuts.get("cut_pair", ()) if pair.split(" . ")[0] == tap]
    return named + [f"cut-pair {other.replace('tap', 'n')}" for other in sorted(others)]


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)
