"""Restart policy: whether an ended task is followed by another one, and after how long.

Rules and defaults are swarmkit's (`manager/orchestrator/restart`): condition any, delay 5 s, no limit of attempts;
attempts are counted for a slot and a version of the spec, within the window if there is one.
"""

from __future__ import annotations

from swarmsh.model.objects import Task
from swarmsh.model.specs import RestartPolicy
from swarmsh.model.states import TaskState

DEFAULT_DELAY_NS = 5_000_000_000


def restart_delay_s(policy: RestartPolicy | None) -> float:
    """Seconds between the end of a task and the start of the next."""
    delay = policy.delay if policy is not None else None
    return (DEFAULT_DELAY_NS if delay is None else delay) / 1e9


def should_restart(task: Task, policy: RestartPolicy | None, spec_version: int, now: float) -> bool:
    """Whether `task`, which ended by itself, is to be followed by another attempt.

    `policy` is the service's of today. Restarts that the Engine made while no manager was there count too.
    """
    policy = policy or RestartPolicy()
    if policy.condition == "none":
        return False
    if policy.condition == "on-failure" and task.status.state is TaskState.COMPLETE:
        return False
    if not policy.max_attempts or task.spec_version != spec_version:
        return True
    recent = [t for t in task.restarted_at if not policy.window or t > now - policy.window / 1e9]
    return len(recent) + task.status.restarts < policy.max_attempts


def carried_history(task: Task, policy: RestartPolicy | None, spec_version: int, now: float) -> tuple[float, ...]:
    """`restarted_at` of the task that follows: one longer, and no longer than the policy can ask for."""
    attempts = (policy.max_attempts or 0) if policy is not None else 0
    if not attempts or task.spec_version != spec_version:
        return ()
    return ((*task.restarted_at, *([now] * task.status.restarts), now))[-attempts:]
