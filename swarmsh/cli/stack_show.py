"""`stack ls`, `ps`, `services`, `config`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, filter_option, node_names
from swarmsh.cli.output import format_option, list_options, note, print_json, print_list
from swarmsh.cli.service_show import SERVICE_COLUMNS, service_row
from swarmsh.cli.stack_deploy import file_options
from swarmsh.cli.stack_files import canonical, read_project
from swarmsh.cli.task_list import TaskListing, print_tasks, task_list_options
from swarmsh.client import ManagerClient
from swarmsh.errors import NotFound
from swarmsh.model.stacks import NAMESPACE

Json = dict[str, Any]


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Only print names.")
@format_option
def ls(form: str, quiet: bool) -> None:
    """List stacks, whatever deployed them."""
    rows = [{"ID": found["Name"], **found} for found in connect().stacks()]
    names = ("Name", "Services", "Networks", "Secrets", "Configs")
    print_list(rows, {name: name.upper() for name in names}, form=form, quiet=quiet)


@click.command("ps")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@task_list_options("id, name, node, desired-state")
def ps(name: str, filters: dict[str, list[str]], listing: TaskListing) -> None:
    """List the tasks of a stack."""
    manager = connect()
    services = {service["ID"]: service["Spec"]["Name"] for service in services_of(manager, name)}
    if filters.get("node"):
        filters["node"] = [manager.node(node)["ID"] for node in filters["node"]]
    tasks = manager.tasks(filters | {"label": [*filters.get("label", []), f"{NAMESPACE}={name}"]})
    print_tasks(tasks, services, {} if listing.quiet else node_names(manager), listing)


@click.command("services")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@filter_option("id, name, label, mode")
@list_options
def services(name: str, filters: dict[str, list[str]], form: str, quiet: bool, no_trunc: bool) -> None:
    """List the services of a stack."""
    found = services_of(connect(), name, filters)
    rows = [service_row(service, no_trunc) for service in sorted(found, key=lambda one: one["Spec"]["Name"])]
    print_list(rows, SERVICE_COLUMNS, form=form, quiet=quiet)


def services_of(manager: ManagerClient, stack: str, filters: dict[str, list[str]] | None = None) -> list[Json]:
    """Raises NotFound for a stack that has none at all."""
    own = f"{NAMESPACE}={stack}"
    asked = dict(filters or {})
    found = manager.services(asked | {"label": [*asked.get("label", []), own]}, status=True)
    if not found and not (asked and manager.services({"label": [own]})):
        raise NotFound(f"nothing found in stack: {stack}", hint="`swarmsh stack ls` shows the stacks")
    return found


@click.command("config")
@file_options
@click.option(
    "-o", "--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="How."
)
def config(files: tuple[str, ...], env_files: tuple[str, ...], profiles: tuple[str, ...], form: str) -> None:
    """Print compose files as one: merged, with variables filled in, in the long syntax. No manager is asked."""
    project, _ = read_project(files, env_files=env_files, profiles=profiles)
    for warning in project.noted():
        note(f"Warning: {warning}")
    if form == "json":
        print_json(canonical(project))
        return
    import yaml

    click.echo(yaml.safe_dump(canonical(project), sort_keys=False, allow_unicode=True), nl=False)
