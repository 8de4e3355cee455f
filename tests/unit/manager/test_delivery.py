"""What secrets and configs hold reaches a node before its tasks, once, and is seen nowhere on the way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.core.body_template import expand_body
from swarmsh.errors import NodeRequestFailed, NotFound, Unavailable
from swarmsh.manager import delivery
from swarmsh.manager.loop import Manager
from swarmsh.manager.ports import TasksReported
from swarmsh.manager.settings import Settings
from swarmsh.model.actions import ContentPart, ContentParts, EnsureTask, RefreshSecrets, TaskReport
from swarmsh.model.objects import Cluster, Config, Refresh, Secret, Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    Driver,
    FileTarget,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from swarmsh.model.states import TaskState
from tests.fakes.helpers import FakeHelpers
from tests.fakes.objects import a_node, a_service, a_task
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock
from tests.unit.manager.test_node_networks import Idle

N1 = a_node(1)
PASS, CONF = b"hunter2", b"listen 80\xff"


class Sealed(MemoryStore):
    """With contents by id; `locked` says why they cannot be read."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.data: dict[str, bytes] = {"sec1": PASS, "cfg1": CONF}
        self.why_locked = ""
        self.read: list[str] = []

    async def secret_data(self, secret_id: str) -> bytes:
        return await self._data(secret_id)

    async def config_data(self, config_id: str) -> bytes:
        return await self._data(config_id)

    async def _data(self, object_id: str) -> bytes:
        await asyncio.sleep(0)
        if self.why_locked:
            raise Unavailable(self.why_locked)
        if object_id not in self.data:
            raise NotFound(f"{object_id} not found")
        self.read.append(object_id)
        return self.data[object_id]


def a_secret(name: str = "pass", object_id: str = "sec1", template: str = "") -> Secret:
    spec = SecretSpec(name=name, templating=Driver(name=template) if template else None)
    return Secret(id=object_id, version=0, created_at=0.0, updated_at=0.0, spec=spec)


def a_config(name: str = "conf", object_id: str = "cfg1", template: str = "") -> Config:
    spec = ConfigSpec(name=name, templating=Driver(name=template) if template else None)
    return Config(id=object_id, version=0, created_at=0.0, updated_at=0.0, spec=spec)


def using(task: Task, *kept: Secret | Config, env: tuple[str, ...] = ()) -> Task:
    """The task with these, each at a file of its name."""
    spec = ContainerSpec(
        image="web:1",
        env=env,
        secrets=tuple(
            SecretReference(file=FileTarget(name=k.spec.name, mode=0o400), secret_id=k.id, secret_name=k.spec.name)
            for k in kept
            if isinstance(k, Secret)
        ),
        configs=tuple(
            ConfigReference(file=FileTarget(name=k.spec.name), config_id=k.id, config_name=k.spec.name)
            for k in kept
            if isinstance(k, Config)
        ),
    )
    return replace(task, spec=TaskSpec(container_spec=spec))


WEB = a_service("web")


def a_web_task(slot: int = 1, *kept: Secret | Config, env: tuple[str, ...] = ()) -> Task:
    return using(a_task(WEB, slot, N1.id, TaskState.ASSIGNED), *kept, env=env)


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store, self.nodes = Sealed(self.clock), FakeHelpers()
        self.manager = Manager(self.store, self.nodes, self.clock, CountingIds(), 1, Settings())  # type: ignore[arg-type]
        self.manager._orchestrator = Idle()  # type: ignore[assignment]

    async def put(self, *objects: Any) -> None:
        await self.store.commit(
            lambda s: Changes(
                put_tasks=tuple(o for o in objects if isinstance(o, Task)),
                put_secrets=tuple(o for o in objects if isinstance(o, Secret)),
                put_configs=tuple(o for o in objects if isinstance(o, Config)),
            )
        )

    def task(self, slot: int = 1) -> Task:
        return self.store.snapshot.tasks[a_task(WEB, slot).id]

    def started(self, task: Task) -> bool:
        return any(isinstance(a, EnsureTask) and a.task_id == task.id for a in self.nodes.actions(N1.id))

    async def until_started(self, *tasks: Task) -> None:
        await self.nodes.until(lambda: all(self.started(task) for task in tasks))

    def lines(self) -> list[ContentParts]:
        return [one for one in self.nodes.said("contents") if isinstance(one, ContentParts)]

    def given(self, task: Task, object_id: str) -> bytes | None:
        return self.nodes.contents_of.get((N1.id, task.id, object_id))

    async def quiet(self) -> None:
        """Whatever can happen has happened."""
        for _ in range(200):
            await asyncio.sleep(0)


@asynccontextmanager
async def scene_of(*objects: Any) -> AsyncIterator[Scene]:
    scene = Scene()
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    await scene.store.commit(lambda s: Changes(cluster=cluster, put_nodes=(N1,), put_services=(WEB,)))
    await scene.put(*objects)
    running = asyncio.create_task(scene.manager.run())
    scene.nodes.connect(N1.id)
    try:
        yield scene
    finally:
        running.cancel()
        await asyncio.wait([running])


# --- in order --------------------------------------------------------------------------------------------------
async def test_contents_are_given_before_the_task_and_once() -> None:
    task = a_web_task(1, a_secret(), a_config())
    async with scene_of(a_secret(), a_config(), task) as scene:
        await scene.until_started(task)
        assert scene.given(task, "sec1") == PASS and scene.given(task, "cfg1") == CONF
        places = [scene.nodes.place(N1.id, what) for what in ("contents", "apply")]
        assert 0 <= places[0] < places[1]
        ensured = next(a for a in scene.nodes.actions(N1.id) if isinstance(a, EnsureTask))
        assert [(f.id, f.target, f.mode) for f in ensured.files] == [
            ("sec1", "/run/secrets/pass", 0o400),
            ("cfg1", "/conf", 0),
        ]
        scene.manager._workers[N1.id][0].touch()
        await scene.quiet()
        assert len(scene.lines()) == 1


async def test_many_small_contents_are_one_line_and_large_ones_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LINE_ROOM", 2000)
    tasks = [a_web_task(slot, a_secret(), a_config()) for slot in (1, 2, 3)]
    async with scene_of(a_secret(), a_config(), *tasks) as scene:
        await scene.until_started(*tasks)
        assert len(scene.lines()) == 1
        scene.store.data["cfg1"] = whole = bytes(range(256)) * 18
        more = a_web_task(4, a_config())
        await scene.put(more)
        await scene.until_started(more)
        assert scene.given(more, "cfg1") == whole
        assert [[(p.offset, len(p.data)) for p in line.items] for line in scene.lines()[1:]] == [
            [(0, 2000)],
            [(2000, 2000)],
            [(4000, 608)],
        ]


async def test_no_line_is_long_enough_to_keep_a_slow_uplink_from_heartbeats() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of() as scene:
        scene.store.data["sec1"] = whole = bytes(range(256)) * 1600
        await scene.put(a_secret(), task)
        await scene.until_started(task)
        assert scene.given(task, "sec1") == whole
        assert max(sum(len(p.data) for p in line.items) for line in scene.lines()) <= 64 * 1024


async def test_what_needs_nothing_does_not_wait_for_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    needy, plain = a_web_task(1, a_secret()), a_web_task(2)
    async with scene_of(a_secret(), needy, plain) as scene:
        await scene.until_started(needy, plain)
        words = [what for node, what, _ in scene.nodes.log if what in ("contents", "apply")]
        assert words == ["apply", "contents", "apply"]


async def test_a_new_session_with_a_node_that_knows_the_task_needs_no_contents() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of(a_secret(), task) as scene:
        await scene.until_started(task)
        known = TaskReport(task_id=task.id, state="ready", wanted="ready")
        scene.nodes.tasks[N1.id][task.id] = known
        before = len(scene.nodes.actions(N1.id))
        scene.nodes.cut(N1.id)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: len(scene.nodes.actions(N1.id)) > before)
        assert len(scene.lines()) == 1


async def test_a_node_that_forgot_all_in_a_reboot_is_given_them_again() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of(a_secret(), task) as scene:
        await scene.until_started(task)
        scene.nodes.tasks[N1.id][task.id] = TaskReport(task_id=task.id, state="ready")  # found by its labels
        scene.nodes.cut(N1.id)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: len(scene.lines()) == 2)


async def test_what_a_node_says_it_misses_is_given_and_not_twice() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of(a_secret(), task) as scene:
        await scene.until_started(task)
        lacking = TaskReport(task_id=task.id, state="preparing", wanted="running", missing=("sec1",))
        scene.nodes.tasks[N1.id][task.id] = lacking
        scene.nodes.say(TasksReported(node_id=N1.id, tasks=(lacking,)))
        await scene.nodes.until(lambda: len(scene.lines()) == 2)
        scene.manager._workers[N1.id][0].touch()
        await scene.quiet()
        assert len(scene.lines()) == 2


# --- what waits, and what can never be -------------------------------------------------------------------------
async def test_a_task_whose_contents_cannot_be_read_waits_and_says_why() -> None:
    task, plain = a_web_task(1, a_secret()), a_web_task(2)
    async with scene_of(plain) as scene:
        scene.store.why_locked = "the store is locked"
        await scene.put(a_secret(), task)
        await scene.nodes.until(lambda: scene.task().status.err == "the store is locked")
        await scene.until_started(plain)
        assert scene.task().status.state is TaskState.ASSIGNED
        assert not scene.started(task)
        scene.store.why_locked = ""
        scene.manager._workers[N1.id][0].touch()
        await scene.until_started(task)
        await scene.nodes.until(lambda: scene.task().status.err == "")


async def test_a_node_that_cannot_keep_contents_is_told_of_the_task_later() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of() as scene:
        scene.nodes.full[N1.id] = NodeRequestFailed("node n1: contents cannot be kept in memory: No space left")
        await scene.put(a_secret(), task)
        await scene.nodes.until(lambda: "No space left" in scene.task().status.err)
        assert not scene.started(task)
        del scene.nodes.full[N1.id]
        scene.manager._workers[N1.id][0].touch()
        await scene.until_started(task)


async def test_a_secret_that_is_gone_rejects_the_task() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of(task) as scene:
        await scene.nodes.until(lambda: scene.task().status.state is TaskState.REJECTED)
        assert scene.task().status.err == "secret or config sec1 not found"


async def test_a_config_whose_contents_were_given_up_says_so() -> None:
    task = a_web_task(1, a_config())
    async with scene_of() as scene:
        del scene.store.data["cfg1"]
        await scene.put(a_config(), task)
        await scene.nodes.until(lambda: scene.task().status.state is TaskState.REJECTED)
        assert scene.task().status.err.startswith("config conf has no contents: they were given up with their key")


# --- templates -------------------------------------------------------------------------------------------------
async def test_templates_are_expanded_for_each_task() -> None:
    config = a_config(template="golang")
    tasks = [a_web_task(slot, a_secret(), config, env=("MODE=prod",)) for slot in (1, 2)]
    async with scene_of() as scene:
        scene.store.data["cfg1"] = b'{{.Task.Slot}} {{env "MODE"}} {{secret "pass"}} {{config "conf"}}\xff'
        await scene.put(a_secret(), config, *tasks)
        await scene.until_started(*tasks)
        itself = scene.store.data["cfg1"]
        assert [scene.given(task, "cfg1") for task in tasks] == [
            b"1 prod hunter2 " + itself + b"\xff",
            b"2 prod hunter2 " + itself + b"\xff",
        ]


LONG = 32 * 1024  # bytes of a template that is not expanded in the event loop


async def test_a_large_template_is_expanded_too() -> None:
    config = a_config(template="golang")
    task = a_web_task(1, config)
    async with scene_of() as scene:
        scene.store.data["cfg1"] = b"x" * LONG + b"{{.Task.Slot}}"
        await scene.put(config, task)
        await scene.until_started(task)
        assert scene.given(task, "cfg1") == b"x" * LONG + b"1"


async def test_a_short_template_of_much_work_keeps_nothing_from_the_event_loop() -> None:
    config = a_config(template="golang")
    task = a_web_task(1, config)
    async with scene_of() as scene:
        scene.store.data["cfg1"] = b"{{$x := `ab`}}" + b"{{$x = print $x $x}}" * 15 + b"{{len $x}}"
        expanding: list[str] = []
        with pytest.MonkeyPatch.context() as patch:

            def expand(*work: Any) -> str:
                expanding.append(threading.current_thread().name)
                return expand_body(*work)

            patch.setattr(delivery, "expand_body", expand)
            patch.setattr(delivery, "AT_ONCE", 100_000)
            await scene.put(config, task)
            await scene.until_started(task)
        assert scene.given(task, "cfg1") == b"65536"
        assert [name == threading.main_thread().name for name in expanding] == [True, False]


@pytest.mark.parametrize(
    ("kept", "data", "err"),
    [
        (
            a_config(template="golang"),
            b"a\n{{hunter2}}",
            "config conf: its template cannot be expanded: line 2: function not defined: hunter2",
        ),
        (
            a_secret(template="golang"),
            b"a\n{{hunter2}}",
            "secret pass: its template cannot be expanded: line 2: function not defined",
        ),
        (
            a_config(template="golang"),
            b'{{secret "other"}}',
            "config conf: secret target other not found. Give the service that too: templates see what the task "
            "is given, by its target",
        ),
        (
            a_secret(template="golang"),
            b'{{secret "hunter2"}}',
            "secret pass: a secret that its template names is not given to the task. Give the service that too: "
            "templates see what the task is given, by its target",
        ),
        (
            a_config(template="golang"),
            b'{{config "\xff' + b"x" * 90 + b'"}}',
            "config conf: config target \\udcff"
            + "x" * 79
            + "… not found. Give the service that too: templates see "
            "what the task is given, by its target",
        ),
        (a_config(template="jinja"), b"x", "config conf: unrecognized template type jinja"),
    ],
)
async def test_a_template_that_cannot_be_expanded_rejects_the_task(
    kept: Secret | Config, data: bytes, err: str
) -> None:
    task, other = a_web_task(1, kept), a_web_task(2)
    async with scene_of() as scene:
        scene.store.data[kept.id] = data
        await scene.put(kept, task, other)
        await scene.nodes.until(lambda: scene.task().status.state is TaskState.REJECTED)
        assert scene.task().status.err == err
        await scene.until_started(other)
        assert not scene.started(task) and scene.lines() == []


async def test_a_bug_in_an_expansion_rejects_its_task_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(delivery, "expand_body", broken)
    config = a_config(template="golang")
    task, other = a_web_task(1, config), a_web_task(2, a_secret())
    async with scene_of(a_secret(), config, task, other) as scene:
        await scene.nodes.until(lambda: scene.task().status.state is TaskState.REJECTED)
        assert scene.task().status.err == "config conf: its template cannot be expanded"
        await scene.until_started(other)


async def test_a_bug_in_reading_keeps_nothing_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    task, other = a_web_task(1, a_config()), a_web_task(2, a_secret())
    async with scene_of() as scene:

        async def broken(_: str) -> bytes:
            raise RuntimeError("hunter2")

        monkeypatch.setattr(scene.store, "config_data", broken)
        await scene.put(a_secret(), a_config(), task, other)
        await scene.until_started(other)
        await scene.nodes.until(lambda: "cannot be read: RuntimeError" in scene.task().status.err)
        assert not scene.started(task)


async def test_words_that_no_record_can_hold_are_noted_as_escapes() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of() as scene:
        scene.nodes.full[N1.id] = NodeRequestFailed("node n1: \udcff")
        await scene.put(a_secret(), task)
        await scene.nodes.until(lambda: scene.task().status.err == "node n1: \\udcff")


# --- exchanged under a running task ----------------------------------------------------------------------------
async def test_an_exchange_is_told_after_its_contents() -> None:
    task = a_web_task(1, a_secret())
    async with scene_of(a_secret(), task) as scene:
        await scene.until_started(task)
        scene.store.data["sec2"] = b"newer"
        newer = a_secret(object_id="sec2")
        exchanged = using(scene.task(), newer)
        await scene.put(newer, replace(exchanged, refresh=Refresh(number=1, signal="SIGHUP")))
        await scene.nodes.until(lambda: scene.nodes.tasks[N1.id][task.id].refreshed == 1)
        assert scene.given(task, "sec2") == b"newer"
        told = next(a for a in scene.nodes.actions(N1.id) if isinstance(a, RefreshSecrets))
        assert (told.signal, [file.id for file in told.files]) == ("SIGHUP", ["sec2"])


async def test_templates_are_given_anew_with_an_exchange() -> None:
    config = a_config(template="golang")
    task = a_web_task(1, a_secret(), config)
    async with scene_of() as scene:
        scene.store.data |= {"cfg1": b'p={{secret "pass"}}', "sec2": b"newer"}
        await scene.put(a_secret(), config, task)
        await scene.until_started(task)
        assert scene.given(task, "cfg1") == b"p=hunter2"
        newer = a_secret(object_id="sec2")
        await scene.put(newer, replace(using(scene.task(), newer, config), refresh=Refresh(number=1)))
        await scene.nodes.until(lambda: scene.nodes.tasks[N1.id][task.id].refreshed == 1)
        assert scene.given(task, "cfg1") == b"p=newer"
        await scene.quiet()
        assert len(scene.lines()) == 2


async def test_an_exchange_that_cannot_be_leaves_the_task_running_and_says_why() -> None:
    task = a_web_task(1, a_config())
    async with scene_of(a_config(), task) as scene:
        await scene.until_started(task)
        await scene.nodes.until(lambda: scene.task().status.state is TaskState.RUNNING)
        scene.store.data["cfg2"] = b"{{nothing}}"
        newer = a_config(object_id="cfg2", template="golang")
        await scene.put(newer, replace(using(scene.task(), newer), refresh=Refresh(number=1)))
        await scene.nodes.until(lambda: (r := scene.task().refresh) is not None and r.done_at is not None)
        refresh = scene.task().refresh
        assert refresh is not None and refresh.err.endswith("function not defined: nothing")
        assert scene.task().status.state is TaskState.RUNNING


# --- seen nowhere ----------------------------------------------------------------------------------------------
async def test_contents_are_in_no_log_snapshot_or_representation(caplog: pytest.LogCaptureFixture) -> None:
    task = a_web_task(1, a_secret(), a_config(template="golang"))
    with caplog.at_level(logging.DEBUG):
        async with scene_of() as scene:
            scene.store.data["cfg1"] = b'{{secret "pass"}} {{wrong}}'
            await scene.put(a_secret(), a_config(template="golang"), task)
            await scene.nodes.until(lambda: scene.task().status.state is TaskState.REJECTED)
            fine = a_web_task(2, a_secret())
            await scene.put(fine)
            await scene.until_started(fine)
            everything = caplog.text + repr(scene.store.snapshot) + repr(scene.lines())
            assert "hunter2" not in everything
    part = ContentPart(task_id="t", id="s", size=7, data=PASS)
    assert repr(part) == "ContentPart(task_id='t', id='s', size=7, data=…)"
