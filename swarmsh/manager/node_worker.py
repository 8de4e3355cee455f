"""One worker a node: brings it to its plan, one batch in flight at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from swarmsh.core.container import ensure_action
from swarmsh.core.fence import fence_peers
from swarmsh.core.netstate import joins_of
from swarmsh.core.node_plan import plan_node
from swarmsh.core.refresh import plan_refreshes
from swarmsh.core.secrets import needs_contents
from swarmsh.errors import SwarmshError
from swarmsh.manager.delivery import Delivery, Need
from swarmsh.manager.node_networks import networked
from swarmsh.manager.ports import NodeClient, Store
from swarmsh.manager.retrying import Retrying
from swarmsh.manager.usecases.credentials import has_credentials, registry_auth
from swarmsh.model.actions import Action, Batch, EnsureTask, Peer, RefreshSecrets, RemoveTask, StopTask
from swarmsh.model.objects import Node, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import TaskState

log = logging.getLogger(__name__)

CONTENTS_RETRY_S = 30.0  # where nobody says when secrets can be read or taken again


class Networks(Protocol):
    """What tasks wait for."""

    def holds(self, task: Task) -> bool:
        """Whether the task's node has acknowledged the networks that the task needs."""

    def all_have(self, index: int) -> bool:
        """Whether every node that can be told now has acknowledged all up to this version index."""

    def meets_within_s(self) -> float:
        """How long `all_have` waits at most for nodes that this process has yet to meet."""


@dataclass(slots=True)
class NodeWorker:
    """`touch` after anything that may change the node's plan; `session_started` when it was connected anew."""

    node_id: str
    store: Store
    nodes: NodeClient
    networks: Networks
    epoch: int
    leave_ack_s: float  # no stop waits longer than this for nodes to acknowledge that they have left the task
    delivery: Delivery | None = None  # without it tasks are given as if none had secrets or configs
    work: Retrying = field(init=False)
    # What the node was told in this session; its reports may lag behind.
    told: dict[str, str] = field(default_factory=dict)
    refreshed: dict[str, int] = field(default_factory=dict)  # in this session: task -> number of its refresh
    _told_peers: tuple[Peer, ...] | None = None
    waits: bool = False  # something is held back until networks are acknowledged, or contents can be read
    _waited_until: dict[str, float] = field(default_factory=dict)  # task that is to stop -> the loop's time

    def __post_init__(self) -> None:
        self.work = Retrying(self.node_id, "apply_failed")

    def touch(self) -> None:
        self.work.touch()

    def session_started(self) -> None:
        self.told.clear()
        self.refreshed.clear()
        self._told_peers = None
        if self.delivery is not None:
            self.delivery.session_started()
        self.work.touch()

    async def run(self) -> None:
        await self.work.run(self.bring_to_plan)

    async def bring_to_plan(self) -> None:
        """Tell the node what it was not told yet. Raises what NodeClient.apply raises."""
        snapshot = self.store.snapshot
        node, report = snapshot.nodes.get(self.node_id), self.nodes.report(self.node_id)
        if node is None or report is None or snapshot.cluster is None:
            return
        tasks = {t.id: t for t in snapshot.tasks_of_node(self.node_id)}
        cluster_id = snapshot.cluster.id

        def ensure(task: Task, desired: str) -> EnsureTask:
            return ensure_action(task, node, cluster_id, desired, joins=joins_of(snapshot, task, node))

        self._forget(tasks.keys() | report.tasks.keys())
        planned = (
            *plan_refreshes(tasks.values(), report, self.refreshed),  # first: what starts now has the new ones
            *plan_node(tasks.values(), report, self.told, snapshot.index, ensure, snapshot.services),
        )
        actions = [action for action in planned if self._may_be_given(action, tasks)]
        self.waits = len(actions) < len(planned)
        peers = fence_peers(snapshot, node)
        if peers == self._told_peers:
            peers = None
        needs = self.delivery.needs(report, actions, tasks.values()) if self.delivery is not None else ()
        needy = {need.task.id for need in needs}
        first = [action for action in actions if action.task_id not in needy]
        if first or peers is not None:
            await self.give(await self._with_credentials(first), cluster_id, peers)
        if needs:
            await self._give_with_contents(node, needs, [a for a in actions if a.task_id in needy], cluster_id)

    async def _give_with_contents(
        self, node: Node, needs: Sequence[Need], actions: Sequence[Action], cluster_id: str
    ) -> None:
        """Contents first, then the tasks that have all of theirs."""
        assert self.delivery is not None
        outcome = await self.delivery.give(node, needs)
        self.delivery.note(outcome)
        given = [action for action in actions if action.task_id in outcome.given]
        if given:
            await self.give(await self._with_credentials(given), cluster_id)
        if outcome.waits:
            self.waits = True
            again = asyncio.get_running_loop().time() + CONTENTS_RETRY_S
            self.work.wake_at = min(again, self.work.wake_at or again)

    # --- networks first ---
    def _may_be_given(self, action: Action, tasks: dict[str, Task]) -> bool:
        """Whether what an action needs to be done elsewhere is done; if not, this worker is touched when it is."""
        match action:
            case EnsureTask():
                task = tasks[action.task_id]
                if self.store.locked and task.id not in self.told and self._needs_sealed(task):
                    self._say_locked(task.id)
                    return False
                return not networked(task) or self.networks.holds(task)
            case StopTask():
                return self._is_left(tasks[action.task_id])
            case RemoveTask() | RefreshSecrets():
                return True

    def _needs_sealed(self, task: Task) -> bool:
        """Whether the node cannot begin with it as long as the store is locked."""
        return needs_contents(task.spec) or has_credentials(self.store, task.service_id)

    def _say_locked(self, task_id: str) -> None:
        why = f"it waits for what is sealed, and {self.store.locked}"

        def decide(snapshot: ClusterSnapshot) -> Changes:
            task = snapshot.tasks.get(task_id)
            if task is None or task.status.err == why:
                return Changes()
            return Changes(put_tasks=(replace(task, status=replace(task.status, err=why)),))

        self.store.observe(decide)

    def _is_left(self, task: Task) -> bool:
        """Whether all nodes have ceased to send new connections to a task, or had time enough to."""
        backend = networked(task) and task.status.state is TaskState.RUNNING
        if not backend or self.networks.all_have(task.version):
            self._waited_until.pop(task.id, None)
            return True
        now = asyncio.get_running_loop().time()
        patience_s = max(self.leave_ack_s, self.networks.meets_within_s())
        until = self._waited_until.setdefault(task.id, now + patience_s)
        if until <= now:
            log.warning(
                "stop_not_acknowledged node=%s task=%s waited_s=%.1f",
                *(self.node_id, task.id, now - until + patience_s),
            )
            del self._waited_until[task.id]
            return True
        self.work.wake_at = min(until, self.work.wake_at or until)
        return False

    async def give(
        self, actions: Sequence[Action], cluster_id: str, peers: tuple[Peer, ...] | None = None
    ) -> None:
        """Give actions, and remember what the node was told."""
        # The newest index: changes of networks are given meanwhile, and a lower one than theirs would be refused.
        index = self.store.snapshot.index
        batch = Batch(cluster_id=cluster_id, epoch=self.epoch, index=index, actions=tuple(actions), peers=peers)
        await self.nodes.apply(self.node_id, batch)
        self._told_peers = self._told_peers if peers is None else peers
        self.told.update((a.task_id, _goal(a)) for a in actions if not isinstance(a, RefreshSecrets))
        self.refreshed.update((a.task_id, a.number) for a in actions if isinstance(a, RefreshSecrets))

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
        """Drop what is remembered of tasks that are neither wanted nor held any more."""
        known = set(known)
        for remembered in (self.told, self.refreshed, self._waited_until):
            for task_id in remembered.keys() - known:
                del remembered[task_id]
        if self.delivery is not None:
            self.delivery.forget(known)


def _goal(action: EnsureTask | StopTask | RemoveTask) -> str:
    match action:
        case EnsureTask():
            return action.desired
        case StopTask():
            return "stop"
        case RemoveTask():
            return "remove"
