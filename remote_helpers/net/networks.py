"""The bridges of the node's networks, as networks of the Docker Engine.

The Engine is asked only when a bridge is missing or left over: else it may hang, and all is mended without it.
"""

from __future__ import annotations

import json
import os

from ..engine import Engine, EngineError
from ..log import log
from .commands import batch
from .numbers import EGRESS, EGRESS_BRIDGE, bridge_name, egress_gateway, egress_net

LABEL = "swarmsh.network"  # on the Engine's network: our id of it
_BRIDGE = "com.docker.network.bridge"
_MTU = "com.docker.network.driver.mtu"


class Taken(Exception):
    """A network of another's has the name."""


def bodies(state: dict) -> dict:
    """Bridge to the body of `POST /networks/create`: all overlays are internal, the way out is `swgw` alone."""
    n, egress = state["node"]["n"], state["egress"]
    options = {
        f"{_BRIDGE}.name": EGRESS_BRIDGE,
        f"{_BRIDGE}.enable_icc": "false",
        # Engines from 28 on drop what is routed to a container's address unless told so; older ones ignore it.
        f"{_BRIDGE}.gateway_mode_ipv4": "nat-unprotected",
        _MTU: str(egress["mtu"]),
    }
    subnet, gateway = str(egress_net(n, state)), egress_gateway(n, state)
    found = {EGRESS_BRIDGE: _body(EGRESS, subnet, gateway, options, {LABEL: EGRESS}, internal=False)}
    for network in state["networks"]:
        bridge = bridge_name(network)
        options = {f"{_BRIDGE}.name": bridge, _MTU: str(network["mtu"])}
        labels = {**network["labels"], LABEL: network["id"]}
        found[bridge] = _body(
            network["name"], network["subnet"], network["gateway"], options, labels, internal=True
        )
    return found


def _body(name: str, subnet: str, gateway: str, options: dict, labels: dict, *, internal: bool) -> dict:
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": internal,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": gateway}]},
        "Options": options,
        "Labels": labels,
    }


async def make_bridge(engine: Engine, body: dict) -> None:
    """Make a network whose bridge is missing. Raises EngineError, EngineGone, Taken, CommandFailed."""
    found = await _find(engine, body)
    if found is not None and not _is_wanted(found, body):
        await _remove(engine, found["Id"])  # refused while a container is on it: tried again in the next pass
    elif found is not None:
        # Also one that does not run keeps the network by its id: it could not be started any more.
        query = {"all": "1", "filters": json.dumps({"network": [body["Name"]]})}
        if found.get("Containers") or await engine.call("GET", "/containers/json", query=query, timeout_s=60.0):
            await _mend_bridge(engine, found, body)
            return
        await _remove(engine, found["Id"])
    await engine.call("POST", "/networks/create", body=body, timeout_s=60.0)


async def check_bridge(engine: Engine, body: dict) -> None:
    """Whether a bridge that is there is that of our network. Raises EngineError, EngineGone, Taken."""
    found = await _find(engine, body)
    if found is None or not _is_wanted(found, body):
        bridge = body["Options"][f"{_BRIDGE}.name"]
        raise Taken(f"the node has a bridge {bridge} that is not swarmsh's: rename or remove it")


async def _find(engine: Engine, body: dict) -> dict | None:
    """Also one of ours that has another id: in a state no two have one name, so nobody wants that one any more."""
    found = await _inspect(engine, body["Name"])
    if found is not None and LABEL not in (found.get("Labels") or {}):
        raise Taken(f"the Engine has a network {body['Name']} that is not swarmsh's: rename or remove it")
    return found


def _is_wanted(found: dict, body: dict) -> bool:
    return found["Labels"][LABEL] == body["Labels"][LABEL]


async def remove_networks(engine: Engine, wanted: set) -> set:
    """Remove our networks whose bridge is not in `wanted`; the bridges of those that are still in use.

    Raises EngineError, EngineGone.
    """
    query = {"filters": json.dumps({"label": [LABEL]})}
    kept = set()
    for network in await engine.call("GET", "/networks", query=query, timeout_s=30.0) or []:
        bridge = (network.get("Options") or {}).get(f"{_BRIDGE}.name", "")
        if bridge in wanted:
            continue
        try:
            await _remove(engine, network["Id"])
        except EngineError as e:
            kept.add(bridge)
            log("network_not_removed", network=network.get("Name", ""), error=e)
    return kept


async def _inspect(engine: Engine, name: str) -> dict | None:
    try:
        found = await engine.call("GET", f"/networks/{name}", timeout_s=10.0)
    except EngineError as e:
        if e.status == 404:
            return None
        raise
    return found if found.get("Name") == name else None  # it might be the beginning of an id


async def _remove(engine: Engine, network: str) -> None:
    try:
        await engine.call("DELETE", f"/networks/{network}", timeout_s=60.0)
    except EngineError as e:
        if e.status != 404:
            raise


async def _mend_bridge(engine: Engine, found: dict, body: dict) -> None:
    """Make the bridge of a network with containers again: the Engine would want them gone first."""
    bridge = body["Options"][f"{_BRIDGE}.name"]
    subnet, gateway = (body["IPAM"]["Config"][0][key] for key in ("Subnet", "Gateway"))
    lines = [
        f"link add {bridge} type bridge",
        f"address add {gateway}/{subnet.rpartition('/')[2]} dev {bridge}",
        f"link set {bridge} up",
    ]
    for container, endpoint in found["Containers"].items():
        shown = await engine.inspect(container)
        pid = ((shown or {}).get("State") or {}).get("Pid") or 0
        veth = _outer_end(pid, endpoint.get("MacAddress", "")) if pid else ""
        if veth:
            lines.append(f"link set {veth} master {bridge}")
    await batch("ip", lines)


def _outer_end(pid: int, mac: str) -> str:
    """The node's end of the veth pair whose inner end has the address `mac` in the namespace of `pid`."""
    inside = f"/proc/{pid}/root/sys/class/net"
    try:
        for name in os.listdir(inside):
            if _line(f"{inside}/{name}/address") == mac:
                index = _line(f"{inside}/{name}/iflink")
                return next((dev for dev in os.listdir("/sys/class/net") if _is(dev, index)), "")
    except OSError as e:
        log("container_interfaces_unknown", pid=pid, error=e)
    return ""


def _is(device: str, index: str) -> bool:
    try:
        return _line(f"/sys/class/net/{device}/ifindex") == index
    except OSError:
        return False  # it is no device, or has gone


def _line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
