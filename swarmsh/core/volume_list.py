"""Volumes of all nodes in one list: which services they belong to, which are asked for, which may go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from swarmsh.core.volumes import names_on
from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Node, Service
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import Mount, TaskSpec
from swarmsh.model.volumes import EngineVolume

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}", re.DOTALL)
FILTERS = frozenset({"name", "driver", "label", "label!", "dangling", "node", "service", "all"})


class Listed(Struct, frozen=True, kw_only=True):
    """A volume on a node. `services`: names of those whose spec names it; `tasks`: those there that have it."""

    node: Node
    volume: EngineVolume
    services: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`n1/pg`: volumes of the same name on several nodes are several."""
        return f"{self.node.spec.name}/{self.volume.name}"

    @property
    def anonymous(self) -> bool:
        """Made for one container, which alone could know it."""
        return bool(_ANONYMOUS.fullmatch(self.volume.name)) or "com.docker.volume.anonymous" in self.volume.labels


def listed(snapshot: ClusterSnapshot, node: Node, volumes: Iterable[EngineVolume]) -> list[Listed]:
    """What a node's Engine told, with who uses it; by name."""
    patterns = [
        (service.spec.name, pattern) for service in snapshot.services.values() for pattern in _named(service)
    ]
    holders: dict[str, list[str]] = {}
    for task in snapshot.tasks_of_node(node.id):
        if task.placed and not task.status.state.terminal:
            for name in names_on(task, node, _mounts(task.spec)):
                holders.setdefault(name, []).append(f"{task.service_name}.{task.place_word}")
    return [
        Listed(
            node=node,
            volume=volume,
            services=tuple(sorted({name for name, pattern in patterns if pattern.fullmatch(volume.name)})),
            tasks=tuple(sorted(holders.get(volume.name, ()))),
        )
        for volume in sorted(volumes, key=lambda v: v.name)
    ]


def _mounts(spec: TaskSpec) -> tuple[Mount, ...]:
    mounts = spec.container_spec.mounts if spec.container_spec is not None else ()
    return tuple(mount for mount in mounts if mount.type == "volume" and mount.source)


def _named(service: Service) -> Iterable[re.Pattern[str]]:
    """The names that a service's volumes may have; a placeholder may be anything."""
    specs = [service.spec, *([service.previous_spec] if service.previous_spec is not None else [])]
    for source in dict.fromkeys(mount.source for spec in specs for mount in _mounts(spec.task_template)):
        yield re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(source)), re.DOTALL)


def wanted(one: Listed, filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether all filters let it through, as Docker's do. Raises InvalidSpec for one that is not known."""
    for key, values in filters.items():
        if key not in FILTERS:
            raise InvalidSpec(f"invalid filter '{key}'", hint=f"Known are {', '.join(sorted(FILTERS))}")
        if key == "dangling":
            if one.volume.in_use is _truth(values):
                return False
        elif values and not _fits(one, key, values):
            return False
    return True


def _fits(one: Listed, key: str, values: Sequence[str]) -> bool:
    match key:
        case "name":
            return any(value in one.name for value in values)
        case "driver":
            return one.volume.driver in values
        case "node":
            return not {one.node.spec.name, one.node.hostname, one.node.id}.isdisjoint(values)
        case "service":
            return not set(one.services).isdisjoint(values)
        case "label":
            return all(_has_label(one, value) for value in values)
        case "label!":
            return not any(_has_label(one, value) for value in values)
    return True


def _has_label(one: Listed, text: str) -> bool:
    key, equals, value = text.partition("=")
    found = one.volume.labels.get(key)
    return found is not None and (not equals or found == value)


def _truth(values: Sequence[str]) -> bool:
    if set(values) <= {"1", "true"}:
        return True
    if set(values) <= {"0", "false"}:
        return False
    raise InvalidSpec(f"invalid filter 'dangling={','.join(values)}'")


def prunable(one: Listed, filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether a prune removes it: no container has it, and no service names it; named ones only if `all` says so.

    A service that is scaled to nothing, or waits for a node, will want its data again.
    """
    everything = "all" in filters and _truth(filters["all"])
    return not one.volume.in_use and not one.services and (one.anonymous or everything) and wanted(one, filters)
