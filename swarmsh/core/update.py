"""Rolling updates: which places get the new version now, and what becomes of the update.

All of it is worked out anew from the tasks and the update's start time, so an update goes on after the manager
was killed. Rules are swarmkit's (`manager/orchestrator/update`): `parallelism` places at a time, `delay` after
each, a task that ends by itself within `monitor` is a failure, and one more `monitor` passes after the last place.
But a place is done when its new task is ready, and has failed when that is not ready in time, or gets no further.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from swarmsh.core.container import stop_grace_s
from swarmsh.core.difference import task_outdated
from swarmsh.core.draft import Draft, Place
from swarmsh.core.failure import last_words, next_command, why_failed
from swarmsh.core.filters import takes_new
from swarmsh.core.labels import deadline_s, drain_s
from swarmsh.core.overlap import make_way, replaced, stops_first
from swarmsh.core.resources import reservations_of
from swarmsh.core.restart import should_restart
from swarmsh.core.scheduler import violated
from swarmsh.core.tasks import ended_by_itself
from swarmsh.errors import SwarmshError
from swarmsh.model.objects import Service, Task, UpdateStatus
from swarmsh.model.specs import Reservations, ServiceSpec, UpdateConfig
from swarmsh.model.states import TaskState

DEFAULT_MONITOR_NS = 5_000_000_000
IN_PROGRESS = "update in progress"
# State of the update -> (state when it is through, state when it must stop, the word in its messages).
_COURSES = {
    "updating": ("completed", "paused", "update"),
    "rollback_started": ("rollback_completed", "rollback_paused", "rollback"),
}
_DONE = tuple(done for done, _, _ in _COURSES.values())


def judge_update(draft: Draft) -> None:
    """End an update that has failed, before anything else is decided by its spec."""
    status = draft.service.update_status
    if status is None or status.state not in _COURSES:
        return
    rollout = _Rollout.of(draft, status)
    config = rollout.config
    failed = rollout.failures()
    too_many = len(failed) / max(1, len(draft.places())) > config.max_failure_ratio
    if failed and too_many and config.failure_action != "continue":
        _fail(draft, status, config, *failed[0])


def roll_update(draft: Draft) -> None:
    """Take the service's update one step on; without one, start it if any task is of another version."""
    next_places = _roll(draft)
    for place in list(draft.ahead):
        if place not in next_places or not draft.still_right(place):
            draft.drop_ahead(place)
    for place in next_places:
        if place not in draft.ahead:
            draft.prepare(place)


def _roll(draft: Draft) -> list[Place]:
    """As `roll_update`; the places whose new tasks are to be prepared before their turn."""
    _adopt_unchanged(draft)
    _retire_replaced(draft)
    status = draft.service.update_status
    # Its start may have been seen by a former process that could not write it any more; the spec's is on disk.
    rollout = _Rollout.of(draft, status or UpdateStatus(state="updating", started_at=draft.service.updated_at))
    todo = rollout.todo()
    begun = [p for p in draft.places() if all(replaced(draft, p))] if _behind(draft) else []
    if status is None and (todo or begun):
        status = replace(rollout.status, message=IN_PROGRESS)
        draft.put_service(replace(draft.service, update_status=status))
    if status is None or not (todo or begun or updating(draft.service)):
        return []
    if not progressing(draft.service):
        # Paused: it goes on only after another change of the spec, which clears its status.
        _drop_unstarted(draft)
        return []
    if todo and _waits_for_runs(draft):
        return []
    busy = [p for p in draft.places() if rollout.busy(p)]
    budget = (rollout.config.parallelism or len(todo) + len(busy)) - len(busy)
    turn, later = todo[: max(0, budget)], todo[max(0, budget) :]
    for place in turn:
        _begin(draft, place, rollout.config.order)
    for place in (*begun, *todo):
        if hindrance := make_way(draft, place, rollout.config.order):
            _note_fallback(draft, place, hindrance)
    if updating(draft.service) and not todo and not busy:
        _complete_when_stable(draft, rollout)
    return later[: rollout.config.parallelism] if _costs_nothing(draft.service.spec) else []


def _waits_for_runs(draft: Draft) -> bool:
    """Whether the update may not begin more places: what has to be done before (a migration) is not.

    What runs goes on, and what ends there is followed as ever. A rollback waits for nothing.
    """
    status = draft.service.update_status
    if status is None or status.state != "updating":
        return False
    runs = draft.gate.runs
    message = f"{IN_PROGRESS} (waits for {' and for '.join(runs)})" if runs else IN_PROGRESS
    if status.message != message and (runs or status.message.startswith(f"{IN_PROGRESS} (waits for ")):
        draft.put_service(replace(draft.service, update_status=replace(status, message=message)))
    return bool(runs)


def updating(service: Service) -> bool:
    """Whether an update or rollback is under way, neither paused nor done."""
    return service.update_status is not None and service.update_status.state in _COURSES


def order_of(service: Service) -> str:
    """The order in which its update, or its rollback, replaces tasks."""
    return _config_of(service, service.update_status or UpdateStatus()).order


def progressing(service: Service) -> bool:
    """As `updating`, or it is done: what it left behind (on a node that was away) follows when it can."""
    return service.update_status is not None and service.update_status.state in (*_COURSES, *_DONE)


@dataclass(frozen=True, slots=True)
class _Rollout:
    """How far the update has come; what its tasks are is asked anew each time."""

    draft: Draft
    status: UpdateStatus
    config: UpdateConfig
    started_at: float
    deadline_s: float

    @classmethod
    def of(cls, draft: Draft, status: UpdateStatus) -> _Rollout:
        limit_s = deadline_s(draft.service.spec.labels)
        return cls(draft, status, _config_of(draft.service, status), status.started_at or 0.0, limit_s)

    def todo(self) -> list[Place]:
        """Places that nothing of the specified version stands for yet; those where nothing serves first.

        Each is begun once: what fails there is tried again as the restart policy says. A node that is away or
        paused is waited for by nobody: its own (global) task is replaced when it takes one again.
        """
        found = [p for p in self.draft.places() if not self._away(p) and self._outdated(p)]
        return sorted(found, key=lambda p: (self._serves(p), str(type(p)), p))

    def _away(self, place: Place) -> bool:
        node = self.draft.nodes.get(place) if isinstance(place, str) else None
        return node is not None and not takes_new(node)

    def _serves(self, place: Place) -> bool:
        """As far as is known, also of a node that was not heard of lately."""
        return any(t.status.ready and not self.draft.lost(t) for t in self.draft.living(place))

    def _outdated(self, place: Place) -> bool:
        draft = self.draft
        tasks = draft.at(place)
        stands = any(t.live and not draft.lost(t) and not draft.outdated(t) for t in tasks)
        if stands or self._begun(place):
            return False
        # What is settled for good (no restart) counts by its newest task; else by what still lives.
        # A place whose node is drained or fits no longer stays empty.
        last = tasks[-1] if tasks[-1].withdrawn is None else None
        return any(draft.outdated(t) for t in tasks if t.live or t is last)

    def _begun(self, place: Place) -> bool:
        """Whether the update need not begin a place (again), though nothing of it lives there.

        Its last task failed for good, or is followed by the restart policy. Otherwise nobody else makes another
        one: it was taken from its node, or what followed it is gone.
        """
        new = self._new(place)
        if not new or new[-1].withdrawn is not None:
            return False
        service = self.draft.service
        policy = service.spec.task_template.restart_policy
        last, now = new[-1], self.draft.now
        lost = last.desired > TaskState.RUNNING and ended_by_itself(last)
        return not (lost and should_restart(last, policy, service.spec_version, now))

    def _new(self, place: Place) -> list[Task]:
        """The place's tasks that this update made, oldest first; none that may be running on a lost node."""
        return [t for t in self._made(place) if t.created_at >= self.started_at]

    def _made(self, place: Place) -> list[Task]:
        """As `_new`, those that it took over or that were made before it went on again too."""
        version = self.draft.service.spec_version
        return [t for t in self.draft.at(place) if t.spec_version == version and not self.draft.lost(t)]

    def done_at(self, place: Place) -> float | None:
        """When the place was through: its first new task was ready, or known not to become so."""
        return _done_at(self._new(place))

    def busy(self, place: Place) -> bool:
        """Whether one of the update's hands is on this place: not ready yet, or within the delay after it."""
        draft, new = self.draft, self._new(place)
        # What was not made by this update holds a hand too: no more places than that are ever without a task.
        tasks = new or self._made(place)
        done_at = _done_at(tasks)
        if done_at is None:
            return any(t.live for t in tasks) and self.stuck(place) is None
        until = done_at + self.config.delay / 1e9 if new else done_at
        draft.wake(until)
        return until > draft.now

    def stuck(self, place: Place) -> Task | None:
        """The new task of a place that got no further until the deadline. The end of old ones has its own time."""
        draft, tasks = self.draft, self.draft.at(place)
        labels = draft.service.spec.labels
        stopping = [t for t in tasks if t.desired > TaskState.RUNNING and not t.status.state.terminal]
        graces = [(g := stop_grace_s(t.spec)) + drain_s(labels, g) for t in stopping]
        moved_at = max((max(t.created_at, t.status.since, t.start_after or 0.0) for t in tasks), default=0.0)
        at = max(draft.since, moved_at) + self.deadline_s + max(graces, default=0.0)
        draft.wake(at)
        waiting = [t for t in replaced(draft, place)[1] if t.ready_since is None and not t.held]
        return waiting[-1] if waiting and at <= draft.now else None

    def failures(self) -> list[tuple[Task, float | None]]:
        """The first new task of each place that failed, and for how long it had got no further, if that is why."""
        failed: list[tuple[Task, float | None]] = []
        for place in self.draft.places():
            new = self._new(place)
            first = next((t for t in new if self._failed(t)), None)
            if first is not None:
                failed.append((first, None))
            elif new and _done_at(new) is None and (stuck := self.stuck(place)) is not None:
                failed.append((stuck, self.deadline_s))
        return failed

    def _failed(self, task: Task) -> bool:
        """It was not ready in time, or ended by itself before it had been ready for `monitor`."""
        if task.late_at is not None:
            return task.withdrawn is None
        early = task.ready_since is None or task.status.since - task.ready_since < self.monitor_s
        return early and ended_by_itself(task)

    @property
    def monitor_s(self) -> float:
        # 0 means the default: the API cannot tell it from an absent one.
        return (self.config.monitor or DEFAULT_MONITOR_NS) / 1e9


def _config_of(service: Service, status: UpdateStatus) -> UpdateConfig:
    back = status.state.startswith("rollback")
    config = service.spec.rollback_config if back else service.spec.update_config
    return config or UpdateConfig(parallelism=1)


def _done_at(tasks: list[Task]) -> float | None:
    times = [t.ready_since or t.late_at or (t.status.since if ended_by_itself(t) else None) for t in tasks]
    return min((t for t in times if t is not None), default=None)


def _adopt_unchanged(draft: Draft) -> None:
    """Tasks that already run what is specified, or differ in a placement that they still meet, are kept."""
    service = draft.service
    placement = service.spec.task_template.placement
    same: dict[int, bool] = {}
    for task in draft.all():
        if task.spec_version == service.spec_version or not task.live:
            continue
        moved = replace(task, spec=replace(task.spec, placement=placement))
        if task.spec_version not in same:
            same[task.spec_version] = not task_outdated(moved, service.spec)
        node = draft.nodes.get(task.node_id)
        if same[task.spec_version] and (node is None or not violated(moved, node)):
            draft.put(replace(moved, spec_version=service.spec_version))


def _begin(draft: Draft, place: Place, order: str) -> None:
    """Put a task of the new version in a place; it waits where it has to."""
    waits = stops_first(draft, order) and any(not t.status.state.terminal for t in draft.at(place))
    draft.add(place, desired=TaskState.READY if waits else TaskState.RUNNING)


def _costs_nothing(spec: ServiceSpec) -> bool:
    """Whether a container that is only prepared takes nothing away that another task could need."""
    ports = spec.endpoint_spec.ports if spec.endpoint_spec else ()
    placement = spec.task_template.placement
    unlimited = placement is None or not placement.max_replicas
    free = reservations_of(spec.task_template) == Reservations()
    return unlimited and free and not any(port.publish_mode == "host" for port in ports)


def _retire_replaced(draft: Draft) -> None:
    """Stop what is of another version in a place where the specified one is ready."""
    for place in draft.places():
        living = draft.living(place)
        if any(draft.stands(t) and not draft.outdated(t) for t in living):
            for task in living:
                if draft.outdated(task):
                    draft.wish(task, TaskState.SHUTDOWN)


def _behind(draft: Draft) -> bool:
    return any(t.live and draft.outdated(t) for t in draft.all())


def _drop_unstarted(draft: Draft) -> None:
    """What a paused update only prepared goes: what it was to replace stays."""
    for place in draft.places():
        old, new = replaced(draft, place)
        for task in new if old else ():
            prepared = task.desired is TaskState.READY and task.status.state < TaskState.STARTING
            if prepared or not task.placed:
                draft.wish(task, TaskState.REMOVE)


def _note_fallback(draft: Draft, place: Place, hindrance: str) -> None:
    """Say once why the order of the update is not kept."""
    status = draft.service.update_status
    if status is not None and status.state == "updating" and status.message == IN_PROGRESS:
        slot = f"{draft.service.spec.name}.{place}"
        why = f"{slot} is stopped first, for it cannot run beside its successor: {hindrance}"
        draft.put_service(replace(draft.service, update_status=replace(status, message=f"{IN_PROGRESS} ({why})")))


def _fail(draft: Draft, status: UpdateStatus, config: UpdateConfig, task: Task, stuck_s: float | None) -> None:
    """Pause, or go back to the previous spec; a rollback is never rolled back."""
    _, stopped, word = _COURSES[status.state]
    because = f"due to failure or early termination of task {task.id}"
    detail = why_failed(task, draft.nodes, stuck_s)
    service = draft.service
    previous = service.previous_spec
    if config.failure_action == "rollback" and word == "update" and previous is not None:
        log = f" (last log line: {task.status.log[-1]})" if task.status.log else ""
        try:
            # One line, for the docker CLI shows it within its progress.
            draft.put_service(_rolled_back(draft, previous, f"{because}: {detail}{log}"))
            return
        except SwarmshError as e:  # its network was removed meanwhile, or its port is another service's
            because += f"; it cannot be rolled back: {e.message}"
    back = previous is not None and word == "update"
    lines = (f"{word} paused {because}: {detail}", last_words(task), next_command(service.spec.name, back=back))
    message = "\n".join(filter(None, lines))
    draft.put_service(replace(service, update_status=replace(status, state=stopped, message=message)))


def _rolled_back(draft: Draft, previous: ServiceSpec, because: str) -> Service:
    return draft.attach(
        replace(
            draft.service,
            spec=previous,
            previous_spec=None,
            spec_version=draft.service.spec_version + 1,
            update_status=UpdateStatus(
                state="rollback_started", started_at=draft.now, message=f"update rolled back {because}"
            ),
        )
    )


def _complete_when_stable(draft: Draft, rollout: _Rollout) -> None:
    done, _, word = _COURSES[rollout.status.state]
    times = [at for place in draft.places() if (at := rollout.done_at(place)) is not None]
    stable_at = max(times, default=rollout.started_at) + rollout.monitor_s
    if times and stable_at > draft.now:
        draft.wake(stable_at)
        return
    status = replace(rollout.status, state=done, completed_at=draft.now, message=f"{word} completed")
    draft.put_service(replace(draft.service, update_status=status))
