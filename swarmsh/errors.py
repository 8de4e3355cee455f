"""The one hierarchy of errors. Each message says what happened, where, and what to do.

Only the HTTP face knows status codes and only the command line knows exit codes; `kind` is what they map.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What sort of refusal an error is; the Engine API's gRPC classes (moby `errdefs`)."""

    INVALID = "invalid"  # the request itself is wrong
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # a name is taken
    OUT_OF_SEQUENCE = "out_of_sequence"  # the version index sent is not the stored one
    FORBIDDEN = "forbidden"
    UNIMPLEMENTED = "unimplemented"
    UNAVAILABLE = "unavailable"  # not now: no swarm, node away, store read-only
    INTERNAL = "internal"


class SwarmshError(Exception):
    """Root of all errors that swarmsh raises on purpose.

    `fields` (node, service, task, …) go to the log beside the message; `hint` is the way out, one sentence;
    `retryable` says whether the reconcile loop may try the same again.
    """

    kind = Kind.INTERNAL
    retryable = False

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InvalidSpec(SwarmshError):
    """What was asked for is malformed or contradicts itself; the message names the field."""

    kind = Kind.INVALID


class NotFound(SwarmshError):
    """No object of that id, name or id prefix."""

    kind = Kind.NOT_FOUND


class Ambiguous(SwarmshError):
    """An id prefix or a name fits more than one object."""

    kind = Kind.INVALID


class NameConflict(SwarmshError):
    """Another object already has the name."""

    kind = Kind.CONFLICT


class StalePlan(SwarmshError):
    """What a plan was made from has changed since, so that its deploy would do something else."""

    kind = Kind.CONFLICT


class Forbidden(SwarmshError):
    """What Docker answers with 403: an object that is not to be made, changed or removed."""

    kind = Kind.FORBIDDEN


class Exhausted(SwarmshError):
    """No address, subnet or number of a kind is left; the message says of which.

    `free_at` is the time when one that was used lately may be given again, if there is such a one.
    """

    kind = Kind.INVALID

    def __init__(self, message: str, *, hint: str = "", free_at: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.free_at = free_at


class OutOfSequence(SwarmshError):
    """An update was based on an older version of the object."""

    kind = Kind.OUT_OF_SEQUENCE


class Unimplemented(SwarmshError):
    """Not swarmsh's, or not built; the message names the alternative."""

    kind = Kind.UNIMPLEMENTED


class Unavailable(SwarmshError):
    """Cannot be done now, and may be later."""

    kind = Kind.UNAVAILABLE
    retryable = True


class StoreReadOnly(SwarmshError):
    """The store is behind its nodes, or its disk is full: nothing may be written."""

    kind = Kind.UNAVAILABLE


class Locked(SwarmshError):
    """The key to what is secret in the store is not at hand: it waits for a passphrase, or its place is empty."""

    kind = Kind.UNAVAILABLE


class StoreCorrupt(SwarmshError):
    """The database cannot be read as one of ours."""


class NodeUnreachable(SwarmshError):
    """No SSH session to the node could be opened or kept; the loop tries again with back-off."""

    kind = Kind.UNAVAILABLE
    retryable = True


class NodeUntrusted(SwarmshError):
    """The node showed a host key that is not the pinned one: nothing was sent."""

    kind = Kind.FORBIDDEN


class HelperRefused(SwarmshError):
    """The helper on a node refused a session or a batch (other cluster, lower epoch or index)."""

    kind = Kind.FORBIDDEN


class NodeRequestFailed(SwarmshError):
    """The helper or the Engine on a node answered a request with an error."""


class NetworkFailed(NodeRequestFailed):
    """A node holds its network state, but its kernel or Engine would not take all of it; it tries again itself."""


class NodeDeadline(SwarmshError):
    """A node did not answer within the deadline of a request."""

    kind = Kind.UNAVAILABLE
    retryable = True


class InventoryError(SwarmshError):
    """An inventory file cannot be used; the message names file, line and key."""

    kind = Kind.INVALID
