"""Published ports and the endpoint mode of a service: their form first, and then who else has them.

Rules and messages are swarmkit's (`manager/controlapi/service.go`, validateEndpointSpec and checkPortConflicts).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.pools import BALANCED
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import EndpointSpec, PortConfig, ServiceSpec, TaskSpec

_PROTOCOLS = ("tcp", "udp", "sctp")
# VXLAN of plain and of encrypted networks. A rule that publishes one would take the nodes' own packets.
OVERLAY_PORTS = (4789, 4790)
NAMES_PORT = 4792  # of `remote_helpers/net/numbers.py`, at the nodes' own addresses in networks


def accept_endpoint(endpoint: EndpointSpec | None, task: TaskSpec) -> EndpointSpec | None:
    """The endpoint to store for a service of these tasks. Raises InvalidSpec, Unimplemented."""
    if endpoint is None:
        return None
    if endpoint.mode not in ("", "vip", "dnsrr"):
        raise InvalidSpec(f'invalid resolution mode: "{endpoint.mode}"')
    ports = tuple(_accept_port(port) for port in endpoint.ports)
    ingress = [port for port in ports if port.publish_mode == "ingress"]
    if endpoint.mode == "dnsrr" and ingress:
        raise InvalidSpec("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    _check_unique(ports)
    for port in ingress:
        _check_balanced(port, task)
    return replace(endpoint, mode=endpoint.mode or "vip", ports=ports)


def _accept_port(port: PortConfig) -> PortConfig:
    protocol, mode = port.protocol.lower() or "tcp", port.publish_mode.lower() or "ingress"
    if protocol not in _PROTOCOLS:
        raise InvalidSpec(f"invalid protocol '{port.protocol}'", hint=f"Use {', '.join(_PROTOCOLS)}")
    if mode not in ("ingress", "host"):
        raise InvalidSpec(f"invalid publish mode '{port.publish_mode}'", hint="Use ingress or host")
    if not 1 <= port.target_port <= 65535:
        raise InvalidSpec(f"invalid target port {port.target_port}", hint="Ports are 1 to 65535")
    if not 0 <= port.published_port <= 65535:
        raise InvalidSpec(f"invalid published port {port.published_port}", hint="Ports are 1 to 65535, 0 is any")
    if protocol == "udp" and port.published_port in OVERLAY_PORTS:
        raise InvalidSpec(
            f"port {port.published_port}/udp carries overlays between the nodes, and cannot be published",
            hint="Publish another port",
        )
    if mode == "host" and port.published_port == NAMES_PORT:
        raise InvalidSpec(
            f"port {NAMES_PORT} is where nodes answer their tasks for names: it cannot be published in host mode",
            hint="Publish another port",
        )
    return replace(port, protocol=protocol, publish_mode=mode)


def _check_unique(ports: Iterable[PortConfig]) -> None:
    seen: set[tuple[str, int]] = set()
    for port in ports:
        key = (port.protocol, port.published_port)
        if port.published_port and key in seen:
            raise InvalidSpec("EndpointSpec: duplicate published ports provided")
        seen.add(key)


def _check_balanced(port: PortConfig, task: TaskSpec) -> None:
    """Whether the nodes' load balancers can lead to the port."""
    shown = f"port {port.published_port or port.target_port}"
    if port.protocol not in BALANCED:
        raise Unimplemented(
            f"{shown}/{port.protocol} cannot be published in ingress mode: that is for tcp and udp",
            hint=f"Publish it on the nodes that run tasks: mode=host,target={port.target_port},protocol=sctp",
        )
    on = next((n.target for n in task.networks if n.target in PREDEFINED_NETWORKS), None)
    if on is not None:
        raise InvalidSpec(
            f"{shown} cannot be published in ingress mode by a service on network {on}: it is not in reach there",
            hint="Its ports are the nodes' own already"
            if on == "host"
            else f"Leave --network {on} away, or publish with mode=host",
        )


# --- among the others ---------------------------------------------------------------------------------------
def check_ports(snapshot: ClusterSnapshot, service_id: str, spec: ServiceSpec) -> None:
    """Refuse ports that conflict with what nodes and other services have. Raises InvalidSpec.

    Ingress ports against each other are judged where they are given out.
    """
    wanted = {
        (port.protocol, port.published_port): port.publish_mode
        for port in (spec.endpoint_spec.ports if spec.endpoint_spec is not None else ())
        if port.published_port
    }
    if not wanted:
        return
    for port, name in ssh_ports(snapshot):
        if wanted.get(("tcp", port)) == "ingress":
            raise InvalidSpec(
                f"port '{port}' is that of SSH on node {name}, and every node answers on a published port",
                hint="Publish another port",
            )
    for service in snapshot.services.values():
        if service.id == service_id:
            continue
        for theirs in service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ():
            mode = wanted.get((theirs.protocol, theirs.published_port))
            if theirs.publish_mode == "host" and mode == "ingress":
                raise port_in_use(theirs.published_port, service.spec.name, service.id, "a host-published port")
        for given in service.endpoint.ports:
            if wanted.get((given.protocol, given.published_port)) == "host":
                raise port_in_use(given.published_port, service.spec.name, service.id, "an ingress port")


def port_in_use(port: int, name: str, service_id: str, how: str) -> InvalidSpec:
    words = f"port '{port}' is already in use by service '{name}' ({service_id}) as {how}"
    return InvalidSpec(f"rpc error: code = InvalidArgument desc = {words}")


def ssh_ports(snapshot: ClusterSnapshot) -> Iterator[tuple[int, str]]:
    """Each port on which nodes are reached over SSH, with the name of one such node."""
    found = {node.target.port: node.spec.name for node in snapshot.nodes.values()}
    yield from sorted(found.items())


def occupied_ports(snapshot: ClusterSnapshot, protocol: str) -> int:
    """Bits of the ports that must not be chosen for anybody: nodes' own, and those that services have on them."""
    taken = {port for port, _ in ssh_ports(snapshot)} if protocol == "tcp" else set()
    for service in snapshot.services.values():
        for port in service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ():
            if port.protocol == protocol and port.publish_mode == "host":
                taken.add(port.published_port)
    return sum(1 << port for port in taken)
