"""Cron expressions in zones, and what becomes of runs that nobody was there for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.schedule import (
    ASLEEP,
    MOST_COUNTED,
    OVERLAPS,
    Schedule,
    check_schedule,
    decide,
    next_run,
    schedule_of,
)
from swarmsh.errors import InvalidSpec

KEY = "swarmsh.schedule"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def words(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def runs(expression: str, after: str, count: int, zone: str = "UTC") -> list[str]:
    schedule, found, moment = Schedule(expression, zone), [], at(after)
    for _ in range(count):
        following = next_run(schedule, moment)
        assert following is not None
        moment = following
        found.append(words(moment))
    return found


@pytest.mark.parametrize(
    ("labels", "schedule"),
    [
        ({}, None),
        ({"team": "x"}, None),
        ({KEY: "0 3 * * *"}, Schedule("0 3 * * *")),
        ({KEY: "@Daily "}, Schedule("0 0 * * *")),
        (
            {
                KEY: "*/5 8-18 * * MON-FRI",
                f"{KEY}.zone": "Europe/Berlin",
                f"{KEY}.missed": "skip",
                f"{KEY}.overlap": "allow",
            },
            Schedule("*/5 8-18 * * MON-FRI", "Europe/Berlin", run_missed=False, overlap=True),
        ),
    ],
)
def test_a_schedule_is_read_from_labels(labels: dict[str, str], schedule: Schedule | None) -> None:
    assert schedule_of(labels) == schedule
    assert check_schedule(labels) is (schedule is not None)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({KEY: ""}, "no cron expression: it has not five fields. Write minute, hour"),
        ({KEY: "0 3 * *"}, "has not five fields"),
        ({KEY: "0 0 3 * * *"}, "has not five fields"),
        ({KEY: "@reboot"}, "has not five fields"),
        ({KEY: "61 3 * * *"}, "'61 3 * * *' is no cron expression: bad minute"),
        ({KEY: "0 24 * * *"}, "bad hour"),
        ({KEY: "0 3 * * FUNDAY"}, "bad day-of-week"),
        ({KEY: "*/0 * * * *"}, "bad minute"),
        ({KEY: "0 0 31 2 *"}, "bad day-of-month"),
        ({KEY: "* * */20 * 1L"}, "it never comes due"),
        ({KEY: "1" * 5000 + " * * * *"}, "it is too long"),
        ({KEY: "² * * * *"}, "bad minute"),
        ({KEY: "0 3 * * *", f"{KEY}.zone": "Europa/Berlin"}, "no time zone. Did you mean Europe/Berlin?"),
        ({KEY: "0 3 * * *", f"{KEY}.zone": "Europe"}, "'Europe' is no time zone"),
        ({KEY: "0 3 * * *", f"{KEY}.zone": "/etc/passwd"}, "is no time zone"),
        ({KEY: "0 3 * * *", f"{KEY}.zone": ""}, "is no time zone"),
        ({KEY: "0 3 * * *", f"{KEY}.missed": "maybe"}, "'maybe' is neither run nor skip"),
        ({KEY: "0 3 * * *", f"{KEY}.overlap": "yes"}, "'yes' is neither forbid nor allow"),
        ({f"{KEY}.zone": "UTC"}, f"label {KEY}.zone needs label {KEY}"),
        ({f"{KEY}.overlap": "allow"}, f"label {KEY}.overlap needs label {KEY}"),
    ],
)
def test_what_makes_no_sense_is_refused(labels: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        check_schedule(labels)
    assert said in str(refusal.value)


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_words_are_a_schedule_or_refused(expression: str, zone: str) -> None:
    try:
        check_schedule({KEY: expression, f"{KEY}.zone": zone})
    except InvalidSpec:
        return
    assert schedule_of({KEY: expression, f"{KEY}.zone": zone}) is not None


def test_runs_come_at_the_zones_own_time_of_day() -> None:
    assert runs("0 3 * * *", "2026-01-10 12:00", 2) == ["2026-01-11 03:00", "2026-01-12 03:00"]
    assert runs("0 3 * * *", "2026-01-10 12:00", 1, "Europe/Berlin") == ["2026-01-11 02:00"]
    assert runs("0 3 * * *", "2026-07-10 12:00", 1, "Europe/Berlin") == ["2026-07-11 01:00"]


def test_the_forms_that_the_page_for_users_names() -> None:
    assert runs("0 0 L * *", "2026-02-10 12:00", 2) == ["2026-02-28 00:00", "2026-03-31 00:00"]
    assert runs("0 9 * * MON#1", "2026-02-10 12:00", 2) == ["2026-03-02 09:00", "2026-04-06 09:00"]
    assert runs("*/15 8-18 * * MON-FRI", "2026-02-13 18:40", 2) == ["2026-02-13 18:45", "2026-02-16 08:00"]
    assert runs("0 0 13 * FRI", "2026-02-10 12:00", 3) == [  # one of the two is enough
        "2026-02-13 00:00",
        "2026-02-20 00:00",
        "2026-02-27 00:00",
    ]


def test_a_time_that_the_spring_leaves_out_is_made_up_for_and_one_that_comes_twice_runs_once() -> None:
    spring = runs("30 2 * * *", "2026-03-28 12:00", 2, "Europe/Berlin")
    assert spring == ["2026-03-29 01:00", "2026-03-30 00:30"]  # 3:00 in summer time, then 2:30
    autumn = runs("30 2 * * *", "2026-10-24 12:00", 2, "Europe/Berlin")
    assert autumn == ["2026-10-25 00:30", "2026-10-26 01:30"]
    # Looked at from within the hour that comes again.
    assert runs("30 2 * * *", "2026-10-25 01:10", 1, "Europe/Berlin") == ["2026-10-26 01:30"]


@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */3 * * SUN", "15 1-3 * 3,10 *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.floats(1.7e9, 1.9e9),
)
def test_the_next_run_is_always_later(expression: str, zone: str, after: float) -> None:
    schedule = Schedule(expression, zone)
    following = next_run(schedule, after)
    assert following is not None and following > after
    again = next_run(schedule, following)
    assert again is not None and again > following


HOURLY = Schedule("0 * * * *")


def test_a_run_on_time_is_made_and_the_next_is_known() -> None:
    due = decide(HOURLY, at("2026-01-10 03:00"), at("2026-01-10 03:00") + 5, still_on=False)
    assert (due.runs, due.missed, due.skipped) == (True, 0, 0)
    assert words(due.newest) == "2026-01-10 03:00" and words(due.next_execution) == "2026-01-10 04:00"


def test_missed_runs_are_made_up_for_once_or_left_out() -> None:
    first, now = at("2026-01-10 03:00"), at("2026-01-10 06:30")
    due = decide(HOURLY, first, now, still_on=False)
    assert (due.runs, due.missed, due.skipped, due.because) == (True, 4, 3, ASLEEP)
    assert words(due.newest) == "2026-01-10 06:00" and words(due.next_execution) == "2026-01-10 07:00"
    due = decide(Schedule("0 * * * *", run_missed=False), first, now, still_on=False)
    assert (due.runs, due.missed, due.skipped) == (False, 4, 4)


def test_a_run_on_time_after_missed_ones_is_made_whatever_is_said_of_those() -> None:
    for run_missed in (True, False):
        schedule = Schedule("0 * * * *", run_missed=run_missed)
        due = decide(schedule, at("2026-01-10 03:00"), at("2026-01-10 06:00") + 30, still_on=False)
        assert (due.runs, due.missed, due.skipped) == (True, 3, 3)


def test_a_run_does_not_overlap_the_one_before_unless_it_may() -> None:
    moment = at("2026-01-10 03:00")
    due = decide(HOURLY, moment, moment, still_on=True)
    assert (due.runs, due.missed, due.skipped, due.because) == (False, 0, 1, OVERLAPS)
    assert decide(Schedule("0 * * * *", overlap=True), moment, moment, still_on=True).runs


def test_after_a_long_sleep_runs_are_counted_no_further_than_anybody_asks() -> None:
    schedule = Schedule("* * * * *", run_missed=False)
    now = at("2026-06-01 00:00") + 30
    due = decide(schedule, at("2026-01-01 00:00"), now, still_on=False)
    assert due.skipped == MOST_COUNTED - 1 and due.runs, "the newest is on time"
    assert words(due.newest) == "2026-06-01 00:00" and words(due.next_execution) == "2026-06-01 00:01"
