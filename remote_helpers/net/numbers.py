"""Names, numbers and addresses that all nodes derive alike from the network state: pure.

Where a number is not given by the state, every node must come to the same one, so they are all here.
"""

from __future__ import annotations

import ipaddress
import re
import socket

MARK, MARK_MASK = 0x53000000, 0xFF000000  # fwmarks of IPVS services: MARK + id
INGRESS, INGRESS_MASK = 0x5F00, 0xFF00  # connmarks of connections that came in by node n: INGRESS + n
MOST_NODES = 255  # what fits INGRESS
TABLE, RULE_PREF = 24200, 1000  # route table of answers that leave by node n: TABLE + n
PORT, PORT_ENCRYPTED = 4789, 4790  # UDP
EGRESS, EGRESS_BRIDGE, EGRESS_VXLAN = "swgw", "swgw0", "swgwv"
EGRESS_VNI = 4095  # networks begin at 4096
ANY_MAC = "00:00:00:00:00:00"  # in an FDB: where frames to unknown addresses are flooded


class BadState(Exception):
    """The network state cannot be right; the message names the field."""


def check_state(state: dict) -> None:
    """Raises BadState where a number would be taken for another one on the wire, and for what is no address.

    Addresses and protocols become part of the texts that iptables and ip read.
    """
    try:
        _check_numbers(state)
        _check_addresses(state)
    except (KeyError, TypeError, ValueError, OSError) as e:
        raise BadState(f"network state: {type(e).__name__}: {e}") from e


def _check_numbers(state: dict) -> None:
    if state.get("v") != 1:
        raise BadState(f"network state: v is {state.get('v')!r}, known is 1")
    pool, prefix = ipaddress.ip_network(state["egress"]["pool"]), int(state["egress"]["prefix"])
    for node in [state["node"], *state["peers"]]:
        if not 0 < node["n"] <= MOST_NODES:
            raise BadState(f"network state: node number {node['n']} is not in 1 to {MOST_NODES}")
        if node["n"] >= 1 << (prefix - pool.prefixlen):
            raise BadState(f"network state: {pool} has no /{prefix} for node number {node['n']}")
    known = {peer["n"] for peer in state["peers"]}
    for network in state["networks"]:
        if not EGRESS_VNI < network["vni"] < 1 << 24:
            raise BadState(f"network {network['name']}: VNI {network['vni']} cannot be used")
        strangers = set(network["peers"]) - known
        if strangers:
            raise BadState(f"network {network['name']}: peers {sorted(strangers)} are not in peers")
    for one in [*state["vips"], *state["ports"]]:
        if not 0 < one["id"] < 1 << 24:
            raise BadState(f"network state: id {one['id']} does not fit a mark")


def _check_addresses(state: dict) -> None:
    addresses = [node["underlay"] for node in [state["node"], *state["peers"]]]
    addresses += [network["gateway"] for network in state["networks"]]
    addresses += [vip["address"] for vip in state["vips"]]
    addresses += [port["bind"] for port in state["ports"] if port["bind"]]
    addresses += [address for task in state["tasks"] for address in task["addresses"]]
    addresses += [dest["address"] for one in [*state["vips"], *state["ports"]] for dest in one["dests"]]
    for address in addresses:
        socket.inet_pton(socket.AF_INET, address)
    known = {network["id"] for network in state["networks"]}
    for vip in state["vips"]:
        if vip["network"] not in known:
            raise BadState(f"VIP {vip['address']}: its network is not in networks")
    for port in state["ports"]:
        if port["protocol"] not in ("tcp", "udp"):
            raise BadState(f"port {port['port']}: protocol {port['protocol']!r} is not tcp or udp")


def mac(kind: int, address: str) -> str:
    """A locally administered MAC address that tells its IPv4 address: `02:<kind>:<address>`."""
    return ":".join("%02x" % byte for byte in (2, kind, *ipaddress.IPv4Address(address).packed))


def bridge_mac(gateway: str) -> str:
    """Of a node's bridge, by its address there."""
    return mac(0x5D, gateway)


def vxlan_mac(gateway: str) -> str:
    """Of a network's vxlan device: no packet carries it, but equal ones on two nodes would confuse the bridges."""
    return mac(0x5E, gateway)


def egress_mac(n: int, state: dict) -> str:
    """Of node n's `swgwv`: by it the others know through which node a packet came in."""
    return mac(0x5F, egress_gateway(n, state))


def egress_net(n: int, state: dict) -> ipaddress.IPv4Network:
    """Node n's own part of the egress pool."""
    pool, prefix = ipaddress.IPv4Network(state["egress"]["pool"]), int(state["egress"]["prefix"])
    return ipaddress.IPv4Network((int(pool.network_address) + (n << (32 - prefix)), prefix))


def egress_gateway(n: int, state: dict) -> str:
    """Node n's address in its egress net: the first one."""
    return str(egress_net(n, state).network_address + 1)


def bridge_name(network: dict) -> str:
    """`sb1000` for VNI 4096."""
    return "sb%x" % network["vni"]


def vxlan_name(network: dict) -> str:
    """`sv1000` for VNI 4096."""
    return "sv%x" % network["vni"]


def is_ours(device: str) -> bool:
    """Whether a device has a name that only our networks' devices have."""
    return device in (EGRESS_BRIDGE, EGRESS_VXLAN) or re.fullmatch("s[bv][0-9a-f]{4,6}", device) is not None
