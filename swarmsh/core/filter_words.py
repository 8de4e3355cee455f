"""What each filter says of one node: the numbers, and the nearest way out. Words only; filters decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from swarmsh.core.accept_network import MTU
from swarmsh.core.constraints import ENGINE_LABEL, NODE_LABEL, Constraint, normal_architecture
from swarmsh.core.paths import size_on_the_wire
from swarmsh.core.reach import overlap
from swarmsh.core.resources import Shortage, reservations_of
from swarmsh.core.underlay import WAY_OUT, underlay, underlay_mtu
from swarmsh.core.words import size_words
from swarmsh.model.objects import Node, Task
from swarmsh.model.states import Availability, NodeState

if TYPE_CHECKING:
    from swarmsh.core.filters import Demand, HostPort, NodeLoad
    from swarmsh.core.volumes import Home

MOST_HOLDERS = 3  # tasks named as those that hold what is short
_MIB = 1 << 20
_LEAST_MEMORY = 4 * _MIB  # Docker refuses reservations below
_STATES = {
    NodeState.UNKNOWN: "not heard of since the manager started",
    NodeState.DOWN: "down",
    NodeState.UNREACHABLE: "unreachable for the manager",
    NodeState.UNTRUSTED: "not trusted",
}


class Words(NamedTuple):
    """Why the node does not fit, and what would mend that (a sentence, or a command with a sentence)."""

    why: str
    fix: str = ""


def not_ready(demand: Demand, load: NodeLoad) -> Words:
    node, name = load.node, load.node.spec.name
    availability, status = node.spec.availability, node.status
    if status.state is not NodeState.READY:
        why = _STATES[status.state] + (f": {status.message}" if status.message else "")
        return Words(why, f"See `swarmsh node check {name}`")
    if availability is not Availability.ACTIVE:
        back = f"`swarmsh node update --availability active {name}`"
        return Words(f"its availability is {availability.value}", f"Let it take tasks again: {back}")
    if status.silent:
        return Words("silent for three heartbeats", f"Wait, or see `swarmsh node check {name}`")
    return Words("its Docker Engine does not answer", f"Look at the Engine of {name}: `systemctl status docker`")


def data_place(home: Home) -> str:
    """`pg, which is on n1 (drained)`."""
    return f"{home.volume}, which is on {' or '.join(_with_state(node) for node in home.nodes)}"


def _with_state(node: Node) -> str:
    if node.status.state is not NodeState.READY:
        return f"{node.spec.name} ({_STATES[node.status.state]})"
    words = {Availability.DRAIN: " (drained)", Availability.PAUSE: " (paused)"}
    return node.spec.name + words.get(node.spec.availability, "")


def without_data(demand: Demand, load: NodeLoad) -> Words:
    if demand.home is None:
        raise AssertionError("refused for data that is nowhere")
    allow = f"swarmsh service update --label-add swarmsh.volume.move=allow {demand.service_name}"
    why = f"it has no data of volume {data_place(demand.home)}"
    back = "" if _takes(demand.home) else f"Bring {demand.home.nodes[0].spec.name} back. "
    return Words(why, f"{back}To start without that data: `{allow}`")


def _takes(home: Home) -> bool:
    return any(
        n.status.state is NodeState.READY and n.spec.availability is Availability.ACTIVE for n in home.nodes
    )


def short_of_resources(demand: Demand, load: NodeLoad) -> Words:
    if not load.node.description.engine_version:
        return Words(
            "what it has is not known: it was never heard of", f"See `swarmsh node check {load.node.spec.name}`"
        )
    short = list(load.available.shortages(demand.reservations))
    why = ", and ".join(_shortage(one, load) for one in short)
    return Words(why, "; ".join(_less(one, demand, load) for one in short))


def _shortage(short: Shortage, load: NodeLoad) -> str:
    held = sorted(
        ((amount, task) for task in load.held_by if (amount := _held(task, short.kind))),
        key=lambda pair: (-pair[0], task_name(pair[1], load.node)),
    )
    named = [f"{task_name(task, load.node)} {_amount(short.kind, amount)}" for amount, task in held[:MOST_HOLDERS]]
    more = len(held) - len(named)
    holders = f" ({', '.join(named)}{f' and {more} more' if more else ''})" if named else ""
    return f"needs {_of_kind(short.kind, short.wanted)}, {_amount(short.kind, max(0, short.left))} free{holders}"


def _less(short: Shortage, demand: Demand, load: NodeLoad) -> str:
    name = load.node.spec.name
    free = f"Free {_of_kind(short.kind, short.wanted - max(0, short.left))} on {name}"
    service = demand.service_name
    if short.kind == "memory" and short.left >= _LEAST_MEMORY:
        return (
            f"{free}, or reserve less: `swarmsh service update --reserve-memory {short.left // _MIB}M {service}`"
        )
    if short.kind == "cpu" and short.left >= 1_000_000:  # the least that can be reserved
        left = short.left // 1_000_000 / 1000
        return f"{free}, or reserve less: `swarmsh service update --reserve-cpu {left:g} {service}`"
    return free


def _held(task: Task, kind: str) -> int:
    if kind == "cpu":
        return reservations_of(task.spec).nano_cpus
    if kind == "memory":
        return reservations_of(task.spec).memory_bytes
    named = sum(r.named_resource_spec.kind == kind for r in task.generic_resources if r.named_resource_spec)
    counted = (r.discrete_resource_spec for r in task.generic_resources if r.discrete_resource_spec)
    return named + sum(one.value for one in counted if one.kind == kind)


def _amount(kind: str, value: int) -> str:
    if kind == "memory":
        return size_words(value)
    return f"{value / 1e9:.3g} CPU" if kind == "cpu" else str(value)


def _of_kind(kind: str, value: int) -> str:
    """`2GiB of memory`, `0.5 CPU`, `2 gpu`."""
    if kind == "memory":
        return f"{_amount(kind, value)} of memory"
    return _amount(kind, value) if kind == "cpu" else f"{value} {kind}"


def without_plugins(demand: Demand, load: NodeLoad, missing: Sequence[tuple[str, str]]) -> Words:
    """`missing`: (type, name)."""
    has: dict[str, list[str]] = {}
    for kind, name in load.node.description.plugins:
        has.setdefault(kind, []).append(name)
    why = ", and ".join(
        f"has no {kind.lower()} plugin {name} (it has {', '.join(sorted(has[kind]))})" for kind, name in missing
    )
    return Words(why, f"Install it on {load.node.spec.name}: `docker plugin install {missing[0][1]}`")


def off_constraints(demand: Demand, load: NodeLoad) -> Words:
    broken = [c for c in demand.constraints if not c.matches(load.node)]
    why = ", and ".join(f"{constraint} is asked for, {_has(constraint, load.node)}" for constraint in broken)
    return Words(why, "; ".join(dict.fromkeys(_meet(c, load.node, demand.service_name) for c in broken)))


def _has(constraint: Constraint, node: Node) -> str:
    found = constraint.found(node)
    if found:
        return f"it is {found}"
    return "it has no such label" if constraint.key.startswith((NODE_LABEL, ENGINE_LABEL)) else "it is not known"


def _meet(constraint: Constraint, node: Node, service: str) -> str:
    name, key, value = node.spec.name, constraint.key, constraint.value
    if key.startswith(NODE_LABEL):
        label = key.removeprefix(NODE_LABEL)
        change = f"--label-add {label}={value}" if constraint.equal else f"--label-rm {label}"
        return f"`swarmsh node update {change} {name}`"
    if key.startswith(ENGINE_LABEL):
        return f"Change the Engine's labels in daemon.json of {name}"
    if key == "node.role":
        wants_manager = (value.casefold() == "manager") is constraint.equal
        return f"`swarmsh node {'promote' if wants_manager else 'demote'} {name}`"
    return f"`swarmsh service update --constraint-rm '{constraint}' {service}`"


def other_platform(demand: Demand, load: NodeLoad) -> Words:
    here = load.node.description.platform
    own = f"{here.os}/{normal_architecture(here.architecture)}"
    wanted = ", ".join(
        f"{p.os or 'any'}/{normal_architecture(p.architecture) or 'any'}" for p in demand.placement.platforms
    )
    return Words(f"it is {own}, the image is for {wanted}", f"Build the image for {own} as well")


def port_taken(demand: Demand, load: NodeLoad, ports: Mapping[str, Iterable[HostPort]]) -> Words:
    """`ports`: those of each task there, by its id."""
    name = load.node.spec.name
    taken = [port for port in demand.ports if load.used_ports[port]]
    holders = [t for t in load.held_by if any(port in taken for port in ports[t.id])]
    whose = ", ".join(task_name(t, load.node) for t in holders) or "a task placed just now"
    numbers = ", ".join(f"{number}/{protocol}" for protocol, number in taken)
    if all(t.service_id == demand.service_id for t in holders):
        fix = f"Each node takes one task of {demand.service_name}: add a node, or scale it down"
    else:
        fix = f"Publish another port, or move {whose} away from {name}"
    return Words(f"host port {numbers} is taken by {whose}", fix)


def at_max_replicas(demand: Demand, load: NodeLoad) -> Words:
    has, most, service = load.tasks_of[demand.service_id], demand.placement.max_replicas, demand.service_name
    more = f"`swarmsh service update --replicas-max-per-node {has + 1} {service}`"
    return Words(f"has {has} of at most {most} tasks of {service} on a node", f"Add a node, or allow more: {more}")


def old_engine(demand: Demand, load: NodeLoad) -> Words:
    if demand.newest is None:
        raise AssertionError("refused for an Engine although no field asks for one")
    seen = load.node.description
    needed = ".".join(map(str, demand.newest.since))
    has = f"its Engine {seen.engine_version} has {seen.engine_api}"
    fix = f"Upgrade Docker on {load.node.spec.name}, or leave {demand.newest.name} away"
    return Words(f"{demand.newest.name} needs Engine API {needed}, {has}", fix)


def no_underlay(demand: Demand, load: NodeLoad) -> Words:
    return Words("it has no IPv4 address for networks", f"For {load.node.spec.name} {WAY_OUT}")


def shared_underlay(demand: Demand, load: NodeLoad) -> Words:
    address = underlay(load.node)
    return Words(f"another node has its address {address} too", f"For {load.node.spec.name} {WAY_OUT}")


def number_too_high(demand: Demand, load: NodeLoad) -> Words:
    smallest = min(demand.overlays, key=lambda network: _numbers(network.gateways))
    reaches = (
        f"network {smallest.spec.name} ({smallest.subnet}) reaches numbers 1 to {_numbers(smallest.gateways)}"
    )
    return Words(f"its number is {load.node.number}, {reaches}", "Make the network anew with a larger --subnet")


def _numbers(gateways: str) -> int:
    return (1 << (32 - int(gateways.partition("/")[2]))) - 1


def other_routes(demand: Demand, load: NodeLoad) -> Words:
    found = ((whose, block, overlap(load.node, block)) for whose, block in demand.blocks)
    why = ", and ".join(f"{there} is in the way of {whose} ({block})" for whose, block, there in found if there)
    return Words(why, "Take that route away, or make the network anew with another --subnet")


def link_too_small(demand: Demand, load: NodeLoad) -> Words:
    has = underlay_mtu(load.node)
    sized = [
        (size_on_the_wire(n.mtu, encrypted=n.encrypted), n) for n in demand.overlays if MTU not in n.spec.options
    ]
    size, network = max(sized, key=lambda pair: pair[0])
    fits = network.mtu - (size - has)
    why = f"its link takes {has} bytes, network {network.spec.name} (MTU {network.mtu}) needs {size}"
    return Words(why, f"Make the network anew with --opt {MTU}={fits}")


def no_egress(demand: Demand, load: NodeLoad) -> Words:
    fix = "Wait a minute: an address is given again that long after its task ended. Else scale down"
    return Words("no address is free for the way outside", fix)


def task_name(task: Task, node: Node | None = None) -> str:
    """`web.1`; a global service's task has its node in the slot's place."""
    place = node.spec.name if node is not None and not task.slot else task.place_word
    return f"{task.service_name}.{place}"
