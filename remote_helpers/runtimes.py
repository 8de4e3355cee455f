"""Which OCI runtimes of this Engine can be told a new restart policy while a container runs.

The Engine updates all of a container's settings at once. crun before 1.0 on cgroup v2 takes «no memory limit» for
a limit of 0 there, and the kernel kills the container (seen with Docker 20.10.5 and crun 0.17 of Debian 11).
"""

from __future__ import annotations

import asyncio

from .timing import Expired, deadline


async def harmless_runtimes(info: dict) -> frozenset:
    """Names of runtimes whose containers survive an update, of `GET /info`; "" stands for the default one."""
    found = set()
    for name, runtime in (info.get("Runtimes") or {}).items():
        path = (runtime or {}).get("path") or name
        if info.get("CgroupVersion") != "2" or "crun" not in path.rpartition("/")[2] or await _crun_is_new(path):
            found.add(name)
    if info.get("DefaultRuntime") in found:
        found.add("")
    return frozenset(found)


async def _crun_is_new(path: str) -> bool:
    try:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(path, "--version", stdout=pipe, stderr=pipe)
        async with deadline(10.0):
            output, _ = await process.communicate()
    except (OSError, Expired):
        return False
    return crun_version(output.decode("utf-8", "replace")) >= (1, 0)


def crun_version(text: str) -> tuple:
    """`crun version 1.14.1 …` to (1, 14); (0, 0) if it says nothing of the kind."""
    words = text.split()
    if words[:2] != ["crun", "version"] or len(words) < 3:
        return (0, 0)
    numbers = [*words[2].split("."), "0"][:2]
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)
