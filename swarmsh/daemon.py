"""Wiring: the one module that names concrete classes, and the life of the manager's process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from msgspec.structs import replace

from swarmsh import core_dumps
from swarmsh.adapters.inventory import Inventory, describe_changes, load_inventory, regrouped, with_stored_pins
from swarmsh.adapters.nodes.engine import NodeEngines
from swarmsh.adapters.nodes.payload import load_helper, stub_command
from swarmsh.adapters.nodes.sessions import NodeSessions, SessionLimits
from swarmsh.adapters.ssh import SshDialer
from swarmsh.adapters.store import SqliteStore
from swarmsh.adapters.system import RandomIds, SystemClock
from swarmsh.api.app import build_app, serve
from swarmsh.api.context import Deps
from swarmsh.errors import InventoryError, StoreReadOnly
from swarmsh.manager.loop import Manager
from swarmsh.manager.settings import Settings
from swarmsh.manager.usecases.cluster import init_cluster
from swarmsh.manager.usecases.credentials import forget_orphans
from swarmsh.manager.usecases.nodes import add_node, retarget_node, update_node
from swarmsh.model.specs import NodeSpec

log = logging.getLogger(__name__)


def run(state_dir: Path, socket: Path, inventory: Path | None = None) -> None:
    """Run a manager in the foreground until SIGTERM or SIGINT; prints the socket's address when it is ready.

    A new state begins with a new cluster; one that was left stays without. With an inventory, hosts that are not
    in the cluster yet are added, and of known ones the way to reach them and their groups are taken over; none is
    removed. Raises InventoryError, and what opening the store raises.
    """
    core_dumps.forbid()  # secrets pass through our memory: none of it goes to a disk
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("asyncssh", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    hosts = load_inventory(inventory) if inventory is not None else None
    if hosts is not None:
        _require_pins(hosts)
    asyncio.run(_run(state_dir, socket, hosts))


async def _run(state_dir: Path, socket: Path, hosts: Inventory | None) -> None:
    clock, ids = SystemClock(), RandomIds()
    store = await SqliteStore.open(state_dir, clock)
    try:
        epoch = await store.next_epoch()
        settings = Settings()
        await _begin(hosts, store, ids, clock)

        def cluster_id() -> str:
            cluster = store.snapshot.cluster
            return cluster.id if cluster is not None else ""

        dialer = SshDialer()
        nodes = NodeSessions(
            dialer,
            load_helper(),
            stub_command,
            cluster_id=cluster_id,
            epoch=lambda: epoch,
            index=lambda: store.snapshot.index,
            on_index_ahead=store.raise_index,
            on_epoch_ahead=store.forbid_writes,
            clock=clock,
            socket_dir=state_dir / "engines",
            limits=SessionLimits(
                lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s, many_nodes=settings.many_nodes
            ),
        )
        engines = NodeEngines(nodes)
        manager = Manager(store, nodes, clock, ids, epoch, settings)
        deps = Deps(
            store=store,
            ids=ids,
            clock=clock,
            nodes=nodes,
            streams=engines,
            volumes=engines,
            rotate_keys=manager.rotated,
            failures=manager.failures,
            on_unlocked=manager.unlocked,
            state_dir=state_dir,
            socket_path=socket,
            pid=os.getpid(),
            started_at=clock.now(),
        )
        api = await serve(build_app(deps), socket)
        works = (asyncio.create_task(store.failed()), asyncio.create_task(manager.run()))
        try:
            # What was imported and built stays for good: collections need not walk it (33 ms pauses otherwise).
            gc.freeze()
            print(f"unix://{socket}", flush=True)
            log.info("manager_ready socket=%s state=%s epoch=%d", socket, state_dir, epoch)
            await _until_told_to_stop(*works)
            log.info("manager_stopped")
        finally:
            await api.cleanup()
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            await engines.close()
            await nodes.close()
    finally:
        await store.close()


async def _until_told_to_stop(*works: asyncio.Task[None]) -> None:
    """Wait for SIGTERM or SIGINT; if one of the works ends before, that is a bug, and its error is raised; that of
    the first, which is nearest to the cause, if several do."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({*works, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for work in works:
        if work.done():
            work.result()


def _require_pins(hosts: Inventory) -> None:
    """A manager in the foreground cannot ask: every host must come with its key."""
    for host in hosts.hosts:
        if not host.target.host_keys:
            raise InventoryError(
                f"host {host.name} has no pinned host key",
                hint=f"Add swarmsh_host_key to {host.name}, or let `swarmsh up -i INVENTORY` ask you",
                host=host.name,
            )


async def _begin(hosts: Inventory | None, store: SqliteStore, ids: RandomIds, clock: SystemClock) -> None:
    """Bring the state in order before anybody works with it: cluster, credentials, hosts."""
    if store.snapshot.index == 0:
        await init_cluster(store, ids, clock)
    if store.snapshot.cluster is None:
        # Whoever left it meant it: only a person begins another one.
        log.warning("no_cluster the cluster was left; `swarmsh up` or `docker swarm init` begins a new one")
        return
    if store.locked:
        log.warning("secrets_locked %s; see `swarmsh manager unlock`", store.locked)
    try:
        if forgotten := await forget_orphans(store):
            log.info("credentials_forgotten orphans=%d", forgotten)
    except StoreReadOnly as e:
        log.warning("credentials_not_forgotten error=%s", e)
    if hosts is not None:
        await _take_over(hosts, store, ids, clock)


async def _take_over(hosts: Inventory, store: SqliteStore, ids: RandomIds, clock: SystemClock) -> None:
    known = {n.spec.name: n for n in store.snapshot.nodes.values()}
    for host in hosts.hosts:
        node = known.get(host.name)
        if node is None:
            spec = NodeSpec(name=host.name, labels=host.labels, role=host.role, availability=host.availability)
            await add_node(store, ids, clock, spec, host.target)
            continue
        target = with_stored_pins(host.target, node.target)
        if changes := describe_changes(node.target, target):
            node = await retarget_node(store, clock, node.id, target)
            log.info("node_retargeted node=%s changes=%r", host.name, changes)
        labels = regrouped(node.spec.labels, host.labels)
        if labels != node.spec.labels:
            await update_node(store, clock, node.id, node.version, replace(node.spec, labels=labels))
            log.info("node_regrouped node=%s groups=%s", host.name, ",".join(host.groups))
