"""Published ports: `ports` as an endpoint, and the one address that a host IP asks for."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address

from swarmsh.compose.convert.spot import Spot, Warn
from swarmsh.model.specs import EndpointSpec, PortConfig

BIND = "swarmsh.publish.bind"
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_ANYWHERE = ("", "0.0.0.0", "::", "[::]")

# What listens there keeps data, and is seldom meant for everybody.
DATABASES = {
    1433: "Microsoft SQL Server",
    1521: "Oracle",
    2379: "etcd",
    3306: "MySQL or MariaDB",
    5432: "PostgreSQL",
    5984: "CouchDB",
    6379: "Redis",
    7474: "Neo4j",
    8086: "InfluxDB",
    9042: "Cassandra",
    9200: "Elasticsearch",
    11211: "memcached",
    26257: "CockroachDB",
    27017: "MongoDB",
    28015: "RethinkDB",
    33060: "MySQL",
}


def endpoint_of(service: Spot, warn: Warn) -> EndpointSpec:
    """The endpoint; ports in the order of their published numbers, as the docker CLI sorts them."""
    ports = [port for spot in service["ports"].each() for port in _ports(spot, warn)]
    ports.sort(key=lambda port: port.published_port)
    return EndpointSpec(mode=service["deploy"]["endpoint_mode"].text().lower(), ports=tuple(ports))


def _ports(spot: Spot, warn: Warn) -> list[PortConfig]:
    if spot["app_protocol"]:
        warn(spot["app_protocol"], "nodes pass connections on as they are, whatever is spoken in them")
    targets, published = _numbers(spot["target"]), _numbers(spot["published"])
    if len(targets) not in (1, len(published)):
        raise spot.wrong(f"has {len(published)} published ports for {len(targets)} targets")
    if len(targets) < len(published):
        targets *= len(published)
    return [
        PortConfig(
            name=spot["name"].text(),
            protocol=spot["protocol"].text(),
            target_port=target,
            published_port=one,
            publish_mode=spot["mode"].text(),
        )
        for target, one in zip(targets, published, strict=True)
    ]


def _numbers(spot: Spot) -> list[int]:
    """`80`, `"8000-8002"`; [0] where nothing was said."""
    text = spot.text() or "0"
    found = _RANGE.fullmatch(text)
    if found is None:
        raise spot.wrong(f"'{text}' is neither a port nor a range of ports")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 <= first <= last <= 65535:
        raise spot.wrong(f"'{text}' is not a range of ports from 1 to 65535")
    return list(range(first, last + 1))


def bound_address(service: Spot) -> str:
    """The address that all published ports of the service are asked to be at; "": every one of every node.

    Raises ComposeError where the ports of a service name several: one label speaks for all of them, and to publish
    on more addresses than the file says is worse than to refuse it.
    """
    asked = {_host_ip(port): port for port in service["ports"].each()}
    labelled = service["deploy"]["labels"].pairs().get(BIND)
    if labelled is not None:
        asked = {ip: port for ip, port in asked.items() if ip}
        others = [port for ip, port in asked.items() if ip != labelled]
        if others:
            raise others[0]["host_ip"].wrong(f"differs from label {BIND}, which is {labelled}")
        return labelled
    if len(asked) > 1:
        port = next(port for ip, port in asked.items() if ip)
        raise port["host_ip"].wrong(
            "all published ports of a service are at the same address, and this one's others are not",
            hint=f"Give each of them the same one, set {BIND} in deploy.labels, or make it two services",
        )
    return next(iter(asked), "")


def _host_ip(port: Spot) -> str:
    text = port["host_ip"].text()
    if text in _ANYWHERE:
        return ""
    try:
        return str(IPv4Address(text))
    except AddressValueError as e:
        raise port["host_ip"].wrong(
            f"'{text}' is no IPv4 address, and ports are published at those only",
            hint="Leave it away to publish on all addresses of all nodes",
        ) from e


def warn_of_databases(service: Spot, bind: str, warn: Warn) -> None:
    """Say so where a database is published to whoever reaches a node."""
    if bind:
        return
    for port in service["ports"].each():
        found = [number for number in _numbers(port["target"]) if number in DATABASES]
        if found and port["protocol"].text() != "udp":
            warn(
                port,
                f"port {found[0]}, that of {DATABASES[found[0]]}, is published on all addresses of the nodes. "
                "Services of a common network need no published port; else give a host IP",
            )
