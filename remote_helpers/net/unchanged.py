"""Whether rules and SAs are still those that were read last, asked of the kernel itself.

To show them takes processes (`iptables-save`, `ip xfrm`), which on a slow node cost more than all else that is
looked at every few seconds. What is here tells no more than whether that is worth while: the same bytes mean that
nothing was changed, by anybody. b"" means that it cannot be told. Formats: linux/netfilter/nf_tables.h,
linux/netfilter_ipv4/ip_tables.h, linux/xfrm.h.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct

from ..check import PATH
from .netlink import Netlink, NetlinkError, parse_attributes

NETFILTER, XFRM = 12, 6  # netlink protocols
GET_GENERATION, GENERATION_ID = 10 << 8 | 16, 1
GET_SA, GET_POLICY = 0x12, 0x15
NFT, LEGACY = "nf_tables", "legacy"  # the two sorts of iptables
LEGACY_TABLES = (
    "/proc/thread-self/net/ip_tables_names"  # those that there are: to ask for another would load its module
)
_TELLS = (1, 8, 8)  # since then iptables-save says that it is nftables'; before 1.8 there was none that is
_IP, _GET_INFO, _GET_ENTRIES = 0, 64, 65
_INFO, _HEAD = 84, 40  # sizes of struct ipt_getinfo, and of ipt_get_entries without entries
# Of struct xfrm_usersa_info: counters, times and replay errors; of xfrm_userpolicy_info: counters and times.
_SA, _SA_COUNTERS = struct.calcsize("@208sIHBBB0Q"), slice(160, 208)
_POLICY_COUNTERS = slice(120, 152)
_REPLAY, _LAST_USED, _REPLAY_ESN = 10, 15, 23  # attributes of an SA that its packets change


def shown_by(shown: str) -> str:
    """By which sort of iptables this was shown; "" if that cannot be told."""
    words = shown.partition("\n")[0].split()
    if words[:3] != ["#", "Generated", "by"] or len(words) < 5:
        return ""
    if f"({NFT})" in words:
        return NFT
    try:
        version = tuple(int(part) for part in words[4].lstrip("v").split("."))
    except ValueError:
        return ""
    return LEGACY if version < (1, 8) or version >= _TELLS else _installed()


def _installed() -> str:
    """The sort of the node's iptables-save, by the program that it is a link to."""
    for directory in PATH.split(":"):
        path = os.path.join(directory, "iptables-save")
        if os.access(path, os.X_OK):
            program = os.path.basename(os.path.realpath(path))
            return next((sort for word, sort in (("nft", NFT), ("legacy", LEGACY)) if word in program), "")
    return ""


def rules_stamp(by: str) -> bytes:
    """A stamp of all rules of this sort of iptables."""
    try:
        if by == NFT:
            return _nft_generation()
        return _legacy_digest() if by == LEGACY else b""
    except (NetlinkError, OSError, ImportError, struct.error, KeyError):
        return b""


def _nft_generation() -> bytes:
    """It is another after each change of anything in nftables, in this network namespace."""
    with Netlink(NETFILTER) as link:
        answer = link.ask(GET_GENERATION, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))
    return parse_attributes(answer[4:])[GENERATION_ID]


def _legacy_digest() -> bytes:
    """Of all legacy tables, but for their counters. Raises OSError."""
    import ctypes  # hardly any node needs it

    libc = ctypes.CDLL(None, use_errno=True)
    digest = hashlib.blake2b()
    with (
        open(LEGACY_TABLES, encoding="ascii") as file,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as sock,
    ):
        names = sorted(file.read().split())
        if not names:
            return b""
        for name in names:
            info = _getsockopt(ctypes, libc, sock, _GET_INFO, name, _INFO)
            size = struct.unpack_from("=I", info, 80)[0]
            found = _getsockopt(ctypes, libc, sock, _GET_ENTRIES, name, _HEAD + size, size)
            digest.update(name.encode() + b"\0" + info[32:])
            for entry in _entries(found[_HEAD:]):
                digest.update(entry)
    return digest.digest()


def _getsockopt(ctypes, libc, sock: socket.socket, option: int, table: str, length: int, size: int = 0) -> bytes:
    """Python's own gives the kernel no bytes to read: here they name the table."""
    buffer = ctypes.create_string_buffer(struct.pack("=32sI", table.encode(), size).ljust(length, b"\0"), length)
    there = ctypes.c_uint(length)
    if libc.getsockopt(sock.fileno(), _IP, option, buffer, ctypes.byref(there)):
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw


def _entries(data: bytes):
    """Each struct ipt_entry without `comefrom` and counters, and its matches and target."""
    at = 0
    while at < len(data):
        after = struct.unpack_from("=H", data, at + 90)[0]  # next_offset
        if not after:
            raise OSError("a rule without a length")
        yield data[at : at + 92]
        yield data[at + 112 : at + after]
        at += after


def xfrm_digest() -> bytes:
    """Of all SAs and policies, but for what packets change."""
    digest = hashlib.blake2b()
    try:
        with Netlink(XFRM) as link:
            for data in link.dump(GET_SA, b""):
                digest.update(_steady_sa(data))
            digest.update(b"policies")
            for data in link.dump(GET_POLICY, b""):
                digest.update(data[: _POLICY_COUNTERS.start] + data[_POLICY_COUNTERS.stop :])
    except (NetlinkError, OSError):
        return b""
    return digest.digest()


def _steady_sa(data: bytes) -> bytes:
    parts = [data[: _SA_COUNTERS.start], data[_SA_COUNTERS.stop : _SA]]
    for kind, value in sorted(parse_attributes(data[_SA:]).items()):
        if kind == _REPLAY_ESN:
            value = value[:4] + value[20:24]  # how long the bitmap is, and the window
        elif kind in (_REPLAY, _LAST_USED):
            continue
        parts.append(struct.pack("=HH", kind, len(value)) + value)
    return b"".join(parts)
