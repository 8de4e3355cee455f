"""Names, numbers and addresses that all nodes derive alike from the network state: pure.

Where a number is not given by the state, every node must come to the same one, so they are all here.
"""

from __future__ import annotations

import ipaddress
import re
import socket

MARK, MARK_MASK = 0x53000000, 0xFF000000  # fwmarks of IPVS services: MARK + id
INGRESS, INGRESS_MASK = 0x5F00, 0xFF00  # connmarks of connections that came in by node n: INGRESS + n
MOST_TIMEOUT_S = (1 << 31) // 1000 - 1  # what IPVS can count of the shortest ticks that kernels have
MOST_NODES = 255  # what fits INGRESS
TABLE, RULE_PREF = 24200, 1000  # route table of answers that leave by node n: TABLE + n
PORT, PORT_ENCRYPTED = 4789, 4790  # UDP
# Where the name server listens, UDP and TCP. Not on 53: that is left to a container with `mode=host`, for which
# Docker binds 0.0.0.0. No port that the kernel hands out by itself (from 32768 on), and none that IANA has given.
DNS_PORT = 4792
EGRESS, EGRESS_BRIDGE, EGRESS_VXLAN = "swgw", "swgw0", "swgwv"
LOOP, LOOP_INNER = "swlo0", "swlo1"  # a pair: what the node sends to its own loopback comes back by it
EGRESS_VNI = 4095  # networks begin at 4096
VXLAN_MAC, BRIDGE_MAC, EGRESS_MAC, LOOP_MAC = 0x5E, 0x5D, 0x5F, 0x5C  # second byte of the MACs that we give
SCHEDULER = re.compile("[a-z]{0,15}")  # "": the default; which of them there are the kernel knows
ANY_MAC = "00:00:00:00:00:00"  # in an FDB: where frames to unknown addresses are flooded


class BadState(Exception):
    """The network state cannot be right; the message names the field."""


class NotClosed(Exception):
    """It is not sure that no packet of an encrypted network passes in plaintext."""


def is_empty(state: dict) -> bool:
    """Whether nothing of ours is to be on the node: no networks, ports and tasks. Raises BadState."""
    try:
        return not any(len(state.get(section) or ()) for section in ("networks", "ports", "tasks"))
    except (AttributeError, TypeError) as e:
        raise BadState(f"network state: {type(e).__name__}: {e}") from e


def check_state(state: dict) -> None:
    """Raises BadState for what is missing or cannot be: nothing has been touched then. Unknown keys are let be.

    Addresses, protocols and schedulers become part of texts that iptables and ip read, and numbers part of names.
    """
    try:
        _check_nodes(state)
        for network in state["networks"]:
            _check_network(network, {peer["n"] for peer in state["peers"]})
        known = {network["id"] for network in state["networks"]}
        for vip in state["vips"]:
            _check_balanced(vip, port=False)
            _check_address(vip["address"])
            if vip["network"] not in known:
                raise BadState(f"VIP {vip['address']}: its network is not in networks")
        for port in state["ports"]:
            _check_balanced(port, port=True)
            _check_number("port", port["port"], 1, 65535)
            if port["bind"]:
                _check_address(port["bind"])
            if port["protocol"] not in ("tcp", "udp"):
                raise BadState(f"port {port['port']}: protocol {port['protocol']!r} is not tcp or udp")
        for task in state["tasks"]:
            for address in task["addresses"]:
                _check_address(address)
        _check_once(state)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as e:
        raise BadState(f"network state: {type(e).__name__}: {e}") from e


def _check_nodes(state: dict) -> None:
    if state.get("v") != 1:
        raise BadState(f"network state: v is {state.get('v')!r}, known is 1")
    _check_number("MTU", state["egress"]["mtu"], 576, 65535)
    prefix = state["egress"]["prefix"]
    _check_number("prefix", prefix, 8, 30)
    timeouts = state["egress"].get("timeouts_s")
    for kind in ("tcp", "tcp_fin", "udp") if timeouts is not None else ():
        _check_number(f"timeout {kind}", timeouts[kind], 1, MOST_TIMEOUT_S)  # 0 would leave what there is
    pool = _check_net(state["egress"]["pool"])
    for node in [state["node"], *state["peers"]]:
        _check_number("node number", node["n"], 1, MOST_NODES)
        if node["n"] >= 1 << (prefix - pool.prefixlen):
            raise BadState(f"network state: {pool} has no /{prefix} for node number {node['n']}")
        _check_address(node["underlay"])


def _check_network(network: dict, known: set) -> None:
    name = network["name"]
    for key in ("id", "name"):
        if not isinstance(network[key], str) or not network[key]:
            raise BadState(f"network {name}: {key} is {network[key]!r}")
    _check_number(f"network {name}: VNI", network["vni"], EGRESS_VNI + 1, (1 << 24) - 1)
    _check_number(f"network {name}: MTU", network["mtu"], 576, 65535)
    subnet, vips = _check_net(network["subnet"]), _check_net(network["vips"])
    _check_address(network["gateway"])
    if not vips.subnet_of(subnet) or ipaddress.IPv4Address(network["gateway"]) not in subnet:
        raise BadState(f"network {name}: {network['gateway']} or {vips} is not in {subnet}")
    for key in ("encrypted", "internal"):
        if not isinstance(network[key], bool):
            raise BadState(f"network {name}: {key} is {network[key]!r}")
    for key, value in network["labels"].items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise BadState(f"network {name}: label {key!r} is no text")
    strangers = set(network["peers"]) - known
    if strangers:
        raise BadState(f"network {name}: peers {sorted(strangers)} are not in peers")


def _check_balanced(one: dict, *, port: bool) -> None:
    _check_number("id", one["id"], 1, (1 << 24) - 1)  # what fits a mark
    _check_number("persist_s", one["persist_s"], 0, 1 << 24)
    if not SCHEDULER.fullmatch(one["scheduler"]):
        raise BadState(f"network state: scheduler {one['scheduler']!r}")
    for dest in one["dests"]:
        _check_address(dest["address"])
        _check_number("weight", dest["weight"], 0, 65535)
        if port:
            _check_number("port", dest["port"], 1, 65535)


def _check_once(state: dict) -> None:
    """What would make one thing out of two."""
    for what, found in (
        ("node number", [node["n"] for node in [state["node"], *state["peers"]]]),
        ("network", [network["id"] for network in state["networks"]]),
        ("network name", [EGRESS, *(network["name"] for network in state["networks"])]),
        ("VNI", [network["vni"] for network in state["networks"]]),
        ("id", [one["id"] for one in [*state["vips"], *state["ports"]]]),
    ):
        if len(set(found)) < len(found):
            raise BadState(f"network state: one {what} is there twice")


def _check_number(what: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise BadState(f"network state: {what} {value!r} is not in {least} to {most}")


def _check_address(text: str) -> None:
    socket.inet_pton(socket.AF_INET, text)


def _check_net(text: str) -> ipaddress.IPv4Network:
    """As iptables-save shows it, which is held against what is wanted."""
    found = ipaddress.IPv4Network(text)
    if str(found) != text:
        raise BadState(f"network state: {text!r} is to be written {found}")
    return found


def mac(kind: int, address: str) -> str:
    """A locally administered MAC address that tells its IPv4 address: `02:<kind>:<address>`."""
    return ":".join("%02x" % byte for byte in (2, kind, *ipaddress.IPv4Address(address).packed))


def bridge_mac(gateway: str) -> str:
    """Of a node's bridge, by its address there."""
    return mac(BRIDGE_MAC, gateway)


def vxlan_mac(gateway: str) -> str:
    """Of a network's vxlan device: no packet carries it, but equal ones on two nodes would confuse the bridges."""
    return mac(VXLAN_MAC, gateway)


def egress_mac(n: int, state: dict) -> str:
    """Of node n's `swgwv`: by it the others know through which node a packet came in."""
    return mac(EGRESS_MAC, egress_gateway(n, state))


def egress_net(n: int, state: dict) -> ipaddress.IPv4Network:
    """Node n's own part of the egress pool."""
    pool, prefix = ipaddress.IPv4Network(state["egress"]["pool"]), int(state["egress"]["prefix"])
    return ipaddress.IPv4Network((int(pool.network_address) + (n << (32 - prefix)), prefix))


def egress_gateway(n: int, state: dict) -> str:
    """Node n's address in its egress net: the first one."""
    return str(egress_net(n, state).network_address + 1)


def loop_addresses(state: dict) -> tuple:
    """What a node sends to its own loopback goes (to, from): addresses of node 0, which there is not; nobody else
    sees them.
    """
    first = int(egress_net(0, state).network_address)
    return str(ipaddress.IPv4Address(first + 1)), str(ipaddress.IPv4Address(first + 2))


def loop_mac(state: dict) -> str:
    """Of both ends of the pair: without ARP a device sends to its own address."""
    return mac(LOOP_MAC, loop_addresses(state)[0])


def bridge_name(network: dict) -> str:
    """`sb1000` for VNI 4096."""
    return "sb%x" % network["vni"]


def vxlan_name(network: dict) -> str:
    """`sv1000` for VNI 4096."""
    return "sv%x" % network["vni"]


def looks_ours(device: str) -> bool:
    """Whether a device has a name that our networks' devices have; a user's `sbcafe` has one as well."""
    return (
        device in (EGRESS_BRIDGE, EGRESS_VXLAN, LOOP, LOOP_INNER)
        or re.fullmatch("s[bv][0-9a-f]{4,6}", device) is not None
    )
