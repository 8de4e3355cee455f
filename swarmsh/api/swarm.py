"""/swarm: init, leave, update, and a sentence for what this cluster has no use for."""

from __future__ import annotations

from aiohttp import web
from msgspec import field

from swarmsh.api import render
from swarmsh.api.context import Deps, body_of, flag, index_of, json_response
from swarmsh.api.refusals import AUTOLOCK, CA_ROTATION, FORCE_NEW_CLUSTER, JOIN_TOKENS
from swarmsh.errors import Unimplemented
from swarmsh.manager.usecases import cluster as usecases
from swarmsh.manager.usecases import lookup, nodes
from swarmsh.model.wire import Record


class Orchestration(Record):
    task_history_retention_limit: int | None = None


class Encryption(Record):
    auto_lock_managers: bool = False


class CAConfig(Record):
    force_rotate: int = 0
    signing_ca_cert: str = field(default="", name="SigningCACert")
    signing_ca_key: str = field(default="", name="SigningCAKey")


class SwarmSpec(Record):
    labels: dict[str, str] | None = None
    orchestration: Orchestration | None = None
    encryption_config: Encryption | None = None
    ca_config: CAConfig | None = field(default=None, name="CAConfig")


class InitRequest(Record):
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    spec: SwarmSpec | None = None


def _accept(spec: SwarmSpec) -> tuple[int | None, dict[str, str] | None]:
    if spec.encryption_config is not None and spec.encryption_config.auto_lock_managers:
        raise Unimplemented(AUTOLOCK)
    ca = spec.ca_config
    if ca is not None and (ca.force_rotate or ca.signing_ca_cert or ca.signing_ca_key):
        raise Unimplemented(CA_ROTATION)
    history = spec.orchestration.task_history_retention_limit if spec.orchestration is not None else None
    return history, spec.labels


async def init(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, InitRequest)
    if body.force_new_cluster:
        raise Unimplemented(FORCE_NEW_CLUSTER)
    if body.auto_lock_managers:
        raise Unimplemented(AUTOLOCK)
    history, labels = _accept(body.spec or SwarmSpec())
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
    lookup.require_cluster(deps.snapshot)
    if flag(request, "rotateWorkerToken") or flag(request, "rotateManagerToken"):
        raise Unimplemented(JOIN_TOKENS)
    if flag(request, "rotateManagerUnlockKey"):
        raise Unimplemented(AUTOLOCK)
    history, labels = _accept(body)
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
