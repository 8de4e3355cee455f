"""Which tasks a rebalance moves, and that moving them never costs a ready one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.rebalance import RebalancePlan, plan_rebalance
from swarmsh.core.scheduler import SchedulingView
from swarmsh.model.objects import Node, Service, Task, UpdateStatus
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import TaskSpec
from swarmsh.model.states import Availability, NodeState, TaskState
from tests.unit.core.samples import GIB, host_port, node, reserving, spread, task, task_spec
from tests.unit.core.world import make_spec

NODES = [node(n) for n in (1, 2, 3)]


def a_service(name: str = "web", spec: TaskSpec | None = None, replicas: int = 1, **fields) -> Service:
    made = replace(make_spec(name=name, replicas=replicas), task_template=spec or task_spec(), labels={})
    return Service(id=f"id-{name}", version=1, created_at=0.0, updated_at=0.0, spec=made, **fields)


def running(name: str, homes: list[Node], spec: TaskSpec | None = None, **fields) -> list[Task]:
    """Tasks in the slots 1, 2, … on these nodes."""
    return [task(i, service=name, spec=spec, on=home, **fields) for i, home in enumerate(homes, 1)]


def snapshot_of(nodes, services, tasks) -> ClusterSnapshot:
    return ClusterSnapshot().apply(
        Changes(put_nodes=tuple(nodes), put_services=tuple(services), put_tasks=tuple(tasks)), 1
    )


def planned(nodes, services, tasks, failures=None) -> RebalancePlan:
    snapshot = snapshot_of(nodes, services, tasks)
    return plan_rebalance(snapshot, SchedulingView.of(snapshot, 1000.0, failures), services)


def moves(plan: RebalancePlan) -> list[tuple[str, int, str, str]]:
    return [(m.task.service_name, m.task.slot, m.task.node_id, m.to_node) for m in plan.moves]


def after(tasks, plan: RebalancePlan) -> list[Task]:
    to = {m.task.id: m.to_node for m in plan.moves}
    return [replace(t, node_id=to.get(t.id, t.node_id)) for t in tasks]


def test_a_new_node_gets_its_share_from_the_fullest_and_the_highest_slots_go() -> None:
    n1, n2, _ = NODES
    plan = planned(NODES, [a_service()], running("web", [n1, n1, n1, n2, n2, n2]))
    assert moves(plan) == [("web", 6, "node2", "node3"), ("web", 3, "node1", "node3")]
    assert plan.moves[1].why == "3 tasks of web on n1, 0 on n3"


@pytest.mark.parametrize("homes", [[], [0], [0, 1], [0, 1, 2], [0, 0, 1, 1, 2], [0, 1, 1, 2]])
def test_what_is_even_stays(homes) -> None:
    others = running("rest", [NODES[2]] * 0)
    tasks = running("web", [NODES[i] for i in homes])
    assert planned(NODES, [a_service()], [*tasks, *others]).moves == ()


def test_services_of_one_task_each_are_spread_by_the_number_of_all() -> None:
    names = ["a", "b", "c", "d"]
    tasks = [t for name in names for t in running(name, [NODES[0]])]
    plan = planned(NODES, [a_service(name) for name in names], tasks)
    homes = Counter(t.node_id for t in after(tasks, plan))
    assert sorted(homes.values()) == [1, 1, 2]
    assert len(plan.moves) == 2
    assert plan.moves[0].why == "4 tasks in all on n1, 0 on n2"


def test_a_preference_goes_before_the_number_of_tasks() -> None:
    nodes = [node(1, labels={"zone": "a"}), node(2, labels={"zone": "a"}), node(3, labels={"zone": "b"})]
    spec = replace(task_spec(), placement=spread("node.labels.zone"))
    plan = planned(nodes, [a_service(spec=spec)], running("web", [nodes[0], nodes[0], nodes[1], nodes[1]], spec))
    assert [(m[2], m[3]) for m in moves(plan)] == [("node2", "node3"), ("node1", "node3")]
    assert {m.why for m in plan.moves} == {
        "4 tasks of web with zone=a, 0 with zone=b",
        "3 tasks of web with zone=a, 1 with zone=b",
    }


@pytest.mark.parametrize(
    "third",
    [
        node(3, availability=Availability.PAUSE),
        node(3, availability=Availability.DRAIN),
        node(3, state=NodeState.DOWN),
        node(3, memory_bytes=GIB // 2),
        node(3, labels={"disk": "hdd"}),
    ],
)
def test_nothing_moves_to_a_node_that_does_not_take_it(third) -> None:
    wanted = reserving(memory=GIB)
    wanted = replace(wanted, placement=replace(spread(), constraints=("node.labels.disk!=hdd",)))
    tasks = running("web", [NODES[0]] * 3 + [NODES[1]] * 3, wanted)
    assert planned([NODES[0], NODES[1], third], [a_service(spec=wanted)], tasks).moves == ()


def test_a_port_of_the_nodes_own_and_room_are_free_only_after_the_move() -> None:
    tasks = running("web", [NODES[0]], endpoint=host_port(80)) + running("db", [NODES[1]], endpoint=host_port(80))
    tasks += running("x", [NODES[0]] * 2)
    plan = planned(NODES[:2], [a_service("web"), a_service("db")], tasks)
    assert plan.moves == ()


def test_nothing_moves_to_a_node_that_failed_the_version_often() -> None:
    tasks = running("web", [NODES[0]] * 4)
    failures = {("node2", "id-web", 1): [990.0] * 5}
    plan = planned(NODES[:2], [a_service()], tasks, failures)
    assert plan.moves == ()


@pytest.mark.parametrize("number", [1, 2])
def test_tasks_that_do_not_run_or_have_company_stay(number) -> None:
    n1 = NODES[0]
    tasks = running("web", [n1, n1])
    tasks[0] = replace(tasks[0], status=replace(tasks[0].status, state=TaskState.STARTING))
    tasks.append(replace(tasks[1], id="web-2b", created_at=5.0))
    assert planned(NODES, [a_service()], tasks).moves == ()


def test_services_that_cannot_be_moved_are_told_with_why() -> None:
    fence = a_service("fenced")
    fence = replace(fence, spec=replace(fence.spec, labels={"swarmsh.fence": "stop"}))
    everywhere = a_service("everywhere")
    everywhere = replace(everywhere, spec=replace(everywhere.spec, mode=make_spec(replicas=None).mode))
    updating = a_service("updating", update_status=UpdateStatus(state="paused"))
    tasks = [t for name in ("fenced", "everywhere", "updating") for t in running(name, [NODES[0]] * 3)]
    plan = planned(NODES, [fence, everywhere, updating], tasks)
    assert plan.moves == ()
    assert [name for name, _ in plan.skipped] == ["everywhere", "fenced", "updating"]
    assert "its update is not through: paused" in dict(plan.skipped)["updating"]


def least_moves(counts: list[int], nodes: int) -> int:
    """Tasks beyond their node's share; the fullest nodes keep what is left over."""
    total = sum(counts)
    share, more = divmod(total, nodes)
    targets = [share + (i < more) for i in range(nodes)]
    return sum(max(0, have - keep) for have, keep in zip(sorted(counts, reverse=True), targets, strict=True))


@given(homes=st.lists(st.integers(0, 3), max_size=14))
def test_one_service_ends_even_with_the_fewest_moves_and_a_second_run_does_nothing(homes) -> None:
    nodes = [node(n) for n in range(1, 5)]
    tasks = running("web", [nodes[i] for i in homes])
    services = [a_service()]
    plan = planned(nodes, services, tasks)
    counts = [sum(i == n for i in homes) for n in range(4)]
    assert len(plan.moves) == least_moves(counts, 4)
    moved = after(tasks, plan)
    spread_out = Counter(t.node_id for t in moved)
    if tasks:
        assert max(spread_out.values()) - min(spread_out[n.id] for n in nodes) <= 1
    assert planned(nodes, services, moved).moves == ()


@settings(max_examples=60)
@given(
    homes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=14),
    zones=st.lists(st.sampled_from(["", "a", "b"]), min_size=4, max_size=4),
    with_preference=st.booleans(),
)
def test_many_services_end_where_the_scheduler_would_put_no_task_elsewhere(homes, zones, with_preference) -> None:
    nodes = [node(n, labels={"zone": zone} if zone else {}) for n, zone in enumerate(zones, 1)]
    spec = replace(task_spec(), placement=spread("node.labels.zone")) if with_preference else None
    services = [a_service(name, spec) for name in "abc"]
    tasks = [t for name in "abc" for t in running(name, [nodes[i] for who, i in homes if who == name], spec)]
    plan = planned(nodes, services, tasks)
    assert all(m.task.node_id != m.to_node for m in plan.moves)
    assert planned(nodes, services, after(tasks, plan)).moves == ()
