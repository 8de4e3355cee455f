"""A check of the ways between nodes, as `docs/protocol.md` has it: who listens, who sends, and what came.

`Kind`: `udp4789` (VXLAN), `udp4790` (VXLAN of encrypted networks), `esp` (IP protocol 50).
"""

from __future__ import annotations

from typing import Literal

from msgspec import field

from swarmsh.model.actions import Message
from swarmsh.model.netstate import Entry

Kind = Literal["udp4789", "udp4790", "esp"]
KINDS: tuple[Kind, ...] = ("udp4789", "udp4790", "esp")


class Listen(Entry):
    """`enough`: size of an IP packet in bytes; when that came from all, and one of each kind, all has come."""

    token: str  # 16 hex digits, of one check
    seconds: float
    enough: int
    senders: tuple[int, ...] = field(name="from")


class Peer(Entry):
    n: int
    address: str


class Send(Entry):
    """`sizes` of IP packets in bytes, sent with DF to UDP 4789."""

    token: str
    n: int
    address: str
    to: tuple[Peer, ...]
    sizes: tuple[int, ...]


class Sent(Message):
    """`refused`: the kernel's words for each kind that it did not send at all."""

    n: int
    refused: dict[Kind, str] = field(default_factory=dict)


class Heard(Message):
    """What came from node number `n`: from which address, what arrived, and what of it the firewall let in."""

    n: int
    source: str = ""
    arrived: tuple[Kind, ...] = ()
    let_in: tuple[Kind, ...] = ()
    size: int = 0  # of the largest IP packet that arrived of those sent with a size; 0: none
