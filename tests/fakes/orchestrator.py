"""A manager that always succeeds: every task of every service is running at once, on the nodes in turn.

Tasks of jobs are complete the next time it looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from swarmsh.core.allocate import Allocator
from swarmsh.core.difference import outdated
from swarmsh.core.orchestrate import plan_service
from swarmsh.core.tasks import new_task
from swarmsh.errors import Exhausted
from swarmsh.model.objects import Service, Task, TaskStatus, UpdateStatus
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import TaskState


class TinyOrchestrator:
    """`settle` does all there is to do; `running()` does so after every change of the store."""

    def __init__(self, store, ids, clock) -> None:
        self.store, self.ids, self.clock = store, ids, clock
        self.endless: set[str] = set()  # images of jobs that run until they are told to stop

    @asynccontextmanager
    async def running(self):
        async def run():
            async with self.store.subscribe() as changes:
                await self.settle()
                async for _ in changes:
                    await self.settle()

        task = asyncio.create_task(run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settle(self) -> None:
        await self.store.commit_orchestration(self._plan)
        self.store.observe(self._seen)

    def _plan(self, snapshot: ClusterSnapshot) -> Changes:
        put, gone, services = [], [], []
        now = self.clock.now()
        for task in snapshot.tasks.values():
            if task.desired is TaskState.REMOVE:
                gone.append(task.id)
        for service in snapshot.services.values():
            if service.spec.mode.is_job:
                put += self._plan_job(snapshot, service, now, services)
                continue
            live = {t.slot or t.node_id: t for t in snapshot.tasks_of_service(service.id) if t.live}
            old = {place: t for place, t in live.items() if outdated(t, service)}
            put += [replace(t, desired=TaskState.SHUTDOWN) for t in old.values()]
            wanted = self._places(snapshot, service)
            put += [
                replace(t, desired=TaskState.REMOVE) for p, t in live.items() if p not in wanted and p not in old
            ]
            for place in wanted:
                if place not in live or place in old:
                    where = {"slot": place} if isinstance(place, int) else {"node_id": place}
                    put.append(new_task(service, self.ids.new_id(), now, **where))
            if old:
                status = UpdateStatus(
                    state="completed", started_at=now, completed_at=now, message="update completed"
                )
                services.append(replace(service, update_status=status))
        return Changes(put_tasks=tuple(put), delete_tasks=tuple(gone), put_services=tuple(services))

    def _plan_job(self, snapshot, service: Service, now: float, services: list[Service]) -> Iterable[Task]:
        """What the real core decides; it waits for no schedule."""
        tasks = snapshot.tasks_of_service(service.id)
        ids = iter(self.ids.new_id, None)
        plan = plan_service(service, tasks, snapshot.nodes, ids, now)
        if plan.put_service is not None:
            services.append(plan.put_service)
        return plan.put_tasks

    def _places(self, snapshot: ClusterSnapshot, service: Service) -> list[int | str]:
        mode = service.spec.mode.replicated
        if mode is None:
            return list(snapshot.nodes)
        return list(range(1, (1 if mode.replicas is None else mode.replicas) + 1))

    def _seen(self, snapshot: ClusterSnapshot) -> Changes:
        put = []
        nodes = sorted(snapshot.nodes.values(), key=lambda n: n.number)
        allocator = Allocator(snapshot, self.clock.now())
        for task in snapshot.tasks.values():
            status = task.status
            if task.live and status.state < TaskState.RUNNING and nodes:
                node_id = task.node_id or nodes[(task.slot - 1) % len(nodes)].id
                running = TaskStatus(
                    state=TaskState.RUNNING,
                    since=self.clock.now(),
                    message="started",
                    container_id=f"c{task.id}",
                    pid=42,
                )
                try:
                    placed = allocator.task(task, snapshot.nodes[node_id])
                except Exhausted:
                    continue  # it waits, as it would for a real one
                put.append(replace(placed, node_id=node_id, status=running))
            elif (
                task.live and task.job_iteration is not None and task.spec.container_spec.image not in self.endless
            ):
                done = replace(
                    status, state=TaskState.COMPLETE, message="finished", exit_code=0, since=self.clock.now()
                )
                put.append(replace(task, status=done))
            elif task.desired is TaskState.SHUTDOWN and not status.state.terminal:
                ended = replace(status, state=TaskState.SHUTDOWN, message="shutdown", exit_code=0)
                put.append(replace(task, status=ended))
        return Changes(put_tasks=tuple(put))
