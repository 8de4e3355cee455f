"""/swarm: init, leave, update, and a sentence for what this cluster has no use for."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import field

from swarmsh.api import render
from swarmsh.api.context import Deps, body_of, flag, index_of, json_response
from swarmsh.api.refusals import (
    AUTOLOCK,
    CA_ROTATION,
    CERT_EXPIRY,
    FORCE_NEW_CLUSTER,
    HEARTBEAT,
    JOIN_TOKENS,
    RAFT,
    TASK_LOGS,
)
from swarmsh.errors import Unimplemented
from swarmsh.manager.usecases import cluster as usecases
from swarmsh.manager.usecases import lookup, nodes
from swarmsh.model.wire import Record, from_wire


class Orchestration(Record):
    task_history_retention_limit: int | None = None


class Encryption(Record):
    auto_lock_managers: bool = False


class CAConfig(Record):
    node_cert_expiry: int = 0
    external_cas: list[dict[str, Any]] | None = field(default=None, name="ExternalCAs")
    force_rotate: int = 0
    signing_ca_cert: str = field(default="", name="SigningCACert")
    signing_ca_key: str = field(default="", name="SigningCAKey")


class Dispatcher(Record):
    heartbeat_period: int = 0


class Raft(Record):
    snapshot_interval: int = 0
    keep_old_snapshots: int = 0


class TaskDefaults(Record):
    log_driver: dict[str, Any] | None = None


class SwarmSpec(Record):
    labels: dict[str, str] | None = None
    raft: Raft = field(default_factory=Raft)
    dispatcher: Dispatcher = field(default_factory=Dispatcher)
    task_defaults: TaskDefaults = field(default_factory=TaskDefaults)
    orchestration: Orchestration | None = None
    encryption_config: Encryption | None = None
    ca_config: CAConfig = field(default_factory=CAConfig, name="CAConfig")


# What `docker swarm init` sends unless it is told otherwise.
DOCKERS_DEFAULTS = SwarmSpec(
    raft=Raft(snapshot_interval=10_000),
    dispatcher=Dispatcher(heartbeat_period=5_000_000_000),
    ca_config=CAConfig(node_cert_expiry=90 * 24 * 3600 * 1_000_000_000),
)


class InitRequest(Record):
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    spec: SwarmSpec | None = None


def _accept(spec: SwarmSpec, *, defaults: SwarmSpec) -> tuple[int | None, dict[str, str] | None]:
    """(task history limit, labels). Clients send whole specs: what is as in `defaults` is no wish of theirs."""
    _refuse_fixed(spec, defaults)
    if spec.encryption_config is not None and spec.encryption_config.auto_lock_managers:
        raise Unimplemented(AUTOLOCK)
    ca = spec.ca_config
    if ca.force_rotate or ca.signing_ca_cert or ca.signing_ca_key or ca.external_cas:
        raise Unimplemented(CA_ROTATION)
    history = spec.orchestration.task_history_retention_limit if spec.orchestration is not None else None
    return history, spec.labels


def _refuse_fixed(spec: SwarmSpec, defaults: SwarmSpec) -> None:
    """Raises Unimplemented for settings that would be taken and then do nothing."""
    raft, usual_raft = spec.raft, defaults.raft
    if spec.dispatcher.heartbeat_period not in (0, defaults.dispatcher.heartbeat_period):
        raise Unimplemented(HEARTBEAT)
    if spec.ca_config.node_cert_expiry not in (0, defaults.ca_config.node_cert_expiry):
        raise Unimplemented(CERT_EXPIRY)
    if raft.snapshot_interval not in (0, usual_raft.snapshot_interval) or raft.keep_old_snapshots:
        raise Unimplemented(RAFT)
    if spec.task_defaults.log_driver:
        raise Unimplemented(TASK_LOGS)


async def init(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, InitRequest)
    if body.force_new_cluster:
        raise Unimplemented(FORCE_NEW_CLUSTER)
    if body.auto_lock_managers:
        raise Unimplemented(AUTOLOCK)
    history, labels = _accept(body.spec or SwarmSpec(), defaults=DOCKERS_DEFAULTS)
    cluster = await usecases.init_cluster(
        deps.store, deps.ids, deps.clock, deps.nodes, task_history=history, labels=labels
    )
    manager = nodes.current_manager(deps.snapshot)
    return json_response(manager.id if manager is not None else cluster.id)


async def leave(request: web.Request, deps: Deps) -> web.Response:
    await usecases.leave(deps.store, deps.clock, deps.nodes, force=flag(request, "force"))
    return web.Response()


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    return json_response(render.swarm_json(lookup.require_cluster(deps.snapshot)))


async def update(request: web.Request, deps: Deps) -> web.Response:
    version = index_of(request, "swarm")
    body = await body_of(request, SwarmSpec)
    cluster = lookup.require_cluster(deps.snapshot)
    if flag(request, "rotateWorkerToken") or flag(request, "rotateManagerToken"):
        raise Unimplemented(JOIN_TOKENS)
    if flag(request, "rotateManagerUnlockKey"):
        raise Unimplemented(AUTOLOCK)
    shown = from_wire(SwarmSpec, render.cluster_json(cluster)["Spec"])
    history, labels = _accept(body, defaults=shown)
    await usecases.update_cluster(deps.store, version, task_history=history, labels=labels)
    return web.Response()


async def unlock_key(request: web.Request, deps: Deps) -> web.Response:
    """Empty: the CLI then says that no unlock key is set."""
    lookup.require_cluster(deps.snapshot)
    return json_response({"UnlockKey": ""})


ROUTES = (
    ("GET", "/swarm", inspect),
    ("POST", "/swarm/init", init),
    ("POST", "/swarm/leave", leave),
    ("POST", "/swarm/update", update),
    ("GET", "/swarm/unlockkey", unlock_key),
)
