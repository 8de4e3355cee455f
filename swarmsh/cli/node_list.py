"""`node ls`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli.common import connect, filter_option, node_name
from swarmsh.cli.output import list_options, print_list, short, truncated

Json = dict[str, Any]

COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "State": "STATE",
    "Availability": "AVAILABILITY",
    "Role": "ROLE",
    "Engine": "ENGINE",
    "Address": "ADDRESS",
    "Message": "MESSAGE",
}


@click.command("ls")
@filter_option("id, name, label, node.label, role, membership")
@list_options
def ls(filters: dict[str, list[str]], form: str, quiet: bool, no_trunc: bool) -> None:
    """List nodes, and why one is not ready."""
    rows = [_row(node, no_trunc=no_trunc) for node in connect().nodes(filters)]
    print_list(sorted(rows, key=lambda row: str(row["Name"])), COLUMNS, form=form, quiet=quiet)


def _row(node: Json, *, no_trunc: bool) -> Json:
    spec, status, description = node.get("Spec", {}), node.get("Status", {}), node.get("Description", {})
    message = status.get("Message", "")
    return {
        "ID": node["ID"],
        "ID_short": short(node["ID"], no_trunc=no_trunc),
        "Name": node_name(node),
        "Hostname": description.get("Hostname", ""),
        "State": status.get("State", ""),
        "Availability": spec.get("Availability", ""),
        "Role": spec.get("Role", ""),
        "Engine": description.get("Engine", {}).get("EngineVersion", ""),
        "Address": status.get("Addr", ""),
        "Labels": spec.get("Labels") or {},
        "Message": message,
        "Message_short": truncated(message, 60, no_trunc=no_trunc),
    }
