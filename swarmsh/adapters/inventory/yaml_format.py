"""Ansible's YAML inventory: groups with hosts, children and vars. Read as nodes, to know each line."""

from __future__ import annotations

from typing import Any

import yaml

from swarmsh.adapters.inventory.names import check_host_name, nearest
from swarmsh.adapters.inventory.records import RawGroup, RawInventory, RawValue

_PARTS = ("hosts", "children", "vars")


def read_yaml(text: str, into: RawInventory) -> None:
    """Raises InventoryError."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is not None:
                _Reader(loader, into).groups(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise into.error(mark.line + 1 if mark else 1, f"not YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise into.error(1, f"not YAML: {e}") from e


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, into: RawInventory) -> None:
        self._loader = loader
        self._into = into
        self._open: list[str] = []

    def groups(self, root: yaml.Node) -> None:
        for name, line, node in self._pairs(root, "an inventory"):
            if name == "plugin":
                raise self._into.not_yet(line, "an inventory plugin", "Write the hosts into the file")
            self._group(name, line, node)

    def _group(self, name: str, line: int, node: yaml.Node) -> RawGroup:
        group = self._into.group(name, line)
        if _is_null(node):
            return group
        if name in self._open:
            raise self._into.error(line, f"group {name} contains itself")
        self._open.append(name)
        for part, at, inner in self._pairs(node, f"group {name}"):
            if part not in _PARTS:
                raise self._into.error(
                    at,
                    f"group {name} has no part {part!r}{nearest(part, _PARTS)}",
                    f"Parts of a group are {', '.join(_PARTS)}; write hosts under `hosts:`",
                )
            if _is_null(inner):
                continue
            for key, key_line, value in self._pairs(inner, f"{part} of group {name}"):
                self._member(group, name, part, key, key_line, value)
        self._open.pop()
        return group

    def _member(self, group: RawGroup, name: str, part: str, key: str, line: int, node: yaml.Node) -> None:
        match part:
            case "hosts":
                check_host_name(self._into, key, line)
                host = self._into.add_host(name, key, line)
                if not _is_null(node):
                    for var, at, value in self._pairs(node, f"host {key}"):
                        host.vars[var] = self._value(var, at, value)
            case "children":
                group.children[key] = line
                self._group(key, line, node)
            case _:
                group.vars[key] = self._value(key, line, node)

    def _pairs(self, node: yaml.Node, what: str) -> list[tuple[str, int, yaml.Node]]:
        """Keys with their lines, in order; merge keys (`<<`) resolved."""
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a plain value"
            raise self._into.error(
                line, f"{what} must be a mapping, not {kind}", "Write `name:` on a line of its own, without `- `"
            )
        written = {k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)}
        if "<<" not in written:
            self._refuse_doubles(node)
        self._loader.flatten_mapping(node)
        # Merged pairs come first and give way to the mapping's own.
        pairs: dict[str, tuple[str, int, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._into.error(key.start_mark.line + 1, f"a key of {what} is not a plain word")
            pairs[key.value] = (key.value, key.start_mark.line + 1, value)
        return list(pairs.values())

    def _refuse_doubles(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise self._into.error(line, f"{key.value} stands here twice, first in line {seen[key.value]}")
                seen[key.value] = line

    def _value(self, name: str, line: int, node: yaml.Node) -> RawValue:
        if node.tag == "!vault":
            raise self._into.not_yet(line, f"{name}: a value from Ansible's vault", "Write it in plain")
        if node.tag.startswith("!"):
            raise self._into.not_yet(line, f"{name}: the tag {node.tag}")
        value: Any = self._loader.construct_object(node, deep=True)
        return RawValue(value, line)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
