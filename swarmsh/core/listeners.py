"""Ports that programs of nodes have already, when a service is to publish them.

A node's load balancer takes what is sent to a published port at any of the node's addresses, the loopback too:
a program that listens there would be cut off without a word. Published ports are IPv4. A socket on `::` mostly
hears that as well, and the kernel's list does not say of which this is not so; one on another IPv6 address hears
none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from swarmsh.core.allocate import FIRST_CHOSEN_PORT, LAST_CHOSEN_PORT
from swarmsh.core.labels import balancing_of
from swarmsh.core.underlay import underlay
from swarmsh.errors import InvalidSpec
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.objects import Node, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import TaskState

_MOST_RANGES = 1000  # in one question
_NAMED = 3  # nodes that are named where there may be many
_HOST_NETWORK = "host"


@dataclass(frozen=True, slots=True)
class NewPort:
    """A port that nodes do not answer on yet. `chosen`: its number was not asked for, another one does as well."""

    protocol: str
    port: int
    bind: str  # the one address where it is published; "": all
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Conflict:
    port: NewPort
    node: Node
    address: str  # at which something listens


def new_ports(stored: Service | None, service: Service) -> tuple[NewPort, ...]:
    """Ports in ingress mode that the service is to get, in the order of its spec, without those that it has."""
    bind = balancing_of(service.spec.labels).bind
    had = set()
    if stored is not None and balancing_of(stored.spec.labels).bind in ("", bind):
        had = {(p.protocol, p.published_port) for p in stored.endpoint.ports}
    spec = service.spec.endpoint_spec
    asked = {(p.protocol, p.published_port) for p in (spec.ports if spec is not None else ())}
    return tuple(
        NewPort(p.protocol, p.published_port, bind, chosen=(p.protocol, p.published_port) not in asked)
        for p in service.endpoint.ports
        if (p.protocol, p.published_port) not in had
    )


def published(snapshot: ClusterSnapshot) -> tuple[NewPort, ...]:
    """All that the cluster's services have."""
    services = sorted(snapshot.services.values(), key=lambda service: service.id)
    return tuple(port for service in services for port in new_ports(None, service))


def ranges_of(ports: Iterable[NewPort]) -> tuple[PortRange, ...]:
    """What nodes are to be asked: for a port to choose about all of which it may become one."""
    found = {
        (port.protocol, FIRST_CHOSEN_PORT, LAST_CHOSEN_PORT)
        if port.chosen
        else (port.protocol, port.port, port.port)
        for port in ports
    }
    if len(found) > _MOST_RANGES:  # so many would make a long line: the answer is about the same without them
        protocols = {protocol for protocol, _, _ in found}
        found = {
            (p, min(f[1] for f in found if f[0] == p), max(f[2] for f in found if f[0] == p)) for p in protocols
        }
    return tuple(PortRange(protocol=p, first=first, last=last) for p, first, last in sorted(found))


# --- who may listen -----------------------------------------------------------------------------------------
def excused(snapshot: ClusterSnapshot, node_id: str, service_id: str) -> set[tuple[str, int]] | None:
    """(protocol, port) on which tasks listen that make room by themselves; None if it cannot be known.

    Those are the service's own, which an update replaces, and all that are told to stop. They listen on the node
    by ports in host mode, or because they are on its network, and then on what nobody but they know.
    """
    found: set[tuple[str, int]] = set()
    for task in snapshot.tasks_of_node(node_id):
        if task.status.state.terminal or (task.service_id != service_id and task.desired <= TaskState.RUNNING):
            continue
        if any(network.target == _HOST_NETWORK for network in task.spec.networks):
            return None
        found |= _host_ports(task)
    return found


def ports_of_tasks(snapshot: ClusterSnapshot, node_id: str) -> set[tuple[str, int]]:
    """(protocol, port) that living tasks of the node have in host mode."""
    tasks = snapshot.tasks_of_node(node_id)
    return {port for task in tasks if not task.status.state.terminal for port in _host_ports(task)}


def _host_ports(task: Task) -> set[tuple[str, int]]:
    declared = task.endpoint.ports if task.endpoint is not None else ()
    bound = [p for p in (*declared, *task.status.ports) if p.publish_mode == "host"]
    return {(p.protocol, p.published_port) for p in bound if p.published_port}


# --- what is in the way -------------------------------------------------------------------------------------
def conflicts(
    ports: Sequence[NewPort],
    nodes: Iterable[Node],
    heard: Mapping[str, Sequence[Listener]],
    but: Mapping[str, set[tuple[str, int]]],
) -> list[Conflict]:
    """In the order of `ports`, then by nodes' numbers, one for each of both. A chosen one has none.

    `heard`: what listens, by node; `but`: (protocol, port) by node that are no matter.
    """
    found = []
    known = sorted(nodes, key=lambda node: node.number)
    at: dict[tuple[str, str, int], list[str]] = {}
    for node_id, there in heard.items():
        for one in there:
            if (one.protocol, one.port) not in but.get(node_id, ()):
                at.setdefault((node_id, one.protocol, one.port), []).append(one.address)
    for port in ports:
        for node in known:
            if port.chosen:
                continue
            addresses = [a for a in at.get((node.id, port.protocol, port.port), ()) if _takes(port.bind, a, node)]
            if addresses:
                # Who listens on more than the loopback is to be named, if there is one.
                addresses.sort(key=lambda address: (_is_loopback(address), address))
                found.append(Conflict(port, node, addresses[0]))
    return found


def _takes(bind: str, address: str, node: Node) -> bool:
    """Whether a port published at `bind` ("": everywhere) gets what is meant for a socket at this address."""
    at = _ipv4(address)
    if at is None or at.is_multicast:
        return False
    if not bind or not at.is_unspecified:
        return not bind or str(at) == bind
    return bind.startswith("127.") or bind in {underlay(node), *(own for own, _ in node.description.mtus)}


def _ipv4(text: str) -> IPv4Address | None:
    """The IPv4 address at which a socket hears; None if it hears at none."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        pass
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    return IPv4Address(0) if address.is_unspecified else address.ipv4_mapped


def _is_loopback(text: str) -> bool:
    at = _ipv4(text)
    return at is not None and at.is_loopback


def occupied(heard: Mapping[str, Sequence[Listener]]) -> dict[str, int]:
    """By protocol, bits of the ports on which anything listens anywhere: what is chosen is to be none of them."""
    found: dict[str, int] = {}
    for there in heard.values():
        for one in there:
            found[one.protocol] = found.get(one.protocol, 0) | 1 << one.port
    return found


# --- in words -----------------------------------------------------------------------------------------------
def refusal(found: Sequence[Conflict]) -> InvalidSpec:
    """Of the first port, naming its nodes; `found` is not empty."""
    port = found[0].port
    of_port = [one for one in found if one.port == port]
    names = ", ".join(f"{one.node.spec.name} ({one.address})" for one in of_port[:_NAMED])
    more = f" and {len(of_port) - _NAMED} more" if len(of_port) > _NAMED else ""
    where = f"node{'s' if len(of_port) > 1 else ''} {names}{more}"
    loopback = all(_is_loopback(one.address) for one in of_port)
    words = f"port '{port.port}' is already in use: something listens on {port.port}/{port.protocol} of {where}"
    if loopback:
        words += ", and a published port answers on the loopback too"
    bound = ", publish it at one address (label swarmsh.publish.bind)" if loopback and not port.bind else ""
    return InvalidSpec(
        f"rpc error: code = InvalidArgument desc = {words}",
        hint=f"Publish another port{bound}, use mode=host where it is free, or stop that program: {_who(port)}",
        node=of_port[0].node.spec.name,
    )


def item_of(found: Sequence[Conflict]) -> dict[str, object]:
    """Of one node, as an item of its check."""
    words = [f"something listens on {one.port.port}/{one.port.protocol} ({one.address})" for one in found]
    detail = f"{'; '.join(words)}: a service publishes that port, and takes its connections" if words else ""
    who = " ".join(dict.fromkeys(_who(one.port) for one in found))
    fix = f"Stop that program, or publish another port: {who}" if words else ""
    return {"name": "ports", "ok": not words, "detail": detail, "fix": fix}


def _who(port: NewPort) -> str:
    return f"`ss -l{port.protocol[0]}np` on the node shows it"
