"""/distribution: what registries say of images."""

from __future__ import annotations

from aiohttp import web

from swarmsh.api.context import Deps, json_response, registry_auth_of, segment
from swarmsh.manager.usecases import images


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


ROUTES = (("GET", "/distribution/{name:.*}/json", distribution),)
