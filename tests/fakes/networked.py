"""Services and tasks on networks, with addresses as the allocator would give them."""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.model.objects import Endpoint, Network, Node, PortMark, Service, Task, VirtualIP
from swarmsh.model.specs import EndpointSpec, NetworkAttachment, PortConfig
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_network, a_task, addressed

NET1, NET2 = a_network("net1", 1), a_network("net2", 2)
NETWORKS = {n.id: n for n in (NET1, NET2)}
HTTP = PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="ingress")
MARK = 1_000_000  # of ports, more than those of VIPs


def networked(
    service: Service,
    *networks: Network,
    mode: str = "vip",
    ports: tuple[PortConfig, ...] = (),
    first_mark: int = 1,
) -> Service:
    """The service as it is once it was accepted and got its addresses; VIPs are numbered by the first mark."""
    template = replace(
        service.spec.task_template,
        networks=tuple(NetworkAttachment(target=n.id, aliases=(f"a-{service.spec.name}",)) for n in networks),
    )
    spec = replace(service.spec, task_template=template, endpoint_spec=EndpointSpec(mode=mode, ports=ports))
    vips = tuple(
        VirtualIP(network_id=n.id, address=_vip_address(n, first_mark), mark=first_mark + i)
        for i, n in enumerate(networks)
        if mode == "vip"
    )
    marks = tuple(
        PortMark(
            protocol=p.protocol, target_port=p.target_port, published_port=p.published_port, mark=MARK + first_mark
        )
        for p in ports
        if p.publish_mode == "ingress"
    )
    return replace(service, spec=spec, endpoint=Endpoint(virtual_ips=vips, ports=marks))


def _vip_address(network: Network, mark: int) -> str:
    return f"10.48.{int(network.subnet.split('.')[2]) + 8 + mark // 256}.{mark % 256}"


def placed(
    service: Service,
    slot: int,
    node: Node,
    *,
    state: TaskState = TaskState.RUNNING,
    ready: bool = True,
    desired: TaskState = TaskState.RUNNING,
) -> Task:
    """A task of the service with the addresses .1.<slot> of its networks, and 10.255.<node>.<10 + slot>."""
    task = replace(a_task(service, slot, node.id, state), desired=desired, endpoint=service.spec.endpoint_spec)
    for attachment in service.spec.task_template.networks:
        network = NETWORKS[attachment.target]
        before = task.addresses
        task = addressed(task, network, f"10.48.{int(network.subnet.split('.')[2]) + 1}.{slot}")
        task = replace(task, addresses=(*before, *task.addresses))
    status = replace(task.status, ready=ready and state is TaskState.RUNNING, container_id=f"{slot:064d}")
    return replace(task, egress_address=f"10.255.{node.number}.{10 + slot}", status=status)
