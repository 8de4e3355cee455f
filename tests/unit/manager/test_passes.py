"""Passes and batches when something goes wrong: the rest goes on, and what failed is tried again."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from swarmsh.errors import NodeDeadline
from swarmsh.manager import orchestrator as orchestrating
from swarmsh.manager.dirt import Dirt, dirt_of
from swarmsh.manager.node_networks import ClusterNetworks
from swarmsh.manager.node_worker import NodeWorker
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.model.actions import Batch, NodeReport
from swarmsh.model.objects import Cluster, NodeStatus, Service
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState, TaskState
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock

from ..core.world import make_node, make_spec


def service(name: str) -> Service:
    return Service(id=name, version=1, created_at=0.0, updated_at=0.0, spec=make_spec(name=name))


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore(FakeClock())
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=(make_node(1),)))
    return store


async def test_a_service_that_cannot_be_planned_does_not_stop_the_others(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(lambda s: Changes(put_services=(service("bad"), service("good"))))
    real = orchestrating.plan_service

    def plan(planned: Service, *rest: object) -> object:
        if planned.id == "bad":
            raise ZeroDivisionError
        return real(planned, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(orchestrating, "plan_service", plan)
    clock = FakeClock()
    orchestrator = Orchestrator(store, clock, CountingIds())
    orchestrator.touch_all()
    await orchestrator.one_pass()
    assert {t.service_id for t in store.snapshot.tasks.values()} == {"good"}
    monkeypatch.setattr(orchestrating, "plan_service", real)
    clock.pass_time(orchestrating.BUG_RETRY_S)
    await orchestrator.one_pass()
    assert {t.service_id for t in store.snapshot.tasks.values()} == {"good", "bad"}


async def test_a_pass_over_what_is_as_it_should_be_writes_nothing(store: MemoryStore) -> None:
    await store.commit(lambda s: Changes(put_services=(service("web"),)))
    orchestrator = Orchestrator(store, FakeClock(), CountingIds())
    orchestrator.touch_all()
    await orchestrator.one_pass()
    before = store.snapshot
    assert [t.status.state for t in before.tasks.values()] == [TaskState.ASSIGNED]
    orchestrator.touch_all()
    await orchestrator.one_pass()
    assert store.snapshot is before


async def test_a_batch_that_failed_is_given_again_while_the_session_stands(store: MemoryStore) -> None:
    await store.commit(lambda s: Changes(put_services=(service("web"),)))
    orchestrator = Orchestrator(store, FakeClock(), CountingIds())
    orchestrator.touch_all()
    await orchestrator.one_pass()
    given = asyncio.Event()

    class Sessions:
        tries = 0

        def report(self, node_id: str) -> NodeReport:
            return NodeReport()

        async def apply(self, node_id: str, batch: Batch) -> None:
            self.tries += 1
            if self.tries == 1:
                raise NodeDeadline("no answer in time")
            given.set()

    networks = ClusterNetworks(store, Sessions(), FakeClock(), 1, lambda: None)  # type: ignore[arg-type]
    worker = NodeWorker("node1", store, Sessions(), networks, 1, 3.0)  # type: ignore[arg-type]
    worker.touch()
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(10):
            await given.wait()
    finally:
        running.cancel()


def test_words_about_a_node_make_no_dirt(store: MemoryStore) -> None:
    node = make_node(1)
    worded = replace(node, status=NodeStatus(state=NodeState.READY, message="no route to host"))
    down = replace(node, status=NodeStatus(state=NodeState.DOWN))
    assert dirt_of(store.snapshot, Changes(put_nodes=(worded,))) == Dirt()
    assert dirt_of(store.snapshot, Changes(put_nodes=(down,))).nodes == {"node1"}


async def test_the_status_of_an_update_is_not_put_onto_what_a_user_wrote_meanwhile(store: MemoryStore) -> None:
    await store.commit(lambda s: Changes(put_services=(service("web"),)))
    orchestrator = Orchestrator(store, FakeClock(), CountingIds())
    orchestrator.touch_all()
    await orchestrator.one_pass()
    changed = replace(store.snapshot.services["web"], spec=make_spec(name="web", image="web:2"), spec_version=2)
    await store.commit(lambda s: Changes(put_services=(changed,)))
    orchestrator.touch_all()
    one_pass = asyncio.create_task(orchestrator.one_pass())
    await asyncio.sleep(0)  # it has decided, and its write is under way
    labelled = replace(changed, spec=replace(changed.spec, labels={"a": "b"}))
    await store.commit(lambda s: Changes(put_services=(labelled,)))
    await one_pass
    assert store.snapshot.services["web"].update_status is None
