from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.engine_api import newest_field
from swarmsh.core.scheduler import Schedule, SchedulingView, eligible, fits, schedule, violated
from swarmsh.model.objects import Network, Node, SshTarget, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import (
    BindOptions,
    Driver,
    EndpointSpec,
    HealthConfig,
    Mount,
    NetworkAttachment,
    Placement,
    Platform,
    PortConfig,
    TaskSpec,
    VolumeOptions,
)
from swarmsh.model.states import Availability, NodeState, TaskState
from tests.fakes.objects import a_network
from tests.unit.core.samples import (
    GIB,
    counted,
    host_port,
    named,
    node,
    reserving,
    spread,
    task,
    task_spec,
)


def view(nodes: Sequence[Node], tasks: Sequence[Task] = (), **more: object) -> SchedulingView:
    by_node = {n.id: [t for t in tasks if t.node_id == n.id] for n in nodes}
    return replace(SchedulingView(nodes=nodes, tasks=by_node, now=1000.0), **more)


def pending(count: int, spec: TaskSpec | None = None, service: str = "web", **fields: object) -> list[Task]:
    return [task(i, service=service, spec=spec, **fields) for i in range(1, count + 1)]


def per_node(result: Schedule) -> dict[str, int]:
    return dict(Counter(result.assignments.values()))


# --- filters ------------------------------------------------------------------------------------------------
SSD = Placement(constraints=("node.labels.disk==ssd",))
PLUGIN_MOUNT = Mount(
    type="volume", source="v", target="/v", volume_options=VolumeOptions(driver_config=Driver(name="nfs"))
)

CREATING_MOUNT = Mount(type="bind", source="/s", target="/t", bind_options=BindOptions(create_mountpoint=True))


@pytest.mark.parametrize(
    ("spec", "refused", "phrase"),
    [
        (task_spec(), node(state=NodeState.DOWN), "1 node not available for new tasks"),
        (task_spec(), node(state=NodeState.UNREACHABLE), "1 node not available for new tasks"),
        (task_spec(), node(state=NodeState.UNKNOWN), "1 node not available for new tasks"),
        (task_spec(), node(availability=Availability.PAUSE), "1 node not available for new tasks"),
        (task_spec(), node(availability=Availability.DRAIN), "1 node not available for new tasks"),
        (reserving(cpus=4.1), node(), "insufficient resources on 1 node"),
        (reserving(memory=9 * GIB), node(), "insufficient resources on 1 node"),
        (reserving(gpu=1), node(), "insufficient resources on 1 node"),
        (reserving(gpu=3), node(generic_resources=named("gpu", "a", "b")), "insufficient resources on 1 node"),
        (reserving(gpu=3), node(generic_resources=(counted("gpu", 2),)), "insufficient resources on 1 node"),
        (
            task_spec(mounts=(PLUGIN_MOUNT,)),
            node(plugins=(("Volume", "local"),)),
            "missing plugin on 1 node",
        ),
        (
            replace(task_spec(), log_driver=Driver(name="gelf")),
            node(plugins=(("Log", "json-file"),)),
            "missing plugin on 1 node",
        ),
        (task_spec(placement=SSD), node(), "scheduling constraints not satisfied on 1 node"),
        (
            task_spec(placement=Placement(platforms=(Platform(architecture="arm64", os="linux"),))),
            node(),
            "unsupported platform on 1 node",
        ),
        (
            task_spec(healthcheck=HealthConfig(start_interval=1_000_000_000)),
            node(engine_api="1.41"),
            "Healthcheck.StartInterval needs Engine API 1.44, newer than on 1 node",
        ),
        (
            task_spec(
                mounts=(CREATING_MOUNT, Mount(type="image", source="web:1", target="/i")),
            ),
            node(engine_api="1.43"),
            "Mount.Type image needs Engine API 1.48, newer than on 1 node",
        ),
    ],
)
def test_a_filter_refuses_and_says_why(spec: TaskSpec, refused: Node, phrase: str) -> None:
    result = schedule(pending(1, spec), view([refused]))
    assert result.refusals == {"web-1": f"no suitable node ({phrase})"}
    assert fits(refused, spec) == phrase


@pytest.mark.parametrize(
    ("spec", "fitting"),
    [
        (reserving(cpus=4, memory=8 * GIB), node()),
        (reserving(gpu=2), node(generic_resources=named("gpu", "a", "b"))),
        (task_spec(mounts=(PLUGIN_MOUNT,)), node(plugins=(("Volume", "nfs:latest"),))),
        (task_spec(mounts=(PLUGIN_MOUNT,)), node()),
        (replace(task_spec(), log_driver=Driver(name="none")), node(plugins=(("Log", "json-file"),))),
        (replace(task_spec(), log_driver=Driver(options={"a": "b"})), node(plugins=(("Log", "json-file"),))),
        (task_spec(placement=SSD), node(labels={"disk": "SSD"})),
        (task_spec(placement=Placement(platforms=(Platform(architecture="amd64", os="linux"),))), node()),
        (task_spec(placement=Placement(platforms=(Platform(),))), node()),
        (task_spec(mounts=(Mount(type="image", source="web:1", target="/i"),)), node(engine_api="1.48")),
        (task_spec(mounts=(Mount(type="image", source="web:1", target="/i"),)), node(engine_api="")),
    ],
)
def test_a_node_that_has_what_is_asked_for_is_taken(spec: TaskSpec, fitting: Node) -> None:
    assert schedule(pending(1, spec), view([fitting])).assignments == {"web-1": fitting.id}
    assert fits(fitting, spec) is None


def test_a_refusal_counts_nodes_by_the_filter_that_refused_them_the_most_frequent_first() -> None:
    spec = replace(reserving(memory=9 * GIB), placement=SSD)
    big = {"memory_bytes": 16 * GIB}
    down = node(4, **big, labels={"disk": "ssd"}, state=NodeState.DOWN)
    nodes = [node(1), node(2), node(3, **big), down, node(5)]
    result = schedule(pending(1, spec), view(nodes))
    assert result.refusals["web-1"] == (
        "no suitable node (insufficient resources on 3 nodes; 1 node not available for new tasks; "
        "scheduling constraints not satisfied on 1 node)"
    )


def test_without_nodes_there_is_nothing_to_explain() -> None:
    assert schedule(pending(1), view([])).refusals == {"web-1": "no suitable node"}


def test_a_host_port_is_held_once_a_node_even_by_a_task_that_is_being_stopped() -> None:
    nodes = [node(1), node(2), node(3)]
    stopping = task(9, on=nodes[0], endpoint=host_port(80), desired=TaskState.SHUTDOWN)
    result = schedule(pending(3, endpoint=host_port(80)), view(nodes, [stopping]))
    assert per_node(result) == {"node2": 1, "node3": 1}
    assert result.refusals == {"web-3": "no suitable node (host-mode port already in use on 3 nodes)"}


def test_the_same_port_of_another_protocol_and_a_port_of_the_engines_choice_are_free() -> None:
    one = node(1)
    held = task(9, on=one, endpoint=host_port(53, protocol="udp"))
    assert schedule(pending(1, endpoint=host_port(53)), view([one], [held])).assignments
    assert per_node(schedule(pending(3, endpoint=host_port(0)), view([one], [held]))) == {"node1": 3}


def test_max_replicas_counts_the_tasks_of_the_service_that_are_wanted() -> None:
    nodes = [node(1), node(2)]
    stopping = task(9, on=nodes[0], desired=TaskState.SHUTDOWN)
    running = [task(8, on=nodes[0]), stopping, task(9, service="db", on=nodes[1])]
    result = schedule(pending(4, task_spec(placement=Placement(max_replicas=2))), view(nodes, running))
    assert per_node(result) == {"node1": 1, "node2": 2}
    assert result.refusals == {"web-4": "no suitable node (max replicas per node limit exceed)"}


def test_reservations_of_running_tasks_and_of_those_just_placed_are_taken_off() -> None:
    nodes = [node(1), node(2)]
    running = [task(9, service="db", on=nodes[0], spec=reserving(cpus=3))]
    result = schedule(pending(5, reserving(cpus=1)), view(nodes, running))
    assert per_node(result) == {"node1": 1, "node2": 4}
    assert not result.refusals


# --- generic resources --------------------------------------------------------------------------------------
def test_named_pieces_are_dealt_by_name_and_counted_ones_by_number() -> None:
    has = node(generic_resources=(*named("gpu", "a", "b", "c"), counted("seat", 5)))
    holds_a = task(9, service="db", on=has, generic_resources=named("gpu", "a"))
    result = schedule(pending(2, reserving(gpu=1, seat=2)), view([has], [holds_a]))
    assert result.generic_resources == {
        "web-1": (*named("gpu", "b"), counted("seat", 2)),
        "web-2": (*named("gpu", "c"), counted("seat", 2)),
    }


# --- ranking ------------------------------------------------------------------------------------------------
def test_tasks_go_where_the_service_has_fewest_then_where_there_are_fewest_then_by_number() -> None:
    nodes = [node(1), node(2), node(3)]
    running = [task(9, on=nodes[0]), task(8, service="db", on=nodes[1])]
    result = schedule(pending(4), view(nodes, running))
    assert result.assignments == {"web-1": "node3", "web-2": "node2", "web-3": "node1", "web-4": "node3"}


def test_what_is_paused_drained_or_down_takes_nothing() -> None:
    nodes = [
        node(1, availability=Availability.PAUSE),
        node(2, availability=Availability.DRAIN),
        node(3, state=NodeState.DOWN),
        node(4),
    ]
    assert per_node(schedule(pending(3), view(nodes))) == {"node4": 3}


@pytest.mark.parametrize(
    ("times", "last"),
    [
        ([990.0] * 5, True),
        ([990.0] * 4, False),
        ([600.0] * 5, False),
        ([600.0, 990.0, 991.0, 992.0, 993.0, 994.0], True),
    ],
)
def test_a_node_with_five_failures_in_five_minutes_goes_last(times: list[float], last: bool) -> None:
    failures = {("node1", "id-web", 1): times}
    result = schedule(pending(4), view([node(1), node(2)], failures=failures))
    assert per_node(result) == ({"node2": 4} if last else {"node1": 2, "node2": 2})


def test_a_failing_node_is_still_taken_when_no_other_fits_and_by_other_services() -> None:
    failures = {("node1", "id-web", 1): [999.0] * 9, ("node2", "id-web", 1): [999.0] * 5}
    nodes = [node(1), node(2)]
    assert per_node(schedule(pending(2), view(nodes, failures=failures))) == {"node2": 2}
    result = schedule(pending(2, endpoint=host_port(80)), view(nodes, failures=failures))
    assert per_node(result) == {"node1": 1, "node2": 1}
    for other in (pending(2, service="db"), pending(2, spec_version=2)):
        assert per_node(schedule(other, view(nodes, failures=failures))) == {"node1": 1, "node2": 1}


def test_branches_are_levelled_before_nodes() -> None:
    nodes = [node(i, labels={"zone": "a"}) for i in (1, 2, 3)] + [node(4, labels={"zone": "b"})]
    result = schedule(pending(6, task_spec(placement=spread("node.labels.zone"))), view(nodes))
    assert per_node(result) == {"node1": 1, "node2": 1, "node3": 1, "node4": 3}


def test_nodes_without_the_label_are_one_branch() -> None:
    nodes = [node(1, labels={"zone": "a"}), node(2), node(3)]
    result = schedule(pending(4, task_spec(placement=spread("node.labels.zone"))), view(nodes))
    assert per_node(result) == {"node1": 2, "node2": 1, "node3": 1}


def test_nested_preferences_level_each_level() -> None:
    places = [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1")]
    nodes = [
        node(i, labels={"zone": zone}, engine_labels={"rack": rack}) for i, (zone, rack) in enumerate(places, 1)
    ]
    spec = task_spec(placement=spread("node.labels.zone", "Engine.Labels.rack"))
    assert per_node(schedule(pending(8, spec), view(nodes))) == {"node1": 1, "node2": 1, "node3": 2, "node4": 4}


def test_a_full_branch_leaves_its_share_to_the_others() -> None:
    nodes = [node(1, labels={"zone": "a"}), node(2, labels={"zone": "b"}), node(3, labels={"zone": "b"})]
    spec = replace(reserving(cpus=2), placement=spread("node.labels.zone"))
    result = schedule(pending(7, spec), view(nodes))
    assert per_node(result) == {"node1": 2, "node2": 2, "node3": 2}
    assert result.refusals == {"web-7": "no suitable node (insufficient resources on 3 nodes)"}


def test_tasks_left_on_a_lost_node_do_not_count_for_its_branch() -> None:
    lost = node(1, labels={"zone": "a"}, state=NodeState.DOWN)
    nodes = [lost, node(2, labels={"zone": "a"}), node(3, labels={"zone": "b"})]
    running = [*(task(i, on=lost) for i in (7, 8)), *(task(i, on=nodes[2]) for i in (9, 10))]
    spec = task_spec(placement=spread("node.labels.zone"))
    assert per_node(schedule(pending(2, spec), view(nodes, running))) == {"node2": 2}


# --- tasks with a node --------------------------------------------------------------------------------------
def test_a_task_with_a_node_is_only_checked() -> None:
    nodes = [node(1), node(2)]
    here = task(1, slot=0, node_id="node2")
    busy = task(2, slot=0, node_id="node1", spec=reserving(cpus=5))
    gone = task(3, slot=0, node_id="node9")
    result = schedule([here, busy, gone], view(nodes, [here, busy]))
    assert result.assignments == {"web-1": "node2"}
    assert result.refusals == {
        "web-2": "insufficient resources on 1 node",
        "web-3": "node node9 is not in the cluster",
    }


def test_a_global_service_belongs_where_the_node_is_fit_whatever_else_runs_there() -> None:
    spec = replace(reserving(cpus=99), placement=SSD)
    assert eligible(node(labels={"disk": "ssd"}, availability=Availability.PAUSE), spec)
    assert not eligible(node(), spec)
    assert not eligible(
        node(engine_api="1.41"), task_spec(mounts=(Mount(type="image", source="web:1", target="/i"),))
    )


def test_fits_counts_what_else_the_node_holds() -> None:
    one = node(1)
    held = [task(1, service="db", on=one, endpoint=host_port(80))]
    assert fits(one, task_spec(), endpoint=host_port(80), tasks=held) == "host-mode port already in use on 1 node"


# --- constraint enforcement ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "now", "stays"),
    [
        (task_spec(placement=SSD), node(labels={"disk": "ssd"}), True),
        (task_spec(placement=SSD), node(labels={"disk": "hdd"}), False),
        (reserving(cpus=4), node(), True),
        (reserving(cpus=4), node(nano_cpus=2_000_000_000), False),
        (reserving(memory=4 * GIB), node(memory_bytes=2 * GIB), False),
        (reserving(memory=4 * GIB), node(memory_bytes=0, nano_cpus=0, engine_version=""), True),
    ],
)
def test_a_task_stays_only_where_its_node_still_meets_what_it_asks(spec: TaskSpec, now: Node, stays: bool) -> None:
    reason = None if stays else "assigned node no longer meets constraints"
    assert violated(task(1, on=now, spec=spec), now) == reason


def test_generic_resources_that_were_dealt_must_still_be_there() -> None:
    dealt = task(1, on=node(), spec=reserving(gpu=1), generic_resources=named("gpu", "a"))
    assert violated(dealt, node(generic_resources=named("gpu", "a", "b"))) is None
    assert violated(dealt, node(generic_resources=named("gpu", "b"))) is not None


def test_the_services_placement_of_today_decides_and_so_do_tasks_beside() -> None:
    one = node(1)
    kept = task(2, service="db", on=one, spec=reserving(cpus=3))
    assert violated(task(1, on=one), one, placement=SSD) is not None
    assert violated(task(1, on=one, spec=reserving(cpus=2)), one, beside=[kept]) is not None


# --- views and what always holds ----------------------------------------------------------------------------
def test_a_view_of_a_snapshot_has_what_takes_room_on_nodes() -> None:
    one = node(1)
    tasks = [
        task(1, on=one),
        task(2, on=one, state=TaskState.ASSIGNED),
        task(3, on=one, state=TaskState.FAILED),
        task(4, on=one, desired=TaskState.SHUTDOWN),
        task(5),
    ]
    snapshot = ClusterSnapshot().apply(Changes(put_nodes=(one,), put_tasks=tuple(tasks)), 1)
    seen = SchedulingView.of(snapshot, now=5.0)
    assert seen.nodes == (one,)
    assert sorted(t.slot for t in seen.tasks["node1"]) == [1, 2, 4]


@settings(max_examples=150)
@given(
    zones=st.lists(st.sampled_from(["", "a", "b"]), min_size=0, max_size=6),
    down=st.sets(st.integers(1, 6)),
    wanted=st.lists(st.tuples(st.sampled_from(["web", "db"]), st.sampled_from([0.5, 1, 2])), max_size=25),
    limit=st.integers(0, 3),
)
def test_a_schedule_never_exceeds_a_limit_and_forgets_no_task(
    zones: list[str], down: set[int], wanted: list[tuple[str, float]], limit: int
) -> None:
    nodes = [
        node(i, labels={"zone": zone} if zone else {}, state=NodeState.DOWN if i in down else NodeState.READY)
        for i, zone in enumerate(zones, 1)
    ]
    cpus = dict(wanted)
    placement = replace(spread("node.labels.zone"), max_replicas=limit)
    tasks = [
        task(i, service=service, spec=replace(reserving(cpus=cpus[service]), placement=placement))
        for i, (service, _) in enumerate(wanted, 1)
    ]
    result = schedule(tasks, view(nodes))
    assert {*result.assignments} | {*result.refusals} == {t.id for t in tasks}
    assert not {*result.assignments} & {*result.refusals}
    assert result == schedule(tasks, view(list(reversed(nodes))))
    by_id = {t.id: t for t in tasks}
    for one in nodes:
        here = [by_id[t] for t, n in result.assignments.items() if n == one.id]
        assert sum(cpus[t.service_name] for t in here) <= 4
        assert not here or one.status.state is NodeState.READY
        if limit:
            assert max(Counter(t.service_name for t in here).values(), default=0) <= limit
    # What was refused would not fit now either.
    placed = [replace(by_id[t], node_id=n) for t, n in result.assignments.items()]
    left = [by_id[t] for t in result.refusals]
    assert not schedule(left, view(nodes, placed)).assignments


@given(st.integers(0, 40), st.integers(1, 7))
def test_equal_nodes_are_levelled(count: int, size: int) -> None:
    result = schedule(pending(count), view([node(i) for i in range(1, size + 1)]))
    loads = [per_node(result).get(f"node{i}", 0) for i in range(1, size + 1)]
    assert sum(loads) == count
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize(
    "container",
    [
        {"capability_add": ("CAP_NET_ADMIN",)},
        {"healthcheck": HealthConfig(start_interval=1)},
        {"mounts": (Mount(type="image", source="web:1", target="/i"),)},
    ],
)
def test_an_engine_is_new_enough_from_the_version_that_has_the_field(container: dict[str, object]) -> None:
    spec = task_spec(**container)
    needed = newest_field(spec)
    assert needed is not None
    major, minor = needed.since
    assert fits(node(engine_api=f"{major}.{minor}"), spec) is None
    assert fits(node(engine_api=f"{major}.{minor + 9}"), spec) is None
    assert needed.name in (fits(node(engine_api=f"{major}.{minor - 1}"), spec) or "")


# --- networks -----------------------------------------------------------------------------------------------
def on_networks(*networks: Network) -> TaskSpec:
    return replace(task_spec(), networks=tuple(NetworkAttachment(target=network.id) for network in networks))


def routed(number: int, *routes: str) -> Node:
    there = node(number)
    return replace(there, description=replace(there.description, routes=routes))


def with_networks(nodes: Sequence[Node], *networks: Network) -> SchedulingView:
    return view(nodes, networks={network.id: network for network in networks})


def test_a_node_that_reaches_a_networks_addresses_already_gets_no_task_of_it() -> None:
    net1, net2 = a_network("net1", 1), a_network("net2", 2)
    nodes = [routed(1, "10.48.16.0/22"), routed(2, "10.0.0.0/8"), routed(3, "0.0.0.0/0", "192.168.0.0/16")]
    assert per_node(schedule(pending(2, on_networks(net1)), with_networks(nodes, net1, net2))) == {"node3": 2}
    refused = schedule(pending(1, on_networks(net1)), with_networks(nodes[:2], net1, net2)).refusals
    assert refused == {
        "web-1": "no suitable node (2 nodes with other routes into network net1 (10.48.16.0/20) or "
        "the way outside (10.255.0.0/16))"
    }
    internal = replace(net2, spec=replace(net2.spec, internal=True))
    away = schedule(pending(1, on_networks(internal)), with_networks([routed(1, "10.255.1.0/24")], internal))
    assert away.assignments  # it has no way outside that could be in the way


def test_a_task_that_publishes_a_port_needs_its_nodes_way_outside_and_no_other_task_does() -> None:
    port = EndpointSpec(ports=(PortConfig(target_port=80, publish_mode="ingress"),))
    nodes = [routed(1, "10.255.0.0/18")]
    assert schedule(pending(1), view(nodes)).assignments
    assert schedule(pending(1, endpoint=port), view(nodes)).refusals == {
        "web-1": "no suitable node (1 node with other routes into the way outside (10.255.0.0/16))"
    }


def test_a_node_that_others_have_no_address_of_gets_no_task_on_networks() -> None:
    net1 = a_network("net1", 1)
    named_only = replace(node(1), target=SshTarget(address="n1.example"))
    assert per_node(schedule(pending(2, on_networks(net1)), with_networks([named_only, node(2)], net1))) == {
        "node2": 2
    }
    assert schedule(pending(1, on_networks(net1)), with_networks([named_only], net1)).refusals == {
        "web-1": "no suitable node (1 node without an IPv4 address for networks)"
    }
    assert schedule(pending(1), with_networks([named_only], net1)).assignments


def test_a_node_whose_link_is_too_narrow_for_a_network_gets_no_task_of_it() -> None:
    net1 = a_network("net1", 1)
    narrow = replace(node(1), description=replace(node(1).description, mtus=((node(1).target.address, 1460),)))
    assert per_node(schedule(pending(2, on_networks(net1)), with_networks([narrow, node(2)], net1))) == {
        "node2": 2
    }
    assert schedule(pending(1, on_networks(net1)), with_networks([narrow], net1)).refusals == {
        "web-1": "no suitable node (1 node whose link does not take the 1500 bytes of network net1 (MTU 1450))"
    }
    for fitting in (
        replace(net1, mtu=1410),
        replace(net1, mtu=1370, encrypted=True),
        replace(net1, spec=replace(net1.spec, options={"com.docker.network.driver.mtu": "1450"})),
    ):
        assert schedule(pending(1, on_networks(fitting)), with_networks([narrow], fitting)).assignments
    assert schedule(pending(1), with_networks([narrow], net1)).assignments


def test_nodes_of_one_address_get_no_task_on_networks_and_it_says_what_to_do() -> None:
    net1 = a_network("net1", 1)
    forwarded = [replace(node(n), target=SshTarget(address="192.0.2.1", port=2200 + n)) for n in (1, 2)]
    view_of_all = with_networks([*forwarded, node(3)], net1)
    assert per_node(schedule(pending(3, on_networks(net1)), view_of_all)) == {"node3": 3}
    assert schedule(pending(1, on_networks(net1)), with_networks(forwarded, net1)).refusals == {
        "web-1": "no suitable node (2 nodes with the address of another node: "
        "set swarmsh_underlay in the inventory)"
    }
    assert schedule(pending(1), with_networks(forwarded, net1)).assignments


def test_a_node_beyond_the_gateways_of_a_small_network_gets_no_task_of_it() -> None:
    small = replace(a_network("small"), subnet="10.9.9.0/28", gateways="10.9.9.0/30")
    assert per_node(schedule(pending(2, on_networks(small)), with_networks([node(3), node(4)], small))) == {
        "node3": 2
    }
    assert schedule(pending(1, on_networks(small)), with_networks([node(4)], small)).refusals == {
        "web-1": "no suitable node "
        "(network small (10.9.9.0/28) reaches the nodes of the numbers 1 to 3, not 1 node)"
    }
