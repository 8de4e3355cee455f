"""Probes as a HEALTHCHECK, with a clock that only their pauses turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from remote_helpers import ready

REFUSED = "probe tcp:80: connection refused"


class Watched:
    """A watch whose probes give these answers; `times` are when they were asked, in seconds of its start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Iterable[str], takes_s: float = 0.0) -> None:
        self.now = 100.0
        self.times: list[float] = []
        self.changes = 0
        self._answers, self._takes_s = iter(answers), takes_s
        self._give_way = asyncio.sleep
        monkeypatch.setattr(ready, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        monkeypatch.setattr(ready, "probe_once", self._probe)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await self._give_way(0)

    async def _probe(self, pid: int, address: str, probe: dict[str, Any]) -> str:
        self.times.append(self.now - 100.0)
        self.now += self._takes_s
        return next(self._answers)

    async def until_failed(self, start_s: float = 0.0, **probe: Any) -> ready.Watch:
        def changed() -> None:
            self.changes += 1

        action = {"probe": {"kind": "tcp", "port": 80, **probe}}
        watch = ready.Watch(1, "127.0.0.1", action, changed, start_s=start_s)
        await asyncio.wait_for(watch._task, 20)
        return watch


async def test_a_probe_that_never_passes_fails_after_the_start_period_and_its_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, repeat(REFUSED))
    watch = await watched.until_failed(interval_s=2.0, retries=3)
    assert (watch.failed, watch.passed_once, watch.why, watched.changes) == (True, False, REFUSED, 1)
    assert [t for t in watched.times if t >= ready.LATE_S] == [60.0, 62.0, 64.0]


@pytest.mark.parametrize("start_s", [5.0, 300.0])
async def test_a_start_period_of_the_health_check_is_the_probes_too(
    monkeypatch: pytest.MonkeyPatch, start_s: float
) -> None:
    watched = Watched(monkeypatch, repeat(REFUSED))
    await watched.until_failed(start_s, interval_s=1.0, retries=2)
    assert start_s < watched.times[-1] <= start_s + 2.0


async def test_a_probe_that_began_in_the_start_period_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, repeat(REFUSED), takes_s=8.0)
    await watched.until_failed(start_s=10.0, interval_s=0.1, retries=1)
    assert len(watched.times) == 3
    assert watched.times[1] < 10.0 < watched.times[2]


async def test_once_it_passed_misses_count_and_only_those_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = chain([REFUSED, "", REFUSED, "", REFUSED], repeat(REFUSED))
    watched = Watched(monkeypatch, answers)
    watch = await watched.until_failed(interval_s=1.0, retries=2)
    assert (watch.failed, watch.passed_once, watch.passing, watched.changes) == (True, True, False, 2)
    assert len(watched.times) == 6
