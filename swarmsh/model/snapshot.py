"""Everything a decision may look at, and what a decision may change: immutable, sharing its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec
from immutables import Map

from swarmsh.model.objects import Cluster, Config, Event, Network, Node, Release, Secret, Service, Task
from swarmsh.model.pools import Pools, follow, follow_releases
from swarmsh.model.revisions import Author


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a secret or config that is put in the same write; `key` is of `secret_key` or `config_key`."""

    key: str
    data: bytes

    def __repr__(self) -> str:
        return f"Contents(key={self.key!r}, data=…)"


def secret_key(secret_id: str) -> str:
    """What the data of a secret is sealed under."""
    return f"secret/{secret_id}"


def config_key(config_id: str) -> str:
    return f"config/{config_id}"


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What one decision wants written: whole objects to put, ids to delete. Applied in one transaction.

    Objects in `put_*` carry any `version`; the store stamps the new index on all but `observed` writes.
    """

    cluster: Cluster | None = None
    put_services: tuple[Service, ...] = ()
    put_tasks: tuple[Task, ...] = ()
    put_nodes: tuple[Node, ...] = ()
    put_networks: tuple[Network, ...] = ()
    put_secrets: tuple[Secret, ...] = ()
    put_configs: tuple[Config, ...] = ()
    # For the store alone, which seals them: those who are told of a write do not see them.
    put_contents: tuple[Contents, ...] = ()
    delete_services: tuple[str, ...] = ()
    delete_tasks: tuple[str, ...] = ()
    delete_nodes: tuple[str, ...] = ()
    delete_networks: tuple[str, ...] = ()
    delete_secrets: tuple[str, ...] = ()  # and their contents
    delete_configs: tuple[str, ...] = ()
    # Made by the store itself for whatever this write takes an address or a mark from (`core.allocate.releases`).
    put_releases: tuple[Release, ...] = ()
    delete_releases: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    author: Author | None = None  # of new specs among `put_services`; None: the manager itself

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = Changes()
_EMPTY: Map[str, None] = Map()
T = TypeVar("T", Service, Task, Node, Network, Release, Secret, Config)
K = TypeVar("K", Secret, Config)


class ClusterSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The desired and observed state at one version index. Lookups are O(log n), `apply` O(changed)."""

    index: int = 0
    cluster: Cluster | None = None
    services: Map[str, Service] = Map()
    service_ids: Map[str, str] = Map()  # name -> id
    tasks: Map[str, Task] = Map()
    nodes: Map[str, Node] = Map()
    networks: Map[str, Network] = Map()  # removed ones too, as long as their numbers may not be used again
    network_ids: Map[str, str] = Map()  # name -> id of those that are not removed
    secrets: Map[str, Secret] = Map()  # all versions
    secret_ids: Map[str, str] = Map()  # name -> id of the current one
    configs: Map[str, Config] = Map()
    config_ids: Map[str, str] = Map()
    releases: Map[str, Release] = Map()
    pools: Pools = Map()  # who holds which address and mark
    pending_ids: Map[str, None] = Map()  # live tasks that no node was found for yet
    task_ids_by_service: Map[str, Map[str, None]] = Map()
    task_ids_by_node: Map[str, Map[str, None]] = Map()  # unplaced tasks under ""

    def tasks_of_service(self, service_id: str) -> Iterator[Task]:
        """Tasks of a service in no particular order, ended ones included."""
        return (self.tasks[t] for t in self.task_ids_by_service.get(service_id, _EMPTY))

    def tasks_of_node(self, node_id: str) -> Iterator[Task]:
        """Tasks assigned to a node in no particular order, ended ones included; unplaced ones for ""."""
        return (self.tasks[t] for t in self.task_ids_by_node.get(node_id, _EMPTY))

    def pending_tasks(self) -> Iterator[Task]:
        """Live tasks that no node was found for yet, in no particular order."""
        return (self.tasks[t] for t in self.pending_ids)

    def apply(self, changes: Changes, index: int) -> ClusterSnapshot:
        """The snapshot after `changes`, at `index`. Objects are taken as they are."""
        services, names = _put(self.services, changes.put_services), self.service_ids
        pools = self.pools
        for service in changes.put_services:
            before = self.services.get(service.id)
            pools = follow(pools, before, service)
            if before is not None and before.spec.name != service.spec.name:
                names = names.delete(before.spec.name)
            names = names.set(service.spec.name, service.id)
        for service_id in changes.delete_services:
            if service_id in services:
                pools = follow(pools, services[service_id], None)
                names = names.delete(services[service_id].spec.name)
                services = services.delete(service_id)
        by_service, by_node = self.task_ids_by_service, self.task_ids_by_node
        pending = self.pending_ids
        for task in changes.put_tasks:
            old = self.tasks.get(task.id)
            pools = follow(pools, old, task)
            if old is None:
                by_service = _link(by_service, task.service_id, task.id)
            if old is not None and old.node_id != task.node_id:
                by_node = _unlink(by_node, old.node_id, task.id)
            if old is None or old.node_id != task.node_id:
                by_node = _link(by_node, task.node_id, task.id)
            if task.live and not task.placed:
                pending = pending.set(task.id, None)
            elif task.id in pending:
                pending = pending.delete(task.id)
        tasks = _put(self.tasks, changes.put_tasks)
        for task_id in changes.delete_tasks:
            gone = tasks.get(task_id)
            if gone is not None:
                pools = follow(pools, gone, None)
                by_service = _unlink(by_service, gone.service_id, task_id)
                by_node = _unlink(by_node, gone.node_id, task_id)
                tasks = tasks.delete(task_id)
                pending = pending.delete(task_id) if task_id in pending else pending
        lapsed = [self.releases[i] for i in changes.delete_releases if i in self.releases]
        return ClusterSnapshot(
            index=index,
            cluster=changes.cluster or self.cluster,
            services=services,
            service_ids=names,
            tasks=tasks,
            nodes=_drop(_put(self.nodes, changes.put_nodes), changes.delete_nodes),
            networks=_drop(_put(self.networks, changes.put_networks), changes.delete_networks),
            network_ids=self._network_ids_after(changes),
            secrets=_drop(_put(self.secrets, changes.put_secrets), changes.delete_secrets),
            secret_ids=_current_ids(self.secret_ids, self.secrets, changes.put_secrets, changes.delete_secrets),
            configs=_drop(_put(self.configs, changes.put_configs), changes.delete_configs),
            config_ids=_current_ids(self.config_ids, self.configs, changes.put_configs, changes.delete_configs),
            releases=_put(_drop(self.releases, changes.delete_releases), changes.put_releases),
            pools=follow_releases(pools, changes.put_releases, lapsed),
            pending_ids=pending,
            task_ids_by_service=by_service,
            task_ids_by_node=by_node,
        )

    def _network_ids_after(self, changes: Changes) -> Map[str, str]:
        names = self.network_ids
        for network in changes.put_networks:
            if network.removed_at is None:
                names = names.set(network.spec.name, network.id)
            elif names.get(network.spec.name) == network.id:
                names = names.delete(network.spec.name)
        for network_id in changes.delete_networks:
            gone = self.networks.get(network_id)
            if gone is not None and names.get(gone.spec.name) == network_id:
                names = names.delete(gone.spec.name)
        return names


def _current_ids(names: Map[str, str], known: Map[str, K], put: Iterable[K], gone: Iterable[str]) -> Map[str, str]:
    """Names and what they mean. Where one version takes another one's place, both may be among `put`."""
    for one in put:
        if one.current:
            names = names.set(one.spec.name, one.id)
        elif names.get(one.spec.name) == one.id:
            names = names.delete(one.spec.name)
    for i in gone:
        was = known.get(i)
        if was is not None and names.get(was.spec.name) == i:
            names = names.delete(was.spec.name)
    return names


def _put(into: Map[str, T], objects: Iterable[T]) -> Map[str, T]:
    draft = into.mutate()
    for o in objects:
        draft[o.id] = o
    return draft.finish()


def _drop(out_of: Map[str, T], ids: Iterable[str]) -> Map[str, T]:
    for i in ids:
        if i in out_of:
            out_of = out_of.delete(i)
    return out_of


def _link(index: Map[str, Map[str, None]], key: str, task_id: str) -> Map[str, Map[str, None]]:
    return index.set(key, index.get(key, _EMPTY).set(task_id, None))


def _unlink(index: Map[str, Map[str, None]], key: str, task_id: str) -> Map[str, Map[str, None]]:
    found = index.get(key)
    if found is None or task_id not in found:
        return index
    rest = found.delete(task_id)
    return index.set(key, rest) if rest else index.delete(key)
