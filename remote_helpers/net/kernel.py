"""What the kernel holds of links, addresses, FDBs, neighbours, routes, rules and tc filters, read by rtnetlink.

One dump a kind and no process: the state is looked at every few seconds, and on a slow node a process costs more
than all dumps together. Numbers are from linux/if_link.h, rtnetlink.h, neighbour.h, fib_rules.h and pkt_cls.h.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

from .netlink import Netlink, pack_u32, parse_attributes, u32

ROUTE = 0  # NETLINK_ROUTE
GET_LINK, GET_ADDRESS, GET_ROUTE, GET_NEIGHBOUR, GET_RULE, GET_FILTER = 18, 22, 26, 30, 34, 46
AF_BRIDGE = 7
UP, NOARP = 0x1, 0x80
PERMANENT = 0x80
SELF = 0x02
ONLINK = 4
CLONED = 0x200
LOCAL_TYPE, LOCAL_TABLE, BY_KERNEL = 2, 255, 2
CLSACT_EGRESS = 0xFFFFFFF3
ETH_ALL, ETH_ARP = 0x0003, 0x0806
DROP = 2
SKIP_STATS = 8
# Family to the attribute with its settings (IFLA_INET_CONF, IFLA_INET6_CONF); and where in them a setting is, with
# which a file less is to be read (linux/ip.h counts from 1, linux/ipv6.h from 0).
_CONF = {socket.AF_INET: 1, socket.AF_INET6: 2}
_TOLD = {
    ("ipv4", "send_redirects"): (socket.AF_INET, 5),
    ("ipv4", "rp_filter"): (socket.AF_INET, 7),
    ("ipv4", "route_localnet"): (socket.AF_INET, 25),
    ("ipv6", "disable_ipv6"): (socket.AF_INET6, 26),
}


class Link(NamedTuple):
    """A network device."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    master: int  # index of its bridge; 0: none
    vxlan: tuple = ()  # (vni, local address, port, learning)
    hairpin: bool | None = None  # None: no port of a bridge
    settings: tuple = ()  # (family, its numbers) of what /proc/sys/net/ipv4|ipv6/conf has of the device


class Route(NamedTuple):
    """A route; `dst` is `default` or with its prefix."""

    dst: str
    device: str
    via: str
    src: str
    table: int
    local: bool
    onlink: bool


class Rule(NamedTuple):
    """A rule of policy routing."""

    iif: str
    mark: int
    mask: int
    table: int
    pref: int


class Seen(NamedTuple):
    """What was found; devices by name."""

    links: dict  # name to Link
    addresses: set  # (device, address, prefix)
    fdb: set  # (device, MAC, destination), permanent ones of our vxlan devices
    neighbours: set  # (device, address, MAC), permanent ones
    routes: set  # Route: those by devices of ours
    rules: set  # Rule: all with a mark or a device
    guards: set  # devices that clear the mark of what leaves
    arp_drops: set  # (device, network, mask) of dropped ARP requests, as numbers
    filters: set  # (device, prio) of all filters there are
    sysctls: dict  # path to value; what does not exist is not in it


def read_links(link: Netlink) -> dict:
    """Name to Link of all devices."""
    return {one.name: one for one in map(parse_link, _dump_links(link))}


def _dump_links(link: Netlink) -> list:
    return link.dump(GET_LINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + pack_u32(29, SKIP_STATS))


def parse_link(data: bytes) -> Link:
    """RTM_NEWLINK."""
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", data)
    found = parse_attributes(data[16:])
    info = parse_attributes(found.get(18, b""))
    kind = _text(info.get(1, b""))
    vxlan, hairpin = (), None
    if kind == "vxlan":
        of = parse_attributes(info.get(2, b""))
        port = struct.unpack("!H", of[15])[0] if 15 in of else 0
        vxlan = (u32(of.get(1, b"")), _ip(of.get(4, b"")), port, of.get(7, b"\0") != b"\0")
    if _text(info.get(4, b"")) == "bridge":
        hairpin = parse_attributes(info.get(5, b"")).get(4, b"\0") != b"\0"
    mac = found.get(1, b"").hex(":") if len(found.get(1, b"")) == 6 else ""
    mtu, master = u32(found.get(4, b"")), u32(found.get(10, b""))
    name = _text(found.get(3, b""))
    return Link(index, name, kind, mac, mtu, flags, master, vxlan, hairpin, _settings(found.get(26, b"")))


def _settings(data: bytes) -> tuple:
    """Of IFLA_AF_SPEC."""
    families = parse_attributes(data)
    found = []
    for family, number in _CONF.items():
        of = parse_attributes(families.get(family, b"")).get(number, b"")
        if of:
            found.append((family, struct.unpack(f"={len(of) // 4}i", of[: len(of) & ~3])))
    return tuple(found)


def _setting(path: str, links: dict):
    """The value of /proc/sys/PATH, if it is one that a device's link tells; "" if not; None: it does not exist."""
    words = path.split("/")
    at = _TOLD.get((words[1], words[-1])) if len(words) == 5 and words[2] == "conf" else None
    if at is None or words[3] in ("all", "default"):
        return ""
    family, place = at
    link = links.get(words[3])
    if link is None:
        return None
    numbers = dict(link.settings).get(family, ())
    return str(numbers[place]) if place < len(numbers) else ""


class Read:
    """Reads all at little cost: what the kernel tells as before is not taken apart again."""

    def __init__(self) -> None:
        self._known: dict = {}  # a dump's name to (names of devices, bytes of an entry to what they say)

    def __call__(self, ours, sysctls) -> Seen:
        """`ours(name)` says which devices may be ours, `sysctls` are the paths of interest.

        Raises NetlinkError, OSError.
        """
        with Netlink(ROUTE) as link:
            links = {one.name: one for one in self._parse("links", None, parse_link, _dump_links(link))}
            names = {one.index: one.name for one in links.values() if ours(one.name)}
            devices = [one for one in links.values() if _guarded(one, ours)]
            guards, drops, filters = read_filters(link, devices)
            fdb = []
            for one in devices:
                fdb += link.dump(GET_NEIGHBOUR, struct.pack("=BxHiII", AF_BRIDGE, 0, one.index, 0, 0))
            return Seen(
                links,
                self._set("addresses", names, parse_address, _dump(link, GET_ADDRESS, 8)),
                self._set("fdb", names, parse_fdb, fdb),
                self._set("neighbours", names, parse_neighbour, _dump(link, GET_NEIGHBOUR, 12)),
                self._set("routes", names, parse_route, _dump(link, GET_ROUTE, 12)),
                self._set("rules", None, parse_rule, _dump(link, GET_RULE, 12)),
                guards,
                drops,
                filters,
                _read_sysctls(sysctls, links),
            )

    def _set(self, dump: str, names, parse, entries: list) -> set:
        return set(filter(None, self._parse(dump, names, parse, entries)))

    def _parse(self, dump: str, names, parse, entries: list) -> list:
        """`names`: of devices, by index, where an entry means another thing with others."""
        of, known = self._known.get(dump, (None, {}))
        if of != names:
            known = {}
        found = {}
        for data in entries:
            if data in known:
                found[data] = known[data]
            else:
                found[data] = parse(data) if names is None else parse(data, names)
        self._known[dump] = names, found
        return list(found.values())


def read_guards(ours) -> Seen:
    """Only links and tc filters. Raises NetlinkError, OSError."""
    with Netlink(ROUTE) as link:
        links = read_links(link)
        found = read_filters(link, [one for one in links.values() if _guarded(one, ours)])
    return Seen(links, set(), set(), set(), set(), set(), *found, {})


def read_rules(link: Netlink) -> set:
    """Rule: all with a mark or a device."""
    return set(filter(None, map(parse_rule, _dump(link, GET_RULE, 12))))


def _guarded(link: Link, ours) -> bool:
    return link.kind == "vxlan" and ours(link.name)


def _dump(link: Netlink, kind: int, header: int) -> list:
    """All of IPv4; `header` is the length of the kind's own, of which only the family is given."""
    return link.dump(kind, bytes([socket.AF_INET]).ljust(header, b"\0"))


def parse_address(data: bytes, names: dict):
    """RTM_NEWADDR of a device in `names`."""
    _, prefix, _, _, index = struct.unpack_from("=BBBBI", data)
    found = parse_attributes(data[8:])
    return (names[index], _ip(found.get(2, b"")), prefix) if index in names else None


def parse_neighbour(data: bytes, names: dict):
    """RTM_NEWNEIGH of IPv4, a permanent one."""
    _, index, state, _, _ = struct.unpack_from("=BxxxiHBB", data)
    if index not in names or not state & PERMANENT:
        return None
    found = parse_attributes(data[12:])
    return names[index], _ip(found.get(1, b"")), found.get(2, b"").hex(":")


def parse_fdb(data: bytes, names: dict):
    """RTM_NEWNEIGH of a vxlan device's own FDB, a permanent one with a destination."""
    _, index, state, flags, _ = struct.unpack_from("=BxxxiHBB", data)
    if index not in names or not state & PERMANENT or not flags & SELF:
        return None
    found = parse_attributes(data[12:])
    if 1 not in found:
        return None
    return names[index], found.get(2, b"").hex(":"), _ip(found[1])


def parse_route(data: bytes, names: dict):
    """RTM_NEWROUTE by a device in `names`; those that the kernel made with an address are left out."""
    _, dst_len, _, _, table, protocol, _, kind, flags = struct.unpack_from("=8BI", data)
    found = parse_attributes(data[12:])
    index = u32(found.get(4, b""))
    if index not in names or protocol == BY_KERNEL or flags & CLONED:
        return None
    dst = f"{_ip(found[1])}/{dst_len}" if 1 in found else "default"
    table = u32(found.get(15, b"")) or table
    via, src = _ip(found.get(5, b"")), _ip(found.get(7, b""))
    return Route(dst, names[index], via, src, table, kind == LOCAL_TYPE, bool(flags & ONLINK))


def parse_rule(data: bytes):
    """RTM_NEWRULE that asks for a mark or a device. Its device need not exist."""
    table = data[4]
    found = parse_attributes(data[12:])
    if 10 not in found and 3 not in found:
        return None
    table = u32(found.get(15, b"")) or table
    return Rule(
        _text(found.get(3, b"")), u32(found.get(10, b"")), u32(found.get(16, b"")), table, u32(found.get(6, b""))
    )


def read_filters(link: Netlink, devices: list) -> tuple:
    """(guards, arp_drops, filters) of vxlan devices, as in Seen."""
    guards, drops, filters = set(), set(), set()
    for device in devices:
        header = struct.pack("=BxxxiIII", 0, device.index, 0, CLSACT_EGRESS, 0)
        for data in link.dump(GET_FILTER, header):
            info = struct.unpack_from("=I", data, 16)[0]
            prio, protocol = info >> 16, socket.ntohs(info & 0xFFFF)
            filters.add((device.name, prio))
            found = parse_attributes(data[20:])
            options = parse_attributes(found.get(2, b""))
            kind = _text(found.get(1, b""))
            if kind == "matchall" and protocol == ETH_ALL and _clears_mark(options.get(2, b"")):
                guards.add(device.name)
            elif kind == "u32" and protocol == ETH_ARP and 5 in options and _drops(options.get(7, b"")):
                target = _arp_target(options[5])
                if target:
                    drops.add((device.name, *target))
    return guards, drops, filters


def _clears_mark(actions: bytes) -> bool:
    """Whether the first action of a filter is `skbedit mark 0`."""
    action = parse_attributes(parse_attributes(actions).get(1, b""))
    options = parse_attributes(action.get(2, b""))
    return _text(action.get(1, b"")) == "skbedit" and 5 in options and u32(options[5]) == 0


def _drops(actions: bytes) -> bool:
    action = parse_attributes(parse_attributes(actions).get(1, b""))
    parameters = parse_attributes(action.get(2, b"")).get(2, b"")  # tc_gact: index, capab, action, …
    return _text(action.get(1, b"")) == "gact" and len(parameters) >= 12 and u32(parameters[8:]) == DROP


def _arp_target(selector: bytes):
    """(network, mask) of a u32 selector with the one key «target address of ARP»; else None."""
    if len(selector) < 32 or selector[2] != 1:
        return None
    mask, value = struct.unpack_from("!II", selector, 16)
    return (value, mask) if struct.unpack_from("=i", selector, 24)[0] == 24 else None


def _read_sysctls(paths, links: dict) -> dict:
    found = {}
    for path in paths:
        value = _setting(path, links)
        found[path] = read_sysctl(path) if value == "" else value
    return {path: value for path, value in found.items() if value is not None}


def read_sysctl(path: str):
    """The value of /proc/sys/PATH; None if there is no such setting."""
    try:
        file = os.open(f"/proc/sys/{path}", os.O_RDONLY | os.O_CLOEXEC)  # `open` makes twice as many calls
        try:
            return os.read(file, 4096).decode("ascii", "replace").strip()
        finally:
            os.close(file)
    except OSError:
        return None


def exists(path: str) -> bool:
    """Whether the kernel shows something at a path of /proc or /sys."""
    return os.path.exists(path)


def write(path: str, value: str) -> None:
    """Write a file of /proc or /sys."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("ascii", "replace")


def _ip(data: bytes) -> str:
    return socket.inet_ntoa(data[:4]) if len(data) >= 4 else ""
