"""Where the manager keeps its state and its socket (XDG base directory specification). Imports stay light."""

from __future__ import annotations

import os
from pathlib import Path

from swarmsh.errors import InvalidSpec

SOCKET_NAME = "swarmsh.sock"
HOST_VARIABLE = "SWARMSH_HOST"


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/swarmsh`, by default `~/.local/state/swarmsh`; it may not exist yet."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "swarmsh"


def default_socket(state_dir: Path | None = None) -> Path:
    """The manager's socket: in `$XDG_RUNTIME_DIR/swarmsh` if the variable is set, else in the state directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return (Path(runtime) / "swarmsh" if runtime else state_dir or default_state_dir()) / SOCKET_NAME


def parse_host(address: str) -> Path:
    """The socket's path in `unix:///path`. Raises InvalidSpec: the manager listens on nothing else."""
    if address.startswith("unix://") and len(address) > len("unix://"):
        return Path(address.removeprefix("unix://"))
    raise InvalidSpec(
        f"{HOST_VARIABLE}={address!r} is not the address of a manager", hint="Use unix:///path/to/swarmsh.sock"
    )


def manager_socket(state_dir: Path | None = None) -> Path:
    """The socket that clients speak to: `SWARMSH_HOST` if set, else the default."""
    address = os.environ.get(HOST_VARIABLE, "")
    return parse_host(address) if address else default_socket(state_dir)
