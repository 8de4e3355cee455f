"""One session with one node's helper: stub, push, hello, attach, requests and events.

It lives from a standing SSH connection to the end of the helper's channel, and is never reopened.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace

from swarmsh.adapters.nodes.lines import LINE_BYTES, LineSplitter, LineTooLong
from swarmsh.adapters.nodes.messages import (
    PROTOCOL,
    Description,
    EngineState,
    Failure,
    Goodbye,
    Heartbeat,
    Hello,
    Line,
    MalformedLine,
    NetworkState,
    StubLine,
    excerpt,
    parse,
    parse_line,
    request_line,
    to_description,
)
from swarmsh.adapters.nodes.view import NodeView
from swarmsh.adapters.ssh import ByteChannel, SshLink
from swarmsh.errors import (
    HelperRefused,
    NetworkFailed,
    NodeDeadline,
    NodeRequestFailed,
    NodeUnreachable,
    SwarmshError,
)
from swarmsh.manager.ports import Clock
from swarmsh.model.actions import TaskReport
from swarmsh.model.objects import NodeDescription

_PUSH_CHUNK = 256 * 1024
_NOISE_BYTES = 64 * 1024
_ERRORS: dict[str, type[SwarmshError]] = {
    **dict.fromkeys(("other_cluster", "stale_epoch", "stale_index"), HelperRefused),
    "network_failed": NetworkFailed,
}


class HelperArchive(Protocol):
    """The zipapp that runs on nodes."""

    @property
    def archive(self) -> bytes: ...
    @property
    def sha256(self) -> str: ...


@dataclass(slots=True)
class Counters:
    """What was exchanged with one node since this process keeps it; for benchmarks and `node inspect`."""

    sessions: int = 0
    requests: int = 0
    lines_in: int = 0
    lines_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """What the manager says of itself at session start."""

    cluster_id: str
    epoch: int
    index: int
    node_id: str
    lease_s: float
    heartbeat_s: float


class SessionListener(Protocol):
    """Who hears of what a helper reports after `attach`. Called in the loop; must not block."""

    def tasks_reported(self, tasks: list[TaskReport]) -> None:
        """All task events that came in one burst, in order."""

    def described(self) -> None: ...

    def network_checked(self, state: NetworkState) -> None: ...


class HelperSession:
    """Use: `start`, `attach`, then requests, until `ended` is set with a `reason`."""

    def __init__(
        self,
        node: str,
        link: SshLink,
        *,
        clock: Clock,
        counters: Counters,
        listener: SessionListener,
        line_bytes: int = LINE_BYTES,
    ) -> None:
        self.node = node
        self.link = link
        self.ended = asyncio.Event()
        self.reason = ""
        self.view: NodeView | None = None
        self.attached = False
        self.last_heard: float | None = None  # from the helper's hello on: what a stub says is no sign of it
        self.last_sent = clock.monotonic()
        self.peer_is_dead = False  # set by who ends it for silence: a farewell would only wait
        self._blocked_since: float | None = None
        self._clock = clock
        self._counters = counters
        self._listener = listener
        self._splitter = LineSplitter(line_bytes)
        self._line_bytes = line_bytes
        self._channel: ByteChannel | None = None
        # Until hello the lines are the stub's, and awaited one by one; None is the session's end.
        self._in_stub = True
        self._stub_lines: asyncio.Queue[StubLine | Hello | NodeUnreachable | None] = asyncio.Queue()
        self._noise = bytearray()
        self._next_id = 1
        self._beat = 0  # number of the last heartbeat
        self._waiting: dict[int, asyncio.Future[Line]] = {}
        self._renewals: set[int] = set()
        self._tasks_in_burst: list[TaskReport] = []

    # --- session start ---
    async def start(self, command: str, opening: bytes, helper: HelperArchive, deadline_s: float) -> Hello:
        """Run the stub with its `opening` line, push the archive if it asks for it, and read hello.

        Raises NodeUnreachable with what stub, shell or sudo said, or NodeDeadline.
        """
        try:
            async with asyncio.timeout(deadline_s):
                self._channel = await self.link.exec(command, self._on_data, self._on_end)
                self._send(opening)
                line = await self._stub_line()
                if isinstance(line, StubLine) and line.need:
                    await self._push(helper, line.need)
                    line = await self._stub_line()
        except TimeoutError as e:
            raise NodeDeadline(
                f"the helper on node {self.node} did not start within {deadline_s:g} s{self._on_stderr()}",
                node=self.node,
            ) from e
        if isinstance(line, StubLine):
            raise NodeUnreachable(f"the stub on node {self.node} did not end in a helper's hello", node=self.node)
        return line

    async def _push(self, helper: HelperArchive, wanted: str) -> None:
        if wanted != helper.sha256:
            raise NodeUnreachable(f"node {self.node} asks for helper {wanted}, which is not ours", node=self.node)
        assert self._channel is not None
        view = memoryview(helper.archive)
        for start in range(0, len(view), _PUSH_CHUNK):
            await self._channel.drain()
            self._send(bytes(view[start : start + _PUSH_CHUNK]), lines=0)

    def _welcome(self, line: StubLine) -> Hello:
        """Take over hello, at once: reports that follow it must find the view. Raises NodeUnreachable."""
        try:
            hello = parse(Hello, line.data)
        except MalformedLine as e:
            raise NodeUnreachable(
                f"the helper on node {self.node} cannot be understood: {e}", node=self.node
            ) from e
        if hello.v != PROTOCOL:
            raise NodeUnreachable(
                f"the helper on node {self.node} speaks version {hello.v} of the protocol, not {PROTOCOL}",
                hint="A newer swarmsh has been here: use that, or one as new",
                node=self.node,
            )
        now = self._clock.monotonic()
        description = self._described(hello.description)
        self.view = NodeView(description, hello.tasks, hello.engine_ok, hello.engine_message, now)
        return hello

    def _described(self, seen: Description) -> NodeDescription:
        return replace(to_description(seen), address=self.link.address)

    async def attach(self, about_us: Attach, deadline_s: float) -> None:
        """Take the lease. Raises HelperRefused, NodeUnreachable, NodeDeadline."""
        args = {name: getattr(about_us, name) for name in about_us.__slots__}
        await self.request("attach", args, deadline_s)
        self.attached = True

    async def _stub_line(self) -> StubLine | Hello:
        line = await self._stub_lines.get()
        if line is None:
            raise self._died_in_stub()
        if isinstance(line, NodeUnreachable):
            raise line
        if isinstance(line, StubLine) and line.error:
            raise NodeUnreachable(f"node {self.node}: {line.error}", hint=line.hint, node=self.node)
        return line

    def _died_in_stub(self) -> NodeUnreachable:
        """The command ended without a word of the protocol: the shell, sudo or Python refused."""
        assert self._channel is not None
        if not self._channel.ended:
            return NodeUnreachable(f"the helper on node {self.node} did not start: {self.reason}", node=self.node)
        said = self._on_stderr() or (f"; it wrote {excerpt(bytes(self._noise))}" if self._noise else "")
        status, stderr = self._channel.exit_status, self._channel.stderr
        hint = ""
        if "sudo" in stderr and ("password" in stderr or "not allowed" in stderr or "sudoers" in stderr):
            hint = f"Let {self.link.target.user} run `sudo -n` without a password (NOPASSWD in sudoers)"
        elif status in (126, 127):
            hint = f"Install {self.link.target.python} there, or name another with ansible_python_interpreter"
        elif not stderr and self._noise:
            hint = "Is the key restricted to another command, or does the user's shell profile print and exit?"
        ended = "the connection ended" if status is None else f"exit status {status}"
        return NodeUnreachable(
            f"the helper on node {self.node} did not start: {ended}{said}", hint=hint, node=self.node
        )

    def _on_stderr(self) -> str:
        return f"; it said: {self._channel.stderr}" if self._channel is not None and self._channel.stderr else ""

    # --- requests ---
    async def request(self, op: str, args: object, deadline_s: float) -> msgspec.Raw:
        """One round trip; the reply's `result`. If `args` is a function, it is called when its line is the next.

        Raises NodeUnreachable if the session ends first, NodeDeadline, HelperRefused or NodeRequestFailed.
        """
        number, self._next_id = self._next_id, self._next_id + 1
        future: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline_s):
                if self._channel is not None and self._channel.paused:
                    await self._channel.drain()
                if self.ended.is_set():
                    raise NodeUnreachable(
                        f"the session with node {self.node} ended: {self.reason}", node=self.node
                    )
                line = request_line(number, op, deadline_s, args() if callable(args) else args, self._beat)
                if len(line) > self._line_bytes:
                    raise NodeRequestFailed(
                        f"a request {op} of {len(line)} bytes is too long for one line", node=self.node
                    )
                self._waiting[number] = future
                self._counters.requests += 1
                self._send(line)
                reply = await future
        except TimeoutError as e:
            raise NodeDeadline(
                f"node {self.node} did not answer {op} within {deadline_s:g} s", node=self.node, op=op
            ) from e
        finally:
            self._waiting.pop(number, None)
        if not reply.ok:
            raise self._failed(op, reply.error)
        return reply.result

    def _failed(self, op: str, error: Failure) -> SwarmshError:
        kind = _ERRORS.get(error.code, NodeRequestFailed)
        said = error.message or error.code or "no reason given"
        return kind(f"node {self.node}: {said}", hint=error.hint, node=self.node, op=op, code=error.code)

    def renew_lease(self, deadline_s: float) -> None:
        """Say that we are here, without waiting for the answer."""
        number = self._next_id
        self._next_id += 1
        self._renewals.add(number)
        self._counters.requests += 1
        self._send(request_line(number, "lease", deadline_s, {}, self._beat))

    def _send(self, data: bytes, lines: int = 1) -> None:
        assert self._channel is not None
        self.last_sent = self._clock.monotonic()
        self._counters.lines_out += lines
        self._counters.bytes_out += len(data)
        self._channel.send(data)

    def blocked_for(self, now: float) -> float:
        """Seconds for which the node has not taken what we sent; to be asked regularly."""
        if self._channel is None or not self._channel.paused:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = now
        return 0.0 if self._blocked_since is None else now - self._blocked_since

    # --- what comes in ---
    def _on_data(self, data: bytes) -> None:
        self._counters.bytes_in += len(data)
        if self.ended.is_set():
            return
        try:
            for line in self._splitter.feed(data):
                self._counters.lines_in += 1
                if self._in_stub:
                    self._on_stub_line(line)
                else:
                    self._on_line(line)
                if self.ended.is_set():
                    return
            if self.view is not None:
                self.last_heard = self._clock.monotonic()  # parts of a line count: a slow link takes long for one
        except LineTooLong:
            self.end(f"the helper sent a line of more than {self._line_bytes} bytes")
        except MalformedLine as e:
            self.end(f"the helper sent what is no message: {e}")

    def _on_stub_line(self, line: bytes) -> None:
        # Some shells' profiles print a greeting, also for commands.
        if not line.startswith(b"{"):
            self._noise += line + b"\n"
            if len(self._noise) > _NOISE_BYTES:
                raise LineTooLong
            return
        parsed = parse(StubLine, line)
        self._in_stub = not parsed.event
        if parsed.event != "hello":
            self._stub_lines.put_nowait(parsed)
            return
        try:
            self._stub_lines.put_nowait(self._welcome(parsed))
        except NodeUnreachable as e:
            self._stub_lines.put_nowait(e)

    def _on_line(self, line: bytes) -> None:
        parsed = parse_line(line)
        if parsed.id is not None:
            self._on_reply(parsed.id, parsed)
            return
        match parsed.event:
            case "heartbeat":
                beat = parse(Heartbeat, parsed.data)
                self._beat = beat.seq
                if self.view is not None:
                    self._changed(
                        self.view.engine(beat.engine_ok, None, self._clock.monotonic() - beat.engine_down_s)
                    )
            case "task":
                self._on_task(parse(TaskReport, parsed.data))
            case "engine":
                state = parse(EngineState, parsed.data)
                if self.view is not None:
                    self._changed(self.view.engine(state.ok, state.message, self._clock.monotonic()))
            case "description":
                description = self._described(parse(Description, parsed.data))
                if self.view is not None:
                    self._changed(self.view.describe(description))
            case "network":
                if self.attached:
                    self._listener.network_checked(parse(NetworkState, parsed.data))
            case "superseded" | "goodbye":
                self.end(f"{parsed.event}: {parse(Goodbye, parsed.data).reason or 'no reason given'}")
            case _:
                pass  # a newer helper's; the protocol says to ignore it

    def _on_reply(self, number: int, reply: Line) -> None:
        if number in self._renewals:
            self._renewals.discard(number)
            if not reply.ok:
                self.end(f"the helper refused to renew the lease: {reply.error.message or reply.error.code}")
            return
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(reply)

    def _on_task(self, report: TaskReport) -> None:
        if self.view is None:
            return
        self.view.task(report)
        if not self.attached:
            return  # the report of Connected holds it
        if not self._tasks_in_burst:
            # One socket read brings many packets; all of them are handled before this runs.
            asyncio.get_running_loop().call_soon(self._flush_tasks)
        self._tasks_in_burst.append(report)

    def _flush_tasks(self) -> None:
        tasks, self._tasks_in_burst = self._tasks_in_burst, []
        if tasks:
            self._listener.tasks_reported(tasks)

    def _changed(self, changed: bool) -> None:
        if changed and self.attached:
            self._flush_tasks()
            self._listener.described()

    # --- the end ---
    def _on_end(self) -> None:
        status = self._channel.exit_status if self._channel is not None else None
        how = "the connection ended" if status is None else f"the helper's channel ended (exit status {status})"
        self.end(f"{how}{self._on_stderr()}")

    def end(self, reason: str) -> None:
        """End the session; the first reason counts."""
        if self.ended.is_set():
            return
        self.reason = reason
        self._flush_tasks()
        self.ended.set()
        gone = NodeUnreachable(f"the session with node {self.node} ended: {reason}", node=self.node)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(gone)
        self._stub_lines.put_nowait(None)
        if self._channel is not None:
            self._channel.close()
