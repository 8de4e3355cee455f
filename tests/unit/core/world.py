"""A small world for tests of decisions: nodes that do what they are told, and a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

from msgspec.structs import replace

from swarmsh.core.container import ensure_action
from swarmsh.core.difference import template_changed
from swarmsh.core.jobs import created_job, updated_job
from swarmsh.core.node_plan import plan_node
from swarmsh.core.rebalance import plan_rebalance
from swarmsh.core.refresh import plan_refreshes, refreshed_service, refreshed_task
from swarmsh.core.reports import merge_full_report
from swarmsh.core.scheduler import SchedulingView
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.model.actions import EnsureTask, NodeReport, RefreshSecrets, RemoveTask, StopTask, TaskReport
from swarmsh.model.objects import (
    Cluster,
    Event,
    Node,
    NodeDescription,
    NodeStatus,
    Rebalance,
    Service,
    SshTarget,
    Task,
)
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import (
    ContainerSpec,
    EndpointSpec,
    GlobalJobMode,
    GlobalMode,
    NodeSpec,
    Placement,
    Platform,
    ReplicatedJobMode,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmsh.model.states import Availability, NodeState, TaskState

SECOND = 1_000_000_000
READY_LIMIT_S = 60.0  # of the helper


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


def make_job(
    *,
    replicas: int | None = 1,
    concurrent: int | None = None,
    condition: str = "on-failure",
    delay_s: float = 0.0,
    attempts: int = 0,
    image: str = "job:1",
    force: int = 0,
    labels: dict[str, str] | None = None,
    constraints: tuple[str, ...] = (),
) -> ServiceSpec:
    """A job; `replicas=None` makes it global. All of its tasks run at a time unless `concurrent` says less."""
    spec = make_spec(
        name="job", image=image, condition=condition, delay_s=delay_s, attempts=attempts, constraints=constraints
    )
    most = concurrent if concurrent is not None else replicas
    mode = (
        ServiceMode(global_job=GlobalJobMode())
        if replicas is None
        else ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=most, total_completions=replicas))
    )
    return replace(
        spec, mode=mode, labels=labels or {}, task_template=replace(spec.task_template, force_update=force)
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
        self.events: list[Event] = []
        self.missing_images: set[str] = set()  # those cannot be had
        self.ready_after: dict[str, float] = {}  # image -> seconds; 0 if it is not there
        self.start_delay_s = 0.0  # of making a container, and of starting it
        self._due: dict[tuple[str, str], float] = {}  # (task, what is to come of it) -> when
        self._started: dict[str, float] = {}  # containers that run -> since when
        self._ids = _Ids()
        self._met: set[str] = set(self.snapshot.nodes)
        self._durable = self.snapshot  # what another process would find on disk
        self._flushed_at = self.now  # what was seen earlier is there too
        self.restart_manager()

    def restart_manager(self, *, lose_seen: bool = False) -> None:
        """Kill the manager and start another one.

        `lose_seen`: what was seen just now is not on disk. The new one meets each node in the next
        step, and learns from it what it holds.
        """
        if lose_seen and self._flushed_at == self.now:
            self.snapshot = self._durable
        self._met = set()
        self.orchestrator = Orchestrator(_NoStore(), _Clock(self), self._ids, met=lambda n: n in self._met)

    # --- what users and faults do ---
    def create(self, spec: ServiceSpec, service_id: str = "svc") -> None:
        service = Service(id=service_id, version=1, created_at=self.now, updated_at=self.now, spec=spec)
        self._apply(Changes(put_services=(created_job(service, self.now),)), durable=True)

    def update(self, spec: ServiceSpec) -> None:
        self.update_other("svc", spec)

    def update_other(self, service_id: str, spec: ServiceSpec) -> None:
        old = self.snapshot.services[service_id]
        changed = template_changed(old.spec, spec)
        new = replace(
            old,
            spec=spec,
            previous_spec=old.spec,
            spec_version=old.spec_version + changed,
            update_status=None,
            updated_at=self.now,
        )
        self._apply(Changes(put_services=(updated_job(old, new, self.now),)), durable=True)

    def signal(self, ids: Mapping[str, str]) -> None:
        """Exchange secrets (old id -> new) under the tasks that run."""
        found = [refreshed_task(task, ids, "SIGHUP", self.now) for task in self.tasks()]
        put = tuple(task for task in found if task is not None)
        changes = Changes(put_services=(refreshed_service(self.service, ids),), put_tasks=put)
        self._apply(changes, durable=True)

    def rebalance(self) -> int:
        """Ask for it, as users do; gives the number of moves."""
        view = SchedulingView.of(self.snapshot, self.now)
        plan = plan_rebalance(self.snapshot, view, [self.service])
        put = [replace(m.task, rebalance=Rebalance(node_id=m.to_node, asked_at=self.now)) for m in plan.moves]
        self._apply(Changes(put_tasks=tuple(put)), durable=True)
        return len(put)

    def remove(self) -> None:
        tasks = tuple(replace(t, desired=TaskState.REMOVE) for t in self.tasks())
        self._apply(Changes(delete_services=("svc",), put_tasks=tasks), durable=True)

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
        self._apply(Changes(put_nodes=(node,)), durable=True)

    def change_node(
        self, number: int, *, labels: dict[str, str] | None = None, memory_bytes: int | None = None
    ) -> None:
        node = self.snapshot.nodes[f"node{number}"]
        if labels is not None:
            node = replace(node, spec=replace(node.spec, labels=labels))
        if memory_bytes is not None:
            node = replace(node, description=replace(node.description, memory_bytes=memory_bytes))
        self._apply(Changes(put_nodes=(node,)), durable=True)

    def add_node(self, node: Node | int) -> None:
        node = make_node(node) if isinstance(node, int) else node
        self.reports[node.id] = NodeReport()
        self._apply(Changes(put_nodes=(node,)), durable=True)

    def remove_node(self, number: int) -> None:
        self.reports.pop(f"node{number}")
        self._apply(Changes(delete_nodes=(f"node{number}",)), durable=True)

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
        self._met.add(node_id)
        self._merge(node_id, connected=True)
        self.set_node(number, state=NodeState.READY)

    def finish(self, task: Task) -> None:
        """The task's container ends with code 0."""
        self.fail(task, "complete")

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

    def ready(self) -> list[Task]:
        """Tasks that take connections: wanted, and ready on a node in truth."""
        ready = {i for report in self.reports.values() for i, t in report.tasks.items() if t.ready}
        return [t for t in self.tasks() if t.live and t.id in ready]

    def containers(self) -> list[str]:
        """Task ids of all containers that run anywhere."""
        return [i for r in self.reports.values() for i, t in r.tasks.items() if t.state == "running"]

    # --- letting it work ---
    def step(self) -> bool:
        """One pass of the manager and of each node; whether anything changed."""
        before = self.snapshot
        self.decide()
        for node_id in sorted(self.snapshot.nodes):
            if node_id not in self.cut:
                self.work(node_id)
        return self.snapshot is not before

    def decide(self) -> None:
        """One pass of the manager."""
        progressed: list[Service] = []
        changes = self.orchestrator._decide(
            self.snapshot, {"svc", *self.snapshot.services}, True, self.now, progressed
        )
        if changes:
            self.events += changes.events
            self._apply(changes, durable=True)
        if progressed:
            self._apply(Changes(put_services=tuple(progressed)))

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

    def work(self, node_id: str) -> None:
        """Let one node do what it is told, and say what came of it."""
        if node_id not in self._met:
            self._met.add(node_id)
            self._merge(node_id, connected=True)
        node = self.snapshot.nodes[node_id]
        actions = plan_node(
            self.snapshot.tasks_of_node(node_id),
            self.reports[node_id],
            {},
            self.snapshot.index,
            lambda t, desired: ensure_action(t, node, "cluster", desired),
            self.snapshot.services,
        )
        refreshes = plan_refreshes(self.snapshot.tasks_of_node(node_id), self.reports[node_id], {})
        tasks = dict(self.reports[node_id].tasks)
        for action in (*refreshes, *actions):
            match action:
                case RefreshSecrets():
                    tasks[action.task_id] = replace(tasks[action.task_id], refreshed=action.number)
                case EnsureTask():
                    tasks[action.task_id] = self._ensured(action, tasks.get(action.task_id))
                case StopTask():
                    known = tasks.get(action.task_id)
                    tasks[action.task_id] = (
                        TaskReport(task_id=action.task_id, state="gone")
                        if known is None
                        else _ended(known, "shutdown")
                    )
                case RemoveTask():
                    del tasks[action.task_id]
        tasks = {i: self._grown(i, report) for i, report in tasks.items()}
        self.reports[node_id] = replace(self.reports[node_id], tasks=tasks)
        self._merge(node_id)

    def _ensured(self, action: EnsureTask, known: TaskReport | None) -> TaskReport:
        """The container one stage further, if the time for that has come."""
        stage = "running" if action.desired == "running" and known is not None else "ready"
        if known is None and action.desired == "running" and not self.start_delay_s:
            stage = "running"
        due = self._due.setdefault((action.task_id, stage), self.now + self.start_delay_s)
        before = known or TaskReport(task_id=action.task_id, index=action.index, state="preparing")
        if due > self.now:
            return before
        if action.image in self.missing_images:
            return replace(before, state="rejected", err=f"No such image: {action.image}")
        if stage == "running" and action.image in self.broken_images:
            log = tuple(f"line {n}" for n in range(1, 11))
            return replace(before, state="failed", err="task: non-zero exit (1)", exit_code=1, log=log)
        if stage == "running":
            self._started[action.task_id] = self.now
        return replace(before, state=stage)

    def _grown(self, task_id: str, report: TaskReport) -> TaskReport:
        """What runs becomes ready in its time, or is late."""
        if report.state != "running" or report.ready:
            return report
        task = self.snapshot.tasks[task_id]
        image = task.spec.container_spec.image if task.spec.container_spec else ""
        ran_s = self.now - self._started[task_id]
        if ran_s >= self.ready_after.get(image, 0.0):
            return replace(report, ready=True)
        if ran_s >= READY_LIMIT_S:
            return replace(report, late=True, message="started, but not ready after 60 s: port 80")
        return report

    def _merge(self, node_id: str, *, connected: bool = False) -> None:
        """Take over what a node says; only at the start of a session is what it does not say a fact too."""
        tasks = tuple(self.snapshot.tasks_of_node(node_id))
        reports = self.reports[node_id].tasks
        merged = merge_full_report(
            tasks if connected else [t for t in tasks if t.id in reports], reports, self.now
        )
        if merged:
            self._apply(Changes(put_tasks=merged))

    def _apply(self, changes: Changes, *, durable: bool = False) -> None:
        if self.now > self._flushed_at:
            self._durable, self._flushed_at = self.snapshot, self.now
        for task in changes.put_tasks:
            old = self.snapshot.tasks.get(task.id)
            if old is not None:
                assert task.desired >= old.desired, "a desired state fell"
                assert task.status.state >= old.status.state, "an observed state fell"
        self.orchestrator.note_failures(self.snapshot, changes.put_tasks)
        self.snapshot = self.snapshot.apply(changes, self.snapshot.index + 1)
        if durable:
            self._durable = self.snapshot


def _ended(report: TaskReport, state: str) -> TaskReport:
    ended = ("failed", "complete", "shutdown", "rejected")
    return report if report.state in ended else replace(report, state=state, ready=False)


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
