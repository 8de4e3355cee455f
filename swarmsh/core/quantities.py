"""Durations, sizes, CPUs, capabilities and hosts as the docker CLI and compose files write them.

Each `parse_…` raises ValueError with the reason. Formats: docker/cli `opts`, docker/go-units, Go's
`time.ParseDuration`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS_NS["h"] = 3600 * 10**9
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LONG_EXPONENT = re.compile(r"[eE][+-]?\d{3}")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)


def parse_duration(text: str) -> int:
    """Nanoseconds of `1h30m`, `500ms`, `0`."""
    rest = text.lstrip("+-") if text[:1] in "+-" else text
    if rest == "0":
        return 0
    position, total = 0, Decimal(0)
    while match := _DURATION_PART.match(rest, position):
        total += Decimal(match[1]) * _UNITS_NS[match[2]]
        position = match.end()
    if not rest or position != len(rest):
        raise ValueError(f"invalid duration {text!r}: write it like 10s, 1m30s or 500ms")
    return -int(total) if text[0] == "-" else int(total)


def parse_bytes(text: str) -> int:
    """Bytes of `512m`, `1.5GiB`, `1048576`; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"invalid size {text!r}: write it like 512m or 1.5GiB")
    return int(Decimal(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_nano_cpus(text: str) -> int:
    """Billionths of a CPU of `0.5`."""
    try:
        if _LONG_EXPONENT.search(text):
            raise ValueError  # it would be worked out to its last digit
        nano = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"invalid number of CPUs {text!r}") from None
    if nano.denominator != 1:
        raise ValueError("value is too precise")
    return int(nano)


def hosts_entry(host: str) -> str:
    """`HOST:IP` as a line of /etc/hosts, the form in specs."""
    name, _, address = host.partition(":")
    return f"{address} {name}"


def normal_capability(text: str) -> str:
    """`net_admin` as `CAP_NET_ADMIN`; `ALL` and `RESET` as they are."""
    name = text.strip().upper()
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"


def effective_capabilities(add: Iterable[str], drop: Iterable[str]) -> tuple[list[str], list[str]]:
    """(added, dropped), sorted, in their normal form. What is added is not dropped, and ALL covers all others."""
    added = {normal_capability(name) for name in add}
    dropped = {normal_capability(name) for name in drop}
    added = {"ALL"} if "ALL" in added else added
    dropped = {"ALL"} if "ALL" in dropped else dropped
    return sorted(added - {"RESET"}), sorted(dropped - added - {"RESET"})
