"""`node update`, `promote`, `demote`, `rm`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect
from swarmsh.cli.output import note
from swarmsh.cli.values import LABEL, pairs
from swarmsh.client import ApiError, ManagerClient, segment
from swarmsh.core.labels import may_leave_volumes
from swarmsh.core.volumes import local_mounts
from swarmsh.model.specs import TaskSpec
from swarmsh.model.wire import from_wire

Json = dict[str, Any]

ATTEMPTS = 5


def change_node(manager: ManagerClient, name: str, change: Callable[[Json], Json]) -> None:
    """Send `change(spec)` as the node's spec, again on the newest one if someone else was quicker."""
    for attempt in range(1, ATTEMPTS + 1):
        node = manager.node(name)
        try:
            version = node["Version"]["Index"]
            manager.post(f"/nodes/{segment(node['ID'])}/update", change(node["Spec"]), version=version)
            return
        except ApiError as error:
            if not error.out_of_sequence or attempt == ATTEMPTS:
                raise


@click.command("update")
@click.option(
    "--availability", type=click.Choice(["active", "pause", "drain"]), help="Takes tasks, keeps, or loses them."
)
@click.option("--role", type=click.Choice(["worker", "manager"]), help="A word for constraints and listings.")
@click.option("--label-add", multiple=True, type=LABEL, help="Add or update a label (KEY=VALUE).")
@click.option("--label-rm", multiple=True, help="Remove a label by its key.")
@click.argument("name", metavar="NODE", shell_complete=complete.node_names)
def update(
    availability: str | None, role: str | None, label_add: tuple[str, ...], label_rm: tuple[str, ...], name: str
) -> None:
    """Let a node take new tasks (active), keep what it has (pause) or hand it over (drain); change its labels."""
    if not (availability or role or label_add or label_rm):
        raise click.UsageError("nothing to change: give --availability, --role, --label-add or --label-rm")

    def change(spec: Json) -> Json:
        labels = {key: value for key, value in (spec.get("Labels") or {}).items() if key not in label_rm}
        words = {"Availability": availability, "Role": role}
        return spec | {"Labels": labels | pairs(label_add)} | {key: word for key, word in words.items() if word}

    manager = connect()
    change_node(manager, name, change)
    click.echo(name)
    if availability == "drain":
        with suppress(ApiError):  # words only: the change is made
            _note_data(manager, name)


def _note_data(manager: ManagerClient, name: str) -> None:
    """Which tasks of a node that was drained stop now, and wait for it, because their data is there."""
    node = manager.node(name)
    services = {service["ID"]: service["Spec"] for service in manager.services()}
    for task in manager.tasks({"node": [node["ID"]], "desired-state": ["running"]}):
        spec = services.get(task["ServiceID"])
        mounts = local_mounts(from_wire(TaskSpec, task["Spec"]))
        if spec is None or not mounts or not task.get("Slot") or may_leave_volumes(spec.get("Labels") or {}):
            continue
        names = ", ".join(dict.fromkeys(mount.source for mount in mounts))
        place = f"{spec['Name']}.{task['Slot']}"
        note(f"{place} stops and waits until {name} is active again: its data is there, in {names}")


def _change_roles(names: tuple[str, ...], role: str) -> None:
    manager = connect()
    with Failures() as failures:
        for name in names:
            try:
                change_node(manager, name, lambda spec: spec | {"Role": role})
            except ApiError as error:
                failures.add(error)
            else:
                click.echo(f"Node {name} is now a {role}.")


@click.command("promote")
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete.node_names)
def promote(names: tuple[str, ...]) -> None:
    """Give nodes the word manager, which constraints and listings use; nothing else changes."""
    _change_roles(names, "manager")


@click.command("demote")
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete.node_names)
def demote(names: tuple[str, ...]) -> None:
    """Take the word manager from nodes."""
    _change_roles(names, "worker")


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Also a node that is not down.")
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete.node_names)
def rm(force: bool, names: tuple[str, ...]) -> None:
    """Remove nodes from the cluster."""
    manager = connect()
    with Failures() as failures:
        for name in names:
            try:
                manager.delete(f"/nodes/{segment(name)}", force=1 if force else None)
            except ApiError as error:
                failures.add(error)
            else:
                click.echo(name)
