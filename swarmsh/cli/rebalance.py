"""`rebalance`."""

from __future__ import annotations

import time
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, counted
from swarmsh.cli.output import format_option, note, print_json, print_table
from swarmsh.cli.progress import Display
from swarmsh.client import ManagerClient

Json = dict[str, Any]

PATH = "/swarmsh/rebalance"
EXIT_CHANGES = 3
POLL_S = 0.3


@click.command("rebalance")
@click.option(
    "--plan", is_flag=True, help="Only show what would move; exit code 0 for nothing to do, 3 for moves."
)
@click.option("--stop", is_flag=True, help="Move nothing further, and undo moves whose new task is not ready yet.")
@click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for the moves.")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output.")
@format_option
@click.argument("names", nargs=-1, metavar="[SERVICE…]", shell_complete=complete.service_names)
def rebalance(plan: bool, stop: bool, detach: bool, quiet: bool, form: str, names: tuple[str, ...]) -> None:
    """Spread tasks of replicated services again over the nodes, for one that was added or came back.

    Of all services unless some are named. As few tasks as needed move, each only once another one is ready on its
    new node, so that no service ever has fewer that are ready; as many at a time, and with the same delay, as the
    service's update settings say. A new task that fails or is not ready in time ends it for its service, and
    nothing is lost.
    Exit code 1 if a task could not be moved.
    """
    if plan and stop:
        raise click.UsageError("--plan and --stop do not go together")
    manager = connect()
    found = manager.post(PATH, {"Services": list(names), "Plan": plan, "Stop": stop})
    if stop:
        click.echo(f"{counted(found['stopped'], 'task')} will not be moved")
        return
    if form == "json":
        print_json(found)
    else:
        _print(found)
    if plan:
        raise click.exceptions.Exit(EXIT_CHANGES if found["moves"] else 0)
    if found["moves"] and not detach:
        _wait(manager, found["moves"], Display(quiet=quiet))


def _print(found: Json) -> None:
    for one in found["skipped"]:
        note(f"{one['service']} is not moved: {one['why']}")
    if found["moves"]:
        rows = [(_place(move), move["from"], move["to"], move["why"]) for move in found["moves"]]
        print_table(rows, ("TASK", "FROM", "TO", "WHY"))
    else:
        click.echo("Nothing to move")


def _wait(manager: ManagerClient, moves: list[Json], screen: Display) -> None:
    """Return when all moves are made or given up; ends with exit code 1 if one was not made."""
    wanted = {move["task"]: move for move in moves}
    kept: dict[str, str] = {}
    try:
        while wanted:
            there = {move["task"]: move for move in manager.get(PATH)["moves"]}
            for task, move in list(wanted.items()):
                seen = there.get(task)
                if seen is None:
                    screen.set(_place(move), f"has left {move['from']} for {move['to']}")
                    del wanted[task]
                elif seen["state"] == "stopped":
                    kept[task] = seen["why"]
                    screen.set(_place(move), f"stays on {move['from']}: {seen['why']}")
                    del wanted[task]
                else:
                    screen.set(_place(move), f"{seen['state']} from {move['from']} to {move['to']}")
            if wanted:
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        screen.say("The moves go on in the background; `swarmsh rebalance --stop` ends them.")
        raise
    if kept:
        raise click.exceptions.Exit(1)


def _place(move: Json) -> str:
    return f"{move['service']}.{move['slot']}"
