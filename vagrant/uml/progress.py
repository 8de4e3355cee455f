"""Telling a human on standard error how far things are: one line each on a terminal, else a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence


class Progress:
    """A stage for each of several named things, shown as they change; may be used from threads."""

    def __init__(self, names: Sequence[str], *, quiet: bool = False) -> None:
        self._stages = dict.fromkeys(names, "waiting")
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._quiet = quiet
        self._live = sys.stderr.isatty() and len(names) > 0
        self._drawn = False

    def show(self, name: str, stage: str) -> None:
        """Record that `name` has come to `stage`, and show it."""
        with self._lock:
            if self._quiet or self._stages.get(name) == stage:
                return
            self._stages[name] = stage
            took = time.monotonic() - self._since
            if not self._live:
                print(f"{took:6.1f} s  {name}: {stage}", file=sys.stderr, flush=True)
                return
            up = f"\x1b[{len(self._stages)}A" if self._drawn else ""
            lines = "".join(f"\x1b[2K{key:<10} {value}\n" for key, value in self._stages.items())
            print(f"{up}{lines}", end="", file=sys.stderr, flush=True)
            self._drawn = True
