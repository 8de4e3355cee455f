"""A loaded project: all files merged, variables filled in, every value in the canonical long syntax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swarmsh.compose.errors import Path, Position, show_path

Section = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that works, but not as the file may lead its reader to think. `path` says where."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{show_path(self.path)}: {self.message}" if self.path else self.message


class Marks:
    """Where each key of a project was written. Of several files, the one whose value won."""

    def __init__(self, places: Mapping[Path, Position] | None = None) -> None:
        self._places = dict(places or {})

    def at(self, path: Path) -> Position | None:
        """The place of `path`, else of its nearest parent that has one; None for an empty project."""
        for length in range(len(path), -1, -1):
            place = self._places.get(tuple(path[:length]))
            if place is not None:
                return place
        return None


@dataclass(slots=True, kw_only=True)
class Project:
    """What compose files mean. The sections map short names to values of the canonical long syntax.

    In services: `environment`, `labels`, `sysctls`, `annotations` are maps of text (a value None in
    `environment`: not set where the files were loaded); `extra_hosts` maps a name to a list of addresses;
    `command` and `entrypoint` are lists or None; `ports`, `volumes`, `secrets`, `configs`, `env_file`, `devices`
    are lists of maps (a port's `target` is a number, its `published` text); `depends_on`, `networks`, `ulimits`,
    `build` are maps. `environment` holds what `env_file` gives, `labels` what `label_file` gives. Durations and
    sizes are text as it was written; file modes are numbers. Sources of bind mounts and build contexts are as
    they were written; paths of `env_file`, `label_file`, secrets and configs are absolute. `x-*` keys stay where
    they are. Services of profiles that are not active are left out.
    """

    name: str | None = None
    services: Section = field(default_factory=dict)
    networks: Section = field(default_factory=dict)
    volumes: Section = field(default_factory=dict)
    secrets: Section = field(default_factory=dict)
    configs: Section = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)  # the top-level x-* keys
    # What variables were taken from: for secrets and configs that come from the environment.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    marks: Marks = field(default_factory=Marks)
    warnings: list[Notice] = field(default_factory=list)

    def noted(self) -> list[str]:
        """The warnings as people read them: file, line and column, the path of keys, and why."""
        places = ((self.marks.at(notice.path), notice) for notice in self.warnings)
        return [f"{place}: {notice}" if place else str(notice) for place, notice in places]
