"""`swarmsh purge`: it asks, and tells of each node what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Recorder, Result, make_service

Cli = Callable[..., Result]


@pytest.fixture
def cluster(manager: Recorder) -> Recorder:
    sessions = [{"name": name, "connected": True} for name in ("n1", "n2")]
    manager.on("GET", "/swarmsh/status", {"sessions": sessions})
    manager.on("GET", "/services", [make_service()])
    manager.on("GET", "/networks", [{"Scope": "swarm"}, {"Scope": "local"}, {"Scope": "swarm"}])
    return manager


def done(*left: list[str]) -> dict[str, Any]:
    nodes = [{"ID": f"id{n}", "Name": f"n{n}", "Left": one, "Fix": "reboot it"} for n, one in enumerate(left, 1)]
    return {"Archive": "/state/archive/swarmsh-1.db", "Nodes": nodes}


def test_it_asks_first_and_does_nothing_without_a_yes(cluster: Recorder, cli: Cli) -> None:
    result = cli("purge")  # nobody is there to say yes
    assert result.code != 0
    assert "Remove 1 service, 2 networks and all else of swarmsh from 2 nodes?" in result.err
    assert not cluster.sent("POST", "/swarmsh/purge")


def test_each_node_is_told_of(cluster: Recorder, cli: Cli) -> None:
    cluster.on("POST", "/swarmsh/purge", done([], []))
    result = cli("purge", "--yes")
    assert (result.code, result.out) == (0, "n1: nothing of swarmsh is left\nn2: nothing of swarmsh is left\n")
    assert result.err == "The state is archived in /state/archive/swarmsh-1.db\n"


def test_what_is_left_is_an_error_with_a_way_out(cluster: Recorder, cli: Cli) -> None:
    sessions = [{"name": "n1", "connected": True}, {"name": "n2", "connected": False}]
    cluster.on("GET", "/swarmsh/status", {"sessions": sessions})
    cluster.on("POST", "/swarmsh/purge", done([], ["there is no session", "and no other way"]))
    result = cli("purge", "-y")
    assert (result.code, result.out) == (1, "n1: nothing of swarmsh is left\n")
    assert "No session with n2: nothing can be removed there now" in result.err
    assert "Error: n2: there is no session; and no other way. reboot it\n" in result.err
