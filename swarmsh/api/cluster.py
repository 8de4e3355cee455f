"""/swarmsh/cluster: settings of the cluster that Docker has no word for."""

from __future__ import annotations

from aiohttp import web
from msgspec import field
from msgspec.structs import asdict

from swarmsh.api.context import Deps, body_of, json_response
from swarmsh.manager.usecases import cluster as usecases
from swarmsh.manager.usecases import lookup
from swarmsh.model.objects import Cluster
from swarmsh.model.wire import Record


class TimeoutsRequest(Record, rename={"tcp_s": "TCP", "tcp_fin_s": "TCPFin", "udp_s": "UDP"}):
    """Seconds; what is left out stays."""

    tcp_s: int | None = None
    tcp_fin_s: int | None = None
    udp_s: int | None = None


class SettingsRequest(Record):
    """What is to be changed; the rest stays."""

    down_after_s: float | None = None
    lb_timeouts: TimeoutsRequest = field(default_factory=TimeoutsRequest, name="LBTimeouts")
    revisions_kept: int | None = None


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    return json_response(_shown(lookup.require_cluster(deps.snapshot)))


async def update(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, SettingsRequest)
    given = {name: seconds for name, seconds in asdict(body.lb_timeouts).items() if seconds is not None}
    changed = await usecases.tune_cluster(
        deps.store, down_after_s=body.down_after_s, lb_timeouts=given, revisions_kept=body.revisions_kept
    )
    return json_response(_shown(changed))


def _shown(cluster: Cluster) -> dict[str, object]:
    limits = cluster.lb_timeouts
    return {
        "ID": cluster.id,
        "DownAfterS": cluster.down_after_s,
        "LBTimeouts": {"TCP": limits.tcp_s, "TCPFin": limits.tcp_fin_s, "UDP": limits.udp_s},
        "RevisionsKept": cluster.revisions_kept,
    }


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
