"""No key is dropped silently: what has no effect is warned about, what cannot be is refused."""

from __future__ import annotations

from functools import cache

from swarmsh.compose.convert.keys import KEYS, Fate, Key
from swarmsh.compose.convert.spot import Spot, Warn


def check_keys(project: Spot, warn: Warn) -> None:
    """Walk over all that is said. Raises ComposeError for what is refused, or not in the table."""
    for section, spot in project.items():
        _check(spot, (section,), warn)


@cache
def _known() -> dict[tuple[str, ...], Key]:
    return {key.parts: key for key in KEYS}


@cache
def _forks() -> frozenset[tuple[str, ...]]:
    """Every path that has keys of its own below it."""
    return frozenset(parts[:length] for parts in _known() for length in range(1, len(parts)))


def _check(spot: Spot, pattern: tuple[str, ...], warn: Warn) -> None:
    key = _known().get(pattern)
    if key is not None and _speaks(spot, pattern):
        if key.fate is Fate.REFUSED:
            raise spot.wrong(key.words, key.hint)
        if key.fate is Fate.WARNED:
            warn(spot, key.words)
    if pattern not in _forks():
        return
    if (*pattern, "*") in _forks() or (*pattern, "*") in _known():
        inner = spot.each() if isinstance(spot.value, list) else (one for _, one in spot.items())
        for one in inner:
            _check(one, (*pattern, "*"), warn)
        return
    for name, one in spot.items() if isinstance(spot.value, dict) else ():
        below = (*pattern, name)
        if below in _known() or below in _forks():
            _check(one, below, warn)
        elif not name.startswith("x-"):
            raise one.wrong("is not known here")


# Keys of which the usual value, written out, is as good as nothing.
_USUAL = {("networks", "*", "enable_ipv4"): True, ("services", "*", "attach"): True}


def _speaks(spot: Spot, pattern: tuple[str, ...]) -> bool:
    if pattern in _USUAL:
        return spot.given and spot.value is not _USUAL[pattern]
    return bool(spot)
