"""How long until six replicas with an overlay and a published port answer through every node?

    .venv/bin/python bench/network_create.py [--lab NAME] [--rounds N] [--cases CASE…]

Ours and Swarm Mode take turns on the same machines. From the first request to the side's API until each of the six
has answered an HTTP request through each of the three machines, asked from outside every 50 ms. Cases:

    create   the network and the service, the whole of what a user does, with nothing there before
    service  the service alone; the network was made before
    more     as create, beside another service with an overlay and a published port on every machine

Swarm's own ingress network is on its machines from `docker swarm init` on; what is like it with us is made with
the first service, so `create` has it in our time and `more` does not. `--profile` prints the helpers' logs.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from common import PATIENCE_S, Bench, Side, Target, Times, parser, poll, print_targets, rounds, run
from networked import Overlays, Watch, networked_spec

REPLICAS = 6
PORTS = {"ours": 8080, "swarm": 8090}  # both sides' are on the same machines
CASES = ("create", "service", "more")
ASKED = 0.6


def main() -> None:
    made = parser(__doc__, compares=True)
    made.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    made.add_argument("--profile", action="store_true", help="print the helpers' logs of our side, by time")
    options = made.parse_args()
    times, parts = Times(), Times()
    with Bench.of(options) as bench:
        print(bench.header())
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        overlays = {name: Overlays(side) for name, side in sides.items()}
        for number, name in rounds(options.rounds, tuple(sides)):
            for case in options.cases:
                _measure(bench, overlays[name], case, f"r{number}", times, parts, profile=options.profile)
    print("\nFrom the first request to all six answering through every node:")
    times.print(every=options.times)
    print("\nOf that, to six tasks `running` in the API, and to the first answer through any node:")
    parts.print(every=options.times)
    asked = {"create": ASKED}
    print_targets(
        [
            Target(
                f"{case}: ours / Swarm's",
                times.median(f"{case}, ours") / times.median(f"{case}, swarm"),
                asked.get(case, ASKED),
            )
            for case in options.cases
        ]
    )


def _measure(
    bench: Bench, overlays: Overlays, case: str, tag: str, times: Times, parts: Times, *, profile: bool
) -> None:
    """One create of one side; nothing of it is left."""
    side, image, port = overlays.side, bench.image, PORTS[overlays.side.name]
    if case == "more":
        network = overlays.make("beside")
        other = side.create(
            {
                **networked_spec("beside", image, 1, [network], port=port + 1),
                "Mode": {"Global": {}},
            }
        )
        side.wait_running(other, len(bench.machines.names))
        Watch(bench, port + 1, len(bench.machines.names)).run(PATIENCE_S)
        time.sleep(3.0)
    if case == "service":
        overlays.make(tag)
        time.sleep(1.0)
    watch = Watch(bench, port, REPLICAS)
    wall, began = time.time(), time.monotonic()
    network = overlays.made.get(tag) or overlays.make(tag)
    service = side.create(networked_spec("bench", image, REPLICAS, [network], port=port))
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(watch.run, PATIENCE_S)
        ran = side.wait_running(service, REPLICAS)
        ended = answers.result()
    key = f"{case}, {side.name}"
    times.add(key, ended - began)
    parts.add(f"{key}: running", ran)
    parts.add(f"{key}: first answer", min(watch.first.values()) - began)
    if profile and side.name == "ours":
        _print_logs(bench, wall)
    side.remove_all()
    for name in list(overlays.made):
        overlays.remove(name)
    bench.machines.wait_empty()
    poll(lambda: not _busy(side), f"{side.name}: no task left", 60)


def _busy(side: Side) -> bool:
    return bool(side.api.ask("GET", "/tasks"))


def _print_logs(bench: Bench, since: float) -> None:
    """What the helpers' logs have since a time of the host, whose clock the machines share."""
    lines = []
    for name in bench.machines.names:
        told = bench.lab.ssh(name, f"journalctl -u swarmsh-helper -o short-unix --since=@{int(since)} --no-pager")
        for line in told.splitlines():
            stamp, _, rest = line.partition(" ")
            if stamp.replace(".", "").isdigit() and float(stamp) >= since:
                lines.append((float(stamp) - since, name, rest.partition("]: ")[2]))
    for at, name, text in sorted(lines):
        print(f"  {at:7.3f} {name} {text[:180]}")


if __name__ == "__main__":
    run(main)
