"""`manager.ports.Store` in memory: everything happens at once, so there is nothing to join or to lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from swarmsh.core.allocate import with_releases
from swarmsh.core.revisions import LEAST_KEPT, respecified
from swarmsh.errors import Locked, NotFound, StoreReadOnly
from swarmsh.manager.ports import Clock, Decide, Store
from swarmsh.model.objects import Event, NodeStatus
from swarmsh.model.revisions import REVISIONS_KEPT, Revision
from swarmsh.model.snapshot import Changes, ClusterSnapshot, config_key, secret_key
from swarmsh.model.stacks import StackRevision, contents_prefix


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self.snapshot = ClusterSnapshot()
        self.kept_events: list[Event] = []
        self.kept_revisions: dict[str, list[Revision]] = {}
        self.kept_stacks: dict[str, list[StackRevision]] = {}
        self.secrets: dict[str, bytes] = {}
        self.epoch = 0
        self.full = False  # as a disk is
        self.locked = ""
        self.key_place = "file"
        self._clock = clock
        self._subscribers: list[asyncio.Queue[tuple[ClusterSnapshot, Changes]]] = []

    async def commit(self, decide: Decide) -> ClusterSnapshot:
        changes = decide(self.snapshot)
        if changes:
            if self.full:
                raise StoreReadOnly("the disk is full")
            if changes.put_contents:
                self._refuse_if_locked()
            index = self.snapshot.index + 1
            stamp = {"version": index, "updated_at": self._clock.now()}
            changes = replace(
                changes,
                cluster=changes.cluster and replace(changes.cluster, **stamp),
                put_services=tuple(replace(o, **stamp) for o in changes.put_services),
                put_tasks=tuple(replace(o, **stamp) for o in changes.put_tasks),
                put_nodes=tuple(replace(o, **stamp) for o in changes.put_nodes),
                put_networks=tuple(replace(o, **stamp) for o in changes.put_networks),
                put_secrets=tuple(replace(o, **stamp) for o in changes.put_secrets),
                put_configs=tuple(replace(o, **stamp) for o in changes.put_configs),
            )
            self._keep_revisions(changes)
            self._publish(changes, index)
            self._keep_stack_revisions(changes, index)
        await asyncio.sleep(0)
        return self.snapshot

    async def commit_orchestration(self, decide: Decide) -> ClusterSnapshot:
        return await self.commit(decide)

    def observe(self, decide: Decide) -> ClusterSnapshot:
        changes = decide(self.snapshot)
        if changes:
            self._publish(changes, self.snapshot.index)
        return self.snapshot

    def _publish(self, changes: Changes, index: int) -> None:
        self.secrets.update((c.key, c.data) for c in changes.put_contents)
        for key in (*map(secret_key, changes.delete_secrets), *map(config_key, changes.delete_configs)):
            self.secrets.pop(key, None)
        changes = replace(changes, put_contents=())
        changes = with_releases(self.snapshot, changes, self._clock.now())
        self.snapshot = self.snapshot.apply(changes, index)
        self.kept_events.extend(changes.events)
        for queue in self._subscribers:
            queue.put_nowait((self.snapshot, changes))

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
        low, high = since or 0.0, float("inf") if until is None else until
        return sorted((e for e in self.kept_events if low <= e.time <= high), key=lambda e: e.time)

    def _keep_revisions(self, changes: Changes) -> None:
        cluster = changes.cluster or self.snapshot.cluster
        for service, author in respecified(self.snapshot, changes):
            kept = self.kept_revisions.setdefault(service.id, [])
            kept.append(
                Revision(
                    service_id=service.id,
                    number=kept[-1].number + 1 if kept else 1,
                    version=service.version,
                    time=self._clock.now(),
                    author=author,
                    spec=service.spec,
                )
            )
            del kept[: -max(LEAST_KEPT, cluster.revisions_kept if cluster else REVISIONS_KEPT)]

    def _keep_stack_revisions(self, changes: Changes, index: int) -> None:
        cluster = changes.cluster or self.snapshot.cluster
        most = max(LEAST_KEPT, cluster.revisions_kept if cluster else REVISIONS_KEPT)
        for revision in changes.put_stack_revisions:
            kept = self.kept_stacks.setdefault(revision.stack, [])
            number = kept[-1].number + 1 if kept else 1
            kept.append(replace(revision, number=number, version=index, time=self._clock.now()))
            del kept[:-most]
        for stack in changes.delete_stacks:
            self.kept_stacks.pop(stack, None)
        for stack in (*changes.delete_stacks, *(r.stack for r in changes.put_stack_revisions)):
            needed = {key for r in self.kept_stacks.get(stack, ()) for key in r.contents.values()}
            for key in [k for k in self.secrets if k.startswith(contents_prefix(stack)) and k not in needed]:
                del self.secrets[key]

    async def stack_revisions(self, stack: str) -> Sequence[StackRevision]:
        return list(self.kept_stacks.get(stack, ()))

    async def newest_stack_revision(self, stack: str) -> int:
        return max((revision.number for revision in self.kept_stacks.get(stack, ())), default=0)

    async def revisions(self, service_id: str) -> Sequence[Revision]:
        return list(self.kept_revisions.get(service_id, ()))

    async def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def _refuse_if_locked(self) -> None:
        if self.locked:
            raise Locked(self.locked, hint="Unlock it")

    async def get_secret(self, key: str) -> bytes | None:
        if key in self.secrets:
            self._refuse_if_locked()
        return self.secrets.get(key)

    async def secret_data(self, secret_id: str) -> bytes:
        return await self._contents(secret_key(secret_id))

    async def config_data(self, config_id: str) -> bytes:
        return await self._contents(config_key(config_id))

    async def _contents(self, key: str) -> bytes:
        data = await self.get_secret(key)
        if data is None:
            raise NotFound(f"{key} not found")
        return data

    async def unlock(self, passphrase: str = "") -> None:
        self.locked = ""

    async def rotate_key(self, place: str = "", passphrase: str = "", *, forget: bool = False) -> None:
        if forget:
            self.secrets.clear()
            self.locked = ""
        self._refuse_if_locked()
        self.key_place = place or self.key_place

    async def put_secret(self, key: str, value: bytes | None) -> None:
        if self.full:
            raise StoreReadOnly("the disk is full")
        if value is None:
            self.secrets.pop(key, None)
        else:
            self.secrets[key] = value

    def secret_keys(self) -> Sequence[str]:
        return sorted(self.secrets)

    async def archive(self) -> Path:
        gone = self.snapshot
        nodes = tuple(replace(n, status=NodeStatus()) for n in gone.nodes.values())
        self.snapshot = ClusterSnapshot(index=gone.index, nodes=gone.nodes)
        self._publish(
            Changes(
                put_nodes=nodes,
                delete_services=tuple(gone.services),
                delete_tasks=tuple(gone.tasks),
                delete_networks=tuple(gone.networks),
                delete_secrets=tuple(gone.secrets),
                delete_configs=tuple(gone.configs),
                delete_releases=tuple(gone.releases),
            ),
            gone.index,
        )
        self.secrets.clear()
        self.kept_revisions.clear()
        self.kept_stacks.clear()
        return Path("archive")

    async def close(self) -> None:
        pass


async def under_way(store: Store, decide: Decide) -> asyncio.Task[ClusterSnapshot]:
    """Commit `decide`, and return when the decision was taken but its write is not acknowledged yet."""
    taken = asyncio.Event()

    def marked(snapshot: ClusterSnapshot) -> Changes:
        taken.set()
        return decide(snapshot)

    task = asyncio.create_task(store.commit(marked))
    await taken.wait()
    return task
