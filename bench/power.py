"""A machine loses power: how long until all replicas run elsewhere, against Swarm Mode?

    .venv/bin/python bench/power.py [--lab NAME] [--rounds N]

Six replicas on three machines. From the death of the machine's process (a worker's) to six tasks `running` on the
other two, asked of each side's API every 50 ms. The floor: as many containers as were moved, created and started
at once by the two Engines that are left, with the third machine still off. A round takes minutes: the machine
boots again after each.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import (
    PATIENCE_S,
    Bench,
    BenchFailed,
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

REPLICAS = 6
DOWN_AFTER_S = 12.0


def cut_power(bench: Bench, name: str) -> float:
    """Cut it; the monotonic time at which the machine's first process, and with it all of them, was killed.

    Its memory map goes at once, while the process itself stays until the whole machine is cleared away: a second
    or two, in which nothing of it runs any more.
    """
    pid = bench.lab.status().nodes[name].pid
    ended: list[float] = []

    def alive() -> bool:
        try:
            return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            return False

    def watch() -> None:
        while alive():
            time.sleep(0.005)
        ended.append(time.monotonic())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    bench.lab.fault(name, "power-off")
    watcher.join(10)
    return ended[0]


def places(side: Side, service: str) -> Counter[str]:
    """Running tasks by machine."""
    names = side.nodes()
    return Counter(names[t["NodeID"]] for t in side.running(service))


@dataclass(frozen=True)
class Moved:
    """One power cut: seconds until the side knew, and until all ran again."""

    down_s: float
    whole_s: float
    tasks: int


def moved(bench: Bench, side: Side, lost: str) -> Moved:
    """Cut the power of a machine that runs a share of six replicas, and wait until all six run elsewhere."""
    service = side.create(service_spec("bench", bench.image, REPLICAS))
    side.wait_running(service, REPLICAS)
    time.sleep(3.0)
    count = places(side, service)[lost]
    lost_id = next(i for i, name in side.nodes().items() if name == lost)
    # What is measured is not whether a machine's disk survives: everything is on it before the cut.
    bench.lab.ssh(lost, "sync")
    bench.machines.hang_up(lost)
    began = cut_power(bench, lost)
    poll(lambda: lost not in side.ready(), f"{lost} known to be down")
    down_s = time.monotonic() - began
    poll(
        lambda: sum(t["NodeID"] != lost_id for t in side.running(service)) == REPLICAS,
        lambda: side.story(service),
    )
    whole_s = time.monotonic() - began
    print(f"  {count} moved; now {dict(places(side, service))}", file=sys.stderr)
    return Moved(down_s, whole_s, count)


def main() -> None:
    options = parser(__doc__, compares=True).parse_args()
    times = Times()
    with Bench.of(options) as bench:
        print(bench.header())
        *left, lost = bench.machines.names
        if options.manager_on == lost:
            raise BenchFailed(f"it is {lost} that loses power: our manager cannot be on it")
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        for _, what in rounds(options.rounds, tuple(sides)):
            side = sides[what]
            seen = moved(bench, side, lost)
            times.add(what, seen.whole_s)
            times.add(f"{what}, until the node is down", seen.down_s)
            places_ = [left[i % len(left)] for i in range(seen.tasks)]
            times.add("floor", bench.machines.start_bare(bench.image, places_))
            side.remove_all()
            bench.lab.fault(lost, "power-on", "--wait")
            bench.machines.open(lost)
            poll(lambda: all(lost in s.ready() for s in sides.values()), f"{lost} ready again", PATIENCE_S)
            bench.machines.wait_empty(settle_s=3.0)
            bench.machines.start_bare(bench.image, [lost])  # the first one after a boot is slow
            bench.machines.wait_empty()
    times.print(every=options.times)
    floor, ours, swarm = (times.median(what) for what in ("floor", "ours", "swarm"))
    print_targets(
        [
            Target("ours / Swarm's", ours / swarm, 0.6),
            Target("ours above the Engines' own start", ours - floor, DOWN_AFTER_S, "s"),
        ]
    )


if __name__ == "__main__":
    run(main)
