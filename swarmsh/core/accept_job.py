"""What is particular to jobs in accepting a spec; sources and rules as for the whole."""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.core.schedule import LABEL, check_schedule
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import ReplicatedJobMode, RestartPolicy, ServiceMode, ServiceSpec, TaskSpec


def accept_job_mode(mode: ServiceMode) -> ServiceMode:
    """The mode to store, with the numbers that dockerd fills in. Raises InvalidSpec."""
    job = mode.replicated_job
    if job is None:
        return mode
    concurrent = 1 if job.max_concurrent is None else job.max_concurrent
    completions = concurrent if job.total_completions is None else job.total_completions
    if concurrent < 0:
        raise InvalidSpec("Maximum concurrent jobs must not be negative")
    if completions < 0:
        raise InvalidSpec("Total completed jobs must not be negative")
    if completions and not concurrent:
        raise InvalidSpec(
            "a job of which 0 tasks may run at a time would never end", hint="Set MaxConcurrent to 1 or more"
        )
    return ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=concurrent, total_completions=completions))


def check_job(spec: ServiceSpec) -> None:
    """Refuse what jobs cannot have, and what only they can. Raises InvalidSpec."""
    if check_schedule(spec.labels) and not spec.mode.is_job:
        raise InvalidSpec(
            f"label {LABEL}: only jobs run by a schedule", hint="Use mode replicated-job or global-job"
        )
    if not spec.mode.is_job:
        return
    for config, which in ((spec.update_config, "an update"), (spec.rollback_config, "a rollback")):
        if config is not None:
            raise InvalidSpec(
                f"Jobs may not have {which} config", hint="An update of a job runs it anew, all tasks at once"
            )


def job_template(task: TaskSpec, asked: RestartPolicy | None) -> TaskSpec:
    """The template with a job's default condition in a policy that `asked` for none.

    `any` is stored as it was sent: the docker CLI sends it with any other flag of the policy. It acts as
    on-failure, as in swarmkit: a task that is complete is never followed by another one.
    """
    if task.restart_policy is None or asked is None or asked.condition:
        return task
    return replace(task, restart_policy=replace(task.restart_policy, condition="on-failure"))
