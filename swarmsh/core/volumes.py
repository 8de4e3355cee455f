"""Where tasks have their data: local named volumes, which exist on a node once a task of theirs was there.

A slot goes back to the node that has its volume. What another node would make under the same name is an empty one,
so a task waits rather than start there; label `swarmsh.volume.move=allow` of its service lets it go. Which volumes
a node has, its Engine tells (`NodeDescription.volumes`, without anonymous and remote ones); which of several nodes
is a slot's own, its former tasks tell. A node with very many does not tell them all: there they tell that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from swarmsh.core.labels import may_leave_volumes
from swarmsh.core.template import context_of, expand
from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Node, Service, Task
from swarmsh.model.specs import Mount, TaskSpec

_NOT_ON_DISK = frozenset({"tmpfs", "nfs", "nfs3", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"})


class Home(NamedTuple):
    """The nodes, by their number, on which a task has data, and in which of its volumes."""

    volume: str
    nodes: tuple[Node, ...]


def local_mounts(spec: TaskSpec) -> tuple[Mount, ...]:
    """The mounts of named volumes whose data lies on the node itself; names as written, with placeholders."""
    mounts = spec.container_spec.mounts if spec.container_spec is not None else ()
    return tuple(m for m in mounts if m.type == "volume" and m.source and _on_disk(m))


def _on_disk(mount: Mount) -> bool:
    driver = mount.volume_options.driver_config if mount.volume_options is not None else None
    if driver is None:
        return True
    remote = driver.options.get("type", "") in _NOT_ON_DISK or "addr=" in driver.options.get("o", "")
    return driver.name in ("", "local") and not remote


def kept_volumes(service: Service) -> tuple[str, ...]:
    """The volumes that keep the service's tasks on their nodes, as named in the spec; none if they may leave."""
    if may_leave_volumes(service.spec.labels):
        return ()
    return tuple(dict.fromkeys(mount.source for mount in local_mounts(service.spec.task_template)))


def names_on(task: Task, node: Node, mounts: Iterable[Mount]) -> frozenset[str]:
    """The names of those volumes on that node; a name that cannot be made out is left out."""
    context = context_of(task, node)
    found = set()
    for mount in mounts:
        try:
            found.add(expand(mount.source, context))
        except InvalidSpec:
            continue
    return frozenset(found)


def data_on(task: Task, node: Node, mounts: Iterable[Mount]) -> str:
    """The first of the task's volumes, by name, that is on the node; empty if none is."""
    there = node.description.volumes
    return min((name for name in names_on(task, node, mounts) if name in there), default="") if there else ""


def last_home(
    task: Task, mounts: Iterable[Mount], nodes: Mapping[str, Node], of_slot: Iterable[Task]
) -> Home | None:
    """The node where the newest task of the slot left its data; None if no node has any of it any more."""
    mounts = tuple(mounts)
    placed = [t for t in of_slot if t.slot == task.slot and t.placed and t.node_id in nodes]
    for former in sorted(placed, key=lambda t: (t.created_at, t.id), reverse=True):
        node = nodes[former.node_id]
        if volume := data_on(task, node, mounts) or _untold(task, former, node, mounts):
            return Home(volume, (node,))
    return None


def _untold(task: Task, former: Task, node: Node, mounts: Iterable[Mount]) -> str:
    """A volume of the task that a former one had there, on a node with more volumes than it tells."""
    ran = former.running_since is not None or bool(former.status.container_id)
    if not node.description.volumes_cut or not ran:
        return ""
    return min(names_on(task, node, mounts) & names_on(former, node, local_mounts(former.spec)), default="")


def homes(task: Task, mounts: Iterable[Mount], nodes: Iterable[Node]) -> Home | None:
    """All nodes that have data of a slot that had no task yet; None if there are none."""
    mounts = tuple(mounts)
    found = [(node, volume) for node in nodes if (volume := data_on(task, node, mounts))]
    return Home(found[0][1], tuple(node for node, _ in found)) if found else None
