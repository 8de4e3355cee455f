"""The lab's own SSH sessions to its machines: through the side door, one kept connection a machine."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from . import network
from .errors import LabError
from .paths import LabPaths


@dataclass(frozen=True, slots=True)
class Shell:
    """Commands on one machine as root."""

    paths: LabPaths
    node: str
    address: str

    @property
    def socket(self) -> Path:
        return self.paths.run / f"{self.node}.ssh"

    def argv(self, command: Sequence[str], *, terminal: bool = False) -> list[str]:
        """The ssh command line; one word is a line for the node's shell, several are an exact argv."""
        line = command[0] if len(command) == 1 else shlex.join(command)
        return [
            "ssh",
            "-F",
            "none",
            *(["-t"] if terminal else []),
            "-i",
            str(self.paths.key),
            # The lab makes the machines and their keys; faults change the keys. Nothing to be pinned here.
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ControlMaster=auto",
            "-o",
            f"ControlPath={self.socket}",
            "-o",
            "ControlPersist=600",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=3",
            f"root@{self.address}",
            *([line] if line else []),
        ]

    def run(self, command: str, *, timeout_s: float = 60.0, stdin: BinaryIO | None = None) -> str:
        """Run a shell line to its end and return its output; LabError if it fails or takes too long."""
        argv = ["nsenter", f"--net={network.NETNS_DIR / self.paths.admin_namespace}", *self.argv([command])]
        try:
            done = subprocess.run(
                argv, stdin=stdin or subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as err:
            raise LabError(f"{self.node}: `{command}` did not end within {timeout_s:.0f} s") from err
        if done.returncode != 0:
            words = (done.stderr + done.stdout).decode(errors="replace").strip()[-600:]
            raise LabError(f"{self.node}: `{command}` failed ({done.returncode}): {words}")
        return done.stdout.decode(errors="replace")

    def become(self, command: Sequence[str]) -> NoReturn:
        """Replace this process by the session, so that signals and the exit code are the command's own."""
        network.enter(self.paths.admin_namespace)
        terminal = not command and os.isatty(0)
        os.execvp("ssh", self.argv(command or [""], terminal=terminal))

    def hang_up(self) -> None:
        """End the kept connection: its machine is about to go, and a stale one would only time out."""
        if self.socket.exists():
            subprocess.run(
                ["ssh", "-F", "none", "-O", "exit", "-S", str(self.socket), self.address],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=10,
                check=False,
            )
            self.socket.unlink(missing_ok=True)
