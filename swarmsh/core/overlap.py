"""Old and new in one place: who may stop for whom, so that as little as possible is ever missing.

A task leaves when another one is ready in its place. Where both cannot be there at once (they must never run
twice, a port of the node's own or its room is taken, the service asks for it) the old one stops when the new one
is prepared: its image is there, its container is made.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmsh.core.draft import Draft, Place
from swarmsh.core.filters import takes_new
from swarmsh.core.labels import fenced
from swarmsh.core.scheduler import fits
from swarmsh.model.objects import Node, Task
from swarmsh.model.states import TaskState


def stops_first(draft: Draft, order: str) -> bool:
    """Whether a place's old task has to stop before its new one starts."""
    return order != "start-first" or fenced(draft.service.spec.labels)


def replaced(draft: Draft, place: Place) -> tuple[list[Task], list[Task]]:
    """What is to leave a place for an update, and what is to come; what moves because of its node is neither."""
    living = [t for t in draft.living(place) if not draft.lost(t)]
    old = [t for t in living if draft.outdated(t) and t.moving_since is None]
    return old, [t for t in living if not draft.outdated(t)]


def make_way(draft: Draft, place: Place, order: str) -> str:
    """Stop a place's old tasks where their time has come. If that is sooner than the order says: why."""
    old, new = replaced(draft, place)
    if not new:
        return ""
    for task in [t for t in old if not may_run(draft, t)]:
        draft.wish(task, TaskState.SHUTDOWN)  # nothing is lost by it
        old.remove(task)
    if stops_first(draft, order):
        # What may run already, since a drain asked for it, needs none to stop: the old one goes when it is ready.
        waiting = [t for t in new if t.desired is TaskState.READY and t.status.state >= TaskState.READY]
        if waiting or any(hindered_by(draft, t, old) for t in new):
            _stop(draft, old)
        return ""
    for task in new:
        if hindered_by(draft, task, old):
            _stop(draft, old)
            return task.status.err
    return ""


def may_run(draft: Draft, task: Task) -> bool:
    """Whether the task may have been started, for all that is known."""
    return task.status.state >= TaskState.STARTING or (task.placed and not draft.met(task.node_id))


def refused(draft: Draft, task: Task) -> bool:
    """Whether no node takes the task, and none will once those of the service have stopped that are stopping."""
    if task.placed or not task.status.err:
        return False
    nodes = [draft.nodes[task.node_id]] if task.node_id else list(draft.nodes.values())
    open_nodes = {n.id: n for n in nodes if takes_new(n)}
    leaving = (t for t in draft.all() if t.desired > TaskState.RUNNING and not t.status.state.terminal)
    if any(t.placed and t.node_id in open_nodes for t in leaving):
        return False
    # What was said may be older than the end of another task.
    return not any(_fits(draft, task, node) for node in open_nodes.values())


def waits_for_old(draft: Draft, task: Task, order: str) -> bool:
    """Whether a prepared task may not run because what it replaces has not been told to stop."""
    if draft.outdated(task) or not stops_first(draft, order):
        return False
    beside = [t for t in draft.beside(task) if t.live and t.moving_since is None and not draft.lost(t)]
    return any(draft.outdated(t) for t in beside)


def hindered_by(draft: Draft, task: Task, old: list[Task]) -> bool:
    """Whether the task finds no node because of what `old` holds, and would find one without."""
    homes = [node for t in old if (node := draft.nodes.get(t.node_id)) is not None]
    return refused(draft, task) and any(_fits(draft, task, node, gone=old) for node in homes)


def _fits(draft: Draft, task: Task, node: Node, gone: Iterable[Task] = ()) -> bool:
    """Whether the task would fit on the node if those tasks were gone."""
    out = {task.id, *(t.id for t in gone)}
    found = {t.id: draft.tasks.get(t.id, t) for t in draft.on_node(node.id)}
    there = [t for t in found.values() if t.id not in out and t.placed and not t.status.state.terminal]
    return fits(node, task.spec, service_id=task.service_id, endpoint=task.endpoint, tasks=there) is None


def _stop(draft: Draft, tasks: list[Task]) -> None:
    for task in tasks:
        draft.wish(task, TaskState.SHUTDOWN)
