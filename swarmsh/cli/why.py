"""`why`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.output import format_option, parse_time, print_json
from swarmsh.client import segment

Json = dict[str, Any]

MOST_NODES = 10  # in words; JSON has all


@click.command("why")
@format_option
@click.argument("name", metavar="SERVICE[.SLOT]", shell_complete=complete.service_or_task_names)
def why(form: str, name: str) -> None:
    """Say why tasks are where they are and as they are: pending, placed, restarted, moved, ended.

    Of a service all slots; of SERVICE.SLOT (SERVICE.NODE if it is global) or a task's id that place alone, with
    each node as the scheduler sees it and all that happened. Of a node that does not take a task, each reason has
    its numbers, and what would mend it.
    """
    found = connect().get(f"/swarmsh/why/{segment(name)}")
    if form == "json":
        print_json(found)
        return
    for line in found["summary"]:
        click.echo(f"{found['service']}: {line}")
    alone = not found["summary"]
    told: set[str] = set()
    for place in found["places"]:
        for line in place_lines(place, alone=alone, told=told):
            click.echo(line)


def place_lines(place: Json, *, alone: bool, told: set[str]) -> list[str]:
    """One place in words. `told`: what was said of nodes already; equal words are not repeated."""
    lines = [f"{place['place']}: {place['verdict']}" + (f"  ({place['task']})" if place["task"] else "")]
    lines += [f"    {reason}" for reason in place["reasons"]]
    # The nodes of a task that is as it should be are of interest only to who asks for it alone.
    nodes = [_node_line(node) for node in place["nodes"]] if alone or not place["ok"] else []
    if nodes and "\n".join(nodes) in told:
        lines.append("    nodes: as above")
    elif nodes:
        told.add("\n".join(nodes))
        more = len(nodes) - MOST_NODES
        lines += [f"    {line}" for line in nodes[:MOST_NODES]]
        lines += [f"    and {more} more nodes: --format json"] if more > 0 else []
    if place["fix"]:
        lines.append(f"    mend it: {place['fix']}")
    if place["log"] and (alone or not place["ok"]):
        lines += ["    last log lines:", *(f"        {line}" for line in place["log"])]
    if alone and place["history"]:
        lines.append("    what happened:")
        lines += [f"        {_moment_line(moment)}" for moment in place["history"]]
    return lines


def _node_line(node: Json) -> str:
    if node["fits"]:
        return f"{node['node']}: fits; {node['ranking']}"
    return f"{node['node']}: {'; '.join(one['why'] for one in node['refusals'])}"


def _moment_line(moment: Json) -> str:
    at = parse_time(moment["at"])
    when = at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at is not None else "-"
    who = moment["task"][:12] if moment["task"] else "-"
    where = f"{moment['node']}: " if moment["node"] and moment["task"] else ""
    return f"{when}  {who:<12}  {where}{moment['what']}"
