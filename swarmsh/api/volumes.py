"""/volumes, as far as it makes sense for a cluster, and /swarmsh/volumes: volumes of all nodes.

A volume is named `NODE/NAME`, as Docker's first, standalone Swarm named them; NAME will do where one has it.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmsh.api.context import Deps, filters_of, flag, json_response, segment, version_of
from swarmsh.core.volume_list import Listed
from swarmsh.manager.usecases import volumes

_ANONYMOUS_ONLY = (1, 42)  # before, a prune took named volumes too (Engine API changelog)


async def index(request: web.Request, deps: Deps) -> web.Response:
    found = await volumes.survey(deps.snapshot, deps.volumes, filters_of(request))
    return json_response({"Volumes": [_docker(one) for one in found.volumes], "Warnings": _warnings(found.silent)})


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    return json_response(_docker(await volumes.find(deps.snapshot, deps.volumes, segment(request))))


async def remove(request: web.Request, deps: Deps) -> web.Response:
    await volumes.remove(deps.snapshot, deps.volumes, segment(request), force=flag(request, "force"))
    return web.Response(status=204)


async def prune(request: web.Request, deps: Deps) -> web.Response:
    filters = dict(filters_of(request))
    if version_of(request) < _ANONYMOUS_ONLY:
        filters.setdefault("all", ("true",))
    found = await volumes.prune(deps.snapshot, deps.volumes, filters)
    return json_response({"VolumesDeleted": list(found.removed), "SpaceReclaimed": found.freed_bytes})


async def survey(request: web.Request, deps: Deps) -> web.Response:
    found = await volumes.survey(deps.snapshot, deps.volumes, filters_of(request), sizes=flag(request, "size"))
    return json_response({"volumes": [_whole(one) for one in found.volumes], "silent": _silent(found.silent)})


async def show(request: web.Request, deps: Deps) -> web.Response:
    found = await volumes.find(deps.snapshot, deps.volumes, segment(request), sizes=flag(request, "size"))
    return json_response(_whole(found))


async def prune_all(request: web.Request, deps: Deps) -> web.Response:
    found = await volumes.prune(deps.snapshot, deps.volumes, filters_of(request))
    answer = {
        "removed": found.removed,
        "failed": [{"name": name, "why": why} for name, why in found.failed],
        "freed_bytes": found.freed_bytes,
        "silent": _silent(found.silent),
    }
    return json_response(answer)


def _docker(one: Listed) -> dict[str, Any]:
    volume = one.volume
    return {
        "Name": one.name,
        "Driver": volume.driver,
        "Mountpoint": volume.mountpoint,
        "CreatedAt": volume.created_at,
        "Labels": volume.labels or None,
        "Options": volume.options or None,
        "Scope": volume.scope,
        "Status": {"Node": one.node.spec.name, "Services": list(one.services), "Tasks": list(one.tasks)},
    }


def _whole(one: Listed) -> dict[str, Any]:
    volume = one.volume
    return {
        "id": one.name,
        "name": volume.name,
        "node": one.node.spec.name,
        "node_id": one.node.id,
        "driver": volume.driver,
        "mountpoint": volume.mountpoint,
        "created_at": volume.created_at,
        "labels": volume.labels,
        "options": volume.options,
        "scope": volume.scope,
        "anonymous": one.anonymous,
        "in_use": volume.in_use,
        "size_bytes": volume.size_bytes,
        "services": one.services,
        "tasks": one.tasks,
    }


def _silent(silent: tuple[volumes.Silent, ...]) -> list[dict[str, Any]]:
    return [{"node": one.node.spec.name, "why": one.why, "volumes": one.volumes} for one in silent]


def _warnings(silent: tuple[volumes.Silent, ...]) -> list[str] | None:
    return [f"volumes of node {one.node.spec.name} are missing: {one.why}" for one in silent] or None


ROUTES = (
    ("GET", "/volumes", index),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{id:.+}", inspect),
    ("DELETE", "/volumes/{id:.+}", remove),
    ("GET", "/swarmsh/volumes", survey),
    ("POST", "/swarmsh/volumes/prune", prune_all),
    ("GET", "/swarmsh/volumes/{id:.+}", show),
)
