"""Which tasks a rebalance moves, and that moving them never costs a ready one."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.rebalance import RebalancePlan, plan_rebalance
from swarmsh.core.scheduler import SchedulingView
from swarmsh.model.objects import Node, Service, Task, UpdateStatus
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import TaskSpec, UpdateConfig
from swarmsh.model.states import Availability, NodeState, TaskState
from tests.unit.core.samples import GIB, host_port, node, reserving, spread, task, task_spec
from tests.unit.core.world import SECOND, World, make_spec

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


def test_services_are_levelled_before_nodes_for_that_may_level_these_too() -> None:
    tasks = running("web", [NODES[0]] * 4) + running("db", [NODES[0]])
    plan = planned(NODES[:2], [a_service("db"), a_service("web")], tasks)
    assert moves(plan) == [("web", 4, "node1", "node2"), ("web", 3, "node1", "node2")]


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


@settings(deadline=None)
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


@settings(max_examples=60, deadline=None)
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


# --- carried out --------------------------------------------------------------------------------------------
def grown(replicas: int = 6, nodes: int = 1, more: int = 2, **config) -> World:
    """A service that runs on few nodes, and further nodes that are new."""
    world = World(nodes=nodes)
    world.create(make_spec(replicas=replicas, update=UpdateConfig(**config) if config else None, delay_s=1.0))
    world.settle()
    for number in range(nodes + 1, nodes + more + 1):
        world.add_node(number)
    return world


def serving(world: World) -> set[int]:
    """Slots with a task that takes connections."""
    return {t.slot for t in world.ready()}


def homes(world: World) -> dict[str, int]:
    return dict(Counter(t.node_id for t in world.running()))


def moving(world: World) -> list[int]:
    """Slots in which two are wanted."""
    counts = Counter(t.slot for t in world.tasks() if t.live)
    return [slot for slot, number in counts.items() if number > 1]


def reasons(world: World) -> set[str]:
    return {t.rebalance.stopped for t in world.tasks() if t.rebalance is not None and t.rebalance.stopped}


@settings(deadline=None)
@given(
    replicas=st.integers(1, 7),
    more=st.integers(1, 3),
    parallelism=st.integers(0, 3),
    delay_s=st.sampled_from([0, 2]),
    start_s=st.sampled_from([0.0, 1.0]),
    ready_s=st.sampled_from([0.0, 2.0]),
    killed=st.dictionaries(st.integers(0, 40), st.booleans()),
)
def test_no_slot_is_ever_without_a_ready_task_and_all_ends_even(
    replicas, more, parallelism, delay_s, start_s, ready_s, killed
) -> None:
    world = grown(replicas, more=more, parallelism=parallelism, delay=delay_s * SECOND)
    world.start_delay_s, world.ready_after["web:1"] = start_s, ready_s
    wanted = world.rebalance()
    assert wanted == least_moves([replicas] + [0] * more, 1 + more)
    for number in range(600):
        if number in killed:
            world.restart_manager(lose_seen=killed[number])
        if not world.step():
            world.now += 0.5
        assert serving(world) == set(range(1, replicas + 1))
        assert len(moving(world)) <= (parallelism or replicas)
        if not any(t.rebalance is not None for t in world.tasks() if t.live):
            break
    world.settle()
    counts = [homes(world).get(f"node{n}", 0) for n in range(1, more + 2)]
    assert sum(counts) == replicas and max(counts) - min(counts) <= 1
    assert world.rebalance() == 0
    before = [(t.slot, t.node_id) for t in world.running()]
    world.pass_time(5)
    assert [(t.slot, t.node_id) for t in world.running()] == before


def test_what_is_known_of_moves_survives_on_disk() -> None:
    world = grown(4, more=1, parallelism=1, delay=SECOND)
    world.rebalance()
    seen = set()
    for _ in range(4):
        world.step()
        for one in world.tasks():
            assert msgspec.json.decode(msgspec.json.encode(one), type=Task) == one
            seen |= {name for name in ("begun_at", "done_at") if one.rebalance and getattr(one.rebalance, name)}
    assert seen == {"begun_at", "done_at"}


def test_the_delay_is_kept_between_moves() -> None:
    world = grown(4, more=1, parallelism=1, delay=10 * SECOND)
    world.rebalance()
    world.settle()
    assert homes(world) == {"node1": 3, "node2": 1}
    world.pass_time(9)
    assert homes(world) == {"node1": 3, "node2": 1}
    world.pass_time(2)
    assert homes(world) == {"node1": 2, "node2": 2}


def test_a_new_task_that_fails_ends_it_and_the_old_ones_stay() -> None:
    world = grown(6, parallelism=1)
    world.broken_images.add("web:1")
    before = {t.id for t in world.running()}
    world.rebalance()
    world.pass_time(30)
    assert {t.id for t in world.running()} == before
    (why,) = reasons(world)
    assert "ended (failed)" in why
    made = [t for t in world.tasks() if t.id not in before]
    assert len(made) == 1, "the first failure ends it, and is not tried again"


def test_a_new_task_that_is_not_ready_in_time_ends_it() -> None:
    world = grown(6, parallelism=1)
    world.ready_after["web:1"] = 1e9
    before = {t.id for t in world.running()}
    world.rebalance()
    world.pass_time(65)
    (why,) = reasons(world)
    assert "was not ready in time: started, but not ready after 60 s" in why
    assert {t.id for t in world.running()} == before


def test_a_node_that_is_drained_meanwhile_is_left_all_the_same() -> None:
    world = grown(4, more=1, parallelism=1)
    world.ready_after["web:1"] = 3.0
    world.rebalance()
    world.step()
    world.set_node(1, availability=Availability.DRAIN)
    for _ in range(200):
        assert serving(world) == {1, 2, 3, 4}
        world.now += 0 if world.step() else 0.5
    assert homes(world) == {"node2": 4}


def test_one_that_fails_soon_after_it_took_over_ends_what_is_left() -> None:
    world = grown(6, parallelism=1, delay=3 * SECOND, monitor=5 * SECOND)
    world.rebalance()
    world.settle()
    (first,) = [t for t in world.running() if t.node_id != "node1"]
    world.fail(first)
    world.pass_time(30)
    (why,) = reasons(world)
    assert f"{first.id}, which was moved before it, ended" in why
    assert len(world.running()) == 6
    assert world.rebalance() > 0, "it can be asked for again"


def test_a_target_that_goes_away_leaves_the_old_one_where_it_is() -> None:
    for lost in (True, False):
        world = grown(2, more=1, parallelism=1)
        world.cut.add("node2")
        world.rebalance()
        world.step()
        assert moving(world)
        if lost:
            world.lose(2)
        else:
            world.set_node(2, availability=Availability.DRAIN)
        world.pass_time(3)
        assert homes(world) == {"node1": 2}
        assert not moving(world)
        assert reasons(world) == {"n2 is down" if lost else "n2 takes no tasks: its availability is drain"}
        world.find(2)
        world.pass_time(3)
        assert homes(world) == {"node1": 2} and len(world.containers()) == 2


def test_a_source_that_is_lost_meanwhile_costs_no_slot_and_leaves_none_twice() -> None:
    world = grown(2, more=1, parallelism=1)
    world.cut.add("node2")
    world.rebalance()
    world.step()
    world.power_off(1)
    world.find(2)
    world.pass_time(3)
    assert serving(world) == {1, 2}
    world.find(1)
    world.pass_time(3)
    assert sorted(t.slot for t in world.running()) == [1, 2] and len(world.containers()) == 2


def test_a_target_that_does_not_answer_is_given_up_in_the_end() -> None:
    world = grown(2, more=1, parallelism=1)
    world.cut.add("node2")
    world.rebalance()
    world.pass_time(599)
    assert moving(world)
    world.pass_time(2)
    (why,) = reasons(world)
    assert "was not ready within 10m" in why
    assert homes(world) == {"node1": 2}


def test_an_update_meanwhile_goes_before() -> None:
    world = grown(4, more=1, parallelism=1, delay=SECOND)
    world.rebalance()
    world.step()
    world.update(make_spec(replicas=4, image="web:2", update=UpdateConfig(parallelism=2), delay_s=1.0))
    world.pass_time(30)
    assert world.service.update_status.state == "completed"
    assert {t.spec.container_spec.image for t in world.running()} == {"web:2"}
    assert sorted(t.slot for t in world.running()) == [1, 2, 3, 4]


def test_scaling_down_meanwhile_and_removing_leave_nothing() -> None:
    world = grown(4, more=1, parallelism=0)
    world.rebalance()
    world.step()
    world.update(replace(world.service.spec, mode=make_spec(replicas=1).mode))
    world.pass_time(5)
    assert len(world.running()) == 1 and len(world.containers()) == 1
    world.rebalance()
    world.remove()
    world.pass_time(5)
    assert world.tasks() == [] and world.containers() == []


@settings(deadline=None)
@given(
    steps=st.lists(
        st.sampled_from(
            ["rebalance", "lose1", "find", "drain2", "back2", "fail", "scale", "update", "time", "kill"]
        ),
        max_size=10,
    )
)
def test_whatever_comes_between_every_slot_ends_with_one_task(steps) -> None:
    world = grown(4, nodes=2, more=1, parallelism=2)
    replicas, image = 4, "web:1"
    for number, step in enumerate(steps):
        match step:
            case "rebalance":
                world.rebalance()
            case "lose1":
                world.lose(1)
            case "find" if world.cut:
                world.find(1)
            case "drain2":
                world.set_node(2, availability=Availability.DRAIN)
            case "back2":
                world.set_node(2, availability=Availability.ACTIVE)
            case "fail":
                for one in [t for t in world.running() if t.node_id not in world.cut][-1:]:
                    world.fail(one)
            case "scale" | "update":
                replicas, image = (number % 5 + 1, image) if step == "scale" else (replicas, f"web:{number}")
                update = UpdateConfig(parallelism=2, failure_action="continue")
                world.update(make_spec(replicas=replicas, image=image, update=update, delay_s=1.0))
            case "time":
                world.pass_time(1)
            case "kill":
                world.restart_manager(lose_seen=number % 2 == 0)
        world.step()
        world.now += 0.1
    if world.cut:
        world.find(1)
    world.pass_time(60)
    assert len({t.slot for t in world.running()}) == len(world.running()) == replicas
    assert len(world.containers()) == replicas
    assert not moving(world)
