"""The manager's lease on this node: renewed by each of its lines, lost by silence (design decision 5)."""

from __future__ import annotations

import asyncio
import time

from .log import log


class Lease:
    """`alone` says that no manager holds the node; `on_change(alone)` is called when that changes.

    A node that never had a manager is not alone: there is nothing it was trusted with.
    """

    def __init__(self, on_change) -> None:
        self.alone = False
        self.seconds = 0.0  # 0: no manager ever attached
        self._until = 0.0
        self._timer = None
        self._on_change = on_change

    def to_state(self) -> dict:
        return {"alone": self.alone, "lease_s": self.seconds}

    def restore(self, state: dict) -> None:
        """A new process of the helper gives the manager a whole lease to come back."""
        self.alone = bool(state.get("alone"))
        self.seconds = float(state.get("lease_s") or 0.0)
        if self.seconds and not self.alone:
            self._until = time.monotonic() + self.seconds
            self._arm()

    @property
    def living(self) -> bool:
        return self.seconds > 0 and not self.alone

    @property
    def fresh(self) -> bool:
        """The manager was heard within half of the lease: two of its renewals were due since."""
        return self.seconds > 0 and time.monotonic() < self._until - self.seconds / 2

    def grant(self, seconds: float) -> None:
        """A manager attached."""
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """A line of the manager was read."""
        if self.seconds <= 0:
            return
        self._until = time.monotonic() + self.seconds
        self._arm()
        if self.alone:
            self.alone = False
            log("lease_back")
            self._on_change(False)

    def drop(self) -> None:
        """No manager is waited for any more (released)."""
        self.seconds = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.alone:
            self.alone = False
            self._on_change(False)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._until - time.monotonic(), self._due)

    def _due(self) -> None:
        self._timer = None
        if time.monotonic() < self._until - 0.001:
            self._arm()  # renewed meanwhile
            return
        self.alone = True
        log("lease_lost", lease_s=self.seconds)
        self._on_change(True)
