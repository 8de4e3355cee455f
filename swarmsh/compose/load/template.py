"""Variables in text: `$V`, `${V}` and the forms with an operator, nested, and `$$` for a dollar sign."""

from __future__ import annotations

import re
from collections.abc import Callable

from swarmsh.compose.load.tree import shorten

Lookup = Callable[[str], str | None]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", "-", ":?", "?", ":+", "+")
_DEEPEST = 20
_LONGEST = 1 << 20


class TemplateError(ValueError):
    """A variable that is not written right, or one that is required and missing. `hint` is the way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _nobody(name: str) -> None:
    """Nobody wants to hear of variables that are not set."""


def substitute(text: str, lookup: Lookup, on_unset: Callable[[str], None] = _nobody, depth: int = 0) -> str:
    """`text` with its variables replaced. Raises TemplateError.

    `lookup` gives None for a variable that is not set; `on_unset` hears of each that became an empty text thereby.
    What an operator stands before is looked at only if it is used, as in a shell.
    """
    if "$" not in text:
        return text
    if depth > _DEEPEST:
        raise TemplateError(f"variables are nested more than {_DEEPEST} deep")
    parts: list[str] = []
    at = length = 0
    while at < len(text):
        dollar = text.find("$", at)
        if dollar < 0:
            parts.append(text[at:])
            break
        parts.append(text[at:dollar])
        value, at = _one(text, dollar, lookup, on_unset, depth)
        parts.append(value)
        length += len(value)
        if length > _LONGEST:
            raise TemplateError("variables make this longer than 1 MiB")
    return "".join(parts)


def _one(text: str, at: int, lookup: Lookup, on_unset: Callable[[str], None], depth: int) -> tuple[str, int]:
    """The value of what begins with the dollar sign at `at`, and where the text goes on."""
    if text.startswith("$$", at):
        return "$", at + 2
    braced = text.startswith("${", at)
    name = _NAME.match(text, at + 1 + braced)
    if name is None:
        raise TemplateError(f"{_dollar(at)} begins no variable", "Write $$ for a dollar sign")
    if not braced:
        return _plain(name[0], lookup, on_unset), name.end()
    end = _closing(text, at)
    rest = text[name.end() : end]
    if not rest:
        return _plain(name[0], lookup, on_unset), end + 1
    operator = next((op for op in _OPERATORS if rest.startswith(op)), None)
    if operator is None:
        hint = "After the name comes }, or one of :- - :? ? :+ +"
        raise TemplateError(f"{_dollar(at)} begins no variable", hint)
    argument = rest[len(operator) :]
    value = lookup(name[0])
    there = value is not None and (value != "" or not operator.startswith(":"))
    if operator.endswith("+"):
        return substitute(argument, lookup, on_unset, depth + 1) if there else "", end + 1
    if there and value is not None:
        return value, end + 1
    word = substitute(argument, lookup, on_unset, depth + 1)
    if operator.endswith("-"):
        return word, end + 1
    said = f": {shorten(word)}" if word else ""
    raise TemplateError(
        f"the variable {name[0]} is required and {'not set' if value is None else 'empty'}{said}",
        f"Set {name[0]} in the environment or in the .env file",
    )


def _plain(name: str, lookup: Lookup, on_unset: Callable[[str], None]) -> str:
    value = lookup(name)
    if value is None:
        on_unset(name)
        return ""
    return value


def _closing(text: str, at: int) -> int:
    """The brace that ends the variable beginning at `at`; only `${` opens another."""
    depth, i = 1, at + 2
    while i < len(text):
        if text.startswith("${", i):
            depth += 1
            i += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    raise TemplateError(f"{_dollar(at)} begins a variable that is never closed", "Close it with }")


def _dollar(at: int) -> str:
    """Which dollar sign, without a word of what is around it: that may be a password."""
    return f"the $ at character {at + 1}"
