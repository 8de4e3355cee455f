"""Services on overlay networks and ports of the routing mesh, through a real manager: real packets.

Machines of three suites. The clients are the tasks' own containers, the nodes, and the host outside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .labctl import Lab
from .swarm import Swarm

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")
OUTSIDE = "10.98.0.1"
# One answer a line: host name and client address of each, or what went wrong.
PROBE = """
import socket, sys
kind, address, port, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(times):
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(8)
        s.connect((address, port))
        s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n" if kind == "tcp" else b"hello")
        data = b""
        while b"client=" not in data or b"\\n" not in data.partition(b"client=")[2]:
            part = s.recv(4096)
            if not part:
                break
            data += part
        lines = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
        print(lines["hostname"], lines["client"].rpartition(":")[0])
    except OSError as e:
        print(type(e).__name__, e)
    finally:
        s.close()
"""
Answers = list[tuple[str, str]]  # host name of the task that answered, client address that it saw


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()
    swarm.docker("network", "prune", "-f")


def create(swarm: Swarm, name: str, *flags: str) -> None:
    """A service whose containers have their tasks' ids as host names, by which they answer."""
    swarm.docker("service", "create", "-d", "--name", name, "--hostname", "{{.Task.ID}}", *flags, "web:1")


@dataclass(frozen=True)
class Place:
    """A running task's container, asked through its node: works without a manager too."""

    swarm: Swarm
    task: dict[str, Any]
    node: str
    container: str
    pid: str

    @property
    def name(self) -> str:
        """Its host name, by which it answers."""
        return f"{self.task['ServiceID']}.{self.task['ID']}"

    def run(self, *argv: str, check: bool = True) -> str:
        """Standard output of a command in the container."""
        return self.swarm.ssh(self.node, "docker", "exec", self.container, *argv, check=check)

    def resolve(self, name: str) -> set[str]:
        """IPv4 addresses of a name; empty if there are none. Of that busybox only nslookup can ask."""
        told = self.run("nslookup", "-type=a", name, check=False)
        _, _, answer = told.partition("Name:")
        return {line.split()[-1] for line in answer.splitlines() if line.startswith("Address")}

    def probe(self, kind: str, address: str, port: int, times: int = 3) -> Answers:
        """From its network namespace."""
        argv = ["nsenter", "-t", self.pid, "-n", "python3", "-c", PROBE, kind, address, str(port), str(times)]
        return answers(self.swarm.ssh(self.node, shlex.join(argv)))


def places(swarm: Swarm, service: str) -> list[Place]:
    """Where its running tasks are, in the order of the nodes."""
    names = {n["ID"]: str(n["Spec"]["Name"]) for n in swarm.nodes()}
    found = []
    for task in swarm.running(service):
        node, container = names[task["NodeID"]], str(task["Status"]["ContainerStatus"]["ContainerID"])
        pid = swarm.ssh(node, "docker", "inspect", "-f", "{{.State.Pid}}", container).strip()
        found.append(Place(swarm, task, node, container, pid))
    return sorted(found, key=lambda place: place.node)


def answers(text: str) -> Answers:
    found = [line.partition(" ") for line in text.splitlines()]
    return [(host, client) for host, _, client in found]


def outside(swarm: Swarm, kind: str, address: str, port: int, times: int = 3) -> Answers:
    return answers(swarm.lab.run("python3", "-c", PROBE, kind, address, str(port), str(times)))


def on_node(swarm: Swarm, node: str, kind: str, address: str, port: int, times: int = 3) -> Answers:
    return answers(swarm.ssh(node, "python3", "-c", PROBE, kind, address, str(port), str(times)))


def wait_answers(swarm: Swarm, tasks: set[str], kind: str, address: str, port: int) -> None:
    """Until these tasks, and no others, answer at an address."""
    swarm.wait(
        lambda: {host for host, _ in outside(swarm, kind, address, port, 2 * len(tasks))} == tasks,
        f"all tasks answer on {kind} {address}:{port}",
    )


def addresses(lab: Lab) -> dict[str, str]:
    return {name: node.address for name, node in lab.status().nodes.items()}


def test_tasks_find_each_other_by_name_through_a_vip(swarm: Swarm) -> None:
    swarm.docker("network", "create", "-d", "overlay", "front")
    swarm.docker("network", "create", "-d", "overlay", "back")
    one_each = ("--replicas", "3", "--replicas-max-per-node", "1")
    create(swarm, "web", *one_each, "--network", "name=front,alias=shop")
    create(swarm, "other", "--network", "back", "--constraint", "node.hostname==n1")
    create(swarm, "round", "--network", "front", "--endpoint-mode", "dnsrr", "--constraint", "node.hostname==n2")
    for service, count in (("web", 3), ("other", 1), ("round", 1)):
        swarm.wait_running(service, count)
    web, (other,), (single,) = places(swarm, "web"), places(swarm, "other"), places(swarm, "round")
    everyone = {place.task["ID"] for place in web}
    vip = vip_of(swarm, "web")
    attached = {address_of(place) for place in web}

    def check(when: str) -> None:
        for place in web:
            where = (when, place.node)
            assert place.resolve("web") == {vip}, where
            assert place.resolve("shop") == {vip}, where
            assert place.resolve("tasks.web") == attached, where
            assert place.resolve("round") == {address_of(single)}, where
            assert place.resolve("tasks.round") == {address_of(single)}, where
            assert place.resolve("other") == place.resolve("tasks.other") == set(), where
            for kind, port in (("tcp", 80), ("udp", 53)):
                seen = place.probe(kind, vip, port, 6)
                assert {host for host, _ in seen} == everyone, (*where, kind, seen)
                # Itself it reaches through its node's gateway, all others with its own address.
                clients = {client for host, client in seen if host != place.task["ID"]}
                assert clients == {address_of(place)}, (*where, kind, seen)
        assert other.resolve("web") == other.resolve("shop") == other.resolve("tasks.web") == set(), when

    # Backends enter when they are ready; each node hears of that by itself.
    swarm.wait(lambda: all(place.resolve("tasks.web") == attached for place in web), "all are known everywhere")
    swarm.wait(
        lambda: all({host for host, _ in place.probe("tcp", vip, 80, 6)} == everyone for place in web),
        "all take connections",
    )
    check("with a manager")
    swarm.stop()
    try:
        check("without a manager")
    finally:
        swarm.start()
    check("with the manager again")


def address_of(place: Place) -> str:
    """On the first of its overlays."""
    return str(place.task["NetworksAttachments"][0]["Addresses"][0]).partition("/")[0]


def vip_of(swarm: Swarm, service: str) -> str:
    """On the first of its overlays."""
    inspected = json.loads(swarm.docker("service", "inspect", service))[0]
    return str(inspected["Endpoint"]["VirtualIPs"][0]["Addr"]).partition("/")[0]


@pytest.mark.parametrize("network", ["", "front"])
def test_a_published_port_answers_on_every_node_with_the_clients_address(
    swarm: Swarm, lab: Lab, network: str
) -> None:
    on: tuple[str, ...] = ()
    if network:
        swarm.docker("network", "create", "-d", "overlay", network)
        on = ("--network", network)
    create(
        swarm,
        "web",
        "--replicas",
        "2",
        "--constraint",
        "node.hostname!=n1",
        *on,
        "-p",
        "8080:80",
        "-p",
        "5353:53/udp",
    )
    create(swarm, "client", "--constraint", "node.hostname==n1")
    swarm.wait_running("web", 2)
    swarm.wait_running("client", 1)
    web, client = places(swarm, "web"), places(swarm, "client")
    both = {place.task["ID"] for place in web}
    at = addresses(lab)
    gateways = {node: egress_gateway(swarm, node) for node in ALL}
    for kind, port in (("tcp", 8080), ("udp", 5353)):
        for asked in ALL:
            wait_answers(swarm, both, kind, at[asked], port)
            seen = outside(swarm, kind, at[asked], port, 4)
            assert {host for host, _ in seen} == both, (kind, asked, seen)
            assert {client for _, client in seen} == {OUTSIDE}, (kind, asked, seen)
        for node in ALL:
            for asked in (*ALL, "loopback"):
                seen = on_node(swarm, node, kind, at.get(asked, "127.0.0.1"), port, 4)
                assert {host for host, _ in seen} == both, (kind, node, asked, seen)
                # A node's address; which one, the way decides (docs/networks.md).
                seen_as = {gateways[node]} if asked == "loopback" else {at[node], gateways[asked]}
                assert {client for _, client in seen} <= seen_as, (kind, node, asked, seen)
        for place in (*web, *client):
            for asked in ALL:
                seen = place.probe(kind, at[asked], port, 4)
                assert {host for host, _ in seen} == both, (kind, place.node, asked, seen)
                seen_as = {at[place.node], gateways[asked]}
                assert {client for _, client in seen} <= seen_as, (kind, place.node, asked, seen)


def egress_gateway(swarm: Swarm, node: str) -> str:
    """The node's own address in the network by which its containers reach all that is outside."""
    told = swarm.ssh(node, "ip", "-4", "-o", "address", "show", "dev", "swgw0").split()
    return told[told.index("inet") + 1].partition("/")[0]


COUNT = """
import collections, http.client, json, sys
seen = collections.Counter()
for _ in range(int(sys.argv[3])):
    link = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
    link.request("GET", "/", headers={"Connection": "close"})
    text = link.getresponse().read().decode()
    seen[text.partition("hostname=")[2].partition("\\n")[0]] += 1
    link.close()
print(json.dumps(seen))
"""


def backends(swarm: Swarm, node: str) -> set[str]:
    """Addresses with ports that a node's load balancer gives new connections to."""
    told = swarm.ssh(node, "cat", "/proc/net/ip_vs")
    rows = [line.split() for line in told.splitlines() if line.lstrip().startswith("->")][1:]
    return {row[1] for row in rows if row[3] != "0"}


@pytest.fixture
def many_tracked(swarm: Swarm) -> Iterator[None]:
    """A machine of 1 GB tracks 8192 connections, each for 120 s after its end: not room for what is asked here."""
    setting = "net.netfilter.nf_conntrack_max"
    before = {node: swarm.ssh(node, "sysctl", "-n", setting).strip() for node in ALL}
    for node in ALL:
        swarm.ssh(node, "sysctl", "-qw", f"{setting}=65536")
    yield
    for node, limit in before.items():
        swarm.ssh(node, "sysctl", "-qw", f"{setting}={limit}")


@pytest.mark.usefixtures("many_tracked")
def test_connections_are_spread_evenly(swarm: Swarm, lab: Lab) -> None:
    create(swarm, "web", "--replicas", "6", "-p", "8080:80")
    swarm.wait_running("web", 6)
    tasks = {t["ID"] for t in swarm.running("web")}
    node = addresses(lab)["n1"]
    wait_answers(swarm, tasks, "tcp", node, 8080)
    seen = json.loads(lab.run("python3", "-c", COUNT, node, "8080", "6000", timeout_s=400))
    assert set(seen) == tasks, seen
    assert all(900 <= count <= 1100 for count in seen.values()), seen
    told = swarm.docker("service", "ls", "--format", "{{.Ports}}")
    assert told.strip() == "*:8080->80/tcp"


@pytest.mark.parametrize("managed", [True, False], ids=["with a manager", "without a manager"])
def test_dead_backends_get_no_connections(swarm: Swarm, lab: Lab, managed: bool) -> None:
    """One container ends, then one node's power is cut; nothing comes in their place, the one left answers all."""
    create(swarm, "web", "--mode", "global", "--restart-condition", "none", "-p", "8080:80")
    swarm.wait_running("web", 3)
    web, at = places(swarm, "web"), addresses(lab)
    first, second, third = web
    for node in ALL:
        wait_answers(swarm, {place.task["ID"] for place in web}, "tcp", at[node], 8080)
    if not managed:
        swarm.stop()
    try:
        assert all(len(backends(swarm, node)) == 3 for node in ALL)
        swarm.ssh(second.node, "docker", "kill", second.container)
        swarm.wait(
            lambda: all(len(backends(swarm, node)) == 2 for node in ALL), "the killed one is out everywhere"
        )
        for node in ALL:
            seen = outside(swarm, "tcp", at[node], 8080, 8)
            assert {host for host, _ in seen} == {first.task["ID"], third.task["ID"]}, (node, seen)
        lab.fault(third.node, "power-off")
        left = [node for node in ALL if node != third.node]
        swarm.wait(lambda: all(len(backends(swarm, node)) == 1 for node in left), "those of the lost node are out")
        for node in left:
            seen = outside(swarm, "tcp", at[node], 8080, 8)
            assert {host for host, _ in seen} == {first.task["ID"]}, (node, seen)
    finally:
        lab.fault(third.node, "power-on", "--wait")
        if not managed:
            swarm.start()
    swarm.wait(lambda: all(n["Status"]["State"] == "ready" for n in swarm.nodes()), "all nodes ready")
    for node in ALL:
        wait_answers(swarm, {first.task["ID"]}, "tcp", at[node], 8080)


@pytest.fixture
def swarm_mode(swarm: Swarm, lab: Lab) -> Iterator[None]:
    """The Engines' own Swarm Mode on n2 and n3, beside ours; gone afterwards with its networks."""
    address = addresses(lab)["n2"]
    try:
        swarm.ssh("n2", "docker", "swarm", "init", "--advertise-addr", address)
        token = swarm.ssh("n2", "docker", "swarm", "join-token", "-q", "worker").strip()
        swarm.ssh("n3", "docker", "swarm", "join", "--token", token, f"{address}:2377")
        yield
    finally:
        for node in ("n3", "n2"):
            swarm.ssh(node, "docker swarm leave --force; docker network rm docker_gwbridge", check=False)


@pytest.mark.usefixtures("swarm_mode")
def test_the_client_that_swarm_mode_hides_is_seen_by_us(swarm: Swarm, lab: Lab) -> None:
    create(swarm, "web", "--constraint", "node.hostname==n3", "-p", "8080:80")
    flags = "-d --no-resolve-image --constraint node.hostname==n3 --hostname theirs -p 8090:80"
    swarm.ssh("n2", f"docker service create {flags} --name theirs web:1")
    swarm.wait_running("web", 1)
    ours, at = {t["ID"] for t in swarm.running("web")}, addresses(lab)
    for node in ("n2", "n3"):
        wait_answers(swarm, ours, "tcp", at[node], 8080)
        wait_answers(swarm, {"theirs"}, "tcp", at[node], 8090)
        assert {client for _, client in outside(swarm, "tcp", at[node], 8080, 4)} == {OUTSIDE}
        theirs = {client for _, client in outside(swarm, "tcp", at[node], 8090, 4)}
        assert theirs and all(client.startswith("10.0.0.") for client in theirs), (node, theirs)
