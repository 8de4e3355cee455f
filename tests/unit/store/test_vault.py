"""What is sealed, and the key to it: nothing is read without it, and no change of it loses anything."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from sqlite_utils import Database

from swarmsh.adapters.store import SqliteStore, schema, vault
from swarmsh.adapters.store.sealing import Sealer
from swarmsh.adapters.store.sqlite import TIDY_EVERY_S
from swarmsh.adapters.store.vault import KEY_FILE, Vault
from swarmsh.errors import InvalidSpec, Locked, StoreCorrupt, SwarmshError, Unavailable
from swarmsh.model.objects import Cluster
from swarmsh.model.snapshot import Changes, Contents, config_key, secret_key
from tests.fakes.objects import a_config, a_secret, a_service, using
from tests.fakes.time_and_ids import FakeClock

KNOWN = (b"correct horse battery staple", b"\x00\xff\xfebinary-needle\x01", b"listen 8088; # config needle")


class FakeKeyring:
    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service, name):
        return self.entries.get((service, name))

    def set_password(self, service, name, value):
        self.entries[service, name] = value

    def delete_password(self, service, name):
        del self.entries[service, name]


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def keyring():
    return FakeKeyring()


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch):
    monkeypatch.setattr(vault, "SCRYPT_N", 1 << 8)


@pytest.fixture
def opened(state_dir, keyring):
    return lambda: SqliteStore.open(state_dir, FakeClock(), keyring=lambda: keyring)


async def fill(store):
    """A secret, a config and a service that uses both, and a registry credential."""
    secret, binary, config = a_secret(), a_secret("binary"), a_config()
    contents = (
        Contents(key=secret_key(secret.id), data=KNOWN[0]),
        Contents(key=secret_key(binary.id), data=KNOWN[1]),
        Contents(key=config_key(config.id), data=KNOWN[2]),
    )
    await store.commit(
        lambda _: Changes(
            cluster=Cluster(id="c", version=0, created_at=1, updated_at=1),
            put_secrets=(secret, binary),
            put_configs=(config,),
            put_contents=contents,
            put_services=(using(a_service(), secret, config),),
        )
    )
    await store.put_secret("registry-auth/x", b"auth-needle")


async def check(store):
    assert await store.secret_data(a_secret().id) == KNOWN[0]
    assert await store.secret_data(a_secret("binary").id) == KNOWN[1]
    assert await store.config_data(a_config().id) == KNOWN[2]
    assert await store.get_secret("registry-auth/x") == b"auth-needle"


def needles():
    for value in (*KNOWN, b"auth-needle"):
        yield value
        yield base64.b64encode(value)[:-4]


def clear_text(directory):
    """Files that have any known value in them."""
    files = [f for f in directory.rglob("*") if f.is_file()]
    assert any(f.name.endswith("-wal") for f in files) or any(f.suffix == ".db" for f in files)
    return [f for f in files if any(needle in f.read_bytes() for needle in needles())]


async def test_known_secrets_are_in_no_byte_of_database_log_and_backup(state_dir, opened):
    store = await opened()
    await fill(store)
    assert (state_dir / "swarmsh.db-wal").stat().st_size > 0
    assert clear_text(state_dir) == []  # with all of it in the log
    await store.rotate_key()
    await store.archive()
    assert len(list((state_dir / "archive").iterdir())) == 1
    assert clear_text(state_dir) == []
    await store.close()
    assert clear_text(state_dir) == []


async def test_who_follows_the_store_is_shown_no_contents(opened):
    store = await opened()
    async with store.subscribe() as changes:
        await fill(store)
        _, change = await anext(changes)
    assert change.put_secrets and not change.put_contents
    assert b"horse" not in repr(change).encode()
    assert "horse" not in repr(Contents(key="k", data=KNOWN[0]))
    await store.close()


async def test_contents_are_there_after_reopening_and_gone_with_their_secret(opened):
    store = await opened()
    await fill(store)
    before = store.snapshot
    await store.close()
    store = await opened()
    assert store.snapshot == before
    await check(store)
    await store.commit(lambda _: Changes(delete_secrets=(a_secret().id,), delete_configs=(a_config().id,)))
    assert list(store.secret_keys()) == ["registry-auth/x", secret_key(a_secret("binary").id)]
    assert "password" not in store.snapshot.secret_ids
    await store.close()
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM secrets").fetchone() == (2,)


async def test_an_archived_store_takes_secrets_and_configs_with_it(opened):
    store = await opened()
    await fill(store)
    await store.archive()
    assert not store.snapshot.secrets and not store.snapshot.config_ids and not store.secret_keys()
    await store.close()
    store = await opened()
    assert not store.snapshot.secrets and not store.snapshot.configs
    await store.close()


# --- places of the key ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["file", "keyring", "passphrase"])
async def test_a_new_key_opens_all_and_the_old_one_nothing(state_dir, opened, place):
    store = await opened()
    await fill(store)
    old_file = (state_dir / KEY_FILE).read_bytes()
    with sqlite3.connect(store.path) as db:
        (old_wrapping,) = db.execute("SELECT value FROM meta WHERE key = 'sealing'").fetchone()
    await store.rotate_key(place, "long enough")
    assert store.key_place == place
    await check(store)
    await store.close()
    assert (state_dir / KEY_FILE).exists() is (place == "file")
    if place == "file":
        assert (state_dir / KEY_FILE).read_bytes() != old_file
        assert (state_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600
    store = await opened()
    if place == "passphrase":
        assert "passphrase" in store.locked
        await store.unlock("long enough")
    assert not store.locked
    await check(store)
    await store.close()
    # The old key with what the old database said of itself, on the new values.
    (state_dir / KEY_FILE).write_bytes(old_file)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'sealing'", (old_wrapping,))
    store = await opened()
    with pytest.raises(StoreCorrupt, match="does not open"):
        await store.secret_data(a_secret().id)
    await store.close()


async def test_the_keyring_keeps_only_the_key_in_use(opened, keyring):
    store = await opened()
    await fill(store)
    await store.rotate_key("keyring")
    (first,) = keyring.entries.values()
    await store.rotate_key()
    (second,) = keyring.entries.values()
    assert first != second
    await check(store)
    await store.rotate_key("file")
    assert not keyring.entries
    await store.close()


async def test_a_locked_store_refuses_what_is_sealed_and_serves_all_else(opened):
    store = await opened()
    await fill(store)
    await store.rotate_key("passphrase", "long enough")
    await store.close()
    store = await opened()
    with pytest.raises(Locked, match="manager unlock"):
        await store.secret_data(a_secret().id)
    with pytest.raises(Locked):
        await store.put_secret("registry-auth/y", b"x")
    contents = (Contents(key="secret/new", data=b"x"),)
    with pytest.raises(Locked):
        await store.commit(lambda _: Changes(put_secrets=(a_secret("new"),), put_contents=contents))
    assert "new" not in store.snapshot.secret_ids
    await store.commit(lambda _: Changes(put_services=(a_service("other"),)))
    with pytest.raises(InvalidSpec, match="not the passphrase"):
        await store.unlock("wrong one")
    assert store.locked
    with pytest.raises(Locked):
        await store.rotate_key()
    await store.unlock("long enough")
    await check(store)
    await store.close()


async def test_a_short_passphrase_or_an_unknown_place_is_refused_and_changes_nothing(state_dir, opened):
    store = await opened()
    await fill(store)
    for place, words in (("passphrase", "shorter than 8"), ("cloud", "file, keyring, passphrase")):
        with pytest.raises(InvalidSpec, match=words):
            await store.rotate_key(place, "short")
    assert store.key_place == "file"
    await check(store)
    await store.close()


async def test_a_key_that_is_lost_locks_until_it_is_back_or_all_is_forgotten(state_dir, opened):
    store = await opened()
    await fill(store)
    await store.close()
    key = (state_dir / KEY_FILE).read_bytes()
    (state_dir / KEY_FILE).unlink()
    store = await opened()
    assert "secrets.key" in store.locked
    with pytest.raises(Locked, match="Put the key back"):
        await store.unlock()
    (state_dir / KEY_FILE).write_bytes(bytes(32))
    with pytest.raises(Locked, match="not the one of this database"):
        await store.unlock()
    (state_dir / KEY_FILE).write_bytes(key)
    await store.unlock()
    await check(store)
    await store.close()
    (state_dir / KEY_FILE).unlink()
    store = await opened()
    await store.rotate_key(forget=True)
    assert not store.locked and not store.secret_keys()
    await store.put_secret("registry-auth/x", b"again")
    await store.close()
    store = await opened()
    assert await store.get_secret("registry-auth/x") == b"again"
    await store.close()


async def test_a_keyring_that_fails_says_so_and_locks(opened, keyring, monkeypatch):
    store = await opened()
    await fill(store)

    def broken(*_):
        raise RuntimeError("no D-Bus")

    monkeypatch.setattr(keyring, "set_password", broken)
    with pytest.raises(Unavailable, match="no D-Bus"):
        await store.rotate_key("keyring")
    await check(store)
    monkeypatch.undo()
    monkeypatch.setattr(vault, "SCRYPT_N", 1 << 8)
    await store.rotate_key("keyring")
    await store.close()
    monkeypatch.setattr(keyring, "get_password", broken)
    store = await opened()
    assert "no D-Bus" in store.locked
    await store.close()


async def test_a_keyring_that_waits_for_somebody_keeps_nothing_from_the_store(opened, keyring, monkeypatch):
    asked, answer = threading.Event(), threading.Event()
    store = await opened()
    await fill(store)

    def waiting(*_):
        asked.set()
        answer.wait()

    with monkeypatch.context() as patch:
        patch.setattr(keyring, "set_password", waiting)
        rotation = asyncio.create_task(store.rotate_key("keyring"))
        await asyncio.to_thread(asked.wait)
        await check(store)
        await store.put_secret("registry-auth/y", b"x")
        await store.commit(lambda _: Changes(put_services=(a_service("other"),)))
        patch.setattr(vault, "KEYRING_S", 0.01)
        second = asyncio.create_task(store.rotate_key("keyring"))  # one after the other
        answer.set()
        with pytest.raises(Unavailable, match="does not give back"):
            await rotation
        with pytest.raises(Unavailable, match="does not give back"):
            await second
    await store.rotate_key("keyring")
    await store.close()
    answer.clear()
    with monkeypatch.context() as patch:
        patch.setattr(keyring, "get_password", waiting)
        patch.setattr(vault, "KEYRING_S", 0.01)
        store = await opened()
        assert "has not answered" in store.locked
    answer.set()
    await store.unlock()
    await check(store)
    await store.close()


async def test_a_change_of_keys_goes_to_its_end_without_who_asked_for_it(opened, monkeypatch):
    store = await opened()
    await fill(store)
    began, go_on, real = threading.Event(), threading.Event(), Vault._new_key

    def slow(*arguments):
        began.set()
        go_on.wait()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "_new_key", slow)
        first = asyncio.create_task(store.rotate_key())
        await asyncio.to_thread(began.wait)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(store.rotate_key())
        go_on.set()
        await second
    await check(store)
    await store.close()
    store = await opened()
    await check(store)
    await store.close()


def test_without_the_library_for_keyrings_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Unavailable, match=r"pip install 'swarmsh\[keyring\]'"):
        vault.os_keyring()


# --- cut off --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("since", ["file", "keyring"])
@pytest.mark.parametrize("to", ["file", "keyring", "passphrase"])
@pytest.mark.parametrize("step", ["_new_key", "_hand_over", "settle"])
async def test_a_rotation_that_is_cut_off_loses_nothing(state_dir, opened, monkeypatch, since, to, step):
    """After the new key was made, within the transaction, and after it."""
    store = await opened()
    await fill(store)
    await store.rotate_key(since)
    where = vault if step == "_hand_over" else Vault
    real = getattr(where, step)

    def cut_off(*arguments):
        if step != "settle":
            real(*arguments)
        raise RuntimeError("power cut")

    # As if the process had ended: nothing is put right afterwards.
    with monkeypatch.context() as patch:
        patch.setattr(where, step, cut_off)
        patch.setattr(Vault, "_drop_unused", lambda *_: None)
        with pytest.raises(RuntimeError, match="power cut"):
            await store.rotate_key(to, "long enough")
    await store.close()
    store = await opened()
    if store.locked:
        assert (to, step) == ("passphrase", "settle")
        await store.unlock("long enough")
    await check(store)
    assert not (state_dir / f"{KEY_FILE}.next").exists()
    assert (state_dir / KEY_FILE).exists() is (store.key_place == "file")
    await store.close()


@pytest.mark.parametrize("place", ["keyring", "passphrase"])
async def test_a_key_file_that_is_not_of_this_database_stays(state_dir, opened, place):
    store = await opened()
    await fill(store)
    await store.rotate_key(place, "long enough")
    assert not (state_dir / KEY_FILE).exists()
    await store.close()
    (state_dir / KEY_FILE).write_bytes(bytes(32))  # of an older copy, say
    store = await opened()
    await store.unlock("long enough")
    await check(store)
    await store.rotate_key(place, "long enough")
    assert (state_dir / KEY_FILE).read_bytes() == bytes(32)
    await store.close()


async def test_a_full_disk_changes_no_key_and_says_so(opened, monkeypatch):
    store = await opened()
    await fill(store)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(vault, "_write_durably", full)
        with pytest.raises(Unavailable, match=r"No space left on device\. Make space"):
            await store.rotate_key()
    await check(store)
    await store.close()


async def test_a_key_that_could_not_be_put_in_its_place_is_there_before_the_next(state_dir, opened, monkeypatch):
    store = await opened()
    await fill(store)
    rename = Path.rename

    def read_only(path, target):
        if path.name.endswith(".next"):
            raise OSError(30, "Read-only file system")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", read_only)
        await store.rotate_key()
        needed = (state_dir / f"{KEY_FILE}.next").read_bytes()
        with pytest.raises(Unavailable, match="Read-only"):  # which would lose the key in use, cut off
            await store.rotate_key()
        assert (state_dir / f"{KEY_FILE}.next").read_bytes() == needed
    await check(store)
    await store.rotate_key()
    await check(store)
    await store.close()
    store = await opened()
    await check(store)
    await store.close()


async def test_the_log_is_emptied_of_old_keys_once_no_reader_is_in_the_way(state_dir, keyring, monkeypatch):
    clock = FakeClock()
    store = await SqliteStore.open(state_dir, clock, keyring=lambda: keyring)
    await fill(store)
    await store._in_thread(lambda: store._full.execute("PRAGMA busy_timeout = 1"))
    log = state_dir / "swarmsh.db-wal"
    with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM secrets").fetchall()
        await store.rotate_key()
        assert log.stat().st_size > 0
    clock.pass_time(TIDY_EVERY_S + 1)
    await store.commit(lambda _: Changes(put_services=(a_service("other"),)))
    await store.put_secret("registry-auth/x", b"auth-needle")  # after the tidying
    assert not store._vault._log_holds_old
    await check(store)
    await store.close()


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("to", ["file", "keyring"])
async def test_a_rotation_whose_commit_fails_keeps_both_keys(opened, monkeypatch, to, written):
    """The disk may have it or not: an error at COMMIT does not say."""
    store = await opened()
    await fill(store)

    @contextmanager
    def failing(db):
        db.conn.execute("BEGIN IMMEDIATE")
        yield
        db.conn.execute("COMMIT" if written else "ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "atomic", failing)
        with suppress(SwarmshError) if written else pytest.raises(SwarmshError, match="disk I/O error"):
            await store.rotate_key(to)
    await check(store)
    await store.put_secret("registry-auth/y", b"sealed since")
    if not written:
        with pytest.raises(Unavailable, match="Start the manager again"):
            await store.rotate_key(to)
    await store.close()
    store = await opened()
    assert not store.locked
    await store.rotate_key(to)
    await check(store)
    assert await store.get_secret("registry-auth/y") == b"sealed since"
    await store.close()


async def test_values_of_a_database_without_a_data_key_are_carried_over(state_dir, opened):
    state_dir.mkdir()
    old = Sealer(bytes(range(32)))
    (state_dir / KEY_FILE).write_bytes(bytes(range(32)))
    db = Database(sqlite3.connect(state_dir / "swarmsh.db"))
    schema.migrate(db, "p", schema.MIGRATIONS[:3])
    with db.atomic():
        schema.write_sealed(db, [("registry-auth/x", old.seal("registry-auth/x", b"auth-needle"))])
    db.close()
    store = await opened()
    assert await store.get_secret("registry-auth/x") == b"auth-needle"
    await store.close()
    store = await opened()
    assert await store.get_secret("registry-auth/x") == b"auth-needle"
    await store.close()
    (state_dir / KEY_FILE).write_bytes(b"short")
    store = await opened()
    assert "not the one" in store.locked
    await store.close()


@pytest.mark.parametrize("present", [None, bytes(32)])
async def test_a_key_of_another_database_begins_nothing(state_dir, opened, present):
    state_dir.mkdir()
    db = Database(sqlite3.connect(state_dir / "swarmsh.db"))
    schema.migrate(db, "p", schema.MIGRATIONS[:3])
    with db.atomic():
        sealed = Sealer(bytes(range(32))).seal("registry-auth/x", b"auth-needle")
        schema.write_sealed(db, [("registry-auth/x", sealed)])
    db.close()
    if present is not None:
        (state_dir / KEY_FILE).write_bytes(present)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="Put the key file of this database there"):
            await opened()
    (state_dir / KEY_FILE).write_bytes(bytes(range(32)))
    store = await opened()
    assert await store.get_secret("registry-auth/x") == b"auth-needle"
    await store.close()
