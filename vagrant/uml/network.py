"""The lab's network: a namespace with one bridge, a tap a machine, and a side door for the lab itself.

The manager and all clients live in the namespace, at HOST_ADDRESS on the bridge. The lab's own
commands come from a second namespace, plugged into the same bridge, so that a machine that is cut off
from everybody can still be looked into. Nothing is routed out.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import LabError
from .paths import LabPaths
from .process import run

HOST_ADDRESS = "10.98.0.1"
ADMIN_ADDRESS = "10.98.0.2"
PREFIX_BITS = 24
BRIDGE = "br0"
BRIDGE_MAC = "02:00:00:00:00:fe"
ADMIN_PORT = "adm0"
ADMIN_MAC = "02:00:00:00:00:fd"
NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)

# Cuts are sets of an nftables table in the bridge: changing an element is one atomic message, and what
# is flooded (ARP, broadcast) is judged for each port that it would leave by.
CUTS = f"""
table bridge lab {{
  set cut {{ type ifname; }}
  set cut_manager {{ type ifname; }}
  set cut_pair {{ type ifname . ifname; }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname {ADMIN_PORT} accept
    oifname {ADMIN_PORT} accept
    iifname @cut drop
    oifname @cut drop
    iifname . oifname @cut_pair drop
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname @cut drop
    iifname @cut_manager drop
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    oifname @cut drop
    oifname @cut_manager drop
  }}
}}
"""


def node_address(index: int) -> str:
    """The address of machine `index` (from 1)."""
    return f"10.98.0.{10 + index}"


def node_mac(index: int) -> str:
    """The hardware address of machine `index` (from 1)."""
    return f"02:00:00:00:00:{index:02x}"


def exists(namespace: str) -> bool:
    """Whether a named network namespace is there."""
    return (NETNS_DIR / namespace).exists()


def ensure_network(paths: LabPaths, nodes: int) -> None:
    """Make both namespaces, the bridge, its ports and the table of cuts; repeating it changes nothing."""
    inside, admin = paths.namespace, paths.admin_namespace
    if not exists(inside):
        run(["ip", "netns", "add", inside])
        _sysctls(inside)
        _ip(
            inside,
            "link set lo up",
            f"link add {BRIDGE} address {BRIDGE_MAC} type bridge forward_delay 0 stp_state 0",
            f"address add {HOST_ADDRESS}/{PREFIX_BITS} broadcast + dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )
        run(["nft", "-f", "-"], stdin=CUTS.encode(), namespace=inside)
    if not exists(admin):
        run(["ip", "netns", "add", admin])
        _sysctls(admin)
        _ip(
            inside,
            f"link add {ADMIN_PORT} type veth peer name eth0 address {ADMIN_MAC} netns {admin}",
            f"link set {ADMIN_PORT} master {BRIDGE} up",
        )
        _ip(
            admin,
            "link set lo up",
            "link set eth0 up",
            f"address add {ADMIN_ADDRESS}/{PREFIX_BITS} broadcast + dev eth0",
        )
    for index in range(1, nodes + 1):
        ensure_tap(paths, index)


def ensure_tap(paths: LabPaths, index: int) -> None:
    """Make the link of machine `index`, and the side door's fixed neighbour entry for it."""
    tap = f"tap{index}"
    if tap not in links(paths.namespace):
        _ip(paths.namespace, f"tuntap add {tap} mode tap", f"link set {tap} master {BRIDGE} up")
    _ip(
        paths.admin_namespace,
        f"neigh replace {node_address(index)} lladdr {node_mac(index)} dev eth0 nud permanent",
    )


def remove_network(paths: LabPaths) -> None:
    """Remove both namespaces, and with them every link."""
    for namespace in (paths.admin_namespace, paths.namespace):
        if exists(namespace):
            run(["ip", "netns", "del", namespace])


def links(namespace: str) -> set[str]:
    """Names of the links in a namespace."""
    listing = run(["ip", "-n", namespace, "-o", "link", "show"])
    return {line.split(":")[1].strip().split("@")[0] for line in listing.splitlines()}


def change_cut(paths: LabPaths, *, add: bool, set_name: str, element: str) -> None:
    """Put an element into a set of the table of cuts, or take it out; both may be repeated."""
    if not add and element not in cut_elements(paths, set_name):
        return
    run(
        ["nft", "add" if add else "delete", "element", "bridge", "lab", set_name, f"{{ {element} }}"],
        namespace=paths.namespace,
    )


def cut_elements(paths: LabPaths, set_name: str) -> set[str]:
    """Elements of a set of cuts: `tap1`, or `tap1 . tap2` for pairs."""
    listing = run(["nft", "list", "set", "bridge", "lab", set_name], namespace=paths.namespace)
    _, _, rest = listing.partition("elements = {")
    return {part.strip().replace('"', "") for part in rest.partition("}")[0].split(",") if part.strip()}


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace; sees its links, keeps the host's files."""
    try:
        descriptor = os.open(NETNS_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise LabError(f"there is no network namespace {namespace}", "Is the lab up?") from err
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise LabError(f"entering namespace {namespace}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def within(namespace: str, act: Callable[[], T]) -> T:
    """Call `act` in a thread of its own inside a namespace (threads have their own), and return its result."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            results.append(act())
        except BaseException as err:  # handed to the caller, whole
            failures.append(err)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def port_answers(namespace: str, address: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether a TCP connection from inside the namespace is accepted, and something is said to it."""

    def attempt() -> bool:
        try:
            with socket.create_connection((address, port), timeout=timeout_s) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    return within(namespace, attempt)


def _sysctls(namespace: str) -> None:
    """No forwarding, no IPv6 chatter, ARP only for the asked link's own address."""
    values = {
        "net/ipv4/ip_forward": "0",
        "net/ipv6/conf/all/disable_ipv6": "1",
        "net/ipv6/conf/default/disable_ipv6": "1",
        "net/ipv4/conf/all/arp_ignore": "1",
    }

    def write() -> None:
        for key, value in values.items():
            file = Path("/proc/sys") / key
            if file.exists():
                file.write_text(value)

    within(namespace, write)


def _ip(namespace: str, *commands: str) -> None:
    run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(commands).encode())
