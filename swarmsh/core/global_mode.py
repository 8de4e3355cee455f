"""Global services: one task on every node that fits."""

from __future__ import annotations

from swarmsh.core.draft import Draft
from swarmsh.core.filters import takes_new
from swarmsh.core.moves import unfit
from swarmsh.core.scheduler import NO_LONGER_FITS, eligible
from swarmsh.core.tasks import withdraw
from swarmsh.model.objects import Node, Task
from swarmsh.model.states import Availability, TaskState


def fit_to_nodes(draft: Draft) -> None:
    """Start a task on each fitting node without one; stop those on nodes that are drained or fit no longer.

    A paused node keeps its task; a lost one keeps it too: nothing else can stand in for it, and when the node
    returns the task may well be running still. (swarmkit shuts it down and starts another on return.)
    """
    template = draft.service.spec.task_template
    for node in sorted(draft.nodes.values(), key=lambda n: n.number):
        fits = eligible(node, template) and node.spec.availability is not Availability.DRAIN
        for task in draft.at(node.id):
            _judge(draft, task, node, fits)
        here = draft.at(node.id)
        free = not here or here[-1].withdrawn is not None
        if fits and free and takes_new(node):
            # What was withdrawn may be stopping still.
            draft.add(node.id, desired=TaskState.READY if here else TaskState.RUNNING)


def _judge(draft: Draft, task: Task, node: Node, fits: bool) -> None:
    """Take a task off its node that may not stay; it is kept in the history as swarmkit keeps it."""
    paused = node.spec.availability is Availability.PAUSE
    why = unfit(draft, task)
    if why is None and not fits and not (paused and not draft.outdated(task)):
        why = NO_LONGER_FITS
    if why is None or not task.live:
        return
    # What follows an attempt that failed is kept too: that one alone would hold the place for good.
    if task.placed or len(draft.at(node.id)) > 1:
        draft.put(withdraw(task, why))
    else:
        draft.wish(task, TaskState.REMOVE)
