"""The manager killed at any instant: nothing acknowledged is lost, nothing that runs is restarted."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from typing import Any

import pytest

from .swarm import Swarm

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")
NAMES = ("a", "b", "c")
KILLS = int(os.environ.get("SWARMSH_TEST_KILLS", "50"))


class Ledger:
    """What was asked for and what was acknowledged: service name -> replicas; None once it was removed."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int | None] = {}
        self.unsure: dict[str, set[int | None]] = {}

    def begin(self, name: str, replicas: int | None) -> None:
        self.unsure.setdefault(name, {self.acknowledged.get(name)}).add(replicas)

    def done(self, name: str, replicas: int | None) -> None:
        self.acknowledged[name] = replicas
        self.unsure.pop(name, None)

    def check(self, seen: dict[str, int]) -> None:
        """Hold what is stored against what was acknowledged, and settle what was under way when the kill came."""
        for name in {*self.acknowledged, *self.unsure, *seen}:
            allowed = self.unsure.get(name, {self.acknowledged.get(name)})
            assert seen.get(name) in allowed, f"{name}: stored {seen.get(name)}, allowed {allowed}"
            self.done(name, seen.get(name))


def body(name: str, replicas: int) -> dict[str, object]:
    return {
        "Name": name,
        "Mode": {"Replicated": {"Replicas": replicas}},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "web:1", "StopGracePeriod": 1_000_000_000},
            "RestartPolicy": {"Delay": 0},
        },
    }


def one_change(swarm: Swarm, rng: random.Random, ledger: Ledger) -> None:
    """Create, scale or remove one of three services, as the dice say; an answer makes it acknowledged."""
    name = rng.choice(NAMES)
    known = ledger.acknowledged.get(name)
    if known is None:
        replicas = rng.randint(0, 2)
        ledger.begin(name, replicas)
        if swarm.call("POST", "/services/create", body(name, replicas))[0] == 201:
            ledger.done(name, replicas)
    elif rng.random() < 0.3:
        ledger.begin(name, None)
        if swarm.call("DELETE", f"/services/{name}")[0] == 200:
            ledger.done(name, None)
    else:
        replicas = rng.randint(0, 2)
        ledger.begin(name, replicas)
        version = swarm.get(f"/services/{name}")["Version"]["Index"]
        if swarm.call("POST", f"/services/{name}/update?version={version}", body(name, replicas))[0] == 200:
            ledger.done(name, replicas)


def work_until_killed(swarm: Swarm, rng: random.Random, ledger: Ledger) -> None:
    """Change after change until the socket breaks."""
    while True:
        try:
            one_change(swarm, rng, ledger)
        except (OSError, http.client.HTTPException, AssertionError):
            return


def stored(swarm: Swarm) -> dict[str, int]:
    return {
        s["Spec"]["Name"]: s["Spec"]["Mode"]["Replicated"]["Replicas"]
        for s in swarm.get("/services")
        if s["Spec"]["Name"] in NAMES
    }


def dice() -> random.Random:
    """Seeded by SWARMSH_TEST_SEED; the seed is printed, for a failed test's report."""
    seed = int(os.environ.get("SWARMSH_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"SWARMSH_TEST_SEED={seed}")
    return random.Random(seed)


def test_a_manager_killed_again_and_again_loses_nothing_and_restarts_nothing(swarm: Swarm) -> None:
    rng, ledger = dice(), Ledger()
    swarm.clear()
    swarm.docker("service", "create", "-d", "--name", "steady", "--replicas", "3", "web:1")
    swarm.wait_running("steady", 3)
    steady_tasks = {t["ID"] for t in swarm.running("steady")}
    before = {c: at for n in ALL for c, at in swarm.started_at(n).items()}
    for _ in range(KILLS):
        worker = threading.Thread(target=work_until_killed, args=(swarm, rng, ledger))
        worker.start()
        # Not a wait for anything: the instant of the kill is the dice's.
        time.sleep(rng.random() * 0.8)
        swarm.kill()
        worker.join(60)
        assert not worker.is_alive()
        swarm.start(ready=False)
        ledger.check(stored(swarm))
    wanted = {name: replicas for name, replicas in ledger.acknowledged.items() if replicas is not None}
    for name, replicas in wanted.items():
        swarm.wait_running(name, replicas)
    total = sum(wanted.values()) + 3
    swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == total, f"{total} containers in all")
    assert {t["ID"] for t in swarm.running("steady")} == steady_tasks
    after = {c: at for n in ALL for c, at in swarm.started_at(n).items()}
    assert before.items() <= after.items(), "a running container was restarted"
    swarm.clear()
    swarm.wait(lambda: all(swarm.containers(n, all=True) == {} for n in ALL), "no container left behind")


def test_an_update_goes_on_over_a_manager_killed_three_times(swarm: Swarm) -> None:
    """Each kill comes at an instant of the dice's within the start of one of the six, so while the update runs."""
    rng = dice()
    swarm.clear()
    flags = ("--restart-delay", "0s", "--stop-grace-period", "1s", "--update-parallelism", "1")
    at_once = ("--update-delay", "0s", "--update-monitor", "1s")
    swarm.docker("service", "create", "-d", "--name", "web", "--replicas", "6", *flags, *at_once, "web:1")
    swarm.wait_running("web", 6)
    old = {t["ID"] for t in swarm.tasks("web")}

    def renewed() -> list[dict[str, Any]]:
        return [t for t in swarm.tasks("web") if t["Spec"]["ContainerSpec"]["Image"] == "web:2"]

    def update() -> str:
        return str(swarm.get("/services/web").get("UpdateStatus", {}).get("State", ""))

    swarm.docker("service", "update", "-d", "--image", "web:2", "web")
    for number in sorted(rng.sample(range(1, 7), 3)):
        swarm.wait(lambda number=number: len(renewed()) >= number, f"new task {number} of 6")
        # Not a wait for anything: the instant of the kill is the dice's.
        time.sleep(rng.random() * 2.0)
        swarm.kill()
        swarm.start(ready=False)
    swarm.wait(lambda: update() not in ("", "updating"), "the update's end")
    assert update() == "completed", swarm.picture()
    swarm.wait_running("web", 6)
    assert sorted(t["Slot"] for t in renewed()) == [1, 2, 3, 4, 5, 6], "none of the new version was ever replaced"
    assert {t["ID"] for t in renewed()} == {t["ID"] for t in swarm.running("web")}
    ends = {t["ID"]: t["Status"]["State"] for t in swarm.tasks("web") if t["ID"] in old}
    assert not {"failed", "rejected", "orphaned"} & set(ends.values()), ends
    swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 6, "six containers in all")
    for node in ALL:
        images = swarm.ssh(node, "docker", "ps", "--filter", "label=swarmsh.cluster", "--format", "{{.Image}}")
        assert set(images.split()) <= {"web:2"}, images
    swarm.clear()
