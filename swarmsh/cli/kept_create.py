"""`secret create`, `config create`."""

from __future__ import annotations

import click

from swarmsh.cli.common import connect
from swarmsh.cli.kept_source import read_source, source_options
from swarmsh.cli.service_flags import many
from swarmsh.cli.values import LABEL, pairs


def _create(kind: str) -> click.Command:
    @click.command(
        "create",
        help=f"""Create a {kind} named NAME, and print its id.

        Its contents are those of FILE, or of standard input for -, or what --from-env or --from-command name.
        """,
    )
    @many("-l --label", LABEL, "Labels")
    @click.option("--template-driver", metavar="DRIVER", help="golang: the contents are a template, see the docs.")
    @source_options
    @click.argument("name", metavar="NAME")
    @click.argument("file", metavar="[FILE|-]", required=False)
    def create(
        name: str,
        file: str | None,
        label: tuple[str, ...],
        template_driver: str | None,
        from_env: str | None,
        from_command: str | None,
        trim_newline: bool,
    ) -> None:
        spec = {
            "Name": name,
            "Labels": pairs(label),
            "Data": read_source(file, from_env, from_command, trim_newline),
        }
        if template_driver:
            spec["Templating"] = {"Name": template_driver}
        click.echo(connect().post(f"/{kind}s/create", spec)["ID"])

    return create


secret_create = _create("secret")
config_create = _create("config")
