"""Allocation: single rules, and what must hold whatever happens to services, tasks and networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Set
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from swarmsh.core.accept_network import accept_network
from swarmsh.core.allocate import (
    FIRST_CHOSEN_PORT,
    LAST_CHOSEN_PORT,
    QUARANTINE_S,
    SAME_NODE_QUARANTINE_S,
    Allocator,
    forget_lapsed,
    new_network,
    with_releases,
)
from swarmsh.core.reach import EGRESS_POOL, egress_mtu, settled_egress
from swarmsh.errors import Exhausted, Forbidden, InvalidSpec, NotFound
from swarmsh.model.objects import Cluster, Network, Node, Service, Task
from swarmsh.model.pools import MARKS, claims_of, key_of, released_at
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import EndpointSpec, NetworkAttachment, NetworkSpec, PortConfig
from swarmsh.model.states import TaskState
from swarmsh.model.wire import from_wire
from tests.fakes.objects import a_node, a_service, a_task

NOW = 1_700_000_000.0
CLUSTER = Cluster(id="c", version=1, created_at=NOW, updated_at=NOW)


def spec(name: str = "net1", subnet: str = "", ip_range: str = "", **fields: Any) -> NetworkSpec:
    config = [{"Subnet": subnet, "IPRange": ip_range} | fields.pop("config", {})] if subnet else []
    return accept_network(from_wire(NetworkSpec, {"Name": name, "IPAM": {"Config": config}} | fields))


class World:
    """A store in a few lines: everything committed the way stores commit, on a clock turned by hand."""

    def __init__(self, *nodes: int) -> None:
        self.now = NOW
        self.snapshot = ClusterSnapshot()
        self.commit(cluster=CLUSTER, put_nodes=tuple(a_node(n) for n in nodes or (1, 2)))

    def commit(self, **changes: Any) -> None:
        done = with_releases(self.snapshot, Changes(**changes), self.now)
        self.snapshot = self.snapshot.apply(done, self.snapshot.index + 1)

    def allocator(self) -> Allocator:
        return Allocator(self.snapshot, self.now)

    def network(self, name: str = "net1", subnet: str = "", ip_range: str = "", **fields: Any) -> Network:
        asked = spec(name, subnet, ip_range, **fields)
        made = new_network(self.snapshot, CLUSTER, f"id-of-{name}", asked, self.now)
        self.commit(put_networks=(made,))
        return made

    def remove_network(self, network: Network) -> None:
        self.commit(put_networks=(replace(network, removed_at=self.now),))

    def service(
        self, *networks: Network, name: str = "web", mode: str = "vip", ports: tuple[int, ...] = ()
    ) -> Service:
        made = self.specified(a_service(name), networks, mode, ports)
        made = replace(made, endpoint=self.allocator().endpoint(made))
        self.commit(put_services=(made,))
        return made

    def specified(
        self, service: Service, networks: tuple[Network, ...], mode: str = "vip", ports: tuple[int, ...] = ()
    ) -> Service:
        template = replace(
            service.spec.task_template, networks=tuple(NetworkAttachment(target=n.id) for n in networks)
        )
        published = tuple(
            PortConfig(protocol="tcp", target_port=80, published_port=p, publish_mode="ingress") for p in ports
        )
        endpoint = EndpointSpec(mode=mode, ports=published)
        return replace(service, spec=replace(service.spec, task_template=template, endpoint_spec=endpoint))

    def task(self, service: Service, slot: int, node: int = 1) -> Task:
        there = a_node(node)
        made = replace(
            a_task(service, slot, there.id, TaskState.ASSIGNED),
            endpoint=service.spec.endpoint_spec,
            spec_version=1,
        )
        made = self.allocator().task(made, there)
        self.commit(put_tasks=(made,))
        return made

    def end(self, task: Task) -> Task:
        ended = replace(task, status=replace(task.status, state=TaskState.SHUTDOWN, since=self.now))
        self.commit(put_tasks=(ended,))
        return ended


# --- networks -----------------------------------------------------------------------------------------------
def test_networks_get_the_lowest_free_subnet_and_vni() -> None:
    world = World()
    first, second = world.network("a"), world.network("b")
    assert (first.subnet, first.vni) == ("10.48.0.0/20", 4096)
    assert (second.subnet, second.vni) == ("10.48.16.0/20", 4097)
    assert (first.gateways, first.vips) == ("10.48.0.0/24", "10.48.8.0/21")
    assert (first.first_task, first.last_task) == ("10.48.1.0", "10.48.7.255")


def test_a_subnet_that_a_node_reaches_otherwise_is_passed_over() -> None:
    world = World()
    routed = replace(
        a_node(1), description=replace(a_node(1).description, routes=("0.0.0.0/0", "10.48.0.0/18", "x"))
    )
    world.commit(put_nodes=(routed,))
    assert world.network().subnet == "10.48.64.0/20"


@pytest.mark.parametrize(
    ("subnet", "words"),
    [
        ("10.48.4.0/24", "the subnet of network net1"),
        ("10.0.0.0/24", "which node n1 reaches"),  # its own address is 10.0.0.1
        ("10.255.7.0/24", "through which tasks reach the outside"),
    ],
)
def test_a_subnet_that_is_taken_is_refused_and_says_whose_it_is(subnet: str, words: str) -> None:
    world = World()
    world.network()
    with pytest.raises(Forbidden, match=r"^invalid pool request: Pool overlaps with other one") as refusal:
        world.network("other", subnet)
    assert words in str(refusal.value)


def test_no_subnet_left_is_said_with_a_way_out() -> None:
    world = World()
    routed = replace(a_node(1), description=replace(a_node(1).description, routes=("10.0.0.0/8",)))
    world.commit(put_nodes=(routed,))
    with pytest.raises(Exhausted, match="all predefined address pools have been fully subnetted") as refusal:
        world.network()
    assert "--subnet" in str(refusal.value)


def test_a_removed_networks_numbers_are_not_used_before_all_its_tasks_ended_and_the_quarantine_is_over() -> None:
    world = World()
    network = world.network()
    task = world.task(world.service(network), 1)
    world.remove_network(network)
    world.commit(delete_services=(task.service_id,))
    assert world.network("second").vni == 4097
    world.now += QUARANTINE_S
    assert not forget_lapsed(world.snapshot, world.now).delete_networks
    world.end(task)
    world.now += QUARANTINE_S - 1
    assert not forget_lapsed(world.snapshot, world.now).delete_networks
    world.now += 1
    world.commit(**_fields(forget_lapsed(world.snapshot, world.now)))
    assert network.id not in world.snapshot.networks
    third = world.network("third")
    assert (third.vni, third.subnet) == (network.vni, network.subnet)


def test_a_subnet_that_was_asked_for_is_free_for_a_network_of_that_name_when_its_tasks_have_ended() -> None:
    world = World()
    old = world.network("shop_n", "10.9.0.0/24", Labels={"com.docker.stack.namespace": "shop"})
    task = world.task(world.service(old), 1)
    world.remove_network(old)
    world.commit(delete_services=(task.service_id,))

    def again(name: str = "shop_n", stack: str = "shop") -> Network:
        asked = spec(name, "10.9.0.0/24", Labels={"com.docker.stack.namespace": stack})
        return new_network(world.snapshot, CLUSTER, "again", asked, world.now)

    with pytest.raises(
        Forbidden, match=r"network shop_n, removed a short while ago .some of its tasks have not ended"
    ):
        again()
    world.end(task)
    assert again().subnet == old.subnet
    assert again().vni != old.vni and again().docker_name != old.docker_name
    for other in (("other", "shop"), ("shop_n", "other")):
        with pytest.raises(Forbidden, match=r"removed a short while ago .kept for 300 s"):
            again(*other)


def _fields(changes: Changes) -> dict[str, Any]:
    return {name: getattr(changes, name) for name in ("delete_networks", "delete_releases")}


# --- services -----------------------------------------------------------------------------------------------
def test_a_service_has_a_vip_and_a_mark_on_each_network_and_a_mark_for_each_port() -> None:
    world = World()
    a, b = world.network("a"), world.network("b")
    endpoint = world.service(a, b, ports=(80, 81)).endpoint
    assert [vip.address for vip in endpoint.virtual_ips] == ["10.48.8.0", "10.48.24.0"]
    assert sorted([v.mark for v in endpoint.virtual_ips] + [p.mark for p in endpoint.ports]) == [1, 2, 3, 4]


def test_a_service_that_is_answered_by_dns_has_no_vip() -> None:
    world = World()
    assert world.service(world.network(), mode="dnsrr").endpoint.virtual_ips == ()


def test_an_update_keeps_what_is_still_needed_and_releases_the_rest() -> None:
    world = World()
    a, b = world.network("a"), world.network("b")
    service = world.service(a, ports=(80, 81))
    changed = world.specified(service, (b, a), ports=(81, 82))
    endpoint = world.allocator().endpoint(changed)
    world.commit(put_services=(replace(changed, endpoint=endpoint),))
    kept_vip, kept_port = service.endpoint.virtual_ips[0], service.endpoint.ports[1]
    assert endpoint.virtual_ips[1] == kept_vip
    assert endpoint.ports[0] == kept_port
    lost = service.endpoint.ports[0].mark
    assert sorted(world.snapshot.releases) == [f"marks/{lost}", "tcp/80"]
    assert lost not in [p.mark for p in world.service(a, name="other", ports=(90, 91)).endpoint.ports]


# --- tasks --------------------------------------------------------------------------------------------------
def test_a_task_has_an_address_on_each_overlay_and_one_on_its_nodes_egress() -> None:
    world = World(1, 7)
    service = world.service(world.network("a"), world.network("b"))
    task = world.task(service, 1, node=7)
    assert [on.address for on in task.addresses] == ["10.48.1.0", "10.48.17.0"]
    assert task.egress_address == "10.255.7.2"
    assert world.task(service, 2, node=1).egress_address == "10.255.1.2"


@pytest.mark.parametrize(("ports", "egress"), [((), ""), ((80,), "10.255.1.2")])
def test_a_task_on_internal_networks_only_has_egress_for_published_ports_alone(
    ports: tuple[int, ...], egress: str
) -> None:
    world = World()
    assert world.task(world.service(world.network(Internal=True), ports=ports), 1).egress_address == egress


def test_a_task_on_a_network_of_its_engines_is_given_nothing() -> None:
    world = World()
    service = a_service()
    template = replace(service.spec.task_template, networks=(NetworkAttachment(target="host"),))
    task = replace(a_task(service, 1), spec=template)
    assert world.allocator().task(task, a_node(1)) == task


def test_two_tasks_of_one_decision_get_two_addresses() -> None:
    world = World()
    service = world.service(world.network())
    allocator = world.allocator()
    tasks = [allocator.task(a_task(service, slot), a_node(1)) for slot in (1, 2, 3)]
    assert [t.addresses[0].address for t in tasks] == ["10.48.1.0", "10.48.1.1", "10.48.1.2"]
    assert len({t.egress_address for t in tasks}) == 3


def test_the_gateway_and_addresses_kept_by_the_author_are_given_to_nobody() -> None:
    world = World()
    config = {"Gateway": "10.9.9.4", "AuxiliaryAddresses": {"router": "10.9.9.6", "printer": "10.9.9.12"}}
    network = world.network("small", "10.9.9.0/28", config=config)
    service = world.service(network)
    given = [world.task(service, slot).addresses[0].address for slot in range(1, 7)]
    assert given == ["10.9.9.5", *(f"10.9.9.{n}" for n in range(7, 12))]
    assert service.endpoint.virtual_ips[0].address == "10.9.9.13"


def test_addresses_come_from_the_ip_range() -> None:
    world = World()
    network = world.network("ranged", "10.9.0.0/16", "10.9.7.0/24")
    service = world.service(network)
    assert world.task(service, 1).addresses[0].address == "10.9.7.0"
    assert service.endpoint.virtual_ips[0].address == "10.9.7.192"


def test_a_full_network_says_so_and_when_there_is_room_again() -> None:
    world = World()
    service = world.service(world.network("small", "10.9.9.0/28"))
    tasks = [world.task(service, slot) for slot in range(1, 9)]
    world.end(tasks[3])
    world.now += 60
    world.end(tasks[5])
    with pytest.raises(Exhausted) as refusal:
        world.task(service, 9, node=2)
    assert refusal.value.message == (
        "no task address in network small (10.9.9.4 to 10.9.9.11) is free: "
        "each is in use, or was in the last 5 minutes"
    )
    assert refusal.value.free_at == NOW + QUARANTINE_S
    world.now = NOW + QUARANTINE_S
    again = world.task(service, 10, node=2)
    assert again.addresses == tasks[3].addresses


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_task_that_fails_again_and_again_takes_only_a_part_of_a_small_network(forgotten: bool) -> None:
    world = World()
    service = world.service(world.network("small", "10.9.9.0/28"))
    tasks = [world.end(world.task(service, slot)) for slot in range(1, 9)]
    if forgotten:
        world.commit(delete_tasks=tuple(task.id for task in tasks))
    world.now += SAME_NODE_QUARANTINE_S - 1
    for node in (1, 2):
        with pytest.raises(Exhausted) as refusal:
            world.task(service, 9, node=node)
        assert refusal.value.free_at == NOW + (SAME_NODE_QUARANTINE_S if node == 1 else QUARANTINE_S)
    world.now += 1
    # Where it was, everybody's tables still lead there; elsewhere it has to wait.
    assert world.task(service, 10, node=1).addresses == tasks[0].addresses
    with pytest.raises(Exhausted):
        world.task(service, 11, node=2)


def test_a_node_gives_its_own_part_of_the_way_outside_again_after_a_minute() -> None:
    world = World()
    service = world.service(world.network("wide", "10.9.0.0/16"))
    tasks = [world.task(service, slot, node=2) for slot in range(253)]
    world.commit(
        put_tasks=tuple(
            replace(t, status=replace(t.status, state=TaskState.FAILED, since=world.now)) for t in tasks
        )
    )
    with pytest.raises(Exhausted, match="egress address on node n2"):
        world.task(service, 300, node=2)
    world.now += SAME_NODE_QUARANTINE_S
    allocator = world.allocator()
    again = [allocator.task(a_task(service, slot), a_node(2)).egress_address for slot in range(400, 410)]
    assert again == [t.egress_address for t in tasks[:10]]


def test_of_the_addresses_that_were_used_the_one_free_for_longest_is_given_first() -> None:
    world = World()
    service = world.service(world.network("small", "10.9.9.0/28"))
    tasks = [world.task(service, slot) for slot in range(1, 9)]
    for task in (tasks[6], tasks[2]):
        world.end(task)
        world.now += 1
    world.now += QUARANTINE_S
    assert [world.task(service, slot).addresses for slot in (20, 21)] == [tasks[6].addresses, tasks[2].addresses]


def test_a_node_that_a_small_network_has_no_gateway_for_is_named() -> None:
    world = World(4)
    service = world.service(world.network("small", "10.9.9.0/28"))
    with pytest.raises(Exhausted, match=r"small .* the numbers 1 to 3, and n4 is number 4"):
        world.task(service, 1, node=4)


def test_a_full_node_is_named() -> None:
    world = World()
    service = world.service(world.network("wide", "10.9.0.0/16"))
    allocator = world.allocator()
    given = [allocator.task(a_task(service, slot), a_node(2)).egress_address for slot in range(253)]
    assert (given[0], given[-1]) == ("10.255.2.2", "10.255.2.254")
    with pytest.raises(Exhausted, match="egress address on node n2"):
        allocator.task(a_task(service, 300), a_node(2))


def linked(number: int, mtu: int) -> Node:
    node = a_node(number)
    mtus = ((node.target.address, mtu),)
    return replace(node, description=replace(node.description, mtus=mtus))


def test_an_mtu_is_what_all_links_carry_when_the_network_or_the_first_service_is_made() -> None:
    world = World()
    world.commit(put_nodes=(linked(1, 1500), linked(2, 1460)))
    made = world.network("narrow"), world.network("secret", Options={"encrypted": ""})
    assert [network.mtu for network in made] == [1410, 1370]
    assert world.network("asked", Options={"com.docker.network.driver.mtu": "1450"}).mtu == 1450
    world.commit(put_nodes=(linked(1, 9000), linked(2, 9000)))
    assert world.network("wide").mtu == 1450
    assert world.snapshot.networks[made[0].id].mtu == 1410, "containers have it by now"


@pytest.mark.parametrize(("mtu", "expected"), [(1460, 1410), (1500, None), (9000, None)])
def test_the_way_outside_has_an_mtu_that_links_carry_and_never_more_than_usual(
    mtu: int, expected: int | None
) -> None:
    world = World()
    world.commit(cluster=CLUSTER, put_nodes=(linked(1, mtu), linked(2, 9000), linked(3, 9000)))
    settled = settled_egress(world.snapshot)
    assert (None if settled is None else settled.egress_mtu) == expected
    if settled is not None:
        world.commit(cluster=settled)
        assert egress_mtu(world.snapshot) == expected and settled_egress(world.snapshot) is None
        world.service(world.network())
        world.commit(put_nodes=(linked(1, 1500),))
        assert settled_egress(world.snapshot) is None and egress_mtu(world.snapshot) == expected


def test_what_a_node_can_still_give_is_known_before() -> None:
    world = World()
    service = world.service(world.network("wide", "10.9.0.0/16"))
    tasks = [world.task(service, slot, node=2) for slot in range(250)]

    def left(enough: int) -> list[int]:
        found = world.allocator().egress_left([a_node(1), a_node(2)], enough)
        return [found[a_node(n).id] for n in (1, 2)]

    assert left(4) == [253, 3]
    for task in tasks[:5]:
        world.end(task)
    assert left(4) == [253, 3], "in quarantine"
    assert world.allocator().egress_free_at(a_node(2)) == world.now + SAME_NODE_QUARANTINE_S
    world.now += SAME_NODE_QUARANTINE_S
    assert left(3) == [253, 3] and left(4) == [253, 8]
    allocator = world.allocator()
    for slot in range(400, 408):
        allocator.task(a_task(service, slot), a_node(2))
    assert allocator.egress_left([a_node(2)], 1) == {a_node(2).id: 0}
    with pytest.raises(Exhausted):
        allocator.task(a_task(service, 408), a_node(2))


def test_a_report_of_an_ended_task_does_not_end_the_quarantine_of_the_next_owner() -> None:
    world = World()
    service = world.service(world.network("small", "10.9.9.0/28"))
    tasks = [world.task(service, slot) for slot in range(1, 9)]
    ended = world.end(tasks[0])
    world.now += QUARANTINE_S
    heir = world.task(service, 20)
    assert heir.addresses == ended.addresses
    world.commit(delete_tasks=(heir.id,))
    world.commit(put_tasks=(replace(ended, desired=TaskState.REMOVE),))
    with pytest.raises(Exhausted):
        world.task(service, 21)


@pytest.mark.parametrize("order", [1, -1])
def test_the_present_owner_of_an_address_is_known_in_whatever_order_tasks_are_read(order: int) -> None:
    world = World()
    network = world.network("small", "10.9.9.0/28")
    service = world.service(network)
    tasks = [world.task(service, slot) for slot in range(1, 9)]
    ended = world.end(tasks[0])
    world.now += QUARANTINE_S
    heir = world.task(service, 20)
    both = Changes(put_tasks=(ended, heir)[::order])
    holding = ClusterSnapshot().apply(both, 1).pools[network.id].holdings[key_of(heir.addresses[0].address)]
    assert (holding.holder, holding.released_at) == (heir.id, None)


def test_one_more_task_steps_the_index_of_its_network() -> None:
    world = World()
    network = world.network("wide", "10.9.0.0/16")
    service = world.service(network)
    allocator = world.allocator()
    tasks = []
    for slot in range(3000):
        # Node number n has 253 egress addresses, so the tasks are spread over twelve.
        tasks.append(allocator.task(a_task(service, slot), a_node(slot % 12 + 1)))
    world.commit(put_tasks=tuple(tasks))
    before = world.snapshot.pools[network.id]
    one = world.task(service, 5000, node=20)
    after = world.snapshot.pools[network.id]
    assert len(after.holdings) == len(before.holdings) + 1 == 3002
    assert after.taken == before.taken | 1 << key_of(one.addresses[0].address)


def test_a_task_that_cannot_have_all_its_addresses_takes_none_from_the_next() -> None:
    world = World()
    full, other = world.network("full", "10.9.9.0/28"), world.network("other", "10.8.8.0/28")
    service = world.service(full, name="filling")
    for slot in range(1, 9):
        world.task(service, slot)
    on_both, on_other = world.service(other, full, name="both"), world.service(other, name="single")
    allocator = world.allocator()
    with pytest.raises(Exhausted):
        allocator.task(a_task(on_both, 1), a_node(1))
    assert allocator.task(a_task(on_other, 1), a_node(1)).addresses[0].address == "10.8.8.4"


# --- whatever happens ---------------------------------------------------------------------------------------
PORTS = st.lists(st.sampled_from([80, 81, 82, 30001, 0, 0]), max_size=4).filter(
    lambda ports: all(ports.count(port) == 1 for port in ports if port)
)


class Life(RuleBasedStateMachine):
    """Services and tasks come and go on networks so small that all of them are full again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(1, 2, 3)
        # (pool, number) -> when it was last seen to be given up, and on which node it was.
        self.released: dict[tuple[str, int], tuple[float, str]] = {}
        self.count = 0

    @initialize()
    def make_networks(self) -> None:
        self.networks = (
            self.world.network("small", "10.9.9.0/28"),
            self.world.network("ranged", "10.8.0.0/24", "10.8.0.32/28"),
            self.world.network("inner", "10.7.0.0/27", Internal=True),
        )

    # --- what happens ---
    def living(self) -> dict[tuple[str, int], str]:
        found: dict[tuple[str, int], str] = {}
        snapshot = self.world.snapshot
        for holder in (*snapshot.services.values(), *snapshot.tasks.values()):
            if released_at(holder) is None:
                for claim in claims_of(holder):
                    assert claim not in found, f"{claim} is given to {found[claim]} and to {holder.id}"
                    found[claim] = holder.id
        return found

    def node_of(self, holder: str) -> str:
        task = self.world.snapshot.tasks.get(holder)
        return "" if task is None else task.node_id

    def commit(self, **changes: Any) -> None:
        before = self.living()
        were_on = {claim: self.node_of(holder) for claim, holder in before.items()}
        self.world.commit(**changes)
        after = self.living()
        specs = [s.spec.endpoint_spec for s in self.world.snapshot.services.values()]
        asked = {(p.protocol, p.published_port) for spec in specs if spec is not None for p in spec.ports}
        for claim in before.keys() - after.keys():
            self.released[claim] = self.world.now, were_on[claim]
        for claim in after.keys() - before.keys():
            if claim in asked:
                continue  # by its number: given at once, as users expect of port 80
            released_at, node_id = self.released.get(claim, (0.0, ""))
            same = node_id and node_id == self.node_of(after[claim])
            age = self.world.now - released_at
            assert age >= (SAME_NODE_QUARANTINE_S if same else QUARANTINE_S), f"{claim} is given after {age} s"

    def allocated(
        self, take: Any, given: Sequence[Task] = (), ports: Set[int] = frozenset(), own: str = ""
    ) -> Any:
        """What `take` gives; None if it says that nothing is left, which must be true. `given`: by it, before.

        `ports` are asked for by the service of the id `own`.
        """
        others = {claim for claim, holder in self.living().items() if holder != own}
        if any(("tcp", port) in others for port in ports):
            with pytest.raises((InvalidSpec, Exhausted), match=r"already in use by service|no VIP in"):
                take()
            return None
        with contextlib.suppress(Exhausted):
            return take()
        with pytest.raises(Exhausted) as refusal:
            take()
        (network,) = (n for n in self.networks if f"network {n.spec.name} " in refusal.value.message)
        living = self.living().keys() | {claim for task in given for claim in claims_of(task)}
        assert self.full(network, "VIP" in refusal.value.message, living), refusal.value
        return None

    def full(self, network: Network, of_vips: bool, living: Set[tuple[str, int]]) -> bool:
        vips = IPv4Network(network.vips)
        first, last = IPv4Address(network.first_task), IPv4Address(network.last_task)
        if of_vips:
            first, last = vips.network_address, vips.broadcast_address
        broadcast = key_of(str(IPv4Network(network.subnet).broadcast_address))
        return all(
            (network.id, key) in living
            or self.world.now - self.released.get((network.id, key), (0.0, ""))[0] < QUARANTINE_S
            or key == broadcast
            for key in range(key_of(str(first)), key_of(str(last)) + 1)
        )

    @rule(on=st.sets(st.sampled_from(range(3)), min_size=1), ports=PORTS, dns=st.booleans())
    def create_service(self, on: set[int], ports: list[int], dns: bool) -> None:
        self.count += 1
        networks = tuple(self.networks[n] for n in sorted(on))
        service = self.world.specified(
            a_service(f"s{self.count}"), networks, "dnsrr" if dns else "vip", tuple(ports)
        )
        endpoint = self.allocated(lambda: self.world.allocator().endpoint(service), ports=set(ports))
        if endpoint is not None:
            self.commit(put_services=(replace(service, endpoint=endpoint),))

    def services(self) -> list[Service]:
        return sorted(self.world.snapshot.services.values(), key=lambda s: s.id)

    def tasks(self, ended: bool) -> list[Task]:
        found = (t for t in self.world.snapshot.tasks.values() if t.status.state.terminal == ended)
        return sorted(found, key=lambda t: t.id)

    @precondition(lambda self: self.services())
    @rule(data=st.data(), on=st.sets(st.sampled_from(range(3)), min_size=1), ports=PORTS)
    def update_service(self, data: st.DataObject, on: set[int], ports: list[int]) -> None:
        stored = data.draw(st.sampled_from(self.services()))
        changed = self.world.specified(stored, tuple(self.networks[n] for n in sorted(on)), "vip", tuple(ports))
        endpoint = self.allocated(lambda: self.world.allocator().endpoint(changed), (), set(ports), stored.id)
        if endpoint is not None:
            had = {p.published_port: p.mark for p in stored.endpoint.ports}
            assert all(had.get(p.published_port, p.mark) == p.mark for p in endpoint.ports)
            self.commit(put_services=(replace(changed, endpoint=endpoint),))

    @precondition(lambda self: self.services())
    @rule(data=st.data())
    def remove_service(self, data: st.DataObject) -> None:
        self.commit(delete_services=(data.draw(st.sampled_from(self.services())).id,))

    @precondition(lambda self: self.services())
    @rule(data=st.data(), copies=st.integers(1, 4))
    def start_tasks(self, data: st.DataObject, copies: int) -> None:
        service = data.draw(st.sampled_from(self.services()))
        node = a_node(data.draw(st.sampled_from((1, 2, 3))))
        allocator = self.world.allocator()
        started = []
        for _ in range(copies):
            self.count += 1
            made = a_task(service, self.count, node.id, TaskState.ASSIGNED)
            task = self.allocated(lambda made=made: allocator.task(made, node), started)
            if task is None:
                break
            started.append(task)
        self.commit(put_tasks=tuple(started))

    @precondition(lambda self: self.tasks(ended=False))
    @rule(data=st.data(), several=st.integers(1, 5))
    def end_tasks(self, data: st.DataObject, several: int) -> None:
        first = data.draw(st.sampled_from(range(len(self.tasks(ended=False)))))
        ending = self.tasks(ended=False)[first : first + several]
        self.commit(
            put_tasks=tuple(
                replace(t, status=replace(t.status, state=TaskState.FAILED, since=self.world.now)) for t in ending
            )
        )

    @precondition(lambda self: self.world.snapshot.tasks)
    @rule(data=st.data(), ended=st.booleans())
    def delete_task(self, data: st.DataObject, ended: bool) -> None:
        if tasks := self.tasks(ended):
            self.commit(delete_tasks=(data.draw(st.sampled_from(tasks)).id,))

    @precondition(lambda self: self.tasks(ended=True))
    @rule(data=st.data())
    def touch_an_ended_task(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.tasks(ended=True)))
        self.commit(put_tasks=(replace(task, desired=TaskState.REMOVE),))

    @rule(seconds=st.sampled_from([1.0, 50.0, 100.0, QUARANTINE_S - 1, QUARANTINE_S]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def tidy(self) -> None:
        lapsed = forget_lapsed(self.world.snapshot, self.world.now)
        assert not lapsed.delete_networks
        self.commit(delete_releases=lapsed.delete_releases)

    @rule()
    def restart(self) -> None:
        """What is read from a disk blocks the same numbers as what was in memory."""
        before = self.blocked(self.world.snapshot)
        self.world.snapshot = reloaded(self.world.snapshot)
        assert self.blocked(self.world.snapshot) == before

    def blocked(self, snapshot: ClusterSnapshot) -> set[tuple[str, int, str]]:
        return {
            (name, key, holding.holder)
            for name, pool in snapshot.pools.items()
            for key, holding in pool.holdings.items()
            if holding.released_at is None or holding.released_at + QUARANTINE_S > self.world.now
        }

    # --- what holds ---
    @invariant()
    def everything_is_within_its_range(self) -> None:
        snapshot = self.world.snapshot
        for service in snapshot.services.values():
            for vip in service.endpoint.virtual_ips:
                network = snapshot.networks[vip.network_id]
                assert IPv4Address(vip.address) in IPv4Network(network.vips)
                assert IPv4Address(vip.address) != IPv4Network(network.subnet).broadcast_address
                assert 1 <= vip.mark < 1 << 24
            asked = service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ()
            for wanted, given in zip(asked, service.endpoint.ports, strict=True):
                if wanted.published_port:
                    assert given.published_port == wanted.published_port
                else:  # chosen, or kept from when it was asked for by its number
                    chosen = range(FIRST_CHOSEN_PORT, LAST_CHOSEN_PORT + 1)
                    assert given.published_port in chosen or given.published_port in (80, 81, 82)
        for task in snapshot.tasks.values():
            for on in task.addresses:
                network = snapshot.networks[on.network_id]
                first, last = IPv4Address(network.first_task), IPv4Address(network.last_task)
                assert first <= IPv4Address(on.address) <= last
            if task.egress_address:
                number = snapshot.nodes[task.node_id].number
                hosts = list(list(EGRESS_POOL.subnets(new_prefix=24))[number].hosts())[1:]
                assert IPv4Address(task.egress_address) in hosts

    @invariant()
    def bits_and_holdings_say_the_same(self) -> None:
        for pool in self.world.snapshot.pools.values():
            assert set(pool.holdings) == set(bits_of(pool.taken))
            assert pool.holdings

    def teardown(self) -> None:
        """After all has gone and time has passed, every address can be had again."""
        if not self.world.snapshot.networks:
            return
        snapshot = self.world.snapshot
        self.commit(delete_services=tuple(snapshot.services), delete_tasks=tuple(snapshot.tasks))
        self.world.now += QUARANTINE_S
        small = self.networks[0]
        service = self.world.specified(a_service("last"), (small,))
        allocator = self.world.allocator()
        given = {allocator.task(a_task(service, slot), a_node(1)).addresses[0].address for slot in range(8)}
        assert given == {f"10.9.9.{n}" for n in range(4, 12)}
        assert forget_lapsed(self.world.snapshot, self.world.now).delete_releases == tuple(
            sorted(self.world.snapshot.releases)
        )


def bits_of(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def reloaded(snapshot: ClusterSnapshot) -> ClusterSnapshot:
    return ClusterSnapshot().apply(
        Changes(
            cluster=snapshot.cluster,
            put_services=tuple(snapshot.services.values()),
            put_tasks=tuple(sorted(snapshot.tasks.values(), key=lambda t: t.id, reverse=True)),
            put_nodes=tuple(snapshot.nodes.values()),
            put_networks=tuple(snapshot.networks.values()),
            put_releases=tuple(snapshot.releases.values()),
        ),
        snapshot.index,
    )


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_marks_are_one_pool_for_the_whole_cluster() -> None:
    world = World()
    marks = [
        vip.mark for name in "abc" for vip in world.service(world.network(name), name=name).endpoint.virtual_ips
    ]
    assert marks == [1, 2, 3]
    assert set(world.snapshot.pools[MARKS].holdings) == {1, 2, 3}


# --- published ports ----------------------------------------------------------------------------------------
def published(world: World, service: Service, *ports: tuple[int, int]) -> list[tuple[int, int]]:
    """(published, target) of the service once it publishes `ports` of the same form."""
    specs = tuple(
        PortConfig(protocol="tcp", published_port=p, target_port=t, publish_mode="ingress") for p, t in ports
    )
    stored = world.snapshot.services.get(service.id, service)
    changed = replace(stored, spec=replace(stored.spec, endpoint_spec=EndpointSpec(mode="vip", ports=specs)))
    changed = replace(changed, endpoint=world.allocator().endpoint(changed))
    world.commit(put_services=(changed,))
    assert len({p.mark for p in changed.endpoint.ports}) == len(ports)
    return [(p.published_port, p.target_port) for p in changed.endpoint.ports]


def test_ports_without_a_number_get_one_each_and_keep_it_whatever_else_changes() -> None:
    world = World()
    web, other = a_service("web"), a_service("other")
    assert published(world, web, (0, 80), (0, 81)) == [(30000, 80), (30001, 81)]
    assert published(world, other, (0, 80)) == [(30002, 80)]
    assert published(world, web, (0, 82), (0, 81), (8080, 80)) == [(30003, 82), (30001, 81), (8080, 80)]
    assert published(world, web, (0, 80), (0, 81)) == [(8080, 80), (30001, 81)]


def test_a_port_that_was_chosen_is_chosen_again_only_later_but_can_be_asked_for_at_once() -> None:
    world = World()
    assert published(world, a_service("web"), (0, 80)) == [(30000, 80)]
    world.commit(delete_services=(a_service("web").id,))
    assert published(world, a_service("other"), (0, 80)) == [(30001, 80)]
    assert published(world, a_service("third"), (30000, 80)) == [(30000, 80)]
    assert "tcp/30000" not in world.snapshot.releases


def test_a_number_that_was_asked_for_is_not_chosen_for_a_port_beside_it() -> None:
    world = World()
    assert published(world, a_service("web"), (0, 80), (30000, 81)) == [(30001, 80), (30000, 81)]


def test_a_port_that_another_service_has_is_refused_in_swarmkits_words() -> None:
    world = World()
    web = a_service("web")
    published(world, web, (8080, 80))
    with pytest.raises(InvalidSpec) as refusal:
        published(world, a_service("other"), (8080, 80))
    words = f"port '8080' is already in use by service 'web' ({web.id}) as an ingress port"
    assert refusal.value.message == f"rpc error: code = InvalidArgument desc = {words}"


def test_the_same_port_of_both_protocols_is_two_ports() -> None:
    world = World()
    ports = tuple(
        PortConfig(protocol=p, published_port=53, target_port=53, publish_mode="ingress") for p in ("tcp", "udp")
    )
    service = a_service("dns")
    service = replace(service, spec=replace(service.spec, endpoint_spec=EndpointSpec(ports=ports)))
    given = world.allocator().endpoint(service).ports
    assert [(p.protocol, p.published_port) for p in given] == [("tcp", 53), ("udp", 53)]


def test_nothing_is_given_for_a_network_that_is_not_there() -> None:
    world = World()
    network = world.network()
    service = world.service(network)
    world.remove_network(network)
    with pytest.raises(NotFound, match=f"network {network.id} not found"):
        world.allocator().task(a_task(service, 1), a_node(1))
    with pytest.raises(NotFound):
        world.allocator().endpoint(service)
