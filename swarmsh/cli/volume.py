"""`swarmsh volume …`: the group."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup

GROUP = LazyGroup(
    name="volume",
    help="Look at and remove volumes on all nodes. Each is named NODE/NAME; NAME will do where one node has it.",
    lazy={
        "inspect": ("swarmsh.cli.volume_show:inspect", "Show all there is about volumes, as JSON."),
        "ls": ("swarmsh.cli.volume_show:ls", "List volumes of all nodes, and who uses them."),
        "prune": ("swarmsh.cli.volume_remove:prune", "Remove volumes that nothing uses."),
        "rm": ("swarmsh.cli.volume_remove:rm", "Remove volumes."),
    },
)
