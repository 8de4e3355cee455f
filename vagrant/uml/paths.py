"""Where the lab keeps things: the cache of images, a lab's own folder, its short-lived run folder."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

VAGRANT_DIR = Path(__file__).resolve().parent.parent
CHECKOUT = VAGRANT_DIR.parent


def cache_dir() -> Path:
    """The folder of built images, shared by all labs and checkouts of this user."""
    own = os.environ.get("SWARMSH_LAB_CACHE")
    if own:
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "swarmsh-lab"


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Every path and host-wide name that belongs to one lab."""

    name: str
    root: Path  # .lab/NAME in the checkout

    @property
    def tag(self) -> str:
        """The lab's name on this host; distinct for labs of one name in two checkouts."""
        return f"swl-{self.name}-{hashlib.sha256(bytes(self.root)).hexdigest()[:6]}"

    @property
    def namespace(self) -> str:
        """The network namespace of the manager, the clients and the machines' links."""
        return self.tag

    @property
    def admin_namespace(self) -> str:
        """The network namespace of the lab's own commands; no fault cuts its way to a machine."""
        return f"{self.tag}-adm"

    @property
    def run(self) -> Path:
        """Sockets, whose paths must be short, and locks."""
        return Path("/run/swarmsh-lab") / self.tag

    @property
    def memory(self) -> Path:
        """Where the machines' memory files are made (and unlinked at once)."""
        return Path("/dev/shm") / self.tag

    @property
    def state(self) -> Path:
        """What was asked of `up`, as JSON."""
        return self.root / "lab.json"

    @property
    def key(self) -> Path:
        """The private key that opens every machine."""
        return self.root / "id_ed25519"

    @property
    def inventory(self) -> Path:
        """The Ansible inventory of the lab's machines."""
        return self.root / "inventory.yml"

    def node(self, name: str) -> Path:
        """The folder of one machine: disk, seed, console log."""
        return self.root / name


def lab_paths(name: str) -> LabPaths:
    """The paths of the lab called `name`."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,23}", name):
        raise LabError(f"{name!r} is no name for a lab", "Use at most 24 lower-case letters, digits and dashes.")
    base = os.environ.get("SWARMSH_LAB_DIR")
    return LabPaths(name, (Path(base).absolute() if base else CHECKOUT / ".lab") / name)
