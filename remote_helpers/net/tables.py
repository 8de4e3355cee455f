"""Empty tables that iptables of nftables leaves behind: it makes them and takes none away.

By netlink, as a node need not have `nft`. Formats: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct

from .netlink import Netlink, pack_attribute
from .unchanged import NETFILTER

BATCH_BEGIN, BATCH_END, BATCH_GENERATION = 0x10, 0x11, 1
NFTABLES, DELETE_TABLE, TABLE_NAME = 10, 10 << 8 | 2, 1
# Those that iptables knows: of others nothing is known here.
KNOWN = ("raw", "mangle", "nat", "filter", "security")


def without_rules(shown: str) -> set:
    """The tables in what iptables-save says that hold nothing: no rule, no chain but the builtin, each of which
    accepts."""
    found: set = set()
    table = ""
    for line in shown.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            found.add(table)
        elif line.startswith("-") or (line.startswith(":") and line.split(" ")[1:2] != ["ACCEPT"]):
            found.discard(table)
    return found.intersection(KNOWN)


def delete(names, generation: bytes) -> bool:
    """Delete these tables of IPv4 with all that is in them, unless anything in nftables was changed since its
    generation was this one: False then. Raises NetlinkError, OSError."""
    batch = struct.pack("=BB", socket.AF_UNSPEC, 0) + struct.pack(">H", NFTABLES)
    ipv4 = struct.pack("=BBH", socket.AF_INET, 0, 0)
    tables = [(DELETE_TABLE, ipv4 + pack_attribute(TABLE_NAME, name.encode() + b"\0")) for name in sorted(names)]
    if not tables:
        return True
    begin = (BATCH_BEGIN, batch + pack_attribute(BATCH_GENERATION, generation))
    with Netlink(NETFILTER) as link:
        return link.transact(begin, tables, (BATCH_END, batch))
