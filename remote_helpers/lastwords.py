"""The last lines of a container's log, from the Engine's answer: pure, no I/O."""

from __future__ import annotations

LINES = 10
LINE_LIMIT = 200  # characters; a report of a task stays small
BYTES_LIMIT = 65536  # so much of an answer is read
_FRAME = 8  # bytes of a header: stream, three zeros, length (Engine API, ContainerAttach: stream format)


def last_lines(data: bytes) -> list:
    """The last lines of an answer, with headers between its parts or without (a container with a terminal)."""
    text = _without_headers(data).decode("utf-8", "replace")
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    return [_cut(line) for line in lines if line][-LINES:]


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"


def _without_headers(data: bytes) -> bytes:
    parts, rest = [], data
    while rest:
        if len(rest) < _FRAME or rest[0] > 2 or rest[1:4] != b"\0\0\0":
            return data if not parts else b"".join(parts)
        end = _FRAME + int.from_bytes(rest[4:_FRAME], "big")
        parts.append(rest[_FRAME:end])
        rest = rest[end:]
    return b"".join(parts)
