"""Room for streams to a node's Engine: its session's own connection, and more where sshd has no channel left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from swarmsh.adapters.ssh import ByteChannel, ChannelRefused, SshLink

log = logging.getLogger("swarmsh.nodes")


class StreamLinks:
    """Commands on the first connection that takes them. sshd's MaxSessions (10 by default) bounds each.

    Further connections are made when they are needed, at most `most`, and closed when they have had no stream for
    `idle_s` seconds. Nothing watches over them: their owner closes them with the session, whose heartbeats do.
    """

    def __init__(
        self, node: str, first: SshLink, dial: Callable[[], Awaitable[SshLink]], most: int, idle_s: float
    ) -> None:
        self._node = node
        self._first = first
        self._dial = dial
        self._most = most
        self._idle_s = idle_s
        self._streams: dict[SshLink, set[object]] = {}  # of the further connections
        self._dialling = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._ended = False

    async def exec(
        self,
        command: str,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_eof: Callable[[], None] | None = None,
    ) -> ByteChannel:
        """Start a command. Raises NodeUnreachable, and what dialling raises."""
        try:
            return await self._first.exec(command, on_data, on_end, on_eof)
        except ChannelRefused as e:
            refused = e
        async with self._dialling:  # many come at once: the first of them makes room for the others
            for link in list(self._streams):
                try:
                    return await self._exec_on(link, command, on_data, on_end, on_eof)
                except ChannelRefused:
                    continue
            if len(self._streams) >= self._most or self._ended:
                raise refused
            return await self._exec_on(await self._one_more(), command, on_data, on_end, on_eof)

    async def _one_more(self) -> SshLink:
        link = await self._dial()
        if self._ended:  # meanwhile
            link.abort()
        self._streams[link] = set()
        link.on_lost(lambda: self._forget(link))
        log.info("stream_link_opened node=%s links=%d", self._node, len(self._streams))
        return link

    async def _exec_on(
        self,
        link: SshLink,
        command: str,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_eof: Callable[[], None] | None,
    ) -> ByteChannel:
        stream = object()

        def ended() -> None:
            self._leave(link, stream)
            on_end()

        self._streams[link].add(stream)
        try:
            return await link.exec(command, on_data, ended, on_eof)
        except BaseException:
            self._leave(link, stream)
            raise

    def _leave(self, link: SshLink, stream: object) -> None:
        streams = self._streams.get(link)
        if streams is not None:
            streams.discard(stream)
            if not streams:
                asyncio.get_running_loop().call_later(self._idle_s, self._close_idle, link)

    def _close_idle(self, link: SshLink) -> None:
        if self._streams.get(link) == set():
            self._forget(link)
            closing = asyncio.create_task(link.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _forget(self, link: SshLink) -> None:
        self._streams.pop(link, None)

    def close(self) -> None:
        """End the further connections and their streams at once; the session's own is left as it is."""
        self._ended = True
        for link in list(self._streams):
            link.abort()
