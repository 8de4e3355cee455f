"""Runs on a node, as root: two network namespaces with a cable between them stand for two nodes.

VXLAN on UDP 4790 goes over the cable, which is watched. `python3 esp_pair.py FOLDER ROTATIONS` with the package
`remote_helpers` in FOLDER; the last line of its output is JSON, what was seen. Python 3.9.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

sys.path.insert(0, sys.argv[1])
from remote_helpers.net import esp, rules, xfrm

NAMES = {1: "swesp1", 2: "swesp2"}
UNDERLAY = {1: "10.77.0.1", 2: "10.77.0.2"}
OTHER_ADDRESS = "10.77.0.101"  # of node 1 as well
INNER = {1: "10.78.0.1", 2: "10.78.0.2"}
VNI, DEVICE_MAC = 0x1234, {1: "02:00:00:00:78:01", 2: "02:00:00:00:78:02"}
PORT = 4790
ROTATIONS = int(sys.argv[2])
BARE = {"v": 1, "node": {"n": 1, "underlay": "10.77.0.1"}, "egress": {"pool": "10.255.0.0/16", "prefix": 24}}
(DROPS,) = rules.wanted({**BARE, "peers": [], "networks": [], "vips": [], "ports": [], "tasks": []})["filter"][
    "SW-FOUT"
]
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(n: int):
    """This thread, and what it starts, in the namespace of node n."""
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{NAMES[n]}") as there:
        enter(there)
        try:
            yield
        finally:
            enter(before)


def enter(namespace) -> None:
    if libc.setns(namespace.fileno(), 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def sh(text: str, n: int = 0, check: bool = True) -> str:
    words = ["ip", "netns", "exec", NAMES[n]] if n else []
    done = subprocess.run(
        [*words, "sh", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{text}: {done.stdout.decode()}")
    return done.stdout.decode()


def build() -> None:
    tear_down()
    for module in ("vxlan", "esp4", "xfrm_user", "veth"):
        sh(f"modprobe {module}", check=False)
    for n in NAMES:
        sh(f"ip netns add {NAMES[n]}")
    sh(f"ip link add cable netns {NAMES[1]} type veth peer name cable netns {NAMES[2]}")
    for n in NAMES:
        sh(
            f"ip link set lo up; ip addr add {UNDERLAY[n]}/24 dev cable; ip link set cable up; "
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
            n,
        )
        # What the data plane has beside the policies, on each node that has a network.
        sh(f"iptables -A OUTPUT {DROPS}", n)
    sh(f"ip addr add {OTHER_ADDRESS}/24 dev cable", 1)


def tear_down() -> None:
    for name in NAMES.values():
        sh(f"ip netns del {name}", check=False)


def add_vxlan(n: int) -> None:
    peer = 3 - n
    sh(
        f"ip link add vx address {DEVICE_MAC[n]} mtu 1410 type vxlan id {VNI} local {UNDERLAY[n]} dstport {PORT}; "
        f"bridge fdb append 00:00:00:00:00:00 dev vx dst {UNDERLAY[peer]}; "
        f"ip addr add {INNER[n]}/24 dev vx; ip link set vx up",
        n,
    )


class Watch:
    """Counts what passes on the cable: datagrams to our port in plaintext, and ESP."""

    def __init__(self) -> None:
        with inside(2):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._sock.bind(("cable", 0x0003))
        self.plain = self.esp = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                frame = self._sock.recv(65535)
            except OSError:
                return  # taken down
            if frame[12:14] == b"\x08\x00":
                packet = frame[14:]
                head = (packet[0] & 15) * 4
                if packet[9] == 50:
                    self.esp += 1
                elif packet[9] == 17 and packet[head + 2 : head + 4] == PORT.to_bytes(2, "big"):
                    self.plain += 1


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src: str, dst: str, proto: int, body: bytes) -> bytes:
    ends = socket.inet_aton(src) + socket.inet_aton(dst)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, proto, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def udp(sport: int, dport: int, body: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def forge(src: str, dst: str, sport: int, word: bytes) -> None:
    """A VXLAN packet in plaintext, put on the cable past all policies of node 2, with a datagram inside."""
    inner_ip = ipv4(INNER[2], INNER[1], 17, udp(9, 9, word))
    inner = mac(DEVICE_MAC[1]) + mac(DEVICE_MAC[2]) + b"\x08\x00" + inner_ip
    outer = ipv4(src, dst, 17, udp(sport, PORT, struct.pack("!II", 0x08000000, VNI << 8) + inner))
    target = mac(sh("cat /sys/class/net/cable/address", 1).strip())
    with inside(2), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("cable", 0))
        sock.send(target + mac("02:00:00:00:00:99") + b"\x08\x00" + outer)


def forged_words_that_arrive(listening: socket.socket) -> list:
    """Which of the forgeries node 1 took for its overlay's."""
    for word, src, dst, sport in (
        (b"a node", UNDERLAY[2], UNDERLAY[1], 4790),
        (b"another port", UNDERLAY[2], UNDERLAY[1], 5000),
        (b"a stranger", "10.77.0.50", UNDERLAY[1], 4790),
        (b"to another address", UNDERLAY[2], OTHER_ADDRESS, 4790),
    ):
        forge(src, dst, sport, word)
    found = []
    listening.settimeout(1.0)
    with suppress(OSError):
        while True:
            found.append(listening.recv(100).decode())
    return found


def ping(n: int, count: int = 3) -> int:
    """How many of `count` are answered."""
    text = sh(f"ping -n -q -i 0.2 -W 1 -c {count} {INNER[3 - n]}", n, check=False)
    return int(text.partition(" received")[0].split()[-1])


class Node:
    """One of the two, with an Esp of its own."""

    def __init__(self, n: int) -> None:
        self.n, self.esp = n, esp.Esp()

    async def do(self, method: str, *given):
        with inside(self.n):
            return await getattr(self.esp, method)(*given)

    async def seen(self) -> esp.Seen:
        with inside(self.n):
            return await esp.change([])


KEYS = {}  # (epoch, sender) -> key in hexadecimal


def key(epoch: int, sender: int) -> str:
    return KEYS.setdefault((epoch, sender), os.urandom(20).hex())


def epoch_keys(epoch: int, n: int) -> dict:
    return {3 - n: esp.EpochKeys(epoch, xfrm.Key(key(epoch, 3 - n)), xfrm.Key(key(epoch, n)))}


def message(n: int, epochs: list, sends: int) -> dict:
    peer = 3 - n
    keys = [{"epoch": e, "in": key(e, peer), "out": key(e, n)} for e in epochs]
    return {
        "n": n,
        "address": UNDERLAY[n],
        "peers": [{"n": peer, "address": UNDERLAY[peer], "sends": sends, "epochs": keys}],
    }


async def rotate(nodes: dict, epoch: int) -> None:
    for n, node in nodes.items():
        await node.do("add_inbound", epoch_keys(epoch, n))
    for n, node in nodes.items():
        assert await node.do("switch_outbound", {3 - n: epoch}) == []
    await asyncio.sleep(0.05)  # what is on the cable
    for n, node in nodes.items():
        await node.do("drop_old", {3 - n: epoch})


async def main() -> dict:
    seen: dict = {}
    build()
    watch = Watch()
    nodes = {n: Node(n) for n in NAMES}

    # Closed, then the devices, then keys.
    for n, node in nodes.items():
        await node.do("apply", esp.parse_wanted(message(n, [], 0)))
    for n in NAMES:
        add_vxlan(n)
    with inside(1):
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind((INNER[1], 9))
    seen["answered_before_keys"] = ping(1)
    seen["forged_before_keys"] = forged_words_that_arrive(listening)
    seen["plain_before_keys"] = watch.plain - 4  # the four forgeries
    for n, node in nodes.items():
        await node.do("apply", esp.parse_wanted(message(n, [1], 1)))
    seen["answered_with_keys"] = ping(1) + ping(2)
    seen["esp_with_keys"] = watch.esp
    seen["forged_with_keys"] = forged_words_that_arrive(listening)
    seen["drift_when_right"] = [await node.do("repair") for node in nodes.values()]
    again = esp.Esp()
    with inside(1):
        await again.resume(1, UNDERLAY[1])
    seen["resumed_as_wanted"] = again.wanted == nodes[1].esp.wanted

    # Rotations with packets under way all the time.
    before = watch.plain
    with inside(1):
        pinging = await asyncio.create_subprocess_exec(
            "ping", "-n", "-q", "-i", "0.02", INNER[2], stdout=subprocess.PIPE
        )
    for epoch in range(2, 2 + ROTATIONS):
        await rotate(nodes, epoch)
    pinging.send_signal(2)
    text = (await pinging.communicate())[0].decode()
    words = text.replace(",", "").split()
    seen["sent"] = int(words[words.index("packets") - 1])
    seen["received"] = int(words[words.index("received") - 1])
    seen["plain_while_rotating"] = watch.plain - before
    seen["sas_after_rotations"] = [sa.reqid for sa in (await nodes[1].seen()).sas]
    epoch = 1 + ROTATIONS

    # Drift of each kind. Nothing goes out in plaintext before it is mended either.
    before = watch.plain
    sh("ip xfrm policy flush", 1)
    seen["answered_while_flushed"] = ping(1)
    mended = await nodes[1].do("repair")
    seen["policies_flushed"] = [mended.drift, mended.lost, ping(1)]
    number = hex(esp.spi(2, epoch))
    sh(f"ip xfrm state delete src {UNDERLAY[2]} dst {UNDERLAY[1]} proto esp spi {number}", 1)
    mended = await nodes[1].do("repair")
    seen["inbound_removed"] = [mended.drift, mended.lost, ping(1)]
    sh(
        f"ip xfrm state delete src {UNDERLAY[2]} dst {UNDERLAY[1]} proto esp spi {number}; "
        f"ip xfrm state add src {UNDERLAY[2]} dst {UNDERLAY[1]} proto esp spi {number} reqid {epoch} "
        f"mode transport replay-window 128 flag esn aead 'rfc4106(gcm(aes))' 0x{'00' * 20} 128",
        1,
    )
    seen["wrong_key_answered"] = ping(1)
    mended = await nodes[1].do("repair")
    seen["inbound_changed"] = [mended.drift, mended.lost, ping(1)]
    # All of it, and the process of the helper with it: the next one closes again before the manager comes.
    saved = nodes[1].esp.to_state()
    sh("ip xfrm policy flush; ip xfrm state flush", 1)
    blank = esp.Esp()
    blank.restore(json.loads(json.dumps(saved)))
    with inside(1):
        await blank.resume(1, UNDERLAY[1])
        seen["flushed_for_a_new_process"] = [len(await blank.secure()), ping(1)]
    mended = await nodes[1].do("repair")
    seen["states_flushed"] = [mended.drift, mended.lost, ping(1)]
    try:
        seen["lost_again"] = await nodes[1].do("apply", nodes[1].esp.wanted)
        await rotate(nodes, epoch + 1)
        seen["after_new_epoch"] = [ping(1), (await nodes[1].do("repair")) is None]
    except Exception as e:
        seen["after_new_epoch"] = repr(e)
    seen["plain_while_drifting"] = watch.plain - before
    sh(f"ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 proto udp sport 7 dport {PORT} dir out priority 5", 1)
    mended = await nodes[1].do("repair")
    seen["stranger"] = [mended.drift, mended.warnings]
    sh(f"ip xfrm policy delete src 0.0.0.0/0 dst 0.0.0.0/0 proto udp sport 7 dport {PORT} dir out", 1)

    # A kernel that refuses says so without the key.
    wrong = esp.parse_wanted(message(1, [90], 90))
    bad = f"aead {xfrm.ALGORITHM} 0x{key(90, 1)}z 128"
    with inside(1):
        try:
            await esp.change([f"xfrm state add src 10.77.0.1 dst 10.77.0.2 proto esp spi 0x53001fff {bad}"])
        except esp.EspError as e:
            seen["words_of_error"] = str(e)
    seen["key_in_words"] = key(90, 1)[:32] in seen.get("words_of_error", key(90, 1)) or key(90, 1) in repr(wrong)

    # Nothing is left; and then the forgeries arrive, so those above were stopped by what was there.
    for n, node in nodes.items():
        closed = esp.parse_wanted({"n": n, "address": UNDERLAY[n], "peers": [], "closed": False})
        await node.do("apply", closed)
    seen["left"] = sh("ip xfrm state; ip xfrm policy", 1) + sh("ip xfrm state; ip xfrm policy", 2)
    before = watch.plain
    seen["answered_by_rule_alone"] = ping(1)
    seen["plain_by_rule_alone"] = watch.plain - before
    for n in NAMES:
        sh(f"iptables -D OUTPUT {DROPS}", n)
    seen["forged_without"] = forged_words_that_arrive(listening)
    seen["plain_without"] = ping(1)
    return seen


if __name__ == "__main__":
    try:
        result = asyncio.run(main())
    finally:
        tear_down()
    print(json.dumps(result))
