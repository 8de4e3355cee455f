"""Pinned host keys: what a target's pins accept, and where a first pin can be found.

A pin is an OpenSSH fingerprint ("SHA256:" and base64 without padding, as `ssh-keygen -l` prints it) or a public
key line ("ssh-ed25519 AAAA… [comment]"). Host certificates are not asked for: a pin names one key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from swarmsh.errors import InvalidSpec

# In the order in which a server is asked for them; sshd answers with the first that it has.
HOST_KEY_ALGORITHMS: tuple[tuple[str, ...], ...] = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-256", "rsa-sha2-512"),
)
ALL_ALGORITHMS = tuple(name for family in HOST_KEY_ALGORITHMS for name in family)


class HostPins:
    """The host keys that one target may show."""

    def __init__(self, pins: Sequence[str]) -> None:
        self.shown_as = tuple(_fingerprint_of_pin(p) for p in pins)
        keys = [asyncssh.import_public_key(p) for p in pins if not p.startswith("SHA256:")]
        self._accepted = frozenset(self.shown_as)
        # A fingerprint does not tell its key's kind. If all pins are whole keys, only their kinds are asked for.
        kinds = {alg.decode() for key in keys for alg in key.sig_algorithms} - {"ssh-rsa"}
        known_kinds = tuple(name for name in ALL_ALGORITHMS if name in kinds)
        self.algorithms = known_kinds if keys and len(keys) == len(pins) and known_kinds else ALL_ALGORITHMS
        self.kind_is_known = self.algorithms is not ALL_ALGORITHMS

    def accept(self, key: asyncssh.SSHKey) -> bool:
        # SHA-256 of the whole public key: equal fingerprints are equal keys.
        return key.get_fingerprint() in self._accepted


def _fingerprint_of_pin(pin: str) -> str:
    if pin.startswith("SHA256:"):
        return pin.rstrip("=")
    try:
        return asyncssh.import_public_key(pin).get_fingerprint()
    except asyncssh.KeyImportError as e:
        raise InvalidSpec(
            f"not a host key or fingerprint: {pin[:60]!r}",
            hint='Give "SHA256:…" as `ssh-keygen -lf` prints it, or the line of the host\'s ssh_host_*_key.pub',
        ) from e


def public_key_line(key: asyncssh.SSHKey) -> str:
    """ "ssh-ed25519 AAAA…", without a comment."""
    kind, blob = key.export_public_key().decode().split()[:2]
    return f"{kind} {blob}"


async def known_host_keys(address: str, port: int = 22, path: Path | None = None) -> tuple[str, ...]:
    """Public key lines that the user's known_hosts file (or `path`) holds for an address, revoked ones left out.

    Empty if there is no file or no entry. Hashed names and [host]:port entries are understood.
    """
    return await asyncio.to_thread(_read_known_hosts, address, port, path)


def _read_known_hosts(address: str, port: int, path: Path | None) -> tuple[str, ...]:
    try:
        known = asyncssh.read_known_hosts(str(path or Path("~/.ssh/known_hosts").expanduser()))
    except (OSError, ValueError):
        return ()
    # `match` falls back to entries without a port, which are another server's.
    in_brackets = f"[{address}]:{port}" if port != 22 else address
    keys, _cas, revoked, *_ = known.match(in_brackets, "", None)
    return tuple(dict.fromkeys(public_key_line(k) for k in keys if k not in revoked))
