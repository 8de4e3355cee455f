"""What nodes have and tasks reserve: CPU, memory and generic resources, added up and dealt out.

Generic resources as in swarmkit's `api/genericresource`: services ask for a number of a kind; a node has either a
number of it, or named pieces of which that many are dealt out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from swarmsh.model.objects import NodeDescription, Task
from swarmsh.model.specs import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    Reservations,
    TaskSpec,
)

_NOTHING = Reservations()


class Shortage(NamedTuple):
    """Of `kind` (`cpu` in billionths, `memory` in bytes, or a generic kind) more is wanted than is left."""

    kind: str
    wanted: int
    left: int


@dataclass(slots=True)
class Available:
    """What a node has left; changed only by who made it."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # kind -> number left
    names: dict[str, list[str]] = field(default_factory=dict)  # kind -> pieces left

    @classmethod
    def of(cls, description: NodeDescription) -> Available:
        """All that the node reports."""
        available = cls(description.nano_cpus, description.memory_bytes)
        for resource in description.generic_resources:
            if (named := resource.named_resource_spec) is not None:
                available.names.setdefault(named.kind, []).append(named.value)
            elif (discrete := resource.discrete_resource_spec) is not None:
                available.counts[discrete.kind] = available.counts.get(discrete.kind, 0) + discrete.value
        return available

    def fits(self, wanted: Reservations) -> bool:
        """Whether `wanted` is left, all of it."""
        return next(self.shortages(wanted), None) is None

    def shortages(self, wanted: Reservations) -> Iterator[Shortage]:
        """What of `wanted` is not left."""
        if wanted.nano_cpus and wanted.nano_cpus > self.nano_cpus:
            yield Shortage("cpu", wanted.nano_cpus, self.nano_cpus)
        if wanted.memory_bytes and wanted.memory_bytes > self.memory_bytes:
            yield Shortage("memory", wanted.memory_bytes, self.memory_bytes)
        for resource in wanted.generic_resources:
            if not self._has(resource):
                asked = resource.discrete_resource_spec
                kind, value = (asked.kind, asked.value) if asked is not None else ("a named piece", 1)
                yield Shortage(kind, value, len(self.names.get(kind, ())) or self.counts.get(kind, 0))

    def take(self, wanted: Reservations) -> tuple[GenericResource, ...]:
        """Take `wanted` and return the generic resources dealt out for it. Only after `fits`."""
        self.nano_cpus -= wanted.nano_cpus
        self.memory_bytes -= wanted.memory_bytes
        dealt: list[GenericResource] = []
        for resource in wanted.generic_resources:
            if (asked := resource.discrete_resource_spec) is None:
                continue
            if pieces := self.names.get(asked.kind):
                dealt += [_named(asked.kind, value) for value in pieces[: asked.value]]
                self.names[asked.kind] = pieces[asked.value :]
            elif asked.value:
                self.counts[asked.kind] -= asked.value
                dealt.append(GenericResource(discrete_resource_spec=asked))
        return tuple(dealt)

    def take_task(self, task: Task) -> None:
        """Take what a task holds: its reservations, and the very generic resources it was dealt."""
        wanted = reservations_of(task.spec)
        self.nano_cpus -= wanted.nano_cpus
        self.memory_bytes -= wanted.memory_bytes
        for resource in task.generic_resources:
            if (named := resource.named_resource_spec) is not None:
                pieces = self.names.get(named.kind, [])
                self.names[named.kind] = [value for value in pieces if value != named.value]
            elif (discrete := resource.discrete_resource_spec) is not None:
                self.counts[discrete.kind] = self.counts.get(discrete.kind, 0) - discrete.value

    def holds(self, dealt: Iterable[GenericResource]) -> bool:
        """Whether generic resources dealt out earlier are still the node's."""
        for resource in dealt:
            if (named := resource.named_resource_spec) is not None:
                if named.value not in self.names.get(named.kind, ()):
                    return False
            elif (discrete := resource.discrete_resource_spec) is not None and not self._counts(discrete):
                return False
        return True

    def _has(self, resource: GenericResource) -> bool:
        asked = resource.discrete_resource_spec
        if asked is None:
            return False  # a service cannot ask for a named piece; refused when it was accepted
        if asked.kind in self.names:
            return asked.value <= len(self.names[asked.kind])
        return self._counts(asked)

    def _counts(self, asked: DiscreteGenericResource) -> bool:
        return asked.kind in self.counts and asked.value <= self.counts[asked.kind]


def reservations_of(spec: TaskSpec) -> Reservations:
    """What a task of this spec reserves; empty if it says nothing."""
    if spec.resources is None or spec.resources.reservations is None:
        return _NOTHING
    return spec.resources.reservations


def generic_env(dealt: Iterable[GenericResource]) -> tuple[str, ...]:
    """`DOCKER_RESOURCE_GPU=a,b`: how a container is told its generic resources, by kind."""
    values: dict[str, list[str]] = {}
    for resource in dealt:
        if (named := resource.named_resource_spec) is not None:
            values.setdefault(named.kind, []).append(named.value)
        elif (discrete := resource.discrete_resource_spec) is not None:
            values.setdefault(discrete.kind, []).append(str(discrete.value))
    return tuple(f"DOCKER_RESOURCE_{kind.upper()}={','.join(v)}" for kind, v in sorted(values.items()))


def _named(kind: str, value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=value))
