"""Revisions of services: listed, compared, and gone back to."""

from __future__ import annotations

from dataclasses import dataclass

from swarmsh.core.difference import template_changed
from swarmsh.core.revisions import find_revision
from swarmsh.core.spec_diff import FieldChange, diff_specs
from swarmsh.core.versions import numbers_of
from swarmsh.manager.ports import Clock, Store
from swarmsh.manager.usecases.listeners import Askable
from swarmsh.manager.usecases.lookup import find_service, require_cluster
from swarmsh.manager.usecases.services import update_service
from swarmsh.model.objects import Service
from swarmsh.model.revisions import Author, Revision
from swarmsh.model.snapshot import ClusterSnapshot


@dataclass(frozen=True, slots=True)
class Entry:
    """A revision, and what it changed; None for what is not known: the revision before it is not kept any more."""

    revision: Revision
    fields: tuple[FieldChange, ...] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """`replaces`: whether going from `a` to `b` replaces tasks."""

    a: Revision
    b: Revision
    fields: tuple[FieldChange, ...]
    replaces: bool


def names_of(snapshot: ClusterSnapshot) -> dict[str, str]:
    """What to call, by its id, what a spec refers to: networks, and versions of secrets and configs."""
    return {n.id: n.spec.name for n in snapshot.networks.values()} | dict(numbers_of(snapshot))


async def history(store: Store, ref: str) -> tuple[Entry, ...]:
    """Kept revisions of a service, newest first. Raises NotFound, Unavailable."""
    require_cluster(store.snapshot)
    service = find_service(store.snapshot, ref)
    names = names_of(store.snapshot)
    kept = await store.revisions(service.id)
    entries = []
    for position, revision in enumerate(kept):
        if revision.number == 1:
            fields: tuple[FieldChange, ...] | None = ()
        elif position == 0:
            fields = None
        else:
            fields = diff_specs(kept[position - 1].spec, revision.spec, names)
        entries.append(Entry(revision, fields))
    return tuple(reversed(entries))


async def find(store: Store, service: Service, name: str) -> Revision:
    """The revision that a number, `current` or `previous` names. Raises NotFound, InvalidSpec."""
    return find_revision(await store.revisions(service.id), name, service.spec.name)


async def difference(store: Store, ref: str, a: str, b: str) -> Difference:
    """Two revisions of a service, field by field. Raises NotFound, InvalidSpec, Unavailable."""
    require_cluster(store.snapshot)
    service = find_service(store.snapshot, ref)
    before, after = await find(store, service, a), await find(store, service, b)
    fields = diff_specs(before.spec, after.spec, names_of(store.snapshot))
    return Difference(before, after, fields, template_changed(before.spec, after.spec))


async def rollback_to(
    store: Store,
    clock: Clock,
    ref: str,
    version: int,
    to: str,
    *,
    nodes: Askable | None = None,
    auth: str = "",
    author: Author | None = None,
) -> Revision:
    """Update a service to the spec of a revision; which one it was. Raises as `update_service`, and NotFound.

    An ordinary update, by its update config: the one before is its previous spec afterwards.
    """
    require_cluster(store.snapshot)
    service = find_service(store.snapshot, ref)
    revision = await find(store, service, to)
    who = author or Author()
    author = Author(user=who.user, client=who.client, action=f"rollback to {revision.number}")
    await update_service(
        *(store, clock, service.id, version, revision.spec), nodes=nodes, auth=auth, author=author
    )
    return revision
