"""How long does it take to place many tasks on many nodes?

    python bench/scheduler.py [TASKS] [NODES]

Prints seconds of CPU time, the best of five, for an empty cluster, for one that runs as many tasks already, with
everything a service can ask for, and for tasks that fit nowhere.
"""

from __future__ import annotations

import sys
import time

from msgspec.structs import replace

from swarmsh.core.scheduler import SchedulingView, schedule
from swarmsh.model.objects import Node, NodeDescription, NodeStatus, SshTarget, Task, TaskStatus
from swarmsh.model.specs import (
    ContainerSpec,
    EndpointSpec,
    NodeSpec,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    Reservations,
    ResourceRequirements,
    SpreadOver,
    TaskSpec,
)
from swarmsh.model.states import NodeState, TaskState

PLAIN = TaskSpec(container_spec=ContainerSpec(image="web"))
DEMANDING = replace(
    PLAIN,
    resources=ResourceRequirements(reservations=Reservations(nano_cpus=10_000_000, memory_bytes=16 << 20)),
    placement=Placement(
        constraints=("node.labels.disk==ssd", "node.platform.arch==amd64"),
        preferences=(PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone")),),
        platforms=(Platform(architecture="amd64", os="linux"),),
        max_replicas=1000,
    ),
)
NOWHERE = replace(PLAIN, placement=Placement(constraints=("node.labels.disk==tape",)))


def make_node(number: int) -> Node:
    return Node(
        id=f"node{number:04}",
        number=number,
        version=1,
        created_at=0.0,
        updated_at=0.0,
        spec=NodeSpec(name=f"n{number}", labels={"disk": "ssd", "zone": f"z{number % 3}"}),
        target=SshTarget(address=f"10.0.{number // 250}.{number % 250}"),
        description=NodeDescription(
            platform=Platform(architecture="x86_64", os="linux"), nano_cpus=64 * 10**9, memory_bytes=64 << 30
        ),
        status=NodeStatus(state=NodeState.READY),
    )


def make_tasks(count: int, spec: TaskSpec) -> list[Task]:
    port = PortConfig(target_port=80, protocol="tcp", publish_mode="host")
    return [
        Task(
            id=f"task{i:05}",
            version=1,
            created_at=0.0,
            updated_at=0.0,
            service_id="service",
            service_name="web",
            slot=i,
            spec=spec,
            endpoint=EndpointSpec(ports=(port,)),
        )
        for i in range(1, count + 1)
    ]


def measure(tasks: list[Task], view: SchedulingView) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        result = schedule(tasks, view)
        times.append(time.process_time() - start)
        assert len(result.assignments) + len(result.refusals) == len(tasks)
    return min(times)


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:3]]
    task_count, node_count = [*given, *(1000, 100)[len(given) :]]
    nodes = [make_node(i) for i in range(1, node_count + 1)]
    empty = SchedulingView(nodes=nodes, tasks={}, now=0.0)
    runs = TaskStatus(state=TaskState.RUNNING)
    running = [
        replace(t, id=f"old{t.slot}", node_id=nodes[t.slot % node_count].id, status=runs)
        for t in make_tasks(task_count, PLAIN)
    ]
    by_node: dict[str, list[Task]] = {}
    for task in running:
        by_node.setdefault(task.node_id, []).append(task)
    full = replace(empty, tasks=by_node)
    print(f"{task_count} tasks, {node_count} nodes, CPU seconds (best of 5)")
    for name, spec, view in (
        ("empty cluster", PLAIN, empty),
        ("as many run already", PLAIN, full),
        ("constraints, spread, reservations", DEMANDING, full),
        ("fit nowhere", NOWHERE, full),
    ):
        print(f"  {name:<36}{measure(make_tasks(task_count, spec), view):.3f}")


if __name__ == "__main__":
    main()
