"""The machine's own clock and randomness."""

from __future__ import annotations

import secrets
import time

# Linux's clock that goes on while the machine sleeps (clock_gettime(2)); elsewhere the usual one has to do.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 25  # swarmkit `identity`: 128 bits in base 36


class SystemClock:
    """`manager.ports.Clock` by this machine."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(_MONOTONIC)


class RandomIds:
    """`manager.ports.IdSource`: unguessable, and unique without asking."""

    def new_id(self) -> str:
        number = secrets.randbits(128)
        digits = []
        for _ in range(_ID_LENGTH):
            number, digit = divmod(number, 36)
            digits.append(_BASE36[digit])
        return "".join(digits)
