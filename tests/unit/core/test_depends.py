"""`swarmsh.depends-on`: what waits, for what, and what never waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.depends import depends_on_label, parse_depends_on, refuse_cycle, start_levels
from swarmsh.core.gate import gate_of
from swarmsh.core.scheduler import SchedulingView
from swarmsh.core.why import Evidence, why_service
from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.stacks import NAMESPACE, Condition, Dependency
from swarmsh.model.states import Availability, TaskState
from tests.unit.core.world import World, make_job, make_spec

STACK = {NAMESPACE: "shop"}


def named(spec: ServiceSpec, short: str, depends_on: str = "") -> ServiceSpec:
    labels = {**STACK, **({"swarmsh.depends-on": depends_on} if depends_on else {})}
    return replace(spec, name=f"shop_{short}", labels=labels)


def of(world: World, service_id: str) -> list[Task]:
    return [t for t in world.tasks() if t.service_id == service_id]


def states(world: World, service_id: str = "svc") -> list[str]:
    return [t.status.state.word for t in of(world, service_id) if t.live]


def slow_db(world: World, seconds: float = 5.0) -> None:
    world.ready_after["db:1"] = seconds
    world.create(named(make_spec(image="db:1"), "db"), "db")


# --- the label ----------------------------------------------------------------------------------------------
def test_the_label_is_read_and_written() -> None:
    found = parse_depends_on("db:healthy, migrate:completed,cache:started:optional,queue")
    assert found == {
        "db": Dependency(condition=Condition.HEALTHY),
        "migrate": Dependency(condition=Condition.COMPLETED),
        "cache": Dependency(required=False),
        "queue": Dependency(),
    }
    assert parse_depends_on(depends_on_label(found)) == found
    assert parse_depends_on("_db,.cache,-x") == {"_db": Dependency(), ".cache": Dependency(), "-x": Dependency()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not begin with the name"),
        ("db:helthy", "Did you mean healthy"),
        ("db,db:healthy", "named twice"),
        ("db:healthy:started", "conditions healthy and started"),
        ("db,,web", "does not begin with the name"),
    ],
)
def test_a_bad_label_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        parse_depends_on(text)


def test_services_that_wait_for_each_other_are_refused_in_their_order() -> None:
    world = World()
    world.create(named(make_spec(), "a", "b"), "a")
    world.create(named(make_spec(), "b", "c:healthy"), "b")
    refuse_cycle(world.snapshot, named(make_spec(), "c", "d"))
    with pytest.raises(InvalidSpec, match="shop_c waits for shop_a waits for shop_b waits for shop_c"):
        refuse_cycle(world.snapshot, named(make_spec(), "c", "a"))
    with pytest.raises(InvalidSpec, match="shop_c waits for shop_c"):
        refuse_cycle(world.snapshot, named(make_spec(), "c", "c"))


def test_levels_follow_the_dependencies_and_keep_the_order_of_the_file() -> None:
    depends_on = {"web": ["api"], "api": ["db", "cache"], "probe": []}
    assert start_levels(["web", "probe", "api", "cache", "db"], depends_on) == [
        ["probe", "cache", "db"],
        ["api"],
        ["web"],
    ]


# --- first tasks --------------------------------------------------------------------------------------------
def test_the_first_tasks_are_prepared_and_wait_until_the_other_is_ready() -> None:
    world = World()
    slow_db(world)
    world.create(named(make_spec(replicas=2), "web", "db:healthy"))
    world.settle()
    assert states(world) == ["ready", "ready"]
    assert {t.held for t in of(world, "svc")} == {"waits for shop_db to be ready (0 of 1)"}
    world.pass_time(4.0)
    assert states(world) == ["ready", "ready"]
    world.pass_time(2.0)
    assert states(world) == ["running", "running"]
    assert {t.held for t in of(world, "svc")} == {""}


def test_started_waits_for_running_only() -> None:
    world = World()
    slow_db(world, 50.0)
    world.create(named(make_spec(), "web", "db"))
    world.settle()
    assert states(world) == ["running"]


def test_completed_waits_for_exit_code_0_of_a_job() -> None:
    world = World()
    world.create(replace(make_job(replicas=2, delay_s=1.0), name="shop_migrate", labels=STACK), "migrate")
    world.create(named(make_spec(), "web", "migrate:completed"))
    world.settle()
    first, second = of(world, "migrate")
    world.finish(first)
    world.fail(second)
    world.settle()
    assert states(world) == ["ready"]
    world.pass_time(2.0)
    world.finish(of(world, "migrate")[-1])
    world.settle()
    assert states(world) == ["running"]


def test_completed_waits_for_exit_code_0_of_a_service_that_is_not_restarted() -> None:
    world = World()
    world.create(named(make_spec(condition="none"), "migrate"), "migrate")
    world.create(named(make_spec(), "web", "migrate:completed"))
    world.settle()
    (task,) = of(world, "migrate")
    assert states(world) == ["ready"]
    world.finish(task)
    world.settle()
    assert states(world) == ["running"]


@pytest.mark.parametrize("first", ["a", "z"])  # services have their turns by id
def test_completed_is_met_by_a_task_that_ended_though_another_one_follows_it(first: str) -> None:
    world = World()
    migrate = f"{first}-migrate"
    world.create(named(make_spec(condition="any", delay_s=5.0), "migrate"), migrate)
    world.create(named(make_spec(), "web", "migrate:completed"), "m-web")
    world.settle()
    world.finish(of(world, migrate)[0])
    world.settle()
    assert states(world, "m-web") == ["running"]


@pytest.mark.parametrize("first", ["a", "z"])
def test_an_update_waits_for_the_migration_of_its_own_version(first: str) -> None:
    world = World()
    migrate, web = f"{first}-migrate", "m-web"
    run_once = named(make_spec(condition="on-failure", image="migrate:1"), "migrate")
    world.create(run_once, migrate)
    world.create(named(make_spec(), "web", "migrate:completed"), web)
    world.settle()
    world.finish(of(world, migrate)[0])
    world.settle()
    again = named(make_spec(condition="on-failure", image="migrate:2"), "migrate")
    updates = [(migrate, again), (web, named(make_spec(image="web:2"), "web", "migrate:completed"))]
    for service_id, spec in updates:
        world.update_other(service_id, spec)
    world.settle()
    assert [t.spec_version for t in of(world, web) if t.live] == [1]
    world.finish(next(t for t in of(world, migrate) if t.live and t.spec_version == 2))
    world.pass_time(1.0)
    assert [t.spec_version for t in of(world, web) if t.live] == [2]


def test_what_is_prepared_ahead_for_an_update_does_not_hide_what_runs() -> None:
    world = World()
    world.create(named(make_spec(replicas=2), "db"), "db")
    world.settle()
    spare = [replace(t, id=f"{t.id}-ahead", ahead=True, desired=TaskState.READY) for t in of(world, "db")]
    spare = [
        replace(t, created_at=world.now + 1, status=replace(t.status, state=TaskState.READY, ready=False))
        for t in spare
    ]
    snapshot = world.snapshot.apply(Changes(put_tasks=tuple(spare)), world.snapshot.index + 1)
    world.create(named(make_spec(), "web", "db:healthy"))
    assert gate_of(snapshot, world.service).unmet == ()


def test_what_can_never_be_waited_for_is_not() -> None:
    world = World()
    nowhere = make_spec(replicas=None, constraints=("node.labels.gpu==yes",))
    world.create(named(nowhere, "agent"), "agent")
    nothing = make_job(replicas=0, concurrent=1)
    world.create(replace(nothing, name="shop_nothing", labels=STACK), "nothing")
    world.create(named(make_spec(), "web", "agent:healthy,nothing:completed"))
    world.settle()
    assert states(world) == ["running"]


def test_a_global_service_is_waited_for_on_each_node_that_takes_it() -> None:
    world = World(nodes=3)
    world.set_node(3, availability=Availability.DRAIN)
    world.ready_after["agent:1"] = 5.0
    world.create(named(make_spec(), "web", "agent:healthy"), "a-web")  # its turn is before agent has tasks
    world.create(named(make_spec(replicas=None, image="agent:1"), "agent"), "z-agent")
    world.settle()
    assert of(world, "a-web")[0].held == "waits for shop_agent to be ready (0 of 2)"
    world.pass_time(6.0)
    assert states(world, "a-web") == ["running"]


def test_a_run_that_failed_for_good_is_named_in_the_reason() -> None:
    world = World()
    world.broken_images.add("migrate:1")
    world.create(named(make_spec(condition="none", image="migrate:1"), "migrate"), "migrate")
    world.create(named(make_spec(), "web", "migrate:completed"))
    world.settle()
    assert of(world, "svc")[0].held == ("waits for shop_migrate to be done (0 of 1): task: non-zero exit (1)")


def test_a_service_that_is_not_there_is_waited_for_unless_it_is_optional() -> None:
    world = World()
    world.create(named(make_spec(), "web", "db"))
    world.create(named(make_spec(), "other", "db:healthy:optional"), "other")
    world.settle()
    assert (states(world), states(world, "other")) == (["ready"], ["running"])
    assert of(world, "svc")[0].held == "waits for shop_db, which is not there"
    world.create(named(make_spec(), "db"), "db")
    world.settle()
    assert states(world) == ["running"]


def test_a_service_of_the_same_stack_goes_before_one_of_that_very_name() -> None:
    world = World()
    world.create(make_spec(name="db"), "else")
    world.ready_after["db:1"] = 5.0
    world.create(named(make_spec(image="db:1"), "db"), "db")
    world.create(named(make_spec(), "web", "db:healthy"))
    world.settle()
    assert states(world) == ["ready"]


def test_a_global_service_waits_as_well() -> None:
    world = World(nodes=2)
    slow_db(world)
    world.create(named(make_spec(replicas=None), "agent", "db:healthy"))
    world.settle()
    assert states(world) == ["ready", "ready"]
    world.pass_time(6.0)
    assert states(world) == ["running", "running"]


# --- what never waits ---------------------------------------------------------------------------------------
def running_web(world: World, replicas: int = 1) -> None:
    """The service runs, and what it waited for once is down for an hour."""
    world.create(named(make_spec(image="db:1", delay_s=3600.0), "db"), "db")
    world.create(named(make_spec(replicas=replicas), "web", "db:healthy"))
    world.settle()
    assert states(world) == ["running"] * replicas
    (db,) = [t for t in of(world, "db") if t.live]
    world.fail(db)
    world.settle()


def test_what_follows_a_task_that_ran_waits_for_nothing() -> None:
    world = World()
    running_web(world)
    world.fail(of(world, "svc")[0])
    world.settle()
    assert states(world) == ["running"]


def test_more_replicas_and_moves_wait_for_nothing() -> None:
    world = World()
    running_web(world)
    world.update(replace(world.service.spec, mode=make_spec(replicas=3).mode))
    world.settle()
    assert states(world) == ["running"] * 3
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    assert states(world) == ["running"] * 3


def test_a_service_that_was_scaled_to_nothing_and_back_waits_for_nothing() -> None:
    world = World()
    running_web(world)
    world.update(replace(world.service.spec, mode=make_spec(replicas=0).mode))
    world.pass_time(2.0)
    assert not of(world, "svc")
    world.update(replace(world.service.spec, mode=make_spec(replicas=2).mode))
    world.settle()
    assert states(world) == ["running"] * 2


def test_an_update_does_not_wait_for_a_migration_that_was_removed() -> None:
    world = World()
    world.create(replace(make_job(), name="shop_migrate", labels=STACK), "migrate")
    world.create(named(make_spec(), "web", "migrate:completed"))
    world.settle()
    world.finish(of(world, "migrate")[0])
    world.settle()
    world._apply(Changes(delete_services=("migrate",)), durable=True)
    world.update(named(make_spec(image="web:2"), "web", "migrate:completed"))
    world.settle()
    assert [t.spec_version for t in of(world, "svc") if t.live] == [2]


def test_that_a_service_was_let_go_is_no_event() -> None:
    world = World()
    slow_db(world, 0.0)
    world.create(named(make_spec(), "web", "db"))
    world.settle()
    assert world.service.let_go
    assert not [e for e in world.events if e.type == "service"]


def test_an_update_does_not_wait_for_a_service_that_is_down() -> None:
    world = World()
    running_web(world)
    world.update(named(make_spec(image="web:2"), "web", "db:healthy"))
    world.settle()
    live = [t for t in of(world, "svc") if t.live]
    assert [(t.spec_version, t.status.state) for t in live] == [(2, TaskState.RUNNING)]


def test_an_update_waits_for_the_newest_run_of_a_job_and_what_runs_stays() -> None:
    world = World()
    job = replace(make_job(), name="shop_migrate", labels=STACK)
    world.create(job, "migrate")
    world.create(named(make_spec(), "web", "migrate:completed"))
    world.settle()
    world.finish(of(world, "migrate")[0])
    world.settle()
    world.update_other("migrate", replace(job, task_template=make_job(image="job:2").task_template))
    world.update(named(make_spec(image="web:2"), "web", "migrate:completed"))
    world.settle()
    assert [(t.spec_version, t.status.state.word) for t in of(world, "svc") if t.live] == [(1, "running")]
    assert world.service.update_status is not None
    assert world.service.update_status.message == (
        "update in progress (waits for shop_migrate to be done (0 of 1))"
    )
    world.fail(of(world, "svc")[0])  # what ends meanwhile is followed all the same
    world.settle()
    assert [t.status.state.word for t in of(world, "svc") if t.live] == ["running"]
    world.finish(next(t for t in of(world, "migrate") if t.live and t.status.state is TaskState.RUNNING))
    world.pass_time(20.0)
    assert [(t.spec_version, t.status.state.word) for t in of(world, "svc") if t.live] == [(2, "running")]


# --- the manager's restarts ---------------------------------------------------------------------------------
def test_waiting_survives_the_manager() -> None:
    world = World()
    slow_db(world)
    world.create(named(make_spec(replicas=2), "web", "db:healthy"))
    world.settle()
    world.restart_manager(lose_seen=True)
    world.settle()
    assert states(world) == ["ready", "ready"]
    world.pass_time(6.0)
    assert states(world) == ["running", "running"]


def test_a_dependency_that_goes_while_it_is_waited_for_lets_optional_ones_go() -> None:
    world = World()
    slow_db(world, 50.0)
    world.create(named(make_spec(), "web", "db:healthy:optional"))
    world.settle()
    assert states(world) == ["ready"]
    tasks = tuple(replace(t, desired=TaskState.REMOVE) for t in of(world, "db"))
    world._apply(Changes(delete_services=("db",), put_tasks=tasks), durable=True)
    world.settle()
    assert states(world) == ["running"]


# --- what is told -------------------------------------------------------------------------------------------
def test_why_names_what_a_task_waits_for() -> None:
    world = World()
    slow_db(world)
    world.create(named(make_spec(), "web", "db:healthy"))
    world.settle()
    seen = SchedulingView.of(world.snapshot, world.now)
    evidence = Evidence(snapshot=world.snapshot, view=seen, events=(), now=world.now)
    (story,) = why_service(evidence, world.service).places
    assert story.verdict == f"prepared on {story.node}, waits"
    assert "waits for shop_db to be ready (0 of 1) (label swarmsh.depends-on)" in story.reasons


# --- what always holds --------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_starts_before_its_time_and_everything_starts_in_the_end(data: st.DataObject) -> None:
    world = World()
    count = data.draw(st.integers(2, 4), "services")
    waits_for: dict[str, list[str]] = {}
    order = data.draw(st.permutations(range(count)), "order of creation")
    for n in range(count):
        waits_for[f"s{n}"] = [f"s{m}" for m in range(n) if data.draw(st.booleans())]
        world.ready_after[f"s{n}:1"] = data.draw(st.sampled_from((0.0, 2.0, 7.0)))
    for n in order:
        label = ",".join(f"{other}:healthy" for other in waits_for[f"s{n}"])
        replicas = data.draw(st.sampled_from((1, 2, None)), "replicas")
        world.create(named(make_spec(image=f"s{n}:1", replicas=replicas), f"s{n}", label), f"s{n}")
    started: set[str] = set()
    for _ in range(data.draw(st.integers(0, 6), "disturbances")):
        match data.draw(st.sampled_from(("restart", "drain", "time", "fail"))):
            case "restart":
                world.restart_manager(lose_seen=data.draw(st.booleans()))
            case "drain":
                drained = data.draw(st.sampled_from((Availability.DRAIN, Availability.ACTIVE)))
                world.set_node(data.draw(st.integers(1, 3)), availability=drained)
            case "time":
                world.now += 1.0
            case "fail":
                running = world.running()
                if running:
                    world.fail(running[0])
        check_starts(world, waits_for, started)
    for number in (1, 2, 3):
        world.set_node(number, availability=Availability.ACTIVE)
    for _ in range(60):
        world.now += 1.0
        check_starts(world, waits_for, started)
    assert started == set(waits_for)
    before = world.snapshot
    world.settle()
    assert world.snapshot is before


def check_starts(world: World, waits_for: dict[str, list[str]], started: set[str]) -> None:
    """Let it work step by step: what starts for the first time has seen each of the others ready."""
    for _ in range(200):
        ready = {t.service_id for t in world.tasks() if t.ready_since is not None}
        if not world.step():
            return
        for service_id in {t.service_id for t in world.tasks() if t.running_since is not None} - started:
            assert set(waits_for[service_id]) <= ready
            started.add(service_id)
    raise AssertionError("the world does not settle")
