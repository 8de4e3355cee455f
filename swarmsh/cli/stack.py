"""`swarmsh stack …`: the group. Its commands are in modules of their own."""

from __future__ import annotations

from swarmsh.cli.lazy import LazyGroup

GROUP = LazyGroup(
    name="stack",
    help="Deploy compose files as stacks, and look at stacks.",
    lazy={
        "config": ("swarmsh.cli.stack_show:config", "Print compose files as one, in the long syntax."),
        "deploy": ("swarmsh.cli.stack_deploy:deploy", "Deploy a stack, or change it to what its files say."),
        "diff": ("swarmsh.cli.stack_revisions:diff", "Show what differs between two revisions of a stack."),
        "history": ("swarmsh.cli.stack_revisions:history", "List the revisions of a stack."),
        "logs": ("swarmsh.cli.stack_logs:logs", "Fetch the logs of all services of a stack."),
        "ls": ("swarmsh.cli.stack_show:ls", "List stacks."),
        "plan": ("swarmsh.cli.stack_deploy:plan", "Show what a deploy would change."),
        "ps": ("swarmsh.cli.stack_show:ps", "List the tasks of a stack."),
        "rm": ("swarmsh.cli.stack_remove:rm", "Remove stacks; returns when all of them is gone."),
        "rollback": ("swarmsh.cli.stack_deploy:rollback", "Put a stack back as a revision has it."),
        "services": ("swarmsh.cli.stack_show:services", "List the services of a stack."),
    },
)
