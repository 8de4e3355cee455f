"""What is marked for IPVS: the kernel's sets of addresses and ports, by which a few rules of iptables are enough.

Pure: what is wanted (`wanted`), what differs (`plan_changes`), and the bytes of each message. A change is two
messages at most, where iptables replaces a whole table for a rule. No `ipset` program: nodes have none. Formats:
linux/netfilter/ipset/ip_set.h and net/netfilter/ipset in the kernel.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
from typing import NamedTuple

from ..check import SETS
from .netlink import Netlink, NetlinkError, pack_attribute, pack_nested, parse_attributes
from .numbers import MARK, loop_addresses

VIPS, TCP, UDP, BOUND, OWN = (f"swarmsh-{word}" for word in ("vips", "tcp", "udp", "bound", "own"))
MODULES = ("ip_set", *SETS)

NETFILTER = 12  # NETLINK_NETFILTER
CREATE, DESTROY, LIST, ADD, DEL = 2, 3, 7, 9, 10
_SUBSYSTEM, _PROTOCOL = 6 << 8, 6
_NETWORK_ORDER = 0x4000
_EXCLUSIVE = 0x200  # without it what is there is set anew, and what is not there need not be deleted
_WITH_SKBINFO = 1 << 6
_MOST = 1 << 20  # elements
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


class Kind(NamedTuple):
    """A set's type, the least revision of it that does what is asked, and whether its elements have marks."""

    name: str
    revision: int
    marks: bool = True


KINDS = {
    VIPS: Kind("hash:ip", 4),
    TCP: Kind("bitmap:port", 3),
    UDP: Kind("bitmap:port", 3),
    BOUND: Kind("hash:ip,port", 5),
    OWN: Kind("hash:net,net", 0, marks=False),
}


class Change(NamedTuple):
    """One message: its command and its set; element and mark where it is of one."""

    command: int
    name: str
    # (address,), (protocol number, port), (address, protocol number, port), (from, prefix, to, prefix)
    element: tuple = ()
    mark: int = 0

    def __str__(self) -> str:
        verb = {CREATE: "create", DESTROY: "destroy", ADD: "add", DEL: "delete"}[self.command]
        what = f"{':'.join(map(str, self.element))} of " if self.element else ""
        return f"{verb} {what}set {self.name}"


# --- pure -----------------------------------------------------------------------------------------------------
def wanted(state: dict) -> dict:
    """Name of each set to its elements, and those to marks (0 in sets without)."""
    found: dict = {name: {} for name in KINDS}
    for vip in state["vips"]:
        found[VIPS][vip["address"],] = MARK + vip["id"]
    for port in state["ports"]:
        mark, bind = MARK + port["id"], port["bind"]
        of = (_NUMBERS[port["protocol"]], port["port"])
        if bind in ("", "0.0.0.0"):
            found[TCP if port["protocol"] == "tcp" else UDP][of] = mark
            continue
        found[BOUND][(bind, *of)] = mark
        if bind.startswith("127."):
            # What is sent there is sent to this address, where it is marked.
            found[BOUND][(loop_addresses(state)[0], *of)] = mark
    found[OWN] = {(address, 32, address, 32): 0 for task in state["tasks"] for address in task["addresses"]}
    return found


def with_marks(want: dict, marks: set) -> dict:
    """What is wanted, of those with a mark only these: as in `rules.wanted`."""
    return {
        name: {one: mark for one, mark in elements.items() if mark in marks} if KINDS[name].marks else elements
        for name, elements in want.items()
    }


def plan_changes(want: dict, have: dict) -> tuple:
    """Changes as (what makes sets and takes away, what adds, words)."""
    less, more, words = [], [], []
    for name, elements in want.items():
        found = have.get(name)
        if found is None:
            words.append(f"set {name} was missing")
            less.append(Change(CREATE, name))
            found = {}
        elif found != elements:
            words.append(f"set {name} was different")
        else:
            continue
        less += [Change(DEL, name, one) for one in found if one not in elements]
        more += [Change(ADD, name, one, mark) for one, mark in elements.items() if found.get(one) != mark]
    return less, more, words


def adds_marks(want: dict, have: dict) -> bool:
    """Whether something is marked that was not, or otherwise."""
    return any(KINDS[change.name].marks for change in plan_changes(want, have)[1])


def pack_change(change: Change) -> bytes:
    """The message's payload, from netfilter's own header on."""
    kind = KINDS[change.name]
    parts = [_head(change.name)]
    if change.command == CREATE:
        parts += [
            pack_attribute(3, kind.name.encode() + b"\0"),
            pack_attribute(4, bytes([kind.revision])),
            pack_attribute(5, bytes([socket.AF_INET])),
            pack_nested(7, *_settings(kind)),
        ]
    elif change.element:
        data = _element(kind, change.element)
        if change.command == ADD and kind.marks:
            data.append(_number(27, ">Q", change.mark << 32 | 0xFFFFFFFF))
        parts.append(pack_nested(7, *data))
    return b"".join(parts)


def _head(name: str) -> bytes:
    return struct.pack("=BBH", socket.AF_INET, 0, 0) + pack_attribute(1, bytes([_PROTOCOL])) + _name(name)


def _name(name: str) -> bytes:
    return pack_attribute(2, name.encode() + b"\0")


def _settings(kind: Kind) -> list:
    found = [_number(8, ">I", _WITH_SKBINFO)] if kind.marks else []
    if kind.name == "bitmap:port":
        return [*found, _number(4, ">H", 0), _number(5, ">H", 65535)]
    return [*found, _number(19, ">I", _MOST)]


def _element(kind: Kind, element: tuple) -> list:
    if kind.name == "bitmap:port":
        return [_number(4, ">H", element[1])]
    if kind.name == "hash:ip,port":
        return [_ip(1, element[0]), _number(4, ">H", element[2]), pack_attribute(7, bytes([element[1]]))]
    if kind.name == "hash:net,net":
        first, prefix, second, other = element
        return [
            _ip(1, first),
            pack_attribute(3, bytes([prefix])),
            _ip(20, second),
            pack_attribute(21, bytes([other])),
        ]
    return [_ip(1, element[0])]


def _ip(kind: int, address: str) -> bytes:
    return pack_nested(kind, pack_attribute(1 | _NETWORK_ORDER, socket.inet_aton(address)))


def _number(kind: int, how: str, value: int) -> bytes:
    return pack_attribute(kind | _NETWORK_ORDER, struct.pack(how, value))


def parse_set(name: str, payloads: list) -> dict:
    """Elements to marks, of all answers to a dump of one set. Raises NetlinkError for a set of another kind."""
    kind, found = KINDS[name], {}
    for payload in payloads:
        about = parse_attributes(payload[4:])
        if 3 in about:
            flags = parse_attributes(about.get(7, b"")).get(8, bytes(4))
            if about[3] != kind.name.encode() + b"\0" or kind.marks != bool(flags[3] & _WITH_SKBINFO):
                raise NetlinkError(f"the node has a set {name} that is not swarmsh's: rename or remove it")
        for data in _each(about.get(8, b"")):
            element, mark = _parse_element(kind, 17 if name == UDP else 6, parse_attributes(data))
            found[element] = mark if kind.marks else 0
    return found


def _each(data: bytes):
    """The nested attributes of a list: `parse_attributes` would keep the last."""
    at = 0
    while at + 4 <= len(data):
        length = struct.unpack_from("=H", data, at)[0]
        if length < 4:
            break
        yield data[at + 4 : at + length]
        at += (length + 3) & ~3


def _parse_element(kind: Kind, protocol: int, found: dict) -> tuple:
    mark = 0
    if kind.marks:
        value, mask = struct.unpack(">II", found[27]) if 27 in found else (0, 0)
        mark = value if mask == 0xFFFFFFFF else -1
    if kind.name == "bitmap:port":
        return (protocol, struct.unpack(">H", found[4])[0]), mark
    address = socket.inet_ntoa(found[1][4:8])
    if kind.name == "hash:ip,port":
        return (address, found[7][0], struct.unpack(">H", found[4])[0]), mark
    if kind.name == "hash:net,net":
        return (address, found[3][0], socket.inet_ntoa(found[20][4:8]), found[21][0]), mark
    return (address,), mark


# --- the kernel -----------------------------------------------------------------------------------------------
class IpSets:
    """A connection to the kernel's sets; a context manager."""

    def __init__(self) -> None:
        self._link = Netlink(NETFILTER)

    def __enter__(self) -> IpSets:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.__exit__()

    def dump(self) -> dict:
        """Name to the answers of a dump, of those of our sets that are there. Raises NetlinkError."""
        found = {}
        for name in KINDS:
            try:
                found[name] = self._link.dump(_SUBSYSTEM | LIST, _head(name))
            except NetlinkError as e:
                if e.code != errno.ENOENT:
                    raise
        return found

    def change(self, changes: list) -> None:
        """Carry changes out, in their order. Raises NetlinkError naming those that the kernel refused."""
        messages = [
            (_SUBSYSTEM | one.command, _EXCLUSIVE if one.command == CREATE else 0, pack_change(one))
            for one in changes
        ]
        failed = [NetlinkError(str(one), code) for one, code in zip(changes, self._link.send(messages)) if code]
        if failed:
            raise NetlinkError("; ".join(str(one) for one in failed[:5]))


class Read:
    """Sets as they are, read at little cost: what the kernel tells as before is not taken apart again."""

    def __init__(self) -> None:
        self._told: dict = {}  # name to (digest of its dump, elements)

    def read(self, sets: IpSets) -> dict:
        """Name to elements to marks, of those of our sets that are there. Raises NetlinkError."""
        found, told = {}, {}
        for name, payloads in sets.dump().items():
            digest = hashlib.blake2b(b"".join(payloads)).digest()
            known, elements = self._told.get(name, (b"", {}))
            if known != digest:
                elements = parse_set(name, payloads)
            told[name] = digest, elements
            found[name] = elements
        self._told = told
        return found
