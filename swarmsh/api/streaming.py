"""Responses that go on: they end with the manager, and a client that stops reading does not hold memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")
READ_WITHIN_S = 60.0  # a client that takes nothing for this long is let go


class ClientGone(ConnectionError):
    """It went away, or does not read."""


async def send(response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            await response.write(data)
    except TimeoutError as e:
        raise ClientGone("the client does not read") from e


async def while_running(
    source: AsyncIterator[T], stopping: asyncio.Event, timeout_s: float | None = None
) -> AsyncIterator[T]:
    """Items of `source` until it ends, the manager stops, or the time is over."""
    loop = asyncio.get_running_loop()
    until = None if timeout_s is None else loop.time() + timeout_s
    stop = loop.create_task(stopping.wait())
    item: asyncio.Future[T] | None = None
    try:
        while True:
            item = asyncio.ensure_future(_next(source))
            left = None if until is None else max(0.0, until - loop.time())
            await asyncio.wait({item, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                return
            try:
                value = item.result()
            except StopAsyncIteration:
                return
            yield value
    finally:
        for pending in (stop, item):
            if pending is not None and not pending.done():
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pending


async def _next(source: AsyncIterator[T]) -> T:
    # `anext` is no coroutine, and a future cannot carry StopIteration.
    following: Awaitable[T] = anext(source)
    return await following
