"""Work that is due again and again: one at a time, and tried again with back-off when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from swarmsh.errors import SwarmshError

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0


@dataclass(slots=True)
class Retrying:
    """Runs some work of one node after each `touch`, and at `wake_at` (the loop's clock) if that is set.

    A failure is logged as the event `failed`.
    """

    node_id: str
    failed: str
    wake_at: float | None = None
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _retry_s: float = 0.0

    def touch(self) -> None:
        self._due.set()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled."""
        while True:
            await self._until_due()
            self._due.clear()
            self.wake_at = None
            try:
                await work()
                self._retry_s = 0.0
            except Exception as e:
                # Whatever it was, this node is tried again and the others go on.
                self._retry_s = min(LONGEST_RETRY_S, self._retry_s * 2 or FIRST_RETRY_S)
                log.log(
                    logging.WARNING if isinstance(e, SwarmshError) else logging.ERROR,
                    "%s node=%s retry_s=%.0f error=%s",
                    *(self.failed, self.node_id, self._retry_s, e),
                    exc_info=not isinstance(e, SwarmshError),
                )

    async def _until_due(self) -> None:
        """Until touched, or woken, or until what failed is to be tried again."""
        times = [] if self.wake_at is None else [self.wake_at - asyncio.get_running_loop().time()]
        if self._retry_s:
            times.append(self._retry_s)
        try:
            async with asyncio.timeout(max(0.0, min(times)) if times else None):
                await self._due.wait()
        except TimeoutError:
            pass
