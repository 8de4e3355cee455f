"""Following one connection's packets over nodes, as `docs/protocol.md` has it."""

from __future__ import annotations

from typing import Literal

from swarmsh.model.actions import Message
from swarmsh.model.netstate import Entry

Protocol = Literal["tcp", "udp"]
Outcome = Literal["answered", "refused", "failed", "silent"]


class TraceWatch(Entry):
    """`tasks`: those of the node in whose containers is looked as well; `port`: where the connection begins."""

    token: str
    seconds: float
    tasks: tuple[str, ...]
    protocol: Protocol
    port: int


class TraceSend(Entry):
    """Try the connection: from a task, or from the node itself if `task` is empty."""

    task: str
    to: str
    to_port: int
    protocol: Protocol
    port: int
    timeout_s: float


class Traced(Message):
    """How it went; `words` are the kernel's. `source`: the address that it came from."""

    outcome: Outcome
    words: str = ""
    source: str = ""


class Sighting(Message):
    """A packet of it, seen at a device of the node (`place` empty) or of a task's container."""

    device: str
    way: Literal["in", "out"]
    src: str  # address:port
    dst: str
    place: str = ""
    flags: str = ""
    forth: bool = False  # from the one who connects; else an answer
    tunnel: str = ""  # outer addresses, if it was inside of VXLAN
