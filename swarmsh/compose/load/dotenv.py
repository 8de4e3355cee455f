"""Files of variables: `.env` and `env_file` as compose reads them, and as Docker's stacks do (`raw`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from swarmsh.compose.load.template import Lookup, TemplateError, substitute

_EXPORT = re.compile(r"export[ \t]+")
_KEY = re.compile(r"[\w.\-\[\]]+")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_BLANK = " \t\r\v\f"


@dataclass(slots=True)
class EnvFileError(ValueError):
    """What is wrong with a file of variables; line and column from 1. No word of the file, it may be secret."""

    message: str
    line: int
    column: int
    hint: str = ""


def parse_env(text: str, lookup: Lookup, on_unset: Callable[[str], None] | None = None) -> dict[str, str]:
    """The variables of a file with compose's rules. Raises EnvFileError.

    `KEY=value`, `KEY: value`, `export KEY=value`; a bare KEY takes the value of `lookup`. Quotes may span lines;
    within '…' nothing has a meaning, within "…" escapes and variables, without quotes variables and comments that
    begin with ` #`. Variables are looked up first, then among those above; `on_unset` hears of those in neither.
    """
    return _Reading(text, lookup, on_unset).variables()


class _Reading:
    def __init__(self, text: str, lookup: Lookup, on_unset: Callable[[str], None] | None) -> None:
        self._text = text
        self._on_unset = on_unset or (lambda name: None)
        self._lookup = lookup
        self._at = 0
        self._found: dict[str, str] = {}

    def variables(self) -> dict[str, str]:
        while self._skip_to_key():
            self._statement()
        return self._found

    def _skip_to_key(self) -> bool:
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._at = self._line_end()
            elif self._text[self._at].isspace():
                self._at += 1
            else:
                return True
        return False

    def _line_end(self) -> int:
        end = self._text.find("\n", self._at)
        return len(self._text) if end < 0 else end

    def _error(self, message: str, at: int, hint: str = "") -> EnvFileError:
        before = self._text[:at]
        return EnvFileError(message, before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1, hint)

    def _statement(self) -> None:
        export = _EXPORT.match(self._text, self._at)
        if export:
            self._at = export.end()
        key = _KEY.match(self._text, self._at)
        if key is None:
            raise self._error("no name of a variable", self._at, "Each line is NAME=value")
        at = self._skip_blank(key.end())
        sign = self._text[at : at + 1]
        if sign in ("", "\n", "#"):
            value = self._lookup(key[0])
            if value is not None:
                self._found[key[0]] = value
            self._at = at
            return
        if sign not in "=:":
            hint = "A name has letters, digits, _, . and -; then comes ="
            raise self._error("this cannot stand in the name of a variable", at, hint)
        self._found[key[0]] = self._value(self._skip_blank(at + 1))

    def _skip_blank(self, at: int) -> int:
        while at < len(self._text) and self._text[at] in _BLANK:
            at += 1
        return at

    def _value(self, at: int) -> str:
        self._at = at
        quote = self._text[at : at + 1]
        if quote in ("'", '"') and quote:
            return self._quoted(quote)
        end = self._line_end()
        raw = self._text[at:end]
        self._at = end
        raw = re.split(r"[ \t]#", raw, maxsplit=1)[0].rstrip()
        return self._expand(raw, at)

    def _quoted(self, quote: str) -> str:
        start = self._at
        at = start + 1
        while at < len(self._text) and self._text[at] != quote:
            at += 2 if self._text[at] == "\\" else 1
        if at >= len(self._text):
            raise self._error(f"the quote {quote} is never closed", start, f"Close it with {quote}")
        inner = self._text[start + 1 : at]
        self._at = self._skip_blank(at + 1)
        if self._text[self._at : self._at + 1] not in ("", "\n", "#"):
            raise self._error("text after the closing quote", self._at, "Put all of the value into the quotes")
        if quote == "'":
            return inner.replace("\\'", "'")
        return self._expand(_ESCAPE.sub(self._unescape, inner), start)

    @staticmethod
    def _unescape(match: re.Match[str]) -> str:
        char = match[1]
        # "\$" stays a dollar sign that begins no variable.
        return "$$" if char == "$" else _ESCAPES.get(char, char if char in "\"'\\" else match[0])

    def _expand(self, text: str, at: int) -> str:
        def find(name: str) -> str | None:
            value = self._lookup(name)
            return self._found.get(name) if value is None else value

        try:
            return substitute(text, find, self._on_unset)
        except TemplateError as e:
            raise self._error(str(e), at, e.hint) from e


def parse_raw_env(text: str, lookup: Lookup) -> dict[str, str]:
    """The variables of a file with Docker's older rules: a value is the rest of its line, quotes and all.

    Raises EnvFileError.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise EnvFileError("no name of a variable before =", number, 1, "Each line is NAME=value")
        if any(c.isspace() for c in name):
            hint = "Each line is NAME=value, without space before ="
            raise EnvFileError("the name of a variable has white space", number, 1, hint)
        if equals:
            found[name] = value
        elif (known := lookup(name)) is not None:
            found[name] = known
    return found
