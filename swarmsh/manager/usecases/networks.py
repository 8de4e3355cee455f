"""Networks: created, listed, removed. Those that every Engine has are listed too, for clients look for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from swarmsh.core import allocate
from swarmsh.core.accept_network import accept_network
from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.find import find_network
from swarmsh.errors import Forbidden, InvalidSpec, NameConflict
from swarmsh.manager.ports import Clock, IdSource, Store
from swarmsh.manager.usecases.happenings import network_event
from swarmsh.manager.usecases.lookup import NOT_A_MANAGER, Filters, accept_filters, labelled
from swarmsh.model.objects import Network, Node, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import NetworkSpec


async def create_network(store: Store, ids: IdSource, clock: Clock, spec: NetworkSpec) -> Network:
    """Store a new overlay with its VNI and subnet. Raises InvalidSpec, Forbidden, NameConflict, Exhausted."""
    network_id = ids.new_id()
    _refuse_without_cluster(store.snapshot)
    if spec.name in store.snapshot.network_ids:  # as dockerd does, before it looks at the rest
        raise _name_taken(spec.name)
    spec = accept_network(spec)

    def decide(snapshot: ClusterSnapshot) -> Changes:
        _refuse_without_cluster(snapshot)
        if spec.name in snapshot.network_ids:
            raise _name_taken(spec.name)
        assert snapshot.cluster is not None
        now = clock.now()
        lapsed = allocate.forget_lapsed(snapshot, now)
        network = allocate.new_network(
            snapshot.apply(lapsed, snapshot.index), snapshot.cluster, network_id, spec, now
        )
        return replace(lapsed, put_networks=(network,), events=(network_event("create", network, now),))

    return (await store.commit(decide)).networks[network_id]


def _name_taken(name: str) -> NameConflict:
    return NameConflict(f"network with name {name} already exists")


def _refuse_without_cluster(snapshot: ClusterSnapshot) -> None:
    if snapshot.cluster is None:
        raise Forbidden(NOT_A_MANAGER)  # 403 here, unlike everywhere else


# --- removal ------------------------------------------------------------------------------------------------
async def remove_network(store: Store, clock: Clock, ref: str) -> None:
    """Raises NotFound, Forbidden for one that every Engine has, InvalidSpec for one in use."""
    if ref in PREDEFINED_NETWORKS:
        raise Forbidden(f"{ref} is a pre-defined network and cannot be removed")

    def decide(snapshot: ClusterSnapshot) -> Changes:
        network = find_network(snapshot, ref)
        if user := user_of(snapshot, network):
            words = f"network {network.id} is in use by {user}"
            raise InvalidSpec(f"rpc error: code = FailedPrecondition desc = {words}")
        return removal((network,), clock.now())

    await store.commit(decide)


async def prune_networks(store: Store, clock: Clock, filters: Filters, until: float | None) -> list[str]:
    """Remove the overlays that nothing uses, and that are no younger than `until`; their names."""
    accept_filters(filters, {"label", "label!", "until"})
    pruned: list[Network] = []

    def decide(snapshot: ClusterSnapshot) -> Changes:
        used = _in_use(snapshot)
        pruned[:] = [
            network
            for network in overlays(snapshot)
            if (until is None or network.created_at <= until)
            and labelled(filters, "label", network.spec.labels)
            and not (filters.get("label!") and labelled(filters, "label!", network.spec.labels))
            and network.id not in used
        ]
        return removal(pruned, clock.now()) if pruned else Changes()

    await store.commit(decide)
    return [network.spec.name for network in pruned]


def removal(networks: Iterable[Network], now: float) -> Changes:
    """Their names are free at once. Their numbers are not: tasks that are being stopped are still on them."""
    gone = tuple(replace(network, removed_at=now) for network in networks)
    return Changes(put_networks=gone, events=tuple(network_event("remove", network, now) for network in gone))


def user_of(snapshot: ClusterSnapshot, network: Network) -> str:
    """A service or a task that is on the network, in swarmkit's words; empty if there is none."""
    for service in services_on(snapshot, network):
        return f"service {service.id}"
    # Also one that was not placed yet, and has no address: its service may be on other networks by now.
    naming = (t for t in snapshot.tasks.values() if any(n.target == network.id for n in t.spec.networks))
    return min((f"task {task.id}" for task in naming if task.live), default="")


def _in_use(snapshot: ClusterSnapshot) -> set[str]:
    """Ids of all networks that `user_of` finds a user of, in one walk."""
    specs = [service.spec.task_template for service in snapshot.services.values()]
    specs += [task.spec for task in snapshot.tasks.values() if task.live]
    return {network.target for spec in specs for network in spec.networks}


async def forget_lapsed(store: Store, clock: Clock) -> None:
    """Forget what of released addresses and removed networks no longer matters."""
    await store.commit_orchestration(lambda snapshot: allocate.forget_lapsed(snapshot, clock.now()))


# --- lists --------------------------------------------------------------------------------------------------
class Listed(msgspec.Struct, frozen=True):
    """What filters look at, of overlays and of the networks that every Engine has."""

    id: str
    name: str
    driver: str
    scope: str
    labels: Mapping[str, str]
    network: Network | None = None  # none: every Engine has it

    @property
    def builtin(self) -> bool:
        return self.network is None


def overlays(snapshot: ClusterSnapshot) -> list[Network]:
    """By name."""
    return [snapshot.networks[network_id] for _, network_id in sorted(snapshot.network_ids.items())]


def list_networks(snapshot: ClusterSnapshot, filters: Filters) -> list[Listed]:
    """By name. Raises InvalidSpec for a filter that Docker does not know."""
    accept_filters(filters, {"driver", "type", "name", "id", "label", "scope", "dangling"})
    dangling = _dangling(filters)
    used = _in_use(snapshot) if dangling is not None else set()
    for word in filters.get("type", ()):
        if word not in ("builtin", "custom"):
            raise InvalidSpec(f"invalid filter: 'type'='{word}'")
    known = [_builtin(name) for name in PREDEFINED_NETWORKS] + [_listed(network) for network in overlays(snapshot)]

    def wanted(found: Listed) -> bool:
        return (
            (dangling is None or dangling is (not found.builtin and found.id not in used))
            and _exactly(filters, "driver", found.driver)
            and _exactly(filters, "scope", found.scope)
            and _exactly(filters, "type", "builtin" if found.builtin else "custom")
            and _containing(filters, "name", found.name)
            and _containing(filters, "id", found.id)
            and labelled(filters, "label", found.labels)
        )

    return sorted(filter(wanted, known), key=lambda found: found.name)


def inspect_network(snapshot: ClusterSnapshot, ref: str, scope: str) -> Listed:
    """A network by id, name or id prefix, in `scope` ("swarm", "local") if that is not empty. Raises NotFound.

    The networks that every Engine has are also found in scope swarm, for `docker service create` asks so.
    """
    if ref in PREDEFINED_NETWORKS:
        return _builtin(ref)
    if scope == "local":
        snapshot = ClusterSnapshot()
    return _listed(find_network(snapshot, ref))


def _builtin(name: str) -> Listed:
    # Its id is its name, which `--network host` then refers to.
    return Listed(name, name, "null" if name == "none" else name, "local", {})


def _listed(network: Network) -> Listed:
    return Listed(network.id, network.spec.name, network.spec.driver, "swarm", network.spec.labels, network)


def _dangling(filters: Filters) -> bool | None:
    values = filters.get("dangling", ())
    if len(values) > 1:
        raise InvalidSpec('got more than one value for filter key "dangling"')
    words = {"1": True, "true": True, "0": False, "false": False}
    if values and values[0] not in words:
        raise InvalidSpec('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')
    return words[values[0]] if values else None


def _exactly(filters: Filters, name: str, value: str) -> bool:
    return not filters.get(name) or value in filters[name]


def _containing(filters: Filters, name: str, value: str) -> bool:
    """dockerd matches ids and names of networks anywhere, as patterns; of those, `^` and `$` are read here."""

    def fits(wanted: str) -> bool:
        text = wanted.removeprefix("^").removesuffix("$")
        begins, ends = wanted.startswith("^"), wanted.endswith("$")
        if begins and ends:
            return value == text
        return value.startswith(text) if begins else value.endswith(text) if ends else text in value

    return not filters.get(name) or any(map(fits, filters[name]))


# --- what is on a network -----------------------------------------------------------------------------------
def services_on(snapshot: ClusterSnapshot, network: Network) -> list[Service]:
    """By name."""
    on = (
        service
        for service in snapshot.services.values()
        if any(attachment.target == network.id for attachment in service.spec.task_template.networks)
    )
    return sorted(on, key=lambda service: service.spec.name)


def tasks_on(snapshot: ClusterSnapshot, network: Network) -> list[Task]:
    """Tasks with an address there that have not ended, by service and slot."""
    pool = snapshot.pools.get(network.id)
    holders = () if pool is None else {h.holder for h in pool.holdings.values() if h.released_at is None}
    tasks = (snapshot.tasks[holder] for holder in holders if holder in snapshot.tasks)
    return sorted(tasks, key=lambda task: (task.service_name, task.slot, task.id))


def nodes_on(snapshot: ClusterSnapshot, tasks: Sequence[Task]) -> list[Node]:
    """Those that these tasks are on, by number."""
    ids = {task.node_id for task in tasks}
    return sorted((snapshot.nodes[i] for i in ids if i in snapshot.nodes), key=lambda node: node.number)
