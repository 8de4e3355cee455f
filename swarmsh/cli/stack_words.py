"""Plans of stacks and what changed in their parts, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from swarmsh.cli.common import counted
from swarmsh.cli.output import print_table
from swarmsh.cli.service_plan import TASK_HEADINGS, task_row
from swarmsh.cli.spec_words import field_rows

Json = dict[str, Any]

_DONE = {"create": "created", "update": "changed", "remove": "removed"}
_SIGNS = {"create": "+", "update": "~", "remove": "-", "leftover": "?"}


def print_plan(plan: Json, *, no_trunc: bool = False) -> None:
    """What changes part by part, field by field, then the steps of tasks in their order."""
    if not plan["Changed"]:
        click.echo(f"{plan['Stack']}: nothing to do")
        _print_parts([part for part in plan["Parts"] if part["Action"] == "leftover"], no_trunc=no_trunc)
        return
    click.echo(f"{plan['Stack']}: {plan['Action']}; {summary(plan['Parts'])}")
    click.echo()
    _print_parts(plan["Parts"], no_trunc=no_trunc)
    if len(plan["Order"]) > 1:
        levels = (", ".join(level) for level in plan["Order"])
        click.echo(f"\nOrder of starts: {' -> '.join(levels)}")
    if plan["Tasks"]:
        click.echo()
        print_table([task_row(task) for task in plan["Tasks"]], TASK_HEADINGS)
    if not plan["Whole"]:
        click.echo("\nThe plan ends here: what follows goes on in the same way.")
    elif any(task["Waits"] for task in plan["Tasks"]):
        click.echo("\nIt would not come to its end until what tasks wait for is there.")


def summary(parts: list[Json]) -> str:
    """`2 services created, 1 secret changed`."""
    said = []
    for action, done in _DONE.items():
        kinds = [part["Kind"] for part in parts if part["Action"] == action]
        said += [f"{counted(kinds.count(kind), kind)} {done}" for kind in dict.fromkeys(kinds)]
    return ", ".join(said) or "nothing changed"


def _print_parts(parts: list[Json], *, no_trunc: bool) -> None:
    for part in parts:
        if part["Action"] != "unchanged":
            click.echo("\n".join(part_lines(part, no_trunc=no_trunc)))


def part_lines(part: Json, *, no_trunc: bool = False) -> Iterator[str]:
    """A line for the part, and one for each field of one that changes. Of a new one the file says all."""
    note = f" ({part['Note']})" if part["Note"] else ""
    yield f"{_SIGNS[part['Action']]} {part['Kind']} {part['Name']}{note}"
    if part["Action"] == "update":
        for field, before, after in field_rows(part["Changes"], no_trunc=no_trunc):
            yield f"    {field}: {before} -> {after}"
