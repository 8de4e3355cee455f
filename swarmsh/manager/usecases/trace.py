"""Following a connection from a task or node to a task, service or node: who looks, who tries, what was seen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from swarmsh.core.trace import Ends, Hop, Verdict, hops_of, judge
from swarmsh.core.underlay import underlay
from swarmsh.errors import InvalidSpec, NotFound, SwarmshError
from swarmsh.manager.ports import NodeClient
from swarmsh.manager.usecases.lookup import find_node, find_service, find_task, require_cluster
from swarmsh.model.objects import Node, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.states import TaskState
from swarmsh.model.trace import Protocol, Sighting, TraceSend, TraceWatch

# To connect from: below those that kernels give by themselves, and among those to which nodes move clients of
# published ports (remote_helpers/net/rules.py): what is there already keeps its port, and is known everywhere.
FIRST_PORT, PORTS = 25000, 4000
MARGIN_S = 30.0  # nodes look so much longer than the connection is tried
MOST_TASKS = 30  # of a node, in whose containers is looked


@dataclass(frozen=True, slots=True)
class Trace:
    """`to`: address and port that were tried."""

    to: str
    hops: tuple[Hop, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Target:
    address: str
    port: int
    tasks: tuple[Task, ...]
    nodes: tuple[str, ...] = ()  # besides those of the tasks
    encrypted: bool = False


async def trace(
    snapshot: ClusterSnapshot,
    nodes: NodeClient,
    source: str,
    target: str,
    *,
    port: int = 0,
    protocol: Protocol = "tcp",
    timeout_s: float = 3.0,
) -> Trace:
    """Try one connection, and follow its packets on the nodes that it may concern. Nothing is changed anywhere.

    `source` and `target` are a task, a service (any of its tasks; its VIP or published port) or a node. Without
    `port` it is the service's first of this protocol. Raises NotFound, InvalidSpec, and as NodeClient.check.
    """
    require_cluster(snapshot)
    task, node = _source(snapshot, source)
    to = _target(snapshot, target, task, node, port, protocol)
    token, own_port = secrets.token_hex(8), FIRST_PORT + secrets.randbelow(PORTS)
    looking = dict.fromkeys((node.id, *to.nodes, *(t.node_id for t in to.tasks)))
    unknown: list[str] = []

    async def watch(node_id: str) -> None:
        wanted = [*([task] if task is not None else []), *to.tasks]
        inside = dict.fromkeys(t.id for t in wanted if t.node_id == node_id)
        message = TraceWatch(
            token=token, seconds=timeout_s + MARGIN_S, tasks=tuple(inside)[:MOST_TASKS], protocol=protocol,
            port=own_port,
        )  # fmt: skip
        await nodes.trace_watch(node_id, message)

    watched = await asyncio.gather(*map(watch, looking), return_exceptions=True)
    for node_id, failed in zip(list(looking), watched, strict=True):
        if failed is None:
            continue
        if node_id == node.id or not isinstance(failed, SwarmshError):
            raise failed
        unknown.append(_name(snapshot, node_id))
        del looking[node_id]
    send = TraceSend(
        task=task.id if task is not None else "", to=to.address, to_port=to.port, protocol=protocol, port=own_port,
        timeout_s=timeout_s,
    )  # fmt: skip
    traced = await nodes.trace_send(node.id, send)
    told: list[Sequence[Sighting]] = await asyncio.gather(*(nodes.trace_seen(n, token) for n in looking))
    ends = Ends(
        from_node=node.id,
        from_task=_task_name(task) if task is not None else "",
        nodes={n.id: n.spec.name for n in snapshot.nodes.values()},
        tasks={t.id: _task_name(t) for t in (*to.tasks, *([task] if task is not None else []))},
        to_tasks=frozenset(t.id for t in to.tasks),
        encrypted=to.encrypted,
        unknown=tuple(unknown),
    )
    hops = hops_of(dict(zip(looking, told, strict=True)), ends)
    return Trace(f"{to.address}:{to.port}", tuple(hops), judge(traced, hops, ends))


def _name(snapshot: ClusterSnapshot, node_id: str) -> str:
    return snapshot.nodes[node_id].spec.name if node_id in snapshot.nodes else node_id


def _task_name(task: Task) -> str:
    return f"{task.service_name}.{task.place_word}"


def _running(snapshot: ClusterSnapshot, service: Service) -> list[Task]:
    tasks = (t for t in snapshot.tasks_of_service(service.id) if t.status.state is TaskState.RUNNING)
    return sorted(tasks, key=lambda t: (t.slot, t.id))


def _find(snapshot: ClusterSnapshot, ref: str) -> Task | Service | Node:
    for find in (find_task, find_service, find_node):
        try:
            return find(snapshot, ref)
        except NotFound:
            continue
    raise NotFound(f"{ref} is no task, service or node", hint="Name a task as SERVICE.SLOT")


def _source(snapshot: ClusterSnapshot, ref: str) -> tuple[Task | None, Node]:
    found = _find(snapshot, ref)
    if isinstance(found, Service):
        running = _running(snapshot, found)
        if not running:
            raise InvalidSpec(f"no task of service {ref} runs: nothing can be sent from it")
        found = running[0]
    if isinstance(found, Node):
        return None, found
    if found.status.state is not TaskState.RUNNING or found.node_id not in snapshot.nodes:
        raise InvalidSpec(f"task {ref} does not run: nothing can be sent from it")
    return found, snapshot.nodes[found.node_id]


def _target(
    snapshot: ClusterSnapshot, ref: str, task: Task | None, node: Node, port: int, protocol: Protocol
) -> _Target:
    found = _find(snapshot, ref)
    if isinstance(found, Node):
        if not port:
            raise InvalidSpec(f"{ref} is a node: name a port of it", hint="Give --port")
        return _Target(underlay(found), port, (), (found.id,))
    service = found if isinstance(found, Service) else snapshot.services.get(found.service_id)
    tasks = _running(snapshot, found) if isinstance(found, Service) else [found]
    ports = [p for p in service.endpoint.ports if p.protocol == protocol] if service is not None else []
    if task is None and isinstance(found, Service):
        # As a client on the node would: by the port that every node answers on.
        wanted = port or next((p.published_port for p in ports), 0)
        if wanted not in {p.published_port for p in ports}:
            raise InvalidSpec(
                f"service {ref} publishes no {protocol} port{f' {port}' if port else ''} on all nodes"
            )
        return _Target(underlay(node), wanted, tuple(tasks))
    wanted = port or next((p.target_port for p in ports), 0)
    if not wanted:
        raise InvalidSpec(f"{ref} publishes no {protocol} port: which one is to be tried?", hint="Give --port")
    if task is None:
        return _Target(tasks[0].egress_address, wanted, tuple(tasks))
    address, encrypted = _common_address(snapshot, task, found, tasks, ref)
    return _Target(address, wanted, tuple(tasks), encrypted=encrypted)


def _common_address(
    snapshot: ClusterSnapshot, task: Task, found: Task | Service, tasks: Sequence[Task], ref: str
) -> tuple[str, bool]:
    """Of the target, on the first network that the sender is on too; and whether that is encrypted."""
    if isinstance(found, Service):
        there = {vip.network_id: vip.address for vip in found.endpoint.virtual_ips}
        if not there and tasks:  # `dnsrr`: names lead to the tasks themselves
            there = {one.network_id: one.address for one in tasks[0].addresses}
    else:
        there = {one.network_id: one.address for one in found.addresses}
    for own in task.addresses:
        if there.get(own.network_id):
            return there[own.network_id], snapshot.networks[own.network_id].encrypted
    raise InvalidSpec(f"{_task_name(task)} and {ref} share no network")
