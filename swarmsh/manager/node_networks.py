"""Telling nodes their network state: the whole of it when a session begins, then what changed, one after another.

It runs beside what nodes are told of tasks. Where one waits for the other, tasks wait: a container starts when its
networks are on its node, and what is to stop is first left by everybody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from swarmsh.core.netstate import Key, NetStates
from swarmsh.core.underlay import WAY_OUT, lack_of_underlay
from swarmsh.errors import NetworkFailed, NodeRequestFailed
from swarmsh.manager.key_keeper import KeyKeeper
from swarmsh.manager.ports import Clock, NetworkChecked, NodeClient, Store
from swarmsh.manager.retrying import Retrying
from swarmsh.model.netstate import EspKeys, NetworkChange, Section
from swarmsh.model.objects import Event, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.states import NodeState

log = logging.getLogger(__name__)

_SINGLE = ("node", "egress")  # sections of one entry
_MAY_SEND = (NodeState.READY, NodeState.UNREACHABLE)


def networked(task: Task) -> bool:
    """Whether a task is on a network of ours, and so perhaps a backend of its service."""
    return bool(task.addresses or task.egress_address)


@dataclass(slots=True)
class NodeNetworks:
    """Tells one node. `on_told` is called whenever the node acknowledged something."""

    node_id: str
    states: NetStates
    store: Store
    nodes: NodeClient
    clock: Clock
    epoch: int
    keeper: KeyKeeper
    on_told: Callable[[], None]
    work: Retrying = field(init=False)
    _told: dict[Key, Section] = field(default_factory=dict)  # and acknowledged, in this session
    _dirty: set[Key] = field(default_factory=set)
    _begun: bool = False  # the node has acknowledged a whole state in this session
    _in_flight: bool = False
    _session: int = 0
    _has_index: int = 0  # of the newest snapshot whose whole state it acknowledged
    _keys: EspKeys | None = None  # acknowledged, in this session
    _troubles: dict[str, str] = field(default_factory=dict)  # shown, and not yet over; by what fails

    def __post_init__(self) -> None:
        self.work = Retrying(self.node_id, "network_not_told")

    def session_started(self) -> None:
        """Begin with the whole state again."""
        self._begin_anew()
        self._dirty, self._has_index, self._keys = set(), 0, None
        self._session += 1
        self.work.touch()

    def _begin_anew(self) -> None:
        """The next message has the whole state."""
        self._told, self._begun = {}, False

    def changed(self, keys: Iterable[Key]) -> None:
        """What is wanted under these keys may have changed."""
        self._dirty.update(keys)
        self.work.touch()

    @property
    def behind(self) -> bool:
        """Whether there is anything to tell the node, or on its way."""
        return not self._begun or bool(self._dirty) or self._in_flight

    def has(self, index: int) -> bool:
        """Whether the node acknowledged all that there was to say up to this version index."""
        return self._has_index >= index or not self.behind

    def settled(self, index: int) -> bool:
        """As `has`, and whether it acknowledged the keys that it is to have now."""
        return self.has(index) and self._keys == self._wanted_keys()

    def _wanted_keys(self) -> EspKeys | None:
        ring = self.keeper.ring
        # Nothing, once a session: it may have been away, or another manager's, when its last encrypted network
        # went.
        return ring.wanted(self.node_id) or ring.nothing(self.node_id)

    def holds(self, task: Task) -> bool:
        """Whether the node has what this task of it needs, as far as it can have it."""
        key: Key = ("tasks", task.id)
        known = self.states.snapshot.index >= task.version
        return known and self._begun and self._told.get(key) == self.states.want(self.node_id, key)

    async def tell(self) -> None:
        """Tell the node what it does not know yet. Raises what NodeClient.network and .secure raise.

        But for NetworkFailed of `network`: the node tries that by itself.
        """
        if self.states.snapshot.cluster is None or not self.nodes.connected(self.node_id):
            return  # a session's start is heard of
        if not self._is_as_known():
            return  # rebooted, which the ring hears with the session's start: these keys would be used anew
        keys = self._wanted_keys()
        refused: NodeRequestFailed | None = None
        if keys is not None and keys.closed:
            # Before a network that needs them. Without them it stays closed, and other networks need not wait.
            try:
                await self._give_keys(keys)
            except NodeRequestFailed as e:
                self._failed("keys", e.message)
                refused = e
        await self._tell_state()
        # As they were before: what ended meanwhile the node has not been told yet.
        if keys is not None and not keys.closed:
            await self._give_keys(keys)  # it has no encrypted network any more
        if refused is not None:
            raise refused

    def _is_as_known(self) -> bool:
        """Whether the node's kernel is the one that the ring's keys are for, where that can be told."""
        report = self.nodes.report(self.node_id)
        if report is None or not report.description.boot_id:
            return True
        return self.keeper.ring.boot(self.node_id) in ("", report.description.boot_id)

    async def _give_keys(self, keys: EspKeys) -> None:
        if keys == self._keys:
            return
        session, self._keys = self._session, None  # what it has if no answer comes is not known
        lost = await self.nodes.secure(self.node_id, keys)
        if session == self._session:
            self._keys = keys
            self._works("keys")
            self.keeper.acknowledged(self.node_id, keys, lost)
            self.on_told()

    async def _tell_state(self) -> None:
        snapshot = self.states.snapshot
        if snapshot.cluster is None:
            return
        self._show_lack_of_address(snapshot)
        dirty, self._dirty = self._dirty, set()
        keys = dirty if self._begun else self.states.keys(self.node_id)
        wanted = {key: self.states.want(self.node_id, key) for key in keys}
        put = {key: entry for key, entry in wanted.items() if entry is not None and self._told.get(key) != entry}
        drop = [key for key, entry in wanted.items() if entry is None and key in self._told]
        if put or drop or not self._begun:
            session, self._in_flight = self._session, True
            try:
                await self._give(self._change(snapshot.cluster.id, put, drop))
            except BaseException as e:
                if session == self._session:
                    self._dirty |= dirty
                    if not (isinstance(e, NodeRequestFailed) and e.fields.get("code") == "bad_request"):
                        self._begin_anew()  # it may hold that or not: only a whole state says what it holds then
                raise
            finally:
                self._in_flight = False
            if session != self._session:
                return  # that was another session's; this one begins from nothing
            self._told.update(put)
            for key in drop:
                del self._told[key]
            self._begun = True
        self._has_index = snapshot.index
        self.on_told()

    async def clear(self) -> None:
        """Let the node, which leaves, hold nothing any more. Raises what NodeClient.network raises."""
        cluster = self.store.snapshot.cluster
        if cluster is not None:
            self._begin_anew()
            await self.nodes.network(self.node_id, self._change(cluster.id, {}, []))

    def _change(self, cluster_id: str, put: dict[Key, Section], drop: list[Key]) -> NetworkChange:
        sections: dict[str, Any] = {}
        # Sorted, so that the same is always said the same way.
        for (section, _), entry in sorted(put.items(), key=lambda item: str(item[0])):
            if section in _SINGLE:
                sections[section] = entry
            else:
                sections.setdefault(section, []).append(entry)
        dropped: dict[str, list[Any]] = {}
        for section, key in sorted(drop, key=str):
            if section not in _SINGLE:  # they stay where nothing needs them
                dropped.setdefault(section, []).append(key)
        return NetworkChange(
            cluster_id=cluster_id,
            epoch=self.epoch,
            # The newest, for batches of tasks are given meanwhile: a lower one than theirs would be refused.
            index=self.store.snapshot.index,
            fresh=not self._begun,
            put=sections,
            drop=dropped,
        )

    async def _give(self, change: NetworkChange) -> None:
        try:
            drift = await self.nodes.network(self.node_id, change)
        except NetworkFailed as e:
            self._failed("state", e.message)  # it holds the state, tries by itself, and says when it has succeeded
        except NodeRequestFailed as e:
            self._failed("state", e.message)
            raise
        else:
            if drift:
                log.info("network_drift node=%s drift=%s", self.node_id, "; ".join(drift))
            self._works("state")

    # --- what is shown to people ---
    def checked(self, event: NetworkChecked) -> None:
        """Take over what the node's own check said."""
        self.keeper.lost(self.node_id, event.lost)
        if event.drift:
            log.warning("network_drift node=%s drift=%s", self.node_id, "; ".join(event.drift))
            self._show("network_drift", {"drift": "; ".join(event.drift)})
        if event.ok:
            self._works("state")
        else:
            self._failed("state", event.message)

    def _show_lack_of_address(self, snapshot: ClusterSnapshot) -> None:
        node = snapshot.nodes.get(self.node_id)
        address = self.states.address(self.node_id)
        if node is None or (address and not (len(snapshot.nodes) > 1 and address.startswith("127."))):
            self._works("address")
            return
        tasks = snapshot.tasks_of_node(self.node_id)
        if any(networked(task) and task.placed and not task.status.state.terminal for task in tasks):
            why = lack_of_underlay(node, snapshot.nodes.values()) or f"{address} leads other nodes to themselves"
            self._failed("address", f"node {node.spec.name} can have no networks: {why}; {WAY_OUT}")

    def _failed(self, what: str, message: str) -> None:
        """The same trouble is told once."""
        if message != self._troubles.get(what):
            self._troubles[what] = message
            log.warning("network_failed node=%s error=%s", self.node_id, message)
            self._show("network_failed", {"message": message})

    def _works(self, what: str) -> None:
        if self._troubles.pop(what, None) is not None and not self._troubles:
            log.info("network_works node=%s", self.node_id)
            self._show("network_works", {})

    def _show(self, action: str, attributes: dict[str, str]) -> None:
        def decide(snapshot: ClusterSnapshot) -> Changes:
            node = snapshot.nodes.get(self.node_id)
            if node is None:
                return Changes()
            named = {"name": node.hostname, **attributes}
            event = Event(time=self.clock.now(), type="node", action=action, id=node.id, attributes=named)
            return Changes(events=(event,))

        self.store.observe(decide)


@dataclass(slots=True)
class ClusterNetworks:
    """Tells all nodes. `on_told` is called whenever a node acknowledged something."""

    store: Store
    nodes: NodeClient
    clock: Clock
    epoch: int
    on_told: Callable[[], None]
    meet_s: float = 10.0  # so long nodes that were there before this process are waited for
    states: NetStates = field(default_factory=NetStates)
    keeper: KeyKeeper = field(init=False)
    _nodes: dict[str, NodeNetworks] = field(default_factory=dict)
    _unmet: set[str] = field(default_factory=set)  # they may still send as they were told by a former process
    _meet_until: float = 0.0  # on the monotonic clock

    def __post_init__(self) -> None:
        self.keeper = KeyKeeper(self.store, self.states, self.clock, self._touch)

    def _touch(self, node_id: str) -> None:
        if node_id in self._nodes:
            self._nodes[node_id].work.touch()

    def begin(self, snapshot: ClusterSnapshot) -> None:
        """Work out everything once; afterwards `follow` is called with each change of the store, in order."""
        self._unmet = {n.id for n in snapshot.nodes.values() if n.status.state in _MAY_SEND}
        self._meet_until = self.clock.monotonic() + self.meet_s
        everything = Changes(
            put_nodes=tuple(snapshot.nodes.values()),
            put_services=tuple(snapshot.services.values()),
            put_tasks=tuple(snapshot.tasks.values()),
        )
        self.follow(snapshot, everything)

    def follow(self, after: ClusterSnapshot, changes: Changes) -> None:
        """Take over a change of the store. Should a bug prevent that, all is made anew and told anew."""
        try:
            dirty = self.states.update(after, changes)
        except Exception:
            log.exception("network_states_lost index=%d", after.index)
            self.states.restart(after)
            dirty = {}
            self.keeper.follow()
            for node in self._nodes.values():
                node.session_started()
        if any(section in ("networks", "peers", "node") for keys in dirty.values() for section, _ in keys):
            self.keeper.follow()
        for node_id, keys in dirty.items():
            if node_id in self._nodes:
                self._nodes[node_id].changed(keys)

    def keep(self, node_id: str) -> NodeNetworks:
        """The one that tells this node; made at the first call."""
        if node_id not in self._nodes:
            self._nodes[node_id] = NodeNetworks(
                *(node_id, self.states, self.store, self.nodes, self.clock, self.epoch, self.keeper), self.on_told
            )
        return self._nodes[node_id]

    def forget(self, node_id: str) -> None:
        self._nodes.pop(node_id, None)
        self._unmet.discard(node_id)

    def session_started(self, node_id: str) -> None:
        self._unmet.discard(node_id)
        self.keeper.session_started(node_id)
        if node_id in self._nodes:
            self._nodes[node_id].session_started()

    def checked(self, event: NetworkChecked) -> None:
        if event.node_id in self._nodes:
            self._nodes[event.node_id].checked(event)

    def touch_all(self) -> None:
        for node in self._nodes.values():
            node.work.touch()

    # --- what tasks wait for ---
    def holds(self, task: Task) -> bool:
        """Whether the task's node has acknowledged the networks that the task needs."""
        node = self._nodes.get(task.node_id)
        return node is None or node.holds(task)

    def all_have(self, index: int) -> bool:
        """Whether every node that can be told has acknowledged all up to this version index.

        Also one that was in touch until a moment ago; and, for a while, each that this process has yet to meet.
        """
        if self.states.snapshot.index < index or self.meets_within_s() > 0:
            return False
        return all(node.has(index) for node_id, node in self._nodes.items() if self._can_be_told(node_id))

    def meets_within_s(self) -> float:
        """How long nodes are still waited for that were not met yet; 0 if there is none."""
        nodes = self.states.snapshot.nodes
        missing = [i for i in self._unmet if i in nodes and nodes[i].status.state in _MAY_SEND]
        return max(0.0, self._meet_until - self.clock.monotonic()) if missing else 0.0

    def all_settled(self, index: int) -> bool:
        """Whether every node, out of touch or not, acknowledged all up to this index, and its keys of now."""
        if self.states.snapshot.index < index:
            return False
        return all(i in self._nodes and self._nodes[i].settled(index) for i in self.states.snapshot.nodes)

    def _can_be_told(self, node_id: str) -> bool:
        node = self.states.snapshot.nodes.get(node_id)
        if node is None or node_id in self._unmet or node.status.silent:
            return False
        return self.nodes.connected(node_id) or node.status.state is NodeState.READY
