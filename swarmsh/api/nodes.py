"""/nodes: list, inspect, update, remove."""

from __future__ import annotations

from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import Deps, body_of, filters_of, flag, index_of, json_response, raw_json, segment
from swarmsh.manager.usecases import lookup, nodes
from swarmsh.model.objects import Node
from swarmsh.model.specs import NodeSpec


def _encoded(deps: Deps, node: Node, manager: Node | None) -> bytes:
    leader = manager is not None and manager.id == node.id
    return deps.encoded.one(node, lambda n: render.node_json(n, leader=leader), leader)


async def index(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    manager = nodes.current_manager(deps.snapshot)
    found = lookup.list_nodes(deps.snapshot, filters_of(request))
    return raw_json(b"[" + b",".join(_encoded(deps, node, manager) for node in found) + b"]")


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    cluster = lookup.require_cluster(deps.snapshot)
    manager = nodes.current_manager(deps.snapshot)
    if manager is None and segment(request) == cluster.id:
        return json_response(render.stand_in_node(cluster))
    return raw_json(_encoded(deps, lookup.find_node(deps.snapshot, segment(request)), manager))


async def update(request: web.Request, deps: Deps) -> web.Response:
    version = index_of(request, "node")
    spec = await body_of(request, NodeSpec)
    await nodes.update_node(deps.store, deps.clock, segment(request), version, spec)
    return web.Response()


async def remove(request: web.Request, deps: Deps) -> web.Response:
    await nodes.remove_node(deps.store, deps.clock, segment(request), force=flag(request, "force"))
    return web.Response()


ROUTES = (
    ("GET", "/nodes", index),
    ("GET", "/nodes/{id}", inspect),
    ("POST", "/nodes/{id}/update", update),
    ("DELETE", "/nodes/{id}", remove),
)
