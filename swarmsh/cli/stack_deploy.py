"""`stack deploy`, `stack plan`, `stack rollback`: a plan first, then what it says, then waiting for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect
from swarmsh.cli.images import familiar, registry_auth, resolve_image
from swarmsh.cli.output import format_option, note, print_json
from swarmsh.cli.stack_files import StackFiles, read_stack
from swarmsh.cli.stack_words import print_plan
from swarmsh.client import ManagerClient
from swarmsh.model.stacks import STACK_IMAGE

Json = dict[str, Any]
_Command = TypeVar("_Command", bound=Callable[..., Any])

EXIT_CHANGES = 3
_LOOKUPS = 8  # registries asked at a time


def file_options(command: _Command) -> _Command:
    """`-c`, `--env-file`, `--profile`: what every command takes that reads compose files."""
    for option in (
        click.option("--profile", "profiles", multiple=True, help="Activate a profile. May be repeated."),
        click.option(
            "--env-file",
            "env_files",
            multiple=True,
            help="Take variables from this file in place of .env. May be repeated.",
        ),
        click.option(
            *("-c", "--compose-file", "files"),
            multiple=True,
            help="A compose file; - is standard input. May be repeated: later ones go on top of earlier ones.",
        ),
    ):
        command = option(command)
    return command


def _deploy_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--resolve-image",
            type=click.Choice(["always", "changed", "never"]),
            default="always",
            show_default=True,
            help="Ask the registry which image a tag means now.",
        ),
        click.option("--with-registry-auth", is_flag=True, help="Let nodes pull with your registry credentials."),
        click.option("--prune", is_flag=True, help="Remove what is the stack's and not in the files."),
    ):
        command = option(command)
    return file_options(command)


@click.command("plan")
@click.argument("name", metavar="[STACK]", required=False, shell_complete=complete.stack_names)
@_deploy_options
@click.option("--no-trunc", is_flag=True, help="Do not shorten values.")
@format_option
def plan(
    name: str | None,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    prune: bool,
    with_registry_auth: bool,
    resolve_image: str,
    no_trunc: bool,
    form: str,
) -> None:
    """Show what a deploy would change, field by field, and the order of its steps; nothing is done.

    Exit code 0 for nothing to do, 3 for changes.
    """
    stack = _read(name, files, env_files, profiles)
    manager = connect()
    body = _pinned(manager, stack, resolve_image, with_registry_auth)
    found = manager.plan_stack(stack.name, body, prune=prune)
    if form == "json":
        print_json(found)
    else:
        print_plan(found, no_trunc=no_trunc)
    raise click.exceptions.Exit(EXIT_CHANGES if found["Changed"] else 0)


@click.command("deploy")
@click.argument("name", metavar="[STACK]", required=False, shell_complete=complete.stack_names)
@_deploy_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for convergence.")
@click.option("-q", "--quiet", is_flag=True, help="Show neither the plan nor progress.")
def deploy(
    name: str | None,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    prune: bool,
    with_registry_auth: bool,
    resolve_image: str,
    yes: bool,
    detach: bool,
    quiet: bool,
) -> None:
    """Deploy a stack from compose files, or change it to what they say: one transaction, one revision.

    Shows what it is about to change and asks, then waits until all services run. STACK may be left away where the
    files give a top-level `name`; without -c they are those that compose looks for (compose.yaml and so on).
    Exit code 0 if there was nothing to do or it is done, 1 if it failed.
    """
    _refuse_to_ask_nobody(yes, files)
    stack = _read(name, files, env_files, profiles)
    manager = connect()
    body = _pinned(manager, stack, resolve_image, with_registry_auth)
    planned = manager.plan_stack(stack.name, body, prune=prune)

    def go(digest: str) -> Json:
        return manager.deploy_stack(stack.name, body, prune=prune, digest=digest)

    _carry_out(manager, planned, go, yes=yes, detach=detach, quiet=quiet)


@click.command("rollback")
@click.argument("name", metavar="STACK", shell_complete=complete.stack_names)
@click.option("--to", default="previous", show_default=True, help="Which revision of `stack history`.")
@click.option("--plan", "only_plan", is_flag=True, help="Only show what would change; exit code 3 for changes.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for convergence.")
@click.option("-q", "--quiet", is_flag=True, help="Show neither the plan nor progress.")
def rollback(name: str, to: str, only_plan: bool, yes: bool, detach: bool, quiet: bool) -> None:
    """Put a stack back as a revision has it: services, networks, configs and secrets together, in one transaction.

    What the revision did not have is removed.
    """
    if not only_plan:
        _refuse_to_ask_nobody(yes, ())
    manager = connect()
    planned = manager.plan_stack_rollback(name, to)
    if only_plan:
        print_plan(planned)
        raise click.exceptions.Exit(EXIT_CHANGES if planned["Changed"] else 0)

    def go(digest: str) -> Json:
        return manager.rollback_stack(name, to, digest=digest)

    _carry_out(manager, planned, go, yes=yes, detach=detach, quiet=quiet)


def _carry_out(
    manager: ManagerClient,
    plan: Json,
    go: Callable[[str], Json],
    *,
    yes: bool,
    detach: bool,
    quiet: bool,
) -> None:
    """Show the plan, ask, do exactly that (`go` takes its digest), and wait."""
    stack = plan["Stack"]
    if not plan["Changed"]:
        click.echo(f"{stack}: nothing to do")
        return
    if not quiet:
        print_plan(plan)
    if not yes:
        _ask(stack)
    done = go(plan["Digest"])
    click.echo(f"{stack}: revision {done['Revision']}")
    if not detach:
        from swarmsh.cli.stack_progress import wait_for_stack

        wait_for_stack(manager, stack, [service["ID"] for service in done["Services"]], quiet=quiet)


def _ask(stack: str) -> None:
    if not click.confirm(f"\nChange stack {stack} like this?", err=True):
        note("Nothing was changed")
        raise click.exceptions.Exit(1)


def _refuse_to_ask_nobody(yes: bool, files: Sequence[str]) -> None:
    if yes:
        return
    if "-" in files:
        raise click.UsageError("with the file on standard input there is nobody to ask: give --yes")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: give --yes to deploy without a question")


def _read(name: str | None, files: Sequence[str], env_files: Sequence[str], profiles: Sequence[str]) -> StackFiles:
    stack = read_stack(name, files, env_files=env_files, profiles=profiles)
    for warning in stack.warnings:
        note(f"Warning: {warning}")
    return stack


def _pinned(manager: ManagerClient, stack: StackFiles, resolve: str, with_auth: bool) -> Json:
    """The stack with digests for tags, as `--resolve-image` asks, and with credentials if they are to go along."""
    body = dict(stack.spec)
    services: dict[str, Json] = body.get("Services") or {}
    images = {short: spec["TaskTemplate"]["ContainerSpec"]["Image"] for short, spec in services.items()}
    auths = {short: registry_auth(image) for short, image in images.items()} if with_auth else {}
    unchanged = _unchanged(manager, stack.name, services) if resolve == "changed" else set()
    for spec in services.values():
        container = spec["TaskTemplate"]["ContainerSpec"]
        container["Image"] = familiar(container["Image"])
    if resolve != "never":
        asked = [short for short in services if short not in unchanged]

        def ask(short: str) -> str:
            # What placement has at this point is the file's `platform`.
            fresh = ManagerClient(manager.path)
            return resolve_image(fresh, services[short], auths.get(short, ""), keep_platforms=True)

        with ThreadPoolExecutor(max_workers=_LOOKUPS) as pool:
            for warning in dict.fromkeys(filter(None, pool.map(ask, asked))):
                note(warning)
    return body | ({"RegistryAuth": auths} if auths else {})


def _unchanged(manager: ManagerClient, stack: str, services: Mapping[str, Json]) -> set[str]:
    """Services whose image is the one that they were deployed with: the manager keeps their digest."""
    label = {"label": [f"com.docker.stack.namespace={stack}"]}
    had = {s["Spec"]["Name"]: (s["Spec"].get("Labels") or {}).get(STACK_IMAGE) for s in manager.services(label)}
    return {
        short
        for short, spec in services.items()
        if had.get(spec["Name"]) == (spec.get("Labels") or {}).get(STACK_IMAGE, "")
    }
