"""Small valid objects, to be changed with `msgspec.structs.replace`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from swarmsh.model.objects import (
    Config,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    Secret,
    Service,
    SshTarget,
    Task,
    TaskAddress,
    TaskStatus,
)
from swarmsh.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    NetworkSpec,
    NodeSpec,
    Platform,
    ReplicatedMode,
    SecretReference,
    SecretSpec,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmsh.model.states import NodeState, Role, TaskState

THEN = 1_700_000_000.0


def a_service(name: str = "web", replicas: int = 2, image: str = "web:1", service_id: str = "") -> Service:
    spec = ServiceSpec(
        name=name,
        task_template=TaskSpec(container_spec=ContainerSpec(image=image)),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
    )
    return Service(id=service_id or f"svc{name:0>22}", version=0, created_at=THEN, updated_at=THEN, spec=spec)


def a_task(
    service: Service, slot: int, node_id: str = "", state: TaskState = TaskState.NEW, task_id: str = ""
) -> Task:
    return Task(
        id=task_id or f"tsk{service.spec.name:0>18}{slot:04d}",
        version=0,
        created_at=THEN,
        updated_at=THEN,
        service_id=service.id,
        service_name=service.spec.name,
        slot=slot,
        node_id=node_id,
        spec=service.spec.task_template,
        spec_version=service.spec_version,
        labels=service.spec.labels,
        status=TaskStatus(state=state, since=THEN),
    )


def a_node(number: int = 1, state: NodeState = NodeState.READY, role: Role = Role.WORKER) -> Node:
    return Node(
        id=f"node{number:021d}",
        number=number,
        version=0,
        created_at=THEN,
        updated_at=THEN,
        spec=NodeSpec(name=f"n{number}", role=role),
        target=SshTarget(address=f"10.0.0.{number}", host_keys=("SHA256:abc",)),
        description=NodeDescription(
            hostname=f"n{number}",
            platform=Platform(architecture="x86_64", os="linux"),
            nano_cpus=2_000_000_000,
            memory_bytes=2 << 30,
            engine_version="28.5.1",
        ),
        status=NodeStatus(state=state, since=THEN),
    )


def a_network(name: str = "net1", number: int = 1) -> Network:
    subnet = f"10.48.{number * 16}"
    return Network(
        id=f"net{name:0>22}",
        version=0,
        created_at=THEN,
        updated_at=THEN,
        spec=NetworkSpec(name=name, driver="overlay", scope="swarm"),
        vni=4095 + number,
        subnet=f"{subnet}.0/20",
        gateways=f"{subnet}.0/24",
        vips=f"10.48.{number * 16 + 8}.0/21",
        first_task=f"10.48.{number * 16 + 1}.0",
        last_task=f"10.48.{number * 16 + 7}.255",
        mtu=1450,
    )


def addressed(task: Task, network: Network, address: str) -> Task:
    """The task on an overlay."""
    return replace(task, addresses=(TaskAddress(network_id=network.id, address=address),))


def a_secret(name: str = "password", number: int = 1, *, current: bool = True) -> Secret:
    return Secret(spec=SecretSpec(name=name), current=current, **_kept("sec", name, number))


def a_config(name: str = "site", number: int = 1, *, current: bool = True) -> Config:
    return Config(spec=ConfigSpec(name=name), current=current, **_kept("cfg", name, number))


def _kept(prefix: str, name: str, number: int) -> dict[str, Any]:
    head = {"id": f"{prefix}{name:0>18}{number:04d}", "version": 0, "number": number}
    return head | {"created_at": THEN, "updated_at": THEN}


def using(service: Service, *kept: Secret | Config) -> Service:
    """The service with these secrets and configs, each at a file of its name."""
    container = service.spec.task_template.container_spec
    assert container is not None
    for one in kept:
        file = FileTarget(name=one.spec.name, uid="0", gid="0", mode=0o444)
        if isinstance(one, Secret):
            reference = SecretReference(file=file, secret_id=one.id, secret_name=one.spec.name)
            container = replace(container, secrets=(*container.secrets, reference))
        else:
            config = ConfigReference(file=file, config_id=one.id, config_name=one.spec.name)
            container = replace(container, configs=(*container.configs, config))
    template = replace(service.spec.task_template, container_spec=container)
    return replace(service, spec=replace(service.spec, task_template=template))
