"""Jobs on the command line: their progress, how they are listed, and their flags."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmsh.core.accept import accept_service
from swarmsh.errors import SwarmshError
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.wire import from_wire

from .conftest import Recorder, Result, make_node, make_service, make_task
from .test_progress import play

Cli = Callable[..., Result]


def make_job(total: int | None = 3, concurrent: int = 2, iteration: int = 4, **extra: Any) -> dict[str, Any]:
    """Global without `total`."""
    status = {"JobIteration": {"Index": iteration}, "LastExecution": "2026-11-22T10:00:00Z"}
    job = make_service("job", JobStatus=status | extra.pop("JobStatus", {}), **extra)
    replicated = {"ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": total}}
    job["Spec"]["Mode"] = {"GlobalJob": {}} if total is None else replicated
    return job


def run_of(
    job: dict[str, Any], slot: int | None, state: str, *, node: str = "node1", iteration: int = 4, **extra: Any
) -> Any:
    task = make_task(job, slot or 0, state, node, **({"DesiredState": "complete"} | extra))
    if slot is None:
        del task["Slot"]
    return task | {"JobIteration": {"Index": iteration}, "ID": f"{task['ID']}{iteration}{state}"}


def failed(job: dict[str, Any], slot: int) -> Any:
    task = run_of(job, slot, "failed", DesiredState="shutdown")
    task["Status"]["Err"] = "task: non-zero exit (1)"
    return task


def test_a_job_is_waited_for_until_all_its_tasks_are_complete(manager: Recorder) -> None:
    job = make_job()
    old = run_of(job, 0, "complete", iteration=3)
    done = [run_of(job, n, "complete") for n in range(3)]
    passes = [
        [old],
        [old, run_of(job, 0, "preparing"), run_of(job, 1, "running")],
        [old, done[0], run_of(job, 1, "running"), run_of(job, 2, "starting")],
        [old, *done],
    ]
    output = io.StringIO()
    clock = play(manager, job, passes, output)
    assert output.getvalue().splitlines() == [
        "job progress: 0 out of 3 complete",
        "active tasks: 0 out of 2 tasks",
        "active tasks: 2 out of 2 tasks",
        "1/3: preparing",
        "2/3: running",
        "job progress: 1 out of 3 complete",
        "1/3: complete",
        "3/3: starting",
        "job progress: 3 out of 3 complete",
        "active tasks: 0 out of 0 tasks",
        "2/3: complete",
        "3/3: complete",
        "job complete",
    ]
    assert clock.now < 101, "what is complete stays so: nothing is verified"


def test_a_global_job_has_a_line_for_each_node(manager: Recorder) -> None:
    job = make_job(None)
    passes = [
        [],
        [run_of(job, None, "running"), run_of(job, None, "complete", node="node2")],
        [run_of(job, None, "complete"), run_of(job, None, "complete", node="node2")],
    ]
    output = io.StringIO()
    play(manager, job, passes, output)
    assert output.getvalue().splitlines() == [
        "job progress: waiting for tasks",
        "job progress: 1 out of 2 complete",
        "n1: running",
        "n2: complete",
        "job progress: 2 out of 2 complete",
        "n1: complete",
        "job complete",
    ]


def test_a_task_that_is_tried_again_is_waited_for_and_one_that_is_not_ends_the_wait(manager: Recorder) -> None:
    job = make_job(2)
    good, bad = run_of(job, 0, "complete"), failed(job, 1)
    again = run_of(job, 1, "running")
    output = io.StringIO()
    with pytest.raises(SwarmshError) as error:
        play(manager, job, [[good, bad, again], [good, bad]], output)
    assert "job job failed: 1 of 2 tasks are not complete. See `swarmsh service ps job`" in str(error.value)
    assert "2/2: running" in output.getvalue()
    assert "task job.1 failed on n1: task: non-zero exit (1)" in output.getvalue()


def test_a_job_that_waits_for_its_schedule_is_not_waited_for(manager: Recorder) -> None:
    message = "scheduled: it runs next at 2026-11-23T03:00:00Z"
    job = make_job(UpdateStatus={"State": "completed", "Message": message})
    output = io.StringIO()
    assert play(manager, job, [[]], output).now == 100
    assert output.getvalue() == f"job progress: {message}\n"


@pytest.fixture
def jobs(manager: Recorder) -> Recorder:
    skipped = {"Runs": 2, "Last": "2026-11-22T09:00:00Z", "Reason": "no manager was awake"}
    status = {"NextExecution": "2026-11-23T03:00:00Z", "Skipped": skipped}
    job = make_job(JobStatus=status, ServiceStatus={"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 1})
    everywhere = make_job(None, ServiceStatus={"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 1})
    everywhere["Spec"] = everywhere["Spec"] | {"Name": "all"}
    manager.on("GET", "/services", [job, everywhere])
    manager.on("GET", "/services/job", job)
    manager.on("POST", f"/services/{job['ID']}/update", {"Warnings": None})
    manager.on("GET", "/nodes", [make_node("n1")])
    old = run_of(job, 0, "complete", iteration=3, CreatedAt="2026-11-21T10:00:00Z")
    manager.on("GET", "/tasks", [old, run_of(job, 0, "complete"), run_of(job, 1, "running")])
    return manager


def test_ls_shows_completions_as_docker_does(jobs: Recorder, cli: Cli) -> None:
    _, everywhere, job = cli("service", "ls").out.splitlines()
    assert " ".join(job.split()) == "job000000000 job replicated job 1/2 (1/3 completed) nginx:1"
    assert " ".join(everywhere.split()).startswith("job000000000 all global job 1/2 (1/3 completed)")


def test_ps_shows_the_run_of_each_task(jobs: Recorder, cli: Cli) -> None:
    head, *rows = [" ".join(line.split()) for line in cli("service", "ps", "job").out.splitlines()]
    assert head.startswith("ID NAME RUN IMAGE")
    assert [row.split(" nginx:1 ")[0].split(" ", 1)[1] for row in rows] == ["job.0 4", r"\_ job.0 3", "job.1 4"]


def test_inspect_tells_of_runs(jobs: Recorder, cli: Cli) -> None:
    out = [" ".join(line.split()) for line in cli("service", "inspect", "--pretty", "job").out.splitlines()]
    for line in ("Service Mode: Replicated job", "Completions: 3", "Max Concurrent: 2", "Iteration: 4"):
        assert line in out
    assert "Next run: 2026-11-23T03:00:00Z" in out
    assert any(line.startswith("Skipped: 2, last ") and line.endswith("no manager was awake") for line in out)


def sent(jobs: Recorder) -> Any:
    (request,) = jobs.sent("POST", ".*")
    jobs.requests.clear()
    return request.body


def test_a_schedule_is_labels(jobs: Recorder, cli: Cli) -> None:
    jobs.on("POST", "/services/create", (201, {"ID": "new1"}))
    flags = ("--schedule", "0 3 * * *", "--schedule-zone", "Europe/Berlin", "-l", "a=b")
    result = cli("service", "create", "-d", "--no-resolve-image", "--mode", "replicated-job", *flags, "job:1")
    assert result.code == 0, result.err
    zone = {"swarmsh.schedule.zone": "Europe/Berlin"}
    assert sent(jobs)["Labels"] == {"a": "b", "swarmsh.schedule": "0 3 * * *"} | zone
    assert cli("service", "update", "-d", "--schedule", "@daily", "job").code == 0
    assert sent(jobs)["Labels"] == {"swarmsh.schedule": "@daily"}


def test_an_empty_schedule_takes_it_away(jobs: Recorder, cli: Cli) -> None:
    job = make_job()
    labels = {"swarmsh.schedule": "@daily", "swarmsh.schedule.missed": "skip", "swarmsh.schedule.zone": "UTC"}
    job["Spec"]["Labels"] = labels | {"a": "b"}
    jobs.on("GET", "/services/job", job)
    assert cli("service", "update", "-d", "--schedule", "", "job").code == 0
    assert sent(jobs)["Labels"] == {"a": "b"}


PAGE = (Path(__file__).parents[3] / "docs" / "jobs.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^swarmsh (service create .*)$", PAGE, re.MULTILINE))
def test_what_the_page_for_users_creates_is_accepted(line: str, jobs: Recorder, cli: Cli) -> None:
    jobs.on("POST", "/services/create", (201, {"ID": "new1"}))
    result = cli(*shlex.split(line.replace("service create", "service create -d --no-resolve-image")))
    assert result.code == 0, result.err
    assert accept_service(from_wire(ServiceSpec, sent(jobs))).mode.is_job


def test_numbers_of_a_job_are_changed_by_update_and_scale(jobs: Recorder, cli: Cli) -> None:
    assert cli("service", "update", "-d", "--replicas", "9", "--max-concurrent", "4", "job").code == 0
    assert sent(jobs)["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 4, "TotalCompletions": 9}}
    assert cli("service", "scale", "-d", "job=7").out == "job scaled to 7\n"
    assert sent(jobs)["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 7}}
