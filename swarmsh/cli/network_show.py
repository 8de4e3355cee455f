"""`network ls`, `inspect`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, filter_option
from swarmsh.cli.output import inspect_options, list_options, print_inspected, print_list, short
from swarmsh.client import ApiError, segment

Json = dict[str, Any]

COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Subnet": "SUBNET"}


@click.command("ls")
@filter_option("driver, id, label, name, scope, type, dangling")
@list_options
def ls(filters: dict[str, list[str]], form: str, quiet: bool, no_trunc: bool) -> None:
    """List networks; bridge, host and none are those that every node's Engine has."""
    rows = [_row(network, no_trunc) for network in connect().networks(filters)]
    print_list(sorted(rows, key=lambda row: str(row["Name"])), COLUMNS, form=form, quiet=quiet)


def _row(network: Json, no_trunc: bool) -> Json:
    return {
        "ID": network["Id"],
        "ID_short": short(network["Id"], no_trunc=no_trunc),
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "Subnet": _subnet(network),
        "Internal": bool(network.get("Internal")),
        "Attachable": bool(network.get("Attachable")),
        "Labels": network.get("Labels") or {},
        "Created": network.get("Created", ""),
    }


def _subnet(network: Json) -> str:
    configs = (network.get("IPAM") or {}).get("Config") or []
    return ", ".join(config.get("Subnet", "") for config in configs)


@click.command("inspect")
@click.option("-v", "--verbose", is_flag=True, help="Also nodes, services, VIPs and tasks on it.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK…", shell_complete=complete.network_names)
@inspect_options
def inspect(names: tuple[str, ...], verbose: bool, pretty: bool, form: str, quiet: bool) -> None:
    """Show all there is about networks: a JSON array, or with --pretty what people look for."""
    manager = connect()
    found = []
    with Failures() as failures:
        for name in names:
            try:
                found.append(manager.get(f"/networks/{segment(name)}", verbose="true" if verbose else None))
            except ApiError as error:
                failures.add(error)
        if quiet:
            for network in found:
                click.echo(network["Id"])
        else:
            print_inspected(found, _pretty, form=form, pretty=pretty, quiet=False)


def _pretty(network: Json) -> list[str]:
    config: Json = next(iter((network.get("IPAM") or {}).get("Config") or []), {})
    flags = [word for word in ("Internal", "Attachable") if network.get(word)]
    fields = {
        "ID": network["Id"],
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "Subnet": config.get("Subnet", ""),
        "IP range": config.get("IPRange", ""),
        "Gateway": config.get("Gateway", ""),
        "Flags": ", ".join(flag.lower() for flag in flags),
        "Options": ", ".join(f"{key}={value}" for key, value in sorted((network.get("Options") or {}).items())),
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted((network.get("Labels") or {}).items())),
        "Nodes": ", ".join(f"{peer['Name']} ({peer['IP']})" for peer in network.get("Peers") or []),
    }
    lines = [f"{key + ':':<14} {value}" for key, value in fields.items() if value]
    for name, service in sorted((network.get("Services") or {}).items()):
        lines.append(f"{'Service:':<14} {name}, VIP {service['VIP']}")
        lines += [f"  {task['Name']} {task['EndpointIP']}" for task in service["Tasks"]]
    return lines
