"""Subnets and VNIs of networks, VIPs and marks of services, addresses of tasks: chosen within one decision.

All of it follows from the snapshot and the time. What a write takes from an object is kept for `QUARANTINE_S`
before it is given again: so long others may still have it in ARP and forwarding tables, in connections, in DNS.
A task may have an address of its own node sooner, if there is no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from math import inf

from msgspec.structs import replace

from swarmsh.core.accept_endpoint import occupied_ports, port_in_use
from swarmsh.core.accept_network import (
    FIRST_VNI,
    LAST_VNI,
    asked_config,
    asked_vni,
    encrypted,
    mtu,
)
from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.find import find_network
from swarmsh.core.reach import EGRESS_PREFIX, egress_pool, reached_by
from swarmsh.core.subnets import divide, first_free, gateway_on
from swarmsh.core.underlay import least_mtu
from swarmsh.errors import Exhausted, Forbidden, InvalidSpec, SwarmshError
from swarmsh.model.objects import (
    Cluster,
    Endpoint,
    Network,
    Node,
    PortMark,
    Release,
    Service,
    Task,
    TaskAddress,
    VirtualIP,
)
from swarmsh.model.pools import EGRESS, LOST_NODES, MARKS, NODES, Pool, claims_of, key_of, released_at
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import NetworkSpec, PortConfig
from swarmsh.model.stacks import NAMESPACE

QUARANTINE_S = 300.0
# On the node where an address was last, for with it goes the MAC: tables elsewhere that still have it are right.
# Without this a task that fails again and again would take all addresses of a small network from its neighbours.
SAME_NODE_QUARANTINE_S = 60.0
LOST_NODE_QUARANTINE_S = 86400.0  # of a node's number, if it was removed and never said that it left
FIRST_MARK, LAST_MARK = 1, (1 << 24) - 1
FIRST_CHOSEN_PORT, LAST_CHOSEN_PORT = 30000, 32767  # swarmkit's, for ports published without a number
LAST_NODE_NUMBER = 255


# --- networks -----------------------------------------------------------------------------------------------
def new_network(
    snapshot: ClusterSnapshot, cluster: Cluster, network_id: str, spec: NetworkSpec, now: float
) -> Network:
    """A network of an accepted spec. Raises Forbidden if what it asks for is taken, Exhausted if all is.

    A network of the same name that was removed a short while ago leaves its subnet to one that asks for it, once
    nobody has an address there: so who removes a stack can deploy it again.
    """
    config = asked_config(spec)
    subnet = IPv4Network(config.subnet) if config is not None else None
    if subnet is None:
        subnet = _choose_subnet(snapshot, cluster)
    else:
        for taken, whose in _taken_subnets(snapshot, spec):
            if subnet.overlaps(taken):
                raise Forbidden(
                    "invalid pool request: Pool overlaps with other one on this address space: "
                    f"{subnet} overlaps {taken}, {whose}"
                )
    division = divide(subnet, IPv4Network(config.ip_range) if config is not None and config.ip_range else None)
    vni = _choose_vni(snapshot, spec)
    return Network(
        id=network_id,
        version=0,
        created_at=now,
        updated_at=now,
        spec=spec,
        vni=vni,
        subnet=str(subnet),
        gateways=str(division.gateways),
        vips=str(division.vips),
        first_task=str(division.first_task),
        last_task=str(division.last_task),
        mtu=mtu(spec, least_mtu(snapshot.nodes.values())),
        encrypted=encrypted(spec),
        engine_name=_choose_engine_name(snapshot, spec.name, vni),
    )


def _choose_engine_name(snapshot: ClusterSnapshot, name: str, vni: int) -> str:
    """ "" if no other network has the name on nodes. A removed one has it there until its last task has ended.

    An Engine would make two networks of one name, and a container could join either.
    """
    taken = {network.docker_name for network in snapshot.networks.values()}
    free = name
    while free in taken:
        free = f"{free}-{vni}"
    return free if free != name else ""


def _choose_subnet(snapshot: ClusterSnapshot, cluster: Cluster) -> IPv4Network:
    taken = [block for block, _ in _taken_subnets(snapshot)]
    for pool in cluster.default_addr_pool:
        found = first_free(IPv4Network(pool), cluster.subnet_size, taken)
        if found is not None:
            return found
    raise Exhausted(
        "all predefined address pools have been fully subnetted: no /"
        f"{cluster.subnet_size} of {', '.join(cluster.default_addr_pool)} is free of other networks and of what "
        "nodes reach already",
        hint="Give a --subnet, or remove networks that are not used (`docker network prune`)",
    )


def _taken_subnets(
    snapshot: ClusterSnapshot, spec: NetworkSpec | None = None
) -> Iterator[tuple[IPv4Network, str]]:
    """Blocks that no new overlay (of this spec) may touch, each with whose it is; always in the same order."""
    yield egress_pool(snapshot), "through which tasks reach the outside"
    for network in sorted(snapshot.networks.values(), key=lambda n: n.id):
        if spec is not None and _makes_way(snapshot, network, spec):
            continue
        yield IPv4Network(network.subnet), f"the subnet of network {network.spec.name}{_gone(snapshot, network)}"
    for node in sorted(snapshot.nodes.values(), key=lambda n: n.number):
        for block in reached_by(node):
            yield block, f"which node {node.spec.name} reaches without us"


def _makes_way(snapshot: ClusterSnapshot, network: Network, spec: NetworkSpec) -> bool:
    """Whether a removed network leaves its subnet at once to one of this spec, which asks for it.

    The new one has another VNI and other bridges: what is remembered of addresses in the old one stays with those.
    """
    config = asked_config(spec)
    same = network.spec.name == spec.name and network.spec.labels.get(NAMESPACE) == spec.labels.get(NAMESPACE)
    if network.removed_at is None or not same or config is None:
        return False
    return IPv4Network(config.subnet) == IPv4Network(network.subnet) and not _held(snapshot, network.id)


def _held(snapshot: ClusterSnapshot, network_id: str) -> bool:
    """Whether anybody has an address of the network now: a task that is still being stopped, too."""
    return _lately_used(snapshot, network_id, inf)


def _gone(snapshot: ClusterSnapshot, network: Network) -> str:
    """Of a removed one that, and what its subnet waits for."""
    if network.removed_at is None:
        return ""
    waits = "some of its tasks have not ended" if _held(snapshot, network.id) else f"kept for {QUARANTINE_S:.0f} s"
    return f", removed a short while ago ({waits})"


def _choose_vni(snapshot: ClusterSnapshot, spec: NetworkSpec) -> int:
    taken = {network.vni: network.spec.name for network in snapshot.networks.values()}
    asked = asked_vni(spec)
    if asked is not None:
        if asked in taken:
            raise Forbidden(f"vxlan id {asked} is that of network {taken[asked]}")
        return asked
    return next(vni for vni in range(FIRST_VNI, LAST_VNI + 1) if vni not in taken)


# --- nodes --------------------------------------------------------------------------------------------------
def choose_node_number(snapshot: ClusterSnapshot, now: float) -> int:
    """The lowest number that no node has, and none that was removed may still have. Raises Exhausted.

    Gateways, MACs and SPIs derive from it: two nodes of one number would take each other's packets. That of a node
    which was removed without an answer is given again only when there is no other, and a day later.
    """
    taken = {node.number for node in snapshot.nodes.values()}
    releases = [r for r in snapshot.releases.values() if r.pool in (NODES, LOST_NODES) and r.key not in taken]
    lapsed = {r.key for r in releases if r.pool == NODES and r.released_at + QUARANTINE_S <= now}
    kept = taken | {r.key for r in releases} - lapsed
    free = next((n for n in range(1, LAST_NODE_NUMBER + 1) if n not in kept), None)
    if free is not None:
        return free
    lost = [r for r in releases if r.pool == LOST_NODES]
    oldest = min(lost, key=lambda r: (r.released_at, r.key), default=None)
    if oldest is not None and oldest.released_at + LOST_NODE_QUARANTINE_S <= now:
        return oldest.key
    removed = f", and {len(releases)} were removed not long ago" if releases else ""
    raise Exhausted(
        f"there are {len(taken)} nodes already{removed}: of {LAST_NODE_NUMBER} numbers none is left for one more",
        free_at=min((r.released_at + _kept_s(r) for r in releases), default=None),
    )


def _kept_s(release: Release) -> float:
    return LOST_NODE_QUARANTINE_S if release.pool == LOST_NODES else QUARANTINE_S


def left_cleanly(snapshot: ClusterSnapshot, node_id: str, now: float) -> Changes:
    """A removed node has said that nothing of ours is on it any more: its number is free after the quarantine."""
    lost = next((r for r in snapshot.releases.values() if r.pool == LOST_NODES and r.holder == node_id), None)
    if lost is None:
        return Changes()
    return Changes(delete_releases=(lost.id,), put_releases=(_number_release(NODES, lost.key, node_id, now),))


def _number_release(pool: str, number: int, node_id: str, now: float) -> Release:
    return Release(id=f"{pool}/{number}", pool=pool, key=number, holder=node_id, released_at=now)


# --- services and tasks -------------------------------------------------------------------------------------
@dataclass(slots=True)
class Allocator:
    """Gives numbers within one decision, so that what it gave already counts; thrown away with the decision."""

    snapshot: ClusterSnapshot
    now: float
    quarantine_s: float = QUARANTINE_S
    occupied: Mapping[str, int] = field(default_factory=dict)  # protocol -> bits of ports not to be chosen
    _given: dict[str, int] = field(default_factory=dict)  # pool -> bits
    # By pool, begin of a range that is full, and node: what may be given again, in this order.
    _again: dict[tuple[str, int, str], tuple[int, ...]] = field(default_factory=dict)

    def endpoint(self, service: Service) -> Endpoint:
        """VIPs, marks and published ports as the service's spec needs them; what it has and still needs stays.

        Raises Exhausted, NotFound for a network that is not there, InvalidSpec for a port that another one has.
        """
        spec = service.spec.endpoint_spec
        mode = spec.mode if spec is not None else ""
        vips = {vip.network_id: vip for vip in service.endpoint.virtual_ips}
        networks = self._networks(service)
        with self._all_or_nothing():
            return Endpoint(
                virtual_ips=tuple(vips.get(n.id) or self._vip(n) for n in networks) if mode != "dnsrr" else (),
                ports=self._ports(service, [p for p in spec.ports if p.publish_mode == "ingress"] if spec else []),
            )

    def task(self, task: Task, node: Node) -> Task:
        """The task with its addresses on this node. Raises Exhausted or NotFound, whose message is its error."""
        networks = self._networks(task)
        with self._all_or_nothing():
            return replace(
                task,
                addresses=tuple(self._task_address(network, node) for network in networks),
                egress_address=self._egress_address(node) if needs_egress(task, networks) else "",
            )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What is given within is not, if it ends for want of something else: the next one may need it."""
        given = dict(self._given)
        try:
            yield
        except SwarmshError:
            self._given = given
            raise

    def _networks(self, of: Service | Task) -> list[Network]:
        """The overlays that a service or task is on; those that every Engine has are not ours to number."""
        template = of.spec if isinstance(of, Task) else of.spec.task_template
        targets = (attachment.target for attachment in template.networks)
        return [find_network(self.snapshot, target) for target in targets if target not in PREDEFINED_NETWORKS]

    def _vip(self, network: Network) -> VirtualIP:
        vips = IPv4Network(network.vips)
        address = self._address(network, vips.network_address, vips.broadcast_address, "VIP")
        return VirtualIP(network_id=network.id, address=str(address), mark=self._mark())

    # --- published ports ---
    def _ports(self, service: Service, wanted: Sequence[PortConfig]) -> tuple[PortMark, ...]:
        """One for each of `wanted`, in their order; numbers asked for go first, so that no other gets them."""
        had = {(p.protocol, p.published_port): p for p in service.endpoint.ports}
        given: dict[int, PortMark] = {}
        for i, port in enumerate(wanted):
            if port.published_port:
                self._claim_port(service, port)
                kept = had.pop((port.protocol, port.published_port), None)
                given[i] = _port_mark(port, port.published_port, kept.mark if kept is not None else self._mark())
        for i, port in enumerate(wanted):
            if not port.published_port:
                kept = next((p for p in had.values() if _same_target(p, port)), None)
                if kept is not None:  # swarmkit keeps what it chose, too (`cnmallocator/portallocator.go`)
                    del had[kept.protocol, kept.published_port]
                    given[i] = kept
                else:
                    given[i] = _port_mark(port, self._choose_port(service, wanted, port.protocol), self._mark())
        return tuple(given[i] for i in range(len(wanted)))

    def _claim_port(self, service: Service, port: PortConfig) -> None:
        """Take a port that was asked for by its number: that another one had it a moment ago is no hindrance."""
        key = port.published_port
        holding = self.snapshot.pools.get(port.protocol, Pool()).holdings.get(key)
        if holding is not None and holding.released_at is None and holding.holder != service.id:
            other = self.snapshot.services[holding.holder]
            raise port_in_use(key, other.spec.name, other.id, "an ingress port")
        if self._given.get(port.protocol, 0) >> key & 1:
            raise InvalidSpec(f"port '{key}' was given to another service just now")
        self._given[port.protocol] = self._given.get(port.protocol, 0) | 1 << key

    def _choose_port(self, service: Service, wanted: Sequence[PortConfig], protocol: str) -> int:
        own = service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ()
        asked = {p.published_port for p in own if p.protocol == protocol}
        return self._take(
            protocol,
            FIRST_CHOSEN_PORT,
            LAST_CHOSEN_PORT,
            occupied_ports(self.snapshot, protocol)
            | self.occupied.get(protocol, 0)
            | sum(1 << port for port in asked),
            f"{protocol} port from {FIRST_CHOSEN_PORT} to {LAST_CHOSEN_PORT}",
            "Publish it with a number",
        )

    def _mark(self) -> int:
        return self._take(MARKS, FIRST_MARK, LAST_MARK, 0, "mark of the load balancer", "Remove services")

    def _task_address(self, network: Network, node: Node) -> TaskAddress:
        gateways = IPv4Network(network.gateways)
        if gateway_on(gateways, node.number) is None:
            raise Exhausted(
                f"network {network.spec.name} ({network.subnet}) reaches the nodes of the numbers 1 to "
                f"{gateways.num_addresses - 1}, and {node.spec.name} is number {node.number}",
                hint="Create it with a larger --subnet, or keep the service off that node by a constraint",
            )
        first, last = IPv4Address(network.first_task), IPv4Address(network.last_task)
        return TaskAddress(
            network_id=network.id, address=str(self._address(network, first, last, "task address", node.id))
        )

    def _address(
        self, network: Network, first: IPv4Address, last: IPv4Address, what: str, node_id: str = ""
    ) -> IPv4Address:
        subnet = IPv4Network(network.subnet)
        key = self._take(
            network.id,
            key_of(str(first)),
            key_of(str(last)),
            _reserved(network),
            f"{what} in network {network.spec.name} ({first} to {last})",
            "Let fewer tasks and services use it, or make a network with a larger --subnet",
            node_id,
        )
        return subnet.network_address + (key - key_of(str(subnet.network_address)))

    def _egress_address(self, node: Node) -> str:
        what = f"egress address on node {node.spec.name}"
        key = self._take(EGRESS, *_egress_range(node), 0, what, "Let fewer tasks run there", node.id)
        return str(egress_pool(self.snapshot).network_address + key)

    def egress_left(self, nodes: Iterable[Node], enough: int) -> dict[str, int]:
        """By node id, to how many tasks an egress address could be given now; at least `enough` where that is so.

        Those whose quarantine is over are counted only where fewer than that are left, for it is a walk.
        """
        found, given = {}, self._given.get(EGRESS, 0)
        taken = self.snapshot.pools.get(EGRESS, Pool()).taken | given
        for node in nodes:
            low, high = _egress_range(node)
            bits = (1 << (high - low + 1)) - 1
            found[node.id] = (~(taken >> low) & bits).bit_count()
            if found[node.id] < enough:
                lapsed = self._lapsed(EGRESS, low, high, 0, node.id)
                found[node.id] += sum(not given >> key & 1 for key in lapsed)
        return found

    def egress_free_at(self, node: Node) -> float | None:
        """When the node's next egress address can be given by time alone."""
        return self._free_at(EGRESS, *_egress_range(node), node.id)

    # --- numbers ---
    def _take(self, pool: str, low: int, high: int, reserved: int, what: str, hint: str, node_id: str = "") -> int:
        """The lowest number from `low` to `high` that nobody had lately; else the one that is free for longest.

        `node_id`: where the address will be.
        """
        known = self.snapshot.pools.get(pool, Pool())
        given = self._given.get(pool, 0)
        # The lowest zero bit from `low` on.
        bits = (known.taken | given | reserved) >> low
        key = low + ((bits + 1) & ~bits).bit_length() - 1
        if key > high:
            place = pool, low, node_id
            if place not in self._again:
                self._again[place] = self._lapsed(pool, low, high, reserved, node_id)
            again = next((k for k in self._again[place] if not given >> k & 1), None)
            if again is None:
                minutes = f"{self.quarantine_s / 60:g} minutes"
                raise Exhausted(
                    f"no {what} is free: each is in use, or was in the last {minutes}",
                    hint=hint,
                    free_at=self._free_at(pool, low, high, node_id),
                )
            key = again
        self._given[pool] = given | 1 << key
        return key

    def _lapsed(self, pool: str, low: int, high: int, reserved: int, node_id: str) -> tuple[int, ...]:
        """Numbers whose quarantine is over, the one released first at first. A walk, but only in a full pool."""
        ends = self._ends(pool, low, high, node_id)
        return tuple(key for _, end, key in sorted(ends) if end <= self.now and not reserved >> key & 1)

    def _free_at(self, pool: str, low: int, high: int, node_id: str) -> float | None:
        ends = (end for _, end, _ in self._ends(pool, low, high, node_id))
        return min((end for end in ends if end > self.now), default=None)

    def _ends(self, pool: str, low: int, high: int, node_id: str) -> Iterator[tuple[float, float, int]]:
        """Of all numbers that were released: when, and until when they are kept from that node."""
        holdings = self.snapshot.pools.get(pool, Pool()).holdings
        # An egress subnet is a small part of its pool, which has the tasks of all nodes.
        keys = range(low, high + 1) if high - low < len(holdings) else holdings
        for key in keys:
            holding = holdings.get(key)
            if holding is not None and low <= key <= high and holding.released_at is not None:
                here = node_id and self._last_on(pool, key, holding.holder) == node_id
                kept_s = min(SAME_NODE_QUARANTINE_S, self.quarantine_s) if here else self.quarantine_s
                yield holding.released_at, holding.released_at + kept_s, key

    def _last_on(self, pool: str, key: int, holder: str) -> str:
        task, release = self.snapshot.tasks.get(holder), self.snapshot.releases.get(f"{pool}/{key}")
        return task.node_id if task is not None else release.node_id if release is not None else ""


def _egress_range(node: Node) -> tuple[int, int]:
    """Of a node's part the first number is the subnet's, the second its own, the last one the broadcast."""
    first = node.number << (32 - EGRESS_PREFIX)
    return first + 2, first + (1 << (32 - EGRESS_PREFIX)) - 2


def _port_mark(port: PortConfig, published: int, mark: int) -> PortMark:
    return PortMark(
        name=port.name, protocol=port.protocol, target_port=port.target_port, published_port=published, mark=mark
    )


def _same_target(given: PortMark, asked: PortConfig) -> bool:
    return (given.name, given.protocol, given.target_port) == (asked.name, asked.protocol, asked.target_port)


def needs_egress(task: Task, networks: Sequence[Network]) -> bool:
    """Whether the task is on its node's egress network too: for the way outside, and for ports of the mesh.

    Not one on a network of its Engine's (`host`, …).
    """
    if task.spec.networks and not networks:
        return False
    ports = task.endpoint.ports if task.endpoint is not None else ()
    published = any(port.publish_mode == "ingress" for port in ports)
    return published or any(not network.spec.internal for network in networks)


def _reserved(network: Network) -> int:
    """Bits of addresses that are never given: the broadcast, and what the network's author keeps."""
    config = asked_config(network.spec)
    named = [] if config is None else [config.gateway, *config.auxiliary_addresses.values()]
    kept = [str(IPv4Network(network.subnet).broadcast_address), *filter(None, named)]
    bits = 0
    for address in kept:
        bits |= 1 << key_of(address)
    return bits


# --- giving back --------------------------------------------------------------------------------------------
def with_releases(snapshot: ClusterSnapshot, changes: Changes, now: float) -> Changes:
    """`changes`, with a record of every address and mark that they take from somebody, and without those that they
    give again. Every store calls it, whoever decided: so no way of ending a task forgets its addresses."""
    put: dict[str, Release] = {}
    given: set[str] = set()

    def release(holder: Service | Task, kept: set[tuple[str, int]], at: float) -> None:
        for pool, key in claims_of(holder):
            holding = snapshot.pools[pool].holdings.get(key) if pool in snapshot.pools else None
            if (pool, key) not in kept and holding is not None and holding.holder == holder.id:
                name = f"{pool}/{key}"
                node_id = holder.node_id if isinstance(holder, Task) else ""
                put[name] = Release(id=name, pool=pool, key=key, holder=holder.id, released_at=at, node_id=node_id)

    after: tuple[Service | Task, ...] = (*changes.put_services, *changes.put_tasks)
    for holder in after:
        claims = set(claims_of(holder))
        if released_at(holder) is None:
            given.update(f"{pool}/{key}" for pool, key in claims)
        before = _stored(snapshot, holder)
        if before is not None:
            release(before, claims, now)
    for node in changes.put_nodes:
        given.update(f"{pool}/{node.number}" for pool in (NODES, LOST_NODES))
    for node_id in changes.delete_nodes:
        if (left := snapshot.nodes.get(node_id)) is not None:
            record = _number_release(LOST_NODES, left.number, node_id, now)
            put[record.id] = record
    gone: list[Service | Task] = [snapshot.services[i] for i in changes.delete_services if i in snapshot.services]
    gone += [snapshot.tasks[i] for i in changes.delete_tasks if i in snapshot.tasks]
    for holder in gone:
        ended_at = released_at(holder)
        release(holder, set(), now if ended_at is None else ended_at)
    if not put and not (given and snapshot.releases):
        return changes
    lapsed = [name for name in sorted(given) if name in snapshot.releases]
    return replace(
        changes,
        put_releases=(*changes.put_releases, *(record for name, record in put.items() if name not in given)),
        delete_releases=(*changes.delete_releases, *lapsed),
    )


def _stored(snapshot: ClusterSnapshot, holder: Service | Task) -> Service | Task | None:
    return snapshot.tasks.get(holder.id) if isinstance(holder, Task) else snapshot.services.get(holder.id)


def forget_lapsed(snapshot: ClusterSnapshot, now: float, quarantine_s: float = QUARANTINE_S) -> Changes:
    """What of the past no longer matters: releases that are over, and removed networks that nobody is on."""
    releases = tuple(
        sorted(
            r.id
            for r in snapshot.releases.values()
            if r.pool != LOST_NODES and r.released_at + quarantine_s <= now
        )
    )
    networks = tuple(
        sorted(
            network.id
            for network in snapshot.networks.values()
            if network.removed_at is not None
            and network.removed_at + quarantine_s <= now
            and not _lately_used(snapshot, network.id, now - quarantine_s)
        )
    )
    return Changes(delete_releases=releases, delete_networks=networks)


def _lately_used(snapshot: ClusterSnapshot, network_id: str, since: float) -> bool:
    """Whether anybody held an address of the network after that time: a task that is still being stopped, too."""
    holdings = snapshot.pools[network_id].holdings.values() if network_id in snapshot.pools else ()
    return any(holding.released_at is None or holding.released_at > since for holding in holdings)
