"""`service logs`: the logs of all tasks of a service, each line with the task it comes from."""

from __future__ import annotations

import re
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import IO, Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, node_name
from swarmsh.cli.output import colours, short
from swarmsh.client import ApiError, ManagerClient, Stream, segment
from swarmsh.core.quantities import parse_duration
from swarmsh.errors import Kind, NotFound, SwarmshError

Json = dict[str, Any]

_ALONE: AbstractContextManager[Any] = nullcontext()
_CONTEXT = "com.docker.swarm."
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


@click.command("logs")
@click.argument("target", metavar="SERVICE|TASK", shell_complete=complete.service_or_task_names)
@click.option("--details", is_flag=True, help="Show extra details provided to logs.")
@click.option("-f", "--follow", is_flag=True, help="Follow log output.")
@click.option("--no-resolve", is_flag=True, help="Do not map ids to names.")
@click.option("--no-task-ids", is_flag=True, help="Do not include task ids.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten ids.")
@click.option("--raw", is_flag=True, help="Lines as they were written, without the task they come from.")
@click.option("--since", default="", help="Logs since a time (2013-01-02T13:23:37Z) or of the last while (42m).")
@click.option(
    "-n", "--tail", default="all", help="Number of lines from the end of each task's log.", show_default=True
)
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps.")
def logs(
    target: str,
    details: bool,
    follow: bool,
    no_resolve: bool,
    no_task_ids: bool,
    no_trunc: bool,
    raw: bool,
    since: str,
    tail: str,
    timestamps: bool,
) -> None:
    """Fetch the logs of a service or task."""
    manager = connect()
    path, found = _find(manager, target)
    if found.get("TTY") and not raw:
        raise click.UsageError("logs of a service with a TTY can only be shown with --raw")
    query: dict[str, Any] = {
        "stdout": 1,
        "stderr": 1,
        "follow": 1 if follow else None,
        "tail": tail,
        "since": parse_since(since, time.time()) if since else None,
        "timestamps": 1 if timestamps else None,
        "details": 1 if details or not raw else None,
    }
    writer = LogWriter(manager, timestamps=timestamps, details=details)
    writer.resolve, writer.task_ids, writer.no_trunc = not no_resolve, not no_task_ids, no_trunc
    with manager.stream(path, **query) as stream:
        copy_logs(stream, None if raw else writer)


def _find(manager: ManagerClient, target: str) -> tuple[str, Json]:
    """The path of the logs, and the container spec of what was found: a service first, then a task."""
    try:
        service = manager.service(target)
        return f"/services/{segment(service['ID'])}/logs", service["Spec"]["TaskTemplate"].get(
            "ContainerSpec"
        ) or {}
    except ApiError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
    try:
        # A whole task name ends in the task's id.
        task = manager.task(target.rpartition(".")[2])
    except ApiError as error:
        if error.kind is Kind.NOT_FOUND:
            raise NotFound(f"no such task or service: {target}") from None
        raise
    return f"/tasks/{segment(task['ID'])}/logs", task.get("Spec", {}).get("ContainerSpec") or {}


def parse_since(text: str, now: float) -> str:
    """Seconds since the epoch, for the API: of a time stamp, a Unix time, or a duration before `now`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{now - parse_duration(text) / 1e9:.9f}"
    except ValueError:
        pass
    try:
        return f"{datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp():.9f}"
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a time nor a duration", param_hint="--since") from None


def copy_logs(stream: Stream, writer: LogWriter | None, turn: AbstractContextManager[Any] = _ALONE) -> None:
    """Write a stream of logs out as it comes; `turn` is held while a line is written."""
    outputs: dict[int, IO[bytes]] = {1: sys.stdout.buffer, 2: sys.stderr.buffer}
    if "raw-stream" in stream.content_type:
        for chunk in stream.chunks():
            outputs[1].write(chunk)
            outputs[1].flush()
        return
    for number, payload in stream.frames():
        output = outputs.get(number, outputs[2])
        with turn:
            output.write(payload if writer is None else writer.line(payload, number))
            output.flush()


class LogWriter:
    """Lines as `name.slot.id@node    | text`."""

    resolve = True
    task_ids = True
    no_trunc = False

    def __init__(self, manager: ManagerClient, *, timestamps: bool, details: bool) -> None:
        self._manager = manager
        self._timestamps = timestamps
        self._details = details
        self._prefixes: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._widest = 0

    def line(self, payload: bytes, number: int) -> bytes:
        """One line of the API, `[time ]key=value,… text`, for people. Raises SwarmshError for any other form."""
        parts = payload.split(b" ", 2 if self._timestamps else 1)
        if len(parts) != (3 if self._timestamps else 2):
            raise SwarmshError(f"a log line without its task: {payload[:80]!r}")
        stamp = parts[0].decode() + " " if self._timestamps else ""
        attributes = dict(pair.split("=", 1) for pair in parts[-2].decode().split(",") if "=" in pair)
        extra = {key: value for key, value in attributes.items() if not key.startswith(_CONTEXT)}
        shown = ",".join(f"{key}={value}" for key, value in sorted(extra.items())) + " " if self._details else ""
        prefix = self._prefix(attributes, sys.stdout if number == 1 else sys.stderr)
        text = parts[-1] if parts[-1].endswith(b"\n") else parts[-1] + b"\n"
        return f"{stamp}{prefix} | {shown}".encode() + text

    def _prefix(self, attributes: dict[str, str], stream: Any) -> str:
        task_id = attributes.get(f"{_CONTEXT}task.id", "")
        node_id = attributes.get(f"{_CONTEXT}node.id", "")
        service_id = attributes.get(f"{_CONTEXT}service.id", "")
        if task_id not in self._prefixes:
            name = f"{self._name('service', service_id)}.{self._place(task_id)}"
            if self.task_ids:
                name += f".{short(task_id, no_trunc=self.no_trunc)}"
            self._prefixes[task_id] = f"{name}@{self._name('node', node_id)}"
            self._widest = max(map(len, self._prefixes.values()))
        text = self._prefixes[task_id].ljust(self._widest)
        if colours(stream):
            return click.style(text, fg=_COLOURS[list(self._prefixes).index(task_id) % len(_COLOURS)])
        return text

    def _place(self, task_id: str) -> str:
        try:
            return str(self._manager.task(task_id).get("Slot", 0))
        except ApiError:
            return "?"  # removed meanwhile

    def _name(self, kind: str, identifier: str) -> str:
        if not self.resolve:
            return identifier
        if identifier not in self._names:
            try:
                if kind == "node":
                    self._names[identifier] = node_name(self._manager.node(identifier))
                else:
                    self._names[identifier] = self._manager.service(identifier)["Spec"]["Name"]
            except ApiError:
                self._names[identifier] = identifier
        return self._names[identifier]
