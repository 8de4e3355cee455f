"""What one node must do: its tasks against what it reports, as an ordered batch of idempotent actions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from swarmsh.core.container import stop_grace_s
from swarmsh.core.labels import drain_s
from swarmsh.model.actions import Action, EnsureTask, NodeReport, RemoveTask, StopTask, TaskReport
from swarmsh.model.objects import Service, Task
from swarmsh.model.states import TaskState

_ENDED = frozenset(s.word for s in TaskState if s.terminal)
_RANK = {"": 0, "ready": 1, "running": 2, "stop": 3, "remove": 4}


def plan_node(
    tasks: Iterable[Task],
    report: NodeReport,
    told: Mapping[str, str],
    index: int,
    ensure: Callable[[Task, str], EnsureTask],
    services: Mapping[str, Service],
) -> tuple[Action, ...]:
    """Actions that bring a node to its tasks; empty when it has been told all.

    `told`: task id -> what it was last told in this session ("ready", "running", "stop", "remove"), which the
    report may not show yet. `ensure` makes the action that brings a task to "ready" or "running". `services`:
    those that were not removed, by id.
    Stops come first, so that what they free (ports, memory) is free when starts begin; removals last.
    """
    mine = {t.id: t for t in tasks}
    stops: list[Action] = []
    starts: list[Action] = []
    goals: list[tuple[Task, str]] = []
    for task in mine.values():
        found = report.tasks.get(task.id)
        goal = _goal(task, found)
        if goal and _RANK[goal] > max(_RANK[told.get(task.id, "")], _reached(found)):
            goals.append((task, goal))
    for task, goal in sorted(goals, key=lambda g: (g[0].created_at, g[0].id)):
        if goal == "stop":
            stops.append(_stop(task, services.get(task.service_id)))
        else:
            starts.append(ensure(task, goal))
    # Only what carries our cluster id is reported; one made after our index belongs to a future we do not know.
    removals = [
        RemoveTask(task_id=i)
        for i in sorted(report.tasks.keys() - mine.keys())
        if (found := report.tasks[i]).state != "gone" and found.index <= index and told.get(i) != "remove"
    ]
    return (*stops, *starts, *removals)


def _stop(task: Task, service: Service | None) -> StopTask:
    """Of what takes connections through us, the stop waits for them. A removed service's addresses and ports are
    gone with it, and with them the connections: there is nothing to wait for."""
    grace_s = stop_grace_s(task.spec)
    if service is None or not (task.addresses or task.egress_address):
        return StopTask(task_id=task.id, grace_s=grace_s)
    return StopTask(task_id=task.id, grace_s=grace_s, drain_s=drain_s(service.spec.labels, grace_s))


def _goal(task: Task, found: TaskReport | None) -> str:
    """What the node must bring the task to; empty if it need not be told anything."""
    if not task.placed or task.status.state.terminal:
        return ""
    if task.desired > TaskState.RUNNING:
        # A node that never heard of it answers that it is gone: only nodes can end what was given to them.
        return "" if found is not None and found.state in _ENDED | {"gone"} else "stop"
    if found is not None and found.state in _ENDED:
        return ""
    return "running" if task.desired is TaskState.RUNNING else "ready"


def _reached(found: TaskReport | None) -> int:
    """Rank of what the node is at, or is bringing the task to."""
    if found is None:
        return 0
    at = {"ready": "ready", "starting": "running", "running": "running"}.get(found.state, "")
    return max(_RANK[at], _RANK.get(found.wanted, 0))
