"""Traffic to a VIP and a published port goes on while something of the cluster goes and comes back.

`web` is on each of three machines of three suites, on an overlay and behind a port of the mesh. The clients are
the host outside, by the ports of the machines, and a task on n1, by the VIP. What goes is always n2's. A request
may fail that was under way to what goes, or was sent there before it was known to be gone; none after that, and
none because something comes back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .labctl import COMMAND
from .swarm import Swarm
from .test_networks import ALL, Answers, Place, addresses, create, outside, places, vip_of
from .test_upgrade import another_helper, helper_hash

pytestmark = pytest.mark.e2e

PORT = 8080
PROGRAM = Path(__file__).with_name("load.py")
CONTAINER_S = 1.0  # until a dead container is out of the mesh everywhere
NODE_S = 10.0  # until a lost node's are; 3 s on machines with time to spare
GONE = "n2"
PAUSE_S = "0.8"  # four strands each: a machine of 1 GB tracks 8192 connections, some minutes' worth of these


@dataclass
class Load:
    """Requests by several clients; filled when they end."""

    began: float = 0.0  # monotonic clock of this host, when all were ready
    answered: dict[str, int] = field(default_factory=dict)
    failed: dict[float, str] = field(default_factory=dict)  # when it began, by that clock

    def late(self, since: float, until: float) -> dict[float, str]:
        """Failed requests that began outside of this time, by seconds since its start."""
        return {round(at - since, 2): words for at, words in self.failed.items() if not since <= at <= until}


class Traffic:
    """The cluster under test and its clients."""

    def __init__(self, swarm: Swarm, web: list[Place], client: Place, vip: str) -> None:
        self.swarm, self.client, self.vip = swarm, client, vip
        self.at = addresses(swarm.lab)
        swarm.lab.ssh(client.node, "cat >/run/load.py", stdin=PROGRAM.read_text())

    @contextmanager
    def load(self, *nodes: str) -> Iterator[Load]:
        """Requests through the ports of these nodes, and to the VIP, meanwhile."""
        lab, found = self.swarm.lab, Load()
        urls = [f"http://{self.at[node]}:{PORT}/" for node in nodes]
        slow = ("--pause", PAUSE_S)
        inside = ("nsenter", "-t", self.client.pid, "-n", "python3", "/run/load.py", *slow, f"http://{self.vip}/")
        argvs = (
            [str(COMMAND), "run", f"--name={lab.name}", "--", sys.executable, str(PROGRAM), *slow, *urls],
            [str(COMMAND), "ssh", f"--name={lab.name}", self.client.node, "--", *inside],
        )
        with ExitStack() as stack:
            programs = [
                stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                for argv in argvs
            ]
            ready = []
            for program in programs:
                assert program.stdout is not None and program.stdout.readline() == b"ready\n"
                ready.append(time.monotonic())
            yield found
            told = [json.loads(program.communicate(timeout=90)[0]) for program in programs]
        for began, one in zip(ready, told, strict=True):
            found.answered.update(one["answered"])
            found.failed.update(
                {began + at: words for at, words in zip(one["began_s"], one["failed"], strict=True)}
            )

    def wait_whole(self) -> None:
        """Until all three answer through all nodes, and by the VIP."""
        for node in ALL:
            self.swarm.wait(
                lambda node=node: self._all_in(outside(self.swarm, "tcp", self.at[node], PORT, 6)),
                f"all by {node}",
            )
        self.swarm.wait(lambda: self._all_in(self.client.probe("tcp", self.vip, 80, 6)), "all by the VIP")

    def _all_in(self, seen: Answers) -> bool:
        """Whether these are of all tasks that run now: one that ended may be listed a moment longer."""
        tasks = {t["ID"] for t in self.swarm.running("web")}
        return len(tasks) == len(ALL) and {host for host, _ in seen} == tasks

    def place(self) -> Place:
        (found,) = [place for place in places(self.swarm, "web") if place.node == GONE]
        return found


@pytest.fixture(scope="module")
def traffic(swarm: Swarm) -> Iterator[Traffic]:
    swarm.clear()
    swarm.docker("network", "create", "-d", "overlay", "front")
    create(swarm, "web", "--mode", "global", "--network", "front", "--restart-delay", "0s", "-p", f"{PORT}:80")
    create(swarm, "client", "--network", "front", "--constraint", "node.hostname==n1")
    swarm.wait_running("web", 3)
    swarm.wait_running("client", 1)
    traffic = Traffic(swarm, places(swarm, "web"), places(swarm, "client")[0], vip_of(swarm, "web"))
    traffic.wait_whole()
    yield traffic
    swarm.clear()
    swarm.docker("network", "prune", "-f")


def test_a_killed_container(traffic: Traffic) -> None:
    gone = traffic.place()
    with traffic.load(*ALL) as load:
        killed = time.monotonic()
        traffic.swarm.ssh(GONE, "docker", "kill", gone.container)
        done = time.monotonic()
        traffic.wait_whole()
    print(load.answered, load.late(killed, killed), done - killed)
    assert not load.late(killed, done + CONTAINER_S)


def test_an_engine_that_is_restarted(traffic: Traffic) -> None:
    with traffic.load(*ALL) as load:
        began = time.monotonic()
        traffic.swarm.ssh(GONE, "systemctl", "restart", "docker")
        done = time.monotonic()
        traffic.wait_whole()
    print(load.answered, load.late(began, began), done - began)
    assert not load.late(began, done + CONTAINER_S)


def test_a_node_without_power_that_comes_back(traffic: Traffic) -> None:
    lab = traffic.swarm.lab
    with traffic.load(*(node for node in ALL if node != GONE)) as load:
        cut = time.monotonic()
        lab.fault(GONE, "power-off")
        done = time.monotonic()
        lab.fault(GONE, "power-on", "--wait")
        traffic.swarm.wait(lambda: GONE in traffic.swarm.connected(), f"{GONE} is back")
        traffic.wait_whole()
    print(load.answered, load.late(cut, cut), done - cut)
    assert not load.late(cut, done + NODE_S)


def test_another_version_of_the_helper(traffic: Traffic, tmp_path: Path) -> None:
    swarm = traffic.swarm
    ours = [helper_hash(swarm, node) for node in ALL]
    newer = another_helper(tmp_path / "newer")
    before = {container: at for node in ALL for container, at in swarm.started_at(node).items()}
    with traffic.load(*ALL) as load:
        swarm.stop()
        swarm.start(python_path=newer)
        swarm.wait(
            lambda: all(helper_hash(swarm, node) != one for node, one in zip(ALL, ours, strict=True)),
            "newer helpers",
        )
        swarm.wait(lambda: swarm.connected() == set(ALL), "sessions with them")
        swarm.stop()
        swarm.start()
        swarm.wait(lambda: [helper_hash(swarm, node) for node in ALL] == ours, "the older ones again")
        swarm.wait(lambda: swarm.connected() == set(ALL), "sessions with these")
        traffic.wait_whole()
    assert load.failed == {}
    assert min(load.answered.values()) > 0, load.answered
    assert {container: at for node in ALL for container, at in swarm.started_at(node).items()} == before
