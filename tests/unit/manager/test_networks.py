"""Use cases of networks over time, the numbers of nodes, and what must not be in each other's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.adapters.store import SqliteStore
from swarmsh.core.allocate import LAST_NODE_NUMBER, LOST_NODE_QUARANTINE_S, QUARANTINE_S
from swarmsh.errors import Exhausted, InvalidSpec
from swarmsh.manager.usecases.cluster import init_cluster
from swarmsh.manager.usecases.networks import create_network, forget_lapsed, remove_network
from swarmsh.manager.usecases.nodes import add_node, check_routes, release_number, remove_node, retarget_node
from swarmsh.manager.usecases.services import create_service
from swarmsh.model.objects import Node, NodeDescription, SshTarget
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import (
    IPAM,
    ContainerSpec,
    EndpointSpec,
    IPAMConfig,
    NetworkAttachment,
    NetworkSpec,
    NodeSpec,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_node, a_service, a_task
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock


class Scene:
    def __init__(self) -> None:
        self.clock, self.ids = FakeClock(), CountingIds("i")
        self.store = MemoryStore(self.clock)

    async def begin(self) -> Scene:
        await init_cluster(self.store, self.ids, self.clock)
        return self

    async def network(self, name: str) -> tuple[str, int]:
        made = await create_network(self.store, self.ids, self.clock, NetworkSpec(name=name))
        return made.subnet, made.vni


@pytest.fixture
async def scene() -> Scene:
    return await Scene().begin()


async def test_a_network_made_anew_has_another_name_on_nodes_while_the_removed_one_may_be_there(
    scene: Scene,
) -> None:
    async def names(name: str) -> tuple[str, str]:
        made = await create_network(scene.store, scene.ids, scene.clock, NetworkSpec(name=name))
        return made.spec.name, made.docker_name

    assert await names("net1") == ("net1", "net1")
    assert await names("net1-4098") == ("net1-4098", "net1-4098")
    await remove_network(scene.store, scene.clock, "net1")
    assert await names("net1") == ("net1", "net1-4098-4098"), "nor that of a third one"
    scene.clock.pass_time(QUARANTINE_S)
    await forget_lapsed(scene.store, scene.clock)
    kept = scene.store.snapshot.networks[scene.store.snapshot.network_ids["net1"]]
    assert kept.docker_name == "net1-4098-4098", "containers are on it by that name"
    await remove_network(scene.store, scene.clock, "net1")
    assert await names("net1") == ("net1", "net1")


async def test_the_numbers_of_a_removed_network_come_back_after_the_quarantine(scene: Scene) -> None:
    first = await scene.network("first")
    await remove_network(scene.store, scene.clock, "first")
    assert await scene.network("second") != first
    scene.clock.pass_time(QUARANTINE_S)
    assert await scene.network("third") == first
    assert len(scene.store.snapshot.networks) == 2


async def test_a_full_pass_forgets_what_is_over_and_then_writes_nothing(scene: Scene) -> None:
    await scene.network("first")
    await remove_network(scene.store, scene.clock, "first")
    await forget_lapsed(scene.store, scene.clock)
    assert scene.store.snapshot.networks
    scene.clock.pass_time(QUARANTINE_S)
    await forget_lapsed(scene.store, scene.clock)
    assert not scene.store.snapshot.networks
    index = scene.store.snapshot.index
    await forget_lapsed(scene.store, scene.clock)
    assert scene.store.snapshot.index == index


async def add(scene: Scene, name: str, **target: Any) -> Node:
    reached = SshTarget(**({"address": f"{name}.example"} | target))
    return await add_node(scene.store, scene.ids, scene.clock, NodeSpec(name=name), reached)


async def test_a_node_keeps_the_number_that_it_got_and_a_removed_one_may_still_have_its_own(scene: Scene) -> None:
    numbers = [(await add(scene, name)).number for name in ("a", "b", "c")]
    assert numbers == [1, 2, 3]
    await remove_node(scene.store, scene.clock, "b", force=True)
    scene.clock.pass_time(QUARANTINE_S + LOST_NODE_QUARANTINE_S)
    await forget_lapsed(scene.store, scene.clock)
    assert (await add(scene, "d")).number == 4
    assert {n.spec.name: n.number for n in scene.store.snapshot.nodes.values()} == {"a": 1, "c": 3, "d": 4}


async def test_the_number_of_a_node_that_left_is_free_after_the_quarantine(scene: Scene) -> None:
    _, b = await add(scene, "a"), await add(scene, "b")
    await remove_node(scene.store, scene.clock, "b", force=True)
    await release_number(scene.store, scene.clock, b.id)
    assert (await add(scene, "c")).number == 3
    scene.clock.pass_time(QUARANTINE_S)
    assert (await add(scene, "d")).number == 2
    # Too late: by now it is another node's.
    await release_number(scene.store, scene.clock, b.id)
    assert not scene.store.snapshot.releases
    assert (await add(scene, "e")).number == 4


async def test_the_number_of_a_lost_node_is_the_last_to_be_given_again(scene: Scene) -> None:
    nodes = tuple(a_node(number) for number in range(1, LAST_NODE_NUMBER + 1))
    await scene.store.commit(lambda _: Changes(put_nodes=nodes))
    for name in ("n7", "n3"):
        await remove_node(scene.store, scene.clock, name, force=True)
        scene.clock.pass_time(1)
    with pytest.raises(Exhausted, match="253 nodes already, and 2 were removed not long ago") as refusal:
        await add(scene, "x")
    assert refusal.value.free_at == scene.clock.now() - 2 + LOST_NODE_QUARANTINE_S
    scene.clock.pass_time(LOST_NODE_QUARANTINE_S)
    assert [(await add(scene, name)).number for name in ("x", "y")] == [7, 3]


async def test_the_numbers_of_removed_nodes_are_remembered_by_a_store_on_disk(tmp_path: Path) -> None:
    clock, ids = FakeClock(), CountingIds("i")

    async def opened() -> SqliteStore:
        return await SqliteStore.open(tmp_path, clock)

    store = await opened()
    await init_cluster(store, ids, clock)
    scene = Scene()
    scene.store, scene.clock, scene.ids = store, clock, ids  # type: ignore[assignment]
    await add(scene, "a")
    await add(scene, "b")
    await remove_node(store, clock, "b", force=True)
    await store.close()
    scene.store = await opened()  # type: ignore[assignment]
    assert (await add(scene, "c")).number == 3
    await scene.store.close()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"address": "10.48.3.4"}, "lies in 10.48.0.0/20, the subnet of network net1"),
        ({"address": "10.255.9.9"}, "lies in 10.255.0.0/16, through which tasks reach the outside"),
        ({"underlay": "10.48.3.4"}, "lies in 10.48.0.0/20"),
        ({"address": "10.1.1.1", "port": 2222}, "every node answers on port 2222, which service web publishes"),
    ],
)
async def test_a_node_whose_addresses_or_ports_are_in_use_is_refused(
    scene: Scene, target: dict[str, Any], words: str
) -> None:
    await scene.network("net1")
    node = await add(scene, "a")
    ports = (PortConfig(target_port=80, published_port=2222),)
    spec = ServiceSpec(
        name="web",
        task_template=TaskSpec(container_spec=ContainerSpec(image="web:1")),
        endpoint_spec=EndpointSpec(ports=ports),
    )
    await create_service(scene.store, scene.ids, scene.clock, spec)
    with pytest.raises(InvalidSpec) as refusal:
        await add(scene, "b", **target)
    assert words in refusal.value.message
    moved = SshTarget(**({"address": "a.example"} | target))
    with pytest.raises(InvalidSpec, match="node a"):
        await retarget_node(scene.store, scene.clock, node.id, moved)


async def test_a_node_takes_no_address_away_from_one_whose_tasks_use_networks(scene: Scene) -> None:
    one, two = await add(scene, "a", address="192.0.2.1"), await add(scene, "b", address="192.0.2.2")
    await add(scene, "c", address="192.0.2.2", port=2200)  # nobody is hurt yet
    task = replace(a_task(a_service("web"), 1, one.id, TaskState.RUNNING), egress_address="10.255.1.2")
    await scene.store.commit(lambda _: Changes(put_tasks=(task,)))
    with pytest.raises(InvalidSpec, match=r"address 192\.0\.2\.1 of node a, whose tasks use networks") as refusal:
        await add(scene, "d", address="192.0.2.1", port=2200)
    assert "swarmsh_underlay" in refusal.value.hint
    with pytest.raises(InvalidSpec, match="of node a"):
        await retarget_node(scene.store, scene.clock, two.id, SshTarget(address="192.0.2.1", port=2200))
    await add(scene, "d", address="192.0.2.1", port=2200, underlay="10.9.0.4")


# --- the way outside ----------------------------------------------------------------------------------------
async def routed(scene: Scene, *routes: str, name: str = "a") -> None:
    node = await add(scene, name)
    described = replace(node, description=NodeDescription(routes=routes))
    await scene.store.commit(lambda _: Changes(put_nodes=(described,)))


def on(*networks: str) -> ServiceSpec:
    template = TaskSpec(
        container_spec=ContainerSpec(image="web:1"), networks=tuple(NetworkAttachment(target=n) for n in networks)
    )
    return ServiceSpec(name="web" + "".join(networks), task_template=template)


@pytest.mark.parametrize(
    ("routes", "pool"),
    [
        ((), ""),
        (("0.0.0.0/0", "10.0.0.0/9", "172.17.0.0/16"), ""),
        (("10.255.255.0/24",), "10.254.0.0/16"),
        (("10.192.0.0/10",), "172.30.0.0/16"),
        (("10.192.0.0/10", "172.16.0.0/12"), "198.18.0.0/16"),
    ],
)
async def test_the_way_outside_leads_through_addresses_that_no_node_reaches_already(
    scene: Scene, routes: tuple[str, ...], pool: str
) -> None:
    await routed(scene, *routes)
    await create_service(scene.store, scene.ids, scene.clock, on())
    assert scene.store.snapshot.cluster is not None
    assert scene.store.snapshot.cluster.egress_pool == ""  # nobody needs any
    await create_network(
        scene.store,
        scene.ids,
        scene.clock,
        NetworkSpec(name="net1", ipam=IPAM(config=(IPAMConfig(subnet="192.168.0.0/16"),))),
    )
    await create_service(scene.store, scene.ids, scene.clock, on("net1"))
    assert scene.store.snapshot.cluster.egress_pool == pool
    # From now on it stays: containers have such addresses.
    await routed(scene, pool or "10.255.0.0/16", name="b")
    await create_service(scene.store, scene.ids, scene.clock, replace(on("net1"), name="other"))
    assert scene.store.snapshot.cluster.egress_pool == pool


async def test_without_any_way_outside_it_is_said_what_is_in_the_way(scene: Scene) -> None:
    await routed(scene, "10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15")
    spec = replace(on(), endpoint_spec=EndpointSpec(ports=(PortConfig(target_port=80),)))
    with pytest.raises(Exhausted, match=r"10\.255\.0\.0/16: node a reaches 10\.0\.0\.0/8; ") as refusal:
        await create_service(scene.store, scene.ids, scene.clock, spec)
    assert "Remove a route" in refusal.value.hint


async def test_a_node_that_no_number_is_left_for_is_refused(scene: Scene) -> None:
    nodes = tuple(a_node(number) for number in range(1, LAST_NODE_NUMBER + 1))
    await scene.store.commit(lambda _: Changes(put_nodes=nodes))
    with pytest.raises(Exhausted, match="255 nodes"):
        await add_node(scene.store, scene.ids, scene.clock, NodeSpec(name="x"), SshTarget(address="x.example"))
    assert len(scene.store.snapshot.nodes) == LAST_NODE_NUMBER


async def test_a_node_that_comes_to_reach_what_a_network_has_is_named_by_its_check(scene: Scene) -> None:
    await scene.network("net1")
    node = await add(scene, "a")
    assert check_routes(scene.store.snapshot, node)["ok"]
    described = replace(node, description=NodeDescription(routes=("10.48.4.0/22", "10.255.0.0/24", "10.1.0.0/16")))
    found = check_routes(scene.store.snapshot, described)
    assert not found["ok"]
    assert found["detail"] == (
        "10.48.4.0/22 overlaps network net1 (10.48.0.0/20); "
        "10.255.0.0/24 overlaps the way outside (10.255.0.0/16): no task is placed here that needs it"
    )
