"""`swarmsh.fence=stop`: a slot never runs twice, whatever happens to nodes and to what is wanted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from remote_helpers import isolation
from remote_helpers import task as helper_task
from swarmsh.core import fence
from swarmsh.core.container import ensure_action
from swarmsh.core.fence import fence_peers
from swarmsh.core.liveness import ASK_AGAIN_S
from swarmsh.manager.dirt import dirt_of
from swarmsh.manager.settings import Settings
from swarmsh.model.objects import Node, NodeStatus, Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import ServiceSpec, UpdateConfig
from swarmsh.model.states import Availability, NodeState

from .test_liveness import answer, judge
from .test_orchestrate import OPS, happen
from .world import World, _ended, make_node, make_spec

LABEL = {"swarmsh.fence": "stop"}
GRACE_S = 10.0
# When a node has stopped its fenced tasks at the latest; the manager adds a margin.
STOPPED_AFTER_S = fence.LEASE_S + fence.NOTICED_AFTER_S + GRACE_S + fence.KILLED_AFTER_S
PLACED_AFTER_S = STOPPED_AFTER_S + fence.MARGIN_S


def fenced_spec(**changes: object) -> ServiceSpec:
    return replace(make_spec(**changes), labels=LABEL)  # type: ignore[arg-type]


class FencedWorld(World):
    """Lost nodes stop their tasks, as late as they may; no slot ever runs twice."""

    def __init__(self, nodes: int = 3) -> None:
        super().__init__(nodes)
        self._stop_at: dict[str, float] = {}
        self._slots: dict[str, int] = {}

    def lose(self, number: int) -> None:
        self._stop_at.setdefault(f"node{number}", self.now + STOPPED_AFTER_S)
        if self.snapshot.nodes[f"node{number}"].status.state is not NodeState.DOWN:
            super().lose(number)

    def find(self, number: int) -> None:
        self._stop_at.pop(f"node{number}", None)
        super().find(number)

    def step(self) -> bool:
        for node_id, at in self._stop_at.items():
            if self.now >= at:
                report = self.reports[node_id]
                tasks = {i: _ended(t, "failed") if t.state == "running" else t for i, t in report.tasks.items()}
                self.reports[node_id] = replace(report, tasks=tasks)
        changed = super().step()
        self._slots.update((t.id, t.slot) for t in self.tasks())
        doubled = {s: n for s, n in Counter(self._slots[i] for i in self.containers()).items() if n > 1}
        assert not doubled, f"slots that run twice at {self.now}: {doubled}"
        return changed


@pytest.fixture
def world() -> FencedWorld:
    world = FencedWorld()
    world.create(fenced_spec())
    world.settle()
    return world


def where(world: World) -> int:
    return int(world.running()[0].node_id[-1])


def test_it_is_placed_elsewhere_only_when_its_node_must_have_stopped_it(world: FencedWorld) -> None:
    first = world.running()[0]
    world.lose(where(world))
    world.pass_time(PLACED_AFTER_S - 1)
    assert [t.id for t in world.tasks()] == [first.id]
    world.pass_time(2)
    (second,) = [t for t in world.tasks() if t.id in world.containers()]
    assert second.node_id != first.node_id
    world.find(int(first.node_id[-1]))
    world.settle()
    assert [t.id for t in world.running()] == [second.id]


def test_the_pass_asks_to_be_called_when_the_time_is_over(world: FencedWorld) -> None:
    world.lose(where(world))
    world.settle()
    assert world.orchestrator._wake_at == {"svc": world.now + PLACED_AFTER_S}


def test_other_services_are_moved_as_ever() -> None:
    world = World()
    world.create(make_spec())
    world.settle()
    lost = where(world)
    world.lose(lost)
    world.settle()
    assert any(t.node_id not in ("", f"node{lost}") for t in world.tasks())


def test_a_node_that_returns_in_time_keeps_its_task(world: FencedWorld) -> None:
    first = world.running()[0].id
    world.lose(where(world))
    world.pass_time(9)
    world.find(where(world))
    world.pass_time(60)
    assert [t.id for t in world.tasks()] == [first]


def test_what_its_node_stopped_runs_again_when_that_returns(world: FencedWorld) -> None:
    first = world.running()[0].id
    world.lose(where(world))
    world.pass_time(PLACED_AFTER_S - 2)
    world.find(int(world.snapshot.tasks[first].node_id[-1]))
    world.pass_time(10)
    assert len(world.running()) == 1
    assert world.running()[0].id != first


@pytest.mark.parametrize("before", [True, False])
def test_a_second_node_lost_at_that_time_may_be_with_it(world: FencedWorld, before: bool) -> None:
    first = where(world)
    second = 1 + first % 3
    if before:
        world.lose(second)
        world.pass_time(3)
    world.lose(first)
    if not before:
        world.pass_time(20)
        world.lose(second)
    world.pass_time(300)
    assert len(world.tasks()) == 1, "each may be all that the other reaches"
    world.find(second)
    world.pass_time(PLACED_AFTER_S - 1)
    assert len(world.tasks()) == 1, "they may be together still: only now it can be asked"
    world.pass_time(2)
    assert len(world.tasks()) == 2


def test_a_node_that_was_gone_long_before_is_not_waited_for(world: FencedWorld) -> None:
    first = where(world)
    world.lose(1 + first % 3)
    world.pass_time(60)
    world.lose(first)
    world.pass_time(PLACED_AFTER_S + 1)
    assert where(world) == 1 + (first + 1) % 3, "on the third node"


@pytest.mark.parametrize("state", [NodeState.UNREACHABLE, NodeState.UNTRUSTED])
def test_a_node_that_cannot_be_asked_may_be_with_it(world: FencedWorld, state: NodeState) -> None:
    first = where(world)
    world.lose(first)
    world.pass_time(5)
    world.set_node(1 + first % 3, state=state)
    world.pass_time(300)
    assert len(world.tasks()) == 1


def test_a_node_that_only_its_engine_makes_down_is_waited_for(world: FencedWorld) -> None:
    node = world.snapshot.nodes[world.running()[0].node_id]
    world.cut.add(node.id)
    hung = replace(node, status=NodeStatus(state=NodeState.DOWN, engine_hung=True))
    world._apply(Changes(put_nodes=(hung,)))
    world.pass_time(300)
    assert len(world.tasks()) == 1


def test_a_long_grace_period_is_waited_for_up_to_its_bound() -> None:
    def at(grace_s: float) -> float:
        spec = fenced_spec()
        container = replace(spec.task_template.container_spec, stop_grace_period=int(grace_s * 1e9))  # type: ignore[type-var]
        status = NodeStatus(state=NodeState.DOWN, unseen_since=100.0, heard_at=99.0)
        task = Task(
            id="t", version=1, created_at=0.0, updated_at=0.0, service_id="s", service_name="s", node_id="node1",
            spec=replace(spec.task_template, container_spec=container), labels=LABEL,
        )  # fmt: skip
        found = fence.over_at(task, {"node1": replace(make_node(1), status=status)})
        assert found is not None
        return found

    assert at(20.0) == at(10.0) + 10.0
    assert at(3600.0) == at(60.0) == 100.0 + fence.LONGEST_WAIT_S


def test_a_node_that_is_silent_just_now_may_be_with_it() -> None:
    lost_one = replace(make_node(1), status=NodeStatus(state=NodeState.DOWN, unseen_since=100.0, heard_at=99.0))
    task = Task(
        id="t", version=1, created_at=0.0, updated_at=0.0, service_id="s", service_name="s", node_id="node1",
        spec=fenced_spec().task_template, labels=LABEL,
    )  # fmt: skip
    for silent in (True, False):
        other = replace(make_node(2), status=NodeStatus(state=NodeState.READY, since=10.0, silent=silent))
        assert (fence.over_at(task, {"node1": lost_one, "node2": other}) is None) is silent


def test_both_sides_count_with_the_same_times() -> None:
    assert Settings().lease_s == fence.LEASE_S
    a_round = isolation.LOOK_S + isolation.CHECK_S
    assert isolation.ROUNDS * a_round <= fence.NOTICED_AFTER_S
    since_the_last_answer = isolation.CHECK_S + isolation.ROUNDS * a_round
    assert since_the_last_answer <= fence.LEASE_S + fence.NOTICED_AFTER_S, (
        "once the lease is lost, rounds take turns"
    )
    assert fence.GRACE_LIMIT_S == helper_task.CUT_OFF_GRACE_S
    assert fence.KILLED_AFTER_S >= isolation.KILL_AFTER_S + 5.0


OPS_AND_SHORT_LOSSES = st.one_of(OPS, st.tuples(st.just("time"), st.sampled_from([20, 35, 45])))


@settings(max_examples=150, deadline=None)
@given(
    ops=st.lists(OPS_AND_SHORT_LOSSES, max_size=14),
    order=st.sampled_from(["stop-first", "start-first"]),
    delay=st.sampled_from([0.0, 5.0]),
)
def test_whatever_happens_no_slot_runs_twice_and_all_run_in_the_end(
    ops: list[tuple[str, int]], order: str, delay: float
) -> None:
    world = FencedWorld(3)
    config = UpdateConfig(parallelism=2, order=order, failure_action="continue")
    replicas, image = 3, "web:1"
    world.create(fenced_spec(replicas=replicas, image=image, delay_s=delay, update=config))
    for op, n in ops:
        match op:
            case "scale":
                replicas = n
            case "image":
                image = f"web:{n}"
            case _:
                happen(world, op, n)
        if op in ("scale", "image"):
            world.update(fenced_spec(replicas=replicas, image=image, delay_s=delay, update=config))
    for n in (1, 2, 3):
        if f"node{n}" in world.cut:
            world.find(n)
        world.set_node(n, availability=Availability.ACTIVE)
    world.pass_time(60)
    assert len(world.running()) == replicas == len(world.containers())
    assert {t.spec.container_spec.image for t in world.running() if t.spec.container_spec} <= {image}
    assert not world.step(), "a converged world has nothing to do"


# --- what the node is told ---
def test_its_node_is_told_that_it_is_fenced_and_whom_to_try() -> None:
    world = World(6)
    world.create(fenced_spec())
    world.settle()
    (task,) = world.running()
    node = world.snapshot.nodes[task.node_id]
    assert ensure_action(task, node, "c", "running").fence
    peers = fence_peers(world.snapshot, node)
    assert peers is not None
    assert peers[0].node == node.id
    assert len({p.node for p in peers}) == 1 + fence.PEERS == 1 + Settings().peers_asked
    gone = peers[1].node
    world.lose(int(gone[-1]))
    assert gone not in {p.node for p in fence_peers(world.snapshot, node) or ()}
    other = next(n for n in world.snapshot.nodes.values() if n.id != node.id)
    assert fence_peers(world.snapshot, other) is None, "it holds nothing that is fenced"


def test_a_node_that_comes_or_goes_concerns_those_that_hold_fenced_tasks() -> None:
    world = World(3)
    world.create(fenced_spec())
    world.settle()
    holder = world.running()[0].node_id
    other = next(n for n in world.snapshot.nodes.values() if n.id != holder)
    down = replace(other, status=NodeStatus(state=NodeState.DOWN))
    dirt = dirt_of(world.snapshot, Changes(put_nodes=(down,)))
    assert dirt.nodes == {other.id, holder}
    assert dirt.services == {"svc"}


# --- since when a node is not in touch ---
def lost(**changes: float) -> NodeStatus:
    return NodeStatus(
        state=NodeState.DOWN, **{"since": 4990.0, "unseen_since": 4985.0, "heard_at": 4984.0} | changes
    )


def test_a_node_is_unseen_from_the_first_no_on() -> None:
    status = judge(10.5, opinions={"p": answer(0.5, reached=False, no_for=3.0)}).status
    assert (status.unseen_since, status.heard_at) == (4996.5, 4989.5)
    before = NodeStatus(state=NodeState.UNREACHABLE, since=10.0)
    status = judge(600.0, before=before, opinions={"p": answer(0.5, reached=False, no_for=2.0)}).status
    assert (status.unseen_since, status.heard_at) == (4997.5, 4400.0)


def test_a_yes_that_is_no_longer_valid_tells_still_when_it_was_seen() -> None:
    before = NodeStatus(state=NodeState.UNREACHABLE, since=10.0)
    opinions = {"gone": answer(9.0, reached=True), "p": answer(0.5, reached=False, no_for=98.0)}
    status = judge(100.0, before=before, opinions=opinions).status
    assert (status.state, status.unseen_since) == (NodeState.DOWN, 4991.0)


def test_after_a_gap_of_the_managers_own_it_is_not_known_when_it_was_heard() -> None:
    status = judge(10.5, opinions={"p": answer(0.5, reached=False)}, counted_anew=True).status
    assert status.heard_at == 0.0


def test_a_peer_that_reaches_it_after_all_makes_it_seen() -> None:
    status = judge(15.0, before=lost(), opinions={"p": answer(2.0, reached=True)}).status
    assert (status.state, status.unseen_since, status.heard_at) == (NodeState.DOWN, 4998.0, 4985.0)


def test_a_new_manager_counts_anew() -> None:
    status = judge(0.0, before=lost(), counted_anew=True).status
    assert (status.unseen_since, status.heard_at) == (5000.0, 4984.0)


def test_nothing_changes_while_nothing_happens() -> None:
    assert judge(15.2, before=lost(), opinions={"p": answer(2.0, reached=False)}).status == lost()


@pytest.mark.parametrize(
    ("fenced", "silent_for", "asked_ago", "asks"),
    [
        (True, 20.0, ASK_AGAIN_S, True),
        (True, 20.0, 0.5, False),
        (True, 200.0, 4.0, False),
        (True, 200.0, 5.0, True),
        (False, 20.0, 5.0, False),
    ],
)
def test_peers_are_asked_on_while_fenced_tasks_may_run(
    fenced: bool, silent_for: float, asked_ago: float, asks: bool
) -> None:
    before = lost(unseen_since=5000.0 - silent_for)
    opinions = {"p": answer(asked_ago, reached=False)}
    assert judge(silent_for, before=before, opinions=opinions, fenced=fenced).ask_peers is asks


def test_a_node_in_touch_again_is_not_unseen() -> None:
    assert judge(0.5, connected=True, before=lost()).status.unseen_since is None
    hung = judge(0.5, connected=True, before=lost(), engine_hung_for=60.0, processes_ended=True).status
    assert (hung.state, hung.unseen_since) == (NodeState.DOWN, None)


def test_nodes_know_themselves_by_the_address_that_others_use() -> None:
    node: Node = make_node(1)
    world = World(1)
    world.create(fenced_spec())
    world.settle()
    peers = fence_peers(world.snapshot, node)
    assert peers is not None
    assert [(p.node, p.address) for p in peers] == [("node1", "10.0.0.1")]
