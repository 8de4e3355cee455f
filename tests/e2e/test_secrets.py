"""Secrets and configs on real kernels: there for the tasks that have them, and found nowhere else."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator

import pytest

from .swarm import Swarm, cli

pytestmark = pytest.mark.e2e

ALL = ("n1", "n2", "n3")
FOLDER = "/run/swarmsh/secrets"
# Reads what it looks for from its standard input, so that it finds itself nowhere. Prints the places.
SEARCH = r"""
import os, sys
needles = sys.stdin.buffer.read().split(b"\n")
skip = ("/proc", "/sys", "/dev", "/run/swarmsh/secrets")
def holds(path):
    longest, before = max(map(len, needles)), b""
    try:
        with open(path, "rb") as file:
            while True:
                part = file.read(1 << 20)
                if not part:
                    return False
                if any(needle in before + part for needle in needles):
                    return True
                before = part[-longest:]
    except OSError:
        return False
for folder, below, files in os.walk("/"):
    # What a container sees of its own files is found through its overlay as well, in a namespace of its own.
    below[:] = [name for name in below if os.path.join(folder, name) not in skip]
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path) and holds(path):
            print(path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        if holds("/proc/%s/%s" % (pid, name)):
            print("/proc/%s/%s" % (pid, name))
"""
RAW = r"""
import os, sys
needles = sys.stdin.buffer.read().split(b"\n")
os.sync()
longest, before, at = max(map(len, needles)), b"", 0
with open(sys.argv[1], "rb", buffering=0) as disk:
    while True:
        part = disk.read(4 << 20)
        if not part:
            break
        if any(needle in before + part for needle in needles):
            print(sys.argv[1], at)
        before, at = part[-longest:], at + len(part)
"""


@pytest.fixture(autouse=True)
def _whole_again(swarm: Swarm) -> Iterator[None]:
    yield
    swarm.clear()
    for kind in ("secrets", "configs"):
        for one in swarm.get(f"/{kind}"):
            swarm.call("DELETE", f"/{kind}/{one['ID']}")


def make(swarm: Swarm, kind: str, name: str, data: str, *options: str) -> None:
    """By the real docker CLI, from its standard input."""
    done = swarm.run(cli(swarm.lab, "forky"), kind, "create", *options, name, "-", stdin=data.encode())
    assert done.returncode == 0, done.stderr


def a_password() -> str:
    return "known-" + secrets.token_hex(24)


def inside(swarm: Swarm, node: str, *argv: str, check: bool = True) -> str:
    """Standard output of a command in the one container of ours on a node."""
    (container,) = swarm.containers(node).values()
    return swarm.ssh(node, "docker", "exec", container, *argv, check=check)


def kept(swarm: Swarm, node: str) -> list[str]:
    """All files in the node's memory for secrets."""
    return swarm.ssh(node, f"find {FOLDER} -type f 2>/dev/null || true").split()


def found_on(swarm: Swarm, node: str, *needles: str) -> list[str]:
    """Where on a node they are, but for the tasks' own memory."""
    words = "\n".join(needles)
    searched = swarm.lab.ssh(node, "python3", "-c", SEARCH, stdin=words, timeout_s=400.0).split("\n")
    disk = swarm.ssh(node, "findmnt -no SOURCE /").strip()
    raw = swarm.lab.ssh(node, "python3", "-c", RAW, disk, stdin=words, timeout_s=900.0).split("\n")
    return [line for line in (*searched, *raw) if line]


def found_at_the_manager(swarm: Swarm, *needles: str) -> list[str]:
    """In which of the manager's files they are."""
    words = [needle.encode() for needle in needles]
    files = [path for path in (swarm.log, *swarm.state.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]


def forms(password: str) -> tuple[str, str]:
    """As it is, and as it travels: base64, without the end, which depends on what follows."""
    return password, base64.b64encode(password.encode()).decode()[:-4]


def test_secrets_and_configs_are_there_as_asked_and_read_only(swarm: Swarm) -> None:
    password = a_password()
    make(swarm, "secret", "pass", password)
    make(swarm, "config", "conf", "listen 80\n")
    swarm.docker(
        *("service", "create", "--name", "web", "--mode", "global", "--secret", "pass"),
        *("--secret", "source=pass,target=db,uid=1000,gid=1001,mode=0400"),
        *("--secret", "source=pass,target=/etc/db/pass"),
        *("--config", "source=conf,target=/etc/app.conf,mode=0440", "--config", "conf", "web:1"),
    )
    swarm.wait_running("web", 3)
    for node in ALL:
        for path in ("/run/secrets/pass", "/run/secrets/db", "/etc/db/pass"):
            assert inside(swarm, node, "cat", path) == password
        for path in ("/etc/app.conf", "/conf"):
            assert inside(swarm, node, "cat", path) == "listen 80\n"
        shown = inside(
            swarm, node, "stat", "-c", "%u %g %a", "/run/secrets/pass", "/run/secrets/db", "/etc/app.conf"
        )
        assert shown.split("\n")[:3] == ["0 0 444", "1000 1001 400", "0 0 440"]
        for path in ("/run/secrets/pass", "/run/secrets/new", "/etc/db/pass", "/etc/app.conf"):
            refused = inside(swarm, node, "sh", "-c", f"echo x > {path} 2>&1 || true")
            assert "Read-only file system" in refused
        kind = swarm.ssh(node, f"findmnt -no FSTYPE,OPTIONS {FOLDER}")
        assert "ramfs" in kind or "noswap" in kind
        assert swarm.ssh(node, f"stat -c '%U %a' {FOLDER}").strip() == "root 700"


def test_they_are_gone_with_the_task_and_given_again_after_a_reboot(swarm: Swarm) -> None:
    password = a_password()
    make(swarm, "secret", "pass", password)
    swarm.docker("service", "create", "--name", "web", "--mode", "global", "--secret", "pass", "web:1")
    swarm.wait_running("web", 3)
    assert all(len(kept(swarm, node)) == 2 for node in ALL)
    first = set(swarm.containers("n3"))
    swarm.lab.fault("n3", "reboot", "--wait")
    swarm.wait(lambda: swarm.node("n3")["Status"]["State"] == "ready", "n3 ready again")
    swarm.wait_running("web", 3)
    assert set(swarm.containers("n3")).isdisjoint(first)
    assert inside(swarm, "n3", "cat", "/run/secrets/pass") == password
    swarm.docker("service", "rm", "web")
    swarm.wait(lambda: all(kept(swarm, node) == [] for node in ALL), "no file left on any node")


def test_a_killed_helper_and_a_killed_manager_restart_nothing_and_lose_nothing(swarm: Swarm) -> None:
    password = a_password()
    make(swarm, "secret", "pass", password)
    swarm.docker("service", "create", "--name", "web", "--mode", "global", "--secret", "pass", "web:1")
    swarm.wait_running("web", 3)
    before = {node: swarm.started_at(node) for node in ALL}
    for node in ALL:
        swarm.ssh(node, "systemctl kill -s KILL swarmsh-helper")
    swarm.kill()
    swarm.start()
    swarm.wait(lambda: swarm.connected() == set(ALL), "all nodes connected")
    swarm.wait_running("web", 3)
    assert {node: swarm.started_at(node) for node in ALL} == before
    assert all(inside(swarm, node, "cat", "/run/secrets/pass") == password for node in ALL)
    assert all(len(kept(swarm, node)) == 2 for node in ALL)


def test_what_the_engine_starts_again_without_a_manager_finds_its_secrets(swarm: Swarm) -> None:
    password = a_password()
    make(swarm, "secret", "pass", password)
    swarm.docker("service", "create", "--name", "web", "--mode", "global", "--secret", "pass", "web:1")
    swarm.wait_running("web", 3)
    before = swarm.started_at("n2")
    swarm.stop()
    try:
        (container,) = before
        policy = ("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", container)
        swarm.wait(lambda: swarm.ssh("n2", *policy).strip() == "always", "the Engine's own policy")
        swarm.ssh("n2", f"kill -KILL $(docker inspect --format '{{{{.State.Pid}}}}' {container})")
        swarm.wait(lambda: swarm.started_at("n2") not in ({}, before), "started again")
        assert swarm.ssh("n2", "docker", "exec", container, "cat", "/run/secrets/pass") == password
    finally:
        swarm.start()


def test_a_template_is_expanded_for_each_task(swarm: Swarm) -> None:
    password = a_password()
    make(swarm, "secret", "pass", password)
    text = '{{.Service.Name}} {{.Node.Hostname}} {{env "MODE"}} {{secret "pass"}}'
    make(swarm, "config", "conf", text, "--template-driver", "golang")
    swarm.docker(
        *("service", "create", "--name", "web", "--mode", "global", "--secret", "pass", "--config", "conf"),
        *("--env", "MODE=prod", "web:1"),
    )
    swarm.wait_running("web", 3)
    for node in ALL:
        host = swarm.node(node)["Description"]["Hostname"]
        assert inside(swarm, node, "cat", "/conf") == f"web {host} prod {password}"


def test_a_known_secret_is_found_nowhere_but_in_the_memory_of_its_tasks(swarm: Swarm) -> None:
    password, other = a_password(), a_password()
    make(swarm, "secret", "pass", password)
    make(swarm, "secret", "other", other)
    swarm.docker("service", "create", "--name", "web", "--replicas", "2", "--secret", "pass", "web:1")
    swarm.wait_running("web", 2)
    swarm.docker("service", "update", "--secret-rm", "pass", "--secret-add", "other", "web")
    swarm.docker("service", "update", "--secret-add", "pass", "web")
    shown = swarm.docker("secret", "inspect", "pass") + swarm.docker("service", "inspect", "web")
    shown += swarm.docker("service", "ps", "--no-trunc", "web") + json.dumps(swarm.get("/tasks"))
    needles = (*forms(password), *forms(other))
    assert not any(needle in shown for needle in needles)
    assert found_at_the_manager(swarm, *needles) == []
    for node in ALL:
        assert found_on(swarm, node, *needles) == []
        there = swarm.lab.ssh(node, f"grep -rlF -f - {FOLDER} || true", stdin=password).split()
        tasks = swarm.containers(node)
        assert sorted(path.split("/")[4] for path in there) == sorted(tasks)
    swarm.docker("service", "rm", "web")
    swarm.wait(lambda: all(kept(swarm, node) == [] for node in ALL), "no file left on any node")
