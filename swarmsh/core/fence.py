"""Services that must never run twice (`swarmsh.fence=stop`): when is a task on a lost node surely over.

The node stops such a task by itself when its lease is lost and no other node is in reach; the manager waits for
that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from swarmsh.core.container import stop_grace_s
from swarmsh.core.labels import fenced
from swarmsh.model.actions import Peer
from swarmsh.model.objects import Node, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import NodeState

LEASE_S = 10.0  # the manager's own setting has the same default
# Of the helper (`remote_helpers/isolation.py`, `task.py`):
NOTICED_AFTER_S = 12.0  # a look at the lease, and two rounds of peers
GRACE_LIMIT_S = 60.0
KILLED_AFTER_S = 7.0  # beyond the grace period, should the Engine not answer
MARGIN_S = 7.0  # for a node that is slow, and for clocks
# While a node that is down may still be running fenced tasks its peers are asked whether they reach it after all.
LONGEST_WAIT_S = LEASE_S + NOTICED_AFTER_S + GRACE_LIMIT_S + KILLED_AFTER_S + MARGIN_S
TOLD_WITHIN_S = 10.0  # of a change: then a node that is heard has its new peers
PEERS = 3  # as many as are asked about it


def over_at(task: Task, nodes: Mapping[str, Node]) -> float | None:
    """When a fenced task on a node that is down must have ended; None if time alone will not tell."""
    node = nodes[task.node_id]
    others = [other for other in nodes.values() if other.id != node.id]
    if node.status.unseen_since is None or any(_may_be_with(other, node) for other in others):
        return None
    # One that has come back kept it going perhaps until then, and perhaps does so still: now it can be asked.
    back = [other.status.since for other in others if _since_then(other, node)]
    unseen_since = max([node.status.unseen_since, *back])
    grace_s = min(GRACE_LIMIT_S, stop_grace_s(task.spec))
    return unseen_since + LEASE_S + NOTICED_AFTER_S + grace_s + KILLED_AFTER_S + MARGIN_S


def _may_be_with(other: Node, node: Node) -> bool:
    """Whether the lost node may be kept going by this one, which cannot be asked."""
    seen = other.status
    asked = seen.state is NodeState.READY
    hung = seen.engine_hung and seen.unseen_since is None  # only its Engine does not answer
    return seen.silent or (not asked and not hung and _since_then(other, node))


def _since_then(other: Node, node: Node) -> bool:
    """Whether it is as it is since the lost node was last heard.

    One that was gone before is no longer among the peers that the lost node was told of.
    """
    return other.status.since > node.status.heard_at - TOLD_WITHIN_S


def fence_peers(snapshot: ClusterSnapshot, node: Node) -> tuple[Peer, ...] | None:
    """Whom the node is to try when its lease is lost, itself included; None if it has no fenced task."""
    if not holds_fenced(snapshot, node.id):
        return None
    others = [n for n in snapshot.nodes.values() if n.id != node.id and n.status.state is NodeState.READY]
    # In the order in which the manager asks nodes about this one: both should look at the same.
    others.sort(key=lambda n: zlib.crc32(f"{n.id}{node.id}".encode()))
    return tuple(Peer(node=n.id, address=n.target.address, port=n.target.port) for n in (node, *others[:PEERS]))


def holds_fenced(snapshot: ClusterSnapshot, node_id: str) -> bool:
    """Whether a fenced task is on the node that has not ended."""
    return any(fenced(t.labels) and not t.status.state.terminal for t in snapshot.tasks_of_node(node_id))


def nodes_with_fenced(snapshot: ClusterSnapshot) -> Iterable[str]:
    """Nodes that hold tasks of fenced services."""
    for service in snapshot.services.values():
        if fenced(service.spec.labels):
            yield from (t.node_id for t in snapshot.tasks_of_service(service.id) if t.node_id)
