"""What does one changed service cost a node that holds 1,000 services of two tasks, each with a published port?

    .venv/bin/python bench/network_change.py [--lab NAME] [--rounds N]

The data plane alone, on each machine of the lab: the state is applied as a whole, then changes follow, each by
itself: a backend drained, a port's backend replaced, a virtual address or a port more, one less. Processor time is
user and system time of the process and its children. Nothing of it is left.
"""

from __future__ import annotations

import json
import shlex
import statistics

from common import Lab, Target, parser, print_targets
from tabulate import tabulate

from tests.e2e.test_data_plane import FOLDER, package, state_of

LIMIT_MS = 50.0
SERVICES = 1000
PROGRAM = """
import asyncio, copy, json, os, sys
from remote_helpers.engine import Engine
from remote_helpers.net.apply import DataPlane
state, rounds, count = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
vip, port = state["vips"][0], state["ports"][0]
def one(i):
    address = "10.50.%d.%d" % (129 + i // 250, i % 250 + 1)
    dests = [{"address": "10.50.%d.%d" % (1 + i // 100, 2 * (i % 100) + k), "weight": 1} for k in (1, 2)]
    return {**vip, "id": 100 + i, "address": address, "dests": dests}
def published(i):
    addresses = ["10.255.%d.%d" % (2 + i // 120, 2 * (i % 120) + k) for k in (3, 4)]
    dests = [{"address": address, "port": 80, "weight": 1} for address in addresses]
    return {**port, "id": 5000 + i, "port": 20000 + i, "dests": dests}
state["vips"], state["ports"] = [one(i) for i in range(count)], [published(i) for i in range(count)]
middle = count // 2
def drain(s, i): s["vips"][middle]["dests"][0]["weight"] = i % 2
def move(s, i): s["ports"][middle]["dests"][0]["address"] = "10.255.2.%d" % (250 + i % 2)
def more_vips(s, i): s["vips"].append(one(count + i))
def more_ports(s, i): s["ports"].append(published(count + i))
def fewer(s, i): s["vips"].pop(middle - i), s["ports"].pop(middle - i)
def used():
    return sum(os.times()[:4])
async def main():
    plane, found = DataPlane(Engine()), {}
    began = used()
    await plane.apply(state)
    found["whole state"] = [used() - began]
    for name, edit in (("a backend drained", drain), ("a port's backend replaced", move),
                       ("a virtual address more", more_vips), ("a port more", more_ports),
                       ("a service with a port less", fewer)):
        for i in range(rounds):
            edit(state, i)
            given = copy.deepcopy(state)
            began = used()
            await plane.change(given)
            found.setdefault(name, []).append(used() - began)
    began = used()
    left = await plane.apply(state)
    found["whole pass, nothing differs"] = [used() - began]
    await plane.purge()
    return {"ms": {name: [1000 * one for one in each] for name, each in found.items()}, "left": left}
print(json.dumps(asyncio.run(main())))
"""


def main() -> None:
    options = parser(__doc__, rounds=20)
    given = options.parse_args()
    lab, rows, worst = Lab(given.lab), [], 0.0
    packed = package()
    for name, node in sorted(lab.status().nodes.items()):
        lab.ssh(name, f"rm -rf {FOLDER} && mkdir -p {FOLDER} && base64 -d | tar xz -C {FOLDER}", stdin=packed)
        state = state_of(int(node.address.rpartition(".")[2]) - 10)
        words = shlex.join(["python3", "-B", "-c", PROGRAM, json.dumps(state), str(given.rounds), str(SERVICES)])
        found = json.loads(lab.ssh(name, f"cd {FOLDER} && {words}; rm -rf {FOLDER}", timeout_s=600))
        if found["left"]:
            raise SystemExit(f"{name}: changes left something to a whole pass: {found['left'][:5]}")
        for what, times in found["ms"].items():
            median = statistics.median(times)
            rows.append((name, node.suite, what, median, min(times), max(times)))
            if not what.startswith("whole"):
                worst = max(worst, median)
    print(
        tabulate(rows, ("node", "suite", "change", "CPU ms", "least", "most"), tablefmt="simple", floatfmt=".1f")
    )
    print_targets([Target(f"one change of {SERVICES} services, worst median", worst, LIMIT_MS, "ms")])


if __name__ == "__main__":
    main()
