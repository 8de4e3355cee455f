"""A YAML document as values that know where they were written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swarmsh.compose.errors import ComposeError, Path, Position

Value = str | int | float | bool | None


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """Any value. Nodes are shared where a file repeats one by an alias, so nobody changes one in place."""

    place: Position
    override: bool = False  # `!override`: takes the place of what earlier files say, instead of being merged
    size: int = 1  # nodes in it, those of aliases counted again at each place


@dataclass(slots=True, eq=False, kw_only=True)
class Scalar(Node):
    """One value; `text` is how it was written, `value` what YAML takes it for."""

    value: Value
    text: str


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence(Node):
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False, kw_only=True)
class Mapping(Node):
    items: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Position] = field(default_factory=dict)  # where each key was written

    def put(self, key: str, value: Node, place: Position | None = None) -> None:
        """Set an entry while the mapping is being made; `place` is its key's, else the value's."""
        self.items[key] = value
        self.keys[key] = place or value.place


@dataclass(slots=True, eq=False, kw_only=True)
class Reset(Node):
    """`!reset`: what earlier files say of this key does not hold."""


@dataclass(slots=True, eq=False, kw_only=True)
class Empty(Node):
    """A key without a value, that needs one: what earlier files say holds; if they say nothing, it is `error`."""

    error: ComposeError


def scalar(value: Value, place: Position) -> Scalar:
    """A value of our own making, said to be written at `place`."""
    return Scalar(place=place, value=value, text="" if value is None else str(value))


def kind_of(node: Node) -> str:
    """What a value is, in words for a message."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    value = node.value if isinstance(node, Scalar) else None
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {shorten(node.text if isinstance(node, Scalar) else str(value))}"
    return f"the text {shorten(value)!r}"


def shorten(text: str, most: int = 60) -> str:
    """Text for a message: a hostile file must not fill the screen."""
    return text if len(text) <= most else text[: most - 3] + "..."


def plain(node: Node) -> Any:
    """The value without its places: dict, list, or a scalar."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items.items() if not isinstance(value, Reset)}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items if not isinstance(item, Reset)]
    return node.value if isinstance(node, Scalar) else None


def places(node: Node, path: Path = ()) -> dict[Path, Position]:
    """Where every key and item below `path` was written: of a mapping's entry its key, else the value."""
    found: dict[Path, Position] = {path: node.place}
    _add_places(node, path, found)
    return found


def _add_places(node: Node, path: Path, found: dict[Path, Position]) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items.items():
            found[(*path, key)] = node.keys[key]
            _add_places(value, (*path, key), found)
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            found[(*path, index)] = item.place
            _add_places(item, (*path, index), found)
