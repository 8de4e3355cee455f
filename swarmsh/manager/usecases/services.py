"""Services: created, updated, rolled back, removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from swarmsh.core.accept import accept_service, accept_update, template_changed
from swarmsh.core.accept_attachments import resolve_networks
from swarmsh.core.allocate import Allocator
from swarmsh.core.attach import attached
from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.depends import refuse_cycle
from swarmsh.core.jobs import created_job, updated_job
from swarmsh.core.listeners import new_ports
from swarmsh.core.orchestrate import plan_removed_service
from swarmsh.core.reach import settled_egress
from swarmsh.core.secrets import check_there
from swarmsh.errors import InvalidSpec, NameConflict, OutOfSequence
from swarmsh.manager.ports import Clock, Decide, IdSource, Store
from swarmsh.manager.usecases import credentials, listeners
from swarmsh.manager.usecases.happenings import service_event
from swarmsh.manager.usecases.listeners import Askable
from swarmsh.manager.usecases.lookup import find_service, require_cluster
from swarmsh.manager.usecases.names import random_name
from swarmsh.model.objects import Cluster, Service, UpdateStatus
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.states import TaskState

# A slip of the finger must not keep the manager busy for hours; Swarm itself ends far below.
MOST_REPLICAS = 100_000


async def create_service(
    store: Store,
    ids: IdSource,
    clock: Clock,
    spec: ServiceSpec,
    *,
    nodes: Askable | None = None,
    auth: str = "",
    author: Author | None = None,
) -> Service:
    """Store a new service with VIPs and published ports; one without a name gets one.

    `nodes` are asked first whether anything listens on its ports. Raises InvalidSpec, NameConflict, Unavailable,
    NotFound for a network, Exhausted.
    """
    service_id = ids.new_id()
    decide = await creation(store.snapshot, clock, service_id, spec, nodes=nodes, author=author)
    async with credentials.storing(store, service_id, auth):
        after = await store.commit(decide)
    return after.services[service_id]


async def creation(
    before: ClusterSnapshot,
    clock: Clock,
    service_id: str,
    spec: ServiceSpec,
    *,
    nodes: Askable | None = None,
    author: Author | None = None,
) -> Decide:
    """The decision that makes a service, once nodes were asked; tried on `before`. Raises as create_service."""
    require_cluster(before)
    spec = accept_service(spec if spec.name else replace(spec, name=_free_name(before, service_id)))
    occupied: dict[str, int] = {}  # by programs of nodes, once they were asked

    def decide(snapshot: ClusterSnapshot) -> Changes:
        return created(snapshot, service_id, spec, clock.now(), occupied=occupied, author=author)

    (trial,) = decide(before).put_services  # refused before a secret is stored for nothing
    if nodes is not None:
        occupied.update(await listeners.look(before, nodes, service_id, new_ports(None, trial)))
    return decide


def created(
    snapshot: ClusterSnapshot,
    service_id: str,
    spec: ServiceSpec,
    now: float,
    *,
    occupied: Mapping[str, int] | None = None,
    author: Author | None = None,
) -> Changes:
    """A service of an accepted spec. `occupied`: bits of ports that are no choice. Raises as create_service."""
    require_cluster(snapshot)
    _check_size(spec)
    _refuse_taken_name(snapshot, spec.name)
    refuse_cycle(snapshot, spec)
    resolved = resolve_networks(snapshot, spec)
    check_there(snapshot, resolved)
    service = Service(id=service_id, version=0, created_at=now, updated_at=now, spec=resolved)
    settled, cluster = _with_egress(snapshot, resolved)
    service = created_job(attached(service, Allocator(settled, now, occupied=occupied or {})), now)
    events = (service_event("create", service, now),)
    return Changes(cluster=cluster, put_services=(service,), events=events, author=_as(author, "create"))


def _as(author: Author | None, action: str) -> Author:
    author = author or Author()
    return author if author.action else replace(author, action=action)


def _free_name(snapshot: ClusterSnapshot, seed: str) -> str:
    return next(n for n in random_name(seed) if n not in snapshot.service_ids)


def _refuse_taken_name(snapshot: ClusterSnapshot, name: str) -> None:
    if name in snapshot.service_ids:
        raise NameConflict(
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
            f"service {name} already exists"
        )


async def update_service(
    store: Store,
    clock: Clock,
    ref: str,
    version: int,
    spec: ServiceSpec,
    *,
    nodes: Askable | None = None,
    auth: str = "",
    auth_from: str = "spec",
    rollback: str = "",
    author: Author | None = None,
) -> Service:
    """Replace a service's spec, or with `rollback="previous"` exchange it for the previous one.

    `version` is the index that the client read; `nodes` are asked first whether anything listens on ports that the
    service does not have yet. Raises OutOfSequence, InvalidSpec, Unimplemented, NotFound, Exhausted.
    """
    before = store.snapshot
    decide = await change(before, clock, ref, version, spec, nodes=nodes, rollback=rollback, author=author)
    service = find_service(before, ref)
    if not auth and auth_from == "previous-spec" and service.previous_spec is None:
        raise InvalidSpec(f"service {ref} does not have a previous spec")
    back = rollback == "previous"
    async with credentials.changing(store, service.id, given=auth, source=auth_from, rollback=back):
        after = await store.commit(decide)
    return after.services[service.id]


async def change(
    before: ClusterSnapshot,
    clock: Clock,
    ref: str,
    version: int,
    spec: ServiceSpec,
    *,
    nodes: Askable | None = None,
    rollback: str = "",
    author: Author | None = None,
) -> Decide:
    """The decision that changes a service, once nodes were asked; tried on `before`. Raises as update_service."""
    if rollback not in ("", "none", "previous"):
        raise InvalidSpec(f"unrecognized rollback option {rollback}")
    back = rollback == "previous"
    require_cluster(before)
    service_id = find_service(before, ref).id
    occupied: dict[str, int] = {}  # by programs of nodes, once they were asked

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        stored = find_service(snapshot, service_id)
        _check_version(stored.version, version)
        return changed(snapshot, stored, None if back else spec, clock.now(), occupied=occupied, author=author)

    (trial,) = decide(before).put_services  # refused before its credentials are written
    if nodes is not None:
        added = new_ports(before.services[service_id], trial)
        occupied.update(await listeners.look(before, nodes, service_id, added))
    return decide


def changed(
    snapshot: ClusterSnapshot,
    stored: Service,
    spec: ServiceSpec | None,
    now: float,
    *,
    occupied: Mapping[str, int] | None = None,
    author: Author | None = None,
) -> Changes:
    """A service with another spec, or the previous one for None. Raises as update_service."""
    if spec is None:
        updated = _rolled_back(stored, now)
    else:
        updated = respecified(stored, resolve_networks(snapshot, accept_update(stored, spec)))
    check_there(snapshot, updated.spec)
    _check_size(updated.spec)
    refuse_cycle(snapshot, updated.spec)
    settled, cluster = _with_egress(snapshot, updated.spec)
    updated = updated_job(stored, attached(updated, Allocator(settled, now, occupied=occupied or {})), now)
    return Changes(
        cluster=cluster,
        put_services=(updated,),
        events=(service_event("update", updated, now, stored),),
        author=_as(author, "rollback" if spec is None else "update"),
    )


def _with_egress(snapshot: ClusterSnapshot, spec: ServiceSpec) -> tuple[ClusterSnapshot, Cluster | None]:
    """The first service that needs networks settles where nodes have theirs to the outside. Raises Exhausted."""
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()
    joins = any(network.target not in PREDEFINED_NETWORKS for network in spec.task_template.networks)
    if not joins and not any(port.publish_mode == "ingress" for port in ports):
        return snapshot, None
    cluster = settled_egress(snapshot)
    return snapshot.apply(Changes(cluster=cluster), snapshot.index), cluster


def _check_size(spec: ServiceSpec) -> None:
    replicated, job = spec.mode.replicated, spec.mode.replicated_job
    for asked, what in (
        (replicated.replicas if replicated is not None else 0, "replicas"),
        (job.total_completions if job is not None else 0, "completions"),
    ):
        if (asked or 0) > MOST_REPLICAS:
            raise InvalidSpec(f"{asked} {what} are more than the {MOST_REPLICAS} that a service may have")


def _check_version(stored: int, sent: int) -> None:
    if stored != sent:
        raise OutOfSequence("rpc error: code = Unknown desc = update out of sequence")


def respecified(stored: Service, spec: ServiceSpec) -> Service:
    """The service with another accepted spec; a new generation if tasks must be replaced for it."""
    step = 1 if template_changed(stored.spec, spec) else 0
    return replace(
        stored,
        spec=spec,
        previous_spec=stored.spec,
        spec_version=stored.spec_version + step,
        update_status=None,
    )


def _rolled_back(stored: Service, now: float) -> Service:
    if stored.previous_spec is None:
        raise InvalidSpec(f"service {stored.spec.name} does not have a previous spec")
    status = UpdateStatus(state="rollback_started", started_at=now, message="manually requested rollback")
    return replace(respecified(stored, stored.previous_spec), update_status=status)


async def remove_service(store: Store, clock: Clock, ref: str) -> None:
    """Delete a service at once; its tasks are told to stop in the same write, and go when they have."""

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        return removal(snapshot, (find_service(snapshot, ref),), clock.now())

    service_id = find_service(store.snapshot, ref).id if store.snapshot.cluster else ""
    await store.commit(decide)
    await credentials.forget(store, service_id)


def removal(snapshot: ClusterSnapshot, services: Iterable[Service], now: float) -> Changes:
    plans = [(s, plan_removed_service(snapshot.tasks_of_service(s.id), snapshot.nodes)) for s in services]
    return Changes(
        delete_services=tuple(s.id for s, _ in plans),
        put_tasks=tuple(t for _, plan in plans for t in plan.put_tasks),
        delete_tasks=tuple(t for _, plan in plans for t in plan.delete_tasks),
        events=tuple(service_event("remove", s, now) for s, _ in plans),
    )


def removal_of_all(snapshot: ClusterSnapshot, now: float) -> Changes:
    return removal(snapshot, snapshot.services.values(), now)


# --- what clients are told ------------------------------------------------------------------------------------
class ServiceStatus(msgspec.Struct, frozen=True):
    running: int
    desired: int
    completed: int


def service_status(snapshot: ClusterSnapshot, service: Service) -> ServiceStatus:
    """Counts of `docker service ls` (swarmkit's ListServiceStatuses); of a job those of its newest iteration."""
    tasks = list(snapshot.tasks_of_service(service.id))
    mode, job = service.spec.mode, service.job_status
    if job is not None:
        tasks = [t for t in tasks if t.job_iteration == job.iteration]
    states = Counter(t.status.state for t in tasks)
    completed = states[TaskState.COMPLETE] if job is not None else 0
    if mode.replicated is not None:
        desired = 1 if mode.replicated.replicas is None else mode.replicated.replicas
    elif mode.replicated_job is not None:
        desired = mode.replicated_job.max_concurrent or 0
    else:
        # Of a job, those that are not complete yet.
        left = [t for t in tasks if job is None or t.status.state is not TaskState.COMPLETE]
        desired = sum(t.desired is TaskState.RUNNING for t in left)
    return ServiceStatus(states[TaskState.RUNNING], desired, completed)
