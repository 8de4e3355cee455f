"""A node's Engine as a private unix socket: each connection is one more channel of the standing session."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from swarmsh.adapters.nodes.lines import LineSplitter, LineTooLong
from swarmsh.adapters.nodes.messages import MalformedLine, StubLine, parse
from swarmsh.adapters.ssh import ByteChannel
from swarmsh.errors import NodeUnreachable, SwarmshError

_READ_BYTES = 64 * 1024
_PATH_BYTES = 107  # sockaddr_un, unix(7)

OpenChannel = Callable[[Callable[[bytes], None], Callable[[], None], Callable[[], None]], Awaitable[ByteChannel]]
"""Start the stub's verb `engine` and send its opening line: (on_data, on_end, on_eof) -> channel."""


class EngineSocket:
    """Listens until `close`. Clients are answered 503 with the reason while the node has no session."""

    def __init__(self, path: Path, node: str, open_channel: OpenChannel, start_s: float) -> None:
        self.path = path
        self._node = node
        self._open_channel = open_channel
        self._start_s = start_s
        self._server: asyncio.Server | None = None
        self._joins: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        if len(os.fsencode(self.path)) > _PATH_BYTES:
            raise NodeUnreachable(
                f"the path {self.path} is too long for a unix socket (limit {_PATH_BYTES} bytes)",
                hint="Choose a shorter XDG_RUNTIME_DIR or state directory",
            )
        await asyncio.to_thread(_prepare_directory, self.path)
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=_READ_BYTES)
        self.path.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._joins):
            task.cancel()
        await asyncio.gather(*self._joins, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joins.add(task)
        try:
            await _Join(reader, writer).run(self._open_channel, self._start_s)
        except SwarmshError as e:
            writer.write(_unavailable(str(e)))
        except ConnectionError:
            pass  # the client went away
        except asyncio.CancelledError:
            pass  # by `close`, or the loop's end; asyncio's streams would log it as an error
        finally:
            self._joins.discard(task)
            writer.close()


class _Join:
    """Two byte streams joined, with flow control and half-close both ways."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._splitter = LineSplitter()
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._joined = False
        self._ended = asyncio.Event()
        self._channel: ByteChannel | None = None
        self._draining: asyncio.Task[None] | None = None

    async def run(self, open_channel: OpenChannel, start_s: float) -> None:
        try:
            async with asyncio.timeout(start_s):
                self._channel = await open_channel(self._on_data, self._on_end, self._on_eof)
                await self._answer
        except TimeoutError as e:
            self._give_up()
            raise NodeUnreachable(f"the Engine's socket did not open within {start_s:g} s") from e
        except BaseException:
            self._give_up()
            raise
        upward = asyncio.create_task(self._pump_up())
        try:
            await self._ended.wait()
        finally:
            upward.cancel()
            if self._draining is not None:
                self._draining.cancel()
            self._close_channel()

    def _give_up(self) -> None:
        """Nobody awaits the answer any more, nor what the channel would still bring."""
        self._answer.cancel()
        self._close_channel()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()

    async def _pump_up(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            while data := await self._reader.read(_READ_BYTES):
                await channel.drain()
                channel.send(data)
            channel.send_eof()
        except ConnectionError:
            channel.close()

    # --- from the node ---
    def _on_data(self, data: bytes) -> None:
        if not self._answer.done():
            data = self._on_answer(data)
        if not data or not self._joined:
            return
        if self._writer.is_closing():
            self._close_channel()  # the client went away: what still comes is for nobody
            return
        self._writer.write(data)
        if self._draining is None and self._writer.transport.get_write_buffer_size() > _READ_BYTES:
            assert self._channel is not None
            self._channel.pause_reading()
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            self._close_channel()
        finally:
            self._draining = None
        if self._channel is not None:
            self._channel.resume_reading()

    def _on_answer(self, data: bytes) -> bytes:
        """Read the stub's one line; what follows it is the Engine's."""
        try:
            lines = self._splitter.feed(data)
            while lines:
                line = lines.pop(0)
                if line.startswith(b"{"):  # else a greeting of the user's shell
                    self._judge(parse(StubLine, line))
                    return b"\n".join([*lines, self._splitter.rest()])
        except (LineTooLong, MalformedLine) as e:
            self._answer.set_exception(NodeUnreachable(f"the stub sent what is no message: {e}"))
        return b""

    def _judge(self, line: StubLine) -> None:
        if line.ok:
            self._joined = True
            self._answer.set_result(None)
        else:
            self._answer.set_exception(NodeUnreachable(line.error or "the stub refused", hint=line.hint))

    def _on_eof(self) -> None:
        if self._joined and not self._writer.is_closing():
            self._writer.write_eof()

    def _on_end(self) -> None:
        self._ended.set()
        if not self._answer.done():
            said = self._channel.stderr if self._channel is not None else ""
            self._answer.set_exception(NodeUnreachable(f"the stub ended without an answer. {said}".rstrip(". ")))


def _prepare_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)


def _unavailable(message: str) -> bytes:
    """Every client of an Engine's socket speaks HTTP: tell it why, in the Engine's own form."""
    body = json.dumps({"message": message}).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
