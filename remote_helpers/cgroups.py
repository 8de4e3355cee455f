"""The cgroup of a container's processes, and ending them there without the Engine (cgroup v1 and v2)."""

from __future__ import annotations

import asyncio
import os
import signal
import time

ROOT = "/sys/fs/cgroup"


def parse_cgroup(text: str) -> list:
    """Lines of /proc/PID/cgroup as (controllers, path), those with a path of their own only (cgroups(7))."""
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if path not in ("", "/"):
            found.append((controllers, path))
    return found


def cgroup_of(pid: int, container_id: str) -> str:
    """Directory whose cgroup.procs holds the container's processes; "" if it is not to be found."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            entries = parse_cgroup(file.read())
    except (OSError, ValueError):
        return ""
    for controllers, path in entries:
        if container_id not in path:
            continue  # another process has this pid by now, or the container shares the host's cgroup
        # The container's own root, even when its first process moved into a child group (systemd inside).
        head, _, tail = path.partition(container_id)
        path = head + container_id + tail.split("/", 1)[0]
        name = controllers.replace("name=", "")
        for base in (f"{ROOT}/{name}", f"{ROOT}/unified", ROOT):
            if os.path.exists(base + path + "/cgroup.procs"):
                return base + path
    return ""


def find_cgroup(container_id: str) -> str:
    """A container's cgroup by its id, for one whose process is not known; "" if there is none."""
    for folder, below, _ in os.walk(ROOT):
        for name in below:
            ours = name == f"docker-{container_id}.scope" or (
                name == container_id and os.path.basename(folder) == "docker"
            )
            if ours and os.path.exists(f"{folder}/{name}/cgroup.procs"):
                return f"{folder}/{name}"
    return ""


def pids_in(directory: str) -> list:
    """Processes in a cgroup and in those below it."""
    found = []
    for folder, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                with open(folder + "/cgroup.procs", encoding="ascii") as file:
                    found += [int(word) for word in file.read().split()]
            except OSError:
                continue  # the group vanished, or is threaded
    return found


def kill_once(directory: str) -> None:
    """SIGKILL for all processes of the cgroup, at once where the kernel can (5.14)."""
    try:
        with open(directory + "/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
    except OSError:
        for pid in pids_in(directory):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


async def end_cgroup(directory: str, within_s: float = 5.0) -> bool:
    """Kill until no process is left in the cgroup; False if some survive (uninterruptible)."""
    until = time.monotonic() + within_s
    while pids_in(directory):
        if time.monotonic() >= until:
            return False
        kill_once(directory)
        await asyncio.sleep(0.02)  # there is no event for the end of other processes' children
    return True
