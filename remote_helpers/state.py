"""What outlives the helper's process: one small file in tmpfs, written atomically."""

from __future__ import annotations

import asyncio
import json
import os

from .log import log

VERSION = 1
COALESCE_S = 0.05
AGAIN_S = 1.0  # where it cannot be written


class StateFile:
    """`root/state.json` (0600). `collect` is asked for the content when it is written.

    `trouble`: why what is in the file is not the newest; "" else. It is written again and again until it is.
    """

    def __init__(self, path: str, collect) -> None:
        self._path = path
        self._collect = collect
        self._timer = None
        self.trouble = ""

    def load(self) -> dict:
        """The last written state; empty if there is none or it cannot be read."""
        try:
            with open(self._path, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            log("state_unreadable", path=self._path, error=e)
            return {}
        return state if isinstance(state, dict) and state.get("v") == VERSION else {}

    def save_soon(self) -> None:
        """Write within 50 ms; many changes in that time are one write."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self._on_timer)

    def _on_timer(self) -> None:
        known = self.trouble
        try:
            self.save()
        except OSError as e:
            if self.trouble != known:
                log("state_not_written", path=self._path, error=e)

    def save(self) -> None:
        """Write now. Raises OSError if the file system is full."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        content = json.dumps(dict(self._collect(), v=VERSION), separators=(",", ":")).encode()
        try:
            self._write(content)
        except OSError as e:
            self.trouble = f"{self._path} cannot be written: {e.strerror}"
            self._timer = asyncio.get_running_loop().call_later(AGAIN_S, self._on_timer)
            raise
        self.trouble = ""

    def _write(self, content: bytes) -> None:
        temporary = self._path + ".new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, self._path)  # no fsync: tmpfs forgets all of it with the power
