"""Fields of specs in words: durations, sizes and lists as people write them."""

from __future__ import annotations

import json
import shlex
from typing import Any

from swarmsh.cli.output import truncated
from swarmsh.core.words import size_words

Json = dict[str, Any]

WIDEST = 72  # characters of a value in a table
_DURATIONS = frozenset(
    {
        *("Delay", "Monitor", "Window", "StopGracePeriod"),
        *("Interval", "Timeout", "StartPeriod", "StartInterval"),
    }
)
_SIZES = frozenset({"MemoryBytes", "SizeBytes", "SwapBytes"})


def field_rows(changes: list[Json], *, no_trunc: bool = False) -> list[tuple[str, str, str]]:
    """(field, before, after) of each change, as the manager answers them."""
    return [
        (
            change["Field"],
            *(
                truncated(value_words(change["Field"], value), WIDEST, no_trunc=no_trunc)
                for value in (change["Before"], change["After"])
            ),
        )
        for change in changes
    ]


def value_words(field: str, value: Any) -> str:
    """`-` for what is not there."""
    key = field.rpartition(".")[2]
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case int() if key in _DURATIONS:
            return f"{value / 1e9:g}s"
        case int() if key in _SIZES:
            return size_words(value)
        case int() if key == "NanoCPUs":
            return f"{value / 1e9:g}"
        case str():
            return value or '""'
        case list() if all(isinstance(entry, str) for entry in value):
            return shlex.join(value)
        case _:
            return json.dumps(value, ensure_ascii=False)
