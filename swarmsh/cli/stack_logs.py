"""`stack logs`: the logs of all services of a stack at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.service_logs import LogWriter, copy_logs, parse_since
from swarmsh.cli.stack_show import services_of
from swarmsh.client import ManagerClient, segment
from swarmsh.errors import SwarmshError

Json = dict[str, Any]


@click.command("logs")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@click.option("-f", "--follow", is_flag=True, help="Follow log output.")
@click.option("--no-task-ids", is_flag=True, help="Do not include task ids.")
@click.option("--since", default="", help="Logs since a time (2013-01-02T13:23:37Z) or of the last while (42m).")
@click.option(
    "-n", "--tail", default="all", help="Number of lines from the end of each task's log.", show_default=True
)
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps.")
def logs(name: str, follow: bool, no_task_ids: bool, since: str, tail: str, timestamps: bool) -> None:
    """Fetch the logs of all services of a stack, each line with the task it comes from."""
    manager = connect()
    found = services_of(manager, name)
    query: Json = {
        "stdout": 1,
        "stderr": 1,
        "follow": 1 if follow else None,
        "tail": tail,
        "since": parse_since(since, time.time()) if since else None,
        "timestamps": 1 if timestamps else None,
        "details": 1,
    }
    # One client for the names in front of lines, which are written by one at a time.
    writer = LogWriter(ManagerClient(manager.path), timestamps=timestamps, details=False)
    writer.task_ids = not no_task_ids
    turn = threading.Lock()
    failures: list[SwarmshError] = []

    def copy(service: Json) -> None:
        try:
            with manager.stream(f"/services/{segment(service['ID'])}/logs", **query) as stream:
                copy_logs(stream, writer, turn)
        except SwarmshError as error:
            failures.append(SwarmshError(f"{service['Spec']['Name']}: {error}"))

    threads = [threading.Thread(target=copy, args=(service,), daemon=True) for service in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        raise click.exceptions.Exit(1)
