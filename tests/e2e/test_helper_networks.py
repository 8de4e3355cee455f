"""Networks through the resident helper: stub, session and JSON lines on three nodes' real kernels; no manager.

SWARMSH_HELPER_LAB=NAME reuses a running lab and leaves it up; what its machines hold is removed. A task a node, on
one network; a VIP and a published port lead to those of nodes 2 and 3. Each test leaves them as it found them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarmsh.adapters.nodes.payload import PACKAGE, Payload, pack_helper

from .helperctl import CHECKOUT, Machine, Session, ensure, machines, remove, stop
from .labctl import Lab
from .test_data_plane import MODULES, PROBE, SNAPSHOT

pytestmark = pytest.mark.e2e

OWN_LAB = os.environ.get("SWARMSH_HELPER_LAB")
CLUSTER = "clustera"
NET, VIP = "net1net1net1net1net1net1n", "10.50.128.5"
OUTSIDE = "10.98.0.1"
REPAIRED_S = 5.0
# Two cores carry the machines and another strand of tests: once late may be kept waiting by those.
GOES = 3
AS_FOUND = (
    SNAPSHOT + "\nip xfrm policy; ip xfrm state; ls /run | grep -x swarmsh; pgrep -fc '[h]elper.pyz'; true\n"
)
PURGE = """
ids=$(docker ps -aq --filter label=swarmsh.cluster)
[ -z "$ids" ] || docker rm -f $ids
systemctl stop swarmsh-helper 2>/dev/null
systemctl reset-failed swarmsh-helper 2>/dev/null
true
"""
# Asks for names where the programs of a container do, for so long (s); prints failures and how many were asked.
ASK = """
import socket, struct, sys, time
def ask(name):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((server, 53))
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    s.send(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1")
    found = s.recv(4096)
    s.close()
    rcode, count = found[3] & 15, struct.unpack_from("!H", found, 6)[0]
    ends = [len(found) - 16 * i for i in range(count)]
    return str(rcode) + " " + " ".join(sorted(socket.inet_ntoa(found[end - 4:end]) for end in ends))
names, until, asked = sys.argv[3:], time.monotonic() + float(sys.argv[2]), 0
server = open(f"/proc/{sys.argv[1]}/root/etc/resolv.conf").read().split()[1]
if until - time.monotonic() < 0.1:
    for name in names:
        print(ask(name))
    sys.exit()
while time.monotonic() < until:
    for name in names:
        asked += 1
        try:
            found = ask(name)
            if not found.startswith("0 10."):
                print("wrong", name, found)
        except OSError as e:
            print("lost", name, e)
    time.sleep(0.02)
print("asked", asked)
"""


def put_of(n: int, *, ready: tuple[int, ...] = (), encrypted: bool = False, drains: int = 0) -> dict[str, Any]:
    """The network state of node n of three, with the tasks of the nodes `ready` as backends."""
    others = [p for p in (1, 2, 3) if p != n]
    weights = {b: 0 if b == drains else 1 for b in ready}
    vip = {"id": 1, "network": NET, "service": "service1", "address": VIP, "scheduler": "rr", "persist_s": 0}
    port = {"id": 4, "service": "service1", "protocol": "tcp", "port": 8080, "bind": "", "scheduler": "rr"}
    return {
        "node": {"n": n, "underlay": f"10.98.0.{10 + n}"},
        "egress": {"pool": "10.255.0.0/16", "prefix": 24, "mtu": 1450},
        "peers": [{"n": p, "underlay": f"10.98.0.{10 + p}"} for p in others],
        "networks": [
            {"id": NET, "name": "net1", "vni": 4096, "subnet": "10.50.0.0/16", "gateway": f"10.50.0.{n}",
             "vips": "10.50.128.0/17", "mtu": 1410 if encrypted else 1450, "encrypted": encrypted,
             "internal": False, "labels": {}, "peers": others},
        ],
        "vips": [
            {**vip, "tcp_ports": [80],
             "dests": [{"task": f"t{b}", "address": f"10.50.1.{b}", "weight": w} for b, w in weights.items()]}
        ],
        "ports": [
            {**port, "persist_s": 0, "tcp_ports": [80],
             "dests": [{"task": f"t{b}", "address": f"10.255.{b}.11", "port": 80, "weight": w}
                       for b, w in weights.items()]}
        ],
        "tasks": [{"id": f"t{n}", "addresses": [f"10.50.1.{n}", f"10.255.{n}.11"]}],
        "names": [
            {"network": NET, "service": "service1", "names": ["web"], "vip": VIP,
             "tasks": [{"id": f"t{b}", "address": f"10.50.1.{b}", "names": [f"web.1.t{b}", f"w{b}"]}
                       for b in ready]}
        ],
    }  # fmt: skip


class Node:
    """A machine, its session, and the task on it."""

    def __init__(self, n: int, machine: Machine) -> None:
        self.n, self.machine = n, machine
        self.session: Session | None = None
        self.epoch = 0

    async def run(self, command: str, *, check: bool = True, timeout: float = 120) -> str:
        return await asyncio.to_thread(lambda: self.machine.run(command, check=check, timeout=timeout))

    async def attach(self, stack: AsyncExitStack, payload: Payload | None = None, **options: Any) -> Session:
        self.session = session = await stack.enter_async_context(Session(self.machine, payload=payload))
        self.epoch = max(self.epoch, session.hello["epoch"]) + 1
        session.index = max(session.index, session.hello["index"])
        await session.attach(CLUSTER, self.epoch, **options)
        return session

    async def network(self, put: dict[str, Any] | None = None, **more: Any) -> list[str]:
        """What had drifted."""
        assert self.session is not None
        fence = {"cluster_id": CLUSTER, "epoch": self.session.epoch, "index": self.session.index}
        args = {**fence, "put": put or {}, "drop": {}, **more}
        return list((await self.session.request("network", args, timeout_s=90))["drift"])

    async def start(self) -> None:
        assert self.session is not None
        joins = [
            {"name": "net1", "address": f"10.50.1.{self.n}"},
            {"name": "swgw", "address": f"10.255.{self.n}.11"},
        ]
        config = {"Hostname": f"w{self.n}", "HostConfig": {"Dns": [f"10.255.{self.n}.1"]}}
        await self.session.apply(
            ensure(f"t{self.n}", networks=joins, tcp_ports=[80], config=config, restart="none")
        )
        await self.session.task(f"t{self.n}", "running", ready=True, timeout_s=120)

    async def inside(self, program: str, *words: str, timeout: float = 120) -> list[str]:
        """Lines that a Python program prints in the task's network namespace."""
        assert self.session is not None
        pid = str(self.session.tasks[f"t{self.n}"]["pid"])
        argv = ["nsenter", "-t", pid, "-n", "python3", "-c", program, *words]
        return (await self.run(shlex.join(argv), timeout=timeout)).splitlines()

    def ask(self, task: str, seconds: str, *names: str) -> str:
        """The command that asks for names as that task does."""
        assert self.session is not None
        pid = str(self.session.tasks[task]["pid"])
        return shlex.join(["nsenter", "-t", pid, "-n", "python3", "-c", ASK, pid, seconds, *names])

    async def until(self, command: str, wanted: Callable[[str], bool], timeout_s: float = 20.0) -> float:
        """Seconds until the output of a command is as wanted."""
        began = time.monotonic()
        while not wanted(text := await self.run(command, check=False)):
            assert time.monotonic() < began + timeout_s, f"{self.machine.name}: {command}: {text}"
            await asyncio.sleep(0.1)
        return time.monotonic() - began


class Cluster:
    def __init__(self, lab: Lab, nodes: list[Node], stack: AsyncExitStack) -> None:
        self.lab, self.nodes, self.stack = lab, nodes, stack

    async def each(self, act: Callable[[Node], Any]) -> list[Any]:
        results = await asyncio.gather(*(act(node) for node in self.nodes), return_exceptions=True)
        for node, result in zip(self.nodes, results, strict=True):
            if isinstance(result, BaseException):
                log = await node.run("journalctl -u swarmsh-helper -n 60 --no-pager -o cat", check=False)
                raise AssertionError(f"{node.machine.name} ({node.machine.suite}): {result!r}\n{log}") from result
        return results

    async def from_outside(self, *words: str) -> list[str]:
        def ask() -> str:
            return self.lab.run(sys.executable, "-c", PROBE, *words, timeout_s=180)

        return (await asyncio.to_thread(ask)).splitlines()

    async def works(self, backends: tuple[int, ...] = (2, 3)) -> None:
        """Names, the VIP and the published port lead to these backends, from each node."""

        async def ask(node: Node) -> None:
            addresses = " ".join(f"10.50.1.{b}" for b in backends)
            told = await node.run(node.ask(f"t{node.n}", "0", "web", "tasks.web"))
            assert told.splitlines() == [f"0 {VIP}", f"0 {addresses}"]
            answers = Counter(line.split()[0] for line in await node.inside(PROBE, "tcp", VIP, "80", "4"))
            assert answers == {f"w{b}": 4 // len(backends) for b in backends}, node.n

        await self.each(ask)
        for node in self.nodes:
            answers = Counter(await self.from_outside("tcp", node.machine.address, "8080", "4"))
            assert answers == {f"w{b} {OUTSIDE}": 4 // len(backends) for b in backends}, node.machine.name


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(OWN_LAB or f"k{os.getpid()}")
    try:
        lab.up(nodes=3, suite="mixed")
        yield lab
    finally:
        if not OWN_LAB:
            lab.down()


@asynccontextmanager
async def three_nodes(lab: Lab, *, encrypted: bool = False) -> AsyncIterator[Cluster]:
    """Tasks on three nodes with VIP, names and a published port; afterwards all is as it was found."""
    async with AsyncExitStack() as stack:
        found = sorted(machines(lab.name), key=lambda machine: machine.name)[:3]
        nodes = [Node(int(one.address.rpartition(".")[2]) - 10, one) for one in found]
        cluster = Cluster(lab, nodes, stack)

        async def prepare(node: Node) -> str:
            """What an aborted run may have left is taken away."""
            await node.run(PURGE)
            await node.attach(stack)
            await node.network(fresh=True)
            await leave(node)
            # As loaded modules do, tables that were looked at stay, empty as they are.
            tables = "for t in raw mangle nat filter; do iptables -t $t -S >/dev/null; done"
            await node.run(f"modprobe -a {MODULES} esp4 xfrm_user; {tables}", check=False)
            return await node.run(AS_FOUND)

        before = await cluster.each(prepare)

        async def begin(node: Node) -> None:
            session = await node.attach(stack)
            if encrypted:
                assert (await session.request("secure", keys_of(node.n), timeout_s=60))["lost"] == []
            assert await node.network(put_of(node.n, encrypted=encrypted), fresh=True)
            await node.start()

        await cluster.each(begin)
        await cluster.each(lambda node: node.network(put_of(node.n, ready=(2, 3), encrypted=encrypted)))
        yield cluster
        await cluster.each(leave)
    after = await cluster.each(lambda node: node.run(AS_FOUND))
    for node, was, is_now in zip(cluster.nodes, before, after, strict=True):
        assert is_now.splitlines() == was.splitlines(), node.machine.suite


async def leave(node: Node) -> None:
    assert node.session is not None
    await node.session.apply(remove(f"t{node.n}"))
    await node.session.task(f"t{node.n}", "gone")
    await node.session.request("release")
    await node.session.close()
    await node.until("ls /run | grep -x swarmsh; true", lambda text: not text, 60)


def keys_of(n: int) -> dict[str, Any]:
    """Node n's keys of one epoch with the two others."""

    def key(sender: int, receiver: int) -> str:
        return hashlib.sha512(f"{sender} {receiver}".encode()).hexdigest()[:40]

    peers = [
        {
            "n": p,
            "address": f"10.98.0.{10 + p}",
            "sends": 1,
            "epochs": [{"epoch": 1, "in": key(p, n), "out": key(n, p)}],
        }
        for p in (1, 2, 3)
        if p != n
    ]
    return {"n": n, "address": f"10.98.0.{10 + n}", "closed": True, "peers": peers}


DRIFT = {
    "link": ("ip link del sv1000", "ip link show sv1000"),
    "rules": ("iptables -t mangle -F SW-MIN", "iptables -t mangle -S SW-MIN | grep swarmsh-vips"),
    "service": ("ipvsadm -D -f 1392508929", "grep 53000001 /proc/net/ip_vs"),
    "route": ("ip route del local 10.50.128.0/17 table local", "ip route show table local | grep 10.50.128.0"),
}


async def test_tasks_on_two_nodes_talk_by_name_and_vip_and_drift_is_mended(lab: Lab) -> None:
    async with three_nodes(lab) as cluster:
        await cluster.works()
        for kind, (spoil, look) in DRIFT.items():

            async def mended(node: Node, kind: str = kind, spoil: str = spoil, look: str = look) -> None:
                assert node.session is not None
                session = node.session
                # Measured on the node: to ask it takes its time as well.
                command = (
                    f"{spoil}; t=$(cut -d' ' -f1 /proc/uptime); until {look} >/dev/null 2>&1; do sleep 0.3; done; "
                    f"echo $t $(cut -d' ' -f1 /proc/uptime)"
                )
                told = len([one for one in session.events if one["event"] == "network"])
                took: list[float] = []
                while not took or (took[-1] > REPAIRED_S and len(took) < GOES):
                    began, ended = map(float, (await node.run(command)).split())
                    took.append(ended - began)
                await session.until(lambda: len([e for e in session.events if e["event"] == "network"]) > told)
                assert took[-1] <= REPAIRED_S, (kind, took)

            await cluster.each(mended)
        await cluster.works()


async def test_a_task_is_told_no_name_of_a_network_that_it_is_not_on(lab: Lab) -> None:
    async with three_nodes(lab) as cluster:

        async def ask(node: Node) -> None:
            assert node.session is not None
            session, other = node.session, f"x{node.n}"
            tasks = [*put_of(node.n)["tasks"], {"id": other, "addresses": [f"10.255.{node.n}.12"]}]
            await node.network({"tasks": tasks})
            joins = [{"name": "swgw", "address": f"10.255.{node.n}.12"}]
            config = {"HostConfig": {"Dns": [f"10.255.{node.n}.1"]}}
            await session.apply(ensure(other, networks=joins, tcp_ports=[80], config=config))
            await session.task(other, "running", ready=True)
            # What the Engine itself would tell: both are on `swgw`.
            mine = [
                f"web.1.t{node.n}",
                f"w{node.n}",
                "web",
                "tasks.web",
                session.tasks[f"t{node.n}"]["container_id"][:12],
            ]
            told = (await node.run(node.ask(other, "0", *mine))).splitlines()
            assert all(len(line.split()) == 1 for line in told), told
            held = await node.run(f"docker exec web.1.{other} /bin/busybox cat /etc/resolv.conf")
            assert held.split()[:2] == ["nameserver", f"10.255.{node.n}.1"]
            await session.apply(remove(other))
            await session.task(other, "gone")

        await cluster.each(ask)


async def test_a_task_that_dies_leaves_its_node_at_once_and_one_that_drains_keeps_its_clients(lab: Lab) -> None:
    async with three_nodes(lab) as cluster:
        first, second, third = cluster.nodes
        assert second.session is not None and third.session is not None
        stream = "exec 3<>/dev/tcp/{}/80; printf 'GET /stream?s=6 HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 | tail -n1"
        # By the VIP of node 1, where the manager's weight 0 comes as for a task that is to stop.
        await first.network(put_of(1, ready=(3,)))
        pid = first.session.tasks["t1"]["pid"] if first.session else 0
        command = shlex.join(["nsenter", "-t", str(pid), "-n", "bash", "-c", stream.format(VIP)])
        client = asyncio.create_task(first.run(command))
        await third.until(f"nsenter -t {third.session.tasks['t3']['pid']} -n ss -Htn state established | wc -l",
                          lambda text: int(text) > 0)  # fmt: skip
        await first.network(put_of(1, ready=(2, 3), drains=3))
        began = time.monotonic()
        await third.session.apply({**stop("t3"), "drain_s": 60.0})
        await third.session.until(lambda: not third.session.tasks["t3"].get("ready"))
        assert third.session.tasks["t3"]["state"] == "running"
        # On its own node it takes no new connections, and keeps those that are there.
        await third.until("cat /proc/net/ip_vs", lambda text: "0A320103:0000      Masq    0" in text)
        await third.session.task("t3", "shutdown")
        assert time.monotonic() - began < 30, "it waits for clients, not for the time"
        assert int((await client).partition("=")[2]) < 1000, "the stream came to its end"
        await third.until("cat /proc/net/ip_vs", lambda text: "0A320103" not in text)
        # And one that dies.
        pid = second.session.tasks["t2"]["pid"]
        look = "grep -q 0A320102 /proc/net/ip_vs"
        command = (
            f"{look} || exit 7; kill -9 {pid}; t=$(cut -d' ' -f1 /proc/uptime); "
            f"while {look}; do sleep 0.02; done; echo $t $(cut -d' ' -f1 /proc/uptime)"
        )
        began_s, ended_s = map(float, (await second.run(command)).split())
        print(f"dead backend out on its own node after {ended_s - began_s:.2f} s")
        assert ended_s - began_s < 2.0
        await second.session.task("t2", "failed")
        assert await second.run("cat /proc/net/ip_vs | grep -c 0A320102; true") == "0"
        await cluster.each(lambda node: node.network(put_of(node.n)))


def other_helper(directory: Path) -> Payload:
    """The same helper with another hash."""
    shutil.copytree(
        CHECKOUT / PACKAGE, directory, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    with (directory / "__init__.py").open("a") as file:
        file.write("# another version\n")
    archive = pack_helper(directory)
    return Payload(archive, hashlib.sha256(archive).hexdigest())


async def test_no_name_is_lost_when_a_newer_helper_takes_over_and_a_killed_one_goes_on(
    lab: Lab, tmp_path: Path
) -> None:
    newer = other_helper(tmp_path)
    async with three_nodes(lab) as cluster:

        async def hand_over(node: Node) -> None:
            assert node.session is not None
            before = node.session.hello["pid"]
            seconds = "25"
            command = node.ask(f"t{node.n}", seconds, "web", "tasks.web", "web.1.t3")
            asking = asyncio.create_task(node.run(command))
            await asyncio.sleep(3)  # some are answered by the one, some by the other
            await node.attach(cluster.stack, payload=newer)
            assert node.session.hello["pid"] == before and node.session.hello["helper"] == newer.sha256
            lines = (await asking).splitlines()
            print(node.machine.suite, lines)
            assert len(lines) == 1 and int(lines[0].split()[1]) > 50, lines
            # A new process holds the same: the first message of its session finds nothing amiss.
            assert await node.network(put_of(node.n, ready=(2, 3)), fresh=True) == []
            rss = int(await node.run(f"awk '/VmRSS/{{print $2}}' /proc/{before}/status"))
            cpu = await node.run(f"cut -d' ' -f14-17 /proc/{before}/stat")
            await asyncio.sleep(20)  # what it costs when nothing happens
            later = await node.run(f"cut -d' ' -f14-17 /proc/{before}/stat")
            ticks = sum(map(int, later.split())) - sum(map(int, cpu.split()))
            print(f"{node.machine.suite}: {rss} KiB with networks, {ticks / 20:.2f} % of a core (with children)")
            assert rss <= 48 * 1024

        await cluster.each(hand_over)
        await cluster.works()

        async def kill(node: Node) -> None:
            assert node.session is not None
            session = node.session
            await node.run("kill -9 $(systemctl show -p MainPID --value swarmsh-helper)")
            await session.until(lambda: session.ended)
            # No manager: its names come back by themselves.
            ask = node.ask(f"t{node.n}", "0", "web")
            await node.until(ask, lambda text: text == f"0 {VIP}", 30)
            await node.attach(cluster.stack, payload=newer)
            assert await node.network(put_of(node.n, ready=(2, 3)), fresh=True) == []

        await cluster.each(kill)
        await cluster.works()


async def test_without_a_manager_a_dead_backend_elsewhere_is_out_soon(lab: Lab) -> None:
    async with three_nodes(lab) as cluster:

        async def silence(node: Node) -> None:
            assert node.session is not None
            await node.session.close()
            await node.attach(cluster.stack, lease_s=2.0, renew=False)

        await cluster.each(silence)
        await cluster.each(lambda node: node.until("grep -o '\"alone\":true' /run/swarmsh/state.json", bool))
        third = cluster.nodes[2]
        assert third.session is not None
        pid = third.session.tasks["t3"]["pid"]
        for node in cluster.nodes:
            assert "0A320103" in await node.run("cat /proc/net/ip_vs")
        await third.run(f"kill -9 {pid}")
        seconds = await cluster.each(
            lambda node: node.until("cat /proc/net/ip_vs", lambda text: "0A320103" not in text, 20)
        )
        print(f"dead backend out after {', '.join(f'{one:.1f}' for one in seconds)} s, asked from outside")
        assert max(seconds) < 10
        first, second, _ = cluster.nodes
        answers = Counter(await first.inside(PROBE, "tcp", VIP, "80", "4"))
        assert answers == {"w2 10.50.1.1": 4}
        await first.until(first.ask("t1", "0", "tasks.web"), lambda told: told.split() == ["0", "10.50.1.2"])

        def by_name_alone(n: int) -> dict[str, Any]:
            put = put_of(n, ready=(1, 2))
            udp = {**put["ports"][0], "protocol": "udp", "tcp_ports": []}
            return {**put, "vips": [], "ports": [udp], "names": [{**put["names"][0], "vip": ""}]}

        # No port of them is known: they are asked for an echo.
        await cluster.each(lambda node: node.network(by_name_alone(node.n), fresh=True))
        asked = first.ask("t1", "0", "web")
        await asyncio.sleep(6)  # that much longer than it takes to be called silent
        assert (await first.run(asked)).split() == ["0", "10.50.1.1", "10.50.1.2"]
        by_port = "grep -c 0AFF020B /proc/net/ip_vs"
        assert int(await first.run(by_port)) == 1
        assert second.session is not None
        await second.run(f"kill -9 {second.session.tasks['t2']['pid']}")
        await first.until(by_port, lambda count: int(count) == 0)
        elapsed = await first.until(asked, lambda told: told.split() == ["0", "10.50.1.1"], 20)
        print(f"dead task out of the name after {elapsed:.1f} s")
        for node in cluster.nodes:
            assert node.session is not None
            await node.session.request("lease")
        await cluster.each(lambda node: node.network(put_of(node.n)))


async def test_an_encrypted_network_stands_by_the_helpers_keys_and_outlives_its_process(lab: Lab) -> None:
    async with three_nodes(lab, encrypted=True) as cluster:
        await cluster.works()
        assert "esp" in await cluster.nodes[0].run("ip xfrm state")
        for node in cluster.nodes:
            text = await node.run("cat /run/swarmsh/network.json")
            assert keys_of(node.n)["peers"][0]["epochs"][0]["in"] not in text
            assert json.loads(text.splitlines()[0])["esp"]["spent"] == {
                str(p): 1 for p in (1, 2, 3) if p != node.n
            }

        async def kill(node: Node) -> None:
            assert node.session is not None
            session = node.session
            await node.run("kill -9 $(systemctl show -p MainPID --value swarmsh-helper)")
            await session.until(lambda: session.ended)
            await node.attach(cluster.stack)
            assert (await node.session.request("secure", keys_of(node.n), timeout_s=60))["lost"] == []
            assert await node.network(put_of(node.n, ready=(2, 3), encrypted=True), fresh=True) == []
            await node.run("ip xfrm policy flush")
            await node.until("ip xfrm policy | grep -c 'dport 4790'", lambda text: int(text) >= 4)

        await cluster.each(kill)
        await cluster.works()
