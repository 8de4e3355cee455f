"""Who speaks to the socket: the user that the kernel names, and the client as it names itself."""

from __future__ import annotations

import pwd
import socket
import struct
from functools import lru_cache

from aiohttp import web

from swarmsh.model.revisions import Author

MOST_LETTERS = 80  # of what a client says of itself
_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def author_of(request: web.Request) -> Author:
    """The author of what a request changes; what it does is for others to say."""
    agent = "".join(letter for letter in request.headers.get("User-Agent", "") if letter.isprintable())
    return Author(user=_user_of(request), client=agent[:MOST_LETTERS])


def _user_of(request: web.Request) -> str:
    """Empty where the system does not tell (only Linux does it this way), or the client has gone."""
    peer = request.get_extra_info("socket")
    option = getattr(socket, "SO_PEERCRED", None)
    if peer is None or option is None:
        return ""
    try:
        _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    except OSError:
        return ""
    return _login_name(uid)


@lru_cache(maxsize=64)
def _login_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
