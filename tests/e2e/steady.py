"""A steady load on a published port of the lab's nodes, from outside, and what its clients saw."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .labctl import COMMAND, Lab

PROGRAM = Path(__file__).with_name("clients.py")
END_S = 120.0  # the last answers


@dataclass
class Load:
    """What clients counted (clients.py); filled when they have ended."""

    began: float = 0.0  # monotonic clock of this host, when all had had their first answer
    answered: dict[str, int] = field(default_factory=dict)
    by_url: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    failed: list[list[Any]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.answered.values()) + len(self.failed)

    def told(self) -> str:
        """One line for the test's output."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.answered.items())
        return f"{len(self.failed)} of {self.requests} failed ({kinds}; {self.retried} tried once more)"

    def check(self) -> None:
        """Every kind of client was answered through every node, and no request failed."""
        print(self.told())
        assert self.failed == [], self.told()
        assert self.answered and min(self.answered.values()) > 0, self.answered
        assert min(self.by_url.values()) > 0, self.by_url


@contextmanager
def steady(lab: Lab, urls: list[str], *options: str) -> Iterator[Load]:
    """Clients of these URLs meanwhile; they end by themselves after 10 minutes (`--limit`)."""
    load = Load()
    argv = [str(COMMAND), "run", f"--name={lab.name}", "--", sys.executable, str(PROGRAM), *options, *urls]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdout is not None
        assert clients.stdout.readline() == b"ready\n"
        load.began = time.monotonic()
        yield load
        told = json.loads(clients.communicate(timeout=END_S)[0])
    for name, value in told.items():
        setattr(load, name, value)
