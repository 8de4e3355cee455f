"""Nodes and their Engines as the manager sees them, without any node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from swarmsh.errors import NodeDeadline, NodeRequestFailed, NodeUnreachable
from swarmsh.manager.key_keeper import Rotation
from swarmsh.manager.ports import ExecRequest
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.objects import SshTarget
from swarmsh.model.paths import KINDS, Heard, Listen, Send, Sent
from swarmsh.model.trace import Sighting, Traced, TraceSend, TraceWatch
from swarmsh.model.volumes import EngineVolume

DIGEST = "sha256:" + "ab" * 32


class FakeNodes:
    """`manager.ports.NodeClient`, as far as the use cases and the API need it."""

    def __init__(self) -> None:
        self.kept: dict[str, SshTarget] = {}
        self.dropped: list[tuple[str, bool]] = []
        self.purged: list[str] = []
        self.left: dict[str, tuple[str, ...]] = {}  # after a purge
        self.away: set[str] = set()
        self.silent: set[tuple[str, str]] = set()  # node, question
        self.registry: dict[str, str] = {}  # complete reference -> digest
        self.asked: list[tuple[str, str, str]] = []
        self.listening: dict[str, tuple[Listener, ...]] = {}  # on the node itself
        self.asked_ports: list[tuple[str, tuple[PortRange, ...]]] = []
        self.ways: list[str] = []  # what was asked of ways between nodes, in this order
        self.blocked: set[tuple[int, str]] = set()  # number of a node -> id of one that does not hear ESP of it
        self.watches: dict[str, TraceWatch] = {}
        self.tried: tuple[str, TraceSend] | None = None
        self.traced = Traced(outcome="answered")
        self.sightings: dict[str, tuple[Sighting, ...]] = {}
        self.rotation = Rotation(3)
        self.waited_s: list[float] = []  # by those who rotated keys
        self._listening: dict[tuple[str, str], Listen] = {}  # token, node
        self._sent: dict[tuple[str, str], list[Send]] = {}  # token, address

    def keep(self, node_id, name, target):
        self.kept[node_id] = target

    async def drop(self, node_id, *, release=False):
        self.kept.pop(node_id, None)
        self.dropped.append((node_id, release))
        return release

    async def leave(self, node_id) -> tuple[str, ...]:
        self.kept.pop(node_id, None)
        if node_id in self.away:
            raise NodeUnreachable(f"there is no session with node {node_id}: no route to host")
        self.purged.append(node_id)
        return self.left.get(node_id, ())

    def connected(self, node_id):
        return node_id not in self.away

    def last_heard(self, node_id):
        return None if node_id in self.away else 0.0

    async def resolve_image(self, node_id, image, auth):
        self.asked.append((node_id, image, auth))
        if image not in self.registry:
            raise NodeRequestFailed(f"manifest for {image} not found: manifest unknown")
        return self.registry[image], (("linux", "amd64"),)

    async def check(self, node_id) -> Sequence[dict[str, object]]:
        if node_id in self.away:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")
        return [{"name": "ip_vs", "ok": False, "detail": "module missing", "fix": "modprobe ip_vs"}]

    async def listeners(self, node_id, ranges: Sequence[PortRange], timeout_s: float) -> Sequence[Listener]:
        self.asked_ports.append((node_id, tuple(ranges)))
        if (node_id, "listeners") in self.silent:
            raise NodeDeadline(f"node {node_id} did not answer listeners within {timeout_s:g} s")
        if node_id in self.away:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")
        return tuple(
            one
            for one in self.listening.get(node_id, ())
            if any(r.protocol == one.protocol and r.first <= one.port <= r.last for r in ranges)
        )

    async def rotate_keys(self, deadline_s: float) -> Rotation:
        """In the manager's place."""
        self.waited_s.append(deadline_s)
        return self.rotation

    async def listen_on_paths(self, node_id, listen: Listen) -> bool:
        self._see(node_id, "listen")
        self._listening[listen.token, node_id] = listen
        return False

    async def send_on_paths(self, node_id, send: Send) -> Sequence[Sent]:
        self._see(node_id, "send")
        assert all(listen.token == send.token for listen in self._listening.values())
        for peer in send.to:
            self._sent.setdefault((send.token, peer.address), []).append(send)
        return tuple(Sent(n=peer.n) for peer in send.to)

    async def heard_on_paths(self, node_id, token: str, wait_s: float) -> Sequence[Heard]:
        self._see(node_id, "hear")
        listen = self._listening.pop((token, node_id))
        sent = {send.n: send for key, sends in self._sent.items() if key[0] == token for send in sends}
        return tuple(self._heard(sent[n], node_id) if n in sent else Heard(n=n) for n in listen.senders)

    def _heard(self, send: Send, node_id: str) -> Heard:
        kinds = tuple(kind for kind in KINDS if kind != "esp" or (send.n, node_id) not in self.blocked)
        return Heard(n=send.n, source=send.address, arrived=kinds, let_in=kinds, size=max(send.sizes))

    async def trace_watch(self, node_id, watch: TraceWatch) -> None:
        self._see(node_id, "watch")
        self.watches[node_id] = watch

    async def trace_send(self, node_id, send: TraceSend) -> Traced:
        self._see(node_id, "try")
        assert all(watch.port == send.port for watch in self.watches.values())
        self.tried = (node_id, send)
        return self.traced

    async def trace_seen(self, node_id, token: str) -> Sequence[Sighting]:
        self._see(node_id, "seen")
        assert self.watches[node_id].token == token
        return self.sightings.get(node_id, ())

    def _see(self, node_id: str, what: str) -> None:
        self.ways.append(what)
        if node_id in self.away or (node_id, what) in self.silent:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")


class FakeStreams:
    """`manager.ports.EngineStreams`. Containers' logs are lists that may grow; commands echo their input."""

    def __init__(self, nodes: FakeNodes) -> None:
        self.nodes = nodes
        self.lines: dict[str, list[tuple[int, bytes]]] = {}  # container id -> (stream, b"timestamp text\n")
        self.ended: set[str] = set()  # a followed log ends here
        self.hung: set[str] = set()  # nodes that take the request and never answer
        self.queries: list[tuple[str, dict[str, str]]] = []
        self.execs: list[ExecRequest] = []
        self.resized: list[tuple[int, int]] = []
        self.disks: dict[str, list[EngineVolume]] = {}  # by node
        self._grown = asyncio.Event()

    async def volumes(self, node_id, *, sizes) -> list[EngineVolume]:
        if node_id in self.hung:
            await asyncio.Event().wait()
        if node_id in self.nodes.away:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")
        known = self.disks.get(node_id, [])
        return known if sizes else [replace(one, size_bytes=None) for one in known]

    async def remove_volume(self, node_id, name, *, force) -> None:
        (one,) = (v for v in self.disks[node_id] if v.name == name)
        if one.in_use:
            raise NodeRequestFailed("volume is in use - [c1]", node=node_id, status=409)
        self.disks[node_id].remove(one)

    def say(self, container_id: str, text: str, *, at: int = 0, stream: int = 1) -> None:
        line = f"2023-11-14T22:13:{at:02d}.000000000Z {text}\n".encode()
        self.lines.setdefault(container_id, []).append((stream, line))
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def end(self, container_id: str) -> None:
        self.ended.add(container_id)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def logs(self, node_id, container_id, query, *, tty) -> AsyncIterator[tuple[int, bytes]]:
        self.queries.append((container_id, query))
        if node_id in self.hung:
            await asyncio.Event().wait()
        if node_id in self.nodes.away:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")
        known = self.lines.get(container_id, [])
        told = 0 if query["tail"] == "all" else max(0, len(known) - int(query["tail"]))
        while True:
            known = self.lines.get(container_id, [])
            for stream, line in known[told:]:
                yield stream, line
                if node_id in self.nodes.away:
                    raise NodeUnreachable(f"node {node_id} cannot be reached: connection lost")
            told = len(known)
            if query["follow"] != "1" or container_id in self.ended:
                return
            await self._grown.wait()

    @asynccontextmanager
    async def exec(self, node_id, container_id, request) -> AsyncIterator[EchoSession]:
        if node_id in self.nodes.away:
            raise NodeUnreachable(f"node {node_id} cannot be reached: no route to host")
        self.execs.append(request)
        session = EchoSession(self, request)
        try:
            yield session
        finally:
            session.closed = True


class EchoSession:
    """`cat`: standard input to standard output; what begins with `!` goes to standard error. Exit code 7."""

    def __init__(self, streams: FakeStreams, request: ExecRequest) -> None:
        self.closed = False
        self._streams = streams
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        if not request.stdin:
            self._queue.put_nowait((1, " ".join(request.argv).encode()))
            self._queue.put_nowait(None)

    async def output(self):
        while (item := await self._queue.get()) is not None:
            yield item

    async def write(self, data):
        await self._queue.put((2 if data.startswith(b"!") else 1, data))

    async def write_eof(self):
        await self._queue.put(None)

    async def resize(self, height, width):
        self._streams.resized.append((height, width))

    async def exit_code(self):
        return 7
