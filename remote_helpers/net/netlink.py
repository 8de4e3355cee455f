"""Netlink over plain sockets: messages, attributes, batches that are acknowledged one by one, dumps.

Not pyroute2: importing it costs a small node seconds, and each message 2 to 3 ms instead of 0.4 (networking.md,
section 6). Numbers are from linux/netlink.h and linux/genetlink.h. Attributes are padded to 4 bytes, numbers are
in the machine's own byte order unless said otherwise.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
DUMP_INTERRUPTED = 0x10
ERROR, DONE = 2, 3
NESTED = 0x8000
TYPE_MASK = 0x3FFF
BATCH = 100  # messages a send: their acknowledgements must fit the socket's receive buffer
ANSWER_S = 10.0
RECEIVE = 1 << 16

GENERIC = 16  # NETLINK_GENERIC
CONTROL, GET_FAMILY, FAMILY_ID, FAMILY_NAME = 0x10, 3, 1, 2

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class NetlinkError(Exception):
    """The kernel refused a message, with its errno, or did not answer."""

    def __init__(self, what: str, code: int = 0) -> None:
        super().__init__(f"{what}: {os.strerror(code)}" if code else what)
        self.code = code


# --- pure: messages and attributes --------------------------------------------------------------------------
def pack_attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def pack_u16(kind: int, value: int) -> bytes:
    """An attribute that is a 16-bit number."""
    return pack_attribute(kind, struct.pack("=H", value))


def pack_u32(kind: int, value: int) -> bytes:
    """An attribute that is a 32-bit number."""
    return pack_attribute(kind, struct.pack("=I", value))


def pack_nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return pack_attribute(kind | NESTED, b"".join(attributes))


def pack_message(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    """A message with its header; `number` comes back in the answer."""
    return _HEAD.pack(16 + len(payload), kind, flags, number, 0) + payload + b"\0" * (-len(payload) % 4)


def parse_attributes(data: bytes) -> dict:
    """Attribute number to its bytes; of equal ones the last."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def parse_messages(data: bytes):
    """Each message of what was received, as (kind, flags, number, payload)."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, number, _ = _HEAD.unpack_from(data, at)
        if length < 16:
            break
        yield kind, flags, number, data[at + 16 : at + length]
        at += (length + 3) & ~3


def u32(data: bytes) -> int:
    """A 32-bit number; 0 if there is none."""
    return struct.unpack_from("=I", data)[0] if len(data) >= 4 else 0


# --- sockets ------------------------------------------------------------------------------------------------
class Netlink:
    """A socket to one of the kernel's netlink families; a context manager."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._number = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, messages: list) -> list:
        """Send (kind, flags, payload) each with REQUEST and ACK; the errno of each, 0 where it was done."""
        codes = []
        for at in range(0, len(messages), BATCH):
            part = messages[at : at + BATCH]
            first = self._number + 1
            self._number += len(part)
            self._socket.sendall(
                b"".join(
                    pack_message(kind, REQUEST | ACK | flags, first + i, payload)
                    for i, (kind, flags, payload) in enumerate(part)
                )
            )
            answers: dict = {}
            while len(answers) < len(part):
                for kind, _, number, payload in self._receive():
                    if kind == ERROR and first <= number < first + len(part):
                        answers[number] = -struct.unpack_from("=i", payload)[0]
            codes += [answers[first + i] for i in range(len(part))]
        return codes

    def transact(self, begin: tuple, messages: list, end: tuple) -> bool:
        """Send (kind, payload) as a batch that is done as a whole or not at all.

        False: what `begin` says of the state is not so any more. Raises NetlinkError.
        """
        first = self._number + 1
        self._number += len(messages) + 2
        wanted = {first + 1 + i for i in range(len(messages))}
        parts = [(begin, 0), *((message, ACK) for message in messages), (end, 0)]
        self._socket.sendall(
            b"".join(
                pack_message(kind, REQUEST | flags, first + i, payload)
                for i, ((kind, payload), flags) in enumerate(parts)
            )
        )
        while wanted:
            for kind, _, number, payload in self._receive():
                if kind != ERROR or not first <= number < first + len(parts):
                    continue
                code = -struct.unpack_from("=i", payload)[0]
                if code == errno.ERESTART:
                    return False
                if code:
                    raise NetlinkError(f"netlink batch of {messages[0][0]}", code)
                wanted.discard(number)
        return True

    def dump(self, kind: int, payload: bytes) -> list:
        """Payloads of all answers to a dump; asked for again where the kernel says that it changed meanwhile."""
        for _ in range(10):
            found, interrupted = self._dump(kind, payload)
            if not interrupted:
                break
        return found

    def ask(self, kind: int, payload: bytes) -> bytes:
        """The payload of the one answer. Raises NetlinkError."""
        self._number += 1
        self._socket.sendall(pack_message(kind, REQUEST, self._number, payload))
        while True:
            for answered, _, number, data in self._receive():
                if number != self._number:
                    continue
                if answered == ERROR:
                    raise NetlinkError(f"netlink message {kind}", -struct.unpack_from("=i", data)[0])
                return data

    def _dump(self, kind: int, payload: bytes) -> tuple:
        self._number += 1
        self._socket.sendall(pack_message(kind, REQUEST | DUMP, self._number, payload))
        found, interrupted = [], False
        while True:
            for answered, flags, number, data in self._receive():
                if number != self._number:
                    continue
                interrupted = interrupted or bool(flags & DUMP_INTERRUPTED)
                if answered == DONE:
                    return found, interrupted
                if answered == ERROR:
                    raise NetlinkError(f"netlink dump {kind}", -struct.unpack_from("=i", data)[0])
                found.append(data)

    def _receive(self) -> list:
        try:
            # Not by the socket's own timeout: it would ask each time whether there is something, and there is.
            data = self._socket.recv(RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            if not waiting.poll(ANSWER_S * 1000):
                raise NetlinkError(f"the kernel did not answer within {ANSWER_S:g} s") from None
            data = self._socket.recv(RECEIVE)
        return list(parse_messages(data))


def family_id(link: Netlink, name: str) -> int:
    """The number of a generic netlink family. Raises NetlinkError if its module is not loaded."""
    payload = struct.pack("=BBH", GET_FAMILY, 1, 0) + pack_attribute(FAMILY_NAME, name.encode() + b"\0")
    try:
        answer = link.ask(CONTROL, payload)
    except NetlinkError as e:
        if e.code == errno.ENOENT:
            raise NetlinkError(f"the kernel has no {name}: is its module loaded?", e.code) from None
        raise
    return struct.unpack("=H", parse_attributes(answer[4:])[FAMILY_ID][:2])[0]
