"""`SqliteStore`: one writer, one thread, one database file.

Decisions run on the event loop, one after another, each on the newest state; what they return is written by the
store's thread, several waiting ones in one transaction. A state is published only when it is on disk; observations
are published at once, and joined into decisions that were being written meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace
from sqlite_utils import Database

from swarmsh.adapters.store import schema
from swarmsh.adapters.store.changes import rebase, stamp
from swarmsh.adapters.store.lock import StateLock
from swarmsh.adapters.store.vault import Keyring, Vault, os_keyring
from swarmsh.core.allocate import with_releases
from swarmsh.core.revisions import respecified
from swarmsh.errors import NotFound, StoreCorrupt, StoreReadOnly, SwarmshError, Unavailable
from swarmsh.manager.ports import Clock, Decide
from swarmsh.model.objects import Event, NodeStatus, Service
from swarmsh.model.revisions import Author, Revision
from swarmsh.model.snapshot import Changes, ClusterSnapshot, config_key, secret_key
from swarmsh.model.stacks import StackRevision

log = logging.getLogger(__name__)

FLUSH_AFTER_S = 0.1  # observed state reaches the disk this late
RETRY_AFTER_S = 1.0  # ... or this late again, after the disk refused
TIDY_EVERY_S = 60.0
BATCH = 64  # decisions in one transaction at most

T = TypeVar("T")

# What an archived cluster takes with it.
_EMPTIED = (
    *("services", "tasks", "networks", "releases", "events", "revisions"),
    *("secrets", "secret_objects", "config_objects", "stack_revisions"),
)


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much history is kept; how many revisions is a setting of the cluster."""

    events: int = 10_000
    events_s: float = 30 * 86400.0  # revisions of services and stacks that are gone are kept as long


@dataclass
class _Dirty:
    """Ids whose rows are older than the snapshot, and events not yet on disk."""

    services: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    releases: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    cluster: bool = False

    def add(self, changes: Changes) -> None:
        self.services.update(s.id for s in changes.put_services)
        self.services.update(changes.delete_services)
        self.tasks.update(t.id for t in changes.put_tasks)
        self.tasks.update(changes.delete_tasks)
        self.nodes.update(n.id for n in changes.put_nodes)
        self.nodes.update(changes.delete_nodes)
        self.networks.update(n.id for n in changes.put_networks)
        self.networks.update(changes.delete_networks)
        self.releases.update(r.id for r in changes.put_releases)
        self.releases.update(changes.delete_releases)
        self.events.extend(changes.events)
        self.cluster = self.cluster or changes.cluster is not None

    def restore(self, older: _Dirty) -> None:
        self.services |= older.services
        self.tasks |= older.tasks
        self.nodes |= older.nodes
        self.networks |= older.networks
        self.releases |= older.releases
        self.events[:0] = older.events
        self.cluster = self.cluster or older.cluster

    def as_changes(self, snapshot: ClusterSnapshot) -> Changes:
        """The rows as they are in `snapshot`; what is not in it any more is deleted."""
        return Changes(
            cluster=snapshot.cluster if self.cluster else None,
            put_services=tuple(snapshot.services[i] for i in self.services if i in snapshot.services),
            put_tasks=tuple(snapshot.tasks[i] for i in self.tasks if i in snapshot.tasks),
            put_nodes=tuple(snapshot.nodes[i] for i in self.nodes if i in snapshot.nodes),
            put_networks=tuple(snapshot.networks[i] for i in self.networks if i in snapshot.networks),
            put_releases=tuple(snapshot.releases[i] for i in self.releases if i in snapshot.releases),
            delete_services=tuple(i for i in self.services if i not in snapshot.services),
            delete_tasks=tuple(i for i in self.tasks if i not in snapshot.tasks),
            delete_nodes=tuple(i for i in self.nodes if i not in snapshot.nodes),
            delete_networks=tuple(i for i in self.networks if i not in snapshot.networks),
            delete_releases=tuple(i for i in self.releases if i not in snapshot.releases),
            events=tuple(self.events),
        )


@dataclass
class _Request:
    """A decision to run and write, a job that must be alone, or (neither) only a flush."""

    done: asyncio.Future[ClusterSnapshot]
    decide: Decide | None = None
    durable: bool = False
    job: Callable[[], Awaitable[None]] | None = None


@dataclass
class _Prepared:
    base: ClusterSnapshot  # what it was decided on
    changes: Changes  # stamped
    index: int
    respecified: tuple[tuple[Service, Author], ...]  # services whose spec is new: a revision each


class SqliteStore:
    """`manager.ports.Store` on SQLite. All methods belong to the event loop that opened it."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        retention: Retention,
        executor: ThreadPoolExecutor,
        lock: StateLock,
        keyring: Callable[[], Keyring],
    ) -> None:
        self.path = directory / "swarmsh.db"
        self._directory = directory
        self._clock = clock
        self._retention = retention
        self._executor = executor
        self._lock = lock
        self._snapshot = ClusterSnapshot()
        self._dirty = _Dirty()
        self._requests: deque[_Request] = deque()
        self._wake = asyncio.Event()
        self._subscribers: list[asyncio.Queue[tuple[ClusterSnapshot, Changes]]] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._gone_keys: list[str] = []  # deleted by the write that is under way
        self._secret_keys: set[str] = set()  # most services have none, and are asked for at every plan
        self._forbidden = ""
        self._failing = False  # the last write failed, and was logged
        self._closed = False
        self._broken: StoreReadOnly | None = None  # the writer has ended: nothing more is written
        self._tidied = clock.monotonic()
        self._full: Database
        self._normal: Database
        self._vault = Vault(directory, keyring)
        self._key_turn = asyncio.Lock()
        self._rotating: set[asyncio.Task[None]] = set()
        self._writer: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        state_dir: Path | str,
        clock: Clock,
        *,
        retention: Retention | None = None,
        keyring: Callable[[], Keyring] = os_keyring,
    ) -> SqliteStore:
        """Open (or make) the database of `state_dir`, made 0700 if need be.

        Raises Unavailable naming the pid if another manager has it, StoreCorrupt, StoreReadOnly.
        """
        directory = Path(state_dir)
        lock = await asyncio.to_thread(_claim, directory)
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swarmsh-store")
        store = cls(directory, clock, retention or Retention(), executor, lock, keyring)
        try:
            store._snapshot = await store._in_thread(store._open_databases)
        except BaseException:
            executor.shutdown(wait=True)
            lock.release()
            raise
        store._writer = asyncio.create_task(store._write_forever(), name="swarmsh-store-writer")
        return store

    # --- reading ----------------------------------------------------------------------------------------------
    @property
    def snapshot(self) -> ClusterSnapshot:
        return self._snapshot

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[tuple[ClusterSnapshot, Changes]]]:
        queue: asyncio.Queue[tuple[ClusterSnapshot, Changes]] = asyncio.Queue()
        self._subscribers.append(queue)

        async def changes() -> AsyncIterator[tuple[ClusterSnapshot, Changes]]:
            while True:
                yield await queue.get()

        try:
            yield changes()
        finally:
            self._subscribers.remove(queue)

    async def events(self, since: float | None, until: float | None) -> Sequence[Event]:
        with contextlib.suppress(StoreReadOnly):
            await self._submit(None, durable=False)
        kept = await self._in_thread(lambda: schema.read_events(self._normal, since, until))
        low, high = since or float("-inf"), float("inf") if until is None else until
        return [*kept, *(e for e in self._dirty.events if low <= e.time <= high)]

    async def revisions(self, service_id: str) -> Sequence[Revision]:
        return await self._in_thread(lambda: schema.read_revisions(self._normal, service_id))

    async def stack_revisions(self, stack: str) -> Sequence[StackRevision]:
        return await self._in_thread(lambda: schema.read_stack_revisions(self._normal, stack))

    async def newest_stack_revision(self, stack: str) -> int:
        return await self._in_thread(lambda: schema.newest_stack_revision(self._normal, stack))

    # --- writing ----------------------------------------------------------------------------------------------
    async def commit(self, decide: Decide) -> ClusterSnapshot:
        return await self._submit(decide, durable=True)

    async def commit_orchestration(self, decide: Decide) -> ClusterSnapshot:
        return await self._submit(decide, durable=False)

    def observe(self, decide: Decide) -> ClusterSnapshot:
        changes = decide(self._snapshot)
        if changes:
            changes = with_releases(self._snapshot, changes, self._clock.now())
            self._dirty.add(changes)
            self._publish(changes, self._snapshot.index)
            self._flush_in(FLUSH_AFTER_S)
        return self._snapshot

    async def next_epoch(self) -> int:
        def step() -> int:
            with self._full.atomic():
                epoch = int(schema.get_meta(self._full, "epoch", 0)) + 1
                schema.set_meta(self._full, "epoch", epoch)
            return epoch

        return await self._in_thread(step)

    async def get_secret(self, key: str) -> bytes | None:
        if key not in self._secret_keys:
            return None

        def read() -> bytes | None:
            row = self._normal.execute("SELECT sealed FROM secrets WHERE key = ?", (key,)).fetchone()
            return None if row is None else self._vault.sealer.open(key, row[0])

        return await self._in_thread(read)

    async def secret_data(self, secret_id: str) -> bytes:
        return await self._contents("secret", secret_id, secret_key(secret_id))

    async def config_data(self, config_id: str) -> bytes:
        return await self._contents("config", config_id, config_key(config_id))

    async def _contents(self, kind: str, object_id: str, key: str) -> bytes:
        data = await self.get_secret(key)
        if data is None:
            raise NotFound(f"{kind} {object_id} not found")
        return data

    async def put_secret(self, key: str, value: bytes | None) -> None:
        self._refuse_if_closed_or_forbidden()

        def write() -> None:
            with self._full.atomic():
                if value is None:
                    self._full.execute("DELETE FROM secrets WHERE key = ?", (key,))
                else:
                    schema.write_sealed(self._full, [(key, self._vault.sealer.seal(key, value))])

        await self._in_thread(write)
        (self._secret_keys.discard if value is None else self._secret_keys.add)(key)

    def secret_keys(self) -> Sequence[str]:
        return sorted(self._secret_keys)

    # --- the key to secrets -----------------------------------------------------------------------------------
    @property
    def locked(self) -> str:
        return self._vault.locked

    @property
    def key_place(self) -> str:
        return self._vault.place

    async def unlock(self, passphrase: str = "") -> None:
        async with self._key_turn:
            await asyncio.to_thread(self._vault.unlock, passphrase)

    async def rotate_key(self, place: str = "", passphrase: str = "", *, forget: bool = False) -> None:
        self._refuse_if_closed_or_forbidden()
        # To its end even if the caller goes: the next change must not make its key before this one's is in place.
        rotating = asyncio.create_task(self._rotate_key(place, passphrase, forget))
        self._rotating.add(rotating)
        rotating.add_done_callback(self._rotating.discard)
        await asyncio.shield(rotating)

    async def _rotate_key(self, place: str, passphrase: str, forget: bool) -> None:
        async with self._key_turn:
            # Outside of the store's thread, which all reads and writes wait for.
            made = await asyncio.to_thread(self._vault.make, place, passphrase, forget=forget)

            async def job() -> None:
                await self._in_thread(lambda: self._vault.hand_over(self._full, made, forget=forget))
                if forget:
                    self._secret_keys.clear()

            try:
                await self._alone(job)
            finally:
                await asyncio.to_thread(self._vault.settle, made)

    async def raise_index(self, at_least: int) -> None:
        """Let every write from now on have an index above `at_least`, on disk before this returns.

        For an index that was used, and then lost with the machine's power. Raises StoreReadOnly.
        """
        self._refuse_if_closed_or_forbidden()

        async def job() -> None:
            if at_least <= self._snapshot.index:
                return
            await self._in_thread(write)
            self._snapshot = self._snapshot.apply(Changes(), at_least)

        def write() -> None:
            with self._full.atomic():
                schema.set_meta(self._full, "index", at_least)

        await self._alone(job)

    def forbid_writes(self, reason: str) -> None:
        """Refuse commits from now on, for the store is behind its nodes; an empty reason allows them again."""
        self._forbidden = reason

    async def archive(self) -> Path:
        """Copy the whole database aside and start an empty cluster; nodes (their pins) and the index stay."""
        stamp_ = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.now()))
        target = self._directory / "archive" / f"swarmsh-{stamp_}.db"

        async def job() -> None:
            await self._in_thread(lambda: self._move_aside(target))
            self._secret_keys.clear()
            gone = self._snapshot
            empty = ClusterSnapshot(index=gone.index, nodes=gone.nodes)
            self._snapshot = empty
            nodes = tuple(replace(n, status=NodeStatus()) for n in gone.nodes.values())
            self._dirty = _Dirty()
            self._dirty.add(Changes(put_nodes=nodes))
            changes = Changes(
                put_nodes=nodes,
                delete_services=tuple(gone.services),
                delete_tasks=tuple(gone.tasks),
                delete_networks=tuple(gone.networks),
                delete_secrets=tuple(gone.secrets),
                delete_configs=tuple(gone.configs),
                delete_releases=tuple(gone.releases),
            )
            self._publish(changes, gone.index)
            self._flush_in(0)

        await self._alone(job)
        return target

    async def failed(self) -> None:
        """Wait for a bug that ends the writer of an open store, and raise it: the process must end."""
        await asyncio.shield(self._writer)

    async def close(self) -> None:
        if self._closed:
            return
        with contextlib.suppress(SwarmshError):
            await self._submit(None, durable=True)
        self._closed = True
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        await self._in_thread(self._close_databases)
        self._executor.shutdown(wait=True)
        self._lock.release()

    # --- the writer -------------------------------------------------------------------------------------------
    def _refuse_if_closed_or_forbidden(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed", hint="The manager is stopping; try again when it runs")
        if self._broken is not None:
            raise self._broken
        if self._forbidden:
            raise StoreReadOnly(self._forbidden)

    async def _submit(self, decide: Decide | None, *, durable: bool) -> ClusterSnapshot:
        if decide is not None or self._closed:
            self._refuse_if_closed_or_forbidden()
        request = _Request(asyncio.get_running_loop().create_future(), decide, durable)
        self._enqueue(request)
        return await request.done  # cancelled before its turn, it is skipped; after, it is written all the same

    async def _alone(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run `job` between two writes."""
        done: asyncio.Future[ClusterSnapshot] = asyncio.get_running_loop().create_future()
        self._enqueue(_Request(done, job=job))
        await done

    def _enqueue(self, request: _Request) -> None:
        if self._broken is not None:
            request.done.set_exception(self._broken)
            return
        self._requests.append(request)
        self._wake.set()

    def _flush_in(self, delay_s: float) -> None:
        if self._flush_timer is None and not self._closed:
            self._flush_timer = asyncio.get_running_loop().call_later(delay_s, self._flush_due)

    def _flush_due(self) -> None:
        self._flush_timer = None
        done: asyncio.Future[ClusterSnapshot] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda f: f.cancelled() or f.exception())  # the retry is under way already
        self._enqueue(_Request(done))

    async def _write_forever(self) -> None:
        in_hand: list[_Request] = []
        try:
            while True:
                while not self._requests:
                    self._wake.clear()
                    await self._wake.wait()
                in_hand = self._next_requests()
                if (job := in_hand[0].job) is not None:
                    await self._run_job(job, in_hand[0])
                else:
                    await self._write_batch(in_hand)
        except BaseException as e:
            self._break_off(e, in_hand)
            raise

    def _next_requests(self) -> list[_Request]:
        """Take a job, or what can be written together."""
        taken = [self._requests.popleft()]
        while taken[0].job is None and self._requests and len(taken) < BATCH and self._requests[0].job is None:
            taken.append(self._requests.popleft())
        return taken

    def _break_off(self, cause: BaseException, in_hand: Sequence[_Request]) -> None:
        """Nobody may wait for a writer that has ended. What was written and not published is read at the next
        start; to go on without it would give the same index to two states."""
        self._broken = StoreReadOnly(
            "the store is closed"
            if isinstance(cause, asyncio.CancelledError)
            else f"the store has stopped: {cause!r} in its writer, which is a bug",
            hint="Start the manager again: all that was acknowledged is on disk",
            path=str(self.path),
        )
        self._broken.__cause__ = cause
        if not isinstance(cause, asyncio.CancelledError):
            log.critical("store_writer_ended path=%s", self.path, exc_info=cause)
        for request in (*in_hand, *self._requests):
            if not request.done.done():
                request.done.set_exception(self._broken)
        self._requests.clear()

    async def _run_job(self, job: Callable[[], Awaitable[None]], request: _Request) -> None:
        try:
            await job()
        except Exception as e:
            if not request.done.done():
                request.done.set_exception(e)
        else:
            if not request.done.done():
                request.done.set_result(self._snapshot)

    async def _write_batch(self, batch: Sequence[_Request]) -> None:
        base = self._snapshot
        dirty, self._dirty = self._dirty, _Dirty()
        prepared, outcomes = self._decide(batch, base)
        failure: Exception | None = None
        try:
            if prepared or dirty != _Dirty():
                durable = any(r.durable for r in batch)
                tidy = self._clock.monotonic() - self._tidied > TIDY_EVERY_S
                observed = dirty.as_changes(base)
                await self._in_thread(lambda: self._write_rows(observed, prepared, durable, tidy))
        except Exception as e:
            failure = e
            self._dirty.restore(dirty)
            self._flush_in(RETRY_AFTER_S)
            if not self._failing:
                log.error("store_write_failed path=%s error=%s", self.path, e)
            self._failing = True
        else:
            if self._failing:
                log.info("store_writes_again path=%s", self.path)
            self._failing = False
            for one in prepared:
                changes = rebase(one.changes, one.base, self._snapshot)
                if changes is not one.changes and changes != one.changes:
                    self._dirty.add(replace(one.changes, events=(), cluster=None))
                    self._flush_in(FLUSH_AFTER_S)
                self._publish(changes, one.index)
            self._secret_keys.difference_update(self._gone_keys)
        self._gone_keys.clear()
        for request, error in outcomes:
            if request.done.done():
                continue
            if failure is not None or error is not None:
                request.done.set_exception(failure or error or RuntimeError())
            else:
                request.done.set_result(self._snapshot)

    def _decide(
        self, batch: Sequence[_Request], snapshot: ClusterSnapshot
    ) -> tuple[list[_Prepared], list[tuple[_Request, Exception | None]]]:
        """Run the decisions of a batch, each on the outcome of those before it."""
        prepared: list[_Prepared] = []
        outcomes: list[tuple[_Request, Exception | None]] = []
        for request in batch:
            if request.done.done():
                continue
            error: Exception | None = None
            try:
                changes = request.decide(snapshot) if request.decide is not None else Changes()
                if changes.put_contents and self._vault.locked:
                    _ = self._vault.sealer  # refuses
                if changes:
                    index = snapshot.index + 1
                    now = self._clock.now()
                    changes = with_releases(snapshot, stamp(changes, index, now), now)
                    after = snapshot.apply(changes, index)
                    prepared.append(_Prepared(snapshot, changes, index, respecified(snapshot, changes)))
                    snapshot = after
            except Exception as e:
                error = e
            outcomes.append((request, error))
        return prepared, outcomes

    def _publish(self, changes: Changes, index: int) -> None:
        self._secret_keys.update(contents.key for contents in changes.put_contents)
        self._secret_keys.difference_update(map(secret_key, changes.delete_secrets))
        self._secret_keys.difference_update(map(config_key, changes.delete_configs))
        if changes.put_contents:
            changes = replace(changes, put_contents=())
        self._snapshot = self._snapshot.apply(changes, index)
        for queue in self._subscribers:
            queue.put_nowait((self._snapshot, changes))

    # --- in the store's thread --------------------------------------------------------------------------------
    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except sqlite3.Error as e:
                raise self._explained(e) from e

        return await asyncio.get_running_loop().run_in_executor(self._executor, guarded)

    def _explained(self, e: sqlite3.Error) -> SwarmshError:
        code = getattr(e, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return StoreReadOnly(
                f"the state in {self.path} cannot be written: {e}",
                hint="Make space on that disk, or correct its permissions; nothing was changed",
                path=str(self.path),
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Unavailable(f"{self.path} is held by another program: {e}", hint="End that one, then try again")
        return StoreCorrupt(
            f"the state in {self.path} is damaged: {e}", hint=schema.way_out(str(self.path)), path=str(self.path)
        )

    def _open_databases(self) -> ClusterSnapshot:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # -wal and -shm take its mode
        self.path.chmod(0o600)
        self._full = self._connect("FULL")
        schema.migrate(self._full, str(self.path))
        self._normal = self._connect("NORMAL")
        self._vault.open(self._full)
        self._tidy()
        self._gone_keys.clear()
        self._secret_keys = {key for (key,) in self._normal.execute("SELECT key FROM secrets")}
        return schema.load(self._normal)

    def _connect(self, synchronous: str) -> Database:
        db = Database(sqlite3.connect(str(self.path), timeout=5.0))
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has effect on a new file only, before its first table
        db.enable_wal()
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("PRAGMA secure_delete = ON")  # what was deleted is not left in free pages, though it is sealed
        if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
        return db

    def _close_databases(self) -> None:
        self._normal.close()
        self._full.close()

    def _write_rows(self, observed: Changes, prepared: Sequence[_Prepared], durable: bool, tidy: bool) -> None:
        db = self._full if durable else self._normal
        with db.atomic():
            schema.write(db, observed)  # first: decisions come after what was seen
            for one in prepared:
                schema.write(db, one.changes)
                sealed = ((c.key, self._vault.sealer.seal(c.key, c.data)) for c in one.changes.put_contents)
                schema.write_sealed(db, sealed)
                now = self._clock.now()
                schema.write_revisions(db, one.respecified, now)
                stacks = (one.changes.put_stack_revisions, one.changes.delete_stacks)
                self._gone_keys += schema.write_stack_revisions(db, *stacks, one.index, now)
            if prepared:
                schema.set_meta(db, "index", prepared[-1].index)
        if tidy:
            self._tidied = self._clock.monotonic()
            with contextlib.suppress(sqlite3.OperationalError):  # tidying waits; what was written is acknowledged
                self._tidy()

    def _tidy(self) -> None:
        with self._normal.atomic():
            oldest = self._clock.now() - self._retention.events_s
            schema.prune_events(self._normal, self._retention.events, oldest)
            schema.prune_revisions(self._normal, oldest)
            gone = schema.prune_stack_revisions(self._normal, oldest)
        self._gone_keys += gone
        schema.give_space_back(self._normal)
        self._vault.tidy(self._full)

    def _move_aside(self, target: Path) -> None:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        self._full.execute("VACUUM INTO ?", (str(partial),))
        partial.chmod(0o600)
        partial.rename(target)
        with self._full.atomic():
            for table in _EMPTIED:
                self._full.execute(f"DELETE FROM {table}")
            self._full.execute("DELETE FROM meta WHERE key = 'cluster'")


def _claim(directory: Path) -> StateLock:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    return StateLock.acquire(directory / "manager.lock")
