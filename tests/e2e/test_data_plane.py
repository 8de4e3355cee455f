"""The node's data plane on real kernels and with real packets: no manager, no helper process, states by hand.

SWARMSH_HELPER_LAB=NAME reuses a running lab and leaves it up; what its machines hold is removed. One web container
a node; node 1's calls, nodes 2 and 3 have the backends of a VIP and of published ports. The last test purges.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from .helperctl import CHECKOUT, Machine, machines
from .labctl import Lab

pytestmark = pytest.mark.e2e

OWN_LAB = os.environ.get("SWARMSH_HELPER_LAB")
FOLDER = "/run/swarmsh-data-plane"
NET = "net1net1net1net1net1net1n"
VIP, UNUSED_VIP = "10.50.128.5", "10.50.128.99"
OUTSIDE = "10.98.0.1"
# Prints host name and client address of each answer; a refusal as such.
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
MODULES = (
    "ip_vs vxlan br_netfilter xt_ipvs ip_vs_rr ip_vs_wrr ip_vs_wlc ip_vs_sh ip_vs_mh iptable_raw iptable_mangle"
)
# All that a purge must leave as it was; loaded modules aside.
SNAPSHOT = r"""
ip -br link; ip -br -4 address; ip route show table all | sort; ip rule
iptables-save | grep -v '^#' | grep -v '^:[A-Z]* [A-Z]' | sort
cat /proc/net/ip_vs; ipvsadm -l --timeout
sysctl -a --pattern '^net\.(ipv4\.(vs|ip_forward|conf)|bridge|ipv6\.conf)' 2>/dev/null | sort
find /etc /run/swarmsh -type f -printf '%p %s\n' 2>/dev/null | sort
docker network ls --format '{{.Name}} {{.Driver}}' | sort
"""


def state_of(n: int) -> dict[str, Any]:
    """The network state of node n of three."""
    others = [p for p in (1, 2, 3) if p != n]
    ports = [
        {
            "id": number,
            "protocol": protocol,
            "port": port,
            "bind": "",
            "scheduler": "rr",
            "persist_s": 0,
            "dests": [{"address": f"10.255.{b}.11", "port": target, "weight": 1} for b in (2, 3)],
        }
        for number, protocol, port, target in ((4, "tcp", 8080, 80), (5, "udp", 5353, 53))
    ]
    return {
        "v": 1,
        "node": {"n": n, "underlay": f"10.98.0.{10 + n}"},
        "egress": {"pool": "10.255.0.0/16", "prefix": 24, "mtu": 1450},
        "peers": [{"n": p, "underlay": f"10.98.0.{10 + p}"} for p in others],
        "networks": [
            {
                "id": NET,
                "name": "net1",
                "vni": 4096,
                "subnet": "10.50.0.0/16",
                "gateway": f"10.50.0.{n}",
                "vips": "10.50.128.0/17",
                "mtu": 1450,
                "encrypted": False,
                "internal": False,
                "labels": {},
                "peers": others,
            }
        ],
        "vips": [
            {
                "id": 1,
                "network": NET,
                "address": VIP,
                "scheduler": "rr",
                "persist_s": 0,
                "dests": [{"address": f"10.50.1.{b}", "weight": 1} for b in (2, 3)],
            }
        ],
        "ports": ports,
        "tasks": [{"id": f"task{n}", "addresses": [f"10.50.1.{n}", f"10.255.{n}.11"]}],
        "names": [],
    }


@dataclass
class Node:
    """A machine with the package and one web container."""

    n: int
    machine: Machine
    before: str = ""
    pid: str = ""  # of the container

    @property
    def state(self) -> dict[str, Any]:
        return state_of(self.n)

    def run(self, command: str, *, check: bool = True) -> str:
        return self.machine.run(command, check=check, timeout=180)

    def plane(self, verb: str, state: dict[str, Any] | None = None) -> list[str]:
        """What the package's command says that differed. Fails on errors."""
        given = shlex.quote(json.dumps(state)) if state else "''"
        command = f"cd {FOLDER} && printf %s {given} | python3 -m remote_helpers.net {verb}"
        told = json.loads(self.run(f"{command}; true"))
        assert told["errors"] == [], f"{self.machine.name} ({self.machine.suite}): {verb}: {told}"
        return list(told["differed"])

    def apply(self) -> list[str]:
        return self.plane("apply", self.state)

    def probe(self, *words: str) -> list[str]:
        """Answers to the node itself: kind, address, port, times."""
        return self.machine.python(PROBE, *words).splitlines()

    def probe_inside(self, *words: str) -> list[str]:
        """Answers to the node's container."""
        argv = ["nsenter", "-t", self.pid, "-n", "python3", "-c", PROBE, *words]
        return self.run(shlex.join(argv)).splitlines()

    def start_web(self) -> None:
        """A container on both networks, as a task has them."""
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in (10, 50, 1, self.n))
        self.run(
            f"docker create --name dp-web --hostname w{self.n} --net net1 --ip 10.50.1.{self.n} "
            f"--mac-address {mac} web:1 && "
            f"docker network connect --ip 10.255.{self.n}.11 swgw dp-web && docker start dp-web"
        )
        self.pid = self.run("docker inspect -f '{{.State.Pid}}' dp-web")

    def clear(self) -> None:
        """No container, no data plane."""
        self.run("docker rm -f dp-web 2>/dev/null; true")
        self.plane("purge")


def package() -> str:
    """The package as base64 of a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted((CHECKOUT / "remote_helpers").rglob("*.py")):
            tar.add(path, str(path.relative_to(CHECKOUT)))
    return base64.b64encode(buffer.getvalue()).decode()


class Cluster:
    """Three nodes; `each` does one thing on all of them at once."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        found = sorted(machines(lab.name), key=lambda machine: machine.name)[:3]
        self.nodes = [Node(int(machine.address.rpartition(".")[2]) - 10, machine) for machine in found]

    def each(self, act: Callable[[Node], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return list(pool.map(act, self.nodes))

    def from_outside(self, *words: str) -> list[str]:
        return self.lab.run(sys.executable, "-c", PROBE, *words, timeout_s=180).splitlines()

    def prepare(self) -> None:
        packed = package()

        def begin(node: Node) -> None:
            unpack = f"rm -rf {FOLDER} && mkdir -p {FOLDER} && base64 -d | tar xz -C {FOLDER}"
            self.lab.ssh(node.machine.name, unpack, stdin=packed)
            node.clear()
            node.run(f"modprobe -a {MODULES}")
            node.before = node.run(SNAPSHOT)
            assert "link swgwv was missing" in node.apply()
            node.start_web()
            node.plane("hairpin")

        self.each(begin)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    lab = Lab(OWN_LAB or f"d{os.getpid()}")
    try:
        lab.up(nodes=3, suite="mixed")
        cluster = Cluster(lab)
        cluster.prepare()
        yield cluster
        cluster.each(Node.clear)
    finally:
        if not OWN_LAB:
            lab.down()


def works(cluster: Cluster) -> None:
    """Packets take every kind of way."""
    first = cluster.nodes[0]
    assert first.probe_inside("tcp", "10.50.1.3", "80", "1") == ["w3 10.50.1.1"]
    assert Counter(first.probe_inside("tcp", VIP, "80", "4")) == {"w2 10.50.1.1": 2, "w3 10.50.1.1": 2}
    for node in cluster.nodes:
        answers = Counter(cluster.from_outside("tcp", node.machine.address, "8080", "4"))
        assert answers == {f"w2 {OUTSIDE}": 2, f"w3 {OUTSIDE}": 2}, node.machine.name


# --- packets ------------------------------------------------------------------------------------------------
def test_containers_reach_each_other_by_address(cluster: Cluster) -> None:
    def ask(node: Node) -> None:
        for other in (1, 2, 3):
            for kind, port in (("tcp", "80"), ("udp", "53")):
                answers = node.probe_inside(kind, f"10.50.1.{other}", port, "1")
                assert answers == [f"w{other} 10.50.1.{node.n}"], (node.n, other, kind)

    cluster.each(ask)


def test_a_vip_spreads_connections_over_backends_on_two_nodes(cluster: Cluster) -> None:
    for kind, port in (("tcp", "80"), ("udp", "53")):
        answers = Counter(cluster.nodes[0].probe_inside(kind, VIP, port, "8"))
        assert answers == {"w2 10.50.1.1": 4, "w3 10.50.1.1": 4}, kind


def test_a_task_reaches_itself_by_its_own_vip(cluster: Cluster) -> None:
    answers = Counter(cluster.nodes[1].probe_inside("tcp", VIP, "80", "8"))
    assert answers == {"w2 10.50.0.2": 4, "w3 10.50.1.2": 4}  # itself it sees as the gateway


def test_a_vip_without_service_refuses_at_once(cluster: Cluster) -> None:
    answers = cluster.nodes[0].probe_inside("tcp", UNUSED_VIP, "22", "1")
    assert answers == ["ConnectionRefusedError [Errno 111] Connection refused"]


@pytest.mark.parametrize(("kind", "port"), [("tcp", "8080"), ("udp", "5353")])
def test_a_published_port_answers_on_every_node_and_sees_the_real_client(
    cluster: Cluster, kind: str, port: str
) -> None:
    for node in cluster.nodes:
        answers = Counter(cluster.from_outside(kind, node.machine.address, port, "4"))
        assert answers == {f"w2 {OUTSIDE}": 2, f"w3 {OUTSIDE}": 2}, node.machine.name


@pytest.mark.parametrize(("kind", "port"), [("tcp", "8080"), ("udp", "5353")])
def test_a_published_port_answers_nodes_and_containers(cluster: Cluster, kind: str, port: str) -> None:
    def ask(node: Node) -> Counter[tuple[str, str]]:
        seen: Counter[tuple[str, str]] = Counter()
        for other in cluster.nodes:
            words = (kind, other.machine.address, port, "4")
            for line in [*node.probe(*words), *node.probe_inside(*words)]:
                seen[other.machine.name, line.split()[0]] += 1
        return seen

    answers = sum(cluster.each(ask), Counter())
    assert answers == {(node, web): 12 for node in ("n1", "n2", "n3") for web in ("w2", "w3")}


@pytest.mark.parametrize(("kind", "port"), [("tcp", "8080"), ("udp", "5353")])
def test_a_published_port_answers_on_the_nodes_loopback(cluster: Cluster, kind: str, port: str) -> None:
    def ask(node: Node) -> None:
        # By chance: that one of two never comes in 20 times has a chance of 2 in a million.
        answers = node.probe(kind, "127.0.0.1", port, "20")
        assert {line.split()[0] for line in answers} == {"w2", "w3"}, (node.n, answers)

    cluster.each(ask)


# --- repeat, change, drift ----------------------------------------------------------------------------------
def test_what_is_applied_twice_changes_nothing(cluster: Cluster) -> None:
    assert cluster.each(Node.apply) == [[], [], []]


DRIFT = {
    "devices deleted": (
        "ip link del sv1000; ip link del swgwv",
        ["link sv1000 was missing", "link swgwv was missing"],
    ),
    "bridge deleted": ("ip link del sb1000", ["link sb1000 was missing"]),
    "tables cleared": (
        "bridge fdb show dev sv1000 | grep dst | while read -r mac rest; do "
        'bridge fdb del "$mac" dev sv1000 $(echo "$rest" | grep -o "dst [0-9.]*") self; done; '
        "ip neigh flush nud permanent dev swgwv; ip route flush dev swgwv; ip route del local 10.50.128.0/17; "
        "for table in 24201 24202 24203; do ip route flush table $table; done; "
        "ip rule del iif swgw0 pref 1000",
        ["FDB entry 00:00:00:00:00:00", "neighbour 10.255.", "route 10.255.", "route default",
         "route 10.50.128.0/17", "rule for mark"],
    ),
    "addresses and states": (
        "ip address flush dev swgwv; ip link set sv1000 down; ip link set swgw0 down",
        ["address 10.255.", "link sv1000 was down", "link swgw0 was down"],
    ),
    "guards": (
        "tc qdisc del dev swgwv clsact; "
        "tc filter del dev sv1000 egress prio 2; tc filter del dev sv1000 egress prio 1",
        ["mark guard of swgwv", "mark guard of sv1000", "ARP filter of sv1000"],
    ),
    "services": (
        f"ipvsadm -D -f {0x53000001}; ipvsadm -d -f {0x53000004} -r 10.255.2.11:80; "
        f"ipvsadm -A -f {0x53000099} -s rr; ipvsadm -e -f {0x53000005} -r 10.255.3.11:53 -m -w 7; "
        "ipvsadm --set 900 100 100",
        ["service 0x53000001 was missing", "backend 10.255.2.11:80 of service 0x53000004 was missing",
         "service 0x53000099 was left over", "backend 10.255.3.11:53 of service 0x53000005 was weight 7",
         "timeouts of IPVS"],
    ),
    "settings": (
        "sysctl -qw net.ipv4.vs.conntrack=0 net.ipv4.conf.swgwv.rp_filter=1 net.bridge.bridge-nf-call-iptables=0",
        ["sysctl net.ipv4.vs.conntrack was 0", "sysctl net.ipv4.conf.swgwv.rp_filter was 1",
         "sysctl net.bridge.bridge-nf-call-iptables was 0"],
    ),
    "hairpin": (
        "for port in /sys/class/net/sb1000/brif/veth*; do echo 0 >$port/hairpin_mode; done",
        ["hairpin of veth"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DRIFT)
def test_drift_is_told_and_one_apply_repairs_it(cluster: Cluster, kind: str) -> None:
    command, words = DRIFT[kind]

    def break_and_mend(node: Node) -> None:
        node.run(command)
        told = node.apply()
        for word in words:
            assert any(one.startswith(word) for one in told), (node.machine.suite, word, told)
        assert node.apply() == [], node.machine.suite

    cluster.each(break_and_mend)
    works(cluster)


def test_flushed_rules_are_back_even_where_dockers_own_are_not(cluster: Cluster) -> None:
    def flush_and_mend(node: Node) -> None:
        node.run(f"iptables-save >{FOLDER}/rules; iptables -F; iptables -t mangle -F; iptables -t nat -F SW-POST")
        told = node.apply()
        for word in ("chain SW-IN was different", "chain SW-PUB was different", "jump INPUT to SW-IN was missing",
                     "jump FORWARD to SW-FWD was missing"):  # fmt: skip
            assert word in told, (node.machine.suite, told)
        assert node.apply() == [], node.machine.suite

    cluster.each(flush_and_mend)
    works(cluster)
    cluster.each(lambda node: node.run(f"iptables-restore <{FOLDER}/rules"))
    assert cluster.each(Node.apply) == [[], [], []]


CHANGE = """
import asyncio, json, sys
from remote_helpers.engine import Engine
from remote_helpers.net.apply import DataPlane
async def main():
    plane, state = DataPlane(Engine()), json.loads(sys.argv[1])
    await plane.apply(state)
    state["vips"][0]["dests"][1]["weight"] = 0
    state["ports"][0]["dests"] = state["ports"][0]["dests"][:1]
    await plane.change(state)
    print(json.dumps(await plane.apply(state)))
asyncio.run(main())
"""


def test_a_change_moves_new_connections_and_leaves_nothing_for_a_whole_pass(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    argv = shlex.join(["python3", "-c", CHANGE, json.dumps(node.state)])
    assert json.loads(node.run(f"cd {FOLDER} && {argv}")) == []
    assert Counter(node.probe_inside("tcp", VIP, "80", "4")) == {"w2 10.50.1.1": 4}
    assert Counter(cluster.from_outside("tcp", node.machine.address, "8080", "4")) == {f"w2 {OUTSIDE}": 4}
    assert {line.split()[0] for line in node.probe("tcp", "127.0.0.1", "8080", "8")} == {"w2"}
    assert len(node.apply()) == 3  # two backends, one chain
    works(cluster)


def test_a_port_bound_to_one_address_answers_there_only(cluster: Cluster) -> None:
    node, state = cluster.nodes[0], cluster.nodes[0].state
    refused = ["ConnectionRefusedError [Errno 111] Connection refused"]
    for bind, outside, loopback in ((node.machine.address, True, False), ("127.0.0.1", False, True)):
        state["ports"][0]["bind"] = bind
        node.plane("apply", state)
        answers = cluster.from_outside("tcp", node.machine.address, "8080", "1")
        assert (answers != refused) == outside, (bind, answers)
        answers = node.probe("tcp", "127.0.0.1", "8080", "1")
        assert (answers != refused) == loopback, (bind, answers)
    node.apply()


def test_affinity_and_scheduler_are_the_kernels(cluster: Cluster) -> None:
    node, state = cluster.nodes[0], cluster.nodes[0].state
    state["ports"][0].update(scheduler="wlc", persist_s=120)
    state["vips"][0].update(scheduler="mh")
    assert len(node.plane("apply", state)) == 2
    assert node.plane("apply", state) == []
    assert f"FWM  {0x53000004} wlc persistent 120" in node.run("ipvsadm -Ln")
    answers = Counter(cluster.from_outside("tcp", node.machine.address, "8080", "4"))
    assert list(answers.values()) == [4], answers
    node.apply()


def test_without_its_guard_nothing_is_marked(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.run("ln -s /bin/false /usr/local/sbin/tc; /sbin/tc qdisc del dev sv1000 clsact")
    try:
        given = shlex.quote(json.dumps(node.state))
        command = f"cd {FOLDER} && printf %s {given} | python3 -m remote_helpers.net apply; true"
        errors = json.loads(node.run(command))["errors"]
        assert "nothing is marked for IPVS: no mark guard on sv1000" in errors, errors
        assert node.run("iptables-save -t mangle | grep -c 'set-xmark 0x53'; true") == "0"
        assert "0x0/0xffffffff" in node.run("iptables-save -t mangle")
    finally:
        node.run("rm /usr/local/sbin/tc")
    assert "mark guard of sv1000 was missing" in node.apply()
    works(cluster)


def test_a_network_that_is_not_wanted_any_more_goes_as_a_whole(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    state = {**node.state, "networks": [], "vips": [], "tasks": []}
    node.run("docker rm -f dp-web")
    told = node.plane("apply", state)
    assert "link sv1000 was left over" in told and "service 0x53000001 was left over" in told
    assert node.run("ip -o link | grep -c 's[bv]1000' || true") == "0"
    assert node.run("docker network ls -q --filter name=net1") == ""
    assert node.plane("apply", state) == []
    node.apply()
    node.start_web()
    node.plane("hairpin")
    works(cluster)


def test_a_purge_leaves_the_node_as_it_was_found(cluster: Cluster) -> None:
    cluster.each(Node.clear)
    for node in cluster.nodes:
        assert node.run(SNAPSHOT).splitlines() == node.before.splitlines(), node.machine.suite
        assert node.plane("purge") == []
