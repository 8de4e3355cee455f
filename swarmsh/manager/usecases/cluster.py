"""The cluster: begun, changed, left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from swarmsh.core.revisions import LEAST_KEPT
from swarmsh.errors import InvalidSpec, OutOfSequence, SwarmshError, Unavailable
from swarmsh.manager.ports import Clock, IdSource, NodeClient, Store
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.manager.usecases.services import removal_of_all
from swarmsh.model.objects import Cluster, Node
from swarmsh.model.snapshot import Changes, ClusterSnapshot

LEAVE_DEADLINE_S = 60.0  # for tasks to stop on nodes that answer
MOST_HISTORY = MOST_REVISIONS = 1000
# Below the first, a node would be down before it is silent; above the second nobody would wait for it.
LEAST_DOWN_AFTER_S, MOST_DOWN_AFTER_S = 3.0, 3600.0
# Of each field of LBTimeouts its name for users, and from when to when, in seconds. The kernel counts in its own
# ticks: 24 days are what fits where a second has 1000.
LB_TIMEOUT_BOUNDS = {
    "tcp_s": ("TCP", 60, 24 * 86400),
    "tcp_fin_s": ("TCPFin", 10, 3600),
    "udp_s": ("UDP", 10, 86400),
}


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


async def tune_cluster(
    store: Store,
    *,
    down_after_s: float | None = None,
    lb_timeouts: Mapping[str, int] | None = None,
    revisions_kept: int | None = None,
) -> Cluster:
    """Change what is given of what only we have: it holds from the next look at the nodes. Raises InvalidSpec.

    `down_after_s` is the silence after which a node is down if no other node reaches it. `lb_timeouts`: seconds by
    fields of LBTimeouts; nodes are told at once, and no task is touched. `revisions_kept`: of each service.
    """
    if down_after_s is not None and not LEAST_DOWN_AFTER_S <= down_after_s <= MOST_DOWN_AFTER_S:
        raise InvalidSpec(
            f"invalid DownAfterS {down_after_s:g}: {LEAST_DOWN_AFTER_S:g} to {MOST_DOWN_AFTER_S:g} seconds"
        )
    if revisions_kept is not None and not LEAST_KEPT <= revisions_kept <= MOST_REVISIONS:
        raise InvalidSpec(f"invalid RevisionsKept {revisions_kept}: {LEAST_KEPT} to {MOST_REVISIONS}")
    for key, seconds in (lb_timeouts or {}).items():
        name, least, most = LB_TIMEOUT_BOUNDS[key]
        if not least <= seconds <= most:
            raise InvalidSpec(f"invalid LBTimeouts.{name} {seconds}: {least} to {most} seconds")

    def decide(snapshot: ClusterSnapshot) -> Changes:
        stored = require_cluster(snapshot)
        tuned = stored if down_after_s is None else replace(stored, down_after_s=down_after_s)
        tuned = replace(tuned, lb_timeouts=replace(stored.lb_timeouts, **(lb_timeouts or {})))
        tuned = tuned if revisions_kept is None else replace(tuned, revisions_kept=revisions_kept)
        return Changes() if tuned == stored else Changes(cluster=tuned)

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
    await _end_tasks(store, clock, nodes)
    await store.archive()
    for node in list(store.snapshot.nodes.values()):
        await nodes.drop(node.id, release=True)


async def _end_tasks(store: Store, clock: Clock, nodes: NodeClient) -> None:
    """Remove all services, and wait a while until no task is left on nodes that answer."""
    async with store.subscribe() as changes:
        await store.commit(lambda snapshot: removal_of_all(snapshot, clock.now()))
        try:
            async with asyncio.timeout(LEAVE_DEADLINE_S):
                while any(nodes.connected(t.node_id) for t in store.snapshot.tasks.values()):
                    await anext(changes)
        except TimeoutError:
            pass  # what still runs there is released with its node, and can be removed by hand


@dataclass(frozen=True, slots=True)
class LeftNode:
    """A node after a purge; `left` says what of ours is on it still, `fix` what to do about that."""

    node: Node
    left: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Purged:
    """Where the state was archived, and what became of each node, by their numbers."""

    archive: Path
    nodes: tuple[LeftNode, ...]


async def purge(store: ArchivingStore, clock: Clock, nodes: NodeClient) -> Purged:
    """End the cluster as `leave` does, and leave nothing of ours on its nodes; says of each what is there still.

    Raises Unavailable without a cluster.
    """
    cluster = require_cluster(store.snapshot)
    await _end_tasks(store, clock, nodes)
    archive = await store.archive()
    known = sorted(store.snapshot.nodes.values(), key=lambda node: node.number)
    return Purged(archive, tuple(await asyncio.gather(*(_clear(nodes, node, cluster.id) for node in known))))


async def _clear(nodes: NodeClient, node: Node, cluster_id: str) -> LeftNode:
    try:
        left = await nodes.leave(node.id)
    except SwarmshError as e:
        left = (e.message,)
    return LeftNode(node, left, by_hand(cluster_id) if left else "")


def by_hand(cluster_id: str) -> str:
    """What takes all of a cluster from a node that its manager did not reach: the kernel forgets with a reboot."""
    return (
        "On the node, as root: systemctl stop swarmsh-helper; "
        f"docker rm -f $(docker ps -aq --filter label=swarmsh.cluster={cluster_id}); "
        "docker network rm $(docker network ls -q --filter label=swarmsh.network); reboot"
    )
