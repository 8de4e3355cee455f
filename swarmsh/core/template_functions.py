"""Functions and values of Go's text/template, as far as templates of secrets and configs have them.

Texts are `str`, maps `dict` with text keys; numbers are `int` and `float`. A function raises Misused for what it
does not take, and TypeError for too few or too many arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus


class Struct(dict[str, Any]):
    """Values of a fixed set of names; maps proper are plain dicts."""


class Misused(Exception):
    """A function was given what it does not take; the words have none of it."""


def is_true(value: Any) -> bool:
    return isinstance(value, Struct) or bool(value)


def as_text(value: Any) -> str:
    """As Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Struct):
        raise Misused("a group of values cannot be printed: name one of them")
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{as_text(v)}' for k, v in sorted(value.items()))}]"
    return str(value)


def _and(first: Any, *rest: Any) -> Any:
    return next((value for value in (first, *rest) if not is_true(value)), (first, *rest)[-1])


def _or(first: Any, *rest: Any) -> Any:
    return next((value for value in (first, *rest) if is_true(value)), (first, *rest)[-1])


def _comparable(one: Any, other: Any, *, ordered: bool = False) -> None:
    kinds = {bool} if isinstance(one, bool) else {type(one)}
    if type(other) not in kinds or isinstance(one, dict) or (ordered and isinstance(one, bool)):
        raise Misused("incompatible types for comparison")


def _eq(first: Any, second: Any, *more: Any) -> bool:
    for other in (second, *more):
        _comparable(first, other)
    return first in (second, *more)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(one: Any, other: Any) -> bool:
        _comparable(one, other, ordered=True)
        return test(one, other)

    return compare


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if not isinstance(value, dict) or isinstance(value, Struct) or not isinstance(key, str):
            raise Misused("only maps can be indexed, by a text")
        value = value.get(key, "")
    return value


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="surrogateescape"))
    if isinstance(value, dict) and not isinstance(value, Struct):
        return len(value)
    raise Misused("only texts and maps have a length")


def _print(*values: Any) -> str:
    """Go puts a blank between two of which neither is a text."""
    out = ""
    for number, value in enumerate(values):
        apart = number > 0 and not isinstance(value, str) and not isinstance(values[number - 1], str)
        out += (" " if apart else "") + as_text(value)
    return out


_VERB = re.compile(r"%(?:%|([-0]*)(\d{0,3})(?:\.(\d{1,3}))?([sdvqtxXf]))?")


def _printf(layout: Any, *values: Any) -> str:
    if not isinstance(layout, str):
        raise Misused("its first argument is no text")
    left = list(values)

    def one(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if found[4] is None or not left:
            raise Misused("unknown verbs, or too few arguments for them")
        flags, width, digits, verb = found.groups()
        text = _formatted(verb, left.pop(0), digits)
        if "-" in flags:
            return text.ljust(int(width or 0))
        return text.rjust(int(width or 0), "0" if "0" in flags and verb in "dxXf" else " ")

    text = _VERB.sub(one, layout)
    if left:
        raise Misused("more arguments than verbs")
    return text


def _formatted(verb: str, value: Any, digits: str | None) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    if verb in "vs" and (verb == "v" or isinstance(value, str)):
        text = as_text(value)
        return text if digits is None else text[: int(digits)]
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "t" and isinstance(value, bool):
        return as_text(value)
    if verb in "dxX" and number:
        return format(value, verb)
    if verb in "xX" and isinstance(value, str):
        digits = value.encode(errors="surrogateescape").hex()
        return digits.upper() if verb == "X" else digits
    if verb == "f" and isinstance(value, float):
        return f"{value:.{digits or 6}f}"
    raise Misused("a verb does not fit its argument")


def _html(*values: Any) -> str:
    marks = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
    return "".join(marks.get(letter, letter) for letter in _print(*values))


def _join(separator: Any, *words: Any) -> str:
    if not all(isinstance(word, str) for word in (separator, *words)):
        raise Misused("it takes texts only")
    return str(separator).join(words)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not is_true(value),
    "eq": _eq,
    "ne": lambda one, other: not _eq(one, other),
    "lt": _ordered(lambda a, b: a < b),
    "le": _ordered(lambda a, b: a <= b),
    "gt": _ordered(lambda a, b: a > b),
    "ge": _ordered(lambda a, b: a >= b),
    "index": _index,
    "len": _len,
    "print": _print,
    "println": lambda *values: " ".join(as_text(v) for v in values) + "\n",
    "printf": _printf,
    "html": _html,
    "urlquery": lambda *values: quote_plus(_print(*values), errors="surrogateescape"),
    "join": _join,
}
