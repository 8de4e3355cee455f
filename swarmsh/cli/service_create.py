"""`service create`."""

from __future__ import annotations

from typing import Any

import click

from swarmsh.cli import service_flags
from swarmsh.cli.common import connect
from swarmsh.cli.docker_command import DockerCommand
from swarmsh.cli.images import familiar, registry_auth, resolve_image
from swarmsh.cli.output import note
from swarmsh.cli.service_kept import with_kept_ids
from swarmsh.cli.service_networks import with_network_ids
from swarmsh.cli.service_plan import plan_options, show_plan
from swarmsh.cli.spec_create import create_spec


@click.command("create", cls=DockerCommand, context_settings={"allow_interspersed_args": False})
@service_flags.CREATE
@plan_options
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def create(image: str, args: tuple[str, ...], plan: bool, form: str, **flags: Any) -> None:
    """Create a service that runs IMAGE, with ARGS as the command's arguments.

    Prints the service's id on standard output, and waits for the service to converge unless --detach is given.
    Options come before IMAGE: what follows it belongs to the command.
    """
    create_spec(flags, image, list(args))  # what is wrong with the flags is said before a manager is looked for
    manager = connect()
    spec = create_spec(with_kept_ids(manager, with_network_ids(manager, flags)), image, list(args))
    auth = registry_auth(image) if flags["with_registry_auth"] else ""
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Image"] = familiar(image)
    warning = "" if flags["no_resolve_image"] else resolve_image(manager, spec, auth)
    if plan:
        if warning:
            note(warning)
        show_plan(manager.post("/swarmsh/services/plan", spec), form)
    answer = manager.post("/services/create", spec, {"X-Registry-Auth": auth} if auth else None)
    for text in (*(answer.get("Warnings") or ()), *((warning,) if warning else ())):
        note(text)
    click.echo(answer["ID"])
    if not flags["detach"]:
        from swarmsh.cli.progress import wait_for_service

        wait_for_service(manager, answer["ID"], quiet=bool(flags["quiet"]))
