"""What both kinds of write do to objects: stamp them, and join them with what was observed meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from swarmsh.model.objects import Config, Network, Node, Secret, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot

O = TypeVar("O", Service, Task, Node, Network, Secret, Config)  # noqa: E741


def stamp(changes: Changes, index: int, now: float) -> Changes:
    """`changes` with the version index and the time of the write on every object put."""

    def stamped(objects: tuple[O, ...]) -> tuple[O, ...]:
        return tuple(replace(o, version=index, updated_at=now) for o in objects)

    cluster = changes.cluster
    return replace(
        changes,
        cluster=cluster and replace(cluster, version=index, updated_at=now),
        put_services=stamped(changes.put_services),
        put_tasks=stamped(changes.put_tasks),
        put_nodes=stamped(changes.put_nodes),
        put_networks=stamped(changes.put_networks),
        put_secrets=stamped(changes.put_secrets),
        put_configs=stamped(changes.put_configs),
    )


def rebase(changes: Changes, base: ClusterSnapshot, current: ClusterSnapshot) -> Changes:
    """`changes`, decided on `base`, as they are on `current`, which holds later observations.

    Field by field: what the decision left as it was keeps the observed value; what it changed wins. An object
    that went away meanwhile stays away.
    """
    if base is current:
        return changes
    return replace(
        changes,
        put_services=_joined(changes.put_services, base.services, current.services),
        put_tasks=_joined(changes.put_tasks, base.tasks, current.tasks),
        put_nodes=_joined(changes.put_nodes, base.nodes, current.nodes),
        put_networks=_joined(changes.put_networks, base.networks, current.networks),
    )


def _joined(objects: Iterable[O], base: Mapping[str, O], current: Mapping[str, O]) -> tuple[O, ...]:
    return tuple(
        join(base.get(o.id), o, current.get(o.id)) for o in objects if o.id not in base or o.id in current
    )


def join(base: O | None, decided: O, observed: O | None) -> O:
    """Three-way join of one object."""
    if base is None or observed is None or observed is base:
        return decided
    kept = {}
    for field in msgspec.structs.fields(decided):
        was, ours, theirs = (getattr(o, field.name) for o in (base, decided, observed))
        if theirs is was or ours is theirs:
            continue
        # A task's state only climbs, so the higher of two changed ones is the later.
        climbed = isinstance(decided, Task) and field.name == "status" and theirs.state >= ours.state
        if ours == was or climbed:
            kept[field.name] = theirs
    return replace(decided, **kept) if kept else decided
