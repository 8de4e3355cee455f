"""Secrets from the rotation to the tasks: use cases, store, orchestrator and what nodes are told, together."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.errors import InvalidSpec, Locked
from swarmsh.manager.usecases import secrets
from swarmsh.manager.usecases.revisions import rollback_to
from swarmsh.manager.usecases.secrets import Follow
from swarmsh.manager.usecases.services import update_service
from swarmsh.model.actions import EnsureTask, RefreshSecrets
from swarmsh.model.objects import Refresh, Secret, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents, secret_key
from swarmsh.model.specs import SecretSpec, ServiceSpec
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_secret, a_service, a_task, using

from .test_node_networks import N1, N2, scene_of
from .test_placing import Scene, spec_of


class Life(Scene):
    """Where what runs is ready, so that updates go on, and time passes until they are done."""

    def succeed(self, snapshot: ClusterSnapshot) -> Changes:
        put = []
        for task in super().succeed(snapshot).put_tasks:
            up = task.status.state is TaskState.RUNNING
            status = replace(task.status, ready=up)
            put.append(replace(task, status=status, ready_since=self.clock.now() if up else task.ready_since))
        return Changes(put_tasks=tuple(put))

    async def converge(self) -> None:
        for _ in range(12):
            await self.settle()
            self.clock.pass_time(5)
        await self.settle()


@pytest.fixture
async def scene() -> Life:
    made = Life()
    await made.begin()
    return made


async def make(scene: Scene, name: str = "password", data: bytes = b"one") -> Secret:
    kept = await secrets.create(scene.store, scene.ids, scene.clock, "secret", SecretSpec(name=name), data)
    assert isinstance(kept, Secret)
    return kept


async def turn(scene: Scene, data: bytes, **how: Any) -> secrets.Turned:
    return await secrets.rotate(scene.store, scene.ids, scene.clock, "secret", "password", data, **how)


def with_secret(kept: Secret, replicas: int = 2, **fields: Any) -> ServiceSpec:
    file = {"Name": "pw", "UID": "0", "GID": "0", "Mode": 0o400}
    reference = {"SecretID": kept.id, "SecretName": kept.spec.name, "File": file}
    template = {
        "ContainerSpec": {"Image": "web:1", "Secrets": [reference]},
        "RestartPolicy": {"Delay": 0},
    }
    return spec_of("web", replicas, TaskTemplate=template, **fields)


async def serve(scene: Scene, spec: ServiceSpec) -> None:
    from swarmsh.manager.usecases.services import create_service

    await create_service(scene.store, scene.ids, scene.clock, spec)
    await scene.settle()


def held(tasks: list[Task]) -> set[str]:
    return {r.secret_id for t in tasks for r in (t.spec.container_spec.secrets if t.spec.container_spec else ())}


# --- rolled, signalled, left ------------------------------------------------------------------------------------
async def test_a_rotation_rolls_services_by_their_update_config(scene: Life) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept, UpdateConfig={"Parallelism": 1, "Monitor": 1, "Order": "start-first"}))
    before = scene.live("web")
    turned = await turn(scene, b"two")
    await scene.converge()
    after = scene.live("web")
    assert held(after) == {turned.kept.id} and not {t.id for t in before} & {t.id for t in after}
    status = scene.service("web").update_status
    assert status is not None and status.state == "completed"


async def test_signalled_and_left_services_keep_every_task(scene: Life) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept))
    before = scene.live("web")
    turned = await turn(scene, b"two", follow=Follow.SIGNAL, signal="HUP")
    await scene.settle()
    after = scene.live("web")
    assert [t.id for t in after] == [t.id for t in before]
    assert held(after) == {turned.kept.id}
    await turn(scene, b"three", follow=Follow.LEAVE)
    await scene.settle()
    assert [t.id for t in scene.live("web")] == [t.id for t in before]
    assert held(scene.live("web")) == {turned.kept.id}
    # The next attempt of a task, and the next ones of a service that is scaled, are of its spec.
    scene.fail(scene.live("web")[0])
    await scene.settle()
    assert held(scene.live("web")) == {turned.kept.id}


async def test_a_rollback_goes_past_a_signalled_rotation_and_keeps_the_new_secret(
    scene: Scene,
) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept))
    changed = replace(with_secret(kept), labels={"a": "b"})
    service = scene.service("web")
    await update_service(scene.store, scene.clock, "web", service.version, changed)
    turned = await turn(scene, b"two", follow=Follow.SIGNAL, signal="HUP")
    service = scene.service("web")
    await update_service(scene.store, scene.clock, "web", service.version, service.spec, rollback="previous")
    await scene.settle()
    assert scene.service("web").spec.labels == {}
    assert held(scene.live("web")) == {turned.kept.id}


async def test_a_rolled_back_service_has_the_version_of_its_revision(scene: Life) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept))
    await turn(scene, b"two")
    await scene.converge()
    await rollback_to(scene.store, scene.clock, "web", scene.service("web").version, "1")
    await scene.converge()
    assert held(scene.live("web")) == {kept.id}


async def test_a_revision_whose_secret_is_gone_is_refused(scene: Life) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept))
    plain = spec_of("web", 2)
    await update_service(scene.store, scene.clock, "web", scene.service("web").version, plain)
    await secrets.remove(scene.store, scene.clock, "secret", "password")
    with pytest.raises(InvalidSpec, match="secret not found: password"):
        await rollback_to(scene.store, scene.clock, "web", scene.service("web").version, "1")
    with pytest.raises(InvalidSpec, match="secret not found: password"):
        await update_service(
            scene.store, scene.clock, "web", scene.service("web").version, plain, rollback="previous"
        )


async def test_credentials_go_with_the_spec_of_a_rolled_service(scene: Life) -> None:
    kept = await make(scene)
    await serve(scene, with_secret(kept))
    version = scene.service("web").version
    await update_service(scene.store, scene.clock, "web", version, with_secret(kept), auth="second")
    await turn(scene, b"two")
    service_id = scene.service("web").id
    assert scene.store.secrets[f"registry-auth/{service_id}"] == b"second"
    assert scene.store.secrets[f"registry-auth/{service_id}/previous"] == b"second"


async def test_a_refused_rotation_changes_nothing(scene: Life) -> None:
    await make(scene)
    before = scene.snapshot
    scene.store.locked = "the manager is locked"
    with pytest.raises(Locked):
        await turn(scene, b"two")
    assert scene.snapshot is before


# --- locked -----------------------------------------------------------------------------------------------------
async def test_tasks_that_need_secrets_wait_for_the_key_and_others_do_not(scene: Life) -> None:
    kept = await make(scene)
    scene.orchestrator.locked = lambda: scene.store.locked
    scene.store.locked = "the manager is locked"
    await serve(scene, with_secret(kept))
    await scene.create("plain")
    await scene.settle()
    assert {t.status.state for t in scene.live("plain")} == {TaskState.RUNNING}
    assert {(t.status.state, t.node_id) for t in scene.live("web")} == {(TaskState.PENDING, "")}
    assert {t.status.err for t in scene.live("web")} == {"it needs secrets or configs, and the manager is locked"}
    before = scene.snapshot
    await scene.settle()
    assert scene.snapshot == before
    scene.store.locked = ""
    await scene.settle()
    assert {(t.status.state, t.status.err) for t in scene.live("web")} == {(TaskState.RUNNING, "")}


WEB = using(a_service("web"), a_secret())
PLAIN = a_service("plain")


async def keep(scene: Any) -> None:
    """What the tasks of WEB are given is there."""
    kept = a_secret()
    contents = (Contents(key=secret_key(kept.id), data=b"needle"),)
    await scene.store.commit(lambda _: Changes(put_secrets=(kept,), put_contents=contents))


async def test_a_placed_task_waits_for_the_key_with_a_reason() -> None:
    waiting = a_task(WEB, 1, N1.id, TaskState.ASSIGNED)
    plain = a_task(PLAIN, 1, N1.id, TaskState.ASSIGNED)
    async with scene_of(WEB, PLAIN, connected=False) as scene:
        await keep(scene)
        scene.store.locked = "the manager is locked"
        await scene.put(waiting, plain)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: plain.id in scene.nodes.tasks[N1.id])
        await scene.nodes.until(lambda: bool(scene.store.snapshot.tasks[waiting.id].status.err))
        assert waiting.id not in scene.nodes.tasks[N1.id]
        reason = scene.store.snapshot.tasks[waiting.id].status.err
        assert reason == "it waits for what is sealed, and the manager is locked"
        scene.store.locked = ""
        scene.manager.unlocked()
        await scene.nodes.until(lambda: waiting.id in scene.nodes.tasks[N1.id])
        await scene.nodes.until(lambda: not scene.store.snapshot.tasks[waiting.id].status.err)


async def test_a_task_with_registry_credentials_waits_for_the_key_too() -> None:
    task = a_task(PLAIN, 1, N1.id, TaskState.ASSIGNED)
    async with scene_of(PLAIN, connected=False) as scene:
        await scene.store.put_secret(f"registry-auth/{PLAIN.id}", b"auth")
        scene.store.locked = "the manager is locked"
        await scene.put(task)
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: bool(scene.store.snapshot.tasks[task.id].status.err))
        scene.store.locked = ""
        scene.manager.unlocked()
        await scene.nodes.until(lambda: task.id in scene.nodes.tasks[N1.id])
        (action,) = (a for a in scene.nodes.actions(N1.id) if isinstance(a, EnsureTask))
        assert action.auth == "auth"


# --- refreshed --------------------------------------------------------------------------------------------------
def refreshing(task: Task, number: int, signal: str = "SIGHUP") -> Task:
    return replace(task, refresh=Refresh(number=number, signal=signal, asked_at=1.0))


def refreshes(scene: Any, node_id: str) -> list[tuple[str, int]]:
    return [(a.task_id, a.number) for a in scene.nodes.actions(node_id) if isinstance(a, RefreshSecrets)]


async def test_a_node_is_told_of_a_refresh_once_and_what_it_says_is_noted() -> None:
    one, two = a_task(WEB, 1, N1.id, TaskState.RUNNING), a_task(WEB, 2, N2.id, TaskState.RUNNING)
    async with scene_of(WEB, one, two) as scene:
        await keep(scene)
        await scene.put(refreshing(one, 1))
        await scene.nodes.until(lambda: _done(scene, one))
        await scene.put(refreshing(scene.store.snapshot.tasks[one.id], 2, ""))
        await scene.nodes.until(lambda: _done(scene, one))
        assert refreshes(scene, N1.id) == [(one.id, 1), (one.id, 2)] and refreshes(scene, N2.id) == []
        scene.nodes.connect(N1.id)
        await scene.settled()
        assert refreshes(scene, N1.id) == [(one.id, 1), (one.id, 2)]


async def test_a_node_that_was_away_is_told_when_it_is_back() -> None:
    one = a_task(WEB, 1, N1.id, TaskState.RUNNING)
    async with scene_of(WEB, one) as scene:
        await keep(scene)
        scene.nodes.cut(N1.id)
        await scene.put(refreshing(one, 1), refreshing(one, 2))
        await scene.settled()
        scene.nodes.connect(N1.id)
        await scene.nodes.until(lambda: _done(scene, one))
        assert refreshes(scene, N1.id) == [(one.id, 2)]


def _done(scene: Any, task: Task) -> bool:
    refresh = scene.store.snapshot.tasks[task.id].refresh
    return refresh is not None and refresh.done_at is not None


async def test_contents_are_in_no_change_that_is_passed_on(scene: Life) -> None:
    kept = a_secret()
    contents = (Contents(key=secret_key(kept.id), data=b"needle"),)
    async with scene.store.subscribe() as changes:
        await scene.store.commit(lambda _: Changes(put_secrets=(kept,), put_contents=contents))
        _, change = await anext(changes)
    assert "needle" not in repr(change) and not change.put_contents
