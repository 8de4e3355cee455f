"""`rotate`, `rollback` and `rm` of secrets and configs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, each
from swarmsh.cli.kept_source import read_source, source_options
from swarmsh.cli.output import note
from swarmsh.client import ManagerClient, segment

Json = dict[str, Any]
_Command = TypeVar("_Command", bound=Any)

POLL_S = 0.2

_WORDS = {
    "rolled": "is updated to it",
    "signalled": "gets it as its tasks run",
    "left": "stays with what it has",
    "next run": "gets it with its next run",
}


def _follow_options(command: _Command) -> _Command:
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Suppress progress output."),
        click.option("-d", "--detach", is_flag=True, help="Return at once instead of waiting for the services."),
        click.option("--leave", is_flag=True, help="Leave services with the version that they have."),
        click.option(
            "--signal",
            metavar="SIGNAL",
            help="Replace no task: exchange the files of those that run, then send them this signal (HUP).",
        ),
    ):
        command = option(command)
    return command


def _follow(signal: str | None, leave: bool) -> Json:
    if signal is not None and leave:
        raise click.UsageError("--signal and --leave contradict each other.")
    if signal is not None:
        return {"Follow": "signal", "Signal": signal}
    return {"Follow": "leave" if leave else "roll"}


def _tell(manager: ManagerClient, kind: str, answer: Json, *, detach: bool, quiet: bool) -> None:
    """What the name means now, and what becomes of its services; those that are updated are waited for."""
    meant = "now means" if answer["Changed"] else "means already"
    note(f"{kind.capitalize()} {answer['Name']} {meant} version {answer['Number']}.")
    for service in answer["Services"]:
        note(f"Service {service['Name']} {_WORDS.get(service['Action'], service['Action'])}.")
    click.echo(answer["ID"])
    if detach:
        return
    from swarmsh.cli.progress import wait_for_service

    for service in answer["Services"]:
        if service["Action"] == "rolled":
            wait_for_service(manager, manager.service(service["Name"])["ID"], quiet=quiet)
    if any(service["Action"] == "signalled" for service in answer["Services"]):
        _wait_for_exchange(manager, kind, answer, quiet=quiet)


def _wait_for_exchange(manager: ManagerClient, kind: str, answer: Json, *, quiet: bool) -> None:
    """Until every task that runs has the version, or its node said why not: then the command fails with that."""
    told = -1
    while True:
        versions = manager.get(f"/swarmsh/{kind}s/{segment(answer['Name'])}/versions")
        now = next((one for one in versions if one["ID"] == answer["ID"]), None)
        if now is None or not now["Waiting"]:
            break
        if not quiet and now["Waiting"] != told:
            note(f"{now['Waiting']} running tasks are yet to get it.")
            told = now["Waiting"]
        time.sleep(POLL_S)
    failed = now["Failed"] if now is not None else {}
    for task, why in sorted(failed.items()):
        note(f"{task} could not be given it: {why}")
    if failed:
        raise click.exceptions.Exit(1)


def _rotate(kind: str) -> click.Command:
    @click.command(
        "rotate",
        help=f"""Give {kind} NAME new contents: a new version, which the name means from then on.

        Services that use the name are updated to it, by their update config, unless --signal or --leave says
        otherwise. Jobs get it with their next run. Earlier versions are kept, see `{kind} history`.
        """,
    )
    @source_options
    @_follow_options
    @click.argument("name", metavar="NAME", shell_complete=complete.kept_names(kind))
    @click.argument("file", metavar="[FILE|-]", required=False)
    def rotate(
        name: str,
        file: str | None,
        from_env: str | None,
        from_command: str | None,
        trim_newline: bool,
        signal: str | None,
        leave: bool,
        detach: bool,
        quiet: bool,
    ) -> None:
        body = _follow(signal, leave) | {"Data": read_source(file, from_env, from_command, trim_newline)}
        manager = connect()
        answer = manager.post(f"/swarmsh/{kind}s/{segment(name)}/rotate", body)
        _tell(manager, kind, answer, detach=detach, quiet=quiet)

    return rotate


def _rollback(kind: str) -> click.Command:
    @click.command(
        "rollback",
        help=f"""Let {kind} NAME mean an earlier version again, and the services that use it with it.

        Without --to it is the one before. `{kind} history` lists those that are kept.
        """,
    )
    @click.option("--to", metavar="VERSION", help="Its number.")
    @_follow_options
    @click.argument("name", metavar="NAME", shell_complete=complete.kept_names(kind))
    def rollback(name: str, to: str | None, signal: str | None, leave: bool, detach: bool, quiet: bool) -> None:
        body = _follow(signal, leave)
        manager = connect()
        answer = manager.post(f"/swarmsh/{kind}s/{segment(name)}/rollback", body, to=to)
        _tell(manager, kind, answer, detach=detach, quiet=quiet)

    return rollback


def _rm(kind: str) -> click.Command:
    @click.command("rm", help=f"Remove {kind}s with all their versions; one that a service uses is refused.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.kept_names(kind))
    def rm(names: tuple[str, ...]) -> None:
        manager = connect()
        for name, _ in each(names, lambda name: manager.delete(f"/{kind}s/{segment(name)}")):
            click.echo(name)

    return rm


def _both(make: Callable[[str], click.Command]) -> tuple[click.Command, click.Command]:
    return make("secret"), make("config")


secret_rotate, config_rotate = _both(_rotate)
secret_rollback, config_rollback = _both(_rollback)
secret_rm, config_rm = _both(_rm)
