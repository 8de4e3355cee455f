"""Nodes with helpers that hold what they are told, for tests of the manager at work."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

import msgspec

from swarmsh.errors import HelperRefused, NodeUnreachable, SwarmshError
from swarmsh.manager.ports import Connected, Disconnected, NodeEvent, TasksReported
from swarmsh.model.actions import (
    Action,
    Batch,
    ContentParts,
    EnsureTask,
    NodeReport,
    RefreshSecrets,
    RemoveTask,
    StopTask,
    TaskReport,
)
from swarmsh.model.netstate import EspKeys, NetworkChange
from swarmsh.model.objects import NodeDescription

_KEYS = {"peers": "n", "networks": "id", "vips": "id", "ports": "id", "tasks": "id"}


class FakeHelpers:
    """`manager.ports.NodeClient`. `log` has all that was said to nodes, in order: (node, what, what exactly).

    What: `network` and `told` (begun, and answered), `secure`, `apply`, `released`. Tasks become what they are
    told to at once, and ready with it. `network` waits for `release` on nodes that were made `slow`.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, str, object]] = []
        self.tasks: dict[str, dict[str, TaskReport]] = defaultdict(dict)
        self.held: dict[str, dict[str, dict[object, object]]] = {}  # node -> section -> key -> entry, as JSON
        self.keys: dict[str, EspKeys] = {}
        self.lost: dict[str, tuple[int, ...]] = {}  # what the next `secure` answers
        self.keyless: dict[str, SwarmshError] = {}  # what every `secure` of a node raises
        self.boots: dict[str, str] = defaultdict(lambda: "first")
        self.failing: dict[str, SwarmshError] = {}  # what every `network` of a node raises; the state is held
        self.broken: dict[str, SwarmshError] = {}  # what the next one raises; the state is not held
        self.contents_of: dict[tuple[str, str, str], bytes] = {}  # node, task, secret or config
        self.full: dict[str, SwarmshError] = {}  # what every `contents` of a node raises
        self._slow: dict[str, asyncio.Event] = {}
        self.away: set[str] = set()
        self._indexes: dict[str, int] = defaultdict(int)
        self._events: asyncio.Queue[NodeEvent] = asyncio.Queue()

    # --- what tests do ---
    def connect(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self.away.discard(node_id)
            self._events.put_nowait(Connected(node_id=node_id, report=self._report(node_id)))

    def cut(self, node_id: str) -> None:
        self.away.add(node_id)
        self._events.put_nowait(Disconnected(node_id=node_id, reason="cut"))

    def say(self, event: NodeEvent) -> None:
        self._events.put_nowait(event)

    def report_task(self, node_id: str, task_id: str, state: str, *, ready: bool = False) -> None:
        report = TaskReport(task_id=task_id, state=state, ready=ready, container_id="c" * 64)
        self.tasks[node_id][task_id] = report
        self._events.put_nowait(TasksReported(node_id=node_id, tasks=(report,)))

    def slow(self, *node_ids: str) -> None:
        self._slow.update((node_id, asyncio.Event()) for node_id in node_ids)

    def release(self, node_id: str) -> None:
        """Let a slow node answer."""
        self._slow.pop(node_id).set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Let everybody else go on until something is true; a test that waits in vain fails."""
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 this is no sleep, but the others' turn
                await asyncio.sleep(0)

    @property
    def unheard(self) -> bool:
        """Whether the manager has yet to take over something that nodes said."""
        return not self._events.empty()

    def said(self, what: str, node_id: str = "") -> list[object]:
        return [exactly for node, word, exactly in self.log if word == what and node_id in ("", node)]

    def actions(self, node_id: str) -> list[Action]:
        return [a for batch in self.said("apply", node_id) if isinstance(batch, Batch) for a in batch.actions]

    def place(self, node_id: str, what: str, fits: Callable[[object], bool] = lambda _: True) -> int:
        """Where in the log the first such entry is; -1 if there is none."""
        found = (i for i, (n, w, x) in enumerate(self.log) if (n, w) == (node_id, what) and fits(x))
        return next(found, -1)

    # --- NodeClient ---
    def keep(self, node_id, name, target):
        pass

    async def drop(self, node_id, *, release=False):
        self._note(node_id, "released", release)
        return release

    async def events(self) -> AsyncIterator[NodeEvent]:
        while True:
            yield await self._events.get()

    def connected(self, node_id):
        return node_id not in self.away

    def last_heard(self, node_id):
        return None if node_id in self.away else 0.0

    def report(self, node_id):
        return None if node_id in self.away else self._report(node_id)

    def _report(self, node_id: str) -> NodeReport:
        described = NodeDescription(boot_id=self.boots[node_id])
        return NodeReport(description=described, tasks=dict(self.tasks[node_id]))

    async def apply(self, node_id, batch):
        self._see(node_id, batch.index)
        self._note(node_id, "apply", batch)
        for action in batch.actions:
            self._do(node_id, action)

    def _do(self, node_id: str, action: Action) -> None:
        match action:
            case EnsureTask():
                running = action.desired == "running"
                self.report_task(node_id, action.task_id, action.desired, ready=running)
            case RefreshSecrets():
                report = msgspec.structs.replace(self.tasks[node_id][action.task_id], refreshed=action.number)
                self.tasks[node_id][action.task_id] = report
                self._events.put_nowait(TasksReported(node_id=node_id, tasks=(report,)))
            case StopTask():
                self.report_task(node_id, action.task_id, "shutdown")
            case RemoveTask():
                self.tasks[node_id].pop(action.task_id, None)
                gone = TaskReport(task_id=action.task_id, state="gone")
                self._events.put_nowait(TasksReported(node_id=node_id, tasks=(gone,)))

    async def contents(self, node_id, parts: ContentParts):
        self._see(node_id, parts.index)
        self._note(node_id, "contents", parts)
        if node_id in self.full:
            raise self.full[node_id]
        for part in parts.items:
            key = (node_id, part.task_id, part.id)
            self.contents_of[key] = (self.contents_of[key] if part.offset else b"") + part.data

    async def network(self, node_id, change: NetworkChange):
        self._see(node_id, change.index)
        self._note(node_id, "network", change)
        if node_id in self._slow:
            await self._slow[node_id].wait()
        if node_id in self.away:
            raise NodeUnreachable(f"the session with node {node_id} ended")
        if node_id in self.broken:
            raise self.broken.pop(node_id)
        self._hold(node_id, change)
        self._note(node_id, "told", change)
        if node_id in self.failing:
            raise self.failing[node_id]
        return ()

    async def secure(self, node_id, keys):
        self._note(node_id, "secure", keys)
        if node_id in self.keyless:
            raise self.keyless[node_id]
        self.keys[node_id] = keys
        return self.lost.pop(node_id, ())

    async def check_peers(self, node_id, peers):
        return {node: True for node, _ in peers}

    # --- inside ---
    def _see(self, node_id: str, index: int) -> None:
        if node_id in self.away:
            raise NodeUnreachable(f"there is no session with node {node_id}")
        if index < self._indexes[node_id]:
            raise HelperRefused(f"{index} is below {self._indexes[node_id]}", code="stale_index")
        self._indexes[node_id] = index

    def _hold(self, node_id: str, change: NetworkChange) -> None:
        """As `docs/protocol.md` says: what is dropped goes first, a fresh one begins empty."""
        state = {} if change.fresh else self.held.setdefault(node_id, {})
        self.held[node_id] = state
        said = msgspec.json.decode(msgspec.json.encode(change))
        for section, keys in said["drop"].items():
            assert section in (*_KEYS, "names")
            for key in keys:
                state.get(section, {}).pop(tuple(key) if section == "names" else key, None)
        for section, found in said["put"].items():
            for entry in [found] if section in ("node", "egress") else found:
                state.setdefault(section, {})[_key(section, entry)] = entry
        for section in [s for s, entries in state.items() if not entries]:
            del state[section]

    def _note(self, node_id: str, what: str, exactly: object) -> None:
        self.log.append((node_id, what, exactly))


def _key(section: str, entry: dict[str, object]) -> object:
    if section == "names":
        return entry["network"], entry["service"]
    return entry[_KEYS[section]] if section in _KEYS else ""
