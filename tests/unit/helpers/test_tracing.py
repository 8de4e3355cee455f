"""Which packets a trace looks at, and what it reads in them. With real ones: `tests/component/test_tracing.py`."""

from __future__ import annotations

import socket
import struct

import pytest

from remote_helpers import paths, tracing
from remote_helpers.fence import Refused
from tests.unit.helpers.conftest import sample

PORT = 61007
SYN_ACK = 0x12


def ip(
    protocol: int, body: bytes, *, src: str = "10.50.1.2", dst: str = "10.50.128.5", fragment: int = 0
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, fragment, 64, protocol, 0)
    return head + socket.inet_aton(src) + socket.inet_aton(dst) + body


def tcp(sport: int, dport: int, flags: int = 2, **more) -> bytes:  # type: ignore[no-untyped-def]
    return ip(6, struct.pack("!HHIIBBHHH", sport, dport, 0, 0, 0x50, flags, 0, 0, 0), **more)


def udp(sport: int, dport: int, data: bytes = b"x", **more) -> bytes:  # type: ignore[no-untyped-def]
    return ip(17, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, **more)


def vxlan(inner: bytes, port: int = 4789) -> bytes:
    return udp(
        50000,
        port,
        struct.pack("!II", 0x08000000, 4096 << 8) + bytes(14) + inner,
        src="10.98.0.12",
        dst="10.98.0.13",
    )


def kept(packet: bytes, protocol: str) -> bool:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, writer:
        paths.attach_filter(reader, tracing.filter_code(protocol, PORT))
        reader.setblocking(False)
        try:
            writer.send(packet)
            return reader.recv(65536) == packet[: tracing.KEPT]
        except (BlockingIOError, PermissionError):
            return False


OURS = [
    ("tcp", tcp(PORT, 80)),
    ("tcp", tcp(80, PORT, SYN_ACK)),
    ("tcp", vxlan(tcp(PORT, 80))),
    ("tcp", vxlan(tcp(80, PORT, SYN_ACK), 4790)),
    ("udp", udp(PORT, 53)),
    ("udp", udp(53, PORT)),
    ("udp", udp(PORT, 4789)),
    ("udp", vxlan(udp(PORT, 53))),
    ("udp", vxlan(udp(53, PORT), 4790)),
]


@pytest.mark.parametrize(("protocol", "packet"), OURS)
def test_packets_of_the_connection_are_looked_at(protocol: str, packet: bytes) -> None:
    assert kept(packet, protocol)
    found = tracing.describe(packet[: tracing.KEPT], protocol, PORT)
    assert found is not None
    assert bool(found["tunnel"]) == (b"\x08\0\0\0" in packet)
    assert found["forth"] == found["src"].endswith(f":{PORT}")
    assert found["flags"] == ("" if protocol == "udp" else "SYN" if found["forth"] else "SYN,ACK")


@pytest.mark.parametrize(
    ("protocol", "packet"),
    [
        ("tcp", tcp(PORT + 1, 80)),
        ("tcp", udp(PORT, 80)),
        ("udp", tcp(PORT, 80)),
        ("tcp", tcp(PORT, 80, fragment=1)),
        ("tcp", vxlan(tcp(PORT + 1, 80))),
        ("tcp", vxlan(udp(PORT, 80))),
        ("udp", vxlan(tcp(PORT, 80))),
        ("tcp", vxlan(tcp(PORT, 80), 4791)),
        ("tcp", b"\x60" + bytes(60)),
        ("tcp", bytes.fromhex("0001080006040001") + bytes(20)),  # ARP
        ("tcp", b""),
    ],
)
def test_all_else_is_not(protocol: str, packet: bytes) -> None:
    assert not kept(packet, protocol)


@pytest.mark.parametrize(("protocol", "packet"), OURS)
def test_what_is_cut_off_is_nothing(protocol: str, packet: bytes) -> None:
    for length in range(len(packet)):
        found = tracing.describe(packet[:length], protocol, PORT)
        assert found is None or found["src"], length


async def test_what_cannot_be_is_refused() -> None:
    pids = {"here": 1}
    there = tracing.Tracing(lambda task: pids.get(task, 0))
    watch, send = sample("trace_watch")["args"], {**sample("trace_send")["args"], "task": ""}
    for wrong in ({"token": 1}, {"protocol": "icmp"}, {"port": 70000}, {"tasks": ["gone"]}, {"seconds": 1e9}):
        with pytest.raises(Refused):
            there.watch({**watch, "tasks": [], **wrong})
    for wrong in ({"to": "web"}, {"to_port": 0}, {"timeout_s": 1e9}, {"task": "gone"}):
        with pytest.raises(Refused):
            await there.send({**send, **wrong})
    with pytest.raises(Refused):
        there.seen(sample("trace_seen")["args"])
