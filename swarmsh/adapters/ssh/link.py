"""A standing connection to one host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address

import asyncssh

from swarmsh.adapters.ssh.channel import ByteChannel
from swarmsh.adapters.ssh.failures import place
from swarmsh.errors import NodeUnreachable
from swarmsh.model.objects import SshTarget


class ChannelRefused(NodeUnreachable):
    """The connection stands, and the server takes no further channel on it (sshd's MaxSessions)."""


class SshLink:
    """One authenticated connection; commands run as channels of it."""

    def __init__(self, connection: asyncssh.SSHClientConnection, target: SshTarget, channel_s: float) -> None:
        self.connection = connection
        self.target = target
        self._channel_s = channel_s
        self._at_end: list[Callable[[], None]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._ended = False

    def on_lost(self, call: Callable[[], None]) -> None:
        """Call once when the connection ended, for whatever reason; at once if it has."""
        if self._ended:
            call()
        else:
            self._at_end.append(call)

    def lost(self) -> None:
        """The connection ended; said by its owner, repeatable."""
        self._ended = True
        calls, self._at_end = self._at_end, []
        for call in calls:
            call()

    @property
    def closed(self) -> bool:
        return self._ended or self.connection.is_closed()

    @property
    def address(self) -> str:
        """The IPv4 address that the connection reached; "" over IPv6, and behind a jump host."""
        peer = self.connection.get_extra_info("peername")
        if self.target.jump or not isinstance(peer, tuple):
            return ""
        try:
            return str(IPv4Address(peer[0]))
        except AddressValueError:
            return ""

    async def exec(
        self,
        command: str,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_eof: Callable[[], None] | None = None,
    ) -> ByteChannel:
        """Start a command, without a terminal. Raises NodeUnreachable; ChannelRefused if only the channel was."""
        channel = ByteChannel(on_data, on_end, on_eof)
        where = place(self.target)
        try:
            async with asyncio.timeout(self._channel_s):
                await self._start(channel, command)
        except TimeoutError as e:
            raise NodeUnreachable(f"{where} did not start a command within {self._channel_s:g} s") from e
        except asyncssh.ChannelOpenError as e:
            if self.closed:
                raise NodeUnreachable(f"the connection to {where} ended: {e.reason}") from e
            raise ChannelRefused(
                f"{where} refused one more channel: {e.reason}",
                hint="Look at MaxSessions in its sshd_config, and at the restrictions of its authorized_keys",
            ) from e
        except (asyncssh.Error, OSError) as e:
            raise NodeUnreachable(f"the connection to {where} ended: {e or type(e).__name__}") from e
        return channel

    async def _start(self, channel: ByteChannel, command: str) -> None:
        """Cancelled, it closes the channel once the other side has answered: asyncssh would leave it open."""

        async def open_channel() -> None:
            await self.connection.create_session(lambda: channel, command, encoding=None, request_pty=False)

        opening = asyncio.create_task(open_channel())
        self._opening.add(opening)
        opening.add_done_callback(self._opened)
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            channel.close()
            raise
        opening.result()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            opening.exception()  # seen: whoever awaited it may have left

    async def close(self) -> None:
        """End the connection and its channels; waits a little for the other side."""
        self.connection.close()
        try:
            async with asyncio.timeout(1.0):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()
        finally:
            self.lost()

    def abort(self) -> None:
        """End the connection at once, whether or not the other side still answers."""
        self.connection.abort()
        self.lost()
