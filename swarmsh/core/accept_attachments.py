"""The networks that a service names: their form first, and what they are once the cluster is at hand.

Rules and messages are dockerd's (moby `daemon/cluster/services.go`, populateNetworkID) and swarmkit's
(`manager/controlapi/service.go`, validateNetworks).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.find import find_network
from swarmsh.errors import Forbidden, InvalidSpec
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import NetworkAttachment, ServiceSpec

# Dots make no difference to whose name it is: DNS answers it in the service's own networks alone.
_ALIAS = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9_])?")
_LONGEST_ALIAS = 253
# Made on nodes by Swarm, or by us, for their own use.
_NODES_OWN = ("docker_gwbridge", "swgw")


def check_attachments(networks: Sequence[NetworkAttachment]) -> None:
    """What can be said of them without the cluster. Raises InvalidSpec."""
    predefined = [n.target for n in networks if n.target in PREDEFINED_NETWORKS]
    if len(predefined) > 1:
        raise InvalidSpec("a service can use only one of the networks host, bridge and none")
    if predefined and len(networks) > 1:
        raise InvalidSpec(
            f"a service on network {predefined[0]} can be on no other one",
            hint="Its containers share a network of their node's Engine; name overlays alone, or it alone",
        )
    for network in networks:
        _check_aliases(network)


def _check_aliases(network: NetworkAttachment) -> None:
    if network.aliases and network.target in PREDEFINED_NETWORKS:
        raise InvalidSpec(
            f"network {network.target} knows no names, and the service has the alias {network.aliases[0]} there",
            hint="Aliases are for overlays: `docker network create --driver overlay NAME`",
        )
    for alias in network.aliases:
        if not _ALIAS.fullmatch(alias) or len(alias) > _LONGEST_ALIAS:
            raise InvalidSpec(
                f"invalid alias '{alias}' on network {network.target}",
                hint=f"An alias is a DNS name of at most {_LONGEST_ALIAS} characters",
            )


def resolve_networks(snapshot: ClusterSnapshot, spec: ServiceSpec) -> ServiceSpec:
    """The spec with its networks' ids for their names. Raises NotFound, Ambiguous, Forbidden, InvalidSpec."""
    template = spec.task_template
    if not template.networks:
        return spec
    resolved = tuple(_resolved(snapshot, network) for network in template.networks)
    (target, times), *_ = Counter(network.target for network in resolved).most_common(1)
    if times > 1:
        name = snapshot.networks[target].spec.name if target in snapshot.networks else target
        raise InvalidSpec(f"service is already attached to network {name}", hint="Name it once, with all aliases")
    return replace(spec, task_template=replace(template, networks=resolved))


def _resolved(snapshot: ClusterSnapshot, network: NetworkAttachment) -> NetworkAttachment:
    if network.target in PREDEFINED_NETWORKS:
        return network
    if network.target == "ingress":
        raise InvalidSpec(
            'Service cannot be explicitly attached to the ingress network "ingress"',
            hint="Publish a port: every node answers on it",
        )
    if network.target in _NODES_OWN:
        raise Forbidden(
            f"The network {network.target} cannot be used with services. Only networks scoped to the swarm can be "
            "used, such as those created with the overlay driver"
        )
    return replace(network, target=find_network(snapshot, network.target).id)
