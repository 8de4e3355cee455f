"""/networks, /secrets and /configs, as far as clients look at them before a service is created; /distribution."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmsh.api.context import Deps, filters_of, json_response, registry_auth_of, segment
from swarmsh.api.render import GO_ZERO_TIME
from swarmsh.errors import NotFound
from swarmsh.manager.usecases import images, lookup

PREDEFINED = ("bridge", "host", "none")


def _network(name: str) -> dict[str, Any]:
    """One of the networks that every Engine has. Its id is its name, which `--network host` then refers to."""
    return {
        "Name": name,
        "Id": name,
        "Created": GO_ZERO_TIME,
        "Scope": "local",
        "Driver": "null" if name == "none" else name,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


async def networks(request: web.Request, deps: Deps) -> web.Response:
    filters = filters_of(request)
    wanted = (*filters.get("name", ()), *filters.get("id", ()))
    names = [n for n in PREDEFINED if not wanted or any(n.startswith(w) for w in wanted)]
    outside = (
        any(s != "local" for s in filters.get("scope", ()))
        or filters.get("label")
        or any(t != "builtin" for t in filters.get("type", ()))
        or any(d not in ("bridge", "host", "null") for d in filters.get("driver", ()))
    )
    return json_response([] if outside else [_network(name) for name in names])


async def network(request: web.Request, deps: Deps) -> web.Response:
    if segment(request) not in PREDEFINED:
        raise NotFound(f"network {segment(request)} not found")
    return json_response(_network(segment(request)))


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
    ("GET", "/networks", networks),
    ("GET", "/networks/{id}", network),
    ("GET", "/secrets", nothing),
    ("GET", "/secrets/{id}", no_secret),
    ("GET", "/configs", nothing),
    ("GET", "/configs/{id}", no_config),
    ("GET", "/distribution/{name:.*}/json", distribution),
)
