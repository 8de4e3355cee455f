"""`network rotate-keys`."""

from __future__ import annotations

import click

from swarmsh.cli.common import Failures, connect
from swarmsh.cli.values import POSITIVE_DURATION
from swarmsh.errors import Unavailable


@click.command("rotate-keys")
@click.option(
    "--timeout",
    type=POSITIVE_DURATION,
    default="60s",
    show_default=True,
    help="How long to wait for nodes to acknowledge.",
)
def rotate_keys(timeout: int) -> None:
    """Give encrypted networks new keys, without losing a packet; returns when all nodes send with them.

    They are renewed every 12 hours anyway. A node that is away gets its new keys when it is back: until then the
    others go on sending it what it still hears.
    """
    answer = connect().post("/swarmsh/networks/rotate-keys", {"TimeoutS": timeout / 1e9})
    pairs, missing = answer["Pairs"], answer["Missing"]
    with Failures() as failures:
        for node in missing:
            failures.add(Unavailable(f"{node['Name']}: {node['Message']}; it gets the new keys when it answers"))
        if not pairs:
            click.echo("No two nodes share an encrypted network: there are no keys")
        elif not missing:
            click.echo(f"Keys between {pairs} {'pair' if pairs == 1 else 'pairs'} of nodes are new")
