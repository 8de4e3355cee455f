"""Finding an object as Docker does: full id, then exact name, then id prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from swarmsh.errors import Ambiguous, NotFound
from swarmsh.model.objects import Config, Network, Node, Secret, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot

T = TypeVar("T", Service, Task, Node, Network, Secret, Config)


def find_one(kind: str, objects: Mapping[str, T], ref: str, named: Sequence[T]) -> T:
    """The object that `ref` means, of which `named` have it as their name. Raises NotFound, Ambiguous."""
    exact = objects.get(ref)
    if exact is not None:
        return exact
    found = named or ([o for i, o in objects.items() if i.startswith(ref)] if ref else [])
    if not found:
        raise NotFound(f"{kind} {ref} not found")
    if len(found) > 1:
        raise Ambiguous(f"{kind} {ref} is ambiguous ({len(found)} matches found)")
    return found[0]


def find_network(snapshot: ClusterSnapshot, ref: str) -> Network:
    """Of the overlays that are not removed. Raises NotFound, Ambiguous."""
    exact = snapshot.networks.get(ref)
    if exact is not None and exact.removed_at is None:
        return exact  # so it is in all that was accepted: without a walk
    there = {n.id: n for n in snapshot.networks.values() if n.removed_at is None}
    named = snapshot.network_ids.get(ref)
    return find_one("network", there, ref, [there[named]] if named is not None else [])
