"""The Engine's byte streams: frames of attach, logs and exec, and lines of logs.

Source: Engine API 1.51, `POST /containers/{id}/attach`, "Stream format".
"""

from __future__ import annotations

STDOUT, STDERR = 1, 2
_HEADER = 8
_LINE_BYTES = 1 << 20

Chunk = tuple[int, bytes]  # stream, bytes


class FrameReader:
    """Takes frames apart: stream number, three zero bytes, length (big endian), payload."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Chunk]:
        """Payloads of whole frames, in order; empty ones left out. Streams 0 (stdin) and 1 are both output."""
        buffer = self._buffer
        buffer += data
        chunks: list[Chunk] = []
        at = 0
        while len(buffer) - at >= _HEADER:
            end = at + _HEADER + int.from_bytes(buffer[at + 4 : at + _HEADER])
            if len(buffer) < end:
                break
            if end > at + _HEADER:
                stream = STDERR if buffer[at] >= STDERR else STDOUT
                chunks.append((stream, bytes(buffer[at + _HEADER : end])))
            at = end
        del buffer[:at]
        return chunks


class RawReader:
    """The stream of a terminal: no frames."""

    def feed(self, data: bytes) -> list[Chunk]:
        return [(STDOUT, data)] if data else []


class LineCutter:
    """Joins chunks to lines, each stream by itself; a line longer than 1 MiB comes in pieces."""

    def __init__(self) -> None:
        self._open: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> list[Chunk]:
        """Lines that are complete, with their newlines."""
        *lines, rest = (self._open.pop(stream, b"") + data).split(b"\n")
        if len(rest) >= _LINE_BYTES:
            return [*((stream, line + b"\n") for line in lines), (stream, rest)]
        if rest:
            self._open[stream] = rest
        return [(stream, line + b"\n") for line in lines]

    def rest(self) -> list[Chunk]:
        """Last lines without a newline."""
        rest, self._open = self._open, {}
        return [(stream, line) for stream, line in sorted(rest.items()) if line]
