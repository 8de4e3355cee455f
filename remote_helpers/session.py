"""A manager's session: JSON lines over the file descriptors that the stub handed over. Never blocks."""

from __future__ import annotations

import asyncio
import json
import os

from .log import log

LINE_LIMIT = 1024 * 1024  # both ways, without the newline
UNSENT_LIMIT = 8 * 1024 * 1024


class BadLine(Exception):
    """The other side broke the rules of the line protocol; the session ends with this reason."""


class LineSplitter:
    """Bytes to the JSON objects on their lines: pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list:
        """Objects that `data` completes. Raises BadLine for a line that is too long or no JSON object."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            raise BadLine("a line is longer than 1 MiB")
        return [_parse(line) for line in lines if line.strip()]


def _parse(line: bytes) -> dict:
    if len(line) > LINE_LIMIT:
        raise BadLine("a line is longer than 1 MiB")
    try:
        message = json.loads(line)
    except ValueError:
        raise BadLine("a line is no JSON") from None
    if not isinstance(message, dict):
        raise BadLine("a line is no JSON object")
    return message


def to_line(message: dict) -> bytes:
    """A message as its line, newline included. Raises ValueError if it is too long for one."""
    line = json.dumps(message, separators=(",", ":")).encode()
    if len(line) > LINE_LIMIT:
        raise ValueError(f"a message of {len(line)} bytes does not fit a line")
    return line + b"\n"


def split_reports(reports: list, room: int) -> tuple:
    """(first, rest): as many reports as fit `room` bytes of JSON."""
    used = 0
    for number, report in enumerate(reports):
        used += len(json.dumps(report, separators=(",", ":"))) + 1
        if used > room:
            return reports[:number], reports[number:]
    return reports, []


class Session:
    """One session. `on_message(session, message)` for each line, `on_closed(session)` once.

    `sent` remembers the newest report of each task that this session was given.
    """

    def __init__(self, number: int, fd_in: int, fd_out: int, link, on_message, on_closed) -> None:
        self.number = number
        self.attached = False
        self.index = 0  # the highest version index that its manager spoke of
        self.open = True
        self.said_at = 0.0  # when its hello went out, on the clock of `isolation`
        self.sent: dict = {}
        self.described: dict = {}  # the newest description that this session was given
        self._in, self._out, self._link = fd_in, fd_out, link
        self._on_message, self._on_closed = on_message, on_closed
        self._splitter = LineSplitter()
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()
        self._ending = False
        os.set_blocking(fd_in, False)
        os.set_blocking(fd_out, False)

    def start(self, leftover: bytes = b"") -> None:
        """Read from now on; `leftover` is what the stub had read too much."""
        self._loop.add_reader(self._in, self._readable)
        if leftover:
            self._take(leftover)

    # --- reading ----------------------------------------------------------------------------------------------
    def _readable(self) -> None:
        try:
            data = os.read(self._in, 262144)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self.close(f"cannot read: {e.strerror}")
            return
        if data:
            self._take(data)
        else:
            self.close("the manager ended the session")

    def _take(self, data: bytes) -> None:
        try:
            messages = self._splitter.feed(data)
        except BadLine as e:
            self.end(str(e))
            return
        for message in messages:
            if self.open and not self._ending:
                self._on_message(self, message)

    # --- writing ----------------------------------------------------------------------------------------------
    def event(self, name: str, data: dict) -> None:
        self.send({"event": name, "data": data})

    def send(self, message: dict) -> None:
        """Queue a message; a manager that reads nothing is dropped, never waited for."""
        if not self.open:
            return
        self._unsent += to_line(message)
        if len(self._unsent) > UNSENT_LIMIT:
            self.close("more than 8 MiB unsent")
        elif len(self._unsent) and not self._write():
            self._loop.add_writer(self._out, self._writable)

    def _write(self) -> bool:
        """Write what the channel takes; whether all is out."""
        while self._unsent:
            try:
                written = os.write(self._out, self._unsent[:65536])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as e:
                self.close(f"cannot write: {e.strerror}")
                return True
            del self._unsent[:written]
        return True

    def _writable(self) -> None:
        if self._write() and self.open:
            self._loop.remove_writer(self._out)
            if self._ending:
                self.close("ended")

    # --- ending -----------------------------------------------------------------------------------------------
    def end(self, reason: str, kind: str = "goodbye") -> None:
        """Say why, and close as soon as that is out (2 s at most)."""
        if not self.open or self._ending:
            return
        self._ending = True
        self.event(kind, {"reason": reason})
        if self.open and not self._unsent:
            self.close(reason)
        elif self.open:
            self._loop.call_later(2.0, self.close, reason)

    def close(self, reason: str) -> None:
        """Close now; nothing more is read or written."""
        if not self.open:
            return
        self.open = False
        log("session_closed", session=self.number, reason=reason)
        self._loop.remove_reader(self._in)
        self._loop.remove_writer(self._out)
        for fd in {self._in, self._out}:
            os.close(fd)
        self._link.close()  # the stub's process sees this and ends, and with it the channel
        self._on_closed(self)
