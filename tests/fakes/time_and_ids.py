"""A clock that moves when told, and ids that count."""

from __future__ import annotations


class FakeClock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def pass_time(self, seconds: float) -> None:
        self.time += seconds


class CountingIds:
    """`1…`-padded ids of 25 characters: `0000000000000000000000001`, or with a letter in front."""

    def __init__(self, prefix: str = "") -> None:
        self.count = 0
        self.prefix = prefix

    def new_id(self) -> str:
        self.count += 1
        return f"{self.prefix}{self.count:0{25 - len(self.prefix)}d}"
