"""/networks: create, list, inspect, remove, prune."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import Deps, body_of, filters_of, flag, json_response, parse_time, segment
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases import networks
from swarmsh.model.objects import Network
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import NetworkSpec

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}


async def create(request: web.Request, deps: Deps) -> web.Response:
    spec = await body_of(request, NetworkSpec, where="CreateRequest")
    network = await networks.create_network(deps.store, deps.ids, deps.clock, spec)
    return json_response({"Id": network.id, "Warning": ""}, 201)


async def index(request: web.Request, deps: Deps) -> web.Response:
    found = networks.list_networks(deps.snapshot, filters_of(request))
    return json_response([_json(one) for one in found])


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    found = networks.inspect_network(deps.snapshot, segment(request), request.query.get("scope", ""))
    answer = _json(found)
    if found.network is not None and flag(request, "verbose"):
        answer |= _verbose(deps.snapshot, found.network)
    return json_response(answer)


async def remove(request: web.Request, deps: Deps) -> web.Response:
    await networks.remove_network(deps.store, deps.clock, segment(request))
    return web.Response(status=204)


async def prune(request: web.Request, deps: Deps) -> web.Response:
    filters = filters_of(request)
    gone = await networks.prune_networks(deps.store, deps.clock, filters, _until(filters.get("until", ()), deps))
    return json_response({"NetworksDeleted": gone or None})


ROUTES = (
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks", index),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", remove),
)


def _until(values: tuple[str, ...], deps: Deps) -> float | None:
    """A time, or an age such as `24h` or `1h30m`, as dockerd reads it."""
    if len(values) > 1:
        raise InvalidSpec("more than one until filter specified")
    if not values:
        return None
    age = _age_s(values[0])
    return parse_time("until", values[0]) if age is None else deps.clock.now() - age


def _age_s(text: str) -> float | None:
    """Seconds of a Go duration in hours, minutes and seconds; None if it is none."""
    total, number = 0.0, ""
    for char in text:
        if char in _UNITS_S and number:
            total += float(number) * _UNITS_S[char]
            number = ""
        elif char in "0123456789":
            number += char
        else:
            return None
    return None if number or not text else total


def _json(found: networks.Listed) -> dict[str, Any]:
    if found.network is None:
        return render.builtin_network_json(found.name, found.driver)
    return render.network_json(found.network)


def _verbose(snapshot: ClusterSnapshot, network: Network) -> dict[str, Any]:
    """Peers (nodes with a task there) and, by service, VIP and tasks: of the whole cluster, not of one node."""
    tasks = networks.tasks_on(snapshot, network)
    services: dict[str, Any] = {}
    for service in networks.services_on(snapshot, network):
        vips = [vip.address for vip in service.endpoint.virtual_ips if vip.network_id == network.id]
        services[service.spec.name] = {
            "VIP": vips[0] if vips else "<nil>",
            "Ports": [
                f"Target: {port.target_port}, Publish: {port.published_port}"
                for port in render.published_ports(service)
            ],
            "LocalLBIndex": next((v.mark for v in service.endpoint.virtual_ips if v.network_id == network.id), 0),
            "Tasks": [],
        }
    for task in tasks:
        node = snapshot.nodes.get(task.node_id)
        shown = services.setdefault(
            task.service_name, {"VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": []}
        )
        shown["Tasks"].append(
            {
                "Name": task.name,
                "EndpointID": "",
                "EndpointIP": next(on.address for on in task.addresses if on.network_id == network.id),
                "Info": {"Host IP": node.target.address if node is not None else ""},
            }
        )
    peers = [{"Name": n.hostname, "IP": n.target.address} for n in networks.nodes_on(snapshot, tasks)]
    return {"Peers": peers, "Services": services}
