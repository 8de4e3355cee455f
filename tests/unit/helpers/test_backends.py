"""Backends elsewhere that fall silent while no manager is there, on sockets of the loopback."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from typing import Any

import pytest

from remote_helpers import backends
from remote_helpers.backends import Prober
from tests.unit.helpers.conftest import World, ensure
from tests.unit.helpers.test_network import NET, dest, dests, give, names, running, vip, whole
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

    async def connects(target: tuple[str, int], slots: asyncio.Semaphore) -> bool:
        nonlocal at_once, most
        async with slots:
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
        tried.append(target)
        return True

    async def echoes(self: backends.Echoes, address: str) -> bool:
        tried.append((address, backends.PING))
        return True

    monkeypatch.setattr(backends, "AT_ONCE", 2)
    monkeypatch.setattr(backends, "_connects", connects)
    monkeypatch.setattr(backends.Echoes, "answers", echoes)
    ports = [("10.0.0.1", number) for number in range(1, 11)]
    others = [(f"10.0.1.{number}", backends.PING) for number in range(5)]
    prober = Prober(lambda: [], lambda: None)
    for _ in range(5):
        await prober._round([*others, *ports])
    assert len(tried) == 40 and most == 2
    assert {target: tried.count(target) for target in ports} == dict.fromkeys(ports, 2)
    assert {target: tried.count(target) for target in others} == dict.fromkeys(others, 4)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs raw sockets")
async def test_where_no_port_is_known_an_echo_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = ("127.0.0.1", backends.PING), ("127.50.1.3", backends.PING)
    prober = Prober(lambda: [], lambda: None)
    await prober._round([good, bad])
    assert prober._misses == {good: 0, bad: 0}
    take = backends.Echoes._take
    monkeypatch.setattr(backends, "EACH_S", 0.1)

    def deaf(self: backends.Echoes) -> None:
        asked = {key: self._asked.pop(key) for key in list(self._asked) if key[0] == bad[0]}
        take(self)
        self._asked.update(asked)

    monkeypatch.setattr(backends.Echoes, "_take", deaf)
    prober._echoes.close()
    for _ in range(backends.MISSES):
        await prober._round([good, bad])
    assert set(prober.silent) == {bad}
    prober._echoes.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs raw sockets")
async def test_echoes_of_which_none_comes_back_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "EACH_S", 0.03)
    monkeypatch.setattr(backends.Echoes, "_take", lambda self: self._sock.recv(2048))
    target = ("127.0.0.1", backends.PING)
    prober = Prober(lambda: [], lambda: None)
    for _ in range(backends.MISSES + 1):
        await prober._round([target])
    assert prober.silent == {}
    prober._echoes.close()


async def test_what_this_host_cannot_try_says_nothing() -> None:
    # The kernel refuses to send there without SO_BROADCAST: nothing leaves.
    nowhere = "255.255.255.255"
    prober = Prober(lambda: [], lambda: None)
    prober._echoes.any = True
    for _ in range(backends.MISSES + 1):
        await prober._round([(nowhere, backends.PING)])
    assert prober.silent == {}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        for _ in range(backends.MISSES + 1):
            await prober._round([("127.0.0.1", 1)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert prober.silent == {}
    prober._echoes.close()


@pytest.mark.parametrize("number", [0, 1, 0xFFFF])
def test_the_checksum_of_an_echo(number: int) -> None:
    packet = backends._echo(0xFFF0, number)
    total = sum(int.from_bytes(packet[at : at + 2], "big") for at in range(0, len(packet), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: the sum with the checksum in it


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

    async def connects(target: tuple[str, int], slots: Any) -> bool:
        tried.append(target)
        return True

    monkeypatch.setattr(backends, "_connects", connects)
    manager = await world.manager(lease_s=0.5)
    await give(manager, here_and(("t2", "127.50.1.3"), port=80), fresh=True)
    await manager.apply(ensure("t1"))
    await manager.task("t1", "running")
    await alone(world)
    await poll(lambda: tried)
    assert set(tried) == {("127.50.1.3", 80)}


@pytest.mark.usefixtures("quick")
async def test_no_name_leads_to_a_silent_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {("127.50.1.3", 80), ("127.60.1.3", backends.PING)}

    async def connects(target: tuple[str, int], slots: Any) -> bool:
        return target not in dead

    async def echoes(self: backends.Echoes, address: str) -> bool:
        self.any = True
        return (address, backends.PING) not in dead

    monkeypatch.setattr(backends, "_connects", connects)
    monkeypatch.setattr(backends.Echoes, "answers", echoes)
    manager = await running(world, lease_s=0.5)
    state = here_and(("t2", "127.50.1.3"), port=80)
    state["names"].append(names(("q1", "127.60.1.2"), ("q2", "127.60.1.3"), service="s9", name="quiet"))
    await give(manager, state, fresh=True)
    assert world.helper is not None
    table = world.helper.network

    def answered(name: str) -> set[str]:
        assert table._names is not None
        return {socket.inet_ntoa(one) for one in table._names.addresses(name, (NET,)) or ()}

    assert answered("tasks.web") == {"127.50.1.2", "127.50.1.3"}
    await alone(world)
    await poll(lambda: answered("tasks.web") == {"127.50.1.2"} and answered("quiet") == {"127.60.1.2"})
    dead.clear()
    await poll(lambda: answered("tasks.web") == {"127.50.1.2", "127.50.1.3"})
    await poll(lambda: answered("quiet") == {"127.60.1.2", "127.60.1.3"})
    dead.update({("127.50.1.3", 80), ("127.60.1.3", backends.PING)})
    await poll(lambda: answered("tasks.web") == {"127.50.1.2"} and answered("quiet") == {"127.60.1.2"})
    await manager.request("lease")
    # What an echo said is not kept beside a manager; a port is tried on.
    await poll(lambda: answered("quiet") == {"127.60.1.2", "127.60.1.3"})
    assert answered("tasks.web") == {"127.50.1.2"}
