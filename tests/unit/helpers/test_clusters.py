"""Two clusters and one node: neither is told of the other's tasks, nor acts on them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.helpers.conftest import Manager, World, ensure
from tests.unit.helpers.test_network import whole
from tests.unit.helpers.test_tasks import poll, remove, stop


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


# --- B: nothing of it stays armed ---
async def test_nothing_is_pulled_or_started_after_a_release(world: World) -> None:
    world.engine.hold_pulls = asyncio.Event()
    world.engine.registry.add("x:1")
    manager = await world.manager()
    await manager.apply(ensure("t1", image="x:1"), ensure("t2", desired="ready"))
    await manager.task("t2", "ready")
    await poll(lambda: world.engine.auths)
    assert (await manager.request("release"))["ok"]
    world.engine.hold_pulls.set()
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: set(helper.tasks.by_id) == {"t2"})
    assert not [one for one in world.engine.calls if one.endswith("/start")]
    assert len(world.engine.containers) == 1


async def test_a_released_container_gets_no_policy_when_the_next_cluster_loses_its_lease(world: World) -> None:
    await released(world)
    manager = await world.manager(cluster="clusterb", lease_s=0.5)
    await manager.request("apply", batch("clusterb", ensure("t2")))
    await manager.task("t2", "running", ready=True)
    await poll(lambda: world.engine.container_of("t2")["HostConfig"]["RestartPolicy"]["Name"] == "always")
    assert world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    world.engine.die("t1", 1)
    world.engine.die("t2", 1)
    await poll(lambda: world.engine.state_of("t2")["Running"])
    assert not world.engine.state_of("t1")["Running"]


async def test_only_the_newest_session_may_release(world: World) -> None:
    old = await world.manager()
    assert world.helper is not None
    helper = world.helper
    was = helper.session
    await world.manager(epoch=2)
    reply = await asyncio.gather(helper._carry_out(was, "release", {}), return_exceptions=True)
    assert getattr(reply[0], "code", "") == "stale_epoch"
    assert helper.fence.cluster_id == "clustera"
    await old.close()


# --- C: the way out ---
async def test_a_lost_clusters_containers_removed_by_hand_let_the_next_cluster_in(world: World) -> None:
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure("t1"), ensure("t2", image="nosuch:1"))
    await manager.task("t1", "running", ready=True)
    await manager.task("t2", "rejected")
    await manager.close()
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: helper.lease.alone)
    other = await world.manager(attach=False)
    refused = await other.attach(cluster="clusterb")
    assert refused["error"]["code"] == "other_cluster"
    assert "docker rm -f" in refused["error"]["hint"]
    world.engine.event("destroy", world.engine.containers.pop("c1"))
    await poll(lambda: helper.tasks.clusters() == set())
    assert (await other.attach(cluster="clusterb"))["ok"]
    await poll(lambda: not helper.tasks.by_id)
    await other.until(lambda: not told(other))


async def test_a_released_helper_leaves_when_its_last_container_is_removed_by_hand(world: World) -> None:
    await released(world)
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: not helper.sessions)
    assert not helper.finished.is_set()
    world.engine.event("destroy", world.engine.containers.pop("c1"))
    await poll(helper.finished.is_set)
    assert not helper.tasks.by_id


# --- D: after a reboot, before the Engine answers ---
async def reboot(world: World) -> None:
    await world.crash()
    await world.engine.stop()
    (Path(world.root) / "state.json").unlink()
    world.resume()


def container(world: World, cluster: str, index: int = 7) -> None:
    labels = {"swarmsh.cluster": cluster, "swarmsh.index": str(index), "com.docker.swarm.task.id": "t1"}
    world.engine.add({"Labels": labels}, "web.1.t1")


async def test_an_attach_before_the_list_is_taken_back_if_another_cluster_has_containers(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(cluster="clusterb")
    assert (await manager.request("apply", batch("clusterb", ensure("t2"))))["ok"]
    await world.engine.start()
    reason = (await manager.event("goodbye"))["reason"]
    assert reason.startswith("other_cluster")
    assert "clustera" in reason
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: set(helper.tasks.by_id) == {"t1"})
    assert not [call for call in world.engine.calls if call.startswith("POST")]
    again = await world.manager(attach=False)
    assert (await again.event("hello"))["cluster_id"] == "clustera"
    assert (await again.attach(cluster="clusterb"))["error"]["code"] == "other_cluster"
    assert (await again.attach())["ok"]


async def test_networks_and_keys_wait_for_the_list_and_are_not_those_of_another_cluster(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(cluster="clusterb")
    fence = {"cluster_id": "clusterb", "epoch": 1, "index": 1}
    manager.send({"id": 71, "op": "network", "args": {**fence, "fresh": True, "put": whole()}})
    manager.send({"id": 72, "op": "secure", "args": {"n": 2, "address": "10.98.0.12", "closed": True}})
    await manager.request("lease")
    assert not world.passes
    await world.engine.start()
    assert (await manager.event("goodbye"))["reason"].startswith("other_cluster")
    await manager.until(lambda: manager.ended)
    assert not world.passes


async def test_networks_that_waited_for_the_list_are_made_in_their_order(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(index=7)
    fence = {"cluster_id": "clustera", "epoch": 1, "index": 7}
    manager.send({"id": 71, "op": "network", "args": {**fence, "fresh": True, "put": whole()}})
    manager.send({"id": 72, "op": "network", "args": {**fence, "put": {}, "drop": {"ports": [4]}}})
    await manager.request("lease")
    assert not world.passes
    await world.engine.start()
    assert (await manager.until(lambda: manager.replies.get(72)))["ok"]
    assert manager.replies[71]["ok"]
    assert world.passes[-1][1]["ports"] == []


async def test_an_attach_before_the_list_stands_if_the_containers_are_its_own(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(index=7)
    assert (await manager.apply(ensure("t2")))["ok"]
    await world.engine.start()
    await manager.task("t2", "running")
    assert world.helper is not None
    assert world.helper.fence.index == 7
    assert (await manager.apply(index=6))["error"]["code"] == "stale_index"


async def test_a_manager_behind_the_containers_is_sent_back_to_the_hello(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(index=6)
    await world.engine.start()
    assert "index 7" in (await manager.event("goodbye"))["reason"]
    again = await world.manager(attach=False)
    assert (await again.event("hello"))["index"] == 7


# --- E: what `engine_ok` says ---
async def test_the_engine_is_not_ok_before_its_first_list_was_told(world: World) -> None:
    container(world, "clustera")
    await world.manager()
    await reboot(world)
    manager = await world.manager(heartbeat_s=0.1, index=7)
    await world.engine.start()
    await manager.event("engine", ok=True)
    await manager.event("heartbeat", engine_ok=True)
    names = [
        (one["event"], one["data"].get("engine_ok", one["data"].get("ok")))
        for one in manager.events
        if one["event"] in ("task", "engine", "heartbeat")
    ]
    told_at = next(i for i, (name, _) in enumerate(names) if name == "task")
    assert not any(ok for name, ok in names[:told_at] if name != "task")
    assert [ok for name, ok in names if name == "engine"] == [True]


# --- F: processes that are not known are not ended ---
async def test_a_task_whose_start_hangs_is_not_called_ended_and_wound_down_when_it_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await world.manager()
    await manager.apply(ensure(desired="ready"))
    await manager.task("t1", "ready")
    assert world.helper is not None
    task = world.helper.tasks.by_id["t1"]
    call, begun, goes_on = task.node.engine.call, asyncio.Event(), asyncio.Event()

    async def hang(method: str, path: str, **more: Any) -> Any:
        if path.endswith("/start"):
            begun.set()
            await goes_on.wait()
        return await call(method, path, **more)

    monkeypatch.setattr(task.node.engine, "call", hang)
    await manager.apply(ensure())
    await begun.wait()
    assert (await manager.request("end_processes", {"task_ids": ["t1"]}))["result"] == {"ended": []}
    goes_on.set()
    assert "ended by its cgroup" in (await manager.task("t1", "failed"))["err"]
    assert not world.engine.state_of("t1")["Running"]
