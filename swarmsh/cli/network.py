"""`swarmsh network …`: the group."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup

GROUP = LazyGroup(
    name="network",
    help="Create, look at and remove overlay networks.",
    lazy={
        "create": ("swarmsh.cli.network_create:create", "Create an overlay network."),
        "inspect": ("swarmsh.cli.network_show:inspect", "Show all there is about networks, as JSON."),
        "ls": ("swarmsh.cli.network_show:ls", "List networks."),
        "prune": ("swarmsh.cli.network_remove:prune", "Remove all networks that no service uses."),
        "rotate-keys": ("swarmsh.cli.network_keys:rotate_keys", "Give encrypted networks new keys."),
        "rm": ("swarmsh.cli.network_remove:rm", "Remove networks."),
        "trace": ("swarmsh.cli.network_trace:trace", "Follow a connection from hop to hop."),
    },
)
