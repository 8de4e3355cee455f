"""The ladder of task states, and the words for nodes: data only.

Numbers and names are swarmkit's (`api/types.proto`), because clients sort and compare by them.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """A task's observed state only climbs; its desired state too (READY, RUNNING, SHUTDOWN, REMOVE).

    Given two reports of one task the higher state wins, so a late or repeated report does no harm.
    """

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def word(self) -> str:
        """The name in the Engine API: `running`."""
        return self.name.lower()

    @property
    def terminal(self) -> bool:
        """Whether nothing runs any more and nothing will: COMPLETE and above."""
        return self > TaskState.RUNNING


class NodeState(StrEnum):
    """Seen state of a node. The first three are Docker's words, the rest ours (design decisions 8 and 9)."""

    UNKNOWN = "unknown"  # not heard of since this manager started
    DOWN = "down"  # silent for down-after, and no peer reaches it: its tasks are placed elsewhere
    READY = "ready"
    UNREACHABLE = "unreachable"  # the manager does not reach it, a peer does: everything stays as it is
    UNTRUSTED = "untrusted"  # it showed another host key than the pinned one: nothing is sent to it


class Availability(StrEnum):
    ACTIVE = "active"  # takes new tasks
    PAUSE = "pause"  # keeps what it has, takes no new ones
    DRAIN = "drain"  # its tasks are moved away


class Role(StrEnum):
    """A word for constraints and listings only: every node is a worker to the manager process."""

    WORKER = "worker"
    MANAGER = "manager"
