"""The manager at work: changes of the store make dirt, dirt makes passes, passes make batches for nodes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from swarmsh.core.scheduler import Failures
from swarmsh.errors import SwarmshError
from swarmsh.manager.delivery import Delivery
from swarmsh.manager.dirt import Dirt, dirt_of
from swarmsh.manager.key_keeper import Rotation
from swarmsh.manager.node_networks import ClusterNetworks
from swarmsh.manager.node_worker import NodeWorker
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.manager.ports import Clock, IdSource, NodeClient, Store
from swarmsh.manager.settings import Settings
from swarmsh.manager.usecases.networks import forget_lapsed
from swarmsh.manager.usecases.nodes import release_number
from swarmsh.manager.usecases.stacks import drop_leftovers
from swarmsh.manager.watch import NodeWatch
from swarmsh.model.actions import RemoveTask
from swarmsh.model.objects import Node
from swarmsh.model.snapshot import Changes, ClusterSnapshot

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Manager:
    """Runs until cancelled. One of it for each store."""

    store: Store
    nodes: NodeClient
    clock: Clock
    ids: IdSource
    epoch: int
    settings: Settings = field(default_factory=Settings)
    _orchestrator: Orchestrator = field(init=False)
    _watch: NodeWatch = field(init=False)
    _networks: ClusterNetworks = field(init=False)
    _workers: dict[str, tuple[NodeWorker, asyncio.Task[None]]] = field(init=False, default_factory=dict)
    _tellers: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _leaving: dict[str, asyncio.Event] = field(init=False, default_factory=dict)
    _left: dict[str, int] = field(init=False, default_factory=dict)  # nodes that left cleanly, at which index
    _told: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _less_used: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._orchestrator = Orchestrator(
            *(self.store, self.clock, self.ids, lambda node_id: self._watch.met(node_id)),
            locked=lambda: self.store.locked,
        )
        self._networks = ClusterNetworks(
            *(self.store, self.nodes, self.clock, self.epoch, self._network_told, self.settings.meet_s)
        )
        self._watch = NodeWatch(
            *(self.store, self.nodes, self.clock, self.settings),
            on_session=self._session_started,
            on_report=self._node_spoke,
            on_network=self._networks.checked,
            on_stall=self._orchestrator.woke,
            on_missing=self._contents_missing,
        )

    async def run(self) -> None:
        async with self.store.subscribe() as changes, asyncio.TaskGroup() as tasks:
            before = self.store.snapshot
            self._networks.begin(before)
            for node in before.nodes.values():
                self._keep(node, tasks)
            await self._watch.run(tasks)
            self._orchestrator.touch_all()
            tasks.create_task(self._orchestrator.run())
            tasks.create_task(self._networks.keeper.run())
            tasks.create_task(self._safety_net())
            tasks.create_task(self._give_numbers_back())
            tasks.create_task(self._drop_leftovers())
            async for after, change in changes:
                await self._spread(before, after, change, tasks)
                before = after

    async def _spread(
        self, before: ClusterSnapshot, after: ClusterSnapshot, change: Changes, tasks: asyncio.TaskGroup
    ) -> None:
        """Let everything know that this change may concern."""
        self._networks.follow(after, change)
        for node in change.put_nodes:
            known = before.nodes.get(node.id)
            if known is None or known.target != node.target:
                self._keep(node, tasks)
        for node_id in change.delete_nodes:
            tasks.create_task(self._leave(node_id))
        self._orchestrator.note_failures(before, change.put_tasks)
        dirt = dirt_of(before, change)
        self._orchestrator.touch(dirt)
        self._touch_nodes(dirt)
        if change.put_services or change.delete_services or change.put_tasks or change.delete_tasks:
            self._less_used.set()
        if change.put_nodes or change.delete_nodes:
            self._touch_waiting()  # a node that can be told no more holds no stop up

    def _touch_nodes(self, dirt: Dirt) -> None:
        for node_id in dirt.nodes:
            if node_id in self._workers:
                self._workers[node_id][0].touch()

    def _keep(self, node: Node, tasks: asyncio.TaskGroup) -> None:
        self.nodes.keep(node.id, node.spec.name, node.target)
        if node.id not in self._workers:
            networks = self._networks.keep(node.id)
            delivery = Delivery(node.id, self.store, self.store, self.nodes, self.clock, self.epoch)
            worker = NodeWorker(
                *(node.id, self.store, self.nodes, self._networks, self.epoch), self.settings.leave_ack_s, delivery
            )
            self._workers[node.id] = (worker, tasks.create_task(worker.run()))
            self._tellers[node.id] = tasks.create_task(networks.work.run(networks.tell))

    async def _leave(self, node_id: str) -> None:
        """Leave a removed node as it was found, if it answers: without our containers, free for others."""
        worker, running = self._workers.pop(node_id, (None, None))
        if worker is None or running is None:
            return
        running.cancel()
        self._tellers.pop(node_id).cancel()
        networks = self._networks.keep(node_id)
        cluster = self.store.snapshot.cluster
        reported = self._leaving[node_id] = asyncio.Event()
        told: set[str] = set()
        cleared = False
        try:
            async with asyncio.timeout(self.settings.leave_deadline_s):
                while cluster is not None and (held := self._held(node_id, worker)):
                    if held - told:
                        actions = [RemoveTask(task_id=i) for i in sorted(held - told)]
                        await worker.give(actions, cluster.id)
                        told |= held
                        continue  # it may have nothing left by now, and then it says nothing more
                    await reported.wait()
                    reported.clear()
                if self.nodes.report(node_id) is not None:
                    await networks.clear()
                    cleared = True
        except TimeoutError:
            log.warning("node_left_with_containers node=%s error=deadline", node_id)
        except SwarmshError as e:
            log.warning("node_left_with_containers node=%s error=%s", node_id, e)
        finally:
            del self._leaving[node_id]
            self._watch.forget(node_id)
            self._networks.forget(node_id)
            released = await self.nodes.drop(node_id, release=True)
        if cleared and released:  # and its keys go with it
            self._left[node_id] = self.store.snapshot.index
            self._told.set()

    async def _give_numbers_back(self) -> None:
        """Let numbers of nodes that left be given again once no other node knows them as theirs any more.

        One that is away keeps them: it would take the next owner's packets for those of the one that left. A
        manager that starts anew does not know who left: then it takes as long as for one that never said so.
        """
        while True:
            await self._told.wait()
            self._told.clear()
            for node_id in [i for i, index in self._left.items() if self._networks.all_settled(index)]:
                try:
                    await release_number(self.store, self.clock, node_id)
                except SwarmshError as e:
                    log.error("node_number_kept node=%s error=%s", node_id, e)  # the next full pass tries again
                else:
                    del self._left[node_id]

    async def _drop_leftovers(self) -> None:
        """Remove what deploys of stacks were to prune, when nothing uses it any more."""
        while True:
            await self._less_used.wait()
            self._less_used.clear()
            try:
                await drop_leftovers(self.store, self.clock)
            except SwarmshError as e:
                log.error("leftovers_kept error=%s", e)  # the next change tries again

    def _held(self, node_id: str, worker: NodeWorker) -> set[str]:
        """Tasks that the node has, or was told of and has not spoken of yet; empty if it does not answer.

        What it was told to remove it has as long as it says so.
        """
        report = self.nodes.report(node_id)
        if report is None:
            return set()
        return report.tasks.keys() | {i for i, goal in worker.told.items() if goal != "remove"}

    def unlocked(self) -> None:
        """What is sealed in the store can be read from now on: tasks may wait for that."""
        self._orchestrator.touch(Dirt(pending=True))
        for worker, _ in self._workers.values():
            worker.touch()

    def rotate_keys(self) -> None:
        """Begin a new epoch of the keys of encrypted networks; no packet is lost by it."""
        self._networks.keeper.rotate()

    async def rotated(self, deadline_s: float) -> Rotation:
        """As `rotate_keys`; returns when all nodes have acknowledged the new epoch, or after that time."""
        return await self._networks.keeper.rotated(deadline_s)

    def failures(self) -> Failures:
        """What the scheduler remembers of nodes that failed services."""
        return self._orchestrator.failures()

    def _node_spoke(self, node_id: str) -> None:
        if node_id in self._leaving:
            self._leaving[node_id].set()

    def _contents_missing(self, node_id: str) -> None:
        if node_id in self._workers:
            self._workers[node_id][0].touch()

    def _network_told(self) -> None:
        """A node acknowledged networks: tasks on it may wait for that to start, and tasks anywhere to stop."""
        self._told.set()
        self._touch_waiting()

    def _touch_waiting(self) -> None:
        for worker, _ in self._workers.values():
            if worker.waits:
                worker.touch()

    def _session_started(self, node_id: str) -> None:
        self._networks.session_started(node_id)
        # What is known of its tasks counts from now on.
        snapshot = self.store.snapshot
        services = {t.service_id for t in snapshot.tasks_of_node(node_id) if t.service_id in snapshot.services}
        self._orchestrator.touch(Dirt(services=services))
        if node_id in self._workers:
            self._workers[node_id][0].session_started()

    async def _safety_net(self) -> None:
        """A slow full pass: everything is driven by events, and this finds nothing to do."""
        while True:
            await asyncio.sleep(self.settings.full_pass_s)
            try:
                await forget_lapsed(self.store, self.clock)
            except SwarmshError as e:
                log.error("full_pass_failed error=%s", e)  # a full disk, most likely: the next pass tries again
            self._orchestrator.touch_all()
            self._networks.touch_all()
            self._told.set()
            self._less_used.set()
            for worker, _ in self._workers.values():
                worker.touch()
