"""The reference half of docs/cli.md, from click's tree; `python -m tests.unit.cli.reference` rewrites it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from swarmsh.cli.entry import ROOT

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
MARK = (
    "<!-- Below: from the commands themselves, by `python -m tests.unit.cli.reference`; a test compares them. -->"
)


def commands(
    group: click.Group = ROOT, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def render() -> str:
    return "\n".join(line for path, command in commands() for line in _section(path, command))


def _section(path: tuple[str, ...], command: click.Command) -> list[str]:
    context = click.Context(command, info_name=f"swarmsh {' '.join(path)}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## {' '.join(path)}", "", f"`{' '.join(usage.split())}`", ""]
    lines += [text.strip() for text in (command.help or "").replace("\b\n", "").strip().splitlines()]
    options = [param for param in command.params if isinstance(param, click.Option)]
    if options:
        lines += ["", "| option | meaning |", "|---|---|"]
    for option in sorted(options, key=lambda found: max(found.opts, key=len)):
        record = option.get_help_record(context)
        assert record is not None
        names, text = record
        lines.append(f"| `{names.replace('|', '/')}` | {' '.join(text.split()).replace('|', '/')} |")
    return [*lines, ""]


if __name__ == "__main__":
    head = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{render()}")
