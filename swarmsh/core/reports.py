"""What nodes report, merged into what is known. A task's state only climbs, so order and repeats do not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from swarmsh.core.refresh import note_refresh
from swarmsh.core.tasks import REJECTED_MESSAGE, ended
from swarmsh.model.actions import TaskReport
from swarmsh.model.objects import Task, TaskStatus
from swarmsh.model.specs import PortConfig
from swarmsh.model.states import TaskState

_STATES = {state.word: state for state in TaskState}


def merge_report(task: Task, report: TaskReport, now: float) -> Task:
    """The task after a report of its node; the same object if nothing changed.

    Times are the manager's: nodes' clocks are not compared with each other.
    """
    if report.state == "gone":
        return merge_absence(task, now)
    if task.status.state.terminal and report.log and not task.status.log:
        return replace(task, status=replace(task.status, log=report.log))  # its last words come after its end
    state = _STATES.get(report.state)
    if state is None or state < task.status.state or task.status.state.terminal:
        return task
    if task.withdrawn and state.terminal:
        state = TaskState.REJECTED  # swarmkit's word for it; there it is written at once, here when it has stopped
    status = TaskStatus(
        state=state,
        since=task.status.since if state is task.status.state else now,
        message=REJECTED_MESSAGE if task.withdrawn else report.message,
        err=task.withdrawn or report.err,
        container_id=report.container_id or task.status.container_id,
        pid=report.pid,
        exit_code=report.exit_code,
        ports=tuple(
            PortConfig(
                protocol=p.protocol,
                target_port=p.target_port,
                published_port=p.published_port,
                publish_mode="host",
            )
            for p in report.ports
        ),
        ready=report.ready and not state.terminal,
        restarts=max(report.restarts, task.status.restarts),
        log=report.log or task.status.log,
    )
    seen = replace(
        task,
        status=status,
        running_since=task.running_since or (now if state is TaskState.RUNNING else None),
        ready_since=task.ready_since or (now if status.ready else None),
        late_at=task.late_at or (now if report.late and task.ready_since is None else None),
    )
    seen = note_refresh(seen, report, now)
    return task if seen == task else replace(seen, updated_at=now)


def merge_absence(task: Task, now: float) -> Task:
    """The task when its node holds nothing of it: it ended, unless the node was never told of it."""
    untold = task.status.state <= TaskState.ASSIGNED and task.desired <= TaskState.RUNNING
    if task.status.state.terminal or untold:
        return task
    if task.desired > TaskState.RUNNING:
        return ended(task, TaskState.SHUTDOWN, now, "")
    return ended(task, TaskState.FAILED, now, "the task's container is gone from its node")


def merge_full_report(tasks: Iterable[Task], reports: Mapping[str, TaskReport], now: float) -> tuple[Task, ...]:
    """Those of a node's tasks that differ after a report that names all that the node holds."""
    changed = []
    for task in tasks:
        report = reports.get(task.id)
        merged = merge_absence(task, now) if report is None else merge_report(task, report, now)
        if merged is not task:
            changed.append(merged)
    return tuple(changed)
