"""Networks of the stack, and where its services are attached.

A service's short name is an alias in the stack's own networks alone: on an external one, which other stacks
share, their services of that name would answer for ours. There a service has the names that the file says.
(The docker CLI gives the short name everywhere.)
"""

from __future__ import annotations

from collections.abc import Set

from swarmsh.compose.convert.names import Names
from swarmsh.compose.convert.spot import Spot, Warn
from swarmsh.model.specs import IPAM, IPAMConfig, NetworkAttachment, NetworkSpec
from swarmsh.model.stacks import StackNetwork

DEFAULT = "default"
_PREDEFINED = ("host", "bridge", "none")
_NODES_OWN = ("bridge", "default")  # network modes that mean the Engine's usual network


def attachments_of(service: Spot, networks: Spot, names: Names) -> tuple[NetworkAttachment, ...]:
    """In the order of the networks' full names, as the docker CLI sends them. Raises ComposeError."""
    if service["network_mode"]:
        return _mode(service)
    wanted = dict(service["networks"].items()) or {DEFAULT: service["networks"][DEFAULT]}
    found = (_attachment(short, spot, service, networks, names) for short, spot in wanted.items())
    return tuple(sorted(found, key=lambda attachment: attachment.target))


def _attachment(short: str, spot: Spot, service: Spot, networks: Spot, names: Names) -> NetworkAttachment:
    if short != DEFAULT and short not in networks:
        raise spot.wrong(f"undefined network '{short}'", hint=f"Declare it at the top: `networks: {{{short}: }}`")
    declared = networks[short]
    target = names.of(declared, short)
    aliases = spot["aliases"].texts()
    if target in _PREDEFINED:
        if aliases:
            raise spot["aliases"].wrong(f"network {target} knows no names: aliases are for overlays")
    elif not declared["external"].flag():
        aliases = (*aliases, str(service.path[-1]))
    return NetworkAttachment(target=target, aliases=aliases, driver_opts=spot["driver_opts"].pairs())


def _mode(service: Spot) -> tuple[NetworkAttachment, ...]:
    """`network_mode`: the networks of the node's Engine that a task can share or do without."""
    spot, mode = service["network_mode"], service["network_mode"].text()
    if mode.startswith(("service:", "container:")):
        raise spot.wrong(
            f"'{mode}' shares the network of one container, and tasks have no place beside a certain other one",
            hint="Give both a network and let one reach the other by its name, or make them one image",
        )
    if service["networks"]:
        raise spot.wrong("excludes networks: its containers share a network of their node's Engine")
    if mode in ("host", "none"):
        return (NetworkAttachment(target=mode),)
    if mode in _NODES_OWN:
        return (NetworkAttachment(target="bridge"),)
    raise spot.wrong(f"there is no network mode '{mode}'", hint="Use host, none or bridge, or `networks`")


def networks_of(project: Spot, used: Set[str], names: Names, warn: Warn) -> dict[str, StackNetwork]:
    """The networks that services use, by short name; others are not made, as the docker CLI does not make them."""
    declared = project["networks"]
    for short, spot in declared.items():
        if short not in used and short != DEFAULT:
            warn(spot, "no service uses it, and it is not made")
    return {short: _network(declared[short], short, names) for short in sorted(used)}


def _network(spot: Spot, short: str, names: Names) -> StackNetwork:
    name = names.of(spot, short)
    if spot["external"].flag():
        return StackNetwork(spec=NetworkSpec(name=name), external=True)
    driver = spot["driver"].text("overlay") or "overlay"
    if driver != "overlay":
        raise spot["driver"].wrong(
            f"networks of driver {driver} are each node's own, and a stack is on several nodes",
            hint="Leave the driver out: stacks have overlays",
        )
    spec = NetworkSpec(
        name=name,
        labels=names.labelled(spot["labels"].pairs()),
        driver=driver,
        options=spot["driver_opts"].pairs(),
        internal=spot["internal"].flag(),
        attachable=spot["attachable"].flag(),
        ipam=_ipam(spot["ipam"]),
    )
    return StackNetwork(spec=spec)


def _ipam(spot: Spot) -> IPAM | None:
    configs = tuple(
        IPAMConfig(
            subnet=config["subnet"].text(),
            ip_range=config["ip_range"].text(),
            gateway=config["gateway"].text(),
            auxiliary_addresses=config["aux_addresses"].pairs(),
        )
        for config in spot["config"].each()
    )
    found = IPAM(driver=spot["driver"].text(), options=spot["options"].pairs(), config=configs)
    return found if found != IPAM() else None
