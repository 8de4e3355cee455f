"""`up`: from an inventory to a working cluster. Repeating it adds what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmsh.cli.output import note
from swarmsh.client import ManagerClient
from swarmsh.paths import default_state_dir

if TYPE_CHECKING:
    from swarmsh.cli.join import NewHost
    from swarmsh.model.objects import SshTarget


@click.command("up")
@click.option(
    "-i",
    "--inventory",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inventory of hosts (YAML or INI, as Ansible's).",
)
@click.option("-y", "--yes", is_flag=True, help="Never ask; unknown host keys are an error then.")
@click.option("--accept-new-host-keys", is_flag=True, help="Trust host keys that are not known yet.")
def up(inventory: Path, yes: bool, accept_new_host_keys: bool) -> None:
    """From an inventory of hosts to a working cluster.

    Shows the host keys that are not known yet and asks, starts a manager if none runs, initialises the cluster,
    adds the hosts, checks them, and prints what to do next. Repeating it adds what is missing, and takes over how
    hosts are reached and which groups they are in; it removes no node.
    """
    from swarmsh.adapters.inventory import with_stored_pins
    from swarmsh.cli.join import Joining, initialise

    hosts = _read(inventory)
    manager = ManagerClient()
    # Of an earlier cluster only its manager knows the hosts and their keys; a new one begins after the answers.
    running = manager.ping() or (any(default_state_dir().glob("*.db")) and _start(manager))
    stored = _targets(manager) if running else {}
    hosts = [
        host._replace(target=with_stored_pins(host.target, stored[host.name])) if host.name in stored else host
        for host in hosts
    ]
    joining = Joining(accept_new=accept_new_host_keys, never_ask=yes)
    pinned = joining.pin(
        [host for host in hosts if stored.get(host.name) != host.target or not host.target.host_keys]
    )
    if not running:
        _start(manager)
    initialise(manager)
    joining.move(manager, [host for host in pinned if host.name in stored], stored)
    joining.regroup(manager, [host for host in hosts if host.name in stored])
    joining.add(manager, [host for host in pinned if host.name not in stored])
    ready = joining.await_ready(manager, [host.name for host in hosts])
    joining.check(manager, ready)
    note(f"{len(ready)} of {len(hosts)} nodes are ready")
    if ready:
        note(_next_steps(manager.path))
    if joining.failures:
        raise click.exceptions.Exit(1)


def _start(manager: ManagerClient) -> bool:
    from swarmsh.cli.manager import start_manager

    start_manager(default_state_dir(), manager.path)
    note(f"Manager started at {manager.path}")
    return True


def _targets(manager: ManagerClient) -> dict[str, SshTarget]:
    """How the manager reaches the nodes that it knows, by name."""
    from swarmsh.model.objects import SshTarget
    from swarmsh.model.wire import from_wire

    return {node["Name"]: from_wire(SshTarget, node["Target"]) for node in manager.get("/swarmsh/nodes")}


def _read(path: Path) -> list[NewHost]:
    from swarmsh.adapters.inventory import load_inventory
    from swarmsh.cli.join import NewHost

    return [
        NewHost(host.name, host.target, dict(host.labels), str(host.role), str(host.availability))
        for host in load_inventory(path).hosts
    ]


def _next_steps(socket: Path) -> str:
    return f"""\

Next:
    swarmsh node ls
    export DOCKER_HOST=unix://{socket}
    docker service create --name web --replicas 3 --publish mode=host,target=80,published=8080 nginx
    docker service ps web"""
