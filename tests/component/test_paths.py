"""Ways between nodes, with real packets: two network namespaces of this host, and a router between them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
A, B = "10.61.1.2", "10.61.2.2"
SIZES = [1500, 1496, 1480, 1450, 1400, 1280]
ALL = ["udp4789", "udp4790", "esp"]
# Reads requests of the helper line by line, and answers each.
AGENT = """
import asyncio, json, sys
from remote_helpers.fence import Refused
from remote_helpers.paths import Paths, send
async def main():
    paths = Paths()
    while True:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        op, args = json.loads(line)
        try:
            found = paths.listen(args) if op == "listen" else await (send if op == "send" else paths.heard)(args)
        except Refused as e:
            found = "refused: " + e.message
        print(json.dumps(found), flush=True)
asyncio.run(main())
"""
# An SA each way and the policies of an encrypted network, as `net/esp.py` has them.
KEY = "0x" + "5a" * 36
SA = (
    "ip xfrm state add src {} dst {} proto esp spi 0x53001001 reqid 1 mode transport replay-window 128 flag esn "
    f"aead 'rfc4106(gcm(aes))' {KEY} 128"
)


def usable() -> bool:
    """Whether this process may make namespaces, and has what the tests need."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("ip", "nft")):
        return False
    name = f"swp{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


pytestmark = pytest.mark.skipif(not usable(), reason="needs root, iproute2 and nftables")


@dataclass
class Host:
    """One namespace, and the agent in it."""

    name: str
    n: int = 0
    address: str = ""
    agent: subprocess.Popen[str] | None = None

    def run(self, command: str) -> str:
        argv = ["ip", "netns", "exec", self.name, "sh", "-ec", command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def begin(self) -> None:
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-c", AGENT]
        self.agent = subprocess.Popen(
            argv, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, op: str, **args: Any) -> Any:
        assert self.agent is not None and self.agent.stdin is not None and self.agent.stdout is not None
        self.agent.stdin.write(json.dumps([op, args]) + "\n")
        return json.loads(self.agent.stdout.readline())

    def drop(self, hook: str, match: str) -> None:
        """A firewall of the host's own: drops what fits."""
        self.run(
            f"nft add table ip fw; nft 'add chain ip fw {hook} {{ type filter hook {hook} priority 0; }}'; "
            f"nft add rule ip fw {hook} {match} drop"
        )


@dataclass
class Net:
    a: Host
    router: Host
    b: Host
    hosts: list[Host] = field(default_factory=list)

    def try_ways(self, *, sizes: list[int] = SIZES) -> tuple[dict[str, str], dict[str, Any]]:
        """What a's kernel refused to send, and what b heard of it."""
        token = secrets.token_hex(8)
        listen = {"token": token, "seconds": 30, "enough": max(sizes, default=0), "from": [self.a.n]}
        assert self.b.ask("listen", **listen) is None
        to = [{"n": self.b.n, "address": self.b.address}]
        (sent,) = self.a.ask("send", token=token, n=self.a.n, address=self.a.address, to=to, sizes=sizes)
        (heard,) = self.b.ask("heard", token=token, wait_s=1)
        assert (sent["n"], heard["n"]) == (self.b.n, self.a.n)
        return sent["refused"], heard


@pytest.fixture
def net() -> Iterator[Net]:
    tag = f"sw{os.getpid() % 100000}"
    a, router, b = Host(f"{tag}a", 7, A), Host(f"{tag}r"), Host(f"{tag}b", 9, B)
    net = Net(a, router, b, [a, router, b])
    try:
        for host in net.hosts:
            subprocess.run(["ip", "netns", "add", host.name], check=True, timeout=30)
            host.run("ip link set lo up")
        for host, block in ((a, "10.61.1"), (b, "10.61.2")):
            inside = f"{host.name}0"
            router.run(
                f"ip link add {inside} type veth peer name eth0 netns {host.name}; "
                f"ip address add {block}.1/24 dev {inside}; ip link set {inside} up"
            )
            host.run(
                f"ip address add {block}.2/24 dev eth0; ip link set eth0 up; ip route add default via {block}.1"
            )
        router.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
        for host in (a, b):
            host.begin()
        yield net
    finally:
        for host in net.hosts:
            if host.agent is not None:
                host.agent.kill()
                host.agent.communicate()
            subprocess.run(["ip", "netns", "del", host.name], check=False, timeout=30)


def test_all_passes_where_nothing_is_in_the_way(net: Net) -> None:
    refused, heard = net.try_ways()
    assert refused == {}
    assert heard == {"n": 7, "source": A, "arrived": ALL, "let_in": ALL, "size": 1500}


def test_ports_that_vxlan_devices_have_are_seen_all_the_same(net: Net) -> None:
    net.b.run(
        "ip link add v1 type vxlan id 4096 dstport 4789 local 10.61.2.2; ip link set v1 up; "
        "ip link add v2 type vxlan id 4097 dstport 4790 local 10.61.2.2; ip link set v2 up"
    )
    _, heard = net.try_ways()
    assert heard["let_in"] == ALL
    for device in ("v1", "v2"):
        received = net.b.run(f"cat /sys/class/net/{device}/statistics/rx_packets")
        assert received.strip() == "0", "no device takes it for its own"


@pytest.mark.parametrize(
    ("match", "kind"), [("udp dport 4789", "udp4789"), ("udp dport 4790", "udp4790"), ("ip protocol esp", "esp")]
)
def test_what_a_firewall_between_drops_does_not_arrive(net: Net, match: str, kind: str) -> None:
    net.router.drop("forward", match)
    refused, heard = net.try_ways()
    assert refused == {}
    assert heard["arrived"] == heard["let_in"] == [one for one in ALL if one != kind]


@pytest.mark.parametrize(
    ("match", "kind"), [("udp dport 4789", "udp4789"), ("udp dport 4790", "udp4790"), ("ip protocol esp", "esp")]
)
def test_what_the_nodes_own_firewall_drops_arrives_and_is_not_let_in(net: Net, match: str, kind: str) -> None:
    net.b.drop("input", match)
    _, heard = net.try_ways()
    assert heard["arrived"] == ALL
    assert heard["let_in"] == [one for one in ALL if one != kind]


def test_what_the_sender_may_not_send_is_said_by_its_kernel(net: Net) -> None:
    net.a.drop("output", "ip protocol esp")
    refused, heard = net.try_ways()
    assert refused == {"esp": "Operation not permitted"}
    assert heard["let_in"] == ["udp4789", "udp4790"]


@pytest.mark.parametrize(("mtu", "size"), [(1480, 1480), (1499, 1496), (1300, 1280), (1200, 0)])
def test_the_largest_packet_that_fits_the_way(net: Net, mtu: int, size: int) -> None:
    net.router.run(f"ip link set {net.b.name}0 mtu {mtu}")
    for _ in range(2):  # by now the kernel of a knows of it: the packets go out all the same
        _, heard = net.try_ways()
        assert (heard["size"], heard["let_in"]) == (size, ALL)


def test_an_mtu_of_the_senders_own_device_is_found_too(net: Net) -> None:
    net.a.run("ip link set eth0 mtu 1450")
    refused, heard = net.try_ways()
    assert (refused, heard["size"]) == ({}, 1450)


def test_an_address_that_the_node_does_not_have(net: Net) -> None:
    net.a.address = "10.61.1.77"
    refused, heard = net.try_ways()
    assert refused == dict.fromkeys(ALL, "Cannot assign requested address")
    assert (heard["arrived"], heard["source"]) == ([], "")


def test_a_translated_address_is_told(net: Net) -> None:
    net.router.run(
        "nft add table ip n; nft 'add chain ip n p { type nat hook postrouting priority 100; }'; "
        f"nft add rule ip n p oifname {net.b.name}0 masquerade"
    )
    _, heard = net.try_ways()
    assert (heard["source"], heard["let_in"]) == ("10.61.2.1", ALL)


def test_where_all_is_encrypted_port_4790_is_tried_inside_of_esp(net: Net) -> None:
    """With the policies of an encrypted network; plaintext would be neither sent nor taken."""
    tried = ["ip", "netns", "exec", net.a.name, "sh", "-ec", SA.format(A, B)]
    if subprocess.run(tried, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("this kernel has no ESP with AES-GCM; the labs' have, see tests/e2e/test_paths.py")
    net.a.run(SA.format(B, A))
    net.b.run(f"{SA.format(A, B)}; {SA.format(B, A)}")
    net.a.run(
        f"ip xfrm policy add src {A} dst {B} proto udp dport 4790 dir out "
        f"tmpl src {A} dst {B} proto esp spi 0x53001001 reqid 1 mode transport"
    )
    net.b.run(
        f"ip xfrm policy add src 0.0.0.0/0 dst {B} proto udp dport 4790 dir in tmpl proto esp mode transport"
    )
    net.router.drop("forward", "udp dport 4790")
    _, heard = net.try_ways()
    assert heard["let_in"] == ALL


def test_where_there_is_no_key_nothing_is_sent_to_port_4790(net: Net) -> None:
    net.a.run("ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4790 dir out action block")
    refused, heard = net.try_ways()
    assert refused == {"udp4790": "Operation not permitted"}
    assert heard["let_in"] == ["udp4789", "esp"]


def test_what_is_no_check_of_ours_is_not_counted(net: Net) -> None:
    token = secrets.token_hex(8)
    assert net.b.ask("listen", token=token, seconds=30, enough=0, **{"from": [7]}) is None
    to = [{"n": 9, "address": B}]
    net.a.ask("send", token=secrets.token_hex(8), n=7, address=A, to=to, sizes=[])
    net.a.ask("send", token=token, n=8, address=A, to=to, sizes=[])
    (heard,) = net.b.ask("heard", token=token, wait_s=0.2)
    assert heard == {"n": 7, "source": "", "arrived": [], "let_in": [], "size": 0}
    assert str(net.b.ask("heard", token=token, wait_s=0)).startswith("refused: ")
