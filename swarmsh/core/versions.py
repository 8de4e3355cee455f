"""Versions of secrets and configs: what is written when one is made, exchanged, gone back to or removed.

Everything here takes a snapshot and gives what is to be written, so that it can be part of a larger write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from immutables import Map
from msgspec.structs import replace

from swarmsh.core.find import find_one
from swarmsh.core.secrets import Kind, accept_data, accept_spec, ids_of
from swarmsh.errors import InvalidSpec, NameConflict, NotFound
from swarmsh.model.objects import Config, Event, Secret, Service
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents, config_key, secret_key
from swarmsh.model.specs import ConfigSpec, SecretSpec

VERSIONS_KEPT = 10  # of each name, beside those that are current or in use

# All that is done here is done with both in the same way.
Kept = Secret | Config
K = TypeVar("K", Secret, Config)


GIVEN_UP = "they were given up with their key"


# --- found ----------------------------------------------------------------------------------------------------
def shelf(snapshot: ClusterSnapshot, kind: Kind) -> Map[str, Any]:
    """All versions of all secrets, or configs, by id."""
    return snapshot.secrets if kind == "secret" else snapshot.configs


def contents_key(kind: Kind, object_id: str) -> str:
    """What the store has the contents of an object under."""
    return secret_key(object_id) if kind == "secret" else config_key(object_id)


def current_id(snapshot: ClusterSnapshot, kind: Kind, name: str) -> str | None:
    return (snapshot.secret_ids if kind == "secret" else snapshot.config_ids).get(name)


def find_kept(snapshot: ClusterSnapshot, kind: Kind, ref: str) -> Any:
    """By id, name (of its current version) or id prefix. Raises NotFound, Ambiguous."""
    known, named = shelf(snapshot, kind), current_id(snapshot, kind, ref)
    return find_one(kind, known, ref, [known[named]] if named is not None else [])


def find_exactly(snapshot: ClusterSnapshot, kind: Kind, ref: str) -> Any:
    """By name (of its current version) or whole id. Raises NotFound."""
    known, named = shelf(snapshot, kind), current_id(snapshot, kind, ref)
    if named is None and ref not in known:
        raise NotFound(
            f"{kind} {ref} not found", hint=f"Give its name or whole id; `swarmsh {kind} ls` shows them"
        )
    return known[named if named is not None else ref]


def versions_of(snapshot: ClusterSnapshot, kind: Kind, name: str) -> list[Any]:
    """All that are kept under a name, oldest first."""
    return sorted((k for k in shelf(snapshot, kind).values() if k.spec.name == name), key=lambda k: k.number)


def find_version(snapshot: ClusterSnapshot, kind: Kind, name: str, to: str) -> Any:
    """The version of that number; for "" the newest one before the current. Raises InvalidSpec, NotFound."""
    kept = versions_of(snapshot, kind, name)
    numbers = ", ".join(str(one.number) for one in kept)
    hint = f"Kept ones: {numbers}; `swarmsh {kind} history {name}` shows them"
    if not to:
        current = next((one.number for one in kept if one.current), 0)
        earlier = [one for one in kept if one.number < current]
        if not earlier:
            raise NotFound(f"{kind} {name} has no earlier version", hint=hint)
        return earlier[-1]
    if not (to.isascii() and to.isdigit()) or len(to) > 9:
        raise InvalidSpec(f"invalid version '{to}': it is a number", hint=hint)
    for one in kept:
        if one.number == int(to):
            return one
    raise NotFound(f"{kind} {name} has no version {int(to)}", hint=hint)


def users_of(snapshot: ClusterSnapshot, ids: Iterable[str]) -> list[Service]:
    """Services whose spec refers to any of these, by name."""
    wanted = set(ids)
    using = (s for s in snapshot.services.values() if not wanted.isdisjoint(ids_of(s.spec.task_template)))
    return sorted(using, key=lambda service: service.spec.name)


def _in_use(snapshot: ClusterSnapshot) -> set[str]:
    """Ids that a service or a task may need again: also to go back to what it was before."""
    found: set[str] = set()
    for service in snapshot.services.values():
        found.update(ids_of(service.spec.task_template))
        if service.previous_spec is not None:
            found.update(ids_of(service.previous_spec.task_template))
    for task in snapshot.tasks.values():
        if not task.status.state.terminal:
            found.update(ids_of(task.spec))
    return found


# --- made -----------------------------------------------------------------------------------------------------
def creation(
    snapshot: ClusterSnapshot,
    kind: Kind,
    object_id: str,
    spec: SecretSpec | ConfigSpec,
    data: bytes,
    now: float,
    author: Author | None = None,
) -> Changes:
    """A new name with its first version. Raises InvalidSpec, Unimplemented, NameConflict."""
    accept_spec(spec)
    accept_data(kind, data)
    if current_id(snapshot, kind, spec.name) is not None:
        raise NameConflict(f"rpc error: code = AlreadyExists desc = {kind} {spec.name} already exists")
    made = _made(object_id, spec, data, now, _as(author, "create"), number=1)
    return _put(kind, [made], made, data, _event(kind, "create", made, now))


def next_version(
    snapshot: ClusterSnapshot,
    kind: Kind,
    object_id: str,
    name: str,
    data: bytes,
    now: float,
    author: Author | None = None,
    labels: dict[str, str] | None = None,
) -> Changes:
    """A new version of a name, which means it from then on; `labels` None: as they were.

    Versions that are over the number that is kept go in the same write. Raises NotFound, InvalidSpec.
    """
    accept_data(kind, data)
    current = current_id(snapshot, kind, name)
    if current is None:  # a prefix of an id is no name: contents may not go to another secret than was meant
        raise NotFound(f"{kind} {name} not found")
    before = find_kept(snapshot, kind, current)
    kept = versions_of(snapshot, kind, before.spec.name)
    spec = before.spec if labels is None else replace(before.spec, labels=labels)
    number = kept[-1].number + 1
    made = _made(object_id, spec, data, now, _as(author, "rotate"), number)
    retired = replace(before, current=False)
    changes = _put(kind, [retired, made], made, data, _event(kind, "rotate", made, now))
    return _deleting(changes, kind, spare_versions(snapshot.apply(changes, snapshot.index), kind, name))


def other_version(snapshot: ClusterSnapshot, kind: Kind, version: Kept, now: float) -> Changes:
    """Let a name mean another one of its kept versions; nothing if it does already."""
    if version.current:
        return Changes()
    before = find_kept(snapshot, kind, version.spec.name)
    back = replace(version, current=True, spec=replace(version.spec, labels=before.spec.labels))
    return _put(kind, [replace(before, current=False), back], None, b"", _event(kind, "rollback", back, now))


def spare_versions(snapshot: ClusterSnapshot, kind: Kind, name: str, keep: int = VERSIONS_KEPT) -> list[str]:
    """Ids of the versions that are not kept any longer, oldest first."""
    earlier = [one for one in versions_of(snapshot, kind, name) if not one.current]
    too_many = earlier[: max(0, len(earlier) - keep)]
    used = _in_use(snapshot) if too_many else set()
    return [one.id for one in too_many if one.id not in used]


def removal(snapshot: ClusterSnapshot, kind: Kind, ref: str, now: float) -> Changes:
    """All versions of a name; or one that is not current, named by its id.

    Raises NotFound, InvalidSpec if it is in use.
    """
    found = find_kept(snapshot, kind, ref)
    ids = [one.id for one in versions_of(snapshot, kind, found.spec.name)] if found.current else [found.id]
    if users := users_of(snapshot, ids):
        names = ", ".join(service.spec.name for service in users)
        raise InvalidSpec(
            f"rpc error: code = InvalidArgument desc = {kind} '{found.spec.name}' is in use by the following "
            f"service{'s' if len(users) > 1 else ''}: {names}"
        )
    return _deleting(Changes(events=(_event(kind, "remove", found, now),)), kind, ids)


def relabelled(kept: K, spec: SecretSpec | ConfigSpec) -> K:
    """Labels are all that may change. Raises InvalidSpec; data that came along is for the caller to compare."""
    if spec.name != kept.spec.name:
        raise only_labels()
    return replace(kept, spec=replace(kept.spec, labels=spec.labels))


def only_labels() -> InvalidSpec:
    return InvalidSpec("rpc error: code = InvalidArgument desc = only updates to Labels are allowed")


def update_of(kind: Kind, changed: Kept, now: float) -> Changes:
    return _put(kind, [changed], None, b"", _event(kind, "update", changed, now))


def _made(
    object_id: str, spec: SecretSpec | ConfigSpec, data: bytes, now: float, author: Author, number: int
) -> Kept:
    head: dict[str, Any] = {"id": object_id, "version": 0, "created_at": now, "updated_at": now}
    rest: dict[str, Any] = {"number": number, "size": len(data), "author": author}
    if isinstance(spec, SecretSpec):
        return Secret(spec=spec, **head, **rest)
    return Config(spec=spec, **head, **rest)


def _as(author: Author | None, action: str) -> Author:
    return replace(author or Author(), action=action)


def _put(kind: Kind, objects: list[Any], made: Kept | None, data: bytes, event: Event) -> Changes:
    contents = () if made is None else (Contents(key=contents_key(kind, made.id), data=data),)
    changes = Changes(put_contents=contents, events=(event,))
    if kind == "secret":
        return replace(changes, put_secrets=tuple(objects))
    return replace(changes, put_configs=tuple(objects))


def _deleting(changes: Changes, kind: Kind, ids: Iterable[str]) -> Changes:
    if kind == "secret":
        return replace(changes, delete_secrets=tuple(ids))
    return replace(changes, delete_configs=tuple(ids))


def _event(kind: Kind, action: str, kept: Kept, now: float) -> Event:
    attributes = {"name": kept.spec.name}
    if action in ("rotate", "rollback"):
        attributes["number"] = str(kept.number)
    return Event(time=now, type=kind, action=action, id=kept.id, attributes=attributes)


# --- what it means for services -------------------------------------------------------------------------------
def moved_ids(snapshot: ClusterSnapshot, kind: Kind, name: str) -> Mapping[str, str]:
    """From the ids of a name's other versions to that of its current one."""
    to = current_id(snapshot, kind, name)
    return {one.id: to for one in versions_of(snapshot, kind, name) if to is not None and one.id != to}


def numbers_of(snapshot: ClusterSnapshot) -> Iterator[tuple[str, str]]:
    """(id, "version N") of every secret and config, for people."""
    for known in (snapshot.secrets, snapshot.configs):
        for kept in known.values():
            yield kept.id, f"version {kept.number}"
