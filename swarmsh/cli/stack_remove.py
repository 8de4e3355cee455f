"""`stack rm`."""

from __future__ import annotations

import time
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, counted
from swarmsh.cli.output import note
from swarmsh.cli.progress import Display
from swarmsh.cli.stack_words import summary
from swarmsh.client import ApiError, ManagerClient
from swarmsh.errors import SwarmshError

POLL_S = 0.2
_DOWN = "down"


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="STACK…", shell_complete=complete.stack_names)
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output.")
def rm(names: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Remove stacks: services, networks, secrets, configs, and their revisions.

    Returns when their tasks have ended; with exit code 1 if some are on nodes that are down. Volumes stay. A
    deploy of the same name works at once, also before that.
    """
    manager = connect()
    with Failures() as failures:
        removed = []
        for name in names:
            try:
                found = manager.remove_stack(name)
            except ApiError as error:
                failures.add(error)
                continue
            removed.append(name)
            click.echo(f"{name}: {summary(found['Parts']) if found['Parts'] else 'revisions removed'}")
        if not detach:
            _wait(manager, removed, Display(quiet=quiet), failures)


def _wait(manager: ManagerClient, names: list[str], screen: Display, failures: Failures) -> None:
    """Return when no removed task of them is on any node that can be told; those on others are a failure.

    Tasks of a stack of that name which somebody deploys meanwhile are not waited for.
    """
    left = list(names)
    try:
        while left:
            for name in list(left):
                leaving = manager.stack(name)["Leaving"]
                tasks = sum(part["Tasks"] for part in leaving)
                away = [part for part in leaving if part["State"] == _DOWN]
                screen.set(name, f"{counted(tasks, 'task')} stopping{_where(away)}" if tasks else "gone")
                if len(away) == len(leaving):
                    left.remove(name)
                if away and len(away) == len(leaving):
                    failures.add(
                        SwarmshError(
                            f"stack {name}: {counted(tasks, 'task')} may be running yet{_where(away)}",
                            hint="They are removed as soon as their node is back; `swarmsh node rm` gives it up",
                        )
                    )
            if left:
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        note("The tasks are being stopped in the background.")
        raise


def _where(away: list[dict[str, Any]]) -> str:
    return f" on {', '.join(part['Node'] for part in away)} (down)" if away else ""
