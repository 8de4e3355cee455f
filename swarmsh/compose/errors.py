"""What is wrong with a compose file, and where: the file, line, column and path of keys."""

from __future__ import annotations

from dataclasses import dataclass

from swarmsh.errors import Kind, SwarmshError

Path = tuple[str | int, ...]
"""Keys and list indices (from 0) from the top of a project: `("services", "web", "ports", 0)`."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file. `file` as the user named it; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def show_path(path: Path) -> str:
    """A path as people write it: `services.web.ports[0]`."""
    words = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(words).removeprefix(".")


class ComposeError(SwarmshError):
    """A compose file, or a file that it names, cannot be used.

    `message` says what is wrong without saying where; `position` is None where no file is to blame (no file was
    given), `path` is empty where nothing parses or the top itself is wrong. All of them are in `str(error)`.
    """

    kind = Kind.INVALID

    def __init__(self, message: str, position: Position | None = None, path: Path = (), hint: str = "") -> None:
        where = [str(position)] if position else []
        where += [show_path(path)] if path else []
        super().__init__(": ".join([*where, message]), hint=hint)
        self.reason = message
        self.position = position
        self.path = path
