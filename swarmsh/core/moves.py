"""Tasks that cannot stay where they are: their node is lost, drained, gone, or no longer fits.

A task on a lost node and its stand-in are one transaction (design decision 8): if the node returns before the
stand-in is ready, the stand-in goes; otherwise the old task does.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.core.draft import Draft
from swarmsh.core.labels import deadline_s, fenced
from swarmsh.core.overlap import refused
from swarmsh.core.restart import carried_history, restart_delay_s, should_restart
from swarmsh.core.tasks import ended, ended_by_itself, withdraw
from swarmsh.core.update import progressing
from swarmsh.model.objects import Task
from swarmsh.model.states import Availability, TaskState


def settle_stand_ins(draft: Draft) -> None:
    """Decide between each task on a lost node and the one that stands in for it, as soon as that is clear."""
    for task in draft.all():
        if not task.replaces or not task.live:
            continue
        old = draft.stood_in_for(task)
        if old is None:
            draft.put(replace(task, replaces=""))
        elif draft.stands(task):
            draft.wish(old, TaskState.SHUTDOWN)
            draft.put(replace(task, replaces=""))
        elif not draft.down(old):
            draft.wish(task, TaskState.REMOVE)


def replace_lost(draft: Draft) -> None:
    """Give each slot that lives on lost nodes only a stand-in; its task stays wanted until that runs.

    A stand-in that ended is followed or not as the restart policy says, like any task.
    """
    for slot in draft.places():
        living = draft.living(slot)
        if not living or not all(draft.lost(t) for t in living):
            continue
        old = living[-1]
        if not any(t.replaces == old.id for t in draft.at(slot)):
            draft.add(slot, desired=old.desired, start_after=old.start_after, replaces=old.id)


def drop_doubles(draft: Draft) -> None:
    """Of several tasks of the specified version in one slot the oldest that is ready stays.

    That happens when a node returns after its task was given up for an update's sake, or when an update is undone.
    The same holds for those of other versions, which nothing replaces while an update is paused.
    """

    def goodness(task: Task) -> tuple[bool, ...]:
        return draft.stands(task), task.status.ready, task.status.state is TaskState.RUNNING

    for slot in draft.places():
        living = draft.living(slot)
        if len(living) < 2:
            continue
        # What is to move is beside its successor until that is ready.
        stay = [t for t in living if t.rebalance is None or not t.rebalance.wanted]
        reachable = [t for t in stay if not draft.lost(t) and t.moving_since is None]
        current = [t for t in reachable if not draft.outdated(t)]
        for alike in (current, [t for t in reachable if draft.outdated(t)]):
            for task in sorted(alike, key=goodness, reverse=True)[1:]:
                draft.wish(task, TaskState.SHUTDOWN if task.placed else TaskState.REMOVE)


def leave_removed_nodes(draft: Draft) -> None:
    """Tasks of nodes that are no longer in the cluster are over; nobody can stop them."""
    for task in draft.all():
        if not task.node_id or task.node_id in draft.nodes:
            continue
        over = task.status.state.terminal
        if not over:
            draft.put(ended(task, TaskState.ORPHANED, draft.now, "its node was removed from the cluster"))
        if not task.slot:
            draft.wish(task, TaskState.REMOVE)  # its place went with the node
        elif not over:
            succeed(draft, draft.tasks[task.id])


def leave_unfit_nodes(draft: Draft) -> None:
    """Move tasks off drained nodes, and off active ones that no longer meet the task's placement or have room.

    What serves leaves a drained node when another one is ready in its slot; nowhere else for longer than needed.
    """
    for task in draft.all():
        if draft.lost(task):
            continue
        why = unfit(draft, task)
        if why is None:
            if task.moving_since is not None and task.live:
                _stay(draft, task)
        elif why == "" and _serves(draft, task) and not fenced(draft.service.spec.labels):
            _move(draft, task)
        else:
            succeed(draft, task, why)


def unfit(draft: Draft, task: Task) -> str | None:
    """Why a task may not stay where it is: empty for a drained node, None if it may (swarmkit's enforcer).

    A paused node keeps what it has.
    """
    node = draft.nodes.get(task.node_id)
    if node is None or not task.live or node.spec.availability is Availability.PAUSE:
        return None
    if node.spec.availability is Availability.DRAIN:
        return ""
    return draft.surplus_on(node).get(task.id) if task.placed else None


def succeed(draft: Draft, task: Task, why: str = "") -> None:
    """Stop the task; its successor is prepared meanwhile and starts when it has stopped, or its delay is over."""
    was_wanted = task.desired <= TaskState.RUNNING
    draft.put(withdraw(task, why))
    stood_in_for = draft.stood_in_for(task)
    others = [t for t in draft.living(task.slot) if t is not stood_in_for]
    if was_wanted and not others:
        draft.add(
            task.slot,
            desired=TaskState.READY,
            start_after=task.start_after,
            replaces=stood_in_for.id if stood_in_for is not None else "",
            restarted_at=task.restarted_at,
        )


def _serves(draft: Draft, task: Task) -> bool:
    """As far as is known; of what was not heard of yet it is taken so. A job serves nobody, and runs once."""
    if draft.service.spec.mode.is_job:
        return False
    return task.status.ready or (task.placed and not draft.met(task.node_id))


def _move(draft: Draft, task: Task) -> None:
    """Have another one ready in the task's slot before it leaves.

    It leaves at once where that cannot be: no node takes another one (a port of the node's own, max replicas, no
    room), it ended for good, or it got nowhere until the deadline.
    """
    since = draft.now if task.moving_since is None else task.moving_since
    draft.put(replace(task, moving_since=since))
    others = [t for t in draft.living(task.slot) if t.id != task.id and not draft.lost(t)]
    next_ones = [t for t in others if t.moving_since is None]
    # Created at the same moment as the task itself may have been something before it: ids tell the two apart.
    later = [t for t in draft.at(task.slot) if (t.created_at, t.id) > (task.created_at, task.id)]
    failed = [t for t in later if t.created_at >= since and ended_by_itself(t)]
    policy, version = draft.service.spec.task_template.restart_policy, draft.service.spec_version
    for_good = bool(failed) and not should_restart(failed[-1], policy, version, draft.now)
    until = max(since, draft.since) + deadline_s(draft.service.spec.labels)
    draft.wake(until)
    if not next_ones and not for_good and until > draft.now:
        if not failed or failed[-1].desired > TaskState.RUNNING:  # else it will be followed
            _prepare_next(draft, task, failed)
        return
    ready = any(draft.stands(t) for t in next_ones)
    if for_good and not next_ones:
        draft.put(withdraw(draft.tasks[task.id], ""))
    elif ready or any(refused(draft, t) for t in next_ones) or until <= draft.now:
        succeed(draft, draft.tasks[task.id])


def _prepare_next(draft: Draft, task: Task, failed: list[Task]) -> None:
    """Another one for the slot of a task that leaves. What follows one that failed waits as the policy says."""
    if not failed:
        draft.add(task.slot, restarted_at=task.restarted_at)
        return
    policy, version, last = draft.service.spec.task_template.restart_policy, draft.service.spec_version, failed[-1]
    draft.add(
        task.slot,
        desired=TaskState.READY,
        start_after=last.status.since + restart_delay_s(policy),
        restarted_at=carried_history(last, policy, version, draft.now),
    )


def _stay(draft: Draft, task: Task) -> None:
    """It need not leave after all; what was to come in its place and does not run yet goes.

    But not what an update brings: nothing else would be begun there.
    """
    draft.put(replace(task, moving_since=None))
    for other in draft.living(task.slot):
        updates = draft.outdated(task) and not draft.outdated(other) and progressing(draft.service)
        if other.id != task.id and not updates and other.status.state < TaskState.RUNNING:
            draft.wish(other, TaskState.REMOVE)
