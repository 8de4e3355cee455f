"""Trying the ways between nodes: all listen, then all send, then all tell. Three questions a node, not more."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

from swarmsh.core.netstate import underlay
from swarmsh.core.paths import PathItem, Place, Seen, judge, sizes_needed, sizes_to_try
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import NodeClient
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.model.objects import Node
from swarmsh.model.paths import Heard, Listen, Peer, Send, Sent
from swarmsh.model.snapshot import ClusterSnapshot

T = TypeVar("T")

LISTEN_S = 60.0  # sending to 254 peers takes some 5 s, and starting all of it on slow nodes a few
UNDER_WAY_S = 1.5  # for packets that were sent last
NO_ADDRESS_FIX = "Set swarmsh_underlay in the inventory, and repeat `swarmsh up`"


async def check_paths(snapshot: ClusterSnapshot, nodes: NodeClient, concerned: Collection[str]) -> list[PathItem]:
    """Try the ways between the nodes of these ids and all others, in both directions; nothing is changed anywhere.

    Nodes without a session are left out: that is told by their own check. Raises Unavailable without a cluster.
    """
    require_cluster(snapshot)
    known = sorted(snapshot.nodes.values(), key=lambda node: node.number)
    lacking = [node for node in known if not underlay(node) and node.id in concerned and nodes.connected(node.id)]
    places = [_place(node) for node in known if underlay(node) and nodes.connected(node.id)]
    pairs = [
        (one, other) for one in places for other in places if one != other and _ids(one, other) & set(concerned)
    ]
    needed = sizes_needed(snapshot)
    seen = await _ask_all(
        nodes, [place for place in places if any(place in pair for pair in pairs)], pairs, needed
    )
    items = judge([place for place in places if place.node_id in concerned], pairs, seen, needed)
    return [_without_address(node) for node in lacking] + items


def _ids(one: Place, other: Place) -> set[str]:
    return {one.node_id, other.node_id}


def _place(node: Node) -> Place:
    return Place(node.id, node.spec.name, node.number, underlay(node))


def _without_address(node: Node) -> PathItem:
    detail = "no IPv4 address is known by which other nodes reach it"
    return PathItem(node_id=node.id, name="ways", ok=False, detail=detail, fix=NO_ADDRESS_FIX)


async def _ask_all(
    nodes: NodeClient, places: Sequence[Place], pairs: Sequence[tuple[Place, Place]], needed: Collection[int]
) -> Seen:
    token, sizes, seen = secrets.token_hex(8), sizes_to_try(needed), Seen()
    asking = _Asking(seen)

    async def listen(place: Place) -> None:
        senders = tuple(sender.n for sender, receiver in pairs if receiver == place)
        message = Listen(token=token, seconds=LISTEN_S, enough=max(needed), senders=senders)
        if await nodes.listen_on_paths(place.node_id, message):
            seen.guarded.add(place.node_id)

    async def send(place: Place) -> None:
        to = tuple(Peer(n=r.n, address=r.address) for s, r in pairs if s == place and r.node_id not in seen.failed)
        message = Send(token=token, n=place.n, address=place.address, to=to, sizes=sizes)
        sent: Sequence[Sent] = await nodes.send_on_paths(place.node_id, message)
        seen.refused[place.node_id] = {one.n: one.refused for one in sent}

    async def hear(place: Place) -> None:
        heard: Sequence[Heard] = await nodes.heard_on_paths(place.node_id, token, UNDER_WAY_S)
        seen.heard[place.node_id] = {one.n: one for one in heard}

    for ask in (listen, send, hear):
        # All have begun to listen before the first one sends.
        await asking.each({p: ask(p) for p in places if p.node_id not in seen.failed})
    return seen


class _Asking:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def each(self, questions: dict[Place, Coroutine[Any, Any, None]]) -> None:
        """Ask all at once; who does not answer is left out from then on."""
        answers = await asyncio.gather(*questions.values(), return_exceptions=True)
        for place, answer in zip(questions, answers, strict=True):
            if isinstance(answer, SwarmshError):
                self._seen.failed[place.node_id] = f"it could not be asked: {answer.message}"
            elif isinstance(answer, BaseException):
                raise answer
