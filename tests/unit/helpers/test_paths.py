"""Packets by which ways between nodes are tried: how they look, what the kernel's filter keeps, what is counted.

With real packets between hosts: `tests/component/test_paths.py`.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from remote_helpers import paths
from remote_helpers.fence import Refused
from remote_helpers.net import numbers, xfrm
from tests.unit.helpers.conftest import sample

TOKEN = bytes.fromhex(sample("check_listen")["args"]["token"])
HOST = "10.98.0.11"


def ip_packet(protocol: int, body: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = (0x40 + 5 + len(options) // 4, 0, 20 + len(options) + len(body), 0, fragment, 64, protocol, 0)
    head = struct.pack("!BBHHHBBH", *words) + socket.inet_aton(HOST) + socket.inet_aton("10.98.0.12")
    return head + options + body


def probe(kind: str, *, size: int = 0, sender: int = 1, token: bytes = TOKEN, **ip: Any) -> bytes:
    """As it arrives."""
    data = paths.payload(kind, token, sender, size)
    if kind == "esp":
        return ip_packet(50, data, **ip)
    return ip_packet(17, struct.pack("!HHHH", 40000, int(kind[3:]), 8 + len(data), 0) + data, **ip)


def udp(port: int, data: bytes) -> bytes:
    return ip_packet(17, struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data)


# --- how they look ---
@pytest.mark.parametrize("kind", paths.KINDS)
@pytest.mark.parametrize("size", [0, 128, 576, 1500, 9000])
def test_a_probe_is_read_as_it_was_written_and_has_its_size(kind: str, size: int) -> None:
    packet = probe(kind, size=size, sender=254)
    assert not size or len(packet) == size
    assert paths.parse(packet[: paths.KEPT]) == (TOKEN, kind, 254, HOST, size)
    assert paths.parse(probe(kind, size=size, options=b"\1" * 8)[: paths.KEPT]) == (TOKEN, kind, 1, HOST, size)


def test_a_probe_is_no_traffic_of_ours() -> None:
    assert paths.PROBE_VNI < numbers.EGRESS_VNI
    assert paths.PROBE_SPI & xfrm.SPI_MASK != xfrm.SPI_OURS
    frame = paths.payload("udp4789", TOKEN, 1)[8:]
    assert frame[0] & frame[6] & 3 == 2, "to and from addresses that no vendor gave, and to no group"
    assert frame[12:14] == b"\x88\xb5", "a type for experiments, which no stack takes"


@pytest.mark.parametrize("length", range(80))
def test_what_is_cut_off_is_no_probe(length: int) -> None:
    for kind in paths.KINDS:
        packet = probe(kind)
        assert length >= len(packet) or paths.parse(packet[:length]) is None


# --- the filter, run by this kernel ---
def kept(packet: bytes) -> bytes | None:
    """What a socket with the filter reads of a packet; a unix socket hands it the same bytes."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, writer:
        paths.attach_filter(reader, paths.filter_code())
        reader.setblocking(False)
        try:
            writer.send(packet)
            return reader.recv(65536)
        except BlockingIOError:
            return None
        except PermissionError:  # the filter told the writer's socket so
            return None


@pytest.mark.parametrize("kind", paths.KINDS)
@pytest.mark.parametrize("options", [b"", b"\1" * 4, b"\1" * 40])
def test_the_filter_keeps_the_beginning_of_probes(kind: str, options: bytes) -> None:
    packet = probe(kind, size=1500, options=options)
    assert kept(packet) == packet[: paths.KEPT]


VXLAN_OF_OTHERS = struct.pack("!II", 0x08000000, 4096 << 8) + b"x" * 60


@pytest.mark.parametrize(
    "packet",
    [
        udp(4789, VXLAN_OF_OTHERS),
        udp(4790, VXLAN_OF_OTHERS),
        udp(4791, paths.payload("udp4789", TOKEN, 1)),
        udp(4789, b""),
        ip_packet(50, struct.pack("!II", 0x53001001, 1) + b"x" * 60),
        ip_packet(50, b""),
        ip_packet(6, struct.pack("!HH", 40000, 4789) + b"x" * 60),
        probe("udp4789", fragment=1),
        b"",
        b"\x45",
    ],
)
def test_the_filter_drops_all_else(packet: bytes) -> None:
    assert kept(packet) is None


# --- counting ---
@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> paths.Paths:
    """Without sockets."""
    monkeypatch.setattr(paths._Listener, "_open", lambda *_, **__: None)
    return paths.Paths()


def take(listening: paths.Paths, packet: bytes, *, let_in: bool) -> None:
    (listener,) = listening._listening.values()
    listener._take(packet, let_in)


async def test_what_came_is_told_as_in_the_sample(listening: paths.Paths) -> None:
    listening.listen(sample("check_listen")["args"])
    for kind in paths.KINDS:
        take(listening, probe(kind), let_in=False)
        if kind != "udp4790":
            take(listening, probe(kind), let_in=True)
    for size in (1500, 1450):
        take(listening, probe("udp4789", size=size), let_in=True)
    take(listening, probe("esp", sender=2), let_in=True)  # not among those who send
    take(listening, probe("esp", sender=3, token=b"another "), let_in=True)
    asked = {**sample("check_heard")["args"], "wait_s": 0}
    assert await listening.heard(asked) == sample("check_heard_reply")["result"]["heard"]
    with pytest.raises(Refused, match="does not listen"):
        await listening.heard(asked)


async def test_when_all_has_come_nothing_is_waited_for(listening: paths.Paths) -> None:
    listening.listen({**sample("check_listen")["args"], "from": [1]})
    for kind in paths.KINDS:
        take(listening, probe(kind), let_in=True)
    take(listening, probe("udp4789", size=1500), let_in=False)
    (heard,) = await listening.heard({**sample("check_heard")["args"], "wait_s": paths.MOST_S})
    assert (heard["let_in"], heard["size"]) == (list(paths.KINDS), 1500)


async def test_what_cannot_be_is_refused(listening: paths.Paths) -> None:
    right = sample("check_listen")["args"]
    for wrong in ({"token": "12"}, {"seconds": 1e6}, {"from": [0]}, {"from": [1] * 256}, {"enough": "x"}):
        with pytest.raises(Refused) as refused:
            listening.listen({**right, **wrong})
        assert refused.value.code == "bad_request"
    listening.listen(right)
    with pytest.raises(Refused, match="too many"):
        listening.listen(right)
    right = sample("check_send")["args"]
    for wrong in (
        {"n": 0},
        {"address": "::1"},
        {"to": {}},
        {"to": [{"n": 1}]},
        {"sizes": [1]},
        {"sizes": [1] * 65},
    ):
        with pytest.raises(Refused) as refused:
            await paths.send({**right, **wrong})
        assert refused.value.code == "bad_request"


async def test_what_the_kernel_does_not_send_is_told_of_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine does not have the sample's address."""
    monkeypatch.setattr(paths, "ROUND_S", 0.0)
    sent = await paths.send(sample("check_send")["args"])
    assert [one["n"] for one in sent] == [one["n"] for one in sample("check_send_reply")["result"]["sent"]]
    for one in sent:
        assert set(one["refused"]) == set(paths.KINDS)
        assert one["refused"]["udp4789"] == "Cannot assign requested address"
