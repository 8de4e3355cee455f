"""Two clusters and one node: neither is told of the other's tasks, nor acts on them."""

from __future__ import annotations

from typing import Any

from tests.unit.helpers.conftest import Manager, World, ensure
from tests.unit.helpers.test_tasks import remove, stop


def batch(cluster: str, *actions: dict[str, Any], epoch: int = 1, index: int = 1) -> dict[str, Any]:
    return {"cluster_id": cluster, "epoch": epoch, "index": index, "actions": list(actions)}


def told(manager: Manager) -> set[str]:
    return {task_id for task_id, one in manager.tasks.items() if one["state"] != "gone"}


async def released(world: World) -> None:
    """clustera ran t1 here, and let the node go with it."""
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    assert (await manager.request("release"))["ok"]
    await manager.close()


# --- A: whose tasks ---
async def test_a_cluster_is_not_told_of_what_another_one_left_and_cannot_remove_it(world: World) -> None:
    await released(world)
    manager = await world.manager(cluster="clusterb")
    assert not told(manager)
    actions = [ensure("t2"), remove("t1"), stop("t1"), ensure("t1")]
    assert (await manager.request("apply", batch("clusterb", *actions)))["ok"]
    await manager.task("t2", "running", ready=True)
    report = (await manager.request("report"))["result"]
    assert [one["task_id"] for one in report["tasks"]] == ["t2"]
    assert (await manager.request("end_processes", {"task_ids": ["t1"]}))["result"] == {"ended": []}
    assert told(manager) == {"t2"}
    assert world.engine.state_of("t1")["Running"]


async def test_what_another_cluster_left_does_not_keep_the_holder_out_later(world: World) -> None:
    await released(world)
    first = await world.manager(cluster="clusterb")
    await first.close()
    second = await world.manager(cluster="clusterb", epoch=2)
    assert not told(second)


async def test_a_container_of_another_cluster_with_the_same_task_id_is_not_removed(world: World) -> None:
    await released(world)
    assert world.helper is not None
    manager = await world.manager(cluster="clusterb")
    world.helper.tasks.by_id.pop("t1")
    await manager.request("apply", batch("clusterb", remove("t1")))
    await manager.task("t1", "gone")
    assert world.engine.state_of("t1")["Running"]


async def test_a_cluster_that_comes_back_finds_what_it_left(world: World) -> None:
    await released(world)
    manager = await world.manager()
    assert (await manager.task("t1", "running"))["container_id"] == "c1"
    await manager.apply(remove())
    await manager.task("t1", "gone")
    assert not world.engine.containers
