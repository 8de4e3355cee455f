"""A helper that speaks the protocol from a script, on the standard streams of an asyncssh server process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncssh

HELLO: dict[str, Any] = {
    "v": 1,
    "helper": "0" * 64,
    "pid": 1,
    "description": {
        "hostname": "n1",
        "architecture": "x86_64",
        "os": "linux",
        "nano_cpus": 2_000_000_000,
        "memory_bytes": 1 << 30,
        "generic_resources": [["GPU", "UUID1"], ["SSD", "3"]],
        "engine_version": "20.10.24",
        "engine_api": "1.41",
        "engine_labels": {"disk": "ssd"},
        "plugins": [["Volume", "local"]],
    },
    "cluster_id": "",
    "epoch": 0,
    "index": 0,
    "tasks": [],
    "engine_ok": True,
    "engine_message": "",
    "mono": 1.0,
}


@dataclass
class ScriptedHelper:
    """One node's helper; `sessions` and `requests` tell what it saw.

    `answers` maps an op to its result, or to {"code": …, "message": …} under the key "error".
    """

    hello: dict[str, Any] = field(default_factory=lambda: dict(HELLO))
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent_ops: set[str] = field(default_factory=set)
    has_archive: bool = True
    greeting: bytes = b""
    heartbeat_s: float | None = 0.05
    commands: list[str] = field(default_factory=list)
    openings: list[dict[str, Any]] = field(default_factory=list)
    pushed: list[bytes] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    first_lines: list[dict[str, Any]] | None = None  # instead of `hello`, in one piece
    engine_is_silent: bool = False  # its stub does not answer
    # What the verb `engine` leads to.
    engine: Callable[[asyncssh.SSHServerProcess[bytes]], Any] | None = None

    async def serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands.append(process.command or "")
        process.stdout.write(self.greeting)
        line = await process.stdin.readline()
        if not line:
            return
        opening = json.loads(line)
        self.openings.append(opening)
        if opening["verb"] == "engine":
            if self.engine is None:
                process.stdout.write(b'{"error":"no such file: /var/run/docker.sock","hint":"start it"}\n')
                process.exit(1)
                return
            if not self.engine_is_silent:
                process.stdout.write(b'{"ok":true}\n')
            await self.engine(process)
            return
        if not self.has_archive:
            process.stdout.write(json.dumps({"need": opening["helper"]}).encode() + b"\n")
            self.pushed.append(await process.stdin.readexactly(opening["size"]))
            self.has_archive = True
        session = Session(self, process)
        self.sessions.append(session)
        await session.run()


class Session:
    def __init__(self, helper: ScriptedHelper, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.helper = helper
        self.process = process
        self.seq = 0

    def send(self, line: dict[str, Any]) -> None:
        self.raw(json.dumps(line).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        self.process.stdout.write(data)

    def task(self, task_id: str, state: str, **more: Any) -> None:
        self.send({"event": "task", "data": {"task_id": task_id, "state": state, **more}})

    async def run(self) -> None:
        first = self.helper.first_lines or [{"event": "hello", "data": self.helper.hello}]
        self.raw(b"".join(json.dumps(line).encode() + b"\n" for line in first))
        beats = asyncio.create_task(self._beat())
        try:
            with suppress(asyncssh.Error, OSError, asyncio.IncompleteReadError):
                while line := await self.process.stdin.readline():
                    self._answer(json.loads(line))
        finally:
            beats.cancel()

    def _answer(self, request: dict[str, Any]) -> None:
        self.helper.requests.append(request)
        op = request["op"]
        if op in self.helper.silent_ops:
            return
        answer = self.helper.answers.get(op, {})
        if "error" in answer:
            self.send({"id": request["id"], "ok": False, "error": answer["error"]})
        else:
            self.send({"id": request["id"], "ok": True, "result": answer})

    async def _beat(self) -> None:
        while self.helper.heartbeat_s is not None:
            await asyncio.sleep(self.helper.heartbeat_s)
            self.seq += 1
            self.send({"event": "heartbeat", "data": {"seq": self.seq, "engine_ok": True, "engine_down_s": 0.0}})
