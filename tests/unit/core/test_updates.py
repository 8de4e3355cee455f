"""Updates, drains and scaling down: nothing stops before something else is ready, whatever the manager suffers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.model.objects import Task
from swarmsh.model.specs import (
    EndpointSpec,
    Placement,
    PortConfig,
    Reservations,
    ResourceRequirements,
    ServiceSpec,
    UpdateConfig,
)
from swarmsh.model.states import Availability, NodeState, TaskState

from .world import SECOND, World, make_spec

QUICK = UpdateConfig(parallelism=1, monitor=SECOND)
START_FIRST = replace(QUICK, order="start-first")


def image_of(task: Task) -> str:
    return task.spec.container_spec.image if task.spec.container_spec else ""


def images(world: World) -> Counter[str]:
    return Counter(image_of(t) for t in world.ready())


def state_of(world: World) -> str:
    return world.service.update_status.state if world.service.update_status else ""


def message_of(world: World) -> str:
    return world.service.update_status.message if world.service.update_status else ""


def labelled(spec: ServiceSpec, **labels: str) -> ServiceSpec:
    return replace(spec, labels={f"swarmsh.{key}": value for key, value in labels.items()})


def with_host_port(spec: ServiceSpec) -> ServiceSpec:
    port = PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host")
    return replace(spec, endpoint_spec=EndpointSpec(ports=(port,)))


def reserving(spec: ServiceSpec, gigabytes: int) -> ServiceSpec:
    needs = ResourceRequirements(reservations=Reservations(memory_bytes=gigabytes << 30))
    return replace(spec, task_template=replace(spec.task_template, resources=needs))


def running_world(spec: ServiceSpec, nodes: int = 3, **times: float) -> World:
    """The service has been ready for a while. From then on containers take `start` and `ready` seconds each."""
    world = World(nodes)
    world.create(spec)
    world.pass_time(30)
    world.start_delay_s = times.get("start", 0.0)
    world.ready_after = {f"web:{n}": times.get("ready", 0.0) for n in range(1, 6)}
    return world


def least_ready(world: World, seconds: float) -> int:
    """Let time pass; the fewest tasks that were ready after any step of any side."""
    fewest, end = len(world.ready()), world.now + seconds
    while world.now < end:
        for _ in range(200):
            before = world.snapshot
            world.decide()
            for node_id in sorted(world.snapshot.nodes):
                if node_id not in world.cut:
                    world.work(node_id)
                fewest = min(fewest, len(world.ready()))
            if world.snapshot is before:
                break
        world.now += 0.5
    return fewest


# --- ready --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("order", "least"), [("stop-first", 2), ("start-first", 3)])
def test_an_update_waits_for_ready_and_not_only_for_running(order: str, least: int) -> None:
    world = running_world(make_spec(replicas=3), ready=10.0)
    world.update(make_spec(replicas=3, image="web:2", update=replace(QUICK, order=order)))
    world.pass_time(9)
    assert images(world) == {"web:1": least}
    world.pass_time(2)
    assert images(world)["web:2"] == 1
    assert least_ready(world, 30) == least
    assert images(world) == {"web:2": 3}
    assert state_of(world) == "completed"


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_the_spread_is_as_even_after_an_update_as_before(order: str) -> None:
    world = running_world(make_spec(replicas=6), start=1.0, ready=1.0)
    world.update(make_spec(replicas=6, image="web:2", update=replace(QUICK, order=order, parallelism=2)))
    world.pass_time(60)
    assert images(world) == {"web:2": 6}
    assert Counter(t.node_id for t in world.ready()) == {"node1": 2, "node2": 2, "node3": 2}


@pytest.mark.parametrize(
    ("action", "state", "left"),
    [("pause", "paused", "web:1"), ("rollback", "rollback_completed", "web:1"), ("continue", "completed", None)],
)
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_what_never_gets_ready_fails_an_update(action: str, state: str, left: str | None, order: str) -> None:
    world = running_world(make_spec(replicas=3))
    world.ready_after["web:2"] = 1e9
    config = replace(QUICK, order=order, failure_action=action)
    world.update(make_spec(replicas=3, image="web:2", update=config, rollback=QUICK))
    world.pass_time(50)
    assert state_of(world) == "updating"
    world.pass_time(200)
    assert state_of(world) == state
    if left:
        assert images(world)[left] >= (3 if order == "start-first" or action == "rollback" else 2)


def test_the_message_of_a_paused_update_says_where_why_what_was_logged_and_what_to_do() -> None:
    world = running_world(make_spec(replicas=2, delay_s=5))
    world.broken_images.add("web:2")
    world.update(make_spec(replicas=2, image="web:2", delay_s=5, update=START_FIRST))
    world.pass_time(20)
    failed = next(t for t in world.tasks() if t.status.state is TaskState.FAILED)
    first, *rest = message_of(world).split("\n")
    assert first == (
        f"update paused due to failure or early termination of task {failed.id}: "
        f"web.{failed.slot} on node n{failed.node_id[-1]}: task: non-zero exit (1)"
    )
    assert rest[:2] == ["last log lines:", "  line 1"]
    assert rest[10] == "  line 10"
    assert "docker service rollback web" in rest[11]
    assert failed.id in world.reports[failed.node_id].tasks, "its container is kept"


def test_a_rollback_leaves_alone_what_is_still_of_the_old_version() -> None:
    world = running_world(make_spec(replicas=4), ready=2.0)
    before = {t.id for t in world.ready()}
    world.update(make_spec(replicas=4, image="web:2", update=replace(QUICK, failure_action="rollback")))
    world.pass_time(3)
    kept = before & {t.id for t in world.ready()}
    assert 2 <= len(kept) <= 3
    new = next(t for t in world.running() if image_of(t) == "web:2" and not t.status.ready)
    world.fail(new)
    world.pass_time(60)
    assert state_of(world) == "rollback_completed"
    assert images(world) == {"web:1": 4}
    assert kept <= {t.id for t in world.ready()}


# --- prepared first ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("replicas", [1, 3, None])
@pytest.mark.parametrize("action", ["pause", "rollback", "continue"])
@pytest.mark.parametrize("condition", ["any", "none"])
def test_an_image_that_cannot_be_had_stops_nothing(replicas: int | None, action: str, condition: str) -> None:
    world = running_world(make_spec(replicas=replicas, delay_s=5, condition=condition))
    before = {t.id for t in world.ready()}
    world.missing_images.add("web:2")
    config = replace(QUICK, failure_action=action)
    spec = make_spec(replicas=replicas, image="web:2", delay_s=5, condition=condition, update=config)
    world.update(spec)
    assert least_ready(world, 60) == len(before)
    assert {t.id for t in world.ready()} == before
    assert state_of(world) == {"pause": "paused", "rollback": "rollback_completed"}.get(action, "completed")
    if action == "pause":
        assert "No such image: web:2" in message_of(world)
        assert {image_of(t) for t in world.tasks() if t.live} == {"web:1"}, "what was only prepared is gone"


def test_what_was_only_prepared_when_an_update_pauses_goes_and_what_runs_stays() -> None:
    world = running_world(make_spec(replicas=4), start=2.0)
    world.update(make_spec(replicas=4, image="web:2", update=replace(QUICK, parallelism=2)))
    world.settle()
    first, second = (t for t in world.tasks() if image_of(t) == "web:2")
    report = world.reports[first.node_id]
    failed = {first.id: replace(report.tasks[first.id], state="rejected", err="no space left on device")}
    world.reports[first.node_id] = replace(report, tasks={**report.tasks, **failed})
    world.work(first.node_id)
    world.pass_time(20)
    assert state_of(world) == "paused"
    assert images(world) == {"web:1": 4}
    assert second.id not in {t.id for t in world.tasks()}


# --- where both cannot be -----------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize("replicas", [3, None])
@pytest.mark.parametrize("limited", ["port", "room", "max"])
def test_where_two_cannot_be_the_old_one_stops_first_and_it_is_said(
    order: str, replicas: int | None, limited: str
) -> None:
    if limited == "max" and replicas is None:
        return

    def spec(image: str) -> ServiceSpec:
        made = make_spec(replicas=replicas, image=image, update=replace(QUICK, order=order))
        match limited:
            case "port":
                return with_host_port(made)
            case "room":
                return reserving(made, 3)
        placement = Placement(max_replicas=1)
        return replace(made, task_template=replace(made.task_template, placement=placement))

    world = running_world(spec("web:1"), ready=1.0)
    assert len(world.ready()) == 3
    world.update(spec("web:2"))
    world.settle()
    if order == "start-first":
        assert "is stopped first, for it cannot run beside its successor: " in message_of(world)
    else:
        assert message_of(world) == "update in progress"
    assert least_ready(world, 60) == 2
    assert images(world) == {"web:2": 3}
    assert message_of(world) == "update completed"


def test_start_first_goes_to_another_node_where_the_port_is_free() -> None:
    world = running_world(with_host_port(make_spec(replicas=2)), ready=1.0)
    world.update(with_host_port(make_spec(replicas=2, image="web:2", update=START_FIRST)))
    assert least_ready(world, 60) == 2
    assert images(world) == {"web:2": 2}


def test_what_fits_nowhere_for_another_reason_stops_nothing_and_fails_at_the_deadline() -> None:
    world = running_world(make_spec(replicas=2))
    spec = make_spec(replicas=2, image="web:2", constraints=("node.labels.disk==ssd",), update=QUICK)
    kept = replace(spec, task_template=replace(spec.task_template, placement=Placement()))
    # Only its reservation rules it out: a placement that nodes no longer meet moves tasks by itself.
    world.update(labelled(reserving(kept, 100), deadline="30s"))
    assert least_ready(world, 29) == 2
    assert state_of(world) == "updating"
    world.pass_time(3)
    assert state_of(world) == "paused"
    assert "no progress for 30s: no suitable node (insufficient resources on 3 nodes)" in message_of(world)
    assert images(world) == {"web:1": 2}


def test_the_deadline_does_not_run_while_the_manager_does_not() -> None:
    world = running_world(make_spec(replicas=1))
    world.update(labelled(reserving(make_spec(image="web:2", update=QUICK), 100), deadline="30s"))
    world.pass_time(20)
    world.now += 3600
    world.restart_manager()
    world.pass_time(29)
    assert state_of(world) == "updating"
    world.pass_time(3)
    assert state_of(world) == "paused"


def test_continue_goes_on_past_what_gets_no_further() -> None:
    world = running_world(make_spec(replicas=3))
    world.set_node(2, availability=Availability.PAUSE)
    update = replace(QUICK, failure_action="continue")
    world.update(labelled(reserving(make_spec(replicas=3, image="web:2", update=update), 3), deadline="30s"))
    world.pass_time(300)
    assert state_of(world) == "completed"
    assert images(world)["web:2"] == 2
    assert images(world)["web:1"] == 1, "what could not be replaced goes on"


# --- global -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_global_update_passes_over_a_node_that_is_down_and_catches_up_on_its_return(order: str) -> None:
    world = running_world(make_spec(replicas=None))
    world.lose(2)
    world.settle()
    world.update(make_spec(replicas=None, image="web:2", update=replace(QUICK, order=order)))
    world.pass_time(30)
    assert state_of(world) == "completed"
    assert sum(t.node_id == "node2" for t in world.tasks()) == 1, "nothing is made for a node that is away"
    world.find(2)
    world.pass_time(30)
    assert images(world) == {"web:2": 3}
    assert state_of(world) == "completed"


def test_a_global_update_passes_over_a_paused_node() -> None:
    world = running_world(make_spec(replicas=None))
    world.set_node(2, availability=Availability.PAUSE)
    world.update(make_spec(replicas=None, image="web:2", update=QUICK))
    world.pass_time(30)
    assert images(world) == {"web:1": 1, "web:2": 2}
    assert state_of(world) == "completed"
    world.set_node(2, availability=Availability.ACTIVE)
    world.pass_time(30)
    assert images(world) == {"web:2": 3}


# --- drains -------------------------------------------------------------------------------------------------
def test_a_drain_moves_tasks_that_are_replaced_first() -> None:
    world = running_world(make_spec(replicas=6), start=1.0, ready=5.0)
    world.set_node(2, availability=Availability.DRAIN)
    assert least_ready(world, 30) == 6
    assert Counter(t.node_id for t in world.ready()) == {"node1": 3, "node3": 3}
    assert len(world.containers()) == 6


@pytest.mark.parametrize("limited", ["port", "nowhere"])
def test_a_drain_stops_at_once_what_no_other_node_takes(limited: str) -> None:
    spec = make_spec(replicas=3)
    world = running_world(with_host_port(spec) if limited == "port" else spec, ready=5.0)
    if limited == "nowhere":
        for number in (1, 3):
            world.set_node(number, availability=Availability.PAUSE)
    world.set_node(2, availability=Availability.DRAIN)
    world.settle()
    assert Counter(t.node_id for t in world.ready()) == {"node1": 1, "node3": 1}


def test_a_node_that_is_active_again_keeps_what_was_to_move() -> None:
    world = running_world(make_spec(replicas=3), start=1.0, ready=5.0)
    before = {t.id for t in world.ready()}
    world.set_node(2, availability=Availability.DRAIN)
    world.settle()
    world.set_node(2, availability=Availability.ACTIVE)
    assert least_ready(world, 30) == 3
    assert {t.id for t in world.ready()} == before
    assert len(world.containers()) == 3


def test_a_drain_ends_at_the_deadline_although_nothing_else_gets_ready() -> None:
    world = running_world(labelled(make_spec(replicas=3, delay_s=5), deadline="2m"))
    world.broken_images.add("web:1")
    world.set_node(2, availability=Availability.DRAIN)
    assert least_ready(world, 119) == 3
    world.pass_time(3)
    assert "node2" not in {t.node_id for t in world.running()}
    assert len(world.running()) == 2


@pytest.mark.parametrize("condition", ["any", "none"])
def test_a_successor_that_fails_is_tried_again_as_the_restart_policy_says(condition: str) -> None:
    world = running_world(make_spec(replicas=1, condition=condition, delay_s=5))
    number = int(world.ready()[0].node_id[-1])
    world.broken_images.add("web:1")
    world.set_node(number, availability=Availability.DRAIN)
    world.pass_time(60)
    made = len(world.tasks()) - 1
    assert (made, len(world.ready())) == ((1, 0) if condition == "none" else (4, 1))


def test_a_drain_that_is_called_off_in_an_update_stops_no_more_than_the_update_may() -> None:
    config = replace(QUICK, parallelism=1)
    world = running_world(make_spec(replicas=4, update=config), start=1.0, ready=6.0)
    for number in (1, 3):
        world.set_node(number, availability=Availability.DRAIN)
    world.update(make_spec(replicas=4, image="web:2", update=config))
    world.decide()
    for number in (1, 3):
        world.set_node(number, availability=Availability.ACTIVE)
    assert least_ready(world, 60) == 3
    assert images(world) == {"web:2": 4}


def test_what_must_never_run_twice_stops_before_it_is_moved() -> None:
    world = running_world(labelled(make_spec(replicas=1), fence="stop"), start=1.0)
    world.set_node(int(world.ready()[0].node_id[-1]), availability=Availability.DRAIN)
    world.settle()
    assert world.containers() == []
    world.pass_time(10)
    assert len(world.ready()) == 1


def test_scaling_down_takes_what_is_not_ready_first() -> None:
    world = running_world(make_spec(replicas=2))
    world.ready_after["web:1"] = 20.0
    world.update(make_spec(replicas=4))
    world.pass_time(5)
    ready = {t.id for t in world.ready()}
    world.update(make_spec(replicas=2))
    assert least_ready(world, 5) == 2
    assert {t.id for t in world.ready()} == ready


# --- the manager --------------------------------------------------------------------------------------------
def test_a_new_manager_stops_nothing_for_the_sake_of_what_it_has_not_heard_of() -> None:
    world = running_world(make_spec(replicas=2), ready=5.0)
    world.update(make_spec(replicas=2, image="web:2", update=replace(START_FIRST, parallelism=2)))
    world.pass_time(4)
    before = {t.id for t in world.ready()}
    world.now += 1.5
    for node_id in ("node1", "node2", "node3"):
        world.work(node_id)  # the manager hears that they are ready, and dies
    world.restart_manager()
    for number in (1, 2, 3):
        world.cut.add(f"node{number}")
    for _ in range(5):
        world.step()
    assert before <= {t.id for t in world.ready()}
    world.cut.clear()
    world.pass_time(20)
    assert images(world) == {"web:2": 2}


def test_a_silent_node_s_task_is_no_reason_to_stop_another() -> None:
    world = running_world(make_spec(replicas=1), ready=5.0)
    world.update(make_spec(replicas=1, image="web:2", update=START_FIRST))
    world.pass_time(4)
    new = next(t for t in world.tasks() if image_of(t) == "web:2")
    number = int(new.node_id[-1])
    world.set_node(number, state=NodeState.UNREACHABLE)
    world.pass_time(10)
    assert images(world) == {"web:1": 1, "web:2": 1}
    world.set_node(number, state=NodeState.READY)
    world.pass_time(10)
    assert images(world) == {"web:2": 1}


OPS = st.one_of(
    st.tuples(st.just("image"), st.integers(1, 4)),
    st.tuples(st.just("drain"), st.integers(1, 3)),
    st.tuples(st.just("activate"), st.integers(1, 3)),
    st.tuples(st.just("decide"), st.integers(1, 3)),
    st.tuples(st.just("work"), st.integers(1, 4)),
    st.tuples(st.just("kill"), st.integers(0, 1)),
    st.tuples(st.just("time"), st.integers(1, 8)),
    st.tuples(st.just("label"), st.integers(0, 3)),
)


@settings(max_examples=100, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    ops=st.lists(OPS, max_size=25),
    order=st.sampled_from(["stop-first", "start-first"]),
    parallelism=st.integers(1, 3),
    action=st.sampled_from(["pause", "rollback", "continue"]),
    is_global=st.booleans(),
    start_s=st.sampled_from([0.0, 1.0]),
    ready_s=st.sampled_from([0.0, 1.5, 6.0]),
)
def test_no_more_is_ever_missing_than_the_update_may_take(
    ops: list[tuple[str, int]],
    order: str,
    parallelism: int,
    action: str,
    is_global: bool,
    start_s: float,
    ready_s: float,
) -> None:
    """Without failures: n - parallelism in stop-first updates, n in start-first ones and drains, at every step."""
    config = UpdateConfig(parallelism=parallelism, order=order, failure_action=action, monitor=SECOND)
    image, label = 1, 0

    def spec() -> ServiceSpec:
        made = make_spec(replicas=None if is_global else 4, image=f"web:{image}", update=config, rollback=config)
        return replace(made, labels={"n": str(label)})

    world = running_world(spec(), start=start_s, ready=ready_s)
    wanted = len(world.ready())
    least = wanted if order == "start-first" else wanted - parallelism
    drained: set[int] = set()

    def check() -> None:
        assert len(world.ready()) >= least, (len(world.ready()), world.tasks())

    for op, n in ops:
        match op:
            case "image":
                image = n
                world.update(spec())
            case "label":
                label = n
                world.update(spec())
            case "drain":
                if len(drained | {n}) < 3 and not is_global:
                    drained.add(n)
                    world.set_node(n, availability=Availability.DRAIN)
            case "activate":
                drained.discard(n)
                world.set_node(n, availability=Availability.ACTIVE)
            case "decide":
                for _ in range(n):
                    world.decide()
            case "work":
                if n <= 3:
                    world.work(f"node{n}")
                else:
                    world.now += 0.5
            case "kill":
                world.restart_manager(lose_seen=bool(n))
            case "time":
                assert least_ready(world, n) >= least
        check()
    assert least_ready(world, 120) >= least
    assert images(world) == {f"web:{image}": wanted}
    assert len(world.containers()) == wanted
    assert not drained & {int(t.node_id[-1]) for t in world.ready()}
    assert state_of(world) in ("", "completed", "rollback_completed")
    assert not world.step(), "a converged world has nothing to do"
