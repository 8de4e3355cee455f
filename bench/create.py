"""How long until six replicas run on three nodes, above what the bare Engines need for the same containers?

    .venv/bin/python bench/create.py [--lab NAME] [--rounds N]

Ours, Swarm Mode and the bare Engines take turns on the same machines. From the create request to six tasks
`running` in the API of each side, asked every 50 ms. The floor: six containers created and started at once, two
on each machine, straight through the Engines.
"""

from __future__ import annotations

import time

from common import Bench, Side, Target, Times, above, parser, print_targets, rounds, run, service_spec

REPLICAS = 6


def create(side: Side, image: str, replicas: int = REPLICAS) -> float:
    """Seconds from the request to all running; the service stays."""
    began = time.monotonic()
    service = side.create(service_spec("bench", image, replicas))
    side.wait_running(service, replicas)
    return time.monotonic() - began


def main() -> None:
    options = parser(__doc__, compares=True).parse_args()
    times, cpu = Times(), Times()
    with Bench.of(options) as bench:
        print(bench.header())
        for _, what in rounds(options.rounds, ("floor", "ours", "swarm")):
            if what == "floor":
                times.add(what, bench.machines.start_bare(bench.image, bench.machines.names * 2))
            else:
                side = bench.ours.side if what == "ours" else bench.swarm
                before = bench.ours.use().cpu_s
                times.add(what, create(side, bench.image))
                if what == "ours":
                    cpu.add("CPU of our manager", bench.ours.use().cpu_s - before)
                side.remove_all()
            bench.machines.wait_empty()
    times.print(every=options.times)
    cpu.print(every=options.times)
    floor, ours, swarm = (times.median(what) for what in ("floor", "ours", "swarm"))
    print_targets(
        [
            Target("time above the Engines' own, ours / Swarm's", above(ours, swarm, floor), 0.5),
            Target("whole time, ours / Swarm's", ours / swarm, 1.0),
        ]
    )


if __name__ == "__main__":
    run(main)
