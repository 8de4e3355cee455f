"""What a service waits for before its first tasks start: the label `swarmsh.depends-on`, and orders of start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from swarmsh.core.words import nearest
from swarmsh.errors import InvalidSpec
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.stacks import NAMESPACE, Condition, Dependency

DEPENDS_ON = "swarmsh.depends-on"
_NAME = re.compile(r"[a-zA-Z0-9_.-]+")  # what compose files may call a service
_OPTIONAL = "optional"
_WORDS = (*(c.value for c in Condition), _OPTIONAL)


# --- the label ----------------------------------------------------------------------------------------------
def parse_depends_on(text: str) -> dict[str, Dependency]:
    """`db:healthy,migrate:completed,cache:started:optional` -> by name; a name alone means started.

    Raises InvalidSpec naming the part.
    """
    found: dict[str, Dependency] = {}
    for part in text.split(","):
        name, *words = (word.strip() for word in part.split(":"))
        if not _NAME.fullmatch(name):
            raise InvalidSpec(
                f"label {DEPENDS_ON}: '{part.strip()}' does not begin with the name of a service",
                hint="Write it as db:healthy,migrate:completed",
            )
        if name in found:
            raise InvalidSpec(f"label {DEPENDS_ON}: {name} is named twice", hint="Name each service once")
        for word in words:
            if word not in _WORDS:
                raise InvalidSpec(
                    f"label {DEPENDS_ON}: '{word}' of {name} is none of {', '.join(_WORDS)}",
                    hint=f"Did you mean {nearest(word, _WORDS)}?",
                )
        conditions = [word for word in words if word != _OPTIONAL]
        if len(conditions) > 1:
            raise InvalidSpec(
                f"label {DEPENDS_ON}: {name} has the conditions {' and '.join(conditions)}", hint="Choose one"
            )
        condition = Condition(conditions[0]) if conditions else Condition.STARTED
        found[name] = Dependency(condition=condition, required=_OPTIONAL not in words)
    return found


def depends_on_label(dependencies: Mapping[str, Dependency]) -> str:
    """The label's value for these, sorted by name; what `parse_depends_on` reads."""
    return ",".join(
        f"{name}:{wanted.condition.value}" + ("" if wanted.required else f":{_OPTIONAL}")
        for name, wanted in sorted(dependencies.items())
    )


def full_names(labels: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What a name in the label may mean: a service of the same stack goes first."""
    stack = labels.get(NAMESPACE, "")
    return (f"{stack}_{name}", name) if stack else (name,)


def refuse_cycle(snapshot: ClusterSnapshot, spec: ServiceSpec) -> None:
    """Refuse a spec with which services would wait for each other. Raises InvalidSpec naming them in order."""
    if DEPENDS_ON not in spec.labels:
        return
    ids = snapshot.service_ids

    def waits_for(name: str) -> Iterable[str]:
        labels = spec.labels if name == spec.name else snapshot.services[ids[name]].spec.labels
        for other in parse_depends_on(labels[DEPENDS_ON]) if DEPENDS_ON in labels else ():
            there = [full for full in full_names(labels, other) if full in ids or full == spec.name]
            yield from there[:1]

    if cycle := find_cycle([spec.name], waits_for):
        raise InvalidSpec(
            f"label {DEPENDS_ON}: {' waits for '.join(cycle)}: none of them would ever start",
            hint="Leave one of them out",
        )


def find_cycle(names: Iterable[str], waits_for: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """A cycle that begins and ends with one name, reached from `names`; empty if there is none.

    `waits_for(name)` gives the names that a name points at.
    """
    done: set[str] = set()
    for start in names:
        path: list[str] = [start]
        open_ = [iter(waits_for(start))]
        while open_:
            following = next(open_[-1], None)
            if following is None:
                open_.pop()
                done.add(path.pop())
            elif following in path:
                return (*path[path.index(following) :], following)
            elif following not in done:
                path.append(following)
                open_.append(iter(waits_for(following)))
    return ()


def start_levels(names: Sequence[str], depends_on: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The names in the order in which they start: each list once those before it meet what is asked of them.

    Within a list as in `names`. There must be no cycle.
    """
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = 1 + max((of(other) for other in depends_on.get(name, ()) if other in names), default=-1)
        return level[name]

    found: list[list[str]] = []
    for name in names:
        at = of(name)
        found += [[] for _ in range(at + 1 - len(found))]
        found[at].append(name)
    return found
