"""The order in which nodes are taken: failing ones last, branches of preferences levelled, then the emptiest.

Levels and ranking are swarmkit's (`manager/scheduler/nodeset.go`, `scheduler.go`); the tree is filled one task at
a time, which levels branches and nodes at every step.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from swarmsh.core.constraints import label_value
from swarmsh.core.filters import NodeLoad


class BranchRank(NamedTuple):
    """A branch of a preference: recent failures of its best node, the service's tasks on it, the label's value."""

    failures: int
    tasks: int
    value: str
    level: str = ""  # the label's key


class NodeRank(NamedTuple):
    """Recent failures if they are many, tasks of the service that stay, all tasks, node number, node id."""

    failures: int
    tasks_of: int
    tasks: int
    number: int
    node_id: str


class Rank(NamedTuple):
    """Where a candidate stands: the least is taken first."""

    branches: tuple[BranchRank, ...]  # outermost first
    node: NodeRank


@dataclass(slots=True)
class _Branch:
    """Nodes that share a value of each label above; a leaf holds them as a heap."""

    tasks: int = 0
    branches: dict[str, _Branch] = field(default_factory=dict)
    nodes: list[tuple[NodeRank, NodeLoad]] = field(default_factory=list)

    def least_failures(self) -> int | None:
        """Of the best node in here; None if there is none left."""
        if self.nodes:
            return self.nodes[0][0].failures
        found = (branch.least_failures() for branch in self.branches.values())
        return min((failures for failures in found if failures is not None), default=None)


class SpreadTree:
    """Candidates for the tasks of one service and version, by the values of labels (`levels`, outermost first).

    Nodes without a label share a branch, under the empty value.
    """

    def __init__(self, service_id: str, levels: Sequence[str]) -> None:
        self._service_id = service_id
        self._levels = levels
        self._root = _Branch()
        self._failures: dict[str, int] = {}

    def count(self, load: NodeLoad, tasks: int) -> None:
        """Let `tasks` of the service on this node weigh on its branches, whether it is a candidate or not."""
        for branch in self._path(load):
            branch.tasks += tasks

    def add(self, load: NodeLoad, failures: int) -> None:
        """Make the node a candidate; with `failures` above 0 it goes after those without."""
        self._failures[load.node.id] = failures
        self.put_back(load)

    def take(self) -> NodeLoad | None:
        """Take the best candidate out, and count one more task on its branches; None if none is left."""
        if self._root.least_failures() is None:
            return None
        branch = self._root
        branch.tasks += 1
        while branch.branches:
            open_branches = [
                (BranchRank(failures, inner.tasks, value), inner)
                for value, inner in branch.branches.items()
                if (failures := inner.least_failures()) is not None
            ]
            branch = min(open_branches, key=lambda item: item[0])[1]
            branch.tasks += 1
        return heapq.heappop(branch.nodes)[1]

    def put_back(self, load: NodeLoad) -> None:
        """Make a node that was taken a candidate again, ranked by its load of now."""
        heapq.heappush(self._path(load)[-1].nodes, (self._node_rank(load), load))

    def rank(self, load: NodeLoad) -> Rank:
        """Where a node stands among the others, a candidate or not; `take` gives the one with the least rank."""
        branches = [
            BranchRank(branch.least_failures() or 0, branch.tasks, label_value(level, load.node), level)
            for level, branch in zip(self._levels, self._path(load)[1:], strict=True)
        ]
        return Rank(tuple(branches), self._node_rank(load))

    def _node_rank(self, load: NodeLoad) -> NodeRank:
        node = load.node
        return NodeRank(
            self._failures.get(node.id, 0), load.stay_of[self._service_id], load.tasks, node.number, node.id
        )

    def _path(self, load: NodeLoad) -> list[_Branch]:
        path = [self._root]
        for level in self._levels:
            path.append(path[-1].branches.setdefault(label_value(level, load.node), _Branch()))
        return path
