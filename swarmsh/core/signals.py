"""Signals by the names that people give them (signal(7), Linux)."""

from __future__ import annotations

from swarmsh.errors import InvalidSpec

# In the order of their numbers, from 1.
_NAMES = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "IO", "PWR", "SYS"),
)
_ENDING = frozenset({"KILL", "STOP"})


def accept_signal(text: str) -> str:
    """`hup`, `SIGHUP` or `1` as `SIGHUP`. Raises InvalidSpec, also for those that no program can answer to."""
    name = text.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and 0 < int(name[:4]) <= len(_NAMES):
        name = _NAMES[int(name) - 1]
    if name not in _NAMES:
        raise InvalidSpec(f"invalid signal '{text}'", hint="Name one such as HUP or USR1")
    if name in _ENDING:
        raise InvalidSpec(
            f"no program can read its files again on SIG{name}",
            hint="Name one such as HUP, or let tasks be replaced",
        )
    return f"SIG{name}"
