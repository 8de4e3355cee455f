"""A file system that exists in memory only and is never swapped out, for what must not reach a disk.

Numbers: mount(2), umount2(2), prctl(2). `noswap` of tmpfs came with Linux 6.4; before that there is ramfs, whose
pages cannot be swapped, and last a tmpfs that may be: what /run is anyway.
"""

from __future__ import annotations

import os
import resource
import shutil

from .log import log

KINDS = ("tmpfs", "ramfs")
_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH = 2
_PR_SET_DUMPABLE = 4
_SELINUX = "/sys/fs/selinux/enforce"
_CONTEXT = ',context="system_u:object_r:container_file_t:s0"'  # what containers may read


def no_core_dumps() -> None:
    """From now on a crash of this process leaves nothing of its memory on a disk.

    The limit is not asked where the kernel pipes dumps to a program; for those the filter says: no part of it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
            file.write("0")
    except OSError as e:
        log("core_dumps_not_filtered", cause=e)


def not_dumpable() -> None:
    """Nobody but root reads this process's memory, and no dump of it is made; an exec undoes that."""
    libc, _ = _libc()
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def ensure_mounted(folder: str) -> str:
    """Have `folder` (0700) in memory: "noswap", "ramfs" or "tmpfs", as what. Raises OSError if it cannot be.

    One that a former process of the helper mounted is kept, with what is in it.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = mounted_at(folder)
    if found:
        return found
    context = _CONTEXT if os.path.exists(_SELINUX) else ""
    trouble = None
    for kind, name, options in (("tmpfs", "noswap", "mode=0700,noswap"), ("ramfs", "ramfs", "mode=0700")):
        try:
            _mount(kind, folder, options + context)
            os.chmod(folder, 0o700)
            return name
        except OSError as e:
            trouble = e
    if kind_of(folder) in KINDS:
        log("secrets_may_be_swapped", folder=folder, cause=trouble)
        return kind_of(folder)
    _mount("tmpfs", folder, "mode=0700" + context)
    log("secrets_may_be_swapped", folder=folder, cause=trouble)
    return "tmpfs"


def take_away(folder: str) -> None:
    """Unmount and remove it, and all that is in it; nothing if it is not there."""
    shutil.rmtree(folder, ignore_errors=True)  # what containers hold of it is empty then
    if mounted_at(folder):
        libc, ctypes = _libc()
        if libc.umount2(os.fsencode(folder), _MNT_DETACH):
            log("not_unmounted", folder=folder, cause=os.strerror(ctypes.get_errno()))
            return
    shutil.rmtree(folder, ignore_errors=True)


def mounted_at(folder: str) -> str:
    """The kind of file system in memory that is mounted exactly there; "" if there is none."""
    kind, point, options = _mount_of(folder)
    if point != os.path.realpath(folder) or kind not in KINDS:
        return ""
    return "noswap" if "noswap" in options.split(",") else kind


def kind_of(path: str) -> str:
    """The kind of the file system that a path is in."""
    return _mount_of(path)[0]


def _mount_of(path: str) -> tuple:
    """(kind, mount point, options) of the file system that a path is in (proc(5), mountinfo)."""
    path = os.path.realpath(path)
    best = ("", "", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].replace("\\040", " ")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[1]):  # of several at one point the last one is seen
                kind, _, options = after.rstrip("\n").split(" ", 2)
                best = (kind, point, options)
    return best


def _mount(kind: str, folder: str, options: str) -> None:
    libc, ctypes = _libc()
    words = [os.fsencode(word) for word in ("swarmsh", folder, kind)]
    if libc.mount(*words, ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), os.fsencode(options)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), folder)


def _libc() -> tuple:
    import ctypes  # nodes without secrets do without it

    return ctypes.CDLL(None, use_errno=True), ctypes
