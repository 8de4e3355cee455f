"""SAs and policies as `ip xfrm` writes and shows them (iproute2 5.9 to 7.2). No I/O; keys never show.

All here is about one sort: ESP in transport mode with AES-GCM (RFC 4106), for UDP to one port. An SA is ours by
its SPI together with its reqid, a policy by its selector.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass

PORT = 4790
SPI_OURS, SPI_MASK = 0x53000000, 0xFF000000
EPOCHS = 4096  # the low bits of an SPI are those of its epoch, which is the reqid
ALGORITHM, ICV_BITS = "rfc4106(gcm(aes))", 128
KEY_BYTES = 20  # AES-128 and 4 bytes of salt
REPLAY_WINDOW = 128
SELECTOR = f"proto udp dport {PORT}"
ANYWHERE = "0.0.0.0/0"
LONG_HEX = re.compile(r'0x[^\s"]{32,}|[0-9A-Fa-f]{32,}')


class BadKeys(Exception):
    """What was asked for cannot be: the message names the field, and holds no key."""


class Key:
    """20 bytes that are never shown: compared in constant time, written out by `for_ip` alone."""

    __slots__ = ("_value",)

    def __init__(self, hexadecimal: str) -> None:
        if not isinstance(hexadecimal, str) or not re.fullmatch(f"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", hexadecimal):
            raise BadKeys(f"a key is not {KEY_BYTES} bytes in hexadecimal")
        self._value = bytes.fromhex(hexadecimal)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._value, other._value)

    __hash__ = None

    def __repr__(self) -> str:
        return "Key(…)"

    def for_ip(self) -> str:
        return "0x" + self._value.hex()


@dataclass(frozen=True)
class Sa:
    """One direction and epoch. `key` is None where one is seen that has none, or is of another sort."""

    src: str
    dst: str
    spi: int
    reqid: int
    key: Key | None

    @property
    def id(self) -> tuple:
        """By this the kernel tells SAs apart."""
        return self.dst, self.spi

    def add(self) -> str:
        return (
            f"xfrm state add src {self.src} dst {self.dst} proto esp spi {self.spi:#x} reqid {self.reqid} "
            f"mode transport replay-window {REPLAY_WINDOW} flag esn "
            f"aead {ALGORITHM} {self.key.for_ip()} {ICV_BITS}"
        )

    def delete(self) -> str:
        return f"xfrm state delete src {self.src} dst {self.dst} proto esp spi {self.spi:#x}"


@dataclass(frozen=True)
class Policy:
    """`requires`: it has one template, ESP in transport mode, that is not optional; `spi` and `reqid` 0: any."""

    direction: str
    src: str
    dst: str
    selector: str = SELECTOR  # what follows the addresses, and mark or if_id where it has one
    action: str = "allow"
    priority: int = 0
    requires: bool = False
    spi: int = 0
    reqid: int = 0

    @property
    def id(self) -> tuple:
        """By this the kernel tells policies apart: `update` replaces the one that has it."""
        return self.direction, self.src, self.dst, self.selector

    @property
    def is_ours(self) -> bool:
        return self.selector == SELECTOR

    @property
    def may_match(self) -> bool:
        """Whether it may decide over our packets, though it is not ours."""
        words = dict(zip(self.selector.split()[::2], self.selector.split()[1::2]))
        return words.get("proto", "udp") in ("udp", "17") and words.get("dport", str(PORT)) == str(PORT)

    def update(self) -> str:
        words = [f"xfrm policy update {self._selection()} priority {self.priority}"]
        if self.action != "allow":
            words.append(f"action {self.action}")
        if self.requires:
            ends = f"src {_plain(self.src)} dst {_plain(self.dst)} " if self.spi else ""
            words.append(f"tmpl {ends}proto esp")
            if self.spi:
                words.append(f"spi {self.spi:#x} reqid {self.reqid}")
            words.append("mode transport")
        return " ".join(words)

    def delete(self) -> str:
        return f"xfrm policy delete {self._selection()}"

    def _selection(self) -> str:
        return f"src {self.src} dst {self.dst} {self.selector} dir {self.direction}"

    def in_words(self) -> str:
        return f"{self.direction}, {self.src} to {self.dst} {self.selector}".strip() + f", {self.action}"


def _plain(address: str) -> str:
    return address.partition("/")[0]


def is_ours(spi: int, reqid: int) -> bool:
    """Whether an SA of ESP is one of ours.

    The SPI alone does not tell: of those that others draw by chance each 256th begins as ours do.
    """
    return spi & SPI_MASK == SPI_OURS and reqid > 0 and reqid % EPOCHS == spi % EPOCHS


def parse_states(text: str) -> tuple:
    """Our SAs in the output of `ip -d xfrm state`."""
    found = (_state(block) for block in _blocks(text) if block[1:] and block[1][0] == "proto")
    return tuple(sa for sa in found if sa is not None)


def parse_policies(text: str) -> tuple:
    """All policies in the output of `ip -d xfrm policy`, but those of single sockets."""
    blocks = (block for block in _blocks(text) if block[1:] and block[1][0] == "dir")
    return tuple(_policy(block) for block in blocks if block[0][0] == "src")


def _blocks(text: str) -> list:
    """Each entry begins at the margin; lines that belong to it are indented. Lines as lists of words."""
    blocks: list = []
    for line in text.splitlines():
        words = line.split()
        if words and not line[0].isspace():
            blocks.append([words])
        elif words and blocks:
            blocks[-1].append(words)
    return blocks


def _state(lines: list) -> Sa | None:
    """None for what is not ours. Of ours, what is not as `Sa.add` makes it has no key: it equals none wanted."""
    ends, key = _pairs(lines[0]), None
    about = next((_pairs(line) for line in lines if line[0] == "proto"), {})
    number, reqid = _number(about.get("spi", "")), _number(about.get("reqid", ""))
    if about.get("proto") != "esp" or not is_ours(number, reqid):
        return None
    for line in lines:
        if line[0] == "aead" and line[1:2] == [ALGORITHM] and line[-1] == str(ICV_BITS):
            key = _seen_key(line[2])
    flags = next((line[line.index("flag") :] for line in lines if "flag" in line), [])
    window = next((line[1].rstrip(",") for line in lines if line[0] == "replay_window"), "")
    good = about.get("mode") == "transport" and "esn" in flags and window == str(REPLAY_WINDOW)
    return Sa(ends.get("src", ""), ends.get("dst", ""), number, reqid, key if good else None)


def _seen_key(text: str) -> Key | None:
    try:
        return Key(text[2:] if text.startswith("0x") else text)
    except BadKeys:
        return None


def _policy(lines: list) -> Policy:
    ends, about = _pairs(lines[0]), _pairs(lines[1])
    extra = [" ".join(line[:2]) for line in lines[2:] if line[0] in ("mark", "if_id")]
    templates = [_pairs(lines[i + 1]) for i, line in enumerate(lines[:-1]) if line[0] == "tmpl"]
    optional = ["level", "use"] in [line[:2] for line in lines]
    one = templates[0] if len(templates) == 1 else {}
    requires = one.get("proto") == "esp" and one.get("mode") == "transport" and not optional
    return Policy(
        direction=about.get("dir", ""),
        src=_prefixed(ends.get("src", "")),
        dst=_prefixed(ends.get("dst", "")),
        selector=" ".join([*lines[0][4:], *extra]),
        action=about.get("action", "allow"),
        priority=_number(about.get("priority", "")),
        requires=requires,
        spi=_number(one.get("spi", "")) if requires else 0,
        reqid=_number(one.get("reqid", "")) if requires else 0,
    )


def _pairs(words: list) -> dict:
    """`a 1 b 2` as {"a": "1", "b": "2"}; a trailing word counts for nothing."""
    return dict(zip(words[::2], words[1::2]))


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _prefixed(address: str) -> str:
    return address if "/" in address else address + "/32"


def without_keys(text: str) -> str:
    """Words of `ip` for a log or an error: it repeats an argument that it does not like, a key for instance."""
    return LONG_HEX.sub("<hidden>", text)
