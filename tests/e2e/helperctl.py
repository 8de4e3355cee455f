"""A tiny manager for tests: drives stub and helper of one lab machine over plain `ssh`, with JSON lines."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmsh.adapters.nodes.payload import Payload, load_helper, stub_command

CHECKOUT = Path(__file__).resolve().parents[2]
LINE_LIMIT = 2**20 + 1


class Answered(Exception):
    """The stub or the helper answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.code = error.get("code", "")
        self.error = error


@dataclass(frozen=True)
class Machine:
    """A node of the lab, reached from its network namespace."""

    lab: str
    name: str
    address: str
    suite: str
    namespace: str
    key: str

    def argv(self, command: str, user: str = "root") -> list[str]:
        """An `ssh` that runs a shell line on it."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        words = [one for option in options for one in ("-o", option)]
        enter = ["ip", "netns", "exec", self.namespace]
        return [*enter, "ssh", "-T", "-i", self.key, *words, f"{user}@{self.address}", command]

    def run(self, command: str, *, check: bool = True, timeout: float = 60.0) -> str:
        """Standard output of a shell line on it."""
        done = subprocess.run(self.argv(command), capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {command}: exit {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def python(self, program: str, *words: str) -> str:
        """Standard output of a Python program on it."""
        return self.run(shlex.join(["python3", "-c", program, *words]))

    def containers(self, cluster: str) -> list[str]:
        """Ids of the containers of a cluster, running or not."""
        return self.run(f"docker ps -aq --no-trunc --filter label=swarmsh.cluster={cluster}").split()

    def fault(self, what: str) -> None:
        """One of the lab's faults."""
        subprocess.run([CHECKOUT / "vagrant/lab", "fault", "--name", self.lab, self.name, what], check=True)


def machines(lab: str) -> list[Machine]:
    """The running nodes of a lab; none if it is not there."""
    command = [str(CHECKOUT / "vagrant/lab"), "status", "--name", lab, "--format", "json"]
    if not os.path.exists(command[0]):
        return []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        return []
    found = json.loads(done.stdout)
    key = f"{found['dir']}/id_ed25519"
    return [
        Machine(lab, one["name"], one["address"], one["suite"], found["namespace"], key)
        for one in found["nodes"]
        if one["state"] == "running" and one["sshd"]
    ]


class Session:
    """One session: `hello` once it stands, `tasks` as last reported, `events` in order."""

    def __init__(self, machine: Machine, *, user: str = "root", payload: Payload | None = None) -> None:
        self.machine, self.user = machine, user
        self.payload = payload or load_helper()
        self.hello: dict[str, Any] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.pushed = False
        self.ended = False
        self._numbers = iter(range(1, 10**9))
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Condition()
        self._jobs: list[asyncio.Task[None]] = []
        self.index = 1
        self.epoch = 1
        self.cluster = ""

    async def __aenter__(self) -> Session:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, timeout_s: float = 60.0) -> None:
        """Run the stub, push the archive if it asks, and read the hello."""
        command = stub_command("python3", become=self.user != "root")
        self.process = await asyncio.create_subprocess_exec(
            *self.machine.argv(command, self.user), stdin=-1, stdout=-1, limit=LINE_LIMIT
        )
        request = {"v": 1, "verb": "session", "helper": self.payload.sha256, "size": len(self.payload.archive)}
        self.write(json.dumps({**request, "root": "/run/swarmsh"}).encode() + b"\n")
        async with asyncio.timeout(timeout_s):
            first = await self._line()
            if "need" in first:
                self.pushed = True
                self.write(self.payload.archive)
                first = await self._line()
        if "error" in first:
            raise Answered(first)
        assert first["event"] == "hello", first
        self.hello = first["data"]
        self.tasks = {one["task_id"]: one for one in self.hello["tasks"]}
        self._jobs.append(asyncio.create_task(self._read()))

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise EOFError(f"{self.machine.name}: the session ended")
        return dict(json.loads(line))

    async def _read(self) -> None:
        try:
            while True:
                message = await self._line()
                async with self._changed:
                    self._take(message)
                    self._changed.notify_all()
        except (EOFError, ConnectionError):
            self.ended = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(EOFError("the session ended"))
            async with self._changed:
                self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.events.append(message)
            if message["event"] == "task":
                self.tasks[message["data"]["task_id"]] = message["data"]
        elif not (waiting := self._waiting.pop(message["id"])).done():
            waiting.set_result(message)

    async def request(
        self, op: str, args: dict[str, Any] | None = None, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """The result of an op. Raises Answered."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "op": op, "deadline_s": timeout_s, "args": args or {}})
        self.write(line.encode() + b"\n")
        async with asyncio.timeout(timeout_s + 5):
            reply = await waiting
        if not reply["ok"]:
            raise Answered(reply["error"])
        return dict(reply["result"])

    async def attach(
        self, cluster: str = "clustera", epoch: int = 1, lease_s: float = 10.0, renew: bool = True
    ) -> None:
        """Attach and keep the lease."""
        self.epoch, self.cluster = epoch, cluster
        args = {"cluster_id": cluster, "epoch": epoch, "index": self.index, "node_id": "n", "lease_s": lease_s}
        await self.request("attach", {**args, "heartbeat_s": 1})
        if renew:
            self._jobs.append(asyncio.create_task(self._renew(lease_s / 4)))

    async def _renew(self, pause_s: float) -> None:
        while not self.ended:
            await asyncio.sleep(pause_s)
            try:
                await self.request("lease")
            except EOFError:
                return

    async def apply(self, *actions: dict[str, Any]) -> dict[str, Any]:
        """One batch with a new index."""
        self.index += 1
        args = {"cluster_id": self.cluster, "epoch": self.epoch, "index": self.index, "actions": list(actions)}
        return await self.request("apply", args)

    async def until(self, test: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Wait until `test()` is true after some message; fails with what was seen."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.ended or test())
        except TimeoutError:
            raise AssertionError(f"{self.machine.name}: not seen in {timeout_s} s; tasks {self.tasks}") from None
        result = test()
        assert result, f"{self.machine.name}: the session ended"
        return result

    async def task(self, task_id: str, *states: str, timeout_s: float = 60.0, **fields: Any) -> dict[str, Any]:
        """The report of a task once it has one of the states, and all the fields."""

        def seen() -> dict[str, Any] | None:
            report = self.tasks.get(task_id, {})
            same = all(report.get(key, False) == value for key, value in fields.items())
            return report if report.get("state") in states and same else None

        report: dict[str, Any] = await self.until(seen, timeout_s)
        return report

    async def event(self, name: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The first event of that name."""

        def seen() -> dict[str, Any] | None:
            return next((one for one in self.events if one["event"] == name), None)

        found: dict[str, Any] = await self.until(seen, timeout_s)
        return dict(found["data"])

    async def close(self) -> None:
        """Cut the session off, as a lost connection does."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        if hasattr(self, "process"):
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()
            # Close the pipes now, not when the garbage collector comes.
            self.process._transport.close()  # type: ignore[attr-defined]
        self.ended = True


def ensure(task_id: str, *, env: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """An `ensure_task` of the lab's test image."""
    config: dict[str, Any] = {"Env": list(env), "HostConfig": {"NetworkMode": "bridge"}}
    config.update(changes.pop("config", {}))
    action = {
        "do": "ensure_task",
        "task_id": task_id,
        "service_id": "service1",
        "index": 1,
        "name": f"web.1.{task_id}",
        "desired": "running",
        "image": "web:1",
        "config": config,
    }
    return {**action, **changes}


def stop(task_id: str, grace_s: float = 10.0) -> dict[str, Any]:
    return {"do": "stop_task", "task_id": task_id, "grace_s": grace_s}


def remove(task_id: str) -> dict[str, Any]:
    return {"do": "remove_task", "task_id": task_id}


def stopwatch() -> Callable[[], float]:
    """Seconds since now, when called."""
    began = time.monotonic()
    return lambda: round(time.monotonic() - began, 2)
