"""/services: create, list, inspect, update, remove."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import (
    Deps,
    body_of,
    filters_of,
    flag,
    index_of,
    json_response,
    raw_json,
    registry_auth_of,
    segment,
    version_of,
)
from swarmsh.api.who import author_of
from swarmsh.core.reference import parse_reference
from swarmsh.errors import InvalidSpec, SwarmshError
from swarmsh.manager.usecases import images, lookup, services
from swarmsh.model.objects import Service
from swarmsh.model.specs import ServiceSpec

_JOBS_SINCE = (1, 41)
_CLIENTS_PIN_SINCE = (1, 30)  # API version from which clients ask for the digest themselves


async def create(request: web.Request, deps: Deps) -> web.Response:
    spec = await body_of(request, ServiceSpec)
    _refuse_jobs_of_old_clients(request, spec)
    auth = registry_auth_of(request)
    warnings: list[str] = []
    if version_of(request) < _CLIENTS_PIN_SINCE:
        spec, warnings = await _pinned(deps, spec, auth)
    service = await services.create_service(
        *(deps.store, deps.ids, deps.clock, spec), nodes=deps.nodes, auth=auth, author=author_of(request)
    )
    answer: dict[str, Any] = {"ID": service.id}
    if warnings:
        answer["Warnings"] = warnings
    return json_response(answer, 201)


def _refuse_jobs_of_old_clients(request: web.Request, spec: ServiceSpec) -> None:
    """dockerd forgets the mode, and makes a service of it that is started again and again."""
    if spec.mode.is_job and version_of(request) < _JOBS_SINCE:
        raise InvalidSpec(
            f"jobs need API version {'.'.join(map(str, _JOBS_SINCE))}", hint="Use a docker CLI from 20.10 on"
        )


async def _pinned(deps: Deps, spec: ServiceSpec, auth: str) -> tuple[ServiceSpec, list[str]]:
    """The image with the digest that its tag has now; a registry that does not tell is only a warning."""
    container = spec.task_template.container_spec
    if container is None or not container.image or "@" in container.image:
        return spec, []
    try:
        digest, _ = await images.resolve_image(deps.store, deps.nodes, container.image, auth)
        image = parse_reference(container.image).pinned(digest).familiar
    except SwarmshError as e:
        return spec, [f"unable to pin image {container.image} to digest: {e}"]
    replace = msgspec.structs.replace
    return replace(
        spec, task_template=replace(spec.task_template, container_spec=replace(container, image=image))
    ), []


async def index(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    found = lookup.list_services(deps.snapshot, filters_of(request))
    if not flag(request, "status"):
        return raw_json(await deps.encoded.many(found, _rendering(deps)))
    return raw_json(b"[" + b",".join(_with_status(deps, service) for service in found) + b"]")


def _with_status(deps: Deps, service: Service) -> bytes:
    status = services.service_status(deps.snapshot, service)
    words = {
        "RunningTasks": status.running,
        "DesiredTasks": status.desired,
        "CompletedTasks": status.completed,
    }
    head = deps.encoded.one(service, _rendering(deps))[:-1]
    return head + b',"ServiceStatus":' + msgspec.json.encode(words) + b"}"


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    service = lookup.find_service(deps.snapshot, segment(request))
    if flag(request, "insertDefaults"):
        return json_response(render.with_defaults(_rendering(deps)(service)))
    return raw_json(deps.encoded.one(service, _rendering(deps)))


async def update(request: web.Request, deps: Deps) -> web.Response:
    version = index_of(request, "service")
    spec = await body_of(request, ServiceSpec)
    _refuse_jobs_of_old_clients(request, spec)
    auth = registry_auth_of(request)
    await services.update_service(
        deps.store,
        deps.clock,
        segment(request),
        version,
        spec,
        nodes=deps.nodes,
        auth=auth,
        auth_from=request.query.get("registryAuthFrom", ""),
        rollback=request.query.get("rollback", ""),
        author=author_of(request),
    )
    return json_response({"Warnings": None})


async def remove(request: web.Request, deps: Deps) -> web.Response:
    await services.remove_service(deps.store, deps.clock, segment(request))
    return web.Response()


def _rendering(deps: Deps) -> Callable[[Service], dict[str, Any]]:
    return partial(render.service_json, networks=deps.snapshot.networks)


ROUTES = (
    ("GET", "/services", index),
    ("POST", "/services/create", create),
    ("GET", "/services/{id}", inspect),
    ("POST", "/services/{id}/update", update),
    ("DELETE", "/services/{id}", remove),
)
