"""What a node is told of networks: the entries of its network state and ESP keys, as `docs/protocol.md` has them.

Every key is written, so that a helper need not know defaults; only a `Dest` of a VIP has no `port`.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from swarmsh.model.actions import Message


class Entry(Message, omit_defaults=False):
    """Base of entries. They are immutable, and shared by all nodes that hold the same."""


class Dest(Message):
    """A backend. Weight 0: it takes no new connections, those it has go on."""

    task: str
    address: str
    weight: int
    port: int = 0  # of a published port's backends only


class OwnNode(Entry):
    n: int  # the node's number
    underlay: str  # IPv4 address at which the other nodes send it VXLAN and ESP


class PeerNode(Entry):
    n: int
    underlay: str


class Timeouts(Entry):
    """Seconds after which IPVS forgets a connection on which nothing passes."""

    tcp: int
    tcp_fin: int
    udp: int


class Egress(Entry):
    """Where tasks' ways outside and to the mesh are numbered: node number n has the n-th /prefix of the pool."""

    pool: str
    prefix: int
    mtu: int
    timeouts_s: Timeouts  # here because every node has this entry, and all have the same


class NodeNetwork(Entry):
    """An overlay as one node has it; `peers` are the numbers of the other nodes with a task there, sorted."""

    id: str
    name: str  # of the Docker network
    dns_name: str  # what tasks call it: NAME.NETWORK
    vni: int
    subnet: str
    gateway: str  # the node's own address there
    vips: str
    mtu: int
    encrypted: bool
    internal: bool
    labels: dict[str, str]
    peers: tuple[int, ...]


class Vip(Entry):
    """A service's address in one network; `id` is the mark."""

    id: int
    network: str
    service: str
    address: str
    scheduler: str
    persist_s: int
    dests: tuple[Dest, ...]
    tcp_ports: tuple[int, ...]  # what a living backend listens on


class Port(Entry):
    """A published port; `bind` is the one address of a node it answers on, "" for all."""

    id: int
    service: str
    protocol: str
    port: int
    bind: str
    scheduler: str
    persist_s: int
    dests: tuple[Dest, ...]
    tcp_ports: tuple[int, ...]


class NodeTask(Entry):
    """Addresses of a task on this node: overlays in the order of its spec, the egress network's last."""

    id: str
    addresses: tuple[str, ...]


class NamedTask(Entry):
    id: str
    address: str
    names: tuple[str, ...]  # its container's and host's


class ServiceNames(Entry):
    """A service in one network; `vip` is "" where the name stands for the tasks themselves."""

    network: str
    service: str
    names: tuple[str, ...]
    vip: str
    tasks: tuple[NamedTask, ...]


Section = OwnNode | Egress | PeerNode | NodeNetwork | Vip | Port | NodeTask | ServiceNames


class NetworkChange(Message, omit_defaults=False):
    """A part of a node's network state; refused as a whole if `epoch` or `index` is below what was seen.

    `put` holds sections (`node` and `egress` one entry each, others lists), `drop` keys, carried out first.
    """

    cluster_id: str
    epoch: int
    index: int
    fresh: bool = False  # the state begins empty
    more: bool = False  # another part follows at once; nothing is done before the one without it
    put: dict[str, Any] = field(default_factory=dict)
    drop: dict[str, list[Any]] = field(default_factory=dict)


# --- keys of encrypted networks -----------------------------------------------------------------------------
class EspEpoch(Entry, rename={"inbound": "in", "outbound": "out"}):
    """Keys with one peer, 72 hexadecimal digits each way; never stored, never shown."""

    epoch: int
    inbound: str
    outbound: str

    def __repr__(self) -> str:
        return f"EspEpoch({self.epoch}, …)"


class EspPeer(Entry):
    n: int
    address: str
    sends: int  # the epoch that goes out; 0: nothing goes to this peer yet
    epochs: tuple[EspEpoch, ...]
    keep: bool = False  # what it has of a former manager is kept beside, and sent in while `sends` is 0


class EspKeys(Entry):
    """All that a node is to have. Not `closed`, and without peers: nothing of ours is left."""

    n: int
    address: str
    closed: bool
    peers: tuple[EspPeer, ...] = ()
