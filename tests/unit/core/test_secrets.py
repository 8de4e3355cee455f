"""References, versions and refreshes of secrets and configs: pure."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core import versions
from swarmsh.core.difference import task_outdated, template_changed
from swarmsh.core.refresh import note_refresh, plan_refreshes, refreshed_task
from swarmsh.core.secrets import named_to_ids, needs_contents, with_other_ids
from swarmsh.core.signals import accept_signal
from swarmsh.core.spec_diff import diff_specs
from swarmsh.errors import InvalidSpec, NotFound, SwarmshError
from swarmsh.model.actions import NodeReport, TaskReport
from swarmsh.model.objects import Refresh
from swarmsh.model.snapshot import Changes, ClusterSnapshot, secret_key
from swarmsh.model.specs import SecretReference, SecretSpec, ServiceSpec, UpdateConfig
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_config, a_secret, a_service, a_task, using

from .world import World, make_spec

OLD, NEW, SITE = a_secret(), a_secret(number=2), a_config()
WEB = using(a_service("web"), OLD, SITE)
MOVED = {OLD.id: NEW.id}


# --- references -------------------------------------------------------------------------------------------------
def test_only_what_is_named_gets_another_id() -> None:
    template = WEB.spec.task_template
    assert needs_contents(template) and not needs_contents(a_service().spec.task_template)
    moved = with_other_ids(template, MOVED)
    assert moved == using(a_service("web"), NEW, SITE).spec.task_template
    assert with_other_ids(template, {"other": "x"}) is template
    assert with_other_ids(a_service().spec.task_template, MOVED) == a_service().spec.task_template


def test_another_version_replaces_tasks_and_is_told_by_its_number() -> None:
    after = replace(WEB.spec, task_template=with_other_ids(WEB.spec.task_template, MOVED))
    assert template_changed(WEB.spec, after)
    (change,) = diff_specs(WEB.spec, after, {OLD.id: "version 1", NEW.id: "version 2"})
    assert (change.before, change.after) == ("version 1", "version 2")
    assert change.field == "TaskTemplate.ContainerSpec.Secrets[password:password].SecretID"


def test_names_become_ids_of_current_versions() -> None:
    snapshot = ClusterSnapshot().apply(Changes(put_secrets=(replace(OLD, current=False), NEW)), 1)
    container = WEB.spec.task_template.container_spec
    assert container is not None
    reference = replace(container.secrets[0], secret_id="")
    template = replace(WEB.spec.task_template, container_spec=replace(container, secrets=(reference,), configs=()))
    found = named_to_ids(snapshot, replace(WEB.spec, task_template=template))
    assert found.task_template.container_spec is not None
    assert [r.secret_id for r in found.task_template.container_spec.secrets] == [NEW.id]
    missing = replace(container, secrets=(SecretReference(secret_name="gone"),), configs=())
    with pytest.raises(InvalidSpec, match="secret not found: gone"):
        named_to_ids(snapshot, replace(WEB.spec, task_template=replace(template, container_spec=missing)))


@pytest.mark.parametrize(("text", "name"), [("HUP", "SIGHUP"), ("sigusr1", "SIGUSR1"), (" 15 ", "SIGTERM")])
def test_signals_are_known_by_several_names(text: str, name: str) -> None:
    assert accept_signal(text) == name


@pytest.mark.parametrize("text", ["", "0", "99", "-1", "SIG", "hangup", "9", "stop", "9" * 5000])
def test_what_is_no_signal_to_read_files_at_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        accept_signal(text)


# --- refreshes --------------------------------------------------------------------------------------------------
def test_a_refreshed_task_is_no_outdated_one() -> None:
    task = a_task(WEB, 1, "n", TaskState.RUNNING)
    after = refreshed_task(task, MOVED, "SIGHUP", 5.0)
    assert after is not None
    spec = replace(WEB.spec, task_template=with_other_ids(WEB.spec.task_template, MOVED))
    assert not task_outdated(after, spec) and after.spec_version == task.spec_version
    assert after.refresh == Refresh(number=1, signal="SIGHUP", asked_at=5.0)
    again = refreshed_task(after, {NEW.id: "third"}, "", 6.0)
    assert again is not None and again.refresh == Refresh(number=2, asked_at=6.0, earlier=("SIGHUP",))
    third = refreshed_task(again, {"third": "fourth"}, "SIGUSR1", 7.0)
    assert third is not None and third.refresh is not None
    assert (third.refresh.earlier, third.refresh.signal) == (("SIGHUP",), "SIGUSR1")
    fourth = refreshed_task(third, {"fourth": "fifth"}, "SIGHUP", 8.0)
    assert fourth is not None and fourth.refresh is not None
    assert (fourth.refresh.earlier, fourth.refresh.signal) == (("SIGUSR1",), "SIGHUP")
    done = replace(fourth, refresh=replace(fourth.refresh, done_at=9.0))
    fifth = refreshed_task(done, {"fifth": "sixth"}, "SIGHUP", 9.0)
    assert fifth is not None and fifth.refresh == Refresh(number=5, signal="SIGHUP", asked_at=9.0)


def test_a_task_that_is_over_or_has_nothing_of_it_is_left_alone() -> None:
    assert refreshed_task(a_task(WEB, 1, "n", TaskState.FAILED), MOVED, "", 1.0) is None
    assert refreshed_task(a_task(a_service(), 1, "n", TaskState.RUNNING), MOVED, "", 1.0) is None


@pytest.mark.parametrize(
    ("state", "refreshed", "told", "number"),
    [
        ("running", 0, 0, 2),
        ("ready", 0, 0, 2),
        ("running", 1, 1, 2),
        ("preparing", 0, 0, None),
        ("starting", 0, 0, None),
        ("failed", 0, 0, None),
        ("running", 2, 0, None),
        ("running", 0, 2, None),
    ],
)
def test_a_node_is_told_when_the_files_are_there(
    state: str, refreshed: int, told: int, number: int | None
) -> None:
    task = replace(a_task(WEB, 1, "n", TaskState.RUNNING), refresh=Refresh(number=2, signal="SIGHUP"))
    report = NodeReport(tasks={task.id: TaskReport(task_id=task.id, state=state, refreshed=refreshed)})
    actions = plan_refreshes([task], report, {task.id: told} if told else {})
    assert [a.number for a in actions] == ([] if number is None else [number])
    done = replace(task, refresh=Refresh(number=2, done_at=1.0))
    assert plan_refreshes([done], report, {}) == ()


def test_the_node_s_word_ends_a_refresh_once() -> None:
    task = replace(a_task(WEB, 1, "n", TaskState.RUNNING), refresh=Refresh(number=2))
    early = TaskReport(task_id=task.id, state="running", refreshed=1)
    assert note_refresh(task, early, 5.0) is task
    done = note_refresh(task, replace(early, refreshed=2, refresh_err="no space"), 6.0)
    assert done.refresh == Refresh(number=2, done_at=6.0, err="no space")
    assert note_refresh(done, replace(early, refreshed=2), 7.0) is done


# --- a cluster ---------------------------------------------------------------------------------------------------
def version(number: int) -> str:
    return a_secret(number=number).id


def held(world: World) -> set[str]:
    live = (t for t in world.tasks() if t.live and t.spec.container_spec is not None)
    return {r.secret_id for t in live if t.spec.container_spec for r in t.spec.container_spec.secrets}


def rolled(world: World, ids: dict[str, str], **template: object) -> ServiceSpec:
    spec = world.service.spec
    return replace(spec, task_template=replace(with_other_ids(spec.task_template, ids), **template))


OPS = st.lists(
    st.sampled_from(("signal", "roll", "force", "fail", "cut", "find", "kill", "wait", "back")), max_size=10
)


@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(ops=OPS, order=st.sampled_from(("stop-first", "start-first")))
@example(ops=["roll", "signal", "wait", "back", "signal"], order="start-first")
def test_whatever_happens_in_between_all_tasks_come_to_the_newest_version(ops: list[str], order: str) -> None:
    world, number = World(), 1
    spec = make_spec(replicas=3, update=UpdateConfig(parallelism=1, order=order))
    world.create(using(replace(a_service(), spec=spec), OLD).spec)
    world.pass_time(10)
    for op in ops:
        ids = {version(n): version(number + 1) for n in range(1, number + 1)}
        if op == "signal":
            number += 1
            before = set(world.containers())
            world.signal(ids)
            world.settle()
            if world.service.update_status is None and not world.cut:
                assert set(world.containers()) >= before  # a signal ends none
        elif op == "roll":
            number += 1
            world.update(rolled(world, ids))
        elif op == "force":
            world.update(rolled(world, {}, force_update=world.service.spec.task_template.force_update + 1))
        elif op == "back" and world.service.previous_spec is not None:
            world.update(world.service.previous_spec)
        elif op == "fail" and world.running():
            world.fail(world.running()[0])
        elif op == "cut":
            world.lose(1)
        elif op == "find" and world.cut:
            world.find(1)
        elif op == "kill":
            world.restart_manager()
        world.pass_time(1)
    if world.cut:
        world.find(1)
    world.pass_time(60)
    container = world.service.spec.task_template.container_spec
    assert container is not None
    assert held(world) == {container.secrets[0].secret_id}
    assert len(world.containers()) == 3
    assert all(t.refresh is None or t.refresh.done_at is not None for t in world.running())


# --- versions ---------------------------------------------------------------------------------------------------
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("create", "rotate", "back", "remove", "use", "free")),
        st.sampled_from(("a", "b")),
        st.integers(1, 15),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_is_done_each_name_means_one_version_and_what_is_used_is_kept(
    steps: list[tuple[str, str, int]],
) -> None:
    snapshot, contents, ids = ClusterSnapshot(), {}, count(1)
    newest: dict[str, int] = {}
    for now, (what, name, number) in enumerate(steps):
        try:
            if what == "create":
                changes = versions.creation(snapshot, "secret", f"i{next(ids)}", SecretSpec(name=name), b"x", now)
                newest[name] = 0
            elif what == "rotate":
                changes = versions.next_version(snapshot, "secret", f"i{next(ids)}", name, b"y", now)
            elif what == "back":
                found = versions.find_version(snapshot, "secret", name, str(number))
                changes = versions.other_version(snapshot, "secret", found, now)
            elif what == "remove":
                changes = versions.removal(snapshot, "secret", name, now)
            else:
                service = a_service(name)
                if what == "use":
                    service = using(service, versions.find_version(snapshot, "secret", name, str(number)))
                changes = Changes(put_services=(service,))
        except SwarmshError:
            continue
        made = [one for one in changes.put_secrets if one.current]
        if what == "rotate":
            assert made[0].number > newest[name]
            newest[name] = made[0].number
        contents |= {one.key: one.data for one in changes.put_contents}
        for gone in changes.delete_secrets:
            del contents[secret_key(gone)]
        snapshot = snapshot.apply(changes, now + 1)
        for kept_name in ("a", "b"):
            kept = versions.versions_of(snapshot, "secret", kept_name)
            assert [one.id for one in kept if one.current] == [
                i for i in [snapshot.secret_ids.get(kept_name)] if i is not None
            ]
            assert len({one.number for one in kept}) == len(kept)
            assert len(kept) <= versions.VERSIONS_KEPT + 2  # the current one, and the one in use
        assert contents.keys() == {secret_key(i) for i in snapshot.secrets}
        used = {i for s in snapshot.services.values() for i in versions.ids_of(s.spec.task_template)}
        assert used <= set(snapshot.secrets)


def test_what_running_tasks_and_previous_specs_have_is_kept_beyond_the_limit() -> None:
    snapshot = ClusterSnapshot()
    kept = [a_secret(number=n, current=n == 15) for n in range(1, 16)]
    running = a_task(using(a_service(), kept[0]), 1, "n", TaskState.RUNNING)
    over = a_task(using(a_service(), kept[1]), 2, "n", TaskState.SHUTDOWN)
    service = replace(a_service("api"), previous_spec=using(a_service("api"), kept[2]).spec)
    changes = Changes(put_secrets=tuple(kept), put_tasks=(running, over), put_services=(service,))
    snapshot = snapshot.apply(changes, 1)
    assert versions.spare_versions(snapshot, "secret", "password") == [kept[1].id, kept[3].id]


def test_there_is_nothing_to_go_back_to_without_a_version() -> None:
    with pytest.raises(NotFound, match="secret a has no earlier version"):
        versions.find_version(ClusterSnapshot(), "secret", "a", "")
