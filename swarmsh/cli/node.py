"""`swarmsh node …`: the group."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup

GROUP = LazyGroup(
    name="node",
    help="Add, look at and change nodes.",
    lazy={
        "add": ("swarmsh.cli.node_add:add", "Add one host to the cluster."),
        "check": ("swarmsh.cli.node_show:check", "Prove what nodes offer, with a fix for each fault."),
        "demote": ("swarmsh.cli.node_change:demote", "Take the word manager from nodes."),
        "inspect": ("swarmsh.cli.node_show:inspect", "Show all there is about nodes, as JSON."),
        "ls": ("swarmsh.cli.node_list:ls", "List nodes."),
        "promote": ("swarmsh.cli.node_change:promote", "Give nodes the word manager."),
        "ps": ("swarmsh.cli.node_show:ps", "List the tasks on nodes."),
        "rm": ("swarmsh.cli.node_change:rm", "Remove nodes from the cluster."),
        "update": ("swarmsh.cli.node_change:update", "Change a node's availability, role and labels."),
    },
)
