"""`service exec`: a command in a running task, wherever it is; its standard streams over a WebSocket."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.client import ApiError, ManagerClient
from swarmsh.errors import Kind, NotFound, Unavailable

Json = dict[str, Any]


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-e", "--env", multiple=True, help="Set an environment variable (NAME=VALUE).")
@click.option("-i", "--interactive", is_flag=True, help="Send standard input to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a pseudo-TTY.")
@click.option("-u", "--user", default="", help="Username or UID (format: <name|uid>[:<group|gid>]).")
@click.option("-w", "--workdir", default="", help="Working directory inside the container.")
@click.argument("target", metavar="SERVICE[.SLOT]|TASK", shell_complete=complete.service_or_task_names)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG…]")
def exec_(
    env: tuple[str, ...],
    interactive: bool,
    tty: bool,
    user: str,
    workdir: str,
    target: str,
    command: tuple[str, ...],
) -> int:
    """Run a command in a running task of a service; the exit code is the command's own.

    Without a slot the lowest one that runs is taken. A shell: swarmsh service exec -it web sh
    """
    if tty and interactive and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY: leave out -t")
    manager = connect()
    task = find_running_task(manager, target)
    query = {
        "cmd": json.dumps(list(command)),
        "tty": int(tty),
        "stdin": int(interactive),
        "user": user,
        "workdir": workdir,
        "env": json.dumps(list(env)),
    }
    # aiohttp is heavy: only this command pays for it.
    from swarmsh.cli.terminal import run_remote

    return run_remote(manager.path, task["ID"], query, interactive=interactive, tty=tty)


def find_running_task(manager: ManagerClient, target: str) -> Json:
    """The running task that SERVICE, SERVICE.SLOT (or .NODE for global ones), a task name or id means."""
    service, place = _find_service(manager, target)
    if service is None:
        return _find_task(manager, target)
    tasks = [
        task
        for task in manager.tasks({"service": [service["ID"]], "desired-state": ["running", "complete"]})
        if task.get("Status", {}).get("State") == "running"
    ]
    if place:
        nodes = {node["ID"]: _node_names(node) for node in manager.nodes()} if not place.isdecimal() else {}
        tasks = [
            task
            for task in tasks
            if str(task.get("Slot", "")) == place or place in nodes.get(task.get("NodeID", ""), set())
        ]
    if not tasks:
        raise Unavailable(
            f"no task of {target} is running now", hint=f"See `swarmsh service ps {service['Spec']['Name']}`"
        )
    return min(tasks, key=lambda task: (task.get("Slot", 0), task["ID"]))


def _node_names(node: Json) -> set[str]:
    return {node["ID"], node.get("Spec", {}).get("Name", ""), node.get("Description", {}).get("Hostname", "")}


def _find_service(manager: ManagerClient, target: str) -> tuple[Json | None, str]:
    for name, place in ((target, ""), (target.partition(".")[0], target.partition(".")[2])):
        if place.count("."):
            break  # a whole task name
        try:
            return manager.service(name), place
        except ApiError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
        if "." not in target:
            break
    return None, ""


def _find_task(manager: ManagerClient, target: str) -> Json:
    try:
        task = manager.task(target.rpartition(".")[2])
    except ApiError as error:
        if error.kind is Kind.NOT_FOUND:
            raise NotFound(f"no such task or service: {target}", hint="See `swarmsh service ls`") from None
        raise
    state = task.get("Status", {}).get("State", "")
    if state != "running":
        raise Unavailable(f"task {target} is {state or 'unknown'}, not running")
    return task
