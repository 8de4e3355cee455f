"""A service's or node's spec as a client sent it, made the one that is stored; or refused, with Docker's words.

Checks and messages are swarmkit's (`manager/controlapi/service.go`, `common.go`) and dockerd's conversion
(`moby daemon/cluster/convert/service.go`); so are the words filled in for empty ones, since Docker answers with
them. What is not built yet is refused with what to use instead.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.core.accept_endpoint import accept_endpoint
from swarmsh.core.accept_job import accept_job_mode, check_job, job_template
from swarmsh.core.accept_task import accept_task
from swarmsh.core.difference import placement_only, template_changed
from swarmsh.core.labels import check_labels
from swarmsh.core.names import check_name
from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.objects import Service
from swarmsh.model.specs import (
    NodeSpec,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)

__all__ = ["accept_node_spec", "accept_service", "accept_update", "placement_only", "template_changed"]

_FAILURE_ACTIONS = ("pause", "continue", "rollback")
_ORDERS = ("stop-first", "start-first")


def accept_service(spec: ServiceSpec) -> ServiceSpec:
    """The spec to store, but for names of networks. Raises InvalidSpec, or Unimplemented for what is not built.

    A service without a name is given one before (it takes randomness).
    """
    mode = _accept_mode(spec.mode)
    # Networks beside the task template are of before API 1.25.
    networks = spec.task_template.networks or spec.networks
    check_name(spec.name)
    check_labels(spec.labels)
    task = accept_task(replace(spec.task_template, networks=networks), spec.name, spec.labels)
    check_job(spec)
    if mode.is_job:
        task = job_template(task, spec.task_template.restart_policy)
    one_a_node = mode.global_ is not None or mode.global_job is not None
    if one_a_node and task.placement is not None and task.placement.max_replicas:
        raise InvalidSpec("replicas-max-per-node can only be used with replicated or replicated-job mode")
    return replace(
        spec,
        task_template=task,
        networks=(),
        mode=mode,
        update_config=_accept_update_config(spec.update_config, "update"),
        rollback_config=_accept_update_config(spec.rollback_config, "rollback"),
        endpoint_spec=accept_endpoint(spec.endpoint_spec, task),
    )


def accept_update(stored: Service, spec: ServiceSpec) -> ServiceSpec:
    """The spec to store in place of `stored.spec`. Raises as `accept_service`; an empty name stays as it was."""
    accepted = accept_service(spec if spec.name else replace(spec, name=stored.spec.name))
    if _kind(accepted.mode) != _kind(stored.spec.mode):
        raise Unimplemented("service mode change is not allowed", hint="Remove the service and create it anew")
    if accepted.name != stored.spec.name:
        raise Unimplemented("renaming services is not supported", hint="Create a service of the new name")
    return accepted


def accept_node_spec(spec: NodeSpec, stored: NodeSpec | None = None) -> NodeSpec:
    """The spec to store for a node; roles and availabilities were checked when it was read. Raises InvalidSpec.

    The name is the inventory's: empty in an update it stays, and it cannot be changed.
    """
    for key in spec.labels:
        if not key or key != key.strip():
            raise InvalidSpec(f"label key '{key}' is invalid", hint="Use a key without outer spaces")
    if stored is None or spec.name == stored.name:
        return spec
    if spec.name:
        raise Unimplemented("renaming nodes is not supported", hint="Change its name in the inventory")
    return replace(spec, name=stored.name)


def _accept_mode(mode: ServiceMode) -> ServiceMode:
    if len(_kinds(mode)) > 1:
        raise InvalidSpec("must specify only one service mode")
    if mode.is_job:
        return accept_job_mode(mode)
    if mode.global_ is not None:
        return mode
    replicas = mode.replicated.replicas if mode.replicated is not None else None
    if replicas is not None and replicas < 0:
        raise InvalidSpec("Number of replicas must be non-negative")
    return ServiceMode(replicated=ReplicatedMode(replicas=1 if replicas is None else replicas))


def _kinds(mode: ServiceMode) -> list[str]:
    return [name for name in mode.__struct_fields__ if getattr(mode, name) is not None]


def _kind(mode: ServiceMode) -> str:
    return next(iter(_kinds(mode)), "replicated")


def _accept_update_config(config: UpdateConfig | None, which: str) -> UpdateConfig | None:
    """`which` is update or rollback, for messages. swarmkit checks no numbers of a rollback; Docker's CLI does."""
    if config is None:
        return None
    if config.failure_action not in ("", *_FAILURE_ACTIONS):
        raise InvalidSpec(f"unrecognized update failure action {config.failure_action}")
    if config.order not in ("", *_ORDERS):
        raise InvalidSpec(f"unrecognized update order {config.order}")
    for name, value in (("parallelism", config.parallelism), ("delay", config.delay), ("monitor", config.monitor)):
        if value < 0:
            raise InvalidSpec(f"TaskSpec: {which}-{name} cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidSpec(f"TaskSpec: {which}-maxfailureratio cannot be less than 0 or bigger than 1")
    return replace(config, failure_action=config.failure_action or "pause", order=config.order or "stop-first")
