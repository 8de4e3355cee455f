"""Networks reach nodes before what needs them, leave before what they led to, and cost what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from swarmsh.core import netstate
from swarmsh.core.esp_keys import SPI_EPOCHS
from swarmsh.errors import NetworkFailed, NodeDeadline, NodeRequestFailed
from swarmsh.manager.key_keeper import Rotation
from swarmsh.manager.loop import Manager
from swarmsh.manager.ports import NetworkChecked
from swarmsh.manager.settings import Settings
from swarmsh.model.actions import Batch, EnsureTask, NetworkJoin, StopTask, TaskReport
from swarmsh.model.netstate import EspKeys, NetworkChange
from swarmsh.model.objects import Cluster, Node, NodeStatus, Service, Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState, TaskState
from tests.fakes.helpers import FakeHelpers
from tests.fakes.networked import HTTP, MARK, NET1, networked, placed
from tests.fakes.objects import a_node, a_service
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock

N1, N2, N3 = a_node(1), a_node(2), a_node(3)
WEB = networked(a_service("web"), NET1, ports=(HTTP,))
LONE = networked(a_service("lone"), NET1)


class Idle:
    """In the orchestrator's place: tests make the tasks."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def touch(self, dirt: object) -> None: ...

    def touch_all(self) -> None: ...

    def note_failures(self, before: object, changed: object) -> None: ...


class Scene:
    """A manager at work on simulated nodes."""

    def __init__(self, leave_ack_s: float, meet_s: float) -> None:
        clock = self.clock = FakeClock()
        self.store, self.nodes = MemoryStore(clock), FakeHelpers()
        settings = Settings(leave_ack_s=leave_ack_s, leave_deadline_s=20.0, meet_s=meet_s)
        self.manager = Manager(self.store, self.nodes, clock, CountingIds(), 1, settings)  # type: ignore[arg-type]
        self.manager._orchestrator = Idle()  # type: ignore[assignment]

    async def put(self, *objects: Node | Service | Task) -> None:
        changes = Changes(
            put_nodes=tuple(o for o in objects if isinstance(o, Node)),
            put_services=tuple(o for o in objects if isinstance(o, Service)),
            put_tasks=tuple(o for o in objects if isinstance(o, Task)),
        )
        await self.store.commit(lambda s: changes)

    async def stop(self, task: Task, desired: TaskState = TaskState.SHUTDOWN) -> None:
        await self.store.commit(lambda s: Changes(put_tasks=(replace(s.tasks[task.id], desired=desired),)))

    def running(self, *tasks: Task) -> None:
        """As their nodes report them before the manager is there."""
        for task in tasks:
            report = TaskReport(task_id=task.id, state="running", ready=True, container_id="c" * 64)
            self.nodes.tasks[task.node_id][task.id] = report

    def weights(self, node: Node, mark: int = 1, section: str = "vips") -> dict[str, int]:
        entry = self.nodes.held[node.id][section][mark]
        assert isinstance(entry, dict)
        return {dest["task"]: dest["weight"] for dest in entry["dests"]}

    def messages(self) -> int:
        return len(self.nodes.said("network"))

    def events(self, action: str) -> list[dict[str, str]]:
        return [e.attributes for e in self.store.kept_events if e.action == action]

    def followed(self, task: Task, state: TaskState) -> bool:
        """Whether it is known that a task came to this state, and what follows of it for networks."""
        known = self.manager._networks.states.snapshot
        return known is self.store.snapshot and known.tasks[task.id].status.state is state

    async def keys_settled(self) -> None:
        """Every node has the keys that it is to have, and no pair waits for an epoch."""
        ring = self.manager._networks.keeper.ring

        def settled() -> bool:
            mine = {n: ring.wanted(n) for n in (N1.id, N2.id, N3.id)}
            return not ring.wanting and all(k is None or self.nodes.keys.get(n) == k for n, k in mine.items())

        await self.settled()
        await self.nodes.until(settled)

    async def settled(self) -> None:
        """Every node has been told all there is to tell."""
        networks = self.manager._networks

        def settled() -> bool:
            told = not any(node.behind for node in networks._nodes.values())
            return told and networks.states.snapshot is self.store.snapshot and not self.nodes.unheard

        await self.nodes.until(settled)


@asynccontextmanager
async def scene_of(
    *objects: Node | Service | Task, connected: bool = True, leave_ack_s: float = 60.0, meet_s: float = 60.0
) -> AsyncIterator[Scene]:
    scene = Scene(leave_ack_s, meet_s)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    await scene.store.commit(lambda s: Changes(cluster=cluster, put_networks=(NET1,), put_nodes=(N1, N2, N3)))
    await scene.put(*objects)
    scene.running(*(o for o in objects if isinstance(o, Task) and o.status.state is TaskState.RUNNING))
    running = asyncio.create_task(scene.manager.run())
    try:
        if connected:
            scene.nodes.connect(N1.id, N2.id, N3.id)
            await scene.nodes.until(lambda: len(scene.nodes.said("told")) >= 3)
            await scene.settled()
        yield scene
    finally:
        running.cancel()
        await asyncio.wait([running])


def is_stop(task: Task):
    return lambda batch: (
        isinstance(batch, Batch) and any(isinstance(a, StopTask) and a.task_id == task.id for a in batch.actions)
    )


def is_start(task: Task):
    return lambda batch: (
        isinstance(batch, Batch) and any(isinstance(a, EnsureTask) and a.task_id == task.id for a in batch.actions)
    )


# --- what is told -----------------------------------------------------------------------------------------------
async def test_a_session_begins_with_the_whole_state_and_goes_on_with_what_changed() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        first = scene.nodes.said("network", N1.id)
        assert [c.fresh for c in first if isinstance(c, NetworkChange)] == [True]
        assert set(scene.nodes.held[N1.id]) == {
            "node",
            "egress",
            "peers",
            "networks",
            "vips",
            "ports",
            "tasks",
            "names",
        }
        assert set(scene.nodes.held[N3.id]) == {"node", "egress", "peers", "ports"}
        before = scene.messages()
        scene.nodes.report_task(N2.id, two.id, "running", ready=False)
        await scene.nodes.until(lambda: scene.messages() == before + 3)
        await scene.settled()
        change = scene.nodes.said("network", N1.id)[-1]
        assert isinstance(change, NetworkChange)
        assert not change.fresh and not change.drop
        assert {section: len(entries) for section, entries in change.put.items()} == {
            "vips": 1,
            "ports": 1,
            "names": 1,
        }
        assert scene.weights(N1) == {one.id: 1} == scene.weights(N3, MARK + 1, "ports")


async def test_a_node_that_needs_nothing_is_told_so_once() -> None:
    async with scene_of(LONE) as scene:
        assert scene.nodes.held == {n.id: {} for n in (N1, N2, N3)}
        assert scene.messages() == 3
        await scene.put(replace(N1, spec=replace(N1.spec, labels={"a": "b"})))
        await scene.settled()
        assert scene.messages() == 3


async def test_a_new_session_is_told_everything_again() -> None:
    one = placed(LONE, 1, N1)
    async with scene_of(LONE, one) as scene:
        held = scene.nodes.held.pop(N1.id)
        scene.nodes.cut(N1.id)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: N1.id in scene.nodes.held)
        assert scene.nodes.held[N1.id] == held
        last = scene.nodes.said("network", N1.id)[-1]
        assert isinstance(last, NetworkChange) and last.fresh


async def test_what_ended_leaves_the_other_nodes_with_the_next_message() -> None:
    one, two, gone = placed(WEB, 1, N1), placed(WEB, 2, N2), placed(WEB, 3, N3)
    async with scene_of(WEB, one, two, gone) as scene:
        before = scene.messages()
        scene.nodes.report_task(N3.id, gone.id, "failed")
        await scene.nodes.until(lambda: gone.id not in scene.weights(N1) and gone.id not in scene.weights(N2))
        await scene.settled()
        assert scene.messages() == before + 3
        assert "networks" not in scene.nodes.held[N3.id] and "tasks" not in scene.nodes.held[N3.id]
        network = scene.nodes.held[N1.id]["networks"][NET1.id]
        assert isinstance(network, dict) and network["peers"] == [2]


async def test_a_silent_nodes_backends_take_no_new_connections() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        silent = NodeStatus(state=NodeState.READY, silent=True)
        scene.store.observe(lambda s: Changes(put_nodes=(replace(s.nodes[N2.id], status=silent),)))
        await scene.nodes.until(lambda: scene.weights(N1) == {one.id: 1, two.id: 0})


# --- before a task starts ---------------------------------------------------------------------------------------
async def test_a_task_starts_when_its_networks_are_there() -> None:
    async with scene_of(LONE) as scene:
        scene.nodes.slow(N1.id)
        task, plain = placed(LONE, 1, N1, state=TaskState.ASSIGNED), a_service("plain")
        other = replace(placed(plain, 2, N1, state=TaskState.ASSIGNED), egress_address="")
        await scene.put(plain, task, other)
        # What is on no network does not wait.
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(other)) >= 0)
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "network", lambda c: bool(c.put)) >= 0)  # type: ignore[attr-defined]
        assert scene.nodes.place(N1.id, "apply", is_start(task)) == -1
        scene.nodes.release(N1.id)
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(task)) >= 0)
        has_network = scene.nodes.place(N1.id, "told", lambda c: "networks" in c.put)  # type: ignore[attr-defined]
        assert 0 <= has_network < scene.nodes.place(N1.id, "apply", is_start(task))
        action = next(a for a in scene.nodes.actions(N1.id) if isinstance(a, EnsureTask) and a.task_id == task.id)
        assert action.networks == (
            NetworkJoin(name="net1", address="10.48.17.1"),
            NetworkJoin(name="swgw", address="10.255.1.11"),
        )
        assert action.config["HostConfig"]["Dns"] == ["10.255.1.1"]


async def test_networks_that_fail_do_not_stop_the_batch_and_are_shown_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene_of(LONE) as scene:
        scene.nodes.failing[N1.id] = NetworkFailed("node n1: no module ip_vs")
        task, more = placed(LONE, 1, N1, state=TaskState.ASSIGNED), placed(LONE, 2, N1, state=TaskState.ASSIGNED)
        await scene.put(task)
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(task)) >= 0)
        await scene.put(more)
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(more)) >= 0)
        assert scene.events("network_failed") == [{"name": "n1", "message": "node n1: no module ip_vs"}]
        # What it holds is not said again; the node itself says when it has got it done.
        said = [c for c in scene.nodes.said("network", N1.id) if isinstance(c, NetworkChange)]
        assert [entry.id for c in said for entry in c.put.get("tasks", [])] == [task.id, more.id]
        del scene.nodes.failing[N1.id]
        scene.nodes.say(NetworkChecked(node_id=N1.id, ok=True, message="", drift=()))
        await scene.nodes.until(lambda: bool(scene.events("network_works")))
        scene.nodes.say(NetworkChecked(node_id=N1.id, ok=True, message="", drift=("link sv1000 was missing",)))
        await scene.nodes.until(lambda: bool(scene.events("network_drift")))
        assert scene.events("network_drift") == [{"name": "n1", "drift": "link sv1000 was missing"}]
        assert len(scene.events("network_works")) == 1
        assert caplog.text.count("network_failed node=") == 1


@pytest.mark.parametrize(
    "error", [NodeDeadline("no answer"), NodeRequestFailed("bad request", code="bad_request")]
)
async def test_what_the_node_did_not_take_is_told_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmsh.manager.retrying.FIRST_RETRY_S", 0.01)
    async with scene_of(LONE) as scene:
        scene.nodes.broken[N1.id] = error  # type: ignore[assignment]
        task = placed(LONE, 1, N1, state=TaskState.ASSIGNED)
        await scene.put(task)
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(task)) >= 0)
        assert task.id in scene.nodes.held[N1.id]["tasks"]


async def test_what_was_taken_without_an_answer_and_is_wanted_no_more_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarmsh.manager.retrying.FIRST_RETRY_S", 0.01)
    async with scene_of(LONE) as scene:
        task = placed(LONE, 1, N1, state=TaskState.ASSIGNED)
        scene.nodes.failing[N1.id] = NodeDeadline("no answer")  # type: ignore[assignment]
        await scene.put(task)
        await scene.nodes.until(lambda: task.id in scene.nodes.held[N1.id].get("tasks", {}))
        await scene.store.commit(lambda s: Changes(delete_tasks=(task.id,)))
        del scene.nodes.failing[N1.id]
        await scene.nodes.until(lambda: scene.nodes.held[N1.id] == {})


async def test_a_node_without_encrypted_networks_is_opened_once_a_session() -> None:
    async with scene_of(LONE) as scene:
        await scene.nodes.until(lambda: len(scene.nodes.said("secure", N1.id)) == 1)
        scene.manager._networks.touch_all()
        await scene.put(placed(LONE, 1, N1))
        await scene.settled()
        assert [k.closed for k in scene.nodes.said("secure", N1.id) if isinstance(k, EspKeys)] == [False]
        scene.nodes.cut(N1.id)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: len(scene.nodes.said("secure", N1.id)) == 2)


async def test_a_node_without_an_address_for_others_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    named = replace(N1, target=replace(N1.target, address="n1.example"))
    caplog.set_level(logging.WARNING)
    async with scene_of(LONE, named) as scene:
        task = placed(LONE, 1, N1, state=TaskState.ASSIGNED)
        await scene.put(task)
        # Its helper knows no such network, and says so.
        await scene.nodes.until(lambda: scene.nodes.place(N1.id, "apply", is_start(task)) >= 0)
        assert scene.nodes.held[N1.id] == {}
        scene.manager._networks.touch_all()
        await scene.nodes.until(lambda: bool(scene.events("network_failed")))
        assert "swarmsh_underlay" in scene.events("network_failed")[0]["message"]


# --- before a task stops ----------------------------------------------------------------------------------------
async def test_a_task_stops_when_every_node_has_left_it() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        scene.nodes.slow(N1.id, N3.id)
        await scene.stop(two)
        await scene.nodes.until(lambda: scene.weights(N2) == {one.id: 1, two.id: 0})
        scene.nodes.release(N1.id)
        await scene.nodes.until(lambda: scene.weights(N1) == {one.id: 1, two.id: 0})
        assert scene.nodes.place(N2.id, "apply", is_stop(two)) == -1
        scene.nodes.release(N3.id)
        await scene.nodes.until(lambda: scene.nodes.place(N2.id, "apply", is_stop(two)) >= 0)
        stop = next(a for a in scene.nodes.actions(N2.id) if isinstance(a, StopTask))
        assert (stop.grace_s, stop.drain_s) == (10.0, 10.0)
        # Once it has ended it is nowhere any more.
        await scene.nodes.until(lambda: scene.weights(N3, MARK + 1, "ports") == {one.id: 1})


async def test_a_node_that_does_not_acknowledge_holds_a_stop_up_for_a_while_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two, leave_ack_s=0.1) as scene:
        scene.nodes.slow(N3.id)
        await scene.stop(two)
        await scene.nodes.until(lambda: scene.nodes.place(N2.id, "apply", is_stop(two)) >= 0)
        assert "stop_not_acknowledged" in caplog.text


def given_stop(scene: Scene, task: Task) -> bool:
    return scene.nodes.place(task.node_id, "apply", is_stop(task)) >= 0


@pytest.mark.parametrize("status", [{"silent": True}, {"state": NodeState.UNREACHABLE}, {"state": NodeState.DOWN}])
async def test_nodes_that_cannot_be_told_hold_no_stop_up(status: dict[str, object]) -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        scene.nodes.cut(N3.id)
        await scene.stop(two)
        await scene.nodes.until(lambda: scene.weights(N1) == {one.id: 1, two.id: 0})
        # It was there a moment ago, and may well be sending.
        assert not given_stop(scene, two)
        seen = replace(N3, status=replace(N3.status, **status))
        scene.store.observe(lambda s: Changes(put_nodes=(seen,)))
        await scene.nodes.until(lambda: given_stop(scene, two))


async def test_a_new_manager_meets_all_nodes_before_it_stops_anything() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two, connected=False) as scene:
        await scene.stop(two)
        scene.nodes.connect(N1.id, N2.id)
        scene.nodes.slow(N3.id)
        await scene.nodes.until(lambda: len(scene.nodes.said("told")) >= 2)
        for silent in (True, False):  # it was not heard yet: that says nothing of what it does
            seen = replace(N3, status=NodeStatus(state=NodeState.READY, silent=silent))
            scene.store.observe(lambda s, seen=seen: Changes(put_nodes=(seen,)))  # type: ignore[misc]
            await scene.nodes.until(lambda: not scene.nodes.unheard)
        assert not given_stop(scene, two)
        scene.nodes.connect(N3.id)
        await scene.nodes.until(lambda: scene.nodes.place(N3.id, "network") >= 0)
        assert not given_stop(scene, two)
        scene.nodes.release(N3.id)
        await scene.nodes.until(lambda: given_stop(scene, two))


async def test_a_node_that_a_new_manager_does_not_meet_is_waited_for_a_while_only() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two, connected=False, leave_ack_s=0.05, meet_s=0.1) as scene:
        await scene.stop(two)
        scene.nodes.connect(N1.id, N2.id)
        await scene.nodes.until(lambda: given_stop(scene, two))


async def test_a_node_that_was_down_before_is_not_waited_for_by_a_new_manager() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    lost = replace(N3, status=NodeStatus(state=NodeState.DOWN))
    async with scene_of(WEB, one, two, lost, connected=False) as scene:
        scene.nodes.cut(N3.id)
        await scene.stop(two)
        scene.nodes.connect(N1.id, N2.id)
        await scene.nodes.until(lambda: given_stop(scene, two))


async def test_a_drain_is_as_long_as_the_label_says_and_none_for_what_has_no_endpoint() -> None:
    labelled = replace(LONE, spec=replace(LONE.spec, labels={"swarmsh.drain": "3s"}))
    plain = a_service("plain")
    drained, other = placed(labelled, 1, N1), replace(placed(plain, 2, N1), egress_address="")
    orphan = placed(networked(a_service("gone"), NET1, first_mark=7), 3, N1)
    async with scene_of(labelled, plain, drained, other, orphan) as scene:
        for task in (drained, other):
            await scene.stop(task)
        await scene.stop(orphan, TaskState.REMOVE)
        ids = {drained.id, other.id, orphan.id}
        await scene.nodes.until(lambda: ids <= {a.task_id for a in scene.nodes.actions(N1.id)})
        stops = {a.task_id: a.drain_s for a in scene.nodes.actions(N1.id) if isinstance(a, StopTask)}
        assert stops == {drained.id: 3.0, other.id: 0.0, orphan.id: 0.0}


# --- cost and end -----------------------------------------------------------------------------------------------
async def test_one_changed_task_costs_each_node_one_message_however_many_services_there_are() -> None:
    services = [networked(a_service(f"s{n}"), NET1, first_mark=1000 + n) for n in range(100)]
    tasks = [placed(s, slot, node) for s in services for slot, node in ((1, N1), (2, N2))]
    async with scene_of(*services, *tasks) as scene:
        before = scene.messages()
        scene.nodes.report_task(N1.id, tasks[8].id, "running", ready=False)
        await scene.nodes.until(lambda: scene.messages() == before + 2)
        await scene.settled()
        for change in scene.nodes.said("network")[before:]:
            assert isinstance(change, NetworkChange)
            assert {section: len(entries) for section, entries in change.put.items()} == {"vips": 1, "names": 1}
        assert scene.messages() == before + 2


async def test_what_does_not_concern_a_node_is_acknowledged_without_a_message() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        scene.nodes.report_task(N2.id, two.id, "running", ready=False)
        await scene.nodes.until(lambda: scene.weights(N1) == {one.id: 1})
        await scene.settled()
        before = scene.messages()
        await scene.put(a_service("plain"))
        index = scene.store.snapshot.index
        await scene.nodes.until(lambda: scene.manager._networks.states.snapshot.index == index)
        assert scene.manager._networks.all_have(index) and scene.messages() == before


async def test_a_bug_in_following_a_change_costs_a_whole_state_and_not_the_manager(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        real, calls = netstate.service_part, []

        def once_broken(*args: object) -> object:
            calls.append(args)
            if len(calls) == 1:
                raise ZeroDivisionError
            return real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(netstate, "service_part", once_broken)
        scene.nodes.report_task(N2.id, two.id, "failed")
        await scene.nodes.until(lambda: scene.weights(N1) == {one.id: 1})
        assert "network_states_lost" in caplog.text
        last = scene.nodes.said("network", N1.id)[-1]
        assert isinstance(last, NetworkChange) and last.fresh


# --- keys -------------------------------------------------------------------------------------------------------
SECRET = replace(NET1, encrypted=True)


def epochs(keys: object) -> dict[int, tuple[int, list[int]]]:
    """By number of the peer: the epoch that goes out, and those that are heard."""
    assert isinstance(keys, EspKeys)
    return {p.n: (p.sends, [e.epoch for e in p.epochs]) for p in keys.peers}


@asynccontextmanager
async def encrypted(*tasks: Task) -> AsyncIterator[Scene]:
    async with scene_of(LONE) as scene:
        await scene.store.commit(lambda s: Changes(put_networks=(SECRET,)))
        scene.running(*tasks)
        await scene.put(*tasks)
        await scene.keys_settled()
        yield scene


async def test_keys_come_before_the_network_and_to_those_that_share_it() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        for node in (N1, N2):
            network = scene.nodes.place(node.id, "network", lambda c: "networks" in c.put)  # type: ignore[attr-defined]
            assert 0 <= scene.nodes.place(node.id, "secure") < network
        assert not scene.nodes.keys[N3.id].closed
        assert epochs(scene.nodes.keys[N1.id]) == {2: (1, [1])}
        assert epochs(scene.nodes.keys[N2.id]) == {1: (1, [1])}
        first, second = scene.nodes.keys[N1.id].peers[0], scene.nodes.keys[N2.id].peers[0]
        assert first.epochs[0].outbound == second.epochs[0].inbound != first.epochs[0].inbound
        assert len(bytes.fromhex(first.epochs[0].outbound)) == 20


async def test_a_rotation_is_heard_by_all_before_anybody_sends_in_it_and_the_old_one_goes_last() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        begin = len(scene.nodes.log)
        scene.manager.rotate_keys()
        await scene.nodes.until(lambda: epochs(scene.nodes.keys[N1.id])[2][0] == 2)
        await scene.keys_settled()
        scene.clock.pass_time(5.0)
        await scene.manager._networks.keeper.keep(scene.clock.monotonic())
        await scene.keys_settled()
        said = [(n, epochs(k)) for n, what, k in scene.nodes.log[begin:] if what == "secure"]
        for mine, other in ((N1, N2), (N2, N1)):
            sent = next(i for i, (n, e) in enumerate(said) if n == mine.id and e[other.number][0] == 2)
            heard = next(i for i, (n, e) in enumerate(said) if n == other.id and 2 in e[mine.number][1])
            assert heard < sent
        assert epochs(scene.nodes.keys[N1.id]) == {2: (2, [2])}
        assert epochs(scene.nodes.keys[N2.id]) == {1: (2, [2])}
        assert await scene.store.next_epoch() == 3, "its numbers are the store's"


async def test_a_rotation_that_is_asked_for_returns_when_all_send_in_the_new_epoch() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        async with asyncio.timeout(20):
            assert await scene.manager.rotated(3600.0) == Rotation(1)
        assert [epochs(scene.nodes.keys[n.id])[o.number][0] for n, o in ((N1, N2), (N2, N1))] == [2, 2]


async def test_a_rotation_names_the_nodes_that_did_not_acknowledge_it() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        scene.nodes.keyless[N2.id] = NetworkFailed("node n2: no module esp4")
        assert await scene.manager.rotated(0.3) == Rotation(1, frozenset({N2.id}))
        assert epochs(scene.nodes.keys[N1.id]) == {2: (1, [1, 2])}, "it sends what the other hears"


async def test_a_pair_gets_the_next_number_where_one_has_the_spi_of_what_it_has() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        numbers = iter((1 + SPI_EPOCHS, 2 + SPI_EPOCHS))

        async def next_epoch() -> int:
            return next(numbers)

        scene.store.next_epoch = next_epoch  # type: ignore[method-assign]
        scene.manager.rotate_keys()
        await scene.nodes.until(lambda: epochs(scene.nodes.keys[N1.id])[2][0] == 2 + SPI_EPOCHS)
        assert epochs(scene.nodes.keys[N1.id]) == {2: (2 + SPI_EPOCHS, [1, 2 + SPI_EPOCHS])}


async def test_without_encrypted_networks_there_is_nothing_to_rotate() -> None:
    async with scene_of(LONE) as scene:
        assert await scene.manager.rotated(0.1) == Rotation(0)


async def test_a_rebooted_node_and_a_lost_key_make_a_new_epoch() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        old = scene.nodes.keys[N1.id].peers[0].epochs[0]
        scene.nodes.cut(N1.id)
        scene.nodes.boots[N1.id] = "another"
        begin = len(scene.nodes.said("secure", N1.id))
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: epochs(scene.nodes.keys[N1.id]) == {2: (2, [2])})
        await scene.keys_settled()
        again = [k for k in scene.nodes.said("secure", N1.id)[begin:] if isinstance(k, EspKeys)]
        assert again and all(old not in peer.epochs for keys in again for peer in keys.peers)
        scene.nodes.say(NetworkChecked(node_id=N2.id, ok=True, message="", drift=(), lost=(1,)))
        await scene.nodes.until(lambda: epochs(scene.nodes.keys[N2.id])[1][0] == 3)


async def test_a_rebooted_node_gets_no_keys_before_its_session_is_heard_of() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        scene.nodes.cut(N1.id)
        scene.nodes.boots[N1.id] = "another"
        begin = len(scene.nodes.said("secure", N1.id))
        scene.nodes.away.discard(N1.id)  # attached; what the session said is still to be taken in
        scene.manager.rotate_keys()
        await scene.nodes.until(lambda: 2 in epochs(scene.nodes.keys[N2.id])[1][1])
        await scene.manager._networks._nodes[N1.id].tell()
        assert scene.nodes.said("secure", N1.id)[begin:] == []
        scene.nodes.connect(N1.id)
        await scene.keys_settled()
        assert epochs(scene.nodes.keys[N1.id])[2][0] > 1


async def test_keys_that_are_refused_keep_no_other_network_away() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with scene_of(LONE) as scene:
        scene.nodes.keyless[N1.id] = NetworkFailed("node n1: no module esp4")
        await scene.store.commit(lambda s: Changes(put_networks=(SECRET,)))
        scene.running(one, two)
        await scene.put(one, two)
        await scene.nodes.until(lambda: "networks" in scene.nodes.held[N1.id])
        assert scene.events("network_failed") == [{"name": "n1", "message": "node n1: no module esp4"}]
        assert scene.events("network_works") == []
        await scene.nodes.until(lambda: N2.id in scene.nodes.keys)
        assert epochs(scene.nodes.keys[N2.id])[1][0] == 0, "nothing is sent to who cannot hear it"


async def test_who_leaves_the_last_encrypted_network_is_opened_after_it_has_gone() -> None:
    one, two = placed(LONE, 1, N1), placed(LONE, 2, N2)
    async with encrypted(one, two) as scene:
        scene.nodes.report_task(N2.id, two.id, "failed")
        await scene.nodes.until(lambda: not scene.nodes.keys[N2.id].closed)
        said = [what for n, what, _ in scene.nodes.log if n == N2.id and what in ("secure", "told")]
        assert said[-2:] == ["told", "secure"]
        assert "networks" not in scene.nodes.held[N2.id]
        await scene.nodes.until(lambda: epochs(scene.nodes.keys[N1.id]) == {})
        assert scene.nodes.keys[N1.id].closed


async def test_the_number_of_a_removed_node_is_kept_until_no_other_has_its_keys_or_its_address() -> None:
    one, two, three = placed(LONE, 1, N1), placed(LONE, 2, N2), placed(LONE, 3, N3)
    async with encrypted(one, two, three) as scene:
        for _ in range(2):
            await scene.keys_settled()
        scene.nodes.slow(N1.id)
        scene.nodes.cut(N3.id)
        scene.nodes.keyless[N1.id] = NetworkFailed("node n1: ip does not answer")
        await scene.store.commit(lambda s: Changes(delete_nodes=(N2.id,), delete_tasks=(two.id,)))
        await scene.nodes.until(lambda: scene.nodes.place(N2.id, "released") >= 0)

        def numbers() -> set[str]:
            return {r for r in scene.store.snapshot.releases if r.endswith("nodes/2")}

        async def kept() -> bool:
            scene.manager._networks.touch_all()
            for _ in range(200):
                await asyncio.sleep(0)  # the others' turns
            return numbers() == {"lost-nodes/2"}

        assert await kept(), "node 1 has not answered, node 3 is away"
        scene.nodes.connect(N3.id)
        await scene.nodes.until(lambda: 2 not in scene.nodes.held[N3.id]["peers"])
        assert await kept()
        scene.nodes.release(N1.id)
        await scene.nodes.until(lambda: 2 not in scene.nodes.held[N1.id]["peers"])
        assert await kept(), "it still has the keys"
        del scene.nodes.keyless[N1.id]
        scene.manager._networks.touch_all()
        await scene.nodes.until(lambda: numbers() == {"nodes/2"})
        assert 2 not in epochs(scene.nodes.keys[N1.id]) and 2 not in epochs(scene.nodes.keys[N3.id])


async def test_a_removed_node_holds_nothing_before_it_is_released() -> None:
    one, two = placed(WEB, 1, N1), placed(WEB, 2, N2)
    async with scene_of(WEB, one, two) as scene:
        await scene.store.commit(lambda s: Changes(delete_nodes=(N2.id,)))
        await scene.nodes.until(lambda: scene.nodes.place(N2.id, "released") >= 0)
        assert scene.nodes.held[N2.id] == {} and scene.nodes.tasks[N2.id] == {}
        said = [(n, what) for n, what, _ in scene.nodes.log if n == N2.id]
        assert said[-3:] == [(N2.id, "network"), (N2.id, "told"), (N2.id, "released")]
        # Its container was removed before its networks.
        removed = max(i for i, (n, what, _) in enumerate(scene.nodes.log) if (n, what) == (N2.id, "apply"))
        cleared = max(i for i, (n, what, _) in enumerate(scene.nodes.log) if (n, what) == (N2.id, "network"))
        assert removed < cleared
        await scene.nodes.until(lambda: 2 not in scene.nodes.held[N1.id]["peers"])
