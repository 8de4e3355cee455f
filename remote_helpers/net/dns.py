"""The node's DNS server: containers ask it at their gateway, and it knows them by their address.

Names of their networks are answered from the table, others by the node's own resolvers. It goes on without a
manager, and its sockets can be passed on to the process that takes over, so that no question is lost.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket

from ..log import log
from ..timing import Expired, deadline
from . import dnswire
from .dnswire import Malformed, Query
from .names import Names
from .upstream import Resolvers, Upstream

TTL_S = 1  # a backend that died must not be asked for by those who remember
MOST_QUERY = 4096  # bytes of a question
BURST = 64  # packets in one turn of the loop: others want theirs as well
MOST_WAITING, MOST_WAITING_OF_ONE = 1024, 128  # questions that wait for resolvers, in all and of one container
MOST_TCP, MOST_TCP_OF_ONE = 128, 32  # connections
TCP_IDLE_S = 10.0
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_AGAIN_S = 0.5  # without free descriptors or memory
HAND_OVER_S = 1.0
RECEIVE_BUFFER = 1024 * 1024  # while one process takes over from another, questions wait here
NOBODY = ""  # a source that is refused
IP_FREEBIND, SO_RCVBUFFORCE = 15, 33  # Linux; not in Python's socket module before 3.13


def judge(names: Names, data: bytes, source: str, over_tcp: bool, shuffle=random.shuffle):
    """What to do with a message: bytes are the answer, a Query is for the resolvers, None is to be ignored."""
    try:
        if len(data) > MOST_QUERY or dnswire.header_of(data)[1] & dnswire.RESPONSE:
            return None
        asker = names.asker(source)
        query = dnswire.parse_query(data)
    except Malformed:
        known = len(data) >= dnswire.HEADER.size and names.asker(source) is not None
        return dnswire.error(data, dnswire.FORMERR) if known else None
    if asker is None or query.family != dnswire.IN or query.kind in (dnswire.AXFR, dnswire.IXFR):
        return dnswire.answer(query, dnswire.REFUSED, own=False)
    if query.opcode != 0:
        return dnswire.answer(query, dnswire.NOTIMP, own=False)
    limit = 65535 if over_tcp else min(query.udp_size, dnswire.MOST_UDP)
    found = names.addresses(query.name, asker.networks)
    if found is not None:
        shuffle(found)  # who takes the first one must not always take the same
        records = [dnswire.a_record(address, TTL_S) for address in found]
        # Any other type is known not to be there. NXDOMAIN for AAAA would make clients give up on A.
        asked = records if query.kind in (dnswire.A, dnswire.ANY) else []
        return dnswire.answer(query, dnswire.NOERROR, asked, limit=limit)
    reverse = dnswire.reverse_address(query.name)
    pointer = names.pointer(reverse, asker.networks) if reverse else ""
    if pointer:
        asked = [dnswire.ptr_record(pointer, TTL_S)] if query.kind in (dnswire.PTR, dnswire.ANY) else []
        return dnswire.answer(query, dnswire.NOERROR, asked, limit=limit)
    if names.is_secret(query.name) or (reverse and names.is_ours(reverse)):
        return dnswire.answer(query, dnswire.NXDOMAIN)
    if not asker.outside:
        return dnswire.answer(query, dnswire.REFUSED, own=False)  # as Docker does on internal networks
    return query


class DnsServer:
    """`names` may be replaced at any time. Made inside a running loop; listens on nothing at first.

    `resolvers_of(source)` gives the Resolvers of an asker that has its own, or None.
    """

    def __init__(self, names: Names | None = None, resolvers: Resolvers | None = None) -> None:
        self.names = names or Names()
        self.resolvers_of = lambda source: None
        self._upstream = Upstream(resolvers or Resolvers(), self._is_self)
        self._loop = asyncio.get_running_loop()
        self._places: dict = {}  # (address, port) -> (UDP socket, TCP socket)
        self._adopted: dict = {}  # (address, port, type) -> socket of a former process
        self._waiting: dict = {}  # source -> its questions that are not answered yet
        self._all_waiting = 0
        self._connections: dict = {}  # task -> source
        self._jobs: set = set()
        self._pauses: dict = {}  # listening TCP socket -> timer, while it is not read
        self._idle = asyncio.Event()
        self._idle.set()

    # --- sockets ----------------------------------------------------------------------------------------------
    @property
    def places(self) -> list:
        """(address, port) of each place where it listens."""
        return sorted(self._places)

    def adopt(self, fds) -> None:
        """Take the sockets of a former process; `listen` then uses those that fit and closes the others."""
        for fd in fds:
            try:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                sock.set_inheritable(False)
                self._adopted[(*sock.getsockname()[:2], sock.type)] = sock
            except OSError as e:
                log("dns_socket_not_adopted", fd=fd, cause=e)

    def listen(self, places) -> dict:
        """Listen there and nowhere else. (address, port) to what failed, for those where it cannot be."""
        wanted, failed = {tuple(place) for place in places}, {}
        for place in set(self._places) - wanted:
            for sock in self._places.pop(place):
                self._loop.remove_reader(sock.fileno())
                sock.close()
        for place in sorted(wanted - set(self._places)):
            try:
                self._open(place)
            except OSError as e:
                failed[place] = f"DNS cannot listen on {place[0]} port {place[1]}: {e.strerror or e}"
                log("dns_not_listening", address=place[0], port=place[1], cause=e)
        for sock in self._adopted.values():
            sock.close()
        self._adopted.clear()
        return failed

    def _open(self, place: tuple) -> None:
        udp = self._socket(place, socket.SOCK_DGRAM)
        try:
            tcp = self._socket(place, socket.SOCK_STREAM)
        except OSError:
            udp.close()
            raise
        self._places[place] = (udp, tcp)
        self._loop.add_reader(udp.fileno(), self._on_packets, udp)
        self._loop.add_reader(tcp.fileno(), self._on_connections, tcp)

    def _socket(self, place: tuple, kind: int) -> socket.socket:
        adopted = self._adopted.pop((*place, kind), None)
        if adopted is not None:
            return adopted
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            # The bridge with this address may come later, and go in between.
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections of before forbid it
            else:
                _enlarge(sock)
            sock.bind(place)
            if kind == socket.SOCK_STREAM:
                sock.listen(MOST_TCP)
        except OSError:
            sock.close()
            raise
        return sock

    async def hand_over(self, grace_s: float = HAND_OVER_S) -> list:
        """Read no more, answer what was read, and give the file descriptors away, to survive an exec.

        What comes meanwhile waits in the sockets. What is still not answered after `grace_s` is asked again by
        clients.
        """
        self._stop_reading()
        try:
            async with deadline(grace_s):
                await self._idle.wait()
        except Expired:
            log("dns_questions_dropped", count=self._all_waiting)
        self._cancel_jobs()
        fds = []
        for pair in self._places.values():
            for sock in pair:
                sock.set_inheritable(True)
                fds.append(sock.detach())
        self._places.clear()
        return fds

    def close(self) -> None:
        """Stop; nothing is left open."""
        self._stop_reading()
        self._cancel_jobs()
        for sock in [sock for pair in self._places.values() for sock in pair] + list(self._adopted.values()):
            sock.close()
        self._places.clear()
        self._adopted.clear()

    def _stop_reading(self) -> None:
        for timer in self._pauses.values():
            timer.cancel()
        self._pauses.clear()
        for pair in self._places.values():
            for sock in pair:
                self._loop.remove_reader(sock.fileno())

    def _cancel_jobs(self) -> None:
        self._upstream.cancel()
        for job in list(self._jobs):
            job.cancel()

    def _spawn(self, coroutine) -> asyncio.Task:
        job = asyncio.ensure_future(coroutine)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    # --- questions --------------------------------------------------------------------------------------------
    def _is_own(self, address: str) -> bool:
        return any(address == own for own, _ in self._places)

    def _is_self(self, address: str, port: int) -> bool:
        """Whether to ask there would be to ask ourselves, or our like on another node."""
        return (address, port) in self._places or self.names.is_ours(address)

    def _judge(self, data: bytes, source: str, over_tcp: bool):
        # The node itself may be its own resolver, which asks us: to ask it then would be a circle.
        return judge(self.names, data, NOBODY if self._is_own(source) else source, over_tcp)

    def _on_packets(self, sock: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, client = sock.recvfrom(MOST_QUERY + 1)
            except OSError:
                return  # nothing is left; or the kernel's word on an answer that did not arrive
            found = self._judge(data, client[0], over_tcp=False)
            if isinstance(found, Query):
                if self._begin(client[0]):
                    job = self._spawn(self._answer_later(sock, client, data, found))
                    job.add_done_callback(lambda _, source=client[0]: self._end(source))
                    continue
                found = dnswire.answer(found, dnswire.SERVFAIL, own=False)
            if found is not None:
                _send(sock, found, client)

    async def _answer_later(self, sock: socket.socket, client: tuple, data: bytes, query: Query) -> None:
        found = await self._forward(data, query, client[0], over_tcp=False)
        if len(found) > query.udp_size:
            found = dnswire.truncated(found, query)
        _send(sock, found, client)

    async def _forward(self, data: bytes, query: Query, source: str, over_tcp: bool) -> bytes:
        found = await self._upstream.ask(data, query, over_tcp, self.resolvers_of(source))
        return found or dnswire.answer(query, dnswire.SERVFAIL, own=False)

    def _begin(self, source: str) -> bool:
        """Count a question until `_end`. False, and it is not counted, if there are too many."""
        own = self._waiting.get(source, 0)
        if own >= MOST_WAITING_OF_ONE or self._all_waiting >= MOST_WAITING:
            return False
        self._waiting[source] = own + 1
        self._all_waiting += 1
        self._idle.clear()
        return True

    def _end(self, source: str) -> None:
        self._all_waiting -= 1
        self._waiting[source] -= 1
        if not self._waiting[source]:
            del self._waiting[source]
        if not self._waiting:
            self._idle.set()

    # --- TCP --------------------------------------------------------------------------------------------------
    def _on_connections(self, listening: socket.socket) -> None:
        try:
            sock, client = listening.accept()
        except OSError as e:
            if e.errno in EXHAUSTED:
                # The connection stays where it is: to be told of it at once again would keep the loop busy.
                log("dns_connections_wait", cause=e)
                self._loop.remove_reader(listening.fileno())
                self._pauses[listening] = self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listening)
            return
        sock.setblocking(False)
        sources = list(self._connections.values())
        if len(sources) >= MOST_TCP or sources.count(client[0]) >= MOST_TCP_OF_ONE:
            sock.close()
            return
        job = self._spawn(self._serve(sock, client[0]))
        self._connections[job] = client[0]
        job.add_done_callback(lambda done: self._connections.pop(done, None))

    def _accept_again(self, listening: socket.socket) -> None:
        self._pauses.pop(listening)
        if listening.fileno() >= 0:  # else it was closed meanwhile
            self._loop.add_reader(listening.fileno(), self._on_connections, listening)

    async def _serve(self, sock: socket.socket, source: str) -> None:
        """One connection: question after question (RFC 7766), until the client has no more."""
        writer = None
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            while True:
                async with deadline(TCP_IDLE_S):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    if length > MOST_QUERY:
                        return
                    data = await reader.readexactly(length)
                if not self._begin(source):
                    return
                try:
                    found = self._judge(data, source, over_tcp=True)
                    if isinstance(found, Query):
                        found = await self._forward(data, found, source, over_tcp=True)
                    if found is None:
                        return
                    writer.write(len(found).to_bytes(2, "big") + found)
                finally:
                    self._end(source)
                async with deadline(TCP_IDLE_S):
                    await writer.drain()
        except (OSError, EOFError, Expired):
            return
        finally:
            if writer is not None:
                writer.close()
            else:
                sock.close()


def _send(sock: socket.socket, data: bytes, client: tuple) -> None:
    try:
        sock.sendto(data, client)
    except OSError:
        pass  # the client is gone, or the queue full: it will ask again


def _enlarge(sock: socket.socket) -> None:
    for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
            return
        except OSError:
            continue  # without the right to force it, the system's limit holds
