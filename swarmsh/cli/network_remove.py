"""`network rm`, `prune`."""

from __future__ import annotations

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, filter_option, remove_each
from swarmsh.client import encode_filters, segment


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Do not fail if a network is not there.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK…", shell_complete=complete.network_names)
def rm(force: bool, names: tuple[str, ...]) -> None:
    """Remove networks; one that a service uses is refused."""
    manager = connect()
    remove_each(names, lambda name: manager.delete(f"/networks/{segment(name)}"), force=force)


@click.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@filter_option("label, label!, until", "--filter")
def prune(force: bool, filters: dict[str, list[str]]) -> None:
    """Remove all overlay networks that no service uses, and print their names."""
    if not force and not click.confirm("Remove all networks that no service uses?", err=True):
        raise click.exceptions.Exit(1)
    for name in connect().post("/networks/prune", filters=encode_filters(filters))["NetworksDeleted"] or ():
        click.echo(name)
