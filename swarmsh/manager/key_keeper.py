"""Begins epochs of the keys between nodes, and ends them; the nodes are told by whoever tells them their networks.

Keys are made here and kept in this process alone. The numbers of epochs are the store's, so that none is ever used
again; a manager that starts anew knows no keys, and begins with new ones.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from swarmsh.core.esp_keys import KeyRing, Pair
from swarmsh.core.netstate import NetStates
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import Clock, Store
from swarmsh.model.netstate import EspKeys

log = logging.getLogger(__name__)

# AES-128, as Swarm Mode has it, and the salt of RFC 4106. With AES-256 a node without AES in its processor
# carries a tenth less (bench/network_load.py).
KEY_BYTES = 20
LOOKS = 100  # at pairs in one turn of the loop
RETRY_S = 5.0  # after the store refused a number


@dataclass(frozen=True, slots=True)
class Rotation:
    """`pairs` of nodes with keys; `missing`: ids of nodes that have not acknowledged the new ones."""

    pairs: int
    missing: frozenset[str] = frozenset()


@dataclass(slots=True)
class KeyKeeper:
    """`touch` is called with each node whose keys may have changed."""

    store: Store
    states: NetStates
    clock: Clock
    touch: Callable[[str], None]
    ring: KeyRing = field(default_factory=KeyRing)
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _stepped: asyncio.Event = field(default_factory=asyncio.Event)  # set, and replaced, after each change

    def follow(self) -> None:
        """Networks came to nodes or left them."""
        self._changed(self.ring.follow(*self.states.encrypted()))

    def session_started(self, node_id: str) -> None:
        node = self.store.snapshot.nodes.get(node_id)
        if node is not None:
            self._changed(self.ring.booted(node_id, node.description.boot_id))

    def acknowledged(self, node_id: str, keys: EspKeys, lost: Iterable[int]) -> None:
        """The node has taken these keys, and can use none that it has with the peers of these numbers."""
        self._changed(self.ring.acknowledged(node_id, keys, self.clock.monotonic()))
        self.lost(node_id, lost)

    def lost(self, node_id: str, numbers: Iterable[int]) -> None:
        self._changed(self.ring.lost(node_id, numbers))

    def rotate(self) -> None:
        """Begin a new epoch for all."""
        self._changed(self.ring.renew_all())

    async def rotated(self, deadline_s: float) -> Rotation:
        """Begin a new epoch for all, and wait until all pairs send in it; what is missing goes on by itself."""
        before = self.ring.newest()
        self.rotate()
        try:
            async with asyncio.timeout(deadline_s):
                await self._until_renewed(before)
        except TimeoutError:
            pass
        return Rotation(len(before), frozenset(self.ring.behind(before)))

    async def _until_renewed(self, before: Mapping[Pair, int]) -> None:
        """Each pair is looked at until it is: with many nodes all of them at each step would take too long."""
        left = list(before)
        while left:
            for _ in range(LOOKS):
                if left and self.ring.renewed(left[-1], before[left[-1]]):
                    left.pop()
                else:
                    break
            else:
                await asyncio.sleep(0)
                continue
            if left:
                await self._stepped.wait()

    def _changed(self, nodes: Iterable[str]) -> None:
        for node_id in nodes:
            self.touch(node_id)
        self._due.set()
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._until_due()
            self._due.clear()
            try:
                await self.keep(self.clock.monotonic())
            except SwarmshError as e:
                log.error("epoch_not_begun error=%s", e)  # a full disk, most likely
                await asyncio.sleep(RETRY_S)
                self._due.set()

    async def keep(self, now: float) -> None:
        """Do what is due: end epochs, begin one. Raises StoreReadOnly."""
        for node_id in self.ring.drop(now):
            self.touch(node_id)
        self.ring.renew_old(now)
        while self.ring.wanting:  # again for those that cannot have this number
            epoch = await self.store.next_epoch()
            pairs = len(self.ring.wanting)
            nodes = self.ring.begin(epoch, lambda: secrets.token_hex(KEY_BYTES), now)
            log.info("epoch_begun epoch=%d pairs=%d", epoch, pairs - len(self.ring.wanting))
            for node_id in nodes:
                self.touch(node_id)

    async def _until_due(self) -> None:
        due_at = self.ring.due_at()
        wait_s = None if due_at is None else max(0.0, due_at - self.clock.monotonic())
        try:
            async with asyncio.timeout(wait_s):
                await self._due.wait()
        except TimeoutError:
            pass
