"""Logs and exec of a node's Engine, through its private socket. Engine API 1.41 and later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from swarmsh.adapters.nodes.frames import Chunk, FrameReader, LineCutter, RawReader
from swarmsh.errors import NodeRequestFailed, NodeUnreachable, SwarmshError
from swarmsh.manager.ports import ExecRequest
from swarmsh.model.volumes import EngineVolume

_CALL_S = 20.0
_READ_BYTES = 64 * 1024
_KILLED = 137  # 128 + SIGKILL: what the Engine reports of a process whose container died


class EngineSockets(Protocol):
    """Where the Engines' sockets are."""

    async def engine_socket(self, node_id: str) -> str: ...


class NodeEngines:
    """The manager's EngineStreams. Connections are kept for the next call: each costs a process on the node."""

    def __init__(self, sockets: EngineSockets) -> None:
        self._sockets = sockets
        self._clients: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def _client(self, node_id: str) -> tuple[aiohttp.ClientSession, str]:
        path = await self._sockets.engine_socket(node_id)
        client = self._clients.get(path)
        if client is None or client.closed:
            client = self._clients[path] = aiohttp.ClientSession(
                "http://engine",
                connector=aiohttp.UnixConnector(path, limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CALL_S),
            )
        return client, path

    # --- logs ---
    async def logs(
        self, node_id: str, container_id: str, query: dict[str, str], *, tty: bool
    ) -> AsyncIterator[Chunk]:
        """(stream, line with its newline); the last line may lack it. See the port."""
        client, _ = await self._client(node_id)
        reader: FrameReader | RawReader = RawReader() if tty else FrameReader()
        cutter = LineCutter()
        try:
            async with client.get(f"/containers/{container_id}/logs", params=query) as answer:
                await _check(answer, node_id)
                async for data in answer.content.iter_any():
                    for stream, part in reader.feed(data):
                        for line in cutter.feed(stream, part):
                            yield line
        except (aiohttp.ClientError, OSError) as e:
            raise _cut_off(node_id, e) from e
        for line in cutter.rest():
            yield line

    # --- exec ---
    @asynccontextmanager
    async def exec(self, node_id: str, container_id: str, request: ExecRequest) -> AsyncIterator[EngineExec]:
        """See the port. The Engine lets a command go on whose streams were closed."""
        client, path = await self._client(node_id)
        created = await self._call(client, node_id, f"/containers/{container_id}/exec", _exec_config(request))
        exec_id = str(created["Id"])
        reader, writer = await _hijack(path, node_id, f"/exec/{exec_id}/start", {"Tty": request.tty})
        session = EngineExec(self, client, node_id, exec_id, reader, writer, tty=request.tty)
        try:
            if request.tty and request.height and request.width:
                await session.resize(request.height, request.width)
            yield session
        finally:
            writer.close()

    # --- volumes ---
    async def volumes(self, node_id: str, *, sizes: bool) -> list[EngineVolume]:
        """See the port. Engines before API 1.42 count the bytes of all they have, whatever is asked for."""
        client, _ = await self._client(node_id)
        unused = {"filters": json.dumps({"dangling": ["true"]})}
        found, dangling = await asyncio.gather(
            self._call(client, node_id, "/volumes", method="GET"),
            self._call(client, node_id, "/volumes", method="GET", query=unused),
        )
        counted = await self._sizes(client, node_id) if sizes else {}
        free = {one["Name"] for one in dangling.get("Volumes") or ()}
        return [_volume(one, one["Name"] not in free, counted) for one in found.get("Volumes") or ()]

    async def _sizes(self, client: aiohttp.ClientSession, node_id: str) -> dict[str, int]:
        """Bytes by name; none where counting takes too long, or cannot be had."""
        try:
            used = await self._call(client, node_id, "/system/df", method="GET", query={"type": "volume"})
        except SwarmshError:
            return {}
        sizes = {
            one["Name"]: int((one.get("UsageData") or {}).get("Size", -1)) for one in used.get("Volumes") or ()
        }
        return {name: size for name, size in sizes.items() if size >= 0}

    async def remove_volume(self, node_id: str, name: str, *, force: bool) -> None:
        """See the port."""
        client, _ = await self._client(node_id)
        query = {"force": "1"} if force else None
        await self._call(client, node_id, f"/volumes/{quote(name, safe='')}", method="DELETE", query=query)

    async def _call(
        self,
        client: aiohttp.ClientSession,
        node_id: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        method: str = "POST",
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request with a JSON answer. Raises NodeUnreachable, NodeRequestFailed (field status)."""
        try:
            async with asyncio.timeout(_CALL_S), client.request(method, path, json=body, params=query) as answer:
                await _check(answer, node_id)
                found = await answer.read()
                return json.loads(found) if found.strip() else {}
        except TimeoutError as e:
            raise NodeUnreachable(
                f"the Engine of node {node_id} did not answer {path} within {_CALL_S:g} s", node=node_id
            ) from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise _cut_off(node_id, e) from e


class EngineExec:
    """A running command: the manager's ExecSession."""

    def __init__(
        self,
        engines: NodeEngines,
        client: aiohttp.ClientSession,
        node_id: str,
        exec_id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
    ) -> None:
        self._engines = engines
        self._client = client
        self._node_id = node_id
        self._exec_id = exec_id
        self._reader = reader
        self._writer = writer
        self._frames: FrameReader | RawReader = RawReader() if tty else FrameReader()
        self._output_ended = asyncio.Event()

    async def output(self) -> AsyncIterator[Chunk]:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for chunk in self._frames.feed(data):
                    yield chunk
        except OSError:
            pass  # as an end: exit_code tells what became of it
        finally:
            self._output_ended.set()

    async def write(self, data: bytes) -> None:
        with suppress(ConnectionError):  # the command ended before it read all: usual, and no fault
            self._writer.write(data)
            await self._writer.drain()

    async def write_eof(self) -> None:
        with suppress(OSError):
            self._writer.write_eof()

    async def resize(self, height: int, width: int) -> None:
        query = {"h": str(height), "w": str(width)}
        # Between start and the process's birth the Engine knows no terminal to resize; and after its end.
        with suppress(NodeRequestFailed):
            await self._engines._call(self._client, self._node_id, f"/exec/{self._exec_id}/resize", query=query)

    async def exit_code(self) -> int:
        pause_s = 0.02
        while True:
            try:
                found = await self._engines._call(
                    self._client, self._node_id, f"/exec/{self._exec_id}/json", method="GET"
                )
            except NodeRequestFailed as e:
                if e.fields.get("status") == 404:  # gone with its container
                    return _KILLED
                raise
            code = found.get("ExitCode")
            if not found.get("Running", False):
                return _KILLED if code is None else int(code)
            if not self._output_ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._output_ended.wait(), 1.0)
            else:  # the output ends a moment before the Engine knows the exit code
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)


def _volume(one: dict[str, Any], in_use: bool, sizes: dict[str, int]) -> EngineVolume:
    return EngineVolume(
        name=one["Name"],
        driver=one.get("Driver") or "",
        mountpoint=one.get("Mountpoint") or "",
        created_at=one.get("CreatedAt") or "",
        labels=one.get("Labels") or {},
        options=one.get("Options") or {},
        scope=one.get("Scope") or "",
        in_use=in_use,
        size_bytes=sizes.get(one["Name"]),
    )


def _exec_config(request: ExecRequest) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Cmd": list(request.argv),
        "AttachStdin": request.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": request.tty,
        "Env": list(request.env),
        "User": request.user,
        "WorkingDir": request.workdir,
        "Privileged": request.privileged,
    }
    if request.tty and request.height and request.width:
        config["ConsoleSize"] = [request.height, request.width]  # API 1.42; ignored before
    return config


async def _hijack(
    path: str, node_id: str, url: str, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """POST with an upgrade to a raw stream, which aiohttp's client cannot do."""
    sent = json.dumps(body).encode()
    head = (
        f"POST {url} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_READ_BYTES)
    except OSError as e:
        raise _cut_off(node_id, e) from e
    try:
        async with asyncio.timeout(_CALL_S):
            writer.write(head.encode() + sent)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(None, 2)[1])
            if status in (101, 200):
                return reader, writer
            raise _refusal(node_id, status, await _read_body(reader, answer))
    except (OSError, TimeoutError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as e:
        writer.close()
        raise _cut_off(node_id, e) from e
    except BaseException:
        writer.close()
        raise


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return await reader.readexactly(int(value))
    return await reader.read(_READ_BYTES)


async def _check(answer: aiohttp.ClientResponse, node_id: str) -> None:
    if answer.status >= 400:
        raise _refusal(node_id, answer.status, await answer.read())


def _refusal(node_id: str, status: int, body: bytes) -> SwarmshError:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode(errors="replace").strip() or f"status {status}"
    if status == 503:  # the private socket's own answer, without a session
        return NodeUnreachable(message, node=node_id)
    return NodeRequestFailed(message, node=node_id, status=status)


def _cut_off(node_id: str, error: Exception) -> NodeUnreachable:
    return NodeUnreachable(
        f"the connection to the Engine of node {node_id} ended: {error or type(error).__name__}", node=node_id
    )
