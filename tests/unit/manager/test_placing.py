"""Networks and ports of services from the request to the tasks: use cases, store and orchestrator together."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.core.allocate import SAME_NODE_QUARANTINE_S
from swarmsh.errors import NotFound
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.manager.usecases.cluster import init_cluster
from swarmsh.manager.usecases.networks import create_network, remove_network
from swarmsh.manager.usecases.services import create_service, remove_service, update_service
from swarmsh.model.objects import Network, Service, Task, TaskStatus
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import NetworkSpec, ServiceSpec
from swarmsh.model.states import Availability, TaskState
from swarmsh.model.wire import from_wire
from tests.fakes.objects import a_node
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock


class Scene:
    def __init__(self) -> None:
        self.clock, self.ids = FakeClock(), CountingIds("i")
        self.store = MemoryStore(self.clock)
        self.orchestrator = Orchestrator(self.store, self.clock, self.ids)

    @property
    def snapshot(self) -> ClusterSnapshot:
        return self.store.snapshot

    async def begin(self, nodes: int = 2) -> Scene:
        await init_cluster(self.store, self.ids, self.clock)
        members = tuple(a_node(number) for number in range(1, nodes + 1))
        await self.store.commit(lambda _: Changes(put_nodes=members))
        return self

    async def network(self, name: str, subnet: str = "", **fields: Any) -> Network:
        ipam = {"IPAM": {"Config": [{"Subnet": subnet}]}} if subnet else {}
        spec = from_wire(NetworkSpec, {"Name": name} | ipam | fields)
        return await create_network(self.store, self.ids, self.clock, spec)

    async def create(self, name: str, **fields: Any) -> Service:
        return await create_service(self.store, self.ids, self.clock, spec_of(name, **fields))

    async def update(self, name: str, **fields: Any) -> Service:
        version = self.service(name).version
        return await update_service(self.store, self.clock, name, version, spec_of(name, **fields))

    def service(self, name: str) -> Service:
        return self.snapshot.services[self.snapshot.service_ids[name]]

    async def settle(self) -> None:
        """Passes, and reports of nodes on which everything succeeds, until nothing changes."""
        self.orchestrator.touch_all()
        while True:
            before = self.snapshot
            await self.orchestrator.one_pass()
            self.store.observe(self.succeed)
            self.orchestrator.touch_all()
            if self.snapshot == before:
                return

    def succeed(self, snapshot: ClusterSnapshot) -> Changes:
        put = []
        for task in snapshot.tasks.values():
            state = (
                TaskState.SHUTDOWN if task.desired > TaskState.RUNNING else min(task.desired, TaskState.RUNNING)
            )
            if task.placed and not task.status.state.terminal and task.status.state < state:
                running_since = self.clock.now() if state is TaskState.RUNNING else task.running_since
                status = replace(task.status, state=state, since=self.clock.now())
                put.append(replace(task, status=status, running_since=running_since))
        return Changes(put_tasks=tuple(put))

    def live(self, name: str) -> list[Task]:
        found = (t for t in self.snapshot.tasks_of_service(self.service(name).id) if t.live)
        return sorted(found, key=lambda task: (task.slot, task.node_id))

    def fail(self, task: Task) -> None:
        status = TaskStatus(state=TaskState.FAILED, since=self.clock.now(), err="exit 1")
        self.store.observe(lambda s: Changes(put_tasks=(replace(s.tasks[task.id], status=status),)))


def spec_of(
    name: str,
    replicas: int | None = 1,
    networks: tuple[str, ...] = (),
    ports: tuple[tuple[int, int], ...] = (),
    endpoint_mode: str = "vip",
    **fields: Any,
) -> ServiceSpec:
    """`replicas=None`: global. `ports`: (published, target) in ingress mode."""
    return from_wire(
        ServiceSpec,
        {
            "Name": name,
            "Mode": {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": fields.pop("Image", "web:1")},
                "Networks": [{"Target": network} for network in networks],
                "RestartPolicy": {"Delay": 0},
            },
            "EndpointSpec": {
                "Mode": endpoint_mode,
                "Ports": [{"PublishedPort": p, "TargetPort": t} for p, t in ports],
            },
        }
        | fields,
    )


@pytest.fixture
async def scene() -> Scene:
    return await Scene().begin()


async def test_tasks_have_their_addresses_when_they_have_a_node_and_never_before(scene: Scene) -> None:
    net1, net2 = await scene.network("net1"), await scene.network("net2", Internal=True)
    await scene.create("web", replicas=3, networks=("net2", "net1"), ports=((8080, 80),))
    await scene.settle()
    tasks = scene.live("web")
    assert [[on.network_id for on in task.addresses] for task in tasks] == [[net2.id, net1.id]] * 3
    assert len({on.address for task in tasks for on in task.addresses}) == 6
    for task in tasks:
        number = scene.snapshot.nodes[task.node_id].number
        assert task.egress_address.startswith(f"10.255.{number}.")
    nodes = scene.snapshot.nodes.values()
    silent = tuple(replace(node, status=replace(node.status, silent=True)) for node in nodes)
    await scene.store.commit(lambda _: Changes(put_nodes=silent))
    await scene.create("odd", networks=("net1",))
    await scene.settle()
    (waiting,) = scene.live("odd")
    assert (waiting.placed, waiting.addresses, waiting.egress_address) == (False, (), "")


async def test_a_global_services_tasks_get_addresses_too(scene: Scene) -> None:
    await scene.network("net1")
    await scene.create("agent", replicas=None, networks=("net1",))
    await scene.settle()
    tasks = scene.live("agent")
    assert len(tasks) == 2
    assert len({task.addresses[0].address for task in tasks}) == 2


async def test_a_task_without_an_address_says_so_and_is_placed_when_one_is_free(scene: Scene) -> None:
    await scene.network("small", "10.9.9.0/28")  # 8 addresses for tasks
    await scene.create("web", replicas=9, networks=("small",))
    await scene.settle()
    placed, (waiting,) = [t for t in scene.live("web") if t.placed], [t for t in scene.live("web") if not t.placed]
    assert len(placed) == 8
    assert waiting.status.err.startswith("no task address in network small (10.9.9.4 to 10.9.9.11) is free")
    scene.fail(placed[0])
    await scene.settle()
    assert sum(t.placed for t in scene.live("web")) == 7  # the one that failed is followed, and waits as well
    scene.clock.pass_time(SAME_NODE_QUARANTINE_S - 1)
    await scene.orchestrator.one_pass()
    assert sum(t.placed for t in scene.live("web")) == 7
    scene.clock.pass_time(1)
    # No event wakes it but the time that it knew of.
    await scene.orchestrator._wait()
    await scene.orchestrator.one_pass()
    assert sum(t.placed for t in scene.live("web")) == 8
    held = [on.address for t in scene.live("web") for on in t.addresses]
    assert len(held) == len(set(held))


async def test_a_node_without_an_egress_address_is_passed_over_until_it_has_one(scene: Scene) -> None:
    await scene.network("wide", "10.9.0.0/16")
    full, other = sorted(scene.snapshot.nodes.values(), key=lambda n: n.number)

    async def make(availability: Availability) -> None:
        node = scene.snapshot.nodes[other.id]
        changed = replace(node, spec=replace(node.spec, availability=availability))
        await scene.store.commit(lambda _: Changes(put_nodes=(changed,)))

    await make(Availability.PAUSE)
    await scene.create("big", replicas=253, networks=("wide",))
    await scene.settle()
    assert all(t.placed for t in scene.live("big"))
    await make(Availability.ACTIVE)
    await scene.create("more", replicas=2, networks=("wide",))
    await scene.settle()
    # One of them would have gone to the node that has none of this service yet.
    assert [t.node_id for t in scene.live("more")] == [other.id] * 2
    scene.fail(scene.live("big")[0])
    await scene.settle()
    await make(Availability.PAUSE)
    await scene.create("late", networks=("wide",))
    await scene.settle()
    (late,) = scene.live("late")
    assert late.status.err == (
        "no suitable node (1 node not available for new tasks; 1 node without a free address for the way outside)"
    )
    scene.clock.pass_time(SAME_NODE_QUARANTINE_S)
    # No event wakes it but the time that it knew of.
    await scene.orchestrator._wait()
    await scene.orchestrator.one_pass()
    (late,) = scene.live("late")
    assert late.node_id == full.id and late.egress_address.startswith("10.255.1.")


async def test_an_update_of_networks_alone_replaces_tasks_and_one_of_labels_none(scene: Scene) -> None:
    await scene.network("net1")
    net2 = await scene.network("net2")
    await scene.create("web", networks=("net1",), ports=((8080, 80),))
    await scene.settle()
    (first,) = scene.live("web")
    labels = {"swarmsh.lb.scheduler": "wlc", "swarmsh.lb.persist": "5m", "swarmsh.publish.bind": "10.0.0.1"}
    await scene.update("web", networks=("net1",), ports=((8080, 80),), Labels=labels)
    await scene.settle()
    assert [t.id for t in scene.live("web")] == [first.id]
    vip = scene.service("web").endpoint.virtual_ips[0]
    await scene.update("web", networks=("net1", "net2"), ports=((8080, 80),))
    await scene.settle()
    (second,) = scene.live("web")
    assert second.id != first.id
    assert [on.network_id for on in second.addresses][1] == net2.id
    assert scene.service("web").endpoint.virtual_ips[0] == vip
    # As in Docker: other ports, other tasks.
    await scene.update("web", networks=("net1", "net2"), ports=((8081, 80),))
    await scene.settle()
    assert [t.id for t in scene.live("web")] != [second.id]


async def test_the_same_networks_in_other_words_replace_nothing(scene: Scene) -> None:
    net1 = await scene.network("net1")
    await scene.network("net2")
    await scene.create("web", networks=("net1", "net2"))
    await scene.settle()
    (first,) = scene.live("web")
    await scene.update("web", networks=("net2", net1.id))
    await scene.settle()
    assert [t.id for t in scene.live("web")] == [first.id]


async def test_vips_and_marks_are_given_back_with_the_service(scene: Scene) -> None:
    net1 = await scene.network("net1")
    web = await scene.create("web", networks=("net1",), ports=((8080, 80),))
    await remove_service(scene.store, scene.clock, "web")
    other = await scene.create("other", networks=("net1",), ports=((8080, 80),))
    assert web.endpoint.ports[0].published_port == other.endpoint.ports[0].published_port == 8080
    marks = {mark.mark for s in (web, other) for mark in (*s.endpoint.virtual_ips, *s.endpoint.ports)}
    assert len(marks) == 4
    assert web.endpoint.virtual_ips[0].address != other.endpoint.virtual_ips[0].address
    assert other.endpoint.virtual_ips[0].network_id == net1.id


def failing_update(**fields: Any) -> dict[str, Any]:
    rolled = {"Parallelism": 1, "FailureAction": "rollback", "Monitor": 5_000_000_000}
    return {"UpdateConfig": rolled, "Image": "bad:1"} | fields


async def test_a_rollback_takes_back_networks_and_ports(scene: Scene) -> None:
    await scene.network("net1")
    await scene.create("web", networks=("net1",), ports=((0, 80),))
    await scene.settle()
    before = scene.service("web").endpoint
    await scene.update("web", **failing_update())
    await scene.settle()
    assert scene.service("web").endpoint.virtual_ips == ()
    scene.fail(scene.live("web")[0])
    await scene.settle()
    web = scene.service("web")
    assert web.update_status is not None
    assert web.update_status.state.startswith("rollback_")
    assert [vip.network_id for vip in web.endpoint.virtual_ips] == [before.virtual_ips[0].network_id]
    assert [(p.target_port, p.published_port) for p in web.endpoint.ports] == [(80, 30001)]
    assert [len(task.addresses) for task in scene.live("web")] == [1]


@pytest.mark.parametrize("gone", ["the network", "the port"])
async def test_an_update_whose_rollback_is_not_to_be_had_pauses_and_says_why(scene: Scene, gone: str) -> None:
    await scene.network("net1")
    await scene.create("web", networks=("net1",), ports=((8080, 80),))
    await scene.settle()
    await scene.update("web", **failing_update())
    await scene.settle()
    if gone == "the network":
        await remove_network(scene.store, scene.clock, "net1")
        words = "cannot be rolled back: network "
    else:
        await scene.create("thief", ports=((8080, 80),))
        words = "port '8080' is already in use by service 'thief'"
    scene.fail(scene.live("web")[0])
    await scene.settle()
    web = scene.service("web")
    assert web.update_status is not None
    assert web.update_status.state == "paused"
    assert words in web.update_status.message
    assert web.spec.task_template.networks == ()


async def test_a_service_on_a_network_that_goes_in_the_same_moment_is_refused(scene: Scene) -> None:
    """What was looked up before the transaction counts for nothing."""
    await scene.network("net1")
    spec = spec_of("web", networks=("net1",))
    await remove_network(scene.store, scene.clock, "net1")
    with pytest.raises(NotFound, match="network net1 not found"):
        await create_service(scene.store, scene.ids, scene.clock, spec)
