"""What each node must hold of networks: a pure view of the snapshot, kept step by step.

A service and its tasks add the same to the state of all nodes (`ServicePart`), so a change costs the work on the
services that it concerns, and one entry for each node that has to hear of it.

A published port leads to the tasks' addresses in the egress networks, on every node.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network
from itertools import combinations

from swarmsh.core.container import Joins
from swarmsh.core.labels import Balancing, balancing_of
from swarmsh.core.reach import EGRESS_PREFIX, egress_mtu, egress_pool
from swarmsh.core.subnets import gateway_on
from swarmsh.core.template import context_of, expand
from swarmsh.core.underlay import underlay, underlays
from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import NetworkJoin
from swarmsh.model.netstate import (
    Dest,
    Egress,
    NamedTask,
    NodeNetwork,
    NodeTask,
    OwnNode,
    PeerNode,
    Port,
    Section,
    ServiceNames,
    Timeouts,
    Vip,
)
from swarmsh.model.objects import LBTimeouts, Node, PortMark, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import NodeState, TaskState

Key = tuple[str, int | str | tuple[str, str]]  # section, and the key of an entry in it
"""`("vips", 1)`, `("names", (network, service))`; `node` and `egress` have one entry each, of the key ""."""

NODE, EGRESS = ("node", ""), ("egress", "")
EGRESS_NETWORK = "swgw"  # the Docker network of that name, on every node another subnet
_SHORT_ID = 12  # of a container's id: its host name, if it was given none


# --- nodes --------------------------------------------------------------------------------------------------
def egress_gateway(snapshot: ClusterSnapshot, node: Node) -> str:
    """The node's own address in its egress network: there its DNS server listens for tasks."""
    return str(egress_pool(snapshot).network_address + (node.number << (32 - EGRESS_PREFIX)) + 1)


def joins_of(snapshot: ClusterSnapshot, task: Task, node: Node) -> Joins:
    """What the task's container joins on this node: overlays in the order of its spec, then the egress network.

    Through that one it asks for names; on internal networks alone, through the first of them.
    """
    overlays = [(snapshot.networks[a.network_id], a.address) for a in task.addresses]
    options = {network.target: network.driver_opts for network in task.spec.networks}
    networks = [
        NetworkJoin(name=network.docker_name, address=address, driver_opts=options.get(network.id, {}))
        for network, address in overlays
    ]
    if task.egress_address:
        networks.append(NetworkJoin(name=EGRESS_NETWORK, address=task.egress_address))
        return Joins(tuple(networks), egress_gateway(snapshot, node))
    gateways = (gateway_on(IPv4Network(network.gateways), node.number) for network, _ in overlays)
    return Joins(tuple(networks), next((str(gateway) for gateway in gateways if gateway is not None), ""))


# --- what one service adds ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ServicePart:
    """What one service and its tasks add to the states of nodes."""

    vips: Mapping[int, Vip] = field(default_factory=dict)  # by mark
    ports: Mapping[int, Port] = field(default_factory=dict)  # by mark
    names: Mapping[str, ServiceNames] = field(default_factory=dict)  # by network
    tasks: Mapping[tuple[str, str], NodeTask] = field(default_factory=dict)  # by node and task
    on: frozenset[tuple[str, str]] = frozenset()  # (network, node) with a task that has not ended

    def concerns(self, network_id: str) -> bool:
        return network_id in self.names or any(network == network_id for network, _ in self.on)


_NOTHING = ServicePart()


def service_part(snapshot: ClusterSnapshot, service_id: str, addressed: Container[str]) -> ServicePart:
    """The part of a service; of one that was removed only its tasks that have not ended.

    `addressed`: ids of the nodes that can have networks.
    """
    service = snapshot.services.get(service_id)
    tasks = sorted(
        (task for task in snapshot.tasks_of_service(service_id) if _has_network(snapshot, task, addressed)),
        key=lambda t: (t.slot, t.id),
    )
    if not tasks and (service is None or not _is_networked(service)):
        return _NOTHING
    held = {(t.node_id, t.id): NodeTask(id=t.id, addresses=_addresses(t)) for t in tasks}
    on = frozenset(
        (a.network_id, t.node_id) for t in tasks for a in t.addresses if a.network_id in snapshot.networks
    )
    if service is None:
        return ServicePart(tasks=held, on=on)
    weights = _weights(snapshot, tasks)
    backends = [(task, weights[task.id]) for task in tasks if task.id in weights]
    how = balancing_of(service.spec.labels)
    listening = _listening(service)
    vips = {
        vip.mark: Vip(
            id=vip.mark,
            network=vip.network_id,
            service=service.id,
            address=vip.address,
            scheduler=how.scheduler,
            persist_s=how.persist_s,
            dests=tuple(
                Dest(task=task.id, address=address, weight=weight)
                for task, weight in backends
                if (address := _address_in(task, vip.network_id))
            ),
            tcp_ports=listening,
        )
        for vip in service.endpoint.virtual_ips
        if vip.network_id in snapshot.networks
    }
    ports = {port.mark: _port(service, port, how, listening, backends) for port in service.endpoint.ports}
    taking = [task for task, weight in backends if weight]
    names = {network: _names(snapshot, service, network, taking) for network in _networks_of(snapshot, service)}
    return ServicePart(vips, ports, names, held, on)


def _has_network(snapshot: ClusterSnapshot, task: Task, addressed: Container[str]) -> bool:
    """Whether its node must have networks for it: it is there, or is to be, and has not ended."""
    if not (task.addresses or task.egress_address) or not task.placed or task.status.state.terminal:
        return False
    return task.node_id in snapshot.nodes and task.node_id in addressed


def _is_networked(service: Service) -> bool:
    return bool(service.endpoint.ports or service.endpoint.virtual_ips or service.spec.task_template.networks)


def _addresses(task: Task) -> tuple[str, ...]:
    egress = (task.egress_address,) if task.egress_address else ()
    return (*(a.address for a in task.addresses), *egress)


def _address_in(task: Task, network_id: str) -> str:
    return next((a.address for a in task.addresses if a.network_id == network_id), "")


def _weights(snapshot: ClusterSnapshot, tasks: Iterable[Task]) -> dict[str, int]:
    """Weight of each task that is a backend (design decisions 6 to 8).

    What is ready takes connections. What leaves keeps those it has, whether or not its node still calls it ready.
    On a silent node nobody takes new ones, unless all that is ready is on silent nodes: then it may well be the
    manager who does not hear them.
    """
    weights: dict[str, int] = {}
    silent: list[str] = []
    for task in tasks:
        node = snapshot.nodes[task.node_id]
        if task.status.state is not TaskState.RUNNING or node.status.state is NodeState.DOWN:
            continue
        if task.desired > TaskState.RUNNING:
            weights[task.id] = 0
        elif task.status.ready:
            weights[task.id] = 0 if node.status.silent else 1
            if node.status.silent:
                silent.append(task.id)
    if not any(weights.values()):
        weights.update(dict.fromkeys(silent, 1))
    return weights


def _listening(service: Service) -> tuple[int, ...]:
    """TCP ports on which each of its tasks listens while it lives."""
    spec = service.spec.endpoint_spec
    declared = spec.ports if spec is not None else ()
    return tuple(sorted({p.target_port for p in declared if p.protocol == "tcp"}))


def _port(
    service: Service, port: PortMark, how: Balancing, listening: tuple[int, ...], backends: list[tuple[Task, int]]
) -> Port:
    return Port(
        id=port.mark,
        service=service.id,
        protocol=port.protocol,
        port=port.published_port,
        bind=how.bind,
        scheduler=how.scheduler,
        persist_s=how.persist_s,
        dests=tuple(
            Dest(task=task.id, address=task.egress_address, port=target, weight=weight)
            for task, weight in backends
            if task.egress_address and (target := _target(task, port))
        ),
        tcp_ports=(port.target_port,) if port.protocol == "tcp" else listening,
    )


def _target(task: Task, port: PortMark) -> int:
    """Where a task takes the connections of a published port; 0 if it does not.

    While an update changes ports, the tasks before it still listen where their own spec says.
    """
    declared = [
        p
        for p in (task.endpoint.ports if task.endpoint is not None else ())
        if p.protocol == port.protocol and p.publish_mode == "ingress"
    ]
    for own in declared:
        if own.published_port == port.published_port:
            return own.target_port
    return port.target_port if any(own.target_port == port.target_port for own in declared) else 0


def _networks_of(snapshot: ClusterSnapshot, service: Service) -> list[str]:
    """Ids of the overlays that its spec names, in order."""
    named = dict.fromkeys(a.target for a in service.spec.task_template.networks)
    return [network for network in named if network in snapshot.networks]


def _names(snapshot: ClusterSnapshot, service: Service, network: str, taking: list[Task]) -> ServiceNames:
    attached = [a for a in service.spec.task_template.networks if a.target == network]
    return ServiceNames(
        network=network,
        service=service.id,
        names=(service.spec.name, *(alias for a in attached for alias in a.aliases)),
        vip=next((v.address for v in service.endpoint.virtual_ips if v.network_id == network), ""),
        tasks=tuple(
            NamedTask(id=task.id, address=address, names=_task_names(snapshot, task))
            for task in taking
            if (address := _address_in(task, network))
        ),
    )


def _task_names(snapshot: ClusterSnapshot, task: Task) -> tuple[str, ...]:
    """Its container's name, and the host name that its processes see: the short id if the spec gives none."""
    hostname = task.spec.container_spec.hostname if task.spec.container_spec is not None else ""
    if hostname:
        try:
            hostname = expand(hostname, context_of(task, snapshot.nodes[task.node_id]))
        except InvalidSpec:
            hostname = ""  # its container could not be made either
    return tuple(filter(None, (task.name, hostname or task.status.container_id[:_SHORT_ID])))


# --- all nodes ----------------------------------------------------------------------------------------------
@dataclass(slots=True)
class NetStates:
    """The network states of all nodes at one snapshot. `update` takes the next one; nothing else changes them."""

    snapshot: ClusterSnapshot = field(default_factory=ClusterSnapshot)
    _parts: dict[str, ServicePart] = field(default_factory=dict)
    _vips: dict[int, Vip] = field(default_factory=dict)
    _ports: dict[int, Port] = field(default_factory=dict)
    _names: dict[tuple[str, str], ServiceNames] = field(default_factory=dict)
    _peers: dict[int, PeerNode] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)  # node -> number, of those with an underlay address
    _addresses: dict[str, str] = field(default_factory=dict)  # node -> underlay address of its own
    _tasks: dict[str, dict[str, NodeTask]] = field(default_factory=dict)  # by node
    _on: dict[str, dict[str, int]] = field(default_factory=dict)  # network -> node -> services with tasks there
    _of: dict[str, set[str]] = field(default_factory=dict)  # node -> networks
    _in: dict[str, set[Key]] = field(default_factory=dict)  # network -> keys of its VIPs and names

    @classmethod
    def of(cls, snapshot: ClusterSnapshot) -> NetStates:
        """The states at a snapshot, made from nothing."""
        states = cls()
        everything = Changes(
            put_nodes=tuple(snapshot.nodes.values()),
            put_services=tuple(snapshot.services.values()),
            put_tasks=tuple(snapshot.tasks.values()),
        )
        states.update(snapshot, everything)
        return states

    def restart(self, snapshot: ClusterSnapshot) -> None:
        """Forget everything and make it from nothing."""
        anew = NetStates.of(snapshot)
        for part in fields(self):
            setattr(self, part.name, getattr(anew, part.name))

    # --- reading ---
    def address(self, node_id: str) -> str:
        """At which other nodes send it packets of networks; "" if there is none of its own."""
        return self._addresses.get(node_id, "")

    def keys(self, node_id: str) -> Iterator[Key]:
        """The keys of all that the node must hold."""
        if not self._active(node_id):
            return
        yield NODE
        yield EGRESS
        yield from (("peers", n) for n in self._peers if n != self._numbers[node_id])
        for network in sorted(self._of.get(node_id, ())):
            yield "networks", network
            yield from self._in.get(network, ())
        yield from (("ports", mark) for mark in self._ports)
        yield from (("tasks", task) for task in self._tasks.get(node_id, ()))

    def want(self, node_id: str, key: Key) -> Section | None:
        """The entry that the node must hold under a key; None if it must hold none."""
        if not self._active(node_id):
            return None
        match key:
            case "node", _:
                number = self._numbers[node_id]
                return OwnNode(n=number, underlay=self._peers[number].underlay)
            case "egress", _:
                return _egress(self.snapshot)
            case "peers", int(number):
                return self._peers.get(number) if number != self._numbers[node_id] else None
            case "networks", str(network):
                return self._network(node_id, network) if network in self._of.get(node_id, ()) else None
            case "vips", int(mark):
                vip = self._vips.get(mark)
                return vip if vip is not None and vip.network in self._of.get(node_id, ()) else None
            case "ports", int(mark):
                return self._ports.get(mark)
            case "tasks", str(task):
                return self._tasks.get(node_id, {}).get(task)
            case "names", (network, service):
                return self._names.get((network, service)) if network in self._of.get(node_id, ()) else None
        raise ValueError(f"{key} is no key of a network state")

    def whole(self, node_id: str) -> dict[Key, Section]:
        """All that the node must hold."""
        found = ((key, self.want(node_id, key)) for key in self.keys(node_id))
        return {key: entry for key, entry in found if entry is not None}

    def _active(self, node_id: str, ports: bool | None = None) -> bool:
        """Whether the node needs anything at all of networks, and can have it; `ports`: with or without any."""
        published = bool(self._ports) if ports is None else ports
        return node_id in self._numbers and bool(published or self._of.get(node_id) or self._tasks.get(node_id))

    def _network(self, node_id: str, network_id: str) -> NodeNetwork | None:
        network, number = self.snapshot.networks[network_id], self._numbers[node_id]
        gateway = gateway_on(IPv4Network(network.gateways), number)
        if gateway is None:
            return None  # no task of it can have been placed there
        others = (self._numbers[other] for other in self._on[network_id] if other != node_id)
        return NodeNetwork(
            id=network.id,
            name=network.docker_name,
            dns_name=network.spec.name,
            vni=network.vni,
            subnet=network.subnet,
            gateway=str(gateway),
            vips=network.vips,
            mtu=network.mtu,
            encrypted=network.encrypted,
            internal=network.spec.internal,
            labels=network.spec.labels,
            peers=tuple(sorted(others)),
        )

    def encrypted(self) -> tuple[dict[str, PeerNode], set[str], set[tuple[str, str]]]:
        """All nodes that can have networks, those with an encrypted one, and pairs (sorted) with a common one."""
        nodes = {node_id: self._peers[number] for node_id, number in self._numbers.items()}
        closed: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for network_id, members in self._on.items():
            if self.snapshot.networks[network_id].encrypted:
                closed.update(members)
                pairs.update(combinations(sorted(members), 2))
        return nodes, closed, pairs

    # --- following changes ---
    def update(self, after: ClusterSnapshot, changes: Changes) -> dict[str, set[Key]]:
        """Take over the snapshot after `changes`: keys of what may differ now, by node."""
        before, self.snapshot = self.snapshot, after
        dirty = _Dirty(self)
        if before.cluster is not after.cluster and _egress(before) != _egress(after):
            dirty.everywhere(EGRESS)
        services = self._follow_nodes(before, changes, dirty)
        services.update(s.id for s in changes.put_services)
        services.update(changes.delete_services)
        services.update(t.service_id for t in changes.put_tasks)
        services.update(before.tasks[t].service_id for t in changes.delete_tasks if t in before.tasks)
        for network_id in (*(n.id for n in changes.put_networks), *changes.delete_networks):
            dirty.members(network_id, ("networks", network_id))
            if network_id not in after.networks:  # forgotten, long after it was removed: seldom, so a walk will do
                services.update(s for s, part in self._parts.items() if part.concerns(network_id))
        self._follow_services(services, dirty)
        return dirty.found()

    def _follow_nodes(self, before: ClusterSnapshot, changes: Changes, dirty: _Dirty) -> set[str]:
        """Take over nodes; gives the services whose part may depend on what changed of them."""
        services: set[str] = set()
        # Those that go first: another one may have got the number.
        named = (*changes.delete_nodes, *(n.id for n in changes.put_nodes))
        addresses = self._addresses
        if any(_reached_at(before.nodes.get(i)) != _reached_at(self.snapshot.nodes.get(i)) for i in named):
            self._addresses = underlays(self.snapshot.nodes.values())
        # An address that two nodes have is none: so one may lose its own, or get it back, because of another.
        moved = {i for i in addresses.keys() | self._addresses.keys() if addresses.get(i, "") != self.address(i)}
        changed: dict[str, PeerNode | None] = {}
        for node_id in (*named, *sorted(moved.difference(named))):
            was, node = before.nodes.get(node_id), self.snapshot.nodes.get(node_id)
            same = was is not None and node is not None and _counts(was) == _counts(node)
            if same and node_id not in moved:
                continue
            services.update(t.service_id for t in before.tasks_of_node(node_id))
            services.update(t.service_id for t in self.snapshot.tasks_of_node(node_id))
            address = self.address(node_id)
            peer = None if node is None or not address else PeerNode(n=node.number, underlay=address)
            number = self._numbers.get(node_id)
            if (None if number is None else self._peers.get(number)) != peer:
                changed[node_id] = peer
        self._renumber(changed, dirty)
        return services

    def _renumber(self, changed: Mapping[str, PeerNode | None], dirty: _Dirty) -> None:
        """Take over what these nodes are to others. All are named before any goes: they are peers."""
        for node_id in changed:
            dirty.whole(node_id)
            for network_id in self._of.get(node_id, ()):
                dirty.members(network_id, ("networks", network_id))
        for node_id in changed:
            number = self._numbers.pop(node_id, None)
            if number is not None:
                dirty.everywhere(("peers", number))
                del self._peers[number]
        for node_id, peer in changed.items():
            if peer is not None:
                self._numbers[node_id], self._peers[peer.n] = peer.n, peer
                dirty.everywhere(("peers", peer.n))

    def _follow_services(self, service_ids: Iterable[str], dirty: _Dirty) -> None:
        """Make the parts of these services anew. What goes is first: a number may pass from one to another."""
        changed: list[tuple[ServicePart, ServicePart]] = []
        for service_id in service_ids:
            old, new = (
                self._parts.get(service_id, _NOTHING),
                service_part(self.snapshot, service_id, self._addresses),
            )
            if old == new:
                continue
            changed.append((old, new))
            if new is _NOTHING:
                del self._parts[service_id]
            else:
                self._parts[service_id] = new
            self._take_out(service_id, old, new, dirty)
        for old, new in changed:
            self._put_in(old, new, dirty)

    def _take_out(self, service_id: str, old: ServicePart, new: ServicePart, dirty: _Dirty) -> None:
        for mark, vip in old.vips.items():
            if mark not in new.vips or new.vips[mark].network != vip.network:
                del self._vips[mark]
                self._unlist(vip.network, ("vips", mark))
                dirty.members(vip.network, ("vips", mark))
        for mark in old.ports.keys() - new.ports.keys():
            dirty.everywhere(("ports", mark))
            del self._ports[mark]
        for network in old.names.keys() - new.names.keys():
            key: Key = ("names", (network, service_id))
            del self._names[network, service_id]
            self._unlist(network, key)
            dirty.members(network, key)
        for node_id, task in old.tasks.keys() - new.tasks.keys():
            dirty.one(node_id, ("tasks", task))
            del self._tasks[node_id][task]
        for network, node_id in old.on - new.on:
            self._leave(network, node_id, dirty)

    def _put_in(self, old: ServicePart, new: ServicePart, dirty: _Dirty) -> None:
        for network, node_id in new.on - old.on:
            self._join(network, node_id, dirty)
        for mark, vip in new.vips.items():
            if old.vips.get(mark) != vip:
                self._vips[mark] = vip
                self._in.setdefault(vip.network, set()).add(("vips", mark))
                dirty.members(vip.network, ("vips", mark))
        for mark, port in new.ports.items():
            if old.ports.get(mark) != port:
                dirty.everywhere(("ports", mark))
                self._ports[mark] = port
        for network, names in new.names.items():
            if old.names.get(network) != names:
                key: Key = ("names", (network, names.service))
                self._names[network, names.service] = names
                self._in.setdefault(network, set()).add(key)
                dirty.members(network, key)
        for (node_id, task_id), task in new.tasks.items():
            if old.tasks.get((node_id, task_id)) != task:
                dirty.one(node_id, ("tasks", task_id))
                self._tasks.setdefault(node_id, {})[task_id] = task

    def _unlist(self, network: str, key: Key) -> None:
        keys = self._in[network]
        keys.discard(key)
        if not keys:
            del self._in[network]

    def _join(self, network: str, node_id: str, dirty: _Dirty) -> None:
        nodes = self._on.setdefault(network, {})
        nodes[node_id] = nodes.get(node_id, 0) + 1
        if nodes[node_id] == 1:
            dirty.one(node_id, *self._in.get(network, ()))
            self._of.setdefault(node_id, set()).add(network)
            dirty.members(network, ("networks", network))

    def _leave(self, network: str, node_id: str, dirty: _Dirty) -> None:
        nodes = self._on[network]
        nodes[node_id] -= 1
        if nodes[node_id]:
            return
        dirty.members(network, ("networks", network))
        dirty.one(node_id, *self._in.get(network, ()))
        del nodes[node_id]
        self._of[node_id].discard(network)
        if not nodes:
            del self._on[network]


class _Dirty:
    """Keys to look at again, by node, collected while the states change; each is named before it changes."""

    def __init__(self, states: NetStates) -> None:
        self._states = states
        self._nodes: dict[str, set[Key]] = {}
        self._all: set[Key] = set()
        self._was_active: dict[str, bool] = {}  # of the nodes named
        self._had_ports = bool(states._ports)

    def one(self, node_id: str, *keys: Key) -> None:
        if node_id not in self._nodes:
            self._nodes[node_id] = set()
            self._was_active[node_id] = self._states._active(node_id, self._had_ports)
        self._nodes[node_id].update(keys)

    def members(self, network: str, key: Key) -> None:
        """All nodes that are on a network."""
        for node_id in self._states._on.get(network, ()):
            self.one(node_id, key)

    def everywhere(self, key: Key) -> None:
        self._all.add(key)

    def whole(self, node_id: str) -> None:
        """Everything of a node, as it is until now; what it will be is found when it begins or ends to need it."""
        self.one(node_id, *self._states.keys(node_id))

    def found(self) -> dict[str, set[Key]]:
        states = self._states
        if self._all:
            for node_id in states._numbers:
                self.one(node_id, *self._all)
        for node_id, keys in self._nodes.items():
            if states._active(node_id) != self._was_active[node_id]:
                keys.update((NODE, EGRESS, *(("peers", n) for n in states._peers), *states.keys(node_id)))
        return {node_id: keys for node_id, keys in self._nodes.items() if keys}


def _egress(snapshot: ClusterSnapshot) -> Egress:
    limits = snapshot.cluster.lb_timeouts if snapshot.cluster is not None else LBTimeouts()
    return Egress(
        pool=str(egress_pool(snapshot)),
        prefix=EGRESS_PREFIX,
        mtu=egress_mtu(snapshot),
        timeouts_s=Timeouts(tcp=limits.tcp_s, tcp_fin=limits.tcp_fin_s, udp=limits.udp_s),
    )


def _counts(node: Node) -> tuple[object, ...]:
    """What of a node any state depends on."""
    platform = node.description.platform
    return (
        *(node.number, node.status.silent, node.status.state is NodeState.DOWN),
        *(node.hostname, platform.architecture, platform.os),
    )


def _reached_at(node: Node | None) -> tuple[str, str]:
    """What of it tells which underlay address it has, and whether others have one."""
    return ("", "") if node is None else (underlay(node), node.target.underlay)
