"""The one stream of node events: bounded by the number of tasks even if its reader is slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from swarmsh.manager.ports import NodeEvent, TasksReported
from swarmsh.model.actions import TaskReport

_KEPT_UNREAD = 1024


@dataclass(slots=True, eq=False)
class _Unread:
    """Task reports of one node that nobody has read yet; more are added as long as they wait."""

    node_id: str
    tasks: list[TaskReport]


class EventFeed:
    def __init__(self) -> None:
        self._queue: deque[NodeEvent | _Unread] = deque()
        self._open: dict[str, _Unread] = {}
        self._filled = asyncio.Event()

    def put(self, event: NodeEvent) -> None:
        """Any event but task reports; later reports of the node come after it."""
        self._open.pop(event.node_id, None)
        self._queue.append(event)
        self._filled.set()

    def put_tasks(self, node_id: str, tasks: Sequence[TaskReport]) -> None:
        unread = self._open.get(node_id)
        if unread is None:
            unread = self._open[node_id] = _Unread(node_id, [])
            self._queue.append(unread)
            self._filled.set()
        unread.tasks.extend(tasks)
        if len(unread.tasks) > _KEPT_UNREAD:
            # The newest of each task says all: states only climb.
            unread.tasks = list({t.task_id: t for t in unread.tasks}.values())

    async def read(self) -> AsyncIterator[NodeEvent]:
        """All events in order, without end."""
        while True:
            while self._queue:
                head = self._queue.popleft()
                if isinstance(head, _Unread):
                    if self._open.get(head.node_id) is head:
                        del self._open[head.node_id]
                    yield TasksReported(node_id=head.node_id, tasks=tuple(head.tasks))
                else:
                    yield head
            self._filled.clear()
            await self._filled.wait()
