"""`stack history`, `stack diff`."""

from __future__ import annotations

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.output import ago, format_option, print_json, print_list, truncated
from swarmsh.cli.spec_words import WIDEST
from swarmsh.cli.stack_words import part_lines, summary


@click.command("history")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@click.option("--no-trunc", is_flag=True, help="Do not shorten what changed.")
@click.option("-q", "--quiet", is_flag=True, help="Only print the revisions' numbers.")
@format_option
def history(name: str, form: str, quiet: bool, no_trunc: bool) -> None:
    """List the revisions of a stack: each deploy that changed something, by whom, and what. The newest is first.

    Deploys by the docker CLI are changes of single services, and are in their histories only.
    """
    found = connect().stack_revisions(name)
    if form == "json" and not quiet:
        print_json(found)
        return
    rows = [
        {
            "ID": revision["Number"],
            "number": f"{revision['Number']}{' (current)' if revision['Current'] else ''}",
            "at": ago(revision["At"]),
            "user": revision["User"] or "-",
            "client": truncated(revision["Client"] or "-", 32, no_trunc=no_trunc),
            "action": revision["Action"] or "-",
            "changes": "?"
            if revision["Parts"] is None
            else truncated(summary(revision["Parts"]), WIDEST, no_trunc=no_trunc),
        }
        for revision in found
    ]
    headings = {"number": "REVISION", "at": "CREATED", "user": "USER", "client": "CLIENT"}
    print_list(rows, headings | {"action": "ACTION", "changes": "CHANGED"}, form="table", quiet=quiet)


@click.command("diff")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", default="current", required=False)
@click.option("--no-trunc", is_flag=True, help="Do not shorten values.")
@format_option
def diff(name: str, a: str, b: str, form: str, no_trunc: bool) -> None:
    """Show what differs between revisions A and B of a stack, part by part and field by field.

    Each is a number of `stack history`, `current` or `previous`. Contents of secrets and configs are not shown.
    """
    found = connect().stack_diff(name, a, b)
    if form == "json":
        print_json(found)
        return
    first, second = found["From"]["Number"], found["To"]["Number"]
    if not found["Parts"]:
        click.echo(f"{name}: revisions {first} and {second} do not differ")
        return
    click.echo(f"{name}: from revision {first} to {second}")
    for part in found["Parts"]:
        click.echo("\n".join(part_lines(part, no_trunc=no_trunc)))
