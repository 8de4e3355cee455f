"""Schedules in the manager: a run is written as one, and a clock that went on while timers stood still is seen."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from swarmsh.core.jobs import created_job
from swarmsh.manager import orchestrator as orchestrating
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.model.objects import Cluster, Service
from swarmsh.model.snapshot import Changes
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock

from ..core.world import make_job, make_node


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> MemoryStore:
    store = MemoryStore(clock)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    spec = make_job(labels={"swarmsh.schedule": "0 * * * *"})
    job = created_job(Service(id="job", version=1, created_at=0.0, updated_at=0.0, spec=spec), clock.now())
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=(make_node(1),), put_services=(job,)))
    return store


async def test_a_run_and_its_tasks_are_one_write_so_that_no_end_of_the_manager_doubles_it(
    store: MemoryStore, clock: FakeClock
) -> None:
    clock.pass_time(3600)
    ids = CountingIds()
    async with store.subscribe() as changes:
        first = Orchestrator(store, clock, ids)
        first.touch_all()
        await first.one_pass()
        _, change = await anext(aiter(changes))
    assert [s.job_status.iteration for s in change.put_services if s.job_status is not None] == [1]
    assert [t.job_iteration for t in change.put_tasks] == [1]
    assert [e.action for e in change.events] == ["job_run"]
    after = store.snapshot
    again = Orchestrator(store, clock, ids)
    again.touch_all()
    await again.one_pass()
    assert store.snapshot.tasks == after.tasks


async def test_a_run_that_came_due_while_the_machine_slept_is_seen_when_it_wakes(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrating, "CLOCK_LOOK_S", 0.01)
    orchestrator = Orchestrator(store, clock, CountingIds())
    orchestrator.touch_all()
    await orchestrator.one_pass()
    running = asyncio.create_task(orchestrator.run())
    try:
        async with store.subscribe() as changes, asyncio.timeout(20):
            clock.pass_time(5 * 3600)  # no timer has run out: it was set for an hour of the machine being awake
            async for _, change in changes:
                if change.put_services:
                    break
    finally:
        running.cancel()
    assert [e.action for e in change.events] == ["job_skipped", "job_run"]


async def test_what_is_known_of_a_job_is_read_as_it_was_written(store: MemoryStore) -> None:
    (job,) = store.snapshot.services.values()
    assert job.job_status is not None
    status = replace(job.job_status, skipped=3, skipped_at=5.0, skipped_because="x")
    for one in (job, replace(job, job_status=status), created_job(replace(job, spec=make_job()), 7.5)):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Service) == one
