"""Which keys are offered for a login: identity files, the user's default keys, and the agent's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from swarmsh.errors import NodeUnreachable

_DEFAULT_FILES = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True, slots=True)
class _KeyFile:
    """A private key with its certificate; without `private` it is encrypted, and only an agent can use it."""

    path: str
    private: asyncssh.SSHKey | None
    public_data: bytes | None
    certificate: asyncssh.SSHCertificate | None = None


@dataclass(slots=True)
class KeyOffer:
    """Keys in the order in which they are tried, and how to name them in a message."""

    keys: list[object] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


class Identities:
    """Reads key files off the event loop, once for each change of a file."""

    def __init__(self, agent_path: str | None = None, home: Path | None = None) -> None:
        self._agent_path = agent_path if agent_path is not None else os.environ.get("SSH_AUTH_SOCK", "")
        self._ssh_dir = (home or Path.home()) / ".ssh"
        self._read: dict[str, tuple[tuple[int, int], _KeyFile]] = {}

    @asynccontextmanager
    async def offer(self, files: Sequence[str], *, where: str) -> AsyncIterator[KeyOffer]:
        """Keys for one login; the agent is held open meanwhile.

        Given files are offered alone (as with IdentitiesOnly): an agent full of other keys would use up the
        server's MaxAuthTries. Raises NodeUnreachable if a given file is missing or of no use.
        """
        found = await asyncio.to_thread(self._read_given, files, where) if files else []
        if not files:
            found = await asyncio.to_thread(self._read_defaults)
        offer = KeyOffer()
        async with AsyncExitStack() as stack:
            agent_keys = await self._agent_keys(stack) if not files or any(not f.private for f in found) else {}
            for f in found:
                if f.private is not None:
                    offer.keys.append((f.private, f.certificate) if f.certificate else f.private)
                    offer.names.append(f.path)
                elif f.public_data in agent_keys:
                    offer.keys.append(agent_keys[f.public_data])
                    offer.names.append(f"{f.path} (by the agent)")
                else:
                    offer.unusable.append(f.path)
            if not files:
                for data, pair in agent_keys.items():
                    if data not in {f.public_data for f in found}:
                        offer.keys.append(pair)
                        offer.names.append(f"agent: {pair.get_comment() or pair.get_algorithm()}")
            if not offer.keys:
                raise self._nothing_to_offer(files, offer, where)
            yield offer

    def _nothing_to_offer(self, files: Sequence[str], offer: KeyOffer, where: str) -> NodeUnreachable:
        if offer.unusable:
            names = ", ".join(offer.unusable)
            return NodeUnreachable(
                f"cannot log in to {where}: the key {names} is encrypted and no agent holds it",
                hint=f"Run `ssh-add {offer.unusable[0]}` and start swarmsh with that SSH_AUTH_SOCK",
            )
        agent = f"the agent at {self._agent_path} holds none" if self._agent_path else "SSH_AUTH_SOCK is not set"
        return NodeUnreachable(
            f"cannot log in to {where}: there is no key to offer "
            f"(none of {', '.join(_DEFAULT_FILES)} in {self._ssh_dir}; {agent})",
            hint="Name one (ansible_ssh_private_key_file, --identity)",
        )

    async def _agent_keys(self, stack: AsyncExitStack) -> dict[bytes | None, asyncssh.SSHKeyPair]:
        if not self._agent_path:
            return {}
        try:
            agent = await stack.enter_async_context(asyncssh.connect_agent(self._agent_path))
            return {pair.public_data: pair for pair in await agent.get_keys()}
        except (OSError, ValueError):
            return {}  # a stale SSH_AUTH_SOCK is usual; the message of a failed login says what was tried

    def _read_defaults(self) -> list[_KeyFile]:
        found = []
        for name in _DEFAULT_FILES:
            path = self._ssh_dir / name
            if path.is_file() and os.access(path, os.R_OK):
                try:
                    found.append(self._read_file(str(path)))
                except (OSError, ValueError):
                    continue  # not asked for by name: as ssh does, it is passed over
        return found

    def _read_given(self, files: Sequence[str], where: str) -> list[_KeyFile]:
        found = []
        for name in files:
            path = str(Path(name).expanduser())
            try:
                found.append(self._read_file(path))
            except FileNotFoundError as e:
                raise NodeUnreachable(
                    f"cannot log in to {where}: there is no key file {path}",
                    hint="Name another (ansible_ssh_private_key_file, --identity)",
                ) from e
            except OSError as e:
                raise NodeUnreachable(
                    f"cannot log in to {where}: the key file {path} cannot be read: {e.strerror}",
                ) from e
            except ValueError as e:
                raise NodeUnreachable(
                    f"cannot log in to {where}: {path} is no private key: {e}",
                    hint="Give the private half, in OpenSSH's or PEM's format",
                ) from e
        return found

    def _read_file(self, path: str) -> _KeyFile:
        stat = os.stat(path)
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, _load(path))
        return known[1]


def _load(path: str) -> _KeyFile:
    try:
        key = asyncssh.read_private_key(path)
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as e:
        if isinstance(e, asyncssh.KeyImportError) and "passphrase" not in str(e).lower():
            raise
        return _KeyFile(path, None, _public_half(path))
    certificate = None
    if os.path.exists(f"{path}-cert.pub"):
        certificate = asyncssh.read_certificate(f"{path}-cert.pub")
    return _KeyFile(path, key, key.public_data, certificate)


def _public_half(path: str) -> bytes | None:
    """An encrypted OpenSSH key file holds its public half in clear; other formats have it in `path`.pub."""
    for candidate in (path, f"{path}.pub"):
        try:
            return asyncssh.read_public_key(candidate).public_data
        except (OSError, ValueError):
            continue
    return None
