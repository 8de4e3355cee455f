"""Small helpers for messages: the word that was probably meant, durations and sizes as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`; always one of them, even if nothing is close."""
    return difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.0)[0]


def near(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known words that are like `word`, the likest first; empty if none is."""
    return difflib.get_close_matches(word.lower(), list(known), n=most, cutoff=0.6)


def counted(number: int, thing: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def parse_duration_s(text: str) -> float | None:
    """Seconds of a duration as Go writes it (`1m30s`, `500ms`); None if it is none. It takes a unit."""
    if not re.fullmatch(rf"(?:{_DURATION_PART.pattern})+", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def size_words(count: float) -> str:
    """`1.944GiB`, as Docker's BytesSize."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.4g}{unit}"


def duration_text(seconds: float) -> str:
    """A duration as people write it, to the second: `10m`, `1m30s`, `45s`."""
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
