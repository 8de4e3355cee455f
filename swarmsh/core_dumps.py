"""What processes that have secrets in their memory do about core dumps. Imports stay light."""

from __future__ import annotations

import contextlib
import os
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def forbid() -> None:
    """From now on a crash of this process leaves nothing of its memory on a disk.

    The limit is not asked where the kernel pipes dumps to a program (core(5)): for those the filter says that no
    part of the memory is wanted, and that the process is not dumpable; so only root can read its memory too.
    Programs that it starts are dumpable again, and keep the other two.
    """
    import ctypes  # not every command needs it

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # not there without CONFIG_COREDUMP; to be written before prctl shuts it
        fd = os.open("/proc/self/coredump_filter", os.O_WRONLY)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
