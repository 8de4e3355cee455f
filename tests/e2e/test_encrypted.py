"""Encrypted overlays through a real manager: what is on the wire between the machines, and what they let in.

The capture sees every frame between the machines, on the lab's bridge ports.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from .labctl import Lab
from .swarm import Swarm
from .test_networks import ALL, Place, address_of, addresses, create, outside, places

pytestmark = pytest.mark.e2e

# Counts frames until its standard input ends: ESP, VXLAN by port and VNI, as the machines put them on the wire.
CAPTURE = """
import collections, json, socket, struct, sys, threading
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
over = []
def wait():
    sys.stdin.read()
    over.append(1)
threading.Thread(target=wait, daemon=True).start()
s.settimeout(0.2)
seen = collections.Counter()
print("ready", flush=True)
while not over:
    try:
        frame, (_, _, kind, _, _) = s.recvfrom(2048)
    except TimeoutError:
        continue
    if kind == socket.PACKET_OUTGOING or frame[12:14] != b"\\x08\\x00":
        continue  # each frame once: as it comes in from a machine
    head = (frame[14] & 15) * 4 + 14
    if frame[23] == 50:
        seen["esp"] += 1
    elif frame[23] == 17:
        _, port = struct.unpack("!HH", frame[head:head + 4])
        if port in (4789, 4790):
            vni = int.from_bytes(frame[head + 12:head + 15], "big")
            seen["%d/%d" % (port, vni)] += 1
lost = struct.unpack("II", s.getsockopt(263, 6, 8))[1]
print(json.dumps({"seen": seen, "lost": lost}))
"""
# A VXLAN frame with a UDP datagram for a task in it, to a machine: port, VNI, MAC, machine, task, from where.
FORGE = """
import socket, struct, sys
port, vni, mac, machine, task, source = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
payload = b"forged--"
udp = struct.pack("!HHHH", 4444, 53, 8 + len(payload), 0) + payload
ends = socket.inet_aton(source) + socket.inet_aton(task)
ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ends
ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
ethernet = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("025d0a0a0a0a") + b"\\x08\\x00"
vxlan = struct.pack("!II", 0x08000000, int(vni) << 8)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5):
    s.sendto(vxlan + ethernet + ip + udp, (machine, int(port)))
"""


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()
    swarm.docker("network", "prune", "-f")


@dataclass
class Wire:
    """What a capture counted: filled when it ends."""

    seen: dict[str, int] = field(default_factory=dict)
    lost: int = -1

    @property
    def plain(self) -> dict[str, int]:
        """VXLAN that was not encrypted, by port and VNI."""
        return {key: count for key, count in self.seen.items() if key != "esp"}


@contextmanager
def capture(lab: Lab) -> Iterator[Wire]:
    """Count what is on the wire meanwhile."""
    wire = Wire()
    program = lab.popen("python3", "-c", CAPTURE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        yield wire
        told = json.loads(program.communicate(b"", timeout=30)[0])
        wire.seen, wire.lost = told["seen"], told["lost"]
    finally:
        if program.poll() is None:
            program.kill()
            program.wait(30)


class Ping:
    """Five a second from one container to another, until `result`."""

    def __init__(self, source: Place, target: Place) -> None:
        self._source = source
        argv = ["nsenter", "-t", source.pid, "-n", "ping", "-n", "-i", "0.2", "-W", "5", address_of(target)]
        line = f"{shlex.join(argv)} >/tmp/ping.out 2>&1 & echo $!"
        self._pid = source.swarm.ssh(source.node, line).strip()

    def result(self) -> tuple[int, int]:
        """(sent, lost). The last one sent may be under way when it ends, and counts as neither."""
        told = self._source.swarm.ssh(
            self._source.node, f"kill -INT {self._pid}; tail --pid={self._pid} -f /dev/null; cat /tmp/ping.out"
        )
        words = next(line for line in told.splitlines() if "packets transmitted" in line).split()
        back = set(map(int, re.findall(r"bytes from .*icmp_seq=(\d+) ", told)))
        sent = int(words[0]) - (int(words[0]) not in back)
        return sent, len(set(range(1, sent + 1)) - back)


def rotate(swarm: Swarm) -> None:
    swarm.swarmsh("network", "rotate-keys")


def answers_all(place: Place, others: list[Place]) -> bool:
    return all(place.probe("udp", address_of(other), 53, 1)[0][0] == other.task["ID"] for other in others)


def test_nothing_leaves_in_plaintext(swarm: Swarm, lab: Lab) -> None:
    """From before the network exists: start, rotations under load, a manager's end, a machine's reboot."""
    swarm.docker("network", "create", "-d", "overlay", "--opt", "encrypted", "sealed")
    vni = json.loads(swarm.docker("network", "inspect", "sealed"))[0]["Options"][
        "com.docker.network.driver.overlay.vxlanid_list"
    ]
    with capture(lab) as wire:
        create(swarm, "web", "--mode", "global", "--network", "sealed", "-p", "8080:80")
        swarm.wait_running("web", 3)
        web = places(swarm, "web")
        swarm.wait(lambda: all(answers_all(place, web) for place in web), "all reach each other")
        ping = Ping(web[0], web[1])
        for _ in range(20):
            rotate(swarm)
        sent, lost = ping.result()
        assert (sent > 50, lost) == (True, 0), (sent, lost)
        assert swarm.process is not None
        ping = Ping(web[0], web[2])
        swarm.process.send_signal(signal.SIGKILL)
        swarm.process.wait(30)
        swarm.start()
        swarm.wait(lambda: swarm.connected() == set(ALL), "all connected again")
        rotate(swarm)
        sent, lost = ping.result()
        assert lost == 0, (sent, lost)
        lab.fault("n2", "reboot", "--wait")
        swarm.wait(lambda: swarm.connected() == set(ALL), "n2 connected again")
        swarm.wait_running("web", 3)
        again = places(swarm, "web")
        swarm.wait(lambda: all(answers_all(place, again) for place in again), "all reach each other again")
    assert wire.lost == 0
    assert wire.seen["esp"] > 100, wire.seen
    assert not [key for key in wire.plain if key.startswith("4790/") or key.endswith(f"/{vni}")], wire.plain


def test_forged_packets_are_not_let_in(swarm: Swarm, lab: Lab) -> None:
    for name, options in (("plain", ()), ("sealed", ("--opt", "encrypted"))):
        swarm.docker("network", "create", "-d", "overlay", *options, name)
    at, vni = addresses(lab), {}
    for name in ("plain", "sealed"):
        told = json.loads(swarm.docker("network", "inspect", name))[0]["Options"]
        vni[name] = told["com.docker.network.driver.overlay.vxlanid_list"]
        create(swarm, f"in-{name}", "--mode", "global", "--network", name, "-p", f"{8080 + len(vni)}:80")
    for name in vni:
        swarm.wait_running(f"in-{name}", 3)

    def forged_taken(name: str, port: int, sender: str) -> bool:
        """Whether a forged datagram to the task on n1 arrived there."""
        place = places(swarm, f"in-{name}")[0]
        task = address_of(place)
        shown = swarm.ssh(place.node, f"nsenter -t {place.pid} -n ip -o address show to {task}/32")
        device = shown.split()[1]
        link = swarm.ssh(place.node, f"nsenter -t {place.pid} -n ip -o link show {device}")
        mac = link.partition("link/ether ")[2].split()[0]
        source = address_of(places(swarm, f"in-{name}")[1])
        argv = ["python3", "-c", FORGE, str(port), vni[name], mac, at["n1"], task, source]

        def received() -> int:
            table = swarm.ssh(place.node, f"nsenter -t {place.pid} -n cat /proc/net/snmp")
            rows = [line.split() for line in table.splitlines() if line.startswith("Udp:")]
            return int(rows[1][rows[0].index("InDatagrams")])

        before = received()
        if sender == "outside":
            lab.run(*argv)
        else:
            swarm.ssh(sender, shlex.join(argv))
        # A genuine one behind it, by the same way in: what came before it has been judged.
        outside(swarm, "tcp", at["n1"], 8081, 1)
        return received() > before

    assert forged_taken("plain", 4789, "n3"), "a node's own is taken: the forgery is right"
    assert not forged_taken("plain", 4789, "outside")
    assert not forged_taken("sealed", 4790, "outside")
    assert not forged_taken("sealed", 4789, "outside")
    assert not forged_taken("sealed", 4789, "n3")
