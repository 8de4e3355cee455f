"""Slots of a replicated service: which to fill and which to empty when the number of replicas changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from heapq import heapify, heappop, heappush
from itertools import count, islice

from swarmsh.model.objects import Task


def free_slots(wanted: int, occupied: Set[int]) -> tuple[int, ...]:
    """The lowest free slot numbers (from 1) that bring `occupied` up to `wanted` slots."""
    missing = wanted - len(occupied)
    return tuple(islice((n for n in count(1) if n not in occupied), max(0, missing)))


def surplus_slots(
    wanted: int, occupied: Mapping[int, Iterable[Task]], lost: Callable[[Task], bool]
) -> tuple[int, ...]:
    """The slots to empty, in swarmkit's order: without a ready task first, then from the fullest nodes.

    What is on a lost node does not count as ready. Of equals the higher slot goes: low slots carry the
    long-lived state of stateful services.
    """
    surplus = len(occupied) - wanted
    if surplus <= 0:
        return ()
    by_home: dict[str, list[int]] = {}
    for slot in sorted(occupied):
        by_home.setdefault(_home(occupied[slot], lost), []).append(slot)
    idle = sorted(by_home.pop("", ()), reverse=True)
    chosen = idle[:surplus]
    heap = [(-len(slots), -slots[-1], home) for home, slots in by_home.items()]
    heapify(heap)
    while len(chosen) < surplus:
        _, _, home = heappop(heap)
        slots = by_home[home]
        chosen.append(slots.pop())
        if slots:
            heappush(heap, (-len(slots), -slots[-1], home))
    return tuple(chosen)


def _home(tasks: Iterable[Task], lost: Callable[[Task], bool]) -> str:
    """The node on which the slot serves; empty while it does not."""
    ready = (t for t in tasks if t.live and t.status.ready and not lost(t))
    return next((t.node_id for t in ready), "")
