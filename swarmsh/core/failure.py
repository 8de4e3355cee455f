"""What is said of a task that failed: where, why, the last it wrote, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping

from swarmsh.core.words import duration_text
from swarmsh.model.objects import Node, Task


def why_failed(task: Task, nodes: Mapping[str, Node], stuck_s: float | None = None) -> str:
    """One line: `web.2 on node n1: task: non-zero exit (1)`. `stuck_s`: it got no further for so long.

    The exit code is named where the error does not name it.
    """
    node = nodes.get(task.node_id)
    place = f" on node {node.spec.name}" if node is not None and task.placed else ""
    if stuck_s is not None:
        cause = f"no progress for {duration_text(stuck_s)}: {task.status.err or task.status.message}"
    elif task.status.state.terminal:
        cause = task.status.err or task.status.state.word
        code = task.status.exit_code
        if code is not None and f"({code})" not in cause:
            cause += f" (exit code {code})"
    else:
        cause = task.status.err or task.status.message
    number = f".{task.number}" if task.number is not None else ""
    return f"{task.service_name}{number}{place}: {cause}"


def last_words(task: Task) -> str:
    """The container's last lines, each indented; empty if there are none."""
    if not task.status.log:
        return ""
    return "last log lines:\n" + "\n".join(f"  {line}" for line in task.status.log)


def next_command(service: str, *, back: bool) -> str:
    """What the user of a paused update does now; `back`: there is a previous version."""
    look = f"`docker service ps --no-trunc {service}`"
    mend = f"`docker service update` with a correction, or `docker service update --force {service}`"
    undo = f", go back with `docker service rollback {service}`" if back else ""
    return f"next: see {look}{undo}, or go on with {mend}"
