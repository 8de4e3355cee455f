"""A command in a task's container, over a WebSocket.

Binary frames from the client are standard input; its text frames are `{"resize":[height,width]}` and
`{"eof":true}`. Binary frames to the client start with the stream (1 or 2); the last text frame is `{"exit":N}` or
`{"error":"…"}`, which also tells what a handshake could not.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import WSMsgType, web

from swarmsh.api.context import Deps, flag, segment
from swarmsh.errors import InvalidSpec, SwarmshError, Unavailable
from swarmsh.manager.ports import ExecRequest, ExecSession
from swarmsh.manager.usecases import lookup
from swarmsh.model.objects import Task
from swarmsh.model.states import TaskState

LARGEST_MESSAGE = 8 << 20


async def run(request: web.Request, deps: Deps) -> web.StreamResponse:
    channel = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE)
    if not channel.can_prepare(request):
        raise InvalidSpec("exec is a WebSocket", hint="Use `swarmsh service exec`")
    await channel.prepare(request)
    try:
        command = _command(request)
        task = _running_task(deps, segment(request))
        await _run(channel, deps, task, command)
    except SwarmshError as e:
        await _tell(channel, {"error": str(e)})
    except ConnectionError:
        return channel  # the client is gone
    await channel.close()
    return channel


def _command(request: web.Request) -> ExecRequest:
    argv = _strings(request, "cmd")
    if not argv or not argv[0]:
        raise InvalidSpec("cmd is missing: a JSON array with the command and its arguments")
    return ExecRequest(
        argv=argv,
        tty=flag(request, "tty"),
        stdin=flag(request, "stdin"),
        env=_strings(request, "env"),
        user=request.query.get("user", ""),
        workdir=request.query.get("workdir", ""),
        privileged=flag(request, "privileged"),
        height=_size(request, "height"),
        width=_size(request, "width"),
    )


def _strings(request: web.Request, name: str) -> tuple[str, ...]:
    text = request.query.get(name, "")
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise InvalidSpec(f"invalid {name}: it is a JSON array of strings: {e}") from e


def _size(request: web.Request, name: str) -> int:
    text = request.query.get(name, "") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise InvalidSpec(f"invalid {name}: {text!r} is no number of characters")
    return int(text)


def _running_task(deps: Deps, ref: str) -> Task:
    lookup.require_cluster(deps.snapshot)
    task = lookup.find_task(deps.snapshot, ref)
    if task.status.state not in (TaskState.STARTING, TaskState.RUNNING) or not task.status.container_id:
        raise Unavailable(
            f"task {task.name} is {task.status.state.word}, not running", hint="Look at `docker service ps`"
        )
    return task


async def _run(channel: web.WebSocketResponse, deps: Deps, task: Task, command: ExecRequest) -> None:
    async with deps.streams.exec(task.node_id, task.status.container_id, command) as session:
        hearing = asyncio.create_task(_hear(channel, session))
        telling = asyncio.create_task(_say(channel, session))
        stopping = asyncio.create_task(deps.stopping.wait())
        try:
            # The end of the command is the end; so is that of the client, but not that of its input.
            await asyncio.wait({hearing, telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                await _tell(channel, {"exit": telling.result()})
            elif stopping.done():
                await _tell(channel, {"error": "the manager is stopping; the command goes on"})
            elif error := hearing.exception():
                raise error
        finally:
            for part in (hearing, telling, stopping):
                part.cancel()
            await asyncio.gather(hearing, telling, stopping, return_exceptions=True)


async def _hear(channel: web.WebSocketResponse, session: ExecSession) -> None:
    """Until the client is gone."""
    async for message in channel:
        if message.type is WSMsgType.BINARY:
            await session.write(message.data)
        elif message.type is WSMsgType.TEXT:
            await _obey(session, message.data)


class _Told(msgspec.Struct):
    resize: tuple[int, int] | None = None
    eof: bool = False


async def _obey(session: ExecSession, text: str) -> None:
    try:
        told = msgspec.json.decode(text, type=_Told)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise InvalidSpec(f"invalid message: {e}") from e
    if told.resize is not None:
        height, width = (max(0, min(n, 10_000)) for n in told.resize)
        await session.resize(height, width)
    if told.eof:
        await session.write_eof()


async def _say(channel: web.WebSocketResponse, session: ExecSession) -> int:
    async for stream, data in session.output():
        await channel.send_bytes(bytes((stream,)) + data)
    return await session.exit_code()


async def _tell(channel: web.WebSocketResponse, message: dict[str, object]) -> None:
    if not channel.closed:
        await channel.send_str(msgspec.json.encode(message).decode())
