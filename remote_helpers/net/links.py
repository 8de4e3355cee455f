"""Devices, FDBs, neighbours, routes, rules, tc filters and settings of the node's networks. Pure.

What is wanted comes from the network state, what is there from rtnetlink; what differs becomes lines for
`ip -batch`, `tc -batch` and `bridge -batch`, and files to write. Not pyroute2: importing it costs a slow node
seconds (networking.md, section 6), and the three commands are there wherever Docker is. As nothing but differences
is written, they run only when something changes, four processes at most however many networks there are.

The order within a plan is the one that is safe: a vxlan device is down and in no bridge until the filter that
clears marks is on it (two guards against IPVS balancing its own outer packets, which panics a kernel).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from .kernel import NOARP, UP, Link, Route, Rule, Seen
from .numbers import (
    ANY_MAC,
    BRIDGE_MAC,
    EGRESS_BRIDGE,
    EGRESS_MAC,
    EGRESS_VNI,
    EGRESS_VXLAN,
    INGRESS,
    INGRESS_MASK,
    LOOP,
    LOOP_INNER,
    LOOP_MAC,
    PORT,
    PORT_ENCRYPTED,
    RULE_PREF,
    TABLE,
    VXLAN_MAC,
    bridge_mac,
    bridge_name,
    egress_gateway,
    egress_mac,
    egress_net,
    looks_ours,
    loop_addresses,
    loop_mac,
    vxlan_mac,
    vxlan_name,
)

MAIN, LOCAL = 254, 255
GLOBAL_SYSCTLS = {
    "net/bridge/bridge-nf-call-iptables": "1",  # VIP replies are un-NATed while bridged
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/ipv4/vs/expire_quiescent_template": "1",
    "net/ipv4/vs/conn_reuse_mode": "1",
    "net/ipv4/vs/sloppy_tcp": "0",
}
_EGRESS_SYSCTLS = {"rp_filter": "2", "send_redirects": "0"}
_LOOP_SYSCTLS = {"rp_filter": "2", "route_localnet": "1", "send_redirects": "0"}


class Vxlan(NamedTuple):
    """A vxlan device as it should be; `bridge` is "" for the one that is routed to."""

    vni: int
    local: str
    port: int
    learning: bool
    mac: str
    mtu: int
    bridge: str

    @property
    def fixed(self) -> tuple:
        """What the kernel does not change on a living device."""
        return (self.vni, self.local, self.port, self.learning)


class Wanted(NamedTuple):
    """What the node should have; devices by name."""

    bridges: dict  # name to MAC; Docker makes them
    vxlans: dict  # name to Vxlan
    addresses: set  # (device, address, prefix)
    fdb: set  # (device, MAC, destination)
    neighbours: set  # (device, address, MAC)
    routes: set
    rules: set
    arp_drops: set  # (device, network, mask)
    sysctls: dict  # path to value
    pair: dict  # name of each end of the pair to its MAC


class Step(NamedTuple):
    """Lines for one tool: `ip`, `tc`, `bridge`; or `write` with (path, value) pairs."""

    tool: str
    lines: tuple


class Plan(NamedTuple):
    """What to do, in order, and what differed."""

    steps: list
    words: list


# --- what is wanted -----------------------------------------------------------------------------------------
def wanted(state: dict) -> Wanted:
    """Devices and all that is on them, of all networks of the state."""
    found = Wanted({}, {}, set(), set(), set(), set(), set(), set(), dict(GLOBAL_SYSCTLS), {})
    _want_egress(state, found)
    _want_pair(state, found)
    underlays = {peer["n"]: peer["underlay"] for peer in state["peers"]}
    for network in state["networks"]:
        _want_network(network, state["node"]["underlay"], underlays, found)
    for device in [*found.vxlans, *found.pair]:
        found.sysctls[f"net/ipv6/conf/{device}/disable_ipv6"] = "1"
    return found


def _want_egress(state: dict, found: Wanted) -> None:
    n, underlay, mtu = state["node"]["n"], state["node"]["underlay"], int(state["egress"]["mtu"])
    gateway, device = egress_gateway(n, state), EGRESS_VXLAN
    found.bridges[EGRESS_BRIDGE] = bridge_mac(gateway)
    found.vxlans[device] = Vxlan(EGRESS_VNI, underlay, PORT, False, egress_mac(n, state), mtu, "")
    found.addresses.add((EGRESS_BRIDGE, gateway, egress_net(n, state).prefixlen))
    found.addresses.add((device, gateway, 32))
    for peer in state["peers"]:
        p, via, mac = peer["n"], egress_gateway(peer["n"], state), egress_mac(peer["n"], state)
        found.fdb.add((device, mac, peer["underlay"]))
        found.neighbours.add((device, via, mac))
        found.routes.add(Route(str(egress_net(p, state)), device, via, gateway, MAIN, False, True))
        found.routes.add(Route("default", device, via, "", TABLE + p, False, True))
        # Without `iif` the outer packets, which inherit the mark, would be routed into the device again.
        found.rules.add(Rule(EGRESS_BRIDGE, INGRESS + p, 0xFFFF, TABLE + p, RULE_PREF))
    for name in (EGRESS_BRIDGE, device):
        for key, value in _EGRESS_SYSCTLS.items():
            found.sysctls[f"net/ipv4/conf/{name}/{key}"] = value


def _want_pair(state: dict, found: Wanted) -> None:
    """The way round for what the node sends to its own loopback: out by one end, in by the other.

    The destination is the node's own where it comes in, and is not where it goes out.
    """
    outside, inside = loop_addresses(state)
    found.pair.update(dict.fromkeys((LOOP, LOOP_INNER), loop_mac(state)))
    found.routes.add(Route(f"{outside}/32", LOOP, "", "", MAIN, False, False))
    found.routes.add(Route(f"{inside}/32", LOOP_INNER, "", "", MAIN, False, False))
    found.routes.add(Route(f"{outside}/32", LOOP_INNER, "", "", TABLE, True, False))
    found.rules.add(Rule(LOOP_INNER, 0, 0, TABLE, RULE_PREF))
    for name in found.pair:
        for key, value in _LOOP_SYSCTLS.items():
            found.sysctls[f"net/ipv4/conf/{name}/{key}"] = value


def _want_network(network: dict, underlay: str, underlays: dict, found: Wanted) -> None:
    bridge, device, gateway = bridge_name(network), vxlan_name(network), network["gateway"]
    vips = ipaddress.IPv4Network(network["vips"])
    found.bridges[bridge] = bridge_mac(gateway)
    found.addresses.add((bridge, gateway, ipaddress.IPv4Network(network["subnet"]).prefixlen))
    port = PORT_ENCRYPTED if network["encrypted"] else PORT
    mtu = int(network["mtu"])
    found.vxlans[device] = Vxlan(network["vni"], underlay, port, True, vxlan_mac(gateway), mtu, bridge)
    for n in network["peers"]:
        found.fdb.add((device, ANY_MAC, underlays[n]))
    # Each node answers for VIPs itself: requests for them stay here, else the answers race.
    found.arp_drops.add((device, int(vips.network_address), int(vips.netmask)))
    found.routes.add(Route(str(vips), bridge, "", "", LOCAL, True, False))


# --- what differs -------------------------------------------------------------------------------------------
def plan_links(want: Wanted, seen: Seen, made: frozenset = frozenset()) -> Plan:
    """What makes the node have what is wanted. Bridges that are not there are left out: Docker makes them first.

    Of the bridges in `made`, which Docker made just now, nothing is told.
    """
    words: list = []
    absent = {name for name in want.bridges if name not in seen.links}
    fresh = _fresh(want, seen)
    old = _without(seen, fresh)  # what is on a device that is made anew is gone with it
    settings, late_settings = _plan_sysctls(want, seen, fresh, made, words)
    make = _plan_devices(want, old, fresh, made, absent, seen.links, words)
    guards = _plan_guards(want, old, fresh, words)
    fdb = _plan_fdb(want, old, fresh, words)
    connect = _plan_connections(want, old, fresh | made, absent, words)
    words[:0] = [f"link {name} was {'different' if name in seen.links else 'missing'}" for name in sorted(fresh)]
    steps = [
        Step("write", tuple(settings)),
        Step("ip", tuple(make)),
        Step("write", tuple(late_settings)),
        Step("tc", tuple(guards)),
        Step("bridge", tuple(fdb)),
        Step("ip", tuple(connect)),
    ]
    return Plan([step for step in steps if step.lines], words)


def _fresh(want: Wanted, seen: Seen) -> set:
    """Devices that are missing, or are others than they should be in what cannot be changed."""
    links = seen.links
    found = {name for name, one in want.vxlans.items() if name not in links or links[name].vxlan != one.fixed}
    if any(name not in links or links[name].mac != mac for name, mac in want.pair.items()):
        found |= set(want.pair)  # one end is not without the other
    return found


def _without(seen: Seen, devices: set) -> Seen:
    return seen._replace(
        links={name: link for name, link in seen.links.items() if name not in devices},
        addresses={one for one in seen.addresses if one[0] not in devices},
        fdb={one for one in seen.fdb if one[0] not in devices},
        neighbours={one for one in seen.neighbours if one[0] not in devices},
        routes={one for one in seen.routes if one.device not in devices},
        guards=seen.guards - devices,
        arp_drops={one for one in seen.arp_drops if one[0] not in devices},
        filters={one for one in seen.filters if one[0] not in devices},
    )


def _plan_sysctls(want: Wanted, seen: Seen, fresh: set, made: frozenset, words: list) -> tuple:
    now, late = [], []
    for path, value in sorted(want.sysctls.items()):
        device = _device_of(path)
        if device in fresh:
            late.append((f"/proc/sys/{path}", value))
        elif path in seen.sysctls and seen.sysctls[path] != value:
            if device not in made:
                words.append(f"sysctl {path.replace('/', '.')} was {seen.sysctls[path]}")
            now.append((f"/proc/sys/{path}", value))
    return now, late


def _plan_devices(
    want: Wanted, old: Seen, fresh: set, made: frozenset, absent: set, there: dict, words: list
) -> list:
    lines = []
    for name, device in sorted(want.vxlans.items()):
        if name in fresh:
            if name in there:
                lines.append(f"link del {name}")
            learning = "learning" if device.learning else "nolearning"
            # No checksum over the outer packet (RFC 7348, section 5, says it should be 0): what is inside has its
            # own, and without hardware that checks it the receiver would join no packets into larger ones.
            lines.append(
                f"link add {name} address {device.mac} mtu {device.mtu} type vxlan id {device.vni} "
                f"local {device.local} dstport {device.port} {learning} ttl 64 noudpcsum"
            )
            if not device.bridge:
                lines.append(f"link set {name} arp off")
            continue
        link = old.links[name]
        if link.mac != device.mac:
            words.append(f"MAC of {name} was {link.mac}")
            lines.append(f"link set {name} address {device.mac}")
        if link.mtu != device.mtu:
            words.append(f"MTU of {name} was {link.mtu}")
            lines.append(f"link set {name} mtu {device.mtu}")
        if not device.bridge and not link.flags & NOARP:
            words.append(f"ARP of {name} was on")
            lines.append(f"link set {name} arp off")
    lines += _plan_pair(want, old, fresh, there, words)
    for name, mac in sorted(want.bridges.items()):
        if name not in absent and old.links[name].mac != mac:
            if name not in made:
                words.append(f"MAC of {name} was {old.links[name].mac}")
            lines.append(f"link set {name} address {mac}")
    for device, address, prefix in sorted(want.addresses - old.addresses):
        if device not in absent:
            if device not in fresh | made:
                words.append(f"address {address} of {device} was missing")
            lines.append(f"address add {address}/{prefix} dev {device}")
    return lines


def _plan_pair(want: Wanted, old: Seen, fresh: set, there: dict, words: list) -> list:
    if not fresh & set(want.pair):
        arp = [name for name in sorted(want.pair) if not old.links[name].flags & NOARP]
        words += [f"ARP of {name} was on" for name in arp]
        return [f"link set {name} arp off" for name in arp]
    lines = [f"link del {name}" for name in (LOOP, LOOP_INNER) if name in there][:1]  # with the other
    mac = want.pair[LOOP]
    lines.append(f"link add {LOOP} address {mac} type veth peer name {LOOP_INNER} address {mac}")
    return lines + [f"link set {name} arp off" for name in (LOOP, LOOP_INNER)]


def _plan_guards(want: Wanted, old: Seen, fresh: set, words: list) -> list:
    lines = []
    drops = {one[0]: one for one in want.arp_drops}
    for name in sorted(want.vxlans):
        no_guard = name not in old.guards
        no_drop = name in drops and drops[name] not in old.arp_drops
        if not no_guard and not no_drop:
            continue
        if name in fresh or not any(device == name for device, _ in old.filters):
            lines.append(f"qdisc replace dev {name} clsact")
        if no_guard:
            if name not in fresh:
                words.append(f"mark guard of {name} was missing")
            lines += _filter(name, 2, "protocol all", "matchall action skbedit mark 0", old)
        if no_drop:
            if name not in fresh:
                words.append(f"ARP filter of {name} was missing")
            _, net, mask = drops[name]
            lines += _filter(name, 1, "protocol arp", f"u32 match u32 {net:#x} {mask:#x} at 24 action drop", old)
    return lines


def _filter(device: str, prio: int, protocol: str, rest: str, old: Seen) -> list:
    lines = [f"filter del dev {device} egress prio {prio}"] if (device, prio) in old.filters else []
    return [*lines, f"filter add dev {device} egress {protocol} prio {prio} {rest}"]


def _plan_fdb(want: Wanted, old: Seen, fresh: set, words: list) -> list:
    lines = []
    # What points elsewhere goes first: `replace` does not move an entry to another node.
    for device, mac, dst in sorted(old.fdb - want.fdb):
        if device in want.vxlans:
            words.append(f"FDB entry {mac} to {dst} of {device} was left over")
            lines.append(f"fdb del {mac} dev {device} dst {dst} self")
    for device, mac, dst in sorted(want.fdb - old.fdb):
        if device not in fresh:
            words.append(f"FDB entry {mac} to {dst} of {device} was missing")
        lines.append(f"fdb append {mac} dev {device} dst {dst} self permanent")
    return lines


def _plan_connections(want: Wanted, old: Seen, fresh: set, absent: set, words: list) -> list:
    lines = []
    for route in sorted(old.routes - want.routes):
        ours = route.device == EGRESS_VXLAN or route.device in want.pair
        if ours or (route.local and route.device in want.bridges):
            words.append(f"route {route.dst} by {route.device} was left over")
            lines.append(f"route del {_route(route)}")
    for rule in sorted(_our_rules(old.rules) - want.rules):
        words.append(f"{_about(rule)} was left over")
        lines.append(f"rule del {_rule(rule)}")
    for device, address, _ in sorted(old.neighbours - want.neighbours):
        if device == EGRESS_VXLAN and address not in {one[1] for one in want.neighbours}:
            words.append(f"neighbour {address} of {device} was left over")
            lines.append(f"neigh del {address} dev {device}")
    lines += _plan_bridging(want, old, fresh, absent, words)
    for device, address, mac in sorted(want.neighbours - old.neighbours):
        if device not in fresh:
            words.append(f"neighbour {address} of {device} was missing")
        lines.append(f"neigh replace {address} lladdr {mac} dev {device} nud permanent")
    for route in sorted(want.routes - old.routes):
        if route.device in absent:
            continue
        if route.device not in fresh:
            words.append(f"route {route.dst} by {route.device} was missing")
        lines.append(f"route replace {_route(route)}")
    for rule in sorted(want.rules - old.rules):
        words.append(f"{_about(rule)} was missing")
        lines.append(f"rule add {_rule(rule)}")
    return lines


def _plan_bridging(want: Wanted, old: Seen, fresh: set, absent: set, words: list) -> list:
    lines = []
    for name, device in sorted(want.vxlans.items()):
        if device.bridge in absent:
            continue  # stays down: Docker could not make the bridge
        link = old.links.get(name)
        if device.bridge and (link is None or link.master != old.links[device.bridge].index):
            if name not in fresh:
                words.append(f"link {name} was not in {device.bridge}")
            lines.append(f"link set {name} master {device.bridge}")
        if link is None or not link.flags & UP:
            if name not in fresh:
                words.append(f"link {name} was down")
            lines.append(f"link set {name} up")
    for name in sorted(want.pair):
        if name not in old.links or not old.links[name].flags & UP:
            if name not in fresh:
                words.append(f"link {name} was down")
            lines.append(f"link set {name} up")
    for name in sorted(want.bridges):
        if name not in absent and not old.links[name].flags & UP:
            words.append(f"link {name} was down")
            lines.append(f"link set {name} up")
    return lines


def _our_rules(rules: set) -> set:
    ours = ((EGRESS_BRIDGE, RULE_PREF, INGRESS), (LOOP_INNER, RULE_PREF, 0))
    return {one for one in rules if (one.iif, one.pref, one.mark & INGRESS_MASK) in ours}


def _route(route: Route) -> str:
    words = ["local", route.dst] if route.local else [route.dst]
    words += ["via", route.via] if route.via else []
    words += ["dev", route.device]
    words += ["onlink"] if route.onlink else []
    words += ["src", route.src] if route.src else []
    return " ".join([*words, "table", str(route.table)])


def _rule(rule: Rule) -> str:
    mark = f"fwmark {rule.mark:#x}/{rule.mask:#x} " if rule.mark else ""
    return f"iif {rule.iif} {mark}lookup {rule.table} pref {rule.pref}"


def _about(rule: Rule) -> str:
    return f"rule for mark {rule.mark:#x}" if rule.mark else f"rule for {rule.iif}"


# --- whose a device is ----------------------------------------------------------------------------------------
def is_ours(link: Link) -> bool:
    """Whether a device was made for one of our networks: by its name alone it may be a user's.

    A bridge that Docker made when the node booted has no MAC of ours yet: of such ones the Engine must be asked.
    """
    if not looks_ours(link.name):
        return False
    if link.kind == "bridge":
        return link.name == EGRESS_BRIDGE or _has_mac(link, BRIDGE_MAC)
    if link.name in (LOOP, LOOP_INNER):
        return link.kind == "veth" and _has_mac(link, LOOP_MAC)
    if link.kind != "vxlan":
        return False
    if link.name == EGRESS_VXLAN:
        return _has_mac(link, EGRESS_MAC) or link.vxlan[:1] == (EGRESS_VNI,)
    vni, port = (link.vxlan[0], link.vxlan[2]) if link.vxlan else (0, 0)
    return _has_mac(link, VXLAN_MAC) or (link.name == f"sv{vni:x}" and port in (PORT, PORT_ENCRYPTED))


def _has_mac(link: Link, kind: int) -> bool:
    return link.mac.startswith(f"02:{kind:02x}:")


def strangers(want: Wanted, seen: Seen) -> list:
    """Names of wanted devices that are another's, which is left alone."""
    return sorted(
        name
        for name in [*want.vxlans, *want.bridges, *want.pair]
        if name in seen.links
        and (seen.links[name].kind != "bridge" if name in want.bridges else not is_ours(seen.links[name]))
    )


def strange_bridges(want: Wanted, seen: Seen) -> list:
    """Wanted bridges that are there without a MAC of ours: Docker's after a boot, or somebody's."""
    return sorted(
        name
        for name, mac in want.bridges.items()
        if name in seen.links and seen.links[name].kind == "bridge" and seen.links[name].mac != mac
    )


# --- what is left out, checked and removed --------------------------------------------------------------------
def without(want: Wanted, devices: set) -> Wanted:
    """What is wanted without these devices and what is on them; bridges stay."""
    pair = want.pair
    if devices & set(pair):
        pair, devices = {}, devices | set(pair)
    return want._replace(
        pair=pair,
        vxlans={name: one for name, one in want.vxlans.items() if name not in devices},
        addresses={one for one in want.addresses if one[0] not in devices},
        fdb={one for one in want.fdb if one[0] not in devices},
        neighbours={one for one in want.neighbours if one[0] not in devices},
        routes={one for one in want.routes if one.device not in devices},
        arp_drops={one for one in want.arp_drops if one[0] not in devices},
        sysctls={path: value for path, value in want.sysctls.items() if _device_of(path) not in devices},
    )


def _device_of(path: str) -> str:
    return path.split("/")[3] if "/conf/" in path else ""


def is_whole(name: str, want: Wanted, seen: Seen) -> bool:
    """Whether a vxlan device does its work: up, with its guard, in its bridge, and that one up as well."""
    one, link = want.vxlans[name], seen.links.get(name)
    if link is None or link.vxlan != one.fixed or not link.flags & UP or name not in seen.guards:
        return False
    bridge = seen.links.get(one.bridge or EGRESS_BRIDGE)
    return bridge is not None and bool(bridge.flags & UP) and (not one.bridge or link.master == bridge.index)


def unguarded(seen: Seen) -> list:
    """Vxlan devices without the filter that clears marks: while there is one, nothing may be marked for IPVS."""
    return sorted(name for name, link in seen.links.items() if name not in seen.guards and _is_vxlan(link))


def _is_vxlan(link: Link) -> bool:
    return link.kind == "vxlan" and is_ours(link)


def plan_removal(want: Wanted, seen: Seen) -> Plan:
    """What takes away vxlan devices, routes and rules that are not wanted; bridges are Docker's."""
    lines, words = [], []
    for name, link in sorted(seen.links.items()):
        if _is_vxlan(link) and name not in want.vxlans:
            words.append(f"link {name} was left over")
            lines.append(f"link del {name}")
    loose = [name for name in (LOOP, LOOP_INNER) if name in seen.links and is_ours(seen.links[name])]
    if loose and not want.pair:
        words.append(f"link {loose[0]} was left over")
        lines.append(f"link del {loose[0]}")  # with the other
    for route in sorted(seen.routes):
        link = seen.links.get(route.device)
        if not route.local or link is None or link.kind != "bridge":
            continue
        if is_ours(link) and route.device not in want.bridges:
            lines.append(f"route del {_route(route)}")
    for rule in sorted(_our_rules(seen.rules) - want.rules):
        lines.append(f"rule del {_rule(rule)}")
    return Plan([Step("ip", tuple(lines))] if lines else [], words)


def spare_bridges(want: Wanted, seen: Seen) -> dict:
    """Name to whether it is surely ours, of bridges with a name like ours that are not wanted."""
    return {
        name: is_ours(link)
        for name, link in sorted(seen.links.items())
        if link.kind == "bridge" and looks_ours(name) and name not in want.bridges
    }


def is_untouched(found: dict, rules: set) -> bool:
    """Whether no device and no rule shows that we were here; `found` is name to Link."""
    return not any(looks_ours(name) for name in found) and not _our_rules(rules)


def plan_hairpin(found: dict) -> Plan:
    """Hairpin for each container's port of our bridges: a task calls its own service through it.

    `found` is name to Link. Which task a port belongs to does not matter, so the Engine need not be asked.
    """
    bridges = {link.index: name for name, link in found.items() if link.kind == "bridge" and is_ours(link)}
    ports = [
        name
        for name, link in sorted(found.items())
        if link.master in bridges and link.hairpin is False and not _is_vxlan(link)
    ]
    lines = tuple((f"/sys/class/net/{name}/brport/hairpin_mode", "1") for name in ports)
    words = [f"hairpin of {name} in {bridges[found[name].master]} was off" for name in ports]
    return Plan([Step("write", lines)] if lines else [], words)


NOTHING = Wanted({}, {}, set(), set(), set(), set(), set(), set(), {}, {})
