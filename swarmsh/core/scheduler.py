"""Which node each task goes to: filter, then spread; what finds no node is told why.

Behaviour is swarmkit's (`manager/scheduler`), but for three things: ties are broken by node number, so that equal
input gives an equal schedule; tasks left on a lost node do not count for its branch of the spread; and where two
tasks of a slot stand beside each other for a while, the spread counts the newer one only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from ipaddress import IPv4Network

from msgspec import Struct

from swarmsh.core.allocate import needs_egress
from swarmsh.core.constraints import parse_constraints, parse_label_key, satisfied
from swarmsh.core.filter_words import Words
from swarmsh.core.filters import Demand, NodeLoad, explain, refusals, refused_by
from swarmsh.core.labels import may_leave_volumes
from swarmsh.core.reach import EGRESS_POOL, egress_pool
from swarmsh.core.resources import Available, reservations_of
from swarmsh.core.spread import Rank, SpreadTree
from swarmsh.core.underlay import underlay, underlays
from swarmsh.core.volumes import Home, homes, last_home, local_mounts, names_on
from swarmsh.model.objects import Network, Node, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import EndpointSpec, GenericResource, Placement, TaskSpec
from swarmsh.model.states import NodeState, TaskState

MONITORED_S = 300.0  # failures older than this are forgotten
MANY_FAILURES = 5  # from here on a node goes last for that service and version

NO_LONGER_FITS = "assigned node no longer meets constraints"  # swarmkit's words

Failures = Mapping[tuple[str, str, int], Sequence[float]]


class SchedulingView(Struct, frozen=True, kw_only=True):
    """All that a schedule depends on.

    `tasks` holds by node id the tasks that have not ended, those being stopped included. `failures` are the times
    at which tasks of (node id, service id, spec version) failed or were rejected.
    """

    nodes: Sequence[Node]
    tasks: Mapping[str, Sequence[Task]]
    now: float
    failures: Failures = {}
    networks: Mapping[str, Network] = {}  # by id
    egress: IPv4Network = EGRESS_POOL
    egress_left: Mapping[str, int] = {}  # node id -> how many can get an address there; absent: any number
    cluster: ClusterSnapshot | None = None  # for what tasks left behind on nodes; None: nothing

    @classmethod
    def of(
        cls,
        snapshot: ClusterSnapshot,
        now: float,
        failures: Failures | None = None,
        egress_left: Mapping[str, int] | None = None,
    ) -> SchedulingView:
        """The view of a whole cluster."""
        tasks = {
            node_id: [
                task
                for task in snapshot.tasks_of_node(node_id)
                if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
            ]
            for node_id in snapshot.nodes
        }
        return cls(
            nodes=tuple(snapshot.nodes.values()),
            tasks=tasks,
            now=now,
            failures=failures or {},
            networks=snapshot.networks,
            egress=egress_pool(snapshot),
            egress_left=egress_left or {},
            cluster=snapshot,
        )

    def demand(self, task: Task) -> Demand:
        """What the task, and those of its service and version, ask of a node."""
        overlays = tuple(self.networks[n.target] for n in task.spec.networks if n.target in self.networks)
        egress = self.egress if needs_egress(task, overlays) else None
        return Demand(task.service_id, task.spec, task.endpoint, overlays, egress, task.service_name)


class Schedule(Struct, frozen=True, kw_only=True):
    """Where tasks go, all by task id: the node, what generic resources they are dealt, or why there is no node."""

    assignments: dict[str, str] = {}
    generic_resources: dict[str, tuple[GenericResource, ...]] = {}
    refusals: dict[str, str] = {}


def schedule(pending: Sequence[Task], view: SchedulingView) -> Schedule:
    """Find a node for every task; a task that has one already (global) is only checked against it.

    Tasks of one service and spec version are placed together. Every pending task is in exactly one of
    `assignments` and `refusals`.
    """
    plan = SchedulingPass(view, pending)
    groups: dict[tuple[str, int], list[Task]] = {}
    for task in pending:
        if task.node_id:
            plan.confirm(task)
        else:
            groups.setdefault((task.service_id, task.spec_version), []).append(task)
    for tasks in groups.values():
        plan.place(tasks)
    return plan.result


class Standing(Struct, frozen=True, kw_only=True):
    """How a node stands for a task: by which filters it is refused, by their names; or else how it ranks."""

    node: Node
    refusals: tuple[tuple[str, Words], ...] = ()
    rank: Rank | None = None  # None if it is refused


def survey(task: Task, view: SchedulingView) -> list[Standing]:
    """All nodes as `schedule` would see them for this task alone, which is on none of them: the best first.

    Refused ones are last, those nearest to fitting before the others.
    """
    return SchedulingPass(view, [task]).survey(task)


def fits(
    node: Node,
    spec: TaskSpec,
    *,
    service_id: str = "",
    endpoint: EndpointSpec | None = None,
    tasks: Iterable[Task] = (),
) -> str | None:
    """None if a new task could start on the node beside `tasks`; else why not, in the scheduler's words."""
    return explain(Demand(service_id, spec, endpoint), [NodeLoad.of(node, tasks)]) or None


def eligible(node: Node, spec: TaskSpec) -> bool:
    """Whether a global service belongs on the node: what the node is, not what else happens on it now."""
    demand, load = Demand("", spec, None), NodeLoad.of(node, ())
    return all(f.fits(demand, load) for f in demand.filters if f.lasting)


def violated(
    task: Task, node: Node, placement: Placement | None = None, beside: Iterable[Task] = ()
) -> str | None:
    """Why a task may no longer stay on its node, or None (swarmkit `manager/orchestrator/constraintenforcer`).

    `placement` is the service's of today, if it differs from the task's; `beside` are tasks that stay for certain.
    """
    available = Available.of(node.description)
    for other in beside:
        available.take_task(other)
    return None if _may_stay(task, node, placement, available) else NO_LONGER_FITS


def surplus(node: Node, tasks: Iterable[Task]) -> dict[str, str]:
    """Which of a node's tasks may no longer stay, and why; where room is short the oldest do."""
    available = Available.of(node.description)
    found = {}
    for task in sorted((t for t in tasks if t.live and t.placed), key=lambda t: (t.created_at, t.id)):
        if _may_stay(task, node, None, available):
            available.take_task(task)
        else:
            found[task.id] = NO_LONGER_FITS
    return found


def _order(standing: Standing) -> tuple[int, Rank | int, int]:
    # A node that is away is farther from taking it than one on which a number or a label is to be changed.
    refused = sum(2 if name == "ready" else 1 for name, _ in standing.refusals)
    return (refused, standing.rank or 0, standing.node.number)


def _may_stay(task: Task, node: Node, placement: Placement | None, available: Available) -> bool:
    placement = placement or task.spec.placement
    has, held = node.description, reservations_of(task.spec)
    return (
        satisfied(parse_constraints(placement.constraints if placement else ()), node)
        # A node that was never described has promised nothing yet.
        and (not held.nano_cpus or not has.nano_cpus or held.nano_cpus <= available.nano_cpus)
        and (not held.memory_bytes or not has.memory_bytes or held.memory_bytes <= available.memory_bytes)
        and (not has.engine_version or available.holds(task.generic_resources))
    )


def _leaving(placed: Iterable[Task], pending: Sequence[Task], services: Set[str]) -> set[str]:
    """Of tasks of these services that share a slot, pending ones too, and are all wanted, all but the newest."""
    newest: dict[tuple[str, int], Task] = {}
    leaving = set()
    wanted = (t for t in (*placed, *pending) if t.slot and t.live and t.service_id in services)
    for task in sorted(wanted, key=lambda t: (t.created_at, t.id)):
        before = newest.get((task.service_id, task.slot))
        if before is not None and before.id != task.id:
            leaving.add(before.id)
        newest[task.service_id, task.slot] = task
    return leaving


class SchedulingPass:
    """One scheduling pass: loads that fill up while tasks are placed."""

    def __init__(self, view: SchedulingView, pending: Sequence[Task], services: Set[str] = frozenset()) -> None:
        """`services`: ids of those to be weighed, besides those of the pending tasks."""
        self.view = view
        waiting = {task.id for task in pending}
        self.result = Schedule(assignments={}, generic_resources={}, refusals={})
        self._placed: dict[str, list[Task]] = {}  # by node, of those with local volumes
        addressed = underlays(view.nodes)
        weighed = {*services, *(task.service_id for task in pending)}
        leaving = _leaving((t for tasks in view.tasks.values() for t in tasks), pending, weighed)
        self.loads = {
            node.id: NodeLoad.of(
                node,
                (t for t in view.tasks.get(node.id, ()) if t.id not in waiting),
                shared=node.id not in addressed and bool(underlay(node)),
                egress_left=view.egress_left.get(node.id),
                leaving=leaving,
            )
            for node in sorted(view.nodes, key=lambda node: (node.number, node.id))
        }

    def confirm(self, task: Task) -> None:
        """Check a task against the node it was made for."""
        demand, load = self.view.demand(task), self.loads.get(task.node_id)
        if load is None:
            self.result.refusals[task.id] = f"node {task.node_id} is not in the cluster"
        elif refused_by(demand, load) is not None:
            self.result.refusals[task.id] = explain(demand, [load])
        else:
            self._assign(task, demand, load)

    def place(self, tasks: Sequence[Task]) -> None:
        """Place tasks of one service and version, in order; refuse those for which there is no room."""
        demand = self.view.demand(tasks[0])
        if demand.local_mounts:
            for task in tasks:
                self._fill([task], self._at_home(task, demand))
        else:
            self._fill(tasks, demand)

    def _fill(self, tasks: Sequence[Task], demand: Demand) -> None:
        tree = self.tree(demand, tasks[0].spec_version)
        for i, task in enumerate(tasks):
            load = tree.take()
            if load is None:
                reason = explain(demand, self.loads.values())
                text = f"no suitable node ({reason})" if reason else "no suitable node"
                self.result.refusals.update((left.id, text) for left in tasks[i:])
                return
            self._assign(task, demand, load)
            if refused_by(demand, load) is None:
                tree.put_back(load)

    def survey(self, task: Task) -> list[Standing]:
        demand = self._at_home(task, self.view.demand(task))
        tree = self.tree(demand, task.spec_version)
        found = []
        for load in self.loads.values():
            refused = tuple((one.name, words) for one, words in refusals(demand, load))
            rank = None if refused else tree.rank(load)
            found.append(Standing(node=load.node, refusals=refused, rank=rank))
        return sorted(found, key=_order)

    def _at_home(self, task: Task, demand: Demand) -> Demand:
        """The demand of this one task, that may only go where its data is.

        Data that a slot never had is taken up by a new one if no other task of the service uses it: by the first
        task of a service at any rate, for else all would begin with nothing; by a further one if it can.
        """
        cluster, mounts = self.view.cluster, demand.local_mounts
        if cluster is None or not mounts or not task.slot:
            return demand
        service = cluster.services.get(task.service_id)
        if may_leave_volumes(service.spec.labels if service is not None else task.labels):
            return demand
        nodes = {node_id: load.node for node_id, load in self.loads.items()}
        home = last_home(task, mounts, nodes, cluster.tasks_of_service(task.service_id))
        if home is None and (home := homes(task, mounts, nodes.values())) is not None:
            used = {load.node.id for load in self.loads.values() if self._uses(task, demand, load)}
            free = tuple(
                node
                for node in home.nodes
                if node.id not in used and not (used and refused_by(demand, self.loads[node.id]))
            )
            home = Home(home.volume, free) if free else None
        return dataclasses.replace(demand, home=home)

    def _uses(self, task: Task, demand: Demand, load: NodeLoad) -> bool:
        """Whether another task of its service is on the node and has the same volume there."""
        own = names_on(task, load.node, demand.local_mounts)
        others = (*load.held_by, *self._placed.get(load.node.id, ()))
        return any(
            own & names_on(other, load.node, local_mounts(other.spec))
            for other in others
            if other.service_id == task.service_id and other.slot != task.slot and other.live
        )

    def _assign(self, task: Task, demand: Demand, load: NodeLoad) -> None:
        self.result.assignments[task.id] = load.node.id
        if demand.local_mounts:
            self._placed.setdefault(load.node.id, []).append(task)
        if dealt := load.add(demand):
            self.result.generic_resources[task.id] = dealt

    def tree(self, demand: Demand, spec_version: int) -> SpreadTree:
        """All nodes that take such a task now, in the order in which they would be taken."""
        preferred = [p.spread.spread_descriptor for p in demand.placement.preferences if p.spread is not None]
        levels = [level for text in preferred if (level := parse_label_key(text)) is not None]
        tree = SpreadTree(demand.service_id, levels)
        for load in self.loads.values():
            if load.node.status.state is not NodeState.DOWN:
                tree.count(load, load.stay_of[demand.service_id])
            if refused_by(demand, load) is None:
                tree.add(load, self._failures(load.node.id, demand.service_id, spec_version))
        return tree

    def _failures(self, node_id: str, service_id: str, spec_version: int) -> int:
        times = self.view.failures.get((node_id, service_id, spec_version), ())
        recent = sum(self.view.now - at <= MONITORED_S for at in times)
        return recent if recent >= MANY_FAILURES else 0
