"""Jobs: services whose tasks run to their end, in iterations (swarmkit `manager/orchestrator/jobs`).

Each iteration is a small service of its own, with its own slots: a slot of which one task is complete is done, as
is one whose last task failed for good. (swarmkit starts what a restart policy of `none` has ended again and again:
moby#42741.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as with_fields
from datetime import UTC, datetime

from msgspec.structs import replace

from swarmsh.core.draft import Draft, ServicePlan, place_of
from swarmsh.core.global_mode import fit_to_nodes
from swarmsh.core.labels import PREFIX, fenced
from swarmsh.core.moves import drop_doubles, leave_removed_nodes, leave_unfit_nodes, replace_lost, settle_stand_ins
from swarmsh.core.replicas import free_slots
from swarmsh.core.restart import carried_history, restart_delay_s, should_restart
from swarmsh.core.schedule import Due, Schedule, decide, next_run, schedule_of
from swarmsh.core.tasks import ended
from swarmsh.model.objects import Event, JobRun, JobStatus, Service, Task, UpdateStatus
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.states import TaskState


# --- what users' writes mean ------------------------------------------------------------------------------------
def created_job(service: Service, now: float) -> Service:
    """A new service with the status of its job, if it is one. With a schedule it waits for its time."""
    if not service.spec.mode.is_job:
        return service
    schedule = schedule_of(service.spec.labels)
    if schedule is None:
        return replace(service, job_status=_begun(service, JobStatus(), 0, now))
    return _waiting(replace(service, job_status=_timed(JobStatus(), schedule, now)), now)


def updated_job(stored: Service, updated: Service, now: float) -> Service:
    """`updated` with the status of its job after a change of the spec, a rollback as well.

    Any update runs a job anew, as in Docker; one of our labels only does not, and a job with a schedule waits for
    its time. What `--force` counts up always runs it.
    """
    status = stored.job_status
    if status is None:
        return updated
    schedule = schedule_of(updated.spec.labels)
    if schedule is None:
        status = replace(status, next_execution=None)
    elif status.next_execution is None or schedule != schedule_of(stored.spec.labels):
        status = _timed(status, schedule, now)
    anew = _runs_anew(stored.spec, updated.spec, schedule)
    if anew:
        status = replace(_begun(updated, status, status.iteration + 1, now), earlier=())
    updated = replace(updated, update_status=_rolled_back(updated.update_status, now))
    if not anew and schedule is not None:
        updated = _waiting(replace(updated, job_status=status), now)
    return replace(updated, job_status=status)


def _runs_anew(before: ServiceSpec, after: ServiceSpec, schedule: Schedule | None) -> bool:
    if after.task_template.force_update > before.task_template.force_update:  # a rollback counts it down
        return True
    return schedule is None and (before == after or _without_our_labels(before) != _without_our_labels(after))


def _without_our_labels(spec: ServiceSpec) -> ServiceSpec:
    return replace(spec, labels={k: v for k, v in spec.labels.items() if not k.startswith(PREFIX)})


def _begun(service: Service, status: JobStatus, iteration: int, now: float) -> JobStatus:
    mode = service.spec.mode.replicated_job
    completions = (mode.total_completions or 0) if mode is not None else 0
    run = JobRun(iteration=iteration, began_at=now, completions=completions, spec_version=service.spec_version)
    return replace(status, iteration=iteration, run=run)


def _timed(status: JobStatus, schedule: Schedule, now: float) -> JobStatus:
    return replace(status, next_execution=next_run(schedule, now))


def _waiting(service: Service, now: float) -> Service:
    """Say that there is nothing to wait for now: else Docker's CLI waits until the job has run."""
    at = service.job_status.next_execution if service.job_status is not None else None
    when = f"it runs next at {time_words(at)}" if at is not None else "it is not due any more"
    status = UpdateStatus(state="completed", started_at=now, completed_at=now, message=f"scheduled: {when}")
    return replace(service, update_status=status)


def _rolled_back(status: UpdateStatus | None, now: float) -> UpdateStatus | None:
    """A rollback of a job is done as soon as it is asked for: if it runs, its next run is of the previous spec."""
    return replace(status, state="rollback_completed", completed_at=now) if status is not None else None


def time_words(at: float) -> str:
    """As the API writes times, in whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- a pass -----------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Runs:
    """The tasks of a job, apart by iteration: each in a draft of its own, with the service as it is in it."""

    whole: Draft
    status: JobStatus
    drafts: dict[int, Draft]

    @classmethod
    def of(cls, draft: Draft, status: JobStatus) -> _Runs:
        runs = cls(draft, status, {})
        tasks: dict[int, list[Task]] = {}
        for task in draft.all():
            tasks.setdefault(task.job_iteration or 0, []).append(task)
        for iteration in sorted(tasks):
            runs._add(iteration, tasks[iteration])
        return runs

    def of_run(self, run: JobRun) -> Draft:
        if run.iteration not in self.drafts:
            self._add(run.iteration, ())
        return self.drafts[run.iteration]

    def active(self) -> tuple[JobRun, ...]:
        """Those that are still on or were the last, oldest first."""
        return (*self.status.earlier, *((self.status.run,) if self.status.run is not None else ()))

    def all(self) -> Iterator[Draft]:
        yield from self.drafts.values()

    def _add(self, iteration: int, tasks: Iterable[Task]) -> None:
        service = self.whole.service
        status = replace(service.job_status or JobStatus(), iteration=iteration)
        self.drafts[iteration] = self.whole.part(replace(service, job_status=status), tasks)


def plan_job(draft: Draft) -> ServicePlan:
    """As `orchestrate.plan_service`, for a service that is a job."""
    before = draft.service.job_status or JobStatus()
    runs = _Runs.of(draft, before)
    for run in runs.active():
        _reconcile(runs.of_run(run), run, newest=run == before.run)
    runs.status = replace(before, earlier=tuple(r for r in before.earlier if _still_on(runs, r)))
    events = _follow_schedule(runs, draft)
    kept = {run.iteration for run in runs.active()}
    for iteration, part in runs.drafts.items():
        if iteration not in kept:
            _end(part)
    _let_go(runs, kept)
    for part in runs.all():
        draft.take(part)
    _trim_history(draft, runs.active())
    if runs.status != before:
        status = draft.service.update_status
        begun = runs.status.iteration != before.iteration
        draft.put_service(replace(draft.service, job_status=runs.status, update_status=None if begun else status))
    return with_fields(draft.plan(), events=events)


def _reconcile(part: Draft, run: JobRun, *, newest: bool) -> None:
    """Bring one iteration nearer to its end."""
    leave_removed_nodes(part)
    settle_stand_ins(part)
    _end_needless(part)
    _retry(part)
    if part.service.spec.mode.global_job is not None:
        # On nodes that were there when it began; after a change of the spec that waits for the next run, on none.
        fits = newest and run.spec_version == part.service.spec_version
        fit_to_nodes(part, joined_by=run.began_at if fits else None)
    else:
        replace_lost(part)
        leave_unfit_nodes(part)
        _fill(part, run)
    drop_doubles(part)


def _retry(part: Draft) -> None:
    """Follow each task that failed by itself with another attempt, if the restart policy says so."""
    policy = part.service.spec.task_template.restart_policy
    version = part.service.spec_version
    for task in part.all():
        if not task.status.state.terminal or task.desired > TaskState.RUNNING or _complete(task):
            continue
        part.wish(task, TaskState.SHUTDOWN)
        place = place_of(task)
        stood_in_for = part.stood_in_for(task)
        others = [t for t in part.at(place) if (t.live or _complete(t)) and t is not stood_in_for]
        if not others and should_restart(task, policy, version, part.now):
            part.add(
                place,
                desired=TaskState.READY,
                start_after=part.now + restart_delay_s(policy),
                replaces=stood_in_for.id if stood_in_for is not None else "",
                restarted_at=carried_history(task, policy, version, part.now),
            )


def _end_needless(part: Draft) -> None:
    """Where one task is complete nothing else need run: the other of a task on a lost node and its stand-in."""
    for place in part.places():
        if any(_complete(task) for task in part.at(place)):
            for task in part.living(place):
                part.wish(task, TaskState.SHUTDOWN)


def _fill(part: Draft, run: JobRun) -> None:
    """Start in free slots as many tasks as may run beside those that do, and as the run needs yet."""
    mode = part.service.spec.mode.replicated_job
    most = mode.max_concurrent or 1 if mode is not None else 1
    occupied = {place for place in part.places() if isinstance(place, int)}
    active = sum(bool(part.living(place)) for place in occupied)
    new = min(run.completions - len(occupied), most - active)
    for slot in free_slots(len(occupied) + new, occupied):
        part.add(slot, desired=TaskState.READY)


def _still_on(runs: _Runs, run: JobRun) -> bool:
    """Whether anything of the iteration runs or is to run yet."""
    part = runs.of_run(run)
    places = part.places()
    return len(places) < run.completions or any(part.living(place) for place in places)


def _end(part: Draft) -> None:
    """Stop what runs of an iteration that another one has taken the place of."""
    for task in part.all():
        if not _complete(task):
            part.wish(task, TaskState.SHUTDOWN)
    leave_removed_nodes(part)


def _let_go(runs: _Runs, kept: set[int]) -> None:
    """Let prepared tasks run when their delay is over and what they follow has stopped."""
    ending = any(_leaving(p, task) for i, p in runs.drafts.items() if i not in kept for task in p.all())
    for part in runs.all():
        for task in part.all():
            if task.desired is not TaskState.READY or task.status.state.terminal or part.hold(task):
                continue
            if task.start_after is not None and task.start_after > part.now:
                part.wake(task.start_after)
            elif not ending and not any(_leaving(part, other) for other in part.beside(task)):
                part.wish(task, TaskState.RUNNING)


def _leaving(part: Draft, task: Task) -> bool:
    """It was told to stop and has not, on a node that can be waited for. What is fenced is there until then."""
    told = task.desired > (TaskState.READY if fenced(task.labels) else TaskState.RUNNING)
    gone = task.status.state.terminal or not task.placed or task.node_id not in part.nodes
    return told and not gone and not part.lost(task)


def _complete(task: Task) -> bool:
    return task.status.state is TaskState.COMPLETE


# --- schedules --------------------------------------------------------------------------------------------------
def _follow_schedule(runs: _Runs, draft: Draft) -> tuple[Event, ...]:
    """Begin an iteration if the job's schedule is due, or take note that it is left out; else wake up in time."""
    schedule = schedule_of(draft.service.spec.labels)
    at = runs.status.next_execution
    if schedule is None or at is None:
        return ()
    if at > draft.now:
        draft.wake(at)
        return ()
    still_on = [run for run in runs.active() if _still_on(runs, run)]
    due = decide(schedule, at, draft.now, still_on=bool(still_on))
    status = replace(runs.status, next_execution=due.next_execution)
    if due.skipped:
        status = replace(
            status,
            skipped=status.skipped + due.skipped,
            skipped_at=due.newest,
            skipped_because=due.because,
        )
    if due.runs:
        status = replace(_begun(draft.service, status, status.iteration + 1, draft.now), earlier=tuple(still_on))
    runs.status = status
    if due.runs and status.run is not None:
        _reconcile(runs.of_run(status.run), status.run, newest=True)
    if due.next_execution is not None:
        draft.wake(due.next_execution)
    return tuple(_told(draft.service, due, status, draft.now))


def _told(service: Service, due: Due, status: JobStatus, now: float) -> Iterator[Event]:
    named = {"name": service.spec.name, "due": time_words(due.newest)}

    def event(action: str, **attributes: str) -> Event:
        return Event(time=now, type="service", action=action, id=service.id, attributes=named | attributes)

    if due.skipped:
        yield event("job_skipped", runs=str(due.skipped), reason=due.because)
    if due.runs:
        missed = {"missed": str(due.missed)} if due.missed else {}
        yield event("job_run", iteration=str(status.iteration), **missed)


# --- history ----------------------------------------------------------------------------------------------------
def _trim_history(draft: Draft, active: tuple[JobRun, ...]) -> None:
    """Keep of each slot as many tasks as the history may have, and of runs as many.

    What says how a slot of an active run stands is kept in any case: its newest task, and one that is complete.
    """
    for task in draft.all():
        if task.desired > TaskState.RUNNING and not task.status.state.terminal and not task.placed:
            draft.put(ended(task, TaskState.SHUTDOWN, draft.now, ""))
    most = max(1, draft.history)
    iterations = {run.iteration for run in active}
    oldest = max(iterations, default=0) - most
    for place in draft.places():
        tasks = draft.at(place)
        kept = set(_settling(tasks, iterations))
        spare = [t for t in tasks if t.status.state.terminal and t.id not in kept]
        surplus = len(tasks) - most
        for number, task in enumerate(spare):
            if number < surplus or (task.job_iteration or 0) <= oldest:
                draft.delete(task)
    for task in draft.all():
        over = task.status.state.terminal or not task.placed or task.node_id not in draft.nodes
        if task.desired is TaskState.REMOVE and over:
            draft.delete(task)


def _settling(tasks: list[Task], iterations: set[int]) -> Iterator[str]:
    newest = {task.job_iteration: task.id for task in tasks}
    for task in tasks:
        if task.job_iteration in iterations and (_complete(task) or newest[task.job_iteration] == task.id):
            yield task.id
