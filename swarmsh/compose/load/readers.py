"""What the tables of keys are made of: each reader checks a value and gives it in the canonical form.

A reader is a function of a value and its path; it raises ComposeError with both. Readers never change what they
are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NoReturn

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.load.plain_scalars import parse_bool, parse_number, spell
from swarmsh.compose.load.tree import Empty, Mapping, Node, Reset, Scalar, Sequence, kind_of, scalar, shorten
from swarmsh.compose.load.words import UnclosedQuote, split_words
from swarmsh.core.words import nearest

Reader = Callable[[Node, Path], Node]
Table = dict[str, Reader]

_NAME = re.compile(r"[a-zA-Z0-9._-]+")
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d|w)")
_LONG_UNITS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([dw])")
_SIZE = re.compile(r"\d+(?:\.\d+)? ?(?:[kKmMgGtTpP]?[iI]?[bB]?)")


def refuse(node: Node, path: Path, wanted: str, hint: str = "") -> NoReturn:
    """Say that a value is not what its key takes."""
    raise ComposeError(f"must be {wanted}, not {kind_of(node)}", node.place, path, hint)


def unknown_key(key: str, known: Collection[str], what: str = "key") -> str:
    """The message for a key that is none, with the nearest that is one."""
    return f"unknown {what} {shorten(key)!r}; the nearest known one is {nearest(shorten(key), known)!r}"


# --- one value ---
def text(node: Node, path: Path) -> Node:
    """Text only: a number or a boolean takes quotes, as in Docker's own tools."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node
    if isinstance(node, Scalar) and node.value is not None:
        refuse(node, path, "text", f'Put it into quotes: "{shorten(node.text)}"')
    refuse(node, path, "text")


def filled(node: Node, path: Path) -> Node:
    """Text that is not empty."""
    if isinstance(node, Scalar) and node.value == "":
        refuse(node, path, "text that is not empty")
    return text(node, path)


def spelled(node: Node, path: Path) -> Node:
    """Text, a number or a boolean, as text."""
    if isinstance(node, Scalar) and node.value is not None:
        return replace(node, value=spell(node.value))
    refuse(node, path, "text, a number or a boolean")


def spelled_or_null(node: Node, path: Path) -> Node:
    """As `spelled`, or nothing."""
    return node if isinstance(node, Scalar) and node.value is None else spelled(node, path)


def as_written(node: Node, path: Path) -> Node:
    """Text or a number, as it stands in the file."""
    if isinstance(node, Scalar) and node.value is not None and not isinstance(node.value, bool):
        return replace(node, value=node.text)
    refuse(node, path, "text or a number")


def boolean(node: Node, path: Path) -> Node:
    """A boolean, or a word for one."""
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return node
    value = parse_bool(node.value) if isinstance(node, Scalar) and isinstance(node.value, str) else None
    if value is None:
        refuse(node, path, "true or false")
    return scalar(value, node.place)


def choice(*known: str) -> Reader:
    """One of some words."""

    def read(node: Node, path: Path) -> Node:
        if isinstance(node, Scalar) and node.value in known and isinstance(node.value, str):
            return node
        words = ", ".join(word for word in known if word)
        near = f"The nearest is {nearest(shorten(node.text), known)!r}" if isinstance(node, Scalar) else ""
        refuse(node, path, f"one of {words}", near)

    return read


def _number_of(node: Node) -> int | float | None:
    if not isinstance(node, Scalar) or isinstance(node.value, bool):
        return None
    return parse_number(node.value) if isinstance(node.value, str) else node.value


def whole(least: int | None = None, most: int | None = None) -> Reader:
    """A whole number within bounds, also as text."""
    bounds = f" from {least}" if least is not None else ""
    bounds += f" to {most}" if most is not None else ""
    bounds = f"{bounds} on" if least is not None and most is None else bounds

    def read(node: Node, path: Path) -> Node:
        number = _number_of(node)
        if isinstance(number, float) and number.is_integer() and isinstance(node, Scalar):
            number = int(number)
        if not isinstance(number, int) or (least is not None and number < least):
            refuse(node, path, f"a whole number{bounds}")
        if most is not None and number > most:
            refuse(node, path, f"a whole number{bounds}")
        return scalar(number, node.place)

    return read


def decimal(least: float | None = None, most: float | None = None) -> Reader:
    """A number within bounds, also as text; kept as it is written."""
    bounds = "" if least is None else f" from {least:g}" + ("" if most is None else f" to {most:g}")

    def read(node: Node, path: Path) -> Node:
        number = _number_of(node)
        if number is None or (least is not None and number < least) or (most is not None and number > most):
            refuse(node, path, f"a number{bounds}")
        return as_written(node, path)

    return read


def number(least: float | None = None, most: float | None = None) -> Reader:
    """A number within bounds, also as text; given as a number."""
    check = decimal(least, most)

    def read(node: Node, path: Path) -> Node:
        check(node, path)
        return scalar(_number_of(node), node.place)

    return read


def duration(node: Node, path: Path) -> Node:
    """A duration as Go writes it; days and weeks, which compose knows, become hours."""
    hint = "Durations are written as 10s, 1m30s or 500ms"
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        refuse(node, path, "a duration", hint)
    value = node.value
    if (value != "0" and not re.fullmatch(rf"(?:{_DURATION.pattern})+", value)) or len(value) > 64:
        refuse(node, path, "a duration", hint)
    if "d" in value or "w" in value:
        hours = {"d": 24, "w": 168}
        value = _LONG_UNITS.sub(lambda m: f"{spell(float(m[1]) * hours[m[2]])}h", value)
    return scalar("0s" if value == "0" else value, node.place)


def size(node: Node, path: Path) -> Node:
    """A number of bytes, with or without a unit; text as it is written."""
    written = node.text.strip() if isinstance(node, Scalar) and not isinstance(node.value, bool) else ""
    if not _SIZE.fullmatch(written) or len(written) > 64:
        refuse(node, path, "a number of bytes", "Sizes are written as 512m, 1.5g or 1048576")
    return scalar(written, node.place)


def size_or_unlimited(node: Node, path: Path) -> Node:
    """A size, or -1."""
    if isinstance(node, Scalar) and node.text.strip() == "-1":
        return scalar("-1", node.place)
    return size(node, path)


def mode(node: Node, path: Path) -> Node:
    """A file's mode: a number (YAML reads 0440 as octal), or text in octal."""
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, str) and re.fullmatch(r"(?:0o?)?[0-7]{1,4}", value):
        value = int(value.removeprefix("0o"), 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
        refuse(node, path, "a file mode", "Modes are written as 0440")
    return scalar(value, node.place)


def either(*readers: tuple[type[Node], Reader], wanted: str) -> Reader:
    """The first reader whose kind of value this is."""

    def read(node: Node, path: Path) -> Node:
        for kind, reader in readers:
            if isinstance(node, kind):
                return reader(node, path)
        refuse(node, path, wanted)

    return read


# --- lists ---
def list_of(item: Reader, wanted: str = "a list") -> Reader:
    """A list, each item read by `item`."""

    def read(node: Node, path: Path) -> Node:
        if not isinstance(node, Sequence):
            refuse(node, path, wanted)
        return replace(node, items=[item(one, (*path, i)) for i, one in enumerate(node.items)])

    return read


def spread(item: Callable[[Node, Path], list[Node]]) -> Reader:
    """A list whose items may each stand for several."""

    def read(node: Node, path: Path) -> Node:
        if not isinstance(node, Sequence):
            refuse(node, path, "a list")
        return replace(node, items=[made for i, one in enumerate(node.items) for made in item(one, (*path, i))])

    return read


def one_or_list(item: Reader) -> Reader:
    """A list, or its only item by itself."""
    many = list_of(item)

    def read(node: Node, path: Path) -> Node:
        if isinstance(node, Scalar) and node.value is not None:
            return Sequence(place=node.place, items=[item(node, path)], override=node.override)
        if not isinstance(node, Sequence):
            refuse(node, path, "text or a list")
        return many(node, path)

    return read


def command(node: Node, path: Path) -> Node:
    """A command: a list, or text that is split into words; nothing stays nothing."""
    if isinstance(node, Scalar) and node.value is None:
        return node
    if isinstance(node, Scalar) and isinstance(node.value, str):
        try:
            words = split_words(node.value)
        except UnclosedQuote as e:
            raise ComposeError(f"cannot be split into words: {e}", node.place, path) from e
        return Sequence(place=node.place, items=[scalar(word, node.place) for word in words])
    if not isinstance(node, Sequence):
        refuse(node, path, "text or a list of text")
    return list_of(text)(node, path)


# --- mappings ---
def record(table: Table, *, required: Collection[str] = (), extensions: bool = True) -> Reader:
    """A mapping with known keys. `x-*` keys pass as they are where `extensions` is set."""

    def read(node: Node, path: Path) -> Node:
        if not isinstance(node, Mapping):
            refuse(node, path, "a mapping")
        made = Mapping(place=node.place, override=node.override)
        for key, value in node.items.items():
            here = (*path, key)
            if extensions and key.startswith("x-"):
                made.put(key, value, node.keys[key])
            elif key not in table:
                raise ComposeError(unknown_key(key, table), node.keys[key], here)
            else:
                made.put(key, _read_entry(table[key], value, here), node.keys[key])
        for key in required:
            if key not in made.items:
                raise ComposeError(f"the key {key!r} is missing", node.place, path)
        return made

    return read


def _read_entry(reader: Reader, value: Node, path: Path) -> Node:
    """A mapping's value, its tag kept. A value that is missing may be what an earlier file says."""
    if isinstance(value, Reset):
        return value
    if isinstance(value, Scalar) and value.value is None:
        try:
            return reader(value, path)
        except ComposeError as e:
            return Empty(place=value.place, error=e)
    made = reader(value, path)
    return replace(made, override=True) if value.override and not made.override else made


def map_of(value: Reader, *, names: bool = False, empty: bool = False) -> Reader:
    """A mapping with keys of the user's own; `names`: they name things, so no white space; `empty`: null is {}."""

    def read(node: Node, path: Path) -> Node:
        if empty and isinstance(node, Scalar) and node.value is None:
            return Mapping(place=node.place)
        if not isinstance(node, Mapping):
            refuse(node, path, "a mapping")
        made = Mapping(place=node.place, override=node.override)
        for key, one in node.items.items():
            here = (*path, key)
            if names and not _NAME.fullmatch(key):
                hint = "Names have letters, digits, dots, dashes and underscores"
                raise ComposeError(f"{shorten(key)!r} is no name", node.keys[key], here, hint)
            made.put(key, _read_entry(value, one, here), node.keys[key])
        return made

    return read


def nothing_or(reader: Reader) -> Reader:
    """Null stands for an empty mapping."""

    def read(node: Node, path: Path) -> Node:
        if isinstance(node, Scalar) and node.value is None:
            return Mapping(place=node.place)
        return reader(node, path)

    return read


def pairs(*, null: str | None = "") -> Reader:
    """A map of text, from a map or from a list of `KEY=value`; `null` is the value of a key without one."""

    def read(node: Node, path: Path) -> Node:
        if isinstance(node, Sequence):
            return _pairs_of_list(node, path, null)
        if not isinstance(node, Mapping):
            refuse(node, path, "a mapping or a list of KEY=value")
        made = Mapping(place=node.place, override=node.override)
        for key, value in node.items.items():
            here = (*path, key)
            _check_key(key, Scalar(place=node.keys[key], value=key, text=key), here)
            if not isinstance(value, Reset):
                value = spelled_or_null(value, here)
                if isinstance(value, Scalar) and value.value is None:
                    value = scalar(null, value.place)
            made.put(key, value, node.keys[key])
        return made

    return read


def _pairs_of_list(node: Sequence, path: Path, null: str | None) -> Node:
    made = Mapping(place=node.place, override=node.override)
    for i, item in enumerate(node.items):
        here = (*path, i)
        if not isinstance(item, Scalar) or item.value is None:
            refuse(item, here, "text such as KEY=value")
        key, equals, value = spell(item.value).partition("=")
        _check_key(key, item, here)
        made.put(key, scalar(value if equals else null, item.place), item.place)
    return made


def _check_key(key: str, node: Node, path: Path) -> None:
    if not key:
        refuse(node, path, "KEY=value with a key that is not empty")


def anything(node: Node, path: Path) -> Node:
    """A value that is not looked at."""
    return node
