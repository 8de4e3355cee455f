"""Updates, scales, drains, rebalancing under a steady load from outside: no request fails. A real manager, on
machines of three suites.

SWARMSH_TEST_KILLS=N kills the manager so often during updates (6 without it); SWARMSH_TEST_LOAD_S=S has each load
go on for S seconds after its change (3 without it).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .steady import Load, steady
from .swarm import Swarm
from .test_manager_kill import dice
from .test_networks import ALL, addresses, create, wait_answers

pytestmark = pytest.mark.e2e

PORT = 8080
REPLICAS = 6
KILLS = int(os.environ.get("SWARMSH_TEST_KILLS", "6"))
AFTER_S = float(os.environ.get("SWARMSH_TEST_LOAD_S", "3"))
UPDATE_S = 300.0
LATE_S = 10
# A service whose containers listen two seconds after their start.
SERVICE = (
    *("--replicas", str(REPLICAS), "-p", f"{PORT}:80", "--env", "START_DELAY=2"),
    *("--update-parallelism", "2", "--update-monitor", "1s", "--update-delay", "0s"),
    *("--rollback-parallelism", "2", "--rollback-monitor", "1s"),
)
HEALTH = ("--health-cmd", "/probe", "--health-interval", "1s", "--health-retries", "3")


class Web:
    """The service under test, and its clients."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm, self.lab = swarm, swarm.lab
        self.at = addresses(swarm.lab)
        self.version = 1

    # --- what is there ---
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.swarm.get("/services/web")
        return found

    def status(self) -> dict[str, Any]:
        """UpdateStatus; {} without one."""
        return self.spec().get("UpdateStatus") or {}

    def tasks(self) -> set[str]:
        return {task["ID"] for task in self.swarm.running("web")}

    def settled(self, count: int = REPLICAS) -> bool:
        """Whether so many tasks run, of the present spec, and nothing else is wanted."""
        wanted = [task for task in self.swarm.tasks("web") if task["DesiredState"] in ("ready", "running")]
        running = self.swarm.running("web")
        template = self.spec()["Spec"]["TaskTemplate"]
        force = template.get("ForceUpdate", 0)
        return (
            len(wanted) == len(running) == count
            and all(one["Spec"]["ContainerSpec"]["Image"] == template["ContainerSpec"]["Image"] for one in running)
            and all(one["Spec"].get("ForceUpdate", 0) == force for one in running)
        )

    # --- what is done ---
    def update(self, *flags: str) -> None:
        self.swarm.docker("service", "update", "-d", *flags, "web")

    def other_image(self) -> str:
        self.version = 3 - self.version
        return f"web:{self.version}"

    def wait_state(self, *states: str) -> dict[str, Any]:
        """Until the update is over, in one of these ways; its status."""
        over = ("completed", "paused", "rollback_completed", "rollback_paused")
        self.swarm.wait(lambda: self.status().get("State") in over, f"the update ends as {states}", UPDATE_S)
        status = self.status()
        assert status["State"] in states, (status, self.swarm.picture())
        return status

    def wait_whole(self, count: int = REPLICAS) -> None:
        """Until so many tasks run, and all of them answer through every node."""
        self.swarm.wait(lambda: self.settled(count), f"{count} tasks, all of the present spec", UPDATE_S)
        for node in ALL:
            wait_answers(self.swarm, self.tasks(), "tcp", self.at[node], PORT)

    def nodes(self, *without: str) -> list[str]:
        return [f"http://{self.at[node]}:{PORT}/" for node in ALL if node not in without]

    @contextmanager
    def load(self) -> Iterator[Load]:
        """New connections, kept ones and downloads of 3 s through every node meanwhile; no request may fail."""
        with steady(self.lab, self.nodes(), "--new", "2", "--keep", "2", "--slow", "1", "--pause", "0.25") as load:
            yield load
            time.sleep(AFTER_S)  # the load goes on so long: what is late is seen too
        if load.failed:
            began = time.time() - time.monotonic() + load.began
            print(f"the load began at {time.strftime('%H:%M:%S', time.gmtime(began))} UTC", self.swarm.picture())
        load.check()


@pytest.fixture(scope="module")
def made(swarm: Swarm) -> Iterator[Web]:
    swarm.clear()
    yield Web(swarm)
    for node in ALL:
        swarm.docker("node", "update", "--availability", "active", node, check=False)
    swarm.clear()


@pytest.fixture
def web(made: Web) -> Web:
    """The service, whole; made anew if the test before has left anything else."""
    swarm = made.swarm
    listed = {one["Spec"]["Name"] for one in swarm.get("/services")}
    if "web" not in listed or not made.settled() or made.status().get("State", "completed") != "completed":
        swarm.clear()
        for node in ALL:
            swarm.docker("node", "update", "--availability", "active", node)
        made.version = 1
        create(swarm, "web", *SERVICE)
    made.wait_whole()
    return made


def test_without_any_change(web: Web) -> None:
    """The control: what fails here is the lab's, or the load's own."""
    with web.load():
        time.sleep(10)  # so long is looked


@pytest.mark.parametrize("order", ["start-first", "stop-first"])
@pytest.mark.parametrize("health", ["health check", "none"])
def test_an_update(web: Web, order: str, health: str) -> None:
    check = HEALTH if health == "health check" else ("--no-healthcheck",)
    before, image = web.tasks(), web.other_image()
    with web.load() as load:
        web.update("--image", image, "--update-order", order, *check)
        web.wait_state("completed")
        web.wait_whole()
    assert not before & web.tasks()
    assert set(load.versions) == {"1", "2"}, load.versions


def test_a_scale_down_and_up_again(web: Web) -> None:
    before = web.tasks()
    with web.load():
        web.swarm.docker("service", "scale", "-d", "web=2")
        web.wait_whole(2)
        assert web.tasks() < before, "those that stay are not restarted"
        web.swarm.docker("service", "scale", "-d", f"web={REPLICAS}")
        web.wait_whole()


def test_a_drain_and_a_rebalance(web: Web) -> None:
    swarm = web.swarm
    assert swarm.spread("web")["n2"] > 0
    with web.load():
        swarm.docker("node", "update", "--availability", "drain", "n2")
        swarm.wait(lambda: swarm.spread("web")["n2"] == 0 and web.settled(), "n2 is empty", UPDATE_S)
        web.wait_whole()
        swarm.wait(lambda: swarm.containers("n2") == {}, "its containers have ended", UPDATE_S)
        swarm.docker("node", "update", "--availability", "active", "n2")
        kept = web.tasks()
        swarm.swarmsh("rebalance", "web")
        swarm.wait(lambda: set(swarm.spread("web").values()) == {2} and web.settled(), "two on each", UPDATE_S)
        web.wait_whole()
    assert len(web.tasks() & kept) == 4, "no more moved than had to"


BROKEN = {
    # What the new version is, what follows a failure, how that ends, and words of the reason.
    "exits at once": (("--env-add", "EXIT_AFTER=0", "--env-add", "EXIT_CODE=3"), "pause", "paused", "exit"),
    "never healthy": ((*HEALTH, "--env-add", "UNHEALTHY_AFTER=0"), "rollback", "rollback_completed", "health"),
    "no image": (("--image", "nosuch:1", "--no-resolve-image"), "rollback", "rollback_completed", "nosuch"),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("order", ["start-first", "stop-first"])
def test_a_version_that_does_not_work(web: Web, how: str, order: str) -> None:
    flags, action, ends, words = BROKEN[how]
    before = web.tasks()
    with web.load() as load:
        web.update("--update-order", order, "--update-failure-action", action, *flags)
        status = web.wait_state(ends)
        if ends == "rollback_completed":
            web.wait_whole()
    assert words in status["Message"] + "".join(t["Status"].get("Err", "") for t in web.swarm.tasks("web")), status
    assert len(before & web.tasks()) >= REPLICAS - (2 if order == "stop-first" else 0), (
        "no other task of the old version was touched"
    )
    assert set(load.versions) == {str(web.version)}, load.versions
    if ends == "paused":
        web.swarm.docker("service", "rollback", "-d", "web")
        web.wait_state("rollback_completed")
        web.wait_whole()


def swarm_running(web: Web) -> list[dict[str, Any]]:
    return web.swarm.running("web")


def test_a_version_that_listens_late(web: Web) -> None:
    """Ten seconds after its start, without a health check: an update waits until it is ready, as does the mesh."""
    with web.load():
        web.update("--no-healthcheck", "--env-add", f"START_DELAY={LATE_S}", "--update-order", "start-first")
        web.wait_state("completed")
        web.wait_whole()


def test_a_manager_killed_during_updates(web: Web) -> None:
    """At instants of the dice's: each update goes on after it and ends as it would have."""
    rng, swarm = dice(), web.swarm
    kills = 0
    with web.load():
        while kills < KILLS:
            image = web.other_image()
            order = rng.choice(["start-first", "stop-first"])
            web.update("--image", image, "--env-add", "START_DELAY=2", "--update-order", order)
            for _ in range(min(3, KILLS - kills)):
                time.sleep(rng.uniform(0.2, 8))  # not a wait for anything: the instant of the kill
                swarm.kill()
                swarm.start(ready=False)
                kills += 1
            web.wait_state("completed")
            web.wait_whole()
