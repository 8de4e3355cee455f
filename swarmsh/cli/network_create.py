"""`network create`: Docker's flags, made into the body of `POST /networks/create` as its CLI makes it."""

from __future__ import annotations

import ipaddress
from typing import Any

import click

from swarmsh.cli.common import connect
from swarmsh.cli.docker_command import DockerCommand
from swarmsh.cli.output import note
from swarmsh.cli.values import LABEL, LIST, pairs

Json = dict[str, Any]


@click.command("create", cls=DockerCommand)
@click.option("-d", "--driver", default="overlay", show_default=True, help="The driver; there is no other one.")
@click.option("-o", "--opt", multiple=True, type=LIST, help="Driver option, such as encrypted.")
@click.option("--label", multiple=True, type=LABEL, help="Label (KEY=VALUE).")
@click.option("--subnet", multiple=True, type=LIST, help="Subnet in CIDR, /16 to /28; else one is chosen.")
@click.option("--gateway", multiple=True, type=LIST, help="An address of the subnet that no task or service gets.")
@click.option("--ip-range", multiple=True, type=LIST, help="Part of the subnet (CIDR) for tasks and services.")
@click.option("--aux-address", multiple=True, type=LIST, help="NAME=ADDRESS that no task or service gets.")
@click.option("--internal", is_flag=True, help="No way from it to the outside.")
@click.option("--attachable", is_flag=True, help="Kept and shown; containers cannot be attached by hand.")
@click.option("--ipv4", is_flag=True, default=None, help="IPv4 addresses: always.")
@click.option("--ipv6", is_flag=True, default=None, help="IPv6 addresses: not there yet.")
@click.option("--scope", default="", help="swarm; there is no other one.")
@click.option("--ingress", is_flag=True, help="Refused: the routing mesh needs no network to be made.")
@click.option("--config-only", is_flag=True, help="Refused: a network is not only a configuration.")
@click.option("--config-from", default="", help="Refused: options are given to each network.")
@click.option("--ipam-driver", default="default", show_default=True, help="There is no other IPAM driver.")
@click.option("--ipam-opt", multiple=True, type=LIST, help="Option of the IPAM driver (KEY=VALUE).")
@click.argument("name", metavar="NETWORK")
def create(name: str, **flags: Any) -> None:
    """Create an overlay network, and print its id."""
    try:
        config = ipam_config(flags["subnet"], flags["ip_range"], flags["gateway"], pairs(flags["aux_address"]))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    body: Json = {
        "Name": name,
        "Driver": flags["driver"],
        "Options": pairs(flags["opt"]),
        "IPAM": {"Driver": flags["ipam_driver"], "Options": pairs(flags["ipam_opt"]), "Config": config},
        "Labels": pairs(flags["label"]),
        "Scope": flags["scope"],
    }
    for flag, key in (
        ("internal", "Internal"),
        ("attachable", "Attachable"),
        ("ingress", "Ingress"),
        ("config_only", "ConfigOnly"),
    ):
        body[key] = flags[flag]
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if flags[flag] is not None:
            body[key] = flags[flag]
    if flags["config_from"]:
        body["ConfigFrom"] = {"Network": flags["config_from"]}
    answer = connect().post("/networks/create", body)
    if answer.get("Warning"):
        note(answer["Warning"])
    click.echo(answer["Id"])


def ipam_config(
    subnets: tuple[str, ...], ranges: tuple[str, ...], gateways: tuple[str, ...], auxiliary: dict[str, str]
) -> list[Json]:
    """Each range and address with the subnet it lies in (docker/cli `createIPAMConfig`). Raises ValueError."""
    if len(subnets) < max(len(ranges), len(gateways)):
        raise ValueError("every ip-range or gateway must have a corresponding subnet")
    networks = {text: _network("subnet", text) for text in subnets}
    found: dict[str, Json] = {text: {"Subnet": text} for text in subnets}
    if any(a.overlaps(b) for i, a in enumerate(networks.values()) for b in list(networks.values())[:i]):
        raise ValueError("multiple overlapping subnet configuration is not supported")
    for text in ranges:
        address = _network("ip-range", text)[0]
        _put(found, networks, address, "IPRange", text, f"range {text}")
    for text in gateways:
        _put(found, networks, _address(text), "Gateway", text, f"gateway {text}")
    for name, text in auxiliary.items():
        subnet = _subnet_of(networks, _address(text), f"aux-address {text}")
        found[subnet].setdefault("AuxiliaryAddresses", {})[name] = text
    return list(found.values())


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _put(
    found: dict[str, Json], networks: dict[str, Network], address: Address, key: str, text: str, what: str
) -> None:
    subnet = _subnet_of(networks, address, what)
    if key in found[subnet]:
        raise ValueError(f"cannot configure {what} and {found[subnet][key]} for the same subnet ({subnet})")
    found[subnet][key] = text


def _subnet_of(networks: dict[str, Network], address: Address, what: str) -> str:
    for text, network in networks.items():
        if address in network:
            return text
    raise ValueError(f"no matching subnet for {what}")


def _network(what: str, text: str) -> Network:
    if "/" not in text:
        raise ValueError(f"invalid {what}: {text!r} is not of the form ADDRESS/LENGTH")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"invalid {what}: {error}") from None


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
