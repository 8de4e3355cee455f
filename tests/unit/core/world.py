"""A small world for tests of decisions: nodes that do what they are told, and a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from msgspec.structs import replace

from swarmsh.core.container import ensure_action
from swarmsh.core.node_plan import plan_node
from swarmsh.core.rebalance import plan_rebalance
from swarmsh.core.reports import merge_full_report
from swarmsh.core.scheduler import SchedulingView
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.model.actions import EnsureTask, NodeReport, RemoveTask, StopTask, TaskReport
from swarmsh.model.objects import Cluster, Node, NodeDescription, NodeStatus, Rebalance, Service, SshTarget, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import (
    ContainerSpec,
    EndpointSpec,
    GlobalMode,
    NodeSpec,
    Placement,
    Platform,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmsh.model.states import Availability, NodeState, TaskState

SECOND = 1_000_000_000


def make_node(number: int, *, state: NodeState = NodeState.READY, labels: dict[str, str] | None = None) -> Node:
    return Node(
        id=f"node{number}",
        number=number,
        version=1,
        created_at=0.0,
        updated_at=0.0,
        spec=NodeSpec(name=f"n{number}", labels=labels or {}),
        target=SshTarget(address=f"10.0.0.{number}"),
        description=NodeDescription(
            hostname=f"n{number}",
            platform=Platform(architecture="x86_64", os="linux"),
            nano_cpus=4 * SECOND,
            memory_bytes=4 << 30,
            engine_version="26.1.5",
            engine_api="1.45",
        ),
        status=NodeStatus(state=state),
    )


def make_spec(
    *,
    name: str = "web",
    replicas: int | None = 1,
    image: str = "web:1",
    condition: str = "any",
    delay_s: float = 0.0,
    attempts: int = 0,
    window_s: float = 0.0,
    update: UpdateConfig | None = None,
    rollback: UpdateConfig | None = None,
    constraints: tuple[str, ...] = (),
) -> ServiceSpec:
    """A service; `replicas=None` makes it global."""
    mode = (
        ServiceMode(global_=GlobalMode())
        if replicas is None
        else ServiceMode(replicated=ReplicatedMode(replicas=replicas))
    )
    return ServiceSpec(
        name=name,
        mode=mode,
        task_template=TaskSpec(
            container_spec=ContainerSpec(image=image),
            restart_policy=RestartPolicy(
                condition=condition,
                delay=int(delay_s * SECOND),
                max_attempts=attempts,
                window=int(window_s * SECOND),
            ),
            placement=Placement(constraints=constraints),
        ),
        update_config=update,
        rollback_config=rollback,
        endpoint_spec=EndpointSpec(mode="vip"),
    )


class World:
    """One service on some nodes. `settle` lets everything happen that needs no time to pass."""

    def __init__(self, nodes: int = 3) -> None:
        self.now = 1000.0
        self._numbers = count(1)
        cluster = Cluster(id="cluster", version=1, created_at=0.0, updated_at=0.0)
        self.snapshot = ClusterSnapshot().apply(
            Changes(cluster=cluster, put_nodes=tuple(make_node(n) for n in range(1, nodes + 1))), 1
        )
        self.reports: dict[str, NodeReport] = {n: NodeReport() for n in self.snapshot.nodes}
        self.cut: set[str] = set()  # nodes that cannot be told or heard
        self.broken_images: set[str] = set()  # containers of these exit at once
        self._ids = _Ids()
        self.restart_manager()

    def restart_manager(self) -> None:
        """Kill the manager and start another one."""
        self.orchestrator = Orchestrator(_NoStore(), _Clock(self), self._ids)

    # --- what users and faults do ---
    def create(self, spec: ServiceSpec) -> None:
        service = Service(id="svc", version=1, created_at=self.now, updated_at=self.now, spec=spec)
        self._apply(Changes(put_services=(service,)))

    def update(self, spec: ServiceSpec) -> None:
        old = self.service
        version = old.spec_version + (spec.task_template != old.spec.task_template)
        status = None if version != old.spec_version else old.update_status
        self._apply(
            Changes(
                put_services=(
                    replace(old, spec=spec, previous_spec=old.spec, spec_version=version, update_status=status),
                )
            )
        )

    def rebalance(self) -> int:
        """Ask for it, as users do; gives the number of moves."""
        view = SchedulingView.of(self.snapshot, self.now)
        plan = plan_rebalance(self.snapshot, view, [self.service])
        put = [replace(m.task, rebalance=Rebalance(node_id=m.to_node, asked_at=self.now)) for m in plan.moves]
        self._apply(Changes(put_tasks=tuple(put)))
        return len(put)

    def remove(self) -> None:
        tasks = tuple(replace(t, desired=TaskState.REMOVE) for t in self.tasks())
        self._apply(Changes(delete_services=("svc",), put_tasks=tasks))

    def set_node(
        self, number: int, *, state: NodeState | None = None, availability: Availability | None = None
    ) -> None:
        node = self.snapshot.nodes[f"node{number}"]
        if availability is not None:
            node = replace(node, spec=replace(node.spec, availability=availability))
        if state is not None:
            lost_at = self.now if state is NodeState.DOWN else None
            status = NodeStatus(state=state, since=self.now, unseen_since=lost_at, heard_at=lost_at or 0.0)
            node = replace(node, status=status)
        self._apply(Changes(put_nodes=(node,)))

    def change_node(
        self, number: int, *, labels: dict[str, str] | None = None, memory_bytes: int | None = None
    ) -> None:
        node = self.snapshot.nodes[f"node{number}"]
        if labels is not None:
            node = replace(node, spec=replace(node.spec, labels=labels))
        if memory_bytes is not None:
            node = replace(node, description=replace(node.description, memory_bytes=memory_bytes))
        self._apply(Changes(put_nodes=(node,)))

    def add_node(self, number: int) -> None:
        self.reports[f"node{number}"] = NodeReport()
        self._apply(Changes(put_nodes=(make_node(number),)))

    def remove_node(self, number: int) -> None:
        self.reports.pop(f"node{number}")
        self._apply(Changes(delete_nodes=(f"node{number}",)))

    def lose(self, number: int) -> None:
        """The node is cut off and judged down; its containers go on running there."""
        self.cut.add(f"node{number}")
        self.set_node(number, state=NodeState.DOWN)

    def power_off(self, number: int) -> None:
        """As `lose`, and its containers end."""
        self.lose(number)
        node_id = f"node{number}"
        tasks = {i: _ended(r, "failed") for i, r in self.reports[node_id].tasks.items()}
        self.reports[node_id] = replace(self.reports[node_id], tasks=tasks)

    def find(self, number: int) -> None:
        """The node answers again: its report and its state arrive together."""
        node_id = f"node{number}"
        self.cut.discard(node_id)
        self._merge(node_id, connected=True)
        self.set_node(number, state=NodeState.READY)

    def fail(self, task: Task, state: str = "failed", exit_code: int | None = None) -> None:
        report = self.reports[task.node_id]
        ended = replace(_ended(report.tasks[task.id], state), exit_code=exit_code)
        tasks = {**report.tasks, task.id: ended}
        self.reports[task.node_id] = replace(report, tasks=tasks)
        self._merge(task.node_id)

    # --- looking ---
    @property
    def service(self) -> Service:
        return self.snapshot.services["svc"]

    def tasks(self) -> list[Task]:
        return sorted(self.snapshot.tasks.values(), key=lambda t: (t.slot, t.created_at, t.id))

    def running(self) -> list[Task]:
        return [t for t in self.tasks() if t.live and t.status.state is TaskState.RUNNING]

    def containers(self) -> list[str]:
        """Task ids of all containers that run anywhere."""
        return [i for r in self.reports.values() for i, t in r.tasks.items() if t.state == "running"]

    # --- letting it work ---
    def step(self) -> bool:
        """One pass of the manager and of each node; whether anything changed."""
        before = self.snapshot
        progressed: list[Service] = []
        changes = self.orchestrator._decide(self.snapshot, {"svc"}, True, self.now, progressed)
        if changes:
            self._apply(changes)
        if progressed:
            self._apply(Changes(put_services=tuple(progressed)))
        for node_id in sorted(self.snapshot.nodes):
            if node_id not in self.cut:
                self._work(node_id)
        return self.snapshot is not before

    def settle(self) -> None:
        for _ in range(200):
            if not self.step():
                return
        raise AssertionError("the world does not settle: " + repr(self.tasks()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, so that everything due in between happens in its order."""
        end = self.now + seconds
        self.settle()
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            self.settle()

    def _work(self, node_id: str) -> None:
        node = self.snapshot.nodes[node_id]
        report = self.reports[node_id]
        tasks = dict(report.tasks)
        actions = plan_node(
            self.snapshot.tasks_of_node(node_id),
            report,
            {},
            self.snapshot.index,
            lambda t, desired: ensure_action(t, node, "cluster", desired),
            self.snapshot.services,
        )
        for action in actions:
            match action:
                case EnsureTask():
                    state = "running" if action.desired == "running" else "ready"
                    if state == "running" and action.image in self.broken_images:
                        state = "failed"
                    tasks[action.task_id] = TaskReport(
                        task_id=action.task_id, index=action.index, state=state, ready=state == "running"
                    )
                case StopTask():
                    known = tasks.get(action.task_id)
                    tasks[action.task_id] = (
                        TaskReport(task_id=action.task_id, state="gone")
                        if known is None
                        else _ended(known, "shutdown")
                    )
                case RemoveTask():
                    del tasks[action.task_id]
        self.reports[node_id] = replace(report, tasks=tasks)
        self._merge(node_id)

    def _merge(self, node_id: str, *, connected: bool = False) -> None:
        """Take over what a node says; only at the start of a session is what it does not say a fact too."""
        tasks = tuple(self.snapshot.tasks_of_node(node_id))
        reports = self.reports[node_id].tasks
        merged = merge_full_report(
            tasks if connected else [t for t in tasks if t.id in reports], reports, self.now
        )
        if merged:
            self._apply(Changes(put_tasks=merged))

    def _apply(self, changes: Changes) -> None:
        for task in changes.put_tasks:
            old = self.snapshot.tasks.get(task.id)
            if old is not None:
                assert task.desired >= old.desired, "a desired state fell"
                assert task.status.state >= old.status.state, "an observed state fell"
        self.orchestrator.note_failures(self.snapshot, changes.put_tasks)
        self.snapshot = self.snapshot.apply(changes, self.snapshot.index + 1)


def _ended(report: TaskReport, state: str) -> TaskReport:
    return (
        report if report.state in ("failed", "complete", "shutdown") else replace(report, state=state, ready=False)
    )


class _NoStore:
    """The world applies what is decided itself."""

    snapshot = ClusterSnapshot()


class _Clock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.now

    def monotonic(self) -> float:
        return self._world.now


class _Ids:
    def __init__(self) -> None:
        self._numbers: Iterator[int] = count(1)

    def new_id(self) -> str:
        return f"task{next(self._numbers):04d}"
