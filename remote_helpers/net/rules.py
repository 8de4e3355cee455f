"""The node's iptables rules: from the network state to the text that iptables-restore reads. Pure.

All rules are in chains of our own (`SW-…`); the builtin chains and Docker's get a jump each. What iptables-save
shows is held against what is wanted, and only chains that differ are written again. Rules are written here exactly
as iptables-save writes them, so that the comparison is one of lines.

Two things matter only where Docker's own rules were flushed (`iptables -F` leaves its policy DROP): `SW-END`,
behind all other rules of FORWARD, lets the packets of our networks pass; and where nothing leads to DOCKER-USER,
`SW-FWD` is called from FORWARD itself.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .ipsets import BOUND, OWN, TCP, UDP, VIPS
from .numbers import (
    DNS_PORT,
    EGRESS_BRIDGE,
    EGRESS_VXLAN,
    INGRESS,
    INGRESS_MASK,
    LOOP,
    LOOP_INNER,
    MARK,
    MARK_MASK,
    PORT,
    PORT_ENCRYPTED,
    bridge_name,
    egress_gateway,
    egress_mac,
    loop_addresses,
)

PREFIX = "SW-"
# Restored in a call of its own: a kernel without conntrack zones, or without the target CT, refuses it.
RAW = "raw"
TABLES = (RAW, "mangle", "nat", "filter")
QUEUE = 53000  # read by nobody
# Below those that systems choose for programs: from 32768 (Linux's ip_local_port_range) or 49152 (RFC 6335, 6.2).
MOVED_PORTS = "1024-32767"
FIRST, ANYWHERE, LAST = "first", "anywhere", "last"
BEHIND = "behind"  # the rules that give a bridge's containers an address of the node
_OURS = f"{MARK:#x}/{MARK_MASK:#x}"
_SEEN = "-m conntrack --ctstate RELATED,ESTABLISHED"


class Jump(NamedTuple):
    """The one rule of ours in a chain that is not ours, and where it must stand."""

    table: str
    parent: str
    chain: str
    place: str


JUMPS = (
    Jump(RAW, "PREROUTING", "SW-RAW", ANYWHERE),
    Jump(RAW, "PREROUTING", "SW-TUN", ANYWHERE),
    Jump(RAW, "OUTPUT", "SW-TUN", ANYWHERE),
    Jump("mangle", "PREROUTING", "SW-PRE", FIRST),
    Jump("mangle", "INPUT", "SW-MIN", FIRST),
    Jump("mangle", "OUTPUT", "SW-MOUT", FIRST),
    # Before Docker's: its rule for a container with port 53 of the host would take the tasks' own questions.
    Jump("nat", "PREROUTING", "SW-DNS", FIRST),
    Jump("nat", "INPUT", "SW-NIN", ANYWHERE),
    # Docker puts rules in front of ours in the nat table; none of them matches what ours match.
    Jump("nat", "OUTPUT", "SW-OUT", ANYWHERE),
    Jump("nat", "POSTROUTING", "SW-POST", ANYWHERE),
    Jump("nat", "POSTROUTING", "SW-MOVE", BEHIND),
    Jump("filter", "INPUT", "SW-IN", FIRST),
    Jump("filter", "OUTPUT", "SW-FOUT", FIRST),
    Jump("filter", "DOCKER-USER", "SW-FWD", FIRST),
    Jump("filter", "FORWARD", "SW-END", LAST),
)


# --- what is wanted -----------------------------------------------------------------------------------------
def wanted(state: dict, marks=None, queue: bool = True, sets: bool = True) -> dict:
    """Table to chain to rules, each without its `-A CHAIN`.

    `marks`: those that lead to a service of IPVS, the only ones that are set; None: all of the state. A packet
    that is marked is let past the node's firewall, and what IPVS does not take is then the node's own. `queue`:
    the kernel has NFQUEUE, and stops that. `sets`: what is marked is in sets (`ipsets.wanted`), and the rules are
    the same whatever services and tasks there are; for a kernel without sets there is a rule for each.
    """
    if sets:
        marking, loopback, own = _marking_by_sets(state), _loopback_by_sets(state), [_OWN_BY_SET]
    else:
        marking, loopback, own = _marking(state, marks), _loopback(state, marks), _own(state)
    outside, inside = loop_addresses(state)
    raw, pre = [], ["-d 127.0.0.0/8 ! -i lo -j DROP"]
    # By the pair comes what the node's own loopback sent, and nothing else; and nothing else is sent there.
    pre += [
        f"-d {outside}/32 ! -i {LOOP_INNER} -j DROP",
        f"-d {inside}/32 ! -i {LOOP} -j DROP",
        f"! -s {inside}/32 -i {LOOP_INNER} -j DROP",
    ]
    for peer in state["peers"]:
        came_by = f"-m mac --mac-source {egress_mac(peer['n'], state)}"
        raw.append(f"-i {EGRESS_VXLAN} {came_by} -j CT --zone-orig {peer['n']}")
        connmark = f"-j CONNMARK --set-xmark {INGRESS + peer['n']:#x}/0xffff"
        pre.append(f"-i {EGRESS_VXLAN} -m conntrack --ctstate NEW {came_by} {connmark}")
    pre.append(
        f"-i {EGRESS_BRIDGE} -m conntrack --ctdir REPLY -m connmark --mark {INGRESS:#x}/{INGRESS_MASK:#x} "
        "-j CONNMARK --restore-mark --nfmask 0xffff --ctmask 0xffff"
    )
    # The clearing comes first: a packet that IPVS has balanced must not be encapsulated with its mark.
    out = [f"-m mark --mark {_OURS} {_set_mark(0)}", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j SW-PUB"]
    mangle = {"SW-PRE": pre, "SW-MOUT": out, **marking}
    nat = {
        "SW-DNS": _questions(state),
        "SW-NIN": _behind_ipvs() if queue else [],
        "SW-OUT": loopback,
        "SW-POST": _source_rules(state) + own,
        "SW-MOVE": _moved_ports(state),
    }
    filters = {
        "SW-IN": _input_rules(state),
        "SW-FOUT": _output_rules(),
        "SW-FWD": _forward_rules(),
        "SW-END": _last_rules(state),
    }
    return {RAW: {"SW-RAW": raw, "SW-TUN": _untracked()}, "mangle": mangle, "nat": nat, "filter": filters}


def _untracked() -> list:
    """Packets between nodes are no connections: each connection within would be two more in the node's table, for
    its packets go out by a port of their own (RFC 7348, 5), and the table of a small machine is full in no time.
    """
    return [f"-p udp -m udp --dport {port} -j CT --notrack" for port in (PORT, PORT_ENCRYPTED)]


def _marking_by_sets(state: dict) -> dict:
    into = [
        f"-d {network['vips']} -i {bridge_name(network)} -j SET --map-set {VIPS} dst --map-mark"
        for network in state["networks"]
    ]
    published = [
        f"-p tcp -j SET --map-set {TCP} dst --map-mark",
        f"-p udp -j SET --map-set {UDP} dst --map-mark",
        f"-j SET --map-set {BOUND} dst,dst --map-mark",
    ]
    return {"SW-MIN": [*into, *_to_published(state)], "SW-PUB": published}


def _marking(state: dict, marks) -> dict:
    bridges = {network["id"]: bridge_name(network) for network in state["networks"]}
    into, published = [], []
    for vip in state["vips"]:
        mark = MARK + vip["id"]
        if marks is None or mark in marks:
            into.append(f"-d {vip['address']}/32 -i {bridges[vip['network']]} {_set_mark(mark)}")
    for port in state["ports"]:
        bind = _bind(port)
        if marks is None or MARK + port["id"] in marks:
            to = loop_addresses(state)[0] if bind.startswith("127.") else bind
            published.append(f"{f'-d {to}/32 ' if to else ''}{_to_port(port)} {_set_mark(MARK + port['id'])}")
    return {"SW-MIN": [*into, *_to_published(state)], "SW-PUB": published}


def _to_published(state: dict) -> list:
    # A task's question is one for port DNS_PORT by now, which somebody may publish as well.
    gateway = egress_gateway(state["node"]["n"], state)
    return [
        "-i sb+ -j RETURN",
        *(f"-d {gateway}/32 -i {EGRESS_BRIDGE} {port} -j RETURN" for port in _to_ports(DNS_PORT)),
        f"-i {LOOP_INNER} -j SW-PUB",
        "-m addrtype --dst-type LOCAL -j SW-PUB",
    ]


def _questions(state: dict) -> list:
    """What tasks ask the gateways at port 53 goes to where the name server listens.

    Nobody else's: port 53 of the node may be a container's, or published.
    """
    gateways = [(EGRESS_BRIDGE, egress_gateway(state["node"]["n"], state))]
    gateways += [(bridge_name(one), one["gateway"]) for one in state["networks"]]
    return [
        f"-d {gateway}/32 -i {bridge} {port} -j DNAT --to-destination {gateway}:{DNS_PORT}"
        for bridge, gateway in gateways
        for port in _to_ports(53)
    ]


def _to_ports(port: int) -> list:
    return [f"-p {kind} -m {kind} --dport {port}" for kind in ("udp", "tcp")]


def _behind_ipvs() -> list:
    """Nothing that is marked gets past IPVS to the node itself, though a service was deleted by hand.

    Of all that iptables has only nat INPUT comes behind IPVS, where DROP may not stand. A queue that nobody reads
    drops as well. First packets only: what was a connection of IPVS is to be answered with a reset.
    """
    drop = f"-m mark --mark {_OURS} -j NFQUEUE --queue-num {QUEUE}"
    return [f"-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN {drop}", f"-p udp {drop}"]


def _set_mark(mark: int) -> str:
    return f"-j MARK --set-xmark {mark:#x}/0xffffffff"


def _bind(port: dict) -> str:
    return "" if port["bind"] == "0.0.0.0" else port["bind"]


def _to_port(port: dict) -> str:
    return f"-p {port['protocol']} -m {port['protocol']} --dport {port['port']}"


def _loopback_by_sets(state: dict) -> list:
    return [
        f"-d 127.0.0.0/8 {match} -j DNAT --to-destination {loop_addresses(state)[0]}"
        for match in (
            f"-p tcp -m set --match-set {TCP} dst",
            f"-p udp -m set --match-set {UDP} dst",
            f"-m set --match-set {BOUND} dst,dst",
        )
    ]


def _loopback(state: dict, marks) -> list:
    """IPVS refuses what comes from a loopback address: it takes a way round, by which it gets another."""
    rules = []
    for port in state["ports"]:
        bind = _bind(port)
        if (not bind or bind.startswith("127.")) and (marks is None or MARK + port["id"] in marks):
            to = f"-j DNAT --to-destination {loop_addresses(state)[0]}"
            rules.append(f"-d {bind + '/32' if bind else '127.0.0.0/8'} {_to_port(port)} {to}")
    return rules


def _source_rules(state: dict) -> list:
    inside = loop_addresses(state)[1]
    rules = [
        f"-s 127.0.0.0/8 -o {LOOP} -j SNAT --to-source {inside}",
        f"-s {inside}/32 -j MASQUERADE",
    ]
    # A node's own address that comes back to it is a martian.
    return rules + [f"-s {peer['underlay']}/32 -o {EGRESS_VXLAN} -j MASQUERADE" for peer in state["peers"]]


def _moved_ports(state: dict) -> list:
    """Clients keep their address on the way to another node, but not a port such as clients have.

    IPVS knows a connection by client and backend. On the backend's node it would take the replies to a client that
    came by another node for those of a connection that the same port had by this one, or had two minutes ago.
    Containers on other bridges than ours have got the node's address by then, as when they call anybody else.
    """
    came = f"! -s {state['egress']['pool']} -o {EGRESS_VXLAN}"
    return [f"{came} -p {kind} -j SNAT --to-source :{MOVED_PORTS}" for kind in ("tcp", "udp")]


_OWN_BY_SET = f"-m set --match-set {OWN} src,dst -j MASQUERADE"


def _own(state: dict) -> list:
    return [
        f"-s {address}/32 -d {address}/32 -j MASQUERADE"
        for task in state["tasks"]
        for address in task["addresses"]
    ]


def _input_rules(state: dict) -> list:
    rules = [f"-p udp -m udp --dport {PORT_ENCRYPTED} -m policy --dir in --pol none -j DROP"]
    rules += [f"-s {peer['underlay']}/32 -p udp -m udp --dport {PORT} -j RETURN" for peer in state["peers"]]
    rules += [f"-p udp -m udp --dport {PORT} -j DROP", f"-m mark --mark {_OURS} -j ACCEPT"]
    rules.append(f"-i {LOOP} {_SEEN} -j ACCEPT")
    # Names: the server is at the gateway by which a container leaves; an internal network has only its own.
    asked = [(EGRESS_BRIDGE, egress_gateway(state["node"]["n"], state))]
    asked += [(bridge_name(one), one["gateway"]) for one in state["networks"] if one["internal"]]
    for bridge, gateway in asked:
        rules += [f"-d {gateway}/32 -i {bridge} {port} -j ACCEPT" for port in _to_ports(DNS_PORT)]
    # A VIP that no service has must not lead to the node's own sshd.
    refuse = "-j REJECT --reject-with icmp-port-unreachable"
    rules += [f"-d {network['vips']} {refuse}" for network in state["networks"]]
    # Nor must what listens on this node be in reach of containers on all others, past a firewall between them.
    for network in state["networks"]:
        bridge = bridge_name(network)
        rules += [f"-i {bridge} {_SEEN} -j RETURN", f"-i {bridge} -p icmp -j RETURN", f"-i {bridge} {refuse}"]
    return rules


def _output_rules() -> list:
    # The policies for ESP say the same; but whoever flushes them opens the node until they are put back.
    return [f"-p udp -m udp --dport {PORT_ENCRYPTED} -m policy --dir out --pol none -j DROP"]


def _forward_rules() -> list:
    return [
        f"-i {LOOP} -j DROP",
        f"-i {LOOP_INNER} -j DROP",
        f"-i {EGRESS_VXLAN} -o {EGRESS_BRIDGE} -j ACCEPT",
        f"-i {EGRESS_VXLAN} {_SEEN} -j ACCEPT",
        f"-o {EGRESS_VXLAN} {_SEEN} -j ACCEPT",
        f"-o {EGRESS_VXLAN} -j DROP",
        f"-i {EGRESS_BRIDGE} {_SEEN} -j ACCEPT",
    ]


def _last_rules(state: dict) -> list:
    rules = [f"-i {bridge} -o {bridge} -j ACCEPT" for bridge in map(bridge_name, state["networks"])]
    return [
        *rules,
        f"-i {EGRESS_BRIDGE} -o sb+ -j DROP",
        f"-i {EGRESS_BRIDGE} ! -o {EGRESS_BRIDGE} -j ACCEPT",
        f"-o {EGRESS_BRIDGE} {_SEEN} -j ACCEPT",
    ]


# --- what is there ------------------------------------------------------------------------------------------
def parse_save(text: str) -> dict:
    """Table to chain to rules, of the whole of what iptables-save says."""
    tables: dict = {}
    chains: dict = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains.setdefault(chain, []).append(rule.rstrip())
    return tables


def same_rule(one: str, other: str) -> bool:
    """Whether two rules mean the same: versions of iptables write MACs and states differently."""
    return one == other or _plain(one) == _plain(other)


def _plain(rule: str) -> tuple:
    words = rule.lower().split()
    for i, word in enumerate(words[:-1]):
        if word == "--ctstate":
            words[i + 1] = ",".join(sorted(words[i + 1].split(",")))
    return tuple(words)


# --- what differs -------------------------------------------------------------------------------------------
class Restore(NamedTuple):
    """What iptables-restore is to read, and why."""

    raw: str  # "" if nothing differs
    rest: str
    words: list


def plan_restore(want: dict, have: dict) -> Restore:
    """Hold what is wanted against what is there: only chains and jumps that differ are written."""
    texts, words = {}, []
    for table in TABLES:
        lines = _plan_chains(want.get(table, {}), have.get(table, {}), words)
        for jump in jumps(have):
            if jump.table == table and jump.chain in want.get(table, {}):
                lines += _plan_jump(jump, have.get(table, {}), words)
        lines += _stray_jumps(table, have, words)
        texts[table] = f"*{table}\n" + "\n".join(lines) + "\nCOMMIT\n" if lines else ""
    return Restore(texts[RAW], texts["mangle"] + texts["nat"] + texts["filter"], words)


def plan_change(want: dict, have: dict) -> str:
    """As little text as leads from chains that are known to be there to others; the raw table apart.

    Rules that stay are not repeated: they are many more than those that change. A rule that should be there and is
    not makes iptables-restore fail, and nothing of its table is changed then.
    """
    texts = []
    for table in TABLES[1:]:
        lines = []
        for chain, rules in want[table].items():
            lines += _edit(chain, rules, have[table].get(chain))
        if lines:
            # Chains that are written anew are named first, as iptables-save does it.
            lines.sort(key=lambda line: not line.startswith(":"))
            texts.append(f"*{table}\n" + "\n".join(lines) + "\nCOMMIT\n")
    return "".join(texts)


def _edit(chain: str, want: list, have: list | None) -> list:
    if have == want:
        return []
    whole = [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in want)]
    if have is None:
        return whole
    head, shorter = 0, min(len(want), len(have))
    while head < shorter and want[head] == have[head]:
        head += 1
    tail = 0
    while tail < shorter - head and want[-1 - tail] == have[-1 - tail]:
        tail += 1
    gone, new = have[head : len(have) - tail], want[head : len(want) - tail]
    # A rule is deleted by its words, and of equal ones the first: it must be the one that is meant.
    if 2 * (len(gone) + len(new)) > len(want) or any(have.count(rule) > 1 for rule in gone):
        return whole
    return [
        *(f"-D {chain} {rule}" for rule in gone),
        *(f"-I {chain} {head + 1 + i} {rule}" for i, rule in enumerate(new)),
    ]


def adds_marks(want: dict, have: dict) -> bool:
    """Whether something is marked for IPVS that was not."""
    chains = ("SW-MIN", "SW-PUB")
    return any(set(want["mangle"][chain]) - set(have["mangle"].get(chain, ())) for chain in chains)


def of_raw(word: str) -> bool:
    """Whether words of `plan_restore` are about the raw table."""
    return "SW-RAW" in word or "SW-TUN" in word


def same_chains(want: dict, have: dict) -> set:
    """The words of `plan_restore` about marking chains that are as wanted."""
    found = have.get("mangle", {})
    return {
        f"chain {chain} was different"
        for chain in ("SW-MIN", "SW-PUB")
        if _same(found.get(chain), want["mangle"][chain])
    }


def keep_marks(want: dict, have: dict) -> dict:
    """What is wanted, but marking goes on as it is: for as long as it is not known whether more is safe."""
    marking = {chain: have.get("mangle", {}).get(chain, []) for chain in ("SW-MIN", "SW-PUB")}
    return {**want, "mangle": {**want["mangle"], **marking}}


def plan_unmark(have: dict) -> str:
    """What ends all marking; "" if there is none."""
    chains = [chain for chain in ("SW-MIN", "SW-PUB") if have.get("mangle", {}).get(chain)]
    return "\n".join(["*mangle", *(f"-F {chain}" for chain in chains), "COMMIT", ""]) if chains else ""


def jumps(have: dict) -> list:
    """The jumps that this node needs: Docker's chain for its users is of use only where FORWARD leads to it."""
    reached = "-j DOCKER-USER" in have.get("filter", {}).get("FORWARD", ())
    return [
        jump._replace(parent="FORWARD") if jump.parent == "DOCKER-USER" and not reached else jump for jump in JUMPS
    ]


def _plan_chains(want: dict, have: dict, words: list) -> list:
    heads, bodies = [], []
    for chain, rules in want.items():
        found = have.get(chain)
        if _same(found, rules):
            continue
        words.append(f"chain {chain} was {'missing' if found is None else 'different'}")
        heads.append(f":{chain} - [0:0]")  # makes it, or empties it
        bodies += [f"-A {chain} {rule}" for rule in rules]
    return heads + bodies


def _same(found: list | None, rules: list) -> bool:
    return found is not None and len(found) == len(rules) and all(map(same_rule, found, rules))


def _plan_jump(jump: Jump, have: dict, words: list) -> list:
    rules, rule = have.get(jump.parent, []), f"-j {jump.chain}"
    places = [i for i, found in enumerate(rules) if found == rule]
    if len(places) == 1 and _is_right(jump.place, places[0], rules):
        return []
    words.append(f"jump {jump.parent} to {jump.chain} was {'out of place' if places else 'missing'}")
    put = f"-A {jump.parent} {rule}" if jump.place in (LAST, BEHIND) else f"-I {jump.parent} 1 {rule}"
    return [f"-D {jump.parent} {rule}"] * len(places) + [put]


def _is_right(place: str, at: int, rules: list) -> bool:
    if place == BEHIND:
        # Those of Docker, libvirt and others; and not those by which a container reaches itself.
        return not any("-j MASQUERADE" in rule and " ! -" in rule for rule in rules[at + 1 :])
    return at == {FIRST: 0, LAST: len(rules) - 1, ANYWHERE: at}[place]


def _stray_jumps(table: str, have: dict, words: list) -> list:
    """Jumps to our chains from where none should be: DOCKER-USER came back, and FORWARD still has its jump."""
    known = {(jump.parent, jump.chain) for jump in jumps(have) if jump.table == table}
    lines = []
    for chain, rules in have.get(table, {}).items():
        for rule in rules:
            to = _jump_to(rule) if PREFIX in rule else ""  # a node may have thousands of others
            if to and not chain.startswith(PREFIX) and (chain, to) not in known:
                words.append(f"jump {chain} to {to} was left over")
                lines.append(f"-D {chain} {rule}")
    return lines


def _jump_to(rule: str) -> str:
    found = re.fullmatch(rf"-j ({PREFIX}[A-Z]+)", rule)
    return found.group(1) if found else ""


def plan_removal(have: dict) -> str:
    """What takes all of ours out again; "" if nothing of it is there."""
    texts = []
    for table, chains in have.items():
        ours = [chain for chain in chains if chain.startswith(PREFIX)]
        lines = [
            f"-D {chain} {rule}"
            for chain, rules in chains.items()
            for rule in rules
            if _jump_to(rule) and not chain.startswith(PREFIX)
        ]
        lines += [f"-F {chain}" for chain in ours] + [f"-X {chain}" for chain in ours]
        if lines:
            texts.append(f"*{table}\n" + "\n".join(lines) + "\nCOMMIT\n")
    return "".join(texts)
