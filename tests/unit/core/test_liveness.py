"""Who is there: two clocks, a second opinion, and doubt about oneself."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from swarmsh.core.liveness import Moment, Signs, Verdict, judge_node
from swarmsh.model.objects import NodeStatus
from swarmsh.model.states import NodeState

READY = NodeStatus(state=NodeState.READY, since=10.0)


def judge(
    silent_for: float,
    *,
    before: NodeStatus = READY,
    connected: bool = False,
    opinions: Mapping[str, tuple[float, bool]] | None = None,
    others_heard: bool = True,
    engine_hung_for: float | None = None,
    processes_ended: bool = False,
    untrusted: str = "",
) -> Verdict:
    """The verdict at monotonic time 100, heartbeat 1 s, down after 10 s; opinions as (age, reached)."""
    signs = Signs(
        connected=connected,
        heard_at=100.0 - silent_for,
        untrusted=untrusted,
        reason="connection lost",
        engine_ok=engine_hung_for is None,
        engine_message="timed out",
        engine_since=100.0 - (engine_hung_for or 0.0),
        processes_ended=processes_ended,
        peers_reach={p: (100.0 - age, reached) for p, (age, reached) in (opinions or {}).items()},
    )
    moment = Moment(now=100.0, wall=5000.0, heartbeat_s=1.0, down_after_s=10.0, others_heard=others_heard)
    return judge_node(signs, before, moment)


def test_a_node_that_speaks_is_ready() -> None:
    verdict = judge(0.5, connected=True, before=NodeStatus(state=NodeState.DOWN, since=1.0))
    assert verdict.status == NodeStatus(state=NodeState.READY, since=5000.0)


def test_two_missed_heartbeats_change_nothing() -> None:
    assert judge(2.9, connected=True).status == READY


def test_three_missed_heartbeats_make_it_silent_and_its_peers_are_asked() -> None:
    verdict = judge(3.1)
    assert (verdict.status.state, verdict.status.silent, verdict.ask_peers) == (NodeState.READY, True, True)
    assert verdict.status.since == READY.since


def test_it_is_down_after_the_second_clock_if_no_peer_reaches_it() -> None:
    assert judge(10.1, opinions={"p": (1.0, False)}).status.state is NodeState.DOWN


def test_without_an_opinion_it_is_not_down_but_asked_for() -> None:
    verdict = judge(10.1)
    assert verdict.status.state is NodeState.READY
    assert verdict.ask_peers


def test_an_old_opinion_is_none() -> None:
    verdict = judge(10.1, opinions={"p": (9.0, False)})
    assert (verdict.status.state, verdict.ask_peers) == (NodeState.READY, True)


def test_one_peer_that_reaches_it_is_enough_to_keep_it() -> None:
    verdict = judge(60, opinions={"p": (1.0, False), "q": (1.0, True)})
    assert (verdict.status.state, verdict.status.silent) == (NodeState.UNREACHABLE, False)
    assert "other nodes reach it" in verdict.status.message


def test_if_nobody_answers_the_manager_doubts_itself() -> None:
    verdict = judge(60, others_heard=False)
    assert verdict.status.state is NodeState.READY
    assert "doubts its own network" in verdict.status.message


def test_down_stays_down_until_it_speaks() -> None:
    down = NodeStatus(state=NodeState.DOWN, since=1.0)
    assert judge(60, before=down, opinions={"p": (1.0, True)}).status == down


def test_whoever_answers_in_place_of_a_lost_node_does_not_bring_it_back() -> None:
    down = NodeStatus(state=NodeState.DOWN, since=1.0)
    assert judge(60, before=down, untrusted="it shows SHA256:x").status.state is NodeState.DOWN


@pytest.mark.parametrize("silent_for", [0.1, 60.0])
def test_another_host_key_overrules_everything(silent_for: float) -> None:
    verdict = judge(silent_for, connected=True, untrusted="it shows SHA256:x")
    assert (verdict.status.state, verdict.ask_peers) == (NodeState.UNTRUSTED, False)


def test_a_hung_engine_is_waited_for_then_its_processes_end_and_only_then_the_node_is_down() -> None:
    assert judge(0.1, connected=True, engine_hung_for=9).status.state is NodeState.READY
    ending = judge(0.1, connected=True, engine_hung_for=10.1)
    assert (ending.status.state, ending.end_processes) == (NodeState.READY, True)
    ended = judge(0.1, connected=True, engine_hung_for=10.1, processes_ended=True)
    assert ended.status.state is NodeState.DOWN
    assert judge(0.1, connected=True, before=ended.status).status.state is NodeState.READY


def test_first_contact_is_given_the_time_of_the_second_clock() -> None:
    unknown = NodeStatus(state=NodeState.UNKNOWN)
    assert judge(9.9, before=unknown).status.state is NodeState.UNKNOWN
    assert judge(10.1, before=unknown, opinions={"p": (1.0, False)}).status.state is NodeState.DOWN
