"""`swarmsh purge`."""

from __future__ import annotations

import click

from swarmsh.cli.common import Failures, connect, counted
from swarmsh.cli.output import note
from swarmsh.errors import SwarmshError


@click.command("purge")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def purge(yes: bool) -> None:
    """Remove swarmsh from all nodes: tasks, networks, keys, helper and files; each is left as it was found.

    The manager's state is archived, as by `docker swarm leave --force`: it keeps the hosts and their keys, and
    `swarmsh up` begins a new cluster. What could not be removed is told of each node, with the way to do it by
    hand; exit code 1 then.
    """
    manager = connect()
    sessions = manager.get("/swarmsh/status")["sessions"]
    away = [one["name"] for one in sessions if not one["connected"]]
    services = len(manager.services())
    networks = sum(network.get("Scope") == "swarm" for network in manager.get("/networks"))
    if away:
        note(f"No session with {', '.join(away)}: nothing can be removed there now")
    if not yes:
        what = f"{counted(services, 'service')}, {counted(networks, 'network')} and all else of swarmsh"
        if not click.confirm(f"Remove {what} from {counted(len(sessions), 'node')}?", err=True):
            raise click.exceptions.Exit(1)
    done = manager.post("/swarmsh/purge")
    with Failures() as failures:
        for node in done["Nodes"]:
            if node["Left"]:
                failures.add(SwarmshError(f"{node['Name']}: {'; '.join(node['Left'])}", hint=node["Fix"]))
            else:
                click.echo(f"{node['Name']}: nothing of swarmsh is left")
        note(f"The state is archived in {done['Archive']}")
