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
from remote_helpers.plane import Plane, load

STATE = {"node": {"n": 2, "underlay": "10.98.0.12"}, "networks": [{"id": "n"}]}
KEYS = {
    "n": 2,
    "address": "10.98.0.12",
    "peers": [
        {"n": 1, "address": "10.98.0.11", "sends": 7, "epochs": [{"epoch": 7, "in": "0f" * 36, "out": "f0" * 36}]}
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
    passing = asyncio.create_task(own.bring({}, STATE, True))
    while not passing.done():
        await asyncio.sleep(0.005)  # the heartbeat's place
        gap, latest = max(gap, time.monotonic() - latest), time.monotonic()
    assert (await passing) == (["link sv1000 was missing"], [])
    assert gap < 0.2
    assert threading.get_ident() not in told.threads


async def test_the_state_is_kept_before_the_kernel_is_touched(own: Plane, told: Told, tmp_path: Path) -> None:
    told.error = OSError(5, "netlink broke")
    assert await own.bring({"tasks": []}, STATE, False) == ([], ["[Errno 5] netlink broke"])
    path = tmp_path / "network.json"
    assert load(str(path)) == {"v": 1, "state": {"tasks": []}, "esp": {}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["network.json"]


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
    assert await own.bring({}, STATE, True) == found
    assert own.failed == {"net1": "no"}


async def test_keys_are_in_no_file_and_what_is_spent_is(own: Plane, told: Told, tmp_path: Path) -> None:
    await own.bring({"tasks": []}, STATE, True)
    assert await own.secure(KEYS) == [3]
    text = (tmp_path / "network.json").read_text()
    assert "0f0f" not in text and "f0f0" not in text
    assert json.loads(text)["esp"]["spent"] == {"1": 7}
    assert json.loads(text)["state"] == {"tasks": []}
    assert own.closed and own.lost == [3]


async def test_encrypted_networks_are_closed_in_each_pass(own: Plane, told: Told) -> None:
    drift, errors = await own.bring({}, {**STATE, "encrypted": True}, True)
    assert (drift, errors, own.lost) == (["link sv1000 was missing", "SA: missing"], [], [5])


async def test_another_process_takes_the_keys_over_from_the_kernel(own: Plane, told: Told, tmp_path: Path) -> None:
    await own.bring({}, STATE, True)
    await own.secure(KEYS)
    told.calls.clear()
    saved = load(f"{tmp_path}/network.json")
    second = Plane(f"{tmp_path}/network.json", str(tmp_path), f"{tmp_path}/engine.sock", saved["esp"])
    assert second.closed
    await second.bring(saved["state"], STATE, True)
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
