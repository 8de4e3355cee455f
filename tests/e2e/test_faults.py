"""The design's failure table, row by row, on real kernels. Each test leaves the cluster whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .labctl import AWAY_ADDRESS, Lab
from .swarm import Swarm

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()


def create(swarm: Swarm, *flags: str, name: str = "web", image: str = "web:1") -> None:
    swarm.docker("service", "create", "-d", "--name", name, "--restart-delay", "0s", *flags, image)


def started(swarm: Swarm) -> dict[str, str]:
    """Container id -> start time, over all nodes that answer."""
    return {c: at for n in ALL for c, at in swarm.started_at(n).items()}


def restart_policies(swarm: Swarm, node: str) -> set[str]:
    """By which policies a node's Engine goes on with our containers."""
    ids = swarm.containers(node).values()
    return set(
        swarm.ssh(node, "docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", *ids).split()
    )


def wait_logged_in(swarm: Swarm, address: str, known: dict[str, set[str]]) -> None:
    """Until the nodes that are keys of `known` have other logins than those, from `address`, and all are ready."""
    swarm.wait(
        lambda: all(any(peer.startswith(f"{address}:") for peer in swarm.logins(n) - known[n]) for n in known),
        f"sessions from {address}",
    )
    swarm.wait(
        lambda: swarm.connected() == set(ALL) and all(n["Status"]["State"] == "ready" for n in swarm.nodes()),
        "all nodes connected and ready",
    )


def test_a_killed_container_is_followed_by_another(swarm: Swarm) -> None:
    create(swarm, "--replicas", "2")
    swarm.wait_running("web", 2)
    task = swarm.running("web")[0]
    node = next(n["Spec"]["Name"] for n in swarm.nodes() if n["ID"] == task["NodeID"])
    swarm.ssh(node, "docker", "kill", task["Status"]["ContainerStatus"]["ContainerID"])
    swarm.wait(lambda: task["ID"] not in {t["ID"] for t in swarm.running("web")}, "the killed task noticed")
    swarm.wait_running("web", 2)
    ended = next(t for t in swarm.tasks("web") if t["ID"] == task["ID"])
    assert ended["Status"]["State"] == "failed"
    assert ended["Status"]["Err"] == "task: non-zero exit (137)"
    assert ended["Slot"] in {t["Slot"] for t in swarm.running("web")}


def test_an_unhealthy_container_is_replaced(swarm: Swarm) -> None:
    health = ("--health-cmd", "/probe", "--health-interval", "1s", "--health-retries", "1")
    create(swarm, *health, "-e", "UNHEALTHY_AFTER=6")
    swarm.wait_running("web", 1)
    first = swarm.running("web")[0]["ID"]
    swarm.wait(
        lambda: any(t["ID"] == first and t["Status"]["State"] == "failed" for t in swarm.tasks("web")),
        "the unhealthy task failed",
    )
    failed = next(t for t in swarm.tasks("web") if t["ID"] == first)
    assert "unhealthy" in failed["Status"]["Err"]
    swarm.wait_running("web", 1)


def test_a_restarted_dockerd_doubles_nothing(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    elsewhere = {**swarm.started_at("n1"), **swarm.started_at("n3")}
    swarm.ssh("n2", "systemctl", "restart", "docker")
    swarm.wait(lambda: len(swarm.containers("n2")) == 1, "one container on n2 again")
    swarm.wait_running("web", 3)
    assert [len(swarm.containers(n)) for n in ALL] == [1, 1, 1]
    assert {**swarm.started_at("n1"), **swarm.started_at("n3")} == elsewhere


def test_a_hung_engine_counts_as_a_lost_node_and_its_processes_end_first(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    swarm.lab.fault("n2", "hang-engine")
    try:
        swarm.wait(lambda: swarm.node("n2")["Status"]["State"] == "down", "n2 counted as down")
        swarm.wait(lambda: sum(swarm.spread("web")[n] for n in ("n1", "n3")) == 3, "all three run elsewhere")
        serving = swarm.ssh("n2", "pgrep", "-x", "web", check=False)
        assert serving.strip() == "", "the processes of the replaced tasks ended"
    finally:
        swarm.lab.fault("n2", "resume-engine")
    swarm.wait(lambda: swarm.node("n2")["Status"]["State"] == "ready", "n2 ready again")
    swarm.wait(lambda: swarm.containers("n2") == {}, "nothing doubled")
    swarm.wait_running("web", 3)


def test_a_node_without_power_is_replaced_and_welcome_after_its_return(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    kept = {**swarm.started_at("n1"), **swarm.started_at("n2")}
    swarm.lab.fault("n3", "power-off")
    try:
        swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "down", "n3 down")
        swarm.wait(lambda: sum(swarm.spread("web")[n] for n in ("n1", "n2")) == 3, "all three run elsewhere")
    finally:
        swarm.lab.fault("n3", "power-on", "--wait")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait(lambda: swarm.containers("n3") == {}, "no old task on n3")
    assert len(swarm.running("web")) == 3
    after = {**swarm.started_at("n1"), **swarm.started_at("n2")}
    assert kept.items() <= after.items(), "nothing that ran was restarted"


def test_a_node_cut_off_for_a_while_keeps_no_doubles(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    kept = {**swarm.started_at("n1"), **swarm.started_at("n2")}
    swarm.lab.fault("n3", "cut")
    try:
        swarm.wait(lambda: sum(swarm.spread("web")[n] for n in ("n1", "n2")) == 3, "all three run elsewhere")
    finally:
        swarm.lab.fault("n3", "heal")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait(lambda: swarm.containers("n3") == {}, "the doubled task on n3 removed")
    assert kept.items() <= started(swarm).items()
    assert len(swarm.running("web")) == 3


def test_a_short_cut_restarts_nothing(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    before = started(swarm)
    swarm.lab.fault("n3", "cut")
    try:
        swarm.wait(lambda: "no answer" in swarm.node("n3")["Status"].get("Message", ""), "n3 silent")
    finally:
        swarm.lab.fault("n3", "heal")
    swarm.wait(lambda: swarm.node("n3")["Status"].get("Message", "") == "", "n3 heard again")
    assert started(swarm) == before


def test_a_node_that_only_the_manager_cannot_reach_keeps_its_tasks(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    before = started(swarm)
    tasks = {t["ID"] for t in swarm.running("web")}
    swarm.lab.fault("cut-manager", "n3")
    try:
        swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "unreachable", "n3 unreachable")
        down_after = time.monotonic() + 14
        while time.monotonic() < down_after:  # longer than the second clock: it must make no difference
            assert swarm.node("n3")["Status"]["State"] == "unreachable"
            time.sleep(0.5)
        assert "other nodes reach it" in swarm.node("n3")["Status"]["Message"]
        assert {t["ID"] for t in swarm.running("web")} == tasks
    finally:
        swarm.lab.fault("heal-manager", "n3")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    assert started(swarm) == before


def test_a_rebooted_node_runs_its_share_again_without_a_command(swarm: Swarm) -> None:
    create(swarm, "--mode", "global")
    swarm.wait_running("web", 3)
    kept = {**swarm.started_at("n1"), **swarm.started_at("n2")}
    swarm.lab.fault("n3", "reboot", "--wait")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait_running("web", 3)
    assert [len(swarm.containers(n)) for n in ALL] == [1, 1, 1]
    assert kept.items() <= started(swarm).items()


def test_a_manager_that_loses_its_own_network_moves_nothing(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    before = started(swarm)
    for node in ALL:
        swarm.lab.fault("cut-manager", node)
    try:
        swarm.wait(
            lambda: all("doubts its own network" in n["Status"].get("Message", "") for n in swarm.nodes()),
            "the manager doubts itself",
        )
        assert len(swarm.running("web")) == 3
    finally:
        for node in ALL:
            swarm.lab.fault("heal-manager", node)
    swarm.wait(lambda: all(n["Status"]["State"] == "ready" for n in swarm.nodes()), "all ready again")
    assert started(swarm) == before


def test_a_manager_that_slept_moves_nothing(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    before = started(swarm)
    assert swarm.process is not None
    swarm.process.send_signal(signal.SIGSTOP)
    time.sleep(20)  # the thing itself: longer than the lease and than both clocks
    swarm.process.send_signal(signal.SIGCONT)
    swarm.wait(lambda: all(n["Status"]["State"] == "ready" for n in swarm.nodes()), "all ready again")
    swarm.wait_running("web", 3)
    assert started(swarm) == before
    assert all(t["DesiredState"] == "running" for t in swarm.tasks("web"))


def test_a_manager_whose_network_changes_comes_back_from_its_new_address(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    before = started(swarm)
    home = swarm.lab.status().host_address
    known = {n: swarm.logins(n) for n in ALL}
    swarm.lab.move_host(home, AWAY_ADDRESS)
    try:
        wait_logged_in(swarm, AWAY_ADDRESS, known)
        assert started(swarm) == before
        swarm.docker("service", "scale", "-d", "web=2")
        swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 2, "nodes do as they are told")
    finally:
        known = {n: swarm.logins(n) for n in ALL}
        swarm.lab.move_host(AWAY_ADDRESS, home)
    wait_logged_in(swarm, home, known)
    assert started(swarm).items() <= before.items(), "nothing was moved or restarted"


def test_a_changed_host_key_is_refused_and_nothing_is_sent(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    before = started(swarm)
    swarm.lab.fault("n3", "new-host-key")
    try:
        # The session that stands was opened with the old key; it must end for another to be tried.
        swarm.ssh("n3", "pkill -f '[s]shd.*root@notty'", check=False)
        swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "untrusted", "n3 untrusted")
        message = swarm.node("n3")["Status"]["Message"]
        assert "host key changed" in message
        assert message.count("SHA256:") == 2, message
        assert "untrusted" in swarm.swarmsh("node", "ls").lower()
        swarm.docker("service", "scale", "-d", "web=1")
        swarm.wait(lambda: len(swarm.containers("n1")) + len(swarm.containers("n2")) <= 1, "scaled down elsewhere")
        assert len(swarm.containers("n3")) == 1, "nothing was sent to n3"
        assert {c: at for c, at in before.items() if c in swarm.containers("n3").values()} == swarm.started_at(
            "n3"
        )
    finally:
        swarm.lab.fault("n3", "old-host-key")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 trusted again")


def test_an_image_that_does_not_exist_is_said_and_the_rest_goes_on(swarm: Swarm) -> None:
    create(swarm, name="missing", image="nobody/has:this")
    create(swarm, name="good")
    swarm.wait_running("good", 1)
    swarm.wait(
        lambda: any(t["Status"]["State"] == "rejected" for t in swarm.tasks("missing")), "the task rejected"
    )
    task = next(t for t in swarm.tasks("missing") if t["Status"]["State"] == "rejected")
    assert "nobody/has:this" in task["Status"]["Err"]
    shown = swarm.docker("service", "ps", "--no-trunc", "missing")
    assert "Rejected" in shown
    assert "nobody/has:this" in shown


def test_a_port_that_is_taken_is_said(swarm: Swarm) -> None:
    swarm.ssh("n1", "docker", "run", "-d", "--name", "squatter", "-p", "8099:80", "web:1")
    try:
        create(
            swarm,
            *("--constraint", "node.hostname==n1", "--restart-condition", "none"),
            *("--publish", "mode=host,published=8099,target=80"),
        )
        swarm.wait(lambda: any(t["Status"].get("Err") for t in swarm.tasks("web")), "the error on the task")
        assert "8099" in next(t["Status"]["Err"] for t in swarm.tasks("web") if t["Status"].get("Err"))
    finally:
        swarm.ssh("n1", "docker", "rm", "-f", "squatter")


def test_host_ports_are_never_given_twice_on_one_node(swarm: Swarm) -> None:
    create(swarm, "--replicas", "4", "--publish", "mode=host,published=8090,target=80")
    swarm.wait_running("web", 3)
    assert swarm.spread("web") == {"n1": 1, "n2": 1, "n3": 1}
    swarm.wait(
        lambda: any("host-mode port already in use" in t["Status"].get("Err", "") for t in swarm.tasks("web")),
        "the fourth says why it waits",
    )
    for address in ("10.98.0.11", "10.98.0.12", "10.98.0.13"):
        answer = swarm.lab.run("curl", "-sf", "--max-time", "10", f"http://{address}:8090/")
        assert "version=1" in answer


def test_a_replacement_never_finds_the_host_port_of_its_predecessor_taken(swarm: Swarm) -> None:
    """On each node, so with each Engine: those before 23.0 tell of an end before the port is free."""
    create(swarm, "--mode", "global", "--publish", "mode=host,published=8090,target=80")
    swarm.wait_running("web", 3)
    first = {t["ID"] for t in swarm.running("web")}
    swarm.docker("service", "update", "-d", "--image", "web:2", "--update-parallelism", "0", "web")
    swarm.wait(lambda: len({t["ID"] for t in swarm.running("web")} - first) == 3, "all three replaced")
    second = {t["ID"] for t in swarm.running("web")}
    for node in ALL:
        (container,) = swarm.containers(node).values()
        swarm.ssh(node, f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {container})")
    swarm.wait(lambda: len({t["ID"] for t in swarm.running("web")} - second) == 3, "all three followed")
    errors = [t["Status"].get("Err", "") for t in swarm.tasks("web")]
    assert not [e for e in errors if "port" in e], errors
    assert sum("non-zero exit (137)" in e for e in errors) == 3, errors


def test_a_killed_helper_resumes_by_itself(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    before = started(swarm)
    pid = swarm.ssh("n2", "systemctl", "show", "-p", "MainPID", "--value", "swarmsh-helper").strip()
    swarm.ssh("n2", "kill", "-9", pid)
    swarm.wait(
        lambda: (
            swarm.ssh("n2", "systemctl", "show", "-p", "MainPID", "--value", "swarmsh-helper").strip()
            not in ("0", pid)
        ),
        "a new helper",
    )
    swarm.wait(lambda: swarm.node("n2")["Status"]["State"] == "ready", "n2 ready")
    swarm.docker("service", "scale", "-d", "web=2")
    swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 2, "the new helper does as it is told")
    assert started(swarm).items() <= before.items()


def test_without_a_manager_tasks_go_on_and_crashed_ones_come_back(swarm: Swarm) -> None:
    """A minute (or SWARMSH_TEST_AWAY_S), in which a task crashes, one turns unhealthy, a dockerd restarts
    and its node loses power."""
    health = ("--health-cmd", "/probe", "--health-interval", "1s", "--health-retries", "1")
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    create(swarm, "--constraint", "node.hostname==n1", "-e", "UNHEALTHY_AFTER=45", *health, name="sick")
    swarm.wait_running("web", 3)
    swarm.wait_running("sick", 1)
    ids = {t["ID"] for t in swarm.running("web")}
    sick = swarm.running("sick")[0]
    swarm.kill()
    back_at = time.monotonic() + float(os.environ.get("SWARMSH_TEST_AWAY_S", "0"))
    (task_id, container), *_ = swarm.containers("n2").items()
    swarm.wait(lambda: restart_policies(swarm, "n2") == {"always"}, "the helper on its own after the lease", 40)
    crashed = swarm.started_at("n2")
    swarm.ssh("n2", f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {container})")
    swarm.wait(
        lambda: swarm.containers("n2").get(task_id) == container and swarm.started_at("n2") != crashed,
        "the crashed container is back, the same one",
    )
    before = swarm.ssh(
        "n1",
        "docker",
        "inspect",
        "--format",
        "{{.State.StartedAt}}",
        sick["Status"]["ContainerStatus"]["ContainerID"],
    )
    swarm.wait(
        lambda: (
            swarm.ssh(
                "n1",
                *("docker", "inspect", "--format", "{{.State.StartedAt}}"),
                sick["Status"]["ContainerStatus"]["ContainerID"],
            )
            != before
        ),
        "the unhealthy container restarted by the helper",
    )
    on_n3 = swarm.started_at("n3")
    swarm.ssh("n3", "systemctl", "restart", "docker")
    swarm.wait(lambda: swarm.started_at("n3").keys() == on_n3.keys(), "its containers back on n3")
    swarm.lab.fault("n3", "power-off")
    swarm.lab.fault("n3", "power-on", "--wait")
    swarm.wait(lambda: swarm.started_at("n3").keys() == on_n3.keys(), "its containers back on n3, again")
    # Only the longer absence that was asked for: what must be seen has been seen.
    swarm.wait(lambda: time.monotonic() >= back_at, "the time without a manager", back_at - time.monotonic() + 60)
    swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 4, "all run when the manager comes back")
    steady = started(swarm)
    swarm.start()
    swarm.wait_running("web", 3)
    assert {t["ID"] for t in swarm.running("web")} == ids, "each task keeps its id"
    swarm.wait(lambda: restart_policies(swarm, "n2") == {"no"}, "the manager took its tasks back")
    now = started(swarm)
    web = {c for n in ALL for t, c in swarm.containers(n).items() if t in ids}
    assert {c: now[c] for c in web} == {c: steady[c] for c in web}, "taking back restarts nothing"


def test_a_node_that_lost_power_without_a_manager_is_replaced_on_its_return(swarm: Swarm) -> None:
    """The node is on again only after that, with a container too many: its Engine starts it by itself."""
    create(swarm, "--replicas", "3")
    swarm.wait_running("web", 3)
    kept = {**swarm.started_at("n1"), **swarm.started_at("n2")}
    tasks = {t["ID"] for t in swarm.running("web")}
    (lost,) = swarm.containers("n3")
    swarm.kill()
    swarm.wait(lambda: restart_policies(swarm, "n3") == {"always"}, "the helper on its own after the lease")
    swarm.lab.fault("n3", "power-off")
    try:
        swarm.start(ready=False)
        swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "down", "n3 down")
        swarm.wait(lambda: sum(swarm.spread("web")[n] for n in ("n1", "n2")) == 3, "all three run elsewhere")
        assert tasks - {t["ID"] for t in swarm.running("web")} == {lost}, "only the lost one was replaced"
    finally:
        swarm.lab.fault("n3", "power-on", "--wait")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait(
        lambda: swarm.containers("n3") == {} and swarm.containers("n3", all=True).keys() == {lost},
        "its container on n3 stopped, and kept as history",
    )
    assert len(swarm.running("web")) == 3
    assert kept.items() <= started(swarm).items(), "nothing that ran was restarted"


@pytest.fixture
def _through_a_slow_n1(swarm: Swarm, tmp_path: Path) -> Iterator[None]:
    """Every machine's link slow, n1 the jump host of the others, and the manager started on that."""
    direct = swarm.inventory
    swarm.stop()
    known = {n: swarm.logins(n) for n in ("n2", "n3")}
    for node in ALL:
        swarm.lab.fault(node, "slow")
    try:
        swarm.inventory = behind_n1(swarm.lab, tmp_path)
        swarm.start()
        wait_logged_in(swarm, swarm.lab.status().nodes["n1"].address, known)
        yield
    finally:
        for node in ALL:
            swarm.lab.fault(node, "heal")
        swarm.inventory = direct
        swarm.end()
        known = {n: swarm.logins(n) for n in ALL}
        swarm.start()
        wait_logged_in(swarm, swarm.lab.status().host_address, known)


def behind_n1(lab: Lab, directory: Path) -> Path:
    """The lab's inventory with n1 as the way to all others."""
    lines = []
    for line in lab.inventory.read_text().splitlines():
        lines.append(line)
        if line in ("    n2:", "    n3:"):
            lines.append("      ansible_ssh_common_args: -J n1")
    path = directory / "behind-n1.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.usefixtures("_through_a_slow_n1")
def test_a_slow_link_through_a_jump_host_makes_nothing_fail(swarm: Swarm) -> None:
    create(swarm, "--replicas", "3", "--replicas-max-per-node", "1")
    swarm.wait_running("web", 3)
    assert len(swarm.tasks("web")) == 3, "none was tried twice"
    swarm.docker("service", "scale", "-d", "web=1")
    swarm.wait(lambda: sum(len(swarm.containers(n)) for n in ALL) == 1, "one container left")
