"""A second opinion on other nodes: does their sshd still speak (RFC 4253, section 4.2)."""

from __future__ import annotations

import asyncio

from .timing import Expired, deadline

# A host's kernel takes a connection at once, however busy the host: one lost packet (sent again after 1 s) is
# allowed for. Its sshd may need longer to speak.
CONNECT_S = 2.0


async def check_peers(peers: list, timeout_s: float) -> dict:
    """Node id to whether a banner of SSH was read from it in time; all at once.

    An answer by this machine itself, as at an address of the loopback, is none, but for peers with `own`.
    """
    answers = await asyncio.gather(*(_reached(peer, timeout_s) for peer in peers))
    return {peer["node"]: reached for peer, reached in zip(peers, answers)}


async def _reached(peer: dict, timeout_s: float) -> bool:
    writer = None
    try:
        async with deadline(timeout_s):
            async with deadline(CONNECT_S):
                reader, writer = await asyncio.open_connection(peer["address"], int(peer.get("port", 22)))
            ends = (writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
            if not peer.get("own") and (not all(ends) or ends[0][0] == ends[1][0]):
                return False
            return (await reader.readexactly(4)) == b"SSH-"
    except (OSError, EOFError, Expired, ValueError):  # ValueError: a name that can be none
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
