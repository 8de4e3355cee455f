"""What failed, in words that name the host, the user and the way out."""

from __future__ import annotations

import asyncssh

from swarmsh.adapters.ssh.identity import KeyOffer
from swarmsh.errors import NodeUnreachable, NodeUntrusted
from swarmsh.model.objects import SshTarget

# How a connection looks that the server ends in mid-handshake: by a reset, if it left unread what we had sent.
CLOSED = (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError)


class Dropped(Exception):
    """The server closed the connection before its banner; worth another try in a moment."""


def place(target: SshTarget) -> str:
    """`root@10.0.0.1`, with the port if it is not 22 and the jump hosts if there are any."""
    host = f"[{target.address}]" if ":" in target.address else target.address
    via = f" (through {', '.join(j.address for j in target.jump)})" if target.jump else ""
    return f"{target.user}@{host}{'' if target.port == 22 else f':{target.port}'}{via}"


def untrusted(target: SshTarget, shown: str, pinned: tuple[str, ...]) -> NodeUntrusted:
    """The server's key is none of the pins."""
    fields = {"address": target.address, "shown": shown, "pinned": pinned}
    if not pinned:
        return NodeUntrusted(
            f"{place(target)} has no pinned host key; it shows {shown}",
            hint="Compare it on the host with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`, then pin it "
            "(swarmsh_host_key, --host-key), or let `swarmsh up` ask you",
            **fields,
        )
    return NodeUntrusted(
        f"{place(target)} shows host key {shown}, pinned is {' or '.join(pinned)}: nothing was sent to it",
        hint="If the host was reinstalled, pin the new key; else somebody is in between",
        **fields,
    )


def explain(
    error: BaseException, target: SshTarget, offer: KeyOffer, after_s: float = 0.0, through_jump: bool = False
) -> NodeUnreachable:
    """A failed key exchange, login or tunnel."""
    where = place(target)
    hint = ""
    match error:
        case TimeoutError():
            message = f"{where} did not finish the login within {after_s:.0f} s"
            hint = "Is the host overloaded, or does it wait for a name server (UseDNS)?"
        case asyncssh.PermissionDenied():
            tried = ", ".join(offer.names)
            encrypted = f"; encrypted and not in the agent: {', '.join(offer.unusable)}" if offer.unusable else ""
            message = f"{where} refused user {target.user}; keys tried: {tried}{encrypted}"
            hint = (
                "Add the public key to that user's authorized_keys, or name another user (ansible_user, --user) "
                "or key (ansible_ssh_private_key_file, --identity)"
            )
        case asyncssh.ChannelOpenError():
            message = f"{where}: the jump host could not connect to it: {error.reason}"
        case asyncssh.KeyExchangeFailed():
            message = f"{where} and swarmsh have no algorithm in common: {error.reason}"
        case asyncssh.ConnectionLost() | ConnectionResetError() | BrokenPipeError():
            message = f"{where} closed the connection during the login"
            hint = "Its sshd's log says why" + ("; or the jump host went away" if through_jump else "")
        case asyncssh.DisconnectError():
            message = f"{where} ended the login: {error.reason}"
            if "Too many authentication failures" in error.reason:
                hint = (
                    f"Offered were {', '.join(offer.names)}; name one (ansible_ssh_private_key_file, --identity)"
                )
        case OSError():
            message = f"{where} cannot be reached: {error.strerror or error}"
        case _:
            message = f"{where}: {error}"
    return NodeUnreachable(message, hint=hint, address=target.address)
