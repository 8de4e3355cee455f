"""Which backends on other nodes answer, while no manager is there who would know: tried each second."""

from __future__ import annotations

import asyncio
import socket
import time

from .log import log
from .timing import Expired, deadline

EACH_S = 1.0  # between the starts of two rounds, and as long as an answer may take
MISSES = 3
AT_ONCE = 64
MOST_IN_ROUND = 256  # of more than that each one's turn comes later


class Prober:
    """`silent`: (address, port) -> since when, on the monotonic clock. `on_change()` when it is another one.

    `targets()` says what is to be tried, each round anew. `run` returns when that is nothing.
    """

    def __init__(self, targets, on_change) -> None:
        self.silent: dict = {}
        self._targets, self._on_change = targets, on_change
        self._misses: dict = {}
        self._turn = 0

    async def run(self) -> None:
        """Try while there is something to try."""
        while True:
            began = time.monotonic()
            targets = self._targets()
            self._forget(set(targets))
            if not targets:
                return
            await self._round(targets)
            # The pause is what bounds the load; a backend that dies tells nobody.
            await asyncio.sleep(max(0.0, began + EACH_S - time.monotonic()))

    def _forget(self, known: set) -> None:
        self._misses = {target: count for target, count in self._misses.items() if target in known}
        kept = {target: since for target, since in self.silent.items() if target in known}
        if len(kept) != len(self.silent):
            self.silent = kept
            self._on_change()

    async def _round(self, targets: list) -> None:
        at = self._turn % len(targets)
        now = (targets[at:] + targets[:at])[:MOST_IN_ROUND]
        self._turn = at + len(now)
        slots = asyncio.Semaphore(AT_ONCE)
        answers = await asyncio.gather(*(_answers(target, slots) for target in now))
        silent = dict(self.silent)
        for target, answered in zip(now, answers):
            self._misses[target] = 0 if answered else self._misses.get(target, 0) + 1
            if answered and silent.pop(target, None) is not None:
                log("backend_answers", address=target[0], port=target[1])
            elif self._misses[target] == MISSES:
                silent[target] = time.monotonic()
                log("backend_silent", address=target[0], port=target[1])
        if silent != self.silent:
            self.silent = silent
            self._on_change()


async def _answers(target: tuple, slots: asyncio.Semaphore) -> bool:
    async with slots:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                async with deadline(EACH_S):
                    await asyncio.get_running_loop().sock_connect(sock, target)
                return True
            except (OSError, Expired):
                return False
