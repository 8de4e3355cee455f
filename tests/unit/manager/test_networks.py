"""Use cases of networks over time, and the numbers of nodes."""

from __future__ import annotations

import pytest

from swarmsh.core.allocate import LAST_NODE_NUMBER, QUARANTINE_S
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases.cluster import init_cluster
from swarmsh.manager.usecases.networks import create_network, forget_lapsed, remove_network
from swarmsh.manager.usecases.nodes import add_node, remove_node
from swarmsh.model.objects import SshTarget
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import NetworkSpec, NodeSpec
from tests.fakes.objects import a_node
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


async def test_a_node_has_the_lowest_free_number_for_its_lifetime(scene: Scene) -> None:
    async def add(name: str) -> int:
        target = SshTarget(address=f"{name}.example")
        return (await add_node(scene.store, scene.ids, scene.clock, NodeSpec(name=name), target)).number

    assert [await add(name) for name in ("a", "b", "c")] == [1, 2, 3]
    await remove_node(scene.store, scene.clock, "b", force=True)
    assert [await add(name) for name in ("d", "e")] == [2, 4]
    assert {n.spec.name: n.number for n in scene.store.snapshot.nodes.values()} == {"a": 1, "c": 3, "d": 2, "e": 4}


async def test_a_node_that_no_number_is_left_for_is_refused(scene: Scene) -> None:
    nodes = tuple(a_node(number) for number in range(1, LAST_NODE_NUMBER + 1))
    await scene.store.commit(lambda _: Changes(put_nodes=nodes))
    with pytest.raises(InvalidSpec, match="255 nodes"):
        await add_node(scene.store, scene.ids, scene.clock, NodeSpec(name="x"), SshTarget(address="x.example"))
    assert len(scene.store.snapshot.nodes) == LAST_NODE_NUMBER
