"""Commits services for ever and prints each name once it is acknowledged; to be killed (-9) by the test."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from msgspec.structs import replace

from swarmsh.adapters.store import SqliteStore
from swarmsh.model.objects import TaskStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_service, a_task
from tests.fakes.time_and_ids import FakeClock


async def main(state_dir, run):
    store = await SqliteStore.open(state_dir, FakeClock())
    print("open", flush=True)

    async def write(lane):
        for n in range(100_000):
            service = a_service(f"{run}-{lane}-{n}", service_id=f"{run}-{lane}-{n}")
            task = a_task(service, 1, task_id=f"t-{service.id}")
            way = store.commit if lane % 2 else store.commit_orchestration
            await way(lambda _, s=service, t=task: Changes(put_services=(s,), put_tasks=(t,)))
            print(service.id, flush=True)
            seen = replace(task, status=TaskStatus(state=TaskState.RUNNING))
            store.observe(lambda _, t=seen: Changes(put_tasks=(t,)))
            if n % 7 == 0:
                await store.put_secret(service.id, b"x")

    await asyncio.gather(*(write(lane) for lane in range(4)))


asyncio.run(main(sys.argv[1], sys.argv[2]))
