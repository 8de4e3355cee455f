"""Nodes: added, changed, removed."""

from __future__ import annotations

from ipaddress import IPv4Network

from msgspec.structs import replace

from swarmsh.core.accept import accept_node_spec
from swarmsh.core.allocate import choose_node_number, left_cleanly
from swarmsh.core.reach import blocks_of, egress_pool, in_the_way
from swarmsh.core.underlay import WAY_OUT, underlays
from swarmsh.errors import InvalidSpec, NameConflict, OutOfSequence
from swarmsh.manager.ports import Clock, IdSource, Store
from swarmsh.manager.usecases.happenings import node_event
from swarmsh.manager.usecases.lookup import find_node, require_cluster
from swarmsh.model.objects import Node, SshTarget
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import NodeSpec
from swarmsh.model.states import NodeState, Role


def current_manager(snapshot: ClusterSnapshot) -> Node | None:
    """The node that stands for the manager in listings: the lowest-numbered one of that role."""
    managers = (n for n in snapshot.nodes.values() if n.spec.role is Role.MANAGER)
    return min(managers, key=lambda n: n.number, default=None)


async def add_node(store: Store, ids: IdSource, clock: Clock, spec: NodeSpec, target: SshTarget) -> Node:
    """Take a host into the cluster; the first one gets the role manager.

    Raises InvalidSpec, NameConflict, Exhausted.
    """
    node_id = ids.new_id()
    spec = accept_node_spec(spec)
    _check_target(target)
    if not spec.name:
        spec = replace(spec, name=target.address)

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        for node in snapshot.nodes.values():
            if spec.name in (node.spec.name, node.description.hostname):
                raise NameConflict(f"node {spec.name} already exists", hint="Choose another name", node=spec.name)
            if (node.target.address, node.target.port, node.target.jump) == (
                target.address,
                target.port,
                target.jump,
            ):
                raise NameConflict(
                    f"node {node.spec.name} already has the address {target.address}:{target.port}", node=spec.name
                )
        _refuse_in_the_way(snapshot, target, spec.name)
        now = clock.now()
        number = choose_node_number(snapshot, now)
        node = Node(
            id=node_id,
            number=number,
            version=0,
            created_at=now,
            updated_at=now,
            spec=spec if current_manager(snapshot) is not None else replace(spec, role=Role.MANAGER),
            target=target,
        )
        _refuse_to_take_an_address(snapshot, node)
        return Changes(put_nodes=(node,), events=(node_event("create", node, now),))

    return (await store.commit(decide)).nodes[node_id]


def _check_target(target: SshTarget) -> None:
    for hop in (target, *target.jump):
        if not hop.address or hop.address.startswith("-") or any(c.isspace() for c in hop.address):
            raise InvalidSpec(f"invalid address {hop.address!r}", hint="Give a host name or an IP address")
        if not 0 < hop.port < 65536:
            raise InvalidSpec(f"invalid port {hop.port} of {hop.address}")


def _refuse_in_the_way(snapshot: ClusterSnapshot, target: SshTarget, name: str) -> None:
    """Addresses and ports by which a node is reached must not be what containers and services have."""
    ours = [(egress_pool(snapshot), "through which tasks reach the outside")]
    ours += [
        (IPv4Network(network.subnet), f"the subnet of network {network.spec.name}")
        for network in snapshot.networks.values()
    ]
    for address in blocks_of((target.address, target.underlay)):
        for block, whose in ours:
            if address.overlaps(block):
                raise InvalidSpec(
                    f"node {name} cannot be reached at {address.network_address} by others: that lies in {block}, "
                    f"{whose}",
                    hint="Give the node another address, or make the network anew with another --subnet",
                )
    for service in snapshot.services.values():
        for port in service.endpoint.ports:
            if port.protocol == "tcp" and port.published_port == target.port:
                raise InvalidSpec(
                    f"every node answers on port {target.port}, which service {service.spec.name} publishes: node "
                    f"{name} could not be reached there over SSH any more",
                    hint="Let its sshd listen on another port, or publish the service on another one",
                )


def _refuse_to_take_an_address(snapshot: ClusterSnapshot, node: Node) -> None:
    """An address that two nodes have is none: another one may not lose the networks that its tasks are using."""
    after = underlays([*(n for n in snapshot.nodes.values() if n.id != node.id), node])
    for node_id, address in underlays(snapshot.nodes.values()).items():
        tasks = () if node_id in after or node_id == node.id else snapshot.tasks_of_node(node_id)
        if any((t.addresses or t.egress_address) and t.placed and not t.status.state.terminal for t in tasks):
            other = snapshot.nodes[node_id].spec.name
            raise InvalidSpec(
                f"node {node.spec.name} would have the address {address} of node {other}, whose tasks use "
                "networks: nobody could tell whose a packet is",
                hint=f"If {other} is no more, `swarmsh node rm {other}` first; else for one of the two {WAY_OUT}",
            )


def check_routes(snapshot: ClusterSnapshot, node: Node) -> dict[str, object]:
    """As an item of what a node's helper checks: whether networks of ours are in the way of what it reaches."""
    overlaps = in_the_way(snapshot, node)
    return {
        "name": "routes",
        "ok": not overlaps,
        "detail": "; ".join(overlaps) + ": no task is placed here that needs it" if overlaps else "",
        "fix": "Make the network anew with another --subnet, or take the node's route away" if overlaps else "",
    }


async def release_number(store: Store, clock: Clock, node_id: str) -> None:
    """A removed node has said that nothing of ours is left on it: its number may be given again, after a while."""
    await store.commit_orchestration(lambda snapshot: left_cleanly(snapshot, node_id, clock.now()))


async def update_node(store: Store, clock: Clock, ref: str, version: int, spec: NodeSpec) -> Node:
    """Replace labels, role and availability; the name stays. Raises OutOfSequence, InvalidSpec, NotFound."""

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        stored = find_node(snapshot, ref)
        if stored.version != version:
            raise OutOfSequence("rpc error: code = Unknown desc = update out of sequence")
        accepted = accept_node_spec(spec, stored.spec)
        demoted = stored.spec.role is Role.MANAGER and accepted.role is Role.WORKER
        if demoted and sum(n.spec.role is Role.MANAGER for n in snapshot.nodes.values()) == 1:
            raise InvalidSpec(
                "attempting to demote the last manager of the swarm", hint="Promote another node first"
            )
        now = clock.now()
        updated = replace(stored, spec=accepted)
        return Changes(put_nodes=(updated,), events=(node_event("update", updated, now, stored),))

    after = await store.commit(decide)
    return find_node(after, ref)


async def retarget_node(store: Store, clock: Clock, ref: str, target: SshTarget) -> Node:
    """Reach a node another way (address, user, pins) from now on; nothing is written if nothing changed."""
    _check_target(target)

    def decide(snapshot: ClusterSnapshot) -> Changes:
        stored = find_node(snapshot, ref)
        if stored.target == target:
            return Changes()
        _refuse_in_the_way(snapshot, target, stored.spec.name)
        updated = replace(stored, target=target)
        _refuse_to_take_an_address(snapshot, updated)
        return Changes(put_nodes=(updated,), events=(node_event("update", updated, clock.now(), stored),))

    return find_node(await store.commit(decide), ref)


async def remove_node(store: Store, clock: Clock, ref: str, *, force: bool = False) -> None:
    """Forget a node; its tasks are placed elsewhere. One that is not down is let go by `force` only."""

    def decide(snapshot: ClusterSnapshot) -> Changes:
        require_cluster(snapshot)
        node = find_node(snapshot, ref)
        if not force and node.status.state is not NodeState.DOWN:
            raise InvalidSpec(
                f"node {node.id} is not down and can't be removed",
                hint="Drain it first, then remove it with --force",
            )
        events = [node_event("remove", node, clock.now())]
        rest = [n for n in snapshot.nodes.values() if n.id != node.id]
        heirs: tuple[Node, ...] = ()
        if node.spec.role is Role.MANAGER and rest and all(n.spec.role is not Role.MANAGER for n in rest):
            # The role is a word, and some node has to carry it for clients' sake.
            heir = min(rest, key=lambda n: n.number)
            heirs = (replace(heir, spec=replace(heir.spec, role=Role.MANAGER)),)
            events.append(node_event("update", heirs[0], clock.now(), heir))
        return Changes(delete_nodes=(node.id,), put_nodes=heirs, events=tuple(events))

    await store.commit(decide)
