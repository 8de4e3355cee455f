"""Secrets and configs: created, listed, relabelled, removed; and their versions, which services follow as asked.

What holds for both is written once, with the kind as an argument.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from swarmsh.core import versions
from swarmsh.core.refresh import refreshed_service, refreshed_task
from swarmsh.core.secrets import Kind, ids_of, with_other_ids
from swarmsh.core.signals import accept_signal
from swarmsh.core.versions import Kept
from swarmsh.errors import InvalidSpec, NotFound, OutOfSequence, StoreCorrupt
from swarmsh.manager.ports import Clock, IdSource, Store
from swarmsh.manager.usecases import credentials
from swarmsh.manager.usecases.happenings import service_event
from swarmsh.manager.usecases.lookup import Filters, accept_filters, labelled, prefixed, require_cluster
from swarmsh.manager.usecases.services import respecified
from swarmsh.model.objects import Service, Task
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import ConfigSpec, SecretSpec


class Follow(StrEnum):
    """What becomes of the services that use a name when it means another version."""

    ROLL = "roll"  # updated, by their update config
    SIGNAL = "signal"  # their tasks go on with the new contents, and are sent a signal
    LEAVE = "leave"  # nothing: they keep the version that they have


class Turned(msgspec.Struct, frozen=True, kw_only=True):
    """What a name means now. `changed`: whether it meant another version before."""

    kept: Kept
    changed: bool
    services: tuple[tuple[str, str], ...]  # names of those that used another one, and what becomes of each:
    # rolled | signalled | left | next run


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`services` refer to it now. `tasks` is how many have it, `waiting` how many of those that run are yet to be
    given it, `failed` why others could not be, by their names."""

    kept: Kept
    services: tuple[str, ...]
    tasks: int
    waiting: int
    failed: dict[str, str]


# --- one ------------------------------------------------------------------------------------------------------
async def create(
    store: Store,
    ids: IdSource,
    clock: Clock,
    kind: Kind,
    spec: SecretSpec | ConfigSpec,
    data: bytes,
    author: Author | None = None,
) -> Kept:
    """Raises InvalidSpec, Unimplemented, NameConflict, Locked, Unavailable."""
    require_cluster(store.snapshot)
    object_id = ids.new_id()

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        return versions.creation(snapshot, kind, object_id, spec, data, clock.now(), author)

    return _object(await store.commit(decide), kind, object_id)


async def relabel(
    store: Store,
    clock: Clock,
    kind: Kind,
    ref: str,
    version: int,
    spec: SecretSpec | ConfigSpec,
    data: bytes | None = None,
) -> Kept:
    """Change labels; anything else that differs is refused, as Docker does. Raises InvalidSpec, OutOfSequence."""
    require_cluster(store.snapshot)
    found = versions.find_kept(store.snapshot, kind, ref)
    if data and not hmac.compare_digest(data, await contents(store, kind, found.id)):
        raise versions.only_labels()

    def decide(snapshot: ClusterSnapshot) -> Changes:
        stored = versions.find_kept(snapshot, kind, found.id)
        changed = versions.relabelled(stored, spec)
        if stored.version != version:
            raise OutOfSequence("rpc error: code = Unknown desc = update out of sequence")
        return versions.update_of(kind, changed, clock.now())

    return _object(await store.commit(decide), kind, found.id)


async def remove(store: Store, clock: Clock, kind: Kind, ref: str) -> None:
    """Raises NotFound, Ambiguous, InvalidSpec for one in use."""
    require_cluster(store.snapshot)
    await store.commit(lambda snapshot: versions.removal(snapshot, kind, ref, clock.now()))


async def contents(store: Store, kind: Kind, object_id: str) -> bytes:
    """Raises Locked, NotFound."""
    return await (store.secret_data(object_id) if kind == "secret" else store.config_data(object_id))


def inspect(snapshot: ClusterSnapshot, kind: Kind, ref: str) -> Kept:
    """Raises NotFound, Ambiguous, Unavailable."""
    require_cluster(snapshot)
    return _kept(versions.find_kept(snapshot, kind, ref))


def listed(snapshot: ClusterSnapshot, kind: Kind, filters: Filters) -> list[Kept]:
    """Current versions, by name. Of names and ids asked for, one must fit; labels must fit all, as in swarmkit."""
    require_cluster(snapshot)
    accept_filters(filters, {"id", "name", "names", "label"})

    def wanted(kept: Kept) -> bool:
        asked = [name for name in ("id", "name", "names") if filters.get(name)]
        fits = {
            "id": lambda: prefixed(filters, "id", kept.id),
            "name": lambda: prefixed(filters, "name", kept.spec.name),
            "names": lambda: kept.spec.name in filters["names"],
        }
        return (not asked or any(fits[name]() for name in asked)) and labelled(filters, "label", kept.spec.labels)

    current = (kept for kept in versions.shelf(snapshot, kind).values() if kept.current)
    return sorted(filter(wanted, current), key=lambda kept: kept.spec.name)


# --- versions -------------------------------------------------------------------------------------------------
def history(snapshot: ClusterSnapshot, kind: Kind, ref: str) -> list[Version]:
    """Newest first."""
    name = inspect(snapshot, kind, ref).spec.name
    found = []
    for kept in reversed(versions.versions_of(snapshot, kind, name)):
        tasks = [t for t in snapshot.tasks.values() if t.live and kept.id in ids_of(t.spec)]
        waiting = [t for t in tasks if t.refresh is not None and t.refresh.done_at is None]
        failed = {t.name: t.refresh.err for t in tasks if t.refresh is not None and t.refresh.err}
        services = tuple(s.spec.name for s in versions.users_of(snapshot, [kept.id]))
        having = len(tasks) - len(waiting) - len(failed)
        found.append(Version(kept=kept, services=services, tasks=having, waiting=len(waiting), failed=failed))
    return found


async def rotate(
    store: Store,
    ids: IdSource,
    clock: Clock,
    kind: Kind,
    ref: str,
    data: bytes,
    *,
    follow: Follow = Follow.ROLL,
    signal: str = "",
    author: Author | None = None,
) -> Turned:
    """Give a name new contents, and bring the services that use it to them as asked, all in one write.

    Contents that it has already make no new version. Raises NotFound, InvalidSpec, Locked.
    """
    signal = _accept_follow(follow, signal)
    require_cluster(store.snapshot)
    name, object_id = versions.find_exactly(store.snapshot, kind, ref).spec.name, ids.new_id()
    current = inspect(store.snapshot, kind, name)
    same = hmac.compare_digest(data, await _contents_or_nothing(store, kind, current.id))

    def turn(snapshot: ClusterSnapshot) -> Changes:
        if same and versions.current_id(snapshot, kind, name) == current.id:
            return Changes()
        return versions.next_version(snapshot, kind, object_id, name, data, clock.now(), author)

    return await _turned(store, clock, kind, name, turn, follow, signal, author, f"rotate {kind} {name}")


async def rollback(
    store: Store,
    clock: Clock,
    kind: Kind,
    ref: str,
    to: str = "",
    *,
    follow: Follow = Follow.ROLL,
    signal: str = "",
    author: Author | None = None,
) -> Turned:
    """Let a name mean an earlier version again; `to` is its number, "" the one before. Raises as `rotate`."""
    signal = _accept_follow(follow, signal)
    require_cluster(store.snapshot)
    name = versions.find_exactly(store.snapshot, kind, ref).spec.name
    found = versions.find_version(store.snapshot, kind, name, to)
    target = found.id
    if versions.contents_key(kind, target) not in store.secret_keys():
        raise InvalidSpec(
            f"version {found.number} of {kind} {name} has no contents: {versions.GIVEN_UP}",
            hint=f"Give them again: `swarmsh {kind} rotate {name} FILE`",
        )

    def turn(snapshot: ClusterSnapshot) -> Changes:
        return versions.other_version(snapshot, kind, versions.find_kept(snapshot, kind, target), clock.now())

    return await _turned(store, clock, kind, name, turn, follow, signal, author, f"roll back {kind} {name}")


def _accept_follow(follow: Follow, signal: str) -> str:
    if follow is Follow.SIGNAL:
        return accept_signal(signal)
    if signal:
        raise InvalidSpec("a signal is for tasks that are not replaced", hint='Give "Follow": "signal" with it')
    return ""


async def _contents_or_nothing(store: Store, kind: Kind, object_id: str) -> bytes:
    """Nothing where they were forgotten with their key, or do not open: new ones are what helps."""
    try:
        return await contents(store, kind, object_id)
    except (NotFound, StoreCorrupt):
        return b""


async def _turned(
    store: Store,
    clock: Clock,
    kind: Kind,
    name: str,
    turn: Callable[[ClusterSnapshot], Changes],
    follow: Follow,
    signal: str,
    author: Author | None,
    action: str,
) -> Turned:
    outcome: dict[str, str] = {}
    changed = False

    def decide(snapshot: ClusterSnapshot) -> Changes:
        nonlocal changed
        turned = turn(snapshot)
        changed = bool(turned)
        outcome.clear()
        ids = versions.moved_ids(snapshot.apply(turned, snapshot.index), kind, name)
        users = versions.users_of(snapshot, ids)
        followed = _followed(snapshot, users, ids, follow, signal, clock.now(), outcome)
        if not turned and not followed:
            return turned
        return replace(
            turned,
            put_services=followed.put_services,
            put_tasks=followed.put_tasks,
            events=(*turned.events, *followed.events),
            author=replace(author or Author(), action=action),
        )

    async with AsyncExitStack() as stack:
        if follow is Follow.ROLL:
            # As with every update: what the previous spec pulls with moves along with it.
            ids = [one.id for one in versions.versions_of(store.snapshot, kind, name)]
            for service in versions.users_of(store.snapshot, ids):
                if service.job_status is None:
                    keep = credentials.changing(store, service.id, given="", source="spec", rollback=False)
                    await stack.enter_async_context(keep)
        after = await store.commit(decide)
    current = versions.current_id(after, kind, name)
    assert current is not None
    return Turned(kept=_object(after, kind, current), changed=changed, services=tuple(outcome.items()))


def _followed(
    snapshot: ClusterSnapshot,
    users: Iterable[Service],
    ids: Mapping[str, str],
    follow: Follow,
    signal: str,
    now: float,
    outcome: dict[str, str],
) -> Changes:
    """Services and tasks with other ids (old -> new) in their references; `outcome` gets what becomes of each."""
    services: list[Service] = []
    tasks: list[Task] = []
    events = []
    for service in users:
        name = service.spec.name
        if follow is Follow.LEAVE:
            outcome[name] = "left"
            continue
        spec = replace(service.spec, task_template=with_other_ids(service.spec.task_template, ids))
        if follow is Follow.SIGNAL:
            updated = refreshed_service(service, ids)
            found = (refreshed_task(t, ids, signal, now) for t in snapshot.tasks_of_service(service.id))
            tasks += [task for task in found if task is not None]
            outcome[name] = "signalled"
        elif service.job_status is not None:
            # Nobody wants a backup made again because a password changed: what runs goes on.
            updated = replace(service, spec=spec, previous_spec=service.spec)
            outcome[name] = "next run"
        else:
            updated = respecified(service, spec)
            outcome[name] = "rolled"
        services.append(updated)
        events.append(service_event("update", updated, now, service))
    return Changes(put_services=tuple(services), put_tasks=tuple(tasks), events=tuple(events))


def _object(snapshot: ClusterSnapshot, kind: Kind, object_id: str) -> Kept:
    return _kept(versions.shelf(snapshot, kind)[object_id])


def _kept(found: Any) -> Kept:
    kept: Kept = found
    return kept
