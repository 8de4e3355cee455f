"""`node add`: one host, as `up` does it for an inventory."""

from __future__ import annotations

from pathlib import Path

import click

from swarmsh.cli.common import connect
from swarmsh.cli.values import LABEL, pairs
from swarmsh.errors import NameConflict


@click.command("add")
@click.argument("name")
@click.option("--address", required=True, help="Host name or IP address; [USER@]ADDRESS[:PORT] too.")
@click.option("--user", help="User to log in as.  [default: root]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of its sshd.  [default: 22]")
@click.option(
    "--identity",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key file; the agent and default keys otherwise.",
)
@click.option("--become", is_flag=True, help="Become root with `sudo -n` (for users other than root).")
@click.option("--python", default="python3", show_default=True, help="Python 3.9 or newer on the node.")
@click.option("--jump", multiple=True, help="Jump host, [USER@]ADDRESS[:PORT]; the first hop first.")
@click.option("--host-key", multiple=True, help="Pin: SHA256:… or a public key line. May be repeated.")
@click.option("--label", multiple=True, type=LABEL, help="Label for constraints (KEY=VALUE).")
@click.option("--role", type=click.Choice(["worker", "manager"]), default="worker", show_default=True)
@click.option(
    "--availability", type=click.Choice(["active", "pause", "drain"]), default="active", show_default=True
)
@click.option("-y", "--yes", is_flag=True, help="Never ask; an unknown host key is an error then.")
@click.option("--accept-new-host-keys", is_flag=True, help="Trust a host key that is not known yet.")
def add(
    name: str,
    address: str,
    user: str | None,
    port: int | None,
    identity: tuple[Path, ...],
    become: bool,
    python: str,
    jump: tuple[str, ...],
    host_key: tuple[str, ...],
    label: tuple[str, ...],
    role: str,
    availability: str,
    yes: bool,
    accept_new_host_keys: bool,
) -> None:
    """Add one host to the cluster under NAME: pin its host key, wait until it is ready, check it."""
    import msgspec

    from swarmsh.cli.join import Joining, NewHost, current_nodes, initialise, parse_target

    manager = connect()
    if name in current_nodes(manager):
        raise NameConflict(f"there is a node {name} already", hint="Choose another name, or `swarmsh node rm` it")
    target = parse_target(address)
    target = msgspec.structs.replace(
        target,
        user=user or target.user,
        port=port or target.port,
        identity_files=tuple(str(path.absolute()) for path in identity),
        host_keys=host_key,
        become=become,
        python=python,
        jump=tuple(parse_target(hop) for hop in jump),
    )
    joining = Joining(accept_new=accept_new_host_keys, never_ask=yes)
    hosts = joining.pin([NewHost(name, target, pairs(label), role, availability)])
    if hosts:
        initialise(manager)
        joining.add(manager, hosts)
    if not joining.failures:
        joining.check(manager, joining.await_ready(manager, [name]))
    if joining.failures:
        raise click.exceptions.Exit(1)
    click.echo(name)
