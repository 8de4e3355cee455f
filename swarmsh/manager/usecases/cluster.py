"""The cluster: begun, changed, left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from swarmsh.errors import InvalidSpec, OutOfSequence, Unavailable
from swarmsh.manager.ports import Clock, IdSource, NodeClient, Store
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.manager.usecases.services import removal_of_all
from swarmsh.model.objects import Cluster
from swarmsh.model.snapshot import Changes, ClusterSnapshot

LEAVE_DEADLINE_S = 60.0  # for tasks to stop on nodes that answer
MOST_HISTORY = 1000
# Below the first, a node would be down before it is silent; above the second nobody would wait for it.
LEAST_DOWN_AFTER_S, MOST_DOWN_AFTER_S = 3.0, 3600.0


class ArchivingStore(Store, Protocol):
    async def archive(self) -> Path:
        """Copy all state aside and start an empty cluster; nodes (their pins) and the index stay."""


async def init_cluster(
    store: Store,
    ids: IdSource,
    clock: Clock,
    nodes: NodeClient | None = None,
    *,
    task_history: int | None = None,
    labels: dict[str, str] | None = None,
) -> Cluster:
    """Begin a cluster; nodes that an earlier one left behind belong to it. Raises Unavailable if there is one."""
    cluster_id = ids.new_id()

    def decide(snapshot: ClusterSnapshot) -> Changes:
        if snapshot.cluster is not None:
            raise Unavailable(
                'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join '
                "another one."
            )
        now = clock.now()
        cluster = Cluster(id=cluster_id, version=0, created_at=now, updated_at=now)
        return Changes(cluster=_changed(cluster, task_history, labels))

    after = await store.commit(decide)
    if nodes is not None:
        for node in after.nodes.values():
            nodes.keep(node.id, node.spec.name, node.target)
    return require_cluster(after)


async def update_cluster(
    store: Store, version: int, *, task_history: int | None = None, labels: dict[str, str] | None = None
) -> Cluster:
    """Change what is given. Raises OutOfSequence, InvalidSpec."""

    def decide(snapshot: ClusterSnapshot) -> Changes:
        stored = require_cluster(snapshot)
        if stored.version != version:
            raise OutOfSequence("rpc error: code = Unknown desc = update out of sequence")
        return Changes(cluster=_changed(stored, task_history, labels))

    return require_cluster(await store.commit(decide))


async def tune_cluster(store: Store, *, down_after_s: float | None = None) -> Cluster:
    """Change what is given of what only we have: it holds from the next look at the nodes. Raises InvalidSpec.

    `down_after_s` is the silence after which a node is down if no other node reaches it.
    """
    if down_after_s is not None and not LEAST_DOWN_AFTER_S <= down_after_s <= MOST_DOWN_AFTER_S:
        raise InvalidSpec(
            f"invalid DownAfterS {down_after_s:g}: {LEAST_DOWN_AFTER_S:g} to {MOST_DOWN_AFTER_S:g} seconds"
        )

    def decide(snapshot: ClusterSnapshot) -> Changes:
        stored = require_cluster(snapshot)
        if down_after_s in (None, stored.down_after_s):
            return Changes()
        return Changes(cluster=replace(stored, down_after_s=down_after_s))

    return require_cluster(await store.commit(decide))


def _changed(cluster: Cluster, task_history: int | None, labels: dict[str, str] | None) -> Cluster:
    if task_history is not None:
        if not 0 <= task_history <= MOST_HISTORY:
            raise InvalidSpec(f"invalid task history retention limit {task_history}: 0 to {MOST_HISTORY}")
        cluster = replace(cluster, task_history=task_history)
    return cluster if labels is None else replace(cluster, labels=labels)


async def leave(store: ArchivingStore, clock: Clock, nodes: NodeClient, *, force: bool) -> None:
    """End the cluster: its tasks are removed where nodes answer, its state archived, its nodes released."""
    if store.snapshot.cluster is None:
        raise Unavailable("This node is not part of a swarm")
    if not force:
        raise Unavailable(
            "You are attempting to leave the swarm on a node that is participating as a manager. Removing the "
            "last manager erases all current state of the swarm. Use `--force` to ignore this message."
        )
    async with store.subscribe() as changes:
        await store.commit(lambda snapshot: removal_of_all(snapshot, clock.now()))
        try:
            async with asyncio.timeout(LEAVE_DEADLINE_S):
                while any(nodes.connected(t.node_id) for t in store.snapshot.tasks.values()):
                    await anext(changes)
        except TimeoutError:
            pass  # what still runs there is released with its node, and can be removed by hand
    await store.archive()
    for node in list(store.snapshot.nodes.values()):
        await nodes.drop(node.id, release=True)
