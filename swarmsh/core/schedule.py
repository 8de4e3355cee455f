"""When jobs run by themselves: cron expressions in a time zone, and what becomes of runs that were missed.

Expressions are Debian's cron's: five fields, names of days and months, `L` and `#`, or `@daily` and its like. So
is what happens when clocks are put forward or back: a time of day that is left out is made up for, and one that
comes twice runs once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from swarmsh.core.words import nearest
from swarmsh.errors import InvalidSpec

LABEL = "swarmsh.schedule"
# A pass may come late, and is on time still: cron counts in minutes.
LATE_S = 60.0
# Of more runs than these nobody asks how many exactly.
MOST_COUNTED = 1000
OVERLAPS = "the run before it was still on"
ASLEEP = "no manager was awake"
_LONGEST = 200  # characters
_ANY_DAY = 1_700_000_000.0
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a job's labels say of when it runs."""

    expression: str  # five fields
    zone: str = "UTC"
    run_missed: bool = True  # once, however many were missed
    overlap: bool = False  # a run begins though the one before it is still on


@dataclass(frozen=True, slots=True)
class Due:
    """What becomes of the runs that are due; at least one is."""

    runs: bool
    newest: float  # when the newest of them was due
    missed: int  # that nobody was there for in time
    skipped: int  # that are not made, now or ever
    because: str  # why, if any is skipped
    next_execution: float | None


def schedule_of(labels: Mapping[str, str]) -> Schedule | None:
    """The schedule that a service's labels describe; None without `swarmsh.schedule`. Raises InvalidSpec.

    Whether it ever comes due is not looked at: that takes long for one that does not.
    """
    missed = _word(labels, f"{LABEL}.missed", ("run", "skip"))
    overlap = _word(labels, f"{LABEL}.overlap", ("forbid", "allow"))
    text = labels.get(LABEL)
    if text is None:
        for key in ("zone", "missed", "overlap"):
            if f"{LABEL}.{key}" in labels:
                raise InvalidSpec(
                    f"label {LABEL}.{key} needs label {LABEL}", hint=f"Set {LABEL}, e.g. to '0 3 * * *'"
                )
        return None
    zone = labels.get(f"{LABEL}.zone", "UTC")
    _zone(zone)
    return Schedule(_expression(text), zone, missed == "run", overlap == "allow")


def check_schedule(labels: Mapping[str, str]) -> bool:
    """Whether labels describe a schedule; it is one that comes due. Raises InvalidSpec."""
    schedule = schedule_of(labels)
    if schedule is not None and next_run(schedule, _ANY_DAY) is None:
        raise _no_expression(labels[LABEL], "it never comes due")
    return schedule is not None


def next_run(schedule: Schedule, after: float) -> float | None:
    """The first time past `after` at which the schedule is due; None if there is none within 50 years."""
    return next(_runs_after(schedule, after), None)


def decide(schedule: Schedule, first: float, now: float, *, still_on: bool) -> Due:
    """What becomes of the runs from `first`, which was due next, until `now`, of which there is one at least.

    `still_on`: the newest run has not ended.
    """
    times = [first]
    for at in _runs_after(schedule, first):
        if at > now or len(times) == MOST_COUNTED:
            break
        times.append(at)
    recent = next_run(schedule, now - LATE_S)
    late = recent is None or recent > now
    overlaps = still_on and not schedule.overlap
    runs = not overlaps and (not late or schedule.run_missed)
    return Due(
        runs=runs,
        newest=times[-1] if late or recent is None else recent,
        missed=len(times) - (0 if late else 1),
        skipped=len(times) - (1 if runs else 0),
        because=OVERLAPS if overlaps else ASLEEP,
        next_execution=next_run(schedule, now),
    )


def _runs_after(schedule: Schedule, after: float) -> Iterator[float]:
    for moment in _simulation(schedule, after):
        at = moment.timestamp()
        # Of an hour that comes twice the library knows the first one only.
        if at > after:
            yield at


def _simulation(schedule: Schedule, after: float) -> CronSim:
    try:
        return CronSim(schedule.expression, datetime.fromtimestamp(after, _zone(schedule.zone)))
    except (CronSimError, ValueError) as e:
        raise _no_expression(schedule.expression, str(e)) from None


def _expression(text: str) -> str:
    expression = _MACROS.get(text.strip().lower(), text)
    if len(text) > _LONGEST:
        raise _no_expression(text[:_LONGEST] + "…", "it is too long")
    if len(expression.split()) != 5:
        raise _no_expression(text, "it has not five fields")
    return expression


def _no_expression(text: str, why: str) -> InvalidSpec:
    why = why[:1].lower() + why[1:]
    return InvalidSpec(
        f"label {LABEL}: '{text}' is no cron expression: {why}",
        hint="Write minute, hour, day of month, month and day of week, as in '0 3 * * *' for 3:00 each day",
    )


def _zone(name: str) -> tzinfo:
    """Raises InvalidSpec for a zone that is not known."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a directory of zones, a path, or nothing
        raise InvalidSpec(
            f"label {LABEL}.zone: '{name}' is no time zone",
            hint=f"Did you mean {nearest(name, sorted(available_timezones()))}?",
        ) from None


def _word(labels: Mapping[str, str], key: str, words: tuple[str, str]) -> str:
    word = labels.get(key, words[0])
    if word not in words:
        raise InvalidSpec(f"label {key}: '{word}' is neither {words[0]} nor {words[1]}")
    return word
