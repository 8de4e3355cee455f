"""Questions that are none of ours: the node's own resolvers, and how they are asked.

Each question goes out from a socket of its own, connected, with a random port (the kernel's) and a random id; an
answer counts if both and the question fit. What came and what goes back are the same bytes otherwise.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time

from ..log import log
from ..timing import Expired, deadline
from . import dnswire

RESOLV_CONF = "/etc/resolv.conf"
# The stub of systemd-resolved names itself in resolv.conf; whom it asks stands here.
BEHIND_STUB = "/run/systemd/resolve/resolv.conf"
STUBS = ("127.0.0.53", "127.0.0.54")
LOOK_AGAIN_S = 1.0
MOST_RESOLVERS = 3  # as in resolv.conf(5)

NEXT_AFTER_S = 1.0  # an answer that takes longer is still taken, but the next resolver is asked as well
GIVE_UP_S = 3.5  # Docker's own resolver, which asks us, waits for 4 s
ATTEMPTS = 3
SHUNNED_S = 30.0  # a resolver that gave no answer comes last for so long
MOST_OUTSTANDING = 256  # questions; each has at most ATTEMPTS sockets, and a process 1024 by default


def parse_resolv_conf(text: str) -> list:
    """The addresses of `nameserver` lines, in order; resolv.conf(5) takes no more than three."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(words[1])
    return found[:MOST_RESOLVERS]


class Resolvers:
    """The node's resolvers, read again when a file has changed."""

    def __init__(self, path: str = RESOLV_CONF, behind_stub: str = BEHIND_STUB, port: int = 53) -> None:
        self._paths = (path, behind_stub)
        self._port = port
        self._seen: tuple | None = None
        self._look_at = 0.0
        self._found: list = []
        self._shunned: dict = {}  # (address, port) -> until

    def current(self) -> list:
        """(address, port) of each, in order, but those that gave no answer lately come last."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN_S
            seen = tuple(map(_stamp, self._paths))
            if seen != self._seen:
                self._seen = seen
                self._read()
        return self._in_order(now)

    def _in_order(self, now: float) -> list:
        self._shunned = {one: until for one, until in self._shunned.items() if until > now}
        return sorted(self._found, key=lambda one: self._shunned.get(one, 0.0))  # which keeps the order otherwise

    def _read(self) -> None:
        found = parse_resolv_conf(_content(self._paths[0]))
        if any(address in STUBS for address in found):
            # The stub itself is asked if its file says nothing.
            found = parse_resolv_conf(_content(self._paths[1])) or found
        found = found or ["127.0.0.1"]  # resolv.conf(5): without an entry, the resolver of this machine
        self._found = [(address, self._port) for address in found]
        self._shunned.clear()
        log("resolvers_read", addresses=",".join(found))

    def shun(self, one: tuple) -> None:
        """It gave no answer: for a while the others are asked first."""
        self._shunned[one] = time.monotonic() + SHUNNED_S


class Given(Resolvers):
    """Resolvers that somebody gave for a task, whatever the node's own are."""

    def __init__(self, addresses, port: int = 53) -> None:
        super().__init__(port=port)
        self._found = [(address, port) for address in addresses]

    def current(self) -> list:
        return self._in_order(time.monotonic())


def _stamp(path: str) -> tuple:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


class Upstream:
    """Asks the resolvers, but never one that `is_self(address, port)`.

    A question that many ask, or one again, is out only once. So it cannot multiply either where a resolver asks
    us back by a way that cannot be seen from here.
    """

    def __init__(self, resolvers: Resolvers, is_self) -> None:
        self._resolvers, self._is_self = resolvers, is_self
        self._outstanding: dict = {}  # (bytes but the id, over TCP, resolvers) -> task
        self._told = False  # that there is nobody to ask

    async def ask(
        self, data: bytes, query: dnswire.Query, over_tcp: bool, given: Resolvers | None
    ) -> bytes | None:
        """The answer to the message `data` (with its id), None if nobody gave one. Raises nothing.

        `given` are asked in the place of the node's own.
        """
        resolvers = given or self._resolvers
        key = (data[2:], over_tcp, resolvers)
        job = self._outstanding.get(key)
        if job is None:
            if len(self._outstanding) >= MOST_OUTSTANDING:
                return None
            job = self._outstanding[key] = asyncio.ensure_future(self._ask_all(data, query, over_tcp, resolvers))
            job.add_done_callback(lambda _: self._outstanding.pop(key, None))
        found = await asyncio.shield(job)
        return None if found is None else dnswire.with_id(found, query.id)

    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    def cancel(self) -> None:
        for job in list(self._outstanding.values()):
            job.cancel()

    async def _ask_all(self, data: bytes, query: dnswire.Query, over_tcp: bool, asked: Resolvers) -> bytes | None:
        resolvers = [one for one in asked.current() if not self._is_self(*one)]
        if not resolvers:
            if not self._told:
                log("no_resolver", hint=f"{RESOLV_CONF} names none but this server itself")
            self._told = True
            return None
        self._told = False
        attempts = _Attempts(resolvers, data, query, _over_tcp if over_tcp else _over_udp)
        try:
            async with deadline(GIVE_UP_S):
                return await attempts.run()
        except Expired:
            return attempts.refusal
        finally:
            attempts.cancel()
            for one in attempts.silent:
                asked.shun(one)


class _Attempts:
    """One question to resolvers in turn: the next one when the last fails, or has taken too long."""

    def __init__(self, resolvers: list, data: bytes, query: dnswire.Query, ask) -> None:
        self._left = [resolvers[i % len(resolvers)] for i in range(max(ATTEMPTS, len(resolvers)))]
        self._data, self._query, self._ask = data, query, ask
        self._running: dict = {}  # future -> resolver
        self.silent: set = set()  # resolvers that failed, or took longer than NEXT_AFTER_S until now
        self.refusal: bytes | None = None

    async def run(self) -> bytes | None:
        """An answer; if there is none but refusals, the first of them."""
        while self._left or self._running:
            if self._left:
                resolver = self._left.pop(0)
                self._running[asyncio.ensure_future(self._try(resolver))] = resolver
            wait_s = NEXT_AFTER_S if self._left else None
            done, _ = await asyncio.wait(self._running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.silent.update(self._running.values())
            for job in done:
                resolver, found = self._running.pop(job), job.result()
                if found is None:
                    self.silent.add(resolver)
                    continue
                self.silent.discard(resolver)
                if not _is_refusal(found):
                    return found
                self.refusal = self.refusal or found
                self._left = [one for one in self._left if one != resolver]  # it would say so again
        return self.refusal

    async def _try(self, resolver: tuple) -> bytes | None:
        try:
            return await self._ask(resolver, self._data, self._query)
        except OSError:
            return None

    def cancel(self) -> None:
        for job in self._running:
            job.cancel()


def _is_refusal(data: bytes) -> bool:
    """The resolver could not or would not: another one may."""
    return dnswire.header_of(data)[1] & dnswire.RCODE_MASK in (dnswire.SERVFAIL, dnswire.REFUSED, dnswire.NOTIMP)


async def _over_udp(resolver: tuple, data: bytes, query: dnswire.Query) -> bytes:
    """Raises OSError, also when nobody listens there."""
    loop = asyncio.get_running_loop()
    with socket.socket(_family(resolver), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.connect(resolver)
        number = int.from_bytes(os.urandom(2), "big")
        sock.send(dnswire.with_id(data, number))
        while True:
            found = await loop.sock_recv(sock, 65535)
            if dnswire.is_answer_to(found, number, query.question):
                return found  # else it is somebody's guess: go on listening


async def _over_tcp(resolver: tuple, data: bytes, query: dnswire.Query) -> bytes:
    """Raises OSError; also for an answer to something else, which TCP makes no accident."""
    number = int.from_bytes(os.urandom(2), "big")
    reader, writer = await asyncio.open_connection(*resolver)
    try:
        writer.write(len(data).to_bytes(2, "big") + dnswire.with_id(data, number))
        length = int.from_bytes(await reader.readexactly(2), "big")
        found = await reader.readexactly(length)
    except EOFError as e:
        raise OSError("the connection ended early") from e
    finally:
        writer.transport.abort()
    if not dnswire.is_answer_to(found, number, query.question):
        raise OSError("an answer to another question")
    return found


def _family(resolver: tuple) -> int:
    return socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET
