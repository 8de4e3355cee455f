"""The DNS wire format (RFC 1035, RFC 6891): what a server of few record types and a forwarder must read and write.

Nothing here trusts a packet: whatever cannot be read raises Malformed, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!HHHHHH")
QUESTION_TAIL = struct.Struct("!HH")
RECORD_TAIL = struct.Struct("!HHIH")  # type, class, TTL, length of the data

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IXFR, AXFR = 251, 252
IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

RESPONSE, AUTHORITATIVE, TRUNCATED, RECURSION_WANTED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODE_MASK, RCODE_MASK = 0x7800, 0x000F

LEAST_UDP = 512  # what every client takes (RFC 1035, 4.2.1)
MOST_UDP = 1232  # what passes any path unfragmented (DNS flag day 2020); overlays carry no less
QUESTION_POINTER = b"\xc0\x0c"  # the name at offset 12, just after the header
REVERSE = ".in-addr.arpa"


class Malformed(Exception):
    """Not a DNS message, or one that says other than its length."""


@dataclass(frozen=True)
class Query:
    """The part of a message with exactly one question that a server looks at."""

    id: int
    flags: int
    name: str  # in lower case, without the last dot; bytes that are no letters of a host name as \\DDD
    kind: int  # QTYPE
    family: int  # QCLASS
    question: bytes  # as it came: it is sent back letter by letter
    edns: bool
    udp_size: int  # the longest answer over UDP that the client takes

    @property
    def opcode(self) -> int:
        return (self.flags & OPCODE_MASK) >> 11


def read_name(data: bytes, at: int) -> tuple:
    """(name, offset after it) of the uncompressed name at `at`, as questions have them. Raises Malformed."""
    labels, start = [], at
    while True:
        if at >= len(data):
            raise Malformed("a name goes beyond the packet")
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(data) or at + length - start > 254:
            raise Malformed("a label is too long, or compressed where nothing is to refer to")
        labels.append(printable(data[at : at + length]))
        at += length
    return ".".join(labels), at


def printable(label: bytes) -> str:
    """A label in lower case; what is not plain ASCII, a dot or a backslash becomes \\DDD (RFC 1035, 5.1)."""
    if label.isalnum() and label.isascii():
        return label.lower().decode()
    plain = (chr(byte).lower() if 33 <= byte < 127 and byte not in b".\\" else f"\\{byte:03d}" for byte in label)
    return "".join(plain)


def canonical(name: str) -> str:
    """A name as users write it, in the form of `Query.name`; "" if no packet can hold it."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        return ""
    return ".".join(printable(label) for label in labels)


def encode_name(name: str) -> bytes:
    """The wire form of a name that `canonical` gave."""
    parts = []
    for label in name.split("."):
        plain = bytearray()
        at = 0
        while at < len(label):
            if label[at] == "\\":
                plain.append(int(label[at + 1 : at + 4]))
                at += 4
            else:
                plain.append(ord(label[at]))
                at += 1
        parts.append(bytes([len(plain)]) + bytes(plain))
    return b"".join(parts) + b"\0"


def parse_query(data: bytes) -> Query:
    """Read a message to a server. Raises Malformed for anything but a message with one question."""
    if len(data) < HEADER.size:
        raise Malformed("shorter than a header")
    number, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if questions != 1:
        raise Malformed(f"{questions} questions")
    name, end = read_name(data, HEADER.size)
    if end + QUESTION_TAIL.size > len(data):
        raise Malformed("the question ends early")
    kind, family = QUESTION_TAIL.unpack_from(data, end)
    end += QUESTION_TAIL.size
    edns, size = False, LEAST_UDP
    # Who asks sends no records but OPT, first (and perhaps a signature): others are not looked through for it.
    if not answers and not authorities and additionals and data[end : end + 1] == b"\0":
        if end + 1 + RECORD_TAIL.size > len(data):
            raise Malformed("a record ends early")
        record, offered, _, _ = RECORD_TAIL.unpack_from(data, end + 1)
        if record == OPT:
            edns, size = True, max(LEAST_UDP, offered)
    return Query(number, flags, name, kind, family, data[HEADER.size : end], edns, size)


def header_of(data: bytes) -> tuple:
    """(id, flags) of any message that has a header. Raises Malformed."""
    if len(data) < HEADER.size:
        raise Malformed("shorter than a header")
    return HEADER.unpack_from(data)[:2]


def error(data: bytes, rcode: int) -> bytes:
    """An answer without a question, for what could not be read beyond its header."""
    number, flags = header_of(data)
    kept = flags & (OPCODE_MASK | RECURSION_WANTED)
    return HEADER.pack(number, RESPONSE | RECURSION_AVAILABLE | kept | rcode, 0, 0, 0, 0)


def answer(query: Query, rcode: int, records=(), own: bool = True, limit: int = 65535) -> bytes:
    """A whole answer of at most `limit` bytes: as many records as fit, and marked as truncated if some did not.

    `records` are what `a_record` and `ptr_record` make. `own`: we are the authority for the name.
    """
    opt = b"\0" + RECORD_TAIL.pack(OPT, MOST_UDP, 0, 0) if query.edns else b""
    room = limit - HEADER.size - len(query.question) - len(opt)
    fitting = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        fitting.append(record)
    flags = RESPONSE | RECURSION_AVAILABLE | (query.flags & (OPCODE_MASK | RECURSION_WANTED)) | rcode
    if own:
        flags |= AUTHORITATIVE
    if len(fitting) < len(records):
        flags |= TRUNCATED
    head = HEADER.pack(query.id, flags, 1, len(fitting), 0, 1 if opt else 0)
    return b"".join([head, query.question, *fitting, opt])


def a_record(packed_address: bytes, ttl_s: int) -> bytes:
    """An address of the name that was asked for."""
    return QUESTION_POINTER + RECORD_TAIL.pack(A, IN, ttl_s, 4) + packed_address


def ptr_record(name: str, ttl_s: int) -> bytes:
    """A name (of `canonical`) of the address that was asked for."""
    target = encode_name(name)
    return QUESTION_POINTER + RECORD_TAIL.pack(PTR, IN, ttl_s, len(target)) + target


def reverse_address(name: str) -> str:
    """The IPv4 address that `D.C.B.A.in-addr.arpa` asks for; "" for any other name."""
    if not name.endswith(REVERSE):
        return ""
    parts = name[: -len(REVERSE)].split(".")
    if len(parts) != 4 or not all(part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts):
        return ""
    return ".".join(str(int(part)) for part in reversed(parts))


def is_answer_to(data: bytes, number: int, question: bytes) -> bool:
    """Whether `data` is an answer with this id and question; some resolvers answer in lower case."""
    if len(data) < HEADER.size + len(question):
        return False
    found, flags, questions = HEADER.unpack_from(data)[:3]
    echoed = data[HEADER.size : HEADER.size + len(question)]
    same = echoed[:-4].lower() == question[:-4].lower() and echoed[-4:] == question[-4:]
    return found == number and bool(flags & RESPONSE) and questions == 1 and same


def with_id(data: bytes, number: int) -> bytes:
    """The same message with another id."""
    return struct.pack("!H", number) + data[2:]


def truncated(data: bytes, query: Query) -> bytes:
    """What is said of an answer that is too long for the client's UDP: ask again over TCP (RFC 2181, 9)."""
    _, flags = header_of(data)
    opt = b"\0" + RECORD_TAIL.pack(OPT, MOST_UDP, 0, 0) if query.edns else b""
    return HEADER.pack(query.id, flags | TRUNCATED, 1, 0, 0, 1 if opt else 0) + query.question + opt
