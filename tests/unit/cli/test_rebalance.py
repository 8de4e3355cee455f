"""`rebalance`: exit codes, what is sent, and waiting for the moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Recorder, Result

Cli = Callable[..., Result]
PATH = "/swarmsh/rebalance"
MOVE = {
    "service": "web",
    "slot": 3,
    "task": "t3",
    "from": "n1",
    "to": "n2",
    "why": "3 tasks of web on n1, 0 on n2",
}
NONE: dict[str, Any] = {"moves": [], "skipped": []}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmsh.cli.rebalance.POLL_S", 0.001)


def test_a_plan_ends_with_3_if_there_are_moves_and_0_if_not(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", PATH, {"moves": [MOVE], "skipped": [{"service": "agent", "why": "it is global"}]})
    result = cli("rebalance", "--plan", "web", "agent")
    assert result.code == 3
    assert manager.sent("POST", PATH)[0].body == {"Services": ["web", "agent"], "Plan": True, "Stop": False}
    head, row = result.out.splitlines()
    assert head.split() == ["TASK", "FROM", "TO", "WHY"]
    assert row.split()[:3] == ["web.3", "n1", "n2"]
    assert result.err == "agent is not moved: it is global\n"
    manager.on("POST", PATH, NONE)
    result = cli("rebalance", "--plan")
    assert (result.code, result.out) == (0, "Nothing to move\n")
    assert json.loads(cli("rebalance", "--plan", "--format", "json").out) == NONE


def test_it_waits_until_the_tasks_have_left(manager: Recorder, cli: Cli) -> None:
    states = iter(["waits", "moves"])
    manager.on("POST", PATH, {"moves": [MOVE], "skipped": []})

    def told(_: Any) -> dict[str, Any]:
        state = next(states, "")
        return {"moves": [MOVE | {"state": state}] if state else []}

    manager.on("GET", PATH, told)
    result = cli("rebalance")
    assert result.code == 0
    assert result.err.splitlines() == [
        "web.3: waits from n1 to n2",
        "web.3: moves from n1 to n2",
        "web.3: has left n1 for n2",
    ]


def test_a_task_that_stays_is_told_and_the_command_fails(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", PATH, {"moves": [MOVE], "skipped": []})
    manager.on("GET", PATH, {"moves": [MOVE | {"state": "stopped", "why": "its successor ended"}]})
    result = cli("rebalance")
    assert (result.code, result.err) == (1, "web.3: stays on n1: its successor ended\n")


def test_it_can_be_detached_and_stopped(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", PATH, {"moves": [MOVE], "skipped": []})
    assert cli("rebalance", "-d").code == 0
    assert manager.sent("GET", PATH) == []
    manager.on("POST", PATH, {"stopped": 2})
    assert cli("rebalance", "--stop").out == "2 tasks will not be moved\n"
    assert cli("rebalance", "--stop", "--plan").code == 2
