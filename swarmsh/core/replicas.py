"""Slots of a replicated service: which to fill and which to empty when the number of replicas changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from itertools import count, islice

from swarmsh.model.objects import Task
from swarmsh.model.states import TaskState


def free_slots(wanted: int, occupied: Set[int]) -> tuple[int, ...]:
    """The lowest free slot numbers (from 1) that bring `occupied` up to `wanted` slots."""
    missing = wanted - len(occupied)
    return tuple(islice((n for n in count(1) if n not in occupied), max(0, missing)))


def surplus_slots(wanted: int, occupied: Mapping[int, Iterable[Task]]) -> tuple[int, ...]:
    """The slots to empty, in swarmkit's order: without a running task first, then from the fullest nodes.

    Of equals the higher slot goes: low slots carry the long-lived state of stateful services.
    """
    left = {slot: _home(tasks) for slot, tasks in occupied.items()}
    chosen: list[int] = []
    while len(left) > wanted:
        copies = Counter(home for home in left.values() if home)
        slot = max(left, key=lambda s: (not left[s], copies[left[s]], s))
        chosen.append(slot)
        del left[slot]
    return tuple(chosen)


def _home(tasks: Iterable[Task]) -> str:
    """The node on which the slot runs; empty while it does not."""
    return next((t.node_id for t in tasks if t.live and t.status.state is TaskState.RUNNING), "")
