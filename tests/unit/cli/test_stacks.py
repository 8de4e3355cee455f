"""`swarmsh stack`: what is sent, asked, shown, and exit codes."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from swarmsh.cli.progress import Display
from swarmsh.cli.stack_files import read_stack
from swarmsh.cli.stack_progress import wait_for_stack
from swarmsh.client import ManagerClient
from swarmsh.errors import SwarmshError

from .conftest import Recorder, Request, Result, make_node, make_service, make_task
from .test_progress import Clock

Cli = Callable[..., Result]

PLAN: dict[str, Any] = {
    "Stack": "shop",
    "Action": "update",
    "Changed": True,
    "Parts": [
        {
            **{"Kind": "service", "Name": "shop_web", "Short": "web", "Action": "update", "Note": ""},
            "Changes": [
                {"Field": "TaskTemplate.ContainerSpec.Image", "Before": "a:1", "After": "a:2", "Hidden": False}
            ],
        },
        {
            **{"Kind": "secret", "Name": "shop_pw", "Short": "", "Action": "leftover", "Changes": []},
            "Note": "not in the file; --prune removes it",
        },
        {"Kind": "network", "Name": "shop_n", "Short": "n", "Action": "unchanged", "Changes": [], "Note": ""},
    ],
    "Tasks": [
        {
            **{"Service": "shop_web", "Order": 1, "AfterS": 0.0, "Action": "replace", "Way": "stop-first"},
            **{"Task": "shop_web.1", "Old": {"TaskID": "t", "NodeID": "node1", "Node": "n1"}},
            **{"New": {"NodeID": "node1", "Node": "n1"}, "Waits": ""},
        }
    ],
    "Order": [["db"], ["web"]],
    "Kept": 0,
    "Whole": True,
    "Digest": "d1gest",
}
NOTHING = PLAN | {"Changed": False, "Parts": [], "Tasks": []}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "compose.yaml"
    path.write_text(
        "name: shop\nservices:\n  web:\n    image: web:1\n    secrets: [pw]\nsecrets:\n  pw: {file: pw}\n"
    )
    (tmp_path / "pw").write_text("hunter2")
    return str(path)


@pytest.fixture
def stacks(manager: Recorder) -> Recorder:
    def deploy(request: Request) -> Any:
        done = {"Stack": "shop", "Revision": 3, "Parts": [], "Services": []}
        return PLAN if request.query.get("plan") else done

    manager.on("POST", "/swarmsh/stacks/shop/deploy", deploy)
    manager.on("POST", "/swarmsh/stacks/shop/rollback", deploy)
    manager.on("GET", "/services", [])
    manager.on("GET", "/tasks", [])
    return manager


# --- plan and deploy ----------------------------------------------------------------------------------------
def test_a_plan_is_shown_and_ends_with_3(cli: Cli, stacks: Recorder, file: str) -> None:
    result = cli("stack", "plan", "-c", file)
    assert result.code == 3
    assert result.out.splitlines() == [
        "shop: update; 1 service changed",
        "",
        "~ service shop_web",
        "    TaskTemplate.ContainerSpec.Image: a:1 -> a:2",
        "? secret shop_pw (not in the file; --prune removes it)",
        "",
        "Order of starts: db -> web",
        "",
        "ORDER   EARLIEST   TASK         CHANGE                NODE   NOTE",
        "1       0s         shop_web.1   replace, stop-first   n1",
    ]
    (sent,) = stacks.sent("POST", ".*")
    assert sent.query == {"plan": "true"}
    assert sent.body["Services"]["web"]["Name"] == "shop_web"
    assert sent.body["Secrets"]["pw"]["Data"] == "aHVudGVyMg=="


def test_a_plan_without_changes_ends_with_0(cli: Cli, manager: Recorder, file: str) -> None:
    manager.on("POST", "/swarmsh/stacks/other/deploy", NOTHING | {"Stack": "other"})
    result = cli("stack", "plan", "-c", file, "other", "--prune", "-o", "json")
    assert (result.code, json.loads(result.out)["Changed"]) == (0, False)
    assert manager.sent("POST", ".*")[0].query == {"plan": "true", "prune": "true"}


def test_deploy_does_what_was_planned(cli: Cli, stacks: Recorder, file: str) -> None:
    result = cli("stack", "deploy", "-c", file, "-y", "--prune")
    assert result.code == 0
    assert result.out.endswith("shop: revision 3\n")
    planned, done = stacks.sent("POST", ".*")
    assert planned.body == done.body
    assert done.query == {"prune": "true", "digest": "d1gest"}


def test_nothing_to_do_ends_with_0_and_deploys_nothing(cli: Cli, manager: Recorder, file: str) -> None:
    manager.on("POST", "/swarmsh/stacks/shop/deploy", NOTHING)
    result = cli("stack", "deploy", "-c", file, "-y")
    assert (result.code, result.out) == (0, "shop: nothing to do\n")
    assert len(manager.sent("POST", ".*")) == 1


def test_without_a_terminal_it_names_yes(cli: Cli, stacks: Recorder, file: str) -> None:
    for arguments in (("deploy", "-c", file), ("deploy", "-c", "-", "shop"), ("rollback", "shop")):
        result = cli("stack", *arguments)
        assert result.code == 2
        assert "--yes" in result.err
    assert not stacks.sent("POST", ".*")


@pytest.mark.parametrize(("answer", "code", "posts"), [("y\n", 0, 2), ("n\n", 1, 1), ("\n", 1, 1)])
def test_on_a_terminal_it_asks(stacks: Recorder, file: str, answer: str, code: int, posts: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    command = [sys.executable, "-m", "swarmsh", "stack", "deploy", "-c", file, "-d"]
    done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=60, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert b"Change stack shop like this?" in done.stderr
    assert len(stacks.sent("POST", ".*deploy")) == posts


def test_images_are_pinned_at_the_registry_and_credentials_go_along(cli: Cli, stacks: Recorder, file: str) -> None:
    found = {
        "Descriptor": {"digest": "sha256:" + "a" * 64},
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }
    stacks.on("GET", "/distribution/web:1/json", found)
    assert cli("stack", "deploy", "-c", file, "-y", "-d", "--with-registry-auth").code == 0
    body = stacks.sent("POST", ".*")[0].body
    template = body["Services"]["web"]["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == "web:1@sha256:" + "a" * 64
    assert template["Placement"]["Platforms"] == [{"Architecture": "amd64", "OS": "linux"}]
    assert body["Services"]["web"]["Labels"]["com.docker.stack.image"] == "web:1"
    assert body["RegistryAuth"] == {"web": "e30="}


def test_the_platform_of_the_file_stays(cli: Cli, stacks: Recorder, tmp_path: Path) -> None:
    found = {"Descriptor": {}, "Platforms": [{"architecture": a, "os": "linux"} for a in ("amd64", "arm64")]}
    stacks.on("GET", "/distribution/web:1/json", found)
    path = tmp_path / "one.yaml"
    path.write_text("name: shop\nservices: {web: {image: 'web:1', platform: linux/arm64}}\n")
    assert cli("stack", "deploy", "-c", str(path), "-y", "-d").code == 0
    placement = stacks.sent("POST", ".*")[0].body["Services"]["web"]["TaskTemplate"]["Placement"]
    assert placement["Platforms"] == [{"Architecture": "arm64", "OS": "linux"}]


def test_changed_asks_the_registry_for_other_images_only(cli: Cli, stacks: Recorder, file: str) -> None:
    web = make_service("shop_web")
    web["Spec"]["Labels"] = {"com.docker.stack.image": "web:1"}
    stacks.on("GET", "/services", [web])
    cli("stack", "deploy", "-c", file, "-y", "-d", "--resolve-image", "changed")
    assert not stacks.sent("GET", "/distribution/.*")
    cli("stack", "deploy", "-c", file, "-y", "-d", "--resolve-image", "never")
    assert not stacks.sent("GET", "/distribution/.*")


def test_rollback_plans_and_goes_back(cli: Cli, stacks: Recorder) -> None:
    result = cli("stack", "rollback", "shop", "--to", "1", "--plan")
    assert result.code == 3
    result = cli("stack", "rollback", "shop", "--to", "1", "-y", "-d")
    assert (result.code, result.out.splitlines()[-1]) == (0, "shop: revision 3")
    assert [r.query for r in stacks.sent("POST", ".*")] == [
        {"plan": "true", "to": "1"},
        {"plan": "true", "to": "1"},
        {"to": "1", "digest": "d1gest"},
    ]


def test_what_the_manager_refuses_is_one_line_and_1(cli: Cli, manager: Recorder, file: str) -> None:
    manager.on("POST", "/swarmsh/stacks/shop/deploy", (409, {"message": "stack shop has changed"}))
    result = cli("stack", "deploy", "-c", file, "-y")
    assert (result.code, result.err.splitlines()[-1]) == (1, "Error: stack shop has changed")


# --- removal ------------------------------------------------------------------------------------------------
def leaving(node: str, tasks: int, state: str = "ready") -> dict[str, Any]:
    return {"NodeID": f"id-{node}", "Node": node, "State": state, "Tasks": tasks}


def test_rm_names_the_nodes_that_are_down_and_waits_for_the_others_only(cli: Cli, manager: Recorder) -> None:
    down = leaving("n3", 2, "down")
    left = iter(([leaving("n1", 1), down], [down]))
    manager.on("DELETE", "/swarmsh/stacks/shop", {"Parts": PLAN["Parts"]})
    manager.on("GET", "/swarmsh/stacks/shop", lambda _: {"Name": "shop", "TasksLeft": 3, "Leaving": next(left)})
    result = cli("stack", "rm", "shop")
    assert (result.code, next(left, None)) == (1, None)
    assert "Error: stack shop: 2 tasks may be running yet on n3 (down)" in result.err


def test_rm_returns_when_no_task_is_left(cli: Cli, manager: Recorder) -> None:
    left = iter(([leaving("n1", 1), leaving("n2", 1)], [leaving("n1", 1)], []))
    manager.on("DELETE", "/swarmsh/stacks/shop", {"Parts": PLAN["Parts"]})
    # Somebody deploys it again meanwhile.
    manager.on("GET", "/swarmsh/stacks/shop", lambda _: {"Name": "shop", "TasksLeft": 7, "Leaving": next(left)})
    result = cli("stack", "rm", "shop", "none")
    assert result.code == 1  # for the one that is not there
    assert "page not found" in result.err
    assert next(left, None) is None
    assert "shop: gone" in result.err


# --- progress -----------------------------------------------------------------------------------------------
def play(manager: Recorder, services: list[Any], passes: list[list[Any]], there: Any = None) -> tuple[str, float]:
    """What is shown while `passes[n]` are the tasks at the n-th look, and how long it took."""
    rounds: Iterator[list[Any]] = chain(passes, repeat(passes[-1]))
    manager.on("GET", "/services", there or services)
    manager.on("GET", "/tasks", lambda _: next(rounds))
    manager.on("GET", "/nodes", [make_node("n1")])
    clock, output = Clock(), io.StringIO()
    try:
        wait_for_stack(
            *(ManagerClient(manager.path), "shop", [s["ID"] for s in services]),
            display=Display(output),
            clock=clock,
            sleep=clock.sleep,
        )
    except SwarmshError as error:
        output.write(f"Error: {error}\n")
    return output.getvalue(), clock.now - 100.0


def stack_service(name: str, replicas: int, **extra: Any) -> dict[str, Any]:
    status = {"RunningTasks": 0, "DesiredTasks": replicas, "CompletedTasks": 0}
    return make_service(name, replicas, ServiceStatus=status, **extra)


def test_each_service_has_a_line_and_is_watched_for_its_monitor_period(manager: Recorder) -> None:
    web, db = stack_service("shop_web", 2), stack_service("shop_db", 1)
    held = make_task(web, 1, "ready", status={"Err": "waits for shop_db to be ready (0 of 1)"})
    both = [make_task(web, 1), make_task(web, 2), make_task(db, 1)]
    shown, took = play(manager, [web, db], [[], [held, make_task(db, 1)], both])
    assert shown.splitlines() == [
        "shop_db: 0 of 1 running",
        "shop_web: 0 of 2 running",
        "shop_db: 1 of 1 running, watched to be stable",
        "shop_web: 0 of 2 running, waits for shop_db to be ready (0 of 1)",
        "shop_web: 2 of 2 running, watched to be stable",
        "shop_db: 1 of 1 running, converged",
        "shop_web: 2 of 2 running, converged",
    ]
    assert 5.0 < took < 6.0


def test_an_update_is_over_when_it_says_so(manager: Recorder) -> None:
    web = stack_service("shop_web", 1, UpdateStatus={"State": "completed"})
    shown, took = play(manager, [web], [[make_task(web, 1)]])
    assert (shown, took) == ("shop_web: converged\n", 0.0)


def test_what_failed_is_named_when_nothing_else_is_left_to_wait_for(manager: Recorder) -> None:
    paused = {"State": "paused", "Message": "update paused due to failure of task x\nlast words"}
    web, db = stack_service("shop_web", 1, UpdateStatus=paused), stack_service("shop_db", 1)
    failed = make_task(web, 1, "failed", status={"Err": "task: non-zero exit (1)"})
    shown, took = play(manager, [web, db], [[failed, make_task(db, 1)]])
    assert "task shop_web.1 failed on n1: task: non-zero exit (1)" in shown
    assert "shop_db: 1 of 1 running, converged" in shown
    assert "Error: stack shop: shop_web: update paused due to failure of task x. See" in shown
    assert took > 4.0


def a_job(completions: int, done: int) -> dict[str, Any]:
    job = make_service("shop_migrate")
    job["Spec"]["Mode"] = {"ReplicatedJob": {"TotalCompletions": completions, "MaxConcurrent": 1}}
    job["ServiceStatus"] = {"RunningTasks": 0, "DesiredTasks": 1, "CompletedTasks": done}
    job["JobStatus"] = {"JobIteration": {"Index": 2}}
    return job


def test_a_job_that_failed_for_good_fails_the_deploy(manager: Recorder) -> None:
    job = a_job(2, 1)
    run = {"JobIteration": {"Index": 2}}
    complete = make_task(job, 0, "complete", **run)
    failed = make_task(job, 1, "failed", DesiredState="shutdown", **run)
    retried = [failed, make_task(job, 1, "preparing", node="node2", **run)]
    shown, _ = play(manager, [job], [[complete, *retried], [complete, failed]])
    assert "shop_migrate: 1 of 2 complete\n" in shown
    assert "Error: stack shop: shop_migrate: 1 of 2 tasks of the job are not complete" in shown


def test_a_job_without_completions_is_done_at_once(manager: Recorder) -> None:
    assert play(manager, [a_job(0, 0)], [[]])[0] == "shop_migrate: 0 of 0 complete\n"


def test_a_service_that_is_removed_while_it_is_waited_for_is_a_failure(manager: Recorder) -> None:
    web, db = stack_service("shop_web", 1), stack_service("shop_db", 1)
    rounds = chain([[web, db]], repeat([web]))
    shown, _ = play(manager, [web, db], [[make_task(web, 1), make_task(db, 1)]], lambda _: next(rounds))
    assert "Error: stack shop: shop_db: was removed meanwhile" in shown


def test_a_job_is_waited_for_until_it_is_complete(manager: Recorder) -> None:
    assert play(manager, [a_job(1, 1)], [[]])[0] == "shop_migrate: 1 of 1 complete\n"


# --- files --------------------------------------------------------------------------------------------------
def test_the_usual_files_are_found_with_their_override(
    cli: Cli, stacks: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("stack", "plan", "shop")
    assert (result.code, "there is no compose file here" in result.err) == (1, True)
    (tmp_path / "compose.yaml").write_text("services: {web: {image: 'web:1', environment: {A: '${A}'}}}\n")
    (tmp_path / "compose.override.yaml").write_text("services: {web: {hostname: h}}\n")
    (tmp_path / "vars").write_text("A=from-vars\n")
    cli("stack", "plan", "shop", "--env-file", "vars", "--resolve-image", "never")
    container = stacks.sent("POST", ".*")[0].body["Services"]["web"]["TaskTemplate"]["ContainerSpec"]
    assert (container["Hostname"], container["Env"]) == ("h", ["A=from-vars"])


def test_the_output_of_config_means_the_same(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(
        "name: shop\nx-note: {a: '$$b'}\n"
        "services: {web: {image: 'web:1', command: [echo, '$$HOME'], profiles: [dev], labels: {a: '$$$$'}}}\n"
    )
    first = cli("stack", "config", "-c", str(path), "--profile", "dev")
    again = tmp_path / "again.yaml"
    again.write_text(first.out)
    assert cli("stack", "config", "-c", str(again)).out == first.out
    assert read_stack(None, [str(again)]).spec == read_stack(None, [str(path)], profiles=["dev"]).spec
