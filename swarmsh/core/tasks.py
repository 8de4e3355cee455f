"""Making tasks and turning them: the few ways in which the manager changes a task."""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.model.objects import Service, Task, TaskStatus
from swarmsh.model.states import TaskState

REJECTED_MESSAGE = "task rejected by constraint enforcer"  # swarmkit `manager/orchestrator/constraintenforcer`


def new_task(
    service: Service,
    task_id: str,
    now: float,
    *,
    slot: int = 0,
    node_id: str = "",
    desired: TaskState = TaskState.RUNNING,
    start_after: float | None = None,
    replaces: str = "",
    restarted_at: tuple[float, ...] = (),
) -> Task:
    """A task of the service as it is specified now: for a slot (replicated), or on a node (global)."""
    return Task(
        id=task_id,
        version=0,
        created_at=now,
        updated_at=now,
        service_id=service.id,
        service_name=service.spec.name,
        slot=slot,
        node_id=node_id,
        spec=service.spec.task_template,
        spec_version=service.spec_version,
        endpoint=service.spec.endpoint_spec,
        labels=service.spec.labels,
        desired=desired,
        status=TaskStatus(state=TaskState.PENDING, since=now, message="pending task scheduling"),
        start_after=start_after,
        replaces=replaces,
        restarted_at=restarted_at,
        job_iteration=service.job_status.iteration if service.job_status is not None else None,
    )


def wish(task: Task, desired: TaskState) -> Task:
    """The task with a desired state of at least `desired`: wishes only climb."""
    return task if task.desired >= desired else replace(task, desired=desired)


def withdraw(task: Task, why: str) -> Task:
    """The task taken off its node, with `why` shown as its error from now on; it ends when it has stopped."""
    err = why or task.status.err
    message = REJECTED_MESSAGE if why else task.status.message
    status = replace(task.status, message=message, err=err)
    return replace(wish(task, TaskState.SHUTDOWN), withdrawn=why, status=status)


def ended(task: Task, state: TaskState, now: float, err: str) -> Task:
    """The task ended by the manager's own finding, where no node can report it."""
    if task.withdrawn:
        state, err = max(state, TaskState.REJECTED), err or task.withdrawn
    status = replace(task.status, state=max(state, task.status.state), since=now, err=err, ready=False)
    return replace(task, status=status)


def ended_by_itself(task: Task) -> bool:
    """It ended, and neither because it was told to nor with its node."""
    state = task.status.state
    return task.withdrawn is None and state.terminal and state not in (TaskState.SHUTDOWN, TaskState.ORPHANED)
