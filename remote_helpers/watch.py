"""Whether the Engine answers, and its events: one stream, a ping now and then, reconnecting with back-off."""

from __future__ import annotations

import asyncio
import json
import time

from .engine import LABEL_CLUSTER, Engine, EngineError, EngineGone
from .log import log
from .timing import Expired, deadline, wait_event

PING_S = 5.0
PING_WORRIED_S = 1.0
PING_TIMEOUT_S = 3.0
EVENTS = ["create", "start", "die", "oom", "health_status", "destroy", "unpause"]


class EngineWatch:
    """`ok`, `message` and `since` (monotonic) say how the Engine is; callbacks get changes and events.

    `on_connected(containers)` after each new stream, `on_event(event)`, `on_health()` when `ok` changed.
    """

    def __init__(self, engine: Engine, on_connected, on_event, on_health) -> None:
        self.engine = engine
        self.ok = False
        self.message = "not asked yet"
        self.since = time.monotonic()
        self.synced = asyncio.Event()  # the containers were listed since the stream began
        self._on_connected, self._on_event, self._on_health = on_connected, on_event, on_health
        self._answers = asyncio.Event()
        self._worry = asyncio.Event()

    async def wait_ok(self) -> None:
        """Return when the Engine answers; what just failed makes this look at once."""
        self._worry.set()
        await asyncio.sleep(0)
        await self._answers.wait()

    @property
    def down_s(self) -> float:
        return 0.0 if self.ok else time.monotonic() - self.since

    async def run(self) -> None:
        """Follow the Engine for ever."""
        await asyncio.gather(self._for_ever(self._follow), self._for_ever(self._ping_all))

    async def _for_ever(self, job) -> None:
        while True:
            try:
                await job()
            except Exception as e:  # a bug must not leave the node without eyes
                log("watch_failed", kind=type(e).__name__, cause=e)
                await asyncio.sleep(1.0)

    async def _ping_all(self) -> None:
        while True:
            self._worry.clear()
            try:
                await self.engine.ping(PING_TIMEOUT_S)
                self._set(True, "")
            except (EngineGone, EngineError) as e:
                self._set(False, str(e))
            pause = PING_S if self.ok else PING_WORRIED_S
            if await wait_event(self._worry, pause) and not self.ok:
                await asyncio.sleep(PING_WORRIED_S)

    async def _follow(self) -> None:
        pause = 0.1
        while True:
            try:
                await self._follow_once()
                cause = "the stream of events ended"
                pause = 0.1
            except (EngineGone, EngineError) as e:
                cause = str(e)
            self._worry.set()
            if self.synced.is_set():
                log("engine_stream_lost", cause=cause)
                self.synced.clear()
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _follow_once(self) -> None:
        await self.engine.negotiate()
        filters = {"type": ["container"], "label": [LABEL_CLUSTER], "event": EVENTS}
        call = self.engine.open("GET", "/events", query={"filters": json.dumps(filters)})
        try:
            async with deadline(10.0):
                answer = await call.__aenter__()
        except Expired:
            raise EngineGone("the Docker daemon did not begin its stream of events within 10 s") from None
        try:
            if answer.status >= 400:
                raise EngineError(answer.status, "no events: " + (await answer.body()).decode("utf-8", "replace"))
            # Listed after the stream began, so that nothing falls between the two.
            self._on_connected(await self.engine.list(LABEL_CLUSTER))
            self._set(True, "")
            self.synced.set()
            log("engine_connected", version=self.engine.version.get("Version", ""))
            async for event in answer.objects():
                self._on_event(event)
        finally:
            await call.__aexit__(None, None, None)

    def _set(self, ok: bool, message: str) -> None:
        if ok == self.ok and message == self.message:
            return
        changed = ok != self.ok
        if changed:
            self.since = time.monotonic()
            log("engine_answers" if ok else "engine_silent", cause=message)
        self.ok, self.message = ok, message
        if ok:
            self._answers.set()
        else:
            self._answers.clear()
        if changed:
            self._on_health()
