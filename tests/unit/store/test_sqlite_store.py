"""What only a store on disk has to promise."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from sqlite_utils import Database

from swarmsh.adapters.store import SqliteStore, schema
from swarmsh.adapters.store.sqlite import Retention
from swarmsh.errors import StoreCorrupt, StoreReadOnly, Unavailable
from swarmsh.model.objects import Cluster, Event, TaskStatus
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents
from swarmsh.model.stacks import StackRevision, StackSpec
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_network, a_node, a_service, a_task, addressed
from tests.fakes.store import under_way
from tests.fakes.time_and_ids import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


def put(*services):
    return lambda _: Changes(put_services=services)


async def test_everything_is_there_after_reopening(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    service, network = a_service(), a_network()
    task, gone = (addressed(a_task(service, n), network, f"10.48.17.{n}") for n in (1, 2))
    await store.commit(
        lambda _: Changes(
            cluster=Cluster(id="c", version=0, created_at=1, updated_at=1, labels={"a": "b"}),
            put_services=(service,),
            put_tasks=(task, gone),
            put_nodes=(a_node(),),
            put_networks=(network,),
        )
    )
    await store.commit(lambda _: Changes(delete_tasks=(gone.id,)))
    assert store.snapshot.releases
    store.observe(lambda s: Changes(put_tasks=(replace(s.tasks[task.id], status=TaskStatus(pid=7)),)))
    before = store.snapshot
    assert await store.next_epoch() == 1
    await store.put_secret("k", b"value")
    await store.close()
    again = await SqliteStore.open(state_dir, clock)
    assert again.snapshot == before
    assert again.snapshot.tasks[task.id].status.pid == 7
    assert await again.next_epoch() == 2
    assert await again.get_secret("k") == b"value"
    await again.close()


async def test_words_that_are_no_text_keep_nothing_from_the_disk(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    task = replace(a_task(a_service(), 1), status=TaskStatus(err="bad \udcff"))
    store.observe(lambda _: Changes(put_tasks=(task,)))
    await store.commit(put(a_service()))
    await store.close()
    store = await SqliteStore.open(state_dir, clock)
    assert store.snapshot.tasks[task.id].status.err == "bad \\udcff"
    assert a_service().id in store.snapshot.services
    await store.close()


async def test_observed_state_reaches_the_disk_by_itself(state_dir, clock, monkeypatch):
    monkeypatch.setattr("swarmsh.adapters.store.sqlite.FLUSH_AFTER_S", 0.0)
    store = await SqliteStore.open(state_dir, clock)
    store.observe(put(a_service()))
    async with asyncio.timeout(10):
        while not on_disk(store.path, "SELECT count(*) FROM services"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await store.close()


def on_disk(path, sql):
    with sqlite3.connect(path) as db:
        return db.execute(sql).fetchone()[0]


async def test_an_observation_during_a_write_reaches_the_disk_with_it(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    service = a_service()
    task = a_task(service, 1)
    await store.commit(lambda _: Changes(put_services=(service,), put_tasks=(task,)))
    stopping = await under_way(
        store, lambda s: Changes(put_tasks=(replace(s.tasks[task.id], desired=TaskState.SHUTDOWN),))
    )
    store.observe(lambda s: Changes(put_tasks=(replace(s.tasks[task.id], status=TaskStatus(pid=9)),)))
    await stopping
    before = store.snapshot
    await store.close()
    again = await SqliteStore.open(state_dir, clock)
    assert again.snapshot == before
    assert again.snapshot.tasks[task.id].status.pid == 9
    await again.close()


async def test_a_task_seen_to_be_gone_during_a_write_stays_gone(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    task = a_task(a_service(), 1)
    await store.commit(lambda _: Changes(put_tasks=(task,)))
    stopping = await under_way(
        store, lambda s: Changes(put_tasks=(replace(s.tasks[task.id], desired=TaskState.REMOVE),))
    )
    store.observe(lambda _: Changes(delete_tasks=(task.id,)))
    await stopping
    assert not store.snapshot.tasks
    await store.close()
    again = await SqliteStore.open(state_dir, clock)
    assert not again.snapshot.tasks
    await again.close()


async def test_files_are_private(state_dir, clock):
    state_dir.mkdir(mode=0o755)
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(put(a_service()))
    await store.archive()
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    files = [f for f in state_dir.rglob("*") if f.is_file()]
    assert {f.name for f in files} >= {"swarmsh.db", "swarmsh.db-wal", "secrets.key", "manager.lock"}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    await store.close()


async def test_a_second_manager_is_refused_and_the_first_one_named(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    with pytest.raises(Unavailable, match=f"pid {os.getpid()}"):
        await SqliteStore.open(state_dir, clock)
    await store.close()
    await (await SqliteStore.open(state_dir, clock)).close()


async def test_a_secret_is_nowhere_in_the_files_in_clear(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.put_secret("auth", b"correct horse battery staple")
    await store.close()
    assert all(b"correct horse" not in f.read_bytes() for f in state_dir.rglob("*") if f.is_file())


async def test_a_secret_does_not_open_with_another_key_or_under_another_name(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.put_secret("auth", b"x")
    await store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("INSERT INTO secrets SELECT 'other', sealed FROM secrets")
    store = await SqliteStore.open(state_dir, clock)
    with pytest.raises(StoreCorrupt, match="other"):
        await store.get_secret("other")
    await store.close()


async def test_every_new_spec_is_a_revision_and_nothing_else_is(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(
        lambda _: Changes(cluster=Cluster(id="c", version=0, created_at=1, updated_at=1, revisions_kept=3))
    )
    service = a_service()
    await store.commit(put(service))
    await store.commit(put(replace(service, spec_version=9)))
    for n in range(5):
        clock.pass_time(1)
        spec = replace(service.spec, labels={"n": str(n)})
        await store.commit(put(replace(service, spec=spec)))
    kept = await store.revisions(service.id)
    assert [(r.number, r.version) for r in kept] == [(4, 6), (5, 7), (6, 8)]
    assert kept[-1].time == clock.now()
    assert kept[-1].spec.labels == {"n": "4"}
    await store.close()


async def test_fewer_revisions_are_kept_of_all_services_once_the_cluster_says_so(state_dir, clock):
    cluster = Cluster(id="c", version=0, created_at=1, updated_at=1)
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(lambda _: Changes(cluster=cluster))
    services = (a_service("a"), a_service("b"))
    for n in range(4):
        await store.commit(
            put(*(replace(s, spec=replace(s.spec, labels={"n": str(n)})) for s in services[: 1 if n else 2]))
        )
    await store.commit(lambda _: Changes(cluster=replace(cluster, revisions_kept=2)))
    await store.close()
    store = await SqliteStore.open(state_dir, clock)
    kept = [[r.number for r in await store.revisions(s.id)] for s in services]
    assert kept == [[3, 4], [1]]
    await store.close()


async def test_revisions_of_a_stack_that_docker_removed_go_with_their_contents_in_the_end(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    service = a_service("there_web")
    labelled = replace(service, spec=replace(service.spec, labels={"com.docker.stack.namespace": "there"}))
    revisions = [
        StackRevision(stack=name, spec=StackSpec(name=name), contents={"secret/pw": f"stack/{name}/1"})
        for name in ("there", "gone")
    ]
    contents = tuple(Contents(key=f"stack/{name}/1", data=b"x") for name in ("there", "gone"))
    changes = Changes(put_services=(labelled,), put_stack_revisions=tuple(revisions), put_contents=contents)
    await store.commit(lambda _: changes)
    await store.close()
    for days, kept in ((29, ["gone", "there"]), (2, ["there"])):
        clock.pass_time(days * 86400.0)
        store = await SqliteStore.open(state_dir, clock)
        assert [name for name in ("gone", "there") if await store.stack_revisions(name)] == kept
        assert store.secret_keys() == [f"stack/{name}/1" for name in kept]
        await store.close()


async def test_revisions_of_a_stack_are_not_read_to_write_another_one(state_dir, clock, monkeypatch):
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(
        lambda _: Changes(cluster=Cluster(id="c", version=0, created_at=1, updated_at=1, revisions_kept=2))
    )
    monkeypatch.delattr(schema, "read_stack_revisions")
    assert await store.newest_stack_revision("shop") == 0
    for n in range(4):
        one = StackRevision(stack="shop", spec=StackSpec(name="shop"), contents={"secret/pw": f"stack/shop/{n}"})
        contents = (Contents(key=f"stack/shop/{n}", data=b"x"),)
        await store.commit(lambda _, one=one, c=contents: Changes(put_stack_revisions=(one,), put_contents=c))
    assert await store.newest_stack_revision("shop") == 4
    assert store.secret_keys() == ["stack/shop/2", "stack/shop/3"]
    await store.close()


async def test_revisions_of_an_older_database_are_numbered_and_their_authors_unknown(state_dir, clock):
    state_dir.mkdir()
    db = Database(sqlite3.connect(state_dir / "swarmsh.db"))
    schema.migrate(db, "p", schema.MIGRATIONS[:2])
    spec = msgspec.json.encode(a_service().spec).decode()
    with db.atomic():
        for service_id, version in (("a", 5), ("b", 7), ("a", 9)):
            db.execute(
                "INSERT INTO revisions (service_id, version, time, data) VALUES (?, ?, ?, ?)",
                (service_id, version, clock.now(), spec),
            )
    db.close()
    store = await SqliteStore.open(state_dir, clock)
    kept = await store.revisions("a")
    assert [(r.number, r.version, r.author) for r in kept] == [(1, 5, Author()), (2, 9, Author())]
    assert kept[0].spec == a_service().spec
    await store.close()


async def test_old_and_many_events_are_forgotten(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock, retention=Retention(events=10, events_s=100))
    many = tuple(Event(time=clock.now(), type="service", action="create", id=str(n)) for n in range(50))
    old = Event(time=clock.now() - 200, type="service", action="create", id="old")
    await store.commit(lambda _: Changes(events=(*many, old)))
    await store.close()
    store = await SqliteStore.open(state_dir, clock, retention=Retention(events=10, events_s=100))
    assert [e.id for e in await store.events(None, None)] == [str(n) for n in range(41, 50)]
    await store.close()


# --- faults -------------------------------------------------------------------------------------------------
def full_disk(store, full):
    """SQLITE_FULL from SQLite itself: the database may not grow by a page."""

    def limit():
        for db in (store._full, store._normal):
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count = {pages if full else 2**30}").fetchone()

    return store._executor.submit(limit).result()


async def test_a_full_disk_refuses_clearly_changes_nothing_and_recovers(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(put(a_service("before")))
    big = replace(a_service("big"), spec=replace(a_service("big").spec, labels={"x": "y" * 2_000_000}))
    full_disk(store, True)
    before = store.snapshot
    with pytest.raises(StoreReadOnly, match="full"):
        await store.commit(put(a_service("small"), big))
    assert store.snapshot is before
    store.observe(put(replace(big, id="observed")))  # waits for the disk
    with pytest.raises(StoreReadOnly):
        await store.put_secret("k", os.urandom(2_000_000))
    assert on_disk(store.path, "SELECT count(*) FROM services") == 1
    full_disk(store, False)
    await store.commit(put(big))
    seen = store.snapshot
    await store.close()
    again = await SqliteStore.open(state_dir, clock)
    assert again.snapshot == seen
    assert {s.id for s in again.snapshot.services.values()} >= {"observed", big.id}
    await again.close()


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", str(mount)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


async def test_a_really_full_file_system_refuses_and_recovers(small_disk, clock):
    store = await SqliteStore.open(small_disk / "state", clock)
    accepted = []
    with pytest.raises(StoreReadOnly):  # noqa: PT012
        for n in range(1000):
            service = a_service(f"s{n}", service_id=f"s{n}")
            service = replace(service, spec=replace(service.spec, labels={"x": "y" * 20_000}))
            await store.commit(put(service))
            accepted.append(service.id)
    assert accepted
    assert set(store.snapshot.services) == set(accepted)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)  # noqa: ASYNC221
    await store.commit(put(a_service("after", service_id="after")))
    await store.close()
    again = await SqliteStore.open(small_disk / "state", clock)
    assert set(again.snapshot.services) == {*accepted, "after"}
    await again.close()


async def test_a_store_behind_its_nodes_refuses_writes_until_told_otherwise(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    store.forbid_writes("the store is behind its nodes")
    with pytest.raises(StoreReadOnly, match="behind"):
        await store.commit(put(a_service()))
    store.observe(put(a_service("seen")))
    store.forbid_writes("")
    await store.commit(put(a_service()))
    await store.close()


async def test_a_bug_in_the_writer_fails_everybody_and_ends_the_store(state_dir, clock, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    store = await SqliteStore.open(state_dir, clock)
    failed = asyncio.create_task(store.failed())
    monkeypatch.setattr("swarmsh.adapters.store.sqlite.rebase", broken)
    writing = await under_way(store, put(a_service()))
    async with asyncio.timeout(10):
        # The second was not in the batch that failed.
        for commit in (
            writing,
            store.commit(put(a_service("b"))),
            store.commit_orchestration(put(a_service("c"))),
        ):
            with pytest.raises(StoreReadOnly, match=r"stopped.*a bug"):
                await commit
        with pytest.raises(StoreReadOnly):
            await store.archive()
        with pytest.raises(RuntimeError, match="a bug"):
            await failed
        await store.close()
    monkeypatch.undo()
    again = await SqliteStore.open(state_dir, clock)
    assert await again.commit(put(a_service("d")))
    await again.close()


async def test_nobody_waits_for_a_store_that_was_closed_meanwhile(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    closing = asyncio.create_task(store.close())
    late = []
    while not closing.done():
        late.append(asyncio.create_task(store.commit(put(a_service()))))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert all(isinstance(o, ClusterSnapshot | Unavailable | StoreReadOnly) for o in outcomes)


async def test_a_raised_index_is_on_disk_and_only_climbs(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(put(a_service()))
    await store.raise_index(40)
    await store.raise_index(7)
    assert store.snapshot.index == 40 == on_disk(store.path, "SELECT value FROM meta WHERE key = 'index'")
    after = await store.commit(put(a_service("b")))
    assert after.services[after.service_ids["b"]].version == 41
    store.forbid_writes("behind")
    with pytest.raises(StoreReadOnly, match="behind"):
        await store.raise_index(50)
    await store.close()


async def test_a_cancelled_caller_does_not_tear_a_write(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    writing = await under_way(store, put(a_service()))
    writing.cancel()
    await store.commit(put(a_service("next")))
    assert store.snapshot.index == on_disk(store.path, "SELECT value FROM meta WHERE key = 'index'")
    assert len(store.snapshot.services) == on_disk(store.path, "SELECT count(*) FROM services")
    await store.close()


@pytest.mark.parametrize("damage", ["garbage", "page", "row"])
async def test_a_damaged_file_is_refused_with_a_way_out(state_dir, clock, damage):
    store = await SqliteStore.open(state_dir, clock)
    for n in range(200):
        await store.commit_orchestration(put(a_service(f"s{n}")))
    await store.close()
    if damage == "garbage":
        store.path.write_bytes(b"not a database" * 1000)
    elif damage == "page":
        content = bytearray(store.path.read_bytes())
        content[4096 * 6 : 4096 * 12] = os.urandom(4096 * 6)
        store.path.write_bytes(content)
    else:
        with sqlite3.connect(store.path) as db:
            db.execute("UPDATE services SET data = '{' WHERE name = 's7'")
    with pytest.raises(StoreCorrupt, match="backup"):
        await SqliteStore.open(state_dir, clock)
    shutil.move(store.path, state_dir / "aside")  # the way out, followed
    for rest in state_dir.glob("swarmsh.db-*"):
        rest.unlink()
    await (await SqliteStore.open(state_dir, clock)).close()


async def test_a_database_of_a_newer_swarmsh_or_of_others_is_refused_untouched(state_dir, clock):
    await (await SqliteStore.open(state_dir, clock)).close()
    path = state_dir / "swarmsh.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(StoreCorrupt, match="newer swarmsh"):
        await SqliteStore.open(state_dir, clock)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")
        db.execute("PRAGMA application_id = 1")
    with pytest.raises(StoreCorrupt, match="another program"):
        await SqliteStore.open(state_dir, clock)


async def test_a_migration_that_fails_leaves_the_older_schema(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    await store.commit(put(a_service()))
    await store.close()

    def second(db):
        db.execute("CREATE TABLE extra (x)")
        raise sqlite3.OperationalError("cut off")

    db = Database(sqlite3.connect(store.path))
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(db, "p", (*schema.MIGRATIONS, second))
    db.close()
    again = await SqliteStore.open(state_dir, clock)
    assert len(again.snapshot.services) == 1
    await again.close()


async def test_a_database_of_before_there_were_networks_is_carried_over(state_dir, clock):
    store = await SqliteStore.open(state_dir, clock)
    service = a_service()
    await store.commit(
        lambda _: Changes(
            cluster=Cluster(id="c", version=0, created_at=1, updated_at=1),
            put_services=(service,),
            put_tasks=(a_task(service, 1),),
            put_nodes=(a_node(1), a_node(2)),
        )
    )
    before = store.snapshot
    await store.close()
    with sqlite3.connect(store.path) as db:  # back to the first schema
        db.execute("DROP TABLE networks")
        db.execute("DROP TABLE releases")
        db.execute("DROP TABLE secret_objects")
        db.execute("DROP TABLE config_objects")
        db.execute("DROP TABLE stack_revisions")
        db.execute("ALTER TABLE revisions DROP COLUMN number")
        db.execute("ALTER TABLE revisions DROP COLUMN author")
        db.execute("PRAGMA user_version = 1")
        for table in ("tasks", "services", "nodes"):
            for (data,) in db.execute(f"SELECT data FROM {table}").fetchall():
                assert not {"Endpoint", "Addresses", "EgressAddress", "Routes"} & json.loads(data).keys()
    again = await SqliteStore.open(state_dir, clock)
    assert again.snapshot == before
    assert [r.number for r in await again.revisions(service.id)] == [1]
    assert [n.number for n in sorted(again.snapshot.nodes.values(), key=lambda n: n.id)] == [1, 2]
    assert again.snapshot.cluster.subnet_size == 20
    await again.commit(lambda _: Changes(put_networks=(a_network(),)))
    await again.archive()
    await again.close()
    assert on_disk(again.path, "SELECT count(*) FROM networks") == 0


async def test_killing_the_process_at_any_instant_loses_nothing_acknowledged(state_dir, clock):
    dice = random.Random(2)
    acknowledged: set[str] = set()
    script = Path(__file__).with_name("writer_process.py")
    for run in range(12):
        with subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, str(script), str(state_dir), f"r{run}"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            for _ in range(dice.randrange(60)):  # counted in writes, not in time
                acknowledged.add(process.stdout.readline().strip())
            os.kill(process.pid, signal.SIGKILL)
            rest, _ = process.communicate()
            acknowledged.update(line for line in rest.split("\n")[:-1])  # whole lines only
        store = await SqliteStore.open(state_dir, clock)
        missing = acknowledged - set(store.snapshot.services)
        assert not missing
        assert {f"t-{s}" for s in acknowledged} <= set(store.snapshot.tasks)
        assert set(store.snapshot.tasks) == {f"t-{s}" for s in store.snapshot.services}  # no half of a commit
        assert store.snapshot.index >= max((s.version for s in store.snapshot.services.values()), default=0)
        await store.close()
    assert len(acknowledged) > 100
