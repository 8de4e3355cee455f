"""What labels ask of the load balancer, seen by clients: one address, affinity, schedulers; and networks without a
way out. Through a real manager, on machines of three suites.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from .labctl import Lab
from .swarm import Swarm
from .test_networks import (
    ALL,
    OUTSIDE,
    Answers,
    Place,
    address_of,
    addresses,
    backends,
    create,
    on_node,
    outside,
    places,
    vip_of,
    wait_answers,
)

pytestmark = pytest.mark.e2e

PORT = 8080
REFUSED = "ConnectionRefusedError"
# Free in the lab: machines begin at .11. Of so many a hash misses one of three tasks once in 60,000 runs.
CLIENTS = tuple(f"10.98.0.{n}" for n in range(100, 130))
# For each client address some connections of its own, one after another: client address and task of each.
BY_CLIENTS = """
import http.client, sys
address, port, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for client in sys.argv[4:]:
    for _ in range(times):
        link = http.client.HTTPConnection(address, port, timeout=8, source_address=(client, 0))
        link.request("GET", "/", headers={"Connection": "close"})
        print(client, link.getresponse().read().decode().partition("hostname=")[2].partition("\\n")[0])
        link.close()
"""
# Connections that are held: some, of which those to the first one's task end, then some more. Tasks of both lots.
HELD = """
import http.client, json, sys
address, port, first, then = sys.argv[1], *map(int, sys.argv[2:])
def hold():
    link = http.client.HTTPConnection(address, port, timeout=8)
    link.request("GET", "/")
    return link.getresponse().read().decode().partition("hostname=")[2].partition("\\n")[0], link
lot = [hold() for _ in range(first)]
for task, link in lot:
    if task == lot[0][0]:
        link.close()
more = [hold() for _ in range(then)]
print(json.dumps([[task for task, _ in lot], [task for task, _ in more]]))
"""

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
    print("connected")
except OSError as e:
    print(e)
"""
# Takes connections until its standard input ends.
LISTEN = """
import socket, sys
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Scene:
    """`web` on each machine, on the network `front`, with two published ports; its labels are what changes."""

    swarm: Swarm
    web: list[Place]
    vip: str
    at: dict[str, str]

    @property
    def tasks(self) -> set[str]:
        return names(self.web)

    def label(self, *flags: str) -> None:
        self.swarm.docker("service", "update", "-d", *flags, "web")

    @contextmanager
    def labelled(self, name: str, value: str) -> Iterator[None]:
        self.label("--label-add", f"{name}={value}")
        try:
            yield
        finally:
            self.label("--label-rm", name)

    def wait_schedulers(self, node: str, *wanted: str) -> None:
        """Until a node balances the two ports like that, in the order of the words."""
        shown = "ipvsadm -Ln | awk '/^FWM/{line=$0} line && / [0-9.]*:80 /{print line; line=0}'"

        def told() -> list[str]:
            lines = self.swarm.ssh(node, shown).splitlines()
            # Flags of a scheduler's own are named in brackets.
            return sorted(" ".join(w for w in line.split()[2:] if w[0] != "(") for line in lines)

        self.swarm.wait(lambda: told() == list(wanted), f"{wanted} on {node}")


@pytest.fixture(scope="module")
def scene(swarm: Swarm) -> Iterator[Scene]:
    swarm.clear()
    swarm.docker("network", "create", "-d", "overlay", "front")
    flags = (
        "--mode",
        "global",
        "--restart-condition",
        "none",
        "--network",
        "front",
        "-p",
        f"{PORT}:80",
        "-p",
        "80:80",
    )
    create(swarm, "web", *flags)
    swarm.wait_running("web", 3)
    scene = Scene(swarm, places(swarm, "web"), vip_of(swarm, "web"), addresses(swarm.lab))
    for node in ALL:
        wait_answers(swarm, scene.tasks, "tcp", scene.at[node], PORT)
    yield scene
    swarm.clear()
    swarm.docker("network", "prune", "-f")


@contextmanager
def clients(lab: Lab) -> Iterator[None]:
    """Let the host outside have CLIENTS as well."""
    each = [f"{client}/24 dev br0" for client in CLIENTS]
    try:
        lab.run("sh", "-c", "; ".join(f"ip address add {one}" for one in each))
        yield
    finally:
        lab.run("sh", "-c", "; ".join(f"ip address del {one}" for one in each), check=False)


def by_clients(lab: Lab, address: str, times: int, port: int = PORT) -> dict[str, list[str]]:
    """The tasks that answer each client."""
    found: dict[str, list[str]] = {client: [] for client in CLIENTS}
    told = lab.run("python3", "-c", BY_CLIENTS, address, str(port), str(times), *CLIENTS)
    for line in told.splitlines():
        client, _, task = line.partition(" ")
        found[client].append(task)
    return found


def tasks_of(answered: Answers) -> set[str]:
    return {host for host, _ in answered}


def names(found: list[Place]) -> set[str]:
    """What they answer with."""
    return {place.task["ID"] for place in found}


def test_a_port_bound_to_one_address_answers_there_only(scene: Scene) -> None:
    swarm, at = scene.swarm, scene.at
    with scene.labelled("swarmsh.publish.bind", at["n1"]):
        for node in ("n2", "n3"):
            swarm.wait(lambda node=node: refused_outside(scene, node), f"nobody is let in on {node}")
            assert tasks_of(on_node(swarm, node, "tcp", at["n1"], PORT, 3)) == scene.tasks, node
            assert tasks_of(on_node(swarm, node, "tcp", "127.0.0.1", PORT, 1)) == {REFUSED}, node
        wait_answers(swarm, scene.tasks, "tcp", at["n1"], PORT)
    with scene.labelled("swarmsh.publish.bind", "127.0.0.1"):
        for node in ALL:
            swarm.wait(lambda node=node: refused_outside(scene, node), f"for {node} alone")
            swarm.wait(
                lambda node=node: tasks_of(on_node(swarm, node, "tcp", "127.0.0.1", PORT, 3)) == scene.tasks,
                f"answers on the loopback of {node}",
            )
    for node in ALL:
        wait_answers(swarm, scene.tasks, "tcp", at[node], PORT)
    assert {t["ID"] for t in swarm.running("web")} == scene.tasks, "labels restart nothing"


def refused_outside(scene: Scene, node: str) -> bool:
    return tasks_of(outside(scene.swarm, "tcp", scene.at[node], PORT, 1)) == {REFUSED}


def test_by_the_clients_address(scene: Scene, lab: Lab) -> None:
    with clients(lab):
        with scene.labelled("swarmsh.lb.scheduler", "sh"):
            for node in ALL:
                scene.wait_schedulers(node, "sh", "sh")
                seen = by_clients(lab, scene.at[node], 3)
                assert all(len(set(tasks)) == 1 for tasks in seen.values()), (node, seen)
                assert {tasks[0] for tasks in seen.values()} == scene.tasks, (node, seen)
        scene.wait_schedulers("n1", "rr", "rr")
        seen = by_clients(lab, scene.at["n1"], 3)
        assert all(set(tasks) == scene.tasks for tasks in seen.values()), ("in turn", seen)


def test_to_the_least_busy_one(scene: Scene, lab: Lab) -> None:
    def held() -> tuple[list[str], list[str]]:
        first, then = json.loads(lab.run("python3", "-c", HELD, scene.at["n3"], str(PORT), "12", "3"))
        return first, then

    with scene.labelled("swarmsh.lb.scheduler", "wlc"):
        scene.wait_schedulers("n3", "wlc", "wlc")
        first, then = held()
        assert sorted(Counter(first).values()) == [4, 4, 4], first
        # Of the first one's four none is left, of the others' all.
        assert then == first[:1] * 3, (first, then)
    scene.wait_schedulers("n3", "rr", "rr")
    first, then = held()
    assert sorted(Counter(then).values()) == [1, 1, 1], ("in turn, whoever is busy", first, then)


def connect(place: Place, address: str, port: int) -> str:
    """What comes of a connection from a task."""
    argv = ["nsenter", "-t", place.pid, "-n", "python3", "-c", CONNECT, address, str(port)]
    return place.swarm.ssh(place.node, shlex.join(argv)).strip()


@contextmanager
def listening(lab: Lab) -> Iterator[None]:
    """Something outside takes connections."""
    argv = ("python3", "-c", LISTEN, OUTSIDE, str(PORT))
    with lab.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        yield  # leaving closes its standard input


def test_an_internal_network_has_no_way_out(scene: Scene, lab: Lab) -> None:
    swarm, at = scene.swarm, scene.at
    swarm.docker("network", "create", "-d", "overlay", "--internal", "--attachable", "inner")
    create(
        swarm,
        "db",
        *("--replicas", "2", "--replicas-max-per-node", "1", "--constraint", "node.hostname!=n1"),
        *("--network", "inner"),
    )
    swarm.wait_running("db", 2)
    inner, vip = places(swarm, "db"), vip_of(swarm, "db")
    for place in inner:
        swarm.wait(
            lambda place=place: tasks_of(place.probe("tcp", vip, 80, 4)) == names(inner), f"VIP from {place.node}"
        )
    assert inner[0].resolve("db") == {vip}
    assert inner[0].resolve("tasks.db") == {address_of(one) for one in inner}
    assert inner[0].resolve("web") == set()
    ways = ((OUTSIDE, PORT), (at["n1"], 22), (address_of(scene.web[0]), 80))
    with listening(lab):
        # Who is on the other network goes all these ways, so they are open.
        assert [connect(scene.web[1], *way) for way in ways] == ["connected"] * len(ways)
        assert "connected" not in [connect(inner[0], *way) for way in ways]
    inspected = json.loads(swarm.docker("network", "inspect", "--verbose", "inner"))[0]
    assert (inspected["Internal"], inspected["Attachable"]) == (True, True)
    assert {peer["IP"] for peer in inspected["Peers"]} == {at["n2"], at["n3"]}
    assert set(inspected["Services"]) == {"db"}
    shown = inspected["Services"]["db"]
    assert shown["VIP"] == vip
    assert {(one["EndpointIP"], one["Info"]["Host IP"]) for one in shown["Tasks"]} == {
        (address_of(place), at[place.node]) for place in inner
    }
    assert {one["Name"].rpartition(".")[2] for one in shown["Tasks"]} == names(inner)


def test_a_client_stays_with_its_task_until_that_is_gone(scene: Scene, lab: Lab) -> None:
    """By its address at 8080:80, by the kernel's own affinity at 80:80.

    This is the last test: nothing comes in the place of the task that goes.
    """
    swarm, at = scene.swarm, scene.at["n2"]
    ports = (PORT, 80)
    with clients(lab):
        with scene.labelled("swarmsh.lb.persist", "10m"):
            scene.wait_schedulers("n2", "mh", "rr persistent 600")
            seen = {port: by_clients(lab, at, 3, port) for port in ports}
            for port in ports:
                assert all(len(set(tasks)) == 1 for tasks in seen[port].values()), (port, seen)
                assert {tasks[0] for tasks in seen[port].values()} == scene.tasks, (port, seen)
            # By the VIP as well: each task is a client, of one task.
            for place in scene.web:
                assert len(tasks_of(place.probe("tcp", scene.vip, 80, 4))) == 1, place.node
            gone = scene.web[2]
            swarm.ssh(gone.node, "docker", "kill", gone.container)
            swarm.wait(lambda: len(port_backends(swarm, "n2")) == 2, "it is out on n2")
            for port in ports:
                after = by_clients(lab, at, 3, port)
                for client, tasks in after.items():
                    assert len(set(tasks)) == 1 and tasks[0] != gone.task["ID"], (port, after)
                    assert seen[port][client][0] in (tasks[0], gone.task["ID"]), (port, client, seen, after)
        scene.wait_schedulers("n2", "rr", "rr")
        left = scene.tasks - {gone.task["ID"]}
        after = by_clients(lab, at, 3)
        assert all(set(tasks) == left for tasks in after.values()), ("spread again", after)


def port_backends(swarm: Swarm, node: str) -> set[str]:
    """Those that a node's port gives clients to; a VIP's have no port."""
    return {one for one in backends(swarm, node) if one.endswith(":0050")}
