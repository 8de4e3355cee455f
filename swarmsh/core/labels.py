"""The `swarmsh.*` labels of services: what Docker's API has no word for (design decision 1).

`LABELS` is the one table; `docs/labels.md` says the same to users, and a test compares them. A label is added here
together with what it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from swarmsh.core.words import nearest, parse_duration_s
from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import Probe

PREFIX = "swarmsh."


@dataclass(frozen=True, slots=True)
class ServiceLabel:
    """One label: its key, the form of its value, what holds without it, and what it is for."""

    key: str
    form: str
    default: str
    meaning: str


LABELS: tuple[ServiceLabel, ...] = (
    ServiceLabel(
        "swarmsh.probe",
        "http:PORT[/PATH] or tcp:PORT",
        "the image's HEALTHCHECK, else every declared TCP port listening",
        "how a task is judged ready: an HTTP status of 200-399, or a connection taken, inside the container",
    ),
    ServiceLabel("swarmsh.probe.interval", "a duration, 100ms to 1h", "2s", "time between two probes"),
    ServiceLabel("swarmsh.probe.timeout", "a duration, 10ms to 1h", "2s", "time after which a probe has failed"),
    ServiceLabel("swarmsh.probe.retries", "1 to 100", "3", "failures in a row that make a task unhealthy"),
    ServiceLabel(
        "swarmsh.fence",
        "stop",
        "a lost node's tasks are placed elsewhere at once",
        "no slot ever runs twice: a node that reaches neither the manager nor another node stops its tasks; only "
        "then are they placed elsewhere",
    ),
)
_KEYS = tuple(label.key for label in LABELS)
_PROBE = re.compile(r"(?:(?P<kind>http):(?P<http_port>\d{1,5})(?P<path>/\S*)?|tcp:(?P<tcp_port>\d{1,5}))")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse unknown `swarmsh.*` labels, naming the nearest one, and bad values. Raises InvalidSpec."""
    for key in labels:
        if key.startswith(PREFIX) and key not in _KEYS:
            raise InvalidSpec(
                f"label {key} is not known",
                hint=f"Did you mean {nearest(key, _KEYS)}? Labels that start with {PREFIX} are swarmsh's own",
            )
    probe_of(labels)
    if labels.get("swarmsh.fence", "stop") != "stop":
        raise InvalidSpec(f"label swarmsh.fence: '{labels['swarmsh.fence']}' is not stop, its only value")


def fenced(labels: Mapping[str, str]) -> bool:
    """Whether a task with these labels of its service must never run twice."""
    return "swarmsh.fence" in labels


def probe_of(labels: Mapping[str, str]) -> Probe | None:
    """The probe that a service's labels describe; None without `swarmsh.probe`. Raises InvalidSpec."""
    text = labels.get("swarmsh.probe")
    if text is None:
        for key in _KEYS:
            if key.startswith("swarmsh.probe.") and key in labels:
                raise InvalidSpec(
                    f"label {key} needs label swarmsh.probe", hint="Set swarmsh.probe, e.g. to http:80/"
                )
        return None
    found = _PROBE.fullmatch(text)
    port = int(found["http_port"] or found["tcp_port"]) if found else 0
    if found is None or not 1 <= port <= 65535:
        raise InvalidSpec(f"label swarmsh.probe: '{text}' is neither http:PORT[/PATH] nor tcp:PORT")
    return Probe(
        kind="http" if found["kind"] else "tcp",
        port=port,
        path=(found["path"] or "/") if found["kind"] else "",
        interval_s=_duration_s(labels, "swarmsh.probe.interval", 2.0, 0.1),
        timeout_s=_duration_s(labels, "swarmsh.probe.timeout", 2.0, 0.01),
        retries=_count(labels, "swarmsh.probe.retries", 3, 100),
    )


def _duration_s(labels: Mapping[str, str], key: str, default: float, least: float) -> float:
    text = labels.get(key)
    if text is None:
        return default
    value = parse_duration_s(text)
    if value is None or not least <= value <= 3600:
        raise InvalidSpec(
            f"label {key}: '{text}' is not a duration from {least:g}s to 1h", hint="Write it as 500ms or 2s"
        )
    return value


def _count(labels: Mapping[str, str], key: str, default: int, most: int) -> int:
    text = labels.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise InvalidSpec(f"label {key}: '{text}' is not a number from 1 to {most}")
    return int(text)
