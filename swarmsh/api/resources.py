"""/secrets and /configs, as far as clients look at them before a service is created; /distribution."""

from __future__ import annotations

from aiohttp import web

from swarmsh.api.context import Deps, filters_of, json_response, registry_auth_of, segment
from swarmsh.errors import NotFound
from swarmsh.manager.usecases import images, lookup


async def nothing(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    filters_of(request)
    return json_response([])


async def no_secret(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    raise NotFound(f"secret {segment(request)} not found")


async def no_config(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    raise NotFound(f"config {segment(request)} not found")


async def distribution(request: web.Request, deps: Deps) -> web.Response:
    """Digest and platforms, found by a node in the registry."""
    image, auth = segment(request, "name"), registry_auth_of(request)
    digest, platforms = await images.resolve_image(deps.store, deps.nodes, image, auth)
    return json_response(
        {
            "Descriptor": {
                "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
                "digest": digest,
                "size": 0,
            },
            "Platforms": [{"architecture": arch, "os": os} for os, arch in platforms],
        }
    )


ROUTES = (
    ("GET", "/secrets", nothing),
    ("GET", "/secrets/{id}", no_secret),
    ("GET", "/configs", nothing),
    ("GET", "/configs/{id}", no_config),
    ("GET", "/distribution/{name:.*}/json", distribution),
)
