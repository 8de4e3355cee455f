"""How a later file changes an earlier one, and a service the one that it extends: compose's rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from swarmsh.compose.errors import Path
from swarmsh.compose.load.forms import node_text
from swarmsh.compose.load.tree import Empty, Mapping, Node, Reset, Scalar, Sequence, plain

_REPLACED = (("command",), ("entrypoint",), ("healthcheck", "test"), ("ulimits", "*"), ("provider",))


def merge(base: Node, over: Node, path: Path = ()) -> Node:
    """`over` on top of `base`; both canonical. Neither is changed.

    Maps are merged key by key, lists joined (what means the same thing in both is taken from `over`), anything
    else replaced. `!reset` stays in the result, for what comes below it; `settled` ends that.
    """
    if isinstance(over, Empty):
        return base
    if isinstance(base, Empty):
        return over
    if isinstance(over, Reset) or over.override or isinstance(base, Reset):
        return over
    inside = _inside_service(path)
    if inside in _REPLACED or (path and str(path[-1]).startswith("x-")):
        return over
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        if inside == ("logging",) and not _same_driver(base, over):
            return over
        return _merge_maps(base, over, path)
    if isinstance(base, Sequence) and isinstance(over, Sequence):
        return _merge_lists(base, over, _KEYS.get(inside or path[:1] + path[2:], _whole))
    return over


def _merge_maps(base: Mapping, over: Mapping, path: Path) -> Mapping:
    made = replace(base, items=dict(base.items), keys=dict(base.keys))
    for key, value in over.items.items():
        there = made.items.get(key)
        if there is None:
            made.put(key, value, over.keys[key])
        else:
            merged = merge(there, value, (*path, key))
            if merged is there:
                continue
            # A map that both have keeps its first place; a value is where the one that won stands.
            place = made.keys[key] if isinstance(merged, Mapping) and merged is not value else over.keys[key]
            made.put(key, merged, place)
    return made


def _inside_service(path: Path) -> tuple[str, ...]:
    """The keys below a service, names of the user's own as a star; empty elsewhere."""
    if len(path) < 3 or path[0] != "services":
        return ()
    keys = [str(part) for part in path[2:]]
    if len(keys) > 1 and keys[0] in ("networks", "ulimits"):
        keys[1] = "*"
    return tuple(keys)


def _same_driver(base: Mapping, over: Mapping) -> bool:
    drivers = [plain(node.items["driver"]) for node in (base, over) if "driver" in node.items]
    return len(set(drivers)) < 2


# --- lists: what makes two items the same ---
def _whole(node: Node) -> str:
    return json.dumps(plain(node), sort_keys=True, default=str)


def _entry(node: Node, key: str) -> str:
    value = node.items.get(key) if isinstance(node, Mapping) else None
    return str(value.value) if isinstance(value, Scalar) else ""


def _port(node: Node) -> str:
    address = _entry(node, "host_ip") or "0.0.0.0"
    return f"{address}:{_entry(node, 'published')}:{_entry(node, 'target')}/{_entry(node, 'protocol')}"


def _file_in(folder: str) -> Callable[[Node], str]:
    """The path in the container, which is what `target` says or the source's name in `folder`."""

    def key(node: Node) -> str:
        target = _entry(node, "target") or _entry(node, "source")
        return target if target.startswith("/") else f"{folder}/{target}"

    return key


def _target(node: Node) -> str:
    return _entry(node, "target")


def _mounted(node: Node) -> str:
    return node_text(node).partition(":")[0]


_KEYS: dict[Path, Callable[[Node], str]] = {
    ("ports",): _port,
    ("volumes",): _target,
    ("devices",): _target,
    ("secrets",): _file_in("/run/secrets"),
    ("configs",): _file_in(""),
    ("env_file",): lambda node: _entry(node, "path"),
    ("tmpfs",): _mounted,
    ("networks", "ipam", "config"): lambda node: _entry(node, "subnet"),
}


def _merge_lists(base: Sequence, over: Sequence, key: Callable[[Node], str]) -> Sequence:
    items = list(base.items)
    index = {key(item): i for i, item in enumerate(items)}
    for item in over.items:
        at = index.get(key(item))
        if at is None:
            index[key(item)] = len(items)
            items.append(item)
        else:
            items[at] = item
    if key is _target:
        # As `docker stack` has merged mounts, so that either client makes the same service of them.
        items.sort(key=_target)
    return replace(base, items=items)


def settled(node: Node) -> Node:
    """A merged value without what `!reset` took away. Raises ComposeError for a key left without a value."""
    if isinstance(node, Empty):
        raise node.error
    if isinstance(node, Mapping):
        kept = {key: settled(value) for key, value in node.items.items() if not isinstance(value, Reset)}
        return replace(node, items=kept)
    if isinstance(node, Sequence):
        return replace(node, items=[settled(item) for item in node.items])
    return node
