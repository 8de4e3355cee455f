"""Nodes that are removed are left as they were found, and no later than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from swarmsh.manager.loop import Manager
from swarmsh.manager.ports import Connected, NodeEvent, TasksReported
from swarmsh.manager.settings import Settings
from swarmsh.model.actions import Action, Batch, EnsureTask, NodeReport, RemoveTask, TaskReport
from swarmsh.model.netstate import NetworkChange
from swarmsh.model.objects import Cluster, SshTarget, Task, TaskStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock

from ..core.world import make_node, make_spec

SHORT_S = 0.2


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 this is no sleep, but the others' turn
            await asyncio.sleep(0)


class OneNode:
    """`NodeClient` with one node that answers, and says what a test tells it to."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskReport] = {}
        self.given: list[Action] = []
        self.removes = True  # what it is told to remove, saying so
        self.away = False  # it answers no more
        self.says_so = True  # that it was released
        self.released = asyncio.Event()
        self._said: asyncio.Queue[NodeEvent] = asyncio.Queue()
        self._given_more = asyncio.Event()

    def connect(self) -> None:
        self._said.put_nowait(Connected(node_id="node1", report=NodeReport(tasks=dict(self.tasks))))

    async def until_given(self, kind: type[Action], task_id: str) -> None:
        while not any(isinstance(a, kind) and a.task_id == task_id for a in self.given):
            await self._given_more.wait()
            self._given_more.clear()

    # --- NodeClient ---
    def keep(self, node_id: str, name: str, target: SshTarget) -> None:
        pass

    async def drop(self, node_id: str, *, release: bool = False) -> bool:
        assert release
        self.released.set()
        return self.says_so

    async def events(self) -> AsyncIterator[NodeEvent]:
        while True:
            yield await self._said.get()

    def connected(self, node_id: str) -> bool:
        return True

    def last_heard(self, node_id: str) -> float | None:
        return 0.0

    def report(self, node_id: str) -> NodeReport | None:
        return None if self.away else NodeReport(tasks=dict(self.tasks))

    async def network(self, node_id: str, change: NetworkChange) -> tuple[str, ...]:
        return ()

    async def apply(self, node_id: str, batch: Batch) -> None:
        self.given.extend(batch.actions)
        self._given_more.set()
        for action in batch.actions:
            if isinstance(action, RemoveTask) and self.removes and self.tasks.pop(action.task_id, None):
                gone = TaskReport(task_id=action.task_id, state="gone")
                self._said.put_nowait(TasksReported(node_id=node_id, tasks=(gone,)))


class Scene:
    """A manager at work whose only node is to be removed."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.node, self.store = OneNode(), MemoryStore(clock)
        settings = Settings(leave_deadline_s=SHORT_S)
        self.manager = Manager(self.store, self.node, clock, CountingIds(), 1, settings)  # type: ignore[arg-type]

    async def remove_node(self) -> None:
        await self.store.commit(lambda s: Changes(delete_nodes=("node1",)))
        async with asyncio.timeout(20):
            await self.node.released.wait()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    await scene.store.commit(lambda s: Changes(cluster=cluster, put_nodes=(make_node(1),)))
    running = asyncio.create_task(scene.manager.run())
    yield scene
    running.cancel()
    await asyncio.wait([running])


async def test_what_the_node_holds_is_removed_first(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.node.tasks["held"] = TaskReport(task_id="held", index=99, state="running")
    scene.node.connect()
    await scene.remove_node()
    assert scene.node.given == [RemoveTask(task_id="held")]
    assert scene.node.tasks == {}
    assert "node_left_with_containers" not in caplog.text


async def test_a_node_that_left_gives_its_number_back(scene: Scene) -> None:
    scene.node.tasks["held"] = TaskReport(task_id="held", index=99, state="running")
    scene.node.connect()
    await scene.remove_node()
    await until(lambda: set(scene.store.snapshot.releases) == {"nodes/1"})


@pytest.mark.parametrize("why", ["does not answer", "keeps its containers", "does not say that it forgot all"])
async def test_a_node_that_may_still_run_keeps_its_number(scene: Scene, why: str) -> None:
    scene.node.connect()
    if why == "does not answer":
        scene.node.away = True
    elif why.startswith("does not say"):
        scene.node.says_so = False
    else:
        scene.node.removes = False
        scene.node.tasks["stuck"] = TaskReport(task_id="stuck", index=99, state="running")
    await scene.remove_node()
    await until(lambda: not scene.manager._leaving)
    for _ in range(20):
        await asyncio.sleep(0)  # the others' turns: it would be given back by now
    assert set(scene.store.snapshot.releases) == {"lost-nodes/1"}


async def test_what_was_removed_before_is_not_waited_for(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The worker has had no occasion to forget it: its plan did not change since the task went."""
    scene.node.tasks["stray"] = TaskReport(task_id="stray", state="running")
    scene.node.connect()
    await scene.node.until_given(RemoveTask, "stray")
    await scene.remove_node()
    assert scene.node.given == [RemoveTask(task_id="stray")]
    assert "node_left_with_containers" not in caplog.text


async def test_what_the_node_has_not_spoken_of_is_removed_too(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.node.connect()
    spec = make_spec().task_template
    task = Task(
        id="new", version=1, created_at=0.0, updated_at=0.0, service_id="svc", service_name="web", spec=spec,
        node_id="node1", status=TaskStatus(state=TaskState.ASSIGNED),
    )  # fmt: skip
    await scene.store.commit(lambda s: Changes(put_tasks=(task,)))
    await scene.node.until_given(EnsureTask, "new")
    await scene.remove_node()
    assert scene.node.given[-1] == RemoveTask(task_id="new")
    assert "node_left_with_containers" not in caplog.text


async def test_the_deadline_is_told_when_a_node_keeps_its_containers(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.node.removes = False
    scene.node.tasks["stuck"] = TaskReport(task_id="stuck", index=99, state="running")
    scene.node.connect()
    await scene.remove_node()
    assert "node_left_with_containers node=node1 error=deadline" in caplog.text
