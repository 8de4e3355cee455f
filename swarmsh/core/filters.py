"""Whether a task can go on a node: the filters, in their order, each with the words for its refusal.

Order and phrases are swarmkit's (`manager/scheduler/filter.go`, `pipeline.go`), because people and tools know
them; the last ones, for fields newer than a node's Engine and for addresses of networks, are ours. What a filter
says of one node, with numbers and the way out, is in `filter_words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network

from swarmsh.core import filter_words as words
from swarmsh.core.accept_network import MTU
from swarmsh.core.constraints import normal_architecture, parse_constraints, satisfied
from swarmsh.core.engine_api import newest_field, parse_version
from swarmsh.core.filter_words import Words
from swarmsh.core.paths import size_on_the_wire
from swarmsh.core.reach import overlap
from swarmsh.core.resources import Available, reservations_of
from swarmsh.core.subnets import gateway_on
from swarmsh.core.underlay import underlay, underlay_mtu
from swarmsh.core.volumes import Home, local_mounts
from swarmsh.model.objects import Network, Node, Task
from swarmsh.model.specs import EndpointSpec, GenericResource, Placement, Reservations, TaskSpec
from swarmsh.model.states import Availability, NodeState, TaskState

HostPort = tuple[str, int]  # protocol, published port


@dataclass(slots=True)
class NodeLoad:
    """A node with what its tasks take; a scratch pad that one scheduling pass fills further."""

    node: Node
    available: Available
    used_ports: Counter[HostPort] = field(default_factory=Counter)
    tasks: int = 0
    tasks_of: Counter[str] = field(default_factory=Counter)  # service id -> tasks
    held_by: list[Task] = field(default_factory=list)  # the tasks that were here from the start
    stay_of: Counter[str] = field(default_factory=Counter)  # as before, without those that leave for others
    shared: bool = False  # its underlay address is another node's as well, and therefore none
    egress_left: int | None = None  # tasks that can still get an egress address; None: not counted

    @classmethod
    def of(
        cls,
        node: Node,
        tasks: Iterable[Task],
        *,
        shared: bool = False,
        egress_left: int | None = None,
        leaving: Container[str] = (),
    ) -> NodeLoad:
        """`tasks` are all that have not ended, those being stopped too: they hold their ports and memory.

        `leaving`: ids of those that will be stopped when others are ready.
        """
        load = cls(node, Available.of(node.description), shared=shared, egress_left=egress_left)
        for task in tasks:
            load.held_by.append(task)
            load.available.take_task(task)
            active = task.desired <= TaskState.COMPLETE
            load._count(task.service_id, task.endpoint, active=active, stays=task.id not in leaving)
        return load

    def add(self, demand: Demand) -> tuple[GenericResource, ...]:
        """Put one task of `demand` here; returns the generic resources it is dealt. Only if `demand` fits."""
        self._count(demand.service_id, demand.endpoint, active=True, stays=True)
        if demand.egress is not None and self.egress_left is not None:
            self.egress_left -= 1
        return self.available.take(demand.reservations)

    def forget(self, service_id: str) -> None:
        """Count one task of the service less; what it holds is held on, for it leaves when another is ready."""
        self.tasks -= 1
        self.tasks_of[service_id] -= 1
        self.stay_of[service_id] -= 1

    def _count(self, service_id: str, endpoint: EndpointSpec | None, *, active: bool, stays: bool) -> None:
        self.used_ports.update(host_ports(endpoint))
        if active:
            self.tasks += 1
            self.tasks_of[service_id] += 1
            self.stay_of[service_id] += stays


@dataclass(frozen=True)  # without slots: cached properties need a __dict__
class Demand:
    """What tasks of one service and version ask of a node, worked out once for all of them."""

    service_id: str
    spec: TaskSpec
    endpoint: EndpointSpec | None
    overlays: tuple[Network, ...] = ()  # those that the task joins on its node
    egress: IPv4Network | None = None  # the pool of which it needs a node's part
    service_name: str = ""  # for words only
    home: Home | None = None  # where its data is, and nowhere else may it go

    @cached_property
    def placement(self) -> Placement:
        return self.spec.placement or Placement()

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """The filters that have anything to check, in their order."""
        return tuple(f for f in FILTERS if f.applies(self))

    reservations = cached_property(lambda self: reservations_of(self.spec))
    constraints = cached_property(lambda self: parse_constraints(self.placement.constraints))
    ports = cached_property(lambda self: host_ports(self.endpoint))
    local_mounts = cached_property(lambda self: local_mounts(self.spec))
    newest = cached_property(lambda self: newest_field(self.spec))

    @cached_property
    def blocks(self) -> tuple[tuple[str, IPv4Network], ...]:
        """Addresses that lead to containers on a node as soon as the task is there, each with whose they are."""
        found = [(f"network {network.spec.name}", IPv4Network(network.subnet)) for network in self.overlays]
        return (*found, *([] if self.egress is None else [("the way outside", self.egress)]))

    @cached_property
    def volume_drivers(self) -> tuple[str, ...]:
        mounts = self.spec.container_spec.mounts if self.spec.container_spec else ()
        drivers = (m.volume_options.driver_config for m in mounts if m.type == "volume" and m.volume_options)
        return tuple(d.name for d in drivers if d is not None and d.name not in ("", "local"))

    @cached_property
    def log_driver(self) -> str:
        name = self.spec.log_driver.name if self.spec.log_driver else ""
        return "" if name == "none" else name


@dataclass(frozen=True, slots=True)
class Filter:
    """`fits` is asked only if the filter `applies`; `explain` words refusals by so many nodes, `detail` by one."""

    name: str
    applies: Callable[[Demand], object]
    fits: Callable[[Demand, NodeLoad], bool]
    explain: Callable[[Demand, int], str]
    detail: Callable[[Demand, NodeLoad], Words]
    # What a node is, rather than what happens on it: tells whether a global service belongs there at all.
    lasting: bool = False


def refused_by(demand: Demand, load: NodeLoad) -> Filter | None:
    """The first filter that refuses the node; None if the task fits."""
    return next((f for f in demand.filters if not f.fits(demand, load)), None)


def refusals(demand: Demand, load: NodeLoad) -> tuple[tuple[Filter, Words], ...]:
    """All filters that refuse the node, in their order, each with its numbers; empty if the task fits."""
    return tuple((f, f.detail(demand, load)) for f in demand.filters if not f.fits(demand, load))


def explain(demand: Demand, loads: Iterable[NodeLoad]) -> str:
    """Why these nodes do not fit: a phrase for each filter, that with most nodes first."""
    refusing = (refused_by(demand, load) for load in loads)
    counts = Counter(FILTERS.index(f) for f in refusing if f is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(FILTERS[i].explain(demand, count) for i, count in ordered)


def host_ports(endpoint: EndpointSpec | None) -> tuple[HostPort, ...]:
    """The ports of a node that a task occupies by name; those the Engine chooses are left out."""
    ports = endpoint.ports if endpoint is not None else ()
    return tuple(
        (port.protocol or "tcp", port.published_port)
        for port in ports
        if port.publish_mode == "host" and port.published_port
    )


def takes_new(node: Node) -> bool:
    """Whether a node is there, and may be given new tasks."""
    return node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE


def _is_ready(demand: Demand, load: NodeLoad) -> bool:
    status = load.node.status
    return takes_new(load.node) and not status.silent and not status.engine_hung


def _has_data(demand: Demand, load: NodeLoad) -> bool:
    return demand.home is None or any(node.id == load.node.id for node in demand.home.nodes)


def _explain_data(demand: Demand, nodes: int) -> str:
    if demand.home is None:
        raise AssertionError("refused for data that is nowhere")
    return f"{_nodes(nodes)} without the data of volume {words.data_place(demand.home)}"


def _has_resources(demand: Demand, load: NodeLoad) -> bool:
    return load.available.fits(demand.reservations)


def _has_plugins(demand: Demand, load: NodeLoad) -> bool:
    return not missing_plugins(demand, load)


def missing_plugins(demand: Demand, load: NodeLoad) -> list[tuple[str, str]]:
    """(type, name) of plugins that the node lacks."""
    plugins = plugins_by_type(load.node.description.plugins)
    wanted = [("Volume", name) for name in demand.volume_drivers]
    wanted += [("Log", demand.log_driver)] if demand.log_driver else []
    # A node that reports no plugin of a type does not tell, which is no reason to refuse it.
    return [
        (kind, name)
        for kind, name in wanted
        if kind in plugins and name not in plugins[kind] and f"{name}:latest" not in plugins[kind]
    ]


def plugins_by_type(plugins: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    """Names of plugins by their type."""
    found: dict[str, set[str]] = {}
    for kind, name in plugins:
        found.setdefault(kind, set()).add(name)
    return found


def _meets_constraints(demand: Demand, load: NodeLoad) -> bool:
    return satisfied(demand.constraints, load.node)


def _has_platform(demand: Demand, load: NodeLoad) -> bool:
    """A platform that names only one half leaves the other open."""
    here = load.node.description.platform
    arch = normal_architecture(here.architecture)
    return any(
        (not p.architecture or normal_architecture(p.architecture) == arch) and (not p.os or p.os == here.os)
        for p in demand.placement.platforms
    )


def _has_ports(demand: Demand, load: NodeLoad) -> bool:
    return not any(load.used_ports[port] for port in demand.ports)


def _below_max_replicas(demand: Demand, load: NodeLoad) -> bool:
    return load.tasks_of[demand.service_id] < demand.placement.max_replicas


def _has_engine(demand: Demand, load: NodeLoad) -> bool:
    version = parse_version(load.node.description.engine_api)
    return version is None or demand.newest is None or version >= demand.newest.since


def _explain_engine(demand: Demand, nodes: int) -> str:
    if demand.newest is None:
        raise AssertionError("refused for an Engine although no field asks for one")
    version = ".".join(map(str, demand.newest.since))
    return f"{demand.newest.name} needs Engine API {version}, newer than on {_nodes(nodes)}"


def _has_underlay(demand: Demand, load: NodeLoad) -> bool:
    return bool(underlay(load.node))


def _has_own_underlay(demand: Demand, load: NodeLoad) -> bool:
    return not load.shared


def _explain_shared(demand: Demand, nodes: int) -> str:
    return f"{_nodes(nodes)} with the address of another node: set swarmsh_underlay in the inventory"


def _has_gateways(demand: Demand, load: NodeLoad) -> bool:
    number = load.node.number
    return all(gateway_on(IPv4Network(network.gateways), number) is not None for network in demand.overlays)


def _explain_gateways(demand: Demand, nodes: int) -> str:
    smallest = min(demand.overlays, key=lambda network: IPv4Network(network.gateways).num_addresses)
    last = IPv4Network(smallest.gateways).num_addresses - 1
    return (
        f"network {smallest.spec.name} ({smallest.subnet}) reaches the nodes of the numbers 1 to {last}, not "
        f"{_nodes(nodes)}"
    )


def _has_egress(demand: Demand, load: NodeLoad) -> bool:
    return load.egress_left is None or load.egress_left > 0


def _carries(demand: Demand, load: NodeLoad) -> bool:
    """Whether the node's link takes the networks' largest packets. An MTU that was asked for is not doubted."""
    size = underlay_mtu(load.node)
    return not size or all(_on_the_wire(n) <= size for n in demand.overlays if MTU not in n.spec.options)


def _on_the_wire(network: Network) -> int:
    return size_on_the_wire(network.mtu, encrypted=network.encrypted)


def _explain_carries(demand: Demand, nodes: int) -> str:
    largest = max((n for n in demand.overlays if MTU not in n.spec.options), key=_on_the_wire)
    size, name = _on_the_wire(largest), largest.spec.name
    return f"{_nodes(nodes)} whose link does not take the {size} bytes of network {name} (MTU {largest.mtu})"


def _overlaps_nothing(demand: Demand, load: NodeLoad) -> bool:
    return all(overlap(load.node, block) is None for _, block in demand.blocks)


def _explain_overlap(demand: Demand, nodes: int) -> str:
    whose = " or ".join(f"{name} ({block})" for name, block in demand.blocks)
    return f"{_nodes(nodes)} with other routes into {whose}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


FILTERS: tuple[Filter, ...] = (
    Filter(
        "ready",
        lambda d: True,
        _is_ready,
        lambda d, n: f"{_nodes(n)} not available for new tasks",
        words.not_ready,
    ),
    Filter("volumes", lambda d: d.home, _has_data, _explain_data, words.without_data),
    Filter(
        "resources",
        lambda d: d.reservations != Reservations(),
        _has_resources,
        lambda d, n: f"insufficient resources on {_nodes(n)}",
        words.short_of_resources,
    ),
    Filter(
        "plugins",
        lambda d: d.volume_drivers or d.log_driver,
        _has_plugins,
        lambda d, n: f"missing plugin on {_nodes(n)}",
        lambda d, load: words.without_plugins(d, load, missing_plugins(d, load)),
        lasting=True,
    ),
    Filter(
        "constraints",
        lambda d: d.constraints,
        _meets_constraints,
        lambda d, n: f"scheduling constraints not satisfied on {_nodes(n)}",
        words.off_constraints,
        lasting=True,
    ),
    Filter(
        "platform",
        lambda d: d.placement.platforms,
        _has_platform,
        lambda d, n: f"unsupported platform on {_nodes(n)}",
        words.other_platform,
        lasting=True,
    ),
    Filter(
        "host-port",
        lambda d: d.ports,
        _has_ports,
        lambda d, n: f"host-mode port already in use on {_nodes(n)}",
        lambda d, load: words.port_taken(d, load, {t.id: host_ports(t.endpoint) for t in load.held_by}),
    ),
    Filter(
        "max-replicas",
        lambda d: d.placement.max_replicas > 0,
        _below_max_replicas,
        lambda d, n: "max replicas per node limit exceed",
        words.at_max_replicas,
    ),
    Filter(
        "engine",
        lambda d: d.newest is not None,
        _has_engine,
        _explain_engine,
        words.old_engine,
        lasting=True,
    ),
    Filter(
        "underlay",
        lambda d: d.blocks,
        _has_underlay,
        lambda d, n: f"{_nodes(n)} without an IPv4 address for networks",
        words.no_underlay,
    ),
    Filter("shared-underlay", lambda d: d.blocks, _has_own_underlay, _explain_shared, words.shared_underlay),
    Filter("network-size", lambda d: d.overlays, _has_gateways, _explain_gateways, words.number_too_high),
    Filter("routes", lambda d: d.blocks, _overlaps_nothing, _explain_overlap, words.other_routes),
    Filter("mtu", lambda d: d.overlays, _carries, _explain_carries, words.link_too_small),
    Filter(
        "egress",
        lambda d: d.egress is not None,
        _has_egress,
        lambda d, n: f"{_nodes(n)} without a free address for the way outside",
        words.no_egress,
    ),
)
