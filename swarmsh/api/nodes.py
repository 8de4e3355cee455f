"""/nodes: list, inspect, update, remove."""

from __future__ import annotations

from collections.abc import Container

from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import Deps, body_of, filters_of, flag, index_of, json_response, raw_json, segment
from swarmsh.core.underlay import sharing, underlay, underlays
from swarmsh.manager.usecases import lookup, nodes
from swarmsh.model.objects import Node
from swarmsh.model.specs import NodeSpec


def _encoded(deps: Deps, node: Node, manager: Node | None, addressed: Container[str]) -> bytes:
    leader = manager is not None and manager.id == node.id
    others = "" if node.id in addressed else sharing(node, deps.snapshot.nodes.values())
    # The way out first: a table shows the beginning.
    note = f"set swarmsh_underlay: {underlay(node)} is also {others}, so no networks here" if others else ""
    return deps.encoded.one(node, lambda n: render.node_json(n, leader=leader, note=note), (leader, note))


async def index(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    manager = nodes.current_manager(deps.snapshot)
    found = lookup.list_nodes(deps.snapshot, filters_of(request))
    addressed = underlays(deps.snapshot.nodes.values())
    return raw_json(b"[" + b",".join(_encoded(deps, node, manager, addressed) for node in found) + b"]")


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    cluster = lookup.require_cluster(deps.snapshot)
    manager = nodes.current_manager(deps.snapshot)
    if manager is None and segment(request) == cluster.id:
        return json_response(render.stand_in_node(cluster))
    found = lookup.find_node(deps.snapshot, segment(request))
    return raw_json(_encoded(deps, found, manager, underlays(deps.snapshot.nodes.values())))


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
