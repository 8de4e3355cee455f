"""Values encrypted at rest: a random key for each value, wrapped by the data key of the store.

AES-256-GCM twice (NIST SP 800-38D). Both layers authenticate the value's name, so that rows cannot be swapped.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmsh.errors import StoreCorrupt

_FORMAT, _NONCE, _WRAPPED = b"\x01", 12, 48  # version byte; GCM nonce; 32-byte key with its 16-byte tag
_HEAD = 1 + _NONCE + _WRAPPED


class Sealer:
    def __init__(self, key: bytes) -> None:
        self._outer = AESGCM(key)

    def __repr__(self) -> str:
        return "Sealer(…)"

    def seal(self, name: str, value: bytes) -> bytes:
        key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE)
        return self._wrapped(name, key) + nonce + AESGCM(key).encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises StoreCorrupt if the value was sealed with another key or changed since."""
        rest = sealed[_HEAD:]
        try:
            key = self._unwrapped(name, sealed)
            return AESGCM(key).decrypt(rest[:_NONCE], rest[_NONCE:], name.encode())
        except (InvalidTag, ValueError) as e:
            raise _unopened(name) from e

    def opens(self, name: str, sealed: bytes) -> bool:
        try:
            self._unwrapped(name, sealed)
        except (InvalidTag, ValueError):
            return False
        return True

    def handed_over(self, name: str, sealed: bytes, to: Sealer) -> bytes:
        """The value as `to` opens it, its own key unchanged and its bytes untouched. Raises StoreCorrupt."""
        try:
            return to._wrapped(name, self._unwrapped(name, sealed)) + sealed[_HEAD:]
        except (InvalidTag, ValueError) as e:
            raise _unopened(name) from e

    def _wrapped(self, name: str, key: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return _FORMAT + nonce + self._outer.encrypt(nonce, key, name.encode())

    def _unwrapped(self, name: str, sealed: bytes) -> bytes:
        if sealed[:1] != _FORMAT:
            raise InvalidTag
        return self._outer.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE : _HEAD], name.encode())


def _unopened(name: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the stored secret {name} does not open with the key of this database",
        hint="Restore the key that belongs to this database, or give the secret again",
    )
