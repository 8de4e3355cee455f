"""Log lines of tasks, read from their nodes side by side and put into one sequence.

What was written already is merged by time; what comes while following is taken as it comes. A node that does not
answer holds nobody up: its tasks are named as missing, or, while following, tried again until it is back.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

from swarmsh.errors import NodeDeadline, NodeUnreachable, SwarmshError
from swarmsh.manager.ports import EngineStreams, Store
from swarmsh.model.objects import Task

PATIENCE_S = 2.0  # how long the merge waits for one node's next line
GIVEN_UP_AFTER_S = 5.0  # ... and then, with all others told, once more
RETRY_S = 1.0
_AHEAD = 256  # lines read ahead of the client, for each task


@dataclass(frozen=True, kw_only=True)
class LogRequest:
    stdout: bool
    stderr: bool
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    tail: str = "all"
    since: float = 0.0  # seconds since the epoch, 0: from the beginning
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    task: Task
    stream: int  # 1 standard output (and a tty), 2 standard error
    timestamp: bytes  # RFC 3339 with nine digits, so it sorts; empty if the Engine gave none
    text: bytes  # with its newline


@dataclass(eq=False)
class _Source:
    """The reader of one task's log, and the lines it is ahead of the client. None is the end."""

    task: Task
    queue: asyncio.Queue[Line | None] = field(default_factory=lambda: asyncio.Queue(_AHEAD))
    joined: bool = False  # came up while following: all its lines are new
    ended: bool = False
    late: bool = False  # the merge goes on without it until it brings something
    reader: asyncio.Task[None] | None = None


class TaskLogs:
    """Logs of a service's tasks, or of one task. `failures` says what is missing once `lines` has ended."""

    def __init__(
        self, store: Store, streams: EngineStreams, wanted: LogRequest, *, service_id: str = "", task_id: str = ""
    ) -> None:
        self.failures: list[str] = []
        self._store = store
        self._streams = streams
        self._wanted = wanted
        self._service_id = service_id
        self._task_id = task_id
        self._sources: dict[str, _Source] = {}
        self._started = False
        self._changed = asyncio.Event()
        self._arrived: asyncio.Queue[Line | None] = asyncio.Queue(_AHEAD)  # None: something ended
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> TaskLogs:
        if self._wanted.follow:
            self._watcher = asyncio.create_task(self._watch())
            await asyncio.sleep(0)  # subscribed before the first look at the tasks
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [s.reader for s in self._sources.values() if s.reader is not None]
        if self._watcher is not None:
            running.append(self._watcher)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def lines(self) -> AsyncIterator[Line]:
        self._start_readers()
        async for line in self._arriving() if self._wanted.follow else self._merged():
            yield line

    # --- which tasks ------------------------------------------------------------------------------------------
    def _tasks(self) -> list[Task]:
        snapshot = self._store.snapshot
        if self._task_id:
            return [snapshot.tasks[self._task_id]] if self._task_id in snapshot.tasks else []
        return sorted(snapshot.tasks_of_service(self._service_id), key=lambda t: (t.created_at, t.id))

    def _start_readers(self) -> None:
        for task in self._tasks():
            if task.id not in self._sources:
                source = _Source(task, joined=self._started)
                if self._wanted.follow:
                    source.queue = self._arrived
                self._sources[task.id] = source
                source.reader = asyncio.create_task(self._read(source))
        self._started = True

    async def _watch(self) -> None:
        """While following: new tasks join, and waiting readers look again."""
        async with self._store.subscribe() as changes:
            async for _, change in changes:
                mine = {t.id for t in change.put_tasks if self._service_id in (t.service_id, "")}
                if mine or change.delete_tasks or change.delete_services or change.put_nodes:
                    changed, self._changed = self._changed, asyncio.Event()
                    changed.set()
                    self._start_readers()
                    if change.delete_services or change.delete_tasks:
                        await self._arrived.put(None)

    async def _wait_for_change(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        except TimeoutError:
            return

    # --- one task ---------------------------------------------------------------------------------------------
    async def _read(self, source: _Source) -> None:
        """Put the task's lines into the queue, and None after the last."""
        last = b""
        try:
            while (task := self._store.snapshot.tasks.get(source.task.id)) is not None:
                source.task = task
                if task.node_id and task.status.container_id:
                    last, again = await self._read_once(source, last)
                    if not again:
                        return
                    await self._wait_for_change(RETRY_S)
                elif not self._wanted.follow or task.status.state.terminal:
                    return
                else:
                    await self._wait_for_change(60.0)
        finally:
            source.ended = True
            await source.queue.put(None)

    async def _read_once(self, source: _Source, last: bytes) -> tuple[bytes, bool]:
        """Read until the Engine ends the stream; the last line's time, and whether to read again from there."""
        task, container = source.task, source.task.spec.container_spec
        tty = container is not None and container.tty
        told = last
        query = self._query("all" if last or source.joined else self._wanted.tail, last)
        try:
            async for stream, raw in self._streams.logs(task.node_id, task.status.container_id, query, tty=tty):
                timestamp, _, text = raw.partition(b" ")
                if told and timestamp <= told:
                    continue  # before the interruption
                last = timestamp
                await source.queue.put(Line(task, stream, timestamp, text))
        except (NodeUnreachable, NodeDeadline):
            if not self._wanted.follow:
                self.failures.append(f"node {task.node_id} is not available")
            return last, self._wanted.follow
        except SwarmshError as e:
            self.failures.append(f"task {task.id}: {e}")
            return last, False
        # The Engine ends a followed stream with the container; without a manager it may have restarted it.
        now = self._store.snapshot.tasks.get(task.id)
        return last, self._wanted.follow and now is not None and not now.status.state.terminal

    def _query(self, tail: str, last: bytes) -> dict[str, str]:
        wanted = self._wanted
        query = {
            "stdout": str(int(wanted.stdout)),
            "stderr": str(int(wanted.stderr)),
            "follow": str(int(wanted.follow)),
            "timestamps": "1",  # always: lines are merged, and an interrupted stream goes on from its last one
            "tail": tail,
        }
        since = _seconds(last) or (f"{wanted.since:.9f}" if wanted.since else "")
        if since:
            query["since"] = since
        if wanted.until:
            query["until"] = f"{wanted.until:.9f}"
        return query

    # --- all of them ------------------------------------------------------------------------------------------
    async def _arriving(self) -> AsyncIterator[Line]:
        """Lines as they come, until everything that could bring one has ended."""
        while True:
            if self._arrived.empty() and self._all_over():
                return
            line = await self._arrived.get()
            if line is not None:
                yield line

    def _all_over(self) -> bool:
        if not all(s.ended for s in self._sources.values()):
            return False
        return bool(self._task_id) or self._service_id not in self._store.snapshot.services

    async def _merged(self) -> AsyncIterator[Line]:
        """All lines by time. A source that is late once is not waited for again until all others are told."""
        heads: list[tuple[bytes, int, Line, _Source]] = []
        waiting = list(self._sources.values())
        count = 0
        while waiting or heads:
            late: list[_Source] = []
            for source in sorted(waiting, key=lambda s: s.late):
                last_chance = source.late and not heads
                patience = GIVEN_UP_AFTER_S if last_chance else 0.0 if source.late else PATIENCE_S
                head = await self._head(source, patience)
                source.late = head is _LATE
                if isinstance(head, Line):
                    count += 1
                    heapq.heappush(heads, (head.timestamp, count, head, source))
                elif source.late and last_chance:
                    self.failures.append(f"node {source.task.node_id} is not available")
                elif source.late:
                    late.append(source)
            waiting = late
            if heads:
                _, _, line, source = heapq.heappop(heads)
                waiting.append(source)
                yield line

    async def _head(self, source: _Source, patience_s: float) -> Line | object | None:
        if not source.queue.empty():
            return source.queue.get_nowait()
        if patience_s <= 0:
            return _LATE
        try:
            async with asyncio.timeout(patience_s):
                return await source.queue.get()
        except TimeoutError:
            return _LATE


_LATE = object()


def _seconds(timestamp: bytes) -> str:
    """An Engine's timestamp as seconds with nine digits, as its `since` takes them; empty if it is none."""
    head, dot, rest = timestamp.decode(errors="replace").partition(".")
    try:
        whole = int(datetime.fromisoformat((head if dot else head.rstrip("Z")) + "+00:00").timestamp())
    except ValueError:
        return ""
    digits = rest[:9] if rest[:9].isdecimal() else "0"
    return f"{whole}.{digits}"
