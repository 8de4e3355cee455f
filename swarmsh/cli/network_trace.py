"""`network trace`."""

from __future__ import annotations

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.output import format_option, note, print_json, print_table
from swarmsh.cli.values import POSITIVE_DURATION


@click.command("trace")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port of TO; by default its service's first.")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True, help="Protocol.")
@click.option(
    "--timeout", type=POSITIVE_DURATION, default="3s", show_default=True, help="How long to wait for an answer."
)
@format_option
@click.argument("source", metavar="FROM", shell_complete=complete.service_or_task_names)
@click.argument("target", metavar="TO", shell_complete=complete.service_or_task_names)
def trace(port: int | None, protocol: str, timeout: int, form: str, source: str, target: str) -> None:
    """Follow a connection from FROM to TO hop by hop, and say where it stops; each a task, a service or a node.

    One real connection is tried: from a task's container, or from a node itself, to a task's address, a service's
    VIP (from a node: its published port), or a node. Each device of the nodes and containers concerned that sees a
    packet of it is a line, there and back. Between nodes, packets of encrypted networks cannot be seen. Exit code
    1 if there was no answer.
    """
    body = {"From": source, "To": target, "Port": port or 0, "Protocol": protocol, "TimeoutS": timeout / 1e9}
    found = connect().post("/swarmsh/networks/trace", body)
    if form == "json":
        print_json(found)
    else:
        note(f"{protocol} to {found['to']}")
        rows = [
            (
                *(hop["node"], hop["task"] or "-", hop["device"], hop["way"], hop["src"], hop["dst"]),
                *(hop["tunnel"] or "-", "answer" if hop["answer"] else hop["flags"] or "-"),
            )
            for hop in found["hops"]
        ]
        print_table(rows, ("NODE", "TASK", "DEVICE", "WAY", "FROM", "TO", "INSIDE OF", "PACKET"))
        click.echo(found["words"])
        if found["fix"]:
            click.echo(f"    look here: {found['fix']}")
    if not found["ok"]:
        raise click.exceptions.Exit(1)
