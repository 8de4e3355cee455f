"""Passes over services that changed: plan each, place what is unplaced, write all of it in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.allocate import Allocator
from swarmsh.core.attach import attached
from swarmsh.core.draft import ServicePlan
from swarmsh.core.gate import gate_of
from swarmsh.core.orchestrate import plan_removed_service, plan_service
from swarmsh.core.scheduler import MONITORED_S, Failures, SchedulingView, schedule
from swarmsh.core.secrets import needs_contents
from swarmsh.errors import Exhausted, SwarmshError
from swarmsh.manager.dirt import Dirt
from swarmsh.manager.ports import Clock, DecisionStore, IdSource
from swarmsh.manager.usecases.happenings import service_event
from swarmsh.model.objects import Event, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import TaskState

log = logging.getLogger(__name__)

RETRY_S = 1.0
BUG_RETRY_S = 30.0
CLOCK_LOOK_S = 15.0


@dataclass(slots=True)
class Orchestrator:
    """Turns dirt into tasks. `touch` may be called at any time; `run` never ends by itself."""

    store: DecisionStore
    clock: Clock
    ids: IdSource
    # Whether a node has been in touch with this process: what is known of others may be long out of date.
    met: Callable[[str], bool] = lambda node_id: True
    # Why secrets and configs cannot be read now, empty if they can: tasks that need them wait for a place then.
    locked: Callable[[], str] = lambda: ""
    _awake_since: float = 0.0  # this process could do nothing before: it started then, or stood still until then
    _services: set[str] = field(default_factory=set)
    _pending: bool = True
    _wake_at: dict[str, float] = field(default_factory=dict)  # by service
    _waiting: dict[str, frozenset[str]] = field(default_factory=dict)  # service -> ids, names it waits for
    _place_at: float | None = None  # when an address may be given again that an unplaced task waits for
    _retry_at: float | None = None
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    # (node, service, spec version) -> when its tasks failed there, for the scheduler's ranking.
    _failures: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.woke()

    def woke(self) -> None:
        """The process has stood still until now: deadlines run from here."""
        self._awake_since = self.clock.now()

    def touch(self, dirt: Dirt) -> None:
        """Look at these services, and at unplaced tasks, in the next pass."""
        self._services |= dirt.services
        self._pending |= dirt.pending
        if self._waiting and dirt.services:
            there = self.store.snapshot.services
            changed = {*dirt.services, *(there[i].spec.name for i in dirt.services if i in there)}
            self._services |= {i for i, others in self._waiting.items() if not others.isdisjoint(changed)}
        if dirt.services or dirt.pending:
            self._due.set()

    def touch_all(self) -> None:
        """Look at everything: at the start, and now and then as a safety net."""
        now = self.clock.now()
        for key, times in list(self._failures.items()):
            if max(times) <= now - MONITORED_S:
                del self._failures[key]
        snapshot = self.store.snapshot
        self.touch(Dirt(services={*snapshot.services, *snapshot.task_ids_by_service}, pending=True))

    def note_failures(self, before: ClusterSnapshot, changed: Iterable[Task]) -> None:
        """Remember which nodes fail which services."""
        now = self.clock.now()
        for task in changed:
            was = before.tasks.get(task.id)
            failed = task.status.state in (TaskState.FAILED, TaskState.REJECTED)
            if failed and task.node_id and was is not None and not was.status.state.terminal:
                key = (task.node_id, task.service_id, task.spec_version)
                times = [t for t in self._failures.get(key, ()) if t > now - MONITORED_S]
                self._failures[key] = [*times, now]

    def failures(self) -> Failures:
        """What `note_failures` remembered, as a copy."""
        return {key: tuple(times) for key, times in self._failures.items()}

    async def run(self) -> None:
        while True:
            await self._wait()
            try:
                await self.one_pass()
            except SwarmshError as e:
                # A full disk, most likely: nothing was written, so all of it is looked at again.
                log.error("pass_failed error=%s", e)
                self._retry_at = self.clock.now() + RETRY_S

    async def one_pass(self) -> None:
        """Plan what is dirty now. Public for tests and for a manager that stops cleanly."""
        services, pending = self._services, self._pending
        self._services, self._pending = set(), False
        self._due.clear()
        now = self.clock.now()
        services |= {s for s, at in self._wake_at.items() if at <= now}
        pending |= self._place_at is not None and self._place_at <= now
        if self._retry_at is not None:
            self._retry_at = None
            services |= {*self.store.snapshot.services, *self.store.snapshot.task_ids_by_service}
            pending = True
        progressed: list[Service] = []

        def decide(snapshot: ClusterSnapshot) -> Changes:
            progressed.clear()
            return self._decide(snapshot, services, pending, now, progressed)

        await self.store.commit_orchestration(decide)
        if progressed:
            self.store.observe(lambda snapshot: _progress(snapshot, progressed))

    def _decide(
        self,
        snapshot: ClusterSnapshot,
        services: set[str],
        pending: bool,
        now: float,
        progressed: list[Service],
    ) -> Changes:
        """One transaction's worth of changes: tasks of these services, and places for unplaced tasks."""
        if snapshot.cluster is None:
            self._wake_at.clear()
            self._waiting.clear()
            self._place_at = None
            return Changes()
        put: dict[str, Task] = {}
        deleted: list[str] = []
        put_services: list[Service] = []
        happened: list[Event] = []
        view = snapshot
        ids = self._ids()
        allocator = Allocator(snapshot, now)
        for service_id in sorted(services):
            service = view.services.get(service_id)
            plan = self._plan(view, service_id, service, ids, now, snapshot.cluster.task_history, allocator)
            self._note_wake(service_id, plan.wake_at)
            if plan.put_service is not None and service is not None:
                # What a run of a job is known by is written with its tasks: it must not begin twice.
                noted = (plan.put_service.spec, plan.put_service.job_status) == (service.spec, service.job_status)
                (progressed if noted else put_services).append(plan.put_service)
                if replace(plan.put_service, let_go=service.let_go) != service:
                    happened += plan.events or (service_event("update", plan.put_service, now, service),)
            changes = Changes(put_tasks=plan.put_tasks, delete_tasks=plan.delete_tasks)
            view = view.apply(changes, view.index)
            put.update((t.id, t) for t in plan.put_tasks)
            deleted.extend(plan.delete_tasks)
        if pending or put:
            placed = self._place(view, now, allocator)
            put.update((t.id, t) for t in placed)
        for task_id in deleted:
            put.pop(task_id, None)
        return Changes(
            put_services=tuple(put_services),
            put_tasks=tuple(put.values()),
            delete_tasks=tuple(deleted),
            events=tuple(happened),
        )

    def _plan(
        self,
        view: ClusterSnapshot,
        service_id: str,
        service: Service | None,
        ids: Iterator[str],
        now: float,
        history: int,
        allocator: Allocator,
    ) -> ServicePlan:
        """The plan of one service; one that cannot be planned (a bug) is left alone and does not stop the rest."""
        tasks = tuple(view.tasks_of_service(service_id))
        self._waiting.pop(service_id, None)
        try:
            if service is None:
                return plan_removed_service(tasks, view.nodes)
            gate = gate_of(view, service)
            if gate.unmet:
                self._waiting[service_id] = gate.others
            return plan_service(
                *(service, tasks, view.nodes, ids, now, history, view.tasks_of_node),
                *(lambda s: attached(s, allocator), self.met, self._awake_since, gate),
            )
        except Exception:
            log.exception("plan_failed service=%s", service_id)
            return ServicePlan(wake_at=now + BUG_RETRY_S)

    def _place(self, view: ClusterSnapshot, now: float, allocator: Allocator) -> list[Task]:
        """Unplaced tasks with the node found for them and their addresses, or with the reason why there are none.

        A global service's task has its node from the start, and waits until that has room for it.
        """
        self._place_at = None
        unplaced = sorted(view.pending_tasks(), key=lambda t: (t.created_at, t.id))
        if why := self.locked():
            held = [task for task in unplaced if needs_contents(task.spec)]
            waiting = [_refused(task, f"it needs secrets or configs, and {why}") for task in held]
            unplaced = [task for task in unplaced if not needs_contents(task.spec)]
        else:
            waiting = []
        changed = [task for task in waiting if task is not view.tasks[task.id]]
        if not unplaced:
            return changed
        left = allocator.egress_left(view.nodes.values(), enough=len(unplaced))
        outcome = schedule(unplaced, SchedulingView.of(view, now, self._failures, left))
        if outcome.refusals:
            for short in (i for i, free in left.items() if free < len(unplaced)):
                self._try_again_at(allocator.egress_free_at(view.nodes[short]))
        for task in unplaced:
            node_id = outcome.assignments.get(task.id)
            refusal = outcome.refusals.get(task.id, "")
            if node_id is not None:
                try:
                    placed = allocator.task(task, view.nodes[node_id])
                except SwarmshError as e:  # an address is missing, or a network
                    self._note_free_at(e)
                    refusal = str(e)
                else:
                    resources = outcome.generic_resources.get(task.id, ())
                    changed.append(replace(_assigned(placed, node_id, now), generic_resources=resources))
                    continue
            if task.status.err != refusal:
                changed.append(_refused(task, refusal))
        return changed

    def _note_free_at(self, error: SwarmshError) -> None:
        """Try again when time alone will help; before that, what else may help is another task's end."""
        self._try_again_at(error.free_at if isinstance(error, Exhausted) else None)

    def _try_again_at(self, at: float | None) -> None:
        if at is not None and (self._place_at is None or at < self._place_at):
            self._place_at = at

    def _note_wake(self, service_id: str, at: float | None) -> None:
        if at is None:
            self._wake_at.pop(service_id, None)
        else:
            self._wake_at[service_id] = at

    def _ids(self) -> Iterator[str]:
        while True:
            yield self.ids.new_id()

    def due_at(self) -> float | None:
        """When time alone makes something to do; None if it never does."""
        times = [*self._wake_at.values(), *(at for at in (self._retry_at, self._place_at) if at is not None)]
        return min(times, default=None)

    async def _wait(self) -> None:
        """Until something is dirty or due."""
        while self._retry_at is not None or not self._due.is_set():
            soonest = self.due_at()
            # Timers stand still while the machine sleeps, the clock goes on: it is looked at now and then.
            timeout = None if soonest is None else min(CLOCK_LOOK_S, max(0.0, soonest - self.clock.now()))
            try:
                async with asyncio.timeout(timeout):
                    await (self._due.wait() if self._retry_at is None else asyncio.Event().wait())
            except TimeoutError:
                if soonest is not None and soonest <= self.clock.now():
                    return


def _refused(task: Task, why: str) -> Task:
    return task if task.status.err == why else replace(task, status=replace(task.status, err=why))


def _assigned(task: Task, node_id: str, now: float) -> Task:
    status = replace(
        task.status, state=TaskState.ASSIGNED, since=now, message="scheduler assigned task to node", err=""
    )
    return replace(task, node_id=node_id, status=status)


def _progress(snapshot: ClusterSnapshot, progressed: Iterable[Service]) -> Changes:
    """Update statuses, and that they were let go, put onto services as they are now; what users wrote wins."""
    put = []
    for service in progressed:
        stored = snapshot.services.get(service.id)
        if stored is not None and stored.version == service.version:
            put.append(replace(stored, update_status=service.update_status, let_go=service.let_go))
    return Changes(put_services=tuple(put))
