"""Readiness (design decision 6): probes into a container's network namespace, and ports that listen there."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from .timing import Expired, deadline

LATE_S = 60.0
_CLONE_NEWNET = 0x40000000
# In /proc/net/tcp (linux: include/net/tcp_states.h). A client has, or may have, a connection that is being opened
# (its last packet may be under way), that is open, or closed by a side while the last of an answer is to be sent.
_LISTEN = "0A"
_ESTABLISHED, _SYN_RECV, _FIN_WAIT1, _CLOSE_WAIT, _LAST_ACK, _CLOSING = "01", "03", "04", "08", "09", "0B"
_WITH_CLIENT = frozenset((_ESTABLISHED, _SYN_RECV, _FIN_WAIT1, _CLOSE_WAIT, _LAST_ACK, _CLOSING))


# --- ports that listen ----------------------------------------------------------------------------------
def parse_listening(text: str) -> set:
    """Ports in /proc/net/tcp or tcp6 that listen on more than the loopback."""
    ports = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 4 or words[3] != _LISTEN:
            continue
        address, _, port = words[1].partition(":")
        if not is_loopback(address):
            ports.add(int(port, 16))
    return ports


def is_loopback(address: str) -> bool:
    """Whether a hexadecimal address as /proc/net/tcp writes it (words in host order) is the loopback's.

    Bytes of each 32-bit word are reversed on little-endian machines, which is all that Docker runs on.
    """
    if len(address) == 8:
        return address.endswith("7F")
    mapped = "0000000000000000FFFF0000"
    if address.startswith(mapped):
        return address.endswith("7F")
    return address == "00000000000000000000000001000000"


def listening_ports(pid: int) -> set:
    """Ports that listen in the namespace of process `pid`; empty if it is gone."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                found |= parse_listening(file.read())
        except OSError:
            continue
    return found


def parse_clients(text: str) -> set:
    """Local ports in /proc/net/tcp or tcp6 of connections with somebody else that are not over."""
    ports = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 4 or words[3] not in _WITH_CLIENT:
            continue
        address, _, port = words[1].partition(":")
        if not is_loopback(address) and address != words[2].partition(":")[0]:
            ports.add(int(port, 16))
    return ports


def has_clients(pid: int) -> bool:
    """Whether somebody is connected to a port that listens in the namespace of `pid`; no if it is gone."""
    listening, connected = set(), set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                text = file.read()
        except OSError:
            continue
        listening |= parse_listening(text)
        connected |= parse_clients(text)
    return bool(listening & connected)


# --- probes ---------------------------------------------------------------------------------------------
def _setns(fd: int) -> None:
    if hasattr(os, "setns"):  # 3.12
        os.setns(fd, _CLONE_NEWNET)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def socket_in_namespace_of(pid: int) -> socket.socket:
    """A TCP socket that lives in the network namespace of `pid`.

    A socket belongs to the namespace it was made in, so this thread is inside for two system calls only.
    """
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            _setns(theirs)
        finally:
            os.close(theirs)
        try:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            try:
                _setns(own)
            except OSError:
                os._exit(70)  # in a foreign namespace nothing here is right any more: start afresh
    finally:
        os.close(own)
    made.setblocking(False)
    return made


async def probe_once(pid: int, address: str, probe: dict) -> str:
    """One attempt; "" if it passed, else why not in one line."""
    what = f"{probe['kind']}:{probe['port']}{probe.get('path') or ''}"
    try:
        async with deadline(float(probe.get("timeout_s", 2.0))):
            sock = socket_in_namespace_of(pid)
            try:
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, (address, int(probe["port"])))
                if probe["kind"] != "http":
                    return ""
                status = await _http_status(loop, sock, address, probe.get("path") or "/")
            finally:
                sock.close()
    except Expired:
        return f"probe {what}: no answer within {probe.get('timeout_s', 2.0):g} s"
    except OSError as e:
        return f"probe {what}: {(e.strerror or str(e)).lower()}"
    return "" if 200 <= status < 400 else f"probe {what}: " + (f"HTTP status {status}" if status else "no HTTP")


async def _http_status(loop, sock, address: str, path: str) -> int:
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: swarmsh-probe\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    data = b""
    while b"\r\n" not in data and len(data) < 4096:
        part = await loop.sock_recv(sock, 4096)
        if not part:
            break
        data += part
    words = data.split(b"\r\n")[0].split(b" ")
    return int(words[1]) if len(words) > 1 and data.startswith(b"HTTP/") and words[1].isdigit() else 0


# --- both, as one thing to ask --------------------------------------------------------------------------
class Watch:
    """Follows one start of a container until it is stopped; `on_change` is called when an answer changes.

    `passing` is the newest answer; `failed` says that the probe failed `retries` times in a row; `why` is the
    reason for not passing. As with Docker's HEALTHCHECK, failures in the first `start_s` (`LATE_S` if 0) do not
    count unless it had passed, as it had (`passed`) if a former process of the helper found this start ready.
    """

    def __init__(
        self, pid: int, address: str, action: dict, on_change, start_s: float = 0.0, passed: bool = False
    ) -> None:
        self.passing = self.passed_once = passed
        self.failed = False
        self.why = ""
        self._pid, self._address = pid, address
        self._probe = action.get("probe")
        self._ports = sorted(action.get("tcp_ports") or ())
        self._on_change = on_change
        self._start_s = start_s or LATE_S
        if not self._probe and (passed or not self._missing()):
            self.passing = self.passed_once = True
            self._task = None
            return
        self._task = asyncio.ensure_future(self._probing() if self._probe else self._listening())

    def stop(self) -> None:
        """No further answers are wanted."""
        if self._task is not None:
            self._task.cancel()

    async def _listening(self) -> None:
        began = time.monotonic()
        while True:
            missing = self._missing()
            if not missing:
                self.passing = self.passed_once = True
                self.why = ""
                self._on_change()
                return
            self.why = f"port {missing[0]} is not listening"
            # The kernel tells nobody of a new listener, so this is read again: often while it is young.
            waited = time.monotonic() - began
            await asyncio.sleep(min(5.0 if waited > LATE_S else 0.5, max(0.05, waited / 4)))

    def _missing(self) -> list:
        listening = listening_ports(self._pid)
        return [port for port in self._ports if port not in listening]

    async def _probing(self) -> None:
        probe, misses = self._probe, 0
        began = time.monotonic()
        while True:
            starting = not self.passed_once and time.monotonic() - began < self._start_s
            self.why = await probe_once(self._pid, self._address, probe)
            if not self.why:
                misses = 0
                if not self.passing:
                    self.passing = self.passed_once = True
                    self._on_change()
            elif not starting:
                misses += 1
                if misses >= max(1, int(probe.get("retries", 3))):
                    self.passing, self.failed = False, True
                    self._on_change()
                    return
            interval = float(probe.get("interval_s", 2.0))
            if not self.passed_once and time.monotonic() - began < LATE_S:
                interval = min(interval, 0.25)  # a start is waited for: look often
            await asyncio.sleep(interval)
