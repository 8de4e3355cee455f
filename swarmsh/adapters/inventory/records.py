"""What an inventory says: as written (the `Raw…` half, the same for every format), and as understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmsh.errors import InventoryError
from swarmsh.model.objects import SshTarget
from swarmsh.model.states import Availability, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryHost:
    name: str
    target: SshTarget
    labels: dict[str, str]
    availability: Availability
    role: Role
    groups: tuple[str, ...]  # sorted; without `all` and `ungrouped`
    file: Path
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    hosts: tuple[InventoryHost, ...]  # in the order of the file
    groups: Mapping[str, tuple[str, ...]]  # host names, children's included


@dataclass(frozen=True, slots=True)
class RawValue:
    """A variable as it stands in the file; `value` is str, int, float, bool, None, list or dict."""

    value: Any
    line: int


@dataclass(slots=True)
class RawHost:
    line: int
    vars: dict[str, RawValue] = field(default_factory=dict)


@dataclass(slots=True)
class RawGroup:
    line: int
    hosts: list[str] = field(default_factory=list)
    children: dict[str, int] = field(default_factory=dict)  # name -> line
    vars: dict[str, RawValue] = field(default_factory=dict)


@dataclass(slots=True)
class RawInventory:
    """Groups and hosts in the order of the file. A host's own variables are kept apart from its groups'."""

    file: Path
    hosts: dict[str, RawHost] = field(default_factory=dict)
    groups: dict[str, RawGroup] = field(default_factory=dict)

    def group(self, name: str, line: int) -> RawGroup:
        return self.groups.setdefault(name, RawGroup(line))

    def add_host(self, group: str, name: str, line: int) -> RawHost:
        host = self.hosts.setdefault(name, RawHost(line))
        members = self.group(group, line).hosts
        if name not in members:
            members.append(name)
        return host

    def error(self, line: int, message: str, hint: str = "") -> InventoryError:
        return InventoryError(f"{self.file}:{line}: {message}", hint=hint, file=str(self.file), line=line)

    def not_yet(self, line: int, what: str, hint: str = "") -> InventoryError:
        return self.error(line, f"{what} cannot be read yet", hint)
