"""Trying the ways between nodes: all listen, then all send, then all tell. Three questions a node, not more."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from swarmsh.core.paths import PathItem, Place, Seen, judge, sizes_needed, sizes_to_try
from swarmsh.core.underlay import WAY_OUT, lack_of_underlay, underlays
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import NodeClient
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.model.objects import Node
from swarmsh.model.paths import Heard, Listen, Peer, Send, Sent
from swarmsh.model.snapshot import ClusterSnapshot

T = TypeVar("T")

LISTEN_S = 60.0  # sending to 254 peers takes some 5 s, and starting all of it on slow nodes a few
UNDER_WAY_S = 1.5  # for packets that were sent last
NO_ADDRESS_FIX = f"{WAY_OUT[0].upper()}{WAY_OUT[1:]}, and repeat `swarmsh up`"


async def check_paths(snapshot: ClusterSnapshot, nodes: NodeClient, concerned: Collection[str]) -> list[PathItem]:
    """Try the ways between the nodes of these ids and all others, in both directions; nothing is changed anywhere.

    Nodes without a session are left out: that is told by their own check. Raises Unavailable without a cluster.
    """
    require_cluster(snapshot)
    known = sorted(snapshot.nodes.values(), key=lambda node: node.number)
    addresses = underlays(known)
    lacking = [n for n in known if n.id not in addresses and n.id in concerned and nodes.connected(n.id)]
    places = [_place(n, addresses[n.id]) for n in known if n.id in addresses and nodes.connected(n.id)]
    asked = {place.node_id for place in places} & set(concerned)
    to = {
        one: [two for two in places if two is not one and (one.node_id in asked or two.node_id in asked)]
        for one in places
    }
    needed = sizes_needed(snapshot)
    seen = await _ask_all(nodes, {place: others for place, others in to.items() if others}, needed)
    pairs = ((sender, receiver) for sender, others in to.items() for receiver in others)
    # With 255 nodes there are 65,000 pairs, for which the loop must not stand still.
    items = await asyncio.to_thread(judge, [p for p in places if p.node_id in asked], pairs, seen, needed)
    return [_without_address(node, known) for node in lacking] + items


def _place(node: Node, address: str) -> Place:
    return Place(node.id, node.spec.name, node.number, address)


def _without_address(node: Node, nodes: Sequence[Node]) -> PathItem:
    detail = lack_of_underlay(node, nodes)
    return PathItem(node_id=node.id, name="ways", ok=False, detail=detail, fix=NO_ADDRESS_FIX)


async def _ask_all(nodes: NodeClient, to: Mapping[Place, Sequence[Place]], needed: Collection[int]) -> Seen:
    """`to`: the others of each node. Who sends to it are the same."""
    token, sizes, seen = secrets.token_hex(8), sizes_to_try(needed), Seen()
    asking = _Asking(seen)

    async def listen(place: Place) -> None:
        senders = tuple(other.n for other in to[place])
        message = Listen(token=token, seconds=LISTEN_S, enough=max(needed), senders=senders)
        if await nodes.listen_on_paths(place.node_id, message):
            seen.guarded.add(place.node_id)

    async def send(place: Place) -> None:
        peers = tuple(Peer(n=o.n, address=o.address) for o in to[place] if o.node_id not in seen.failed)
        message = Send(token=token, n=place.n, address=place.address, to=peers, sizes=sizes)
        sent: Sequence[Sent] = await nodes.send_on_paths(place.node_id, message)
        seen.refused[place.node_id] = {one.n: one.refused for one in sent}

    async def hear(place: Place) -> None:
        heard: Sequence[Heard] = await nodes.heard_on_paths(place.node_id, token, UNDER_WAY_S)
        seen.heard[place.node_id] = {one.n: one for one in heard}

    for ask in (listen, send, hear):
        # All have begun to listen before the first one sends.
        await asking.each({p: ask(p) for p in to if p.node_id not in seen.failed})
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
