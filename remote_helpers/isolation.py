"""Tasks that must never run twice (`swarmsh.fence=stop`): this node stops them when nobody is in reach of it.

The manager starts such a task elsewhere once this node must have stopped it. So what counts here is not when a
line of the manager was read, which may have waited in a broken connection for long, but when this node last said
something that the manager has heard.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from .log import log
from .peers import check_peers

# The manager counts with these (`swarmsh/core/fence.py`).
LOOK_S = 1.0  # how often it is seen whether the lease is lost
CHECK_S = 5.0  # a round of peers at most, and the time between the starts of two rounds
ROUNDS = 2  # in a row that must fail: a machine that is busy for a moment is not cut off
KILL_AFTER_S = 2.0  # beyond the grace period: then processes are ended without the Engine


def now() -> float:
    """Goes on while the machine is suspended, as time does for the manager; all processes of a boot share it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Isolation:
    """Knows who is in reach; `run` stops fenced tasks when nobody is. `peers`: as told, this node among them."""

    def __init__(self, tasks, lease, own_id, spawn, save_soon) -> None:
        self._tasks, self._lease, self._own_id = tasks, lease, own_id
        self._spawn, self._save_soon = spawn, save_soon
        self.peers: list = []
        self._proven = -math.inf  # when this node said the last thing that the manager is known to have heard
        self._reached = -math.inf  # start of the last round that reached another node
        self._in_vain = 0  # rounds in a row without an answer, since the lease was lost
        self._beats: deque = deque(maxlen=128)
        self._wanted = asyncio.Event()
        self._ending: set = set()
        self._cut_off = False

    def to_state(self) -> dict:
        return {"peers": self.peers, "proven": self._proven if self._proven > 0 else 0.0}

    def restore(self, state: dict) -> None:
        """The time goes on where a former process left it: a crash must not prolong it."""
        self.peers = state.get("peers") or []
        self._proven = float(state.get("proven") or 0.0)

    # --- signs of the manager -----------------------------------------------------------------------------------
    def said(self, beat: int) -> None:
        """A heartbeat goes out."""
        self._beats.append((beat, now()))

    def heard(self, beat, hello_at: float) -> None:
        """The manager wrote after it had heard heartbeat `beat`; without one only hello, said at `hello_at`."""
        at = hello_at
        for number, when in self._beats:
            if number == beat:
                at = when
        if at > self._proven:
            self._proven = at
            if self._fenced():
                self._save_soon()

    def take_peers(self, peers: list) -> None:
        self.peers = peers
        self._save_soon()

    def wake(self) -> None:
        """Tasks were given."""
        self._wanted.set()

    @property
    def leased(self) -> bool:
        """Whether the manager must still take this node for alive."""
        return self._lease.seconds > 0 and now() < self._proven + self._lease.seconds

    def may_start(self, first: bool) -> bool:
        """Whether a fenced task may be started now.

        For the first time only if the manager still knows of it: an order may have waited in a broken connection.
        """
        return self.leased or (not first and now() < self._reached + 2 * CHECK_S)

    # --- what follows -------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Look for as long as there are fenced tasks."""
        while True:
            if not self._fenced():
                self._wanted.clear()
                await self._wanted.wait()
                continue
            began = now()
            if self.leased:
                self._in_vain = 0
                self._tell(False)
                await asyncio.sleep(LOOK_S)
            else:
                reached = await self._somebody()
                if reached:
                    self._reached = began
                self._in_vain = 0 if reached else self._in_vain + 1
                self._tell(self._in_vain >= ROUNDS and not self.leased)
                await asyncio.sleep(max(0.1, began + CHECK_S - now()) if reached else LOOK_S)

    def _fenced(self) -> list:
        return [task for task in self._tasks.by_id.values() if task.fenced and not task.terminal]

    async def _somebody(self) -> bool:
        """Whether another node is reached, and this one's own sshd speaks: by that others see that it lives."""
        own = [dict(peer, own=True) for peer in self.peers if peer["node"] == self._own_id()]
        # Where there is NAT, a node may not reach itself by the address that others know.
        own += [dict(peer, node="loopback", address="127.0.0.1") for peer in own]
        others = [peer for peer in self.peers if peer["node"] != self._own_id()]
        if not others:
            return False
        reached = await check_peers(own + others, CHECK_S)
        return any(reached[peer["node"]] for peer in others) and any([reached[p["node"]] for p in own] or [True])

    def _tell(self, cut_off: bool) -> None:
        if cut_off != self._cut_off:
            self._cut_off = cut_off
            log("cut_off" if cut_off else "in_reach", peers=len(self.peers))
        for task in self._fenced():
            if cut_off:
                task.cut_off()  # and so it stays: the manager may have begun to count
            if (cut_off or task.is_cut_off) and task.id not in self._ending:
                self._ending.add(task.id)
                self._spawn(self._see_end(task))

    async def _see_end(self, task) -> None:
        """Whatever becomes of the Engine, its processes end soon after their grace period."""
        try:
            await asyncio.sleep(task.fenced_grace_s + KILL_AFTER_S)
            while task.fenced and not task.terminal and not await task.end_processes():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        finally:
            self._ending.discard(task.id)
