"""A change of a service played through before it is made: nodes that obey, and a record of what became of tasks.

Who plays it runs the real passes on a copy of the state; here is what stands in for nodes, and how what was seen
turns into steps. Nothing fails in a rehearsal, and no container takes time to start or stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from swarmsh.core.draft import Place, place_of
from swarmsh.core.reports import merge_report
from swarmsh.core.update import updating
from swarmsh.model.actions import TaskReport
from swarmsh.model.objects import Node, Service, Task
from swarmsh.model.states import NodeState, TaskState
from swarmsh.model.wire import Record


class Step(Record, kw_only=True):
    """What happens to one place of a service: its slot, or for a global service its node.

    Steps of one `order` happen at the same time. `after_s`: seconds from the beginning by the service's own delays
    and monitor periods; what containers take to start and stop comes on top.
    """

    order: int
    after_s: float
    action: str  # start | replace | stop
    way: str = ""  # of a replacement: start-first | stop-first
    slot: int = 0
    old_task: str = ""  # what is stopped, and where
    old_node: str = ""
    node: str = ""  # where what is new runs; empty while no node is found
    waits: str = ""  # why what is new does not run in the end


def obey(task: Task, node: Node | None, now: float, *, ends: bool = False) -> Task:
    """The task once its node did what is wanted of it; the same object if it has, or cannot be told now.

    Tasks of what `ends` (a job, a migration that others wait for) do so by themselves as soon as they run.
    """
    wanted = _wanted(task, ends=ends)
    if wanted is None or not task.placed or task.status.state.terminal or not answers(node):
        return task
    ready = wanted is TaskState.RUNNING
    if wanted is task.status.state and ready == task.status.ready:
        return task
    seen = task.status
    report = TaskReport(
        task_id=task.id, state=wanted.word, ready=ready, container_id=seen.container_id, pid=seen.pid
    )
    return merge_report(task, report, now)


def _wanted(task: Task, *, ends: bool) -> TaskState | None:
    if task.desired is TaskState.COMPLETE or (ends and task.desired is TaskState.RUNNING):
        return TaskState.COMPLETE if task.status.state is TaskState.RUNNING else TaskState.RUNNING
    if task.desired > TaskState.RUNNING:
        return TaskState.SHUTDOWN
    return task.desired if task.desired in (TaskState.READY, TaskState.RUNNING) else None


def answers(node: Node | None) -> bool:
    """Whether the node can be told anything now."""
    return node is not None and node.status.state is NodeState.READY and not node.status.engine_hung


@dataclass(slots=True)
class _Seen:
    """At which look something was first seen of a task."""

    task: Task
    first: int  # 0: it was there before
    at: float
    running: int | None = None
    running_at: float = 0.0
    held: bool = False  # it waited for other services before it started
    leaving: int | None = None
    leaving_at: float = 0.0


@dataclass(slots=True)
class Rehearsal:
    """What was seen of a service's tasks, look by look."""

    service: Service  # as it is when it begins
    began_at: float
    cut_short: bool = False  # there is more to come
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)  # had ended before, or was on its way out: not of this change
    _looks: int = 0

    def look(self, service: Service, tasks: Iterable[Task], now: float) -> None:
        """Take note of all tasks of the service; the first look is before anything happened."""
        self.service = service
        there = set()
        for task in tasks:
            there.add(task.id)
            if self._looks == 0 and not task.live:
                self._over.add(task.id)
            seen = self._seen.get(task.id)
            # What is prepared before its turn is no step; if it goes unused, it never was one.
            unused = seen is None and self._looks > 0 and task.desired > TaskState.COMPLETE
            if task.id in self._over or task.ahead or unused:
                continue
            if seen is None:
                seen = self._seen[task.id] = _Seen(task, self._looks, now)
            seen.task = task
            seen.held |= bool(task.held)
            if seen.running is None and task.status.state in (TaskState.RUNNING, TaskState.COMPLETE):
                seen.running, seen.running_at = self._looks, now
            if seen.leaving is None and task.desired > TaskState.COMPLETE:
                seen.leaving, seen.leaving_at = self._looks, now
        for task_id, seen in self._seen.items():
            if task_id not in there and seen.leaving is None:  # it had never begun, so it is gone at once
                seen.leaving, seen.leaving_at = self._looks, now
        self._looks += 1

    def failed(self, requested_rollback: bool) -> bool:
        """Whether the update has stopped on its way; a rollback that was asked for is no failure."""
        state = self.service.update_status.state if self.service.update_status is not None else ""
        return state.endswith("paused") or (state == "rollback_started" and not requested_rollback)

    def waits_for_time(self) -> bool:
        """Whether more will happen by itself when time passes."""
        delayed = (seen.task for seen in self._seen.values() if seen.task.start_after is not None)
        return updating(self.service) or any(t.live and t.desired is TaskState.READY for t in delayed)

    @property
    def kept(self) -> int:
        """How many tasks are left alone."""
        return sum(seen.first == 0 and seen.leaving is None for seen in self._seen.values())

    def begins(self) -> set[int]:
        """At which looks a step begins."""
        return {look for (look, _), _, _ in self._touched()}

    def _touched(self) -> list[tuple[tuple[int, float], Place, list[_Seen]]]:
        places: dict[Place, list[_Seen]] = {}
        for seen in self._seen.values():
            if seen.first or seen.leaving is not None:
                places.setdefault(place_of(seen.task), []).append(seen)
        return [(_begins(all_), place, all_) for place, all_ in places.items()]

    def steps(self, nodes: Mapping[str, Node], looks: Iterable[int] = ()) -> tuple[Step, ...]:
        """In the order in which they begin; at the same time by slot, or by node.

        `looks`: those at which steps of other services begin that are counted along.
        """
        touched = self._touched()
        begun = {look for (look, _), _, _ in touched}.union(looks)
        orders = {look: order for order, look in enumerate(sorted(begun), 1)}
        found = [
            (self._step(orders[look], at - self.began_at, all_, nodes), place)
            for (look, at), place, all_ in touched
            if any(not seen.first or seen.task.live or seen.running is not None for seen in all_)
        ]
        found.sort(key=lambda one: (one[0].order, one[0].slot, _number(nodes, one[1])))
        return tuple(step for step, _ in found)

    def _step(self, order: int, after_s: float, seen: list[_Seen], nodes: Mapping[str, Node]) -> Step:
        # Of a task on a lost node and one that stands in for it, the one that is somewhere.
        olds = [one for one in seen if not one.first and one.leaving is not None] or [
            one for one in seen if not one.first
        ]
        old = max(olds, key=lambda one: bool(one.task.node_id), default=None)
        new = next((one for one in reversed(seen) if one.first), None)
        way = ""
        if old is not None and new is not None:
            first = new.running is not None and (old.leaving is None or new.running <= old.leaving)
            way = "start-first" if first or old.leaving is None else "stop-first"
        return Step(
            order=order,
            after_s=round(max(0.0, after_s), 3),
            action="start" if old is None else "stop" if new is None else "replace",
            way=way,
            slot=seen[0].task.slot,
            old_task=old.task.id if old is not None else "",
            old_node=old.task.node_id if old is not None else "",
            node=new.task.node_id if new is not None else "",
            waits=_waits(old, new, nodes),
        )


def _begins(seen: list[_Seen]) -> tuple[int, float]:
    """Look and time at which the first thing happens in a place."""
    # What waits for other services is made at once, and begins when they let it.
    starts = [
        (one.running, one.running_at) if one.held and one.running is not None else (one.first, one.at)
        for one in seen
        if one.first
    ]
    ends = [(one.leaving, one.leaving_at) for one in seen if one.leaving is not None]
    return min((*starts, *ends))


def _number(nodes: Mapping[str, Node], place: Place) -> int:
    node = nodes.get(place) if isinstance(place, str) else None
    return 0 if node is None else node.number


def _waits(old: _Seen | None, new: _Seen | None, nodes: Mapping[str, Node]) -> str:
    if new is None or new.running is not None:
        return _away(old.task, nodes) if new is None and old is not None else ""
    task = new.task
    if task.status.err:
        return task.status.err
    if task.held and task.desired is TaskState.READY:
        return task.held
    if task.placed and not answers(nodes.get(task.node_id)):
        return _away(task, nodes)
    if old is not None and task.desired is TaskState.READY and not old.task.status.state.terminal:
        return _away(old.task, nodes) or f"task {old.task.id} has not stopped"
    return ""


def _away(task: Task, nodes: Mapping[str, Node]) -> str:
    """Why what is wanted of the task is not done now; empty if its node does it."""
    node = nodes.get(task.node_id)
    if node is None or task.status.state.terminal or answers(node):
        return ""
    state = "its Engine hangs" if node.status.engine_hung else node.status.state.value
    return f"node {node.spec.name or node.hostname} does not answer ({state})"
