"""What a change of a service's spec means for its tasks: whether they must be replaced.

The rule is swarmkit's (`manager/orchestrator/task.go`, IsTaskDirty): any difference in the task template or in the
endpoint. But what is a set is compared as one, and a block that says nothing equals no block, because the docker
CLI rebuilds both at will and nothing in a container would change.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from msgspec.structs import FieldInfo, fields, replace

from swarmsh.model.objects import Service, Task
from swarmsh.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Placement,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from swarmsh.model.wire import Record

R = TypeVar("R", bound=Record)
_ANY_AFTER_5_S = RestartPolicy(condition="any", delay=5_000_000_000, max_attempts=0, window=0)


def template_changed(a: ServiceSpec, b: ServiceSpec) -> bool:
    """Whether tasks made after `a` must be replaced to be as `b` says (order of arguments does not matter)."""
    return _differ((a.task_template, a.endpoint_spec), (b.task_template, b.endpoint_spec))


def placement_only(a: ServiceSpec, b: ServiceSpec) -> bool:
    """Whether the two differ in placement and in nothing else of what makes tasks.

    Tasks whose node still fits are then kept; whether it does is the caller's to see.
    """
    moved = replace(a, task_template=replace(a.task_template, placement=b.task_template.placement))
    return template_changed(a, b) and not template_changed(moved, b)


def task_outdated(task: Task, spec: ServiceSpec) -> bool:
    """Whether the task is not what its service's spec says now; what `template_changed` is for specs."""
    return _differ((task.spec, task.endpoint), (spec.task_template, spec.endpoint_spec))


def outdated(task: Task, service: Service) -> bool:
    """Whether the task runs something else than the service specifies now; one of its version never does."""
    return task.spec_version != service.spec_version and task_outdated(task, service.spec)


_Made = tuple[TaskSpec, EndpointSpec | None]


def _differ(a: _Made, b: _Made) -> bool:
    # Mostly nothing changed, and plain equality is many times cheaper.
    return a != b and (_task(a[0]) != _task(b[0]) or _endpoint(a[1]) != _endpoint(b[1]))


def _endpoint(endpoint: EndpointSpec | None) -> EndpointSpec:
    endpoint = endpoint or EndpointSpec()
    ports = (
        replace(port, protocol=port.protocol or "tcp", publish_mode=port.publish_mode or "ingress")
        for port in endpoint.ports
    )
    return EndpointSpec(mode=endpoint.mode or "vip", ports=_sorted(ports))


def _task(task: TaskSpec) -> TaskSpec:
    policy = task.restart_policy or RestartPolicy()
    given = {name: value for name in policy.__struct_fields__ if (value := getattr(policy, name))}
    if policy.delay == 0:
        given["delay"] = 0  # at once, where None is the default of 5 s
    return _without_empty(
        replace(
            task,
            runtime="" if task.runtime == "container" else task.runtime,
            container_spec=_container(task.container_spec) if task.container_spec else None,
            restart_policy=replace(_ANY_AFTER_5_S, **given),
            placement=_placement(task.placement or Placement()),
            networks=_sorted(task.networks),
        )
    )


def _container(spec: ContainerSpec) -> ContainerSpec:
    return replace(
        spec,
        # A name may be given twice, and then the last one counts: only the order of names is free.
        env=tuple(sorted(spec.env, key=lambda entry: entry.partition("=")[0])),
        groups=tuple(sorted(spec.groups)),
        mounts=tuple(
            sorted((replace(m, type=m.type or "bind") for m in spec.mounts), key=lambda mount: mount.target)
        ),
        secrets=_sorted(spec.secrets),
        configs=_sorted(spec.configs),
        capability_add=tuple(sorted(spec.capability_add)),
        capability_drop=tuple(sorted(spec.capability_drop)),
        ulimits=_sorted(spec.ulimits),
        isolation="" if spec.isolation == "default" else spec.isolation,
    )


def _placement(placement: Placement) -> Placement:
    return replace(
        placement,
        constraints=tuple(sorted(placement.constraints)),
        platforms=_sorted(placement.platforms),
    )


def _sorted(records: Iterable[R]) -> tuple[R, ...]:
    return tuple(sorted(records, key=repr))


@cache
def _fields_of(kind: type[Record]) -> tuple[FieldInfo, ...]:
    return fields(kind)


def _without_empty(record: R) -> R:
    """The record with every optional block that holds only defaults left out, inner ones first."""
    changed: dict[str, Any] = {}
    for f in _fields_of(type(record)):
        value = getattr(record, f.name)
        if isinstance(value, Record):
            inner = _without_empty(value)
            changed[f.name] = None if f.default is None and inner == type(inner)() else inner
        elif isinstance(value, tuple) and any(isinstance(item, Record) for item in value):
            changed[f.name] = tuple(_without_empty(item) for item in value)
    return replace(record, **changed)
