"""Literals of Go's text/template (strconv.Unquote). Bytes that are no text are lone surrogates."""

from __future__ import annotations

import re

_SIMPLE = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
_ESCAPE = re.compile(
    r"""\\(?:(?P<simple>[abfnrtv\\"])
      | x(?P<hex>[0-9a-fA-F]{2}) | (?P<octal>[0-3][0-7]{2})
      | u(?P<short>[0-9a-fA-F]{4}) | U(?P<long>[0-9a-fA-F]{8}))
      | (?P<wrong>\\)""",
    re.VERBOSE,
)


def unquoted(literal: str) -> str | None:
    """What a text in quotes or backquotes is; None for an escape that Go does not have."""
    if literal.startswith("`"):
        return literal[1:-1].replace("\r", "")
    try:
        text = _ESCAPE.sub(_meant, literal[1:-1])
    except ValueError:
        return None
    # Bytes of one letter may have been written one by one.
    return text.encode(errors="surrogateescape").decode(errors="surrogateescape")


def _meant(found: re.Match[str]) -> str:
    """Raises ValueError."""
    if simple := found["simple"]:
        return _SIMPLE[simple]
    if byte := found["hex"] or found["octal"]:
        return bytes([int(byte, 16 if found["hex"] else 8)]).decode(errors="surrogateescape")
    point = int(found["short"] or found["long"] or "wrong", 16)
    if point > 0x10FFFF or 0xD800 <= point < 0xE000:
        raise ValueError
    return chr(point)
