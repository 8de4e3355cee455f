"""Where a packet goes: one real connection is tried, and whoever sees its packets on this node says so.

Sockets that see every packet of every device look for one port number, which only the tried connection has: in the
node's own namespace and in those of containers, plain and inside of VXLAN. Nothing is told of what is configured,
only what was seen, in the order of the kernel's own timestamps. Nothing is changed, and all is bounded.

Numbers: packet(7), socket(7), setns(2), linux/filter.h, RFC 791, 768, 9293, 7348.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import threading

from .fence import Refused
from .paths import VXLAN_PORTS, attach_filter
from .timing import Expired, deadline

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
MOST_S, MOST_TRACES, MOST_TASKS, MOST_SEEN = 120.0, 4, 32, 300
KEPT = 128  # bytes of a packet: headers of both, outer and inner
BURST = 64
MESSAGE = b"swarmsh trace\n"
_INNER = 8 + 8 + 14  # behind the outer IP header: UDP, VXLAN, Ethernet
_ETH_P_ALL, _OUTGOING = 0x0003, 4
_SO_TIMESTAMPNS = 35
_CLONE_NEWNET = 0x40000000
_FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x04, "RST"), (0x01, "FIN"))


# --- pure: the filter, and what a packet says ---------------------------------------------------------------
def filter_code(protocol: str, port: int) -> bytes:
    """Keeps IPv4 packets of this protocol to or from the port, also inside of our VXLAN (linux/filter.h)."""
    number = PROTOCOLS[protocol]
    steps = [
        (0x30, 0), (0x54, 0xF0), ("jeq", 0x40, "", "drop"),  # ldb [0]: IPv4
        (0x28, 6), ("jset", 0x1FFF, "drop", ""),  # ldh [6]: no later fragment
        (0xB1, 0),  # ldx 4*([0]&0xf)
        (0x30, 9), ("jeq", number, "", "outer"),
        (0x48, 0), ("jeq", port, "keep", ""), (0x48, 2), ("jeq", port, "keep", ""),
        "outer",
        (0x30, 9), ("jeq", socket.IPPROTO_UDP, "", "drop"),
        (0x48, 2), ("jeq", VXLAN_PORTS["udp4789"], "inner", ""), ("jeq", VXLAN_PORTS["udp4790"], "", "drop"),
        "inner",
        (0x50, _INNER + 9), ("jeq", number, "", "drop"),  # ldb [x + …]
        (0x48, _INNER + 20), ("jeq", port, "keep", ""), (0x48, _INNER + 22), ("jeq", port, "keep", "drop"),
        "keep", (0x06, KEPT),
        "drop", (0x06, 0),
    ]  # fmt: skip
    return _assembled(steps)


def _assembled(steps: list) -> bytes:
    """Jumps are (name, value, label if so, label if not); "" is the next step."""
    at, places = 0, {}
    for step in steps:
        if isinstance(step, str):
            places[step] = at
        else:
            at += 1
    code = b""
    for step in steps:
        if isinstance(step, str):
            continue
        here = len(code) // 8 + 1
        if isinstance(step[0], str):
            so, not_so = ((places[label] - here) if label else 0 for label in step[2:])
            code += struct.pack("=HBBI", 0x15 if step[0] == "jeq" else 0x45, so, not_so, step[1])
        else:
            code += struct.pack("=HBBI", step[0], 0, 0, step[1])
    return code


def describe(packet: bytes, protocol: str, port: int):
    """{"src", "dst", "flags", "forth", "tunnel"} of a packet; None if it is not the connection's.

    `forth`: it goes from the one who connects. `tunnel`: the outer addresses, if it is inside of VXLAN; else "".
    """
    tunnel, at = "", 0
    if len(packet) < 20:
        return None
    head = (packet[0] & 0xF) * 4
    if packet[9] == socket.IPPROTO_UDP and len(packet) >= head + _INNER + 24:
        (outer,) = struct.unpack_from("!H", packet, head + 2)
        if outer in VXLAN_PORTS.values() and port not in struct.unpack_from("!HH", packet, head):
            ends = (socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]))
            tunnel, at = f"{ends[0]} > {ends[1]}:{outer}", head + _INNER
            head = (packet[at] & 0xF) * 4
    if len(packet) < at + head + 4 or packet[at + 9] != PROTOCOLS[protocol]:
        return None
    ports = struct.unpack_from("!HH", packet, at + head)
    if port not in ports:
        return None
    src, dst = (socket.inet_ntoa(packet[at + n : at + n + 4]) for n in (12, 16))
    flags = ""
    if protocol == "tcp" and len(packet) > at + head + 13:
        flags = ",".join(word for bit, word in _FLAGS if packet[at + head + 13] & bit)
    return {
        "src": f"{src}:{ports[0]}",
        "dst": f"{dst}:{ports[1]}",
        "flags": flags,
        "forth": ports[0] == port,
        "tunnel": tunnel,
    }


# --- sockets ------------------------------------------------------------------------------------------------
def open_in(pid: int, make):
    """What `make()` gives in the network namespace of a process; of this one for 0. Raises OSError.

    In a thread of its own, which ends with it: the namespace is each thread's, and a socket keeps its own.
    """
    if not pid:
        return make()
    import ctypes

    found: list = []

    def work() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(fd)
            found.append(make())
        except OSError as e:
            found.append(e)

    thread = threading.Thread(target=work, name="namespace")
    thread.start()
    thread.join()
    if not found or isinstance(found[0], OSError):
        raise found[0] if found else OSError(errno.EIO, "no socket could be made")
    return found[0]


def _watching_socket(protocol: str, port: int) -> socket.socket:
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | flags, socket.htons(_ETH_P_ALL))
    try:
        attach_filter(sock, filter_code(protocol, port))
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        sock.close()
        raise
    return sock


class _Watch:
    """Sockets of one trace. `places`: task id, or "" for the node itself -> process."""

    def __init__(self, protocol: str, port: int, places: dict) -> None:
        self._protocol, self._port = protocol, port
        self._seen: dict = {}  # what is told -> when it was seen first
        self._sockets: list = []
        self._loop = asyncio.get_running_loop()
        try:
            for place, pid in places.items():
                sock = open_in(pid, lambda: _watching_socket(protocol, port))
                self._sockets.append(sock)
                self._loop.add_reader(sock, self._read, sock, place)
        except OSError:
            self.close()
            raise

    def _read(self, sock: socket.socket, place: str) -> None:
        for _ in range(BURST):
            try:
                packet, about, _, sender = sock.recvmsg(KEPT, 128)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # the device of the packet has gone; the socket goes on
            found = describe(packet, self._protocol, self._port)
            if found is not None and len(self._seen) < MOST_SEEN:
                way = "out" if sender[2] == _OUTGOING else "in"
                key = (place, sender[0], way, *found.values())
                self._seen.setdefault(
                    key, (_stamp(about), {"place": place, "device": sender[0], "way": way, **found})
                )

    def told(self) -> list:
        return [found for _, found in sorted(self._seen.values(), key=lambda one: one[0])]

    def close(self) -> None:
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._loop.remove_reader(sock)
            sock.close()


def _stamp(about: list) -> float:
    for _, kind, data in about:
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq" if len(data) >= 16 else "ll", data[:16])
            return seconds + nanoseconds / 1e9
    return 0.0


class Tracing:
    """The helper's part of traces. `pid_of(task_id)`: a process of a task here, 0 if it does not run."""

    def __init__(self, pid_of) -> None:
        self._pid_of = pid_of
        self._watching: dict = {}  # token -> _Watch

    def watch(self, args: dict) -> None:
        """Op `trace_watch`: look from now on. Raises Refused."""
        token, protocol, port = _token(args), _protocol(args), _port(args, "port")
        tasks, seconds = args.get("tasks"), args.get("seconds")
        if not isinstance(tasks, list) or len(tasks) > MOST_TASKS:
            raise Refused("bad_request", f"field tasks is no list of at most {MOST_TASKS} tasks")
        if type(seconds) not in (int, float) or not 0 < seconds <= MOST_S:
            raise Refused("bad_request", f"field seconds is not in 0 to {MOST_S:g}")
        if len(self._watching) >= MOST_TRACES or token in self._watching:
            raise Refused("bad_request", "this node takes part in too many traces already", "Try again later")
        places = {"": 0, **{task: self._pid(task) for task in tasks}}
        try:
            self._watching[token] = _Watch(protocol, port, places)
        except OSError as e:
            raise Refused("internal", f"packets cannot be looked at: {e.strerror}") from e
        asyncio.get_running_loop().call_later(seconds, self._stop, token)

    async def send(self, args: dict) -> dict:
        """Op `trace_send`: try the connection, from a task or from the node itself. Raises Refused."""
        protocol, port, to_port = _protocol(args), _port(args, "port"), _port(args, "to_port")
        task, to, timeout_s = args.get("task"), args.get("to"), args.get("timeout_s")
        try:
            socket.inet_pton(socket.AF_INET, to)
        except (TypeError, OSError):
            raise Refused("bad_request", "field to is no IPv4 address") from None
        if type(timeout_s) not in (int, float) or not 0 < timeout_s <= MOST_S:
            raise Refused("bad_request", f"field timeout_s is not in 0 to {MOST_S:g}")
        try:
            sock = open_in(self._pid(task) if task else 0, lambda: _connecting_socket(protocol, port))
        except OSError as e:
            raise Refused("internal", f"port {port} cannot be connected from: {e.strerror}") from e
        with sock:
            return await _try(sock, protocol, (to, to_port), timeout_s)

    def seen(self, args: dict) -> list:
        """Op `trace_seen`: what was seen, oldest first; nothing more is looked at. Raises Refused."""
        watch = self._watching.get(_token(args))
        if watch is None:
            raise Refused("bad_request", "this node takes no part in this trace")
        self._stop(_token(args))
        return watch.told()

    def _pid(self, task: str) -> int:
        pid = self._pid_of(task) if isinstance(task, str) else 0
        if not pid:
            raise Refused("bad_request", f"task {task} does not run on this node")
        return pid

    def _stop(self, token: str) -> None:
        watch = self._watching.pop(token, None)
        if watch is not None:
            watch.close()


def _connecting_socket(protocol: str, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.bind(("0.0.0.0", port))
    except OSError:
        sock.close()
        raise
    return sock


async def _try(sock: socket.socket, protocol: str, to: tuple, timeout_s: float) -> dict:
    """{"outcome": answered | refused | failed | silent, "words", "source"}."""
    loop = asyncio.get_running_loop()
    outcome, words = "answered", ""
    try:
        async with deadline(timeout_s):
            await loop.sock_connect(sock, to)
            if protocol == "udp":
                await loop.sock_sendall(sock, MESSAGE)
                await loop.sock_recv(sock, 1)
    except Expired:
        outcome, words = "silent", f"no answer within {timeout_s:g} s"
    except ConnectionRefusedError as e:
        outcome, words = "refused", os.strerror(e.errno)
    except OSError as e:
        outcome, words = "failed", os.strerror(e.errno) if e.errno else str(e)
    source = sock.getsockname()[0]
    return {"outcome": outcome, "words": words, "source": "" if source == "0.0.0.0" else source}


def _token(args: dict) -> str:
    token = args.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= 64:
        raise Refused("bad_request", "field token is missing or no short text")
    return token


def _protocol(args: dict) -> str:
    if args.get("protocol") not in PROTOCOLS:
        raise Refused("bad_request", "field protocol is not tcp or udp")
    return args["protocol"]


def _port(args: dict, key: str) -> int:
    port = args.get(key)
    if type(port) is not int or not 0 < port < 65536:
        raise Refused("bad_request", f"field {key} is no port")
    return port
