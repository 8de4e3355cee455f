"""The machine's own clock."""

from __future__ import annotations

import time

import pytest

from swarmsh.adapters.system import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no such clock on this platform")
def test_monotonic_time_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)  # as CLOCK_MONOTONIC stands still in suspend
    monkeypatch.setattr(
        time, "clock_gettime", {time.CLOCK_BOOTTIME: 3605.0, time.CLOCK_MONOTONIC: 5.0}.__getitem__
    )
    assert SystemClock().monotonic() == 3605.0
