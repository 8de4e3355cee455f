"""`service history`, `service diff`, `service rollback`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.output import ago, format_option, print_json, print_list, print_table, truncated
from swarmsh.cli.service_change import change_service, submit
from swarmsh.cli.service_plan import plan_options, show_plan
from swarmsh.cli.spec_words import WIDEST, field_rows
from swarmsh.client import segment

Json = dict[str, Any]


@click.command("history")
@click.argument("name", metavar="SERVICE", shell_complete=complete.service_names)
@click.option("--no-trunc", is_flag=True, help="Do not shorten what changed.")
@click.option("-q", "--quiet", is_flag=True, help="Only print the revisions' numbers.")
@format_option
def history(name: str, form: str, quiet: bool, no_trunc: bool) -> None:
    """List the revisions of a service: when it got which spec, from whom, and what changed. The newest is first.

    How many are kept is a setting of the cluster (`swarmsh manager update --revisions-kept`).
    """
    found = connect().get(f"/swarmsh/services/{segment(name)}/revisions")
    if form == "json" and not quiet:
        print_json(found)
        return
    print_history(found, _changed, quiet=quiet, no_trunc=no_trunc)


def print_history(found: Sequence[Json], changed: Callable[[Json], str], *, quiet: bool, no_trunc: bool) -> None:
    """Revisions as a table; `changed` words what one of them changed."""
    rows = [
        {
            "ID": revision["Number"],
            "number": f"{revision['Number']}{' (current)' if revision['Current'] else ''}",
            "at": ago(revision["At"]),
            "user": revision["User"] or "-",
            "client": truncated(revision["Client"] or "-", 32, no_trunc=no_trunc),
            "action": revision["Action"] or "-",
            "changes": truncated(changed(revision), WIDEST, no_trunc=no_trunc),
        }
        for revision in found
    ]
    columns = {
        **{"number": "REVISION", "at": "CREATED", "user": "USER", "client": "CLIENT"},
        **{"action": "ACTION", "changes": "CHANGED"},
    }
    print_list(rows, columns, form="table", quiet=quiet)


def _changed(revision: Json) -> str:
    """`Image, Env[DEBUG]`: the ends of the fields' paths."""
    if revision["Changes"] is None:
        return "?"
    fields = (change["Field"] for change in revision["Changes"])
    return ", ".join(dict.fromkeys(_end(field) for field in fields)) or f"image {revision['Image']}"


def _end(field: str) -> str:
    head, bracket, key = field.partition("[")
    return head.rpartition(".")[2] + bracket + key


@click.command("diff")
@click.argument("name", metavar="SERVICE", shell_complete=complete.service_names)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", default="current", required=False)
@click.option("--no-trunc", is_flag=True, help="Do not shorten values.")
@format_option
def diff(name: str, a: str, b: str, form: str, no_trunc: bool) -> None:
    """Show what differs between revisions A and B of a service, field by field.

    Each is a number of `service history`, `current` or `previous`; B is `current` if it is not given. Values that
    look like credentials are not shown.
    """
    found = connect().get(f"/swarmsh/services/{segment(name)}/diff", **{"from": a, "to": b})
    if form == "json":
        print_json(found)
        return
    first, second = found["From"]["Number"], found["To"]["Number"]
    if not found["Changes"]:
        click.echo(f"{name}: revisions {first} and {second} do not differ")
        return
    headings = ("FIELD", f"REVISION {first}", f"REVISION {second}")
    print_table(field_rows(found["Changes"], no_trunc=no_trunc), headings)
    told = "are replaced" if found["ReplacesTasks"] else "stay"
    click.echo(f"\nTasks {told} on the way from one to the other.")


@click.command("rollback")
@click.argument("name", metavar="SERVICE", shell_complete=complete.service_names)
@click.option("--to", metavar="REVISION", help="Which of `service history`; the previous spec without it.")
@plan_options
@click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for convergence.")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output.")
def rollback(name: str, to: str | None, plan: bool, form: str, detach: bool, quiet: bool) -> None:
    """Go back to an earlier spec of a service.

    Without --to it is the one before the last update, as with Docker: current and previous spec are exchanged, by
    the service's rollback config. With --to it is an ordinary update, by the update config of that revision.
    """
    manager = connect()
    if to is not None and not to.strip():
        raise click.UsageError("--to needs the number of a revision; `swarmsh service history` shows them")
    query = {"to": to} if to is not None else {"rollback": "previous"}
    if plan:
        _, answer = submit(manager, name, _as_it_is, "/swarmsh/services/{}/plan", query)
        show_plan(answer, form)
    if to is None:
        service = change_service(manager, name, _as_it_is, rollback="previous")
    else:
        service, _ = submit(manager, name, _as_it_is, "/swarmsh/services/{}/rollback", query)
    click.echo(name)
    if not detach:
        from swarmsh.cli.progress import wait_for_service

        wait_for_service(manager, service["ID"], quiet=quiet)


def _as_it_is(spec: Json) -> Json:
    return spec
