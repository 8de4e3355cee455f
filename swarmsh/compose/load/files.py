"""What loading reads: compose files and files of variables, by way of a function that a caller may replace."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from swarmsh.compose.errors import ComposeError, Path, Position
from swarmsh.compose.load.dotenv import EnvFileError, parse_env, parse_raw_env
from swarmsh.compose.load.parse import MOST_BYTES, decode
from swarmsh.compose.load.template import Lookup
from swarmsh.compose.load.tree import shorten

Read = Callable[[str], bytes]
"""The content of a file by its path. Raises OSError."""
_MOST_FILES = 500


def read_file(path: str) -> bytes:
    """The content of a file, `-` for the standard input; no more than a compose file may have. Raises OSError."""
    if path == "-":
        return sys.stdin.buffer.read(MOST_BYTES + 1)
    with open(path, "rb") as file:
        return file.read(MOST_BYTES + 1)


class Files:
    """Reads files and says of those that it cannot read where they were named."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._count = 0

    def text(self, file: str, place: Position | None = None, path: Path = ()) -> str:
        """The text of `file`, named at `place` and `path`. Raises ComposeError."""
        self._count += 1
        if self._count > _MOST_FILES:
            raise ComposeError(f"more than {_MOST_FILES} files are included", place, path)
        try:
            content = self._read(file)
        except OSError as e:
            raise ComposeError(f"{shorten(file, 400)} cannot be read: {e.strerror or e}", place, path) from e
        except ValueError as e:
            raise ComposeError(f"{shorten(file)!r} is no path: {e}", place, path) from e
        return decode(content, file)

    def exists(self, file: str) -> bool:
        """Whether `file` can be read."""
        try:
            self._read(file)
        except (OSError, ValueError):
            return False
        return True

    def variables(
        self,
        file: str,
        lookup: Lookup,
        place: Position | None = None,
        path: Path = (),
        *,
        raw: bool = False,
        on_unset: Callable[[str], None] | None = None,
    ) -> dict[str, str]:
        """The variables of a file; `on_unset` hears of those in values that are not set.

        Raises ComposeError with the place in that file.
        """
        text = self.text(file, place, path)
        try:
            return parse_raw_env(text, lookup) if raw else parse_env(text, lookup, on_unset)
        except EnvFileError as e:
            raise ComposeError(e.message, Position(file, e.line, e.column), path, e.hint) from e


def absolute(directory: str, path: str) -> str:
    """A path seen from `directory`; `~` is the home of who calls."""
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))
