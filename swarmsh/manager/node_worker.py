"""One worker a node: brings it to its plan, one batch in flight at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarmsh.core.container import ensure_action
from swarmsh.core.node_plan import plan_node
from swarmsh.errors import SwarmshError
from swarmsh.manager.ports import NodeClient, Store
from swarmsh.manager.settings import Settings
from swarmsh.manager.usecases.credentials import registry_auth
from swarmsh.model.actions import Action, Batch, EnsureTask, RemoveTask, StopTask
from swarmsh.model.objects import Task

log = logging.getLogger(__name__)


@dataclass(slots=True)
class NodeWorker:
    """`touch` after anything that may change the node's plan; `session_started` when it was connected anew."""

    node_id: str
    store: Store
    nodes: NodeClient
    epoch: int
    settings: Settings
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    # What the node was told in this session; its reports may lag behind.
    _told: dict[str, str] = field(default_factory=dict)

    def touch(self) -> None:
        self._due.set()

    def session_started(self) -> None:
        self._told.clear()
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._bring_to_plan()
            except SwarmshError as e:
                # The session ends or is renewed because of it, and that touches this worker again.
                log.warning("apply_failed node=%s error=%s", self.node_id, e)

    async def _bring_to_plan(self) -> None:
        snapshot = self.store.snapshot
        node, report = snapshot.nodes.get(self.node_id), self.nodes.report(self.node_id)
        if node is None or report is None or snapshot.cluster is None:
            return
        tasks = tuple(snapshot.tasks_of_node(self.node_id))
        auths = {t.service_id: await registry_auth(self.store, t.service_id) for t in tasks if t.live}
        cluster_id = snapshot.cluster.id

        def ensure(task: Task, desired: str) -> EnsureTask:
            return ensure_action(task, node, cluster_id, desired, auths.get(task.service_id, ""))

        actions = plan_node(tasks, report, self._told, snapshot.index, ensure)
        await self._give(actions, cluster_id, snapshot.index)

    async def _give(self, actions: Sequence[Action], cluster_id: str, index: int) -> None:
        size = self.settings.batch_actions
        for start in range(0, len(actions), size):
            part = tuple(actions[start : start + size])
            batch = Batch(cluster_id=cluster_id, epoch=self.epoch, index=index, actions=part)
            await self.nodes.apply(self.node_id, batch)
            for action in part:
                self._told[action.task_id] = _goal(action)


def _goal(action: Action) -> str:
    match action:
        case EnsureTask():
            return action.desired
        case StopTask():
            return "stop"
        case RemoveTask():
            return "remove"
