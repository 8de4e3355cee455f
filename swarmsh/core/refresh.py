"""Secrets and configs exchanged under tasks that run: which ids change, and what nodes are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from swarmsh.core.secrets import with_other_ids
from swarmsh.core.task_files import task_files
from swarmsh.model.actions import NodeReport, RefreshSecrets, TaskReport
from swarmsh.model.objects import Refresh, Service, Task

# Before, its files are not there; while it starts, nobody may be there to be signalled.
_MAY = ("ready", "running")


def refreshed_task(task: Task, ids: Mapping[str, str], signal: str, now: float) -> Task | None:
    """The task with these ids (old -> new) in its references, and its node told so; None if it has none of them.

    It keeps its spec version, and so is not replaced. `signal` is for one that runs by then; one that does not yet
    begins with the new contents.
    """
    spec = with_other_ids(task.spec, ids)
    if spec is task.spec or not task.live:
        return None
    if not task.placed:
        return replace(task, spec=spec)
    before = task.refresh
    number = before.number + 1 if before is not None else 1
    earlier: tuple[str, ...] = ()
    if before is not None and before.done_at is None:
        # It is overtaken, and what it was to tell the process is not: each signal once, in the order of the last.
        waiting = reversed((*before.earlier, before.signal))
        earlier = tuple(reversed([one for one in dict.fromkeys(waiting) if one not in ("", signal)]))
    return replace(task, spec=spec, refresh=Refresh(number=number, signal=signal, earlier=earlier, asked_at=now))


def refreshed_service(service: Service, ids: Mapping[str, str]) -> Service:
    """The service whose tasks go on with other ids, of the same generation.

    What an update or a rollback goes back to has them too: what its secrets hold is no part of that.
    """
    previous = service.previous_spec
    if previous is not None:
        previous = replace(previous, task_template=with_other_ids(previous.task_template, ids))
    spec = replace(service.spec, task_template=with_other_ids(service.spec.task_template, ids))
    return replace(service, spec=spec, previous_spec=previous)


def plan_refreshes(
    tasks: Iterable[Task], report: NodeReport, told: Mapping[str, int]
) -> tuple[RefreshSecrets, ...]:
    """What a node is told of its running tasks; `told`: task id -> number of what it was told in this session."""
    actions = []
    for task in sorted(tasks, key=lambda t: t.id):
        refresh, found = task.refresh, report.tasks.get(task.id)
        if refresh is None or refresh.done_at is not None or found is None or not task.live:
            continue
        if found.state in _MAY and max(told.get(task.id, 0), found.refreshed) < refresh.number:
            files = task_files(task.spec)
            actions.append(
                RefreshSecrets(
                    task_id=task.id,
                    number=refresh.number,
                    signal=refresh.signal,
                    earlier=refresh.earlier,
                    files=files,
                )
            )
    return tuple(actions)


def note_refresh(task: Task, report: TaskReport, now: float) -> Task:
    """The task after its node said how far it is."""
    refresh = task.refresh
    if refresh is None or refresh.done_at is not None or report.refreshed < refresh.number:
        return task
    return replace(task, refresh=replace(refresh, done_at=now, err=report.refresh_err))
