"""`why` in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .conftest import Recorder, Result

Cli = Callable[..., Result]

REFUSED = {
    "node": "n2",
    "fits": False,
    "refusals": [
        {"filter": "resources", "why": "needs 2GiB of memory, 1.2GiB free (web.1 512MiB)", "fix": "Free it"}
    ],
    "ranking": "",
}


def place(name: str, **more: Any) -> dict[str, Any]:
    return {
        "place": name,
        "verdict": "pending: no node takes it",
        "ok": False,
        "task": "task1",
        "node": "",
        "state": "pending",
        "desired": "running",
        "since": "",
        "reasons": [],
        "fix": "n2: Free it",
        "nodes": [REFUSED],
        "log": [],
        "history": [{"at": "2026-11-22T10:00:00Z", "what": "task made", "task": "task1", "node": ""}],
    } | more


def test_a_service_is_told_and_equal_words_once(manager: Recorder, cli: Cli) -> None:
    fine = place("web.3", verdict="runs on n1", ok=True, fix="", reasons=["n1 is the best node"])
    answer = {
        "service": "web",
        "summary": ["1 of 3 replicas running"],
        "places": [place("web.1"), place("web.2"), fine],
    }
    manager.on("GET", "/swarmsh/why/web", answer)
    result = cli("why", "web")
    assert result.code == 0
    assert result.out.splitlines() == [
        "web: 1 of 3 replicas running",
        "web.1: pending: no node takes it  (task1)",
        "    n2: needs 2GiB of memory, 1.2GiB free (web.1 512MiB)",
        "    mend it: n2: Free it",
        "web.2: pending: no node takes it  (task1)",
        "    nodes: as above",
        "    mend it: n2: Free it",
        "web.3: runs on n1  (task1)",
        "    n1 is the best node",
    ]
    assert json.loads(cli("why", "web", "--format", "json").out) == answer


def test_a_place_is_told_with_its_nodes_and_what_happened(manager: Recorder, cli: Cli) -> None:
    fits = {"node": "n1", "fits": True, "refusals": [], "ranking": "0 other tasks of web, 3 in all"}
    found = place("web.1", verdict="runs on n1", ok=True, fix="", nodes=[fits, REFUSED])
    manager.on("GET", "/swarmsh/why/web.1", {"summary": [], "places": [found]})
    lines = cli("why", "web.1").out.splitlines()
    assert lines[1:3] == [
        "    n1: fits; 0 other tasks of web, 3 in all",
        "    n2: needs 2GiB of memory, 1.2GiB free (web.1 512MiB)",
    ]
    assert lines[3] == "    what happened:"
    assert "task1" in lines[4] and lines[4].endswith("task made")


def test_the_last_lines_of_one_that_failed_are_shown(manager: Recorder, cli: Cli) -> None:
    found = place("web.1", nodes=[], log=["no such file", "bye"], history=[])
    manager.on("GET", "/swarmsh/why/web.1", {"summary": [], "places": [found]})
    assert cli("why", "web.1").out.splitlines()[-3:] == [
        "    last log lines:",
        "        no such file",
        "        bye",
    ]


def test_an_unknown_name_is_an_error(manager: Recorder, cli: Cli) -> None:
    manager.on("GET", "/swarmsh/why/wbe", (404, {"message": "wbe is no service and no task. Did you mean web?"}))
    result = cli("why", "wbe")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: wbe is no service and no task. Did you mean web?\n"
