"""The node's side on real kernels: stub and helper on every suite of the lab, driven by JSON lines over `ssh`.

SWARMSH_HELPER_LAB=NAME reuses a running lab and leaves it up; what its machines hold is removed. Each scenario
runs on all of them at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from swarmsh.adapters.nodes.payload import PACKAGE, Payload, load_helper, pack_helper, stub_command

from .helperctl import CHECKOUT, Answered, Machine, Session, ensure, machines, remove, stop, stopwatch
from .labctl import Lab

pytestmark = pytest.mark.e2e

OWN_LAB = os.environ.get("SWARMSH_HELPER_LAB")
CLUSTER = "clustera"
PURGE = """
ids=$(docker ps -aq --filter label=swarmsh.cluster)
[ -z "$ids" ] || docker rm -f $ids
systemctl stop swarmsh-helper 2>/dev/null
systemctl reset-failed swarmsh-helper 2>/dev/null
umount -l /run/swarmsh/secrets 2>/dev/null
rm -rf /run/swarmsh
true
"""
HEALTH = {"Test": ["CMD", "/probe"], "Interval": 500_000_000, "Retries": 2, "Timeout": 5_000_000_000}
Scenario = Callable[[Machine], Awaitable[None]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Machine]]:
    """Machines of three suites for these tests alone: a manager on them would take its nodes back."""
    lab = Lab(OWN_LAB or f"h{os.getpid()}")
    try:
        lab.up(nodes=3, suite="mixed")
        yield machines(lab.name)
    finally:
        if not OWN_LAB:
            lab.down()


@pytest.fixture
async def everywhere(nodes: list[Machine]) -> Callable[[Scenario], Awaitable[None]]:
    """Runs a scenario on all machines at once, each purged before; failures say what the node's log says."""

    async def run(scenario: Scenario) -> None:
        async def one(machine: Machine) -> None:
            await asyncio.to_thread(machine.run, PURGE)
            try:
                await scenario(machine)
            except BaseException:
                log = await asyncio.to_thread(machine.run, "journalctl -u swarmsh-helper -n 40 --no-pager -o cat")
                print(f"--- {machine.name} ({machine.suite}) ---\n{log}")
                raise

        results = await asyncio.gather(*(one(machine) for machine in nodes), return_exceptions=True)
        for machine, result in zip(nodes, results, strict=True):
            if isinstance(result, BaseException):
                raise AssertionError(f"{machine.name} ({machine.suite}): {result!r}") from result

    return run


async def on(machine: Machine, command: str, **options: Any) -> str:
    return await asyncio.to_thread(lambda: machine.run(command, **options))


async def started_at(machine: Machine, container: str) -> str:
    return await on(machine, "docker inspect -f '{{.State.StartedAt}} {{.RestartCount}}' " + container)


@asynccontextmanager
async def attached(machine: Machine, epoch: int = 1, **options: Any) -> AsyncIterator[Session]:
    async with Session(machine) as session:
        session.index = max(session.index, session.hello["index"])
        await session.attach(CLUSTER, epoch, **options)
        yield session


# --- sessions -------------------------------------------------------------------------------------------
async def test_the_helper_is_pushed_once_and_says_what_the_node_is(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with Session(machine) as first:
            assert first.pushed
            assert first.hello["engine_ok"]
            described = first.hello["description"]
            if "hostname" not in described:  # the Engine took longer than the hello waits
                await first.attach(CLUSTER)
                described = await first.event("description")
            assert described["hostname"] == machine.name
            assert described["python"] == await on(
                machine, "python3 -c 'import platform as p;print(p.python_version())'"
            )
            assert described["engine_version"] and described["engine_api"] and described["boot_id"]
            assert ["Volume", "local"] in described["plugins"] and described["nano_cpus"] >= 10**9
        async with Session(machine) as second:
            assert not second.pushed
            assert second.hello["pid"] == first.hello["pid"]
            await second.attach(CLUSTER)
        assert (await on(machine, "stat -c %a /run/swarmsh /run/swarmsh/*.json /run/swarmsh/*.sock")).split() == [
            "700",
            "600",
            "600",
        ]

    await everywhere(scenario)


async def test_two_sessions_that_begin_at_once_share_one_helper(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with Session(machine) as a, Session(machine) as b:
            assert a.hello["pid"] == b.hello["pid"]

    await everywhere(scenario)


async def test_a_user_with_sudo_gets_the_same(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with Session(machine, user="ops") as session:
            await session.attach(CLUSTER)
            await session.event("heartbeat")

    await everywhere(scenario)


async def test_an_unprivileged_user_is_told_the_way_out(nodes: list[Machine]) -> None:
    command = stub_command()
    request = json.dumps({"v": 1, "verb": "session", "helper": "0", "size": 1, "root": "/run/swarmsh"}) + "\n"
    argv = nodes[0].argv(command, "ops")
    done = await asyncio.to_thread(
        subprocess.run, argv, input=request, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "root" in json.loads(done.stdout)["error"]
    assert json.loads(done.stdout)["hint"]


async def test_the_channel_ends_when_the_helper_ends_the_session(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            session.write(b"this is no JSON\n")
            assert "JSON" in (await session.event("goodbye"))["reason"]
            async with asyncio.timeout(20):
                assert await session.process.wait() == 0
        async with Session(machine) as again:
            assert again.hello["pid"] == session.hello["pid"]

    await everywhere(scenario)


async def test_nothing_is_left_of_a_session_that_was_cut_off(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine):
            pass
        deadline = time.monotonic() + 20
        while await on(machine, "pgrep -x cat", check=False):
            assert time.monotonic() < deadline, "the waiting process stayed"

    await everywhere(scenario)


# --- the life of a task ---------------------------------------------------------------------------------
async def test_a_task_is_created_started_stopped_and_removed(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", desired="ready", tcp_ports=[80]))
            ready = await session.task("t1", "ready")
            assert (
                await on(machine, "docker inspect -f '{{.State.Status}}' " + ready["container_id"])
            ) == "created"
            port = {"config": {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}}}
            await session.apply(ensure("t1", tcp_ports=[80]), ensure("t2", tcp_ports=[80], **port))
            running = await session.task("t1", "running", ready=True)
            assert running["container_id"] == ready["container_id"]
            second = await session.task("t2", "running", ready=True)
            assert second["ports"] == [{"protocol": "tcp", "target_port": 80, "published_port": 8080}]
            labels = json.loads(
                await on(machine, f"docker inspect -f '{{{{json .Config.Labels}}}}' {second['container_id']}")
            )
            assert labels["swarmsh.cluster"] == CLUSTER and labels["com.docker.swarm.task.id"] == "t2"
            await session.apply(stop("t1"), ensure("t2"))  # the second changes nothing
            ended = await session.task("t1", "shutdown")
            assert ended["exit_code"] in (0, 143)
            await session.apply(remove("t1"), remove("t2"), remove("never-seen"))
            for task in ("t1", "t2", "never-seen"):
                await session.task(task, "gone")
            assert await asyncio.to_thread(machine.containers, CLUSTER) == []

    await everywhere(scenario)


async def test_an_end_is_told_in_dockers_words(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(
                ensure("zero", env=("EXIT_AFTER=0.1",)),
                ensure("three", env=("EXIT_AFTER=0.1", "EXIT_CODE=3")),
                ensure("noimage", image="nosuch:1"),
                ensure(
                    "nobind",
                    config={"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/nosuch", "Target": "/x"}]}},
                ),
                ensure("nocommand", config={"Entrypoint": ["/nosuch"]}),
            )
            zero = await session.task("zero", "complete")
            assert (zero["message"], zero["exit_code"], zero.get("err", "")) == ("finished", 0, "")
            three = await session.task("three", "failed")
            assert (three["err"], three["exit_code"]) == ("task: non-zero exit (3)", 3)
            assert (await session.task("noimage", "rejected"))["err"].startswith("No such image: nosuch:1")
            assert "bind source path does not exist" in (await session.task("nobind", "rejected"))["err"]
            assert (await session.task("nocommand", "failed"))["err"].startswith("starting container failed: ")

    await everywhere(scenario)


async def test_a_port_that_is_taken_fails_the_task(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        port = {"config": {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}}}
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80], **port))
            await session.task("t1", "running")
            await session.apply(ensure("t2", **port))
            failed = await session.task("t2", "failed")
            assert "port is already allocated" in failed["err"]

    await everywhere(scenario)


async def test_a_stop_waits_the_whole_grace_and_then_kills(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", env=("IGNORE_TERM=1",), tcp_ports=[80]))
            await session.task("t1", "running", ready=True)
            waited = stopwatch()
            await session.apply(stop("t1", 4.0))
            ended = await session.task("t1", "shutdown")
            assert waited() >= 4.0
            assert ended["exit_code"] == 137

    await everywhere(scenario)


async def test_a_running_task_can_be_removed_at_any_moment(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            names = [f"t{number}" for number in range(4)]
            await session.apply(*(ensure(name) for name in names))
            for number, name in enumerate(names):
                await asyncio.sleep(0.4 * number)  # not awaited on purpose: another moment of its start each
                await session.apply(remove(name))
            for name in names:
                await session.task(name, "gone")
            assert await asyncio.to_thread(machine.containers, CLUSTER) == []

    await everywhere(scenario)


# --- health and readiness -------------------------------------------------------------------------------
async def test_a_healthcheck_gates_running_and_ends_an_unhealthy_task(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", config={"Healthcheck": HEALTH}, stop_grace_s=2.0))
            running = await session.task("t1", "running", ready=True)
            states = [one["data"]["state"] for one in session.events if one["event"] == "task"]
            assert "starting" in states
            await on(machine, f"docker exec {running['container_id']} touch /tmp/unhealthy")
            failed = await session.task("t1", "failed")
            assert "dockerexec: unhealthy container" in failed["err"]

    await everywhere(scenario)


async def test_a_probe_gates_running_and_ends_a_task_that_fails_it(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        probe = {"kind": "http", "port": 80, "path": "/healthz", "interval_s": 0.5, "timeout_s": 3.0, "retries": 2}
        async with attached(machine) as session:
            await session.apply(ensure("t1", probe=probe, env=("START_DELAY=1",), stop_grace_s=2.0))
            running = await session.task("t1", "running", ready=True)
            await on(machine, f"docker exec {running['container_id']} touch /tmp/unhealthy")
            failed = await session.task("t1", "failed")
            assert "probe http:80/healthz: HTTP status 5" in failed["err"]

    await everywhere(scenario)


async def test_a_task_is_ready_when_its_ports_listen(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80], env=("START_DELAY=3",)))
            running = await session.task("t1", "running")
            assert not running.get("ready")
            await session.task("t1", "running", ready=True)

    await everywhere(scenario)


# --- faults ---------------------------------------------------------------------------------------------
async def test_a_killed_helper_resumes_by_itself_and_restarts_nothing(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80]), ensure("t2", desired="ready"))
            running = await session.task("t1", "running", ready=True)
            await session.task("t2", "ready")
            before = await started_at(machine, running["container_id"])
            await session.apply(ensure("t3", tcp_ports=[80]))
            await on(machine, "kill -9 $(systemctl show -p MainPID --value swarmsh-helper)")
            await session.until(lambda: session.ended)
        # No manager: what was asked for goes on.
        deadline = time.monotonic() + 90
        while "running" not in await on(machine, "docker inspect -f '{{.State.Status}}' web.1.t3", check=False):
            assert time.monotonic() < deadline, "t3 was not started"
        async with attached(machine, epoch=2) as session:
            assert session.hello["index"] >= 2
            assert session.hello["pid"] != 0
            await session.task("t3", "running", ready=True)
            assert (await session.task("t1", "running", ready=True))["container_id"] == running["container_id"]
            assert (await session.task("t2", "ready"))["wanted"] == "ready"
            assert await started_at(machine, running["container_id"]) == before
            assert not session.tasks["t1"].get("restarts")

    await everywhere(scenario)


async def test_a_helper_killed_at_any_moment_makes_no_second_container(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        kill = "kill -9 $(systemctl show -p MainPID --value swarmsh-helper)"
        for number in range(4):
            task = f"t{number}"
            async with attached(machine, epoch=number + 1) as session:
                await session.apply(ensure(task))
                await asyncio.sleep(0.3 * number)  # not awaited on purpose: another moment of its start each
                await on(machine, kill)
                await session.until(lambda session=session: session.ended)
        async with attached(machine, epoch=9) as session:
            for number in range(4):
                await session.task(f"t{number}", "running", timeout_s=90)
            assert len(await asyncio.to_thread(machine.containers, CLUSTER)) == 4

    await everywhere(scenario)


async def test_tasks_are_seen_again_after_a_restart_of_the_engine(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80]))
            await session.task("t1", "running", ready=True)
            await on(machine, "systemctl restart docker", timeout=120)
            # Without live-restore the Engine takes its containers down with it.
            assert (await session.task("t1", "failed", "complete"))["state"]
            await session.apply(ensure("t2", tcp_ports=[80]))
            await session.task("t2", "running", ready=True)
            assert len(await asyncio.to_thread(machine.containers, CLUSTER)) == 2

    await everywhere(scenario)


async def test_a_hung_engine_is_told_and_its_processes_can_be_ended(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80]), ensure("t2", tcp_ports=[80]))
            for task in ("t1", "t2"):
                await session.task(task, "running", ready=True)
            pid = session.tasks["t1"]["pid"]
            await on(machine, "kill -STOP $(pidof dockerd)")
            try:
                told = await session.event("engine", 20)
                assert not told["ok"] and told["message"]
                beat = await session.until(
                    lambda: next(
                        (
                            e["data"]
                            for e in session.events
                            if e["event"] == "heartbeat" and e["data"]["engine_down_s"] > 1
                        ),
                        None,
                    )
                )
                assert not beat["engine_ok"]
                assert (await session.request("end_processes", {"task_ids": ["t1"]}))["ended"] == ["t1"]
                assert (await session.task("t1", "failed"))["exit_code"] == 137
                assert await on(machine, f"ls /proc/{pid}/exe", check=False) == ""
            finally:
                await on(machine, "kill -CONT $(pidof dockerd)")
            await session.until(lambda: any(e["event"] == "engine" and e["data"]["ok"] for e in session.events))
            await session.request("report")
            assert session.tasks["t1"]["state"] == "failed"
            assert session.tasks["t2"]["state"] == "running"

    await everywhere(scenario)


async def test_without_a_manager_the_engine_restarts_what_crashes_and_the_manager_takes_it_back(
    everywhere: Any,
) -> None:
    async def scenario(machine: Machine) -> None:
        policy = "docker inspect -f '{{.HostConfig.RestartPolicy.Name}}' web.1."
        async with attached(machine, lease_s=2.0, renew=False) as session:
            await session.apply(
                ensure("crash", tcp_ports=[80], restart_delay_s=1.0),
                ensure("never", tcp_ports=[80], restart="none"),
                ensure("sick", config={"Healthcheck": HEALTH}, stop_grace_s=1.0),
                ensure("waits", desired="ready"),
            )
            renewing = asyncio.create_task(session._renew(0.5))
            for task in ("crash", "never", "sick"):
                await session.task(task, "running", ready=True)
            renewing.cancel()
            pids = {name: str(session.tasks[name]["pid"]) for name in ("sick", "crash", "never")}
            # The connection stands, the manager is silent.
            await wait_for(machine, "grep -o '\"alone\":true' /run/swarmsh/state.json", '"alone":true')
            if machine.suite != "bullseye":  # its crun cannot update containers: the helper restarts them
                await wait_for(machine, policy + "crash", "always")
            assert await on(machine, policy + "never") in ("", "no")  # Docker 20.10 leaves it empty
            await on(machine, "docker exec web.1.sick touch /tmp/unhealthy")
            for task in ("crash", "never"):
                await on(machine, f"kill -9 {pids[task]}")
            pid = "docker inspect -f '{{.State.Pid}}' web.1."
            for name in ("sick", "crash"):
                first = pids[name]
                await wait_for(machine, pid + name, lambda text, first=first: text not in ("", "0", first))
        async with attached(machine, epoch=2, lease_s=10.0) as session:
            crash = await session.task("crash", "running", ready=True)
            assert crash["restarts"] >= 1
            # Its file is still there, so it gets unhealthy again, and now that is a failure.
            sick = await session.task("sick", "failed")
            assert sick["restarts"] >= 1
            assert (await session.task("never", "failed"))["exit_code"] == 137
            assert (await session.task("waits", "ready"))["state"] == "ready"
            for task in ("crash", "sick", "never"):
                await wait_for(machine, policy + task, lambda text: text in ("", "no"))

    await everywhere(scenario)


async def wait_for(
    machine: Machine, command: str, wanted: str | Callable[[str], bool], timeout_s: float = 60.0
) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        text = await on(machine, command, check=False)
        if text == wanted if isinstance(wanted, str) else wanted(text):
            return
        assert time.monotonic() < deadline, f"{command}: {text!r}"
        await asyncio.sleep(0.3)


# --- fencing --------------------------------------------------------------------------------------------
async def refused(request: Awaitable[Any]) -> dict[str, Any]:
    with pytest.raises(Answered) as caught:
        await request
    assert caught.value.error["message"]
    return caught.value.error


async def test_lower_epochs_indexes_and_other_clusters_are_refused(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with Session(machine) as session:
            assert (await refused(session.request("report")))["code"] == "not_attached"
            await session.attach(CLUSTER, epoch=5)
            await session.apply(ensure("t1"))
            await session.task("t1", "running")
            assert (await refused(session.request("dance")))["code"] == "unknown_op"
            batch = {"cluster_id": CLUSTER, "epoch": 5, "index": 1, "actions": []}
            assert (await refused(session.request("apply", batch)))["code"] == "stale_index"
            assert (await refused(session.request("apply", {**batch, "epoch": 4, "index": 9})))[
                "code"
            ] == "stale_epoch"
            wrong = ensure("t2")
            del wrong["image"]
            answer = await refused(
                session.request("apply", {**batch, "index": 9, "actions": [ensure("t3"), wrong]})
            )
            assert answer["code"] == "bad_request" and "image" in answer["message"]
            async with Session(machine) as older:
                assert (await refused(older.attach(CLUSTER, epoch=4)))["code"] == "stale_epoch"
                answer = await refused(older.attach("clusterb", epoch=99))
                assert answer["code"] == "other_cluster"
                assert CLUSTER in answer["message"] and "clusterb" in answer["message"] and answer["hint"]
            async with Session(machine) as newer:
                newer.index = 50
                await newer.attach(CLUSTER, epoch=6)
                assert "epoch 6" in (await session.event("superseded"))["reason"]
                await newer.apply(remove("t1"))
                await newer.task("t1", "gone")
                assert "t3" not in newer.tasks  # of a batch that was refused as a whole
                await newer.request("release")
            async with Session(machine) as other:
                await other.attach("clusterb", epoch=1)

    await everywhere(scenario)


async def test_the_state_survives_the_helper(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine, epoch=7) as session:
            await session.apply()
            await on(machine, "kill -9 $(systemctl show -p MainPID --value swarmsh-helper)")
        async with Session(machine) as session:
            assert (session.hello["cluster_id"], session.hello["epoch"], session.hello["index"]) == (CLUSTER, 7, 2)
            assert (await refused(session.attach(CLUSTER, epoch=6)))["code"] == "stale_epoch"

    await everywhere(scenario)


async def test_a_released_helper_ends_and_leaves_nothing(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.request("release")
        await wait_for(machine, "ls -d /run/swarmsh 2>/dev/null; systemctl is-active swarmsh-helper", "inactive")

    await everywhere(scenario)


# --- a newer helper -------------------------------------------------------------------------------------
def other_helper(directory: Path) -> Payload:
    """The same helper with another hash."""
    shutil.copytree(
        CHECKOUT / PACKAGE, directory, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    with (directory / "__init__.py").open("a") as file:
        file.write("# another version\n")
    archive = pack_helper(directory)
    return Payload(archive, hashlib.sha256(archive).hexdigest())


async def test_a_newer_helper_takes_over_without_touching_a_container(everywhere: Any, tmp_path: Path) -> None:
    newer = other_helper(tmp_path)

    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80]), ensure("t2"))
            running = await session.task("t1", "running", ready=True)
            await session.task("t2", "running")
            before = await started_at(machine, running["container_id"])
            async with Session(machine, payload=newer) as second:
                assert second.pushed
                assert second.hello["helper"] == newer.sha256 != session.hello["helper"]
                assert second.hello["pid"] == session.hello["pid"]
                await session.until(lambda: session.ended)
                second.index = second.hello["index"]
                await second.attach(CLUSTER, epoch=2)
                assert (await second.task("t1", "running", ready=True))["container_id"] == running["container_id"]
                assert await started_at(machine, running["container_id"]) == before
                assert not second.tasks["t1"].get("restarts")
                await second.apply(remove("t1"), remove("t2"))
                await second.task("t2", "gone")
        assert len((await on(machine, "ls /run/swarmsh/*.pyz")).split()) == 2  # it, and the link

    await everywhere(scenario)


# --- the Engine through the session ---------------------------------------------------------------------
async def test_the_docker_sdk_works_through_the_engine_verb(everywhere: Any) -> None:
    payload = load_helper()
    request = {"v": 1, "verb": "engine", "helper": payload.sha256, "size": 0, "root": "/run/swarmsh"}
    first = json.dumps(request).encode() + b"\n"

    async def scenario(machine: Machine) -> None:
        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            process = await asyncio.create_subprocess_exec(*machine.argv(stub_command()), stdin=-1, stdout=-1)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(first)
            assert json.loads(await process.stdout.readline()) == {"ok": True}

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
                target.write_eof()
                if source is process.stdout:
                    target.close()

            try:
                await asyncio.gather(
                    copy(reader, process.stdin), copy(process.stdout, writer), return_exceptions=True
                )
                await process.wait()
            finally:
                writer.close()
                process._transport.close()  # type: ignore[attr-defined]

        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/engine.sock"
            server = await asyncio.start_unix_server(join, path)
            async with server:
                assert "docker" not in path
                await asyncio.to_thread(use_sdk, path)

    await everywhere(scenario)


def use_sdk(path: str) -> None:
    client = docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=60)
    try:
        assert client.ping()
        container = client.containers.run("web:1", detach=True, labels={"swarmsh.cluster": "sdk"})
        try:
            code, output = container.exec_run(["/bin/busybox", "echo", "seen"])
            assert (code, output) == (0, b"seen\n")
            assert sum(len(part) for part in container.get_archive("/bin")[0]) > 100_000
            raw = client.api.exec_create(container.id, ["/bin/busybox", "cat"], stdin=True)
            stream: Any = client.api.exec_start(raw["Id"], socket=True)
            sock = stream._sock if hasattr(stream, "_sock") else stream
            sock.sendall(b"hello\n")
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while data := sock.recv(4096):
                received += data
            assert b"hello\n" in received
            stream.close()
        finally:
            container.remove(force=True)
    finally:
        client.close()


# --- check and cost -------------------------------------------------------------------------------------
async def test_the_check_names_what_a_node_offers(everywhere: Any, nodes: list[Machine]) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            items = {
                one["name"]: one for one in (await session.request("check", {"now": time.time() - 60}))["items"]
            }
            for name in ("python", "engine", "ip_vs", "vxlan", "esp4", "iptables", "ip", "bridge", "tc", "cgroup"):
                assert items[name]["ok"], items[name]
                assert items[name]["detail"] and not items[name]["fix"]
            assert not items["clock"]["ok"] and "behind" not in items["clock"]["detail"] and items["clock"]["fix"]
            peers = [{"node": one.name, "address": one.address} for one in nodes]
            reached = (await session.request("check_peers", {"peers": peers}))["reached"]
            assert reached == {one.name: one.name != machine.name for one in nodes}, "itself is no other node"

    await everywhere(scenario)


async def test_an_idle_helper_is_small(everywhere: Any) -> None:
    async def scenario(machine: Machine) -> None:
        async with attached(machine) as session:
            await session.apply(ensure("t1", tcp_ports=[80]))
            await session.task("t1", "running", ready=True)
            kb = int(await on(machine, f"awk '/VmRSS/{{print $2}}' /proc/{session.hello['pid']}/status"))
            assert kb <= 30 * 1024

    await everywhere(scenario)
