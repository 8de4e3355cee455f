"""The helper's own socket: sessions arrive here as file descriptors, and a newer helper as a request to give way.

A message is one JSON line, `{"verb":"session"|"handover","helper":"<sha256>"}`, sent with SCM_RIGHTS for a
session; the answer is one line. The socket itself is passed on across a hand-over, so nobody is refused meanwhile;
those of the name server as well.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys

from .log import log

SOCKET_NAME = "helper.sock"
INHERITED, INHERITED_DNS = "SWARMSH_LISTENING_FD", "SWARMSH_DNS_FDS"
MESSAGE_LIMIT = 128 * 1024
ACCEPT_AGAIN_S = 0.5  # without free descriptors


def listening_socket(root: str) -> socket.socket:
    """The inherited one after a hand-over, else a new one; nobody is refused while it is replaced."""
    inherited = os.environ.pop(INHERITED, "")
    if inherited.isdigit():
        try:
            sock = socket.socket(fileno=int(inherited))
            sock.set_inheritable(False)
            sock.setblocking(False)
            return sock
        except OSError as e:
            log("socket_not_inherited", cause=e)
    path = f"{root}/{SOCKET_NAME}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = f"{path}.{os.getpid()}"
    before = os.umask(0o177)
    try:
        sock.bind(temporary)
    finally:
        os.umask(before)
    sock.listen(64)
    os.rename(temporary, path)  # no moment without a socket at that path
    sock.setblocking(False)
    return sock


class Doorway:
    """Accepts stubs. `open_session(fd_in, fd_out, link, leftover)` gets what they bring; `hand_over()` ends us."""

    def __init__(self, sock: socket.socket, own_hash: str, open_session, hand_over) -> None:
        self.sock, self._hash = sock, own_hash
        self._open_session, self._hand_over = open_session, hand_over
        self._loop = asyncio.get_running_loop()
        self._leaving = False
        self._listen()

    def _listen(self) -> None:
        if self._leaving:
            return
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            link, _ = self.sock.accept()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # The stub stays in the queue: to be told of it at once again would keep the loop busy.
                log("sessions_wait", cause=e)
                self._loop.remove_reader(self.sock.fileno())
                self._loop.call_later(ACCEPT_AGAIN_S, self._listen)
            return
        link.setblocking(False)
        self._loop.add_reader(link.fileno(), self._message, link)

    def _message(self, link: socket.socket) -> None:
        """A stub sends its one message in one piece, file descriptors included."""
        try:
            data, fds, _, _ = socket.recv_fds(link, MESSAGE_LIMIT, 4, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        self._loop.remove_reader(link.fileno())
        head, _, leftover = data.partition(b"\n")
        try:
            message = json.loads(head)
            kept = self._answer(link, message, fds, leftover)
        except (ValueError, KeyError, TypeError, OSError):
            kept = False
        if not kept:
            for fd in fds:
                os.close(fd)
            link.close()

    def _answer(self, link: socket.socket, message: dict, fds: list, leftover: bytes) -> bool:
        """Whether link and file descriptors are in use from now on."""
        if message["verb"] == "handover":
            link.sendall(b'{"ok":true}\n')
            # Asked again while it happened, the newer one is there already: it need not give way to itself.
            if message["helper"] != self._hash:
                # Who comes from now on waits for the newer one: a link that is cut looks like a dead helper.
                self._leaving = True
                self._loop.remove_reader(self.sock.fileno())
                self._hand_over()
        elif message["verb"] == "session" and (message["helper"] != self._hash or self._leaving):
            link.sendall(json.dumps({"helper": self._hash, "pid": os.getpid()}).encode() + b"\n")
        elif message["verb"] == "session" and len(fds) == 2:
            link.sendall(b'{"ok":true}\n')
            self._open_session(fds[0], fds[1], link, leftover)
            return True
        return False


def inherited_dns() -> list:
    """File descriptors of a former process's name server."""
    words = os.environ.pop(INHERITED_DNS, "").split(",")
    return [int(word) for word in words if word.isdigit()]


def become_newer(root: str, sock: socket.socket, dns_fds: list) -> None:
    """Replace this process by whatever `root/helper.pyz` is now; pid, unit and sockets stay the same."""
    sock.set_inheritable(True)
    os.environ[INHERITED] = str(sock.fileno())
    if dns_fds:
        os.environ[INHERITED_DNS] = ",".join(map(str, dns_fds))
    os.execv(sys.executable, [sys.executable, "-ISu", f"{root}/helper.pyz", *sys.argv[1:]])
