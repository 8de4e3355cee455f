"""Jobs in a small world of obedient nodes: iterations, completions, schedules, and ends of managers and nodes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.accept import accept_service, accept_update
from swarmsh.core.container import ensure_action
from swarmsh.core.failure import why_failed
from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.objects import Task
from swarmsh.model.specs import (
    GlobalJobMode,
    ReplicatedJobMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from swarmsh.model.states import Availability, NodeState, TaskState

from .world import World, make_job, make_node, make_spec

KEY = "swarmsh.schedule"
EVERY_MINUTE = {KEY: "* * * * *"}
HOURLY = {KEY: "0 * * * *"}


def begun(spec: ServiceSpec, nodes: int = 3) -> World:
    world = World(nodes)
    world.create(spec)
    world.settle()
    return world


def of_iteration(world: World, iteration: int) -> list[Task]:
    return [t for t in world.tasks() if t.job_iteration == iteration]


def states(tasks: list[Task]) -> Counter[str]:
    return Counter(t.status.state.word for t in tasks)


# --- one iteration ----------------------------------------------------------------------------------------------
def test_all_tasks_of_a_job_run_at_once_and_stay_complete() -> None:
    world = begun(make_job(replicas=3))
    assert [(t.slot, t.number, t.desired_word) for t in world.running()] == [
        (1, 0, "complete"),
        (2, 1, "complete"),
        (3, 2, "complete"),
    ]
    for task in world.running():
        world.finish(task)
    world.pass_time(600)
    assert states(world.tasks()) == {"complete": 3} and world.containers() == []
    assert [t.desired_word for t in world.tasks()] == ["complete"] * 3


def test_what_is_said_of_a_failed_task_names_it_as_clients_do() -> None:
    world = begun(make_job(replicas=1))
    assert why_failed(world.running()[0], world.snapshot.nodes).startswith("job.0 on node n1: ")


def test_no_more_tasks_run_at_a_time_than_asked_for() -> None:
    world = begun(make_job(replicas=5, concurrent=2))
    for done in range(5):
        assert len(world.running()) == min(2, 5 - done)
        world.finish(world.running()[0])
        world.settle()
    assert states(world.tasks()) == {"complete": 5}
    assert sorted(t.slot for t in world.tasks()) == [1, 2, 3, 4, 5]


def test_a_task_that_fails_is_tried_again_in_its_slot_after_the_delay() -> None:
    world = begun(make_job(replicas=2, delay_s=5))
    failed = world.running()[0]
    world.fail(failed)
    world.pass_time(4)
    assert [t.slot for t in world.running()] == [2]
    world.pass_time(2)
    assert sorted(t.slot for t in world.running()) == [1, 2]
    assert next(t for t in world.tasks() if t.id == failed.id).desired_word == "shutdown"
    for task in world.running():
        world.finish(task)
    world.settle()
    assert states(world.tasks()) == {"complete": 2, "failed": 1}


@pytest.mark.parametrize(
    ("condition", "how", "tasks"),
    [("any", "complete", 1), ("any", "failed", 2), ("on-failure", "failed", 2), ("none", "failed", 1)],
)
def test_the_restart_condition_decides_and_any_is_on_failure(condition: str, how: str, tasks: int) -> None:
    world = begun(make_job(condition=condition))
    world.fail(world.running()[0], how)
    world.pass_time(60)
    assert len(world.tasks()) == tasks


def test_a_slot_that_failed_for_good_ends_and_the_others_go_on() -> None:
    world = begun(make_job(replicas=3, concurrent=1, attempts=1))
    for _ in range(2):
        world.fail(world.running()[0])
        world.settle()
    assert [t.slot for t in world.running()] == [2], "after the first attempt and one more"
    for _ in range(2):
        world.finish(world.running()[0])
        world.settle()
    world.pass_time(60)
    assert states(world.tasks()) == {"failed": 2, "complete": 2} and world.running() == []


def test_a_node_starts_no_complete_container_again_while_it_is_alone() -> None:
    task = begun(make_job(condition="any")).running()[0]
    assert ensure_action(task, make_node(1), "cluster", "running").restart == "on-failure"


# --- again ------------------------------------------------------------------------------------------------------
def test_any_update_runs_a_job_again() -> None:
    world = begun(make_job(replicas=2))
    for task in world.running():
        world.finish(task)
    world.settle()
    world.update(make_job(replicas=2, force=1))
    world.settle()
    status = world.service.job_status
    assert status is not None and status.iteration == 1
    assert [t.job_iteration for t in world.running()] == [1, 1]
    world.update(make_job(replicas=2, force=1, labels={"a": "b"}))
    world.settle()
    assert [t.job_iteration for t in world.running()] == [2, 2]


def test_an_update_ends_what_runs_before_it_runs_the_job_again() -> None:
    world = begun(make_job(replicas=2))
    first = {t.id for t in world.running()}
    world.cut = {"node1", "node2", "node3"}  # the nodes are told nothing for now
    world.update(make_job(replicas=2, image="job:2"))
    world.settle()
    assert {t.id for t in world.running()} == set(), "nothing is wanted of the first run"
    assert {t.desired for t in of_iteration(world, 1)} == {TaskState.READY}, "the next waits until that has ended"
    world.cut = set()
    world.settle()
    assert states(of_iteration(world, 0)) == {"shutdown": 2}
    assert set(world.containers()) == {t.id for t in of_iteration(world, 1)} and not first & set(
        world.containers()
    )


def test_a_change_of_our_labels_runs_nothing() -> None:
    world = begun(make_job())
    world.finish(world.running()[0])
    world.settle()
    world.update(make_job(labels={"swarmsh.drain": "3s"}))
    world.pass_time(60)
    status = world.service.job_status
    assert status is not None and status.iteration == 0 and len(world.tasks()) == 1


def test_runs_are_kept_as_far_as_the_history_goes() -> None:
    world = begun(make_job(replicas=2))
    for force in range(1, 9):
        for task in world.running():
            world.finish(task)
        world.update(make_job(replicas=2, force=force))
        world.settle()
    assert sorted({t.job_iteration for t in world.tasks()}) == [4, 5, 6, 7, 8]
    assert Counter(t.slot for t in world.tasks()) == {1: 5, 2: 5}
    assert {t.desired_word for t in world.tasks()} == {"complete"}, "what is complete stays so"
    nodes = {i for report in world.reports.values() for i in report.tasks}
    assert nodes == {t.id for t in world.tasks()}, "containers go with their tasks"


def test_slots_of_wider_runs_go_with_their_runs() -> None:
    world = begun(make_job(replicas=4))
    for force in range(1, 8):
        for task in world.running():
            world.finish(task)
        world.update(make_job(replicas=1, force=force))
        world.settle()
    assert {t.slot for t in world.tasks()} == {1}


def test_many_failures_leave_no_more_tasks_than_the_history_has() -> None:
    world = begun(make_job(replicas=2, concurrent=1))
    for _ in range(12):
        world.fail(world.running()[0])
        world.settle()
    world.finish(world.running()[0])
    world.settle()
    assert Counter(t.slot for t in world.tasks()) == {1: 5, 2: 1}
    assert [t.slot for t in world.running()] == [2]


# --- nodes ------------------------------------------------------------------------------------------------------
def test_a_global_job_runs_once_on_each_node_that_was_there() -> None:
    world = begun(make_job(replicas=None))
    assert [t.node_id for t in world.running()] == ["node1", "node2", "node3"]
    for task in world.running():
        world.finish(task)
    world.settle()
    late = replace(make_node(4), created_at=world.now + 1)
    world.add_node(late)
    world.pass_time(60)
    assert states(world.tasks()) == {"complete": 3}
    world.update(make_job(replicas=None, force=1))
    world.settle()
    assert len(world.running()) == 4, "the next run is on it too"


def test_a_global_job_runs_on_a_node_that_was_away_when_it_is_back() -> None:
    world = World(2)
    world.lose(2)
    world.create(make_job(replicas=None))
    world.settle()
    assert [t.node_id for t in world.running()] == ["node1"]
    world.find(2)
    world.settle()
    assert [t.node_id for t in world.running()] == ["node1", "node2"]


def test_a_task_on_a_lost_node_has_a_stand_in_and_one_of_the_two_is_enough() -> None:
    world = begun(make_job(), nodes=2)
    first = world.running()[0]
    number = int(first.node_id[-1])
    world.lose(number)
    world.settle()
    (stand_in,) = [t for t in world.running() if t.id != first.id]
    world.finish(stand_in)
    world.settle()
    world.find(number)
    world.settle()
    assert world.containers() == [], "what the other node did yet is not needed"
    assert {t.id: t.status.state.word for t in world.tasks()}[stand_in.id] == "complete"
    world.pass_time(60)
    assert world.containers() == []


def test_what_a_lost_node_has_completed_needs_no_stand_in() -> None:
    world = begun(make_job(constraints=("node.labels.fast==1",)), nodes=0)
    world.add_node(replace(make_node(1), spec=replace(make_node(1).spec, labels={"fast": "1"})))
    world.settle()
    first = world.running()[0]
    world.lose(1)
    world.settle()
    assert len(world.tasks()) == 2, "a stand-in waits for a node that fits"
    report = world.reports["node1"]
    world.reports["node1"] = replace(report, tasks={first.id: replace(report.tasks[first.id], state="complete")})
    world.find(1)
    world.pass_time(30)
    assert world.running() == [] and states(world.tasks())["complete"] == 1


def test_a_node_that_returns_before_the_stand_in_runs_keeps_its_task() -> None:
    world = begun(make_job(constraints=("node.id==node1",)))
    (first,) = world.running()
    world.lose(1)
    world.settle()
    assert len([t for t in world.tasks() if t.live]) == 2
    world.find(1)
    world.settle()
    assert [t.id for t in world.tasks()] == [first.id]


def test_a_fenced_task_of_a_job_never_runs_twice() -> None:
    world = begun(make_job(labels={"swarmsh.fence": "stop"}))
    (first,) = world.running()
    world.lose(int(first.node_id[-1]))
    world.pass_time(20)
    assert [t.id for t in world.tasks()] == [first.id], "it may run there yet"
    world.pass_time(60)
    (stand_in,) = [t for t in world.running() if t.id != first.id]
    assert stand_in.node_id != first.node_id


def test_a_drained_nodes_task_runs_elsewhere() -> None:
    world = begun(make_job(), nodes=2)
    number = int(world.running()[0].node_id[-1])
    world.set_node(number, availability=Availability.DRAIN)
    world.settle()
    assert [t.node_id for t in world.running()] == [f"node{3 - number}"]


def test_a_removed_nodes_task_runs_elsewhere_and_what_is_complete_stays() -> None:
    world = begun(make_job(replicas=2), nodes=2)
    done, other = world.running()
    world.finish(done)
    world.settle()
    world.remove_node(int(done.node_id[-1]))
    world.settle()
    assert [t.id for t in world.running()] == [other.id]
    world.add_node(make_node(3))
    world.remove_node(int(other.node_id[-1]))
    world.settle()
    assert [(t.slot, t.node_id) for t in world.running()] == [(other.slot, "node3")]


def test_removing_a_job_leaves_nothing() -> None:
    world = begun(make_job(replicas=3))
    world.finish(world.running()[0])
    world.settle()
    world.remove()
    world.settle()
    assert world.tasks() == [] and all(not r.tasks for r in world.reports.values())


# --- schedules --------------------------------------------------------------------------------------------------
def scheduled(labels: dict[str, str], at: str = "2026-01-10 11:30:10", **job: object) -> World:
    world = World(3)
    world.now = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    world.create(make_job(labels=labels, **job))  # type: ignore[arg-type]
    world.settle()
    return world


def iterations(world: World) -> list[int | None]:
    return sorted({t.job_iteration for t in world.tasks()}, key=str)


def told(world: World) -> list[tuple[str, dict[str, str]]]:
    return [
        (e.action, {k: v for k, v in e.attributes.items() if k != "name"})
        for e in world.events
        if e.action.startswith("job_")
    ]


def until(world: World, moment: str) -> None:
    world.pass_time(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() - world.now)


def test_a_scheduled_job_runs_when_it_is_due_and_not_before() -> None:
    world = scheduled(HOURLY)
    assert world.tasks() == []
    status = world.service.update_status
    assert status is not None and status.state == "completed"
    assert status.message == "scheduled: it runs next at 2026-01-10T12:00:00Z"
    until(world, "2026-01-10 11:59:59")
    assert world.tasks() == []
    until(world, "2026-01-10 12:00:01")
    assert [t.job_iteration for t in world.running()] == [1] and world.service.update_status is None
    world.finish(world.running()[0])
    until(world, "2026-01-10 13:00:01")
    assert iterations(world) == [1, 2]
    assert told(world) == [
        ("job_run", {"due": "2026-01-10T12:00:00Z", "iteration": "1"}),
        ("job_run", {"due": "2026-01-10T13:00:00Z", "iteration": "2"}),
    ]


def test_a_zone_moves_the_runs() -> None:
    world = scheduled({KEY: "0 17 * * *", f"{KEY}.zone": "Asia/Kolkata"})
    until(world, "2026-01-10 11:30:20")
    assert world.tasks() == [], "17:00 there was 11:30"
    status = world.service.job_status
    assert status is not None and status.next_execution == world.now + 86400 - 20


def test_the_manager_may_die_at_any_time_without_a_second_run_of_a_minute() -> None:
    world = scheduled(EVERY_MINUTE, "2026-01-10 11:30:58")
    for _ in range(20):
        world.restart_manager()
        world.step()
        world.now += 0.25
    assert iterations(world) == [1]
    assert [a["due"] for name, a in told(world) if name == "job_run"] == ["2026-01-10T11:31:00Z"]


def test_runs_that_were_slept_through_are_made_up_for_once() -> None:
    world = scheduled(HOURLY)
    world.now += 4 * 3600  # 15:30
    world.restart_manager()
    world.settle()
    assert iterations(world) == [1]
    status = world.service.job_status
    assert status is not None and (status.skipped, status.skipped_because) == (3, "no manager was awake")
    assert told(world) == [
        ("job_skipped", {"due": "2026-01-10T15:00:00Z", "runs": "3", "reason": "no manager was awake"}),
        ("job_run", {"due": "2026-01-10T15:00:00Z", "iteration": "1", "missed": "4"}),
    ]


def test_runs_that_were_slept_through_are_left_out_if_so_asked() -> None:
    world = scheduled(HOURLY | {f"{KEY}.missed": "skip"})
    world.now += 4 * 3600
    world.settle()
    assert world.tasks() == []
    status = world.service.job_status
    assert status is not None and status.skipped == 4
    until(world, "2026-01-10 16:00:01")
    assert iterations(world) == [1]


def test_a_run_is_skipped_while_the_one_before_is_on() -> None:
    world = scheduled(HOURLY, replicas=2, concurrent=1)
    until(world, "2026-01-10 12:00:01")
    world.finish(world.running()[0])
    until(world, "2026-01-10 13:00:01")
    assert iterations(world) == [1], "the second task of the first run is on"
    status = world.service.job_status
    assert status is not None and (status.skipped, status.skipped_because) == (1, "the run before it was still on")
    world.finish(world.running()[0])
    until(world, "2026-01-10 14:00:01")
    assert iterations(world) == [1, 2]


def test_a_run_that_failed_for_good_does_not_keep_the_next_from_running() -> None:
    world = scheduled(HOURLY, condition="none")
    until(world, "2026-01-10 12:00:01")
    world.fail(world.running()[0])
    until(world, "2026-01-10 13:00:01")
    assert [t.job_iteration for t in world.running()] == [2]


def test_runs_overlap_where_they_may_and_each_goes_on_to_its_end() -> None:
    world = scheduled(HOURLY | {f"{KEY}.overlap": "allow"}, replicas=2, concurrent=1)
    until(world, "2026-01-10 13:00:01")
    assert Counter(t.job_iteration for t in world.running()) == {1: 1, 2: 1}
    world.fail(next(t for t in world.running() if t.job_iteration == 1))
    world.settle()
    for _ in range(2):
        for task in world.running():
            world.finish(task)
        world.settle()
    assert states(of_iteration(world, 1)) == {"complete": 2, "failed": 1}
    assert states(of_iteration(world, 2)) == {"complete": 2} and world.running() == []
    status = world.service.job_status
    assert status is not None and status.earlier == ()


def test_force_ends_all_runs_that_overlap() -> None:
    labels = HOURLY | {f"{KEY}.overlap": "allow"}
    world = scheduled(labels)
    until(world, "2026-01-10 13:00:01")
    assert len(world.running()) == 2
    world.update(make_job(labels=labels, force=1))
    world.settle()
    assert [t.job_iteration for t in world.running()] == [3]


def test_a_change_of_a_scheduled_job_waits_for_its_time_and_force_does_not() -> None:
    world = scheduled(HOURLY)
    until(world, "2026-01-10 12:00:01")
    first = world.running()[0]
    world.update(make_job(labels={KEY: "30 * * * *"}))
    world.settle()
    assert [t.id for t in world.running()] == [first.id], "what runs goes on"
    status = world.service.job_status
    assert status is not None and status.next_execution == world.now - 1 + 1800
    world.update(make_job(labels={KEY: "30 * * * *"}, image="job:2", replicas=3))
    world.settle()
    assert [t.id for t in world.running()] == [first.id]
    world.finish(first)
    until(world, "2026-01-10 12:29:00")
    assert len(world.tasks()) == 1, "a wider job is so from its next run on"
    until(world, "2026-01-10 12:30:01")
    assert len(world.running()) == 3
    assert {t.spec.container_spec.image for t in world.running() if t.spec.container_spec} == {"job:2"}
    world.update(make_job(labels={KEY: "30 * * * *"}, image="job:2", replicas=3, force=1))
    world.settle()
    assert [t.job_iteration for t in world.running()] == [3, 3, 3] and world.service.update_status is None


def test_going_back_behind_a_forced_run_of_a_scheduled_job_runs_nothing() -> None:
    world = scheduled(HOURLY)
    world.update(make_job(labels=HOURLY, force=1))
    world.settle()
    (forced,) = world.running()
    world.update(make_job(labels=HOURLY))
    world.settle()
    assert [t.id for t in world.running()] == [forced.id]


def test_a_scheduled_global_job_takes_on_new_nodes_with_its_next_run() -> None:
    world = scheduled(HOURLY, replicas=None, constraints=("node.id==node1",))
    until(world, "2026-01-10 12:00:01")
    for task in world.running():
        world.finish(task)
    world.update(make_job(labels=HOURLY, replicas=None))
    until(world, "2026-01-10 12:30:00")
    assert len(world.tasks()) == 1
    until(world, "2026-01-10 13:00:01")
    assert len(world.running()) == 3


def test_without_its_schedule_a_job_is_an_ordinary_one_again() -> None:
    world = scheduled(HOURLY)
    world.update(make_job())
    until(world, "2026-01-10 13:30:00")
    assert world.tasks() == []
    world.update(make_job(force=1))
    world.settle()
    assert len(world.running()) == 1
    status = world.service.job_status
    assert status is not None and status.next_execution is None


def test_a_drain_moves_a_task_by_stopping_it_first() -> None:
    world = begun(make_job(replicas=1))
    (before,) = world.running()
    world.set_node(int(before.node_id.removeprefix("node")), availability=Availability.DRAIN)
    world.step()
    assert len(world.containers()) <= 1
    world.settle()
    (after,) = world.running()
    assert after.node_id != before.node_id


# --- whatever happens -------------------------------------------------------------------------------------------
CHAOS = st.lists(
    st.tuples(
        st.sampled_from(
            ["finish", "fail", "wait", "sleep", "restart", "lose", "power off", "find", "drain", "active", "force"]
        ),
        st.integers(0, 9),
    ),
    max_size=25,
)


def disturb(world: World, what: str, number: int, force: int, spec: ServiceSpec) -> int:
    node = number % 3 + 1
    running = [t for t in world.running() if t.node_id not in world.cut]
    if what in ("finish", "fail") and running:
        task = running[number % len(running)]
        (world.finish if what == "finish" else world.fail)(task)
    elif what == "wait":
        world.pass_time(number * 7)
    elif what == "sleep":
        world.now += number * 400
        world.restart_manager()
    elif what == "restart":
        world.restart_manager()
    elif what == "lose":
        world.lose(node)
    elif what == "power off":
        world.power_off(node)
    elif what == "find" and f"node{node}" in world.cut:
        world.find(node)
    elif what in ("drain", "active"):
        world.set_node(node, availability=Availability.DRAIN if what == "drain" else Availability.ACTIVE)
    elif what == "force":
        force += 1
        world.update(replace(spec, task_template=replace(spec.task_template, force_update=force)))
    return force


@settings(max_examples=120, deadline=None)
@given(
    replicas=st.one_of(st.none(), st.integers(0, 4)),
    concurrent=st.integers(1, 3),
    labels=st.sampled_from([{}, EVERY_MINUTE, EVERY_MINUTE | {f"{KEY}.overlap": "allow"}, HOURLY]),
    chaos=CHAOS,
)
def test_whatever_happens_no_run_is_doubled_and_in_the_end_all_are_complete(
    replicas: int | None, concurrent: int, labels: dict[str, str], chaos: list[tuple[str, int]]
) -> None:
    spec = make_job(replicas=replicas, concurrent=concurrent, labels=labels)
    world = begun(spec)
    force = 0
    for what, number in chaos:
        force = disturb(world, what, number, force, spec)
        world.settle()
        _check_limits(world, replicas, concurrent)
    dues = [e.attributes["due"] for e in world.events if e.action == "job_run"]
    assert len(dues) == len(set(dues)), "a minute ran twice"
    for node in (1, 2, 3):
        if f"node{node}" in world.cut:
            world.find(node)
        world.set_node(node, state=NodeState.READY, availability=Availability.ACTIVE)
    for _ in range(40):
        for task in world.running():
            world.finish(task)
        world.settle()
    status = world.service.job_status
    assert status is not None and status.earlier == () and world.containers() == []
    if status.run is not None:
        done = {t.slot or t.node_id for t in of_iteration(world, status.iteration) if _complete(t)}
        assert len(done) == (len(world.snapshot.nodes) if replicas is None else replicas)


def _complete(task: Task) -> bool:
    return task.status.state is TaskState.COMPLETE


def _check_limits(world: World, replicas: int | None, concurrent: int) -> None:
    for iteration in {t.job_iteration for t in world.tasks()}:
        tasks = [t for t in world.tasks() if t.job_iteration == iteration]
        live = {t.slot or t.node_id for t in tasks if t.live}
        if replicas is not None:
            assert len(live) <= concurrent and len({t.slot for t in tasks}) <= replicas
        done = {t.slot or t.node_id for t in tasks if _complete(t)}
        assert not done & live, "what is complete runs again"


# --- what is accepted -------------------------------------------------------------------------------------------
def job_spec(**fields: object) -> ServiceSpec:
    mode = ServiceMode(replicated_job=ReplicatedJobMode())
    return replace(make_spec(name="job"), **({"mode": mode} | fields))


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ((None, None), (1, 1)),
        ((2, None), (2, 2)),
        ((None, 3), (1, 3)),
        ((2, 5), (2, 5)),
        ((0, 0), (0, 0)),
        ((7, 5), (7, 5)),
    ],
)
def test_numbers_that_were_left_out_are_dockerds(
    asked: tuple[int | None, int | None], stored: tuple[int, int]
) -> None:
    job = ReplicatedJobMode(max_concurrent=asked[0], total_completions=asked[1])
    mode = accept_service(job_spec(mode=ServiceMode(replicated_job=job))).mode
    assert mode.replicated_job == ReplicatedJobMode(max_concurrent=stored[0], total_completions=stored[1])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"update_config": UpdateConfig(parallelism=1)}, "Jobs may not have an update config"),
        ({"rollback_config": UpdateConfig(parallelism=1)}, "Jobs may not have a rollback config"),
        (
            {"mode": ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=-1))},
            "Maximum concurrent jobs must not be negative",
        ),
        (
            {"mode": ServiceMode(replicated_job=ReplicatedJobMode(total_completions=-1))},
            "Total completed jobs must not be negative",
        ),
        (
            {"mode": ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=0, total_completions=2))},
            "would never end. Set MaxConcurrent",
        ),
        ({"mode": ServiceMode(), "labels": HOURLY}, "only jobs run by a schedule. Use mode replicated-job"),
        ({"labels": {KEY: "daily"}}, "'daily' is no cron expression"),
    ],
)
def test_what_a_job_cannot_have_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        accept_service(job_spec(**fields))
    assert said in str(refusal.value)


def test_the_default_condition_of_a_job_is_on_failure() -> None:
    template = make_spec().task_template
    for asked, stored in (("", "on-failure"), ("any", "any"), ("none", "none")):
        policy = RestartPolicy(condition=asked, delay=1)
        accepted = accept_service(job_spec(task_template=replace(template, restart_policy=policy)))
        found = accepted.task_template.restart_policy
        assert found is not None and found.condition == stored
    accepted = accept_service(job_spec(task_template=replace(template, restart_policy=None)))
    assert accepted.task_template.restart_policy is None


def test_a_job_stays_a_job() -> None:
    world = begun(make_job())
    for mode in (ServiceMode(), ServiceMode(global_job=GlobalJobMode())):
        with pytest.raises(Unimplemented):
            accept_update(world.service, job_spec(mode=mode))
