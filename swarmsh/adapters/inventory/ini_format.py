"""Ansible's INI inventory: `name key=value …` under [group], [group:vars] and [group:children]."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

from swarmsh.adapters.inventory.names import check_host_name, nearest
from swarmsh.adapters.inventory.records import RawInventory, RawValue

_SECTION = re.compile(r"^\[([^\]\s]+)\]\s*(?:[#;].*)?$")
_KINDS = ("hosts", "children", "vars")


def read_ini(text: str, into: RawInventory) -> None:
    """Raises InventoryError."""
    group, kind = "ungrouped", "hosts"
    for number, written in enumerate(text.splitlines(), 1):
        line = written.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            group, kind = _section(into, line, number)
        elif kind == "hosts":
            _host(into, group, line, number)
        elif kind == "children":
            name = line.split("#", 1)[0].strip()
            into.group(group, number).children[name] = number
        else:
            name, value = _assignment(into, line, number)
            into.group(group, number).vars[name] = RawValue(_literal(_uncommented(value)), number)


def _section(into: RawInventory, line: str, number: int) -> tuple[str, str]:
    found = _SECTION.match(line)
    if found is None:
        raise into.error(number, f"not a section: {line}", "Write [group], [group:vars] or [group:children]")
    name, _, kind = found[1].partition(":")
    kind = kind or "hosts"
    if kind not in _KINDS:
        raise into.error(
            number,
            f"section [{found[1]}] has no kind {kind!r}{nearest(kind, _KINDS)}",
            "Write [group], [group:vars] or [group:children]",
        )
    into.group(name, number)
    return name, kind


def _host(into: RawInventory, group: str, line: str, number: int) -> None:
    try:
        name, *words = shlex.split(line, comments=True)
    except ValueError as e:
        raise into.error(number, f"not a host line: {e}") from e
    # Ansible's short form: name:port.
    address, colon, port = name.rpartition(":")
    if colon and port.isdigit() and ":" not in address and "[" not in address:
        words.insert(0, f"ansible_port={port}")
        name = address
    check_host_name(into, name, number)
    host = into.add_host(group, name, number)
    for word in words:
        key, value = _assignment(into, word, number)
        host.vars[key] = RawValue(_literal(value), number)


def _assignment(into: RawInventory, text: str, number: int) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise into.error(number, f"expected key=value, found {text!r}", "Quote values that contain spaces")
    return key.strip(), value.strip()


def _uncommented(value: str) -> str:
    """In :vars a value goes to the end of the line, or to ` #`."""
    quoted = value[:1] in ("'", '"')
    return value if quoted else re.split(r"\s#", value, maxsplit=1)[0].rstrip()


def _literal(value: str) -> Any:
    """Numbers, booleans, lists and dicts as Python writes them, as Ansible does; anything else is text."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return found if isinstance(found, (str, int, float, bool, list, dict)) else value
