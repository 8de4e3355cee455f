"""Watching the nodes: what their sessions say, how long they have been silent, what their peers think."""

from __future__ import annotations

import asyncio
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.fence import holds_fenced
from swarmsh.core.liveness import (
    ASK_AFTER_BEATS,
    DOUBT,
    SILENT_AFTER_BEATS,
    Moment,
    Opinion,
    Signs,
    form_opinion,
    judge_node,
)
from swarmsh.core.reports import merge_full_report, merge_report
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import (
    Clock,
    Connected,
    Described,
    Disconnected,
    NetworkChecked,
    NodeClient,
    NodeEvent,
    Refused,
    Store,
    TasksReported,
    Untrusted,
)
from swarmsh.manager.settings import Settings
from swarmsh.manager.usecases.happenings import late_events
from swarmsh.model.actions import NodeReport
from swarmsh.model.objects import Event, Node, NodeDescription, NodeStatus
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import NodeState, TaskState

log = logging.getLogger(__name__)

DOUBT_ENDED = "the manager no longer doubts its own network"
FIRST_PAUSE_S = 10.0  # until a node is looked at again that not enough others reached; doubled each time


@dataclass(slots=True)
class _Link:
    """What is remembered of the link to one node beside its last report."""

    reason: str = ""
    untrusted: str = ""
    refused: str = ""
    opinions: dict[str, Opinion] = field(default_factory=dict)
    asking: bool = False  # a round of peers is under way; the next one waits for its end
    reached_by: set[str] = field(default_factory=set)  # peers that reached it while it was ready
    baseline_due: float = 0.0  # when that is to be found out next; monotonic
    baseline_pause_s: float = 0.0
    ending: bool = False
    processes_ended: bool = False
    not_ended: str = ""  # why not, as it was logged


@dataclass(slots=True)
class NodeWatch:
    """Takes over what nodes report, and judges who is there.

    `on_session` is called for each new session, `on_report` whenever a node said something of its tasks,
    `on_network` when it said something of its networks, `on_stall` when the manager itself had stood still,
    `on_missing` when a task's contents of secrets or configs are missing, which is stored nowhere.
    """

    store: Store
    nodes: NodeClient
    clock: Clock
    settings: Settings
    on_session: Callable[[str], None]
    on_report: Callable[[str], None]
    on_network: Callable[[NetworkChecked], None]
    on_stall: Callable[[], None]
    on_missing: Callable[[str], None] = lambda node_id: None
    _links: dict[str, _Link] = field(default_factory=dict)
    _met: set[str] = field(default_factory=set)
    # Silence counts from here at the earliest: the manager's start, or the end of a gap of its own.
    _since: float = 0.0
    _deaf: bool = True  # no node was heard at the last look
    _peers_answered: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # judge at once, do not wait for the tick

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        self._since = self.clock.monotonic()
        self.judge_all(tasks)  # before anything is planned by what a former process saw
        tasks.create_task(self._follow_sessions())
        tasks.create_task(self._tick(tasks))

    def met(self, node_id: str) -> bool:
        """Whether the node has been in touch with this process."""
        return node_id in self._met

    # --- what sessions say ---
    async def _follow_sessions(self) -> None:
        async for event in self.nodes.events():
            try:
                self.take(event)
            except Exception:  # a bug in one event's handling must not end the manager
                log.exception("event_failed node=%s event=%s", event.node_id, type(event).__name__)

    def take(self, event: NodeEvent) -> None:
        """Take over one thing that a session said."""
        link = self._links.setdefault(event.node_id, _Link())
        match event:
            case Connected():
                self._links[event.node_id] = _Link()
                self._met.add(event.node_id)
                self.store.observe(lambda s: self._connected(s, event.node_id, event.report))
                self.on_session(event.node_id)
                log.info("node_connected node=%s tasks=%d", event.node_id, len(event.report.tasks))
            case TasksReported():
                self.store.observe(lambda s: self._reported(s, event))
                self.on_report(event.node_id)
                if any(report.missing for report in event.tasks):
                    self.on_missing(event.node_id)
            case Described():
                if event.report.engine_ok:
                    link.processes_ended = False
                self.store.observe(lambda s: _described(s, event.node_id, event.report))
            case NetworkChecked():
                self.on_network(event)
            case Disconnected():
                link.reason, link.untrusted, link.refused = event.reason, "", ""
                log.info("node_disconnected node=%s reason=%s", event.node_id, event.reason)
            case Untrusted():
                pinned = ", ".join(event.pinned) or "nothing"
                link.refused = ""
                link.untrusted = f"host key changed: it shows {event.shown}, pinned is {pinned}; nothing was sent"
                log.warning("node_untrusted node=%s shown=%s pinned=%s", event.node_id, event.shown, pinned)
            case Refused():
                link.untrusted, link.refused = "", event.reason
                log.warning("node_refused node=%s code=%s reason=%s", event.node_id, event.code, event.reason)

    def _connected(self, snapshot: ClusterSnapshot, node_id: str, report: NodeReport) -> Changes:
        node = snapshot.nodes.get(node_id)
        if node is None:
            return Changes()
        now = self.clock.now()
        # What the node holds is only complete if its Engine could be asked.
        reports = report.tasks
        tasks = tuple(snapshot.tasks_of_node(node_id))
        if not report.engine_ok:
            tasks = tuple(t for t in tasks if t.id in reports)
        state = node.status.state if not report.engine_ok else NodeState.READY
        status = NodeStatus(state=state, since=node.status.since if state is node.status.state else now)
        seen = replace(node, status=status, description=_known(node, report))
        merged = merge_full_report(tasks, reports, now)
        return Changes(
            put_tasks=merged,
            put_nodes=(seen,) if seen != node else (),
            events=(*_state_event(node, status, now), *late_events(snapshot, merged, now)),
        )

    def _reported(self, snapshot: ClusterSnapshot, event: TasksReported) -> Changes:
        now = self.clock.now()
        merged = []
        for report in event.tasks:
            task = snapshot.tasks.get(report.task_id)
            # A node can only speak for what was given to it.
            if task is not None and task.node_id == event.node_id:
                after = merge_report(task, report, now)
                if after is not task:
                    merged.append(after)
        return Changes(put_tasks=tuple(merged), events=late_events(snapshot, merged, now))

    # --- who is there ---
    async def _tick(self, tasks: asyncio.TaskGroup) -> None:
        tick = self.settings.liveness_tick_s
        mono, wall = self.clock.monotonic(), self.clock.now()
        while True:
            try:
                async with asyncio.timeout(tick):
                    await self._peers_answered.wait()
            except TimeoutError:
                pass
            self._peers_answered.clear()
            # All sockets that were ready have been read by the time this runs on.
            gap = max(self.clock.monotonic() - mono, self.clock.now() - wall) - tick
            mono, wall = self.clock.monotonic(), self.clock.now()
            if gap > self.settings.stall_s:
                log.warning("manager_stood_still gap_s=%.1f", gap)
                self._since = mono
                self.on_stall()
            try:
                self.judge_all(tasks)
            except Exception:
                log.exception("judging_failed")

    def forget(self, node_id: str) -> None:
        """The node left the cluster."""
        self._links.pop(node_id, None)
        self._met.discard(node_id)

    def judge_all(self, tasks: asyncio.TaskGroup) -> None:
        """Judge every node now; `tasks` runs what has to be asked or done."""
        snapshot = self.store.snapshot
        if snapshot.cluster is None:
            return
        now = self.clock.monotonic()
        # As the sessions ask for: else each node of many would look late at every heartbeat, and be asked about.
        beat = self.settings.heartbeat_s * (2 if len(snapshot.nodes) > self.settings.many_nodes else 1)
        heard = self._heard_since(now - SILENT_AFTER_BEATS * beat)
        # A node that is late itself is no peer to ask: it may have gone too, and the round would wait for it.
        fresh = self._heard_since(now - ASK_AFTER_BEATS * beat)
        if heard and self._deaf:
            # The network is seen again: whoever is still silent has the whole time from now to be heard.
            self._since = now
        self._deaf = not heard
        changed: dict[str, NodeStatus] = {}
        for node in snapshot.nodes.values():
            link = self._links.setdefault(node.id, _Link())
            moment = Moment(
                now=now,
                wall=self.clock.now(),
                heartbeat_s=beat,
                down_after_s=snapshot.cluster.down_after_s,
                others_heard=bool(heard - {node.id}),
            )
            signs = self._signs(node, link)
            verdict = judge_node(signs, node.status, moment)
            if verdict.status != node.status:
                changed[node.id] = verdict.status
            # A node that holds fenced tasks may be kept going by any that it was ever told of.
            most = None if signs.fenced else self.settings.peers_asked
            if verdict.ask_peers and not link.asking and (peers := self._choose(fresh, node.id, link, most)):
                link.asking = True
                tasks.create_task(self._ask_peers(node, link, peers))
            well = node.id in fresh and verdict.status.state is NodeState.READY
            due = well and now >= link.baseline_due
            if due and (peers := self._choose(fresh, node.id, link, self.settings.peers_asked)):
                link.baseline_due = math.inf
                tasks.create_task(self._learn_baseline(node, link, peers))
            if verdict.end_processes and not link.ending:
                link.ending = True
                tasks.create_task(self._end_processes(node, link))
        if changed:
            self.store.observe(lambda s: self._judged(s, changed))

    def _heard_since(self, since: float) -> set[str]:
        return {n for n in self.store.snapshot.nodes if self._heard_at(n) > since and self.nodes.connected(n)}

    def _choose(self, fresh: set[str], node_id: str, link: _Link, most: int | None) -> list[str]:
        """Those first whose no says something, and the same each time: only a second no confirms the first.

        Each node has others of its own to be looked at by: a few would not do for many.
        """
        peers = fresh - {node_id}
        order = {n: (n not in link.reached_by, zlib.crc32(f"{n}{node_id}".encode())) for n in peers}
        return sorted(peers, key=order.__getitem__)[:most]

    def _heard_at(self, node_id: str) -> float:
        return max(self._since, self.nodes.last_heard(node_id) or 0.0)

    def _signs(self, node: Node, link: _Link) -> Signs:
        report = self.nodes.report(node.id)
        return Signs(
            connected=self.nodes.connected(node.id),
            heard_at=self._heard_at(node.id),
            counted_anew=(self.nodes.last_heard(node.id) or 0.0) < self._since,
            untrusted=link.untrusted,
            refused=link.refused,
            reason=link.reason,
            engine_ok=report.engine_ok if report else True,
            engine_message=report.engine_message if report else "",
            engine_since=report.engine_since if report else 0.0,
            processes_ended=link.processes_ended,
            opinions=link.opinions,
            reached_by=link.reached_by,
            fenced=holds_fenced(self.store.snapshot, node.id),
        )

    def _judged(self, snapshot: ClusterSnapshot, verdicts: dict[str, NodeStatus]) -> Changes:
        put: list[Node] = []
        events: list[Event] = []
        now = self.clock.now()
        for node_id, status in verdicts.items():
            node = snapshot.nodes.get(node_id)
            if node is not None:
                put.append(replace(node, status=status))
                events.extend(_state_event(node, status, now))
                if status.state is not node.status.state:
                    log.warning("node_state node=%s state=%s message=%s", node_id, status.state, status.message)
        return Changes(put_nodes=tuple(put), events=tuple(events))

    async def _ask_peers(self, node: Node, link: _Link, peers: list[str]) -> None:
        """Let some connected nodes try to reach this one; those that cannot be asked have no opinion."""

        async def ask(peer: str) -> None:
            asked_at = self.clock.monotonic()
            reached = await self._reaches(peer, node)
            if reached is not None:
                link.opinions[peer] = form_opinion(
                    link.opinions.get(peer),
                    asked_at=asked_at,
                    answered_at=self.clock.monotonic(),
                    reached=reached,
                    heard_at=self._heard_at(node.id),
                )
                answered.append(peer)

        answered: list[str] = []
        try:
            await asyncio.gather(*(ask(p) for p in peers))
        finally:
            link.asking = False
            if answered:  # else they would be asked again without a pause
                self._peers_answered.set()

    async def _learn_baseline(self, node: Node, link: _Link, peers: list[str]) -> None:
        """Find out which nodes reach this one while it is well.

        These are no opinions: what was true while it spoke must not keep it once it is silent.
        """

        async def ask(peer: str) -> None:
            asked_at = self.clock.monotonic()
            reached = await self._reaches(peer, node)
            if reached:
                link.reached_by.add(peer)
            elif reached is not None and (self.nodes.last_heard(node.id) or 0.0) > asked_at:
                link.reached_by.discard(peer)  # and not because the node has gone meanwhile

        await asyncio.gather(*(ask(p) for p in peers))
        # Again soon only while it is reached by fewer than could be asked: nodes that come, or were too busy.
        wanted = min(self.settings.peers_asked, len(self.store.snapshot.nodes) - 1)
        longest = self.settings.baseline_every_s
        whole = len(link.reached_by) >= wanted
        link.baseline_pause_s = longest if whole else min(longest, link.baseline_pause_s * 2 or FIRST_PAUSE_S)
        link.baseline_due = self.clock.monotonic() + link.baseline_pause_s

    async def _reaches(self, peer: str, node: Node) -> bool | None:
        """Whether a peer reaches the node now; None if the peer cannot be asked."""
        try:
            reached = await self.nodes.check_peers(peer, [(node.id, node.target)])
        except SwarmshError as e:
            log.info("peer_not_asked peer=%s node=%s error=%s", peer, node.id, e)
            return None
        except Exception:  # a bug in this must not end the manager
            log.exception("peer_not_asked peer=%s node=%s", peer, node.id)
            return None
        return reached.get(node.id, False)

    async def _end_processes(self, node: Node, link: _Link) -> None:
        """The Engine hangs and its tasks are about to run elsewhere: end them without it.

        What is left of them is asked again at the next tick: it must not run twice.
        """
        tasks = [
            t.id
            for t in self.store.snapshot.tasks_of_node(node.id)
            if TaskState.STARTING <= t.status.state <= TaskState.RUNNING
        ]
        try:
            left = set(tasks) - await self.nodes.end_processes(node.id, tasks)
            link.processes_ended = not left
            words = f"tasks={','.join(sorted(left))}" if left else ""
        except SwarmshError as e:
            words = f"error={e}"
        finally:
            link.ending = False
        if words and words != link.not_ended:  # it is tried twice a second, perhaps for hours
            log.warning("processes_not_ended node=%s %s", node.id, words)
        link.not_ended = words


def _described(snapshot: ClusterSnapshot, node_id: str, report: NodeReport) -> Changes:
    node = snapshot.nodes.get(node_id)
    if node is None or node.description == _known(node, report):
        return Changes()
    return Changes(put_nodes=(replace(node, description=_known(node, report)),))


def _known(node: Node, report: NodeReport) -> NodeDescription:
    """What the node said; where its Engine could not tell its volumes, those that it had are there still."""
    said = report.description
    before = node.description
    return (
        said if said.volumes is not None else replace(said, volumes=before.volumes, volumes_cut=before.volumes_cut)
    )


def _state_event(node: Node, status: NodeStatus, now: float) -> tuple[Event, ...]:
    """`node update` with state.old and state.new, as dockerd's.

    Where the manager's doubt of its own network begins or ends it has a message too, and the state may stay.
    """
    doubted, doubts = node.status.message == DOUBT, status.message == DOUBT
    if status.state is node.status.state and doubted is doubts:
        return ()
    attributes = {
        "name": node.hostname,
        "state.old": node.status.state.value,
        "state.new": status.state.value,
    }
    if doubted is not doubts:
        attributes["message"] = DOUBT if doubts else status.message or DOUBT_ENDED
    return (Event(time=now, type="node", action="update", id=node.id, attributes=attributes),)
