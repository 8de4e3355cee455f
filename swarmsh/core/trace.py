"""Where a connection's packets went and where they stopped: from what was seen of them, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmsh.model.trace import Sighting, Traced


@dataclass(frozen=True, slots=True)
class Hop:
    """A device at which a packet was seen: on which node, and in which task's container, if in one."""

    node: str  # names
    task: str
    seen: Sighting

    @property
    def where(self) -> str:
        inside = f"in {self.task}" if self.task else "on the node itself"
        return f"{self.node}, {inside}, {self.seen.device}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok`: the connection was answered. `fix`: where to look on."""

    ok: bool
    words: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    """Names of nodes by their ids, of tasks by theirs. `to_tasks`: ids of those that may answer."""

    from_node: str
    from_task: str  # empty: the node itself
    nodes: Mapping[str, str]
    tasks: Mapping[str, str]
    to_tasks: frozenset[str] = frozenset()
    encrypted: bool = False
    unknown: Sequence[str] = field(default=())  # names of nodes that could not look


def hops_of(seen: Mapping[str, Sequence[Sighting]], ends: Ends) -> list[Hop]:
    """In the order in which it must have been: the clocks of nodes differ, each one's own list is right.

    There: the node that sends, then the others; and back in the reverse order. Each device once each way.
    """
    others = [node_id for node_id in seen if node_id != ends.from_node]
    there = [ends.from_node, *others]
    order = [(node_id, True) for node_id in there] + [(node_id, False) for node_id in reversed(there)]
    found: dict[tuple[object, ...], Hop] = {}
    for node_id, forth in order:
        for one in seen.get(node_id, ()):
            if one.forth is forth:
                key = (node_id, one.place, one.device, one.way, forth, one.src, one.dst, one.tunnel)
                task = ends.tasks.get(one.place, one.place)
                found.setdefault(key, Hop(ends.nodes.get(node_id, node_id), task, one))
    return list(found.values())


def judge(traced: Traced, hops: Sequence[Hop], ends: Ends) -> Verdict:
    """What became of the connection."""
    answers = [hop for hop in hops if not hop.seen.forth]
    if traced.outcome == "answered":
        return Verdict(True, f"answered by {_who(answers, hops)}")
    if traced.outcome == "refused":
        if answers and answers[0].task:
            return Verdict(False, f"refused by {_who(answers, hops)}", "Does the task listen on this port?")
        refusing = f"refused on its way, last seen at {hops[-1].where}" if hops else "refused by its own node"
        return Verdict(
            False, refusing, "Is a task of the service ready (`swarmsh service ps`)? Is the port its own?"
        )
    if not hops:
        return Verdict(False, f"nothing was sent: {traced.words}", "The sender has no way to this address")
    last = answers[-1] if answers else hops[-1]
    words, fix = _stopped_back(last, ends) if answers else _stopped(last, ends)
    if ends.unknown:
        fix += f"; what {', '.join(ends.unknown)} saw is not known: there is no session"
    return Verdict(False, f"{traced.words or traced.outcome}: {words}", fix)


def _who(answers: Iterable[Hop], hops: Sequence[Hop]) -> str:
    for hop in answers:
        if hop.task:
            return f"{hop.task} on {hop.node}"
    return hops[-1].node if hops else "the node itself"


def _kind(hop: Hop) -> str:
    """What sort of device it is, by the names that nodes give (`sb…`, `sv…`: of a network)."""
    if hop.task:
        return "task"
    if hop.seen.tunnel:
        return "link"
    if hop.seen.device.startswith("sv") or hop.seen.device == "swgwv":
        return "vxlan"
    return "bridge"


def _stopped(last: Hop, ends: Ends) -> tuple[str, str]:
    """The way there: where it was last, and where to look."""
    at = f"last seen at {last.where} ({last.seen.way})"
    started_here = last.node == ends.nodes.get(ends.from_node)
    kind = _kind(last)
    if kind == "task":
        if last.seen.way == "in":
            return (
                f"it reaches {last.task} on {last.node}, which says nothing",
                "Does the task hang, or drop it itself?",
            )
        return (
            f"it leaves its container and does not reach {last.node}",
            f"On {last.node}: ip -br link; bridge link",
        )
    if started_here and kind == "link":
        return (
            f"{at}: it leaves {last.node}, and was not seen to arrive",
            "swarmsh node check: is a firewall between?",
        )
    if started_here and kind == "vxlan" and last.seen.way == "out":
        if ends.encrypted:
            return (
                f"{at}: it is to leave {last.node} in ESP, where it cannot be seen, and came out on no other node",
                "swarmsh node check: does ESP pass? swarmsh events: do the nodes have their keys?",
            )
        device = last.seen.device
        return f"{at}: no network card of {last.node} sent it", f"On {last.node}: bridge fdb show dev {device}"
    if started_here:
        return (
            f"{at}: {last.node} passes it on to nobody",
            f"Is a task of the service ready? On {last.node}: cat /proc/net/ip_vs; iptables -vnL FORWARD",
        )
    if kind == "link":
        return f"{at}: it arrives at {last.node} and is not let in", f"On {last.node}: iptables -vnL INPUT"
    return (
        f"{at}: it is on {last.node}, and reaches no container of the service",
        f"Does the task still run? On {last.node}: ip neigh; bridge fdb show; iptables -vnL FORWARD",
    )


def _stopped_back(last: Hop, ends: Ends) -> tuple[str, str]:
    at = f"the answer was last seen at {last.where} ({last.seen.way})"
    if last.node == ends.nodes.get(ends.from_node):
        return f"{at}: {last.node} does not give it to who asked", f"On {last.node}: iptables -vnL FORWARD"
    if _kind(last) == "link" or (_kind(last) == "vxlan" and ends.encrypted):
        return f"{at}, and did not come back", "swarmsh node check: is a firewall between, in this direction?"
    return f"{at}: it does not leave {last.node}", f"On {last.node}: ip route; ip rule; iptables -vnL FORWARD"
