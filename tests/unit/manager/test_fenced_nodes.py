"""What a node with fenced tasks is told of its peers: at once, in each session, and when nodes come or go."""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.manager.dirt import Dirt
from swarmsh.manager.node_networks import ClusterNetworks
from swarmsh.manager.node_worker import NodeWorker
from swarmsh.manager.orchestrator import Orchestrator
from swarmsh.model.actions import Batch, NodeReport
from swarmsh.model.objects import Cluster, NodeStatus, Service
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import CountingIds, FakeClock

from ..core.world import make_node, make_spec


class Sessions:
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def report(self, node_id: str) -> NodeReport:
        return NodeReport()

    async def apply(self, node_id: str, batch: Batch) -> None:
        self.batches.append(batch)


async def test_a_node_with_fenced_tasks_is_told_its_peers_whenever_they_change() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    spec = replace(make_spec(), labels={"swarmsh.fence": "stop"})
    service = Service(id="db", version=1, created_at=0.0, updated_at=0.0, spec=spec)
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0)
    nodes = tuple(make_node(n) for n in (1, 2, 3))
    await store.commit(lambda s: Changes(cluster=cluster, put_nodes=nodes, put_services=(service,)))
    orchestrator = Orchestrator(store, clock, CountingIds())
    orchestrator.touch(Dirt(services={"db"}, pending=True))
    await orchestrator.one_pass()
    (task,) = store.snapshot.tasks.values()
    networks = ClusterNetworks(store, Sessions(), clock, 1, lambda: None)  # type: ignore[arg-type]
    workers = {n.id: NodeWorker(n.id, store, Sessions(), networks, 1, 3.0) for n in nodes}  # type: ignore[arg-type]

    async def told() -> list[tuple[int, set[str] | None]]:
        for worker in workers.values():
            await worker.bring_to_plan()
        batches = workers[task.node_id].nodes.batches  # type: ignore[attr-defined]
        given = [(len(b.actions), {p.node for p in b.peers} if b.peers is not None else None) for b in batches]
        batches.clear()
        return given

    everyone = {n.id for n in nodes}
    assert await told() == [(1, everyone)], "with the task, so that it never runs unfenced"
    assert await told() == []
    gone = next(n for n in nodes if n.id != task.node_id)
    down = replace(gone, status=NodeStatus(state=NodeState.DOWN))
    await store.commit(lambda s: Changes(put_nodes=(down,)))
    assert await told() == [(0, everyone - {gone.id})]
    workers[task.node_id].session_started()
    assert await told() == [(1, everyone - {gone.id})]
    others = [w.nodes.batches for i, w in workers.items() if i != task.node_id]  # type: ignore[attr-defined]
    assert others == [[], []]
