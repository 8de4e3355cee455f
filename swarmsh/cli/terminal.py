"""Our terminal joined to a remote command's streams. The terminal's mode is restored on every way out.

Frames: ours binary = standard input, text `{"resize":[h,w]}` and `{"eof":true}`; the manager's binary = a stream
byte (1 output, 2 error) and bytes, text `{"exit":N}` or `{"error":"…"}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import termios
import threading
import tty as tty_module
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from swarmsh.client import API_VERSION, ManagerLost, NoManager
from swarmsh.errors import SwarmshError

CHUNK = 65536


def run_remote(socket: Path, task_id: str, query: Mapping[str, Any], *, interactive: bool, tty: bool) -> int:
    """Run to the command's end; its exit code. Raises SwarmshError if it could not be run or was lost."""
    size = shutil.get_terminal_size()
    sent = {key: str(value) for key, value in query.items()}
    if tty:
        sent |= {"height": str(size.lines), "width": str(size.columns)}
    with _raw_terminal(tty and interactive):
        return asyncio.run(_run(socket, task_id, sent, interactive=interactive, tty=tty))


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """Every key goes to the command, Ctrl-C too; the mode before comes back also after an error."""
    if not wanted:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty_module.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _run(socket: Path, task_id: str, query: dict[str, str], *, interactive: bool, tty: bool) -> int:
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            url = f"http://swarmsh/v{API_VERSION}/swarmsh/tasks/{task_id}/exec"
            channel = await session.ws_connect(url, params=query, max_msg_size=0, autoping=True)
        except aiohttp.WSServerHandshakeError as error:
            raise SwarmshError(f"the manager refused to run the command: {error.message}") from error
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise NoManager(socket) from error
        async with channel:
            if tty:
                _follow_size(channel)
            if interactive:
                _send_input(channel)
            return await _receive(channel)


async def _receive(channel: aiohttp.ClientWebSocketResponse) -> int:
    async for message in channel:
        if message.type is aiohttp.WSMsgType.BINARY and message.data:
            output = sys.stderr.buffer if message.data[0] == 2 else sys.stdout.buffer
            output.write(message.data[1:])
            output.flush()
        elif message.type is aiohttp.WSMsgType.TEXT:
            told = json.loads(message.data)
            if "exit" in told:
                return int(told["exit"])
            if "error" in told:
                raise SwarmshError(str(told["error"]))
    raise ManagerLost("the connection to the manager was lost while the command ran; it may still be running")


def _follow_size(channel: aiohttp.ClientWebSocketResponse) -> None:
    loop = asyncio.get_running_loop()
    sending: set[asyncio.Task[None]] = set()

    def resized() -> None:
        size = shutil.get_terminal_size()
        task = loop.create_task(channel.send_str(json.dumps({"resize": [size.lines, size.columns]})))
        sending.add(task)
        task.add_done_callback(sending.discard)

    loop.add_signal_handler(signal.SIGWINCH, resized)


def _send_input(channel: aiohttp.ClientWebSocketResponse) -> None:
    """Read in a thread: standard input may be a file, which no event loop can wait for."""
    loop = asyncio.get_running_loop()

    def send(coroutine: Any) -> None:
        # Waiting for the frame to be taken keeps a large input from piling up in memory.
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def read() -> None:
        with suppress(OSError, RuntimeError, aiohttp.ClientError):
            while data := os.read(sys.stdin.fileno(), CHUNK):
                send(channel.send_bytes(data))
            send(channel.send_str(json.dumps({"eof": True})))

    threading.Thread(target=read, name="standard input", daemon=True).start()
