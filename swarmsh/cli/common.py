"""What several commands share: the manager, filters, names of nodes and services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click

from swarmsh.cli.output import print_inspected
from swarmsh.client import ApiError, ManagerClient
from swarmsh.core.words import counted as counted
from swarmsh.errors import Kind, NotFound, SwarmshError

Json = dict[str, Any]
_Command = TypeVar("_Command", bound=Any)
T = TypeVar("T")

MOST_NAMES = 20  # in a message


def connect() -> ManagerClient:
    """A client of the manager that the environment names; nothing is sent yet."""
    return ManagerClient()


def filter_option(keys: str, *names: str) -> Callable[[_Command], _Command]:
    """`--filter KEY=VALUE` (or `names`), repeated; the server knows the keys, `keys` is for the help."""

    def parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for value in values:
            key, equals, wanted = value.partition("=")
            if not equals:
                raise click.BadParameter(f"{value!r} is not of the form KEY=VALUE", ctx, param)
            found.setdefault(key.strip().lower(), []).append(wanted.strip())
        return found

    return click.option(
        *(names or ("-f", "--filter")),
        "filters",
        multiple=True,
        callback=parse,
        help=f"KEY=VALUE; keys: {keys}. May be repeated.",
    )


class Failures:
    """For commands that take several names: each is tried, each failure is printed, the end is exit code 1."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Failures:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None and self.count:
            raise click.exceptions.Exit(1)

    def add(self, error: SwarmshError) -> None:
        self.count += 1
        click.echo(f"Error: {error}", err=True)


def each(names: Iterable[str], act: Callable[[str], T]) -> Iterator[tuple[str, T]]:
    """Each name with what `act` gave for it. One that fails is printed, and the end is exit code 1."""
    with Failures() as failures:
        for name in names:
            try:
                done = act(name)
            except SwarmshError as error:
                failures.add(error)
            else:
                yield name, done


def inspect_each(
    names: Iterable[str],
    fetch: Callable[[str], Json],
    lines: Callable[[Json], list[str]],
    *,
    form: str,
    pretty: bool,
    quiet: bool,
) -> None:
    """Print all that are found, see `print_inspected`, after the errors of those that are not."""
    with Failures() as failures:
        found = []
        for name in names:
            try:
                found.append(fetch(name))
            except SwarmshError as error:
                failures.add(error)
        print_inspected(found, lines, form=form, pretty=pretty, quiet=quiet)


def remove_each(names: Iterable[str], remove: Callable[[str], object], *, force: bool) -> None:
    """Remove each and print its name; with `force` one that is not there is no failure."""
    with Failures() as failures:
        for name in names:
            try:
                remove(name)
            except ApiError as error:
                if not (force and error.kind is Kind.NOT_FOUND):
                    failures.add(error)
            else:
                click.echo(name)


def node_name(node: Json) -> str:
    """The inventory's name, or the node's own where there is none."""
    return str(node.get("Spec", {}).get("Name") or node.get("Description", {}).get("Hostname") or node["ID"])


def find_node(manager: ManagerClient, name: str) -> Json:
    """The node of a name or id; `self` is the one that stands for the manager, as in Docker.

    Raises NotFound naming the nodes that there are.
    """
    try:
        return manager.node(name)
    except ApiError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
    nodes = manager.nodes()
    if name == "self":
        here = (manager.get("/info").get("Swarm") or {}).get("NodeID")
        for node in nodes:
            if node["ID"] == here:
                return node
        raise NotFound(
            "there is no node self: the manager is a process and no node, and no node has its role yet",
            hint="Add one with `swarmsh node add`",
        )
    names = sorted(node_name(node) for node in nodes)
    there = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else "")
    hint = f"There are {there}" if names else "There is none yet: add one with `swarmsh node add`"
    raise NotFound(f"node {name} not found", hint=hint)


def node_names(manager: ManagerClient) -> dict[str, str]:
    """Node id -> name."""
    return {node["ID"]: node_name(node) for node in manager.nodes()}


def service_names(manager: ManagerClient) -> dict[str, str]:
    """Service id -> name."""
    return {service["ID"]: service["Spec"]["Name"] for service in manager.services()}


def task_place(task: Json, service: str, node: str = "") -> str:
    """`web.2`; a global service's task has its node's name (or id) in the slot's place."""
    return f"{service}.{task.get('Slot') or node or task.get('NodeID', '')}"
