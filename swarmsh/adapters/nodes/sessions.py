"""Sessions to all kept nodes: opened, watched, reopened; the typed calls and events over them."""

from __future__ import annotations

import asyncio
import logging
import random
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from swarmsh.adapters.nodes.engine_socket import EngineSocket
from swarmsh.adapters.nodes.feed import EventFeed
from swarmsh.adapters.nodes.lines import LINE_BYTES
from swarmsh.adapters.nodes.messages import (
    PROTOCOL,
    Accepted,
    CheckItems,
    Drift,
    EndedProcesses,
    FoundListeners,
    Hello,
    LostPeers,
    MalformedLine,
    NetworkState,
    PathsHeard,
    PathsListened,
    PathsSent,
    ReachedPeers,
    Released,
    ResolvedImage,
    TraceSeen,
    encode_line,
    parse,
)
from swarmsh.adapters.nodes.session import Attach, Counters, HelperArchive, HelperSession
from swarmsh.adapters.nodes.stream_links import StreamLinks
from swarmsh.adapters.ssh import ByteChannel, SshDialer
from swarmsh.errors import (
    HelperRefused,
    NodeRequestFailed,
    NodeUnreachable,
    NodeUntrusted,
    SwarmshError,
)
from swarmsh.manager.ports import (
    Clock,
    Connected,
    Described,
    Disconnected,
    NetworkChecked,
    NodeEvent,
    Refused,
    Untrusted,
)
from swarmsh.model.actions import Action, Batch, ContentParts, NodeReport, TaskReport
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.netstate import EspKeys, NetworkChange
from swarmsh.model.objects import SshTarget
from swarmsh.model.paths import Heard, Listen, Send, Sent
from swarmsh.model.trace import Sighting, Traced, TraceSend, TraceWatch

T = TypeVar("T")
P = TypeVar("P", Batch, NetworkChange, ContentParts)
log = logging.getLogger("swarmsh.nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Seconds and sizes. Lease and heartbeat are the manager's own settings, by which it judges silence."""

    lease_s: float
    heartbeat_s: float
    many_nodes: int = 200  # above: half as many heartbeats
    silence_s: float = 8.0  # then a connection is given up; the manager judges silence much earlier
    start_s: float = 90.0  # stub, push, first start of a helper on a slow node
    request_s: float = 10.0
    network_s: float = 60.0  # a change of networks: an Engine on a slow node takes seconds for each
    first_retry_s: float = 0.2
    last_retry_s: float = 10.0
    slow_retry_s: float = 30.0  # for what a person has to settle: another host key, another cluster
    stable_s: float = 5.0  # a session this long starts the back-off anew
    tick_s: float = 0.5
    line_bytes: int = LINE_BYTES
    stream_links: int = 8  # further connections to one node, for streams that its session has no channel for
    stream_idle_s: float = 30.0


@dataclass(slots=True, eq=False)
class _Kept:
    """A node that is to have a session."""

    node_id: str
    name: str
    target: SshTarget
    counters: Counters = field(default_factory=Counters)
    poked: asyncio.Event = field(default_factory=asyncio.Event)
    supervisor: asyncio.Task[None] | None = None
    session: HelperSession | None = None  # attached
    heard_before: float | None = None  # in sessions that have ended
    trouble: str = "not connected yet"
    awaits_cluster: bool = False
    announced: NodeEvent | None = None
    engine: EngineSocket | None = None
    streams: StreamLinks | None = None  # while attached
    engine_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class NodeSessions:
    """The manager's NodeClient over SSH and helpers.

    `cluster_id`, `epoch` and `index` are asked at each session start; without a cluster no session is opened.
    `on_index_ahead` is awaited before we attach to a node that has seen a higher index than ours from a process of
    this database: it lost its last writes, and must not use their numbers again. `on_epoch_ahead` hears why the
    database as a whole is behind its nodes. `stub_command(python, become)` gives the command line that runs the
    stub. Engine sockets are made in `socket_dir`, which becomes 0700.
    """

    def __init__(
        self,
        dialer: SshDialer,
        helper: HelperArchive,
        stub_command: Callable[[str, bool], str],
        *,
        cluster_id: Callable[[], str],
        epoch: Callable[[], int],
        index: Callable[[], int],
        on_index_ahead: Callable[[int], Awaitable[None]],
        on_epoch_ahead: Callable[[str], None],
        clock: Clock,
        socket_dir: Path,
        limits: SessionLimits,
        root: str = "/run/swarmsh",
        rng: random.Random | None = None,
    ) -> None:
        self._dialer = dialer
        self._helper = helper
        self._stub_command = stub_command
        self._cluster_id = cluster_id
        self._epoch = epoch
        self._index = index
        self._on_index_ahead = on_index_ahead
        self._on_epoch_ahead = on_epoch_ahead
        self._clock = clock
        self._socket_dir = socket_dir
        self._root = root
        self._limits = limits
        self._rng = rng or random.Random()
        self._kept: dict[str, _Kept] = {}
        self._feed = EventFeed()
        self._watcher: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._silent_from = 0.0

    # --- which nodes ---
    def keep(self, node_id: str, name: str, target: SshTarget) -> None:
        """Keep a session to this node from now on (idempotent; a changed target reconnects)."""
        kept = self._kept.get(node_id)
        if kept is None:
            kept = self._kept[node_id] = _Kept(node_id, name, target)
        elif kept.target == target:
            kept.name = name
            if kept.awaits_cluster:
                kept.poked.set()
            return
        else:
            kept.name, kept.target, kept.announced = name, target, None
            if kept.supervisor is not None:
                kept.supervisor.cancel()
        kept.supervisor = asyncio.create_task(self._supervise(kept, kept.supervisor), name=f"node {name}")
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name="node sessions")

    async def drop(self, node_id: str, *, release: bool = False) -> bool:
        """As the port says."""
        kept, released = self._kept.pop(node_id, None), False
        if kept is None:
            return False
        if release and kept.session is not None:
            try:
                await kept.session.request("release", {}, self._limits.request_s)
                released = True
            except SwarmshError as e:
                log.warning("release_failed node=%s reason=%s", kept.name, e)
        if kept.supervisor is not None:
            await _ended(kept.supervisor)
        if kept.engine is not None:
            await kept.engine.close()
        return released

    async def leave(self, node_id: str) -> tuple[str, ...]:
        """As the port says."""
        try:
            session = self._session(node_id)
            kept = self._kept[node_id]
            left = await self._call_on(session, "release", {"clear": True}, Released, self._limits.network_s)
        finally:
            await self.drop(node_id)
        if left.tasks:
            return tuple(f"task {task_id}: its container could not be removed" for task_id in left.tasks)
        return left.left or await self._files_left(kept)

    async def _files_left(self, kept: _Kept) -> tuple[str, ...]:
        """Wait for the helper's end; then no session can tell, so the node's own shell is asked over SSH."""
        link = await self._dialer.connect(kept.target)
        try:
            output, ended = bytearray(), asyncio.Event()
            await link.exec(_wait_for_end(self._root), output.extend, ended.set)
            async with asyncio.timeout(self._limits.start_s):
                await ended.wait()
        except TimeoutError:
            return (f"{self._root}: whether it is gone was not answered",)
        finally:
            await link.close()
        folder, *files = output.decode(errors="replace").split() or [""]
        return (f"{folder} is still there, with {', '.join(files) or 'nothing in it'}",) if folder else ()

    def poke(self, node_id: str) -> None:
        """Try to connect now, whatever the back-off says."""
        if (kept := self._kept.get(node_id)) is not None:
            kept.poked.set()

    async def close(self) -> None:
        """End all sessions; helpers go on by themselves."""
        if self._watcher is not None:
            await _ended(self._watcher)
        await asyncio.gather(*(self.drop(node_id) for node_id in list(self._kept)))
        for task in list(self._background):
            await _ended(task)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- what is known ---
    async def events(self) -> AsyncIterator[NodeEvent]:
        """What happens on the nodes, in the order it was read; one consumer."""
        async for event in self._feed.read():
            yield event

    def connected(self, node_id: str) -> bool:
        kept = self._kept.get(node_id)
        return kept is not None and kept.session is not None

    def last_heard(self, node_id: str) -> float | None:
        kept = self._kept.get(node_id)
        if kept is None:
            return None
        return kept.heard_before if kept.session is None else kept.session.last_heard

    def report(self, node_id: str) -> NodeReport | None:
        kept = self._kept.get(node_id)
        if kept is None or kept.session is None or kept.session.view is None:
            return None
        return kept.session.view.report

    def counters(self, node_id: str) -> Counters:
        """Living numbers of a kept node. Raises KeyError."""
        return self._kept[node_id].counters

    # --- calls ---
    def _session(self, node_id: str) -> HelperSession:
        kept = self._kept.get(node_id)
        if kept is None:
            raise NodeUnreachable(f"node {node_id} is not kept", node=node_id)
        if kept.session is None:
            raise NodeUnreachable(f"there is no session with node {kept.name}: {kept.trouble}", node=kept.name)
        return kept.session

    async def _call(self, node_id: str, op: str, args: object, kind: type[T], deadline_s: float) -> T:
        return await self._call_on(self._session(node_id), op, args, kind, deadline_s)

    async def _call_on(self, session: HelperSession, op: str, args: object, kind: type[T], deadline_s: float) -> T:
        result = await session.request(op, args, deadline_s)
        try:
            return parse(kind, result)
        except MalformedLine as e:
            raise NodeRequestFailed(f"node {session.node} answered {op} with {e}", node=session.node) from e

    async def apply(self, node_id: str, batch: Batch) -> None:
        """Give a batch, one round trip (more only if it is too long for one line).

        A refused one is an event too, and ends the session: the next one's start tells what is the matter.
        """
        parts = _parts(batch, self._limits.line_bytes - 1024)
        await self._give(node_id, "apply", parts, Accepted, self._limits.request_s)

    async def contents(self, node_id: str, parts: ContentParts) -> None:
        await self._give(node_id, "contents", [parts], dict, self._limits.network_s)

    async def network(self, node_id: str, change: NetworkChange) -> tuple[str, ...]:
        """As the port says; in more than one round trip only if it is too long for one line."""
        parts = _network_parts(change, self._limits.line_bytes - 1024)
        answers = await self._give(node_id, "network", parts, Drift, self._limits.network_s)
        return tuple(word for answer in answers for word in answer.drift)

    async def secure(self, node_id: str, keys: EspKeys) -> tuple[int, ...]:
        return (await self._call(node_id, "secure", keys, LostPeers, self._limits.network_s)).lost

    async def _give(self, node_id: str, op: str, parts: Sequence[P], kind: type[T], deadline_s: float) -> list[T]:
        """One part after another, all in one session. A refusal is an event too, and ends the session.

        Batches and changes of networks overtake each other while one waits, and the helper takes no lower index
        than it has seen: each goes with the newest at the moment when it goes.
        """
        session = self._session(node_id)

        def at_send(part: P) -> Callable[[], P]:
            return lambda: replace(part, index=max(part.index, self._index()))

        try:
            return [await self._call_on(session, op, at_send(part), kind, deadline_s) for part in parts]
        except HelperRefused as e:
            self._feed.put(_refused(node_id, e))
            session.end(str(e))
            raise

    async def check_peers(self, node_id: str, peers: Sequence[tuple[str, SshTarget]]) -> dict[str, bool]:
        timeout_s = 5.0  # a busy machine may take seconds to let its sshd speak
        args = {
            "peers": [{"node": n, "address": target.address, "port": target.port} for n, target in peers],
            "timeout_s": timeout_s,
        }
        return (await self._call(node_id, "check_peers", args, ReachedPeers, timeout_s + 3)).reached

    async def end_processes(self, node_id: str, task_ids: Sequence[str]) -> frozenset[str]:
        args = {"task_ids": list(task_ids)}
        answer = await self._call(node_id, "end_processes", args, EndedProcesses, self._limits.request_s)
        return frozenset(answer.ended)

    async def resolve_image(self, node_id: str, image: str, auth: str) -> tuple[str, Sequence[tuple[str, str]]]:
        timeout_s = 10.0
        args = {"image": image, "auth": auth, "timeout_s": timeout_s}
        found = await self._call(node_id, "resolve_image", args, ResolvedImage, timeout_s + 3)
        return found.digest, tuple(found.platforms)

    async def check(self, node_id: str) -> Sequence[dict[str, object]]:
        args = {"now": self._clock.now()}
        return (await self._call(node_id, "check", args, CheckItems, 30.0)).items

    async def listeners(self, node_id: str, ranges: Sequence[PortRange], timeout_s: float) -> Sequence[Listener]:
        return (await self._call(node_id, "listeners", {"ports": ranges}, FoundListeners, timeout_s)).listeners

    async def listen_on_paths(self, node_id: str, listen: Listen) -> bool:
        answer = await self._call(node_id, "check_listen", listen, PathsListened, self._limits.request_s)
        return answer.guarded

    async def send_on_paths(self, node_id: str, send: Send) -> Sequence[Sent]:
        return (await self._call(node_id, "check_send", send, PathsSent, 30.0)).sent

    async def heard_on_paths(self, node_id: str, token: str, wait_s: float) -> Sequence[Heard]:
        args = {"token": token, "wait_s": wait_s}
        return (await self._call(node_id, "check_heard", args, PathsHeard, wait_s + self._limits.request_s)).heard

    async def trace_watch(self, node_id: str, watch: TraceWatch) -> None:
        await self._call(node_id, "trace_watch", watch, dict, self._limits.request_s)

    async def trace_send(self, node_id: str, send: TraceSend) -> Traced:
        return await self._call(node_id, "trace_send", send, Traced, send.timeout_s + self._limits.request_s)

    async def trace_seen(self, node_id: str, token: str) -> Sequence[Sighting]:
        args = {"token": token}
        return (await self._call(node_id, "trace_seen", args, TraceSeen, self._limits.request_s)).seen

    # --- the Engine through the session ---
    async def engine_socket(self, node_id: str) -> str:
        self._session(node_id)
        kept = self._kept[node_id]
        async with kept.engine_lock:
            if kept.engine is None:

                async def open_channel(
                    on_data: Callable[[bytes], None], on_end: Callable[[], None], on_eof: Callable[[], None]
                ) -> ByteChannel:
                    return await self._open_engine(kept, on_data, on_end, on_eof)

                path = self._socket_dir / f"{node_id}.sock"
                engine = EngineSocket(path, kept.name, open_channel, self._limits.request_s)
                await engine.listen()
                kept.engine = engine
        return str(kept.engine.path)

    async def _open_engine(
        self,
        kept: _Kept,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_eof: Callable[[], None],
    ) -> ByteChannel:
        self._session(kept.node_id)
        assert kept.streams is not None  # it is attached
        command = self._stub_command(kept.target.python, kept.target.become)
        # sshd passes on the end of standard output only once standard error has ended too: without this the
        # end of an exec's output would not be seen.
        channel = await kept.streams.exec(f"exec {command} 2>/dev/null", on_data, on_end, on_eof)
        channel.send(self._opening("engine"))
        return channel

    def _opening(self, verb: str) -> bytes:
        return encode_line(
            {
                "v": PROTOCOL,
                "verb": verb,
                "helper": self._helper.sha256,
                "size": len(self._helper.archive),
                "root": self._root,
            }
        )

    # --- one node ---
    async def _supervise(self, kept: _Kept, former: asyncio.Task[None] | None) -> None:
        """Sessions one after another, with back-off between them, until cancelled."""
        if former is not None:
            await asyncio.wait([former])
        failures = 0
        while True:
            kept.poked.clear()
            if not self._cluster_id():
                # To whom would the node's helper belong? `keep` is called anew when a cluster begins.
                kept.trouble, kept.awaits_cluster = "there is no cluster", True
                await self._pause(kept, self._limits.slow_retry_s)
                continue
            kept.awaits_cluster = False
            started = self._clock.monotonic()
            slow = False
            try:
                await self._run_session(kept)
                lasted = self._clock.monotonic() - started
                failures = 0 if lasted >= self._limits.stable_s else failures
            except NodeUntrusted as e:
                slow = True
                shown, pinned = str(e.fields.get("shown", "")), e.fields.get("pinned", ())
                assert isinstance(pinned, tuple)
                self._announce(kept, Untrusted(node_id=kept.node_id, shown=shown, pinned=pinned), str(e))
            except HelperRefused as e:
                slow = True
                self._announce(kept, _refused(kept.node_id, e), str(e))
            except SwarmshError as e:
                self._announce(kept, Disconnected(node_id=kept.node_id, reason=str(e)), str(e))
            except Exception as e:
                # A bug of ours must not end the supervision of a node.
                log.exception("session_crashed node=%s", kept.name)
                self._announce(kept, Disconnected(node_id=kept.node_id, reason=repr(e)), repr(e))
            await self._pause(kept, self._limits.slow_retry_s if slow else self._back_off(failures))
            failures += 1

    def _back_off(self, failures: int) -> float:
        """Full jitter: anything up to the doubled time, so that many nodes do not come back at once."""
        longest = min(self._limits.last_retry_s, self._limits.first_retry_s * 2 ** min(failures, 16))
        return self._rng.uniform(0, longest)

    async def _pause(self, kept: _Kept, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await kept.poked.wait()
        except TimeoutError:
            pass

    def _announce(self, kept: _Kept, event: NodeEvent, reason: str) -> None:
        """Say that a session could not be opened or ended; the same only once."""
        kept.trouble = reason
        if event != kept.announced:
            kept.announced = event
            log.info("session_failed node=%s reason=%s", kept.name, reason)
            self._feed.put(event)

    async def _run_session(self, kept: _Kept) -> None:
        """One session from dialling to its end. Raises if it did not come to be attached."""
        started = self._clock.monotonic()
        link = await self._dialer.connect(kept.target)
        session = HelperSession(
            kept.name,
            link,
            clock=self._clock,
            counters=kept.counters,
            listener=_Listener(kept.node_id, self._feed, self.report),
            line_bytes=self._limits.line_bytes,
        )
        try:
            command = self._stub_command(kept.target.python, kept.target.become)
            hello = await session.start(command, self._opening("session"), self._helper, self._limits.start_s)
            await self._compare(kept, hello)
            await session.attach(self._about_us(kept), self._limits.request_s)
            self._attached(kept, session, self._clock.monotonic() - started)
            await session.ended.wait()
        finally:
            if kept.streams is not None:
                kept.streams.close()
                kept.streams = None
            session.end("closed by the manager")
            if session.last_heard is not None:
                kept.heard_before = session.last_heard
            if kept.session is session:
                kept.session = None
                if kept.node_id in self._kept:
                    event = Disconnected(node_id=kept.node_id, reason=session.reason)
                    self._announce(kept, event, session.reason)
            if session.peer_is_dead:
                link.abort()
            else:
                await link.close()

    async def _compare(self, kept: _Kept, hello: Hello) -> None:
        """See whether the node has seen more of our cluster than we have. Raises HelperRefused if it is settled
        that we are not its newest manager; what a node of another cluster says is the attach's business."""
        if hello.cluster_id != self._cluster_id():
            return
        if hello.epoch > self._epoch():
            # Epochs are on disk before they are used, so no crash of ours explains it.
            refusal = HelperRefused(
                f"node {kept.name} has seen session epoch {hello.epoch}, and this manager is at {self._epoch()}: "
                "the database is behind its nodes",
                hint="An older copy was restored, or another manager runs on a newer one: stop this manager, and "
                "use the newest copy",
                node=kept.name,
                code="stale_epoch",
            )
            self._on_epoch_ahead(str(refusal))
            raise refusal
        if hello.index > self._index():
            log.warning(
                "index_behind node=%s seen=%d ours=%d: the last decisions were lost in a power cut",
                *(kept.name, hello.index, self._index()),
            )
            await self._on_index_ahead(hello.index)

    def _about_us(self, kept: _Kept) -> Attach:
        many = len(self._kept) > self._limits.many_nodes
        return Attach(
            cluster_id=self._cluster_id(),
            epoch=self._epoch(),
            index=self._index(),
            node_id=kept.node_id,
            lease_s=self._limits.lease_s,
            heartbeat_s=self._limits.heartbeat_s * (2 if many else 1),
        )

    def _attached(self, kept: _Kept, session: HelperSession, took_s: float) -> None:
        assert session.view is not None
        kept.session = session
        limits, target = self._limits, kept.target
        kept.streams = StreamLinks(
            kept.name,
            session.link,
            lambda: self._dialer.connect(target),
            limits.stream_links,
            limits.stream_idle_s,
        )
        kept.trouble = ""
        kept.announced = None
        kept.counters.sessions += 1
        log.info("session_opened node=%s took_s=%.2f", kept.name, took_s)
        self._feed.put(Connected(node_id=kept.node_id, report=session.view.report))

    # --- all nodes, twice a second ---
    async def _watch(self) -> None:
        limits = self._limits
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(limits.tick_s)
            await asyncio.sleep(0)  # what is ready to be read is read before silence is judged
            now = self._clock.monotonic()
            if now - before > limits.tick_s + limits.silence_s / 4:
                self._after_standstill(now)
            for kept in list(self._kept.values()):
                if kept.session is not None:
                    self._look_after(kept, kept.session, now)

    def _after_standstill(self, now: float) -> None:
        """The machine slept or the loop stalled: nobody could be heard, and connections may be dead."""
        self._silent_from = now - self._limits.silence_s * 5 / 8
        for kept in self._kept.values():
            kept.poked.set()

    def _look_after(self, kept: _Kept, session: HelperSession, now: float) -> None:
        limits = self._limits
        assert session.last_heard is not None  # it is attached
        silent_s = now - max(session.last_heard, self._silent_from)
        if silent_s > limits.silence_s:
            session.peer_is_dead = True
            session.end(f"no line for {now - session.last_heard:.0f} s")
        elif session.blocked_for(now) > limits.silence_s:
            session.peer_is_dead = True
            session.end(f"the node has not read for {limits.silence_s:.0f} s")
        elif now - session.last_sent >= limits.lease_s:
            # The lease ran out while we stood still: the helper has handed its tasks over, and gives them back.
            self._in_background(self._attach_again(kept, session))
        elif now - session.last_sent >= limits.lease_s / 4:
            session.renew_lease(limits.lease_s)

    async def _attach_again(self, kept: _Kept, session: HelperSession) -> None:
        try:
            await session.attach(self._about_us(kept), self._limits.request_s)
        except SwarmshError as e:
            session.end(str(e))


class _Listener:
    """Turns what one session hears into events."""

    def __init__(self, node_id: str, feed: EventFeed, report: Callable[[str], NodeReport | None]) -> None:
        self._node_id = node_id
        self._feed = feed
        self._report = report

    def tasks_reported(self, tasks: list[TaskReport]) -> None:
        self._feed.put_tasks(self._node_id, tasks)

    def described(self) -> None:
        report = self._report(self._node_id)
        if report is not None:
            self._feed.put(Described(node_id=self._node_id, report=report))

    def network_checked(self, state: NetworkState) -> None:
        self._feed.put(
            NetworkChecked(
                node_id=self._node_id, ok=state.ok, message=state.message, drift=state.drift, lost=state.lost
            )
        )


def _wait_for_end(root: str) -> str:
    """A shell line that waits 20 s for the folder to go, and prints what is in it if it stays."""
    tries = f"for i in $(seq 100); do [ -e {root} ] || exit 0; sleep 0.2; done; echo {root}; ls -A {root}"
    return shlex.join(["sh", "-c", tries])


def _refused(node_id: str, error: HelperRefused) -> Refused:
    return Refused(node_id=node_id, code=str(error.fields.get("code", "")), reason=str(error))


def _parts(batch: Batch, limit: int) -> list[Batch]:
    """The batch, in as few pieces as fit into a line each."""
    if len(msgspec.json.encode(batch)) <= limit or len(batch.actions) <= 1:
        return [batch]
    pieces: list[list[Action]] = [[]]
    room = limit
    for action in batch.actions:
        size = len(msgspec.json.encode(action)) + 1
        if size > room and pieces[-1]:
            pieces.append([])
            room = limit
        pieces[-1].append(action)
        room -= size
    return [replace(batch, actions=tuple(piece)) for piece in pieces]


def _network_parts(change: NetworkChange, limit: int) -> list[NetworkChange]:
    """The change, in as few pieces as fit into a line each; what is dropped goes first."""
    if len(msgspec.json.encode(change)) <= limit:
        return [change]
    rest = [(name, one, False) for name, found in change.put.items() for one in _listed(found)]
    entries = [(name, key, True) for name, keys in change.drop.items() for key in keys] + rest
    pieces = [replace(change, put={}, drop={}, more=True)]
    room = limit
    for name, entry, dropped in entries:
        size = len(msgspec.json.encode(entry)) + 1
        if size > room:
            pieces.append(replace(change, fresh=False, put={}, drop={}, more=True))
            room = limit
        room -= size
        piece = pieces[-1]
        if isinstance(change.put.get(name), list) or dropped:
            (piece.drop if dropped else piece.put).setdefault(name, []).append(entry)
        else:
            piece.put[name] = entry
    return [*pieces[:-1], replace(pieces[-1], more=change.more)]


def _listed(found: Any) -> list[Any]:
    """The entries of a section of `put`: `node` and `egress` are no lists."""
    return found if isinstance(found, list) else [found]


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])
