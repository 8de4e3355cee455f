"""What YAML text without quotes stands for, and how a value is spelled again: as Docker's own tools do both.

They read YAML 1.2's core with leftovers of 1.1: `0777` is octal and `1_000` a thousand, but yes, no, on and off
are text (a key that takes a boolean understands them), and so are `22:22` and dates.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from swarmsh.compose.load.tree import Value

_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGERS = (
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?0[oO]?[0-7]+"), 8),
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?(?:0|[1-9][0-9]*)"), 10),
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST = 64  # digits; anything longer is no number of a compose file
_TRUE = ("1", "true", "y", "yes", "on")
_FALSE = ("0", "false", "n", "no", "off")


def resolve_plain(text: str) -> Value:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST or text[0] not in "-+.0123456789":
        return text
    number = parse_number(text)
    return text if number is None else number


def parse_number(text: str) -> int | float | None:
    """The number that `text` is, None if it is none."""
    digits = text.replace("_", "")
    if len(digits) > _LONGEST:
        return None
    for pattern, base in _INTEGERS:
        if pattern.fullmatch(digits):
            bare = digits.lower().replace("0o", "0", 1) if base == 8 else digits
            number = int(bare, base)
            return number if -(2**63) <= number < 2**64 else float(number)
    if _FLOAT.fullmatch(digits) and not math.isinf(float(digits)):
        return float(digits)
    return None


def parse_bool(text: str) -> bool | None:
    """What a boolean key understands as text; None if it is neither."""
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def spell(value: Value) -> str:
    """A value as text where a key takes text only: environment, labels and the like. Numbers as Go prints them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _spell_float(value)
    return "" if value is None else str(value)


def _spell_float(value: float) -> str:
    """The fewest digits that mean this number; from 1e6 on and below 1e-4 with an exponent, as Go's %v."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        return repr(value)  # infinities and the like: resolve_plain makes none
    power = len(digits) - 1 + exponent
    if value == 0 or -4 <= power < 6:
        return repr(value).removesuffix(".0")
    head, tail = str(digits[0]), "".join(map(str, digits[1:]))
    return f"{'-' * sign}{head}{'.' + tail if tail else ''}e{power:+03d}"
