"""Our own CLI against real nodes: from an inventory to a cluster, checks, exec, registries."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .labctl import Lab
from .swarm import SWARMSH, Swarm

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()


def test_node_check_proves_what_each_node_offers(swarm: Swarm) -> None:
    shown = swarm.swarmsh("node", "check")
    for name in ("n1", "n2", "n3"):
        assert name in shown
    items = json.loads(swarm.swarmsh("node", "check", "--format", "json", "n2"))
    found = json.dumps(items)
    for what in ("python", "ip_vs", "vxlan", "esp4", "iptables", "clock"):
        assert what in found


def test_node_check_says_how_to_mend_what_is_missing(swarm: Swarm) -> None:
    tool = swarm.ssh("n2", "command -v tc").strip()
    swarm.ssh("n2", "mv", tool, f"{tool}.away")
    try:
        done = swarm.run(SWARMSH, "node", "check", "n2")
        assert done.returncode == 1
        assert re.search(r"tc\b.*", done.stdout)
        assert "apt install iproute2" in done.stdout
    finally:
        swarm.ssh("n2", "mv", f"{tool}.away", tool)
    assert swarm.run(SWARMSH, "node", "check", "n2").returncode == 0


def test_exec_runs_in_any_task_wherever_it_is(swarm: Swarm) -> None:
    swarm.swarmsh("service", "create", "-d", "--name", "web", "--mode", "global", "web:1")
    swarm.wait_running("web", 3)
    for task in swarm.running("web"):
        host = swarm.swarmsh("service", "exec", task["ID"], "hostname").strip()
        assert host == task["Status"]["ContainerStatus"]["ContainerID"][:12]
    done = swarm.run(SWARMSH, "service", "exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    done = swarm.run(SWARMSH, "service", "exec", "-i", "web", "cat", stdin=b"through and back")
    assert done.stdout == "through and back"
    done = swarm.run(SWARMSH, "service", "exec", "nothing", "true")
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_our_service_commands_do_what_dockers_do(swarm: Swarm) -> None:
    flags = ("--name", "web", "--replicas", "2", "--restart-delay", "0s", "--update-monitor", "1s")
    created = swarm.run(SWARMSH, "service", "create", *flags, "web:1")
    assert re.fullmatch(r"[a-z0-9]{25}\n", created.stdout), created
    assert "converged" in created.stderr
    assert [s["Replicas"] for s in json.loads(swarm.swarmsh("service", "ls", "--format", "json"))] == ["2/2"]
    swarm.swarmsh("service", "scale", "web=1")
    swarm.swarmsh("service", "update", "--image", "web:2", "web")
    answer = swarm.swarmsh("service", "exec", "web", "wget", "-qO-", "http://127.0.0.1/")
    assert "version=2" in answer
    assert "web.1" in swarm.swarmsh("service", "ps", "web")
    assert "start" in swarm.swarmsh("service", "logs", "web")
    assert swarm.swarmsh("service", "rm", "web") == "web\n"


def test_a_probe_label_gates_running_as_a_healthcheck_does(swarm: Swarm) -> None:
    swarm.swarmsh(
        *("service", "create", "-d", "--name", "web", "-l", "swarmsh.probe=http:80/healthz"),
        *("-l", "swarmsh.probe.interval=1s", "-l", "swarmsh.probe.retries=2", "--restart-delay", "0s"),
        *("-e", "START_DELAY=4", "-e", "UNHEALTHY_AFTER=12", "web:1"),
    )
    swarm.wait(
        lambda: any(t["Status"]["State"] == "starting" for t in swarm.tasks("web")), "starting, not running"
    )
    swarm.wait_running("web", 1)
    first = swarm.running("web")[0]["ID"]
    swarm.wait(
        lambda: any(t["ID"] == first and t["Status"]["State"] == "failed" for t in swarm.tasks("web")),
        "the failing probe ended the task",
    )
    swarm.wait_running("web", 1)


@pytest.fixture
def registry(lab: Lab) -> Iterator[str]:
    """host:port of a registry that wants a login; open again afterwards, as other tests expect it."""
    try:
        lab.up(registry_auth="joe:very-secret-word")
        yield lab.status().registry or ""
    finally:
        lab.up(registry_auth="")


def test_credentials_and_digests_with_a_real_registry(swarm: Swarm, registry: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {registry: {"auth": "am9lOnZlcnktc2VjcmV0LXdvcmQ="}}}))
    image = f"{registry}/nginx:latest"
    for node in ("n1", "n2", "n3"):
        swarm.ssh(node, "docker", "rmi", "-f", image, check=False)
    env = {**swarm.environment(), "DOCKER_CONFIG": str(tmp_path)}
    denied = subprocess.run(
        [SWARMSH, "service", "create", "-d", "--name", "denied", "--restart-condition", "none", image],
        env=swarm.environment() | {"DOCKER_CONFIG": "/nonexistent"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert denied.returncode == 0, denied.stderr
    assert "could not be accessed on a registry" in denied.stderr
    swarm.wait(
        lambda: any(t["Status"]["State"] == "rejected" for t in swarm.tasks("denied")), "denied without login"
    )
    created = subprocess.run(
        [SWARMSH, "service", "create", "-d", "--name", "nginx", "--replicas", "2", "--with-registry-auth", image],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    pinned = swarm.get("/services/nginx")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    assert re.fullmatch(re.escape(image) + r"@sha256:[0-9a-f]{64}", pinned), f"{pinned} {created.stderr}"
    swarm.wait_running("nginx", 2)
    for path in swarm.state.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert b"very-secret-word" not in held, path
            assert b"am9lOnZlcnktc2VjcmV0LXdvcmQ" not in held, path
    assert "very-secret" not in swarm.log.read_text()


def test_a_full_disk_on_a_node_is_said_by_its_tasks(swarm: Swarm) -> None:
    swarm.ssh("n1", "fallocate -l $(( $(df --output=avail -B1 / | tail -1) - 65536 )) /filler")
    try:
        swarm.swarmsh(
            *("service", "create", "-d", "--name", "web", "--constraint", "node.hostname==n1"),
            *("--restart-condition", "none", "web:1"),
        )
        swarm.wait(lambda: any(t["Status"].get("Err") for t in swarm.tasks("web")), "an error on the task")
        errors = " ".join(t["Status"].get("Err", "") for t in swarm.tasks("web"))
        assert "no space left on device" in errors
    finally:
        swarm.ssh("n1", "rm", "-f", "/filler")
    swarm.swarmsh("service", "update", "-d", "--force", "web")
    swarm.wait_running("web", 1)


class Alone:
    """A manager with a home of its own, as a user's laptop has it."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab, self.home = lab, home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMSH_", "XDG_", "DOCKER_", "SSH_"))}
        self.env = {**kept, "HOME": str(home)}

    def swarmsh(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.lab.call("run", "--", SWARMSH, *argv, env=self.env, check=False, timeout_s=300)


def wait_released(swarm: Swarm) -> None:
    """A node that was left has no helper any more, and nothing that would refuse another manager."""
    for node in ("n1", "n2", "n3"):
        swarm.wait(
            lambda node=node: (
                "inactive" in swarm.ssh(node, "systemctl", "is-active", "swarmsh-helper", check=False)
            ),
            f"{node} released",
        )


def test_up_makes_a_cluster_from_an_inventory_of_ones_own(swarm: Swarm, tmp_path: Path) -> None:
    """n2 as a sudo user, n3 through n1 as jump host; keys are not in the inventory and must be accepted."""
    swarm.swarmsh("service", "create", "-d", "--name", "ours", "--mode", "global", "web:1")
    swarm.wait_running("ours", 3)
    swarm.kill()
    state = tmp_path / ".local/state/swarmsh"
    inventory = tmp_path / "hosts.ini"
    key = swarm.lab.directory / "id_ed25519"
    inventory.write_text(
        f"[web]\nh1 ansible_host=10.98.0.11 ansible_user=root\n"
        f"h2 ansible_host=10.98.0.12 ansible_user=ops ansible_become=true\n"
        f"h3 ansible_host=10.98.0.13 ansible_ssh_common_args='-J root@10.98.0.11'\n"
        f"[all:vars]\nansible_ssh_private_key_file={key}\n"
    )
    alone = Alone(swarm.lab, tmp_path)
    try:
        unasked = alone.swarmsh("up", "-i", str(inventory), "-y")
        assert unasked.returncode == 1
        assert "--accept-new-host-keys" in unasked.stderr
        held = alone.swarmsh("up", "-i", str(inventory), "--accept-new-host-keys")
        assert held.returncode == 1
        assert "held by cluster" in held.stderr + held.stdout, "another manager's nodes are not taken"
        assert held.stderr.count("SHA256:") >= 3, "the keys it was told to accept are shown"
    finally:
        alone.swarmsh("manager", "stop")
        swarm.start()
    swarm.wait_running("ours", 3)
    swarm.clear()
    for name in ("n1", "n2", "n3"):
        swarm.swarmsh("node", "rm", "--force", name)
    wait_released(swarm)
    swarm.stop()
    try:
        done = alone.swarmsh("up", "-i", str(inventory), "--accept-new-host-keys")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert "docker service create" in done.stderr
        nodes = json.loads(alone.swarmsh("node", "ls", "--format", "json").stdout)
        assert len(nodes) == 3
        assert alone.swarmsh("up", "-i", str(inventory), "-y").returncode == 0, "repeating it changes nothing"
        created = alone.swarmsh("service", "create", "--mode", "global", "--name", "web", "web:1")
        assert created.returncode == 0, created.stderr
        assert "node.labels.group.web" not in created.stderr
        assert alone.swarmsh("service", "rm", "web").returncode == 0
        assert (state / "swarmsh.db").stat().st_mode & 0o777 == 0o600
        assert (state / "swarmsh.sock").stat().st_mode & 0o777 == 0o600
        for name in ("h1", "h2", "h3"):
            left = alone.swarmsh("node", "rm", "--force", name)
            assert left.returncode == 0, left.stderr
        wait_released(swarm)
    finally:
        alone.swarmsh("manager", "stop")
        swarm.start()
