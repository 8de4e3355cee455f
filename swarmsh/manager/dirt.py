"""What has to be looked at again after a change: the cost of a change follows its size, never the cluster's."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.fence import nodes_with_fenced
from swarmsh.core.labels import fenced, may_leave_volumes
from swarmsh.model.objects import Node
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import ServiceMode


@dataclass(slots=True)
class Dirt:
    """Services and nodes to plan again."""

    services: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    pending: bool = False  # room or eligibility changed: unplaced tasks may fit now


def _matters(before: Node | None, after: Node) -> bool:
    """Whether a change of a node can change a decision: its words for people cannot."""
    if before is None:
        return True
    worded = replace(after.status, message=before.status.message, since=before.status.since)
    return replace(after, status=worded, updated_at=before.updated_at, version=before.version) != before


def _on_each_node(mode: ServiceMode) -> bool:
    return mode.global_ is not None or mode.global_job is not None


def dirt_of(before: ClusterSnapshot, changes: Changes) -> Dirt:
    """What `changes`, applied to `before`, can have an effect on."""
    dirt = Dirt()
    dirt.services.update(s.id for s in changes.put_services)
    dirt.services.update(changes.delete_services)
    for service in changes.put_services:
        was = before.services.get(service.id)
        # What waits for its data may go elsewhere by a label.
        dirt.pending |= was is not None and may_leave_volumes(was.spec.labels) != may_leave_volumes(
            service.spec.labels
        )
    for task in changes.put_tasks:
        dirt.services.add(task.service_id)
        if task.node_id:
            dirt.nodes.add(task.node_id)
        dirt.pending |= not task.node_id or task.status.state.terminal
    for task_id in changes.delete_tasks:
        gone = before.tasks.get(task_id)
        if gone is not None:
            dirt.services.add(gone.service_id)
            dirt.nodes.add(gone.node_id)
            dirt.pending = True
    moved = [n.id for n in changes.put_nodes if _matters(before.nodes.get(n.id), n)]
    for node_id in (*moved, *changes.delete_nodes):
        dirt.nodes.add(node_id)
        dirt.pending = True
        dirt.services.update(t.service_id for t in before.tasks_of_node(node_id))
        dirt.services.update(s.id for s in before.services.values() if _on_each_node(s.spec.mode))
    if moved or changes.delete_nodes:
        # Whom a node may reach, and so when what is fenced there must have ended.
        dirt.services.update(s.id for s in before.services.values() if fenced(s.spec.labels))
        dirt.nodes.update(nodes_with_fenced(before))
    dirt.nodes.discard("")
    return dirt
