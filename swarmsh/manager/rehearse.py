"""The passes that a change leads to, played through on a copy of the state until nothing more happens.

These are the very passes that the manager makes; only store, clock and nodes are not the real ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count

from swarmsh.core.allocate import with_releases
from swarmsh.core.gate import run_to_the_end
from swarmsh.core.rehearsal import Rehearsal, obey
from swarmsh.manager.dirt import Dirt
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.manager.ports import Decide
from swarmsh.model.objects import Service
from swarmsh.model.snapshot import Changes, ClusterSnapshot

# Passes look at each task of the service, and at all where one is to be placed. So many looks take some five
# seconds; updates that need more are shown from their beginning.
MOST_LOOKS = 300_000


@dataclass(slots=True)
class TrialClock:
    at: float

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class _TrialStore:
    """Takes what is decided at once, and keeps it from everybody else."""

    def __init__(self, snapshot: ClusterSnapshot, clock: TrialClock) -> None:
        self.snapshot = snapshot
        self._clock = clock

    async def commit_orchestration(self, decide: Decide) -> ClusterSnapshot:
        return self._apply(decide, 1)

    def observe(self, decide: Decide) -> ClusterSnapshot:
        return self._apply(decide, 0)

    def _apply(self, decide: Decide, step: int) -> ClusterSnapshot:
        changes = decide(self.snapshot)
        if changes:
            changes = with_releases(self.snapshot, changes, self._clock.now())
            self.snapshot = self.snapshot.apply(changes, self.snapshot.index + step)
        return self.snapshot


class _TrialIds:
    """In the order in which they are given, so that ties are broken as they will be: by age."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def new_id(self) -> str:
        return f"zz{next(self._numbers):023d}"


async def rehearse(
    snapshot: ClusterSnapshot, service_id: str, now: float, most_looks: int = MOST_LOOKS
) -> tuple[Rehearsal, ClusterSnapshot]:
    """Play through what becomes of a service from `snapshot` on; what was seen, and the state at the end.

    Nothing is waited for, so it may run on any thread. Ends when nothing more happens, or when the update stops.
    """
    rehearsals, end = await rehearse_all(snapshot, (service_id,), now, most_looks)
    return rehearsals[service_id], end


async def rehearse_all(
    snapshot: ClusterSnapshot, service_ids: Collection[str], now: float, most_looks: int = MOST_LOOKS
) -> tuple[dict[str, Rehearsal], ClusterSnapshot]:
    """As `rehearse`, for services that may wait for each other; ends when the update of one of them stops."""
    clock = TrialClock(now)
    store = _TrialStore(snapshot, clock)
    orchestrator = Orchestrator(store, clock, _TrialIds())
    rehearsals = {i: Rehearsal(snapshot.services[i], now) for i in sorted(service_ids)}
    asked_back = {i for i, r in rehearsals.items() if _rolls_back(r.service)}
    looks = most_looks
    ending = run_to_the_end(snapshot) | {i for i, r in rehearsals.items() if r.service.spec.mode.is_job}

    def look() -> None:
        after = store.snapshot
        for service_id, rehearsal in rehearsals.items():
            rehearsal.look(after.services[service_id], after.tasks_of_service(service_id), clock.at)

    look()
    while looks > 0:
        before = store.snapshot
        orchestrator.touch(Dirt(services=set(rehearsals), pending=True))
        await orchestrator.one_pass()
        look()
        if any(rehearsal.failed(i in asked_back) for i, rehearsal in rehearsals.items()):
            break
        store.observe(lambda state: _obeyed(state, rehearsals, ending, clock.at))
        look()
        looks -= 10 + len(before.tasks) + sum(len(before.task_ids_by_service.get(i, ())) for i in rehearsals)
        if store.snapshot is not before:
            continue
        due = orchestrator.due_at()
        if due is None or due <= clock.at or not any(r.waits_for_time() for r in rehearsals.values()):
            break
        clock.at = due
    else:
        for rehearsal in rehearsals.values():
            rehearsal.cut_short = True
    return rehearsals, store.snapshot


def _rolls_back(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state == "rollback_started"


def _obeyed(snapshot: ClusterSnapshot, service_ids: Iterable[str], ending: Collection[str], now: float) -> Changes:
    put = []
    for service_id in service_ids:
        for task in snapshot.tasks_of_service(service_id):
            after = obey(task, snapshot.nodes.get(task.node_id), now, ends=service_id in ending)
            if after is not task:
                put.append(after)
    return Changes(put_tasks=tuple(put))
