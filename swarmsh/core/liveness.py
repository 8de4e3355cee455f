"""Is a node there? Two clocks, a second opinion, and doubt about oneself (design decision 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from msgspec.structs import replace

from swarmsh.core.fence import LONGEST_WAIT_S
from swarmsh.model.objects import NodeStatus
from swarmsh.model.states import NodeState

SILENT_AFTER_BEATS = 3
# An opinion of a peer older than this is asked for again before anything is decided by it.
OPINION_VALID_S = 8.0
# Peers are asked this early, before anything changes: the check of a host that is gone takes its whole deadline.
ASK_AFTER_BEATS = 2
# Two noes count as two only if asked for this far apart: one moment's loss must not be both of them. Peers are
# asked again this soon while a node is silent and nobody reaches it.
ASK_AGAIN_S = 1.5
ASK_SELDOM_S = 5.0
# Of `down_after_s`, the silence after which a node is down that its peers failed to reach twice. The rest of the
# time waits for it to come back from what one look may mistake for an end; a second look says as much, sooner.
# By default 6 s: two missed heartbeats, and two rounds of 2 s.
CONFIRMED_SHARE = 0.6
DOUBT = "no other node answers either: the manager doubts its own network, and moves nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What one peer last said of the way to a node. Times as in `Signs`."""

    asked_at: float
    answered_at: float
    reached: bool
    no_since: float | None = None  # when it was asked what it first denied; every answer since was no


def form_opinion(
    before: Opinion | None, *, asked_at: float, answered_at: float, reached: bool, heard_at: float
) -> Opinion:
    """A peer's opinion after one more answer; noes from before the node was last heard are not of this silence."""
    if reached:
        return Opinion(asked_at=asked_at, answered_at=answered_at, reached=True)
    first = before.no_since if before is not None else None
    no_since = first if first is not None and first > heard_at else asked_at
    return Opinion(asked_at=asked_at, answered_at=answered_at, reached=False, no_since=no_since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the manager knows of its link to one node. All times in seconds of the manager's monotonic clock."""

    connected: bool
    heard_at: float  # last line of the node; the manager's start, or the end of its own gap, if later
    counted_anew: bool = False  # `heard_at` is not the node's last line
    untrusted: str = ""  # why, if it showed another host key
    refused: str = ""  # why, if its helper refused the session
    reason: str = ""  # why there is no session
    engine_ok: bool = True
    engine_message: str = ""
    engine_since: float = 0.0  # when the Engine stopped answering
    processes_ended: bool = False  # the tasks' processes were ended although the Engine hangs
    opinions: Mapping[str, Opinion] | None = None  # by peer
    reached_by: Set[str] = frozenset()  # peers known to have reached it while it was ready
    fenced: bool = False  # tasks that must never run twice may be running there


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
    if before.state is NodeState.DOWN and not (signs.connected and silent_for < silent_after):
        # Only the node itself leads out of this: its tasks are being replaced, whoever answers at its address.
        return _judge_lost(signs, before, moment)
    if signs.untrusted:
        return Verdict(status=_status(before, moment.wall, NodeState.UNTRUSTED, signs.untrusted))
    if signs.refused:
        return Verdict(status=_status(before, moment.wall, NodeState.UNREACHABLE, signs.refused))
    if silent_for >= silent_after:
        return _judge_silence(signs, before, moment)
    verdict = _judge_engine(signs, before, moment) if signs.connected else Verdict(status=before)
    late = silent_for >= ASK_AFTER_BEATS * moment.heartbeat_s
    if late and before.state in (NodeState.READY, NodeState.UNREACHABLE):
        ask_peers = _must_ask(_valid_opinions(signs, moment.now), moment.now)
        return Verdict(status=verdict.status, ask_peers=ask_peers, end_processes=verdict.end_processes)
    return verdict


def _judge_engine(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    wall = moment.wall
    if signs.engine_ok:
        return Verdict(status=_status(before, wall, NodeState.READY, ""))
    hung_for = moment.now - signs.engine_since
    message = f"its Docker Engine does not answer: {signs.engine_message}"
    # What is down waits for its Engine to come back from that: nothing is placed on it for the moment in between.
    state = NodeState.DOWN if before.state is NodeState.DOWN else NodeState.READY
    if hung_for < moment.down_after_s:
        return Verdict(status=_hung(before, wall, state, message))
    if not signs.processes_ended:
        return Verdict(status=_hung(before, wall, state, message), end_processes=True)
    return Verdict(status=_hung(before, wall, NodeState.DOWN, message))


def _judge_silence(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    now, wall = moment.now, moment.wall
    why = signs.reason or "no heartbeat"
    if before.state is NodeState.UNKNOWN and now - signs.heard_at < moment.down_after_s:
        # First contact takes its time: the helper may have to be brought there.
        return Verdict(status=_status(before, wall, before.state, signs.reason))
    opinions = _valid_opinions(signs, now)
    must_ask = _must_ask(opinions, now)
    if any(o.reached for o in opinions.values()):
        message = f"the manager has no link to it ({why}), but other nodes reach it: its tasks stay"
        status = _status(before, wall, NodeState.UNREACHABLE, message)
        return Verdict(status=replace(status, silent=False), ask_peers=must_ask)
    silent = replace(_status(before, wall, before.state, f"no answer: {why}"), silent=True)
    # After a gap of the manager's own the whole time is given: links come back one by one.
    confirmed = moment.others_heard and not signs.counted_anew and _denied_twice(signs, opinions)
    if now - signs.heard_at < moment.down_after_s * (CONFIRMED_SHARE if confirmed else 1.0):
        return Verdict(status=silent, ask_peers=must_ask)
    if not moment.others_heard:
        return Verdict(status=replace(silent, message=DOUBT))
    if not opinions or (before.state is NodeState.UNREACHABLE and not _all_denied_twice(signs, opinions)):
        # A peer reached it in this silence: what one look misses while the node is busy is no end.
        return Verdict(status=silent, ask_peers=must_ask)
    down = _status(before, wall, NodeState.DOWN, f"no answer, and no other node reaches it: {why}")
    # Before the first no of any peer it may have been in touch with that one.
    noes = (o.no_since or o.asked_at for o in opinions.values())
    unseen_at = max([signs.heard_at, *noes, *_reached_at(signs)])
    heard_at = 0.0 if signs.counted_anew else wall - (now - signs.heard_at)
    return Verdict(status=replace(down, unseen_since=wall - (now - unseen_at), heard_at=heard_at))


def _judge_lost(signs: Signs, before: NodeStatus, moment: Moment) -> Verdict:
    """Down it stays; but what must never run twice runs there for as long as the node may be in touch."""
    status = replace(before, message=signs.untrusted or signs.refused or before.message)
    seen_at = max([signs.heard_at, *_reached_at(signs)])
    unseen_since = moment.wall - (moment.now - seen_at)
    if before.unseen_since is None or unseen_since > before.unseen_since + 1.0:
        heard_at = before.heard_at
        if not signs.counted_anew:
            heard_at = max(heard_at, moment.wall - (moment.now - signs.heard_at))
        status = replace(status, unseen_since=unseen_since, heard_at=heard_at)
    if not signs.fenced:
        return Verdict(status=status)
    if moment.wall - (status.unseen_since or 0.0) < LONGEST_WAIT_S:
        return Verdict(status=status, ask_peers=_must_ask(_valid_opinions(signs, moment.now), moment.now))
    # What is still there waits for a node that cannot be asked, and may be with it: one that comes back is asked.
    asked_at = max((o.asked_at for o in (signs.opinions or {}).values()), default=-math.inf)
    return Verdict(status=status, ask_peers=moment.now - asked_at >= ASK_SELDOM_S)


def _reached_at(signs: Signs) -> list[float]:
    """When peers last reached the node; also peers that cannot be asked any more."""
    return [o.answered_at for o in (signs.opinions or {}).values() if o.reached]


def _valid_opinions(signs: Signs, now: float) -> dict[str, Opinion]:
    """Those of this silence: what a peer saw while the node still spoke would hide that it has gone since."""
    return {
        peer: o
        for peer, o in (signs.opinions or {}).items()
        if now - o.answered_at <= OPINION_VALID_S and o.asked_at > signs.heard_at
    }


def _must_ask(opinions: Mapping[str, Opinion], now: float) -> bool:
    """Whether another round is due: seldom while a peer reaches the node, else as soon as it would count."""
    if not opinions:
        return True
    if any(o.reached for o in opinions.values()):
        return now - max(o.answered_at for o in opinions.values()) > OPINION_VALID_S / 2
    return now - max(o.asked_at for o in opinions.values()) >= ASK_AGAIN_S


def _denied_twice(signs: Signs, opinions: Mapping[str, Opinion]) -> bool:
    """Whether a peer that reached the node before has failed to, twice in this silence.

    Rounds do not overlap, so each peer that could be asked has answered once by then. A peer that never reached
    the node says nothing by a no: there may be NAT between them.
    """
    return any(_twice(signs, o) for peer, o in opinions.items() if peer in signs.reached_by)


def _all_denied_twice(signs: Signs, opinions: Mapping[str, Opinion]) -> bool:
    return all(_twice(signs, o) for o in opinions.values())


def _twice(signs: Signs, o: Opinion) -> bool:
    return o.no_since is not None and o.no_since > signs.heard_at and o.asked_at - o.no_since >= ASK_AGAIN_S


def _hung(before: NodeStatus, wall: float, state: NodeState, message: str) -> NodeStatus:
    return replace(_status(before, wall, state, message), engine_hung=True)


def _status(before: NodeStatus, wall: float, state: NodeState, message: str) -> NodeStatus:
    since = before.since if state is before.state else wall
    return NodeStatus(state=state, message=message, since=since)
