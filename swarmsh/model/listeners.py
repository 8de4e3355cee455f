"""Who listens on nodes themselves, as `docs/protocol.md` has it: what is asked, and what they answer."""

from __future__ import annotations

from swarmsh.model.actions import Message
from swarmsh.model.netstate import Entry


class PortRange(Entry):
    """Both ends are in it."""

    protocol: str  # tcp | udp
    first: int
    last: int


class Listener(Message):
    """A socket that is open to anybody: it listens (tcp), or is not connected (udp). `address` may be IPv6."""

    protocol: str
    address: str
    port: int
