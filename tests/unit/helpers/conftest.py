"""A helper in this process, on a fake Engine, with sessions over socket pairs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import facts, memoryfs
from remote_helpers.helper import Helper
from remote_helpers.netfile import NetFile
from remote_helpers.netstate import Held
from tests.unit.helpers.fake_engine import FakeEngine

MESSAGES = Path(__file__).resolve().parents[2] / "messages"


def sample(name: str) -> dict[str, Any]:
    """A message of `tests/messages/`."""
    return dict(json.loads((MESSAGES / f"{name}.json").read_text()))


class Manager:
    """The manager's end of a session."""

    def __init__(self, helper: Helper) -> None:
        ours, theirs = socket.socketpair()
        self.sock = ours
        fd = os.dup(theirs.fileno())
        link, self.link = socket.socketpair()
        helper.open_session(theirs.detach(), fd, link, b"")
        self.tasks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.replies: dict[int, dict[str, Any]] = {}
        self.ended = False
        self._number = 0
        self._changed = asyncio.Condition()

    async def open(self) -> dict[str, Any]:
        """Read the hello."""
        self.reader, self.writer = await asyncio.open_connection(sock=self.sock, limit=2**21)
        self._job = asyncio.create_task(self._read())
        hello = await self.event("hello")
        self.tasks.update({one["task_id"]: one for one in hello["tasks"]})
        return hello

    async def _read(self) -> None:
        while line := await self.reader.readline():
            message = json.loads(line)
            async with self._changed:
                if "event" in message:
                    self.events.append(message)
                    if message["event"] == "task":
                        self.tasks[message["data"]["task_id"]] = message["data"]
                else:
                    self.replies[message["id"]] = message
                self._changed.notify_all()
        self.ended = True
        async with self._changed:
            self._changed.notify_all()

    async def until(self, test: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(8), self._changed:
                await self._changed.wait_for(test)
        except TimeoutError:
            raise AssertionError(f"not seen; tasks {self.tasks}") from None
        return test()

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        def seen() -> dict[str, Any] | None:
            for one in self.events:
                if one["event"] == name and fields.items() <= one["data"].items():
                    return one
            return None

        return dict((await self.until(seen))["data"])

    async def task(self, task_id: str, state: str, **fields: Any) -> dict[str, Any]:
        def seen() -> dict[str, Any] | None:
            one = self.tasks.get(task_id, {})
            same = one.get("state") == state and all(one.get(k, False) == v for k, v in fields.items())
            return one if same else None

        return dict(await self.until(seen))

    async def request(self, op: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """The reply, refused or not."""
        self._number += 1
        number = self._number
        self.send({"id": number, "op": op, "args": args or {}})
        return dict(await self.until(lambda: self.replies.get(number)))

    def send(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def attach(self, epoch: int = 1, cluster: str = "clustera", **more: Any) -> dict[str, Any]:
        args = {"cluster_id": cluster, "epoch": epoch, "index": 1, "node_id": "n", "lease_s": 60, "heartbeat_s": 5}
        return await self.request("attach", {**args, **more})

    async def apply(self, *actions: dict[str, Any], index: int = 1, epoch: int = 1) -> dict[str, Any]:
        args = {"cluster_id": "clustera", "epoch": epoch, "index": index, "actions": list(actions)}
        return await self.request("apply", args)

    async def close(self) -> None:
        self._job.cancel()
        await asyncio.gather(self._job, return_exceptions=True)
        self.writer.close()
        self.link.close()


class FakePlane:
    """The kernel's side: what it was given, and what it answers. One for each that the helper makes."""

    def __init__(self, world: World, esp_state: dict[str, Any]) -> None:
        self._world = world
        self._file = NetFile(f"{world.root}/network.json")
        self.esp_state = esp_state
        self.failed: dict[str, str] = {}
        self.lost: list[int] = []
        self.stopped = False

    @property
    def closed(self) -> bool:
        return bool(self.esp_state.get("closed"))

    async def bring(
        self, held: Held, changes: Any, state: dict[str, Any], whole: bool
    ) -> tuple[list[str], list[str]]:
        if changes is None:
            self._file.write(held, self.esp_state)
        else:
            self._file.append(held, self.esp_state, changes)
        self._world.passes.append(("whole" if whole else "change", state))
        await self._world.kernel_answers.wait()
        self.failed = dict(self._world.cannot_be_made)
        drift = self._world.drift.pop(0) if whole and self._world.drift else []
        return drift, list(self._world.kernel_errors)

    async def purge(self, keys_too: bool) -> tuple[list[str], list[str]]:
        if keys_too:
            self.esp_state = {}
        self._file.write(Held(), self.esp_state)
        self._world.passes.append(("purge", {"keys_too": keys_too}))
        return [], list(self._world.kernel_errors)

    async def hairpin(self) -> None:
        self._world.passes.append(("hairpin", {}))

    async def secure(self, message: dict[str, Any]) -> list[int]:
        self._world.passes.append(("secure", message))
        if self._world.key_error is not None:
            raise self._world.key_error
        self.esp_state = {"closed": message["closed"]}
        return [1]

    async def repair(self) -> tuple[list[str], list[str]]:
        self._world.passes.append(("repair", {}))
        return (self._world.drift.pop(0) if self._world.drift else []), []

    def stop(self) -> None:
        self.stopped = True


class World:
    """Helper and Engine; `crash` and `resume` are a `kill -9` and what the unit does then."""

    def __init__(self, directory: Path) -> None:
        self.root = str(directory)
        self.engine = FakeEngine(f"{directory}/engine.sock")
        self.managers: list[Manager] = []
        self.helper: Helper | None = None
        self.passes: list[tuple[str, dict[str, Any]]] = []  # what the kernel's side was told, in order
        self.kernel_answers = asyncio.Event()
        self.kernel_answers.set()
        self.kernel_errors: list[str] = []
        self.cannot_be_made: dict[str, str] = {}
        self.key_error: Exception | None = None
        self.drift: list[list[str]] = []  # of the next whole passes
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self.dns_port = sock.getsockname()[1]

    def resume(self, dns_fds: list[int] | None = None) -> None:
        self.helper = Helper(self.root, "0" * 64, self.engine.path)
        network = self.helper.network
        network.dns_port = self.dns_port
        network.make_plane = lambda path, root, engine, esp_state: FakePlane(self, esp_state)
        self.helper.start(dns_fds or [])

    async def manager(self, *, attach: bool = True, **options: Any) -> Manager:
        assert self.helper is not None
        manager = Manager(self.helper)
        self.managers.append(manager)
        await manager.open()
        if attach:
            assert (await manager.attach(**options))["ok"]
        return manager

    async def crash(self) -> None:
        """End the process without a chance to write anything."""
        helper, self.helper = self.helper, None
        assert helper is not None
        if helper.state._timer is not None:
            helper.state._timer.cancel()
            helper.state._timer = None
        helper.state.save_soon = lambda: None  # type: ignore[method-assign]
        helper.tasks._save_soon = lambda: None
        helper.tasks.node.save_soon = lambda: None
        jobs = [*helper._running, *(t._worker for t in helper.tasks.by_id.values() if t._worker)]
        for task in helper.tasks.by_id.values():
            task._stop_watch()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if helper.network._dns is not None:
            helper.network._dns.close()
        for session in list(helper.sessions.values()):
            session.close("killed")
        helper._stop_heart()
        helper.lease.seconds = 0
        if helper.lease._timer is not None:
            helper.lease._timer.cancel()

    async def end(self) -> None:
        for manager in self.managers:
            await manager.close()
        if self.helper is not None:
            await self.crash()
        await self.engine.stop()


ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	100	00FFFFFF	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
"""


@pytest.fixture
def memory_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary folder in the place of a file system that only root may mount."""

    def ensure_mounted(folder: str) -> str:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return "noswap"

    monkeypatch.setattr(memoryfs, "ensure_mounted", ensure_mounted)
    monkeypatch.setattr(memoryfs, "not_dumpable", lambda: None)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_is_a_folder: None) -> AsyncIterator[World]:
    (tmp_path / "route").write_text(ROUTES)
    monkeypatch.setattr(facts, "ROUTES", str(tmp_path / "route"))
    monkeypatch.setattr(facts, "own_mtus", lambda: [["10.0.0.12", 1500]])
    world = World(tmp_path)
    await world.engine.start()
    world.resume()
    yield world
    await world.end()


def ensure(task_id: str = "t1", **changes: Any) -> dict[str, Any]:
    action = {
        "do": "ensure_task",
        "task_id": task_id,
        "service_id": "s1",
        "index": 1,
        "name": f"web.1.{task_id}",
        "desired": "running",
        "image": "web:1",
        "config": {"Env": ["A=1"]},
    }
    return {**action, **changes}
