"""/swarmsh/…: what Docker has no word for."""

from __future__ import annotations

from typing import Any, Literal

from aiohttp import web
from msgspec import field

from swarmsh.api import execs
from swarmsh.api.context import Deps, body_of, json_response, segment
from swarmsh.api.render import rfc3339
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases import listeners, lookup, nodes, paths, trace
from swarmsh.model.objects import SshTarget
from swarmsh.model.specs import NodeSpec
from swarmsh.model.states import Availability, NodeState, Role
from swarmsh.model.wire import Record, to_wire

MOST_ROTATION_S, MOST_TRACE_S = 3600.0, 60.0


class NodeRequest(Record):
    """A host to take into the cluster."""

    name: str = ""
    target: SshTarget | None = None
    labels: dict[str, str] = field(default_factory=dict)
    role: Role = Role.WORKER
    availability: Availability = Availability.ACTIVE


async def status(request: web.Request, deps: Deps) -> web.Response:
    snapshot, now = deps.snapshot, deps.clock.monotonic()
    known = sorted(snapshot.nodes.values(), key=lambda n: n.number)
    sessions: list[dict[str, Any]] = []
    for node in known:
        heard = deps.nodes.last_heard(node.id)
        sessions.append(
            {
                "id": node.id,
                "name": node.spec.name,
                "address": node.target.address,
                "state": node.status.state.value,
                "message": node.status.message,
                "connected": deps.nodes.connected(node.id),
                "heard_s_ago": None if heard is None else round(max(0.0, now - heard), 3),
            }
        )
    cluster = snapshot.cluster
    return json_response(
        {
            "version": deps.version,
            "pid": deps.pid,
            "state_dir": str(deps.state_dir),
            "socket": str(deps.socket_path),
            "since": rfc3339(deps.started_at),
            "index": snapshot.index,
            **({"locked": deps.store.locked} if deps.store.locked else {}),
            "cluster": None
            if cluster is None
            else {"id": cluster.id, "created_at": rfc3339(cluster.created_at), "services": len(snapshot.services)},
            "nodes": {
                "total": len(known),
                "ready": sum(n.status.state is NodeState.READY for n in known),
            },
            "sessions": sessions,
        }
    )


async def add_node(request: web.Request, deps: Deps) -> web.Response:
    body = await body_of(request, NodeRequest)
    if body.target is None:
        raise InvalidSpec('invalid NodeRequest: Target is missing: give at least {"Address": …}')
    spec = NodeSpec(name=body.name, labels=body.labels, role=body.role, availability=body.availability)
    node = await nodes.add_node(deps.store, deps.ids, deps.clock, spec, body.target)
    return json_response({"ID": node.id}, 201)


async def targets(request: web.Request, deps: Deps) -> web.Response:
    """Also of the nodes that a left cluster has left behind: their pins are kept."""
    known = sorted(deps.snapshot.nodes.values(), key=lambda n: n.number)
    return json_response([{"ID": n.id, "Name": n.spec.name, "Target": to_wire(n.target)} for n in known])


async def retarget_node(request: web.Request, deps: Deps) -> web.Response:
    target = await body_of(request, SshTarget)
    node = await nodes.retarget_node(deps.store, deps.clock, segment(request), target)
    if deps.snapshot.cluster is not None:
        # At once: whoever asks next must not take the session over the old way for one over the new.
        deps.nodes.keep(node.id, node.spec.name, node.target)
    return json_response({})


async def check_node(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    node = lookup.find_node(deps.snapshot, segment(request))
    items = [*await deps.nodes.check(node.id), nodes.check_routes(deps.snapshot, node)]
    return json_response({"items": [*items, await listeners.check_node(deps.snapshot, deps.nodes, node)]})


class PathsRequest(Record):
    """`nodes`: ids or names; the ways between them and all nodes are tried. None: of all."""

    nodes: list[str] | None = None


async def check_paths(request: web.Request, deps: Deps) -> web.Response:
    asked = (await body_of(request, PathsRequest)).nodes
    lookup.require_cluster(deps.snapshot)
    named = deps.snapshot.nodes if asked is None else {lookup.find_node(deps.snapshot, ref).id for ref in asked}
    items = await paths.check_paths(deps.snapshot, deps.nodes, named)
    known = deps.snapshot.nodes
    return json_response(
        {
            "items": [
                {
                    "node": item.node_id,
                    "node_name": known[item.node_id].spec.name if item.node_id in known else "",
                    "name": item.name,
                    "ok": item.ok,
                    "detail": item.detail,
                    "fix": item.fix,
                }
                for item in items
            ]
        }
    )


class RotationRequest(Record):
    """`timeout_s`: how long to wait for nodes to acknowledge."""

    timeout_s: float = 60.0


async def rotate_keys(request: web.Request, deps: Deps) -> web.Response:
    asked = await body_of(request, RotationRequest)
    if not 0 < asked.timeout_s <= MOST_ROTATION_S:
        raise InvalidSpec(f"invalid TimeoutS {asked.timeout_s:g}: above 0, at most {MOST_ROTATION_S:g} seconds")
    lookup.require_cluster(deps.snapshot)
    done = await deps.rotate_keys(asked.timeout_s)
    missing = [node for node in deps.snapshot.nodes.values() if node.id in done.missing]
    answer: list[dict[str, str]] = []
    for node in sorted(missing, key=lambda n: n.number):
        away = not deps.nodes.connected(node.id)
        why = "there is no session with it" if away else f"it has not acknowledged within {asked.timeout_s:g} s"
        answer.append({"ID": node.id, "Name": node.spec.name, "Message": why})
    return json_response({"Pairs": done.pairs, "Missing": answer})


class TraceRequest(Record):
    """`from_` and `to`: a task, service or node; `port` 0: the first of the service."""

    from_: str = field(default="", name="From")
    to: str = ""
    port: int = 0
    protocol: Literal["tcp", "udp"] = "tcp"
    timeout_s: float = 3.0


async def trace_network(request: web.Request, deps: Deps) -> web.Response:
    asked = await body_of(request, TraceRequest)
    if not 0 <= asked.port < 65536:
        raise InvalidSpec(f"invalid Port {asked.port}")
    if not 0 < asked.timeout_s <= MOST_TRACE_S:
        raise InvalidSpec(f"invalid TimeoutS {asked.timeout_s:g}: above 0, at most {MOST_TRACE_S:g} seconds")
    found = await trace.trace(
        *(deps.snapshot, deps.nodes, asked.from_, asked.to),
        port=asked.port,
        protocol=asked.protocol,
        timeout_s=asked.timeout_s,
    )
    hops = [
        {
            **{"node": hop.node, "task": hop.task, "device": hop.seen.device, "way": hop.seen.way},
            **{"src": hop.seen.src, "dst": hop.seen.dst, "tunnel": hop.seen.tunnel, "flags": hop.seen.flags},
            "answer": not hop.seen.forth,
        }
        for hop in found.hops
    ]
    verdict = {"ok": found.verdict.ok, "words": found.verdict.words, "fix": found.verdict.fix}
    return json_response({"to": found.to, "hops": hops, **verdict})


ROUTES = (
    ("GET", "/swarmsh/status", status),
    ("GET", "/swarmsh/nodes", targets),
    ("POST", "/swarmsh/nodes", add_node),
    ("POST", "/swarmsh/nodes/{id}/target", retarget_node),
    ("GET", "/swarmsh/nodes/{id}/check", check_node),
    ("POST", "/swarmsh/nodes/check-paths", check_paths),
    ("POST", "/swarmsh/networks/rotate-keys", rotate_keys),
    ("POST", "/swarmsh/networks/trace", trace_network),
    ("GET", "/swarmsh/tasks/{id}/exec", execs.run),
)
