"""`volume rm`, `prune`."""

from __future__ import annotations

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, filter_option, remove_each
from swarmsh.cli.output import note
from swarmsh.cli.volume_show import note_silent, volume_path
from swarmsh.client import encode_filters
from swarmsh.core.words import size_words


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Do not fail if a volume is not there.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME…", shell_complete=complete.volume_names)
def rm(force: bool, names: tuple[str, ...]) -> None:
    """Remove volumes, and the data in them; one that a container has is refused.

    A name that several nodes have is refused too: name one as NODE/NAME.
    """
    manager = connect()
    query = {"force": "1"} if force else {}
    remove_each(names, lambda name: manager.delete(f"/volumes/{volume_path(name)}", **query), force=force)


@click.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Named volumes too, not just anonymous ones.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@filter_option("name, node, driver, label, label!", "--filter")
def prune(everything: bool, force: bool, filters: dict[str, list[str]]) -> None:
    """Remove volumes that no container has and no service names, on all nodes; prints their names."""
    kind = "all volumes" if everything else "all anonymous volumes"
    question = f"Remove {kind} that no container has and no service names, on all nodes?"
    if not force and not click.confirm(question, err=True):
        raise click.exceptions.Exit(1)
    if everything:
        filters = {**filters, "all": ["true"]}
    answer = connect().post("/swarmsh/volumes/prune", filters=encode_filters(filters))
    for name in answer["removed"]:
        click.echo(name)
    note(f"Total reclaimed space: {size_words(answer['freed_bytes'])}")
    note_silent(answer["silent"])
    for one in answer["failed"]:
        note(f"{one['name']}: {one['why']}")
    if answer["failed"]:
        raise click.exceptions.Exit(1)
