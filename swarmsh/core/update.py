"""Rolling updates: which places get the new version now, and what becomes of the update.

All of it is worked out anew from the tasks and the update's start time, so an update goes on after the manager
was killed. Rules are swarmkit's (`manager/orchestrator/update`): `parallelism` places at a time, `delay` after
each, a task that ends by itself within `monitor` is a failure, and one more `monitor` passes after the last place.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.core.difference import task_outdated
from swarmsh.core.draft import Draft, Place
from swarmsh.core.labels import fenced
from swarmsh.core.scheduler import violated
from swarmsh.errors import SwarmshError
from swarmsh.model.objects import Service, Task, UpdateStatus
from swarmsh.model.specs import ServiceSpec, UpdateConfig
from swarmsh.model.states import TaskState

DEFAULT_MONITOR_NS = 5_000_000_000
# State of the update -> (state when it is through, state when it must stop, the word in its messages).
_COURSES = {
    "updating": ("completed", "paused", "update"),
    "rollback_started": ("rollback_completed", "rollback_paused", "rollback"),
}


def judge_update(draft: Draft) -> None:
    """End an update that has failed, before anything else is decided by its spec."""
    status = draft.service.update_status
    if status is None or status.state not in _COURSES:
        return
    config = _config(draft.service, status)
    failed = _failures(draft, config, status.started_at or 0.0)
    too_many = len(failed) / max(1, len(draft.places())) > config.max_failure_ratio
    if failed and too_many and config.failure_action != "continue":
        _fail(draft, status, config, failed[0])


def roll_update(draft: Draft) -> None:
    """Take the service's update one step on; without one, start it if any task is of another version."""
    _adopt_unchanged(draft)
    _retire_replaced(draft)
    todo = _outdated_places(draft)
    status = draft.service.update_status
    if status is None and todo:
        status = UpdateStatus(state="updating", started_at=draft.now, message="update in progress")
        draft.put_service(replace(draft.service, update_status=status))
    if status is None or status.state not in _COURSES:
        # A paused update goes on only after another change of the spec, which clears its status.
        return
    config = _config(draft.service, status)
    started_at = status.started_at or 0.0
    busy = [p for p in draft.places() if _busy(draft, p, config, started_at)]
    budget = (config.parallelism or len(todo) + len(busy)) - len(busy)
    for place in todo[: max(0, budget)]:
        _replace(draft, place, config)
    if not todo and not busy:
        _complete_when_stable(draft, status, config, started_at)


def updating(service: Service) -> bool:
    """Whether an update or rollback is under way, neither paused nor done."""
    return service.update_status is not None and service.update_status.state in _COURSES


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


def _outdated_places(draft: Draft) -> list[Place]:
    """Places that nothing of the specified version stands for yet, lowest first."""
    found: list[Place] = []
    for place in draft.places():
        tasks = draft.at(place)
        stands = any(t.live and not draft.lost(t) and not draft.outdated(t) for t in tasks)
        # What is settled for good (no restart) counts by its newest task; else by what still lives.
        # A place whose node is drained or fits no longer stays empty.
        last = tasks[-1] if tasks[-1].withdrawn is None else None
        if not stands and any(draft.outdated(t) for t in tasks if t.live or t is last):
            found.append(place)
    return sorted(found, key=lambda p: (str(type(p)), p))


def _config(service: Service, status: UpdateStatus) -> UpdateConfig:
    rollback = status.state == "rollback_started"
    config = service.spec.rollback_config if rollback else service.spec.update_config
    return config or UpdateConfig(parallelism=1)


def _new_tasks(draft: Draft, place: Place, started_at: float) -> list[Task]:
    """The place's tasks that this update made, oldest first."""
    version = draft.service.spec_version
    return [t for t in draft.at(place) if t.spec_version == version and t.created_at >= started_at]


def _done_at(tasks: list[Task]) -> float | None:
    """When the place was through: its first new task ran, or ended."""
    times = [t.running_since or t.status.since for t in tasks if t.running_since or t.status.state.terminal]
    return min(times, default=None)


def _busy(draft: Draft, place: Place, config: UpdateConfig, started_at: float) -> bool:
    """Whether one of the update's hands is on this place: not running yet, or within the delay after it."""
    tasks = [t for t in _new_tasks(draft, place, started_at) if not draft.lost(t)]
    if not tasks:
        return False
    done_at = _done_at(tasks)
    if done_at is None:
        return True
    until = done_at + config.delay / 1e9
    draft.wake(until)
    return until > draft.now


def _failures(draft: Draft, config: UpdateConfig, started_at: float) -> list[Task]:
    """The first new task of each place that ended by itself before it had run for `monitor`."""
    failed = []
    for place in draft.places():
        for task in _new_tasks(draft, place, started_at):
            ended_early = task.running_since is None or (
                task.status.since - task.running_since < _monitor_s(config)
            )
            by_itself = task.status.state.terminal and task.status.state not in (
                TaskState.SHUTDOWN,
                TaskState.ORPHANED,
            )
            if by_itself and ended_early and task.withdrawn is None:
                failed.append(task)
                break
    return failed


def _monitor_s(config: UpdateConfig) -> float:
    # 0 means the default: the API cannot tell it from an absent one.
    return (config.monitor or DEFAULT_MONITOR_NS) / 1e9


def _replace(draft: Draft, place: Place, config: UpdateConfig) -> None:
    """Put a task of the new version in a place."""
    old = draft.living(place)
    # Start-first would run the slot twice.
    if not old or (config.order == "start-first" and not fenced(draft.service.spec.labels)):
        draft.add(place)
        return
    for task in old:
        draft.wish(task, TaskState.SHUTDOWN)
    draft.add(place, desired=TaskState.READY)


def _retire_replaced(draft: Draft) -> None:
    """Stop what is of another version in a place where the specified one runs."""
    for place in draft.places():
        living = draft.living(place)
        if any(t.status.state is TaskState.RUNNING and not draft.outdated(t) for t in living):
            for task in living:
                if draft.outdated(task):
                    draft.wish(task, TaskState.SHUTDOWN)


def _fail(draft: Draft, status: UpdateStatus, config: UpdateConfig, task: Task) -> None:
    """Pause, or go back to the previous spec; a rollback is never rolled back."""
    _, stopped, word = _COURSES[status.state]
    because = f"due to failure or early termination of task {task.id}"
    service = draft.service
    if config.failure_action == "rollback" and word == "update" and service.previous_spec is not None:
        try:
            draft.put_service(_rolled_back(draft, service.previous_spec, because))
            return
        except SwarmshError as e:  # its network was removed meanwhile, or its port is another service's
            because += f"; it cannot be rolled back: {e.message}"
    draft.put_service(
        replace(service, update_status=replace(status, state=stopped, message=f"{word} paused {because}"))
    )


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


def _complete_when_stable(draft: Draft, status: UpdateStatus, config: UpdateConfig, started_at: float) -> None:
    done, _, word = _COURSES[status.state]
    times = [_done_at(_new_tasks(draft, place, started_at)) for place in draft.places()]
    stable_at = max((t for t in times if t is not None), default=started_at) + _monitor_s(config)
    if any(t is not None for t in times) and stable_at > draft.now:
        draft.wake(stable_at)
        return
    draft.put_service(
        replace(
            draft.service,
            update_status=replace(status, state=done, completed_at=draft.now, message=f"{word} completed"),
        )
    )
