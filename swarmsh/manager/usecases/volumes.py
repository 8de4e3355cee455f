"""Volumes over all nodes: asked of every Engine at the same time; a node that does not answer is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from swarmsh.core.volume_list import Listed, listed, prunable, wanted
from swarmsh.errors import InvalidSpec, NameConflict, NodeRequestFailed, NotFound, SwarmshError, Unavailable
from swarmsh.manager.ports import EngineVolumes
from swarmsh.manager.usecases.lookup import find_node, require_cluster
from swarmsh.model.objects import Node
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import NodeState

ASK_S = 45.0  # for all nodes at once: each may be asked twice for as long as one request may take

Filters = Mapping[str, Sequence[str]]


class Silent(Struct, frozen=True, kw_only=True):
    """A node that did not tell, why, and which volumes with data it had when it last did."""

    node: Node
    why: str
    volumes: tuple[str, ...] = ()


class Survey(Struct, frozen=True, kw_only=True):
    """By node and name."""

    volumes: tuple[Listed, ...] = ()
    silent: tuple[Silent, ...] = ()


class Pruned(Struct, frozen=True, kw_only=True):
    """What was removed, what could not be (name, why), and the bytes that were freed as far as they are known."""

    removed: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    silent: tuple[Silent, ...] = ()
    freed_bytes: int = 0


async def survey(
    snapshot: ClusterSnapshot, engines: EngineVolumes, filters: Filters, *, sizes: bool = False
) -> Survey:
    """The volumes that `filters` let through. Raises InvalidSpec, NotFound for a node that is not there."""
    require_cluster(snapshot)
    nodes = [find_node(snapshot, ref) for ref in filters.get("node", ())] or list(snapshot.nodes.values())
    filters = {**filters, "node": [node.id for node in nodes]}
    found = await _ask(snapshot, engines, {n.id: n for n in nodes}.values(), sizes=sizes)
    return Survey(volumes=tuple(one for one in found.volumes if wanted(one, filters)), silent=found.silent)


async def _ask(snapshot: ClusterSnapshot, engines: EngineVolumes, nodes: Iterable[Node], *, sizes: bool) -> Survey:
    ordered = sorted(nodes, key=lambda n: n.number)

    async def ask(node: Node) -> list[Listed] | Silent:
        try:
            if node.status.state is NodeState.DOWN:
                raise Unavailable("it is down")
            async with asyncio.timeout(ASK_S):
                return listed(snapshot, node, await engines.volumes(node.id, sizes=sizes))
        except TimeoutError:
            why = f"it did not answer within {ASK_S:g} s"
        except SwarmshError as e:
            why = e.message
        return Silent(node=node, why=why, volumes=node.description.volumes or ())

    answers = await asyncio.gather(*map(ask, ordered))
    return Survey(
        volumes=tuple(one for answer in answers if isinstance(answer, list) for one in answer),
        silent=tuple(answer for answer in answers if isinstance(answer, Silent)),
    )


async def find(snapshot: ClusterSnapshot, engines: EngineVolumes, ref: str, *, sizes: bool = False) -> Listed:
    """The volume `NODE/NAME`, or NAME if one node only has it.

    Raises NotFound; InvalidSpec if several have it; Unavailable if the node that has, or may have it, is silent.
    """
    require_cluster(snapshot)
    node_ref, slash, name = ref.partition("/")
    nodes = [find_node(snapshot, node_ref)] if slash else list(snapshot.nodes.values())
    name = name if slash else ref
    found = await _ask(snapshot, engines, nodes, sizes=sizes)
    here = [one for one in found.volumes if one.volume.name == name]
    away = [one for one in found.silent if slash or name in one.volumes]
    if len(here) + len(away) > 1:
        names = ", ".join([*(one.name for one in here), *(f"{one.node.spec.name}/{name}" for one in away)])
        raise InvalidSpec(f"volume {name} is on {len(here) + len(away)} nodes", hint=f"Name one of {names}")
    if away:
        raise Unavailable(f"node {away[0].node.spec.name} has not told its volumes: {away[0].why}")
    if here:
        return here[0]
    if found.silent:
        names = ", ".join(one.node.spec.name for one in found.silent)
        raise NotFound(f"get {name}: no such volume", hint=f"Not asked, since they do not answer: {names}")
    raise _NotThere(f"get {name}: no such volume")


class _NotThere(NotFound):
    """The volume is on none of the nodes, and all of them have said so."""


async def remove(snapshot: ClusterSnapshot, engines: EngineVolumes, ref: str, *, force: bool = False) -> None:
    """Remove one volume. Raises NameConflict naming who has it, and as `find` does.

    With `force` one that is not there is removed, as with an Engine; not where a node could not be asked.
    """
    try:
        one = await find(snapshot, engines, ref)
        await _remove(engines, one, force=force)
    except _NotThere:
        if not force:
            raise


async def _remove(engines: EngineVolumes, one: Listed, *, force: bool = False) -> None:
    try:
        await engines.remove_volume(one.node.id, one.volume.name, force=force)
    except NodeRequestFailed as e:
        if e.fields.get("status") == 409:
            holders = f" by {', '.join(one.tasks)}" if one.tasks else ""
            hint = "" if one.tasks else "Containers of ended tasks hold it too: see `swarmsh service ps`"
            raise NameConflict(f"volume {one.name} is in use{holders}: {e.message}", hint=hint) from e
        if e.fields.get("status") == 404:
            raise _NotThere(f"get {one.name}: no such volume") from e
        raise


async def prune(snapshot: ClusterSnapshot, engines: EngineVolumes, filters: Filters) -> Pruned:
    """Remove what no container has and no service names, on all nodes; named volumes only with filter `all`."""
    found = await survey(snapshot, engines, filters, sizes=True)
    going = [one for one in found.volumes if prunable(one, filters)]

    async def go(one: Listed) -> str:
        try:
            await _remove(engines, one)
        except SwarmshError as e:
            return e.message
        return ""

    by_node: dict[str, list[Listed]] = {}
    for one in going:
        by_node.setdefault(one.node.id, []).append(one)

    async def clear(volumes: Sequence[Listed]) -> list[tuple[Listed, str]]:
        return [(one, await go(one)) for one in volumes]

    outcome = [pair for pairs in await asyncio.gather(*map(clear, by_node.values())) for pair in pairs]
    return Pruned(
        removed=tuple(one.name for one, why in outcome if not why),
        failed=tuple((one.name, why) for one, why in outcome if why),
        silent=found.silent,
        freed_bytes=sum(one.volume.size_bytes or 0 for one, why in outcome if not why),
    )
