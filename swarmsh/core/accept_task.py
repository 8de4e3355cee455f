"""The task template of a service: its half of accepting a spec (sources and rules as for the whole)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from swarmsh.core.accept_attachments import check_attachments
from swarmsh.core.accept_container import accept_container
from swarmsh.core.accept_run import check_run_options
from swarmsh.core.constraints import parse_constraints, parse_label_key
from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.specs import (
    GenericResource,
    Limits,
    Placement,
    Reservations,
    ResourceRequirements,
    RestartPolicy,
    TaskSpec,
)

_RESTART_CONDITIONS = ("none", "on-failure", "any")
_LEAST_NANO_CPUS = 1_000_000
_LEAST_MEMORY_BYTES = 4 * 1024 * 1024


def accept_task(task: TaskSpec, service_name: str, labels: Mapping[str, str]) -> TaskSpec:
    """The task template to store. Raises InvalidSpec or Unimplemented."""
    _check_runtime(task)
    if task.container_spec is None:
        raise InvalidSpec("mismatched Runtime and *Spec fields")
    policy = _accept_restart_policy(task.restart_policy)
    _check_resources(task.resources)
    placement = _accept_placement(task.placement)
    container = accept_container(task.container_spec, service_name, labels)
    check_run_options(task)
    check_attachments(task.networks)
    if task.force_update < 0:
        raise InvalidSpec("TaskSpec: ForceUpdate cannot be negative")
    return replace(task, container_spec=container, restart_policy=policy, placement=placement, runtime="container")


def _check_runtime(task: TaskSpec) -> None:
    if task.runtime == "plugin" or task.plugin_spec is not None:
        raise Unimplemented(
            "services that install plugins are not supported",
            hint="Run `docker plugin install` on the nodes, over SSH or with Ansible",
        )
    if task.runtime == "attachment" or task.network_attachment_spec is not None:
        raise InvalidSpec('invalid task spec: spec type "attachment" not supported')
    if task.runtime not in ("", "container"):
        raise InvalidSpec("unsupported runtime", hint="Use runtime container")


def _accept_restart_policy(policy: RestartPolicy | None) -> RestartPolicy | None:
    if policy is None:
        return None
    if policy.condition not in ("", *_RESTART_CONDITIONS):
        raise InvalidSpec(f'invalid RestartCondition: "{policy.condition}"')
    for name, value in (
        ("delay", policy.delay),
        ("window", policy.window),
        ("max-attempts", policy.max_attempts),
    ):
        if value is not None and value < 0:
            raise InvalidSpec(f"TaskSpec: restart-{name} cannot be negative")
    return replace(policy, condition=policy.condition or "any", max_attempts=policy.max_attempts or 0)


def _check_resources(resources: ResourceRequirements | None) -> None:
    if resources is None:
        return
    _check_amounts(resources.limits)
    _check_amounts(resources.reservations)
    if resources.reservations is not None:
        _check_generic(resources.reservations.generic_resources)
    if resources.swap_bytes is not None and not (resources.limits and resources.limits.memory_bytes):
        raise InvalidSpec("TaskSpec: SwapBytes needs a memory limit")
    if resources.memory_swappiness is not None and not -1 <= resources.memory_swappiness <= 100:
        raise InvalidSpec(f"invalid MemorySwappiness {resources.memory_swappiness}: Must be from 0 to 100")


def _check_amounts(amounts: Limits | Reservations | None) -> None:
    if amounts is None:
        return
    if amounts.nano_cpus and amounts.nano_cpus < _LEAST_NANO_CPUS:
        raise InvalidSpec(f"invalid cpu value {amounts.nano_cpus / 1e9!r}: Must be at least 0.001")
    if amounts.memory_bytes and amounts.memory_bytes < _LEAST_MEMORY_BYTES:
        raise InvalidSpec(f"invalid memory value {amounts.memory_bytes}: Must be at least 4MiB")


def _check_generic(resources: Iterable[GenericResource]) -> None:
    kinds: set[str] = set()
    for resource in resources:
        asked = resource.discrete_resource_spec
        if asked is None:
            kind = resource.named_resource_spec.kind if resource.named_resource_spec else ""
            raise InvalidSpec(
                f"invalid argument for resource {kind}", hint="Services ask for a number of a generic resource"
            )
        if not asked.kind or asked.value < 0:
            raise InvalidSpec(f"invalid generic resource {asked.kind}={asked.value}")
        if asked.kind in kinds:
            raise InvalidSpec(f"generic resource {asked.kind} is asked for twice")
        kinds.add(asked.kind)


def _accept_placement(placement: Placement | None) -> Placement | None:
    if placement is None:
        return None
    parse_constraints(placement.constraints)
    for preference in placement.preferences:
        if preference.spread is None:
            raise InvalidSpec("placement preference without spread", hint="The only strategy is spread")
        if parse_label_key(preference.spread.spread_descriptor) is None:
            raise InvalidSpec(
                f"placement preference spread={preference.spread.spread_descriptor} is not known",
                hint="Spread over node.labels.NAME or engine.labels.NAME",
            )
    if placement.max_replicas < 0:
        raise InvalidSpec("Placement: MaxReplicas cannot be negative")
    return placement
