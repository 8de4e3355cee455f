"""`ls`, `inspect` and `history` of secrets and configs."""

from __future__ import annotations

import base64
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import connect, filter_option, inspect_each
from swarmsh.cli.output import (
    ago,
    format_option,
    inspect_options,
    list_options,
    print_json,
    print_list,
    short,
)
from swarmsh.client import encode_filters, segment

Json = dict[str, Any]

COLUMNS = {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED"}


def _ls(kind: str) -> click.Command:
    @click.command("ls", help=f"List {kind}s; of each the version that its name means.")
    @filter_option("id, label, name, names")
    @list_options
    def ls(filters: dict[str, list[str]], form: str, quiet: bool, no_trunc: bool) -> None:
        found = connect().get(f"/{kind}s", filters=encode_filters(filters))
        print_list([_row(one, no_trunc) for one in found], COLUMNS, form=form, quiet=quiet)

    return ls


def _row(kept: Json, no_trunc: bool) -> Json:
    return {
        "ID": kept["ID"],
        "ID_short": short(kept["ID"], no_trunc=no_trunc),
        "Name": kept["Spec"]["Name"],
        "CreatedAt": kept["CreatedAt"],
        "CreatedAt_short": ago(kept["CreatedAt"]),
        "UpdatedAt": kept["UpdatedAt"],
        "UpdatedAt_short": ago(kept["UpdatedAt"]),
        "Labels": kept["Spec"].get("Labels") or {},
    }


def _inspect(kind: str) -> click.Command:
    more = "What it holds is never shown." if kind == "secret" else "Data is in base64, as in Docker."

    @click.command(
        "inspect",
        help=f"Show all there is about {kind}s: a JSON array, or with --pretty what people look for. {more}",
    )
    @click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.kept_names(kind))
    @inspect_options
    def inspect(names: tuple[str, ...], pretty: bool, form: str, quiet: bool) -> None:
        manager = connect()
        inspect_each(
            *(names, lambda name: manager.get(f"/{kind}s/{segment(name)}"), _pretty),
            form=form,
            pretty=pretty,
            quiet=quiet,
        )

    return inspect


def _pretty(kept: Json) -> list[str]:
    spec = kept["Spec"]
    fields = {
        "ID": kept["ID"],
        "Name": spec["Name"],
        "Labels": ", ".join(f"{key}={value}" for key, value in sorted((spec.get("Labels") or {}).items())),
        "Template": (spec.get("Templating") or {}).get("Name", ""),
        "Created at": kept["CreatedAt"],
        "Updated at": kept["UpdatedAt"],
    }
    lines = [f"{key + ':':<14} {value}" for key, value in fields.items() if value]
    if "Data" in spec:
        lines += ["Data:", base64.b64decode(spec["Data"]).decode(errors="replace")]
    return lines


def _tasks(version: Json) -> str:
    words = [str(version["Tasks"])]
    if version.get("Waiting"):
        words.append(f"{version['Waiting']} to get it")
    words += [f"{name} failed: {why}" for name, why in sorted((version.get("Failed") or {}).items())]
    return ", ".join(words)


def _history(kind: str) -> click.Command:
    @click.command(
        "history",
        help=f"""List the versions of {kind} NAME that are kept, the newest first.

        SERVICES refer to that version; TASKS is how many have it now, and how many are yet to get it.
        """,
    )
    @click.argument("name", metavar="NAME", shell_complete=complete.kept_names(kind))
    @click.option("-q", "--quiet", is_flag=True, help="Only print the versions' numbers.")
    @format_option
    def history(name: str, form: str, quiet: bool) -> None:
        found = connect().get(f"/swarmsh/{kind}s/{segment(name)}/versions")
        if form == "json" and not quiet:
            print_json(found)
            return
        rows = [
            {
                "ID": version["Number"],
                "number": f"{version['Number']}{' (current)' if version['Current'] else ''}",
                "at": ago(version["CreatedAt"]),
                "size": version["Size"],
                "user": version["User"] or "-",
                "action": version["Action"] or "-",
                "services": ", ".join(version["Services"]) or "-",
                "tasks": _tasks(version),
            }
            for version in found
        ]
        columns = {
            **{"number": "VERSION", "at": "CREATED", "size": "BYTES", "user": "USER", "action": "ACTION"},
            **{"services": "SERVICES", "tasks": "TASKS"},
        }
        print_list(rows, columns, form="table", quiet=quiet)

    return history


secret_ls, config_ls = _ls("secret"), _ls("config")
secret_inspect, config_inspect = _inspect("secret"), _inspect("config")
secret_history, config_history = _history("secret"), _history("config")
