"""The watch over nodes, with a clock turned by hand and sessions that are only said to exist."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from swarmsh.manager.ports import Connected, Disconnected, TasksReported
from swarmsh.manager.settings import Settings
from swarmsh.manager.watch import NodeWatch
from swarmsh.model.actions import NodeReport, TaskReport
from swarmsh.model.objects import Cluster, NodeStatus, SshTarget, Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import TaskSpec
from swarmsh.model.states import NodeState, TaskState
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import FakeClock

from ..core.world import make_node


class Sessions:
    """`NodeClient` as far as the watch uses it."""

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        self.reports: dict[str, NodeReport] = {}
        self.peers_reach: bool = False
        self.ended: list[str] = []
        self.stubborn: set[str] = set()

    def connected(self, node_id: str) -> bool:
        return node_id in self.reports

    def last_heard(self, node_id: str) -> float | None:
        return self.heard.get(node_id)

    def report(self, node_id: str) -> NodeReport | None:
        return self.reports.get(node_id)

    async def check_peers(self, node_id: str, peers: Sequence[tuple[str, SshTarget]]) -> dict[str, bool]:
        return {n: self.peers_reach for n, _ in peers}

    async def end_processes(self, node_id: str, task_ids: Sequence[str]) -> frozenset[str]:
        self.ended.extend(task_ids)
        return frozenset(task_ids) - self.stubborn


class Scene:
    def __init__(self, clock: FakeClock, store: MemoryStore) -> None:
        self.clock, self.store, self.sessions = clock, store, Sessions()
        self.watch = NodeWatch(store, self.sessions, clock, Settings(), lambda n: None, lambda n: None)  # type: ignore[arg-type]

    def speak(self, *nodes: str) -> None:
        for node in nodes:
            self.sessions.heard[node] = self.clock.monotonic()
            self.sessions.reports.setdefault(node, NodeReport())

    async def seconds(self, count: float, *speaking: str) -> None:
        """Let time pass, these nodes sending heartbeats and the others nothing."""
        for _ in range(int(count * 2)):
            self.clock.pass_time(0.5)
            self.speak(*speaking)
            async with asyncio.TaskGroup() as tasks:
                self.watch.judge_all(tasks)

    def state(self, number: int) -> NodeState:
        return self.store.snapshot.nodes[f"node{number}"].status.state


@pytest.fixture
async def scene() -> Scene:
    clock = FakeClock()
    store = MemoryStore(clock)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    nodes = tuple(make_node(n) for n in (1, 2, 3))
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=nodes))
    scene = Scene(clock, store)
    scene.speak("node1", "node2", "node3")
    await scene.seconds(1, "node1", "node2", "node3")
    return scene


async def test_a_silent_node_is_down_after_ten_seconds_if_no_peer_reaches_it(scene: Scene) -> None:
    await scene.seconds(9, "node1", "node2")
    assert scene.state(3) is NodeState.READY
    assert scene.store.snapshot.nodes["node3"].status.silent
    await scene.seconds(2, "node1", "node2")
    assert scene.state(3) is NodeState.DOWN


async def test_a_node_that_peers_reach_is_unreachable_for_as_long_as_they_do(scene: Scene) -> None:
    scene.sessions.peers_reach = True
    await scene.seconds(60, "node1", "node2")
    assert scene.state(3) is NodeState.UNREACHABLE


async def test_a_manager_that_hears_nobody_judges_nobody_and_gives_the_whole_time_afterwards(scene: Scene) -> None:
    await scene.seconds(60)
    assert [scene.state(n) for n in (1, 2, 3)] == [NodeState.READY] * 3
    # The first node to be heard again must not make the others look dead.
    await scene.seconds(9, "node1")
    assert scene.state(2) is NodeState.READY
    await scene.seconds(3, "node1")
    assert scene.state(2) is NodeState.DOWN


async def test_a_hung_engine_ends_processes_once_and_then_counts_as_down(scene: Scene) -> None:
    task = Task(
        id="t1", version=0, created_at=0.0, updated_at=0.0, service_id="s", service_name="web", slot=1,
        node_id="node3", spec=TaskSpec(),
    )  # fmt: skip
    running = TaskReport(task_id="t1", state="running")
    await scene.store.commit(lambda s: Changes(put_tasks=(task,)))
    scene.watch.take(Connected("node3", NodeReport(tasks={"t1": running})))
    scene.sessions.reports["node3"] = NodeReport(
        tasks={"t1": running}, engine_ok=False, engine_message="no answer", engine_since=scene.clock.monotonic()
    )
    await scene.seconds(9, "node1", "node2", "node3")
    assert (scene.state(3), scene.sessions.ended) == (NodeState.READY, [])
    await scene.seconds(3, "node1", "node2", "node3")
    assert (scene.state(3), scene.sessions.ended) == (NodeState.DOWN, ["t1"])


async def test_a_hung_engine_whose_processes_did_not_end_is_asked_again_and_not_yet_down(scene: Scene) -> None:
    tasks = tuple(
        Task(
            id=name, version=0, created_at=0.0, updated_at=0.0, service_id="s", service_name="web", slot=1,
            node_id="node3", spec=TaskSpec(),
        )
        for name in ("t1", "t2")
    )  # fmt: skip
    running = {name: TaskReport(task_id=name, state="running") for name in ("t1", "t2")}
    await scene.store.commit(lambda s: Changes(put_tasks=tasks))
    scene.watch.take(Connected("node3", NodeReport(tasks=running)))
    scene.sessions.reports["node3"] = NodeReport(
        tasks=running, engine_ok=False, engine_message="no answer", engine_since=scene.clock.monotonic()
    )
    scene.sessions.stubborn = {"t2"}
    await scene.seconds(15, "node1", "node2", "node3")
    assert scene.state(3) is NodeState.READY
    assert scene.sessions.ended.count("t2") > 1
    scene.sessions.stubborn = set()
    await scene.seconds(1.5, "node1", "node2", "node3")
    assert scene.state(3) is NodeState.DOWN


async def test_a_hung_engine_with_no_tasks_is_down(scene: Scene) -> None:
    scene.sessions.reports["node3"] = NodeReport(
        engine_ok=False, engine_message="no answer", engine_since=scene.clock.monotonic()
    )
    await scene.seconds(12, "node1", "node2", "node3")
    assert scene.state(3) is NodeState.DOWN


async def test_a_node_speaks_only_for_its_own_tasks(scene: Scene) -> None:
    task = Task(
        id="t1", version=0, created_at=0.0, updated_at=0.0, service_id="s", service_name="web", slot=1,
        node_id="node1", spec=TaskSpec(),
    )  # fmt: skip
    await scene.store.commit(lambda s: Changes(put_tasks=(task,)))
    lie = TaskReport(task_id="t1", state="failed", err="so says another")
    scene.watch.take(TasksReported("node2", (lie, TaskReport(task_id="nobody", state="running"))))
    assert scene.store.snapshot.tasks["t1"].status.state is TaskState.NEW


async def test_a_returned_node_is_ready_at_once(scene: Scene) -> None:
    await scene.seconds(12, "node1", "node2")
    assert scene.state(3) is NodeState.DOWN
    scene.watch.take(Disconnected("node3", "gone"))
    scene.watch.take(Connected("node3", NodeReport()))
    assert scene.store.snapshot.nodes["node3"].status == NodeStatus(state=NodeState.READY, since=scene.clock.now())
