"""Moves that somebody asked for, carried on from what is stored: a new task first, then the old one leaves.

Each task that is to move carries a mark (`Task.rebalance`), so moves go on after the manager was killed. As many
are under way as the service's update settings say. Where the new task does not come to serve, all that is left of
the rebalance of this service is given up, and the old task stays: nothing was wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from swarmsh.core.draft import Draft
from swarmsh.core.filters import takes_new
from swarmsh.core.labels import deadline_s
from swarmsh.core.moves import succeed
from swarmsh.core.overlap import refused
from swarmsh.core.rebalance import immovable
from swarmsh.core.tasks import wish
from swarmsh.core.words import duration_text
from swarmsh.model.objects import Rebalance, Task
from swarmsh.model.specs import UpdateConfig
from swarmsh.model.states import Availability, NodeState, TaskState

MONITOR_NS = 5_000_000_000
_NEVER_ASKED = Rebalance(done_at=0.0)


def rebalance(draft: Draft) -> None:
    """Take the service's moves one step on."""
    wanted = [t for t in draft.all() if t.live and _mark(t).wanted]
    if not wanted:
        return
    config = draft.service.spec.update_config or UpdateConfig(parallelism=1)
    done = _done_beside(draft, wanted)
    why = _hindrance(draft, wanted) or _failure(draft, wanted) or _late_failure(draft, done, config)
    if why:
        for task in wanted:
            for changed in given_up(task, draft.beside(task), why):
                draft.put(changed)
        return
    for task in wanted:
        if any(draft.stands(t) for t in _made_for(draft, task)):
            draft.put(replace(task, rebalance=replace(_mark(task), done_at=draft.now)))
            succeed(draft, draft.tasks[task.id])
            done.append(draft.tasks[task.id])
    waiting = [t for t in wanted if _mark(draft.tasks[t.id]).begun_at is None]
    waiting.sort(key=lambda t: (-t.slot, t.id))
    busy = len([t for t in wanted if draft.tasks[t.id].live]) - len(waiting) + _resting(draft, done, config)
    budget = (config.parallelism or len(wanted)) - busy
    for task in waiting[: max(0, budget)]:
        _begin(draft, task)


def _mark(task: Task) -> Rebalance:
    """That of a task that nobody asked about is done."""
    return task.rebalance or _NEVER_ASKED


def _begin(draft: Draft, task: Task) -> None:
    target = _mark(task).node_id
    draft.put(replace(task, rebalance=replace(_mark(task), begun_at=draft.now)))
    draft.add(task.slot, node_id=target, restarted_at=task.restarted_at)
    draft.wake(draft.now + deadline_s(draft.service.spec.labels))


def _made_for(draft: Draft, task: Task) -> list[Task]:
    """What was made in the task's slot to follow it, oldest first."""
    return _followers(task, draft.beside(task))


def _followers(task: Task, beside: Iterable[Task]) -> list[Task]:
    begun_at = _mark(task).begun_at
    if begun_at is None:
        return []
    return [t for t in beside if t.created_at >= begun_at and (t.created_at, t.id) > (task.created_at, task.id)]


def _done_beside(draft: Draft, wanted: Sequence[Task]) -> list[Task]:
    """Tasks that have left already, asked for together with these."""
    asked = {_mark(t).asked_at for t in wanted}
    marked = (t for t in draft.all() if t.rebalance is not None and t.rebalance.done_at is not None)
    return [t for t in marked if _mark(t).asked_at in asked]


def _resting(draft: Draft, done: Sequence[Task], config: UpdateConfig) -> int:
    """How many of the moves are within the delay after them."""
    count = 0
    for task in done:
        until = (_mark(task).done_at or 0.0) + config.delay / 1e9
        draft.wake(until)
        count += until > draft.now
    return count


def _hindrance(draft: Draft, wanted: Sequence[Task]) -> str:
    """Why the service's tasks are not moved any more, whatever became of the moves."""
    why = immovable(draft.service)
    if why or any(draft.outdated(t) for t in wanted):
        return why or "it is being updated"
    for task in wanted:
        target = draft.nodes.get(_mark(task).node_id)
        if target is None:
            return f"node {_mark(task).node_id} is no longer in the cluster"
        if target.status.state is NodeState.DOWN:
            return f"{target.spec.name} is down"
        if target.spec.availability is not Availability.ACTIVE:
            return f"{target.spec.name} takes no tasks: its availability is {target.spec.availability.value}"
    return ""


def _failure(draft: Draft, wanted: Sequence[Task]) -> str:
    """Why a task that was made for one of these does not come to serve."""
    limit_s = deadline_s(draft.service.spec.labels)
    for task in wanted:
        made = _made_for(draft, task)
        if not made:
            continue
        newest, target = made[-1], draft.nodes[_mark(task).node_id]
        state, name = newest.status.state, target.spec.name
        said = newest.status.err or newest.status.message or state.word
        until = max(_mark(task).begun_at or 0.0, draft.since) + limit_s
        draft.wake(until)
        if not newest.live:
            return f"its successor {newest.id} on {name} ended ({state.word}): {said}"
        if draft.stands(newest):
            continue
        # A node that was not heard of yet cannot tell what it takes.
        if takes_new(target) and draft.met(target.id) and refused(draft, newest):
            return f"{name} does not take it any more: {newest.status.err}"
        if newest.late_at is not None:
            return f"its successor {newest.id} on {name} was not ready in time: {said}"
        if until <= draft.now:
            return f"its successor {newest.id} on {name} was not ready within {duration_text(limit_s)}: {said}"
    return ""


def _late_failure(draft: Draft, done: Sequence[Task], config: UpdateConfig) -> str:
    """Why one that took a task's place was no good after all, while it was watched."""
    monitor_s = (config.monitor or MONITOR_NS) / 1e9
    for task in done:
        watched_until = (_mark(task).done_at or 0.0) + monitor_s
        for made in _made_for(draft, task)[:1]:
            by_itself = made.status.state in (TaskState.FAILED, TaskState.REJECTED, TaskState.COMPLETE)
            if by_itself and made.withdrawn is None and made.status.since < watched_until:
                said = made.status.err or made.status.message or made.status.state.word
                return f"{made.id}, which was moved before it, ended: {said}"
    return ""


def given_up(task: Task, beside: Iterable[Task], why: str) -> list[Task]:
    """What changes when a task that was to move stays where it is: `beside` are the other tasks of its slot."""
    changed = [replace(task, rebalance=replace(_mark(task), stopped=why))]
    for made in _followers(task, beside):
        if made.live and made.spec_version == task.spec_version:
            changed.append(wish(made, TaskState.SHUTDOWN if made.placed else TaskState.REMOVE))
    return changed
