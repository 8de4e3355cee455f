"""`service update`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import complete, service_flags
from swarmsh.cli.common import connect
from swarmsh.cli.docker_command import DockerCommand
from swarmsh.cli.images import familiar, registry_auth, resolve_image
from swarmsh.cli.output import note
from swarmsh.cli.service_change import change_service, submit
from swarmsh.cli.service_kept import with_kept_ids
from swarmsh.cli.service_networks import with_network_ids
from swarmsh.cli.service_plan import plan_options, show_plan
from swarmsh.cli.spec_update import updated_spec

Json = dict[str, Any]


@click.command("update", cls=DockerCommand)
@service_flags.UPDATE
@plan_options
@click.argument("name", metavar="SERVICE", shell_complete=complete.service_names)
def update(name: str, plan: bool, form: str, **flags: Any) -> None:
    """Update a service: only what is named changes. Options may stand on either side of SERVICE.

    Of each pair, -rm is applied before -add, so one command can replace an entry.
    """
    manager = connect()
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    if flags["rollback"]:
        others = {key for key, value in flags.items() if value not in (None, ())} - {"rollback", "detach", "quiet"}
        if others:
            raise click.UsageError("other flags may not be combined with --rollback")
        query["rollback"] = "previous"
    auth = ""
    if flags["with_registry_auth"]:
        auth = registry_auth(flags["image"] or _image_of(manager.service(name)["Spec"]))
        headers["X-Registry-Auth"] = auth
    else:
        query["registryAuthFrom"] = "spec"
    warnings: list[str] = []
    flags = with_kept_ids(manager, with_network_ids(manager, flags))

    def change(current: Json) -> Json:
        spec = updated_spec(current, flags)
        if flags["image"]:
            container = spec["TaskTemplate"]["ContainerSpec"]
            container["Image"] = familiar(container["Image"])
            warnings[:] = [] if flags["no_resolve_image"] else [resolve_image(manager, spec, auth)]
        return spec

    if plan:
        _, answer = submit(manager, name, change, "/swarmsh/services/{}/plan", query)
        for warning in filter(None, warnings):
            note(warning)
        show_plan(answer, form)
    service = change_service(manager, name, change, headers, **query)
    for warning in filter(None, warnings):
        note(warning)
    click.echo(name)
    if not flags["detach"]:
        from swarmsh.cli.progress import wait_for_service

        wait_for_service(manager, service["ID"], quiet=bool(flags["quiet"]))


def _image_of(spec: Json) -> str:
    return str(spec["TaskTemplate"]["ContainerSpec"].get("Image", ""))
