"""The load balancer: IPVS services by fwmark, brought to what is wanted by generic netlink messages.

Pure: what is wanted (`wanted`), what is there (`parse_services`), what differs (`plan_changes`), and the bytes of
each message. Only services whose mark is one of ours are ever touched, and nothing is flushed: each change is one
message, and no running connection notices. Formats: linux/ip_vs.h and net/netfilter/ipvs/ip_vs_ctl.c.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
from typing import NamedTuple

from . import netlink
from .netlink import Netlink, NetlinkError, pack_attribute, pack_nested, pack_u16, pack_u32
from .numbers import MARK, MARK_MASK

SERVICES = "/proc/net/ip_vs"
ADD_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
ADD_DEST, SET_DEST, DEL_DEST = 5, 6, 7
SET_CONFIG, GET_CONFIG = 12, 13
PERSISTENT, SCHEDULER_FLAGS = 0x1, 0x18
# `sh` and `mh` choose by the client's address, also a backend of weight 0 unless they may fall back to another:
# without it a drain refuses the clients of the backend that drains.
FALLBACK = 0x8
BY_ADDRESS = ("sh", "mh")
_BACKEND, _COUNTERS = "  -> ", 38  # how a backend's line begins, and where in it the numbers of connections do
# Seconds for TCP, TCP after a FIN, UDP, where the state has none: that of an older manager, or from an older file.
# The kernel's 900 s for TCP would reset idle connections.
TIMEOUTS = (432000, 120, 300)


class Service(NamedTuple):
    """What one mark is balanced to; `dests` is (address, port) to weight, `flags` are the scheduler's own."""

    scheduler: str
    persist_s: int
    dests: dict
    flags: int = 0


class Change(NamedTuple):
    """One message: its command, its mark, and what the command needs."""

    command: int
    mark: int
    service: Service | None = None
    dest: tuple = ()  # (address, port)
    weight: int = 0

    def __str__(self) -> str:
        verb = {ADD_SERVICE: "add", SET_SERVICE: "set", DEL_SERVICE: "delete"}
        verb.update({ADD_DEST: "add", SET_DEST: "set", DEL_DEST: "delete"})
        what = f"{self.dest[0]}:{self.dest[1]} of " if self.dest else ""
        return f"{verb[self.command]} {what}service {self.mark:#x}"


# --- pure -------------------------------------------------------------------------------------------------
def wanted(state: dict) -> dict:
    """Mark to Service, of the VIPs and the published ports."""
    found = {}
    for one in [*state["vips"], *state["ports"]]:
        dests = {(dest["address"], int(dest.get("port", 0))): int(dest["weight"]) for dest in one["dests"]}
        scheduler, persist_s = one["scheduler"] or "rr", int(one["persist_s"])
        if persist_s and any(port not in (0, one.get("port")) for _, port in dests):
            # By a mark the kernel keeps a persistent client's packets to the port that they came for, whatever a
            # backend's is (`ip_vs_sched_persist`): each would be refused. The client's address alone does as well.
            scheduler, persist_s = ("sh" if scheduler == "sh" else "mh"), 0
        flags = FALLBACK if scheduler in BY_ADDRESS else 0
        found[MARK + one["id"]] = Service(scheduler, persist_s, dests, flags)
    return found


def timeouts(state: dict) -> tuple:
    """Seconds for TCP, TCP after a FIN, UDP."""
    given = state["egress"].get("timeouts_s")
    return TIMEOUTS if given is None else (given["tcp"], given["tcp_fin"], given["udp"])


def balanced(want: dict, have: dict) -> set:
    """The wanted marks that lead to a service, be it with another scheduler."""
    return set(want) & set(have)


def parse_services(text: str) -> dict:
    """Mark to Service, of the fwmark services in /proc/net/ip_vs; others are left out.

    A persistent one has `persist_s` -1: the kernel writes its timeout there in its own ticks. Flags are not there.
    A dest that is not of the masquerading kind has the weight -1, which nobody wants.
    """
    found: dict = {}
    dests = None
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "FWM" and len(words) > 2:
            dests = {}
            persistent = -1 if "persistent" in words[3:] else 0
            found[int(words[1], 16)] = Service(words[2], persistent, dests)
        elif words[0] == "->" and len(words) > 3 and words[1] != "RemoteAddress:Port" and dests is not None:
            address, _, port = words[1].rpartition(":")
            if len(address) == 8:
                key = (socket.inet_ntoa(bytes.fromhex(address)), int(port, 16))
                dests[key] = int(words[3]) if words[2] == "Masq" else -1
        elif words[0] != "->":
            dests = None  # a service by address: not ours
    return found


class Parse:
    """As `parse_services`, at less cost where nothing but counters has changed since the last time."""

    def __init__(self) -> None:
        self._digest, self._found = b"", {}

    def __call__(self, text: str) -> dict:
        lines = [line[:_COUNTERS] if line.startswith(_BACKEND) else line for line in text.split("\n")]
        digest = hashlib.blake2b("\n".join(lines).encode()).digest()
        if digest != self._digest:
            self._digest, self._found = digest, parse_services(text)
        return dict(self._found)


def is_ours(mark: int) -> bool:
    """Whether a fwmark is in our range."""
    return mark & MARK_MASK == MARK


def plan_changes(want: dict, have: dict) -> tuple:
    """Changes as (at once, last, words): services go last, when no packet is marked for them any more."""
    now, last, words = [], [], []
    for mark in sorted(want):
        service, found = want[mark], have.get(mark)
        if found == service:
            continue
        if found is None:
            words.append(f"service {mark:#x} was missing")
            now.append(Change(ADD_SERVICE, mark, service))
        elif found._replace(dests=service.dests) != service:
            words.append(f"service {mark:#x} was {found.scheduler} {found.persist_s} {found.flags:#x}")
            now.append(Change(SET_SERVICE, mark, service))
        _plan_dests(mark, service.dests, found.dests if found else None, now, words)
    for mark in sorted(have):
        if is_ours(mark) and mark not in want:
            words.append(f"service {mark:#x} was left over")
            last.append(Change(DEL_SERVICE, mark))
    return now, last, words


def _plan_dests(mark: int, want: dict, have: dict | None, now: list, words: list) -> None:
    for dest in sorted(want):
        if have is None or dest not in have:
            now.append(Change(ADD_DEST, mark, None, dest, want[dest]))
        elif have[dest] != want[dest]:
            now.append(Change(SET_DEST, mark, None, dest, want[dest]))
        else:
            continue
        if have is not None:
            was = f"weight {have[dest]}" if dest in have else "missing"
            words.append(f"backend {dest[0]}:{dest[1]} of service {mark:#x} was {was}")
    for dest in sorted(set(have or ()) - set(want)):
        words.append(f"backend {dest[0]}:{dest[1]} of service {mark:#x} was left over")
        now.append(Change(DEL_DEST, mark, None, dest))


def pack_change(change: Change) -> bytes:
    """The message's payload, from its generic header on."""
    service = [pack_u16(1, socket.AF_INET), pack_u32(5, change.mark)]
    if change.command in (ADD_SERVICE, SET_SERVICE):
        flags = change.service.flags | (PERSISTENT if change.service.persist_s else 0)
        service += [
            pack_attribute(6, change.service.scheduler.encode() + b"\0"),
            pack_attribute(7, struct.pack("=II", flags, 0xFFFFFFFF)),
            pack_u32(8, change.service.persist_s),
            pack_u32(9, 0xFFFFFFFF),
        ]
    parts = [pack_nested(1, *service)]
    if change.dest:
        address, port = change.dest
        dest = [
            pack_attribute(1, socket.inet_aton(address).ljust(16, b"\0")),
            pack_attribute(2, struct.pack("!H", port)),
            pack_u16(11, socket.AF_INET),
        ]
        if change.command in (ADD_DEST, SET_DEST):
            # 3: masquerade; 5 and 6: no limits on connections
            dest += [pack_u32(3, 0), pack_u32(4, change.weight), pack_u32(5, 0), pack_u32(6, 0)]
        parts.append(pack_nested(2, *dest))
    return _generic(change.command) + b"".join(parts)


def pack_timeouts(timeouts: tuple) -> bytes:
    """The payload of SET_CONFIG."""
    return _generic(SET_CONFIG) + b"".join(pack_u32(4 + i, seconds) for i, seconds in enumerate(timeouts))


def _generic(command: int) -> bytes:
    return struct.pack("=BBH", command, 1, 0)


def _refused(change: Change, code: int) -> NetlinkError:
    if code == errno.ENOENT and change.command in (ADD_SERVICE, SET_SERVICE):
        return NetlinkError(f"IPVS: {change}: this kernel has no scheduler {change.service.scheduler}", 0)
    return NetlinkError(f"IPVS: {change}", code)


# --- the kernel ---------------------------------------------------------------------------------------------
class Ipvs:
    """A connection to the kernel's IPVS; a context manager. Raises NetlinkError if ip_vs is not loaded."""

    def __init__(self) -> None:
        self._link = Netlink(netlink.GENERIC)
        try:
            self._family = netlink.family_id(self._link, "IPVS")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ipvs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is asked any more."""
        self._link.__exit__()

    def services(self, parse=parse_services) -> dict:
        """Mark to Service of all fwmark services; of ours with seconds and flags, where there may be some.

        Raises NetlinkError, OSError.
        """
        with open(SERVICES, encoding="ascii") as file:
            found = parse(file.read())
        for mark, service in found.items():
            if is_ours(mark) and (service.persist_s or service.scheduler in BY_ADDRESS):
                seconds, flags = self._settings(mark)
                found[mark] = service._replace(
                    persist_s=seconds if service.persist_s else 0, flags=flags & SCHEDULER_FLAGS
                )
        return found

    def _settings(self, mark: int) -> tuple:
        """(seconds, flags), which /proc does not show."""
        ours = pack_nested(1, pack_u16(1, socket.AF_INET), pack_u32(5, mark))
        try:
            answer = self._link.ask(self._family, _generic(GET_SERVICE) + ours)
        except NetlinkError:
            return -1, 0  # it has gone meanwhile
        service = netlink.parse_attributes(netlink.parse_attributes(answer[4:]).get(1, b""))
        return netlink.u32(service.get(8, b"")) or -1, netlink.u32(service.get(7, b""))

    def change(self, changes: list) -> None:
        """Carry changes out, in their order. Raises NetlinkError naming those that the kernel refused.

        What is there already is set instead of added, and what is gone already needs no deletion: another change
        may have come between reading and now.
        """
        again, failed = [], []
        codes = self._link.send([(self._family, 0, pack_change(change)) for change in changes])
        for change, code in zip(changes, codes):
            if code == errno.EEXIST and change.command in (ADD_SERVICE, ADD_DEST):
                again.append(change._replace(command=change.command + 1))
            elif code and not (change.command in (DEL_SERVICE, DEL_DEST) and code in (errno.ESRCH, errno.ENOENT)):
                failed.append(_refused(change, code))
        codes = self._link.send([(self._family, 0, pack_change(change)) for change in again])
        failed += [_refused(change, code) for change, code in zip(again, codes) if code]
        if failed:
            raise NetlinkError("; ".join(str(one) for one in failed[:5]))

    def timeouts(self) -> tuple:
        """Seconds for TCP, TCP after a FIN, UDP."""
        found = netlink.parse_attributes(self._link.ask(self._family, _generic(GET_CONFIG))[4:])
        return tuple(netlink.u32(found.get(number, b"")) for number in (4, 5, 6))

    def set_timeouts(self, timeouts: tuple) -> None:
        """They hold for connections that see their next packet from now on."""
        code = self._link.send([(self._family, 0, pack_timeouts(timeouts))])[0]
        if code:
            raise NetlinkError("IPVS: set timeouts", code)
