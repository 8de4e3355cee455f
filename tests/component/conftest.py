from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from swarmsh.adapters.nodes.sessions import NodeSessions, SessionLimits
from swarmsh.adapters.ssh import DialLimits, Identities, SshDialer
from swarmsh.manager.ports import NodeEvent
from tests.component.scripted_helper import ScriptedHelper
from tests.component.ssh_server import Handler, LoopbackServer

DEADLINE_S = 10.0


class RealClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class TinyHelper:
    """Stands for the zipapp: these tests' helper does not run it."""

    archive = bytes(range(256)) * 3000
    sha256 = "ab" * 32


@pytest.fixture(scope="session")
def client_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def key_file(client_key: asyncssh.SSHKey, tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    client_key.write_private_key(str(path))
    path.chmod(0o600)
    return path


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    """Neither the tester's agent nor their keys."""
    return Identities(agent_path="", home=tmp_path / "nobody")


@pytest.fixture
async def dialer(identities: Identities) -> SshDialer:
    return SshDialer(limits=DialLimits(connect_s=2.0, login_s=5.0), identities=identities, rng=random.Random(1))


@pytest.fixture
async def serve(client_key: asyncssh.SSHKey) -> AsyncIterator[Callable[..., Awaitable[LoopbackServer]]]:
    """Start a loopback server for a handler; stopped after the test."""
    servers: list[LoopbackServer] = []

    async def start(handler: Handler, **more: Any) -> LoopbackServer:
        server = LoopbackServer(handler, client_key, **more)
        servers.append(server)
        return await server.start()

    yield start
    for server in servers:
        await server.stop()


class Sessions(NodeSessions):
    """NodeSessions with what tests need: events one by one, with a deadline; a stand-in for the store."""

    cluster = "cluster1"
    index = 42

    async def raise_index(self, at_least: int) -> None:
        await asyncio.sleep(0)
        self.index = at_least

    def start_reading(self) -> None:
        self.seen: list[NodeEvent] = []
        self.behind: list[str] = []
        self._stream = self.events()

    async def next_event(self) -> NodeEvent:
        async with asyncio.timeout(DEADLINE_S):
            event = await anext(self._stream)
        self.seen.append(event)
        return event

    async def until(self, kind: type[Any], node_id: str | None = None) -> Any:
        """The next event of a kind; those before it are passed over."""
        while True:
            event = await self.next_event()
            if isinstance(event, kind) and node_id in (None, event.node_id):
                return event


@pytest.fixture
async def make_sessions(dialer: SshDialer, tmp_path: Path) -> AsyncIterator[Callable[..., Sessions]]:
    made: list[Sessions] = []
    epochs = itertools.count(1)

    def make(**limits: Any) -> Sessions:
        fast: dict[str, Any] = {
            "first_retry_s": 0.05,
            "last_retry_s": 0.4,
            "slow_retry_s": 0.6,
            "tick_s": 0.05,
            "request_s": 2.0,
            "start_s": 5.0,
            "lease_s": 10.0,
            "heartbeat_s": 1.0,
        }
        epoch = next(epochs)
        sessions = Sessions(
            dialer,
            TinyHelper(),
            lambda python, become: f"{'sudo -n ' if become else ''}{python} -c stub",
            cluster_id=lambda: sessions.cluster,
            epoch=lambda: epoch,
            index=lambda: sessions.index,
            on_index_ahead=lambda index: sessions.raise_index(index),
            on_epoch_ahead=lambda reason: sessions.behind.append(reason),
            clock=RealClock(),
            socket_dir=tmp_path / "s",
            limits=SessionLimits(**(fast | limits)),
            rng=random.Random(7),
        )
        sessions.start_reading()
        made.append(sessions)
        return sessions

    yield make
    for sessions in made:
        await sessions.close()


@pytest.fixture
def helper() -> ScriptedHelper:
    return ScriptedHelper()


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Poll until true, at most `DEADLINE_S`."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 (what is polled lies in servers of other tasks)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what or "what was awaited did not come") from None
