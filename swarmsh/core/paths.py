"""What a check of the ways between nodes found: one fault a line, each with what must be allowed. Pure.

Each pair is judged in both directions: a firewall may let in what it does not let out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmsh.core.reach import egress_mtu
from swarmsh.core.underlay import least_mtu
from swarmsh.model.paths import KINDS, Heard, Kind
from swarmsh.model.snapshot import ClusterSnapshot

VXLAN_BYTES = 50  # IPv4, UDP, VXLAN, Ethernet (RFC 7348)
SIZES = (
    *(1500, 1496, 1492, 1480, 1476, 1472, 1460, 1458, 1450, 1446, 1440, 1430, 1422, 1420, 1412, 1410, 1400),
    *(1380, 1360, 1340, 1320, 1300, 1280, 1200, 1000, 576),
)
_WORDS: Mapping[Kind, str] = {"udp4789": "UDP 4789", "udp4790": "UDP 4790", "esp": "ESP (IP protocol 50)"}
_MATCH: Mapping[Kind, str] = {
    "udp4789": "-p udp --dport 4789",
    "udp4790": "-p udp --dport 4790",
    "esp": "-p esp",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a check."""

    node_id: str
    name: str
    n: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PathItem:
    """A line of `node check`."""

    node_id: str
    name: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(slots=True)
class Seen:
    """What the nodes said: by node id, and of each peer by its number.

    `guarded` nodes have networks or published ports: plaintext to UDP 4790 neither leaves nor enters them.
    `failed`: who could not be asked, and why.
    """

    guarded: set[str] = field(default_factory=set)
    refused: dict[str, dict[int, Mapping[Kind, str]]] = field(default_factory=dict)
    heard: dict[str, dict[int, Heard]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


# --- sizes --------------------------------------------------------------------------------------------------
def size_on_the_wire(mtu: int, *, encrypted: bool) -> int:
    """Bytes of the IP packet between nodes that carries the largest one of a network with this MTU."""
    if not encrypted:
        return mtu + VXLAN_BYTES
    # ESP with AES-GCM (RFC 4106): 8 bytes of header, 8 of IV, padding to 4 with two bytes of its own, 16 of ICV.
    return -(-(mtu + VXLAN_BYTES - 20 + 2) // 4) * 4 + 20 + 8 + 8 + 16


def largest_mtu(size: int, *, encrypted: bool) -> int:
    """The largest MTU of a network that packets of this size between nodes can carry."""
    if not encrypted:
        return size - VXLAN_BYTES
    return (size - 52) // 4 * 4 + 20 - VXLAN_BYTES - 2


def sizes_needed(snapshot: ClusterSnapshot) -> Mapping[int, str]:
    """Size between nodes -> which network needs it; without any, what networks have by default."""
    found = {size_on_the_wire(egress_mtu(snapshot), encrypted=False): "the way of published ports"}
    found[least_mtu(snapshot.nodes.values())] = "the default MTU of networks"
    for network in snapshot.networks.values():
        size = size_on_the_wire(network.mtu, encrypted=network.encrypted)
        found[size] = f"network {network.spec.name} (MTU {network.mtu})"
    return found


def sizes_to_try(needed: Iterable[int]) -> tuple[int, ...]:
    """Falling; those that are needed, and below them what links have."""
    return tuple(sorted({*SIZES, *needed}, reverse=True))[:60]


# --- judging ------------------------------------------------------------------------------------------------
def judge(
    places: Sequence[Place], pairs: Iterable[tuple[Place, Place]], seen: Seen, needed: Mapping[int, str]
) -> list[PathItem]:
    """Faults in the order of `pairs` (sender, receiver), and a line for each node without one."""
    pairs, items = list(pairs), []
    reached: dict[str, list[Heard]] = {}
    for place in dict.fromkeys(place for pair in pairs for place in pair):
        if place.node_id in seen.failed:
            items.append(_fault(place, "ways", seen.failed[place.node_id], "Once it answers, check again"))
    for sender, receiver in pairs:
        if {sender.node_id, receiver.node_id} & seen.failed.keys():
            continue
        refused = seen.refused.get(sender.node_id, {}).get(receiver.n, {})
        heard = seen.heard.get(receiver.node_id, {}).get(sender.n, Heard(n=sender.n))
        found = _judge_pair(_Way(sender, receiver, refused, heard), seen.guarded, needed)
        if found:
            items += found
        else:
            reached.setdefault(sender.node_id, []).append(heard)
    faulty = {item.node_id for item in items}
    for place in places:
        if place.node_id not in faulty and place.node_id in reached:
            detail = _all_well(reached[place.node_id])
            items.append(PathItem(node_id=place.node_id, name="ways", ok=True, detail=detail))
    return items


def _all_well(heard: Sequence[Heard]) -> str:
    least = min(one.size for one in heard)
    plain, encrypted = largest_mtu(least, encrypted=False), largest_mtu(least, encrypted=True)
    nodes = "1 node" if len(heard) == 1 else f"{len(heard)} nodes"
    words = f"{_named(KINDS)} reach {nodes}"
    if untried := sum("udp4790" not in one.arrived for one in heard):
        words += f" (UDP 4790, which no key opens yet, not tried to {untried})"
    return f"{words}, in packets of {least} bytes: MTU {plain} fits, encrypted {encrypted}"


@dataclass(frozen=True, slots=True)
class _Way:
    sender: Place
    receiver: Place
    refused: Mapping[Kind, str]
    heard: Heard


def _judge_pair(way: _Way, guarded: set[str], needed: Mapping[int, str]) -> list[PathItem]:
    sender, receiver, heard = way.sender, way.receiver, way.heard
    reasons = set(way.refused.values())
    if len(way.refused) == len(KINDS) and len(reasons) == 1:
        return [_unsendable(way, *reasons)]
    kinds = [kind for kind in KINDS if kind != "udp4790" or _is_judged(way, guarded)]
    unsent = [kind for kind in kinds if kind in way.refused]
    # From a node with networks it comes inside of ESP, which has arrived, and is seen once it is decrypted.
    inside = ["udp4790"] if sender.node_id in guarded else []
    sent = [kind for kind in kinds if kind not in way.refused]
    lost = [kind for kind in sent if kind not in heard.arrived and kind not in inside]
    # Plaintext to UDP 4790 is refused by rules of ours where the receiver has networks: that it arrives is enough.
    own = ["udp4790"] if receiver.node_id in guarded and sender.node_id not in guarded else []
    shut = [k for k in sent if k in (*heard.arrived, *inside) and k not in heard.let_in and k not in own]
    items = []
    if unsent:
        rules = "; ".join(f"iptables -I OUTPUT -d {receiver.address} {_MATCH[kind]} -j ACCEPT" for kind in unsent)
        words = ", ".join(sorted({way.refused[kind] for kind in unsent}))
        detail = f"{_named(unsent)} to {receiver.name} ({receiver.address}) may not leave {sender.name}: {words}"
        items.append(_fault(sender, f"to {receiver.name}", detail, f"On {sender.name}: {rules}"))
    if lost:
        detail = f"{_named(lost)} from {sender.address} does not arrive at {receiver.name} ({receiver.address})"
        fix = (
            f"Let firewalls between them (security groups of a cloud) pass {_named(lost)} "
            f"from {sender.address} to {receiver.address}"
        )
        items.append(_fault(sender, f"to {receiver.name}", detail, fix))
    if shut:
        rules = "; ".join(f"iptables -I INPUT -s {sender.address} {_MATCH[kind]} -j ACCEPT" for kind in shut)
        detail = f"{_named(shut)} from {sender.address} arrives at {receiver.name}, whose own firewall drops it"
        fix = (
            f"On {receiver.name}: {rules} (firewalld: firewall-cmd --permanent --zone=trusted --add-source="
            f"{sender.address}; ufw: ufw allow from {sender.address})"
        )
        items.append(_fault(sender, f"to {receiver.name}", detail, fix))
    if heard.source not in ("", sender.address):
        detail = f"packets of {sender.name} reach {receiver.name} from {heard.source}, not from {sender.address}"
        fix = "Set swarmsh_underlay of each node to an address at which others reach it without its translation"
        items.append(_fault(sender, f"to {receiver.name}", detail, fix))
    if "udp4789" in heard.arrived and (short := _too_short(way, needed)):
        items.append(short)
    return items


def _is_judged(way: _Way, guarded: set[str]) -> bool:
    """Whether UDP 4790 can tell anything: where a node has networks nothing leaves it there without a key."""
    if way.sender.node_id not in guarded or "udp4790" in way.heard.let_in:
        return True
    # Without a common encrypted network there is no key; without ESP a packet with one is lost for that reason.
    return "udp4790" not in way.refused and "esp" in way.heard.let_in


def _unsendable(way: _Way, words: str) -> PathItem:
    sender, receiver = way.sender, way.receiver
    detail = f"nothing can be sent from {sender.address} to {receiver.name} ({receiver.address}): {words}"
    fix = (
        f"{sender.address} must be an address of {sender.name}, and lead to others: set swarmsh_underlay in the "
        f"inventory; see `ip route get {receiver.address} from {sender.address}` there"
    )
    return _fault(sender, f"to {receiver.name}", detail, fix)


def _too_short(way: _Way, needed: Mapping[int, str]) -> PathItem | None:
    sender, receiver, size = way.sender, way.receiver, way.heard.size
    missing = {want: who for want, who in needed.items() if want > size}
    if not missing:
        return None
    most = max(missing)
    passes = f"at most {size} bytes pass" if size else f"not even packets of {min(SIZES)} bytes pass"
    detail = f"{passes} from {sender.name} to {receiver.name} in one packet; {missing[most]} needs {most}"
    fix = f"Raise the MTU of the links between {sender.address} and {receiver.address} to {most}"
    if size:
        fix += (
            f", or make networks with --opt com.docker.network.driver.mtu={largest_mtu(size, encrypted=False)} "
            f"(encrypted: {largest_mtu(size, encrypted=True)})"
        )
    return _fault(sender, f"to {receiver.name}", detail, fix)


def _fault(place: Place, name: str, detail: str, fix: str) -> PathItem:
    return PathItem(node_id=place.node_id, name=name, ok=False, detail=detail, fix=fix)


def _named(kinds: Sequence[Kind]) -> str:
    words = [_WORDS[kind] for kind in kinds]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
