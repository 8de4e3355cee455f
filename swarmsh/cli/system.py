"""`events`, `info`, `version`."""

from __future__ import annotations

import json
import platform
import time
from datetime import datetime
from typing import Any

import click

import swarmsh
from swarmsh.cli.common import connect, filter_option
from swarmsh.cli.output import format_option, lb_timeouts_words, note, print_json
from swarmsh.cli.service_logs import parse_since
from swarmsh.client import API_VERSION, Json, ManagerClient, NoManager, encode_filters
from swarmsh.core.words import size_words


@click.command("events")
@filter_option("type, event, service, node, label")
@click.option("--since", default="", help="Show events since a time or of the last while (42m).")
@click.option("--until", default="", help="Stop at a time.")
@format_option
def events(filters: dict[str, list[str]], since: str, until: str, form: str) -> None:
    """Follow what happens in the cluster; with --format json one object a line."""
    now = time.time()
    query: dict[str, Any] = {
        "filters": encode_filters(filters),
        "since": parse_since(since, now) if since else None,
        "until": parse_since(until, now) if until else None,
    }
    with connect().stream("/events", **query) as stream:
        for line in stream.lines():
            if line.strip():
                event = json.loads(line)
                click.echo(json.dumps(event) if form == "json" else _event_line(event))


def _event_line(event: Json) -> str:
    """`2026-11-22T15:31:04.000000 service update <id> (name=web, …)`, as Docker prints them."""
    stamp = datetime.fromtimestamp(event.get("timeNano", event.get("time", 0) * 10**9) / 1e9).astimezone()
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    words = [stamp.isoformat(), event.get("Type", ""), event.get("Action", ""), actor.get("ID", "")]
    return " ".join(words) + (f" ({attributes})" if attributes else "")


@click.command("info")
@format_option
def info(form: str) -> None:
    """Show the cluster and its manager."""
    manager = connect()
    found = manager.get("/info")
    if form == "json":
        print_json(found)
        return
    swarm = found.get("Swarm") or {}
    cluster = swarm.get("Cluster") or {}
    fields = {
        "Manager": manager.path,
        "Version": found.get("ServerVersion", ""),
        "Swarm": swarm.get("LocalNodeState", ""),
        "Cluster ID": cluster.get("ID", ""),
        "Created": cluster.get("CreatedAt", ""),
        "Nodes": swarm.get("Nodes", ""),
        "Managers": swarm.get("Managers", ""),
        "Task history": ((cluster.get("Spec") or {}).get("Orchestration") or {}).get(
            "TaskHistoryRetentionLimit", ""
        ),
        **_settings(manager, cluster),
        "Name": found.get("Name", ""),
        "CPUs": found.get("NCPU", ""),
        "Memory": size_words(found["MemTotal"]) if found.get("MemTotal") else "",
        "Error": swarm.get("Error", ""),
    }
    for key, value in fields.items():
        if value != "":
            click.echo(f"{key + ':':<14} {value}")
    for warning in found.get("Warnings") or ():
        note(f"WARNING: {warning}")


def _settings(manager: ManagerClient, cluster: Json) -> dict[str, str]:
    """Those that Docker has no word for; none without a cluster."""
    if not cluster.get("ID"):
        return {}
    found = manager.get("/swarmsh/cluster")
    return {
        "Down after": f"{found['DownAfterS']:g} s",
        "LB time-outs": lb_timeouts_words(found["LBTimeouts"]),
        "Revisions kept": f"{found['RevisionsKept']} of each service",
    }


@click.command("version")
@format_option
def version(form: str) -> None:
    """Show the versions of this client and the manager."""
    client = {
        "Version": swarmsh.__version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
    }
    try:
        server: dict[str, Any] | None = connect().get("/version")
    except NoManager as error:
        if form == "table":
            note(f"Warning: {error}")
        server = None
    if form == "json":
        print_json({"Client": client, "Server": server})
        return
    for side, fields in (("Client", client), ("Manager", server or {})):
        if fields:
            click.echo(f"{side}:")
        for name, key in (("Version", "Version"), ("API version", "ApiVersion"), ("Python", "PythonVersion")):
            if fields.get(key):
                click.echo(f" {name + ':':<13} {fields[key]}")
