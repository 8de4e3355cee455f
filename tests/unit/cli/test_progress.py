"""Waiting for convergence: what is shown, when it ends, and with which exit code."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest

from swarmsh.cli.progress import Display, wait_for_service
from swarmsh.client import ManagerClient
from swarmsh.errors import SwarmshError

from .conftest import Raw, Recorder, Result, make_node, make_service, make_task

Cli = Callable[..., Result]
Tasks = list[dict[str, Any]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def play(manager: Recorder, service: dict[str, Any], passes: list[Tasks], output: io.StringIO) -> Clock:
    """Wait for `service`, whose tasks are `passes[n]` at the n-th look, and the last ones from then on."""
    rounds: Iterator[Tasks] = chain(passes, repeat(passes[-1]))
    manager.on("GET", f"/services/{service['ID']}", service)
    manager.on("GET", "/tasks", lambda request: next(rounds))
    manager.on("GET", "/nodes", [make_node("n1"), make_node("n2", node_id="node2")])
    clock = Clock()
    client = ManagerClient(manager.path)
    wait_for_service(client, service["ID"], display=Display(output), clock=clock, sleep=clock.sleep)
    return clock


def test_lines_where_there_is_no_terminal(manager: Recorder) -> None:
    web = make_service(replicas=2)
    passes = [
        [],
        [make_task(web, 1, "preparing"), make_task(web, 2, "pending", node="")],
        [make_task(web, 1), make_task(web, 2, "starting")],
        [make_task(web, 1), make_task(web, 2)],
    ]
    output = io.StringIO()
    clock = play(manager, web, passes, output)
    assert output.getvalue().splitlines() == [
        "overall progress: 0 out of 2 tasks",
        "1/2: preparing",
        "2/2: pending",
        "overall progress: 1 out of 2 tasks",
        "1/2: running",
        "2/2: starting",
        "overall progress: 2 out of 2 tasks",
        "2/2: running",
        "verify: Waiting 5 seconds to verify that tasks are stable...",
        "verify: Service web converged",
    ]
    assert 105 <= clock.now < 107
    assert manager.sent("GET", "/tasks")[0].query["filters"] == (
        '{"service": {"' + web["ID"] + '": true}, "_up-to-date": {"true": true}}'
    )


def test_bars_on_a_terminal(manager: Recorder) -> None:
    web = make_service(replicas=2)
    output = Terminal()
    play(manager, web, [[make_task(web, 1, "preparing")], [make_task(web, 1), make_task(web, 2)]], output)
    text = output.getvalue()
    assert re.search(r"1/2: preparing  *\[=+> +\]", text)
    assert re.search(r"1/2: running  *\[=+>\]", text)
    assert "\x1b[3A" in text  # three lines, redrawn in their places
    assert text.rstrip().endswith("verify: Service web converged")


def test_the_monitor_period_of_the_service_counts(manager: Recorder) -> None:
    web = make_service(replicas=1)
    web["Spec"]["UpdateConfig"] = {"Monitor": 20 * 10**9}
    assert play(manager, web, [[make_task(web, 1)]], io.StringIO()).now >= 120


def test_a_failure_while_verifying_starts_the_period_again(manager: Recorder) -> None:
    web = make_service(replicas=1)
    good, bad = [make_task(web, 1)], [make_task(web, 1, "starting")]
    output = io.StringIO()
    clock = play(manager, web, [good] * 10 + [bad] + [good], output)
    assert "verify: Detected task failure" in output.getvalue()
    assert clock.now > 107


def test_a_failed_task_is_shown_with_its_node_its_error_and_its_last_lines(manager: Recorder) -> None:
    web = make_service(replicas=1)
    failed = make_task(web, 1, "failed", DesiredState="shutdown", status={"Err": "task: non-zero exit (3)"})
    failed["ID"] = "failedtask"
    said = b"".join(b"\1\0\0\0" + len(line).to_bytes(4, "big") + line for line in (b"one\n", b"two\n"))
    manager.on("GET", "/tasks/failedtask/logs", Raw(said, "application/vnd.docker.multiplexed-stream"))
    output = io.StringIO()
    play(manager, web, [[failed, make_task(web, 1, "ready")], [failed, make_task(web, 1)]], output)
    lines = output.getvalue().splitlines()
    start = lines.index("task web.1 failed on n1: task: non-zero exit (3)")
    assert lines[start + 1 : start + 3] == ["    one", "    two"]
    assert manager.sent("GET", "/tasks/failedtask/logs")[0].query["tail"] == "10"
    assert len(manager.sent("GET", "/tasks/failedtask/logs")) == 1


def test_why_a_task_cannot_be_placed_is_shown(manager: Recorder) -> None:
    web = make_service(replicas=1)
    pending = make_task(web, 1, "pending", node="", status={"Err": "no suitable node (2 nodes lack memory)"})
    output = io.StringIO()
    play(manager, web, [[pending], [make_task(web, 1)]], output)
    assert "1/1: no suitable node (2 nodes lack memory)" in output.getvalue().splitlines()


def test_tasks_on_a_node_that_is_down_do_not_count(manager: Recorder) -> None:
    web = make_service(replicas=1)
    output = io.StringIO()
    manager.on("GET", f"/services/{web['ID']}", web)
    states = chain(["down"] * 3, repeat("ready"))
    manager.on("GET", "/nodes", lambda request: [make_node("n1", next(states))])
    manager.on("GET", "/tasks", [make_task(web, 1)])
    clock = Clock()
    client = ManagerClient(manager.path)
    wait_for_service(client, web["ID"], display=Display(output), clock=clock, sleep=clock.sleep)
    assert output.getvalue().splitlines()[0] == "overall progress: 0 out of 1 tasks"


def test_a_global_service_counts_nodes(manager: Recorder) -> None:
    agent = make_service("agent", replicas=None)
    tasks = [make_task(agent, 0, node="node1"), make_task(agent, 0, "starting", node="node2")]
    done = [make_task(agent, 0, node="node1"), make_task(agent, 0, node="node2")]
    output = io.StringIO()
    play(manager, agent, [[], tasks, done], output)
    lines = output.getvalue().splitlines()
    assert lines[:4] == [
        "overall progress: waiting for new tasks",
        "overall progress: 1 out of 2 tasks",
        "n1: running",
        "n2: starting",
    ]


def test_a_service_of_no_replicas_has_converged(manager: Recorder) -> None:
    output = io.StringIO()
    play(manager, make_service(replicas=0), [[]], output)
    assert output.getvalue().splitlines()[0] == "overall progress: 0 out of 0 tasks"


def test_a_paused_update_is_an_error(manager: Recorder) -> None:
    web = make_service(
        replicas=1, UpdateStatus={"State": "paused", "Message": "update paused due to failure of task x"}
    )
    with pytest.raises(SwarmshError, match="service update paused: update paused due to failure of task x"):
        play(manager, web, [[]], io.StringIO())


def test_a_rollback_is_said(manager: Recorder) -> None:
    web = make_service(
        replicas=1, UpdateStatus={"State": "rollback_started", "Message": "update rolled back: x failed"}
    )
    output = io.StringIO()
    play(manager, web, [[], [make_task(web, 1)]], output)
    lines = output.getvalue().splitlines()
    assert lines[:2] == [
        "rollback: update rolled back: x failed",
        "overall progress: rolling back update: 0 out of 1 tasks",
    ]


def test_an_update_that_is_completed_already_ends_the_wait(manager: Recorder) -> None:
    web = make_service(replicas=1, UpdateStatus={"State": "completed"})
    assert play(manager, web, [[]], io.StringIO()).now == 100


def test_the_id_is_data_and_progress_is_not(manager: Recorder, cli: Cli) -> None:
    web = make_service(replicas=1)
    web["Spec"]["UpdateConfig"] = {"Monitor": 1}
    manager.on("POST", "/services/create", (201, {"ID": web["ID"], "Warnings": ["a warning"]}))
    manager.on("GET", f"/services/{web['ID']}", web)
    manager.on("GET", "/tasks", [make_task(web, 1)])
    manager.on("GET", "/nodes", [make_node()])
    manager.on("GET", "/distribution/.*", (404, {"message": "no"}))
    result = cli("service", "create", "--name", "web", "nginx")
    assert (result.code, result.out) == (0, web["ID"] + "\n")
    assert "a warning" in result.err
    assert "image nginx:latest could not be accessed on a registry" in result.err
    assert result.err.rstrip().endswith("verify: Service web converged")
    quiet = cli("service", "create", "--name", "web", "-q", "--no-resolve-image", "nginx")
    assert (quiet.out, quiet.err) == (web["ID"] + "\n", "a warning\n")


def test_scaling_waits_and_scales_none_if_one_cannot_be(manager: Recorder, cli: Cli) -> None:
    web, agent = make_service(replicas=1), make_service("agent", replicas=None)
    web["Spec"]["UpdateConfig"] = {"Monitor": 1}
    manager.on("GET", "/services/(web|web0.*)", web)
    manager.on("GET", "/services/agent", agent)
    manager.on("POST", "/services/.*/update", {})
    manager.on("GET", "/tasks", [make_task(web, 1)])
    manager.on("GET", "/nodes", [make_node()])
    manager.on("GET", "/services/nope", (404, {"message": "service nope not found"}))
    refused = cli("service", "scale", "web=1", "agent=2", "nope=3")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "Error: agent: scale can only be used with replicated or replicated-job mode\n"
        "Error: nope: service nope not found\n"
    )
    assert not manager.sent("POST", ".*")
    result = cli("service", "scale", "web=1")
    assert (result.code, result.out) == (0, "web scaled to 1\n")
    assert "Service web converged" in result.err
    (request,) = manager.sent("POST", ".*")
    assert request.query == {"version": "42"}
    assert request.body["Mode"] == {"Replicated": {"Replicas": 1}}
