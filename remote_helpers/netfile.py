"""The node's network state in a file of tmpfs, for the next process of the helper.

Its first line has all, each further one a change: with 1,000 services, to write all for each change of one would
cost more than to bring the kernel to it.
"""

from __future__ import annotations

import json
import os
import sys

from .log import log
from .netstate import BadChange, Held

VERSION = 1
LEAST_CHANGES = (
    64 * 1024
)  # bytes of changes after which all is written again, at least; and at least as many as all


class NetFile:
    """`root/network.json` (0600). Its directory is the helper's own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = self._appended = 0

    def write(self, held: Held, esp_state: dict) -> None:
        """Write all, whole or not at all; without content there is no file. Raises OSError."""
        self._appended = sys.maxsize  # a file that could not be written is not to be added to
        if held.empty and not esp_state:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            return
        state = {} if held.empty else held.whole()
        content = _line({"v": VERSION, "state": state, "esp": esp_state})
        fd = os.open(self._path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        _write(fd, content)
        os.rename(self._path + ".new", self._path)
        self._size, self._appended = len(content), 0

    def append(self, held: Held, esp_state: dict, changes: list) -> None:
        """Add what made the state this one, as (put, drop) each. Raises OSError."""
        content = b"".join(_line({"put": put, "drop": drop}) for put, drop in changes)
        if self._appended + len(content) > max(LEAST_CHANGES, self._size) or not os.path.exists(self._path):
            self.write(held, esp_state)
        elif content:
            known, self._appended = self._appended, sys.maxsize  # a line that is cut off is not to be added to
            _write(os.open(self._path, os.O_WRONLY | os.O_APPEND), content)
            self._appended = known + len(content)


def _line(message: dict) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _write(fd: int, content: bytes) -> None:
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def load(path: str) -> tuple:
    """(Held, ESP's state) of the file; empty ones if there is none or it cannot be read.

    A last line that was cut off by the end of the process is left out.
    """
    try:
        with open(path, "rb") as file:
            first, *changes = file.read().split(b"\n")[:-1]
        saved = json.loads(first)
        if saved["v"] != VERSION:
            raise ValueError(f"version {saved['v']}")
        held = Held.of(saved["state"])
        for line in changes:
            change = json.loads(line)
            held = held.changed(change["put"], change["drop"])
        return held, dict(saved["esp"])
    except FileNotFoundError:
        return Held(), {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadChange) as e:
        log("network_state_unreadable", path=path, error=e)
        return Held(), {}
