"""Opening connections: address, banner, pinned host key, login, through jump hosts."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import asyncssh

from swarmsh.adapters.ssh.failures import CLOSED, Dropped, explain, place, untrusted
from swarmsh.adapters.ssh.identity import Identities, KeyOffer
from swarmsh.adapters.ssh.jump import JumpHosts
from swarmsh.adapters.ssh.link import SshLink
from swarmsh.adapters.ssh.pins import ALL_ALGORITHMS, HOST_KEY_ALGORITHMS, HostPins, public_key_line
from swarmsh.adapters.ssh.tcp import open_socket
from swarmsh.errors import NodeUnreachable, NodeUntrusted
from swarmsh.model.objects import SshTarget

_OPTIONS: dict[str, Any] = {
    # chacha20, the first choice of asyncssh, costs its client 1.5 to 1.9 times the CPU of AES-GCM.
    "encryption_algs": [
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes128-ctr",
        "aes256-ctr",
    ],
    "compression_algs": ["none"],
    # Nothing is known beforehand: each host key is put before _PinnedClient. (None would trust any.)
    "known_hosts": ([], [], [], [], [], [], []),
    "x509_trusted_certs": None,
    "config": None,  # what the inventory says, and nothing of ~/.ssh/config
    "gss_host": None,
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "agent_path": None,  # our own offer holds the agent's keys
    "keepalive_interval": 0,  # the helper's heartbeats prove more
}
_TRIES_IF_DROPPED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DialLimits:
    handshakes: int = 16  # at the same time, in the whole process
    # TCP repeats a lost SYN after 1, 3 and 7 s: a fresh attempt finds a network that is back sooner.
    connect_s: float = 4.0  # name and TCP
    banner_s: float = 10.0
    login_s: float = 20.0  # key exchange and authentication
    channel_s: float = 15.0  # starting a command
    jump_keepalive_s: float = 5.0


class _PinnedClient(asyncssh.SSHClient):
    """Answers asyncssh's question about the host key, which comes before any user authentication."""

    def __init__(self, pins: HostPins) -> None:
        self._pins = pins
        self.shown: asyncssh.SSHKey | None = None
        self.link: SshLink | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return self._pins.accept(key)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.link is not None:
            self.link.lost()


class SshDialer:
    """Opens connections for the whole process: caps handshakes, keeps keys in memory, shares jump hosts."""

    def __init__(
        self,
        *,
        limits: DialLimits | None = None,
        identities: Identities | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._limits = limits or DialLimits()
        self._identities = identities or Identities()
        self._rng = rng or random.Random()
        self._handshakes = asyncio.Semaphore(self._limits.handshakes)
        self._jumps = JumpHosts(self.connect, self._limits.jump_keepalive_s)
        # Which kind of host key matched a fingerprint, which itself does not tell.
        self._kind_of_pins: dict[tuple[str, ...], tuple[str, ...]] = {}

    async def connect(self, target: SshTarget) -> SshLink:
        """A connection to `target`, logged in; its host key is one of its pins.

        Raises NodeUntrusted (fields shown, pinned) before anything was sent of the user, or NodeUnreachable.
        """
        async with self._jumps.through(target.jump) as hold:
            link = await self._open(target, None if hold is None else hold.link)
        if hold is not None:
            link.on_lost(hold.release)
        return link

    async def fetch_host_key(self, target: SshTarget) -> tuple[str, str]:
        """(fingerprint, public key line) that the target shows now; nothing is trusted and nobody logs in.

        Jump hosts before it must be pinned. Raises NodeUnreachable, or NodeUntrusted for a jump host.
        """
        client = _PinnedClient(HostPins(()))
        async with self._jumps.through(target.jump) as hold:
            try:
                await self._handshake(
                    target, client, None if hold is None else hold.link, ALL_ALGORITHMS, log_in=False
                )
            except asyncssh.HostKeyNotVerifiable:
                pass  # it always is: there are no pins
            finally:
                if hold is not None:
                    hold.release()
        assert client.shown is not None
        return client.shown.get_fingerprint(), public_key_line(client.shown)

    async def _open(self, target: SshTarget, tunnel: SshLink | None) -> SshLink:
        pins = HostPins(target.host_keys)
        refused: NodeUntrusted | None = None
        lacking: Exception | None = None
        shown: set[tuple[str, ...]] = set()
        for algorithms in self._algorithms_to_ask(target, pins):
            if algorithms in shown:
                continue
            client = _PinnedClient(pins)
            try:
                conn = await self._handshake(target, client, tunnel, algorithms)
            except asyncssh.HostKeyNotVerifiable:
                if client.shown is None:
                    raise
                refused = refused or untrusted(target, client.shown.get_fingerprint(), pins.shown_as)
                shown.add(_family(client.shown))
                if pins.kind_is_known or not pins.shown_as:
                    break
            except (asyncssh.KeyExchangeFailed, NodeUnreachable) as e:
                # sshd ends the connection if it has no key of the kinds asked for, sometimes before it says so.
                cause = e if isinstance(e, asyncssh.KeyExchangeFailed) else e.__cause__
                if not isinstance(cause, (asyncssh.KeyExchangeFailed, *CLOSED)):
                    raise refused or e from e
                if algorithms == ALL_ALGORITHMS:
                    lacking = e
                    break
                lacking = lacking or e
            else:
                if client.shown is not None and not pins.kind_is_known:
                    self._kind_of_pins[target.host_keys] = _family(client.shown)
                link = SshLink(conn, target, self._limits.channel_s)
                client.link = link
                if conn.is_closed():
                    link.lost()
                return link
        if refused is not None:
            raise refused
        assert lacking is not None
        raise lacking if isinstance(lacking, NodeUnreachable) else explain(lacking, target, KeyOffer())

    def _algorithms_to_ask(self, target: SshTarget, pins: HostPins) -> list[tuple[str, ...]]:
        """Kinds of host keys to ask for, one attempt each, until a key is accepted.

        All kinds in the end, so that a host whose key was replaced by one of another kind is seen as untrusted.
        """
        if pins.kind_is_known:
            return [pins.algorithms, ALL_ALGORITHMS]
        learnt = self._kind_of_pins.get(target.host_keys)
        # A server may have the pinned key besides the one that it shows first.
        return [*([learnt] if learnt else []), ALL_ALGORITHMS, *HOST_KEY_ALGORITHMS]

    async def _handshake(
        self,
        target: SshTarget,
        client: _PinnedClient,
        tunnel: SshLink | None,
        algorithms: tuple[str, ...],
        *,
        log_in: bool = True,
    ) -> asyncssh.SSHClientConnection:
        """One connection; tried again if the server drops it before its banner (sshd's MaxStartups)."""
        attempt = 0
        while True:
            attempt += 1
            try:
                if not log_in:
                    return await self._handshake_once(target, client, tunnel, algorithms, KeyOffer())
                async with self._identities.offer(target.identity_files, where=place(target)) as offer:
                    return await self._handshake_once(target, client, tunnel, algorithms, offer)
            except Dropped as e:
                if attempt == _TRIES_IF_DROPPED:
                    raise NodeUnreachable(
                        f"{place(target)} closed {attempt} connections before its SSH banner: {e}",
                        hint="Raise MaxStartups in its sshd_config, or see what limits connections on the way",
                        address=target.address,
                    ) from e
                await asyncio.sleep(self._rng.uniform(0.05, 0.2) * 2**attempt)

    async def _handshake_once(
        self,
        target: SshTarget,
        client: _PinnedClient,
        tunnel: SshLink | None,
        algorithms: tuple[str, ...],
        offer: KeyOffer,
    ) -> asyncssh.SSHClientConnection:
        """Raises HostKeyNotVerifiable, KeyExchangeFailed and Dropped as they are; else NodeUnreachable."""
        way: dict[str, Any]
        if tunnel is None:
            # Outside of the cap: hosts that are away must not hold up those that answer.
            sock = await open_socket(target, self._limits.connect_s, self._limits.banner_s)
            way = {"sock": sock}
        else:
            sock = None
            way = {"host": target.address, "port": target.port, "tunnel": tunnel.connection}
        started = time.monotonic()
        try:
            async with self._handshakes:
                started = time.monotonic()
                async with asyncio.timeout(self._limits.login_s):
                    return await asyncssh.connect(
                        **way,
                        client_factory=lambda: client,
                        username=target.user,
                        client_keys=offer.keys or None,  # an empty list would mean the user's default keys
                        server_host_key_algs=list(algorithms),
                        **_OPTIONS,
                    )
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
            raise
        except (asyncssh.Error, OSError, ValueError) as e:
            if sock is not None:
                sock.close()
            raise explain(e, target, offer, time.monotonic() - started, tunnel is not None) from e
        except BaseException:
            if sock is not None:
                sock.close()  # cancelled, perhaps before asyncssh had taken it over
            raise


def _family(key: asyncssh.SSHKey) -> tuple[str, ...]:
    names = {algorithm.decode() for algorithm in key.sig_algorithms}
    return next((family for family in HOST_KEY_ALGORITHMS if names & set(family)), ALL_ALGORITHMS)
