"""The thread of the data plane, with a data plane and an ESP that only say what they were told."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import plane
from remote_helpers.net.apply import ApplyFailed
from remote_helpers.net.esp import EspError
from remote_helpers.net.numbers import BadState
from remote_helpers.netfile import NetFile, load
from remote_helpers.netstate import Held
from remote_helpers.plane import Plane

STATE = {"node": {"n": 2, "underlay": "10.98.0.12"}, "networks": [{"id": "n"}]}
HELD = Held.of({"tasks": [{"id": "t1", "addresses": []}]})
KEYS = {
    "n": 2,
    "address": "10.98.0.12",
    "peers": [
        {"n": 1, "address": "10.98.0.11", "sends": 7, "epochs": [{"epoch": 7, "in": "0f" * 20, "out": "f0" * 20}]}
    ],
}


class Told:
    """What both were told, in order, and by which thread."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.blocks_s = 0.0

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        time.sleep(self.blocks_s)  # as a netlink socket may
        if self.error is not None:
            raise self.error


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    class Data:
        def __init__(self, engine: Any, root: str, secure: Any) -> None:
            self.failed = {"net1": "no"}
            self._secure = secure

        async def apply(self, state: dict[str, Any]) -> list[str]:
            told.note("apply")
            return ["link sv1000 was missing", *(await self._secure() if state.get("encrypted") else [])]

        async def change(self, state: dict[str, Any]) -> None:
            told.note("change")

        async def purge(self) -> list[str]:
            told.note("purge")
            return []

        def hairpin(self) -> list[str]:
            told.note("hairpin")
            return []

    class Keys(plane.Esp):
        async def resume(self, n: int, address: str) -> None:
            told.note(f"resume {n} {address}")
            await super().resume(n, address)

        async def apply(self, wanted: Any) -> list[int]:
            told.note(f"keys {sorted(wanted.peers)} {wanted.closed}")
            self._save(self.to_state())  # as before an epoch is used
            self.wanted = wanted
            self.spent = {n: peer.sends for n, peer in wanted.peers.items()}
            return [3]

        async def secure(self) -> list[str]:
            told.note("secure")
            self.lost = [5]
            return ["SA: missing"]

    async def nothing(batch: Any) -> Any:
        from remote_helpers.net.esp import Seen

        return Seen()

    monkeypatch.setattr(plane, "DataPlane", Data)
    monkeypatch.setattr(plane, "Esp", Keys)
    monkeypatch.setattr("remote_helpers.net.esp.change", nothing)
    return told


@pytest.fixture
async def own(told: Told, tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(f"{tmp_path}/network.json", str(tmp_path), f"{tmp_path}/engine.sock", {})
    yield made
    made.stop()
    await asyncio.to_thread(made._thread._thread.join, 8)
    assert not made._thread._thread.is_alive()


async def test_what_blocks_does_not_block_the_helper(own: Plane, told: Told) -> None:
    told.blocks_s = 0.3
    latest = gap = time.monotonic()
    gap = 0.0
    passing = asyncio.create_task(own.bring(Held(), None, STATE, True))
    while not passing.done():
        await asyncio.sleep(0.005)  # the heartbeat's place
        gap, latest = max(gap, time.monotonic() - latest), time.monotonic()
    assert (await passing) == (["link sv1000 was missing"], [])
    assert gap < 0.2
    assert threading.get_ident() not in told.threads


async def test_the_state_is_kept_before_the_kernel_is_touched(own: Plane, told: Told, tmp_path: Path) -> None:
    told.error = OSError(5, "netlink broke")
    assert await own.bring(HELD, None, STATE, False) == ([], ["[Errno 5] netlink broke"])
    path = tmp_path / "network.json"
    held, esp_state = load(str(path))
    assert (held.whole(), esp_state) == (HELD.whole(), {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["network.json"]


async def test_a_state_that_cannot_be_kept_reaches_the_kernel_all_the_same(
    own: Plane, told: Told, tmp_path: Path
) -> None:
    path, blocked = tmp_path / "network.json", tmp_path / "network.json.new"
    blocked.mkdir()
    words = "the network state cannot be written: Is a directory"
    change: Any = ({"vips": [vip(1, 0)]}, {})
    assert await own.bring(HELD, None, STATE, True) == (["link sv1000 was missing"], [words])
    assert await own.bring(HELD.changed(*change), [change], STATE, False) == ([], [words])
    assert told.calls == ["apply", "change"] and not path.exists()
    blocked.rmdir()
    assert (await own.bring(HELD.changed(*change), [], STATE, True))[1] == []  # the next check
    assert load(str(path))[0].whole() == HELD.changed(*change).whole()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ApplyFailed(["a", "b"], ["mended"]), (["mended"], ["a", "b"])),
        (BadState("network state: v"), ([], ["network state: v"])),
        (EspError("no keys"), ([], ["no keys"])),
    ],
)
async def test_failures_come_back_as_words(own: Plane, told: Told, error: Exception, found: Any) -> None:
    told.error = error
    assert await own.bring(Held(), None, STATE, True) == found
    assert own.failed == {"net1": "no"}


async def test_keys_are_in_no_file_and_what_is_spent_is(own: Plane, told: Told, tmp_path: Path) -> None:
    await own.bring(HELD, None, STATE, True)
    assert await own.secure(KEYS) == [3]
    text = (tmp_path / "network.json").read_text()
    assert "0f0f" not in text and "f0f0" not in text
    assert json.loads(text)["esp"]["spent"] == {"1": 7}
    assert json.loads(text)["state"] == HELD.whole()
    assert own.closed and own.lost == [3]


async def test_encrypted_networks_are_closed_in_each_pass(own: Plane, told: Told) -> None:
    drift, errors = await own.bring(Held(), None, {**STATE, "encrypted": True}, True)
    assert (drift, errors, own.lost) == (["link sv1000 was missing", "SA: missing"], [], [5])


async def test_another_process_takes_the_keys_over_from_the_kernel(own: Plane, told: Told, tmp_path: Path) -> None:
    await own.bring(Held(), None, STATE, True)
    await own.secure(KEYS)
    told.calls.clear()
    held, esp_state = load(f"{tmp_path}/network.json")
    second = Plane(f"{tmp_path}/network.json", str(tmp_path), f"{tmp_path}/engine.sock", esp_state)
    assert second.closed
    await second.bring(held, None, STATE, True)
    assert told.calls == ["resume 2 10.98.0.12", "apply"]
    assert await second.repair() == (["SA: missing"], [])
    second.stop()


async def test_keys_that_are_taken_away_leave_no_file(own: Plane, told: Told, tmp_path: Path) -> None:
    await own.secure(KEYS)
    assert await own.purge(keys_too=True) == ([], [])
    assert told.calls[-2:] == ["purge", "keys [] False"]
    assert os.listdir(tmp_path) == [] and not own.closed


async def test_a_purge_alone_keeps_the_keys(own: Plane, told: Told) -> None:
    await own.secure(KEYS)
    await own.purge(keys_too=False)
    assert own.closed and told.calls[-1] == "purge"


async def test_hairpins_are_opened_there(own: Plane, told: Told) -> None:
    await own.hairpin()
    assert told.calls == ["hairpin"]


# --- the file ---
def vip(number: int, weight: int) -> dict[str, Any]:
    return {"id": number, "dests": [{"address": "10.0.0.1", "weight": weight}]}


def test_a_change_is_added_to_the_file_and_read_with_it(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    file, held = NetFile(str(path)), HELD.changed({"vips": [vip(1, 1), vip(2, 1)]}, {})
    file.write(held, {"closed": True})
    size = path.stat().st_size
    changes: list[Any] = [({"vips": [vip(1, 0)]}, {}), ({}, {"vips": [2]})]
    for put, drop in changes:
        held = held.changed(put, drop)
    file.append(held, {"closed": True}, changes)
    assert path.read_bytes()[:size].count(b"\n") == 1, "what was there stays"
    found, esp_state = load(str(path))
    assert found.whole() == held.whole() and esp_state == {"closed": True}
    with path.open("ab") as cut:
        cut.write(b'{"put":{"vips":[{"id":9')
    assert load(str(path))[0].whole() == held.whole(), "a change that was cut off is none"


def test_changes_do_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    file, held = NetFile(str(path)), HELD.changed({"vips": [vip(n, 1) for n in range(1, 200)]}, {})
    file.write(held, {})
    size = path.stat().st_size
    for number in range(4000):
        change = ({"vips": [vip(1, number)]}, {})
        held = held.changed(*change)
        file.append(held, {}, [change])
    assert path.stat().st_size <= size + 2 * 64 * 1024
    assert load(str(path))[0].whole() == held.whole()


def test_a_change_that_did_not_fit_is_followed_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.json"
    file = NetFile(str(path))
    file.write(HELD, {})
    write, full = os.write, True

    def half(fd: int, data: memoryview) -> int:
        if not full:
            return write(fd, data)
        write(fd, bytes(data)[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("remote_helpers.netfile.os.write", half)
    held = HELD.changed({"vips": [vip(1, 1)]}, {})
    with pytest.raises(OSError, match="space"):
        file.append(held, {}, [({"vips": [vip(1, 1)]}, {})])
    assert load(str(path))[0].whole() == HELD.whole()
    full = False
    file.append(held, {}, [])
    assert load(str(path))[0].whole() == held.whole()


def test_a_file_that_could_not_be_replaced_is_not_added_to(tmp_path: Path) -> None:
    path, blocked = tmp_path / "network.json", tmp_path / "network.json.new"
    file, held = NetFile(str(path)), HELD.changed({"vips": [vip(1, 1)]}, {})
    file.write(HELD, {})
    blocked.mkdir()
    with pytest.raises(OSError, match="directory"):
        file.write(held, {})
    blocked.rmdir()
    change: Any = ({"vips": [vip(2, 1)]}, {})
    file.append(held.changed(*change), {}, [change])
    assert load(str(path))[0].whole() == held.changed(*change).whole()


def test_a_file_that_went_away_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    file = NetFile(str(path))
    file.append(HELD, {}, [])
    assert load(str(path))[0].whole() == HELD.whole()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"v":2}\n', b'{"v":1,"state":{"vips":[7]},"esp":{}}\n'])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "network.json").write_bytes(content)
    held, esp_state = load(f"{tmp_path}/network.json")
    assert held.empty and esp_state == {}
