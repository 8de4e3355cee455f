"""Jump hosts: one connection for all the nodes behind each, for as long as one of them needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from swarmsh.adapters.ssh.link import SshLink
from swarmsh.errors import NodeUnreachable, NodeUntrusted
from swarmsh.model.objects import SshTarget

Chain = tuple[SshTarget, ...]


@dataclass(slots=True, eq=False)
class _Shared:
    opening: asyncio.Task[SshLink]
    users: int = 0

    @property
    def usable(self) -> bool:
        if not self.opening.done():
            return True
        return (
            not self.opening.cancelled() and self.opening.exception() is None and not self.opening.result().closed
        )


class Hold:
    """A use of a jump host's connection; given back once."""

    def __init__(self, link: SshLink, give_back: Callable[[], None]) -> None:
        self.link = link
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


class JumpHosts:
    """Opens them with `connect`; keepalive finds the dead ones, because no helper speaks over these."""

    def __init__(self, connect: Callable[[SshTarget], Awaitable[SshLink]], keepalive_s: float) -> None:
        self._connect = connect
        self._keepalive_s = keepalive_s
        self._shared: dict[Chain, _Shared] = {}

    @asynccontextmanager
    async def through(self, chain: Chain) -> AsyncIterator[Hold | None]:
        """A hold on the connection to the last host of `chain`; None for an empty chain.

        It is released when the context is left by an exception; else its user does that. Raises NodeUnreachable
        or NodeUntrusted, of the jump host.
        """
        if not chain:
            yield None
            return
        shared = self._shared.get(chain)
        if shared is None or not shared.usable:
            task = asyncio.create_task(self._open(chain), name=f"jump {chain[-1].address}")
            shared = self._shared[chain] = _Shared(task)
        shared.users += 1
        used = shared
        hold: Hold | None = None
        try:
            link = await asyncio.shield(used.opening)
            hold = Hold(link, lambda: self._give_back(chain, used))
            yield hold
        except BaseException:
            if hold is not None:
                hold.release()
            else:
                self._give_back(chain, used)
            raise

    async def _open(self, chain: Chain) -> SshLink:
        target = msgspec.structs.replace(chain[-1], jump=chain[:-1])
        try:
            link = await self._connect(target)
        except (NodeUnreachable, NodeUntrusted) as e:
            raise type(e)(f"jump host: {e.message}", hint=e.hint, **e.fields) from e
        link.connection.set_keepalive(self._keepalive_s, 2)
        return link

    def _give_back(self, chain: Chain, shared: _Shared) -> None:
        shared.users -= 1
        if shared.users:
            return
        if self._shared.get(chain) is shared:
            del self._shared[chain]
        if not shared.opening.done():
            shared.opening.cancel()
        elif shared.usable:
            shared.opening.result().connection.close()
