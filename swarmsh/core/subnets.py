"""Subnets of overlays: which one is free, and how one is divided.

| subnet | gateways | VIPs | tasks |
|---|---|---|---|
| /16 to /20 | the first 256 addresses | the upper half | what is between |
| /21 to /28 | the first quarter, at most 256 | the last quarter | what is between |

Node number n has the n-th gateway, so the smaller subnets serve the nodes up to 63 (/24), 15 (/26) or 3 (/28).
With an `ip-range` VIPs and tasks divide that range by the same table. One that does not begin with the subnet
leaves the gateways where they are: in front of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

LARGEST_PREFIX, SMALLEST_PREFIX = 16, 28  # 16 bits are the key of an address; a /29 would have one gateway
_MOST_GATEWAYS = 256
_HALVED_UP_TO = 20


@dataclass(frozen=True, slots=True)
class Division:
    gateways: IPv4Network
    vips: IPv4Network
    first_task: IPv4Address
    last_task: IPv4Address


def divide(subnet: IPv4Network, ip_range: IPv4Network | None = None) -> Division:
    """The three ranges of a subnet of /16 to /28; `ip_range` lies in it and is no smaller than /28."""
    block = ip_range or subnet
    vip_bits = 32 - block.prefixlen - (1 if block.prefixlen <= _HALVED_UP_TO else 2)
    vips = IPv4Network((int(block.broadcast_address) + 1 - (1 << vip_bits), 32 - vip_bits))
    before = int(block.network_address) - int(subnet.network_address)
    room = min(_MOST_GATEWAYS, (subnet if before else block).num_addresses // 4, before or _MOST_GATEWAYS)
    gateway_bits = room.bit_length() - 1
    gateways = IPv4Network((int(subnet.network_address), 32 - gateway_bits))
    first = block.network_address if before else gateways.broadcast_address + 1
    return Division(gateways, vips, first, vips.network_address - 1)


def first_free(pool: IPv4Network, prefix: int, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The lowest subnet of that prefix length in the pool that overlaps none of `taken`."""
    size = 1 << (32 - prefix)
    at, end = int(pool.network_address), int(pool.broadcast_address)
    for low, high in sorted((int(t.network_address), int(t.broadcast_address)) for t in taken):
        if low >= at + size:
            break
        if high >= at:
            at = (high // size + 1) * size
    return IPv4Network((at, prefix)) if at + size - 1 <= end else None


def gateway_on(gateways: IPv4Network, number: int) -> IPv4Address | None:
    """The gateway address of the node of that number; None if the range does not reach so far."""
    return gateways[number] if number < gateways.num_addresses else None
