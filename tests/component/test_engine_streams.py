"""The Engine's socket over a session, and logs and exec on it, against a small Engine of the test."""
# ruff: noqa: ASYNC240, PT012

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
import pytest
from aiohttp import web

from swarmsh.adapters.nodes.engine import NodeEngines
from swarmsh.errors import NodeRequestFailed, NodeUnreachable
from swarmsh.manager.ports import Connected, Disconnected, ExecRequest
from swarmsh.model.volumes import EngineVolume
from tests.component.conftest import eventually


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class SmallEngine:
    """As much of an Engine as these tests need, on a unix socket; its exec is /bin/sh of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.execs: dict[str, dict[str, Any]] = {}
        self.resized: list[dict[str, str]] = []
        self.follow = asyncio.Event()
        self.removed: list[tuple[str, str]] = []
        self.df_fails = False

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/containers/{id}/logs", self._logs)
        app.router.add_post("/containers/{id}/exec", self._exec)
        app.router.add_post("/exec/{id}/start", self._start)
        app.router.add_post("/exec/{id}/resize", self._resize)
        app.router.add_get("/exec/{id}/json", self._inspect)
        app.router.add_get("/volumes", self._volumes)
        app.router.add_delete("/volumes/{name}", self._remove_volume)
        app.router.add_get("/system/df", self._df)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.UnixSite(self.runner, str(self.path)).start()

    async def join(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """What the stub's verb `engine` does."""
        self.connections += 1
        reader, writer = await asyncio.open_unix_connection(str(self.path))

        async def up() -> None:
            while data := await process.stdin.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        rising = asyncio.create_task(up())
        while data := await reader.read(65536):
            process.stdout.write(data)
            await process.stdout.drain()
        process.stdout.write_eof()
        rising.cancel()
        writer.close()
        process.exit(0)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] == "absent":
            return web.json_response({"message": "No such container: absent"}, status=404)
        answer = web.StreamResponse()
        await answer.prepare(request)
        if request.match_info["id"] == "terminal":
            await answer.write(b"one\r\ntw")
            await answer.write(b"o\r\nthree")
            return answer
        wire = frame(1, b"out 1\nout ") + frame(2, b"err 1\n") + frame(1, b"2\n") + frame(2, b"no newline")
        for at in range(0, len(wire), 7):
            await answer.write(wire[at : at + 7])
        if request.query.get("follow") == "1":
            await self.follow.wait()
        return answer

    async def _volumes(self, request: web.Request) -> web.Response:
        pg = {"Name": "pg", "Driver": "local", "Mountpoint": "/v/pg", "Labels": None, "Options": {"o": "bind"}}
        free = {"Name": "old", "Driver": "local", "Scope": "local", "CreatedAt": "2026-11-22T10:00:00Z"}
        dangling = "dangling" in json.loads(request.query.get("filters", "{}"))
        return web.json_response({"Volumes": [free] if dangling else [pg, free], "Warnings": None})

    async def _remove_volume(self, request: web.Request) -> web.Response:
        self.removed.append((request.match_info["name"], request.query.get("force", "")))
        if request.match_info["name"] == "pg":
            return web.json_response({"message": "remove pg: volume is in use - [c1]"}, status=409)
        return web.Response(status=204)

    async def _df(self, request: web.Request) -> web.Response:
        if self.df_fails:
            return web.json_response({"message": "a disk usage operation is already running"}, status=500)
        used = [
            {"Name": "pg", "UsageData": {"Size": 4096, "RefCount": 1}},
            {"Name": "old", "UsageData": {"Size": -1, "RefCount": -1}},
        ]
        return web.json_response({"Volumes": used})

    async def _exec(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"e{len(self.execs)}"
        self.execs[name] = {"body": body, "Running": False, "ExitCode": None}
        return web.json_response({"Id": name}, status=201)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        found = self.execs[request.match_info["id"]]
        if found["body"]["Cmd"] == ["refused"]:
            return web.json_response({"message": "container is not running"}, status=409)
        assert request.headers["Upgrade"] == "tcp"
        await request.read()
        transport = request.transport
        assert transport is not None
        transport.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        # aiohttp's server knows no raw streams either: take the socket over.
        sock = transport.get_extra_info("socket").dup()
        transport.pause_reading()
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        found["Running"] = True
        child = await asyncio.create_subprocess_exec(
            *found["body"]["Cmd"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        async def up() -> None:
            while data := await reader.read(65536):
                child.stdin.write(data)
                await child.stdin.drain()
            child.stdin.close()

        async def down(stream: int, source: asyncio.StreamReader) -> None:
            while data := await source.read(65536):
                writer.write(frame(stream, data))
                await writer.drain()

        rising = asyncio.create_task(up())
        await asyncio.gather(down(1, child.stdout), down(2, child.stderr))
        found["ExitCode"] = await child.wait()
        writer.close()
        rising.cancel()
        asyncio.get_running_loop().call_later(0.1, found.update, {"Running": False})
        transport.close()
        return web.Response()

    async def _resize(self, request: web.Request) -> web.Response:
        self.resized.append(dict(request.query))
        return web.Response()

    async def _inspect(self, request: web.Request) -> web.Response:
        found = self.execs.get(request.match_info["id"])
        if found is None or found.get("gone"):
            return web.json_response({"message": "No such exec instance"}, status=404)
        return web.json_response({k: v for k, v in found.items() if k != "body"})


@pytest.fixture
async def engine(tmp_path: Path):
    engine = SmallEngine(tmp_path / "e.sock")
    await engine.start()
    yield engine
    engine.follow.set()
    await engine.runner.cleanup()


@pytest.fixture
async def node(serve, make_sessions, helper, engine: SmallEngine, key_file: Path):
    helper.engine = engine.join
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    sessions.server = server
    return sessions


@pytest.fixture
async def engines(node):
    engines = NodeEngines(node)
    yield engines
    await engines.close()


# --- the socket ---------------------------------------------------------------------------------------------
async def test_the_socket_is_private_and_made_once(node) -> None:
    path = await node.engine_socket("node1")
    assert path == await node.engine_socket("node1")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    await node.drop("node1")
    assert not os.path.exists(path)


async def test_without_a_session_its_clients_are_told(node, serve) -> None:
    path = await node.engine_socket("node1")
    await node.server.stop()
    await node.until(Disconnected)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client:
        answer = await client.get("http://engine/_ping")
        assert answer.status == 503
        assert "no session with node n1" in (await answer.json())["message"]
    with pytest.raises(NodeUnreachable, match="no session with node n1"):
        await node.engine_socket("node1")


async def test_bytes_go_both_ways_with_half_close(node, helper) -> None:
    async def reverse(process: asyncssh.SSHServerProcess[bytes]) -> None:
        data = await process.stdin.read()  # until its end
        process.stdout.write(data[::-1])
        process.exit(0)

    helper.engine = reverse
    reader, writer = await asyncio.open_unix_connection(await node.engine_socket("node1"))
    data = os.urandom(5_000_000)
    writer.write(data)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == data[::-1]
    writer.close()


async def test_a_slow_reader_holds_the_node_up_and_not_the_manager(node, helper) -> None:
    written = 0

    async def flood(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal written
        while True:
            process.stdout.write(bytes(65536))
            await process.stdout.drain()
            written += 65536

    helper.engine = flood
    reader, writer = await asyncio.open_unix_connection(await node.engine_socket("node1"))
    await reader.readexactly(100_000)
    before = -1
    while before != written:  # until it is held up
        before = written
        await asyncio.sleep(0.2)
    assert written < 16 << 20
    await node.end_processes("node1", [])  # the session itself goes on
    await reader.readexactly(10_000_000)
    writer.close()


async def test_a_stub_that_does_not_answer_in_time_is_left(serve, make_sessions, helper, key_file: Path) -> None:
    ended = asyncio.Event()

    async def wait_for_the_end(process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            await process.stdin.read()
        finally:
            ended.set()

    helper.engine, helper.engine_is_silent = wait_for_the_end, True
    server = await serve(helper.serve)
    sessions = make_sessions(request_s=0.3)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    reader, writer = await asyncio.open_unix_connection(await sessions.engine_socket("node1"))
    assert b"did not open within 0.3 s" in await asyncio.wait_for(reader.read(), 10)
    await asyncio.wait_for(ended.wait(), 5)
    assert sessions.connected("node1")
    writer.close()


async def test_a_client_that_goes_away_ends_the_stream(node, helper) -> None:
    ended = asyncio.Event()

    async def trickle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            while not process.is_closing():
                process.stdout.write(b"y\n")
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    helper.engine = trickle
    reader, writer = await asyncio.open_unix_connection(await node.engine_socket("node1"))
    await reader.readexactly(10)
    writer.close()
    await asyncio.wait_for(ended.wait(), 5)
    await node.end_processes("node1", [])  # the session itself goes on


async def test_connections_end_with_the_session(node, engine: SmallEngine) -> None:
    reader, writer = await asyncio.open_unix_connection(await node.engine_socket("node1"))
    writer.write(b"GET /containers/c/logs?follow=1 HTTP/1.1\r\nHost: e\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    node.server.drop_all()
    await asyncio.wait_for(reader.read(), 10)
    writer.close()


# --- logs ---------------------------------------------------------------------------------------------------
async def test_logs_come_in_lines_of_each_stream(engines: NodeEngines) -> None:
    lines = [line async for line in engines.logs("node1", "c", {"stdout": "1", "stderr": "1"}, tty=False)]
    assert lines == [(2, b"err 1\n"), (1, b"out 1\n"), (1, b"out 2\n"), (2, b"no newline")] or lines == [
        (1, b"out 1\n"),
        (2, b"err 1\n"),
        (1, b"out 2\n"),
        (2, b"no newline"),
    ]


async def test_logs_of_a_terminal_are_raw(engines: NodeEngines) -> None:
    lines = [line async for line in engines.logs("node1", "terminal", {}, tty=True)]
    assert lines == [(1, b"one\r\n"), (1, b"two\r\n"), (1, b"three")]


async def test_logs_of_no_container_fail_in_the_engines_words(engines: NodeEngines) -> None:
    with pytest.raises(NodeRequestFailed, match="No such container: absent") as e:
        async for _ in engines.logs("node1", "absent", {}, tty=False):
            pass
    assert e.value.fields["status"] == 404


async def test_followed_logs_end_in_an_error_when_the_node_goes(engines: NodeEngines, node) -> None:
    with pytest.raises(NodeUnreachable, match="connection to the Engine of node node1 ended"):
        async for _, line in engines.logs("node1", "c", {"follow": "1"}, tty=False):
            if line == b"out 2\n":
                node.server.drop_all()


async def test_a_reader_that_leaves_closes_the_way(engines: NodeEngines, engine: SmallEngine) -> None:
    stream = engines.logs("node1", "c", {"follow": "1"}, tty=False)
    await anext(stream)
    await stream.aclose()
    # And short calls share one connection.
    for _ in range(5):
        with pytest.raises(NodeRequestFailed):
            await anext(engines.logs("node1", "absent", {}, tty=False))
    assert engine.connections == 2


# --- exec ---------------------------------------------------------------------------------------------------
async def run(engines: NodeEngines, *argv: str, given: bytes | None = None) -> tuple[list[tuple[int, bytes]], int]:
    async with engines.exec("node1", "c", ExecRequest(argv=argv, stdin=given is not None)) as command:
        if given is not None:
            await command.write(given)
            await command.write_eof()
        chunks = [chunk async for chunk in command.output()]
        return chunks, await command.exit_code()


async def test_a_command_runs_and_tells_its_exit_code(engines: NodeEngines) -> None:
    chunks, code = await run(engines, "/bin/sh", "-c", "echo out; sleep 0.1; echo err >&2; exit 7")
    assert (chunks, code) == ([(1, b"out\n"), (2, b"err\n")], 7)


async def test_a_command_reads_its_input_to_the_end(engines: NodeEngines) -> None:
    data = os.urandom(2_000_000)
    chunks, code = await run(engines, "/bin/cat", given=data)
    assert b"".join(part for _, part in chunks) == data
    assert code == 0


async def test_a_refused_start_says_why(engines: NodeEngines) -> None:
    with pytest.raises(NodeRequestFailed, match="container is not running"):
        await run(engines, "refused")


async def test_a_terminal_is_resized(engines: NodeEngines, engine: SmallEngine) -> None:
    request = ExecRequest(argv=("/bin/cat",), tty=True, stdin=True, height=40, width=100)
    async with engines.exec("node1", "c", request) as command:
        await command.resize(50, 120)
    assert engine.resized == [{"h": "40", "w": "100"}, {"h": "50", "w": "120"}]
    assert json.loads(json.dumps(engine.execs["e0"]["body"]))["ConsoleSize"] == [40, 100]


async def test_a_command_whose_container_is_gone_counts_as_killed(
    engines: NodeEngines, engine: SmallEngine
) -> None:
    async with engines.exec("node1", "c", ExecRequest(argv=("/bin/sleep", "0.1"))) as command:
        engine.execs["e0"]["gone"] = True
        assert [c async for c in command.output()] == []
        assert await command.exit_code() == 137


async def test_leaving_the_context_closes_the_streams(engines: NodeEngines, engine: SmallEngine) -> None:
    async with engines.exec("node1", "c", ExecRequest(argv=("/bin/cat",), stdin=True)) as command:
        await command.write(b"x")
    await eventually(lambda: engine.execs["e0"]["ExitCode"] is not None)


# --- volumes ------------------------------------------------------------------------------------------------
async def test_volumes_are_listed_with_use_and_if_asked_with_sizes(
    engines: NodeEngines, engine: SmallEngine
) -> None:
    pg = EngineVolume(name="pg", mountpoint="/v/pg", options={"o": "bind"}, scope="", in_use=True)
    old = EngineVolume(name="old", created_at="2026-11-22T10:00:00Z")
    assert await engines.volumes("node1", sizes=False) == [pg, old]
    sized = await engines.volumes("node1", sizes=True)
    assert [one.size_bytes for one in sized] == [4096, None]
    engine.df_fails = True
    assert await engines.volumes("node1", sizes=True) == [pg, old]


async def test_a_volume_in_use_is_not_removed(engines: NodeEngines, engine: SmallEngine) -> None:
    await engines.remove_volume("node1", "old", force=True)
    with pytest.raises(NodeRequestFailed, match="volume is in use") as refused:
        await engines.remove_volume("node1", "pg", force=False)
    assert refused.value.fields["status"] == 409
    assert engine.removed == [("old", "1"), ("pg", "")]
