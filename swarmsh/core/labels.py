"""The `swarmsh.*` labels of services: what Docker's API has no word for (design decision 1).

`LABELS` is the one table; `docs/labels.md` says the same to users, and a test compares them. A label is added here
together with what it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from swarmsh.core.depends import DEPENDS_ON, parse_depends_on
from swarmsh.core.run_options import RUN_PREFIX
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
    ServiceLabel(
        "swarmsh.depends-on",
        "SERVICE[:CONDITION][:optional], several with commas",
        "its tasks start at once",
        "what has to run, be ready or be done before the service's first tasks start",
    ),
    ServiceLabel(
        "swarmsh.deadline",
        "a duration, 1s to 24h",
        "10m",
        "so long an update or a move to another node waits at most for a task that gets no further",
    ),
    ServiceLabel(
        "swarmsh.volume.move",
        "allow",
        "a task waits for the node that has its local volumes",
        "whether a task may start without its data where the node that has it is away or does not take it",
    ),
    ServiceLabel(
        "swarmsh.drain",
        "a duration, 0s to 1h",
        "the stop grace period",
        "so long a stop waits at most for the task's connections to end; new ones go elsewhere by then",
    ),
    ServiceLabel(
        "swarmsh.lb.scheduler",
        "rr, wlc, sh or mh",
        "rr",
        "how IPVS spreads connections over tasks: in turn, to the least busy one, or by the client's address",
    ),
    ServiceLabel(
        "swarmsh.lb.persist",
        "a duration, 1s to 24h",
        "each connection is spread anew",
        "for so long after its last connection a client stays with its task",
    ),
    ServiceLabel(
        "swarmsh.publish.bind",
        "an IPv4 address",
        "every address of every node",
        "the one address at which published ports answer, on whichever node has it",
    ),
    ServiceLabel(
        "swarmsh.schedule",
        "a cron expression of five fields, or @hourly, @daily, @weekly, @monthly, @yearly",
        "a job runs when it is created, and at each update",
        "when a job runs",
    ),
    ServiceLabel(
        "swarmsh.schedule.zone", "a time zone, as Europe/Berlin", "UTC", "whose clock the schedule is of"
    ),
    ServiceLabel(
        "swarmsh.schedule.missed",
        "run or skip",
        "run",
        "whether a job runs once as soon as it can if it was due while no manager was awake",
    ),
    ServiceLabel(
        "swarmsh.schedule.overlap",
        "allow or forbid",
        "forbid",
        "whether a job that is due runs though the run before it is still on, or skips this one",
    ),
)
SCHEDULERS = ("rr", "wlc", "sh", "mh")
_NEVER_BOUND = IPv4Network("224.0.0.0/3")  # multicast, reserved, broadcast
_KEYS = tuple(label.key for label in LABELS)
_PROBE = re.compile(r"(?:(?P<kind>http):(?P<http_port>\d{1,5})(?P<path>/\S*)?|tcp:(?P<tcp_port>\d{1,5}))")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse unknown `swarmsh.*` labels, naming the nearest one, and bad values. Raises InvalidSpec."""
    for key in labels:
        if key.startswith(RUN_PREFIX):
            raise InvalidSpec(
                f"label {key} is not known on a service", hint="It goes on its containers: --container-label"
            )
        if key.startswith(PREFIX) and key not in _KEYS:
            raise InvalidSpec(
                f"label {key} is not known",
                hint=f"Did you mean {nearest(key, _KEYS)}? Labels that start with {PREFIX} are swarmsh's own",
            )
    probe_of(labels)
    balancing_of(labels)
    drain_s(labels, 0.0)
    deadline_s(labels)
    if DEPENDS_ON in labels:
        parse_depends_on(labels[DEPENDS_ON])
    for key, only in (("swarmsh.fence", "stop"), ("swarmsh.volume.move", "allow")):
        if labels.get(key, only) != only:
            raise InvalidSpec(f"label {key}: '{labels[key]}' is not {only}, its only value")


def fenced(labels: Mapping[str, str]) -> bool:
    """Whether a task with these labels of its service must never run twice."""
    return "swarmsh.fence" in labels


def may_leave_volumes(labels: Mapping[str, str]) -> bool:
    """Whether tasks of a service with these labels may be placed away from their local volumes."""
    return "swarmsh.volume.move" in labels


@dataclass(frozen=True, slots=True)
class Balancing:
    """How the load balancer treats a service."""

    scheduler: str = "rr"
    persist_s: int = 0  # 0: no affinity
    bind: str = ""  # "": every address of every node


def balancing_of(labels: Mapping[str, str]) -> Balancing:
    """What `swarmsh.lb.*` and `swarmsh.publish.bind` ask for. Raises InvalidSpec."""
    scheduler = labels.get("swarmsh.lb.scheduler", "rr")
    if scheduler not in SCHEDULERS:
        raise InvalidSpec(f"label swarmsh.lb.scheduler: '{scheduler}' is none of {', '.join(SCHEDULERS)}")
    bind = labels.get("swarmsh.publish.bind", "")
    if "swarmsh.publish.bind" in labels:
        try:
            unusable = IPv4Address(bind) in _NEVER_BOUND
        except AddressValueError:
            unusable = True
        if unusable or bind == "0.0.0.0":
            raise InvalidSpec(
                f"label swarmsh.publish.bind: '{bind}' is no IPv4 address of a node",
                hint="Leave it away to publish on all addresses",
            )
    persist_s = _duration_s(labels, "swarmsh.lb.persist", 0.0, 1.0, 24)
    if persist_s != int(persist_s):
        raise InvalidSpec(
            f"label swarmsh.lb.persist: '{labels['swarmsh.lb.persist']}' is not a number of whole seconds"
        )
    return Balancing(scheduler, int(persist_s), bind)


def drain_s(labels: Mapping[str, str], default: float) -> float:
    """Seconds that the stop of a task waits at most for its connections. Raises InvalidSpec."""
    return _duration_s(labels, "swarmsh.drain", default, 0.0)


def deadline_s(labels: Mapping[str, str]) -> float:
    """Seconds after which a task that gets no further has failed its update. Raises InvalidSpec."""
    return _duration_s(labels, "swarmsh.deadline", 600.0, 1.0, 24)


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


def _duration_s(labels: Mapping[str, str], key: str, default: float, least: float, most_h: int = 1) -> float:
    text = labels.get(key)
    if text is None:
        return default
    value = parse_duration_s(text)
    if value is None or not least <= value <= 3600 * most_h:
        raise InvalidSpec(
            f"label {key}: '{text}' is not a duration from {least:g}s to {most_h}h", hint="Write it as 500ms or 2s"
        )
    return value


def _count(labels: Mapping[str, str], key: str, default: int, most: int) -> int:
    text = labels.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise InvalidSpec(f"label {key}: '{text}' is not a number from 1 to {most}")
    return int(text)
