"""Who is there: two clocks, a second opinion, and doubt about oneself."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.liveness import (
    ASK_AGAIN_S,
    CONFIRMED_SHARE,
    OPINION_VALID_S,
    Moment,
    Opinion,
    Signs,
    Verdict,
    form_opinion,
    judge_node,
)
from swarmsh.model.objects import NodeStatus
from swarmsh.model.states import NodeState

READY = NodeStatus(state=NodeState.READY, since=10.0)


def answer(age: float, reached: bool, no_for: float = 0.0, took: float = 0.0) -> Opinion:
    """An answer given `age` seconds before time 100, the last one of noes over `no_for` seconds."""
    asked_at = 100.0 - age - took
    no_since = None if reached else asked_at - no_for
    return Opinion(asked_at=asked_at, answered_at=100.0 - age, reached=reached, no_since=no_since)


NO_TWICE = answer(0.5, reached=False, no_for=2.0)


def judge(
    silent_for: float,
    *,
    before: NodeStatus = READY,
    connected: bool = False,
    opinions: Mapping[str, tuple[float, bool] | Opinion] | None = None,
    reached_by: str = "",
    others_heard: bool = True,
    engine_hung_for: float | None = None,
    processes_ended: bool = False,
    untrusted: str = "",
    counted_anew: bool = False,
    fenced: bool = False,
) -> Verdict:
    """The verdict at monotonic time 100, heartbeat 1 s, down after 10 s; opinions as (age, reached)."""
    signs = Signs(
        connected=connected,
        heard_at=100.0 - silent_for,
        counted_anew=counted_anew,
        fenced=fenced,
        untrusted=untrusted,
        reason="connection lost",
        engine_ok=engine_hung_for is None,
        engine_message="timed out",
        engine_since=100.0 - (engine_hung_for or 0.0),
        processes_ended=processes_ended,
        opinions={p: o if isinstance(o, Opinion) else answer(*o) for p, o in (opinions or {}).items()},
        reached_by=frozenset(reached_by),
    )
    moment = Moment(now=100.0, wall=5000.0, heartbeat_s=1.0, down_after_s=10.0, others_heard=others_heard)
    return judge_node(signs, before, moment)


def test_a_node_that_speaks_is_ready() -> None:
    verdict = judge(0.5, connected=True, before=NodeStatus(state=NodeState.DOWN, since=1.0))
    assert verdict.status == NodeStatus(state=NodeState.READY, since=5000.0)


@pytest.mark.parametrize("connected", [True, False])
def test_two_missed_heartbeats_change_nothing_but_its_peers_are_asked(connected: bool) -> None:
    assert judge(1.9, connected=connected) == Verdict(status=READY)
    assert judge(2.9, connected=connected) == Verdict(status=READY, ask_peers=True)


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DOWN])
def test_nobody_is_asked_early_about_a_node_that_is_not_counted_on(state: NodeState) -> None:
    assert not judge(2.9, before=NodeStatus(state=state)).ask_peers


@pytest.mark.parametrize("silent_for", [2.5, 3.5, 9.0])
def test_the_next_round_begins_as_soon_as_it_counts(silent_for: float) -> None:
    def asks(age: float, took: float) -> bool:
        return judge(silent_for, opinions={"p": answer(age, reached=False, took=took)}).ask_peers

    assert not asks(age=1.4, took=0.0)
    assert asks(age=1.6, took=0.0)
    assert asks(age=0.0, took=2.0)  # the deadline of a check has passed between the two already


@pytest.mark.parametrize("silent_for", [4.5, 60.0])
def test_while_a_peer_reaches_it_peers_are_asked_seldom(silent_for: float) -> None:
    assert not judge(silent_for, opinions={"p": (3.9, True), "q": (3.9, False)}).ask_peers
    assert judge(silent_for, opinions={"p": (4.1, True), "q": (4.1, False)}).ask_peers


def test_three_missed_heartbeats_make_it_silent_and_its_peers_are_asked() -> None:
    verdict = judge(3.1)
    assert (verdict.status.state, verdict.status.silent, verdict.ask_peers) == (NodeState.READY, True, True)
    assert verdict.status.since == READY.since


def test_it_is_down_after_the_second_clock_if_no_peer_reaches_it() -> None:
    assert judge(10.1, opinions={"p": (1.0, False)}).status.state is NodeState.DOWN


def test_it_is_down_early_if_a_peer_that_used_to_reach_it_failed_twice() -> None:
    assert judge(5.9, opinions={"p": NO_TWICE}, reached_by="p").status.state is NodeState.READY
    early = judge(6.0, opinions={"p": NO_TWICE}, reached_by="p")
    assert (early.status.state, early.status.silent) == (NodeState.DOWN, False)
    assert "no other node reaches it" in early.status.message


def test_it_is_down_early_with_its_session_still_standing() -> None:
    assert judge(6.0, connected=True, opinions={"p": NO_TWICE}, reached_by="p").status.state is NodeState.DOWN


@pytest.mark.parametrize(
    ("opinion", "reached_by"),
    [
        pytest.param(NO_TWICE, "", id="never reached it"),
        pytest.param(NO_TWICE, "q", id="another one reached it"),
        pytest.param(answer(0.5, reached=False), "p", id="asked once"),
        pytest.param(answer(0.5, reached=False, took=5.0), "p", id="asked once, answered late"),
        pytest.param(answer(0.5, reached=False, no_for=1.4), "p", id="too soon after each other"),
        pytest.param(answer(0.5, reached=False, no_for=9.4), "p", id="the first no was before this silence"),
        pytest.param(answer(8.1, reached=False, no_for=1.5), "p", id="too old"),
    ],
)
def test_silence_is_not_confirmed_by_a_peer_that(opinion: Opinion, reached_by: str) -> None:
    verdict = judge(9.8, opinions={"p": opinion, "q": (0.5, False)}, reached_by=reached_by)
    assert (verdict.status.state, verdict.status.silent) == (NodeState.READY, True)


def test_confirmed_silence_is_still_doubted_if_no_other_node_is_heard() -> None:
    for silent_for in (7, 60):
        verdict = judge(silent_for, opinions={"p": NO_TWICE}, reached_by="p", others_heard=False)
        assert verdict.status.state is NodeState.READY


def test_after_a_gap_of_the_managers_own_the_whole_time_is_given() -> None:
    for silent_for, state in ((9.9, NodeState.READY), (10.0, NodeState.DOWN)):
        verdict = judge(silent_for, opinions={"p": NO_TWICE}, reached_by="p", counted_anew=True)
        assert verdict.status.state is state


def test_first_contact_is_not_cut_short_by_its_peers() -> None:
    unknown = NodeStatus(state=NodeState.UNKNOWN)
    assert judge(9.9, before=unknown, opinions={"p": NO_TWICE}, reached_by="p").status.state is NodeState.UNKNOWN


def test_noes_add_up_within_one_silence_only() -> None:
    def no(before: Opinion | None, asked_at: float, heard_at: float = 10.0) -> Opinion:
        return form_opinion(before, asked_at=asked_at, answered_at=asked_at + 2, reached=False, heard_at=heard_at)

    second = no(no(None, 12.0), 14.0)
    assert (second.asked_at, second.answered_at, second.no_since) == (14.0, 16.0, 12.0)
    assert no(second, 20.0, heard_at=18.0).no_since == 20.0
    yes = form_opinion(second, asked_at=16.0, answered_at=16.1, reached=True, heard_at=10.0)
    assert (yes.reached, yes.no_since) == (True, None)
    assert no(yes, 18.0).no_since == 18.0


answers = st.builds(
    answer,
    age=st.floats(0, 12),
    reached=st.booleans(),
    no_for=st.floats(0, 12),
    took=st.floats(0, 5),
)
worlds = st.fixed_dictionaries(
    {
        "silent_for": st.floats(0, 60),
        "before": st.sampled_from([NodeStatus(state=s, since=10.0) for s in NodeState if s is not NodeState.DOWN]),
        "connected": st.booleans(),
        "opinions": st.dictionaries(st.sampled_from("pqrs"), answers),
        "reached_by": st.text("pqrs", max_size=4),
        "others_heard": st.booleans(),
        "counted_anew": st.booleans(),
    }
)


@given(worlds)
def test_no_silence_makes_a_node_down_before_its_share_of_the_second_clock(world: dict) -> None:
    verdict = judge(**world)
    if verdict.status.state is NodeState.DOWN:
        assert world["silent_for"] >= CONFIRMED_SHARE * 10.0
        assert world["others_heard"]
        assert any(100.0 - o.answered_at <= OPINION_VALID_S for o in world["opinions"].values())


@given(worlds)
def test_a_node_that_a_peer_reaches_is_never_down(world: dict) -> None:
    if any(o.reached and 100.0 - o.answered_at <= OPINION_VALID_S for o in world["opinions"].values()):
        assert judge(**world).status.state is not NodeState.DOWN


@given(worlds)
def test_it_takes_a_peer_that_reached_it_and_two_noes_of_this_silence_to_be_down_early(world: dict) -> None:
    if world["silent_for"] >= 10.0 or judge(**world).status.state is not NodeState.DOWN:
        return
    assert not world["counted_anew"]
    silent_since = 100.0 - world["silent_for"]
    known = [o for p, o in world["opinions"].items() if p in world["reached_by"] and o.no_since is not None]
    assert any(o.no_since > silent_since and o.asked_at - o.no_since >= ASK_AGAIN_S for o in known)


@given(worlds)
def test_a_node_is_down_after_the_second_clock_no_later_than_without_a_baseline(world: dict) -> None:
    if judge(**{**world, "reached_by": ""}).status.state is NodeState.DOWN:
        assert judge(**world).status.state is NodeState.DOWN


@given(worlds)
def test_what_is_asked_early_changes_no_state(world: dict) -> None:
    if world["silent_for"] < 3.0:
        asked, unasked = judge(**world), judge(**{**world, "opinions": {}})
        assert asked.status == unasked.status


def test_without_an_opinion_it_is_not_down_but_asked_for() -> None:
    verdict = judge(10.1)
    assert verdict.status.state is NodeState.READY
    assert verdict.ask_peers


def test_an_old_opinion_is_none() -> None:
    verdict = judge(10.1, opinions={"p": (9.0, False)})
    assert (verdict.status.state, verdict.ask_peers) == (NodeState.READY, True)


def test_a_yes_from_before_the_silence_keeps_nothing() -> None:
    """A beat that came late had its peers asked; then the node loses power."""
    yes = {"p": (3.1, True)}
    verdict = judge(3.0, opinions=yes)
    assert (verdict.status.silent, verdict.ask_peers) == (True, True)
    assert judge(3.2, opinions=yes).status.state is NodeState.UNREACHABLE


def test_one_peer_that_reaches_it_is_enough_to_keep_it() -> None:
    verdict = judge(60, opinions={"p": (1.0, False), "q": (1.0, True)})
    assert (verdict.status.state, verdict.status.silent) == (NodeState.UNREACHABLE, False)
    assert "other nodes reach it" in verdict.status.message


@pytest.mark.parametrize("other", [(1.0, False), answer(1.0, reached=False, no_for=30.0)])
def test_a_node_that_peers_reach_is_not_down_by_one_look_that_fails(other: Opinion | tuple[float, bool]) -> None:
    kept = NodeStatus(state=NodeState.UNREACHABLE, since=10.0)
    verdict = judge(60, before=kept, opinions={"p": (0.1, False), "q": other})
    assert (verdict.status.state, verdict.status.silent) == (NodeState.UNREACHABLE, True)
    assert not verdict.ask_peers, "not at once: one moment's loss must not be both"
    verdict = judge(60, before=kept, opinions={"p": NO_TWICE, "q": NO_TWICE})
    assert verdict.status.state is NodeState.DOWN


def test_if_nobody_answers_the_manager_doubts_itself() -> None:
    verdict = judge(60, others_heard=False)
    assert verdict.status.state is NodeState.READY
    assert "doubts its own network" in verdict.status.message


@pytest.mark.parametrize("connected", [False, True])
def test_down_stays_down_until_it_speaks(connected: bool) -> None:
    down = NodeStatus(state=NodeState.DOWN, since=1.0)
    status = judge(60, before=down, connected=connected, opinions={"p": (1.0, True)}).status
    assert replace(status, unseen_since=None, heard_at=0.0) == down


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


def test_a_down_node_stays_down_while_its_engine_hangs() -> None:
    down = NodeStatus(state=NodeState.DOWN, since=1.0)
    for hung_for, processes_ended in ((1.0, False), (10.1, False), (10.1, True)):
        verdict = judge(
            0.1, connected=True, before=down, engine_hung_for=hung_for, processes_ended=processes_ended
        )
        assert (verdict.status.state, verdict.status.engine_hung) == (NodeState.DOWN, True)
        assert (verdict.status.since, verdict.end_processes) == (1.0, hung_for > 10 and not processes_ended)


def test_first_contact_is_given_the_time_of_the_second_clock() -> None:
    unknown = NodeStatus(state=NodeState.UNKNOWN)
    assert judge(9.9, before=unknown).status.state is NodeState.UNKNOWN
    assert judge(10.1, before=unknown, opinions={"p": (1.0, False)}).status.state is NodeState.DOWN
