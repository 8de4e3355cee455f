"""Global services: one task on every node that fits."""

from __future__ import annotations

from swarmsh.core.draft import Draft
from swarmsh.core.scheduler import eligible
from swarmsh.model.objects import Node
from swarmsh.model.states import Availability, NodeState, TaskState


def fit_to_nodes(draft: Draft) -> None:
    """Start a task on each fitting node without one; stop those on nodes that are drained or fit no longer.

    A paused node keeps its task; a lost one keeps it too: nothing else can stand in for it, and when the node
    returns the task may well be running still. (swarmkit shuts it down and starts another on return.)
    """
    template = draft.service.spec.task_template
    for node in sorted(draft.nodes.values(), key=lambda n: n.number):
        fits = eligible(node, template) and node.spec.availability is not Availability.DRAIN
        here = draft.at(node.id)
        if not fits:
            for task in here:
                draft.wish(task, TaskState.REMOVE)
        elif not here and _takes_new(node):
            draft.add(node.id)


def _takes_new(node: Node) -> bool:
    return node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE
