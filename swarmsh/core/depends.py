"""What a service waits for before its first tasks start: the label `swarmsh.depends-on`, and where that stands.

The answer is worked out anew from the state in each pass, so it needs no memory and survives the manager. Only
what never ran is held back: a service that was let go once starts its tasks whatever becomes of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarmsh.core.words import nearest
from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.stacks import NAMESPACE, Condition, Dependency
from swarmsh.model.states import TaskState

DEPENDS_ON = "swarmsh.depends-on"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_OPTIONAL = "optional"
_WORDS = (*(c.value for c in Condition), _OPTIONAL)
_WORDING = {Condition.STARTED: "to start", Condition.HEALTHY: "to be ready", Condition.COMPLETED: "to be done"}
_BEGUN = frozenset({TaskState.STARTING, TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED})


# --- the label ----------------------------------------------------------------------------------------------
def parse_depends_on(text: str) -> dict[str, Dependency]:
    """`db:healthy,migrate:completed,cache:started:optional` -> by name; a name alone means started.

    Raises InvalidSpec naming the part.
    """
    found: dict[str, Dependency] = {}
    for part in text.split(","):
        name, *words = (word.strip() for word in part.split(":"))
        if not _NAME.fullmatch(name):
            raise InvalidSpec(
                f"label {DEPENDS_ON}: '{part.strip()}' does not begin with the name of a service",
                hint="Write it as db:healthy,migrate:completed",
            )
        if name in found:
            raise InvalidSpec(f"label {DEPENDS_ON}: {name} is named twice", hint="Name each service once")
        for word in words:
            if word not in _WORDS:
                raise InvalidSpec(
                    f"label {DEPENDS_ON}: '{word}' of {name} is none of {', '.join(_WORDS)}",
                    hint=f"Did you mean {nearest(word, _WORDS)}?",
                )
        conditions = [word for word in words if word != _OPTIONAL]
        if len(conditions) > 1:
            raise InvalidSpec(
                f"label {DEPENDS_ON}: {name} has the conditions {' and '.join(conditions)}", hint="Choose one"
            )
        condition = Condition(conditions[0]) if conditions else Condition.STARTED
        found[name] = Dependency(condition=condition, required=_OPTIONAL not in words)
    return found


def depends_on_label(dependencies: Mapping[str, Dependency]) -> str:
    """The label's value for these, sorted by name; what `parse_depends_on` reads."""
    return ",".join(
        f"{name}:{wanted.condition.value}" + ("" if wanted.required else f":{_OPTIONAL}")
        for name, wanted in sorted(dependencies.items())
    )


def _full_names(labels: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What a name in the label may mean: a service of the same stack goes first."""
    stack = labels.get(NAMESPACE, "")
    return (f"{stack}_{name}", name) if stack else (name,)


def refuse_cycle(snapshot: ClusterSnapshot, spec: ServiceSpec) -> None:
    """Refuse a spec with which services would wait for each other. Raises InvalidSpec naming them in order."""
    if DEPENDS_ON not in spec.labels:
        return
    ids = snapshot.service_ids

    def waits_for(name: str) -> Iterable[str]:
        labels = spec.labels if name == spec.name else snapshot.services[ids[name]].spec.labels
        for other in parse_depends_on(labels[DEPENDS_ON]) if DEPENDS_ON in labels else ():
            there = [full for full in _full_names(labels, other) if full in ids or full == spec.name]
            yield from there[:1]

    if cycle := find_cycle([spec.name], waits_for):
        raise InvalidSpec(
            f"label {DEPENDS_ON}: {' waits for '.join(cycle)}: none of them would ever start",
            hint="Leave one of them out",
        )


def find_cycle(names: Iterable[str], waits_for: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """A cycle that begins and ends with one name, reached from `names`; empty if there is none.

    `waits_for(name)` gives the names that a name points at.
    """
    done: set[str] = set()
    for start in names:
        path: list[str] = [start]
        open_ = [iter(waits_for(start))]
        while open_:
            following = next(open_[-1], None)
            if following is None:
                open_.pop()
                done.add(path.pop())
            elif following in path:
                return (*path[path.index(following) :], following)
            elif following not in done:
                path.append(following)
                open_.append(iter(waits_for(following)))
    return ()


# --- where it stands ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Gate:
    """What a service waits for yet. `others`: ids and names of the services whose change may alter that."""

    unmet: tuple[str, ...] = ()  # in words
    runs: tuple[str, ...] = ()  # those of them that are to be done: updates wait for them too
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
        names = _full_names(labels, name)
        others.update(names)
        other_id = next((snapshot.service_ids[full] for full in names if full in snapshot.service_ids), None)
        if other_id is None:
            words = f"{names[0]}, which is not there" if wanted.required else ""
        else:
            others.add(other_id)
            words = _unmet(snapshot, snapshot.services[other_id], wanted.condition)
        if words:
            unmet.append(words)
            if wanted.condition is Condition.COMPLETED:
                runs.append(words)
    return Gate(tuple(unmet), tuple(runs), frozenset(others))


def begun(tasks: Iterable[Task]) -> bool:
    """Whether any of a service's tasks was let go before: it ran, runs, or is to run now."""
    return any(
        t.running_since is not None or t.status.state in _BEGUN or (t.desired is TaskState.RUNNING and t.live)
        for t in tasks
    )


def _unmet(snapshot: ClusterSnapshot, other: Service, condition: Condition) -> str:
    tasks = sorted(snapshot.tasks_of_service(other.id), key=lambda t: (t.created_at, t.id))
    if other.job_status is not None:
        run = other.job_status.iteration
        tasks = [t for t in tasks if t.job_iteration == run]
    newest = {t.slot or t.node_id: t for t in tasks if t.desired < TaskState.REMOVE}
    wanted = _wanted(other, newest.values())
    met = sum(_meets(t, condition) for t in newest.values())
    if met >= wanted:
        return ""
    words = f"{other.spec.name} {_WORDING[condition]} ({met} of {wanted})"
    if condition is Condition.COMPLETED:
        failed = [t for t in newest.values() if t.status.state in (TaskState.FAILED, TaskState.REJECTED)]
        if failed:
            words += f": {failed[-1].status.err or 'its last task failed'}"
    return words


def _meets(task: Task, condition: Condition) -> bool:
    match condition:
        case Condition.STARTED:
            return task.running_since is not None or task.status.state is TaskState.COMPLETE
        case Condition.HEALTHY:
            return task.live and task.status.ready
        case Condition.COMPLETED:
            return task.status.state is TaskState.COMPLETE


def _wanted(service: Service, newest: Iterable[Task]) -> int:
    """How many of its tasks have to meet the condition."""
    mode = service.spec.mode
    if mode.replicated_job is not None:
        run = service.job_status.run if service.job_status is not None else None
        return max(1, run.completions if run is not None else mode.replicated_job.total_completions or 1)
    if mode.global_ is not None or mode.global_job is not None:
        return max(1, sum(1 for t in newest if t.live or t.status.state is TaskState.COMPLETE))
    replicas = mode.replicated.replicas if mode.replicated is not None else 1
    return 1 if replicas is None else replicas


def start_levels(names: Sequence[str], depends_on: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The names in the order in which they start: each list once those before it meet what is asked of them.

    Within a list as in `names`. There must be no cycle.
    """
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = 1 + max((of(other) for other in depends_on.get(name, ()) if other in names), default=-1)
        return level[name]

    found: list[list[str]] = []
    for name in names:
        at = of(name)
        found += [[] for _ in range(at + 1 - len(found))]
        found[at].append(name)
    return found
