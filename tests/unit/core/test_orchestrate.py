"""Passes over one service, in a small world of obedient nodes."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.orchestrate import plan_service
from swarmsh.model.specs import Reservations, ResourceRequirements, ServiceSpec, UpdateConfig
from swarmsh.model.states import Availability, NodeState, TaskState

from .world import SECOND, World, make_spec


def test_replicas_start_on_as_many_nodes_as_there_are() -> None:
    world = World(3)
    world.create(make_spec(replicas=3))
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node1", "node2", "node3"]
    assert [t.slot for t in world.running()] == [1, 2, 3]


def test_scaling_down_removes_the_surplus_and_its_containers() -> None:
    world = World(3)
    world.create(make_spec(replicas=6))
    world.settle()
    world.update(make_spec(replicas=2))
    world.settle()
    assert len(world.running()) == 2 == len(world.containers())
    assert len(world.tasks()) == 2, "a removed slot leaves no history"


def test_a_failed_task_is_followed_after_the_restart_delay_and_not_before() -> None:
    world = World(1)
    world.create(make_spec(delay_s=5))
    world.settle()
    first = world.running()[0]
    world.fail(first)
    world.pass_time(4.5)
    assert world.running() == []
    waiting = [t for t in world.tasks() if t.live]
    assert [(t.desired, t.status.state) for t in waiting] == [(TaskState.READY, TaskState.READY)]
    world.pass_time(1)
    assert [t.slot for t in world.running()] == [1]
    assert next(t for t in world.tasks() if t.id == first.id).desired is TaskState.SHUTDOWN


@pytest.mark.parametrize(
    ("condition", "how", "runs_again"),
    [
        ("any", "failed", True),
        ("any", "complete", True),
        ("on-failure", "failed", True),
        ("on-failure", "complete", False),
        ("none", "failed", False),
    ],
)
def test_the_restart_condition_decides(condition: str, how: str, runs_again: bool) -> None:
    world = World(1)
    world.create(make_spec(condition=condition))
    world.settle()
    world.fail(world.running()[0], how)
    world.pass_time(1)
    assert bool(world.running()) is runs_again


def test_max_attempts_end_the_restarts_and_a_window_forgives() -> None:
    world = World(1)
    world.create(make_spec(attempts=2, window_s=60))
    for _ in range(2):
        world.settle()
        world.fail(world.running()[0])
    world.settle()
    world.pass_time(61)
    world.fail(world.running()[0])
    world.settle()
    assert world.running(), "the first two are out of the window"
    world.fail(world.running()[0])
    world.settle()
    world.fail(world.running()[0])
    world.settle()
    assert world.running() == []


def test_history_is_bounded() -> None:
    world = World(1)
    world.create(make_spec())
    for _ in range(12):
        world.settle()
        world.fail(world.running()[0])
    world.settle()
    assert len(world.tasks()) == 5
    assert set(world.reports["node1"].tasks) == {t.id for t in world.tasks()}


def test_a_drained_node_keeps_no_replicated_task() -> None:
    world = World(3)
    world.create(make_spec(replicas=6))
    world.settle()
    world.set_node(2, availability=Availability.DRAIN)
    world.settle()
    assert Counter(t.node_id for t in world.running()) == {"node1": 3, "node3": 3}


def test_a_paused_node_keeps_what_it_has_and_takes_nothing() -> None:
    world = World(2)
    world.create(make_spec(replicas=2))
    world.settle()
    world.set_node(2, availability=Availability.PAUSE)
    world.update(make_spec(replicas=6))
    world.settle()
    assert Counter(t.node_id for t in world.running()) == {"node1": 5, "node2": 1}


def test_tasks_of_a_dead_node_run_elsewhere() -> None:
    world = World(3)
    world.create(make_spec(replicas=6))
    world.settle()
    world.power_off(3)
    world.settle()
    assert Counter(t.node_id for t in world.running() if t.node_id != "node3") == {"node1": 3, "node2": 3}
    world.find(3)
    world.settle()
    assert len(world.running()) == 6 == len(world.containers())


def test_a_node_that_was_only_cut_off_keeps_no_doubles_after_its_return() -> None:
    world = World(3)
    world.create(make_spec(replicas=6))
    world.settle()
    world.lose(3)
    world.settle()
    assert len(world.containers()) == 8, "six wanted, and two that nobody can stop"
    world.find(3)
    world.settle()
    assert len(world.running()) == 6 == len(world.containers())


def test_a_stand_in_that_does_not_run_yet_is_cancelled_when_the_node_returns() -> None:
    world = World(1)
    world.create(make_spec())
    world.settle()
    first = world.running()[0]
    world.lose(1)
    world.settle()
    assert [t.status.state for t in world.tasks() if t.replaces == first.id] == [TaskState.PENDING]
    world.find(1)
    world.settle()
    assert [t.id for t in world.running()] == [first.id]
    assert len(world.tasks()) == 1


def test_an_unreachable_node_changes_nothing() -> None:
    world = World(3)
    world.create(make_spec(replicas=6))
    world.settle()
    before = [t.id for t in world.running()]
    world.cut.add("node2")
    world.set_node(2, state=NodeState.UNREACHABLE)
    world.settle()
    assert [t.id for t in world.running()] == before


def test_a_global_service_runs_once_on_every_node_and_follows_drain_and_return() -> None:
    world = World(3)
    world.create(make_spec(replicas=None))
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node1", "node2", "node3"]
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node2", "node3"]
    world.set_node(1, availability=Availability.ACTIVE)
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node1", "node2", "node3"]


def test_a_removed_service_leaves_nothing() -> None:
    world = World(2)
    world.create(make_spec(replicas=4))
    world.settle()
    world.remove()
    world.settle()
    assert world.tasks() == []
    assert world.containers() == []
    assert all(not r.tasks for r in world.reports.values())


def test_a_constraint_that_fits_nothing_is_explained_and_the_rest_goes_on() -> None:
    world = World(2)
    world.create(make_spec(replicas=2, constraints=("node.labels.disk==ssd",)))
    world.settle()
    assert {t.status.err for t in world.tasks()} == {
        "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    }


def test_a_stop_first_update_replaces_one_place_at_a_time() -> None:
    world = World(3)
    world.create(make_spec(replicas=3))
    world.pass_time(10)
    world.update(make_spec(replicas=3, image="web:2", update=UpdateConfig(parallelism=1, delay=10 * SECOND)))
    world.settle()
    assert sorted(t.spec.container_spec.image for t in world.running() if t.spec.container_spec) == [
        "web:1",
        "web:1",
        "web:2",
    ]
    assert world.service.update_status is not None
    assert world.service.update_status.state == "updating"
    world.pass_time(40)
    assert {t.spec_version for t in world.running()} == {2}
    assert world.service.update_status.state == "completed"


def test_a_start_first_update_never_has_fewer_than_wanted() -> None:
    world = World(3)
    world.create(make_spec(replicas=3))
    world.pass_time(1)
    world.update(make_spec(replicas=3, image="web:2", update=UpdateConfig(parallelism=1, order="start-first")))
    for _ in range(60):
        world.step()
        assert len(world.running()) >= 3
    world.pass_time(10)
    assert {t.spec_version for t in world.running()} == {2}
    assert len(world.containers()) == 3


@pytest.mark.parametrize(
    ("action", "state", "image"),
    [("pause", "paused", "web:1"), ("rollback", "rollback_completed", "web:1"), ("continue", "completed", None)],
)
def test_an_update_to_a_broken_image_ends_as_its_failure_action_says(
    action: str, state: str, image: str | None
) -> None:
    world = World(3)
    world.broken_images.add("web:bad")
    world.create(make_spec(replicas=3, delay_s=5))
    world.pass_time(1)
    update = UpdateConfig(parallelism=1, failure_action=action)
    world.update(make_spec(replicas=3, delay_s=5, image="web:bad", update=update))
    world.pass_time(60)
    assert world.service.update_status is not None
    assert world.service.update_status.state == state
    if image is not None:
        survivors = [t.spec.container_spec.image for t in world.running() if t.spec.container_spec]
        assert survivors.count(image) >= 2


def test_going_back_to_what_runs_restarts_nothing() -> None:
    world = World(3)
    world.create(make_spec(replicas=3))
    world.pass_time(1)
    before = {t.id for t in world.running()}
    world.update(make_spec(replicas=3, image="web:2", update=UpdateConfig(parallelism=1, delay=60 * SECOND)))
    world.settle()
    kept = before & {t.id for t in world.running()}
    assert len(kept) == 2
    world.update(make_spec(replicas=3, update=UpdateConfig(parallelism=1)))
    world.pass_time(30)
    assert kept <= {t.id for t in world.running()}
    assert {t.spec_version for t in world.running()} == {3}


def reserving(spec: ServiceSpec, gigabytes: int) -> ServiceSpec:
    needs = ResourceRequirements(reservations=Reservations(memory_bytes=gigabytes << 30))
    return replace(spec, task_template=replace(spec.task_template, resources=needs))


def test_a_global_service_that_fits_nowhere_can_be_corrected_and_removed() -> None:
    world = World(2)
    world.create(reserving(make_spec(replicas=None), 100))
    world.settle()
    assert {t.status.state for t in world.tasks()} <= {TaskState.PENDING}
    world.update(reserving(make_spec(replicas=None), 1))
    world.pass_time(20)
    assert len(world.running()) == 2
    world.update(reserving(make_spec(replicas=None), 100))
    world.pass_time(20)
    world.remove()
    world.pass_time(20)
    assert world.tasks() == []


# --- nodes that no longer fit -------------------------------------------------------------------------------
REJECTED = (TaskState.SHUTDOWN, TaskState.REJECTED, "assigned node no longer meets constraints")
SSD = ("node.labels.disk==ssd",)


def fates(world: World) -> list[tuple[TaskState, TaskState, str]]:
    """What became of the tasks that are not wanted any more."""
    return [(t.desired, t.status.state, t.status.err) for t in world.tasks() if t.desired > TaskState.RUNNING]


def ssd_world(replicas: int | None, condition: str = "any") -> World:
    world = World(2)
    for number in (1, 2):
        world.change_node(number, labels={"disk": "ssd"})
    world.create(make_spec(replicas=replicas, condition=condition, constraints=SSD))
    world.settle()
    return world


@pytest.mark.parametrize("condition", ["any", "none"])
def test_a_label_that_is_removed_rejects_the_task_and_it_runs_elsewhere(condition: str) -> None:
    world = ssd_world(1, condition)
    number = int(world.running()[0].node_id[-1])
    world.change_node(number, labels={})
    world.settle()
    assert [t.node_id for t in world.running()] == [f"node{3 - number}"]
    assert fates(world) == [REJECTED]
    assert len(world.containers()) == 1


def test_a_rejected_task_says_why_while_it_stops_and_its_end_is_waited_for() -> None:
    world = ssd_world(1)
    first = world.running()[0]
    world.cut.add(first.node_id)
    world.change_node(int(first.node_id[-1]), labels={})
    world.settle()
    assert fates(world) == [(TaskState.SHUTDOWN, TaskState.RUNNING, REJECTED[2])]
    assert [t.desired for t in world.tasks() if t.live] == [TaskState.READY]
    world.cut.clear()
    world.settle()
    assert fates(world) == [REJECTED]
    assert len(world.running()) == 1


@pytest.mark.parametrize("replicas", [1, None])
def test_a_paused_node_keeps_what_no_longer_fits(replicas: int | None) -> None:
    world = ssd_world(replicas)
    before = [t.id for t in world.running()]
    for number in (1, 2):
        world.set_node(number, availability=Availability.PAUSE)
        world.change_node(number, labels={})
    world.settle()
    assert [t.id for t in world.running()] == before


def test_a_paused_node_loses_a_global_task_that_an_update_keeps_off_it() -> None:
    world = ssd_world(None)
    world.set_node(1, availability=Availability.PAUSE)
    world.update(make_spec(replicas=None, constraints=("node.labels.disk==hdd",)))
    world.pass_time(20)
    assert world.running() == []


def test_tasks_that_together_exceed_a_shrunken_node_leave_it_the_newest_first() -> None:
    world = World(2)
    world.set_node(2, availability=Availability.PAUSE)
    world.create(reserving(make_spec(replicas=2), 2))
    world.settle()
    oldest = world.running()[0]
    world.change_node(1, memory_bytes=3 << 30)
    world.settle()
    assert [t.id for t in world.running()] == [oldest.id]
    assert fates(world) == [REJECTED]
    assert next(t for t in world.tasks() if t.live and t.id != oldest.id).status.err.startswith("no suitable node")
    world.set_node(2, availability=Availability.ACTIVE)
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node1", "node2"]


def test_a_task_that_alone_exceeds_a_shrunken_node_leaves_it() -> None:
    world = World(2)
    world.create(reserving(make_spec(replicas=1), 3))
    world.settle()
    number = int(world.running()[0].node_id[-1])
    world.change_node(number, memory_bytes=2 << 30)
    world.settle()
    assert [t.node_id for t in world.running()] == [f"node{3 - number}"]
    assert fates(world) == [REJECTED]


def test_what_other_services_hold_on_a_shrunken_node_counts() -> None:
    world = World(1)
    world.create(reserving(make_spec(replicas=1), 2))
    world.settle()
    ours = world.running()[0]
    older = replace(ours, id="older", service_id="db", created_at=ours.created_at - 1)
    plan = partial(plan_service, world.service, [ours], world.snapshot.nodes, iter(["next"]), world.now)
    assert not plan(on_node=lambda node_id: (older, ours)).put_tasks
    world.change_node(1, memory_bytes=3 << 30)
    plan = partial(plan_service, world.service, [ours], world.snapshot.nodes, iter(["next"]), world.now)
    assert not plan(on_node=lambda node_id: (replace(older, created_at=ours.created_at + 1), ours)).put_tasks
    assert {t.id for t in plan(on_node=lambda node_id: (older, ours)).put_tasks} == {ours.id, "next"}


def test_a_global_task_on_a_node_that_no_longer_fits_stays_in_the_history_as_rejected() -> None:
    world = ssd_world(None)
    world.change_node(1, labels={})
    world.settle()
    assert [t.node_id for t in world.running()] == ["node2"]
    assert fates(world) == [REJECTED]
    world.change_node(1, labels={"disk": "ssd"})
    world.settle()
    assert sorted(t.node_id for t in world.running()) == ["node1", "node2"]


def test_a_global_task_that_no_longer_has_room_waits_for_it() -> None:
    world = World(1)
    world.create(reserving(make_spec(replicas=None), 3))
    world.settle()
    world.change_node(1, memory_bytes=2 << 30)
    world.settle()
    assert fates(world) == [REJECTED]
    assert [t.status.err for t in world.tasks() if t.live] == ["insufficient resources on 1 node"]
    world.change_node(1, memory_bytes=4 << 30)
    world.settle()
    assert len(world.running()) == 1 == len(world.containers())


@pytest.mark.parametrize("condition", ["any", "none"])
def test_a_global_task_of_a_drained_node_stays_in_the_history_and_is_followed_on_its_return(
    condition: str,
) -> None:
    world = World(2)
    world.create(make_spec(replicas=None, condition=condition))
    world.settle()
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    assert fates(world) == [(TaskState.SHUTDOWN, TaskState.SHUTDOWN, "")]
    world.update(make_spec(replicas=None, condition=condition, image="web:2"))
    world.pass_time(30)
    assert [(t.node_id, t.spec_version) for t in world.running()] == [("node2", 2)]
    assert world.service.update_status is not None
    assert world.service.update_status.state == "completed"
    world.set_node(1, availability=Availability.ACTIVE)
    world.settle()
    assert sorted((t.node_id, t.spec_version) for t in world.running()) == [("node1", 2), ("node2", 2)]


def test_a_global_task_starts_again_only_when_the_one_before_it_has_stopped() -> None:
    world = World(1)
    world.create(make_spec(replicas=None))
    world.settle()
    world.cut.add("node1")
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    world.set_node(1, availability=Availability.ACTIVE)
    world.settle()
    assert [t.desired for t in world.tasks()] == [TaskState.SHUTDOWN, TaskState.READY]
    world.cut.clear()
    world.settle()
    assert len(world.running()) == 1 == len(world.containers())


def test_a_global_task_whose_next_attempt_was_drained_away_runs_again() -> None:
    world = World(1)
    world.create(make_spec(replicas=None))
    world.settle()
    world.fail(world.running()[0])
    for availability in (Availability.DRAIN, Availability.ACTIVE):
        world.set_node(1, availability=availability)
        world.settle()
    world.pass_time(30)
    assert len(world.running()) == 1


def test_a_global_task_that_ended_for_good_does_not_return_with_its_node() -> None:
    world = World(1)
    world.create(make_spec(replicas=None, condition="none"))
    world.settle()
    world.fail(world.running()[0], "complete")
    world.settle()
    for availability in (Availability.DRAIN, Availability.ACTIVE):
        world.set_node(1, availability=availability)
        world.settle()
    assert [t.status.state for t in world.tasks()] == [TaskState.COMPLETE]


def test_a_removed_node_leaves_no_history_of_a_global_service() -> None:
    world = World(2)
    world.create(make_spec(replicas=None))
    world.settle()
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    world.remove_node(1)
    world.settle()
    assert [t.node_id for t in world.tasks()] == ["node2"]


def test_a_task_taken_off_its_node_fails_no_update() -> None:
    world = ssd_world(1)
    config = UpdateConfig(parallelism=1, monitor=60 * SECOND)
    world.update(make_spec(constraints=SSD, image="web:2", update=config))
    world.pass_time(5)
    world.change_node(int(world.running()[0].node_id[-1]), labels={})
    world.pass_time(90)
    assert world.service.update_status is not None
    assert world.service.update_status.state == "completed"


@pytest.mark.parametrize("change", ["update", "remove", "scale"])
def test_a_task_that_its_node_never_heard_of_blocks_nothing(change: str) -> None:
    world = World(2)
    world.create(make_spec(replicas=1))
    world.cut = {"node1", "node2"}
    world.step()
    assert [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED]
    if change == "update":
        world.update(make_spec(replicas=1, image="web:2"))
    elif change == "remove":
        world.remove()
    else:
        world.update(make_spec(replicas=0))
    world.step()
    world.cut = set()
    world.pass_time(10)
    assert len(world.running()) == (1 if change == "update" else 0)
    assert [t for t in world.tasks() if not t.status.state.terminal] == world.running()


@pytest.mark.parametrize(("condition", "attempts", "most"), [("none", 0, 1), ("any", 2, 3)])
def test_a_stand_in_that_fails_is_followed_as_the_restart_policy_says(
    condition: str, attempts: int, most: int
) -> None:
    world = World(2)
    world.create(make_spec(condition=condition, attempts=attempts))
    world.settle()
    first = world.running()[0]
    world.broken_images.add("web:1")
    world.lose(int(first.node_id[-1]))
    world.pass_time(60)
    made = {i for r in world.reports.values() for i in r.tasks} - {first.id}
    assert len(made) <= most


def test_scaling_down_keeps_what_runs_and_not_what_is_lost() -> None:
    world = World(2)
    world.create(make_spec(replicas=2))
    world.settle()
    first = next(t for t in world.running() if t.slot == 1)
    number = int(first.node_id[-1])
    world.set_node(3 - number, availability=Availability.PAUSE)
    world.power_off(number)
    world.settle()
    world.update(make_spec(replicas=1))
    world.settle()
    assert [t.slot for t in world.running() if t.node_id != first.node_id] == [2]


def test_a_restart_delay_is_kept_when_its_node_is_lost() -> None:
    world = World(2)
    world.create(make_spec(delay_s=30))
    world.settle()
    world.fail(world.running()[0])
    world.settle()
    waiting = next(t for t in world.tasks() if t.live)
    world.lose(int(waiting.node_id[-1]))
    world.pass_time(20)
    assert world.running() == []
    world.pass_time(15)
    assert len(world.running()) == 1


OPS = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 8)),
    st.tuples(st.just("image"), st.integers(1, 4)),
    st.tuples(st.just("fail"), st.integers(0, 7)),
    st.tuples(st.just("lose"), st.integers(1, 3)),
    st.tuples(st.just("power_off"), st.integers(1, 3)),
    st.tuples(st.just("find"), st.integers(1, 3)),
    st.tuples(st.just("drain"), st.integers(1, 3)),
    st.tuples(st.just("activate"), st.integers(1, 3)),
    st.tuples(st.just("steps"), st.integers(1, 4)),
    st.tuples(st.just("time"), st.integers(1, 12)),
    st.tuples(st.just("kill"), st.integers(0, 1)),
)


def happen(world: World, op: str, n: int) -> None:
    """What one of `OPS` does to the world itself; `scale` and `image` are for the test to do."""
    match op:
        case "fail":
            running = [t for t in world.running() if t.node_id not in world.cut]
            if running:
                world.fail(running[n % len(running)])
        case "lose":
            world.lose(n)
        case "power_off":
            world.power_off(n)
        case "find":
            world.find(n)
        case "drain":
            world.set_node(n, availability=Availability.DRAIN)
        case "activate":
            world.set_node(n, availability=Availability.ACTIVE)
        case "steps":
            for _ in range(n):
                world.step()
        case "time":
            world.pass_time(n)
        case "kill":
            world.restart_manager(lose_seen=bool(n))


@settings(max_examples=200, deadline=None)
@given(
    ops=st.lists(OPS, max_size=14),
    order=st.sampled_from(["stop-first", "start-first"]),
    delay=st.sampled_from([0.0, 5.0]),
)
def test_whatever_happens_the_service_ends_as_specified(
    ops: list[tuple[str, int]], order: str, delay: float
) -> None:
    world = World(3)
    config = UpdateConfig(parallelism=2, order=order, failure_action="continue")
    replicas, image = 3, "web:1"
    world.create(make_spec(replicas=replicas, image=image, delay_s=delay, update=config))
    for op, n in ops:
        match op:
            case "scale":
                replicas = n
            case "image":
                image = f"web:{n}"
            case _:
                happen(world, op, n)
        if op in ("scale", "image"):
            world.update(make_spec(replicas=replicas, image=image, delay_s=delay, update=config))
        for slot, tasks in Counter(t.slot for t in world.tasks() if t.live).items():
            assert tasks <= 4, f"slot {slot} multiplies"
    for n in (1, 2, 3):
        if f"node{n}" in world.cut:
            world.find(n)
        world.set_node(n, availability=Availability.ACTIVE)
    world.pass_time(60)
    assert len(world.running()) == replicas == len(world.containers())
    assert {t.spec.container_spec.image for t in world.running() if t.spec.container_spec} <= {image}
    assert not world.step(), "a converged world has nothing to do"
