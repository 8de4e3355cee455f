"""How results look: tables for people, JSON for programs, ids alone with `-q`; ages and sizes in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

Row = dict[str, Any]
_Command = TypeVar("_Command", bound=Any)

SHORT_ID = 12


def list_options(command: _Command) -> _Command:
    """`--format`, `--quiet` and `--no-trunc`, for every command that lists."""
    command = click.option("--no-trunc", is_flag=True, help="Do not shorten ids and messages.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="Only print ids.")(command)
    return format_option(command)


def format_option(command: _Command) -> _Command:
    choice = click.Choice(["table", "json"])
    option = click.option(
        *("-o", "--format", "form"), type=choice, default="table", show_default=True, help="How to print."
    )
    return option(command)


def inspect_options(command: _Command) -> _Command:
    """`--format`, `--pretty` and `--quiet`, for every command that inspects; see `inspected_as`."""
    choice = click.Choice(["json", "table"])
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Only print ids."),
        click.option("--pretty", is_flag=True, help="For people instead of programs; the same as --format table."),
        click.option("--format", "form", type=choice, default="json", show_default=True, help="How to print."),
    ):
        command = option(command)
    return command


def print_inspected(
    found: Sequence[Row], lines: Callable[[Row], list[str]], *, form: str, pretty: bool, quiet: bool
) -> None:
    """Print whole objects; `lines` words one of them for people."""
    if quiet:
        for one in found:
            click.echo(one["ID"])
    elif pretty or form == "table":
        click.echo("\n\n".join("\n".join(lines(one)) for one in found))
    else:
        print_json(found)


def print_list(rows: Sequence[Row], columns: dict[str, str], *, form: str, quiet: bool) -> None:
    """Print rows. `columns` maps a row's key to its heading; JSON shows all keys of a row, tables only these.

    A key may have a short form for tables under `key + "_short"`, which JSON leaves out.
    """
    if quiet:
        for row in rows:
            click.echo(row["ID"])
    elif form == "json":
        print_json([{key: value for key, value in row.items() if not key.endswith("_short")} for row in rows])
    else:
        print_table(
            [[row.get(f"{key}_short", row.get(key, "")) for key in columns] for row in rows], columns.values()
        )


def print_table(rows: Sequence[Sequence[Any]], headings: Any) -> None:
    """A table as Docker prints them: headings in capitals, columns three spaces apart, no lines."""
    import tabulate as tables
    from tabulate import DataRow as Cells

    tables.MIN_PADDING = 0  # else headings are made two characters wider than they are

    plain = tables.TableFormat(
        lineabove=None,
        linebelowheader=None,
        linebetweenrows=None,
        linebelow=None,
        headerrow=Cells("", "   ", ""),
        datarow=Cells("", "   ", ""),
        padding=0,
        with_header_hide=None,
    )
    text = tables.tabulate(
        [[str(cell) for cell in row] for row in rows],
        list(headings),
        tablefmt=plain,
        disable_numparse=True,
        preserve_whitespace=True,  # of the tasks indented under their slot
    )
    for line in text.splitlines():
        click.echo(line.rstrip())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """Progress and warnings go to standard error: standard output carries data only."""
    click.echo(message, err=True)


def lb_timeouts_words(limits: dict[str, int]) -> str:
    """`LBTimeouts` of `GET /swarmsh/cluster`."""
    return f"TCP {limits['TCP']} s, TCP after a FIN {limits['TCPFin']} s, UDP {limits['UDP']} s"


def short(identifier: str, *, no_trunc: bool = False) -> str:
    return identifier if no_trunc else identifier[:SHORT_ID]


def truncated(text: str, width: int, *, no_trunc: bool = False) -> str:
    """One line of at most `width` characters."""
    text = " ".join(text.split())
    return text if no_trunc or len(text) <= width else text[: width - 1] + "…"


def colours(stream: Any = None) -> bool:
    """Whether to colour: a terminal, and no NO_COLOR."""
    import os

    return bool((stream or sys.stdout).isatty()) and not os.environ.get("NO_COLOR")


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with up to nanoseconds, as the Engine API writes it; None for Go's zero time or nothing."""
    if not text or text.startswith("0001-"):
        return None
    stamp, dot, rest = text.partition(".")
    if dot:
        digits = rest.rstrip("Z").split("+")[0].split("-")[0]
        zone = rest[len(digits) :]
        text = f"{stamp}.{digits[:6].ljust(6, '0')}{zone}"
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def ago(text: str, now: datetime | None = None) -> str:
    """`3 minutes ago` from an Engine API time; empty for none."""
    then = parse_time(text)
    if then is None:
        return ""
    return f"{duration_words(((now or datetime.now(UTC)) - then).total_seconds())} ago"


def duration_words(seconds: float) -> str:
    """As Docker words it: `Less than a second`, `5 seconds`, `About a minute`, `3 hours`, `2 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit, days, unit in ((24 * 7 * 2, 1, "days"), (24 * 30 * 2, 7, "weeks"), (24 * 365 * 2, 30, "months")):
        if hours < limit:
            return f"{hours // 24 // days} {unit}"
    return f"{hours // 24 // 365} years"


def ports_words(ports: Sequence[Row]) -> str:
    """`*:8080->80/tcp` for ingress and host ports alike; a port without a published one is left out of tables."""
    parts = []
    for port in ports:
        published = port.get("PublishedPort")
        if published or port.get("PublishMode") == "ingress":
            parts.append(f"*:{published or ''}->{port.get('TargetPort')}/{port.get('Protocol', 'tcp')}")
    return ", ".join(sorted(parts))
