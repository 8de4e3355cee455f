"""SSH servers on loopback that a test owns: asyncssh's, and OpenSSH's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from swarmsh.model.objects import SshTarget

Handler = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


class Server(asyncssh.SSHServer):
    """Counts what reaches it; lets tunnels through."""

    def __init__(self, owner: LoopbackServer) -> None:
        self._owner = owner

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._owner.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        self._owner.users_seen.append(username)
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        self._owner.tunnels.append((dest_host, dest_port))
        return True


class LoopbackServer:
    """An asyncssh server that runs `handler` for each command; can be stopped and started again on its port."""

    def __init__(self, handler: Handler, client_key: asyncssh.SSHKey, host_key_kind: str = "ssh-ed25519") -> None:
        self.handler = handler
        self.host_key = asyncssh.generate_private_key(host_key_kind)
        self.more_host_keys: list[asyncssh.SSHKey] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.users_seen: list[str] = []
        self.tunnels: list[tuple[str, int]] = []
        self.port = 0
        self._client_key = client_key
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self) -> LoopbackServer:
        keys = asyncssh.import_authorized_keys(self._client_key.export_public_key().decode())
        self._acceptor = await asyncssh.create_server(
            lambda: Server(self),
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key, *self.more_host_keys],
            authorized_client_keys=keys,
            process_factory=self.handler,
            encoding=None,
        )
        self.port = self._acceptor.get_port()
        return self

    def drop_all(self) -> None:
        """Break every connection without a farewell."""
        for conn in self.connections:
            conn.abort()
        self.connections.clear()

    async def stop(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        self.drop_all()

    def target(self, key_file: Path, **changes: Any) -> SshTarget:
        values: dict[str, Any] = {
            "address": "127.0.0.1",
            "port": self.port,
            "user": "tester",
            "identity_files": (str(key_file),),
            "host_keys": (self.host_key.get_fingerprint(),),
        }
        return SshTarget(**(values | changes))


async def run_locally(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the exec'd command as a subprocess of the test, as sshd would."""
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
    try:
        await asyncio.gather(_copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr))
        process.exit(await child.wait())
    finally:
        feeding.cancel()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _copy(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


async def _feed(source: asyncssh.SSHReader[bytes], sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
