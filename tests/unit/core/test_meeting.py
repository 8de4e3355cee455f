"""Updates, drains, rebalances and lost nodes at once: each slot ends with one task, and nothing is waited for."""

from __future__ import annotations

from collections import Counter

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.model.objects import Task
from swarmsh.model.specs import ServiceSpec, UpdateConfig
from swarmsh.model.states import Availability

from .test_updates import (
    QUICK,
    START_FIRST,
    images,
    labelled,
    least_ready,
    message_of,
    running_world,
    state_of,
    with_host_port,
)
from .world import SECOND, World, make_spec


def live(world: World) -> list[Task]:
    return [t for t in world.tasks() if t.live]


def slots(world: World) -> Counter[int]:
    return Counter(t.slot for t in live(world))


# --- drains and updates -------------------------------------------------------------------------------------
def test_an_older_task_that_failed_at_the_same_moment_does_not_end_a_move() -> None:
    world = World(2)
    world.create(make_spec(replicas=4))
    world.settle()
    world.add_node(3)
    world.settle()
    world.lose(1)
    world.settle()
    world.fail(next(t for t in world.running() if t.node_id == "node2"))
    world.settle()
    world.update(make_spec(replicas=4, image="web:2"))
    world.settle()
    world.set_node(2, availability=Availability.DRAIN)
    world.settle()
    assert slots(world) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert {t.node_id for t in world.running()} == {"node3"}


def test_a_node_that_is_active_again_keeps_what_an_update_brought_meanwhile() -> None:
    world = running_world(make_spec(replicas=4, delay_s=1), start=1.0)
    world.missing_images.add("web:2")
    update = replace(QUICK, failure_action="continue")
    world.update(make_spec(replicas=4, image="web:2", delay_s=1, update=update))
    world.set_node(3, availability=Availability.DRAIN)
    world.pass_time(8)
    world.set_node(3, availability=Availability.ACTIVE)
    world.missing_images.clear()
    world.pass_time(30)
    assert images(world) == {"web:2": 4}
    assert state_of(world) == "completed"


def test_of_two_tasks_that_a_paused_update_leaves_to_a_slot_one_goes() -> None:
    world = running_world(make_spec(replicas=3), start=1.0, ready=5.0)
    before = {t.id for t in world.ready()}
    world.set_node(2, availability=Availability.DRAIN)
    world.pass_time(3)
    assert len(world.containers()) == 4, "the one that moves, and its successor"
    world.broken_images.add("web:2")
    world.update(make_spec(replicas=3, image="web:2", update=START_FIRST))
    world.pass_time(1)
    world.set_node(2, availability=Availability.ACTIVE)
    world.pass_time(30)
    assert state_of(world) == "paused"
    assert slots(world) == {1: 1, 2: 1, 3: 1}
    assert before == {t.id for t in world.ready()}
    assert len(world.containers()) == 3


def test_a_paused_update_leaves_nothing_behind_that_waits_for_a_node() -> None:
    world = running_world(with_host_port(make_spec(replicas=3)))
    before = {t.id for t in world.ready()}
    moved = with_host_port(make_spec(replicas=3, constraints=("node.hostname!=n1",), update=START_FIRST))
    world.update(labelled(moved, deadline="30s"))
    world.pass_time(60)
    assert state_of(world) == "paused"
    assert "no progress for 30s: no suitable node" in message_of(world)
    assert {t.id for t in world.tasks() if t.live} == before


def test_an_update_begins_a_place_again_whose_next_attempt_went_with_its_node() -> None:
    world = running_world(make_spec(replicas=4, delay_s=1), start=1.0)
    world.broken_images.add("web:2")
    update = replace(START_FIRST, parallelism=2, max_failure_ratio=0.5)
    world.update(make_spec(replicas=4, image="web:2", delay_s=1, update=update))
    world.pass_time(1)
    assert "node3" in {t.node_id for t in world.tasks() if t.live and t.spec_version == 2}
    world.remove_node(3)
    world.broken_images.clear()
    world.pass_time(60)
    assert state_of(world) == "completed"
    assert images(world) == {"web:2": 4}


def test_a_rollback_leaves_nothing_beside_a_task_that_never_had_to_move() -> None:
    world = running_world(with_host_port(make_spec(replicas=3)))
    before = {t.id for t in world.ready()}
    update = replace(QUICK, failure_action="rollback")
    moved = with_host_port(make_spec(replicas=3, constraints=("node.hostname!=n2",), update=update))
    world.update(labelled(moved, deadline="30s"))
    world.pass_time(60)
    assert state_of(world) == "rollback_completed"
    assert {t.id for t in world.tasks() if t.live} == before


# --- drains and rebalances ----------------------------------------------------------------------------------
def uneven(ready_s: float, **spec: float) -> World:
    """Two tasks on node 1, of which one is to move to node 2; node 3 takes none yet."""
    world = World(1)
    world.create(make_spec(replicas=2, **spec))
    world.pass_time(10)
    world.add_node(2)
    world.add_node(3)
    world.set_node(3, availability=Availability.PAUSE)
    world.ready_after["web:1"] = ready_s
    return world


def test_a_drain_goes_on_where_a_rebalance_was_given_up_after_a_failure() -> None:
    world = uneven(5.0, delay_s=2)
    assert world.rebalance() == 1
    world.settle()
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    marked = next(t for t in world.tasks() if t.rebalance is not None)
    successor = next(t for t in world.running() if t.slot == marked.slot and t.id != marked.id)
    world.fail(successor)
    world.settle()
    world.set_node(2, availability=Availability.DRAIN)
    world.set_node(3, availability=Availability.ACTIVE)
    assert least_ready(world, 60) == 2
    assert slots(world) == {1: 1, 2: 1}
    assert {t.node_id for t in world.ready()} == {"node3"}


def test_a_rebalance_makes_nothing_for_a_task_that_a_drain_moves_already() -> None:
    world = uneven(5.0)
    world.rebalance()
    world.set_node(1, availability=Availability.DRAIN)
    assert least_ready(world, 30) == 2
    assert slots(world) == {1: 1, 2: 1}
    assert len(world.tasks()) == 4


# --- all of it ----------------------------------------------------------------------------------------------
KINDS = (
    *("image", "image", "broken", "fail", "fail", "lose", "power", "find", "drain", "drain", "activate", "pause"),
    *("rebalance", "kill", "scale", "decide", "work", "time", "time", "time"),
)
FAULTS = st.tuples(st.sampled_from(KINDS), st.integers(1, 4))


@settings(max_examples=100, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    faults=st.lists(FAULTS, max_size=16),
    order=st.sampled_from(["stop-first", "start-first"]),
    parallelism=st.integers(0, 3),
    action=st.sampled_from(["pause", "rollback", "continue"]),
    ready_s=st.sampled_from([0.0, 1.5, 6.0]),
)
def test_in_the_end_each_slot_has_one_task_that_runs_and_nothing_is_left_to_do(
    faults: list[tuple[str, int]], order: str, parallelism: int, action: str, ready_s: float
) -> None:
    """Whatever happened to nodes, tasks and managers meanwhile, once nodes are well again and images work."""
    config = UpdateConfig(parallelism=parallelism, order=order, failure_action=action, monitor=SECOND)
    image, replicas = "web:1", 4

    def spec() -> ServiceSpec:
        made = make_spec(replicas=replicas, image=image, delay_s=1, update=config, rollback=config)
        return labelled(made, deadline="30s")

    world = running_world(spec(), start=1.0, ready=ready_s)
    lost: set[int] = set()
    for fault, n in faults:
        number = min(n, 3)
        match fault:
            case "image" | "broken":
                image = f"web:{n}" if fault == "image" else "web:5"
                world.broken_images = {"web:5"}
                world.update(spec())
            case "scale":
                replicas = n + 1
                world.update(spec())
            case "fail":
                there = [t for t in world.running() if t.node_id not in world.cut]
                if there:
                    world.fail(there[n % len(there)])
            case "lose" | "power" if number not in lost:
                lost.add(number)
                (world.lose if fault == "lose" else world.power_off)(number)
            case "find" if number in lost:
                lost.discard(number)
                world.find(number)
            case "drain" | "activate" | "pause":
                word = {"activate": "active"}.get(fault, fault)
                world.set_node(number, availability=Availability(word))
            case "rebalance":
                world.rebalance()
            case "kill":
                world.restart_manager(lose_seen=n > 2)
            case "decide":
                for _ in range(n):
                    world.decide()
            case "work" if f"node{number}" not in world.cut:
                world.work(f"node{number}")
            case "time":
                world.pass_time((0.5, 2, 8, 40)[n - 1])
    for number in sorted(lost):
        world.find(number)
    for number in (1, 2, 3):
        world.set_node(number, availability=Availability.ACTIVE)
    world.broken_images = set()
    world.pass_time(150)
    assert not world.step()
    paused = state_of(world) in ("paused", "rollback_paused")
    assert paused or state_of(world) in ("", "completed", "rollback_completed")
    kinds = Counter((t.slot, paused and t.spec_version == world.service.spec_version) for t in live(world))
    assert max(kinds.values()) == 1, "two of a slot only where a paused update has left one of each version"
    mode = world.service.spec.mode.replicated  # a rollback takes the number back too
    wanted = mode.replicas if mode is not None else None
    assert len(slots(world)) == wanted
    assert sorted(world.containers()) == sorted(t.id for t in world.running())
    assert not [t for t in live(world) if t.rebalance is not None and t.rebalance.wanted]
    if not paused:
        assert len(world.ready()) == wanted
        assert len(images(world)) == 1
