"""`stack rm`."""

from __future__ import annotations

import time

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, counted
from swarmsh.cli.output import note
from swarmsh.cli.progress import Display
from swarmsh.cli.stack_words import summary
from swarmsh.client import ApiError, ManagerClient

POLL_S = 0.2


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="STACK…", shell_complete=complete.stack_names)
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output.")
def rm(names: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Remove stacks: services, networks, secrets, configs, and their revisions.

    Returns when their tasks have ended. Volumes stay. A deploy of the same name works at once, also before that.
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
            click.echo(f"{name}: {summary(found['Parts'])}")
        if not detach:
            _wait(manager, removed, Display(quiet=quiet))


def _wait(manager: ManagerClient, names: list[str], screen: Display) -> None:
    """Return when no task of them is on any node."""
    left = list(names)
    try:
        while left:
            for name in list(left):
                tasks = manager.stack(name)["TasksLeft"]
                screen.set(name, f"{counted(tasks, 'task')} stopping" if tasks else "gone")
                if not tasks:
                    left.remove(name)
            if left:
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        note("The tasks are being stopped in the background.")
        raise
