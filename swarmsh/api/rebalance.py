"""/swarmsh/rebalance: spreading tasks again over the nodes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmsh.api.context import Deps, body_of, json_response
from swarmsh.core.rebalance import Move
from swarmsh.manager.usecases import lookup, rebalance
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.wire import Record


class RebalanceRequest(Record):
    """`services`: names or ids, all without any. `plan`: only say what would move. `stop`: move no more."""

    services: list[str] | None = None
    plan: bool = False
    stop: bool = False


async def begin(request: web.Request, deps: Deps) -> web.Response:
    asked = await body_of(request, RebalanceRequest)
    names = asked.services or []
    if asked.stop:
        return json_response({"stopped": await rebalance.stop(deps.store, names)})
    found = await rebalance.plan(deps.store, deps.clock, deps.failures, names)
    moves = found.moves if asked.plan else await rebalance.begin(deps.store, deps.clock, found)
    answer = {
        "moves": [_move(deps.snapshot, move) for move in moves],
        "skipped": [{"service": name, "why": why} for name, why in found.skipped],
    }
    return json_response(answer)


async def under_way(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    snapshot, moves = deps.snapshot, []
    for task in rebalance.marked(snapshot):
        if task.rebalance is None:
            continue
        state = "stopped" if task.rebalance.stopped else "waits" if task.rebalance.begun_at is None else "moves"
        moves.append(
            {
                "service": task.service_name,
                "slot": task.slot,
                "task": task.id,
                "from": _node(snapshot, task.node_id),
                "to": _node(snapshot, task.rebalance.node_id),
                "state": state,
                "why": task.rebalance.stopped,
            }
        )
    return json_response({"moves": moves})


def _move(snapshot: ClusterSnapshot, move: Move) -> dict[str, Any]:
    return {
        "service": move.task.service_name,
        "slot": move.task.slot,
        "task": move.task.id,
        "from": _node(snapshot, move.task.node_id),
        "to": _node(snapshot, move.to_node),
        "why": move.why,
    }


def _node(snapshot: ClusterSnapshot, node_id: str) -> str:
    node = snapshot.nodes.get(node_id)
    return node.spec.name if node is not None else node_id


ROUTES = (
    ("GET", "/swarmsh/rebalance", under_way),
    ("POST", "/swarmsh/rebalance", begin),
)
