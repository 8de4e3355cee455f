"""How a container joins the Engine's networks: one when it is created, the others before it is started. Pure.

Engines before API 1.44 take one network in a create. From then on they take an endpoint's MAC address, too, and
from 28 on choose a random one at each start where none is given; older ones derive it from the address, as here.
"""

from __future__ import annotations

TAKES_MACS = (1, 44)


def mac_of(address: str) -> str:
    """`02:42:` and the IPv4 address: the same at each start, so that no neighbour has to learn it anew."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def endpoint(join: dict, api: tuple) -> dict:
    """The `EndpointSettings` of an entry of `networks`."""
    made: dict = {"IPAMConfig": {"IPv4Address": join["address"]}}
    if api >= TAKES_MACS:
        made["MacAddress"] = mac_of(join["address"])
    if join.get("driver_opts"):
        made["DriverOpts"] = join["driver_opts"]
    return made


def with_first(body: dict, joins: list, api: tuple) -> dict:
    """The body of a create that has the container join the first of its networks."""
    first = joins[0]
    return {
        **body,
        "HostConfig": {**(body.get("HostConfig") or {}), "NetworkMode": first["name"]},
        "NetworkingConfig": {"EndpointsConfig": {first["name"]: endpoint(first, api)}},
    }


def left_to_join(joins: list, joined: set) -> list:
    """Entries whose network the container is not on yet, in their order."""
    return [join for join in joins if join["name"] not in joined]


def is_join(one) -> bool:
    """Whether an entry of `networks` can be used."""
    if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
        return False
    options = one.get("driver_opts", {})
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        return False
    parts = one["address"].split(".") if isinstance(one.get("address"), str) else []
    return len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts)
