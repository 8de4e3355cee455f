"""/swarmsh/cluster: settings of the cluster that Docker has no word for."""

from __future__ import annotations

from aiohttp import web

from swarmsh.api.context import Deps, body_of, json_response
from swarmsh.manager.usecases import cluster as usecases
from swarmsh.manager.usecases import lookup
from swarmsh.model.objects import Cluster
from swarmsh.model.wire import Record


class SettingsRequest(Record):
    """What is to be changed; the rest stays."""

    down_after_s: float | None = None


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    return json_response(_shown(lookup.require_cluster(deps.snapshot)))


async def update(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, SettingsRequest)
    return json_response(_shown(await usecases.tune_cluster(deps.store, down_after_s=body.down_after_s)))


def _shown(cluster: Cluster) -> dict[str, object]:
    return {"ID": cluster.id, "DownAfterS": cluster.down_after_s}


async def purge(request: web.Request, deps: Deps) -> web.Response:
    done = await usecases.purge(deps.store, deps.clock, deps.nodes)
    nodes = [
        {"ID": one.node.id, "Name": one.node.spec.name, "Left": one.left, "Fix": one.fix} for one in done.nodes
    ]
    return json_response({"Archive": str(done.archive), "Nodes": nodes})


ROUTES = (
    ("GET", "/swarmsh/cluster", inspect),
    ("POST", "/swarmsh/cluster/update", update),
    ("POST", "/swarmsh/purge", purge),
)
