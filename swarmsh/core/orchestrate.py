"""One pass over one service: from what is specified and what was seen to the tasks there should be.

The order of the steps matters: first what has ended is taken note of, then what cannot stay is moved, then
numbers are put right, then versions; last, waiting tasks are let go and history is trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from swarmsh.core.draft import Draft, ServicePlan, place_of
from swarmsh.core.gate import OPEN, Gate
from swarmsh.core.global_mode import fit_to_nodes
from swarmsh.core.jobs import plan_job
from swarmsh.core.labels import fenced
from swarmsh.core.moves import drop_doubles, leave_removed_nodes, leave_unfit_nodes, replace_lost, settle_stand_ins
from swarmsh.core.overlap import waits_for_old
from swarmsh.core.relocate import rebalance
from swarmsh.core.replicas import free_slots, surplus_slots
from swarmsh.core.restart import carried_history, restart_delay_s, should_restart
from swarmsh.core.tasks import ended, wish
from swarmsh.core.update import judge_update, order_of, progressing, roll_update
from swarmsh.model.objects import Node, Service, Task
from swarmsh.model.states import TaskState


def plan_service(
    service: Service,
    tasks: Iterable[Task],
    nodes: Mapping[str, Node],
    ids: Iterator[str],
    now: float,
    history: int = 5,
    on_node: Callable[[str], Iterable[Task]] = lambda node_id: (),
    attach: Callable[[Service], Service] = lambda service: service,
    met: Callable[[str], bool] = lambda node_id: True,
    since: float = 0.0,
    gate: Gate = OPEN,
) -> ServicePlan:
    """Changes to a service's tasks; applied and planned again at the same `now`, nothing is left to do.

    `tasks` are all of the service's, `nodes` all of the cluster's by id, `ids` yields ids for new tasks.
    `on_node` gives all tasks of a node, those of other services too. `attach` gives a service that is rolled back
    the VIPs and ports of its spec, and raises SwarmshError if they are not to be had any more. `met` says of a
    node whether it has been in touch with this process, which could do nothing before `since`: no deadline began.
    `gate`: what the service waits for before it first starts.
    """
    draft = Draft.of(service, tasks, nodes, ids, now, history, on_node, attach, met, since, gate)
    if service.spec.mode.is_job:
        return plan_job(draft)
    judge_update(draft)
    leave_removed_nodes(draft)
    settle_stand_ins(draft)
    if draft.service.spec.mode.global_ is not None:
        _restart(draft)
        fit_to_nodes(draft)
    else:
        _restart(draft)
        replace_lost(draft)
        leave_unfit_nodes(draft)
        rebalance(draft)
        _scale(draft, _replicas(draft.service))
    roll_update(draft)
    drop_doubles(draft)
    _let_go(draft)
    draft.note_let_go()
    _trim_history(draft)
    return draft.plan()


def plan_removed_service(tasks: Iterable[Task], nodes: Mapping[str, Node]) -> ServicePlan:
    """What to do with tasks whose service is gone: stop them all, forget those that have ended."""
    changed, deleted = [], []
    for task in tasks:
        if _over(task, nodes):
            deleted.append(task.id)
        elif task.desired < TaskState.REMOVE:
            changed.append(wish(task, TaskState.REMOVE))
    return ServicePlan(put_tasks=tuple(changed), delete_tasks=tuple(deleted))


def _replicas(service: Service) -> int:
    mode = service.spec.mode.replicated
    return 1 if mode is None or mode.replicas is None else mode.replicas


def _restart(draft: Draft) -> None:
    """Follow each task that ended by itself with another attempt, if the restart policy says so."""
    policy = draft.service.spec.task_template.restart_policy
    version = draft.service.spec_version
    for task in draft.all():
        if not task.status.state.terminal or task.desired > TaskState.RUNNING:
            continue
        if task.start_after is not None and task.start_after > draft.now:
            draft.wake(task.start_after)  # what ended while it was prepared had its own delay before it
            continue
        draft.wish(task, TaskState.SHUTDOWN)
        place = place_of(task)
        stood_in_for = draft.stood_in_for(task)
        # What leaves as soon as this place has another task is none.
        others = [t for t in draft.living(place) if t is not stood_in_for and t.moving_since is None]
        if progressing(draft.service) and not draft.outdated(task):
            # The old version still stands, and the new one is tried again beside it.
            others = [t for t in others if not draft.outdated(t)]
        if others or not should_restart(task, policy, version, draft.now):
            continue
        delay = restart_delay_s(policy)
        draft.add(
            place,
            desired=TaskState.READY if delay else TaskState.RUNNING,
            start_after=draft.now + delay if delay else None,
            replaces=stood_in_for.id if stood_in_for is not None else "",
            restarted_at=carried_history(task, policy, version, draft.now),
        )


def _scale(draft: Draft, wanted: int) -> None:
    """Bring the number of occupied slots to `wanted`. A slot whose last task ended for good stays occupied."""
    occupied = {slot: draft.at(slot) for slot in draft.places() if isinstance(slot, int)}
    for slot in surplus_slots(wanted, occupied, draft.lost):
        for task in occupied[slot]:
            draft.wish(task, TaskState.REMOVE)
        del occupied[slot]
    for slot in free_slots(wanted, occupied.keys()):
        draft.add(slot)


def _let_go(draft: Draft) -> None:
    """Let a prepared task run when its delay is over and what it follows has stopped."""
    for task in draft.all():
        if task.desired is not TaskState.READY or task.status.state.terminal:
            continue
        if draft.hold(task):
            continue
        if task.start_after is not None and task.start_after > draft.now:
            draft.wake(task.start_after)
            continue
        if waits_for_old(draft, task, order_of(draft.service)):
            continue
        if not any(_still_there(draft, t) for t in draft.beside(task)):
            draft.wish(task, TaskState.RUNNING)


def _still_there(draft: Draft, task: Task) -> bool:
    """A task that was told to stop and has not; one on a lost node is not waited for.

    If it is fenced, one that is wanted to run is there as well.
    """
    leaving = task.desired > (TaskState.READY if fenced(task.labels) else TaskState.RUNNING)
    present = leaving and not task.status.state.terminal
    return present and task.placed and task.node_id in draft.nodes and not draft.lost(task)


def _over(task: Task, nodes: Mapping[str, Node]) -> bool:
    """Nothing of the task can be left anywhere: it ended, never began, or its node has gone."""
    return task.status.state.terminal or not task.placed or task.node_id not in nodes


def _trim_history(draft: Draft) -> None:
    """Drop what nobody waits for: removed tasks that have ended, never-started ones, and old attempts."""
    for task in draft.all():
        if task.desired <= TaskState.RUNNING or task.status.state.terminal:
            continue
        if not task.placed:
            draft.put(ended(task, TaskState.SHUTDOWN, draft.now, ""))
    for task in draft.all():
        if task.desired is TaskState.REMOVE and _over(task, draft.nodes):
            draft.delete(task)
    for place in draft.places():
        tasks = draft.at(place)
        dead = [t for t in tasks if t.status.state.terminal and t.desired > TaskState.RUNNING]
        # The newest of a place is never dropped: it may be what says that the place is done for good.
        spare = [t for t in dead if t is not tasks[-1]]
        for task in spare[: max(0, len(tasks) - max(1, draft.history))]:
            draft.delete(task)
