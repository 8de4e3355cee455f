"""The life of tasks on a fake Engine: what the helper reports, and what it asks of the Engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import lastwords, ready
from remote_helpers import task as task_module
from tests.unit.helpers.conftest import World, ensure

PROBE = {"kind": "tcp", "port": 1, "interval_s": 0.01, "timeout_s": 1.0, "retries": 1}


def stop(task_id: str = "t1", grace_s: float = 10.0) -> dict[str, Any]:
    return {"do": "stop_task", "task_id": task_id, "grace_s": grace_s}


def remove(task_id: str = "t1") -> dict[str, Any]:
    return {"do": "remove_task", "task_id": task_id}


async def test_a_task_climbs_from_created_to_running_to_gone(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(desired="ready"))
    ready = await manager.task("t1", "ready")
    assert world.engine.state_of("t1")["Status"] == "created"
    await manager.apply(ensure())
    running = await manager.task("t1", "running", ready=True)
    assert running["container_id"] == ready["container_id"]
    assert (running["message"], running["service_id"], running["index"]) == ("started", "s1", 1)
    assert world.engine.container_of("t1")["Config"]["Labels"] == {
        "swarmsh.cluster": "clustera",
        "swarmsh.index": "1",
        "com.docker.swarm.task.id": "t1",
        "com.docker.swarm.service.id": "s1",
    }
    await manager.apply(stop())
    assert (await manager.task("t1", "shutdown"))["exit_code"] == 143
    await manager.apply(remove())
    await manager.task("t1", "gone")
    assert not world.engine.containers


async def test_what_is_asked_for_twice_is_done_once(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(), ensure())
    await manager.task("t1", "running", ready=True)
    await manager.apply(ensure())
    await manager.request("report")
    assert world.engine.calls == ["POST /containers/create", "POST /containers/c1/start"]


async def test_a_stopped_task_is_not_started_by_a_late_ensure(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await manager.apply(stop())
    await manager.apply(ensure())
    await manager.task("t1", "shutdown")
    await manager.request("report")
    assert not world.engine.state_of("t1")["Running"]


async def test_a_task_of_which_nothing_is_here_is_gone(world: World) -> None:
    manager = await world.manager()
    await manager.apply(remove("a"), stop("b"))
    await manager.task("a", "gone")
    await manager.task("b", "gone")


# --- images ---
async def test_a_missing_image_is_pulled_with_the_credentials(world: World) -> None:
    world.engine.registry.add("reg:5000/x:1")
    manager = await world.manager()
    await manager.apply(ensure(image="reg:5000/x:1", auth="secret"))
    await manager.task("t1", "running")
    assert world.engine.auths == ["secret"]
    assert world.helper is not None
    world.helper.state.save()
    assert "secret" not in (Path(world.root) / "state.json").read_text()


async def test_an_image_that_is_nowhere_rejects_the_task_in_dockers_words(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(image="x:1"))
    assert (await manager.task("t1", "rejected"))["err"] == "No such image: x:1 (pull access denied)"


async def test_a_failing_pull_is_no_matter_if_the_image_is_local(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(pull="always"))
    await manager.task("t1", "running")
    assert world.engine.calls[0] == "POST /images/create"


async def test_a_local_image_is_not_pulled(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    assert world.engine.auths == []


async def test_a_stop_cancels_a_pull(world: World) -> None:
    world.engine.hold_pulls = asyncio.Event()
    manager = await world.manager()
    await manager.apply(ensure("t1", image="x:1"), ensure("t2", image="x:1"))
    await poll(lambda: len(world.engine.auths) == 2)
    await manager.apply(stop("t1"), remove("t2"))
    await manager.task("t1", "shutdown")
    await manager.task("t2", "gone")
    assert not world.engine.containers


async def test_a_pull_whose_credentials_are_lost_is_asked_for_again(world: World) -> None:
    world.engine.hold_pulls = asyncio.Event()
    manager = await world.manager()
    await manager.apply(ensure(image="x:1", auth="secret"))
    await poll(lambda: world.engine.auths)
    await world.crash()
    world.resume()
    manager = await world.manager(epoch=2)
    assert manager.tasks["t1"].get("wanted", "") == ""
    world.engine.hold_pulls = None  # the first pull stays held: nobody waits for it any more
    world.engine.registry.add("x:1")
    await manager.apply(ensure(image="x:1", auth="secret"), epoch=2)
    await manager.task("t1", "running")
    assert world.engine.auths == ["secret", "secret"]


# --- ends ---
async def test_exit_codes(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure("zero"), ensure("one"), ensure("oom"))
    for name in ("zero", "one", "oom"):
        await manager.task(name, "running")
    world.engine.die("zero", 0)
    world.engine.die("one", 1)
    world.engine.die("oom", 137, OOMKilled=True)
    zero = await manager.task("zero", "complete")
    assert (zero["exit_code"], zero["message"]) == (0, "finished")
    assert (await manager.task("one", "failed"))["err"] == "task: non-zero exit (1)"
    assert "out of memory" in (await manager.task("oom", "failed"))["err"]


async def test_the_event_of_an_end_says_all_of_it(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.request("report")
    world.engine.reads.clear()
    world.engine.die("t1", 3)
    failed = await manager.task("t1", "failed")
    assert (failed["exit_code"], failed["err"]) == (3, "task: non-zero exit (3)")
    assert "pid" not in failed
    assert world.engine.reads == ["/containers/c1/logs"]


@pytest.mark.parametrize(
    ("api", "host", "code", "asked"),
    [
        ("1.41", {}, 3, False),
        ("1.41", {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}, 3, True),
        ("1.41", {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/v"}]}, 3, True),
        ("1.42", {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}, 3, False),
        ("1.45", {}, 255, True),
    ],
)
async def test_an_end_is_inspected_where_the_event_comes_before_all_is_free_or_may_not_know_the_code(
    world: World, api: str, host: dict[str, Any], code: int, asked: bool
) -> None:
    await world.crash()
    world.engine.api = api
    world.resume()
    manager = await world.manager()
    await manager.apply(ensure(config={"HostConfig": host}))
    await manager.task("t1", "running", ready=True)
    await manager.request("report")
    world.engine.reads.clear()
    world.engine.die("t1", code)
    assert (await manager.task("t1", "failed"))["exit_code"] == code
    assert ("/containers/c1/json" in world.engine.reads) == asked


async def test_the_late_end_of_an_earlier_run_ends_nothing(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.request("report")
    world.engine.reads.clear()
    world.engine.event("die", world.engine.container_of("t1"), at=1.0, exitCode="1")
    await poll(lambda: "/containers/c1/json" in world.engine.reads)
    await manager.request("report")
    world.engine.die("t1", 0)
    assert (await manager.task("t1", "complete"))["exit_code"] == 0
    assert not [one for one in manager.events if one["event"] == "task" and one["data"]["state"] == "failed"]


async def test_between_create_and_start_nothing_is_looked_up(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(desired="ready"))
    await manager.task("t1", "ready")
    assert not [path for path in world.engine.reads if path.startswith(("/images/", "/containers/c1/"))]


async def test_a_task_that_ends_at_once_is_not_missed(world: World) -> None:
    world.engine.exit_on_start = 7
    manager = await world.manager()
    await manager.apply(ensure())
    assert (await manager.task("t1", "failed"))["exit_code"] == 7


async def test_a_start_that_fails_fails_the_task(world: World) -> None:
    world.engine.start_error = "port is already allocated"
    manager = await world.manager()
    await manager.apply(ensure())
    failed = await manager.task("t1", "failed")
    assert failed["err"] == "starting container failed: port is already allocated"


async def test_a_container_that_somebody_removed_is_a_failure(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    one = world.engine.container_of("t1")
    del world.engine.containers[one["Id"]]
    world.engine.event("destroy", one)
    assert (await manager.task("t1", "failed"))["err"] == "No such container: c1"


async def test_a_task_that_ignores_its_signal_is_killed_after_the_grace(world: World) -> None:
    world.engine.ignores_term = True
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await manager.apply(stop(grace_s=0.2))
    assert (await manager.task("t1", "shutdown"))["exit_code"] == 137
    assert world.engine.calls[-2:] == ["POST /containers/c1/kill", "POST /containers/c1/kill"]


# --- clients of a task that is to stop ---
def signalled(world: World) -> bool:
    return any(call.endswith("/kill") for call in world.engine.calls)


class Clients:
    """Somebody is connected to each container, until told otherwise; `asked` is how often that was looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connected, self.asked = True, 0
        self.comes_at = 0  # somebody connects just before so many looks
        monkeypatch.setattr(ready, "has_clients", self._has)
        monkeypatch.setattr("remote_helpers.task.DRAIN_LOOK_S", 0.02)

    def _has(self, pid: int) -> bool:
        self.asked += 1
        self.connected = self.connected or self.asked == self.comes_at
        return self.connected


async def test_a_stop_waits_for_clients_and_is_not_ready_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients(monkeypatch)
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.apply({**stop(), "drain_s": 30.0})
    await manager.until(lambda: not manager.tasks["t1"].get("ready"))
    assert manager.tasks["t1"]["state"] == "running"
    world.engine.reads.clear()
    await poll(lambda: clients.asked > 3)
    assert not signalled(world)
    assert world.engine.reads == [], "the Engine is not asked again and again"
    clients.connected = False
    await manager.task("t1", "shutdown")
    assert signalled(world)


async def test_who_was_on_the_way_when_nobody_was_there_yet_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients(monkeypatch)
    clients.connected = False
    clients.comes_at = 2
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.apply({**stop(), "drain_s": 30.0})
    await poll(lambda: clients.asked > 4)
    assert not signalled(world)
    clients.connected = False
    await manager.task("t1", "shutdown")


async def test_clients_that_stay_keep_a_stop_for_so_long_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clients(monkeypatch)
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    began = asyncio.get_running_loop().time()
    await manager.apply({**stop(), "drain_s": 0.3})
    await manager.task("t1", "shutdown")
    assert asyncio.get_running_loop().time() - began >= 0.3


@pytest.mark.parametrize("how", ["remove", "lease", "cut_off", "end", "a second stop"])
async def test_what_cannot_wait_does_not_wait_for_clients(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    clients = Clients(monkeypatch)
    manager = await world.manager(lease_s=1.0 if how == "lease" else 60.0)
    await manager.apply(ensure(fence=how == "cut_off"))
    await manager.task("t1", "running", ready=True)
    await manager.apply({**stop(), "drain_s": 60.0})
    await poll(lambda: clients.asked > 1)
    assert world.helper is not None
    if how == "remove":
        await manager.apply(remove())
        await manager.task("t1", "gone")
        return
    if how == "lease":
        assert not signalled(world)
    elif how == "cut_off":
        world.helper.tasks.by_id["t1"].cut_off()
    elif how == "end":
        world.engine.die("t1", 0)
    else:
        await manager.apply(stop())
    assert (await manager.task("t1", "shutdown"))["exit_code"] in (0, 143)


async def test_another_process_does_not_begin_the_wait_for_clients_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients(monkeypatch)
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.apply({**stop(), "drain_s": 1.0})
    await poll(lambda: clients.asked > 1)
    assert world.helper is not None
    until = world.helper.tasks.by_id["t1"]._drains_until
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    await world.crash()
    world.resume()
    assert world.helper.tasks.by_id["t1"]._drains_until == until
    manager = await world.manager(epoch=2)
    await manager.task("t1", "shutdown")


async def test_a_task_whose_end_the_engine_cannot_tell_yet_is_not_ready_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await manager.request("report")
    assert world.helper is not None
    inspect, go_on = world.helper.engine.inspect, asyncio.Event()

    async def slow(container: str) -> Any:
        await go_on.wait()
        return await inspect(container)

    monkeypatch.setattr(world.helper.engine, "inspect", slow)
    world.engine.die("t1", 255)
    await manager.until(lambda: not manager.tasks["t1"].get("ready"))
    assert manager.tasks["t1"]["state"] == "running"
    go_on.set()
    await manager.task("t1", "failed")


# --- health ---
async def test_health_gates_running_and_its_loss_fails_the_task(world: World) -> None:
    world.engine.health_at_start = "starting"
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.until(lambda: manager.tasks.get("t1", {}).get("pid"))
    assert manager.tasks["t1"]["state"] == "starting"
    world.engine.set_health("t1", "healthy")
    await manager.task("t1", "running", ready=True)
    world.engine.set_health("t1", "unhealthy")
    failed = await manager.task("t1", "failed")
    assert failed["err"] == "task: non-zero exit (143): dockerexec: unhealthy container"


async def test_a_task_whose_port_does_not_listen_runs_but_is_not_ready(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(tcp_ports=[1]))
    running = await manager.task("t1", "running")
    assert not running.get("ready")


async def test_a_task_whose_probe_has_not_passed_is_starting(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(probe=PROBE))
    await manager.until(lambda: manager.tasks.get("t1", {}).get("pid"))
    assert manager.tasks["t1"]["state"] == "starting"


async def test_a_probe_that_never_passes_fails_the_task_with_its_cause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*args: object) -> str:
        return "probe tcp:1: connection refused"

    monkeypatch.setattr(ready, "LATE_S", 0.0)
    monkeypatch.setattr(ready, "probe_once", refused)
    manager = await world.manager()
    await manager.apply(ensure(probe=PROBE))
    failed = await manager.task("t1", "failed")
    assert failed["err"] == "task: non-zero exit (143): probe tcp:1: connection refused"


# --- the last lines ---
def framed(*lines: str, stream: int = 1) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(line).to_bytes(4, "big") + line.encode() for line in lines)


async def test_what_fails_is_told_with_its_last_lines(world: World) -> None:
    world.engine.logs = framed("starting\n") + framed("no such table: users\n", stream=2)
    manager = await world.manager()
    await manager.apply(ensure(restart="none"))
    await manager.task("t1", "running")
    world.engine.die("t1", 1)
    failed = await manager.task("t1", "failed")
    assert failed["log"] == ["starting", "no such table: users"]


async def test_of_what_ran_for_long_the_end_is_told_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.engine.logs, world.engine.hold_logs = framed("killed\n"), asyncio.Event()
    manager = await world.manager()
    await manager.apply(ensure(restart="none"))
    await manager.task("t1", "running")
    monkeypatch.setattr(ready, "LATE_S", 0.0)
    world.engine.die("t1", 1)
    assert "log" not in await manager.task("t1", "failed")
    world.engine.hold_logs.set()
    await manager.until(lambda: manager.tasks["t1"].get("log") == ["killed"])


async def test_what_ends_well_is_told_without(world: World) -> None:
    world.engine.logs = framed("done\n")
    manager = await world.manager()
    await manager.apply(ensure(restart="none"))
    await manager.task("t1", "running")
    world.engine.die("t1", 0)
    assert "log" not in await manager.task("t1", "complete")


async def test_a_log_that_cannot_be_read_delays_neither_the_end_nor_the_leaving_of_the_mesh(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "LOG_WITHIN_S", 0.05)
    world.engine.hold_logs = asyncio.Event()
    manager = await world.manager()
    await manager.apply(ensure(restart="none"))
    await manager.task("t1", "running", ready=True)
    world.engine.die("t1", 1)
    assert "log" not in await manager.task("t1", "failed")


async def test_what_is_not_ready_in_time_is_told_once_with_its_last_lines(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "LATE_S", 0.0)
    world.engine.logs = framed("waiting for db\n")
    manager = await world.manager()
    await manager.apply(ensure(tcp_ports=[1]))
    await manager.until(lambda: manager.tasks.get("t1", {}).get("late"))
    assert manager.tasks["t1"]["log"] == ["waiting for db"]
    assert manager.tasks["t1"]["message"].startswith("started, but not ready after 0 s: ")
    await manager.request("report")
    assert world.engine.reads.count("/containers/c1/logs") == 1


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"plain\r\nof a terminal\x1b[0m\n", ["plain", "of a terminal [0m"]),
        (framed(*(f"{n}\n" for n in range(30))), [str(n) for n in range(20, 30)]),
        (framed("half a ", "line\n"), ["half a line"]),
        (framed("x" * 300), ["x" * 199 + "…"]),
        (framed("whole\n") + framed("cut off by the limit")[:12], ["whole", "cut"]),
        (framed("whole\n") + b"\1\0", ["whole"]),
        (framed("\n", "caf\xe9\n"), ["café"]),
    ],
)
def test_last_lines_are_ten_short_ones(data: bytes, lines: list[str]) -> None:
    assert lastwords.last_lines(data) == lines


class Probes:
    """`answer` is what each probe finds, once there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer = ""
        self.answers = asyncio.Event()
        self.answers.set()
        monkeypatch.setattr(ready, "probe_once", self._probe)

    async def _probe(self, *args: object) -> str:
        await self.answers.wait()
        await asyncio.sleep(0)
        return self.answer

    async def another_process(self, world: World) -> None:
        """One that has no answer yet, after t1 was ready."""
        manager = await world.manager()
        await manager.apply(ensure(probe=PROBE))
        await manager.task("t1", "running", ready=True)
        await asyncio.sleep(0.06)  # the state is written within 50 ms
        self.answers.clear()
        await world.crash()


async def test_another_process_takes_what_was_ready_for_ready_until_its_probe_says_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = Probes(monkeypatch)
    await probes.another_process(world)
    world.resume()
    manager = await world.manager(epoch=2)
    await manager.request("report")
    assert manager.tasks["t1"]["ready"]
    assert all(one["data"].get("ready") for one in manager.events if one["event"] == "task")
    probes.answer = "probe tcp:1: connection refused"
    probes.answers.set()
    failed = await manager.task("t1", "failed")
    assert failed["err"] == "task: non-zero exit (143): probe tcp:1: connection refused"


async def test_a_container_that_was_started_again_meanwhile_is_not_taken_for_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = Probes(monkeypatch)
    await probes.another_process(world)
    world.engine.die("t1", 1)
    world.engine.run("t1")
    world.resume()
    manager = await world.manager(epoch=2)
    await manager.request("report")
    assert not manager.tasks["t1"].get("ready")
    probes.answers.set()
    await manager.task("t1", "running", ready=True)


# --- crashes of the helper and of the Engine ---
async def test_a_container_made_before_a_crash_is_adopted(world: World) -> None:
    world.engine.create_breaks_off = True
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    assert len(world.engine.containers) == 1


async def test_a_name_taken_by_a_stranger_rejects_the_task(world: World) -> None:
    world.engine.add({"Labels": {}}, "web.1.t1")
    manager = await world.manager()
    await manager.apply(ensure())
    assert "Conflict" in (await manager.task("t1", "rejected"))["err"]


async def test_a_crashed_helper_goes_on_where_it_was(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure("up"), ensure("made", desired="ready"), ensure("ended"), index=5)
    for name, state in (("up", "running"), ("made", "ready"), ("ended", "running")):
        await manager.task(name, state)
    world.engine.calls.clear()
    await world.crash()
    world.engine.die("ended", 4)
    world.resume()
    manager = await world.manager(attach=False)
    hello = await manager.event("hello")
    assert (hello["cluster_id"], hello["epoch"], hello["index"]) == ("clustera", 1, 5)
    assert manager.tasks["up"]["state"] == "running"
    assert not manager.tasks["up"].get("restarts")
    assert manager.tasks["made"] | {"state": "ready", "wanted": "ready"} == manager.tasks["made"]
    await manager.attach(epoch=2)
    assert (await manager.task("ended", "failed"))["err"] == "task: non-zero exit (4)"
    assert world.engine.calls == []


async def test_what_was_accepted_is_done_although_the_helper_dies_at_once(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure("t1"), ensure("t2"))
    await world.crash()
    world.resume()
    manager = await world.manager(epoch=2)
    for name in ("t1", "t2"):
        await manager.task(name, "running")
    assert len(world.engine.containers) == 2


async def test_a_stop_that_was_under_way_is_finished_with_its_own_grace(world: World) -> None:
    world.engine.ignores_term = True
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await manager.apply(stop(grace_s=0.5))
    await poll(lambda: world.engine.calls[-1].endswith("kill"))
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    await world.crash()
    calls = len(world.engine.calls)
    world.resume()
    manager = await world.manager(epoch=2)
    await manager.task("t1", "shutdown")
    assert world.engine.calls[calls:] == ["POST /containers/c1/kill"]  # SIGKILL; the stop signal was sent before


async def test_containers_of_ours_are_found_without_a_state(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await world.crash()
    (Path(world.root) / "state.json").unlink()
    world.resume()
    manager = await world.manager(attach=False)
    assert (await manager.event("hello"))["cluster_id"] == "clustera"
    found = manager.tasks["t1"]
    assert (found["state"], found.get("wanted", ""), found["service_id"], found["index"]) == (
        "running",
        "",
        "s1",
        1,
    )
    assert (await manager.attach(cluster="clusterb"))["error"]["code"] == "other_cluster"
    assert (await manager.attach())["ok"]
    await manager.apply(remove())
    await manager.task("t1", "gone")


async def test_an_engine_that_restarts_is_listed_again(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure("t1"), ensure("t2"))
    for name in ("t1", "t2"):
        await manager.task(name, "running")
    await world.engine.stop()
    await manager.event("engine", ok=False)
    world.engine.die("t1", 137)
    await manager.apply(ensure("t3"))  # accepted without an Engine
    await world.engine.start()
    await manager.event("engine", ok=True)
    assert (await manager.task("t1", "failed"))["exit_code"] == 137
    await manager.task("t3", "running")
    await manager.request("report")
    assert manager.tasks["t2"]["state"] == "running"
    assert len(world.engine.containers) == 3


# --- the lease ---
async def test_without_a_manager_the_engine_restarts_and_on_return_all_is_taken_back(world: World) -> None:
    manager = await world.manager(lease_s=0.5)
    await manager.apply(
        ensure("any"),
        ensure("never", restart="none"),
        ensure("failure", restart="on-failure"),
        ensure("waits", desired="ready"),
    )
    for name in ("any", "never", "failure"):
        await manager.task(name, "running")

    def policy(name: str) -> str:
        return str(world.engine.container_of(name)["HostConfig"]["RestartPolicy"]["Name"])

    await poll(lambda: (policy("any"), policy("failure")) == ("always", "on-failure"))
    assert (policy("never"), policy("waits")) == ("no", "no")
    world.engine.die("any", 1)
    world.engine.run("any")
    world.engine.die("failure", 0)
    await manager.task("any", "running", restarts=1)
    await manager.request("lease")
    await poll(lambda: policy("any") == "no")
    assert (await manager.task("failure", "complete"))["exit_code"] == 0
    assert world.engine.state_of("waits")["Status"] == "created"


async def test_an_engine_that_takes_no_policy_is_helped_out(world: World) -> None:
    world.engine.refuses_updates = True
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure(restart_delay_s=0.1))
    await manager.task("t1", "running")
    await poll(lambda: world.helper is not None and world.helper.lease.alone)
    world.engine.die("t1", 1)
    await manager.task("t1", "running", restarts=1)
    updates = world.engine.calls.count("POST /containers/c1/update")
    await manager.request("lease")
    await poll(lambda: world.engine.calls.count("POST /containers/c1/update") > updates)  # taken back all the same
    await manager.task("t1", "running", ready=True)


async def test_a_container_that_would_not_survive_an_update_is_not_given_a_policy(world: World) -> None:
    await world.crash()
    world.engine.runtime = "crun"  # of which no version is to be learned
    world.resume()
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure(restart_delay_s=0.1))
    await manager.task("t1", "running")
    await poll(lambda: world.helper is not None and world.helper.lease.alone)
    world.engine.die("t1", 1)
    await manager.task("t1", "running", restarts=1)
    await manager.request("lease")
    await manager.request("report")
    assert "POST /containers/c1/update" not in world.engine.calls


async def test_an_end_in_the_last_seconds_of_a_lease_is_not_lost(world: World) -> None:
    manager = await world.manager(lease_s=1.5)
    await manager.apply(ensure("any", restart_delay_s=0.1), ensure("never", restart="none"))
    for name in ("any", "never"):
        await manager.task(name, "running")
    await manager.close()
    await poll(lambda: world.helper is not None and world.helper.session is None)
    world.engine.die("any", 1)
    world.engine.die("never", 1)
    await poll(lambda: world.engine.state_of("any")["Running"])
    manager = await world.manager(epoch=2)
    await manager.task("any", "running", restarts=1)
    await manager.task("never", "failed")


async def test_an_unhealthy_task_is_restarted_while_no_manager_is_there(world: World) -> None:
    world.engine.health_at_start = "healthy"
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure())
    await manager.task("t1", "running", ready=True)
    await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "always")
    world.engine.set_health("t1", "unhealthy")
    await manager.task("t1", "running", restarts=1, ready=True)
    assert "POST /containers/c1/restart" in world.engine.calls


async def test_a_task_told_to_stop_is_never_handed_over(world: World) -> None:
    world.engine.ignores_term = True
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await manager.apply(stop(grace_s=1.0))
    await manager.task("t1", "shutdown")
    assert "POST /containers/c1/update" not in world.engine.calls


async def test_a_crash_while_the_lease_is_lost_forgets_nothing_of_it(world: World) -> None:
    manager = await world.manager(lease_s=0.5)
    await manager.apply(ensure())
    await manager.task("t1", "running")
    await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "always")
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    await world.crash()
    world.engine.die("t1", 1)
    world.engine.run("t1")
    world.resume()
    manager = await world.manager(epoch=2)
    assert (await manager.task("t1", "running", restarts=1))["ready"]
    await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "no")


async def poll(test: Any) -> None:
    async with asyncio.timeout(8):
        while not test():  # noqa: ASYNC110 - the fake Engine has no events for its own insides
            await asyncio.sleep(0.01)
