"""What do a slow link (60 ms, 1 % loss) and a jump host add to the same create? How many round trips are there?

    .venv/bin/python bench/slow_link.py [--lab NAME] [--rounds N]

Six replicas on three machines by our manager, in turns over the plain link and over the slow one, where the first
machine is the jump host of the others. Sessions stand beforehand. Then 1, 6 and 12 tasks over the slow link:
requests to helpers from the sessions' own counters, which must not grow with the number of tasks.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from common import Bench, Json, Target, Times, parser, print_targets, rounds, run
from create import REPLICAS, create
from tabulate import tabulate

BATCHES = (1, 6, 12)


def write_inventory(bench: Bench) -> Path:
    """The lab's inventory, with the first machine as the way to all others."""
    first = bench.machines.names[0]
    lines = []
    for line in bench.lab.inventory.read_text().splitlines():
        lines.append(line)
        if line.startswith("    ") and line.strip().endswith(":") and line.strip() != f"{first}:":
            lines.append(f"      ansible_ssh_common_args: -J {first}")
    path = bench.ours.log.with_name("slow.yml")
    path.write_text("\n".join(lines) + "\n")
    return path


def set_links(bench: Bench, slow: bool) -> None:
    for name in bench.machines.names:
        bench.lab.fault(name, "slow" if slow else "heal")


def exchanged(before: dict[str, Json], after: dict[str, Json]) -> list[tuple[str, int, int, int, int]]:
    """For each node: requests that were waited for, lines each way, bytes sent."""
    found = []
    for name, now in sorted(after.items()):
        was = before[name]
        leases = now["ops"].get("lease", 0) - was["ops"].get("lease", 0)
        found.append(
            (
                name,
                now["requests"] - was["requests"] - leases,
                now["lines_out"] - was["lines_out"] - leases,
                now["lines_in"] - was["lines_in"],
                now["bytes_out"] - was["bytes_out"],
            )
        )
    return found


def main() -> None:
    options = parser(__doc__).parse_args()
    times, trips = Times(), []
    with Bench.of(options, with_swarm=False, counted=True) as bench:
        print(bench.header())
        inventories = {"plain link": bench.lab.inventory, "slow link, jump host": write_inventory(bench)}
        try:
            for _, what in rounds(options.rounds, tuple(inventories)):
                bench.ours.stop()
                set_links(bench, slow=False)  # the helpers are taken over quickly, then the link turns slow
                bench.ours.start(inventories[what])
                set_links(bench, slow=what != "plain link")
                time.sleep(2.0)
                times.add(what, create(bench.ours.side, bench.image))
                bench.ours.side.remove_all()
                bench.machines.wait_empty()
            bench.ours.stop()
            set_links(bench, slow=True)
            began = time.monotonic()
            bench.ours.start(inventories["slow link, jump host"])
            print(f"all sessions over the slow link stood after {time.monotonic() - began:.1f} s", file=sys.stderr)
            time.sleep(8.0)  # what is asked at session start is not meant
            for count in BATCHES:
                before = bench.ours.counters()
                took = create(bench.ours.side, bench.image, count)
                trips += [(count, took, *one) for one in exchanged(before, bench.ours.counters())]
                bench.ours.side.remove_all()
                bench.machines.wait_empty()
        finally:
            set_links(bench, slow=False)
    times.print(every=options.times)
    print("\nExchanged during one create over the slow link; without leases, lines in with heartbeats:")
    heads = ("tasks", "took s", "node", "round trips", "lines out", "lines in", "bytes out")
    print(tabulate(trips, heads, tablefmt="simple", floatfmt=".1f"))
    plain, slow = (times.median(what) for what in inventories)
    most = {count: max(t[3] for t in trips if t[0] == count) for count in BATCHES}
    print_targets(
        [
            Target(f"{REPLICAS} replicas, slow link above plain link", slow - plain, 1.0, "s"),
            Target("round trips a node, 12 tasks above 1 task", most[12] - most[1], 0),
        ]
    )


if __name__ == "__main__":
    run(main)
