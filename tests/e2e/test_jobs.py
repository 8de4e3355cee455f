"""Jobs and schedules through a real manager, on machines of three suites."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .swarm import Swarm
from .test_networks import ALL

pytestmark = pytest.mark.e2e

# The image's server ends by itself after so many seconds.
ENDS = ("--env", "EXIT_AFTER=1")


@pytest.fixture(autouse=True)
def _clear(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()


def job(swarm: Swarm, name: str) -> dict[str, Any]:
    """The service with its counts, as lists have it."""
    (found,) = [one for one in swarm.get("/services?status=true") if one["Spec"]["Name"] == name]
    return dict(found)


def complete(swarm: Swarm, name: str, iteration: int | None = None) -> list[dict[str, Any]]:
    return [
        task
        for task in swarm.tasks(name)
        if task["Status"]["State"] == "complete"
        and (iteration is None or task["JobIteration"]["Index"] == iteration)
    ]


def most_at_once(swarm: Swarm, ids: list[str]) -> int:
    """Of containers that have ended: how many ran at the same time, by their Engines' clocks (the host's)."""
    times: list[tuple[str, int]] = []
    for node in ALL:
        listed = swarm.containers(node, all=True)
        for task in set(listed) & set(ids):
            shown = swarm.ssh(
                node, "docker", "inspect", "--format", "{{.State.StartedAt}} {{.State.FinishedAt}}", listed[task]
            )
            started, finished = shown.split()
            times += [(started, 1), (finished, -1)]
    running = most = 0
    for _, step in sorted(times):
        running += step
        most = max(most, running)
    return most


def test_a_job_runs_to_its_completions_and_again_by_an_update(swarm: Swarm) -> None:
    """The docker CLI waits until all are complete; not more than asked run at a time."""
    swarm.docker(
        "service", "create", "--name", "batch", "--mode", "replicated-job", "--replicas", "4",
        "--max-concurrent", "2", *ENDS, "web:1",
    )  # fmt: skip
    done = complete(swarm, "batch")
    assert sorted(task["Slot"] for task in done) == [0, 1, 2, 3]
    assert 1 <= most_at_once(swarm, [task["ID"] for task in done]) <= 2
    status = job(swarm, "batch")["ServiceStatus"]
    assert (status["RunningTasks"], status["CompletedTasks"]) == (0, 4)
    assert "0/2 (4/4 completed)" in swarm.docker("service", "ls")
    swarm.docker("service", "update", "--force", "batch")
    assert len(complete(swarm, "batch", 1)) == 4
    assert job(swarm, "batch")["JobStatus"]["JobIteration"]["Index"] == 1


def test_a_job_that_fails_is_tried_again_and_ends_with_its_attempts(swarm: Swarm) -> None:
    swarm.docker(
        "service", "create", "-d", "--name", "broken", "--mode", "replicated-job",
        "--restart-condition", "on-failure", "--restart-max-attempts", "2", "--restart-delay", "0s",
        "--env", "EXIT_AFTER=0", "--env", "EXIT_CODE=3", "web:1",
    )  # fmt: skip
    swarm.wait(lambda: len(swarm.tasks("broken")) == 3, "three attempts")
    swarm.wait(lambda: all(t["Status"]["State"] == "failed" for t in swarm.tasks("broken")), "all have failed")
    codes = {t["Status"]["ContainerStatus"]["ExitCode"] for t in swarm.tasks("broken")}
    assert codes == {3}


def test_a_global_job_runs_once_on_each_node_also_on_one_that_loses_power_meanwhile(swarm: Swarm) -> None:
    swarm.docker(
        "service", "create", "-d", "--name", "each", "--mode", "global-job", "--env", "EXIT_AFTER=20", "web:1"
    )
    swarm.wait(lambda: [t["Status"]["State"] for t in swarm.tasks("each")] == ["running"] * 3, "one on each")
    swarm.lab.fault("n2", "power-off")
    try:
        swarm.wait(lambda: len(complete(swarm, "each")) == 2, "the others are complete")
    finally:
        swarm.lab.fault("n2", "power-on", "--wait")
    swarm.wait(lambda: len(complete(swarm, "each")) == 3, "that of the lost node has run to its end", 240)
    assert len({task["NodeID"] for task in complete(swarm, "each")}) == 3


def test_a_schedule_runs_in_its_minute_once_also_when_the_manager_is_killed_then(swarm: Swarm) -> None:
    swarm.swarmsh(
        "service", "create", "-d", "--name", "nightly", "--mode", "replicated-job", "--schedule", "* * * * *",
        *ENDS, "web:1",
    )  # fmt: skip
    assert swarm.tasks("nightly") == []
    assert job(swarm, "nightly")["JobStatus"]["NextExecution"]
    # Down in the second in which it is due, and up again: the run is neither lost nor doubled.
    wait_for_second(59.0)
    swarm.kill()
    wait_for_second(1.0)
    swarm.start(ready=False)
    swarm.wait(lambda: len(complete(swarm, "nightly")) == 1, "the run that was missed")
    first = job(swarm, "nightly")["JobStatus"]["JobIteration"]["Index"]
    swarm.wait(lambda: len(complete(swarm, "nightly", first + 1)) == 1, "that of the next minute", 150)
    iterations = [task["JobIteration"]["Index"] for task in complete(swarm, "nightly")]
    assert len(iterations) == len(set(iterations)), iterations
    shown = json.loads(swarm.swarmsh("service", "ps", "nightly", "--format", "json"))
    assert len(shown) >= 2


def wait_for_second(second: float) -> None:
    """Until the wall clock, which cron goes by, is there in its minute."""
    time.sleep((second - time.time()) % 60)
