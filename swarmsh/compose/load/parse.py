"""From YAML text to trees. PyYAML gives the events and their marks; what they mean is decided here.

PyYAML because it is a dependency already, is typed, and its event stream carries line and column of everything
without recursion; its own constructor reads YAML 1.1 (yes is true, 22:22 a number), which Docker's tools do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from swarmsh.compose.errors import ComposeError, Path, Position
from swarmsh.compose.load.plain_scalars import parse_bool, parse_number, resolve_plain
from swarmsh.compose.load.tree import Mapping, Node, Reset, Scalar, Sequence, Value, kind_of, shorten

DEEPEST = 100  # levels of nesting
MOST_NODES = 100_000  # aliases counted as what they stand for, so that a few lines cannot become gigabytes
MOST_BYTES = 4 << 20
_STANDARD = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile(r"[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def decode(content: bytes, file: str) -> str:
    """The text of a file. Raises ComposeError with the place of what is no UTF-8 or no text."""
    if len(content) > MOST_BYTES:
        raise ComposeError(f"the file has more than {MOST_BYTES >> 20} MiB", Position(file, 1, 1))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        before = content[: e.start].decode("utf-8-sig", errors="replace")
        raise ComposeError("the file is not UTF-8 text", _place_in(before, len(before), file)) from e
    found = _UNPRINTABLE.search(text)
    if found:
        reason = f"the character U+{ord(found[0]):04X} cannot stand in a text file"
        raise ComposeError(reason, _place_in(text, found.start(), file))
    return text


def _place_in(text: str, index: int, file: str) -> Position:
    before = text[:index]
    return Position(file, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def parse_documents(text: str, file: str) -> list[Mapping]:
    """The documents of a file, each a mapping; empty ones are left out. Raises ComposeError."""
    documents = _Reading(file).documents(text)
    for node in documents:
        if not isinstance(node, Mapping):
            raise ComposeError(
                f"the top of a compose file must be a mapping, not {kind_of(node)}",
                node.place,
                hint='It begins with keys such as "services:"',
            )
    return [node for node in documents if isinstance(node, Mapping)]


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    node: Mapping | Sequence
    reset: bool = False
    anchor: str | None = None
    key: str | None = None  # of the entry whose value comes next
    key_place: Position | None = None
    merges: list[Mapping] = field(default_factory=list)  # of `<<`, the first wins
    merging: bool = False
    merge_seen: bool = False


class _Reading:
    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: still open
        self._documents: list[Node] = []
        self._last = Position(file, 1, 1)

    def documents(self, text: str) -> list[Node]:
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self._last = self._place(event.start_mark)
                self._take(event)
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            place = self._place(mark) if mark else self._last
            words = ", ".join(word for word in (e.context, e.problem) if word)
            hint = "Indent with spaces" if "'\\t'" in words else ""
            raise ComposeError(f"not YAML: {_line(words)}", place, hint=hint) from e
        except (ValueError, OverflowError) as e:  # an escape or a version number beyond all bounds
            raise ComposeError(f"not YAML: {_line(str(e))}", self._last) from e
        return self._documents

    def _place(self, mark: Any) -> Position:
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _path(self) -> Path:
        parts: list[str | int] = []
        for level in self._open:
            if isinstance(level.node, Sequence):
                parts.append(len(level.node.items))
            elif level.key is not None:
                parts.append(level.key)
        return tuple(parts)

    def _error(self, message: str, hint: str = "", *, at: Position | None = None) -> ComposeError:
        return ComposeError(message, at or self._last, self._path(), hint)

    # --- events ---
    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(Mapping(place=self._last), event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(Sequence(place=self._last), event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor))
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)

    def _begin(self, node: Mapping | Sequence, event: Any) -> None:
        self._refuse_as_key(node)
        if len(self._open) >= DEEPEST:
            raise self._error(f"nested more than {DEEPEST} levels deep")
        level = _Open(node, anchor=event.anchor)
        tag = event.tag
        wanted = _STANDARD + ("map" if isinstance(node, Mapping) else "seq")
        if tag == "!override":
            node.override = True
        elif tag == "!reset":
            level.reset = True
        elif tag not in (None, "!", wanted):
            raise self._unknown_tag(tag)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(level)

    def _end(self) -> None:
        level = self._open.pop()
        node: Node = level.node
        if isinstance(node, Mapping):
            for other in level.merges:
                for key, value in other.items.items():
                    if key not in node.items:
                        node.put(key, value, other.keys[key])
                        node.size += value.size + 1
            self._bound(node)
        if level.anchor:
            self._anchors[level.anchor] = node
        self._add(Reset(place=node.place) if level.reset else node)

    def _alias(self, anchor: str) -> None:
        if anchor not in self._anchors:
            raise self._error(f"there is no anchor &{shorten(anchor)} before this alias")
        node = self._anchors[anchor]
        if node is None:
            raise self._error(f"the anchor &{shorten(anchor)} contains itself")
        self._refuse_as_key(node)
        self._add(node)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        text = event.value
        if _SURROGATE.search(text):
            raise self._error("half of a surrogate pair is no text")
        node: Node
        if event.tag == "!reset":
            node = Reset(place=self._last)
        else:
            node = Scalar(place=self._last, value=self._value(event), text=text, override=event.tag == "!override")
        if event.anchor:
            self._anchors[event.anchor] = node
        if self._awaits_key() and isinstance(node, Scalar):
            self._key(node, plain=event.style is None)
        else:
            self._refuse_as_key(node)
            self._add(node)

    def _value(self, event: yaml.ScalarEvent) -> Value:
        tag, text = event.tag, event.value
        if tag in (None, "!override"):
            return resolve_plain(text) if event.style is None else str(text)
        if tag in ("!", _STANDARD + "str"):
            return str(text)
        value: Value = None
        if tag == _STANDARD + "null" and resolve_plain(text) is None:
            return None
        if tag == _STANDARD + "bool":
            value = parse_bool(text)
        elif tag == _STANDARD + "int":
            number = parse_number(text)
            value = number if isinstance(number, int) else None
        elif tag == _STANDARD + "float":
            number = parse_number(text)
            value = None if number is None else float(number)
        else:
            raise self._unknown_tag(str(tag))
        if value is None:
            raise self._error(f"{shorten(text)!r} is no !!{str(tag).removeprefix(_STANDARD)}")
        return value

    def _unknown_tag(self, tag: str) -> ComposeError:
        shown = "!!" + tag.removeprefix(_STANDARD) if tag.startswith(_STANDARD) else tag
        return self._error(f"unknown tag {shorten(shown)}", "Compose files have !reset and !override")

    # --- building ---
    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node, Mapping) and self._open[-1].key is None

    def _refuse_as_key(self, node: Node) -> None:
        if self._awaits_key():
            raise self._error(f"a key must be text, not {kind_of(node)}", "Put it into quotes")

    def _key(self, node: Scalar, *, plain: bool) -> None:
        level = self._open[-1]
        if plain and node.text == "<<":
            if level.merge_seen:
                raise self._error("the key << is there twice", "Give it a list: <<: [*a, *b]")
            level.key, level.key_place, level.merging, level.merge_seen = "<<", node.place, True, True
            return
        if not isinstance(node.value, str):
            self._refuse_as_key(node)
        level.key, level.key_place = str(node.value), node.place
        if isinstance(level.node, Mapping) and level.key in level.node.items:
            first = level.node.keys[level.key]
            hint = f"The first is at line {first.line}; remove one of them"
            raise self._error(f"the key {shorten(level.key)!r} is there twice", hint, at=node.place)

    def _add(self, node: Node) -> None:
        if not self._open:
            if not (isinstance(node, Scalar) and node.value is None):
                self._documents.append(node)
            return
        level = self._open[-1]
        if level.merging:
            self._merge(node, level)
            level.key, level.merging = None, False
            return
        if isinstance(level.node, Sequence):
            if isinstance(node, Reset):
                raise self._error("!reset stands before the value of a key, not in a list", at=node.place)
            level.node.items.append(node)
        elif level.key is not None:
            level.node.put(level.key, node, level.key_place)
            level.key = None
        level.node.size += node.size
        self._bound(level.node)

    def _merge(self, node: Node, level: _Open) -> None:
        found = node.items if isinstance(node, Sequence) else [node]
        for one in found:
            if not isinstance(one, Mapping):
                hint = "Write <<: *name, or <<: [*name, *other]"
                raise self._error(f"<< takes a mapping or a list of mappings, not {kind_of(one)}", hint)
            level.merges.append(one)

    def _bound(self, node: Node) -> None:
        if node.size > MOST_NODES:
            raise self._error(f"the file stands for more than {MOST_NODES} values once its aliases are followed")


def _line(text: str) -> str:
    """A parser's message on one line."""
    return shorten(" ".join(text.split()), 200)
