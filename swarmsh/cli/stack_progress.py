"""Waiting for the services of a stack to converge: a line for each, as compose shows them; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from math import ceil
from typing import Any

from swarmsh.cli.common import node_names
from swarmsh.cli.job_progress import is_job, job_modes, newest_run, settled
from swarmsh.cli.progress import MONITOR_S, POLL_S, Display
from swarmsh.client import ManagerClient
from swarmsh.errors import SwarmshError
from swarmsh.model.stacks import NAMESPACE

Json = dict[str, Any]

_FAILED = ("paused", "rollback_paused", "rollback_completed")
MOST_REPORTS = 20  # failed tasks that are named


def wait_for_stack(
    manager: ManagerClient,
    stack: str,
    service_ids: Collection[str],
    *,
    quiet: bool = False,
    display: Display | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once all tasks of these services ran for the monitor period. Raises SwarmshError naming those that
    went back or paused, when nothing else is left to wait for."""
    watch = StackWatch(manager, stack, service_ids, display or Display(quiet=quiet), quiet)
    try:
        while not watch.step(clock()):
            sleep(POLL_S)
    except KeyboardInterrupt:
        watch.screen.say("The deploy goes on in the background.")
        watch.screen.say(f"Use `swarmsh stack ps {stack}` to check progress.")
        raise
    if watch.failed:
        raise SwarmshError(
            f"stack {stack}: {'; '.join(f'{name}: {why}' for name, why in sorted(watch.failed.items()))}",
            hint=f"See `swarmsh stack ps {stack}`; `swarmsh stack rollback {stack}` goes back",
        )


class StackWatch:
    """All services of one deploy; two questions to the manager in each step, however many there are."""

    def __init__(
        self, manager: ManagerClient, stack: str, service_ids: Collection[str], screen: Display, quiet: bool
    ) -> None:
        self.screen = screen
        self.failed: dict[str, str] = {}
        self._manager, self._quiet = manager, quiet
        self._filter = {"label": [f"{NAMESPACE}={stack}"]}
        self._left = set(service_ids)
        self._names: dict[str, str] = {}  # of services, by id
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()
        self._nodes: dict[str, str] = {}

    def step(self, now: float) -> bool:
        """Look once; whether there is nothing left to wait for."""
        services = {s["ID"]: s for s in self._manager.services(self._filter, status=True)}
        tasks: dict[str, list[Json]] = {}
        for task in self._manager.tasks(self._filter | {"_up-to-date": ["true"]}):
            tasks.setdefault(task["ServiceID"], []).append(task)
        self._names.update((i, _name(service)) for i, service in services.items())
        for service_id in sorted(self._left, key=lambda i: _name(services.get(i))):
            service = services.get(service_id)
            if service is None:
                self.failed[self._names.get(service_id, service_id)] = "was removed meanwhile"
            if service is None or self._look(service, tasks.get(service_id, []), now):
                self._left.discard(service_id)
        return not self._left

    def _look(self, service: Json, tasks: list[Json], now: float) -> bool:
        """Show one service; whether it needs no further look."""
        name, status = _name(service), service.get("UpdateStatus") or {}
        self._report_failures(name, tasks)
        state = status.get("State", "")
        if state in _FAILED:
            self.failed[name] = _first_line(status.get("Message") or state)
            self.screen.set(name, f"failed: {self.failed[name]}")
            return True
        if state == "completed":
            self.screen.set(name, "converged" if not is_job(service) else _first_line(status.get("Message", "")))
            return True
        if is_job(service):
            return self._look_at_job(service, tasks)
        running, wanted = sum(map(_runs, tasks)), _wanted(service)
        if running < wanted or state in ("updating", "rollback_started"):
            self._since.pop(name, None)
            self.screen.set(name, f"{running} of {wanted} running{_reason(tasks)}")
            return False
        since = self._since.setdefault(name, now)
        monitor = ((service["Spec"].get("UpdateConfig") or {}).get("Monitor") or 0) / 1e9 or MONITOR_S
        if not wanted or now - since >= monitor:
            self.screen.set(name, f"{running} of {wanted} running, converged")
            return True
        left = f"for {max(1, ceil(monitor - (now - since)))} s " if self.screen.live else ""
        self.screen.set(name, f"{running} of {wanted} running, watched {left}to be stable")
        return False

    def _look_at_job(self, service: Json, tasks: list[Json]) -> bool:
        name, places = _name(service), newest_run(service, tasks)
        replicated, _ = job_modes(service["Spec"]["Mode"])
        counts = service.get("ServiceStatus") or {}
        done = counts.get("CompletedTasks", 0)
        if replicated is None:
            total = max(len(places), done + counts.get("DesiredTasks", 0))
        else:
            total = replicated.get("TotalCompletions", 0)
        failed = done < total == len(places) and all(map(settled, places.values()))
        if failed:
            self.failed[name] = f"{total - done} of {total} tasks of the job are not complete"
        self.screen.set(name, f"{'failed: ' if failed else ''}{done} of {total} complete")
        # A global job has no tasks yet when it is new.
        return failed or (done >= total and (bool(done) or replicated is not None))

    def _report_failures(self, name: str, tasks: list[Json]) -> None:
        for task in tasks:
            status = task.get("Status") or {}
            if status.get("State") not in ("failed", "rejected") or task["ID"] in self._reported:
                continue
            self._reported.add(task["ID"])
            if self._quiet or len(self._reported) > MOST_REPORTS:
                continue
            self._nodes = self._nodes or node_names(self._manager)
            node = self._nodes.get(task.get("NodeID", ""), task.get("NodeID", "")) or "no node"
            cause = status.get("Err") or status.get("Message") or "no reason given"
            self.screen.say(f"task {name}.{task.get('Slot') or node} {status['State']} on {node}: {cause}")


def _name(service: Json | None) -> str:
    return str(service["Spec"]["Name"]) if service is not None else ""


def _wanted(service: Json) -> int:
    return int((service.get("ServiceStatus") or {}).get("DesiredTasks", 0))


def _runs(task: Json) -> bool:
    return task["Status"].get("State") == "running" and task.get("DesiredState") == "running"


def _reason(tasks: list[Json]) -> str:
    """What the first of its tasks waits for that says so."""
    waiting = (t for t in tasks if t.get("DesiredState") in ("ready", "running"))
    err = next((t["Status"]["Err"] for t in waiting if t["Status"].get("Err")), "")
    return f", {_first_line(err)}" if err else ""


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")
