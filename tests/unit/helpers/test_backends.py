"""Backends elsewhere that fall silent while no manager is there, on sockets of the loopback."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from remote_helpers import backends
from remote_helpers.backends import Prober
from tests.unit.helpers.conftest import World, ensure
from tests.unit.helpers.test_network import dest, dests, give, names, running, vip, whole
from tests.unit.helpers.test_tasks import poll


class Backend:
    """Listens on an address of the loopback, or not."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.listening = socket.create_server((address, port))
        self.place = self.listening.getsockname()

    def die(self) -> None:
        self.listening.close()

    def live(self) -> None:
        self.listening = socket.create_server(self.place)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "EACH_S", 0.03)


@pytest.mark.usefixtures("quick")
async def test_a_backend_is_silent_after_three_misses_and_back_with_its_first_answer() -> None:
    good, bad = Backend("127.0.0.1"), Backend("127.0.0.1")
    seen: list[set[Any]] = []
    prober = Prober(lambda: [good.place, bad.place], lambda: seen.append(set(prober.silent)))
    job = asyncio.create_task(prober.run())
    await poll(lambda: prober._misses.get(bad.place) == 0)
    bad.die()
    await poll(lambda: seen)
    assert seen == [{bad.place}]
    assert prober._misses[bad.place] >= backends.MISSES
    bad.live()
    await poll(lambda: len(seen) > 1)
    assert seen == [{bad.place}, set()]
    job.cancel()
    good.die()
    bad.die()


@pytest.mark.usefixtures("quick")
async def test_two_misses_are_none() -> None:
    bad = Backend("127.0.0.1")
    prober = Prober(lambda: [bad.place], lambda: None)
    bad.die()
    await prober._round([bad.place])
    await prober._round([bad.place])
    bad.live()
    await prober._round([bad.place])
    bad.die()
    await prober._round([bad.place])
    assert prober.silent == {}


@pytest.mark.usefixtures("quick")
async def test_what_is_not_wanted_any_more_is_forgotten_and_the_probing_ends() -> None:
    bad = Backend("127.0.0.1")
    bad.die()
    targets, changes = [bad.place], []
    prober = Prober(lambda: list(targets), lambda: changes.append(dict(prober.silent)))
    job = asyncio.create_task(prober.run())
    await poll(lambda: prober.silent)
    targets.clear()
    await asyncio.wait_for(job, 8)
    assert prober.silent == {} and changes[-1] == {}


async def test_no_more_than_so_many_are_tried_in_a_round_and_each_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "MOST_IN_ROUND", 4)
    tried: list[tuple[str, int]] = []
    at_once, most = 0, 0

    async def answers(target: tuple[str, int], slots: asyncio.Semaphore) -> bool:
        nonlocal at_once, most
        async with slots:
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
        tried.append(target)
        return True

    monkeypatch.setattr(backends, "AT_ONCE", 2)
    monkeypatch.setattr(backends, "_answers", answers)
    targets = [("10.0.0.1", number) for number in range(10)]
    prober = Prober(lambda: targets, lambda: None)
    for _ in range(5):
        await prober._round(targets)
    assert len(tried) == 20 and most == 2
    assert {target: tried.count(target) for target in targets} == dict.fromkeys(targets, 2)


# --- in the helper --------------------------------------------------------------------------------------------
def here_and(*others: tuple[str, str], port: int) -> dict[str, Any]:
    """A state with t1 here and backends at addresses of the loopback."""
    entry = vip(dest("t1", "127.50.1.2"), *(dest(task, address) for task, address in others), tcp_ports=[port])
    return whole(vips=[entry], ports=[], names=[names(("t1", "127.50.1.2"), *others)])


async def alone(world: World) -> None:
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: helper.lease.alone)


@pytest.mark.usefixtures("quick")
async def test_backends_are_tried_only_while_no_manager_is_there(world: World) -> None:
    t2 = Backend("127.50.1.3")
    t2.die()
    manager = await running(world, lease_s=0.5)
    await give(manager, here_and(("t2", "127.50.1.3"), port=t2.place[1]), fresh=True)
    assert world.helper is not None
    own = world.helper.network
    assert own._probing is None
    await alone(world)
    await poll(lambda: dests(world) == [("t1", 1)])
    await manager.request("lease")
    await asyncio.sleep(0.2)  # several rounds
    assert dests(world) == [("t1", 1)], "a manager that is back does not know yet"
    t2.live()
    await poll(lambda: dests(world) == [("t1", 1), ("t2", 1)])
    await poll(lambda: own._probing.done())
    t2.die()


@pytest.mark.usefixtures("quick")
async def test_the_last_backend_stays(world: World) -> None:
    t2, t3 = Backend("127.50.1.3"), Backend("127.50.1.4")
    t2.die()
    t3.die()
    t3.place = ("127.50.1.4", t2.place[1])
    manager = await world.manager(lease_s=0.5)
    state = here_and(("t2", "127.50.1.3"), ("t3", "127.50.1.4"), port=t2.place[1])
    state["vips"][0]["dests"].pop(0)
    await give(manager, state, fresh=True)
    await alone(world)
    await poll(lambda: len(dests(world)) == 1)
    t2.live()
    t3.live()
    await poll(lambda: len(dests(world)) == 2)
    t2.die()
    t3.die()


@pytest.mark.usefixtures("quick")
async def test_own_tasks_are_not_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    async def answers(target: tuple[str, int], slots: Any) -> bool:
        tried.append(target)
        return True

    monkeypatch.setattr(backends, "_answers", answers)
    manager = await world.manager(lease_s=0.5)
    await give(manager, here_and(("t2", "127.50.1.3"), port=80), fresh=True)
    await manager.apply(ensure("t1"))
    await manager.task("t1", "running")
    await alone(world)
    await poll(lambda: tried)
    assert set(tried) == {("127.50.1.3", 80)}
