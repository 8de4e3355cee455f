"""Where the dependencies of a service stand, and whether its tasks may start.

The answer is worked out anew from the state in each pass, so it survives the manager. Only what never ran is held
back: a service that was let go once (`Service.let_go`) starts its tasks whatever becomes of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmsh.core.depends import DEPENDS_ON, full_names, parse_depends_on
from swarmsh.core.difference import outdated
from swarmsh.core.filters import takes_new
from swarmsh.core.scheduler import eligible
from swarmsh.model.objects import Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.stacks import Condition
from swarmsh.model.states import TaskState

_WORDING = {Condition.STARTED: "to start", Condition.HEALTHY: "to be ready", Condition.COMPLETED: "to be done"}
_BEGUN = frozenset({TaskState.STARTING, TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED})


@dataclass(frozen=True, slots=True)
class Gate:
    """What a service waits for yet. `others`: ids and names of the services whose change may alter that."""

    unmet: tuple[str, ...] = ()  # in words
    runs: tuple[str, ...] = ()  # those of them that are there and to be done: updates wait for them too
    others: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """Why tasks are held; empty if they are not."""
        return f"waits for {' and for '.join(self.unmet)}" if self.unmet else ""


OPEN = Gate()


def gate_of(snapshot: ClusterSnapshot, service: Service) -> Gate:
    """Where the dependencies of a service stand now."""
    labels = service.spec.labels
    if DEPENDS_ON not in labels:
        return OPEN
    unmet: list[str] = []
    runs: list[str] = []
    others: set[str] = set()
    for name, wanted in parse_depends_on(labels[DEPENDS_ON]).items():
        names = full_names(labels, name)
        others.update(names)
        other_id = next((snapshot.service_ids[full] for full in names if full in snapshot.service_ids), None)
        if other_id is None:
            words = f"{names[0]}, which is not there" if wanted.required else ""
        else:
            others.add(other_id)
            words = _unmet(snapshot, snapshot.services[other_id], wanted.condition)
        if words:
            unmet.append(words)
            if wanted.condition is Condition.COMPLETED and other_id is not None:
                runs.append(words)
    return Gate(tuple(unmet), tuple(runs), frozenset(others))


def run_to_the_end(snapshot: ClusterSnapshot) -> frozenset[str]:
    """Ids of plain services that others wait for to be done, and that are not run again once they are."""
    found: set[str] = set()
    for service in snapshot.services.values():
        labels = service.spec.labels
        for name, wanted in parse_depends_on(labels[DEPENDS_ON]).items() if DEPENDS_ON in labels else ():
            ids = [snapshot.service_ids[full] for full in full_names(labels, name) if full in snapshot.service_ids]
            if ids and wanted.condition is Condition.COMPLETED:
                found.add(ids[0])
    policies = {i: snapshot.services[i].spec.task_template.restart_policy for i in found}
    return frozenset(i for i, policy in policies.items() if policy and policy.condition in ("none", "on-failure"))


def begun(tasks: Iterable[Task]) -> bool:
    """Whether any of a service's tasks was let go before: it ran, runs, or is to run now."""
    return any(
        t.running_since is not None or t.status.state in _BEGUN or (t.desired is TaskState.RUNNING and t.live)
        for t in tasks
    )


def _unmet(snapshot: ClusterSnapshot, other: Service, condition: Condition) -> str:
    run = other.job_status.iteration if other.job_status is not None else None
    tasks = sorted(snapshot.tasks_of_service(other.id), key=lambda t: (t.created_at, t.id))
    places: dict[int | str, list[Task]] = {}
    for task in tasks:
        # What is only prepared for an update says nothing of what runs in its place.
        if task.desired < TaskState.REMOVE and not task.ahead and run in (None, task.job_iteration):
            places.setdefault(task.slot or task.node_id, []).append(task)
    of_global = _nodes_of(snapshot, other)
    counted = places.values() if of_global is None else [places.get(node_id, []) for node_id in of_global]
    wanted = _wanted(other) if of_global is None else len(of_global)
    met = sum(any(_meets(t, condition, other) for t in here) for here in counted)
    if met >= wanted:
        return ""
    words = f"{other.spec.name} {_WORDING[condition]} ({met} of {wanted})"
    if condition is Condition.COMPLETED:
        ends = [here[-1].status for here in places.values()]
        failed = [end for end in ends if end.state in (TaskState.FAILED, TaskState.REJECTED)]
        if failed:
            words += f": {failed[-1].err or 'its last task failed'}"
    return words


def _meets(task: Task, condition: Condition, service: Service) -> bool:
    match condition:
        case Condition.STARTED:
            return task.running_since is not None or task.status.state is TaskState.COMPLETE
        case Condition.HEALTHY:
            return task.live and task.status.ready
        case Condition.COMPLETED:
            # Not one of the version before. A job's runs are told apart already.
            right = service.job_status is not None or not outdated(task, service)
            return right and task.status.state is TaskState.COMPLETE


def _wanted(service: Service) -> int:
    """How many of its slots have to meet the condition."""
    mode = service.spec.mode
    if mode.replicated_job is not None:
        run = service.job_status.run if service.job_status is not None else None
        asked = run.completions if run is not None else mode.replicated_job.total_completions
    else:
        asked = mode.replicated.replicas if mode.replicated is not None else 1
    return 1 if asked is None else asked


def _nodes_of(snapshot: ClusterSnapshot, service: Service) -> list[str] | None:
    """Ids of the nodes on which a global service has to meet the condition; None for one with slots."""
    mode = service.spec.mode
    if mode.global_ is None and mode.global_job is None:
        return None
    template = service.spec.task_template
    nodes = [n for n in snapshot.nodes.values() if takes_new(n) and eligible(n, template)]
    if service.job_status is not None:
        run = service.job_status.run
        if run is None:  # its schedule was not due yet, and what never ran is not done
            return [""]
        nodes = [n for n in nodes if n.created_at <= run.began_at]
    return [n.id for n in nodes]
