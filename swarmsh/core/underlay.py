"""By which address the nodes send each other packets of networks, and what to say where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address

from swarmsh.model.objects import Node

WAY_OUT = "set swarmsh_underlay in the inventory to an address at which other nodes reach it alone"
USUAL_MTU = 1500
_NAMED = 3  # nodes that are named where there may be many


def underlay(node: Node) -> str:
    """The IPv4 address by which other nodes reach it; "" if none is known.

    That of the inventory if it gives one, else the one by which the manager reaches it. It may be another node's
    as well: see `underlays`.
    """
    for text in (node.target.underlay, node.target.address, node.description.address):
        if address := _ipv4(text):
            return address
    return ""


def underlays(nodes: Iterable[Node]) -> dict[str, str]:
    """By id, the address of each node that can have networks: one that no other node has.

    Hosts behind forwarded ports are all reached at one address, of which nobody knows to whom a packet goes. If
    the inventory gives it to one of them, it is that one's.
    """
    there: dict[str, list[Node]] = {}
    for node in nodes:
        if address := underlay(node):
            there.setdefault(address, []).append(node)
    found = {}
    for address, sharing in there.items():
        named = [node for node in sharing if _ipv4(node.target.underlay)] if len(sharing) > 1 else sharing
        if len(named) == 1:
            found[named[0].id] = address
    return found


def underlay_mtu(node: Node) -> int:
    """Of the device that has its underlay address, as the node says; 0 if it has not said, or none has it."""
    return dict(node.description.mtus).get(underlay(node), 0)


def least_mtu(nodes: Iterable[Node]) -> int:
    """What every node's link carries, in bytes of an IP packet; of those that do not say it, what is usual."""
    known = tuple(nodes)
    addressed = underlays(known)
    return min((underlay_mtu(node) or USUAL_MTU for node in known if node.id in addressed), default=USUAL_MTU)


def sharing(node: Node, nodes: Iterable[Node]) -> str:
    """Other nodes that have its address, by name, if that is therefore none of its own; else ""."""
    known = tuple(nodes)
    address = underlay(node)
    if not address or node.id in underlays(known):
        return ""
    names = sorted(o.spec.name for o in known if o.id != node.id and underlay(o) == address)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def lack_of_underlay(node: Node, nodes: Iterable[Node]) -> str:
    """Why no network can be on it, as the end of a sentence about it; "" if one can."""
    if others := sharing(node, nodes):
        return f"its address {underlay(node)} is that of {others} as well: nobody could tell whose a packet is"
    return "" if underlay(node) else "no IPv4 address is known by which other nodes reach it"


@lru_cache(maxsize=4096)
def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        return ""  # a host name, or IPv6
