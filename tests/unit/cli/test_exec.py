"""`service exec` against a real WebSocket: streams, exit codes, the terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from .conftest import Result, make_node, make_service, make_task

Cli = Callable[..., Result]


class ExecServer:
    """A manager with a service `web` (slots 1 and 2), whose exec behaves as the command's first word says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, str]] = []
        self.resized: list[list[int]] = []
        self._service = make_service()
        self._tasks = [make_task(self._service, 2, node="node2"), make_task(self._service, 1)]
        self._tasks.append(make_task(self._service, 3, "failed"))
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/v1.51/services/{name}", self._get_service)
        app.router.add_get("/v1.51/tasks", self._get_tasks)
        app.router.add_get("/v1.51/tasks/{id}", self._get_task)
        app.router.add_get("/v1.51/nodes", self._get_nodes)
        app.router.add_get("/v1.51/swarmsh/tasks/{id}/exec", self._exec)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.UnixSite(runner, str(self.path)).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _get_service(self, request: web.Request) -> web.Response:
        if request.match_info["name"] == "web":
            return web.json_response(self._service)
        return web.json_response({"message": "service not found"}, status=404)

    async def _get_tasks(self, request: web.Request) -> web.Response:
        return web.json_response(self._tasks)

    async def _get_nodes(self, request: web.Request) -> web.Response:
        return web.json_response([make_node("n1"), make_node("n2", node_id="node2")])

    async def _get_task(self, request: web.Request) -> web.Response:
        found = [task for task in self._tasks if task["ID"].startswith(request.match_info["id"])]
        return web.json_response(found[0] if found else {"message": "no such task"}, status=200 if found else 404)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({"task": request.match_info["id"], **request.query})
        command = json.loads(request.query["cmd"])
        if command[0] == "refused":
            return web.json_response({"message": "no"}, status=409, reason="the task stopped meanwhile")
        channel = web.WebSocketResponse()
        await channel.prepare(request)
        match command[0]:
            case "exit":
                await channel.send_bytes(b"\1out\n")
                await channel.send_bytes(b"\2err\n")
                await channel.send_str(json.dumps({"exit": int(command[1])}))
            case "fail":
                await channel.send_str(json.dumps({"error": "exec failed: no such file: fail"}))
            case "cat":
                await self._cat(channel)
            case "vanish":
                pass
        await channel.close()
        return channel

    async def _cat(self, channel: web.WebSocketResponse) -> None:
        async for message in channel:
            if message.type is WSMsgType.BINARY:
                await channel.send_bytes(b"\1" + message.data)
                if b"q" in message.data:
                    await channel.send_str('{"exit": 5}')
            else:
                told = json.loads(message.data)
                if "eof" in told:
                    await channel.send_str('{"exit": 0}')
                    return
                self.resized.append(told["resize"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExecServer]:
    with tempfile.TemporaryDirectory(prefix="swarmsh-exec-") as directory:
        found = ExecServer(Path(directory) / "s.sock")
        found.start()
        monkeypatch.setenv("SWARMSH_HOST", f"unix://{found.path}")
        yield found
        found.stop()


def test_streams_are_kept_apart_and_the_exit_code_is_the_commands(server: ExecServer, cli: Cli) -> None:
    result = cli("service", "exec", "-u", "1000", "-w", "/srv", "-e", "A=b", "web", "exit", "7", "-x")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")
    asked = server.asked[0]
    assert json.loads(asked["cmd"]) == ["exit", "7", "-x"]
    assert json.loads(asked["env"]) == ["A=b"]
    assert (asked["user"], asked["workdir"], asked["tty"], asked["stdin"]) == ("1000", "/srv", "0", "0")


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ("web", "task1node1"),
        ("web.2", "task2node2"),
        ("web.n2", "task2node2"),
        ("task2node2", "task2node2"),
        ("web.2." + "task2node2".ljust(25, "0"), "task2node2"),
    ],
)
def test_a_task_is_found_by_service_slot_node_name_or_id(
    target: str, task: str, server: ExecServer, cli: Cli
) -> None:
    assert cli("service", "exec", target, "exit", "0").code == 0
    assert server.asked[0]["task"].startswith(task)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("web.3", "Error: no task of web.3 is running now. See `swarmsh service ps web`\n"),
        ("nope", "Error: no such task or service: nope. See `swarmsh service ls`\n"),
        ("task3", "Error: task task3 is failed, not running\n"),
    ],
)
def test_what_does_not_run_is_told(target: str, message: str, server: ExecServer, cli: Cli) -> None:
    result = cli("service", "exec", target, "exit", "0")
    assert (result.code, result.err) == (1, message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fail", "Error: exec failed: no such file: fail"),
        ("vanish", "Error: the connection to the manager was lost while the command ran"),
        ("refused", "Error: the manager refused to run the command"),
    ],
)
def test_failures_are_one_line(command: str, message: str, server: ExecServer, cli: Cli) -> None:
    result = cli("service", "exec", "web", command)
    assert result.code == 1
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_standard_input_goes_in_whole_and_ends(server: ExecServer) -> None:
    data = b"line\n" * 100_000
    done = subprocess.run(
        [sys.executable, "-m", "swarmsh", "service", "exec", "-i", "web", "cat"],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_a_tty_that_is_none_is_refused(server: ExecServer, cli: Cli) -> None:
    result = cli("service", "exec", "-it", "web", "cat")
    assert result.code == 2
    assert "the input device is not a TTY" in result.err


def test_the_terminal_is_raw_meanwhile_follows_its_size_and_is_restored(server: ExecServer) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmsh", "service", "exec", "-it", "web", "cat"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={key: value for key, value in os.environ.items() if key not in ("LINES", "COLUMNS")},
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )

    def wait_for(what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)

    try:
        wait_for(lambda: server.asked)
        assert (server.asked[0]["height"], server.asked[0]["width"], server.asked[0]["tty"]) == ("30", "90", "1")
        os.write(ours, b"\x03")  # Ctrl-C belongs to the command
        assert os.read(ours, 100) == b"\x03"
        assert not termios.tcgetattr(theirs)[3] & termios.ECHO
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        wait_for(lambda: server.resized)
        assert server.resized[0] == [40, 100]
        os.write(ours, b"q")
        assert process.wait(30) == 5
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
