"""What do the manager and the helpers use while nothing happens?

    .venv/bin/python bench/idle.py [--lab NAME] [--seconds S] [--networks]

Three machines, six running tasks, nobody asking; with `--networks` instead ten services of a task each, all on
three overlays, one of which is encrypted, and five with a published port. Processor time (user and system,
/proc/PID/stat) as a share of one core over the time, the commands that a process ran included; resident and
proportional memory at its end; the helpers' read on their machines.
"""

from __future__ import annotations

import time

from common import Bench, ProcessUse, Target, parser, print_targets, run, use_of_unit
from create import REPLICAS, create
from networked import Overlays, networked_spec
from tabulate import tabulate

MANAGER_MB, HELPER_MB, SHARE_PERCENT = 90.0, 30.0, 1.0
NETWORKS_HELPER_MB = 48.0
SERVICES, PUBLISHED = 10, 5


def helper_use(bench: Bench, node: str) -> ProcessUse:
    """The helper's process, read on its machine."""
    return use_of_unit(bench.lab, node, "swarmsh-helper")


def create_networked(bench: Bench) -> None:
    """Ten services on three overlays: some of each machine's tasks are on all of them."""
    side = bench.ours.side
    overlays = Overlays(side)
    networks = [overlays.make("one"), overlays.make("two"), overlays.make("sealed", encrypted=True)]
    made = [
        side.create(networked_spec(f"s{i}", bench.image, 1, networks, port=8080 + i if i < PUBLISHED else 0))
        for i in range(SERVICES)
    ]
    for service in made:
        side.wait_running(service, 1)


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    options.add_argument("--networks", action="store_true", help="tasks on overlays, with published ports")
    given = options.parse_args()
    rows, targets = [], []
    with Bench.of(given, with_swarm=False) as bench:
        print(bench.header())
        if given.networks:
            create_networked(bench)
        else:
            create(bench.ours.side, bench.image, REPLICAS)
        bench.machines.close()  # nothing of ours talks to the Engines now
        time.sleep(10.0 if given.networks else 5.0)
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
    heads = ("process", "suite", "CPU s", "children s", "CPU %", "RSS MB", "PSS MB")
    print(tabulate(rows, heads, tablefmt="simple", floatfmt=(".2f", ".2f", ".2f", ".2f", ".2f", ".1f", ".1f")))
    managers, helpers_ = [r for r in rows if not r[1]], [r for r in rows if r[1]]
    memory = NETWORKS_HELPER_MB if given.networks else HELPER_MB
    targets += [
        Target("manager: share of a core", max(r[4] for r in managers), SHARE_PERCENT, "%"),
        Target("manager: resident memory", max(r[5] for r in managers), MANAGER_MB, "MB"),
        Target("worst helper: share of a core", max(r[4] for r in helpers_), SHARE_PERCENT, "%"),
        Target("worst helper: resident memory", max(r[5] for r in helpers_), memory, "MB"),
    ]
    print_targets(targets)


def _row(
    what: str, suite: str, before: ProcessUse, after: ProcessUse, seconds: float
) -> tuple[str, str, float, float, float, float, float]:
    cpu, children = after.cpu_s - before.cpu_s, after.children_s - before.children_s
    return what, suite, cpu, children, 100 * (cpu + children) / seconds, after.rss_mb, after.pss_mb


if __name__ == "__main__":
    run(main)
