"""Who listens on this node itself: what a published port would take the connections from.

Read from /proc/net (proc(5)), which names no processes; sockets of the helper's own are left out.
"""

from __future__ import annotations

import os
import socket
import struct

from .fence import Refused

MOST_RANGES = 4096  # of ports in one question
PROTOCOLS = ("tcp", "udp")
_LISTEN = "0A"  # include/net/tcp_states.h
_NO_PORT = "0000"


def listeners(args: dict, proc: str = "/proc/self") -> list:
    """`[{"protocol":"tcp","address":"0.0.0.0","port":80}]` in the ranges of `args["ports"]`, sorted, each once.

    Raises Refused.
    """
    wanted = _wanted(args)
    own = own_inodes(f"{proc}/fd")
    found = set()
    for protocol, ports in wanted.items():
        for name in (protocol, f"{protocol}6"):
            try:
                with open(f"{proc}/net/{name}", encoding="ascii") as lines:
                    for address, port, inode in parse(lines, protocol):
                        if ports >> port & 1 and inode not in own:
                            found.add((protocol, port, address))
            except OSError:
                continue  # a kernel without IPv6
    return [{"protocol": p, "address": address, "port": port} for p, port, address in sorted(found)]


def parse(lines, protocol: str):
    """(address, port, inode) of each socket of /proc/net/tcp, tcp6, udp or udp6 that anybody may send to."""
    for line in lines:
        words = line.split()
        if len(words) < 10 or words[0] == "sl":
            continue
        address, _, port = words[1].partition(":")
        if protocol == "tcp":
            if words[3] != _LISTEN:
                return  # those that listen come first, and there may be very many connections
        elif words[2].partition(":")[2] != _NO_PORT:
            continue  # connected: it hears one other end alone
        yield address_of(address), int(port, 16), words[9]


def address_of(text: str) -> str:
    """`0100007F` as `127.0.0.1`: the kernel writes each word of 32 bits as a number of its own order."""
    packed = b"".join(struct.pack("=I", int(text[i : i + 8], 16)) for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def own_inodes(path: str) -> set:
    """Numbers of the sockets of this process, in words; `path` is its folder of descriptors."""
    found = set()
    for name in os.listdir(path):
        try:
            target = os.readlink(f"{path}/{name}")
        except OSError:
            continue  # closed meanwhile, as the one that lists them
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _wanted(args: dict) -> dict:
    """Protocol to bits of the ports that are asked for. Raises Refused."""
    given = args.get("ports")
    if not isinstance(given, list) or len(given) > MOST_RANGES:
        raise Refused("bad_request", f"field ports is no list of at most {MOST_RANGES} ranges")
    found: dict = {}
    for one in given:
        try:
            protocol, first, last = one["protocol"], one["first"], one["last"]
            right = protocol in PROTOCOLS and type(first) is type(last) is int and 1 <= first <= last <= 65535
        except (TypeError, KeyError):
            right = False
        if not right:
            raise Refused("bad_request", "field ports has a range that is none: protocol, first, last")
        found[protocol] = found.get(protocol, 0) | ((1 << (last - first + 1)) - 1) << first
    return found
