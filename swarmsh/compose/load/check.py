"""What only the whole of a project shows: profiles, names that lead nowhere, keys that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Collection

from swarmsh.compose.errors import ComposeError, Path, Position
from swarmsh.compose.load.forms import node_text
from swarmsh.compose.load.tree import Mapping, Node, Scalar, Sequence, shorten
from swarmsh.core.words import nearest

_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SOURCES = {"secrets": ("file", "environment", "driver"), "configs": ("file", "environment", "content")}


def check_name(node: Node) -> str:
    """The project's name. Raises ComposeError."""
    name = node_text(node)
    if not _PROJECT_NAME.fullmatch(name):
        hint = "It has lower-case letters, digits, dashes and underscores, and begins with a letter or digit"
        raise ComposeError(f"{shorten(name)!r} is no name of a project", node.place, ("name",), hint)
    return name


def entries(node: Node | None, *keys: str) -> dict[str, Mapping]:
    """The mappings that a mapping holds under a path of keys, by name; empty if there are none."""
    for key in keys:
        node = node.items.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return {}
    return {name: value for name, value in node.items.items() if isinstance(value, Mapping)}


def items(node: Node | None) -> list[Node]:
    """The items of a list; empty if it is none."""
    return node.items if isinstance(node, Sequence) else []


def is_active(service: Mapping, active: Collection[str]) -> bool:
    """Whether a service without profiles, or with one that is active; `*` is all."""
    profiles = [node_text(item) for item in items(service.items.get("profiles"))]
    return not profiles or "*" in active or any(profile in active for profile in profiles)


def _is_true(node: Node | None) -> bool:
    return isinstance(node, Scalar) and node.value is True


def check_objects(section: str, found: dict[str, Mapping]) -> None:
    """Networks, volumes, secrets or configs: external ones have a name only, the others one source."""
    for name, node in found.items():
        path: Path = (section, name)
        keys = [key for key in node.items if not key.startswith("x-")]
        if _is_true(node.items.get("external")):
            for key in keys:
                if key not in ("external", "name"):
                    hint = "Keep only external and name"
                    raise ComposeError(
                        f"external and {key} exclude each other", node.keys[key], (*path, key), hint
                    )
        elif section in _SOURCES:
            known = _SOURCES[section]
            given = [key for key in known if key in keys]
            if len(given) > 1:
                place = node.keys[given[1]]
                raise ComposeError(f"{given[0]} and {given[1]} exclude each other", place, (*path, given[1]))
            if not given:
                raise ComposeError(f"has none of {', '.join(known)} and external", node.place, path)


def check_references(services: dict[str, Mapping], sections: dict[str, dict[str, Mapping]]) -> None:
    """Each network, volume, secret and config that a service names must be declared. Raises ComposeError."""
    for name, service in services.items():
        path: Path = ("services", name)
        networks = service.items.get("networks")
        if isinstance(networks, Mapping):
            for network in networks.items:
                if network != "default" and network not in sections["networks"]:
                    here = (*path, "networks", network)
                    raise _unknown("networks", network, sections["networks"], networks.keys[network], here)
        for section in ("secrets", "configs", "volumes"):
            for i, item in enumerate(items(service.items.get(section))):
                source = item.items.get("source") if isinstance(item, Mapping) else None
                if section == "volumes" and isinstance(item, Mapping):
                    kind = node_text(item.items.get("type"))
                    source = source if kind in ("volume", "cluster") else None
                if source is not None and node_text(source) and node_text(source) not in sections[section]:
                    place = source.place
                    raise _unknown(section, node_text(source), sections[section], place, (*path, section, i))


def _unknown(section: str, name: str, known: Collection[str], place: Position, path: Path) -> ComposeError:
    near = f"; the nearest is {nearest(shorten(name), known)!r}" if known else ""
    return ComposeError(
        f"there is no {section.removesuffix('s')} {shorten(name)!r}{near}",
        place,
        path,
        f"Declare it at the top under {section}",
    )


def check_dependencies(
    services: dict[str, Mapping], inactive: dict[str, Mapping], dependencies: dict[str, dict[str, Mapping]]
) -> None:
    """Who depends on whom: only on services that are there, with a condition, and not in a circle."""
    for name, needed in dependencies.items():
        for other, how in needed.items():
            path: Path = ("services", name, "depends_on", other)
            if other in inactive:
                profiles = ", ".join(node_text(item) for item in items(inactive[other].items.get("profiles")))
                raise ComposeError(
                    f"{name} depends on {other}, whose profiles are not active: {profiles}",
                    how.place,
                    path,
                    f"Activate one of them, give {name} the same profiles, or say required: false",
                )
            if other not in services:
                near = nearest(shorten(other), services)
                raise ComposeError(
                    f"there is no service {shorten(other)!r}; the nearest is {near!r}", how.place, path
                )
            if "condition" not in how.items:
                raise ComposeError("the key 'condition' is missing", how.place, path)
    circle = _circle({name: list(needed) for name, needed in dependencies.items()})
    if circle:
        path = ("services", circle[0], "depends_on", circle[1])
        place = dependencies[circle[0]][circle[1]].place
        raise ComposeError(f"services depend on each other in a circle: {' -> '.join(circle)}", place, path)


def _circle(needs: dict[str, list[str]]) -> list[str]:
    """The first circle, its first name again at the end; empty if there is none."""
    left = {name: [other for other in others if other in needs] for name, others in needs.items()}
    while True:
        free = [name for name, others in left.items() if not any(other in left for other in others)]
        if not free:
            break
        for name in free:
            del left[name]
    if not left:
        return []
    # Each that is left needs another that is left: whoever follows one need after the other comes round.
    walk = [next(iter(left))]
    while walk[-1] not in walk[:-1]:
        walk.append(next(other for other in left[walk[-1]] if other in left))
    return walk[walk.index(walk[-1]) :]
