"""`swarmsh service …`: the group, and the commands that need little. Larger ones have their own modules."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup

GROUP = LazyGroup(
    name="service",
    help="Create, look at and change services.",
    lazy={
        "create": ("swarmsh.cli.service_create:create", "Create a new service."),
        "diff": ("swarmsh.cli.service_revisions:diff", "Show what differs between two revisions of a service."),
        "exec": ("swarmsh.cli.service_exec:exec_", "Run a command in a running task of a service."),
        "history": ("swarmsh.cli.service_revisions:history", "List the revisions of a service."),
        "inspect": ("swarmsh.cli.service_show:inspect", "Show all there is about services, as JSON."),
        "logs": ("swarmsh.cli.service_logs:logs", "Fetch the logs of a service or task."),
        "ls": ("swarmsh.cli.service_show:ls", "List services."),
        "ps": ("swarmsh.cli.service_show:ps", "List the tasks of services."),
        "rm": ("swarmsh.cli.service_change:rm", "Remove services."),
        "rollback": ("swarmsh.cli.service_revisions:rollback", "Go back to an earlier spec of a service."),
        "scale": ("swarmsh.cli.service_change:scale", "Set the number of tasks of replicated services."),
        "update": ("swarmsh.cli.service_update:update", "Update a service."),
    },
)
