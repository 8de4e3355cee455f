"""Nodes, tasks and specs for tests of single decisions: everything has a default, and tests name what matters."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from swarmsh.model.objects import Node, NodeDescription, NodeStatus, SshTarget, Task, TaskStatus
from swarmsh.model.specs import (
    ContainerSpec,
    DiscreteGenericResource,
    EndpointSpec,
    GenericResource,
    NamedGenericResource,
    NodeSpec,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    Reservations,
    ResourceRequirements,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmsh.model.states import Availability, NodeState, Role, TaskState
from swarmsh.model.wire import from_wire

GIB = 1 << 30


def node(
    number: int = 1,
    *,
    state: NodeState = NodeState.READY,
    availability: Availability = Availability.ACTIVE,
    labels: dict[str, str] | None = None,
    role: Role = Role.WORKER,
    address: str = "",
    **description: Any,
) -> Node:
    seen: dict[str, Any] = {
        "hostname": f"host{number}",
        "platform": Platform(architecture="x86_64", os="linux"),
        "nano_cpus": 4_000_000_000,
        "memory_bytes": 8 * GIB,
        "engine_version": "26.1.5",
        "engine_api": "1.45",
    }
    return Node(
        id=f"node{number}",
        number=number,
        version=1,
        created_at=0.0,
        updated_at=0.0,
        spec=NodeSpec(name=f"n{number}", labels=labels or {}, role=role, availability=availability),
        target=SshTarget(address=address or f"10.0.0.{number}"),
        description=NodeDescription(**(seen | description)),
        status=NodeStatus(state=state),
    )


def task_spec(*, image: str = "web:1", placement: Placement | None = None, **container: Any) -> TaskSpec:
    return TaskSpec(container_spec=ContainerSpec(image=image, **container), placement=placement)


def reserving(cpus: float = 0, memory: int = 0, **generic: int) -> TaskSpec:
    kinds = tuple(counted(kind, value) for kind, value in generic.items())
    wanted = Reservations(nano_cpus=int(cpus * 1e9), memory_bytes=memory, generic_resources=kinds)
    return replace(task_spec(), resources=ResourceRequirements(reservations=wanted))


def spread(*descriptors: str) -> Placement:
    return Placement(
        preferences=tuple(PlacementPreference(spread=SpreadOver(spread_descriptor=d)) for d in descriptors)
    )


def task(
    number: int = 1,
    *,
    service: str = "web",
    spec: TaskSpec | None = None,
    on: Node | None = None,
    state: TaskState | None = None,
    **fields: Any,
) -> Task:
    """A pending task; with `on` a running one."""
    reached = state if state is not None else TaskState.RUNNING if on else TaskState.PENDING
    return Task(
        **(
            {
                "id": f"{service}-{number}",
                "version": 7,
                "created_at": 0.0,
                "updated_at": 0.0,
                "service_id": f"id-{service}",
                "service_name": service,
                "slot": number,
                "node_id": on.id if on else "",
                "spec": spec or task_spec(),
                "status": TaskStatus(state=reached),
            }
            | fields
        )
    )


def host_port(published: int, target: int = 80, protocol: str = "tcp") -> EndpointSpec:
    port = PortConfig(protocol=protocol, target_port=target, published_port=published, publish_mode="host")
    return EndpointSpec(mode="vip", ports=(port,))


def named(kind: str, *values: str) -> tuple[GenericResource, ...]:
    return tuple(GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=v)) for v in values)


def counted(kind: str, value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def service_spec(**wire: Any) -> ServiceSpec:
    """A spec as a client sends it; `wire` replaces parts, given as JSON in PascalCase."""
    sent = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}} | wire
    return from_wire(ServiceSpec, sent)


def with_container(**container: Any) -> ServiceSpec:
    """A spec with these fields in its ContainerSpec, given as JSON in PascalCase."""
    return service_spec(TaskTemplate={"ContainerSpec": {"Image": "web:1"} | container})


def with_template(**template: Any) -> ServiceSpec:
    """A spec with these fields in its TaskTemplate, given as JSON in PascalCase."""
    return service_spec(TaskTemplate={"ContainerSpec": {"Image": "web:1"}} | template)
