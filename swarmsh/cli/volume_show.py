"""`volume ls`, `inspect`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, filter_option
from swarmsh.cli.output import note, print_json, print_list
from swarmsh.client import ApiError, encode_filters, segment
from swarmsh.core.words import size_words

Json = dict[str, Any]

COLUMNS = {"Node": "NODE", "Name": "VOLUME", "Driver": "DRIVER", "Services": "SERVICES", "Used": "IN USE"}
_form = click.option(
    *("-o", "--format", "form"), type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="How to print.",
)  # fmt: skip
_size = click.option("-s", "--size", is_flag=True, help="Also their sizes; counting may take the Engines a while.")


@click.command("ls")
@filter_option("name, node, service, driver, label, label!, dangling")
@_size
@click.option("--no-trunc", is_flag=True, help="Do not shorten names of anonymous volumes.")
@click.option("-q", "--quiet", is_flag=True, help="Only print names, as NODE/NAME.")
@_form
def ls(filters: dict[str, list[str]], size: bool, no_trunc: bool, quiet: bool, form: str) -> None:
    """List volumes of all nodes, and who uses them.

    Nodes that do not answer are named on standard error.
    """
    query = {"filters": encode_filters(filters), "size": "1" if size else None}
    answer = connect().get("/swarmsh/volumes", **query)
    if form == "json" and not quiet:
        print_json(answer["volumes"])
    else:
        columns = COLUMNS | ({"Size": "SIZE"} if size else {})
        print_list([_row(one, no_trunc) for one in answer["volumes"]], columns, form="table", quiet=quiet)
    note_silent(answer["silent"])


def volume_path(name: str) -> str:
    """NODE/NAME as the end of a path."""
    return "/".join(segment(part) for part in name.split("/"))


def note_silent(silent: list[Json]) -> None:
    for one in silent:
        had = f"; it had {', '.join(one['volumes'])}" if one["volumes"] else ""
        note(f"node {one['node']} did not tell: {one['why']}{had}")


def _row(volume: Json, no_trunc: bool) -> Json:
    name = volume["name"]
    size = volume["size_bytes"]
    return {
        "ID": volume["id"],
        "Node": volume["node"],
        "Name": f"{name[:12]}…" if volume["anonymous"] and len(name) > 24 and not no_trunc else name,
        "Driver": volume["driver"],
        "Services": ", ".join(volume["services"]),
        "Used": ", ".join(volume["tasks"]) or ("yes" if volume["in_use"] else "no"),
        "Size": "-" if size is None else size_words(size),
    }


@click.command("inspect")
@_size
@click.option("--pretty", is_flag=True, help="For people instead of programs.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME…", shell_complete=complete.volume_names)
def inspect(size: bool, pretty: bool, names: tuple[str, ...]) -> None:
    """Show all there is about volumes: a JSON array, or with --pretty what people look for."""
    manager = connect()
    found: list[Json] = []
    with Failures() as failures:
        for name in names:
            try:
                path = f"/swarmsh/volumes/{volume_path(name)}"
                found.append(manager.get(path, size="1" if size else None))
            except ApiError as error:
                failures.add(error)
        if pretty:
            click.echo("\n\n".join("\n".join(_pretty(one)) for one in found))
        else:
            print_json(found)


def _pretty(volume: Json) -> list[str]:
    fields = {
        "Name": volume["name"],
        "Node": volume["node"],
        "Driver": volume["driver"],
        "Mountpoint": volume["mountpoint"],
        "Created": volume["created_at"],
        "Size": "" if volume["size_bytes"] is None else size_words(volume["size_bytes"]),
        "In use": "yes" if volume["in_use"] else "no",
        "Services": ", ".join(volume["services"]),
        "Tasks": ", ".join(volume["tasks"]),
        "Options": ", ".join(f"{key}={value}" for key, value in sorted(volume["options"].items())),
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted(volume["labels"].items())),
    }
    return [f"{key + ':':<12} {value}" for key, value in fields.items() if value]
