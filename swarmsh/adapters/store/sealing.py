"""Values encrypted at rest: a random data key for each value, wrapped by a key from a 0600 file.

AES-256-GCM twice (NIST SP 800-38D). Both layers authenticate the value's name, so that rows cannot be swapped.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmsh.errors import StoreCorrupt

_FORMAT, _NONCE, _WRAPPED = b"\x01", 12, 48  # version byte; GCM nonce; 32-byte key with its 16-byte tag


class Sealer:
    def __init__(self, key: bytes) -> None:
        self._outer = AESGCM(key)

    def __repr__(self) -> str:
        return "Sealer(…)"

    @classmethod
    def from_file(cls, path: Path) -> Sealer:
        """Use the key in `path`, made when it is missing."""
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = AESGCM.generate_key(256)
            _write_durably(path, key)
        if len(key) != 32:
            raise StoreCorrupt(
                f"the key file {path} has {len(key)} bytes in place of 32",
                hint="Restore it from a backup; without it stored credentials must be given again, so remove it",
                path=str(path),
            )
        return cls(key)

    def seal(self, name: str, value: bytes) -> bytes:
        key, wrap_nonce, nonce = AESGCM.generate_key(256), os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = self._outer.encrypt(wrap_nonce, key, name.encode())
        return _FORMAT + wrap_nonce + wrapped + nonce + AESGCM(key).encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises StoreCorrupt if the value was sealed with another key or changed since."""
        head, rest = sealed[: 1 + _NONCE + _WRAPPED], sealed[1 + _NONCE + _WRAPPED :]
        try:
            if head[:1] != _FORMAT:
                raise InvalidTag
            key = self._outer.decrypt(head[1 : 1 + _NONCE], head[1 + _NONCE :], name.encode())
            return AESGCM(key).decrypt(rest[:_NONCE], rest[_NONCE:], name.encode())
        except (InvalidTag, ValueError) as e:
            raise StoreCorrupt(
                f"the stored secret {name} does not open with the key file",
                hint="Restore the key file that belongs to this database, or give the secret again",
            ) from e


def _write_durably(path: Path, data: bytes) -> None:
    """Whole or not at all, also if the power goes: a key lost after first use loses every secret."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
