"""`service scale`, `service rm`, and the one way in which specs are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, each
from swarmsh.cli.output import note
from swarmsh.client import ApiError, ManagerClient, segment
from swarmsh.errors import SwarmshError

Json = dict[str, Any]

ATTEMPTS = 5  # against others who write at the same time


def change_service(
    manager: ManagerClient,
    name: str,
    change: Callable[[Json], Json],
    headers: dict[str, str] | None = None,
    **query: str,
) -> Json:
    """Send `change(spec)` as the new spec, again on the newest one if someone else was quicker; the service."""
    service, answer = submit(manager, name, change, "/services/{}/update", query, headers)
    for warning in (answer or {}).get("Warnings") or ():
        note(warning)
    return service


def submit(
    manager: ManagerClient,
    name: str,
    change: Callable[[Json], Json],
    path: str,
    query: Mapping[str, str],
    headers: dict[str, str] | None = None,
) -> tuple[Json, Any]:
    """Post `change(spec)` to `path`, whose `{}` is the service's id: the service as it was, and the answer."""
    for attempt in range(1, ATTEMPTS + 1):
        service = manager.service(name)
        spec = change(service["Spec"])
        try:
            answer = manager.post(
                path.format(segment(service["ID"])),
                spec,
                headers,
                version=service["Version"]["Index"],
                **query,
            )
        except ApiError as error:
            if not error.out_of_sequence or attempt == ATTEMPTS:
                raise
        else:
            return service, answer
    raise AssertionError


@click.command("scale")
@click.argument(
    "targets", nargs=-1, required=True, metavar="SERVICE=REPLICAS…", shell_complete=complete.scale_targets
)
@click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for convergence.")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output.")
def scale(targets: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Set the number of tasks of replicated services; of none, if one of them is not there."""
    wanted = dict(_parse_target(target) for target in targets)
    manager = connect()
    with Failures() as failures:  # none is scaled if one cannot be
        for name, replicas in wanted.items():
            try:
                _scaled(manager.service(name)["Spec"], replicas)
            except SwarmshError as error:
                failures.add(SwarmshError(f"{name}: {error}"))
    scaled = []
    with Failures() as failures:
        for name, replicas in wanted.items():
            try:
                scaled.append(change_service(manager, name, lambda spec, count=replicas: _scaled(spec, count)))  # type: ignore[misc]
            except SwarmshError as error:
                failures.add(SwarmshError(f"{name}: {error}"))
            else:
                click.echo(f"{name} scaled to {replicas}")
        if not detach:
            from swarmsh.cli.progress import wait_for_service

            for service in scaled:
                wait_for_service(manager, service["ID"], quiet=quiet)


def _parse_target(target: str) -> tuple[str, int]:
    name, equals, count = target.partition("=")
    if not equals or not name:
        raise click.UsageError(f"invalid scale specifier '{target}': write SERVICE=REPLICAS")
    if not count.isdecimal():
        raise click.UsageError(f"invalid replicas value {count!r} for {name}: a number from 0 up")
    return name, int(count)


def _scaled(spec: Json, replicas: int) -> Json:
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" in mode:
        return spec | {"Mode": {"ReplicatedJob": mode["ReplicatedJob"] | {"TotalCompletions": replicas}}}
    if "Replicated" not in mode:
        raise SwarmshError("scale can only be used with replicated or replicated-job mode")
    return spec | {"Mode": {"Replicated": {"Replicas": replicas}}}


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE…", shell_complete=complete.service_names)
def rm(names: tuple[str, ...]) -> None:
    """Remove services; their tasks are stopped."""
    manager = connect()
    for name, _ in each(names, lambda name: manager.delete(f"/services/{segment(name)}")):
        click.echo(name)
