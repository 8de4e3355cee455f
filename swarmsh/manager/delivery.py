"""Contents of secrets and configs on their way to one node: given before the tasks that use them.

They are read from the store when they are sent, one task's at a time, and kept nowhere. No error and no line of
the log has anything of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.body_template import BodyError, Costly, Wanted, expand_body, shown_word
from swarmsh.core.secrets import Kind
from swarmsh.core.task_files import lacking, target_of
from swarmsh.core.tasks import ended
from swarmsh.core.template import context_of
from swarmsh.core.versions import GIVEN_UP
from swarmsh.errors import InvalidSpec, NodeRequestFailed, NotFound, SwarmshError
from swarmsh.manager.ports import Clock, ContentClient, ContentSource, DecisionStore
from swarmsh.model.actions import (
    Action,
    ContentPart,
    ContentParts,
    EnsureTask,
    NodeReport,
    RefreshSecrets,
    TaskReport,
)
from swarmsh.model.objects import Config, Node, Secret, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import TaskState

log = logging.getLogger(__name__)

# Bytes of contents in a line, which base64 makes a third longer. Each line is answered, and nothing else of the
# session passes it on its way: over an uplink of 1 Mbit/s it takes 0.7 s, which keeps no heartbeat from its lease.
LINE_ROOM = 64 * 1024
_PART_OVERHEAD = 256
AT_ONCE = 1024 * 1024  # work of an expansion, some milliseconds, that is not felt in the event loop


@dataclass(frozen=True, slots=True)
class Need:
    """What a task's node lacks."""

    task: Task
    ids: tuple[str, ...]
    found: TaskReport | None  # what the node said when this was found out


@dataclass(slots=True)
class Outcome:
    """By task id: whose contents the node has, and why others have to wait or can never have theirs."""

    given: set[str] = field(default_factory=set)
    waits: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Delivery:
    """Of one node. `session_started` when it was connected anew."""

    node_id: str
    store: DecisionStore
    contents: ContentSource
    nodes: ContentClient
    clock: Clock
    epoch: int
    # Task -> what the node acknowledged, and the report of then: a newer one that lacks them knows better.
    _given: dict[str, tuple[frozenset[str], TaskReport | None]] = field(default_factory=dict)

    def session_started(self) -> None:
        """What the node has of a former session is in its reports."""
        self._given.clear()

    def forget(self, known: Set[str]) -> None:
        """Drop what is remembered of all tasks but these."""
        for task_id in self._given.keys() - known:
            del self._given[task_id]

    def needs(self, report: NodeReport, actions: Iterable[Action], tasks: Iterable[Task]) -> tuple[Need, ...]:
        """What has to be given before these actions, and what the node says that it misses."""
        told = {a.task_id: a for a in actions if isinstance(a, EnsureTask)}
        exchanged = {a.task_id: a for a in actions if isinstance(a, RefreshSecrets)}
        found_needs = []
        for task in tasks:
            found, given = report.tasks.get(task.id), self._given_of(task.id, report)
            missing = found.missing if found is not None and task.live else ()
            ids = [i for i in missing if i not in given]
            if task.id in told:
                ids += lacking(told[task.id].files, found, given)
            if task.id in exchanged:
                # Templates may have what is exchanged in them.
                ids += [f.id for f in exchanged[task.id].files if f.id not in given or self._is_template(f.id)]
            if ids:
                found_needs.append(Need(task, tuple(dict.fromkeys(ids)), found))
        return tuple(found_needs)

    def _is_template(self, object_id: str) -> bool:
        snapshot = self.store.snapshot
        kept = snapshot.secrets.get(object_id) or snapshot.configs.get(object_id)
        return kept is not None and kept.spec.templating is not None and bool(kept.spec.templating.name)

    def _given_of(self, task_id: str, report: NodeReport) -> frozenset[str]:
        ids, at = self._given.get(task_id, (frozenset(), None))
        found = report.tasks.get(task_id)
        if found is not None and found is not at and found.missing:
            return ids - set(found.missing)
        return ids

    async def give(self, node: Node, needs: Sequence[Need]) -> Outcome:
        """Send what is needed. Raises what `ContentClient.contents` raises, but for the node's own refusal."""
        outcome, snapshot = Outcome(), self.store.snapshot
        cluster = snapshot.cluster
        assert cluster is not None  # it has tasks
        line: list[ContentPart] = []
        room = LINE_ROOM
        try:
            async for part in self._parts(snapshot, node, needs, outcome):
                if line and len(part.data) + _PART_OVERHEAD > room:
                    await self._send(cluster.id, line)
                    line, room = [], LINE_ROOM
                line.append(part)
                room -= len(part.data) + _PART_OVERHEAD
            if line:
                await self._send(cluster.id, line)
        except NodeRequestFailed as e:
            unsettled = {n.task.id for n in needs} - outcome.refused.keys() - outcome.waits.keys()
            outcome.waits.update((task_id, str(e)) for task_id in unsettled)
            return outcome
        for need in needs:
            if need.task.id not in outcome.refused.keys() | outcome.waits.keys():
                outcome.given.add(need.task.id)
                before = self._given.get(need.task.id, (frozenset[str](), None))[0]
                self._given[need.task.id] = (before | set(need.ids), need.found)
        return outcome

    async def _send(self, cluster_id: str, line: Sequence[ContentPart]) -> None:
        index = self.store.snapshot.index
        await self.nodes.contents(
            self.node_id, ContentParts(cluster_id=cluster_id, epoch=self.epoch, index=index, items=tuple(line))
        )

    # --- what is sent ---------------------------------------------------------------------------------------
    async def _parts(
        self, snapshot: ClusterSnapshot, node: Node, needs: Iterable[Need], outcome: Outcome
    ) -> AsyncIterator[ContentPart]:
        """All contents of a task are read before the first of them goes: a task has all or none."""
        for need in needs:
            try:
                found = [(i, await self._content(snapshot, node, need.task, i)) for i in need.ids]
            except (InvalidSpec, NotFound) as e:
                outcome.refused[need.task.id] = str(e)
                continue
            except SwarmshError as e:
                outcome.waits[need.task.id] = str(e)
                continue
            except Exception as e:  # a bug; it may not keep from the node what others need
                log.error("contents_failed node=%s task=%s error=%s", self.node_id, need.task.id, type(e).__name__)
                outcome.waits[need.task.id] = f"its secrets and configs cannot be read: {type(e).__name__}"
                continue
            for object_id, data in found:
                for part in _cut(need.task.id, object_id, data):
                    yield part

    async def _content(self, snapshot: ClusterSnapshot, node: Node, task: Task, object_id: str) -> bytes:
        """What a secret or config holds for this task. Raises NotFound, InvalidSpec, and what the store raises."""
        kept = snapshot.secrets.get(object_id) or snapshot.configs.get(object_id)
        if kept is None:
            raise NotFound(f"secret or config {object_id} not found")
        try:
            data = await self._read(kept)
        except NotFound:
            kind: Kind = "secret" if isinstance(kept, Secret) else "config"
            raise NotFound(
                f"{_name(kept)} has no contents: {GIVEN_UP}",
                hint=f"Give them again: `swarmsh {kind} rotate {kept.spec.name} FILE`",
            ) from None
        templating = kept.spec.templating
        if templating is None or not templating.name:
            return data
        if templating.name != "golang":
            raise InvalidSpec(f"{_name(kept)}: unrecognized template type {templating.name}")
        return await self._expanded(snapshot, node, task, kept, data)

    async def _read(self, kept: Secret | Config) -> bytes:
        if isinstance(kept, Secret):
            return await self.contents.secret_data(kept.id)
        return await self.contents.config_data(kept.id)

    async def _expanded(
        self, snapshot: ClusterSnapshot, node: Node, task: Task, kept: Secret | Config, data: bytes
    ) -> bytes:
        """A template's text for this task: it may name what the task itself is given, and nothing else."""
        spec = task.spec.container_spec
        assert spec is not None  # it has references
        ids = {("secret", target_of(r)): r.secret_id for r in spec.secrets}
        ids |= {("config", target_of(r)): r.config_id for r in spec.configs}
        read: dict[tuple[str, str], str] = {}
        while True:
            try:
                work = _text(data), context_of(task, node), spec.env, read
                try:
                    return _bytes(expand_body(*work, AT_ONCE))
                except Costly:
                    return _bytes(await asyncio.to_thread(expand_body, *work))
            except BodyError as e:
                # The text of a secret is not shown, not even the word that is wrong in it.
                raise InvalidSpec(
                    f"{_name(kept)}: {e.shown(secret=isinstance(kept, Secret))}", hint=e.hint
                ) from None
            except Wanted as wanted:
                key = wanted.kind, wanted.target
                other = snapshot.secrets.get(ids.get(key, "")) or snapshot.configs.get(ids.get(key, ""))
                if other is None:
                    words = f"{wanted.kind} target {shown_word(wanted.target)} not found"
                    hidden = f"a {wanted.kind} that its template names is not given to the task"
                    raise InvalidSpec(
                        f"{_name(kept)}: {hidden if isinstance(kept, Secret) else words}",
                        hint="Give the service that too: templates see what the task is given, by its target",
                    ) from None
                read[key] = _text(await self._read(other))
            except Exception:  # whose words may have anything of the text
                raise InvalidSpec(f"{_name(kept)}: its template cannot be expanded") from None

    # --- what is said of it ---------------------------------------------------------------------------------
    def note(self, outcome: Outcome) -> None:
        """Let tasks that wait say why, and end those that can never begin."""
        if not outcome.waits and not outcome.refused:
            return
        now = self.clock.now()
        refused, waits = _writable(outcome.refused), _writable(outcome.waits)

        def decide(snapshot: ClusterSnapshot) -> Changes:
            put = []
            for task_id, reason in (*waits.items(), *refused.items()):
                task = snapshot.tasks.get(task_id)
                if task is None or not task.live:
                    continue
                noted = _refused(task, reason, now) if task_id in refused else _waiting(task, reason)
                if noted != task:
                    put.append(noted)
            return Changes(put_tasks=tuple(put))

        self.store.observe(decide)
        for task_id, reason in refused.items():
            log.warning("contents_refused node=%s task=%s reason=%s", self.node_id, task_id, reason)
        for task_id, reason in waits.items():
            log.warning("contents_wait node=%s task=%s reason=%s", self.node_id, task_id, reason)


def _writable(reasons: Mapping[str, str]) -> dict[str, str]:
    """With nothing in them that a record cannot hold, wherever the words came from."""
    return {task_id: words.encode(errors="backslashreplace").decode() for task_id, words in reasons.items()}


def _waiting(task: Task, reason: str) -> Task:
    if task.status.state >= TaskState.STARTING:
        return task  # it has what it began with
    return replace(task, status=replace(task.status, err=reason))


def _refused(task: Task, reason: str, now: float) -> Task:
    if task.refresh is not None and task.refresh.done_at is None and task.status.state >= TaskState.READY:
        return replace(task, refresh=replace(task.refresh, done_at=now, err=reason))
    if task.status.state >= TaskState.STARTING:
        return task
    return ended(task, TaskState.REJECTED, now, reason)


def _cut(task_id: str, object_id: str, data: bytes) -> Iterable[ContentPart]:
    """Parts that fit a line each; one for nothing at all."""
    for at in range(0, max(1, len(data)), LINE_ROOM):
        piece = data[at : at + LINE_ROOM]
        yield ContentPart(task_id=task_id, id=object_id, size=len(data), offset=at, data=piece)


def _name(kept: Secret | Config) -> str:
    return f"{'secret' if isinstance(kept, Secret) else 'config'} {kept.spec.name}"


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")  # templates may hold any bytes, and so may what they name


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
