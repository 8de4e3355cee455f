"""`--plan`: what a change of a service would do, shown and not done; exit code 0 for nothing, 3 for something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from swarmsh.cli.common import counted
from swarmsh.cli.output import print_json, print_table
from swarmsh.cli.spec_words import field_rows

Json = dict[str, Any]
_Command = TypeVar("_Command", bound=Callable[..., Any])

EXIT_CHANGES = 3
TASK_HEADINGS = ("ORDER", "EARLIEST", "TASK", "CHANGE", "NODE", "NOTE")
_DONE = {"start": "started", "replace": "replaced", "stop": "stopped"}


def plan_options(command: _Command) -> _Command:
    """`--plan`, and `--format` for it; they come as `plan` and `form`."""
    choice = click.Choice(["table", "json"])

    def for_plans(ctx: click.Context, param: click.Parameter, form: str | None) -> str:
        if form is not None and not ctx.params.get("plan"):
            raise click.UsageError("--format is for --plan", ctx)
        return form or "table"

    command = click.option(
        "--format", "form", type=choice, callback=for_plans, help="How to print the plan (default table)."
    )(command)
    return click.option(
        *("--plan",),
        is_flag=True,
        is_eager=True,
        help="Only show what would change; exit code 0 for nothing to do, 3 for changes.",
    )(command)


def show_plan(plan: Json, form: str) -> NoReturn:
    """Print it, and end with its exit code."""
    if form == "json":
        print_json(plan)
    else:
        _print(plan)
    raise click.exceptions.Exit(EXIT_CHANGES if plan["Changed"] else 0)


def _print(plan: Json) -> None:
    if not plan["Changed"]:
        click.echo(f"{plan['Service']}: nothing to do")
        return
    click.echo(f"{plan['Service']}: {plan['Action']}; {_summary(plan)}")
    if plan["Changes"]:
        click.echo()
        print_table(field_rows(plan["Changes"]), ("FIELD", "BEFORE", "AFTER"))
    if plan["Tasks"]:
        click.echo()
        print_table([task_row(task) for task in plan["Tasks"]], TASK_HEADINGS)
    for line in _ending(plan):
        click.echo(f"\n{line}")


def _summary(plan: Json) -> str:
    numbers = {action: sum(task["Action"] == action for task in plan["Tasks"]) for action in _DONE}
    parts = [f"{counted(number, 'task')} {_DONE[action]}" for action, number in numbers.items() if number]
    parts += [f"{plan['Kept']} kept"] if plan["Kept"] else []
    return ", ".join(parts) or "no task is touched"


def task_row(task: Json) -> Sequence[Any]:
    """Under TASK_HEADINGS."""
    way = f", {task['Way']}" if task["Way"] else ""
    old, new = (task["Old"] or {}).get("Node", ""), (task["New"] or {}).get("Node", "")
    if task["New"] is not None:
        new = new or "?"
    node = f"{old} -> {new}" if old and new and old != new else new or old
    waits = f"waits: {task['Waits']}" if task["Waits"] else ""
    return task["Order"], f"{task['AfterS']:g}s", task["Task"], task["Action"] + way, node, waits


def _ending(plan: Json) -> list[str]:
    lines = []
    status = plan["Status"] or {}
    if not plan["Whole"]:
        lines.append("The plan ends here: what follows goes on in the same way.")
    elif status.get("State", "").endswith("paused") or status.get("State") == "rollback_started":
        lines.append(f"It would end as {status['State']}: {status['Message']}")
    elif any(task["Waits"] for task in plan["Tasks"]):
        lines.append("It would not come to its end until what tasks wait for is there.")
    return lines
