"""What do the manager and the helpers use while nothing happens?

    .venv/bin/python bench/idle.py [--lab NAME] [--seconds S]

Three machines, six running tasks, nobody asking. Processor time (user and system, /proc/PID/stat) as a share of
one core over the time, resident and proportional memory at its end; the helpers' read on their machines.
"""

from __future__ import annotations

import time

from common import Bench, ProcessUse, Target, parser, print_targets, run, use_of_unit
from create import REPLICAS, create
from tabulate import tabulate

MANAGER_MB, HELPER_MB, SHARE_PERCENT = 90.0, 30.0, 1.0


def helper_use(bench: Bench, node: str) -> ProcessUse:
    """The helper's process, read on its machine."""
    return use_of_unit(bench.lab, node, "swarmsh-helper")


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    given = options.parse_args()
    rows, targets = [], []
    with Bench.of(given, with_swarm=False) as bench:
        print(bench.header())
        create(bench.ours.side, bench.image, REPLICAS)
        bench.machines.close()  # nothing of ours talks to the Engines now
        time.sleep(5.0)
        names = bench.machines.names
        for _ in range(given.rounds):
            helpers = {name: helper_use(bench, name) for name in names}
            manager, began = bench.ours.use(), time.monotonic()
            time.sleep(given.seconds)
            after, took = bench.ours.use(), time.monotonic() - began
            rows.append(_row("manager", "", manager, after, took))
            for name in names:
                node = bench.machines.status.nodes[name]
                now = helper_use(bench, name)
                rows.append(_row(f"helper on {name}", node.suite, helpers[name], now, time.monotonic() - began))
    heads = ("process", "suite", "CPU s", "CPU %", "RSS MB", "PSS MB")
    print(tabulate(rows, heads, tablefmt="simple", floatfmt=(".2f", ".2f", ".2f", ".2f", ".1f", ".1f")))
    managers, helpers_ = [r for r in rows if not r[1]], [r for r in rows if r[1]]
    targets += [
        Target("manager: share of a core", max(r[3] for r in managers), SHARE_PERCENT, "%"),
        Target("manager: resident memory", max(r[4] for r in managers), MANAGER_MB, "MB"),
        Target("worst helper: share of a core", max(r[3] for r in helpers_), SHARE_PERCENT, "%"),
        Target("worst helper: resident memory", max(r[4] for r in helpers_), HELPER_MB, "MB"),
    ]
    print_targets(targets)


def _row(
    what: str, suite: str, before: ProcessUse, after: ProcessUse, seconds: float
) -> tuple[str, str, float, float, float, float]:
    cpu = after.cpu_s - before.cpu_s
    return what, suite, cpu, 100 * cpu / seconds, after.rss_mb, after.pss_mb


if __name__ == "__main__":
    run(main)
