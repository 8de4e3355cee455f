"""How many requests are lost when a container is killed, or a node's power is cut, against Swarm Mode?

    .venv/bin/python bench/drops.py [--lab NAME] [--rounds N] [--only kill|power]

Six replicas with a published port; clients outside (tests/e2e/clients.py: new connections, kept ones, downloads)
ask through every node that keeps its power. Counted are requests that began within 30 s of the fault and failed:

    kill    the process of one container gets SIGKILL, on the machine itself
    power   the last machine loses its power (requests through the others)

A kept connection that was closed before a byte of the reply is tried once more, on both sides. Requests that were
under way in what died are lost on both sides too: nothing can save those.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common import (
    PATIENCE_S,
    Bench,
    Json,
    Side,
    Target,
    Times,
    parser,
    poll,
    print_targets,
    rounds,
    run,
    service_spec,
)
from power import cut_power

from tests.e2e.steady import Load, steady

REPLICAS = 6
PORTS = {"ours": 8080, "swarm": 8090}
WINDOW_S = 30.0
ASKED = 1 / 3
CLIENTS = ("--new", "4", "--keep", "2", "--slow", "1", "--pause", "0.1")


def spec(bench: Bench, side: Side) -> Json:
    made = service_spec("bench", bench.image, REPLICAS)
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": PORTS[side.name], "PublishMode": "ingress"}
    made["EndpointSpec"] = {"Mode": "vip", "Ports": [port]}
    made["TaskTemplate"]["LogDriver"] = {"Name": "none"}
    return made


def kill(bench: Bench, side: Side, service: str) -> float:
    """Kill one container's process; when that was, by the monotonic clock."""
    names = side.nodes()
    task = side.running(service)[0]
    node, container = names[task["NodeID"]], task["Status"]["ContainerStatus"]["ContainerID"]
    pid = bench.machines.engines[node].ask("GET", f"/containers/{container}/json")["State"]["Pid"]
    began = time.monotonic()
    bench.lab.ssh(node, f"kill -9 {pid}")
    return began


def under_load(bench: Bench, side: Side, nodes: list[str], fault: Callable[[], float]) -> tuple[Load, float]:
    """Clients of these nodes from some seconds before the fault to WINDOW_S after it; and when the fault was."""
    at = {name: node.address for name, node in bench.machines.status.nodes.items()}
    urls = [f"http://{at[name]}:{PORTS[side.name]}/" for name in nodes]
    with steady(bench.lab, urls, *CLIENTS) as load:
        time.sleep(5.0)
        when = fault()
        time.sleep(max(0.0, when + WINDOW_S - time.monotonic()))
    return load, when


def failed_within(load: Load, when: float) -> int:
    return sum(when - load.began - 1.0 <= began <= when - load.began + WINDOW_S for began, *_ in load.failed)


def main() -> None:
    made = parser(__doc__, compares=True, rounds=3)
    made.add_argument("--only", choices=("kill", "power"), help="one of the two faults")
    options = made.parse_args()
    counts = Times()
    faults = [options.only] if options.only else ["kill", "power"]
    with Bench.of(options) as bench:
        print(bench.header())
        lost = bench.machines.names[-1]
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        for _, what in rounds(options.rounds, tuple(sides)):
            side = sides[what]
            for fault in faults:
                service = side.create(spec(bench, side))
                side.wait_running(service, REPLICAS)
                time.sleep(5.0)
                if fault == "kill":
                    nodes = bench.machines.names
                    load, when = under_load(bench, side, nodes, lambda: kill(bench, side, service))  # noqa: B023
                else:
                    bench.lab.ssh(lost, "sync")
                    bench.machines.hang_up(lost)
                    nodes = [name for name in bench.machines.names if name != lost]
                    load, when = under_load(bench, side, nodes, lambda: cut_power(bench, lost))
                print(f"  {what}, {fault}: {load.told()}")
                counts.add(f"{fault}: {what}", failed_within(load, when))
                counts.add(f"{fault}: requests, {what}", load.requests)
                side.remove_all()
                if fault == "power":
                    bench.lab.fault(lost, "power-on", "--wait")
                    bench.machines.open(lost)
                    poll(lambda: all(lost in s.ready() for s in sides.values()), f"{lost} is ready", PATIENCE_S)
                bench.machines.wait_empty(settle_s=3.0)
    counts.print("failed", every=options.times)
    targets = []
    for fault in faults:
        ours, swarm = (sum(counts.values[f"{fault}: {what}"]) for what in ("ours", "swarm"))
        targets.append(
            Target(f"{fault}: failed requests, ours / Swarm's", ours / swarm if swarm else float("nan"), ASKED)
        )
    print_targets(targets)


if __name__ == "__main__":
    run(main)
