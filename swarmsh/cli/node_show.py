"""`node ps`, `inspect`, `check`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, find_node, inspect_each, node_name, node_names, service_names
from swarmsh.cli.output import (
    format_option,
    inspect_options,
    print_json,
    print_table,
)
from swarmsh.cli.task_list import TaskListing, print_tasks, task_list_options
from swarmsh.client import ApiError, ManagerClient, segment
from swarmsh.core.words import size_words
from swarmsh.errors import Kind, SwarmshError

Json = dict[str, Any]

NO_SESSION = "Log in to it with ssh from here; `swarmsh up -i INVENTORY` takes over what you correct in the file"


@click.command("ps")
@click.argument("names", nargs=-1, metavar="[NODE…]", shell_complete=complete.node_names)
@task_list_options("id, name, desired-state")
def ps(names: tuple[str, ...], filters: dict[str, list[str]], listing: TaskListing) -> None:
    """List the tasks on nodes; on all of them if none is named."""
    manager = connect()
    with Failures() as failures:
        wanted = []
        for name in names:
            try:
                wanted.append(find_node(manager, name)["ID"])
            except SwarmshError as error:
                failures.add(error)
        if wanted or not names:
            tasks = manager.tasks(filters | ({"node": wanted} if wanted else {}))
            services = {} if listing.quiet else service_names(manager)
            nodes = {} if listing.quiet else node_names(manager)
            print_tasks(tasks, services, nodes, listing)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete.node_names)
@inspect_options
def inspect(names: tuple[str, ...], pretty: bool, form: str, quiet: bool) -> None:
    """Show all there is about nodes: a JSON array, or with --pretty what people look for."""
    manager = connect()
    inspect_each(names, lambda name: find_node(manager, name), _pretty, form=form, pretty=pretty, quiet=quiet)


def _pretty(node: Json) -> list[str]:
    spec, status, description = node.get("Spec", {}), node.get("Status", {}), node.get("Description", {})
    platform, resources = description.get("Platform", {}), description.get("Resources", {})
    fields = {
        "ID": node["ID"],
        "Name": node_name(node),
        "Hostname": description.get("Hostname", ""),
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted((spec.get("Labels") or {}).items())),
        "State": status.get("State", ""),
        "Message": status.get("Message", ""),
        "Availability": spec.get("Availability", ""),
        "Role": spec.get("Role", ""),
        "Address": status.get("Addr", ""),
        "Platform": "/".join(filter(None, (platform.get("OS", ""), platform.get("Architecture", "")))),
        "CPUs": f"{resources.get('NanoCPUs', 0) / 1e9:g}",
        "Memory": size_words(resources.get("MemoryBytes", 0)),
        "Engine": description.get("Engine", {}).get("EngineVersion", ""),
    }
    return [f"{key + ':':<14} {value}" for key, value in fields.items() if value]


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NODE…]", shell_complete=complete.node_names)
@format_option
@click.option("-q", "--quiet", is_flag=True, help="Only print ids of nodes with a fault.")
def check(names: tuple[str, ...], form: str, quiet: bool) -> None:
    """Prove what nodes offer, and that packets of networks pass between them; exit code 1 if something is missing.

    All nodes if none is named. Between each two nodes, in both directions, UDP 4789, UDP 4790 and ESP (IP protocol
    50) are tried with marked packets, and how large a packet may be; there need not be any network for that.
    """
    manager = connect()
    nodes = [find_node(manager, name) for name in names] if names else manager.nodes()
    found = {node_name(node): check_node(manager, node["ID"]) for node in nodes}
    ids = {node["ID"]: node_name(node) for node in nodes}
    for item in check_paths(manager, [node["ID"] for node in nodes]):
        # The sender's name; of a node that was not asked for, if what it sends to one that was does not arrive.
        name = item.pop("NodeName")
        ids.setdefault(item["NodeID"], name)
        found.setdefault(name, []).append(item)
    found = {name: [{k: v for k, v in item.items() if k != "NodeID"} for item in found[name]] for name in found}
    if quiet:
        for node_id, name in ids.items():
            if not all(item["OK"] for item in found[name]):
                click.echo(node_id)
    elif form == "json":
        print_json([{"Node": node, **item} for node, items in found.items() for item in items])
    else:
        rows = [
            (node, item["Name"], "ok" if item["OK"] else "FAULT", item["Detail"], item["Fix"])
            for node, items in found.items()
            for item in items
        ]
        print_table(rows, ("NODE", "CHECK", "RESULT", "DETAIL", "FIX"))
    if not all(item["OK"] for items in found.values() for item in items):
        raise click.exceptions.Exit(1)


def check_node(manager: ManagerClient, name: str) -> list[Json]:
    """Items with Name, OK, Detail, Fix; a node that cannot be asked is one item that is not OK."""
    try:
        answer = manager.get(f"/swarmsh/nodes/{segment(name)}/check")
    except ApiError as error:
        if error.kind is Kind.NOT_FOUND:
            raise
        # What happened and the way out come as one text.
        detail, _, fix = error.message.partition(". ")
        return [{"Name": "session", "OK": False, "Detail": detail, "Fix": fix or NO_SESSION}]
    return [
        {
            "Name": item.get("name", ""),
            "OK": bool(item.get("ok")),
            "Detail": item.get("detail", ""),
            "Fix": item.get("fix", ""),
        }
        for item in answer["items"]
    ]


def check_paths(manager: ManagerClient, node_ids: list[str]) -> list[Json]:
    """Items as of `check_node`, with NodeID and NodeName of the sender: ways between these nodes and others."""
    answer = manager.post("/swarmsh/nodes/check-paths", {"Nodes": node_ids})
    return [
        {
            "NodeID": item.get("node", ""),
            "NodeName": item.get("node_name") or item.get("node", ""),
            "Name": item.get("name", ""),
            "OK": bool(item.get("ok")),
            "Detail": item.get("detail", ""),
            "Fix": item.get("fix", ""),
        }
        for item in answer["items"]
    ]
