"""Spreading running tasks again: the fewest moves after which the scheduler would put no task elsewhere.

Only what would be better off moves: by the branches of a preference, then by tasks of the service, then by all
tasks of a node. Nothing moves for a tie. What a task holds stays held where it is, because it leaves only when
another one is ready elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from swarmsh.core.difference import outdated
from swarmsh.core.filters import Demand, NodeLoad, refused_by
from swarmsh.core.labels import fenced
from swarmsh.core.scheduler import SchedulingPass, SchedulingView
from swarmsh.core.spread import Rank
from swarmsh.core.volumes import kept_volumes
from swarmsh.core.words import counted
from swarmsh.model.objects import Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import Availability, NodeState, TaskState


class Move(Struct, frozen=True, kw_only=True):
    """A task that is to move; nodes by their ids."""

    task: Task
    to_node: str
    why: str


class RebalancePlan(Struct, frozen=True, kw_only=True):
    """Moves by service, of each in the order in which they are made; and services that are not moved, with why."""

    moves: tuple[Move, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def plan_rebalance(snapshot: ClusterSnapshot, view: SchedulingView, services: Iterable[Service]) -> RebalancePlan:
    """What to move of these services. Carried out and planned again, nothing is left to do.

    That holds unless room is short: what a task holds on its node is free only after it has left.
    """
    services = sorted(services, key=lambda s: s.spec.name)
    skipped, weighed = [], []
    scratch = SchedulingPass(view, (), {s.id for s in services})
    for service in services:
        why = immovable(service)
        if why:
            skipped.append((service.spec.name, why))
            continue
        tasks = list(_movable(snapshot, service))
        if tasks:
            weighed.append(_Weighed(scratch, view.demand(tasks[0]), tasks))
    moved = True
    while moved:
        # First every service for itself: that may level the nodes as well, and then nothing more need move.
        for one in weighed:
            while one.improve():
                continue
        moved = any(one.improve(all_tasks=True) for one in weighed)
    return RebalancePlan(moves=tuple(move for one in weighed for move in one.moves()), skipped=tuple(skipped))


def immovable(service: Service) -> str:
    """Why no task of the service is moved; empty if they may be."""
    mode = service.spec.mode
    if mode.global_ is not None:
        return "it is global: each node that fits has its task"
    if mode.is_job:
        return "it is a job: its tasks end by themselves"
    if fenced(service.spec.labels):
        return "swarmsh.fence=stop: no slot may run twice, so none can be ready elsewhere first"
    if volumes := kept_volumes(service):
        names = f"{'volume' if len(volumes) == 1 else 'volumes'} {', '.join(volumes)}"
        return f"its data is on its nodes, in {names}"
    status = service.update_status
    if status is not None and status.state not in ("", "completed", "rollback_completed"):
        return f"its update is not through: {status.state.replace('_', ' ')}"
    return ""


def _movable(snapshot: ClusterSnapshot, service: Service) -> Iterator[Task]:
    """Tasks that are alone in their slot, run what is specified, and whose node is in touch and active."""
    live = [t for t in snapshot.tasks_of_service(service.id) if t.live]
    slots = [t.slot for t in live]
    for task in sorted(live, key=lambda t: (t.slot, t.id)):
        node = snapshot.nodes.get(task.node_id)
        if node is None or slots.count(task.slot) > 1 or outdated(task, service):
            continue
        runs = task.desired is TaskState.RUNNING and task.status.state is TaskState.RUNNING
        active = node.spec.availability is Availability.ACTIVE
        if runs and active and node.status.state is NodeState.READY and not node.status.silent:
            yield task


@dataclass(slots=True)
class _Weighed:
    """A service's movable tasks while moves are sought; where each is by now."""

    scratch: SchedulingPass
    demand: Demand
    tasks: Sequence[Task]
    at: dict[str, str] = field(init=False)  # task id -> node id
    why: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.at = {t.id: t.node_id for t in self.tasks}

    def improve(self, *, all_tasks: bool = False) -> bool:
        """Make the move that helps most; whether there was one. `all_tasks`: also for the sake of those of others.

        Each lessens what is uneven, so they come to an end.
        """
        found = self._best(all_tasks)
        if found is None:
            return False
        task, target, why = found
        self.scratch.loads[self.at[task.id]].forget(self.demand.service_id)
        target.add(self.demand)
        self.at[task.id], self.why[task.id] = target.node.id, why
        return True

    def moves(self) -> list[Move]:
        """Those that are left in the end; high slots first, for low ones carry what lives long."""
        moved = [t for t in self.tasks if self.at[t.id] != t.node_id]
        moved.sort(key=lambda t: (-t.slot, t.id))
        return [Move(task=t, to_node=self.at[t.id], why=self.why[t.id]) for t in moved]

    def _best(self, all_tasks: bool) -> tuple[Task, NodeLoad, str] | None:
        """The move that helps most: its task, its new node and why."""
        tree = self.scratch.tree(self.demand, self.tasks[0].spec_version)
        loads = self.scratch.loads.values()
        targets = [
            (load, rank) for load in loads if self._takes(load) and not (rank := tree.rank(load)).node.failures
        ]
        best: tuple[tuple[int, ...], NodeLoad, NodeLoad, str] | None = None
        for node_id in dict.fromkeys(self.at.values()):
            source = self.scratch.loads[node_id]
            own = tree.rank(source)
            for load, rank in targets:
                if load is source:
                    continue
                gain = _gain(own, rank)
                counts = gain if all_tasks else gain[:-1]
                if counts > (0,) * len(counts) and (best is None or gain > best[0]):
                    best = (gain, source, load, self._words(gain, own, rank, source, load))
        if best is None:
            return None
        _, source, target, why = best
        task = next(t for t in reversed(self.tasks) if self.at[t.id] == source.node.id)
        return task, target, why

    def _takes(self, load: NodeLoad) -> bool:
        return refused_by(self.demand, load) is None

    def _words(self, gain: tuple[int, ...], own: Rank, other: Rank, source: NodeLoad, target: NodeLoad) -> str:
        """By what the other node is better; counts are those before the move."""
        service, here, there = self.demand.service_name, source.node.spec.name, target.node.spec.name
        level = next(i for i, value in enumerate(gain) if value)
        if level < len(own.branches):
            mine, its = own.branches[level], other.branches[level]
            key = mine.level.removeprefix("node.labels.")
            values = f"{key}={mine.value or '(none)'}, {its.tasks} with {key}={its.value or '(none)'}"
            return f"{counted(mine.tasks, 'task')} of {service} with {values}"
        if level == len(own.branches):
            return f"{counted(own.node.tasks_of, 'task')} of {service} on {here}, {other.node.tasks_of} on {there}"
        return f"{counted(own.node.tasks, 'task')} in all on {here}, {other.node.tasks} on {there}"


def _gain(own: Rank, other: Rank) -> tuple[int, ...]:
    """By how much each count of the other place is below what this one's would be without the task.

    Only the first that is not 0 matters, as in the scheduler's own order: above 0 the other place is better, and
    better still after the move.
    """
    found = []
    together = True  # the branches are the same so far: the task counts in both
    for mine, its in zip(own.branches, other.branches, strict=True):
        together = together and mine.value == its.value
        found.append(0 if together else mine.tasks - 1 - its.tasks)
    found.append(own.node.tasks_of - 1 - other.node.tasks_of)
    found.append(own.node.tasks - 1 - other.node.tasks)
    return tuple(found)
