from __future__ import annotations

from pathlib import Path

import pytest

from swarmsh.core.labels import LABELS, Balancing, balancing_of, check_labels, drain_s, fenced, probe_of
from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import Probe

PAGE = Path(__file__).parents[3] / "docs" / "labels.md"


def test_the_page_for_users_has_the_same_table() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `swarmsh.")]
    assert rows == [f"| `{x.key}` | {x.form} | {x.default} | {x.meaning} |" for x in LABELS]


@pytest.mark.parametrize(
    ("labels", "probe"),
    [
        ({}, None),
        ({"team": "x"}, None),
        ({"swarmsh.probe": "http:80"}, Probe(kind="http", port=80, path="/")),
        ({"swarmsh.probe": "http:8080/health?x=1"}, Probe(kind="http", port=8080, path="/health?x=1")),
        ({"swarmsh.probe": "tcp:5432"}, Probe(kind="tcp", port=5432)),
        (
            {
                "swarmsh.probe": "tcp:1",
                "swarmsh.probe.interval": "1m30s",
                "swarmsh.probe.timeout": "500ms",
                "swarmsh.probe.retries": "7",
            },
            Probe(kind="tcp", port=1, interval_s=90.0, timeout_s=0.5, retries=7),
        ),
    ],
)
def test_a_probe_is_read_from_labels(labels: dict[str, str], probe: Probe | None) -> None:
    check_labels(labels)
    assert probe_of(labels) == probe


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"swarmsh.prob": "tcp:1"}, "Did you mean swarmsh.probe?"),
        ({"swarmsh.probe.intervall": "1s", "swarmsh.probe": "tcp:1"}, "Did you mean swarmsh.probe.interval?"),
        ({"swarmsh.": ""}, "is not known"),
        ({"swarmsh.probe": ""}, "neither http:PORT"),
        ({"swarmsh.probe": "http"}, "neither http:PORT"),
        ({"swarmsh.probe": "http:80 /x"}, "neither http:PORT"),
        ({"swarmsh.probe": "http:0"}, "neither http:PORT"),
        ({"swarmsh.probe": "tcp:70000"}, "neither http:PORT"),
        ({"swarmsh.probe": "tcp:80/x"}, "neither http:PORT"),
        ({"swarmsh.probe": "tcp:1", "swarmsh.probe.interval": "5"}, "not a duration"),
        ({"swarmsh.probe": "tcp:1", "swarmsh.probe.interval": "1ms"}, "not a duration from 0.1s"),
        ({"swarmsh.probe": "tcp:1", "swarmsh.probe.timeout": "2h"}, "not a duration"),
        ({"swarmsh.probe": "tcp:1", "swarmsh.probe.retries": "0"}, "not a number from 1 to 100"),
        ({"swarmsh.probe": "tcp:1", "swarmsh.probe.retries": "-1"}, "not a number from 1 to 100"),
        ({"swarmsh.probe.retries": "3"}, "needs label swarmsh.probe"),
        ({"swarmsh.fence": ""}, "not stop, its only value"),
        ({"swarmsh.fence": "Stop"}, "not stop, its only value"),
        ({"swarmsh.fences": "stop"}, "Did you mean swarmsh.fence?"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        check_labels(labels)
    assert words in str(refusal.value)


def test_a_fence_is_read_from_labels() -> None:
    check_labels({"swarmsh.fence": "stop"})
    assert fenced({"swarmsh.fence": "stop"})
    assert not fenced({"team": "x"})


@pytest.mark.parametrize(
    ("labels", "balancing"),
    [
        ({}, Balancing("rr", 0, "")),
        (
            {
                "swarmsh.lb.scheduler": "mh",
                "swarmsh.lb.persist": "10m",
                "swarmsh.publish.bind": "192.0.2.7",
            },
            Balancing("mh", 600, "192.0.2.7"),
        ),
        ({"swarmsh.publish.bind": "127.0.0.1", "swarmsh.lb.persist": "24h"}, Balancing("rr", 86400, "127.0.0.1")),
    ],
)
def test_balancing_is_read_from_labels(labels: dict[str, str], balancing: Balancing) -> None:
    check_labels(labels)
    assert balancing_of(labels) == balancing


def test_the_drain_is_the_labels_or_else_the_default() -> None:
    assert drain_s({}, 10.0) == 10.0
    assert drain_s({"swarmsh.drain": "0s"}, 10.0) == 0.0
    assert drain_s({"swarmsh.drain": "1h"}, 10.0) == 3600.0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"swarmsh.lb.scheduler": "lc"}, "none of rr, wlc, sh, mh"),
        ({"swarmsh.lb.scheduler": ""}, "none of rr"),
        ({"swarmsh.lb.persist": "0s"}, "from 1s to 24h"),
        ({"swarmsh.lb.persist": "25h"}, "from 1s to 24h"),
        ({"swarmsh.lb.persist": "1500ms"}, "whole seconds"),
        ({"swarmsh.drain": "2h"}, "from 0s to 1h"),
        ({"swarmsh.drain": "10"}, "not a duration"),
        ({"swarmsh.publish.bind": ""}, "no IPv4 address"),
        ({"swarmsh.publish.bind": "0.0.0.0"}, "no IPv4 address"),
        ({"swarmsh.publish.bind": "::1"}, "no IPv4 address"),
        ({"swarmsh.publish.bind": "10.0.0.0/8"}, "no IPv4 address"),
        ({"swarmsh.publish.bind": "239.1.1.1"}, "no IPv4 address"),
        ({"swarmsh.lb.sched": "rr"}, "Did you mean swarmsh.lb.scheduler?"),
    ],
)
def test_a_word_that_makes_no_sense_to_the_balancer_is_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidSpec) as e:
        check_labels(labels)
    assert words in str(e.value)
