"""How far a job is, shown as Docker does. It ends when the job has run, or cannot end well any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarmsh.cli.task_states import ALL
from swarmsh.errors import SwarmshError

if TYPE_CHECKING:
    from swarmsh.cli.progress import Display

Json = dict[str, Any]


def job_modes(mode: Json) -> tuple[Json | None, Json | None]:
    """What a service's mode says of a replicated and of a global job, one of them at most."""
    return mode.get("ReplicatedJob"), mode.get("GlobalJob")


def is_job(service: Json) -> bool:
    return any(mode is not None for mode in job_modes(service["Spec"].get("Mode") or {}))


class JobWatch:
    """The iteration that was the newest at the first look is followed; `most` tasks have a line each."""

    def __init__(self, screen: Display, node_names: Callable[[], dict[str, str]], most: int) -> None:
        self._screen = screen
        self._node_names = node_names
        self._most = most
        self._iteration: int | None = None

    def step(self, service: Json, tasks: list[Json]) -> bool:
        """Show `tasks`; whether the job is complete. Raises SwarmshError if it has failed for good."""
        if self._iteration is None:
            self._iteration = service["JobStatus"]["JobIteration"]["Index"]
        replicated, _ = job_modes(service["Spec"]["Mode"])
        places = _places(service, tasks, self._iteration)
        total = len(places) if replicated is None else replicated.get("TotalCompletions", 0)
        if replicated is None and not places:
            self._screen.set("job progress", "waiting for tasks")
            return False
        states = [task["Status"]["State"] for task in places.values()]
        complete = states.count("complete")
        self._screen.set("job progress", f"{complete:>{len(str(total))}} out of {total} complete")
        if replicated is not None:
            most = replicated.get("MaxConcurrent", 0)
            active, width = sum(ALL[state] < ALL["complete"] for state in states), len(str(most))
            wanted = min(total - complete, most)
            self._screen.set("active tasks", f"{active:>{width}} out of {wanted:>{width}} tasks")
        if total <= self._most:
            self._draw(places, total, replicated is None)
        if complete < total == len(places) and all(settled(task) for task in places.values()):
            name = service["Spec"]["Name"]
            raise SwarmshError(
                f"job {name} failed: {total - complete} of {total} tasks are not complete",
                hint=f"See `swarmsh service ps {name}`; `swarmsh service update --force {name}` runs it again",
            )
        return bool(complete == total)

    def _draw(self, places: dict[Any, Json], total: int, by_node: bool) -> None:
        names = self._node_names() if by_node else {}
        for place in sorted(places, key=lambda p: str(p).zfill(12)):
            label = names.get(place, str(place)[:12]) if by_node else f"{place + 1}/{total}"
            status = places[place]["Status"]
            error = " ".join(status.get("Err", "").split())
            self._screen.set(label, error[:75] or status["State"], state="" if error else status["State"])


def newest_run(service: Json, tasks: list[Json]) -> dict[Any, Json]:
    """The task that counts of each place of the newest iteration."""
    status = (service.get("JobStatus") or {}).get("JobIteration") or {}
    return _places(service, tasks, status.get("Index", 0))


def _places(service: Json, tasks: list[Json], iteration: int) -> dict[Any, Json]:
    replicated, _ = job_modes(service["Spec"]["Mode"])
    key = "NodeID" if replicated is None else "Slot"
    mine = [t for t in tasks if ((t.get("JobIteration") or {}).get("Index") or 0) == iteration]
    return {task.get(key): task for task in sorted(mine, key=_rank, reverse=True)}


def _rank(task: Json) -> int:
    return ALL.get(task.get("Status", {}).get("State", ""), 0)


def settled(task: Json) -> bool:
    """Its place is done: complete, or failed and followed by no other task."""
    return task["Status"]["State"] == "complete" or (
        task.get("DesiredState") == "shutdown" and _rank(task) > ALL["complete"]
    )
