"""Tables, migrations, and rows <-> records. One row an object: its JSON, and the keys it is found by.

`PRAGMA user_version` counts the migrations applied. A migration, once released, is never edited: add another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from sqlite_utils import Database

from swarmsh.core.revisions import LEAST_KEPT
from swarmsh.errors import StoreCorrupt
from swarmsh.model.objects import Cluster, Config, Event, Network, Node, Release, Secret, Service, Task
from swarmsh.model.revisions import REVISIONS_KEPT, Author, Revision
from swarmsh.model.snapshot import Changes, ClusterSnapshot, config_key, secret_key
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.stacks import NAMESPACE, StackRevision, contents_prefix

APPLICATION_ID = 0x53574D53  # "SWMS": `file` and we recognise the database by it
T = TypeVar("T")


def _first(db: Database) -> None:
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE services (id TEXT PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL, "
        "data TEXT NOT NULL)",
        "CREATE INDEX services_name ON services (name)",
        "CREATE TABLE tasks (id TEXT PRIMARY KEY, version INTEGER NOT NULL, service_id TEXT NOT NULL, "
        "node_id TEXT NOT NULL, data TEXT NOT NULL)",
        "CREATE INDEX tasks_service ON tasks (service_id)",
        "CREATE TABLE nodes (id TEXT PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL, "
        "data TEXT NOT NULL)",
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, time REAL NOT NULL, data TEXT NOT NULL)",
        "CREATE INDEX events_time ON events (time)",
        "CREATE TABLE revisions (service_id TEXT NOT NULL, version INTEGER NOT NULL, time REAL NOT NULL, "
        "data TEXT NOT NULL, PRIMARY KEY (service_id, version)) WITHOUT ROWID",
        "CREATE TABLE secrets (key TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID",
    ):
        db.execute(statement)


def _networks(db: Database) -> None:
    for statement in (
        "CREATE TABLE networks (id TEXT PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL, "
        "data TEXT NOT NULL)",
        "CREATE TABLE releases (id TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID",
    ):
        db.execute(statement)


def _revisions(db: Database) -> None:
    for statement in (
        "ALTER TABLE revisions ADD COLUMN number INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE revisions ADD COLUMN author TEXT NOT NULL DEFAULT '{}'",
        "UPDATE revisions SET number = (SELECT count(*) FROM revisions AS r "
        "WHERE r.service_id = revisions.service_id AND r.version <= revisions.version)",
    ):
        db.execute(statement)


def _secrets_and_configs(db: Database) -> None:
    """Their records; their contents are among the sealed values of table `secrets`, as credentials are."""
    for table in ("secret_objects", "config_objects"):
        db.execute(
            f"CREATE TABLE {table} (id TEXT PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL, "
            "data TEXT NOT NULL)"
        )


def _stack_revisions(db: Database) -> None:
    db.execute(
        "CREATE TABLE stack_revisions (stack TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, "
        "data TEXT NOT NULL, PRIMARY KEY (stack, number)) WITHOUT ROWID"
    )


MIGRATIONS: tuple[Callable[[Database], None], ...] = (
    *(_first, _networks, _revisions, _secrets_and_configs, _stack_revisions),
)


def migrate(db: Database, path: str, migrations: Sequence[Callable[[Database], None]] = MIGRATIONS) -> None:
    """Bring the schema to the newest version, each step in a transaction of its own."""
    found = int(_scalar(db, "PRAGMA user_version"))
    if found > len(migrations):
        raise StoreCorrupt(
            f"{path} was written by a newer swarmsh (schema {found}, this one knows {len(migrations)})",
            hint="Run that newer swarmsh again, or move the file away to start with an empty state",
            path=path,
        )
    mark = int(_scalar(db, "PRAGMA application_id"))
    if mark not in (0, APPLICATION_ID) or (found > 0 and mark != APPLICATION_ID):
        raise StoreCorrupt(
            f"{path} is a database of another program", hint="Name another state directory", path=path
        )
    for number in range(found, len(migrations)):
        with db.atomic():
            migrations[number](db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number + 1}")


def _scalar(db: Database, sql: str, parameters: Sequence[object] = ()) -> Any:
    row = db.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def get_meta(db: Database, key: str, default: Any) -> Any:
    found = _scalar(db, "SELECT value FROM meta WHERE key = ?", (key,))
    return default if found is None else found


def set_meta(db: Database, key: str, value: object) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


# --- records ------------------------------------------------------------------------------------------------
def _json(record: object) -> str:
    """Also of words that are no text (lone surrogates, shown as escapes): one such row, which is written again
    until it is on disk, would keep all others from it for ever."""
    try:
        return msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_as_text(msgspec.to_builtins(record))).decode()


def _as_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(key): _as_text(one) for key, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, list | tuple) else value


def _read(db: Database, table: str, kind: type[T]) -> Iterable[T]:
    decoder = msgspec.json.Decoder(kind)
    for key, data in db.execute(f"SELECT id, data FROM {table}"):
        try:
            yield decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError) as e:
            raise StoreCorrupt(
                f"row {key} of table {table} cannot be read: {e}", hint=way_out(), table=table
            ) from e


def way_out(path: str = "the state directory's swarmsh.db") -> str:
    return (
        f"Put a backup in the place of {path}, or move it and its -wal file away to start with an empty state; "
        "running containers are left alone either way"
    )


def load(db: Database) -> ClusterSnapshot:
    cluster = get_meta(db, "cluster", None)
    everything = Changes(
        cluster=msgspec.json.decode(cluster, type=Cluster) if cluster else None,
        put_services=tuple(_read(db, "services", Service)),
        put_tasks=tuple(_read(db, "tasks", Task)),
        put_nodes=tuple(_read(db, "nodes", Node)),
        put_networks=tuple(_read(db, "networks", Network)),
        put_secrets=tuple(_read(db, "secret_objects", Secret)),
        put_configs=tuple(_read(db, "config_objects", Config)),
        put_releases=tuple(_read(db, "releases", Release)),
    )
    return ClusterSnapshot().apply(everything, int(get_meta(db, "index", 0)))


def write(db: Database, changes: Changes) -> None:
    """Put and delete rows; to be called within a transaction."""
    many = db.conn.executemany
    if changes.cluster is not None:
        set_meta(db, "cluster", _json(changes.cluster))
    many(
        "INSERT OR REPLACE INTO services (id, version, name, data) VALUES (?, ?, ?, ?)",
        [(s.id, s.version, s.spec.name, _json(s)) for s in changes.put_services],
    )
    many(
        "INSERT OR REPLACE INTO tasks (id, version, service_id, node_id, data) VALUES (?, ?, ?, ?, ?)",
        [(t.id, t.version, t.service_id, t.node_id, _json(t)) for t in changes.put_tasks],
    )
    many(
        "INSERT OR REPLACE INTO nodes (id, version, name, data) VALUES (?, ?, ?, ?)",
        [(n.id, n.version, n.spec.name, _json(n)) for n in changes.put_nodes],
    )
    many(
        "INSERT OR REPLACE INTO networks (id, version, name, data) VALUES (?, ?, ?, ?)",
        [(n.id, n.version, n.spec.name, _json(n)) for n in changes.put_networks],
    )
    many("DELETE FROM releases WHERE id = ?", [(i,) for i in changes.delete_releases])
    many(
        "INSERT OR REPLACE INTO releases (id, data) VALUES (?, ?)",
        [(r.id, _json(r)) for r in changes.put_releases],
    )
    many("DELETE FROM services WHERE id = ?", [(i,) for i in changes.delete_services])
    many("DELETE FROM tasks WHERE id = ?", [(i,) for i in changes.delete_tasks])
    many("DELETE FROM nodes WHERE id = ?", [(i,) for i in changes.delete_nodes])
    many("DELETE FROM networks WHERE id = ?", [(i,) for i in changes.delete_networks])
    kept = (
        ("secret", changes.put_secrets, changes.delete_secrets, secret_key),
        ("config", changes.put_configs, changes.delete_configs, config_key),
    )
    for kind, put, gone, key in kept:
        many(
            f"INSERT OR REPLACE INTO {kind}_objects (id, version, name, data) VALUES (?, ?, ?, ?)",
            [(one.id, one.version, one.spec.name, _json(one)) for one in put],
        )
        many(f"DELETE FROM {kind}_objects WHERE id = ?", [(i,) for i in gone])
        many("DELETE FROM secrets WHERE key = ?", [(key(i),) for i in gone])
    many("INSERT INTO events (time, data) VALUES (?, ?)", [(e.time, _json(e)) for e in changes.events])


def write_sealed(db: Database, values: Iterable[tuple[str, bytes]]) -> None:
    """Put sealed values by their keys; to be called within a transaction."""
    db.conn.executemany("INSERT OR REPLACE INTO secrets (key, sealed) VALUES (?, ?)", list(values))


# --- revisions ----------------------------------------------------------------------------------------------
def write_revisions(db: Database, respecified: Iterable[tuple[Service, Author]], now: float) -> None:
    """Record each service's spec as it is now, and forget its oldest ones; to be called within a transaction."""
    for service, author in respecified:
        newest = _scalar(db, "SELECT max(number) FROM revisions WHERE service_id = ?", (service.id,)) or 0
        db.execute(
            "INSERT OR REPLACE INTO revisions (service_id, version, time, data, number, author) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (service.id, service.version, now, _json(service.spec), newest + 1, _json(author)),
        )
        db.execute(
            "DELETE FROM revisions WHERE service_id = ? AND number <= ?",
            (service.id, newest + 1 - _revisions_kept(db)),
        )


def read_revisions(db: Database, service_id: str) -> list[Revision]:
    """Oldest first."""
    specs, authors = msgspec.json.Decoder(ServiceSpec), msgspec.json.Decoder(Author)
    sql = "SELECT number, version, time, author, data FROM revisions WHERE service_id = ? ORDER BY number"
    try:
        return [
            Revision(
                service_id=service_id,
                number=number,
                version=version,
                time=time,
                author=authors.decode(author),
                spec=specs.decode(data),
            )
            for number, version, time, author, data in db.execute(sql, (service_id,))
        ]
    except (msgspec.MsgspecError, UnicodeError) as e:
        raise StoreCorrupt(
            f"a revision of service {service_id} cannot be read: {e}", hint=way_out(), table="revisions"
        ) from e


def prune_revisions(db: Database, oldest: float) -> None:
    """Forget what is more than is kept, and what is older than `oldest` of services that are gone."""
    db.execute("DELETE FROM revisions WHERE time < ? AND service_id NOT IN (SELECT id FROM services)", (oldest,))
    db.execute(
        "DELETE FROM revisions WHERE number <= "
        "(SELECT max(number) FROM revisions AS r WHERE r.service_id = revisions.service_id) - ?",
        (_revisions_kept(db),),
    )


def prune_stack_revisions(db: Database, oldest: float) -> list[str]:
    """Forget revisions of stacks that are gone, once the newest is older than `oldest`; keys as those below.

    `docker stack rm` does not know of them.
    """
    old = db.execute("SELECT stack FROM stack_revisions GROUP BY stack HAVING max(time) < ?", (oldest,)).fetchall()
    gone = [stack for (stack,) in old if not _has_parts(db, stack)]
    return write_stack_revisions(db, (), gone, 0, oldest)


def _has_parts(db: Database, stack: str) -> bool:
    # Names of stacks need no escapes in JSON; and what is found by chance is kept for longer, no more.
    label = f'"{NAMESPACE}":"{stack}"'
    tables = ("services", "networks", "secret_objects", "config_objects")
    return any(_scalar(db, f"SELECT 1 FROM {table} WHERE instr(data, ?) LIMIT 1", (label,)) for table in tables)


def write_stack_revisions(
    db: Database, put: Iterable[StackRevision], gone: Iterable[str], index: int, now: float
) -> list[str]:
    """Number and keep revisions of stacks, and forget the oldest and all of stacks that are gone.

    Returns the keys of contents that no revision needs any more, deleted too. To be called within a transaction.
    """
    unneeded: list[str] = []
    for stack in gone:
        db.execute("DELETE FROM stack_revisions WHERE stack = ?", (stack,))
        unneeded += _drop_contents(db, stack)
    for revision in put:
        newest = newest_stack_revision(db, revision.stack)
        kept = replace(revision, number=newest + 1, version=index, time=now)
        db.execute(
            "INSERT INTO stack_revisions (stack, number, time, data) VALUES (?, ?, ?, ?)",
            (kept.stack, kept.number, now, _json(kept)),
        )
        oldest = kept.number - _revisions_kept(db)
        db.execute("DELETE FROM stack_revisions WHERE stack = ? AND number <= ?", (kept.stack, oldest))
        unneeded += _drop_contents(db, kept.stack)
    return unneeded


def _drop_contents(db: Database, stack: str) -> list[str]:
    # Only the keys are read: to make records of all specs takes long where there are many.
    sql = "SELECT DISTINCT one.value FROM stack_revisions, json_each(data, '$.Contents') AS one WHERE stack = ?"
    needed = {key for (key,) in db.execute(sql, (stack,))}
    prefix = contents_prefix(stack)
    keys = db.execute("SELECT key FROM secrets WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)).fetchall()
    gone = [key for (key,) in keys if key not in needed]
    db.conn.executemany("DELETE FROM secrets WHERE key = ?", [(key,) for key in gone])
    return gone


def newest_stack_revision(db: Database, stack: str) -> int:
    """0 if it has none."""
    return int(_scalar(db, "SELECT max(number) FROM stack_revisions WHERE stack = ?", (stack,)) or 0)


def read_stack_revisions(db: Database, stack: str) -> list[StackRevision]:
    """Oldest first."""
    decoder = msgspec.json.Decoder(StackRevision)
    rows = db.execute("SELECT data FROM stack_revisions WHERE stack = ? ORDER BY number", (stack,))
    try:
        return [decoder.decode(data) for (data,) in rows]
    except (msgspec.MsgspecError, UnicodeError) as e:
        raise StoreCorrupt(
            f"a revision of stack {stack} cannot be read: {e}", hint=way_out(), table="stack_revisions"
        ) from e


def _revisions_kept(db: Database) -> int:
    cluster = get_meta(db, "cluster", None)
    kept = msgspec.json.decode(cluster, type=Cluster).revisions_kept if cluster else REVISIONS_KEPT
    return max(LEAST_KEPT, kept)


# --- events -------------------------------------------------------------------------------------------------
def read_events(db: Database, since: float | None, until: float | None) -> list[Event]:
    decoder = msgspec.json.Decoder(Event)
    low, high = since if since is not None else float("-inf"), until if until is not None else float("inf")
    rows = db.execute("SELECT data FROM events WHERE time BETWEEN ? AND ? ORDER BY time, seq", (low, high))
    return [decoder.decode(data) for (data,) in rows]


def prune_events(db: Database, keep: int, oldest: float) -> None:
    newest = _scalar(db, "SELECT max(seq) FROM events") or 0
    db.execute("DELETE FROM events WHERE seq <= ? OR time < ?", (newest - keep, oldest))


def give_space_back(db: Database, pages: int = 1000) -> None:
    """Return free pages to the file system, a bounded number a time."""
    if int(_scalar(db, "PRAGMA freelist_count")) > pages // 4:
        db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
