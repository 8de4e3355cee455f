"""A change played through on a copy of the state: the steps that it names, and that they are what then happens."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.manager.rehearse import rehearse
from swarmsh.model.objects import UpdateStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import UpdateConfig
from swarmsh.model.states import Availability, NodeState, TaskState
from tests.unit.core.test_volumes import VolumeWorld, volume_spec
from tests.unit.core.world import SECOND, World, make_spec


def a_world(nodes=3, **spec):
    world = World(nodes)
    world.create(make_spec(**spec))
    world.pass_time(10)
    return world


def played(world, **kwargs):
    """The steps from the world's state on, as (order, after, action, way, slot), and the rehearsal."""
    before = world.snapshot
    rehearsal, end = asyncio.run(rehearse(world.snapshot, "svc", world.now, **kwargs))
    assert world.snapshot is before
    return rehearsal, rehearsal.steps(end.nodes)


def told(steps):
    return [(s.order, s.after_s, s.action, s.way, s.slot) for s in steps]


def test_nothing_happens_to_what_is_as_it_should_be():
    rehearsal, steps = played(a_world(replicas=3))
    assert (steps, rehearsal.kept, rehearsal.cut_short) == ((), 3, False)


def test_an_update_goes_place_by_place_in_its_own_time():
    world = a_world(replicas=4)
    config = UpdateConfig(parallelism=2, delay=10 * SECOND, monitor=SECOND)
    world.update(make_spec(replicas=4, image="web:2", update=config))
    rehearsal, steps = played(world)
    assert told(steps) == [
        (1, 0.0, "replace", "stop-first", 1),
        (1, 0.0, "replace", "stop-first", 2),
        (2, 10.0, "replace", "stop-first", 3),
        (2, 10.0, "replace", "stop-first", 4),
    ]
    assert rehearsal.service.update_status.state == "completed"
    assert {s.old_task for s in steps} == {t.id for t in world.tasks()}
    assert rehearsal.kept == 0


def test_start_first_is_told_from_stop_first():
    world = a_world(replicas=1)
    world.update(make_spec(replicas=1, image="web:2", update=UpdateConfig(parallelism=1, order="start-first")))
    _, (step,) = played(world)
    assert (step.action, step.way) == ("replace", "start-first")


def test_scaling_starts_and_stops_and_leaves_the_rest_alone():
    world = a_world(replicas=2)
    world.update(make_spec(replicas=4))
    rehearsal, steps = played(world)
    assert told(steps) == [(1, 0.0, "start", "", 3), (1, 0.0, "start", "", 4)]
    assert all(s.node and not s.old_task for s in steps)
    assert rehearsal.kept == 2
    world.update(make_spec(replicas=0))
    rehearsal, steps = played(world)
    assert told(steps) == [(1, 0.0, "stop", "", 1), (1, 0.0, "stop", "", 2)]
    assert rehearsal.kept == 0


def test_a_global_service_is_planned_node_by_node():
    world = a_world(replicas=None)
    world.update(make_spec(replicas=None, image="web:2"))
    _, steps = played(world)
    assert [(s.order, s.old_node, s.node) for s in steps] == [(n, f"node{n}", f"node{n}") for n in (1, 2, 3)]


def test_what_finds_no_node_says_why_and_the_rest_is_not_begun():
    world = a_world(replicas=2)
    world.update(make_spec(replicas=2, constraints=("node.labels.disk==ssd",)))
    rehearsal, (step,) = played(world)
    assert step.node == ""
    assert step.waits == "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    assert rehearsal.kept == 2, "no task is stopped for one that has no node"


def test_a_node_that_does_not_answer_is_what_is_waited_for():
    world = a_world(nodes=1, replicas=1)
    world.set_node(1, state=NodeState.UNREACHABLE)
    world.update(make_spec(replicas=1, image="web:2"))
    _, (step,) = played(world)
    assert step.waits.startswith("no suitable node") or "n1 does not answer (unreachable)" in step.waits
    world.update(make_spec(replicas=0))
    _, (step,) = played(world)
    assert (step.action, step.waits) == ("stop", "node n1 does not answer (unreachable)")


def test_a_drained_node_is_left():
    world = a_world(nodes=2, replicas=2)
    world.set_node(1, availability=Availability.DRAIN)
    _, (step,) = played(world)
    assert (step.action, step.old_node, step.node) == ("replace", "node1", "node2")


def test_what_has_ended_before_is_of_no_change():
    world = a_world(replicas=1)
    world.fail(world.running()[0])
    world.pass_time(10)
    assert any(t.status.state is TaskState.FAILED for t in world.tasks())
    rehearsal, steps = played(world)
    assert (steps, rehearsal.kept) == ((), 1)


def test_a_rollback_that_was_asked_for_is_played_to_its_end():
    world = a_world(replicas=2)
    world.update(make_spec(replicas=2, image="web:2"))
    world.pass_time(30)
    service = world.service
    status = UpdateStatus(state="rollback_started", started_at=world.now)
    back = replace(
        service, spec=service.previous_spec, spec_version=service.spec_version + 1, update_status=status
    )
    world._apply(Changes(put_services=(back,)))
    rehearsal, steps = played(world)
    assert rehearsal.service.update_status.state == "rollback_completed"
    assert len(steps) == 2


def test_a_long_update_is_cut_short_and_says_so():
    world = a_world(replicas=20)
    world.update(make_spec(replicas=20, image="web:2"))
    rehearsal, steps = played(world, most_looks=300)
    assert rehearsal.cut_short
    assert 0 < len(steps) < 20


specs = st.builds(
    make_spec,
    replicas=st.integers(0, 5),
    image=st.sampled_from(["web:1", "web:2"]),
    constraints=st.sampled_from([(), ("node.labels.disk==ssd",), ("node.hostname!=n2",)]),
    update=st.builds(
        UpdateConfig,
        parallelism=st.integers(0, 3),
        delay=st.sampled_from([0, 2 * SECOND]),
        monitor=st.just(SECOND),
        order=st.sampled_from(["stop-first", "start-first"]),
    ),
)


@settings(deadline=None, max_examples=40)
@given(first=specs, second=specs, drained=st.sampled_from([None, 1, 2]), lost=st.sampled_from([None, 3]))
def test_what_was_planned_is_what_happens(first, second, drained, lost):
    world = World(3)
    world.change_node(1, labels={"disk": "ssd"})
    world.create(first)
    world.pass_time(1)
    if drained is not None:
        world.set_node(drained, availability=Availability.DRAIN)
    if lost is not None:
        world.lose(lost)
    world.pass_time(1)
    live = {t.id: t for t in world.tasks() if t.live}
    world.update(second)
    _, steps = played(world)
    world.pass_time(20)
    after = {t.id: t for t in world.tasks()}
    stopped = {i for i in live if i not in after or not after[i].live}
    assert {s.old_task for s in steps if s.action in ("replace", "stop")} <= stopped
    assert {s.slot for s in steps if s.action in ("replace", "stop")} == {live[i].slot for i in stopped}
    began = {t.slot: t.node_id for t in after.values() if t.live and not t.ahead and t.id not in live}
    assert {s.slot: s.node for s in steps if s.action in ("replace", "start")} == began
    waiting = {t.slot for t in after.values() if t.live and t.status.state is not TaskState.RUNNING}
    assert {s.slot for s in steps if s.waits and s.action != "stop"} == waiting & set(began)


@pytest.mark.parametrize("parallelism", [0, 1, 3])
def test_no_more_places_at_a_time_than_the_service_allows(parallelism):
    world = a_world(replicas=6)
    config = UpdateConfig(parallelism=parallelism, delay=SECOND)
    world.update(make_spec(replicas=6, image="web:2", update=config))
    _, steps = played(world)
    orders = [s.order for s in steps]
    assert max(map(orders.count, orders)) == (parallelism or 6)


def test_a_task_that_would_wait_for_its_data_says_so_in_the_plan():
    world = VolumeWorld()
    world.create(volume_spec())
    world.pass_time(10)
    (task,) = world.running()
    world.update(volume_spec(constraints=(f"node.id!={task.node_id}",), image="web:2"))
    _, steps = played(world)
    (waits,) = {step.waits for step in steps if step.waits}
    assert f"2 nodes without the data of volume pg, which is on n{task.node_id[-1]}" in waits
