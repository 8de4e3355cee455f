"""What somebody changes on a node behind a manager's back is mended and told: on machines of three suites.

One cluster with an encrypted overlay and a published port; each kind of change is made on one of its machines. The
data plane alone shows each kind on each suite (`test_data_plane.py`); here it is the helper that finds it, and the
manager that shows it to people.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from .labctl import Lab
from .swarm import Swarm
from .test_networks import (
    ALL,
    Answers,
    Place,
    address_of,
    addresses,
    create,
    on_node,
    outside,
    places,
    vip_of,
    wait_answers,
)

pytestmark = pytest.mark.e2e

T = TypeVar("T")

REPAIRED_S = 5.0
LIMIT_S = 20.0  # it is waited for so long, to tell what is late from what is never mended
# Two cores carry the machines, the manager and another strand of tests: once late may be kept waiting by those.
GOES = 3
PORT = 8080
# Runs a shell line that breaks something, then looks until it sees what it saw before: says after how many
# seconds, counted from when it was broken. On the node: a look from outside takes a second of its own.
WATCH = """
import json, subprocess, sys, time
damage, look, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
def see():
    return subprocess.run(look, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
before = see()
done = subprocess.run(damage, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
broken = time.monotonic()
while True:
    began = time.monotonic()
    now = see()
    if now == before or began > broken + limit:
        break
    time.sleep(0.1)
told = {"took_s": began - broken, "same": now == before, "before": before, "now": now}
print(json.dumps({**told, "damage": [done.returncode, done.stdout.decode()]}))
"""


@dataclass(frozen=True)
class Kind:
    """How something is broken, by a shell line; by what it is seen to be whole; and how the drift is worded.

    In the lines {sb} and {sv} are bridge and vxlan device of the overlay, {vip} is the service's VIP, {port} and
    {service} are the marks of the port's and the VIP's IPVS services, {pid} is a process of the node's own task,
    {peers} are the addresses of the other tasks.
    """

    damage: str
    look: str
    words: tuple[str, ...]


LINKS = "(ip -br link show type vxlan; ip -br link show type bridge; bridge link | cut -d' ' -f2-) | sort"
TABLES = (
    "bridge fdb show dev {sv} | grep permanent | sort; bridge fdb show dev swgwv | sort; "
    "ip neigh show dev swgwv nud permanent | sort"
)
ROUTES = "ip route show table all | grep -e swgwv -e swlo -e 'dev {sb}' | sort; ip rule"
BALANCER = "ipvsadm -Sn | sort; ipvsadm -l --timeout"
# After a flush of all chains the Engine's own, which has the jump otherwise, is not gone through any more.
RULES = "iptables-save | grep SW- | grep -v '^:' | sed 's/-A DOCKER-USER -j SW-FWD/-A FORWARD -j SW-FWD/' | sort"
POLICIES = "ip xfrm policy"
# Whether the other machines' tasks are reached: the epoch is another one afterwards, and so are the states.
REACHED = "for peer in {peers}; do nsenter -t {pid} -n ping -n -q -c 1 -W 1 $peer | grep -o '[01] received'; done"
SETTINGS = (
    "sysctl -n net.ipv4.ip_forward net.ipv4.vs.conntrack net.ipv4.vs.expire_nodest_conn "
    "net.ipv4.conf.swgwv.rp_filter net.bridge.bridge-nf-call-iptables"
)
HAIRPINS = "cat /sys/class/net/{sb}/brif/veth*/hairpin_mode"
GUARDS = "for device in {sv} swgwv; do tc filter show dev $device egress | grep -v index; done"
# There is no `ipset` program on the machines: the helper's own code reads and changes sets.
OF_HELPER = "cd $(ls -td /run/swarmsh/lib-* | head -1) && python3 -c '{}'"
SETS = (
    "from remote_helpers.net.ipsets import *\n"
    "with IpSets() as sets:\n"
    " for name, each in sorted(Read().read(sets).items()): print(name, sorted(each.items()))"
)
LESS = (
    "from remote_helpers.net.ipsets import *\n"
    'IpSets().change([Change(DEL, VIPS, ("{vip}",)), Change(DEL, TCP, (6, {published}))])'
)
KINDS = {
    "links deleted": Kind(
        "ip link del {sv}; ip link del swgwv", LINKS, ("link {sv} was missing", "link swgwv was missing")
    ),
    "bridge deleted": Kind("ip link del {sb}", LINKS, ("link {sb} was missing",)),
    "FDB cleared": Kind(
        "bridge fdb show | grep -e 'dev {sv} dst' -e 'dev swgwv dst' | "
        "sed 's/^/fdb del /; s/ link.*//; s/ self.*//; s/$/ self/' | bridge -batch -",
        TABLES,
        ("FDB entry 00:00:00:00:00:00", "FDB entry 02:5f:"),
    ),
    "neighbours cleared": Kind("ip neigh flush nud permanent dev swgwv", TABLES, ("neighbour 10.",)),
    "routes removed": Kind(
        "ip route flush dev swgwv; ip route show table local type local dev {sb} | grep / | "
        "while read -r route; do ip route del $route dev {sb} table local; done",
        ROUTES,
        ("route ",),
    ),
    "rules removed": Kind(
        "ip rule | sed -n 's/^1000:/rule del pref 1000/p' | ip -batch -",
        ROUTES,
        ("rule for mark",),
    ),
    "IPVS services removed": Kind(
        "ipvsadm -D -f {service}; ipvsadm -D -f {port}",
        BALANCER,
        ("service 0x53",),
    ),
    "IPVS backends removed": Kind(
        "ipvsadm -Sn | sed -n 's/^-a \\(-f [0-9]* -r [^ ]*\\) .*/-d \\1/p' | ipvsadm -R; "
        "ipvsadm --set 900 100 100",
        BALANCER,
        ("backend 10.", "timeouts of IPVS"),
    ),
    "iptables -F": Kind("iptables -F", RULES, ("chain SW-IN was different", "jump ")),
    "iptables -t nat -F": Kind("iptables -t nat -F", RULES, ("chain SW-POST was different", "jump ")),
    "iptables -t mangle -F": Kind("iptables -t mangle -F", RULES, ("chain SW-MIN was different", "jump ")),
    "set elements removed": Kind(
        OF_HELPER.format(LESS), OF_HELPER.format(SETS), ("set swarmsh-vips", "set swarmsh-tcp")
    ),
    "xfrm policies removed": Kind("ip xfrm policy flush", POLICIES, ("policy ",)),
    "sysctls reset": Kind(
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv4.vs.conntrack=0 net.ipv4.vs.expire_nodest_conn=0 "
        "net.ipv4.conf.swgwv.rp_filter=1 net.bridge.bridge-nf-call-iptables=0",
        SETTINGS,
        ("sysctl net.ipv4.ip_forward was 0", "sysctl net.bridge.bridge-nf-call-iptables was 0"),
    ),
    "guards removed": Kind(
        "tc qdisc del dev swgwv clsact; tc qdisc del dev {sv} clsact",
        GUARDS,
        ("mark guard of swgwv", "mark guard of {sv}", "ARP filter of {sv}"),
    ),
    "hairpin off": Kind(
        "for port in /sys/class/net/{sb}/brif/veth*; do echo 0 >$port/hairpin_mode; done",
        HAIRPINS,
        ("hairpin of veth",),
    ),
    # Not at once with the policies: new keys for a lost state mend another node's policies as well, and silently.
    "xfrm states removed": Kind("ip xfrm state flush", REACHED, ("SA ",)),
}


# Three at a time, each on another machine.
ROUNDS = [dict(zip(ALL, list(KINDS)[i : i + len(ALL)], strict=False)) for i in range(0, len(KINDS), len(ALL))]


@dataclass
class Scene:
    """The cluster that is broken: `web` on each machine, on an encrypted overlay, with a published port."""

    swarm: Swarm
    web: dict[str, Place]  # by the machine
    vip: str
    vni: int
    at: dict[str, str]
    marks: dict[str, int] = field(default_factory=dict)

    @property
    def everyone(self) -> set[str]:
        return {place.task["ID"] for place in self.web.values()}

    def fill(self, node: str, line: str) -> str:
        """A line of KINDS as it is for a node."""
        peers = " ".join(address_of(place) for place in self.web.values() if place.node != node)
        names = {
            "sb": f"sb{self.vni:x}",
            "sv": f"sv{self.vni:x}",
            "vip": self.vip,
            "peers": peers,
            "published": PORT,
        }
        for name, value in {**names, "pid": self.web[node].pid, **self.marks}.items():
            line = line.replace(f"{{{name}}}", str(value))
        return line

    def look_for_marks(self) -> None:
        """By the backends' ports: a VIP's have none."""
        for line in self.swarm.ssh("n1", "ipvsadm -Sn").splitlines():
            words = line.split()
            if words[0] == "-a":
                self.marks["service" if words[4].endswith(":0") else "port"] = int(words[2])
        assert set(self.marks) == {"service", "port"}

    def break_and_watch(self, node: str, name: str) -> dict[str, Any]:
        """What WATCH saw."""
        kind = KINDS[name]
        argv = ("python3", "-c", WATCH, self.fill(node, kind.damage), self.fill(node, kind.look), str(LIMIT_S))
        seen: dict[str, Any] = json.loads(self.swarm.ssh(node, *argv))
        return seen

    def told(self, since: float) -> dict[str, str]:
        """What people are told of drift: node to words."""
        lines = self.swarm.swarmsh(
            *("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--format", "json"),
            *("--filter", "event=network_drift"),
        )
        found = [json.loads(line)["Actor"]["Attributes"] for line in lines.splitlines()]
        return {node: "; ".join(one["drift"] for one in found if one["name"] == node) for node in ALL}

    def wait_told(self, kinds: dict[str, str], since: float) -> None:
        def all_is_told() -> bool:
            told = self.told(since)
            return all(self.fill(n, word) in told[n] for n, kind in kinds.items() for word in KINDS[kind].words)

        self.swarm.wait(all_is_told, f"told: {kinds}", LIMIT_S)

    def check_traffic(self) -> None:
        """By the VIP from each task, by the port of each node from outside and from itself: everyone answers."""

        def ask(node: str) -> list[Answers]:
            return [
                self.web[node].probe("tcp", self.vip, 80, 6),
                outside(self.swarm, "tcp", self.at[node], PORT, 6),
                on_node(self.swarm, node, "tcp", "127.0.0.1", PORT, 6),
            ]

        for node, seen in self.each(ask, ALL).items():
            for way, found in zip(("VIP", "outside", "loopback"), seen, strict=True):
                assert {host for host, _ in found} == self.everyone, (node, way, found)

    def each(self, act: Callable[[str], T], nodes: Iterable[str]) -> dict[str, T]:
        """One thing on several nodes at once."""
        nodes = list(nodes)
        with ThreadPoolExecutor(len(nodes)) as pool:
            return dict(zip(nodes, pool.map(act, nodes), strict=True))


@pytest.fixture(scope="module")
def scene(swarm: Swarm, lab: Lab) -> Iterator[Scene]:
    swarm.clear()
    swarm.docker("network", "create", "-d", "overlay", "--opt", "encrypted", "sealed")
    create(swarm, "web", "--mode", "global", "--network", "sealed", "-p", f"{PORT}:80")
    swarm.wait_running("web", 3)
    inspected = json.loads(swarm.docker("network", "inspect", "sealed"))[0]["Options"]
    vni = int(inspected["com.docker.network.driver.overlay.vxlanid_list"])
    vip = vip_of(swarm, "web")
    scene = Scene(swarm, {place.node: place for place in places(swarm, "web")}, vip, vni, addresses(lab))
    for node, place in scene.web.items():
        wait_answers(swarm, scene.everyone, "tcp", scene.at[node], PORT)
        swarm.wait(
            lambda place=place: {host for host, _ in place.probe("tcp", vip, 80, 6)} == scene.everyone,
            f"all answer by the VIP on {node}",
        )
    scene.look_for_marks()
    yield scene
    swarm.clear()
    swarm.docker("network", "prune", "-f")


@pytest.mark.parametrize("kinds", ROUNDS, ids=lambda kinds: ", ".join(kinds.values()))
def test_what_is_changed_by_hand_is_mended_and_told(scene: Scene, kinds: dict[str, str]) -> None:
    scene.each(lambda node: scene.swarm.ssh(node, "iptables-save >/run/before-drift"), kinds)
    try:
        late = kinds
        for go in range(GOES):
            began = time.time()
            seen = scene.each(lambda node: scene.break_and_watch(node, kinds[node]), late)
            for node, one in seen.items():
                left = difflib.unified_diff(one["before"].splitlines(), one["now"].splitlines(), n=0, lineterm="")
                assert one["same"], "\n".join((node, kinds[node], f"damage: {one['damage']}", *left))
            if go == 0:  # the same again is not told again so soon
                scene.wait_told(kinds, began)
            took_s = {kinds[node]: one["took_s"] for node, one in seen.items()}
            late = {node: kinds[node] for node, one in seen.items() if one["took_s"] > REPAIRED_S}
            if not late:
                break
        assert not late, took_s
        scene.check_traffic()
    finally:
        # A flush takes the Engine's own rules as well, which only its start would bring back.
        scene.each(lambda node: scene.swarm.ssh(node, "iptables-restore </run/before-drift"), kinds)
