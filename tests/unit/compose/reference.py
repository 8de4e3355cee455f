"""The table of keys in docs/compose.md, from the code; `python -m tests.unit.compose.reference` rewrites it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from swarmsh.compose.convert import KEYS, Fate, Key

PAGE = Path(__file__).parents[3] / "docs" / "compose.md"
MARK = "<!-- Below: from the code, by `python -m tests.unit.compose.reference`; a test compares them. -->"
END = "<!-- Above: from the code. -->"
# The tables, by where their keys are.
_TABLES = (
    ("", "At the top"),
    ("services.*", "Of a service"),
    ("services.*.deploy", "Of a service's deploy"),
    ("services.*.healthcheck", "Of a health check"),
    ("services.*.ports.*", "Of a port"),
    ("services.*.volumes.*", "Of a mount"),
    ("services.*.networks.*", "Of a service's network"),
    ("services.*.secrets.*", "Of a service's secret"),
    ("services.*.configs.*", "Of a service's config"),
    ("services.*.depends_on.*", "Of a dependency"),
    ("services.*.devices.*", "Of a device"),
    ("services.*.gpus.*", "Of GPUs"),
    ("services.*.blkio_config", "Of a service's blkio_config"),
    ("services.*.credential_spec", "Of a credential spec"),
    ("services.*.logging", "Of logging"),
    ("services.*.ulimits.*", "Of a ulimit"),
    ("networks.*", "Of a network"),
    ("volumes.*", "Of a volume"),
    ("secrets.*", "Of a secret"),
    ("configs.*", "Of a config"),
)
_WORDS = {Fate.HONOURED: "", Fate.LOADED: "read: ", Fate.WARNED: "**warning**: ", Fate.REFUSED: "**refused**: "}


def _table_of(key: Key) -> int:
    """The table with the longest path above the key's."""
    above = [
        (len(path), number)
        for number, (path, _) in enumerate(_TABLES)
        if not path or (key.path.startswith(f"{path}.") and key.path != path)
    ]
    return max(above)[1]


def render() -> str:
    lines: list[str] = []
    for number, keys in groupby(sorted(KEYS, key=_table_of), key=_table_of):
        path, title = _TABLES[number]
        lines += [f"### {title}", "", "| key | what becomes of it |", "|---|---|"]
        for key in keys:
            way_out = f". {key.hint}" if key.hint else ""
            lines.append(f"| `{key.path.removeprefix(f'{path}.')}` | {_WORDS[key.fate]}{key.words}{way_out} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n{render()}{END}{rest.partition(END)[2]}")
