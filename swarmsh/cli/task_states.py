"""Task states by how far they are, as Docker's CLI counts them."""

from __future__ import annotations

_ORDER = ("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running")
STATES = {state: number for number, state in enumerate(_ORDER, 1)}
ENDED = {"complete": 10, "shutdown": 11, "failed": 12, "rejected": 13}
ALL = STATES | ENDED
