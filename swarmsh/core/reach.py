"""What nodes reach without us, and where networks of ours may therefore not be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from msgspec.structs import replace

from swarmsh.core.accept_network import PLAIN_BYTES
from swarmsh.core.underlay import USUAL_MTU, least_mtu
from swarmsh.errors import Exhausted
from swarmsh.model.objects import Cluster, Network, Node
from swarmsh.model.pools import LOST_NODES, NODES
from swarmsh.model.snapshot import ClusterSnapshot

EGRESS_PREFIX = 24  # node number n has the n-th /24 of the egress pool
# In the order in which they are tried; the last two are for tests of networks (RFC 2544), and in nobody's way.
EGRESS_POOLS = tuple(
    map(
        IPv4Network,
        (
            "10.255.0.0/16",
            "10.254.0.0/16",
            "10.253.0.0/16",
            "172.30.0.0/16",
            "198.18.0.0/16",
            "198.19.0.0/16",
        ),
    )
)
EGRESS_POOL = EGRESS_POOLS[0]


@lru_cache(maxsize=4096)
def _block(text: str) -> IPv4Network | None:
    """None for a host name, IPv6, and the default route, which leads everywhere."""
    try:
        block = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return None
    return block if block.prefixlen else None


def reached_by(node: Node) -> Iterator[IPv4Network]:
    """Its own addresses, and the subnets that it has routes to, but for ours."""
    yield from blocks_of((node.target.address, node.target.underlay, *node.description.routes))


def blocks_of(texts: Iterable[str]) -> Iterator[IPv4Network]:
    """Those that are IPv4 addresses or subnets."""
    for text in texts:
        block = _block(text)
        if block is not None:
            yield block


def overlap(node: Node, block: IPv4Network) -> IPv4Network | None:
    """What the node reaches already of a block of ours; None if nothing."""
    return next((there for there in reached_by(node) if there.overlaps(block)), None)


def in_the_way(snapshot: ClusterSnapshot, node: Node) -> list[str]:
    """What the node reaches of addresses of ours, and therefore gets no task of, in words."""
    ours = [(f"network {n.spec.name}", IPv4Network(n.subnet)) for n in _networks(snapshot) if n.removed_at is None]
    ours.append(("the way outside", egress_pool(snapshot)))
    found = ((whose, block, overlap(node, block)) for whose, block in ours)
    return [f"{there} overlaps {whose} ({block})" for whose, block, there in found if there is not None]


def _networks(snapshot: ClusterSnapshot) -> list[Network]:
    return sorted(snapshot.networks.values(), key=lambda network: network.spec.name)


# --- the egress pool ----------------------------------------------------------------------------------------
def egress_pool(snapshot: ClusterSnapshot) -> IPv4Network:
    """Of which each node has a part, through which tasks reach the outside and are reached by the mesh."""
    cluster = snapshot.cluster
    return IPv4Network(cluster.egress_pool) if cluster is not None and cluster.egress_pool else EGRESS_POOL


def egress_mtu(snapshot: ClusterSnapshot) -> int:
    """Of egress networks: not above what the way to anywhere is used to, for most of what goes there goes far."""
    cluster = snapshot.cluster
    return cluster.egress_mtu if cluster is not None and cluster.egress_mtu else USUAL_MTU - PLAIN_BYTES


def settled_egress(snapshot: ClusterSnapshot) -> Cluster | None:
    """The cluster with an egress pool that is in no node's way, and an MTU for all links; None if it has both.

    It stays once anybody has an address of any kind. Called before a service first gets one. Raises Exhausted.
    """
    cluster = snapshot.cluster
    if cluster is None or any(pool not in (NODES, LOST_NODES) for pool in snapshot.pools):
        return None
    mtu = min(USUAL_MTU, least_mtu(snapshot.nodes.values())) - PLAIN_BYTES
    taken = dict(_taken(snapshot))
    present = egress_pool(snapshot)
    for pool in (present, *EGRESS_POOLS):
        if not any(pool.overlaps(block) for block in taken):
            if (pool, mtu) == (present, egress_mtu(snapshot)):
                return None
            return replace(cluster, egress_pool=str(pool), egress_mtu=mtu)
    ways = "; ".join(f"{pool}: {_in_the_way(pool, taken)}" for pool in EGRESS_POOLS)
    raise Exhausted(
        f"tasks on networks need a subnet to the outside on each node, and none of these can be had: {ways}",
        hint="Remove a route or a network that is in the way, or the node",
    )


def _taken(snapshot: ClusterSnapshot) -> Iterable[tuple[IPv4Network, str]]:
    for network in _networks(snapshot):
        yield IPv4Network(network.subnet), f"network {network.spec.name}"
    for node in sorted(snapshot.nodes.values(), key=lambda n: n.number):
        for block in reached_by(node):
            yield block, f"node {node.spec.name} reaches {block}"


def _in_the_way(pool: IPv4Network, taken: dict[IPv4Network, str]) -> str:
    return next((whose for block, whose in taken.items() if block.overlaps(pool)), "")
