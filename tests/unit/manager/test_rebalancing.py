"""A rebalance from the request to the last task: use case, store and orchestrator together."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.manager.usecases import rebalance
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_node

from .test_placing import Scene


@pytest.fixture
async def scene() -> Scene:
    """A service of four tasks on one node, and a node that is new."""
    scene = await Scene().begin(nodes=1)
    await scene.network("net1")
    await scene.create("web", replicas=4, networks=("net1",), ports=((8080, 80),))
    await settle(scene)
    await scene.store.commit(lambda _: Changes(put_nodes=(a_node(2),)))
    return scene


def ready(snapshot: ClusterSnapshot) -> Changes:
    running = (t for t in snapshot.tasks.values() if t.status.state is TaskState.RUNNING and not t.status.ready)
    return Changes(put_tasks=tuple(replace(t, status=replace(t.status, ready=True)) for t in running))


async def settle(scene: Scene) -> None:
    """As the scene's own, and what runs becomes ready."""
    while True:
        before = scene.snapshot
        await scene.settle()
        scene.store.observe(ready)
        if scene.snapshot == before:
            return


async def asked(scene: Scene) -> int:
    plan = await rebalance.plan(scene.store, scene.clock, dict, ["web"])
    return len(await rebalance.begin(scene.store, scene.clock, plan))


async def test_tasks_move_with_addresses_on_their_new_node_and_a_second_run_does_nothing(scene: Scene) -> None:
    assert await asked(scene) == 2
    await settle(scene)
    homes = [scene.snapshot.nodes[t.node_id].spec.name for t in scene.live("web")]
    assert sorted(homes) == ["n1", "n1", "n2", "n2"]
    assert len({t.addresses[0].address for t in scene.live("web")}) == 4
    assert all(t.egress_address for t in scene.live("web"))
    assert await asked(scene) == 0


async def test_another_manager_goes_on_from_what_is_stored(scene: Scene) -> None:
    await asked(scene)
    scene.orchestrator.touch_all()
    await scene.orchestrator.one_pass()
    assert len(scene.live("web")) == 5
    scene.orchestrator = Orchestrator(scene.store, scene.clock, scene.ids)
    await settle(scene)
    assert sorted(t.node_id for t in scene.live("web")) == sorted([a_node(1).id] * 2 + [a_node(2).id] * 2)


async def test_what_changed_between_plan_and_request_is_not_moved(scene: Scene) -> None:
    plan = await rebalance.plan(scene.store, scene.clock, dict, [])
    await scene.update("web", replicas=4, Image="web:2", networks=("net1",), ports=((8080, 80),))
    assert await rebalance.begin(scene.store, scene.clock, plan) == ()
    plan = await rebalance.plan(scene.store, scene.clock, dict, [])
    assert plan.moves == (), "its tasks are of the old version"


async def test_a_move_that_was_begun_meanwhile_is_not_begun_again(scene: Scene) -> None:
    first = await rebalance.plan(scene.store, scene.clock, dict, [])
    second = await rebalance.plan(scene.store, scene.clock, dict, [])
    assert len(await rebalance.begin(scene.store, scene.clock, first)) == 2
    scene.orchestrator.touch_all()
    await scene.orchestrator.one_pass()
    marks = {t.id: t.rebalance for t in rebalance.marked(scene.snapshot)}
    assert await rebalance.begin(scene.store, scene.clock, second) == ()
    assert {t.id: t.rebalance for t in rebalance.marked(scene.snapshot)} == marks


async def test_a_stop_takes_back_what_was_begun(scene: Scene) -> None:
    before = {t.id for t in scene.live("web")}
    await asked(scene)
    scene.orchestrator.touch_all()
    await scene.orchestrator.one_pass()
    assert await rebalance.stop(scene.store, ["web"]) == 2
    await settle(scene)
    assert {t.id for t in scene.live("web")} == before
    assert {t.rebalance.stopped for t in rebalance.marked(scene.snapshot)} == {rebalance.STOPPED}
