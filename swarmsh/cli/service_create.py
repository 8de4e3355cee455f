"""`service create`."""

from __future__ import annotations

import random
from typing import Any

import click

from swarmsh.cli import service_flags
from swarmsh.cli.common import connect
from swarmsh.cli.docker_command import DockerCommand
from swarmsh.cli.images import familiar, registry_auth, resolve_image
from swarmsh.cli.output import note
from swarmsh.cli.spec_create import create_spec

ADJECTIVES = [
    "amber",
    "bold",
    "brisk",
    "calm",
    "clever",
    "crisp",
    "eager",
    "fair",
    "fleet",
    "fond",
    "gentle",
    "glad",
    "golden",
    "happy",
    "keen",
    "kind",
    "lively",
    "lucid",
    "mellow",
    "merry",
    "mighty",
    "mild",
    "neat",
    "nimble",
    "noble",
    "patient",
    "placid",
    "plucky",
    "proud",
    "quick",
    "quiet",
    "ready",
    "rosy",
    "serene",
    "sharp",
    "silent",
    "sleek",
    "smart",
    "snug",
    "solid",
    "spry",
    "steady",
    "sunny",
    "swift",
    "tidy",
    "trusty",
    "vivid",
    "warm",
    "wise",
    "witty",
]
SURNAMES = [
    "ampere",
    "babbage",
    "bell",
    "bohr",
    "boole",
    "cerf",
    "curie",
    "darwin",
    "dijkstra",
    "engelbart",
    "euler",
    "faraday",
    "fermi",
    "franklin",
    "galois",
    "gauss",
    "goodall",
    "hamilton",
    "hertz",
    "hilbert",
    "hopper",
    "hypatia",
    "jacobi",
    "johnson",
    "kepler",
    "knuth",
    "lamarr",
    "lamport",
    "leavitt",
    "liskov",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "minsky",
    "newton",
    "noether",
    "pascal",
    "perlman",
    "planck",
    "poincare",
    "ride",
    "ritchie",
    "shannon",
    "swartz",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "wozniak",
    "wright",
]


def random_name() -> str:
    """`keen_hopper`: for a service that was given no name."""
    return f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"


@click.command("create", cls=DockerCommand, context_settings={"allow_interspersed_args": False})
@service_flags.CREATE
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def create(image: str, args: tuple[str, ...], **flags: Any) -> None:
    """Create a service that runs IMAGE, with ARGS as the command's arguments.

    Prints the service's id on standard output, and waits for the service to converge unless --detach is given.
    Options come before IMAGE: what follows it belongs to the command.
    """
    spec = create_spec(flags, image, list(args))
    spec.setdefault("Name", random_name())
    manager = connect()
    auth = registry_auth(image) if flags["with_registry_auth"] else ""
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Image"] = familiar(image)
    warning = "" if flags["no_resolve_image"] else resolve_image(manager, spec, auth)
    answer = manager.post("/services/create", spec, {"X-Registry-Auth": auth} if auth else None)
    for text in (*(answer.get("Warnings") or ()), *((warning,) if warning else ())):
        note(text)
    click.echo(answer["ID"])
    if not flags["detach"]:
        from swarmsh.cli.progress import wait_for_service

        wait_for_service(manager, answer["ID"], spec["Name"], quiet=bool(flags["quiet"]))
