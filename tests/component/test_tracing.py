"""Where packets go, with real ones: a node with two containers, which are namespaces of this host."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.component.test_paths import CHECKOUT, Host, usable

pytestmark = pytest.mark.skipif(not usable(), reason="needs root, iproute2 and nftables")

A, B, NODE = "10.62.1.2", "10.62.2.2", "10.62.2.1"
AGENT = """
import asyncio, json, sys
from remote_helpers.fence import Refused
from remote_helpers.tracing import Tracing
async def main():
    pids = json.loads(sys.argv[1])
    tracing = Tracing(lambda task: pids.get(task, 0))
    while True:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        op, args = json.loads(line)
        try:
            found = await tracing.send(args) if op == "send" else getattr(tracing, op)(args)
        except Refused as e:
            found = "refused: " + e.message
        print(json.dumps(found), flush=True)
asyncio.run(main())
"""
SERVE = """
import socket, threading
tcp = socket.create_server(("0.0.0.0", 80))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 53))
threading.Thread(target=lambda: [tcp.accept() for _ in range(100)], daemon=True).start()
print("ready", flush=True)
while True:
    udp.sendto(b"answer", udp.recvfrom(2048)[1])
"""


@dataclass
class Node:
    host: Host
    a: Host
    b: Host
    port: int = 40000

    def ask(self, op: str, **args: Any) -> Any:
        return self.host.ask(op, **args)

    def trace(self, task: str, to: str, to_port: int, protocol: str = "tcp") -> tuple[dict[str, str], list[Any]]:
        """Outcome, and what was seen: (place, device, way, to whom, flags) each."""
        self.port += 1
        token = secrets.token_hex(8)
        watched = self.ask("watch", token=token, seconds=30, tasks=["a", "b"], protocol=protocol, port=self.port)
        assert watched is None, watched
        done = self.ask(
            *("send",), task=task, to=to, to_port=to_port, protocol=protocol, port=self.port, timeout_s=1.5
        )
        seen = self.ask("seen", token=token)
        return done, [(s["place"], s["device"].removeprefix(self.host.name), s["way"], s["forth"]) for s in seen]


@pytest.fixture
def node() -> Iterator[Node]:
    tag = f"st{os.getpid() % 100000}"
    host, a, b = Host(tag), Host(f"{tag}a"), Host(f"{tag}b")
    started: list[subprocess.Popen[str]] = []
    try:
        for one in (host, a, b):
            subprocess.run(["ip", "netns", "add", one.name], check=True, timeout=30)
            one.run("ip link set lo up")
        for one, block in ((a, "10.62.1"), (b, "10.62.2")):
            host.run(
                f"ip link add {one.name} type veth peer name eth0 netns {one.name}; "
                f"ip address add {block}.1/24 dev {one.name}; ip link set {one.name} up"
            )
            one.run(
                f"ip address add {block}.2/24 dev eth0; ip link set eth0 up; ip route add default via {block}.1"
            )
        host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
        enter = ("ip", "netns", "exec")
        started.append(subprocess.Popen([*enter, a.name, "sleep", "600"], text=True))
        serving = subprocess.Popen(
            [*enter, b.name, sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True
        )
        started.append(serving)
        assert serving.stdout is not None and serving.stdout.readline() == "ready\n"
        pids = json.dumps({"a": started[0].pid, "b": serving.pid})
        host.agent = subprocess.Popen(
            [*enter, host.name, sys.executable, "-c", AGENT, pids],
            **{"cwd": CHECKOUT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1},
        )
        yield Node(host, a, b)
    finally:
        for process in (*started, host.agent):
            if process is not None:
                process.kill()
                process.communicate()
        for one in (host, a, b):
            subprocess.run(["ip", "netns", "del", one.name], check=False, timeout=30)


FORTH = [("a", "eth0", "out", True), ("", "a", "in", True), ("", "b", "out", True), ("b", "eth0", "in", True)]
BACK = [("b", "eth0", "out", False), ("", "b", "in", False), ("", "a", "out", False), ("a", "eth0", "in", False)]


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 80), ("udp", 53)])
def test_a_connection_is_seen_at_each_device_in_its_order(node: Node, protocol: str, port: int) -> None:
    done, seen = node.trace("a", B, port, protocol)
    assert done == {"outcome": "answered", "words": "", "source": A}
    assert seen[:8] == [*FORTH, *BACK]


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 81), ("udp", 54)])
def test_a_refusal_is_told_from_silence(node: Node, protocol: str, port: int) -> None:
    done, seen = node.trace("a", B, port, protocol)
    assert (done["outcome"], done["words"]) == ("refused", "Connection refused")
    assert seen[:4] == FORTH


def test_where_a_firewall_drops_it_it_is_seen_last(node: Node) -> None:
    node.host.drop("forward", f"ip daddr {B}")
    done, seen = node.trace("a", B, 80)
    assert (done["outcome"], done["source"]) == ("silent", A)
    assert seen == FORTH[:2]


def test_an_answer_that_is_dropped_is_seen_last_on_its_way_back(node: Node) -> None:
    node.host.drop("forward", f"ip saddr {B}")
    done, seen = node.trace("a", B, 80)
    assert done["outcome"] == "silent"
    assert seen[:6] == [*FORTH, *BACK[:2]]
    assert not {("", "a", "out", False), BACK[3]} & set(seen)


def test_the_node_itself_can_be_the_one_who_asks(node: Node) -> None:
    done, seen = node.trace("", B, 80)
    assert done == {"outcome": "answered", "words": "", "source": NODE}
    assert seen[:4] == [("", "b", "out", True), ("b", "eth0", "in", True), *BACK[:2]]


def test_an_address_without_a_way_is_said_by_the_kernel(node: Node) -> None:
    node.a.run("ip route del default")
    done, seen = node.trace("a", B, 80)
    assert (done, seen) == ({"outcome": "failed", "words": "Network is unreachable", "source": ""}, [])


def test_a_translated_address_and_a_tunnel_are_told(node: Node) -> None:
    """As behind IPVS: another destination, and then inside of VXLAN, here from the node to a."""
    node.host.run(
        "ip link add v1 type vxlan id 4096 dstport 4789 local 10.62.1.1 remote 10.62.1.2 dev " + node.a.name
    )
    node.a.run("ip link add v1 type vxlan id 4096 dstport 4789 local 10.62.1.2 remote 10.62.1.1 dev eth0")
    for one, address in ((node.host, "10.63.0.1"), (node.a, "10.63.0.2")):
        one.run(f"ip address add {address}/24 dev v1; ip link set v1 up")
    node.host.run(
        "nft add table ip n; nft 'add chain ip n p { type nat hook prerouting priority -100; }'; "
        f"nft add rule ip n p ip daddr 10.63.0.1 tcp dport 8080 dnat to {B}:80"
    )
    token = secrets.token_hex(8)
    assert node.ask("watch", token=token, seconds=30, tasks=["b"], protocol="tcp", port=45000) is None
    done = node.ask("send", task="a", to="10.63.0.1", to_port=8080, protocol="tcp", port=45000, timeout_s=2)
    assert done["outcome"] == "answered"
    seen = [s for s in node.ask("seen", token=token) if s["forth"] and s["flags"] == "SYN"]
    device = node.a.name
    assert [(s["device"], s["dst"], s["tunnel"]) for s in seen] == [
        (device, "10.63.0.1:8080", "10.62.1.2 > 10.62.1.1:4789"),
        ("v1", "10.63.0.1:8080", ""),
        (node.b.name, f"{B}:80", ""),
        ("eth0", f"{B}:80", ""),
    ]


def test_what_cannot_be_is_refused(node: Node) -> None:
    right = {"token": "x", "seconds": 1, "tasks": [], "protocol": "tcp", "port": 41000}
    for wrong in ({"tasks": ["c"]}, {"protocol": "icmp"}, {"port": 0}, {"seconds": 1e9}, {"token": ""}):
        assert str(node.ask("watch", **{**right, **wrong})).startswith("refused: "), wrong
    assert str(node.ask("seen", token="x")).startswith("refused: ")
