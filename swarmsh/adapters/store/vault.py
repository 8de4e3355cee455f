"""The key to all sealed values: where it comes from, how it is changed, and what holds while it is not at hand.

The *data key* wraps the keys of the values; it is in the database, wrapped itself by a *key-encryption key* that
is not: that is in a file beside the database, in the OS keyring, or made of a passphrase (scrypt, RFC 7914).
What needs the database belongs to the store's thread. Keys are made, looked for and dropped in any other, since a
keyring may ask somebody first, and scrypt takes its time; one at a time, which is the caller's part.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec.structs import replace
from sqlite_utils import Database

from swarmsh.adapters.store import schema
from swarmsh.adapters.store.sealing import Sealer
from swarmsh.errors import InvalidSpec, Locked, StoreCorrupt, Unavailable
from swarmsh.model.wire import Record

KEY_FILE = "secrets.key"
KEY_PLACES = ("file", "keyring", "passphrase")
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1  # 128 MiB and some 0.4 s for each guess
LEAST_PASSPHRASE = 8
T = TypeVar("T")
log = logging.getLogger(__name__)
_META = "sealing"
_NONCE, _KEY_BYTES = 12, 32
_KEYRING_SERVICE = "swarmsh"
KEYRING_S = 20.0  # for one answer of the OS keyring


class Keyring(Protocol):
    """What is used of the library `keyring`."""

    def get_password(self, service: str, name: str, /) -> str | None: ...

    def set_password(self, service: str, name: str, value: str, /) -> None: ...

    def delete_password(self, service: str, name: str, /) -> None: ...


class Wrapping(Record):
    """The data key as the database has it."""

    place: str  # of KEY_PLACES
    key_id: str  # tells which key-encryption key it needs, and nothing of that key
    wrapped: bytes
    entry: str = ""  # of the keyring
    salt: bytes = b""
    scrypt_n: int = 0
    left_file: str = ""  # key_id of the last key that was in the file, which is to be gone


@dataclass
class Made:
    """New keys. `outcome`: "" while it is not known what became of them, "done", or "undone" if all is as it was.
    `before` is what nothing needs any more once it is done."""

    wrapping: Wrapping
    data_key: bytes = field(repr=False)
    outcome: str = ""
    before: Wrapping | None = None


class Vault:
    def __init__(self, directory: Path, keyring: Callable[[], Keyring]) -> None:
        self._directory = directory
        self._keyring = keyring
        self._wrapping: Wrapping | None = None
        self._data_key: bytes | None = None
        self._reason = ""
        self._uncertain = False
        self._log_holds_old = False

    def __repr__(self) -> str:
        return f"Vault(place={self.place!r}, locked={self.locked!r})"

    @property
    def place(self) -> str:
        return self._wrapping.place if self._wrapping is not None else "file"

    @property
    def locked(self) -> str:
        """Why nothing can be opened or sealed now; empty if it can."""
        return self._reason

    @property
    def sealer(self) -> Sealer:
        """Raises Locked."""
        if self._data_key is None:
            raise Locked(self._reason, hint=self._way_out())
        return Sealer(self._data_key)

    def _way_out(self) -> str:
        if self.place == "passphrase":
            return "Give its passphrase: `swarmsh manager unlock`"
        return (
            "Put the key back in its place, then: `swarmsh manager unlock`; if it is lost for good, "
            "`swarmsh manager rotate-key --forget` begins a new one, and secrets and configs must be given again"
        )

    # --- opened -----------------------------------------------------------------------------------------------
    def open(self, db: Database) -> None:
        """Find the key; what keeps it away makes the vault locked, and is no error. Raises StoreCorrupt."""
        stored = schema.get_meta(db, _META, None)
        if stored is None:
            self._begin(db)
            return
        try:
            self._wrapping = msgspec.json.decode(stored, type=Wrapping)
        except (msgspec.MsgspecError, UnicodeError) as e:
            raise StoreCorrupt(f"the sealed data key cannot be read: {e}", hint=schema.way_out()) from e
        if self._wrapping.place == "passphrase":
            self._reason = "the manager is locked: its secrets are encrypted with a passphrase"
            return
        self._fetch()

    def _begin(self, db: Database) -> None:
        """A database of before there was a data key: the key in the file wrapped the values' keys itself."""
        path = self._directory / KEY_FILE
        present = _read_key(path)
        if present is not None and len(present) != _KEY_BYTES:
            raise StoreCorrupt(
                f"the key file {path} has {len(present)} bytes in place of {_KEY_BYTES}",
                hint="Restore it from a backup",
                path=str(path),
            )
        _refuse_another(db, present, path)
        key = present or AESGCM.generate_key(256)
        if present is None:
            _write_durably(path, key)
        data_key = AESGCM.generate_key(256)
        wrapping = _wrap(Wrapping(place="file", key_id="", wrapped=b""), key, data_key)
        with db.atomic():
            if present is not None:
                _hand_over(db, Sealer(key), Sealer(data_key))
            self._write(db, wrapping)
        self._wrapping, self._data_key = wrapping, data_key

    def _fetch(self) -> None:
        """Take the key from its place; a change of keys that was cut off is brought to an end here."""
        assert self._wrapping is not None
        try:
            key = self._from_file() if self.place == "file" else self._from_keyring()
            self._opened(_unwrap(self._wrapping, key))
        except (Unavailable, InvalidTag) as e:
            self._data_key = None
            words = str(e) or "the key there is not the one of this database"
            self._reason = f"the key to the manager's secrets cannot be had from its {self.place}: {words}"

    def _from_file(self) -> bytes:
        assert self._wrapping is not None
        path, following = self._directory / KEY_FILE, self._directory / f"{KEY_FILE}.next"
        present, new = _read_key(path), _read_key(following)
        if new is not None and _key_id(new) == self._wrapping.key_id:
            following.rename(path)
            _sync(self._directory)
            return new
        if present is None:
            raise Unavailable(f"there is no {path}")
        if new is not None and _key_id(present) == self._wrapping.key_id:
            following.unlink()  # of a change that came to nothing
        return present

    def _from_keyring(self) -> bytes:
        assert self._wrapping is not None
        value = _keyring_does(lambda: self._keyring().get_password(_KEYRING_SERVICE, self._entry()))
        if value is None:
            raise Unavailable(f"it has no entry {_KEYRING_SERVICE}/{self._entry()}")
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise InvalidTag from None

    def _entry(self) -> str:
        return self._wrapping.entry if self._wrapping is not None else ""

    def unlock(self, passphrase: str) -> None:
        """Raises InvalidSpec for a wrong passphrase, Locked if the key is still not in its place."""
        if self._data_key is not None:
            return
        assert self._wrapping is not None
        if self.place != "passphrase":
            self._fetch()
            if self._reason:
                raise Locked(self._reason, hint=self._way_out())
            return
        try:
            self._opened(_unwrap(self._wrapping, _stretched(passphrase, self._wrapping)))
        except InvalidTag:
            raise InvalidSpec("that is not the passphrase of this manager") from None

    def _opened(self, data_key: bytes) -> None:
        self._data_key, self._reason = data_key, ""
        if self.place != "file":  # left by a change of keys that was cut off after its last write
            with suppress(OSError, Unavailable):  # it stays then, and opens nothing
                (self._directory / f"{KEY_FILE}.next").unlink(missing_ok=True)
                self._drop_left_file()

    def _drop_left_file(self) -> None:
        """Only the file of our own former key: what else is there may be all that opens an older copy."""
        assert self._wrapping is not None
        path = self._directory / KEY_FILE
        present = _read_key(path)
        if present is not None and _key_id(present) == self._wrapping.left_file:
            path.unlink(missing_ok=True)

    # --- changed ----------------------------------------------------------------------------------------------
    # Whatever happens in between, the database opens with what is there: the new key is in its place before the
    # one transaction that hands all values over, and the old one goes after it.
    def make(self, place: str, passphrase: str = "", *, forget: bool = False) -> Made:
        """A new data key, and a new key-encryption key that is at `place` from now on ("" for where it is now).

        Raises Locked, InvalidSpec, Unavailable.
        """
        if not forget:
            _ = self.sealer  # refuses
        if self._uncertain:
            raise Unavailable(
                "the last change of keys failed as it was written, and may be on the disk or not",
                hint="Start the manager again, which finds out; then change them once more",
            )
        fresh, key = self._new_key(place or self.place, passphrase)
        data_key = AESGCM.generate_key(256)
        if fresh.place != "file" and self._wrapping is not None:
            in_file = self._wrapping.place == "file"
            fresh = replace(fresh, left_file=self._wrapping.key_id if in_file else self._wrapping.left_file)
        return Made(_wrap(fresh, key, data_key), data_key)

    def hand_over(self, db: Database, made: Made, *, forget: bool = False) -> None:
        """Let all values be opened by what was made. What the database raises leaves all as it was.

        `forget` deletes all values instead, for an old key that is lost.
        """
        old = None if forget else self.sealer
        wrapping, data_key = made.wrapping, made.data_key
        committing = False
        try:
            with db.atomic():
                if old is not None:
                    _hand_over(db, old, Sealer(data_key))
                else:
                    db.execute("DELETE FROM secrets")
                self._write(db, wrapping)
                committing = True
        except BaseException:
            if not committing:
                made.outcome = "undone"
                raise
            # It may be on the disk: then it is the new key that opens it after a start.
            self._uncertain = not self._is_written(db, wrapping)
            if self._uncertain:
                raise
            log.warning("key_change_written_in_spite_of_an_error")
        made.outcome, made.before = "done", self._wrapping
        self._wrapping, self._data_key, self._reason = wrapping, data_key, ""
        self._log_holds_old = True
        self.tidy(db)

    def tidy(self, db: Database) -> None:
        """Neither file nor log may have the keys as the old one wrapped them; a reader may be in the way."""
        if not self._log_holds_old:
            return
        try:
            # (busy, pages in the log, of them copied): https://www.sqlite.org/pragma.html#pragma_wal_checkpoint
            self._log_holds_old = bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        except sqlite3.Error as e:
            log.warning("old_keys_in_log error=%s", e)
            return
        if self._log_holds_old:
            log.warning("old_keys_in_log error=another program reads the database")

    def _new_key(self, place: str, passphrase: str) -> tuple[Wrapping, bytes]:
        fresh = Wrapping(place=place, key_id="", wrapped=b"")
        match place:
            case "file":
                key = AESGCM.generate_key(256)
                path = self._directory / f"{KEY_FILE}.next"
                try:
                    self._put_in_place()
                    _write_durably(path, key)
                except OSError as e:
                    raise Unavailable(
                        f"the new key cannot be written to {path}: {e.strerror}",
                        hint="Make space on that disk, or correct its permissions; nothing was changed",
                    ) from e
                return fresh, key
            case "keyring":
                key, entry = AESGCM.generate_key(256), os.urandom(8).hex()
                text = base64.b64encode(key).decode()
                _keyring_does(lambda: self._keyring().set_password(_KEYRING_SERVICE, entry, text))
                if _keyring_does(lambda: self._keyring().get_password(_KEYRING_SERVICE, entry)) != text:
                    raise Unavailable("the OS keyring does not give back what was put into it")
                return replace(fresh, entry=entry), key
            case "passphrase":
                if len(passphrase) < LEAST_PASSPHRASE:
                    raise InvalidSpec(f"the passphrase is shorter than {LEAST_PASSPHRASE} characters")
                fresh = replace(fresh, salt=os.urandom(16), scrypt_n=SCRYPT_N)
                return fresh, _stretched(passphrase, fresh)
        raise InvalidSpec(f"invalid place of the key '{place}'", hint=f"It is one of {', '.join(KEY_PLACES)}")

    def settle(self, made: Made) -> None:
        """Put the new key where it is looked for, and let the old one go; or the new one, if it came to nothing.

        What is left where neither is known is settled when the database is opened next.
        """
        if made.outcome == "undone":
            self._drop_unused(made.wrapping)
        if made.outcome != "done":
            return
        try:
            self._put_in_place()
            if made.wrapping.place != "file":
                self._drop_left_file()
            _sync(self._directory)
        except (OSError, Unavailable) as e:
            # All is handed over; the rest is done when the key is looked for next, or before the next change.
            log.warning("key_files_not_settled folder=%s error=%s", self._directory, e)
        if made.before is not None and made.before.place == "keyring":
            self._drop_unused(made.before)

    def _put_in_place(self) -> None:
        """Have the key in use in the file where it is looked for, if it is still in the one beside it."""
        following = self._directory / f"{KEY_FILE}.next"
        new = _read_key(following) if self.place == "file" else None
        if new is not None and self._wrapping is not None and _key_id(new) == self._wrapping.key_id:
            following.rename(self._directory / KEY_FILE)

    def _drop_unused(self, wrapping: Wrapping) -> None:
        if wrapping.place == "file":
            with suppress(OSError):
                (self._directory / f"{KEY_FILE}.next").unlink(missing_ok=True)
        elif wrapping.place == "keyring":
            with suppress(Unavailable):
                _keyring_does(lambda: self._keyring().delete_password(_KEYRING_SERVICE, wrapping.entry))

    def _is_written(self, db: Database, wrapping: Wrapping) -> bool:
        try:
            return bool(schema.get_meta(db, _META, None) == msgspec.json.encode(wrapping).decode())
        except Exception:
            return False  # nothing is sure of a database that cannot be read

    def _write(self, db: Database, wrapping: Wrapping) -> None:
        schema.set_meta(db, _META, msgspec.json.encode(wrapping).decode())


def os_keyring() -> Keyring:
    """Raises Unavailable where the library is not installed."""
    try:
        import keyring
    except ImportError as e:
        raise Unavailable(
            "the library for the OS keyring is not installed", hint="pip install 'swarmsh[keyring]'"
        ) from e
    found: Keyring = keyring
    return found


def _keyring_does(act: Callable[[], T]) -> T:
    """What `act` gives. Raises Unavailable, also if nothing came within KEYRING_S: it may be asking somebody who
    is not there. Its thread is left to it then."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(act())
        except BaseException as e:  # its backends raise what they like
            done.set_exception(e)

    threading.Thread(target=work, name="swarmsh-keyring", daemon=True).start()
    try:
        return done.result(KEYRING_S)
    except Unavailable:
        raise
    except TimeoutError:
        raise Unavailable(
            f"the OS keyring has not answered for {KEYRING_S:g} s", hint="Unlock it where it asks for that"
        ) from None
    except Exception as e:
        raise Unavailable(f"the OS keyring failed: {type(e).__name__}: {e}") from e


# --- keys -----------------------------------------------------------------------------------------------------
def _key_id(key: bytes) -> str:
    return hmac.new(key, b"swarmsh key id", hashlib.sha256).hexdigest()[:16]


def _wrap(wrapping: Wrapping, key: bytes, data_key: bytes) -> Wrapping:
    nonce = os.urandom(_NONCE)
    sealed = nonce + AESGCM(key).encrypt(nonce, data_key, _META.encode())
    return replace(wrapping, key_id=_key_id(key), wrapped=sealed)


def _unwrap(wrapping: Wrapping, key: bytes) -> bytes:
    """Raises InvalidTag for another key."""
    if len(key) != _KEY_BYTES:
        raise InvalidTag
    nonce, sealed = wrapping.wrapped[:_NONCE], wrapping.wrapped[_NONCE:]
    return AESGCM(key).decrypt(nonce, sealed, _META.encode())


def _stretched(passphrase: str, wrapping: Wrapping) -> bytes:
    kdf = Scrypt(salt=wrapping.salt, length=_KEY_BYTES, n=wrapping.scrypt_n, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(passphrase.encode())


def _refuse_another(db: Database, key: bytes | None, path: Path) -> None:
    """Raises StoreCorrupt for a key that opens none of the values: with another in its place none ever would."""
    rows = db.execute("SELECT key, sealed FROM secrets").fetchall()
    sealer = Sealer(key) if key is not None else None
    if not rows or (sealer is not None and any(sealer.opens(name, sealed) for name, sealed in rows)):
        return
    raise StoreCorrupt(
        f"the credentials in the database do not open with {path}" if sealer else f"there is no {path}",
        hint="Put the key file of this database there; if it is lost, remove what it encrypted: "
        f"sqlite3 {path.parent}/swarmsh.db 'DELETE FROM secrets'",
        path=str(path),
    )


def _hand_over(db: Database, old: Sealer, new: Sealer) -> None:
    """Let every value be opened by `new`; within a transaction. One that `old` does not open stays as it is."""
    for (key,) in db.execute("SELECT key FROM secrets").fetchall():
        (sealed,) = db.execute("SELECT sealed FROM secrets WHERE key = ?", (key,)).fetchone()
        with suppress(StoreCorrupt):
            schema.write_sealed(db, [(key, old.handed_over(key, sealed, new))])


# --- files ----------------------------------------------------------------------------------------------------
def _read_key(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise Unavailable(f"{path} cannot be read: {e.strerror}") from e


def _write_durably(path: Path, data: bytes) -> None:
    """Whole or not at all, also if the power goes: a key lost after first use loses every secret."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
