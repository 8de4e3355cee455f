"""Is a node there? Two clocks, a second opinion, and doubt about oneself (design decision 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from swarmsh.model.objects import NodeStatus
from swarmsh.model.states import NodeState

SILENT_AFTER_BEATS = 3
# An opinion of a peer older than this is asked for again before anything is decided by it.
OPINION_VALID_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the manager knows of its link to one node. All times in seconds of the manager's monotonic clock."""

    connected: bool
    heard_at: float  # last line of the node; the manager's start, or the end of its own gap, if later
    untrusted: str = ""  # why, if it showed another host key
    refused: str = ""  # why, if its helper refused the session
    reason: str = ""  # why there is no session
    engine_ok: bool = True
    engine_message: str = ""
    engine_since: float = 0.0  # when the Engine stopped answering
    processes_ended: bool = False  # the tasks' processes were ended although the Engine hangs
    peers_reach: Mapping[str, tuple[float, bool]] | None = None  # peer -> (when asked, whether it reached it)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The node's status, and what must be found out or done before it can be judged."""

    status: NodeStatus
    ask_peers: bool = False
    end_processes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When and by which clocks a node is judged."""

    now: float  # the monotonic clock of `Signs`
    wall: float  # seconds since the epoch: dates a change of state
    heartbeat_s: float
    down_after_s: float
    others_heard: bool  # another node spoke within three heartbeats; else silence may be the manager's own


def judge_node(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    """The node's state by what is known at this moment."""
    silent_for, silent_after = moment.now - signs.heard_at, SILENT_AFTER_BEATS * moment.heartbeat_s
    if before.state is NodeState.DOWN and not signs.connected:
        # Only the node itself leads out of this: its tasks are being replaced, whoever answers at its address.
        return Verdict(status=replace(before, message=signs.untrusted or signs.refused or before.message))
    if signs.untrusted:
        return Verdict(status=_status(before, moment.wall, NodeState.UNTRUSTED, signs.untrusted))
    if signs.refused:
        return Verdict(status=_status(before, moment.wall, NodeState.UNREACHABLE, signs.refused))
    if signs.connected and silent_for < silent_after:
        return _judge_engine(signs, before, moment)
    if silent_for < silent_after:
        return Verdict(status=before)
    return _judge_silence(signs, before, moment)


def _judge_engine(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    wall = moment.wall
    if signs.engine_ok:
        return Verdict(status=_status(before, wall, NodeState.READY, ""))
    hung_for = moment.now - signs.engine_since
    message = f"its Docker Engine does not answer: {signs.engine_message}"
    if hung_for < moment.down_after_s:
        state = NodeState.READY if before.state is not NodeState.DOWN else before.state
        return Verdict(status=_hung(before, wall, state, message))
    if not signs.processes_ended:
        return Verdict(status=_hung(before, wall, NodeState.READY, message), end_processes=True)
    return Verdict(status=_hung(before, wall, NodeState.DOWN, message))


def _judge_silence(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    now, wall = moment.now, moment.wall
    why = signs.reason or "no heartbeat"
    if before.state is NodeState.UNKNOWN and now - signs.heard_at < moment.down_after_s:
        # First contact takes its time: the helper may have to be brought there.
        return Verdict(status=_status(before, wall, before.state, signs.reason))
    opinions = [o for o in (signs.peers_reach or {}).values() if now - o[0] <= OPINION_VALID_S]
    if any(reached for _, reached in opinions):
        message = f"the manager has no link to it ({why}), but other nodes reach it: its tasks stay"
        status = _status(before, wall, NodeState.UNREACHABLE, message)
        return Verdict(status=replace(status, silent=False), ask_peers=_stale(opinions, now))
    silent = replace(_status(before, wall, before.state, f"no answer: {why}"), silent=True)
    if now - signs.heard_at < moment.down_after_s:
        return Verdict(status=silent, ask_peers=not opinions)
    if not moment.others_heard:
        doubt = "no other node answers either: the manager doubts its own network, and moves nothing"
        return Verdict(status=replace(silent, message=doubt))
    if not opinions:
        return Verdict(status=silent, ask_peers=True)
    return Verdict(status=_status(before, wall, NodeState.DOWN, f"no answer, and no other node reaches it: {why}"))


def _hung(before: NodeStatus, wall: float, state: NodeState, message: str) -> NodeStatus:
    return replace(_status(before, wall, state, message), engine_hung=True)


def _stale(opinions: list[tuple[float, bool]], now: float) -> bool:
    return now - max(at for at, _ in opinions) > OPINION_VALID_S / 2


def _status(before: NodeStatus, wall: float, state: NodeState, message: str) -> NodeStatus:
    since = before.since if state is before.state else wall
    return NodeStatus(state=state, message=message, since=since)
