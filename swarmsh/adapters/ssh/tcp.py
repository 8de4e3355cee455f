"""A TCP connection to an SSH server that has begun to speak."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from swarmsh.adapters.ssh.failures import Dropped, place
from swarmsh.errors import NodeUnreachable
from swarmsh.model.objects import SshTarget

_Found = tuple[socket.AddressFamily, Any]  # address as this family's sockets take it


async def open_socket(target: SshTarget, connect_s: float, banner_s: float) -> socket.socket:
    """Connect, and wait for the first bytes of the banner, left unread.

    A server that accepts and stays silent, or drops the connection at once, is told apart from a failed login.
    Raises NodeUnreachable, or Dropped if the server closed before its banner.
    """
    where = place(target)
    try:
        async with asyncio.timeout(connect_s):
            sock = await _connect(target, connect_s)
    except TimeoutError as e:
        raise NodeUnreachable(
            f"{where} did not answer within {connect_s:g} s",
            hint="Is it switched on, and does a firewall drop the connection?",
            address=target.address,
        ) from e
    try:
        async with asyncio.timeout(banner_s):
            await _await_banner(sock)
    except TimeoutError as e:
        sock.close()
        raise NodeUnreachable(
            f"{where} accepted the connection but sent no SSH banner within {banner_s:g} s",
            hint="Is that its SSH port, and is the host frozen?",
            address=target.address,
        ) from e
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(target: SshTarget, timeout_s: float) -> socket.socket:
    found = await _resolve(target)
    failure: OSError | None = None
    for number, (family, address) in enumerate(found, 1):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # One dead address of several must not use up the time of the others.
            async with asyncio.timeout(None if number == len(found) else timeout_s / len(found)):
                await asyncio.get_running_loop().sock_connect(sock, address)
            return sock
        except (OSError, TimeoutError) as e:
            sock.close()
            failure = e
        except BaseException:
            sock.close()
            raise
    assert failure is not None
    if isinstance(failure, ConnectionRefusedError):
        raise NodeUnreachable(
            f"{place(target)} refused the connection: nothing listens on that port",
            hint="Start its sshd, or correct the port (ansible_port, --port)",
            address=target.address,
        ) from failure
    raise NodeUnreachable(
        f"{place(target)} cannot be reached: {failure.strerror or failure}", address=target.address
    ) from failure


async def _resolve(target: SshTarget) -> list[_Found]:
    try:
        ip = ipaddress.ip_address(target.address)
    except ValueError:
        pass
    else:  # a thousand nodes by address need no resolver thread
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        return [(family, (target.address, target.port))]
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as e:
        raise NodeUnreachable(
            f"the name {target.address} does not resolve: {getattr(e, 'strerror', None) or e}",
            hint="Correct it, or give an IP address (ansible_host, --address)",
            address=target.address,
        ) from e
    return [(family, address) for family, _, _, _, address in infos]


async def _await_banner(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock)
    try:
        first = sock.recv(64, socket.MSG_PEEK)
    except OSError as e:
        raise Dropped(e.strerror or str(e)) from e
    # OpenSSH's words for MaxStartups and PerSourcePenalties; sent in place of the banner.
    if not first or first.startswith((b"Exceeded MaxStartups", b"Not allowed at this time")):
        raise Dropped(first.decode(errors="replace").strip() or "it said nothing")
