"""One manager a state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from swarmsh.errors import Unavailable


class StateLock:
    """An flock on a file that holds our pid; the kernel drops it with the process, however that ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path) -> StateLock:
        """Raises Unavailable naming the process that has it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            pid = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            if not isinstance(e, BlockingIOError):
                raise
            raise Unavailable(
                f"the state directory {path.parent} is in use by another manager (pid {pid})",
                hint="Stop that one first (`swarmsh manager stop`), or name another directory with --state",
                pid=pid,
            ) from e
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(fd)

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._fd)
