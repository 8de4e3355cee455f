"""Ways between nodes, tried with packets: do UDP 4789, UDP 4790 and ESP pass, and how large may they be?

One node listens, the others send. What is sent has a mark of the check, and is taken for real traffic by nobody:
VXLAN with a VNI below all of ours around an Ethernet frame of a type for experiments, and ESP with an SPI of no SA
of ours. A packet socket sees what arrives at the machine; a raw socket only what its firewall let in, and after
decryption. Both keep only marked packets, by a filter in the kernel, so that real traffic costs nothing here.

Nothing of the node is changed, and all is bounded in time and count. Numbers: RFC 7348 (VXLAN), RFC 4303 (ESP),
IEEE 802 (EtherType 0x88b5, local experiments), socket(7), packet(7), raw(7), ip(7), linux/filter.h.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import struct

from .fence import Refused
from .timing import wait_event

VXLAN_PORTS = {"udp4789": 4789, "udp4790": 4790}
ESP = "esp"
KINDS = (*VXLAN_PORTS, ESP)
PROBE_VNI = 4094  # that of the egress networks is 4095, networks begin at 4096
PROBE_SPI = 0x5F000000  # ours begin with 0x53
ROUNDS, ROUND_S = 3, 0.3  # each packet is sent so often: one of them may be lost
SIZED_ROUNDS = 2  # those of certain sizes, which are many more
PEER_S = 0.004  # between two peers: 254 of them must not fill a queue
MOST_S = 120.0
MOST_LISTENING = 8
MOST_PEERS, MOST_SIZES = 255, 64
LEAST_SIZE, MOST_SIZE = 128, 65000  # of an IP packet
KEPT = 128  # bytes of a packet: all that is read of it
BURST = 64  # packets that are read in one turn of the loop
RECEIVE_BUFFER = 4 << 20

_IP_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 3  # DF, whatever the kernel believes of the path
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_ETH_P_IP, _PACKET_HOST = 0x0800, 0
_MAGIC = b"swarmsh\0"
_MARK = struct.Struct("!8s8sBHB")  # magic, token, number of the sender, size of the IP packet, kind
_VXLAN = struct.pack("!II", 0x08000000, PROBE_VNI << 8)
# To and from addresses that nobody has: a bridge which should get it drops it.
_FRAME = bytes.fromhex("025c00000001025c0000000288b5")
_IP_HEADER, _UDP_HEADER, _ESP_HEADER = 20, 8, 8


# --- pure: packets ------------------------------------------------------------------------------------------
def payload(kind: str, token: bytes, sender: int, size: int = 0) -> bytes:
    """What a socket of this kind is given to send; the IP packet gets `size` bytes, or more if it needs them."""
    mark = _MARK.pack(_MAGIC, token, sender, size, KINDS.index(kind))
    if kind == ESP:
        head, around = struct.pack("!II", PROBE_SPI, 1), _IP_HEADER
    else:
        head, around = _VXLAN + _FRAME, _IP_HEADER + _UDP_HEADER
    found = head + mark
    return found + b"\0" * (size - around - len(found))


def parse(packet: bytes):
    """(token, kind, number of the sender, its address as seen, size) of an IP packet; None if it is no probe.

    The size is 0 for one that was not sent for the sake of it.
    """
    if len(packet) < _IP_HEADER:
        return None
    at = (packet[0] & 0xF) * 4
    at += _ESP_HEADER if packet[9] == socket.IPPROTO_ESP else _UDP_HEADER + len(_VXLAN) + len(_FRAME)
    if len(packet) < at + _MARK.size:
        return None
    magic, token, sender, size, kind = _MARK.unpack_from(packet, at)
    if magic != _MAGIC or kind >= len(KINDS):
        return None
    return token, KINDS[kind], sender, socket.inet_ntoa(packet[12:16]), size


def filter_code() -> bytes:
    """The filter (linux/filter.h) that keeps marked packets alone: its offset 0 is the IP header."""
    load_byte, load_half, load_word, load_length = 0x30, 0x48, 0x40, 0xB1
    load_half_at, equal, any_bit, give = 0x28, 0x15, 0x45, 0x06
    keep, drop = 14, 15
    program = [
        (load_byte, 0, 0, 9),
        (equal, 4, 0, socket.IPPROTO_UDP),
        (equal, 0, drop - 3, socket.IPPROTO_ESP),
        (load_length, 0, 0, 0),
        (load_word, 0, 0, 0),
        (equal, keep - 6, drop - 6, PROBE_SPI),
        (load_half_at, 0, 0, 6),
        (any_bit, drop - 8, 0, 0x1FFF),  # a later fragment has no ports
        (load_length, 0, 0, 0),
        (load_half, 0, 0, 2),
        (equal, 1, 0, VXLAN_PORTS["udp4789"]),
        (equal, 0, drop - 12, VXLAN_PORTS["udp4790"]),
        (load_word, 0, 0, _UDP_HEADER + 4),
        (equal, keep - 14, drop - 14, PROBE_VNI << 8),
        (give, 0, 0, KEPT),
        (give, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def attach_filter(sock: socket.socket, code: bytes) -> None:
    """Let the kernel drop what the filter does not keep. Raises OSError."""
    kept = array.array("B", code)
    address, length = kept.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", length // 8, address))


# --- requests -----------------------------------------------------------------------------------------------
def _token(args: dict) -> bytes:
    try:
        found = bytes.fromhex(args["token"])
    except (KeyError, TypeError, ValueError):
        found = b""
    if len(found) != 8:
        raise Refused("bad_request", "field token is no 8 bytes in hexadecimal")
    return found


def _numbers(args: dict, key: str, most: int, low: int, high: int) -> list:
    found = args.get(key)
    right = isinstance(found, list) and len(found) <= most
    if not right or not all(type(one) is int and low <= one <= high for one in found):
        raise Refused("bad_request", f"field {key} is no list of at most {most} numbers from {low} to {high}")
    return found


def _address(one: dict, key: str = "address") -> str:
    try:
        socket.inet_pton(socket.AF_INET, one[key])
    except (KeyError, TypeError, OSError):
        raise Refused("bad_request", f"field {key} is no IPv4 address") from None
    return one[key]


def _number(one: dict, key: str) -> int:
    if not isinstance(one, dict) or type(one.get(key)) is not int or not 0 < one[key] <= MOST_PEERS:
        raise Refused("bad_request", f"field {key} is no number of a node")
    return one[key]


class Paths:
    """The helper's part of a check. `close` ends all."""

    def __init__(self) -> None:
        self._listening: dict = {}  # token -> _Listener

    def listen(self, args: dict) -> None:
        """Op `check_listen`: listen from now on. Raises Refused."""
        token, numbers = _token(args), _numbers(args, "from", MOST_PEERS, 1, MOST_PEERS)
        seconds, enough = args.get("seconds"), args.get("enough")
        if type(seconds) not in (int, float) or not 0 < seconds <= MOST_S:
            raise Refused("bad_request", f"field seconds is not in 0 to {MOST_S:g}")
        if type(enough) is not int:
            raise Refused("bad_request", "field enough is no number")
        if len(self._listening) >= MOST_LISTENING or token in self._listening:
            raise Refused("bad_request", "this node is listening for too many checks already", "Try again later")
        try:
            listener = _Listener(token, numbers, enough)
        except OSError as e:
            raise Refused("internal", f"no socket to listen with: {e.strerror}") from e
        self._listening[token] = listener
        asyncio.get_running_loop().call_later(seconds, self._stop, token)

    async def heard(self, args: dict) -> list:
        """Op `check_heard`: wait up to `wait_s` for what may be under way, cease to listen, and tell what came."""
        token, wait_s = _token(args), args.get("wait_s")
        listener = self._listening.get(token)
        if listener is None:
            raise Refused("bad_request", "this node does not listen for this check")
        if type(wait_s) not in (int, float) or not 0 <= wait_s <= MOST_S:
            raise Refused("bad_request", f"field wait_s is not in 0 to {MOST_S:g}")
        await wait_event(listener.complete, wait_s)
        self._stop(token)
        return listener.told()

    def _stop(self, token: bytes) -> None:
        listener = self._listening.pop(token, None)
        if listener is not None:
            listener.close()


class _Heard:
    def __init__(self) -> None:
        self.source = ""
        self.arrived: set = set()
        self.let_in: set = set()
        self.size = 0


class _Listener:
    """Raises OSError."""

    def __init__(self, token: bytes, numbers: list, enough: int) -> None:
        self._token, self._enough = token, enough
        self._heard = {n: _Heard() for n in numbers}
        self._left = 1000 + len(numbers) * 6 * (MOST_SIZES + len(KINDS)) * ROUNDS  # packets; more are no check's
        self.complete = asyncio.Event()
        self._sockets: list = []
        self._loop = asyncio.get_running_loop()
        try:
            self._open(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP), let_in=False)
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_ESP):
                self._open(socket.AF_INET, socket.SOCK_RAW, protocol, let_in=True)
        except OSError:
            self.close()
            raise

    def _open(self, family: int, kind: int, protocol: int, let_in: bool) -> None:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        self._sockets.append(sock)
        attach_filter(sock, filter_code())  # what came before that is read once, and is no probe
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._loop.add_reader(sock, self._read, sock, let_in)

    def _read(self, sock: socket.socket, let_in: bool) -> None:
        for _ in range(BURST):
            try:
                packet, sender = sock.recvfrom(KEPT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # the device of the packet has gone; the socket goes on
            if not let_in and sender[2] != _PACKET_HOST:
                continue
            self._left -= 1
            self._take(packet, let_in)
        if self._left <= 0:
            self.close()

    def _take(self, packet: bytes, let_in: bool) -> None:
        found = parse(packet)
        if found is None or found[0] != self._token or found[2] not in self._heard:
            return
        _, kind, number, source, size = found
        heard = self._heard[number]
        heard.source = source
        (heard.let_in if let_in else heard.arrived).add(kind)
        heard.size = max(heard.size, size)
        if all(len(one.let_in) == len(KINDS) and one.size >= self._enough for one in self._heard.values()):
            self.complete.set()

    def told(self) -> list:
        return [
            {
                "n": n,
                "source": heard.source,
                # What was let in has arrived, though the packet socket may have seen it encrypted.
                "arrived": [kind for kind in KINDS if kind in heard.arrived or kind in heard.let_in],
                "let_in": [kind for kind in KINDS if kind in heard.let_in],
                "size": heard.size,
            }
            for n, heard in sorted(self._heard.items())
        ]

    def close(self) -> None:
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self.complete.set()


# --- sending ------------------------------------------------------------------------------------------------
async def send(args: dict) -> list:
    """Op `check_send`: to each peer what the check needs, some seconds long. Raises Refused.

    Gives `{"n", "refused": {kind: words}}` for each peer: what the kernel of this node would not send at all.
    """
    token, own, address = _token(args), _number(args, "n"), _address(args)
    sizes = sorted(_numbers(args, "sizes", MOST_SIZES, LEAST_SIZE, MOST_SIZE), reverse=True)
    if not isinstance(args.get("to"), list) or len(args["to"]) > MOST_PEERS:
        raise Refused("bad_request", f"field to is no list of at most {MOST_PEERS} peers")
    peers = sorted((_number(one, "n"), _address(one)) for one in args["to"])
    # Each sender begins with another one, so that they do not all send to the same node at once.
    peers = [peer for peer in peers if peer[0] > own] + [peer for peer in peers if peer[0] < own]
    sender = _Sender(token, own, address)
    try:
        for number in range(ROUNDS):
            if number:
                await asyncio.sleep(ROUND_S)  # what was lost together is not lost again
            for n, to in peers:
                sender.send(n, to, sizes if number < SIZED_ROUNDS else [])
                await asyncio.sleep(PEER_S)
    finally:
        sender.close()
    return [{"n": n, "refused": sender.refused.get(n, {})} for n, _ in sorted(peers)]


class _Sender:
    def __init__(self, token: bytes, own: int, address: str) -> None:
        self._token, self._own = token, own
        self.refused: dict = {}  # number of a peer -> kind -> words
        self._sockets: dict = {}
        self._unusable: dict = {}  # kind -> words
        for kind in KINDS:
            try:
                self._sockets[kind] = _sending_socket(kind, address)
            except OSError as e:
                self._unusable[kind] = _words(e)

    def send(self, n: int, to: str, sizes: list) -> None:
        for kind in KINDS:
            words = self._unusable.get(kind) or self._give(kind, to, 0)
            if words:
                self.refused.setdefault(n, {})[kind] = words
            elif kind in self.refused.get(n, {}):
                del self.refused[n][kind]  # what goes out once, can
        for size in sizes:
            if "udp4789" in self._sockets:
                self._give("udp4789", to, size)  # too long for the device itself: then it does not come

    def _give(self, kind: str, to: str, size: int) -> str:
        """Why it was not sent; "" if it was."""
        data = payload(kind, self._token, self._own, size)
        try:
            self._sockets[kind].sendto(data, (to, VXLAN_PORTS.get(kind, 0)))
        except OSError as e:
            return "" if e.errno in (errno.EAGAIN, errno.ENOBUFS) else _words(e)  # as if it were lost
        return ""

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def _sending_socket(kind: str, address: str) -> socket.socket:
    """As the kernel's own VXLAN sends: from any port of the node's address, so that policies for ESP hold."""
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    if kind == ESP:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | flags, socket.IPPROTO_ESP)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | flags)
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
