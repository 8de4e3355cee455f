"""Deadlines for awaits, alike on Python 3.9 to 3.14 (`asyncio.wait_for` loses cancellations before 3.12)."""

from __future__ import annotations

import asyncio


class Expired(Exception):
    """The time given to a `deadline` block is over."""


class deadline:
    """`async with deadline(3.0):` cancels its body after that many seconds and raises Expired."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> deadline:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(self, kind, value, trace) -> None:
        self._timer.cancel()
        if self._expired and kind is asyncio.CancelledError:
            uncancel = getattr(self._task, "uncancel", None)  # 3.11: count the cancellation as handled
            if uncancel is not None:
                uncancel()
            raise Expired() from None


async def wait_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, at most `seconds`; whether it was set."""
    if seconds is None:
        await event.wait()
        return True
    try:
        async with deadline(max(0.0, seconds)):
            await event.wait()
        return True
    except Expired:
        return event.is_set()
