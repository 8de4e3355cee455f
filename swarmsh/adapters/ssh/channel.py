"""One exec'd command on a connection: bytes in, bytes out, with flow control both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

_STDERR_KEPT = 4096


class ByteChannel(asyncssh.SSHClientSession[bytes]):
    """Standard streams of a command. Callbacks run in the loop, in the order of the bytes; they must not block.

    `on_end` comes once, last. What the command wrote on standard error is kept (its last 4 kB), for messages.
    """

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_eof: Callable[[], None] | None = None,
    ) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._on_eof = on_eof
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._stderr = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self.exit_status: int | None = None
        self.exit_signal = ""
        self.ended = False
        self._unwanted = False

    # --- what asyncssh calls ---
    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._chan = chan
        if self._unwanted:
            chan.close()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._on_data(data)
        else:
            self._stderr += data
            del self._stderr[:-_STDERR_KEPT]

    def eof_received(self) -> bool:
        if self._on_eof is None:
            return False  # asyncssh closes the channel
        self._on_eof()
        return True  # our direction stays open

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_signal = signal

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._writable.set()
        self._on_end()

    # --- what its user calls ---
    @property
    def stderr(self) -> str:
        """The end of what came on standard error, on one line."""
        return " ".join(self._stderr.decode(errors="replace").split())

    @property
    def paused(self) -> bool:
        """Whether more is waiting to be sent than the other side takes."""
        return not self._writable.is_set()

    def send(self, data: bytes) -> None:
        """Queue bytes; nothing happens on an ended channel."""
        if self._chan is not None and not self.ended:
            try:
                self._chan.write(data)
            except BrokenPipeError:
                self.ended = True  # closing: `on_end` is on its way

    async def drain(self) -> None:
        """Wait until more may be queued."""
        await self._writable.wait()

    def send_eof(self) -> None:
        if self._chan is not None and not self.ended:
            self._chan.write_eof()

    def pause_reading(self) -> None:
        if self._chan is not None and not self.ended:
            self._chan.pause_reading()

    def resume_reading(self) -> None:
        if self._chan is not None and not self.ended:
            self._chan.resume_reading()

    def close(self) -> None:
        """Repeatable; a channel that is still being opened is closed as soon as the other side has answered."""
        self._unwanted = True
        if self._chan is not None and not self.ended:
            self._chan.close()
