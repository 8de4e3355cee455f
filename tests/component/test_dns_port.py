"""Tasks' questions at port 53 of their gateway, by the kernel's own rules, where others have that port as well.

A node and a task are network namespaces of this host. What a rule marks for IPVS is dropped here: it would be
somebody else's backend that answers.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from remote_helpers.net import rules
from remote_helpers.net.numbers import DNS_PORT
from tests.unit.helpers.net.states import node_state

GATEWAY, TASK, OUTSIDE, NODE = "10.255.2.1", "10.255.2.11", "10.62.0.2", "10.62.0.1"
SW_NODE, SW_TASK = f"swd{os.getpid()}n", f"swd{os.getpid()}t"
# Answers each question with its own name, and says when it listens.
SERVER = """
import selectors, socket, sys
loop, name = selectors.DefaultSelector(), sys.argv[3].encode()
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind((sys.argv[1], int(sys.argv[2])))
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    loop.register(sock, selectors.EVENT_READ, kind)
print("listens", flush=True)
while True:
    for key, _ in loop.select():
        if key.data == socket.SOCK_DGRAM:
            key.fileobj.sendto(name, key.fileobj.recvfrom(100)[1])
        else:
            link = key.fileobj.accept()[0]
            link.sendall(name)
            link.close()
"""
CLIENT = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
with socket.socket(socket.AF_INET, kind) as sock:
    sock.settimeout(2)
    try:
        sock.connect((sys.argv[2], int(sys.argv[3])))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"?")
        print(sock.recv(100).decode())
    except OSError:
        print("nobody")
"""


def inside(space: str, *words: str, text: str = "", must: bool = True) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", space, *words], input=text, capture_output=True, text=True, check=False
    )
    assert not (must and done.returncode), (words, done.stderr)
    return done.stdout.strip() if not done.returncode else ""


def usable() -> bool:
    """Whether this process may make namespaces, and iptables works in them as Docker needs it."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("ip", "iptables-restore")):
        return False
    if subprocess.run(["ip", "netns", "add", SW_NODE], capture_output=True, check=False).returncode:
        return False
    try:
        text = "*nat\n-A PREROUTING -p udp -m udp --dport 1 -j DNAT --to-destination 10.0.0.1:2\nCOMMIT\n"
        text += "*mangle\n-A INPUT -m addrtype --dst-type LOCAL -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
        command = ["ip", "netns", "exec", SW_NODE, "iptables-restore"]
        return not subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode
    finally:
        subprocess.run(["ip", "netns", "del", SW_NODE], capture_output=True, check=False)


pytestmark = pytest.mark.skipif(not usable(), reason="needs root, iproute2, and iptables in a namespace")


class Servers:
    """Processes of the node that answer at a place."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def start(self, address: str, port: int, name: str) -> None:
        command = ["ip", "netns", "exec", SW_NODE, sys.executable, "-c", SERVER, address, str(port), name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "listens\n", "it cannot listen there"

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    for space in (SW_NODE, SW_TASK):
        subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        for words in (
            "link set lo up",
            "link add swgw0 type bridge",
            f"address add {GATEWAY}/24 dev swgw0",
            "link set swgw0 up",
            f"link add t0 type veth peer name eth0 netns {SW_TASK}",
            "link set t0 master swgw0",
            "link set t0 up",
            # A client on the node's own network, which no rule of ours is about.
            f"link add o0 type veth peer name eth1 netns {SW_TASK}",
            f"address add {NODE}/24 dev o0",
            "link set o0 up",
        ):
            inside(SW_NODE, "ip", *words.split())
        for device, address in (("eth0", TASK), ("eth1", OUTSIDE)):
            inside(SW_TASK, "ip", "address", "add", f"{address}/24", "dev", device)
            inside(SW_TASK, "ip", "link", "set", device, "up")
        yield made
    finally:
        made.end()
        for space in (SW_NODE, SW_TASK):
            subprocess.run(["ip", "netns", "del", space], check=False)


def restore(state: dict) -> None:
    """The rules of the state that decide over port 53, and Docker's for a container with it (`mode=host`)."""
    wanted = rules.wanted(state, queue=False, sets=False)
    chains = {"mangle": {name: wanted["mangle"][name] for name in ("SW-MIN", "SW-PUB")}}
    chains["nat"] = {"SW-DNS": wanted["nat"]["SW-DNS"]}
    docker = "*nat\n-A PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT\nCOMMIT\n"
    taken = "*filter\n-A INPUT -m mark --mark 0x53000000/0xff000000 -j DROP\nCOMMIT\n"
    inside(SW_NODE, "iptables-restore", "--noflush", text=docker + taken)
    have = rules.parse_save(inside(SW_NODE, "iptables-save"))
    plan = rules.plan_restore(chains, have)
    jumps = [line for line in plan.rest.splitlines() if line.startswith("-I")]
    assert jumps == ["-I INPUT 1 -j SW-MIN", "-I PREROUTING 1 -j SW-DNS"]
    inside(SW_NODE, "iptables-restore", "--noflush", text=plan.rest)
    shown = rules.parse_save(inside(SW_NODE, "iptables-save"))
    assert rules.plan_restore(chains, shown) == rules.Restore("", "", []), "this iptables shows them otherwise"


def asked(protocol: str, address: str, port: int = 53) -> str:
    return inside(SW_TASK, sys.executable, "-c", CLIENT, protocol, address, str(port))


def with_ports(*published: int) -> dict:
    state = copy.deepcopy(node_state())
    state["vips"] = []
    state["ports"] = [
        {**state["ports"][0], "id": 10 * i + j, "protocol": kind, "port": port}
        for i, port in enumerate(published, 1)
        for j, kind in enumerate(("tcp", "udp"))
    ]
    return state


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_published_port_53_leaves_the_tasks_their_own_questions(servers: Servers, protocol: str) -> None:
    servers.start(GATEWAY, DNS_PORT, "ours")
    restore(with_ports(53, DNS_PORT))  # that one may be published as well
    assert asked(protocol, GATEWAY) == "ours"
    # What is asked elsewhere goes to the service, that is to nobody here.
    assert asked(protocol, NODE) == asked(protocol, NODE, DNS_PORT) == "nobody"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_container_has_port_53_of_the_host_beside_our_name_server(servers: Servers, protocol: str) -> None:
    servers.start("0.0.0.0", 53, "the container's")
    servers.start(GATEWAY, DNS_PORT, "ours")
    restore(with_ports())
    assert asked(protocol, GATEWAY) == "ours"
    assert asked(protocol, NODE) == "the container's"
