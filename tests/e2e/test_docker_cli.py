"""The real docker CLIs (20.10, 26.1, 28.5) and the docker SDK against a manager with real nodes, as on a Swarm."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import docker
import pytest

from .swarm import Swarm, cli

pytestmark = pytest.mark.e2e

SUITES = ("bookworm", "trixie", "forky")


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()


@pytest.mark.parametrize("suite", SUITES)
def test_a_service_lives_as_on_a_swarm(swarm: Swarm, suite: str) -> None:
    def run(*argv: str) -> str:
        return swarm.docker(*argv, suite=suite)

    created = run("service", "create", "--name", "web", "--replicas", "2", "--restart-delay", "0s", "web:1")
    assert "converged" in created
    assert re.match(r"[a-z0-9]{25}\n", created)
    assert re.search(r"web\s+replicated\s+2/2\s+web:1", run("service", "ls"))
    shown = run("service", "ps", "web")
    assert re.search(r"web\.1\s+web:1\s+n[123]\s+Running\s+Running \d+ seconds ago", shown)
    (inspected,) = json.loads(run("service", "inspect", "web"))
    assert inspected["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "web:1"
    pretty = run("service", "inspect", "--pretty", "web")
    assert re.search(r"Replicas:\s+2", pretty)
    assert "Parallelism:" in pretty

    # As the lessons type it: by id, and with one flag.
    assert "converged" in run("service", "update", inspected["ID"], "--replicas", "3")
    assert "converged" in run("service", "scale", "web=1")
    updated = run("service", "update", "--env-add", "A=1", "--update-monitor", "1s", "web")
    assert "converged" in updated
    assert re.search(r"UpdateStatus:\s+State:\s+completed", run("service", "inspect", "--pretty", "web"))
    swarm.wait(lambda: "start" in run("service", "logs", "web"), "a log line")
    assert re.search(r"web\.1\.\w+@n[123]\s+\| ", run("service", "logs", "web"))
    assert run("service", "rm", "web") == "web\n"
    assert "web" not in run("service", "ls")


@pytest.mark.parametrize("suite", SUITES)
def test_arguments_follow_the_image_and_a_name_is_found(swarm: Swarm, suite: str) -> None:
    output = swarm.docker(
        *(
            "service",
            "create",
            "--restart-condition",
            "none",
            "web:1",
            "busybox",
            "sh",
            "-c",
            "echo said $0; sleep 600",
        ),
        suite=suite,
    )
    service_id = output.split()[0]
    (inspected,) = json.loads(swarm.docker("service", "inspect", service_id, suite=suite))
    assert re.fullmatch(r"[a-z]+_[a-z]+\d*", inspected["Spec"]["Name"])
    assert inspected["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"][0] == "busybox"
    swarm.wait(
        lambda: "said sh" in swarm.docker("service", "logs", "--raw", service_id, suite=suite), "its output"
    )


@pytest.mark.parametrize("suite", SUITES)
def test_nodes_are_listed_changed_and_removed_as_on_a_swarm(swarm: Swarm, suite: str) -> None:
    def run(*argv: str) -> str:
        return swarm.docker(*argv, suite=suite)

    listed = run("node", "ls")
    assert re.search(r"\* \s*n1\s+Ready\s+Active\s+Leader\s+20\.10", listed)
    assert len(listed.splitlines()) == 4
    assert "Hostname:" in run("node", "inspect", "--pretty", "n2")
    assert json.loads(run("node", "inspect", "self"))[0]["Description"]["Hostname"] == "n1"
    run("node", "update", "--label-add", "disk=ssd", "n2")
    run(
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        "--constraint",
        "node.labels.disk==ssd",
        "web:1",
    )
    swarm.wait(lambda: swarm.spread("web") == {"n2": 2}, "both on n2")
    assert re.search(r"web\.\d\s+web:1\s+n2\s+Running\s+Running", run("node", "ps", "n2"))
    run("node", "update", "--availability", "drain", "n2")
    swarm.wait(lambda: swarm.containers("n2") == {}, "n2 drained")
    assert "no suitable node (scheduling constraints not satisfied on 2 nodes" in run(
        "service", "ps", "--no-trunc", "web"
    )
    run("node", "update", "--availability", "active", "n2")
    swarm.wait(lambda: swarm.spread("web") == {"n2": 2}, "both on n2 again")
    run("node", "update", "--label-rm", "disk", "n2")
    refused = swarm.run(cli(swarm.lab, suite), "node", "rm", "n3")
    assert refused.returncode == 1
    assert "is not down and can't be removed" in refused.stderr


@pytest.mark.parametrize("suite", SUITES)
def test_info_version_and_events(swarm: Swarm, suite: str) -> None:
    info = swarm.docker("info", suite=suite)
    assert re.search(r"Swarm: active\s+NodeID: \w{25}\s+Is Manager: true", info)
    assert re.search(r"Nodes: 3", info)
    assert "swarmsh" in swarm.docker("version", suite=suite)
    before = swarm.docker("version", "--format", "{{.Server.APIVersion}}", suite=suite).strip()
    assert before == "1.51"
    name = f"seen-{suite}"
    since = str(int(time.time()) - 1)
    follow = (cli(swarm.lab, suite), "events", "--since", since, "--filter", "type=service")
    form = ("--format", "{{.Action}} {{.Actor.Attributes.name}}")
    with subprocess.Popen([*follow, *form], env=swarm.environment(), stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        try:
            swarm.docker("service", "create", "-d", "--name", name, "--replicas", "0", "web:1", suite=suite)
            swarm.docker("service", "scale", "-d", f"{name}=1", suite=suite)
            swarm.docker("service", "rm", name, suite=suite)
            # The second that --since names may hold events of the test before.
            of_ours = (line.strip() for line in events.stdout if line.endswith(f" {name}\n"))
            assert [next(of_ours) for _ in range(3)] == [
                f"create {name}",
                f"update {name}",
                f"remove {name}",
            ]
        finally:
            events.terminate()


def test_logs_are_followed_over_all_nodes(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--mode", "global", "-e", "LOG_EVERY=1", "web:1")
    swarm.wait_running("web", 3)
    with subprocess.Popen(
        [cli(swarm.lab, "forky"), "service", "logs", "-f", "web"],
        env=swarm.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as logs:
        assert logs.stdout is not None
        try:
            seen: dict[str, int] = {}
            while len(seen) < 3 or min(seen.values()) < 3:
                line = logs.stdout.readline()
                assert line, seen
                if "tick" in line:
                    node = line.split("@")[1].split()[0]
                    seen[node] = seen.get(node, 0) + 1
        finally:
            logs.terminate()


def test_more_logs_of_one_node_are_followed_than_its_sshd_takes_channels(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "-e", "LOG_EVERY=1", "web:1")
    swarm.wait_running("web", 1)
    with contextlib.ExitStack() as following:
        clients = []
        for _ in range(14):  # MaxSessions is 10, one of which is the helper's
            argv = [cli(swarm.lab, "forky"), "service", "logs", "-f", "web"]
            client = subprocess.Popen(argv, env=swarm.environment(), stdout=subprocess.PIPE, text=True)
            following.enter_context(client)
            following.callback(client.terminate)
            clients.append(client)
        late = threading.Timer(120, lambda: [client.kill() for client in clients])
        following.callback(late.cancel)
        late.start()
        for client in clients:
            assert client.stdout is not None
            lines = iter(client.stdout.readline, "")
            assert any("tick" in line for line in lines), "it ended without a line"


def test_a_dead_node_does_not_block_the_logs_of_the_rest(swarm: Swarm) -> None:
    swarm.docker("service", "create", "-d", "--name", "web", "--mode", "global", "web:1")
    swarm.wait_running("web", 3)
    swarm.lab.fault("n3", "freeze")
    try:
        swarm.wait(lambda: "no answer" in swarm.node("n3")["Status"].get("Message", ""), "n3 silent")
        logs = swarm.docker("service", "logs", "web", check=False, timeout=60)
        assert {line.split("@")[1].split()[0] for line in logs.splitlines() if "@" in line} >= {"n1", "n2"}
    finally:
        swarm.lab.fault("n3", "thaw")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")


def test_the_docker_sdk_manages_services_and_nodes(swarm: Swarm) -> None:
    client = docker.DockerClient(base_url=f"unix://{swarm.socket}", version="auto", timeout=60)
    try:
        service = client.services.create(
            "web:1",
            name="web",
            env=["A=1"],
            mode=docker.types.ServiceMode("replicated", replicas=2),
            restart_policy=docker.types.RestartPolicy(condition="any", delay=0),
            update_config=docker.types.UpdateConfig(parallelism=2, order="start-first"),
            endpoint_spec=docker.types.EndpointSpec(ports={8091: (80, "tcp", "host")}),
        )
        swarm.wait_running("web", 2)
        assert len(service.tasks(filters={"desired-state": "running"})) == 2
        assert service.scale(1)
        swarm.wait_running("web", 1)
        service.reload()
        assert service.attrs["Spec"]["TaskTemplate"]["ForceUpdate"] == 0
        swarm.wait(lambda: b"start" in b"".join(service.logs(stdout=True, stderr=True)), "its log")
        assert service.force_update() is not None
        swarm.wait(
            lambda: (client.services.get("web").attrs.get("UpdateStatus") or {}).get("State") == "completed",
            "the forced update completed",
        )
        assert {n.attrs["Description"]["Hostname"] for n in client.nodes.list()} == {"n1", "n2", "n3"}
        assert client.swarm.attrs["ID"]
        assert service.remove()
    finally:
        client.close()
