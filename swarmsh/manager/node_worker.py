"""One worker a node: brings it to its plan, one batch in flight at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.container import ensure_action
from swarmsh.core.fence import fence_peers
from swarmsh.core.node_plan import plan_node
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import NodeClient, Store
from swarmsh.manager.usecases.credentials import registry_auth
from swarmsh.model.actions import Action, Batch, EnsureTask, Peer, RemoveTask, StopTask
from swarmsh.model.objects import Task

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0


@dataclass(slots=True)
class NodeWorker:
    """`touch` after anything that may change the node's plan; `session_started` when it was connected anew."""

    node_id: str
    store: Store
    nodes: NodeClient
    epoch: int
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    # What the node was told in this session; its reports may lag behind.
    told: dict[str, str] = field(default_factory=dict)
    _told_peers: tuple[Peer, ...] | None = None
    _retry_s: float = 0.0

    def touch(self) -> None:
        self._due.set()

    def session_started(self) -> None:
        self.told.clear()
        self._told_peers = None
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._until_due()
            self._due.clear()
            try:
                await self.bring_to_plan()
                self._retry_s = 0.0
            except Exception as e:
                # Whatever it was, this node is tried again and the others go on.
                self._retry_s = min(LONGEST_RETRY_S, self._retry_s * 2 or FIRST_RETRY_S)
                log.log(
                    logging.WARNING if isinstance(e, SwarmshError) else logging.ERROR,
                    "apply_failed node=%s retry_s=%.0f error=%s",
                    *(self.node_id, self._retry_s, e),
                    exc_info=not isinstance(e, SwarmshError),
                )

    async def _until_due(self) -> None:
        """Until touched, or until what failed is to be tried again."""
        try:
            async with asyncio.timeout(self._retry_s or None):
                await self._due.wait()
        except TimeoutError:
            pass

    async def bring_to_plan(self) -> None:
        """Tell the node what it was not told yet. Raises what NodeClient.apply raises."""
        snapshot = self.store.snapshot
        node, report = snapshot.nodes.get(self.node_id), self.nodes.report(self.node_id)
        if node is None or report is None or snapshot.cluster is None:
            return
        tasks = tuple(snapshot.tasks_of_node(self.node_id))
        cluster_id = snapshot.cluster.id

        def ensure(task: Task, desired: str) -> EnsureTask:
            return ensure_action(task, node, cluster_id, desired)

        self._forget({t.id for t in tasks} | report.tasks.keys())
        actions = plan_node(tasks, report, self.told, snapshot.index, ensure)
        peers = fence_peers(snapshot, node)
        if peers == self._told_peers:
            peers = None
        if actions or peers is not None:
            await self.give(await self._with_credentials(actions), cluster_id, snapshot.index, peers)

    async def give(
        self, actions: Sequence[Action], cluster_id: str, index: int, peers: tuple[Peer, ...] | None = None
    ) -> None:
        """Give actions, and remember what the node was told."""
        batch = Batch(cluster_id=cluster_id, epoch=self.epoch, index=index, actions=tuple(actions), peers=peers)
        await self.nodes.apply(self.node_id, batch)
        self._told_peers = self._told_peers if peers is None else peers
        self.told.update((a.task_id, _goal(a)) for a in actions)

    async def _with_credentials(self, actions: Sequence[Action]) -> Sequence[Action]:
        """Registry credentials, fetched once a service; a service whose cannot be read goes without."""
        auths: dict[str, str] = {}
        for service_id in {a.service_id for a in actions if isinstance(a, EnsureTask)}:
            try:
                auths[service_id] = await registry_auth(self.store, service_id)
            except SwarmshError as e:
                log.error("credentials_unreadable service=%s error=%s", service_id, e)
        return [replace(a, auth=auths.get(a.service_id, "")) if isinstance(a, EnsureTask) else a for a in actions]

    def _forget(self, known: Iterable[str]) -> None:
        """Drop what was told of tasks that are neither wanted nor held any more."""
        for task_id in self.told.keys() - set(known):
            del self.told[task_id]


def _goal(action: Action) -> str:
    match action:
        case EnsureTask():
            return action.desired
        case StopTask():
            return "stop"
        case RemoveTask():
            return "remove"
