"""`swarmsh.fence=stop` on real kernels: what must never run twice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .swarm import Swarm

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")
# The manager waits for 46 s after n3 was last seen, then a container is started.
MOVED_WITHIN_S = 180.0


@pytest.fixture
def db(swarm: Swarm) -> Iterator[str]:
    """A fenced service of one task, on n3 but free to go elsewhere; gives the task's id."""
    try:
        for node in ("n1", "n2"):
            set_availability(swarm, node, "drain")
        flags = ("--label", "swarmsh.fence=stop", "--restart-delay", "0s")
        swarm.docker("service", "create", "-d", "--name", "db", *flags, "web:1")
        swarm.wait_running("db", 1)
        assert swarm.spread("db") == {"n3": 1}
        for node in ("n1", "n2"):
            set_availability(swarm, node, "active")
        yield swarm.running("db")[0]["ID"]
    finally:
        for node in ("n1", "n2"):
            set_availability(swarm, node, "active")
        swarm.clear()


def set_availability(swarm: Swarm, node: str, availability: str) -> None:
    swarm.docker("node", "update", "--availability", availability, swarm.node(node)["ID"])


def elsewhere(swarm: Swarm) -> list[str]:
    """Running containers of ours on n1 and n2, asked of the machines themselves."""
    return [c for n in ("n1", "n2") for c in swarm.containers(n).values()]


def policy(swarm: Swarm, task_id: str) -> str:
    container = swarm.containers("n3", all=True)[task_id]
    return swarm.ssh(
        "n3", "docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", container
    ).strip()


def test_a_node_that_is_cut_off_stops_it_before_it_runs_elsewhere(swarm: Swarm, db: str) -> None:
    swarm.lab.fault("n3", "cut")
    try:
        deadline = time.monotonic() + MOVED_WITHIN_S
        while swarm.containers("n3"):  # through the lab's side door
            assert elsewhere(swarm) == [], "it ran twice"
            assert time.monotonic() < deadline, f"n3 did not stop it\n{swarm.picture()}"
        assert elsewhere(swarm) == [], "nothing else runs before that time"
        assert policy(swarm, db) == "no"
        swarm.wait(
            lambda: sum(swarm.spread("db")[n] for n in ("n1", "n2")) == 1, "it runs elsewhere", MOVED_WITHIN_S
        )
        assert swarm.containers("n3") == {}
    finally:
        swarm.lab.fault("n3", "heal")
    successor = swarm.running("db")[0]["ID"]
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait(
        lambda: any(t["ID"] == db and t["Status"]["State"] == "failed" for t in swarm.tasks("db")),
        "n3 told what it did",
    )
    old = next(t for t in swarm.tasks("db") if t["ID"] == db)
    assert "stopped by its node: no manager and no other node in reach" in old["Status"]["Err"]
    assert [t["ID"] for t in swarm.running("db")] == [successor]
    assert [i for n in ALL for i in swarm.containers(n)] == [successor], "nothing doubled"


def test_a_node_that_only_the_manager_does_not_reach_keeps_it_running(swarm: Swarm, db: str) -> None:
    container = swarm.containers("n3")[db]
    swarm.lab.fault("cut-manager", "n3")
    try:
        swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "unreachable", "n3 unreachable")
        until = time.monotonic() + 30  # past the lease and a few rounds of peers
        while time.monotonic() < until:
            assert swarm.containers("n3") == {db: container}
            time.sleep(1)
        before = swarm.started_at("n3")
        swarm.ssh("n3", "docker", "kill", container)
        swarm.wait(lambda: swarm.started_at("n3").keys() == before.keys(), "started again by the helper")
        assert swarm.started_at("n3") != before
        assert policy(swarm, db) == "no", "and not by the Engine"
        assert elsewhere(swarm) == []
    finally:
        swarm.lab.fault("heal-manager", "n3")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait_running("db", 1)
    assert [t["ID"] for t in swarm.running("db")] == [db], "the task kept its id"
    assert [i for n in ALL for i in swarm.containers(n)] == [db]
