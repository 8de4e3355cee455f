"""The watch over nodes, with a clock turned by hand and sessions that are only said to exist."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence

import pytest
from msgspec.structs import replace

from swarmsh.core.liveness import DOUBT
from swarmsh.manager.ports import Connected, Described, Disconnected, TasksReported
from swarmsh.manager.settings import Settings
from swarmsh.manager.usecases.cluster import tune_cluster
from swarmsh.manager.watch import DOUBT_ENDED, NodeWatch
from swarmsh.model.actions import NodeReport, TaskReport
from swarmsh.model.objects import Cluster, NodeDescription, NodeStatus, SshTarget, Task, TaskStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import TaskSpec
from swarmsh.model.states import NodeState, TaskState
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import FakeClock

from ..core.world import make_node


class Sessions:
    """`NodeClient` as far as the watch uses it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.heard: dict[str, float] = {}
        self.reports: dict[str, NodeReport] = {}
        self.peers_reach: bool = True  # a node that speaks; and else:
        self.silent_reached: bool = False
        self.no_takes_s: float = 0.0  # as a host that answers nothing uses up the deadline of a check
        self.asked: list[tuple[float, str, str]] = []  # when, who, about whom
        self.time_passed = asyncio.Event()
        self.ended: list[str] = []
        self.stubborn: set[str] = set()

    def connected(self, node_id: str) -> bool:
        return node_id in self.reports

    def last_heard(self, node_id: str) -> float | None:
        return self.heard.get(node_id)

    def report(self, node_id: str) -> NodeReport | None:
        return self.reports.get(node_id)

    async def check_peers(self, node_id: str, peers: Sequence[tuple[str, SshTarget]]) -> dict[str, bool]:
        [(asked_about, _)] = peers
        asked_at = self.clock.monotonic()
        self.asked.append((asked_at, node_id, asked_about))
        speaks = asked_at - self.heard.get(asked_about, 0.0) < 1.0
        reached = self.peers_reach if speaks else self.silent_reached
        while not reached and self.clock.monotonic() < asked_at + self.no_takes_s:
            await self.time_passed.wait()
        return {asked_about: reached}

    async def end_processes(self, node_id: str, task_ids: Sequence[str]) -> frozenset[str]:
        self.ended.extend(task_ids)
        return frozenset(task_ids) - self.stubborn


class Jobs:
    """`asyncio.TaskGroup` as far as the watch uses it; what it runs may outlast a tick."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def create_task(self, job: Coroutine[None, None, None]) -> None:
        self.tasks.add(asyncio.create_task(job))

    async def settle(self) -> None:
        """Let run what can."""
        for _ in range(10):
            await asyncio.sleep(0)
        for task in [t for t in self.tasks if t.done()]:
            self.tasks.discard(task)
            task.result()


class Scene:
    def __init__(self, clock: FakeClock, store: MemoryStore) -> None:
        self.clock, self.store, self.sessions, self.jobs = clock, store, Sessions(clock), Jobs()
        self.watch = NodeWatch(store, self.sessions, clock, Settings(), *[lambda _: None] * 3, lambda: None)  # type: ignore[arg-type]

    def speak(self, *nodes: str) -> None:
        for node in nodes:
            self.sessions.heard[node] = self.clock.monotonic()
            self.sessions.reports.setdefault(node, NodeReport())

    async def seconds(self, count: float, *speaking: str) -> None:
        """Let time pass, these nodes sending heartbeats and the others nothing."""
        for _ in range(int(count * 2)):
            self.clock.pass_time(0.5)
            self.speak(*speaking)
            passed, self.sessions.time_passed = self.sessions.time_passed, asyncio.Event()
            passed.set()
            await self.jobs.settle()
            self.watch.judge_all(self.jobs)  # type: ignore[arg-type]
            await self.jobs.settle()

    async def seconds_until_down(self, number: int, *speaking: str) -> float:
        """How long the node was silent when it was called down."""
        for _ in range(60):
            await self.seconds(0.5, *speaking)
            if self.state(number) is NodeState.DOWN:
                return self.clock.monotonic() - self.sessions.heard[f"node{number}"]
        raise AssertionError("not down after 30 s")

    def rounds_about(self, node: str) -> list[float]:
        """When peers were asked about a node, in seconds since it spoke; once a round."""
        since = self.sessions.heard[node]
        return sorted({at - since for at, _, about in self.sessions.asked if about == node and at > since})

    def state(self, number: int) -> NodeState:
        return self.store.snapshot.nodes[f"node{number}"].status.state


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock()
    store = MemoryStore(clock)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    nodes = tuple(make_node(n) for n in (1, 2, 3))
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=nodes))
    scene = Scene(clock, store)
    scene.speak("node1", "node2", "node3")
    await scene.seconds(1, "node1", "node2", "node3")
    yield scene
    for task in scene.jobs.tasks:
        task.cancel()
    await asyncio.gather(*scene.jobs.tasks, return_exceptions=True)


def without_baseline(scene: Scene) -> None:
    """As if the nodes had never reached each other."""
    scene.sessions.peers_reach = False
    for number in (1, 2, 3):
        scene.watch.take(Connected(f"node{number}", NodeReport()))


async def test_a_silent_node_is_down_after_ten_seconds_if_no_peer_reaches_it(scene: Scene) -> None:
    without_baseline(scene)
    await scene.seconds(1, "node1", "node2", "node3")
    await scene.seconds(9, "node1", "node2")
    assert scene.state(3) is NodeState.READY
    assert scene.store.snapshot.nodes["node3"].status.silent
    await scene.seconds(2, "node1", "node2")
    assert scene.state(3) is NodeState.DOWN


@pytest.mark.parametrize(
    ("no_takes_s", "down_at"),
    [
        pytest.param(0.0, 6.0, id="refused at once"),
        pytest.param(2.0, 6.0, id="noes after 2 s"),
        pytest.param(3.0, 8.0, id="no route to it"),
        pytest.param(5.0, 10.0, id="noes too late for a second round"),
    ],
)
async def test_peers_that_used_to_reach_a_node_and_fail_twice_shorten_the_wait(
    scene: Scene, no_takes_s: float, down_at: float
) -> None:
    scene.sessions.no_takes_s = no_takes_s
    assert await scene.seconds_until_down(3, "node1", "node2") == down_at


async def test_rounds_follow_each_other_and_do_not_overlap(scene: Scene) -> None:
    scene.sessions.no_takes_s = 2.0
    await scene.seconds(5.5, "node1", "node2")
    assert scene.rounds_about("node3") == [2.0, 4.0]
    assert {peer for _, peer, about in scene.sessions.asked if about == "node3"} == {"node1", "node2"}


async def test_what_peers_answered_is_judged_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = asyncio.Event()
    scene.watch.settings = Settings(liveness_tick_s=3600.0)
    monkeypatch.setattr(NodeWatch, "judge_all", lambda watch, tasks: judged.set())
    link = scene.watch._links["node3"]
    node = scene.store.snapshot.nodes["node3"]
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(scene.watch._tick(tasks))
        await scene.watch._ask_peers(node, link, ["node1"])
        await judged.wait()
        ticking.cancel()


async def test_a_node_that_is_late_itself_is_not_asked(scene: Scene) -> None:
    await scene.seconds(5, "node1")
    assert scene.rounds_about("node3")
    since = scene.sessions.heard["node3"]
    assert {peer for at, peer, about in scene.sessions.asked if about == "node3" and at > since} == {"node1"}


async def test_who_reaches_a_node_is_found_out_once_and_again_after_ten_minutes(scene: Scene) -> None:
    everybody = ("node1", "node2", "node3")
    pairs = {(a, b) for a in everybody for b in everybody if a != b}
    assert {(peer, about) for _, peer, about in scene.sessions.asked} == pairs
    await scene.seconds(590, *everybody)
    assert len(scene.sessions.asked) == len(pairs)
    await scene.seconds(20, *everybody)
    assert len(scene.sessions.asked) == 2 * len(pairs)


async def test_a_node_that_too_few_reached_is_looked_at_again_soon_and_ever_more_seldom(scene: Scene) -> None:
    everybody = ("node1", "node2", "node3")
    without_baseline(scene)
    scene.sessions.asked.clear()
    await scene.seconds(200, *everybody)
    began = scene.sessions.asked[0][0]
    rounds = sorted({at - began for at, _, about in scene.sessions.asked if about == "node3"})
    assert rounds == [0.0, 10.0, 30.0, 70.0, 150.0]
    scene.sessions.peers_reach = True
    await scene.seconds(130, *everybody)
    assert await scene.seconds_until_down(3, "node1", "node2") == 6.0


async def test_a_node_that_goes_while_it_is_looked_at_keeps_its_baseline(scene: Scene) -> None:
    everybody = ("node1", "node2", "node3")
    await scene.seconds(595, *everybody)
    scene.sessions.peers_reach = False
    scene.sessions.no_takes_s = 2.0
    known = len(scene.sessions.asked)
    while len(scene.sessions.asked) == known:
        await scene.seconds(0.5, *everybody)
    assert await scene.seconds_until_down(3, "node1", "node2") == 6.0


async def test_many_nodes_are_not_all_looked_at_by_the_same_few() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    nodes = tuple(make_node(n) for n in range(1, 101))
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=nodes))
    scene = Scene(clock, store)
    everybody = [n.id for n in nodes]
    scene.speak(*everybody)
    await scene.seconds(1, *everybody)
    asked = Counter(peer for _, peer, _ in scene.sessions.asked)
    assert sum(asked.values()) == 300
    assert max(asked.values()) < 15


async def test_what_was_true_of_an_earlier_session_confirms_nothing(scene: Scene) -> None:
    scene.sessions.peers_reach = False
    scene.watch.take(Disconnected("node3", "gone"))
    scene.watch.take(Connected("node3", NodeReport()))
    await scene.seconds(1, "node1", "node2", "node3")
    assert await scene.seconds_until_down(3, "node1", "node2") == 10.0


async def test_that_peers_reached_a_node_while_it_spoke_does_not_keep_it_once_it_is_silent(scene: Scene) -> None:
    await scene.seconds(3.5, "node1", "node2")
    status = scene.store.snapshot.nodes["node3"].status
    assert (status.state, status.silent) == (NodeState.READY, True)


async def test_above_two_hundred_nodes_a_heartbeat_every_two_seconds_is_not_late() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    nodes = tuple(make_node(n) for n in range(1, 202))
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=nodes))
    scene = Scene(clock, store)
    everybody = [n.id for n in nodes]
    scene.speak(*everybody)
    await scene.seconds(0.5, *everybody)
    scene.sessions.asked.clear()
    await scene.seconds(3.5)
    assert scene.sessions.asked == []
    assert not any(n.status.silent for n in store.snapshot.nodes.values())


async def test_a_node_that_peers_reach_is_unreachable_for_as_long_as_they_do(scene: Scene) -> None:
    scene.sessions.silent_reached = True
    await scene.seconds(60, "node1", "node2")
    assert scene.state(3) is NodeState.UNREACHABLE
    gaps = [b - a for a, b in zip(scene.rounds_about("node3"), scene.rounds_about("node3")[1:], strict=False)]
    assert min(gaps) > 4.0


async def test_a_manager_that_hears_nobody_judges_nobody_and_gives_the_whole_time_afterwards(scene: Scene) -> None:
    await scene.seconds(60)
    assert [scene.state(n) for n in (1, 2, 3)] == [NodeState.READY] * 3
    # The first node to be heard again must not make the others look dead.
    await scene.seconds(9, "node1")
    assert scene.state(2) is NodeState.READY
    await scene.seconds(3, "node1")
    assert scene.state(2) is NodeState.DOWN


async def test_doubt_of_itself_is_an_event_when_it_begins_and_when_it_ends(scene: Scene) -> None:
    def of(node_id: str) -> list[tuple[str, str, str]]:
        told = [
            e.attributes
            for e in scene.store.kept_events
            if (e.type, e.action, e.id) == ("node", "update", node_id)
        ]
        return [(a["state.old"], a["state.new"], a["message"]) for a in told]

    await scene.seconds(30)
    begun = [("ready", "ready", DOUBT)]
    assert [of(n) for n in ("node1", "node2", "node3")] == [begun] * 3
    scene.watch.take(Connected("node1", NodeReport()))
    await scene.seconds(30, "node1", "node2", "node3")
    ended = [*begun, ("ready", "ready", DOUBT_ENDED)]
    assert [of(n) for n in ("node1", "node2", "node3")] == [ended] * 3


async def test_a_node_that_goes_after_the_doubt_has_both_in_its_events(scene: Scene) -> None:
    await scene.seconds(30)
    scene.store.kept_events.clear()
    await scene.seconds(30, "node1", "node2")
    told = [e.attributes for e in scene.store.kept_events if e.id == "node3"]
    assert [(a["state.new"], a.get("message", "")) for a in told] == [
        ("ready", DOUBT_ENDED),
        ("down", ""),
    ]


async def test_a_longer_wait_holds_at_once(scene: Scene) -> None:
    without_baseline(scene)
    await scene.seconds(8, "node1", "node2")
    await tune_cluster(scene.store, down_after_s=20.0)
    await scene.seconds(11, "node1", "node2")
    assert scene.state(3) is NodeState.READY
    await scene.seconds(2, "node1", "node2")
    assert scene.state(3) is NodeState.DOWN


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


async def test_a_task_that_is_not_ready_in_time_is_told_once(scene: Scene) -> None:
    task = Task(
        id="t1", version=0, created_at=0.0, updated_at=0.0, service_id="s", service_name="web", slot=1,
        node_id="node1", spec=TaskSpec(), status=TaskStatus(state=TaskState.STARTING),
    )  # fmt: skip
    await scene.store.commit(lambda s: Changes(put_tasks=(task,)))
    message = "started, but not ready after 60 s: port 80 is not listening"
    late = TaskReport(task_id="t1", state="running", late=True, message=message, log=("waiting for db",))
    scene.watch.take(TasksReported("node1", (late,)))
    scene.watch.take(TasksReported("node1", (replace(late, message="started, but …"),)))
    scene.watch.take(Connected("node1", NodeReport(tasks={"t1": late})))
    told = [e for e in scene.store.kept_events if e.action == "not_ready"]
    assert [(e.type, e.id, e.attributes["task"], e.attributes["name"]) for e in told] == [
        ("service", "s", "t1", "web")
    ]
    assert told[0].attributes["message"] == f"web.1 on node n1: {message}\nlast log lines:\n  waiting for db"
    scene.watch.take(TasksReported("node1", (TaskReport(task_id="t1", state="running", ready=True),)))
    seen = scene.store.snapshot.tasks["t1"]
    assert seen.ready_since is not None and seen.late_at is not None


async def test_last_words_that_come_after_an_end_are_taken_over(scene: Scene) -> None:
    task = Task(
        id="t1", version=0, created_at=0.0, updated_at=0.0, service_id="s", service_name="web", slot=1,
        node_id="node1", spec=TaskSpec(),
    )  # fmt: skip
    await scene.store.commit(lambda s: Changes(put_tasks=(task,)))
    failed = TaskReport(task_id="t1", state="failed", err="task: non-zero exit (1)", exit_code=1)
    scene.watch.take(TasksReported("node1", (failed,)))
    scene.watch.take(TasksReported("node1", (replace(failed, log=("killed",)),)))
    assert scene.store.snapshot.tasks["t1"].status.log == ("killed",)


async def test_what_is_met_is_what_had_a_session_with_this_process(scene: Scene) -> None:
    assert not scene.watch.met("node1")
    scene.watch.take(Connected("node1", NodeReport()))
    scene.watch.take(Disconnected("node1", "cut"))
    assert scene.watch.met("node1") and not scene.watch.met("node2")


async def test_volumes_that_a_node_cannot_tell_are_there_still(scene: Scene) -> None:
    def told(*volumes: str) -> NodeReport:
        return NodeReport(description=NodeDescription(kernel="6", volumes=volumes))

    def known() -> tuple[str, ...] | None:
        return scene.store.snapshot.nodes["node3"].description.volumes

    mute = NodeReport(description=NodeDescription(kernel="6.1"))
    scene.watch.take(Connected("node3", told("pg", "web")))
    assert known() == ("pg", "web")
    scene.watch.take(Connected("node3", mute))
    assert known() == ("pg", "web")
    assert scene.store.snapshot.nodes["node3"].description.kernel == "6.1"
    scene.watch.take(Described("node3", mute))
    assert known() == ("pg", "web")
    scene.watch.take(Described("node3", told()))
    assert known() == ()
