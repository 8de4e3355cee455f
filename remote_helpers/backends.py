"""Which backends on other nodes answer, while no manager is there who would know: tried each second.

A backend is tried at its TCP port; one of which none is known, by an ICMP echo (`PING` for the port). As hosts and
containers may answer none, an echo that is missing says something only where others come back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time

from .log import log
from .netstate import PING
from .timing import Expired, deadline

EACH_S = 1.0  # between the starts of two rounds, and as long as an answer may take
MISSES = 3
AT_ONCE = 64
MOST_IN_ROUND = 256  # of more than that each one's turn comes later
_ECHO, _ECHO_REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux: include/linux/socket.h, include/uapi/linux/icmp.h
# What this host itself could not do, or does not let us, says nothing of the backend.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EACCES, errno.EAGAIN)


class Prober:
    """`silent`: (address, port) -> since when, on the monotonic clock. `on_change()` when it is another one.

    `targets()` says what is to be tried, each round anew. `run` returns when that is nothing.
    """

    def __init__(self, targets, on_change) -> None:
        self.silent: dict = {}
        self._targets, self._on_change = targets, on_change
        self._misses: dict = {}
        self._turns = [0, 0]  # of ports, of echoes
        self._echoes = Echoes()

    async def run(self) -> None:
        """Try while there is something to try."""
        try:
            while True:
                began = time.monotonic()
                targets = self._targets()
                self._forget(set(targets))
                if not targets:
                    return
                await self._round(targets)
                # The pause is what bounds the load; a backend that dies tells nobody.
                await asyncio.sleep(max(0.0, began + EACH_S - time.monotonic()))
        finally:
            self._echoes.close()

    def _forget(self, known: set) -> None:
        self._misses = {target: count for target, count in self._misses.items() if target in known}
        kept = {target: since for target, since in self.silent.items() if target in known}
        if len(kept) != len(self.silent):
            self.silent = kept
            self._on_change()

    async def _round(self, targets: list) -> None:
        ports = self._turn([one for one in targets if one[1] != PING], 0)
        echoes = self._turn([one for one in targets if one[1] == PING], 1)
        now, slots = [*ports, *echoes], asyncio.Semaphore(AT_ONCE)
        tries = [*(_connects(one, slots) for one in ports), *(self._echoes.answers(one[0]) for one in echoes)]
        answers = await asyncio.gather(*tries)
        silent = dict(self.silent)
        for target, answered in zip(now, answers):
            if answered is None or (not answered and target[1] == PING and not self._echoes.any):
                continue
            self._misses[target] = 0 if answered else self._misses.get(target, 0) + 1
            if answered and silent.pop(target, None) is not None:
                log("backend_answers", address=target[0], port=target[1])
            elif self._misses[target] == MISSES:
                silent[target] = time.monotonic()
                log("backend_silent", address=target[0], port=target[1])
        if silent != self.silent:
            self.silent = silent
            self._on_change()

    def _turn(self, targets: list, kind: int) -> list:
        if not targets:
            return []
        at = self._turns[kind] % len(targets)
        now = (targets[at:] + targets[:at])[:MOST_IN_ROUND]
        self._turns[kind] = at + len(now)
        return now


async def _verdict(attempt):
    """Whether it came to its end in time; None if this host could not try."""
    try:
        async with deadline(EACH_S):
            await attempt
        return True
    except Expired:
        return False
    except OSError as e:
        return None if e.errno in _OURS else False


async def _connects(target: tuple, slots: asyncio.Semaphore):
    """As `_verdict`, of a connection."""
    async with slots:
        return await _verdict(_connect(target))


async def _connect(target: tuple) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await asyncio.get_running_loop().sock_connect(sock, target)


class Echoes:
    """ICMP echoes by one raw socket, which is there from the first to `close`. `any`: one has come back."""

    def __init__(self) -> None:
        self.any = False
        self._sock = None
        self._ident = int.from_bytes(os.urandom(2), "big")
        self._number = 0
        self._asked: dict = {}  # (address, number) -> future

    def close(self) -> None:
        self.any = False
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    async def answers(self, address: str):
        """As `_verdict`, of an echo."""
        return await _verdict(self._ask(address))

    async def _ask(self, address: str) -> None:
        self._number = (self._number + 1) & 0xFFFF
        key = address, self._number
        sock = self._opened()
        self._asked[key] = answered = asyncio.get_running_loop().create_future()
        try:
            sock.sendto(_echo(self._ident, self._number), (address, 0))
            await answered
        finally:
            del self._asked[key]

    def _opened(self) -> socket.socket:
        if self._sock is None:
            flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | flags, socket.IPPROTO_ICMP)
            self._sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._take)
        return self._sock

    def _take(self) -> None:
        try:
            data, (address, _) = self._sock.recvfrom(2048)
        except OSError:
            return
        head = (data[0] & 0x0F) * 4  # RFC 791: the length of the IP header, in words
        if len(data) < head + 8:
            return
        kind, _, _, ident, number = struct.unpack_from("!BBHHH", data, head)
        answered = self._asked.get((address, number))
        if kind == _ECHO_REPLY and ident == self._ident and answered is not None and not answered.done():
            answered.set_result(None)
            self.any = True


def _echo(ident: int, number: int) -> bytes:
    """RFC 792, without data: its checksum is the complement of the sum of the other three words."""
    total = (_ECHO << 8) + ident + number
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", _ECHO, 0, ~total & 0xFFFF, ident, number)
