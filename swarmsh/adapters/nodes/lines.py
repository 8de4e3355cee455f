"""Cutting a byte stream into lines of bounded length."""

from __future__ import annotations

LINE_BYTES = 1 << 20  # docs/protocol.md


class LineTooLong(Exception):
    """A line passed the limit; what follows cannot be trusted to be in step."""


class LineSplitter:
    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines. Raises LineTooLong."""
        lines = data.split(b"\n")
        if self._parts:
            self._parts.append(lines[0])
            if len(lines) > 1:
                lines[0] = b"".join(self._parts)
                self._parts = []
                self._held = 0
        elif len(lines) == 1:
            self._parts.append(data)
        if len(lines) == 1:
            self._held += len(data)
            if self._held > self._limit:
                raise LineTooLong
            return []
        rest = lines.pop()
        if rest:
            self._parts.append(rest)
            self._held = len(rest)
        # Only these can be too long, unless more came at once than a line may have.
        if max(len(rest), len(lines[0]), len(data)) > self._limit and (
            len(rest) > self._limit or max(map(len, lines)) > self._limit
        ):
            raise LineTooLong
        return lines

    def rest(self) -> bytes:
        """What came after the last newline; forgotten by this."""
        parts, self._parts, self._held = self._parts, [], 0
        return b"".join(parts)
