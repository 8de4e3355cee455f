"""Bytes of an HTTP/1.1 answer to its parts (RFC 9112): pure, no I/O."""

from __future__ import annotations

import json

HEAD_LIMIT = 64 * 1024
LINE_LIMIT = 16 * 1024 * 1024


class BadAnswer(Exception):
    """What was read is no HTTP/1.1 answer."""


class AnswerParser:
    """Feed it what was read; `status` is there once the head is, body parts come as return values.

    `done` turns true when the body is complete; a body without length ends with the connection (`feed_eof`).
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self._buffer = b""
        self._state = "head"
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes read from the connection; returns the body bytes they complete."""
        self._buffer += data
        out = []
        while not self.done:
            step = getattr(self, "_in_" + self._state)
            part = step()
            if part is None:
                break
            out.append(part)
        return b"".join(out)

    def feed_eof(self) -> None:
        """The connection ended. Raises BadAnswer if the answer is not complete."""
        if self._state == "until_eof":
            self.done = True
        elif not self.done:
            raise BadAnswer("the connection ended inside an answer")

    def _in_head(self):
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadAnswer("head of the answer is too long")
            return None
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise BadAnswer(f"no HTTP answer: {lines[0][:80]!r}")
        status = int(words[1])
        if 100 <= status < 200 and status != 101:
            return b""  # an interim answer: the real one follows
        self.status = status
        for line in lines[1:]:
            key, _, value = line.partition(":")
            self.headers[key.strip().lower()] = value.strip()
        self._begin_body()
        return b""

    def _begin_body(self) -> None:
        length = self.headers.get("content-length", "")
        if self.status in (101, 204, 304):
            self.done = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._state = "chunk_size"
        elif length.isdigit():
            self._left, self._state = int(length), "counted"
            self.done = self._left == 0
        else:
            self._state = "until_eof"

    def _in_counted(self):
        if not self._buffer:
            return None
        part = self._take(self._left)
        self.done = self._left == 0
        return part

    def _in_until_eof(self):
        if not self._buffer:
            return None
        part, self._buffer = self._buffer, b""
        return part

    def _in_chunk_size(self):
        line = self._line()
        if line is None:
            return None
        try:
            self._left = int(line.split(b";")[0].strip(), 16)
        except ValueError:
            raise BadAnswer(f"bad chunk size {line[:20]!r}") from None
        self._state = "chunk" if self._left else "trailer"
        return b""

    def _in_chunk(self):
        if not self._buffer:
            return None
        part = self._take(self._left)
        if self._left == 0:
            self._state = "chunk_end"
        return part

    def _in_chunk_end(self):
        line = self._line()
        if line is None:
            return None
        if line:
            raise BadAnswer("a chunk is longer than its size")
        self._state = "chunk_size"
        return b""

    def _in_trailer(self):
        line = self._line()
        if line is None:
            return None
        if not line:
            self.done = True
        return b""

    def _take(self, most: int) -> bytes:
        part, self._buffer = self._buffer[:most], self._buffer[most:]
        self._left -= len(part)
        return part

    def _line(self):
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadAnswer("a line of the answer is too long")
            return None
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line


class JsonLines:
    """Bytes to JSON objects that stand one on a line (Docker's event and pull streams)."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._rest = b""
        self._limit = limit

    def feed(self, data: bytes) -> list:
        """Take bytes; returns the objects they complete. Raises BadAnswer for what is no JSON."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._limit:
            raise BadAnswer("a line of the stream is too long")
        found = []
        for line in lines:
            if line.strip():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    raise BadAnswer(f"no JSON in the stream: {line[:80]!r}") from None
        return found
