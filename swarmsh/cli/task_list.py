"""Tables of tasks, for `service ps` and `node ps`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import click

from swarmsh.cli.common import filter_option
from swarmsh.cli.output import ago, list_options, parse_time, ports_words, print_list, short, truncated

Json = dict[str, Any]
_Command = TypeVar("_Command", bound=Any)

COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Run": "RUN",  # where there are tasks of jobs
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}


class TaskListing(NamedTuple):
    """How tasks are to be listed, as the options say."""

    form: str
    quiet: bool
    no_trunc: bool
    no_resolve: bool


def task_list_options(filter_keys: str) -> Callable[[_Command], _Command]:
    """What every command that lists tasks takes; it gets `filters`, and a `listing` for `print_tasks`."""

    def add(command: Callable[..., None]) -> Any:
        @wraps(command)
        def with_listing(*args: Any, **options: Any) -> None:
            how = {name: options.pop(name) for name in TaskListing._fields}
            command(*args, listing=TaskListing(**how), **options)

        resolve = click.option("--no-resolve", is_flag=True, help="Do not map ids to names.")
        return filter_option(filter_keys)(resolve(list_options(with_listing)))

    return add


def print_tasks(tasks: list[Json], services: dict[str, str], nodes: dict[str, str], listing: TaskListing) -> None:
    """Tasks slot by slot, the newest of a slot first and those before it indented under it, as in Docker."""
    form, quiet, no_trunc, no_resolve = listing
    if no_resolve:
        services, nodes = {}, {}
    named = [(_name(task, services), task) for task in tasks]
    named.sort(key=lambda pair: pair[1].get("CreatedAt", ""), reverse=True)
    named.sort(key=lambda pair: _natural(pair[0]))
    rows, last = [], ""
    for name, task in named:
        rows.append(
            _row(task, name, nodes, no_trunc=no_trunc) | {"Name_short": f" \\_ {name}" if name == last else name}
        )
        last = name
    columns = COLUMNS if any("Run" in row for row in rows) else {k: v for k, v in COLUMNS.items() if k != "Run"}
    print_list(rows, columns, form=form, quiet=quiet)


def _name(task: Json, services: dict[str, str]) -> str:
    service = services.get(task["ServiceID"], task["ServiceID"])
    return f"{service}.{place_of(task)}"


def place_of(task: Json) -> str:
    """The slot, or where there is none the node's id; the first slot of a job is 0."""
    return str(task.get("Slot", task.get("NodeID", "")))


def _row(task: Json, name: str, nodes: dict[str, str], *, no_trunc: bool) -> Json:
    status = task.get("Status", {})
    image = task.get("Spec", {}).get("ContainerSpec", {}).get("Image", "")
    error = status.get("Err", "")
    state = status.get("State", "").capitalize()
    node = task.get("NodeID", "")
    run = task.get("JobIteration")
    return {
        **({"Run": run["Index"]} if run is not None else {}),
        "ID": task["ID"],
        "ID_short": short(task["ID"], no_trunc=no_trunc),
        "Name": name,
        "Image": image,
        "Image_short": image if no_trunc else image.partition("@")[0],
        "Node": nodes.get(node, node),
        "DesiredState": task.get("DesiredState", "").capitalize(),
        "CurrentState": f"{state} {ago(status.get('Timestamp', '')).lower()}".rstrip(),
        "State": status.get("State", ""),
        "Since": status.get("Timestamp", "") if parse_time(status.get("Timestamp", "")) else "",
        "Error": error,
        "Error_short": f'"{truncated(error, 60, no_trunc=no_trunc)}"' if error else "",
        "Ports": ports_words(status.get("PortStatus", {}).get("Ports") or []),
    }


def _natural(name: str) -> list[tuple[int, int, str]]:
    """`web.2` before `web.10`."""
    parts = re.split(r"(\d+)", name)
    return [(1, 0, part) if index % 2 == 0 else (0, int(part), "") for index, part in enumerate(parts)]
