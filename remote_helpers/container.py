"""What an inspected container says, and the words and ladder of task states: pure, no I/O."""

from __future__ import annotations

import calendar
import copy
import time

from .engine import LABEL_CLUSTER, LABEL_INDEX, LABEL_SERVICE, LABEL_TASK

LADDER = (
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
    "gone",
)
RANK = {state: rank for rank, state in enumerate(LADDER)}
TERMINAL = frozenset(("complete", "shutdown", "failed", "rejected", "gone"))
GOALS = {"": 0, "ready": 1, "running": 2, "stop": 3, "remove": 4}  # a goal only climbs, as desired states do
POLICIES = {"none": "no", "on-failure": "on-failure", "any": "always"}
UNHEALTHY = "dockerexec: unhealthy container"
NEVER = "0001-01-01T00:00:00Z"


class View:
    """The part of `GET /containers/{id}/json` that decisions look at."""

    def __init__(self, inspected: dict) -> None:
        state = inspected.get("State") or {}
        config = inspected.get("Config") or {}
        host = inspected.get("HostConfig") or {}
        network = inspected.get("NetworkSettings") or {}
        self.id: str = inspected["Id"]
        self.labels: dict = config.get("Labels") or {}
        self.status: str = state.get("Status") or ""
        self.restarting = bool(state.get("Restarting"))
        # A container that waits for the Engine's restart is `Running` as well in its answer.
        self.running = bool(state.get("Running")) and not self.restarting
        self.pid = int(state.get("Pid") or 0)
        self.exit_code = int(state.get("ExitCode") or 0)
        self.error: str = state.get("Error") or ""
        self.oom_killed = bool(state.get("OOMKilled"))
        self.started_at: str = "" if state.get("StartedAt", NEVER) == NEVER else state["StartedAt"]
        self.health: str = (state.get("Health") or {}).get("Status") or ""
        if self.health == "none":
            self.health = ""
        # The image's, where the spec does not say; it holds for our own probes too.
        self.start_period_s: float = ((config.get("Healthcheck") or {}).get("StartPeriod") or 0) / 1e9
        self.stop_signal: str = config.get("StopSignal") or "SIGTERM"
        self.policy: str = (host.get("RestartPolicy") or {}).get("Name") or "no"
        self.runtime: str = host.get("Runtime") or ""
        self.ports = bound_ports(network.get("Ports") or {})
        self.address = first_address(network)
        self.networks = set(network.get("Networks") or ())  # by name; it may not be attached yet

    def started_before(self, at_ns: int) -> bool:
        """Whether its present run began before that time (nanoseconds since the epoch, as events have it)."""
        whole, _, fraction = self.started_at.rstrip("Z").partition(".")
        try:
            seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
            return seconds * 10**9 + int((fraction + "0" * 9)[:9]) < at_ns
        except ValueError:
            return False

    def after_end(self, exit_code: int, oom_killed: bool) -> View:
        """The same container after the end of its process; the Engine will not start it again."""
        view = copy.copy(self)
        view.status, view.running, view.pid = "exited", False, 0
        view.exit_code, view.oom_killed, view.ports = exit_code, oom_killed, []
        return view


def bound_ports(ports: dict) -> list:
    """`NetworkSettings.Ports` as the list of a report, each binding once."""
    found = set()
    for target, bindings in ports.items():
        number, _, protocol = target.partition("/")
        for binding in bindings or ():
            if number.isdigit() and str(binding.get("HostPort", "")).isdigit():
                found.add((protocol or "tcp", int(number), int(binding["HostPort"])))
    return [{"protocol": p, "target_port": t, "published_port": h} for p, t, h in sorted(found)]


def first_address(network: dict) -> str:
    """An IPv4 address of the container inside its own namespace; its loopback if it has no network."""
    for _, one in sorted((network.get("Networks") or {}).items()):
        if one and one.get("IPAddress"):
            return one["IPAddress"]
    return "127.0.0.1"


def exit_words(code: int, cause: str) -> str:
    """Docker's `exitError`: `task: non-zero exit (137): dockerexec: unhealthy container`."""
    return f"task: non-zero exit ({code})" + (f": {cause}" if cause else "")


def judge_end(view: View, unhealthy: str) -> tuple:
    """(state, message, err) of a container that ended by itself, or because it was `unhealthy` (the cause)."""
    if unhealthy:
        # Docker calls a stop with code 0 complete even then; a restart condition would miss the failure.
        return "failed", "started", exit_words(view.exit_code, unhealthy) if view.exit_code else unhealthy
    if view.exit_code == 0:
        return "complete", "finished", ""
    cause = "out of memory (OOM killed)" if view.oom_killed else view.error
    return "failed", "started", exit_words(view.exit_code, cause)


def may_restart(restart: str, exit_code: int) -> bool:
    """Whether a restart condition starts a container again that ended with `exit_code`."""
    return restart == "any" or (restart == "on-failure" and exit_code != 0)


def labels_of(action: dict, cluster_id: str) -> dict:
    """The labels by which a container of ours is found again."""
    return {
        LABEL_CLUSTER: cluster_id,
        LABEL_INDEX: str(action["index"]),
        LABEL_TASK: action["task_id"],
        LABEL_SERVICE: action["service_id"],
    }


def index_of(labels: dict) -> int:
    """The version index in a container's labels; 0 if there is none."""
    text = labels.get(LABEL_INDEX, "")
    return int(text) if text.isdigit() else 0
