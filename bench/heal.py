"""A container is killed: how long until its replacement runs, above what a bare Engine needs to start one?

    .venv/bin/python bench/heal.py [--lab NAME] [--rounds N]

One replica on each side, held on one worker by a constraint, restart delay 0. SIGKILL through that node's Engine;
from that request to another task `running` in the side's API, asked every 50 ms. The floor: one container created
and started by the same Engine. A second floor kills a bare container first and starts the other once the Engine
has answered: what killing one and clearing it away costs the Engine is the same for either side, and slows the
next start.
"""

from __future__ import annotations

import time

from common import LABEL, Bench, Side, Target, Times, above, parser, poll, print_targets, rounds, service_spec


def container_of(side: Side, service: str) -> str:
    """The container of the one task that runs; "" while there is none."""
    running = side.running(service)
    return str(running[0]["Status"].get("ContainerStatus", {}).get("ContainerID", "")) if running else ""


def kill_and_heal(bench: Bench, side: Side, service: str, node: str) -> float:
    """Seconds from the kill to another container running."""
    victim = container_of(side, service)
    began = time.monotonic()
    bench.machines.engines[node].ask("POST", f"/containers/{victim}/kill?signal=KILL")
    poll(lambda: container_of(side, service) not in ("", victim), lambda: f"healed: {side.story(service)}")
    return time.monotonic() - began


def kill_and_start_bare(bench: Bench, node: str) -> float:
    """Seconds that the Engine needs by itself to kill a container and to start another one."""
    engine = bench.machines.engines[node]
    body = {"Image": bench.image, "Labels": {LABEL: "floor"}}
    victim = engine.ask("POST", "/containers/create", body)["Id"]
    engine.ask("POST", f"/containers/{victim}/start")
    time.sleep(3.0)
    began = time.monotonic()
    engine.ask("POST", f"/containers/{victim}/kill?signal=KILL")
    made = engine.ask("POST", "/containers/create", body)["Id"]
    engine.ask("POST", f"/containers/{made}/start")
    took = time.monotonic() - began
    bench.machines.remove_bare()
    return took


def main() -> None:
    options = parser(__doc__, rounds=7).parse_args()
    times = Times()
    with Bench.of(options) as bench:
        print(bench.header())
        node = bench.machines.names[1]
        spec = service_spec("bench", bench.image, 1, constraint=f"node.hostname=={node}")
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        services = {name: side.create(spec) for name, side in sides.items()}
        for name, side in sides.items():
            side.wait_running(services[name], 1)
        for _, what in rounds(options.rounds, ("floor", "ours", "kill and start", "swarm")):
            time.sleep(3.0)  # Swarm removes ended containers with a delay of its own
            if what == "floor":
                times.add(what, bench.machines.start_bare(bench.image, [node]))
            elif what == "kill and start":
                times.add(what, kill_and_start_bare(bench, node))
            else:
                times.add(what, kill_and_heal(bench, sides[what], services[what], node))
    times.print(every=options.times)
    floor, ours, swarm = (times.median(what) for what in ("floor", "ours", "swarm"))
    killing = times.median("kill and start")
    print_targets(
        [
            Target("time above the Engine's start, ours / Swarm's", above(ours, swarm, floor), 0.5),
            Target("above the Engine's kill and start, ours / Swarm's", above(ours, swarm, killing), 0.5),
        ]
    )


if __name__ == "__main__":
    main()
