"""Asking nodes what listens on them: before a service publishes a port, and for their check."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from swarmsh.core import listeners
from swarmsh.core.listeners import NewPort
from swarmsh.core.underlay import underlays
from swarmsh.errors import SwarmshError
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.objects import Node
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import NodeState

log = logging.getLogger(__name__)

ASK_S = 2.0  # for all nodes at once: who makes a service waits for it


class Askable(Protocol):
    """What is needed of `NodeClient`."""

    def connected(self, node_id: str) -> bool: ...

    async def listeners(
        self, node_id: str, ranges: Sequence[PortRange], timeout_s: float
    ) -> Sequence[Listener]: ...


async def look(
    snapshot: ClusterSnapshot, nodes: Askable, service_id: str, ports: Sequence[NewPort]
) -> dict[str, int]:
    """Refuse ports on which nodes themselves listen; of those to choose, bits that are no choice, by protocol.

    Nodes that cannot be asked, or do not answer in ASK_S, are passed over. Raises InvalidSpec.
    """
    if not ports:
        return {}
    but: dict[str, set[tuple[str, int]]] = {}
    asked = []
    for node in _publishing(snapshot):
        own = listeners.excused(snapshot, node.id, service_id)
        if own is not None and nodes.connected(node.id):
            asked.append(node)
            but[node.id] = own
    heard = await _ask(nodes, asked, listeners.ranges_of(ports))
    found = listeners.conflicts(ports, asked, heard, but)
    if found:
        raise listeners.refusal(found)
    return listeners.occupied(heard) if any(port.chosen for port in ports) else {}


def _publishing(snapshot: ClusterSnapshot) -> Iterable[Node]:
    """Nodes that answer on published ports, of which something was heard lately."""
    for node_id in underlays(snapshot.nodes.values()):
        node = snapshot.nodes[node_id]
        if not node.status.silent and node.status.state is not NodeState.DOWN:
            yield node


async def _ask(
    nodes: Askable, asked: Iterable[Node], ranges: Sequence[PortRange]
) -> Mapping[str, Sequence[Listener]]:
    heard: dict[str, Sequence[Listener]] = {}

    async def ask(node: Node) -> None:
        try:
            heard[node.id] = await nodes.listeners(node.id, ranges, ASK_S)
        except SwarmshError as e:
            log.warning("listeners_not_known node=%s error=%s", node.id, e.message)

    await asyncio.gather(*map(ask, asked))
    return heard


async def check_node(snapshot: ClusterSnapshot, nodes: Askable, node: Node) -> dict[str, object]:
    """As an item of what a node's helper checks: whether it listens itself where services publish."""
    ports = listeners.published(snapshot)
    known = [one for one in _publishing(snapshot) if one.id == node.id]
    heard = await _ask(nodes, known, listeners.ranges_of(ports)) if ports else {}
    own = listeners.ports_of_tasks(snapshot, node.id)
    return listeners.item_of(listeners.conflicts(ports, known, heard, {node.id: own}))
