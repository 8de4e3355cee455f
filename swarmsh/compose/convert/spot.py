"""A value of a project together with where it stands, so that what is wrong with it names file, line and key.

Reading is lenient in form and strict in meaning: a project has been through a schema, so that a value of the wrong
kind is rare, but it is refused all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.project import Project
from swarmsh.core.quantities import parse_bytes, parse_duration, parse_nano_cpus

_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Spot:
    """One value. `spot["key"]` is a part of it, with the value None where there is none."""

    project: Project
    path: Path
    value: Any

    def __getitem__(self, key: str) -> Spot:
        inner = self.value.get(key) if isinstance(self.value, dict) else None
        return Spot(self.project, (*self.path, key), inner)

    def __bool__(self) -> bool:
        """Whether anything was said that is not the same as saying nothing."""
        return self.value not in (None, "", False, [], {})

    def __contains__(self, key: str) -> bool:
        """Whether a map has that key."""
        return key in self._map()

    @property
    def given(self) -> bool:
        return self.value is not None

    def keys(self) -> list[str]:
        return list(self._map())

    def items(self) -> Iterator[tuple[str, Spot]]:
        """The parts of a map, in the file's order."""
        for key, inner in self._map().items():
            yield key, Spot(self.project, (*self.path, key), inner)

    def each(self) -> Iterator[Spot]:
        """The entries of a list; a single value counts as a list of one."""
        entries = (
            self.value if isinstance(self.value, (list, tuple)) else [] if self.value is None else [self.value]
        )
        for index, inner in enumerate(entries):
            yield Spot(self.project, (*self.path, index), inner)

    def _map(self) -> dict[str, Any]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.wrong("must be a mapping")
        return self.value

    # --- errors ---------------------------------------------------------------------------------------------
    def wrong(self, message: str, hint: str = "") -> ComposeError:
        return ComposeError(message, self.project.marks.at(self.path), self.path, hint)

    # --- values ---------------------------------------------------------------------------------------------
    def text(self, default: str = "") -> str:
        if self.value is None:
            return default
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, (str, int, float)):
            return str(self.value)
        raise self.wrong("must be a text")

    def flag(self) -> bool:
        """A switch; nothing said is no."""
        if self.value is None:
            return False
        if self.text().lower() not in ("true", "false"):
            raise self.wrong(f"must be true or false, not '{self.text()}'")
        return self.text().lower() == "true"

    def number(self) -> int | None:
        """A whole number; texts are read as C does (0x…, 0o…) so that a variable's value will do."""
        if self.value is None:
            return None
        text = self.text()
        try:
            found = int(text, 0)
        except ValueError:
            raise self.wrong(f"must be a whole number, not '{text}'") from None
        return self._countable(found)

    def _countable(self, number: int) -> int:
        """The API's numbers are Go's int64."""
        if abs(number) > _MOST:
            raise self.wrong("is too large a number")
        return number

    def fraction(self) -> float | None:
        if self.value is None:
            return None
        try:
            found = float(self.text())
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise self.wrong(f"must be a number, not '{self.text()}'")
        return found

    def mode(self) -> int | None:
        """Permissions: a number, or a text of octal digits."""
        if not isinstance(self.value, str):
            return self.number()
        try:
            return self._countable(int(self.value.removeprefix("0o"), 8))
        except ValueError:
            raise self.wrong(f"must be permissions in octal, as 0440, not '{self.value}'") from None

    def duration(self) -> int | None:
        """Nanoseconds."""
        return self._parsed_number(parse_duration)

    def size(self) -> int | None:
        """Bytes."""
        return self._parsed_number(parse_bytes)

    def nano_cpus(self) -> int | None:
        """Billionths of a CPU; `0` is as good as nothing said."""
        return self._parsed_number(parse_nano_cpus)

    def _parsed_number(self, parse: Callable[[str], int]) -> int | None:
        """What `parse` makes of its text; None if nothing was said. A ValueError of it becomes our error."""
        if self.value is None:
            return None
        try:
            return self._countable(parse(self.text()))
        except ValueError as e:
            raise self.wrong(str(e)) from e

    def texts(self) -> tuple[str, ...]:
        return tuple(entry.text() for entry in self.each())

    def pairs(self) -> dict[str, str]:
        """A map of texts; a key without a value has the empty one."""
        return {key: inner.text() for key, inner in self.items()}


Warn = Callable[[Spot, str], None]
"""Takes what works, but not as its reader may think: where it stands, and why."""
