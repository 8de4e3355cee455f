"""What is told of tasks: the refusing filters with their numbers, the scheduler's choice, causes, the timeline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.filters import FILTERS, Demand, NodeLoad, refusals
from swarmsh.core.scheduler import SchedulingView, schedule, survey
from swarmsh.core.why import MOST_PLACED, Evidence, PlaceStory, why_place, why_service, why_task
from swarmsh.model.objects import Event, Node, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import (
    Driver,
    HealthConfig,
    Mount,
    NetworkAttachment,
    Placement,
    Platform,
    ReplicatedJobMode,
    ServiceMode,
    UpdateConfig,
    VolumeOptions,
)
from swarmsh.model.states import Availability, NodeState, TaskState
from tests.fakes.objects import a_network
from tests.unit.core.samples import GIB, counted, host_port, node, reserving, spread, task, task_spec
from tests.unit.core.world import World, make_spec

NFS = Mount(type="volume", source="v", target="/v", volume_options=VolumeOptions(driver_config=Driver(name="nfs")))


def view(nodes: list[Node], tasks: list[Task] | tuple[()] = (), **more: object) -> SchedulingView:
    by_node = {n.id: [t for t in tasks if t.node_id == n.id] for n in nodes}
    return replace(SchedulingView(nodes=nodes, tasks=by_node, now=1000.0), **more)


def constrained(*constraints: str):
    return task_spec(placement=Placement(constraints=constraints))


# --- what filters say of one node ---------------------------------------------------------------------------
N2 = node(2, labels={"disk": "hdd"})
HEAVY = reserving(memory=2 * GIB)
FULL = [task(i, service="db", spec=reserving(memory=size * GIB), on=N2) for i, size in ((1, 3), (2, 4))]


@pytest.mark.parametrize(
    ("spec", "there", "tasks", "name", "why", "fix"),
    [
        (
            HEAVY, N2, FULL, "resources",
            "needs 2GiB of memory, 1GiB free (db.2 4GiB, db.1 3GiB)", "--reserve-memory 1024M web",
        ),
        (reserving(cpus=4.5), node(), (), "resources", "needs 4.5 CPU, 4 CPU free", "--reserve-cpu 4 web"),
        (
            reserving(gpu=3), node(generic_resources=(counted("gpu", 2),)), (), "resources",
            "needs 3 gpu, 2 free", "Free 1 gpu on n1",
        ),
        (HEAVY, node(engine_version="", memory_bytes=0), (), "resources", "never heard of", "node check n1"),
        (
            constrained("node.labels.disk==ssd"), N2, (), "constraints",
            "node.labels.disk==ssd is asked for, it is hdd", "`swarmsh node update --label-add disk=ssd n2`",
        ),
        (constrained("node.labels.zone==a"), N2, (), "constraints", "has no such label", "--label-add zone=a n2"),
        (constrained("node.labels.disk!=hdd"), N2, (), "constraints", "it is hdd", "--label-rm disk n2"),
        (constrained("node.role==manager"), N2, (), "constraints", "it is worker", "`swarmsh node promote n2`"),
        (
            constrained("node.hostname==other"), N2, (), "constraints", "it is host2 or n2",
            "`swarmsh service update --constraint-rm 'node.hostname==other' web`",
        ),
        (constrained("node.platform.arch==arm64"), N2, (), "constraints", "it is x86_64", "--constraint-rm"),
        (
            task_spec(placement=Placement(platforms=(Platform(architecture="arm64", os="linux"),))), N2, (),
            "platform", "it is linux/amd64, the image is for linux/arm64", "Build the image for linux/amd64",
        ),
        (
            task_spec(mounts=(NFS,)), node(plugins=(("Volume", "local"),)), (), "plugins",
            "has no volume plugin nfs (it has local)", "`docker plugin install nfs`",
        ),
        (
            task_spec(placement=Placement(max_replicas=1)), N2, [task(3, on=N2)], "max-replicas",
            "has 1 of at most 1 tasks of web on a node", "--replicas-max-per-node 2 web",
        ),
        (
            task_spec(healthcheck=HealthConfig(start_interval=1_000_000_000)), node(engine_api="1.41"), (),
            "engine",
            "Healthcheck.StartInterval needs Engine API 1.44, its Engine 26.1.5 has 1.41", "Upgrade Docker on n1",
        ),
        (task_spec(), node(state=NodeState.DOWN), (), "ready", "down", "node check n1"),
        (
            task_spec(), node(availability=Availability.DRAIN), (), "ready",
            "its availability is drain", "--availability active n1",
        ),
    ],
)  # fmt: skip
def test_a_filter_tells_of_a_node_its_numbers_and_the_way_out(spec, there, tasks, name, why, fix) -> None:
    (found,) = survey(task(9, spec=spec), view([there], list(tasks)))
    ((filter_name, words),) = found.refusals
    assert (filter_name, found.rank) == (name, None)
    assert why in words.why
    assert fix in words.fix


def test_a_taken_host_port_names_the_task_that_has_it() -> None:
    there = [task(1, service="proxy", on=N2, endpoint=host_port(80))]
    (found,) = survey(task(9, endpoint=host_port(80)), view([N2], there))
    assert found.refusals[0][1].why == "host port 80/tcp is taken by proxy.1"
    assert "move proxy.1 away from n2" in found.refusals[0][1].fix
    of_a_job = [replace(there[0], job_iteration=0)]
    (found,) = survey(task(9, endpoint=host_port(80)), view([N2], of_a_job))
    assert found.refusals[0][1].why == "host port 80/tcp is taken by proxy.0"
    own = [task(1, on=N2, endpoint=host_port(80))]
    (found,) = survey(task(9, endpoint=host_port(80)), view([N2], own))
    assert "add a node, or scale it down" in found.refusals[0][1].fix


def test_what_networks_need_is_told_of_each_node() -> None:
    network = replace(a_network(), subnet="10.48.16.0/28", gateways="10.48.16.0/30")
    spec = replace(task_spec(), networks=(NetworkAttachment(target=network.id),))
    numbered, shared = node(7, mtus=(("10.0.0.7", 1400),)), node(3, address="10.0.0.2")
    routed = node(1, routes=("10.48.0.0/16",))
    found = survey(
        task(9, spec=spec),
        view([numbered, node(2, address="here.example"), shared, node(4, address="10.0.0.2"), routed],
             networks={network.id: network}, egress_left={"node1": 0}),
    )  # fmt: skip
    said = {s.node.spec.name: {name: words.why for name, words in s.refusals} for s in found}
    assert said["n7"]["network-size"].endswith("reaches numbers 1 to 3")
    assert said["n7"]["mtu"] == "its link takes 1400 bytes, network net1 (MTU 1450) needs 1500"
    assert "no IPv4 address" in said["n2"]["underlay"]
    assert "10.0.0.2 too" in said["n3"]["shared-underlay"]
    assert said["n1"]["routes"] == "10.48.0.0/16 is in the way of network net1 (10.48.16.0/28)"
    assert "no address is free" in said["n1"]["egress"]


def test_every_filter_has_words_of_its_own() -> None:
    assert len({f.name for f in FILTERS}) == len({f.detail for f in FILTERS}) == len(FILTERS)


# --- the same eyes as the scheduler's -----------------------------------------------------------------------
@given(
    zones=st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=5),
    there=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=8),
    memory=st.integers(0, 9),
    levels=st.sampled_from([(), ("node.labels.zone",)]),
)
def test_the_best_of_a_survey_is_what_the_scheduler_takes(zones, there, memory, levels) -> None:
    nodes = [node(n, labels={"zone": zone} if zone else {}) for n, zone in enumerate(zones, 1)]
    tasks = [
        task(i, service="web" if own else "db", spec=reserving(memory=GIB), on=nodes[n % len(nodes)])
        for i, (n, own) in enumerate(there, 100)
    ]
    wanted = replace(reserving(memory=memory * GIB), placement=spread(*levels) if levels else None)
    one = task(1, spec=wanted)
    found, chosen = survey(one, view(nodes, tasks)), schedule([one], view(nodes, tasks))
    fitting = [s.node.id for s in found if s.rank is not None]
    assert fitting[:1] == list(chosen.assignments.values())
    for standing in found:
        load = NodeLoad.of(standing.node, [t for t in tasks if t.node_id == standing.node.id])
        assert bool(standing.refusals) == bool(refusals(Demand("id-web", wanted, None), load))


# --- stories ------------------------------------------------------------------------------------------------
def told(world: World, place: int | str, events: tuple[Event, ...] = ()) -> PlaceStory:
    return why_place(evidence(world, events), world.service, place)


def evidence(world: World, events: tuple[Event, ...] = ()) -> Evidence:
    world_view = SchedulingView.of(world.snapshot, world.now)
    return Evidence(snapshot=world.snapshot, view=world_view, events=events, now=world.now)


def state_event(number: int, at: float, state: str) -> Event:
    words = {"name": f"n{number}", "state.old": "ready", "state.new": state}
    return Event(time=at, type="node", action="update", id=f"node{number}", attributes=words)


def test_a_pending_task_tells_of_every_node_and_the_nearest_fix() -> None:
    world = World(nodes=2)
    world.change_node(1, labels={"disk": "hdd"})
    world.set_node(2, state=NodeState.DOWN)
    world.create(make_spec(constraints=("node.labels.disk==ssd",)))
    world.settle()
    story = told(world, 1)
    assert (story.verdict, story.ok) == ("pending: no node takes it", False)
    assert [n.node for n in story.nodes] == ["n1", "n2"], "a label is nearer than a node that is away"
    assert story.fix == "n1: `swarmsh node update --label-add disk=ssd n1`"
    assert [r.filter for r in story.nodes[1].refusals] == ["ready", "constraints"]


def test_a_placed_task_tells_why_it_is_there() -> None:
    world = World(nodes=3)
    world.create(make_spec(replicas=2))
    world.settle()
    story = told(world, 1)
    assert story.node == "n1"
    assert any("n1 is the best node for it now, before n3: equal in all" in r for r in story.reasons)
    assert [(n.node, n.ranking) for n in story.nodes][-1] == ("n2", "1 other task of web, 1 in all")


def test_a_task_that_would_go_elsewhere_now_says_so() -> None:
    world = World(nodes=1)
    world.create(make_spec(replicas=3))
    world.settle()
    world.add_node(2)
    world.settle()
    assert "placed now it would go to n2, not n1: 0 other tasks of web on n2, 2 on n1" in told(world, 1).reasons


def test_a_preference_is_what_decides_where_it_does() -> None:
    world = World(nodes=3)
    for number, zone in ((1, "a"), (2, "a"), (3, "b")):
        world.change_node(number, labels={"zone": zone})
    spec = make_spec(replicas=3)
    placement = spread("node.labels.zone")
    world.create(replace(spec, task_template=replace(spec.task_template, placement=placement)))
    world.settle()
    (alone,) = [t for t in world.running() if t.node_id == "node3"]
    story = told(world, alone.slot)
    assert any("web has 0 tasks where node.labels.zone is b, 2 where it is a" in r for r in story.reasons)


def test_a_task_that_failed_is_told_with_its_exit_code_and_what_follows() -> None:
    world = World(nodes=1)
    world.create(make_spec(delay_s=5.0))
    world.settle()
    world.fail(world.running()[0], exit_code=137)
    world.settle()
    story = told(world, 1)
    assert "waits" in story.verdict
    assert any("exit code 137, killed: SIGKILL" in r for r in story.reasons)
    assert any("the restart delay is over in 5.0 s" in r for r in story.reasons)
    assert [m.what.split(":")[0] for m in story.history][:3] == [
        "task made with version 1 of the spec",
        "runs",
        "ended",
    ]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"condition": "none"}, "its restart condition is none"),
        ({"attempts": 1}, "all of 1 restart that its restart policy allows are used up"),
    ],
)
def test_a_task_that_is_not_followed_says_why(policy, words) -> None:
    world = World(nodes=1)
    world.create(make_spec(**policy))
    for _ in range(2):
        world.settle()
        for one in world.running():
            world.fail(one)
    world.settle()
    story = told(world, 1)
    assert "not followed" in story.verdict
    assert any(words in r for r in story.reasons)
    assert "swarmsh service update --force web" in story.fix


def test_a_drained_nodes_task_tells_that_it_moved_and_from_where() -> None:
    world = World(nodes=2)
    world.create(make_spec())
    world.settle()
    world.set_node(1, availability=Availability.DRAIN)
    world.settle()
    story = told(world, 1)
    assert story.node == "n2"
    assert any(r.startswith("moved from n1 to n2") and r.endswith("n1 was drained") for r in story.reasons)


def test_a_removed_nodes_task_tells_that() -> None:
    world = World(nodes=2)
    world.create(make_spec())
    world.settle()
    world.remove_node(1)
    world.settle()
    assert any(r.endswith("its node was removed from the cluster") for r in told(world, 1).reasons)


def test_a_lost_nodes_task_tells_of_its_stand_in_and_later_that_the_node_was_down() -> None:
    world = World(nodes=2)
    world.create(make_spec())
    world.settle()
    (first,) = world.running()
    world.lose(1)
    down = state_event(1, world.now, "down")
    world.settle()
    story = told(world, 1, (down,))
    assert any("moved from n1 to n2" in r and "n1 was down" in r for r in story.reasons)
    assert "n1 was ready, is down" in [m.what for m in story.history]
    old = why_task(evidence(world, (down,)), world.snapshot.tasks[first.id])
    assert old.verdict.startswith("being stopped on n1")


def test_a_pending_stand_in_leaves_the_lost_task_as_it_is() -> None:
    world = World(nodes=1)
    world.create(make_spec())
    world.settle()
    world.lose(1)
    world.settle()
    story = told(world, 1)
    assert story.verdict == "pending: no node takes it"
    assert any("n1 is down, and a task stands in for it" in r for r in story.reasons)


def test_a_rebalance_is_told_while_it_waits_when_it_moves_and_after_it() -> None:
    world = World(nodes=1)
    world.create(make_spec(replicas=4))
    world.settle()
    world.add_node(2)
    world.rebalance()
    world.step()
    old = {t.slot: t for t in world.tasks() if t.rebalance is not None}
    assert "it waits to be moved to n2 by a rebalance" in told(world, 3).reasons
    moving = why_task(evidence(world), old[4])
    assert "it leaves for n2 as soon as another one is ready there, by a rebalance" in moving.reasons
    world.settle()
    assert any(
        r.startswith("moved from n1 to n2") and r.endswith("moved to n2 by a rebalance")
        for r in told(world, 4).reasons
    )


def test_a_rebalance_that_was_stopped_is_told_with_why() -> None:
    world = World(nodes=1)
    world.create(make_spec(replicas=2))
    world.settle()
    world.add_node(2)
    world.broken_images.add("web:1")
    world.rebalance()
    world.settle()
    story = why_service(evidence(world), world.service).places[1]
    assert story.log[-1] == "line 10"
    assert any(r.startswith("a rebalance was to move it to n2, and did not: its successor") for r in story.reasons)


def test_an_update_is_told_as_the_cause_with_what_changed() -> None:
    world = World(nodes=1)
    world.create(make_spec(update=UpdateConfig(parallelism=1)))
    world.settle()
    world.update(make_spec(image="web:2", update=UpdateConfig(parallelism=1)))
    world.settle()
    story = told(world, 1)
    assert any("updated to version 2 of the spec: Image web:1 to web:2" in r for r in story.reasons)


def test_values_of_what_changed_are_not_told() -> None:
    world = World(nodes=1)
    spec = make_spec()
    world.create(spec)
    world.settle()
    container = replace(spec.task_template.container_spec, env=("PASSWORD=hunter2",))
    world.update(replace(spec, task_template=replace(spec.task_template, container_spec=container)))
    world.settle()
    reasons = " ".join(told(world, 1).reasons)
    assert "Env" in reasons and "hunter2" not in reasons


def test_a_slot_that_is_not_there_and_one_scaled_away() -> None:
    world = World(nodes=1)
    world.create(make_spec(replicas=2))
    world.settle()
    story = told(world, 7)
    assert story.verdict == "there is no such slot: web has 2 replicas"
    assert story.fix == "`swarmsh service scale web=7`"


def test_a_global_service_tells_of_nodes_without_its_task() -> None:
    world = World(nodes=3)
    world.change_node(1, labels={"disk": "ssd"})
    world.change_node(2, labels={"disk": "ssd"})
    world.set_node(2, availability=Availability.DRAIN)
    world.create(make_spec(replicas=None, constraints=("node.labels.disk==ssd",)))
    world.settle()
    told_of = {p.place: p for p in why_service(evidence(world), world.service).places}
    assert told_of["web.n1"].verdict.startswith("runs on n1")
    assert told_of["web.n2"].verdict == "none belongs here: the node is drained"
    assert told_of["web.n3"].verdict == "none belongs here: the node does not fit"
    assert told_of["web.n3"].nodes[0].refusals[0].filter == "constraints"


def test_a_service_tells_of_all_its_slots_and_of_a_paused_update() -> None:
    world = World(nodes=2)
    world.create(make_spec(replicas=2))
    world.settle()
    world.broken_images.add("web:2")
    world.update(make_spec(replicas=2, image="web:2", delay_s=5.0))
    world.pass_time(1)
    story = why_service(evidence(world), world.service)
    assert [p.place for p in story.places] == ["web.1", "web.2"]
    assert any(line.startswith("update paused due to") for line in story.summary)
    assert any("it runs version 1 of the spec, the service is at version 2" in r for r in story.places[1].reasons)


def test_jobs_are_told_by_the_tasks_that_they_have_and_completed_ones_are_well() -> None:
    mode = ServiceMode(replicated_job=ReplicatedJobMode(total_completions=2))
    job = replace(make_spec(), mode=mode)
    service = Service(id="id-web", version=1, created_at=0.0, updated_at=0.0, spec=job)
    done = task(1, on=node(), state=TaskState.COMPLETE)
    snapshot = ClusterSnapshot().apply(Changes(put_nodes=(node(),), put_services=(service,), put_tasks=(done,)), 1)
    seen = Evidence(snapshot=snapshot, view=SchedulingView.of(snapshot, 0.0), events=(), now=0.0)
    story = why_service(seen, service)
    assert [(p.place, p.verdict, p.ok, p.fix) for p in story.places] == [
        ("web.0", "ended on n1: it completed", True, "")
    ]
    assert why_place(seen, service, 5).verdict == "there is none: no run of the job has it"


def test_a_large_service_is_told_without_a_look_at_all_nodes_for_each_task() -> None:
    world = World(nodes=2)
    world.create(make_spec(replicas=MOST_PLACED + 1))
    world.settle()
    story = why_service(evidence(world), world.service)
    assert all(p.nodes == () and p.history == () for p in story.places)


@settings(deadline=None)
@given(
    steps=st.lists(
        st.sampled_from(["fail", "drain1", "back1", "lose2", "find2", "update", "scale", "time"]), max_size=8
    )
)
def test_every_moment_of_a_cluster_can_be_told(steps) -> None:
    world = World(nodes=3)
    world.create(make_spec(replicas=2, delay_s=1.0))
    world.settle()
    for number, step in enumerate(steps):
        match step:
            case "fail" if world.running() and world.running()[0].node_id not in world.cut:
                world.fail(world.running()[0])
            case "drain1":
                world.set_node(1, availability=Availability.DRAIN)
            case "back1":
                world.set_node(1, availability=Availability.ACTIVE)
            case "lose2":
                world.lose(2)
            case "find2" if world.cut:
                world.find(2)
            case "update":
                world.update(make_spec(replicas=2, image=f"web:{number}", delay_s=1.0))
            case "scale":
                world.update(replace(world.service.spec, mode=make_spec(replicas=number).mode))
            case "time":
                world.pass_time(1)
        world.step()
        for one in world.tasks():
            story = why_task(evidence(world), one)
            assert story.verdict and story.task == one.id
            assert [m.at for m in story.history] == sorted(m.at for m in story.history)
            assert not any(words.endswith((": ", " ")) for words in (story.verdict, *story.reasons)), story
        why_service(evidence(world), world.service)
