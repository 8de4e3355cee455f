"""The API on a real unix socket, with everything behind it simulated. For tests of clients of the API."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from swarmsh.api import Deps, build_app, serve
from swarmsh.manager.usecases.cluster import init_cluster
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import Role
from tests.fakes.nodes import FakeNodes, FakeStreams
from tests.fakes.objects import a_node
from tests.fakes.orchestrator import TinyOrchestrator
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds


class WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Served:
    """A running API: `http` speaks to it, `socket` is for other clients, the rest is what stands behind it."""

    def __init__(self, deps: Deps, nodes: FakeNodes, streams: FakeStreams, http: aiohttp.ClientSession) -> None:
        self.deps, self.nodes, self.streams, self.http = deps, nodes, streams, http
        self.store = deps.store
        self.orchestrator = TinyOrchestrator(deps.store, deps.ids, deps.clock)

    @property
    def socket(self) -> Path:
        return self.deps.socket_path

    async def call(self, method: str, path: str, body: object = None, **kwargs):
        """(status, decoded JSON or text)."""
        if body is not None:
            kwargs["json"] = body
        async with self.http.request(method, "http://swarmsh" + path, **kwargs) as response:
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def get(self, path: str, **query):
        status, answer = await self.call("GET", path, params=query)
        assert status == 200, answer
        return answer

    async def create(self, name: str = "web", replicas: int = 2, **template) -> str:
        body = {
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}, **template},
            "Mode": {"Replicated": {"Replicas": replicas}},
        }
        status, answer = await self.call("POST", "/services/create", body)
        assert status == 201, answer
        return answer["ID"]


@asynccontextmanager
async def served(
    *, nodes: int = 3, initialised: bool = True, store: MemoryStore | None = None
) -> AsyncIterator[Served]:
    clock = WallClock()
    store = store or MemoryStore(clock)
    fake_nodes = FakeNodes()
    streams = FakeStreams(fake_nodes)
    with tempfile.TemporaryDirectory(prefix="swarmsh-") as directory:  # short: socket paths may have 107 bytes
        deps = Deps(
            store=store,
            ids=CountingIds("i"),
            clock=clock,
            nodes=fake_nodes,
            streams=streams,
            volumes=streams,
            rotate_keys=fake_nodes.rotate_keys,
            state_dir=Path(directory),
            socket_path=Path(directory) / "docker.sock",
            started_at=clock.now(),
        )
        if initialised:
            await init_cluster(store, deps.ids, clock)
            members = tuple(a_node(n, role=Role.MANAGER if n == 1 else Role.WORKER) for n in range(1, nodes + 1))
            await store.commit(lambda _: Changes(put_nodes=members))
        runner = await serve(build_app(deps), deps.socket_path)
        connector = aiohttp.UnixConnector(str(deps.socket_path))
        try:
            async with aiohttp.ClientSession(connector=connector) as http:
                yield Served(deps, fake_nodes, streams, http)
        finally:
            await runner.cleanup()
