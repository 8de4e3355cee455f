"""Spreading tasks again on request: what would move, that it is to move, that it is not to after all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from swarmsh.core.rebalance import Move, RebalancePlan, immovable, plan_rebalance
from swarmsh.core.relocate import given_up
from swarmsh.core.scheduler import Failures
from swarmsh.manager.ports import Clock, Store
from swarmsh.manager.usecases.lookup import find_service, require_cluster
from swarmsh.manager.usecases.why import view_of
from swarmsh.model.objects import Event, Rebalance, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot

STOPPED = "it was told to stop"


async def plan(
    store: Store, clock: Clock, failures: Callable[[], Failures], names: Sequence[str]
) -> RebalancePlan:
    """What a rebalance of these services (all without any) would move. Raises NotFound, Ambiguous.

    It is worked out off the event loop: services are weighed against all nodes.
    """
    snapshot = store.snapshot
    services = _services(snapshot, names)
    now, seen = clock.now(), failures()
    return await asyncio.to_thread(
        lambda: plan_rebalance(snapshot, view_of(snapshot, now, seen, len(snapshot.tasks)), services)
    )


async def begin(store: Store, clock: Clock, planned: RebalancePlan) -> tuple[Move, ...]:
    """Let these moves be made; those that something has come between meanwhile are left out. Gives the rest."""
    begun: list[Move] = []

    def decide(snapshot: ClusterSnapshot) -> Changes:
        begun.clear()
        now = clock.now()
        begun.extend(move for move in planned.moves if _still(snapshot, move))
        put = [
            replace(snapshot.tasks[m.task.id], rebalance=Rebalance(node_id=m.to_node, asked_at=now)) for m in begun
        ]
        return Changes(put_tasks=tuple(put), events=_events(snapshot, put, now))

    await store.commit(decide)
    return tuple(begun)


async def stop(store: Store, names: Sequence[str]) -> int:
    """Make no further moves of these services (all without any), and undo those whose new task is not ready yet.

    Gives the number of tasks that stay where they are. Raises NotFound, Ambiguous.
    """
    count = 0

    def decide(snapshot: ClusterSnapshot) -> Changes:
        nonlocal count
        ids = {service.id for service in _services(snapshot, names)}
        waiting = [t for t in marked(snapshot) if t.rebalance and t.rebalance.wanted and t.service_id in ids]
        count = len(waiting)
        put = [changed for task in waiting for changed in given_up(task, _beside(snapshot, task), STOPPED)]
        return Changes(put_tasks=tuple(put))

    await store.commit(decide)
    return count


def marked(snapshot: ClusterSnapshot) -> list[Task]:
    """Live tasks that a rebalance was to move, or is to; by service, high slots first."""
    found = [t for t in snapshot.tasks.values() if t.rebalance is not None and t.live]
    return sorted(found, key=lambda t: (t.service_name, -t.slot, t.id))


def _beside(snapshot: ClusterSnapshot, task: Task) -> list[Task]:
    there = snapshot.tasks_of_service(task.service_id)
    return sorted(
        (t for t in there if t.slot == task.slot and t.id != task.id), key=lambda t: (t.created_at, t.id)
    )


def _services(snapshot: ClusterSnapshot, names: Sequence[str]) -> list[Service]:
    require_cluster(snapshot)
    if not names:
        return list(snapshot.services.values())
    return list({service.id: service for service in (find_service(snapshot, name) for name in names)}.values())


def _still(snapshot: ClusterSnapshot, move: Move) -> bool:
    task = snapshot.tasks.get(move.task.id)
    service = snapshot.services.get(move.task.service_id)
    if task is None or service is None or not task.live or move.to_node not in snapshot.nodes:
        return False
    same = task.node_id == move.task.node_id and service.spec_version == task.spec_version
    return same and task.rebalance == move.task.rebalance and not immovable(service)


def _events(snapshot: ClusterSnapshot, put: Sequence[Task], now: float) -> tuple[Event, ...]:
    counts: dict[str, int] = {}
    for task in put:
        counts[task.service_id] = counts.get(task.service_id, 0) + 1
    return tuple(
        Event(
            time=now,
            type="service",
            action="rebalance",
            id=service_id,
            attributes={"name": snapshot.services[service_id].spec.name, "tasks": str(number)},
        )
        for service_id, number in counts.items()
    )
