"""Fenced tasks: stopped by their node when neither the manager nor another node is in reach, else as any other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import isolation, task

from .conftest import Manager, World, ensure
from .test_tasks import poll

OWN = {"node": "n", "address": "own", "port": 22}
OTHER = {"node": "o", "address": "other", "port": 22}


class Reach:
    """Who answers: addresses, in the place of `check_peers`."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.asked = 0
        self.deaf = 0  # so many rounds from now reach nobody

    async def check(self, peers: list[dict[str, Any]], timeout_s: float) -> dict[str, bool]:
        self.asked += 1
        if self.deaf:
            self.deaf -= 1
            return {peer["node"]: False for peer in peers}
        return {peer["node"]: peer["address"] in self.addresses for peer in peers}


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Reach:
    reach = Reach()
    monkeypatch.setattr(isolation, "check_peers", reach.check)
    monkeypatch.setattr(isolation, "LOOK_S", 0.05)
    monkeypatch.setattr(isolation, "CHECK_S", 0.1)
    return reach


async def fenced(world: World, *, lease_s: float = 0.5, peers: Any = (OWN, OTHER), **changes: Any) -> Manager:
    """A manager that falls silent once task t1 runs."""
    manager = await world.manager(lease_s=lease_s)
    await apply(manager, ensure(fence=True, restart_delay_s=0.1, **changes), peers=peers)
    await manager.task("t1", "running")
    return manager


async def apply(manager: Manager, *actions: dict[str, Any], peers: Any) -> dict[str, Any]:
    args = {"cluster_id": "clustera", "epoch": 1, "index": 1, "actions": list(actions), "peers": list(peers)}
    return await manager.request("apply", args)


def policy(world: World) -> str:
    return str(world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"])


@pytest.mark.parametrize("in_reach", [set(), {"own"}, {"other"}], ids=["nobody", "itself", "others, but no sshd"])
async def test_a_fenced_task_ends_when_nobody_is_in_reach(world: World, reach: Reach, in_reach: set[str]) -> None:
    reach.addresses = in_reach
    manager = await fenced(world)
    await apply(manager, ensure("t2"), peers=[OWN, OTHER])
    await manager.task("t2", "running")
    report = await manager.task("t1", "failed")
    assert report["err"] == f"task: non-zero exit (143): {task.CUT_OFF}"
    assert policy(world) == "no"
    assert world.engine.state_of("t2")["Running"], "only fenced tasks end"


async def test_without_other_nodes_nobody_is_in_reach(world: World, reach: Reach) -> None:
    reach.addresses = {"own"}
    manager = await fenced(world, peers=[OWN])
    await manager.task("t1", "failed")
    assert reach.asked == 0


async def test_it_stays_ended_when_others_are_back(world: World, reach: Reach) -> None:
    manager = await fenced(world)
    await manager.task("t1", "failed")
    reach.addresses = {"own", "other"}
    manager = await world.manager(epoch=2)
    assert manager.tasks["t1"]["state"] == "failed"
    await manager.request("report")
    assert not world.engine.state_of("t1")["Running"]


@pytest.mark.parametrize("own", ["own", "127.0.0.1"])
async def test_while_another_node_is_in_reach_it_goes_on_and_is_restarted_by_the_helper(
    world: World, reach: Reach, own: str
) -> None:
    reach.addresses = {own, "other"}
    manager = await fenced(world)
    await poll(lambda: reach.asked > 2)
    world.engine.die("t1", 1)
    await manager.task("t1", "running", restarts=1)
    assert policy(world) == "no"
    reach.addresses = set()
    await manager.task("t1", "failed")


async def test_one_round_that_reaches_nobody_ends_nothing(world: World, reach: Reach) -> None:
    reach.addresses = {"own", "other"}
    await fenced(world)
    await poll(lambda: reach.asked > 2)
    for _ in range(3):
        reach.deaf = 1
        asked = reach.asked
        await poll(lambda: reach.asked > asked + 2)  # noqa: B023
    assert world.engine.state_of("t1")["Running"]


async def test_one_that_is_unhealthy_without_a_manager_is_restarted_by_the_helper(
    world: World, reach: Reach
) -> None:
    reach.addresses = {"own", "other"}
    world.engine.health_at_start = "healthy"
    manager = await fenced(world)
    await poll(lambda: reach.asked > 1)
    world.engine.set_health("t1", "unhealthy")
    await manager.task("t1", "running", restarts=1)
    assert "POST /containers/c1/restart" not in world.engine.calls


async def test_an_ended_one_is_not_started_while_nobody_is_in_reach(world: World, reach: Reach) -> None:
    reach.addresses = {"own", "other"}
    manager = await fenced(world)
    await poll(lambda: reach.asked > 1)
    starts = world.engine.calls.count("POST /containers/c1/start")
    reach.addresses = set()
    world.engine.die("t1", 1)
    await manager.task("t1", "failed")
    assert world.engine.calls.count("POST /containers/c1/start") <= starts + 1  # an answer was fresh, perhaps
    assert not world.engine.state_of("t1")["Running"]


async def test_one_whose_start_comes_too_late_never_starts(world: World, reach: Reach) -> None:
    world.engine.images.clear()
    world.engine.registry.add("web:1")
    world.engine.hold_pulls = asyncio.Event()
    manager = await world.manager(lease_s=0.3)
    await apply(manager, ensure(fence=True), peers=[OWN, OTHER])
    await poll(lambda: reach.asked > 1)
    world.engine.hold_pulls.set()
    assert task.CUT_OFF in (await manager.task("t1", "failed"))["err"]
    assert "POST /containers/c1/start" not in world.engine.calls


async def test_it_lives_by_what_the_manager_has_heard_not_by_lines_that_come_late(
    world: World, reach: Reach
) -> None:
    manager = await fenced(world, lease_s=1.0)
    for _ in range(30):  # a broken connection delivers what was written long ago
        manager.send({"id": 1000, "op": "lease", "args": {}, "beat": 1})
        await asyncio.sleep(0.05)
    assert world.helper is not None
    assert not world.helper.lease.alone
    await manager.task("t1", "failed")


async def test_renewals_that_answer_heartbeats_keep_it(world: World, reach: Reach) -> None:
    manager = await world.manager(lease_s=0.6, heartbeat_s=0.1)
    await apply(manager, ensure(fence=True), peers=[OWN, OTHER])
    for _ in range(30):
        beats = [one["data"]["seq"] for one in manager.events if one["event"] == "heartbeat"]
        manager.send({"id": 1000, "op": "lease", "args": {}, "beat": max(beats, default=0)})
        await asyncio.sleep(0.05)
    assert manager.tasks["t1"]["state"] == "running"
    assert reach.asked == 0


async def test_a_crash_of_the_helper_does_not_prolong_its_time(world: World, reach: Reach) -> None:
    await fenced(world, lease_s=2.0)
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    state = json.loads((Path(world.root) / "state.json").read_text())
    assert state["isolation"]["peers"] == [OWN, OTHER]
    await world.crash()
    state["isolation"]["proven"] -= 2.0  # it was down for as long
    (Path(world.root) / "state.json").write_text(json.dumps(state))
    world.resume()
    await poll(lambda: not world.engine.state_of("t1")["Running"])
    assert world.helper is not None
    assert not world.helper.lease.alone, "the manager has its whole time for all else"


async def test_a_grace_period_is_bounded_and_a_silent_engine_no_excuse(
    world: World, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "CUT_OFF_GRACE_S", 0.2)
    monkeypatch.setattr(isolation, "KILL_AFTER_S", 0.1)
    ended: list[str] = []

    async def end_processes(self: task.Task) -> bool:
        ended.append(self.id)
        return True

    monkeypatch.setattr(task.Task, "end_processes", end_processes)
    await fenced(world, stop_grace_s=3600.0)
    await world.engine.stop()
    await poll(lambda: ended == ["t1"])


async def test_peers_that_make_no_sense_are_refused(world: World) -> None:
    manager = await world.manager()
    assert (await apply(manager, peers=[{"node": "x"}]))["error"]["code"] == "bad_request"
    for nonsense in ([{"node": "x"}], "x", ["x"]):
        reply = await manager.request("check_peers", {"peers": nonsense})
        assert reply["error"]["code"] == "bad_request", nonsense


async def test_one_that_is_being_stopped_ends_in_the_time_that_the_manager_counts_with(
    world: World, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "CUT_OFF_GRACE_S", 0.2)
    monkeypatch.setattr(isolation, "KILL_AFTER_S", 60.0)
    reach.addresses = {"own", "other"}
    manager = await world.manager(lease_s=0.5)
    await apply(manager, ensure(fence=True, stop_grace_s=600.0), peers=[OWN, OTHER])
    await manager.task("t1", "running")
    world.engine.ignores_term = True
    await apply(manager, {"do": "stop_task", "task_id": "t1", "grace_s": 600.0}, peers=[OWN, OTHER])
    reach.addresses = set()
    await manager.task("t1", "shutdown", exit_code=137)
