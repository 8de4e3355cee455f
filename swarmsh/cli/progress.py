"""Waiting for a service to converge, shown as Docker does: bars on a terminal, lines elsewhere; all on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any, TextIO

from swarmsh.cli.common import node_names
from swarmsh.cli.job_progress import JobWatch, is_job
from swarmsh.cli.task_states import ALL, ENDED, STATES
from swarmsh.client import ApiError, ManagerClient, segment
from swarmsh.errors import Kind, SwarmshError

Json = dict[str, Any]

POLL_S = 0.2
MONITOR_S = 5.0
MOST_BARS = 20
MOST_REPORTS = 3  # failures shown with their log; later ones in one line
LOG_LINES = 10
LOG_TIMEOUT_S = 5.0
_WIDEST = max(map(len, STATES))


class Display:
    """Lines with names: on a terminal redrawn in their places, elsewhere printed when their text changes."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty()
        self._quiet = quiet
        self._lines: dict[str, str] = {}
        self._drawn = 0

    def set(self, name: str, text: str, *, state: str = "") -> None:
        """Line `name: text`, with a bar as far as `state` is on its way to running."""
        line = f"{name}: {text}"
        if self.live and state in STATES:
            line = f"{name}: {text:<{_WIDEST}} {_bar(STATES[state])}"
        if self._quiet or self._lines.get(name) == line:
            return
        self._lines[name] = line
        if self.live:
            self._redraw()
        elif text.strip():
            print(line, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A text of its own, above what is redrawn."""
        if self.live and self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
        print(text, file=self._stream, flush=True)
        if self.live:
            self._redraw()

    def _redraw(self) -> None:
        width = shutil.get_terminal_size().columns
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line[: width - 1]}\n" for line in self._lines.values())
        self._stream.write(up + body)
        self._stream.flush()
        self._drawn = len(self._lines)


def _bar(done: int) -> str:
    width = 50 if shutil.get_terminal_size().columns > 110 else 20
    filled = done * width // len(STATES)
    return f"[{'=' * filled}>{' ' * (width - filled)}]"


def wait_for_service(
    manager: ManagerClient,
    service_id: str,
    *,
    quiet: bool = False,
    display: Display | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once all tasks ran for the monitor period. Raises SwarmshError if the update or rollback paused."""
    screen = display or Display(quiet=quiet)
    watch = _Watch(manager, service_id, screen, quiet)
    try:
        while not watch.step(clock()):
            sleep(POLL_S)
    except KeyboardInterrupt:
        if not watch.converged:
            screen.say("Operation continuing in background.")
            screen.say(f"Use `swarmsh service ps {watch.shown_as}` to check progress.")
        raise


class _Watch:
    def __init__(self, manager: ManagerClient, service_id: str, screen: Display, quiet: bool) -> None:
        self.shown_as = service_id
        self.converged = False
        self._manager = manager
        self._id = service_id
        self._screen = screen
        self._quiet = quiet
        self._since: float | None = None
        self._slots: dict[Any, int] = {}
        self._reported: set[str] = set()
        self._rollback = False
        self._job = JobWatch(screen, lambda: node_names(manager), MOST_BARS)

    def step(self, now: float) -> bool:
        """Look once; whether there is nothing left to wait for."""
        service = self._manager.service(self._id)
        self.shown_as = service["Spec"]["Name"]
        monitor = ((service["Spec"].get("UpdateConfig") or {}).get("Monitor") or 0) / 1e9 or MONITOR_S
        if self._read_update(service):
            return True
        tasks = self._manager.tasks({"service": [service["ID"]], "_up-to-date": ["true"]})
        down = {node["ID"] for node in self._manager.nodes() if node.get("Status", {}).get("State") == "down"}
        self._report_failures(service, tasks)
        if is_job(service):
            self.converged = self._job.step(service, tasks)
            if self.converged:
                self._screen.say("job complete")
            return self.converged
        self.converged = self._show(service, [task for task in tasks if task.get("NodeID", "") not in down])
        if not self.converged:
            if self._since is not None:
                self._screen.set("verify", "Detected task failure")
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now - self._since >= monitor:
            self._screen.set("verify", f"Service {self.shown_as} converged")
            return True
        left = max(1, ceil(monitor - (now - self._since)))
        if self._screen.live or self._since == now:
            self._screen.set("verify", f"Waiting {left} seconds to verify that tasks are stable...")
        return False

    def _read_update(self, service: Json) -> bool:
        """Take UpdateStatus in; whether it says that all is done already."""
        status = service.get("UpdateStatus") or {}
        state, message = status.get("State", ""), status.get("Message", "")
        if state == "completed" and not self.converged and is_job(service):
            self._screen.set("job progress", message)  # it waits for its schedule
            return True
        if state == "completed" and not self.converged:
            self._screen.set("verify", f"Service {self.shown_as} converged")
            return True
        if state in ("paused", "rollback_paused"):
            what = "update" if state == "paused" else "rollback"
            raise SwarmshError(
                f"service {what} paused: {message}",
                hint=f"See `swarmsh service ps {self.shown_as}`, then update again or use --rollback",
            )
        self._rollback = state in ("rollback_started", "rollback_completed")
        if self._rollback and message:
            self._screen.set("rollback", message)
        return False

    def _show(self, service: Json, tasks: list[Json]) -> bool:
        mode = service["Spec"].get("Mode") or {}
        if "Global" in mode:
            current = _lowest(tasks, "NodeID")
            total = len(current)
            names = node_names(self._manager) if 0 < total <= MOST_BARS else {}
            labels = {node: names.get(node, node[:12]) for node in current}
        else:
            current = _lowest(tasks, "Slot")
            total = (mode.get("Replicated") or {}).get("Replicas", 1)
            for slot in sorted(current):
                self._slots.setdefault(slot, len(self._slots) + 1)
            labels = {slot: f"{self._slots[slot]}/{total}" for slot in current if self._slots[slot] <= total}
        running = sum(_runs(task) for task in current.values())
        if not total and "Global" in mode:
            self._screen.set("overall progress", "waiting for new tasks")
            return False
        verb = "rolling back update: " if self._rollback else ""
        self._screen.set("overall progress", f"{verb}{running} out of {total} tasks")
        if total <= MOST_BARS:
            self._draw(current, labels, [] if "Global" in mode else [f"{n}/{total}" for n in range(1, total + 1)])
        return running == total

    def _draw(self, current: dict[Any, Json], labels: dict[Any, str], places: list[str]) -> None:
        for place in places:
            if place not in labels.values() and self._screen.live:
                self._screen.set(place, " ")
        for key, label in sorted(labels.items(), key=lambda pair: str(pair[0]).zfill(12)):
            status = current[key].get("Status", {})
            state = status.get("State", "")
            if status.get("Err"):
                self._screen.set(label, _one_line(status["Err"]))
            elif state in STATES and current[key].get("DesiredState") not in ENDED:
                self._screen.set(label, state, state=state)

    # --- failures -------------------------------------------------------------------------------------------
    def _report_failures(self, service: Json, tasks: list[Json]) -> None:
        if self._quiet:
            return
        failed = [task for task in tasks if task.get("Status", {}).get("State") in ("failed", "rejected")]
        for task in failed:
            if task["ID"] not in self._reported:
                self._reported.add(task["ID"])
                self._report(service, task)

    def _report(self, service: Json, task: Json) -> None:
        status = task["Status"]
        names = node_names(self._manager)
        node = names.get(task.get("NodeID", ""), task.get("NodeID", "")) or "no node"
        place = f"{service['Spec']['Name']}.{task.get('Slot') or node}"
        cause = status.get("Err") or status.get("Message") or "no reason given"
        self._screen.say(f"task {place} {status['State']} on {node}: {cause}")
        if len(self._reported) <= MOST_REPORTS and status["State"] == "failed":
            for line in last_log_lines(self._manager, task["ID"]):
                self._screen.say(f"    {line}")


def last_log_lines(manager: ManagerClient, task_id: str) -> list[str]:
    """What a task said last, both streams; nothing where logs cannot be had."""
    try:
        stream = manager.stream(
            f"/tasks/{segment(task_id)}/logs", stdout=1, stderr=1, tail=LOG_LINES, timeout_s=LOG_TIMEOUT_S
        )
        with stream:
            if "raw-stream" in stream.content_type:
                lines = [line.decode(errors="replace") for line in stream.lines()]
            else:
                lines = [payload.decode(errors="replace") for _, payload in stream.frames()]
    except ApiError as error:
        return [] if error.kind in (Kind.NOT_FOUND, Kind.UNIMPLEMENTED) else [f"(no log: {error})"]
    except SwarmshError:
        return []
    return [line.rstrip("\r\n") for line in lines][-LOG_LINES:]


def _lowest(tasks: list[Json], key: str) -> dict[Any, Json]:
    """One task a slot or node: the one with the lowest desired state, then the lowest observed one."""
    found: dict[Any, Json] = {}
    for task in tasks:
        rank = (ALL.get(task.get("DesiredState", ""), 0), ALL.get(task.get("Status", {}).get("State", ""), 0))
        if not all(rank):
            continue
        place = task.get(key, 0 if key == "Slot" else "")
        if place not in found or rank < _rank(found[place]):
            found[place] = task
    return found


def _rank(task: Json) -> tuple[int, int]:
    return ALL[task["DesiredState"]], ALL[task["Status"]["State"]]


def _runs(task: Json) -> bool:
    return task["DesiredState"] not in ENDED and task["Status"]["State"] == "running"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 75 else text[:74] + "…"
