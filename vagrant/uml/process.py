"""Running host commands, and knowing a process again by its pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    stdin: bytes | None = None,
    env: dict[str, str] | None = None,
    namespace: str = "",
    cwd: str | None = None,
) -> str:
    """Run a host command to its end and return its standard output, inside a namespace if one is named.

    Raises LabError with the command's last words if it fails or outlives `timeout_s`.
    """
    if namespace:
        argv = ["nsenter", f"--net=/run/netns/{namespace}", *argv]
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else None,
            check=False,
        )
    except FileNotFoundError as err:
        raise LabError(f"{argv[0]}: no such command on this host") from err
    except subprocess.TimeoutExpired as err:
        raise LabError(f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s") from err
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-8:]
        raise LabError(f"`{' '.join(argv)}` failed ({done.returncode}): " + "\n  ".join(words))
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat: clock ticks after the host's boot
    boot_id: str  # /proc/sys/kernel/random/boot_id of the host

    def stat(self) -> list[str] | None:
        """Fields 3.. of /proc/PID/stat, or None if the process is gone (a zombie counts as gone)."""
        fields = _stat_fields(self.pid)
        if fields is None or int(fields[19]) != self.start_ticks or fields[0] == "Z":
            return None
        return fields if self.boot_id == _boot_id() else None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.stat() is not None


def identify(pid: int) -> ProcessId | None:
    """The identity of the process that has number `pid` now, if there is one."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessId(pid, int(fields[19]), _boot_id())


def end(process: ProcessId, *, timeout_s: float = 10.0, first: signal.Signals = signal.SIGKILL) -> None:
    """Send `first` (then SIGKILL at the deadline) and return when the process is gone."""
    for sign in (first, signal.SIGKILL):
        if not process.alive():
            return
        try:
            # The descriptor pins the process: the check and the signal concern the same one.
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        try:
            if process.alive():
                signal.pidfd_send_signal(descriptor, sign)
        finally:
            os.close(descriptor)
        if wait_until(lambda: not process.alive(), timeout_s=timeout_s):
            return
    raise LabError(f"process {process.pid} does not end, even by SIGKILL")


def wait_until(true: Callable[[], bool], *, timeout_s: float, every_s: float = 0.02) -> bool:
    """Poll `true` until it holds; False if the deadline passes first."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
