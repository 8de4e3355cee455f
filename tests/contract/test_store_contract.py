"""What every store promises: run against the SQLite store and against the fake that other tests use."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from swarmsh.adapters.store import SqliteStore
from swarmsh.core.allocate import left_cleanly
from swarmsh.errors import NameConflict, NotFound
from swarmsh.model.objects import Cluster, Endpoint, Event, PortMark, TaskStatus, UpdateStatus
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, Contents, config_key, secret_key
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_config, a_network, a_node, a_secret, a_service, a_task, addressed
from tests.fakes.store import MemoryStore, under_way
from tests.fakes.time_and_ids import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(params=["sqlite", "memory"])
async def store(request, tmp_path, clock):
    made = MemoryStore(clock) if request.param == "memory" else await SqliteStore.open(tmp_path / "state", clock)
    yield made
    await made.close()


def put(*services):
    return lambda _: Changes(put_services=services)


async def test_a_commit_steps_the_index_once_and_stamps_every_object(store, clock):
    clock.pass_time(5)
    service = a_service()
    changes = Changes(
        cluster=Cluster(id="c", version=0, created_at=0, updated_at=0),
        put_services=(service,),
        put_tasks=(a_task(service, 1), a_task(service, 2)),
        put_nodes=(a_node(),),
        put_networks=(a_network(),),
    )
    after = await store.commit(lambda _: changes)
    assert after.index == 1 == after.cluster.version
    for o in (*after.services.values(), *after.tasks.values(), *after.nodes.values(), *after.networks.values()):
        assert (o.version, o.updated_at) == (1, clock.now())
    assert after is store.snapshot


@pytest.mark.parametrize("way", ["commit", "commit_orchestration"])
async def test_an_empty_decision_uses_no_index(store, way):
    await getattr(store, way)(put(a_service()))
    before = store.snapshot
    assert await getattr(store, way)(lambda _: Changes()) is before


async def test_a_decision_sees_what_was_committed_before_it(store):
    def add_one(snapshot):
        name = f"web{len(snapshot.services)}"
        return Changes(put_services=(a_service(name),))

    await asyncio.gather(*(store.commit(add_one) for _ in range(30)))
    assert sorted(s.version for s in store.snapshot.services.values()) == list(range(1, 31))
    assert {s.spec.name for s in store.snapshot.services.values()} == {f"web{n}" for n in range(30)}


async def test_what_a_decision_raises_passes_through_and_changes_nothing(store):
    def refuse(_):
        raise NameConflict("taken")

    before = store.snapshot
    first, second = await asyncio.gather(
        store.commit(refuse), store.commit(put(a_service())), return_exceptions=True
    )
    assert isinstance(first, NameConflict)
    assert second.index == before.index + 1


async def test_an_observation_is_seen_at_once_and_steps_no_index(store):
    service = a_service()
    task = a_task(service, 1)
    await store.commit(lambda _: Changes(put_services=(service,), put_tasks=(task,)))
    stored = store.snapshot.tasks[task.id]
    running = replace(stored, status=TaskStatus(state=TaskState.RUNNING))
    after = store.observe(lambda _: Changes(put_tasks=(running,)))
    assert after is store.snapshot
    assert after.index == 1
    assert after.tasks[task.id] is running


async def test_an_observation_during_a_write_is_not_lost(store):
    service = a_service()
    task = a_task(service, 1, state=TaskState.STARTING)
    await store.commit(lambda _: Changes(put_services=(service,), put_tasks=(task,)))

    def stop(snapshot):
        return Changes(put_tasks=(replace(snapshot.tasks[task.id], desired=TaskState.SHUTDOWN),))

    def see_running(snapshot):
        running = TaskStatus(state=TaskState.RUNNING)
        return Changes(put_tasks=(replace(snapshot.tasks[task.id], status=running),))

    writing = await under_way(store, stop)
    store.observe(see_running)
    await writing
    after = store.snapshot.tasks[task.id]
    assert (after.desired, after.status.state) == (TaskState.SHUTDOWN, TaskState.RUNNING)
    assert after.version == 2


async def test_subscribers_get_every_change_in_order_with_the_snapshot_after_it(store):
    async with store.subscribe() as changes:
        await store.commit(put(a_service("a")))
        store.observe(put(a_service("b")))
        await store.commit(put(a_service("c")))
        seen = [await anext(changes) for _ in range(3)]
    assert [c.put_services[0].spec.name for _, c in seen] == ["a", "b", "c"]
    assert [s.index for s, _ in seen] == [1, 1, 2]
    assert seen[0][1].put_services[0].version == 1
    assert seen[2][0] is store.snapshot


async def test_deleted_objects_are_gone(store):
    service = a_service()
    task, node = a_task(service, 1), a_node()
    await store.commit(lambda _: Changes(put_services=(service,), put_tasks=(task,), put_nodes=(node,)))
    after = await store.commit(
        lambda _: Changes(delete_services=(service.id,), delete_tasks=(task.id,), delete_nodes=(node.id,))
    )
    assert not after.services
    assert not after.tasks
    assert not after.nodes
    assert not after.service_ids


async def test_the_address_of_a_task_that_is_deleted_is_remembered_with_the_time(store, clock):
    service, network = a_service(), a_network()
    told, seen = (addressed(a_task(service, n), network, f"10.48.17.{n}") for n in (1, 2))
    await store.commit(lambda _: Changes(put_networks=(network,), put_tasks=(told, seen)))
    clock.pass_time(5)
    await store.commit(lambda _: Changes(delete_tasks=(told.id,)))
    clock.pass_time(5)
    store.observe(lambda _: Changes(delete_tasks=(seen.id,)))
    releases = sorted(store.snapshot.releases.values(), key=lambda r: r.key)
    assert [(r.holder, clock.now() - r.released_at) for r in releases] == [(told.id, 5), (seen.id, 0)]
    after = await store.commit(lambda _: Changes(delete_releases=(releases[0].id,)))
    assert list(after.releases.values()) == releases[1:]
    assert list(after.pools[network.id].holdings) == [releases[1].key]


async def test_a_removed_networks_name_is_free(store):
    network = a_network()
    await store.commit(lambda _: Changes(put_networks=(network,)))
    assert store.snapshot.network_ids["net1"] == network.id
    after = await store.commit(lambda _: Changes(put_networks=(replace(network, removed_at=1.0),)))
    assert not after.network_ids
    assert network.id in after.networks
    after = await store.commit(lambda _: Changes(delete_networks=(network.id,)))
    assert not after.networks


async def test_events_are_kept_and_found_by_time_both_ends_included(store):
    def event(time):
        return Event(time=time, type="service", action="create", id=str(time))

    await store.commit(lambda _: Changes(events=(event(1.0), event(2.0))))
    store.observe(lambda _: Changes(events=(event(3.0),)))
    assert [e.time for e in await store.events(None, None)] == [1.0, 2.0, 3.0]
    assert [e.time for e in await store.events(2.0, None)] == [2.0, 3.0]
    assert [e.time for e in await store.events(None, 2.0)] == [1.0, 2.0]


async def test_epochs_only_climb(store):
    assert [await store.next_epoch() for _ in range(3)] == [1, 2, 3]


async def test_secrets_are_read_back_replaced_and_deleted(store):
    assert await store.get_secret("a") is None
    await store.put_secret("a", b"first")
    await store.put_secret("a", b"second")
    assert await store.get_secret("a") == b"second"
    await store.put_secret("a", None)
    assert await store.get_secret("a") is None


async def test_the_keys_of_secrets_are_listed(store):
    for key in ("b", "a", "c"):
        await store.put_secret(key, b"x")
    await store.put_secret("c", None)
    assert store.secret_keys() == ["a", "b"]


async def test_contents_are_written_with_their_secret_and_go_with_it(store, clock):
    secret, config = a_secret(), a_config()
    contents = (
        Contents(key=secret_key(secret.id), data=b"one"),
        Contents(key=config_key(config.id), data=b"two"),
    )
    async with store.subscribe() as changes:
        after = await store.commit(
            lambda _: Changes(put_secrets=(secret,), put_configs=(config,), put_contents=contents)
        )
        _, told = await anext(changes)
    assert not told.put_contents
    stamped = {"version": 1, "updated_at": clock.now()}
    assert dict(after.secrets) == {secret.id: replace(secret, **stamped)}
    assert dict(after.configs) == {config.id: replace(config, **stamped)}
    assert (dict(after.secret_ids), dict(after.config_ids)) == ({"password": secret.id}, {"site": config.id})
    assert (await store.secret_data(secret.id), await store.config_data(config.id)) == (b"one", b"two")
    with pytest.raises(NotFound):
        await store.secret_data(config.id)
    newer = a_secret(number=2)
    changed = (replace(secret, current=False), newer)
    both = (Contents(key=secret_key(newer.id), data=b"three"),)
    after = await store.commit(lambda _: Changes(put_secrets=changed, put_contents=both))
    assert (after.secret_ids["password"], len(after.secrets)) == (newer.id, 2)
    after = await store.commit(lambda _: Changes(delete_secrets=(newer.id,), delete_configs=(config.id,)))
    assert (list(after.secrets), dict(after.secret_ids), dict(after.configs)) == ([secret.id], {}, {})
    assert store.secret_keys() == [secret_key(secret.id)]
    assert not store.locked and store.key_place == "file"


async def test_an_archived_store_is_empty_but_for_its_nodes_and_index(store):
    await store.commit(
        lambda _: Changes(
            cluster=Cluster(id="c", version=0, created_at=0, updated_at=0),
            put_services=(a_service(),),
            put_nodes=(a_node(),),
            put_networks=(a_network(),),
        )
    )
    await store.put_secret("a", b"x")
    await store.archive()
    assert store.snapshot.cluster is None
    assert not store.snapshot.networks
    assert not store.snapshot.services
    assert store.snapshot.index == 1
    assert [n.target.host_keys for n in store.snapshot.nodes.values()] == [("SHA256:abc",)]
    assert await store.get_secret("a") is None
    assert (await store.commit(put(a_service("again")))).index == 2


# --- what services and nodes hold ---------------------------------------------------------------------------
def publishing(service, *ports):
    """The service with these ports (published, mark)."""
    marks = tuple(PortMark(protocol="tcp", target_port=80, published_port=p, mark=m) for p, m in ports)
    return replace(service, endpoint=Endpoint(ports=marks))


def holder(store, pool, key):
    holding = store.snapshot.pools[pool].holdings.get(key) if pool in store.snapshot.pools else None
    return None if holding is None else (holding.holder, holding.released_at)


async def test_a_port_passes_from_service_to_service_and_its_mark_waits(store, clock):
    a, b = a_service("a"), a_service("b")
    await store.commit(put(publishing(a, (80, 1))))
    assert holder(store, "tcp", 80) == (a.id, None)
    clock.pass_time(1)
    await store.commit(lambda _: Changes(delete_services=(a.id,)))
    assert set(store.snapshot.releases) == {"tcp/80", "marks/1"}
    assert holder(store, "tcp", 80) == (a.id, clock.now())
    await store.commit(put(publishing(b, (80, 2))))
    assert set(store.snapshot.releases) == {"marks/1"}
    assert (holder(store, "tcp", 80), holder(store, "marks", 1)) == ((b.id, None), (a.id, clock.now()))


async def test_who_takes_back_what_it_gave_up_has_it(store):
    a = a_service("a")
    for ports in (((80, 1),), (), ((80, 2),)):
        await store.commit(put(publishing(a, *ports)))
    assert holder(store, "tcp", 80) == (a.id, None)
    assert set(store.snapshot.releases) == {"marks/1"}


async def test_the_number_of_a_removed_node_is_remembered_until_a_node_has_it(store, clock):
    node = a_node(7)
    await store.commit(lambda _: Changes(put_nodes=(node,)))
    await store.commit(lambda _: Changes(delete_nodes=(node.id,)))
    (release,) = store.snapshot.releases.values()
    assert (release.pool, release.key, release.holder) == ("lost-nodes", 7, node.id)
    await store.commit(lambda s: left_cleanly(s, node.id, clock.now()))
    assert set(store.snapshot.releases) == {"nodes/7"}
    await store.commit(lambda _: Changes(put_nodes=(replace(node, id="another"),)))
    assert not store.snapshot.releases


# --- revisions ----------------------------------------------------------------------------------------------
def labelled(service, label):
    return replace(service, spec=replace(service.spec, labels={"n": label}))


async def test_each_new_spec_is_a_revision_with_who_wanted_it_and_when(store, clock):
    service = a_service()
    ann = Author(user="ann", client="Docker-Client/28.5.2 (linux)", action="create")
    await store.commit(lambda _: Changes(put_services=(service,), author=ann))
    clock.pass_time(5)
    bob = replace(ann, user="bob", action="update")
    await store.commit(lambda _: Changes(put_services=(labelled(service, "1"),), author=bob))
    first, second = await store.revisions(service.id)
    assert (first.number, first.version, first.author, first.spec) == (1, 1, ann, service.spec)
    assert (second.number, second.version, second.author) == (2, 2, bob)
    assert second.time == first.time + 5
    assert await store.revisions("another") == []


async def test_a_write_that_leaves_the_spec_as_it_is_makes_no_revision(store):
    service = a_service()
    await store.commit(put(service))
    await store.commit(put(replace(service, spec_version=2)))
    store.observe(put(replace(service, update_status=UpdateStatus(state="updating"))))
    assert [r.number for r in await store.revisions(service.id)] == [1]


async def test_a_spec_that_the_manager_brings_back_by_itself_is_its_own_revision(store):
    service = a_service()
    await store.commit(put(service))
    back = replace(labelled(service, "0"), update_status=UpdateStatus(state="rollback_started"))
    await store.commit_orchestration(put(back))
    assert (await store.revisions(service.id))[-1].author == Author(client="manager", action="rollback")


@pytest.mark.parametrize(("kept", "numbers"), [(3, [4, 5, 6]), (0, [5, 6])])
async def test_as_many_revisions_are_kept_as_the_cluster_says_but_always_two(store, kept, numbers):
    cluster = Cluster(id="c", version=0, created_at=0, updated_at=0, revisions_kept=kept)
    await store.commit(lambda _: Changes(cluster=cluster))
    service, other = a_service(), a_service("other")
    await store.commit(put(other))
    for n in range(6):
        await store.commit(put(labelled(service, str(n))))
    assert [r.number for r in await store.revisions(service.id)] == numbers
    assert [r.number for r in await store.revisions(other.id)] == [1]
