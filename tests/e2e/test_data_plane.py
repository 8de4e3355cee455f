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
# All that a purge must leave as it was; loaded modules aside, to which these machines' tables of iptables belong
# (component/test_unchanged.py has nftables').
SNAPSHOT = r"""
ip -br link; ip -br -4 address; ip route show table all | sort; ip rule
iptables-save | awk '/^\*/ {t = $1} /^-|^:/ && !/ ACCEPT / {print t, $0}' | sort
cat /proc/net/ip_vs; ipvsadm -l --timeout
sysctl -a --pattern '^net\.(ipv4\.(vs|ip_forward|conf)|bridge|ipv6\.conf)' 2>/dev/null | sort
find /etc /run/swarmsh -type f -printf '%p %s\n' 2>/dev/null | sort
docker network ls --format '{{.Name}} {{.Driver}}' | sort
ip xfrm state; ip xfrm policy; tc qdisc show | grep clsact; true
"""
# Names of loaded modules, and what a helper on a node without networks leaves alone.
UNTOUCHED = f"cut -d' ' -f1 /proc/modules | sort; {SNAPSHOT}"
EMPTY: dict[str, Any] = {"v": 1, "networks": [], "vips": [], "ports": [], "tasks": [], "names": []}
# Whether a TCP connection to a port of the node itself is made, by whom ever it is taken.
OPEN = "timeout 5 bash -c '</dev/tcp/{}/{}' && echo open || echo closed"


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
    idle: tuple[str, list[str], str] = ("", [], "")  # before, words, after a state without anything
    pid: str = ""  # of the container

    @property
    def state(self) -> dict[str, Any]:
        return state_of(self.n)

    def run(self, command: str, *, check: bool = True) -> str:
        return self.machine.run(command, check=check, timeout=180)

    def plane(self, verb: str, state: dict[str, Any] | None = None) -> list[str]:
        """What the package's command says that differed. Fails on errors."""
        told = self.told(verb, state)
        assert told["errors"] == [], f"{self.machine.name} ({self.machine.suite}): {verb}: {told}"
        return list(told["differed"])

    def told(self, verb: str, state: dict[str, Any] | None = None) -> dict[str, list[str]]:
        """All that the package's command says."""
        given = shlex.quote(json.dumps(state)) if state else "''"
        command = f"cd {FOLDER} && printf %s {given} | python3 -m remote_helpers.net {verb}"
        told: dict[str, list[str]] = json.loads(self.run(f"{command}; true"))
        return told

    def program(self, text: str, *words: str) -> Any:
        """The JSON that a Python program with the package prints."""
        return json.loads(self.run(f"cd {FOLDER} && {shlex.join(['python3', '-c', text, *words])}"))

    def is_open(self, address: str, port: int) -> bool:
        """Whether the node's container is let in there."""
        return self.run(f"nsenter -t {self.pid} -n {OPEN.format(address, port)}") == "open"

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
            node.run(f"ip xfrm state flush; ip xfrm policy flush; {UNCOUNT}")  # of a run that failed
            node.clear()
            node.run(UNTOUCHED)  # on a machine that has just started the looks themselves load modules
            node.idle = node.run(UNTOUCHED), node.plane("apply", EMPTY), node.run(UNTOUCHED)
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
        answers = Counter(node.probe(kind, "127.0.0.1", port, "8"))
        client = f"10.255.{node.n}.1"
        assert answers == {f"w2 {client}": 4, f"w3 {client}": 4}, (node.n, answers)

    cluster.each(ask)


def test_a_node_without_networks_is_left_alone(cluster: Cluster) -> None:
    for node in cluster.nodes:
        before, words, after = node.idle
        assert (words, after) == ([], before), node.machine.suite


def test_what_has_no_service_does_not_lead_to_the_node_itself(cluster: Cluster) -> None:
    """A scheduler that no kernel has stands for whatever keeps a service from being made."""
    alone = "10.50.128.9"

    def ask(node: Node) -> None:
        state = node.state
        state["vips"].append({**state["vips"][0], "id": 9, "address": alone, "scheduler": "nosuch"})
        state["ports"].append({**state["ports"][0], "id": 10, "port": 2323, "scheduler": "nosuch"})
        # The node's firewall lets nobody to this port of its own; its sshd is open to all.
        node.run(
            "iptables -A INPUT -p tcp --dport 2323 -j REJECT; "
            "systemd-run -q --unit dp-own python3 -m http.server 2323"
        )
        try:
            errors = node.told("apply", state)["errors"]
            assert errors and "this kernel has no scheduler nosuch" in errors[0], (node.machine.suite, errors)
            assert node.probe("tcp", "127.0.0.1", "2323", "1")  # it listens, or refuses: no hang
            assert not node.is_open(alone, 22), node.machine.suite
            assert not node.is_open(node.machine.address, 2323), node.machine.suite
            assert node.probe_inside("tcp", VIP, "80", "1")[0].startswith("w")  # the others go on
            # Nor does it where a mark is left, as after `ipvsadm -C`: not in the time before the next pass either.
            for rule in (f"SW-MIN -d {alone}", "SW-PUB -p tcp --dport 2323"):
                node.run(f"iptables -t mangle -I {rule} -j MARK --set-mark 0x53000009")
            assert not node.is_open(alone, 22) and not node.is_open(node.machine.address, 2323), node.machine.suite
            # Without all of that a mark is what opens both: the test asks something.
            node.run("iptables -t nat -D INPUT -j SW-NIN")
            assert node.is_open(alone, 22) and node.is_open(node.machine.address, 2323), node.machine.suite
            node.told("apply", state)
            assert not node.is_open(alone, 22) and not node.is_open(node.machine.address, 2323)
        finally:
            node.run("systemctl stop dp-own; iptables -D INPUT -p tcp --dport 2323 -j REJECT")
        node.apply()
        assert node.apply() == []

    cluster.each(ask)


def test_names_are_let_in_past_a_firewall_and_nothing_else(cluster: Cluster) -> None:
    def ask(node: Node) -> None:
        gateway = f"10.255.{node.n}.1"
        node.run("iptables -A INPUT -i swgw0 -j REJECT")
        units = [(f"dp-names{port}", port) for port in (4792, 4793)]
        for unit, port in units:
            node.run(f"systemd-run -q --unit {unit} python3 -m http.server --bind {gateway} {port}")
        try:
            listening = (
                f"for _ in $(seq 100); do ss -ltn | grep -c {gateway}:479 | grep -q 2 && break; sleep .1; done"
            )
            node.run(listening)
            assert node.is_open(gateway, 4792) and not node.is_open(gateway, 4793), node.machine.suite
        finally:
            node.run(f"systemctl stop {' '.join(unit for unit, _ in units)}; iptables -D INPUT -i swgw0 -j REJECT")

    cluster.each(ask)


def test_what_listens_on_nodes_is_out_of_reach_by_an_overlay(cluster: Cluster) -> None:
    def ask(node: Node) -> None:
        assert node.is_open(f"10.255.{node.n}.1", 22), node.machine.suite  # sshd listens everywhere
        for other in cluster.nodes:
            gateway = f"10.50.0.{other.n}"
            assert not node.is_open(gateway, 22), (node.n, other.n)
            node.run(f"nsenter -t {node.pid} -n ping -c 1 -W 5 {gateway}")

    cluster.each(ask)


# A client's ports, each used by every node in turn before the kernels have forgotten the time before.
REUSE = """
import socket, sys
lost = []
for port in range(40000, 40020):
    for node in sys.argv[1:]:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.settimeout(4)
        try:
            link.bind(("", port))
            link.connect((node, 8080))
            link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            text = b""
            while part := link.recv(65536):
                text += part
            assert text, "nothing was said"
        except (OSError, AssertionError) as e:
            lost.append(f"{port} by {node}: {e}")
        link.close()
print(*lost, sep="; ")
"""


def test_a_port_that_a_client_used_by_another_node_is_its_own_again(cluster: Cluster) -> None:
    addresses = [node.machine.address for node in cluster.nodes]
    for order in (addresses, addresses[::-1]):
        lost = cluster.lab.run(sys.executable, "-c", REUSE, *order, timeout_s=480).strip()
        assert not lost, (order, lost)


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
    "sets": (
        f"cd {FOLDER} && python3 -c 'from remote_helpers.net.ipsets import *; IpSets().change(["
        f'Change(DEL, VIPS, ("{VIP}",)), Change(ADD, VIPS, ("{UNUSED_VIP}",), {0x53000004}), '
        f'Change(ADD, TCP, (6, 8080), {0x53000001}), Change(ADD, BOUND, ("10.98.0.1", 17, 99), {0x53000001}), '
        'Change(ADD, OWN, ("10.0.0.0", 8, "10.50.1.9", 32))])\'',
        ["set swarmsh-vips was different", "set swarmsh-tcp was different", "set swarmsh-bound was different",
         "set swarmsh-own was different"],
    ),
    "the way round": (
        "ip rule del iif swlo1 pref 1000; ip route flush dev swlo0; ip link set swlo0 arp on",
        ["rule for swlo1 was missing", "route 10.255.0.1/32 by swlo0 was missing", "ARP of swlo0 was on"],
    ),
    "one end deleted": ("ip link del swlo1", ["link swlo0 was missing", "link swlo1 was missing"]),
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
    assert node.program(CHANGE, json.dumps(node.state)) == []
    assert Counter(node.probe_inside("tcp", VIP, "80", "4")) == {"w2 10.50.1.1": 4}
    assert Counter(cluster.from_outside("tcp", node.machine.address, "8080", "4")) == {f"w2 {OUTSIDE}": 4}
    assert {line.split()[0] for line in node.probe("tcp", "127.0.0.1", "8080", "8")} == {"w2"}
    assert len(node.apply()) == 2  # backends
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


BY_RULES = """
import asyncio, json, sys
from remote_helpers.engine import Engine
from remote_helpers.net.apply import DataPlane
async def main():
    plane = DataPlane(Engine())
    plane._by_sets = False
    told = await plane.apply(json.loads(sys.argv[1]))
    print(json.dumps([told, await plane.apply(json.loads(sys.argv[1]))]))
asyncio.run(main())
"""


def test_a_kernel_without_sets_works_by_rules(cluster: Cluster) -> None:
    def by_rules(node: Node) -> None:
        told, again = node.program(BY_RULES, json.dumps(node.state))
        assert "chain SW-PUB was different" in told and again == [], (node.machine.suite, told, again)
        assert "--map-set" not in node.run("iptables-save")

    cluster.each(by_rules)
    works(cluster)
    for kind, port in (("tcp", "8080"), ("udp", "5353")):
        for node in cluster.nodes:
            answers = Counter(line.split()[0] for line in node.probe(kind, "127.0.0.1", port, "4"))
            assert answers == {"w2": 2, "w3": 2}, (node.machine.suite, kind, answers)
    assert all("chain SW-PUB was different" in told for told in cluster.each(Node.apply))
    works(cluster)


def test_affinity_and_scheduler_are_the_kernels(cluster: Cluster) -> None:
    node, state = cluster.nodes[0], cluster.nodes[0].state
    state["ports"][0].update(scheduler="wlc", persist_s=120)
    state["ports"].append({**state["ports"][0], "id": 6, "port": 80})  # as its backends' own
    state["vips"][0].update(scheduler="mh")
    words = " ".join(node.plane("apply", state))
    assert all(f"service {0x53000000 + mark:#x} was" in words for mark in (1, 4, 6)), words
    assert node.plane("apply", state) == []
    shown = node.run("ipvsadm -Ln")
    # What is persistent by a mark keeps its port: to another one only the address leads.
    assert f"FWM  {0x53000006} wlc persistent 120" in shown and f"FWM  {0x53000004} mh" in shown, shown
    for port in ("80", "8080"):
        answers = Counter(cluster.from_outside("tcp", node.machine.address, port, "4"))
        assert list(answers.values()) == [4] and next(iter(answers)).startswith("w"), (port, answers)
    node.apply()


# From ten addresses: by the client's address `sh` chooses a backend.
TEN = """
import socket
for i in range(10):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(8)
    s.bind(("10.50.1.%d" % (200 + i), 0))
    try:
        s.connect(("10.50.128.5", 80))
        print("answered")
    except OSError as e:
        print(type(e).__name__)
    s.close()
"""


def test_a_backend_that_drains_refuses_no_client_that_is_bound_to_it(cluster: Cluster) -> None:
    node, state = cluster.nodes[0], cluster.nodes[0].state
    state["vips"][0].update(scheduler="sh")
    state["vips"][0]["dests"][0]["weight"] = 0
    device = f"nsenter -t {node.pid} -n ip -o -4 address | awk '/10.50.1.1\\//{{print $2}}'"
    for i in range(10):
        node.run(f"nsenter -t {node.pid} -n ip address add 10.50.1.{200 + i}/16 dev $({device})")
    node.plane("apply", state)
    ask = shlex.join(["nsenter", "-t", node.pid, "-n", "python3", "-c", TEN])
    assert Counter(node.run(ask).split()) == {"answered": 10}
    # Without the flag, set by hand, some are refused; and that is drift.
    assert "ConnectionRefusedError" in node.run(f"ipvsadm -E -f {0x53000001} -s sh && {ask}")
    assert any("service 0x53000001 was sh" in word for word in node.plane("apply", state))
    for i in range(10):
        node.run(f"nsenter -t {node.pid} -n ip address del 10.50.1.{200 + i}/16 dev $({device})")
    node.apply()


def test_devices_of_a_user_with_names_like_ours_stay(cluster: Cluster) -> None:
    def ask(node: Node) -> None:
        node.run(
            "ip link add sbcafe type bridge; ip link add svbeef type vxlan id 7 dstport 8472 local 127.0.0.1; "
            "ip link set sbcafe up; ip link set svbeef up"
        )
        assert node.apply() == [], node.machine.suite
        assert node.run("ls /sys/class/net | grep -cx 'sbcafe\\|svbeef'") == "2", node.machine.suite
        node.run("ip link del sbcafe; ip link del svbeef")

    cluster.each(ask)


def test_a_container_that_was_created_starts_on_a_bridge_that_was_made_again(cluster: Cluster) -> None:
    def ask(node: Node) -> None:
        node.run("docker rm -f dp-web")
        made = "docker create --name dp-late --net net1 --ip 10.50.1.77 web:1 && ip link del sb1000"
        node.run(made)
        try:
            assert "link sb1000 was missing" in node.apply(), node.machine.suite
            assert node.apply() == [], node.machine.suite
            node.run("docker start dp-late")
        finally:
            node.run("docker rm -f dp-late")
        node.start_web()
        node.plane("hairpin")

    cluster.each(ask)
    works(cluster)


SETS = """
import json
from remote_helpers.net.ipsets import IpSets, Read
with IpSets() as sets:
    print(json.dumps({name: len(each) for name, each in Read().read(sets).items()}))
"""


def test_without_its_guard_nothing_is_marked(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.run("ln -s /bin/false /usr/local/sbin/tc; /sbin/tc qdisc del dev sv1000 clsact")
    try:
        errors = node.told("apply", node.state)["errors"]
        assert "nothing is marked for IPVS: no mark guard on sv1000" in errors, errors
        assert not any(node.program(SETS)[name] for name in ("swarmsh-vips", "swarmsh-tcp", "swarmsh-udp"))
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


# --- an encrypted network -------------------------------------------------------------------------------------
ENCRYPTED = """
import asyncio, json, os, sys
from remote_helpers.engine import Engine
from remote_helpers.net import esp
from remote_helpers.net.apply import ApplyFailed, DataPlane
step, state, message = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
FAKE = "/usr/local/sbin/ip"  # found before the real one
OTHERS = "src 192.0.2.1 dst 192.0.2.2 dir out"

async def main():
    closed = esp.Esp()
    plane = DataPlane(Engine(), secure=closed.secure)
    if step in ("keys", "hiccup"):
        await closed.apply(esp.parse_wanted(message))
    elif step == "again":
        await closed.resume(message["n"], message["address"])
    elif step == "open":
        words = await plane.apply(state)
        await closed.apply(esp.parse_wanted({**message, "peers": [], "closed": False}))
        return {"words": words, "errors": [], "failed": plane.failed}
    if step == "hiccup":
        os.system(f"ip xfrm policy add {OTHERS} action allow")  # else nothing has changed, and nobody looks
        with open(FAKE, "w") as file:
            file.write('#!/bin/sh\\ncase "$*" in *xfrm*) echo no memory >&2; exit 2; esac\\nexec /sbin/ip "$@"\\n')
        os.chmod(FAKE, 0o755)
    try:
        words, errors = await plane.apply(state), []
    except ApplyFailed as e:
        words, errors = e.differed, e.errors
    finally:
        if step == "hiccup":
            os.unlink(FAKE)
            os.system(f"ip xfrm policy delete {OTHERS}")
    return {"words": words, "errors": errors, "failed": plane.failed}

print(json.dumps(asyncio.run(main())))
"""


UNCOUNT = (
    "iptables -t mangle -D POSTROUTING -j DP-COUNT; "
    "iptables -t mangle -F DP-COUNT && iptables -t mangle -X DP-COUNT; true"
)


def secret_of(n: int) -> dict[str, Any]:
    """The state with a second network, which is encrypted, and no VIP there."""
    state = state_of(n)
    subnet = {"subnet": "10.51.0.0/16", "gateway": f"10.51.0.{n}", "vips": "10.51.128.0/17", "mtu": 1410}
    more = {"id": "net2", "name": "net2", "vni": 4097, "encrypted": True}
    state["networks"].append({**state["networks"][0], **subnet, **more})
    return state


def keys_of(n: int) -> dict[str, Any]:
    """Keys of one epoch, alike on both ends of each pair."""

    def key(sender: int, receiver: int) -> str:
        return bytes([sender, receiver, 7, 0]).hex() * 5  # 20 bytes

    def peer(p: int) -> dict[str, Any]:
        epochs = [{"epoch": 7, "in": key(p, n), "out": key(n, p)}]
        return {"n": p, "address": f"10.98.0.{10 + p}", "sends": 7, "epochs": epochs}

    peers = [peer(p) for p in (1, 2, 3) if p != n]
    return {"n": n, "address": f"10.98.0.{10 + n}", "peers": peers}


def test_an_encrypted_network_is_closed_from_its_first_to_its_last_moment(cluster: Cluster) -> None:
    def step(node: Node, name: str) -> dict[str, Any]:
        found: dict[str, Any] = node.program(
            ENCRYPTED, name, json.dumps(secret_of(node.n)), json.dumps(keys_of(node.n))
        )
        return found

    def without_keys(node: Node) -> None:
        told = step(node, "nothing")
        assert set(told["failed"]) == {"net2"} and "no keys yet" in told["failed"]["net2"], told
        assert node.run("ls /sys/class/net | grep -c 's[bv]1001'; true") == "0"

    def with_keys(node: Node) -> None:
        told = step(node, "keys")
        assert told["errors"] == [] and told["failed"] == {}, (node.machine.suite, told)
        assert step(node, "again")["words"] == [], node.machine.suite
        node.run(f"docker network connect --ip 10.51.1.{node.n} net2 dp-web")

    def pings(node: Node, wait: bool = True) -> int:
        """How many of three are answered, from when the first one may be on."""
        target = f"nsenter -t {node.pid} -n ping -n -q -W 2 10.51.1.{node.n % 3 + 1}"
        if wait:
            node.run(f"for _ in $(seq 15); do {target} -c 1 >/dev/null && exit; done; exit 1")
        return int(node.run(f"{target} -c 3 -i 0.2; true").partition(" received")[0].split()[-1])

    def in_plaintext(node: Node) -> int:
        """Packets that left without ESP, by a counter behind all of our rules."""
        return int(node.run("iptables -t mangle -vxnL DP-COUNT | awk '/4790/{print $1}'"))

    count = (
        "iptables -t mangle -N DP-COUNT; iptables -t mangle -A DP-COUNT -p udp --dport 4790 -m policy --dir out "
        "--pol none; iptables -t mangle -A POSTROUTING -j DP-COUNT"
    )
    cluster.each(without_keys)
    cluster.each(lambda node: node.run(count))
    cluster.each(with_keys)
    assert cluster.each(pings) == [3, 3, 3]
    assert cluster.each(in_plaintext) == [0, 0, 0]
    first = cluster.nodes[0]

    # Somebody flushes the policies: nothing passes, and the next pass closes it and goes on.
    first.run("ip xfrm policy flush")
    assert pings(first, wait=False) == 0 and in_plaintext(first) == 0
    # A new process finds the SAs: it closes again, and sends when the manager has told in which epoch.
    told = step(first, "again")
    assert len(told["words"]) == 2 and all(word.endswith("missing") for word in told["words"]), told
    assert pings(first, wait=False) == 0 and in_plaintext(first) == 0
    assert step(first, "keys")["errors"] == []
    assert pings(first) == 3

    # A hiccup of `ip xfrm` is an error and no more: the device, its bridge and its container stay.
    told = step(first, "hiccup")
    assert told["words"] == [] and told["failed"] == {}, told
    assert len(told["errors"]) == 1 and told["errors"][0].endswith("no memory"), told
    assert pings(first) == 3

    def without(node: Node) -> None:
        node.run("docker network disconnect net2 dp-web")
        found = node.program(ENCRYPTED, "open", json.dumps(node.state), json.dumps(keys_of(node.n)))
        assert "link sv1001 was left over" in found["words"], (node.machine.suite, found)
        assert node.run("ip xfrm state; ip xfrm policy") == ""
        assert in_plaintext(node) == 0
        assert node.apply() == []

    cluster.each(without)
    cluster.each(lambda node: node.run(UNCOUNT))
    works(cluster)


def test_a_purge_leaves_the_node_as_it_was_found(cluster: Cluster) -> None:
    cluster.each(Node.clear)
    for node in cluster.nodes:
        assert node.run(SNAPSHOT).splitlines() == node.before.splitlines(), node.machine.suite
        assert node.program(SETS) == {}, node.machine.suite
        assert node.plane("purge") == []
