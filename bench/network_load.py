"""What goes through VIPs, the routing mesh and overlays in a second?

    .venv/bin/python bench/network_load.py [--lab NAME] [--rounds N] [--seconds S] [--strands K]

Ours and Swarm Mode take turns on the same machines; the services of both stand all the time. Two web tasks on n2,
a client task on n3, all on a plain and an encrypted overlay. Requests a second, on a new connection each (`new`)
and on kept ones (`keep`):

    vip                  from the client task through the service's address in the plain overlay
    mesh                 from outside the machines, through n2
    mesh, other node     the same through n1, which has no task of it
    sealed vip           as vip, in the encrypted overlay

Megabytes a second, by one TCP connection from the client task's container to a web task's, as they arrive:

    plain, sealed        in the plain and in the encrypted overlay

The load comes from one small static program (netload.c, wants gcc); it ends by itself after some seconds or
requests. What the tasks write is not kept, on either side (log driver `none`). Machines of 1 GB track 8,192
connections, each for 120 s after its end: more than that are lost on both sides, so they track more meanwhile.
Clients outside take other ports at each node, so that no connection begins where an ended one is still known.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from common import (
    INSIDE,
    PATIENCE_S,
    Bench,
    BenchFailed,
    Json,
    Side,
    Target,
    Times,
    parser,
    print_targets,
    run,
)
from networked import Overlays, Place, Watch, networked_spec, places, vip
from tabulate import tabulate

from tests.e2e.labctl import COMMAND, Lab

SOURCE = Path(__file__).with_name("netload.c")
PROGRAM = f"{INSIDE}/netload"  # on the machines
PORTS = {"ours": 8080, "swarm": 8090}
SINK_PORT = 9000
MOST = 6000  # requests of one measurement
TRACKED = {"nf_conntrack_max": "131072", "nf_conntrack_buckets": "32768"}
# First ports of clients outside, by the node that they ask: apart by MOST, twice, for rounds in turn. All are such
# as clients have: below 32768 are those that our nodes put in their place. The kernel gives others than these.
FROM = {"mesh": (33000, 39000), "mesh, other node": (45000, 51000)}
GIVEN = "57000 60999"
LIMIT_S = 30.0  # beyond what a measurement should take
ASKED = 1.0  # of Swarm's, at least


@dataclass
class Standing:
    """One side's services, as load meets them."""

    side: Side
    overlays: Overlays
    service: str
    web: list[Place]
    client: Place


class Load:
    """The program, here and on the machines."""

    def __init__(self, bench: Bench, directory: Path, seconds: float, strands: int) -> None:
        self._bench, self._seconds, self._strands = bench, seconds, strands
        self._here = directory / "netload"
        flags = ("-std=gnu11", "-O2", "-Wall", "-static", "-s")
        subprocess.run(["gcc", *flags, "-o", str(self._here), str(SOURCE)], check=True)
        packed = base64.b64encode(self._here.read_bytes()).decode()
        line = f"mkdir -p {INSIDE} && base64 -d >{PROGRAM} && chmod 755 {PROGRAM}"
        for name in bench.machines.names:
            bench.lab.ssh(name, line, stdin=packed)

    def requests(self, source: Place | None, address: str, port: int, kind: str, own_port: int = 0) -> float:
        """Requests a second, from a container, or from outside without one; `kind` is new or keep.

        `own_port`: the first that connections come from, 0 for those that the kernel gives.
        """
        words = ["requests", address, str(port), kind]
        words += [str(self._strands), str(self._seconds), str(MOST), str(own_port)]
        limit = self._seconds + LIMIT_S
        if source is None:
            told = self._bench.lab.run(str(self._here), *words, timeout_s=limit)
        else:
            told = self._bench.lab.ssh(source.node, source.inside(PROGRAM, *words), timeout_s=limit)
        found = json.loads(told)
        if found["failed"]:
            raise BenchFailed(f"{address}:{port}: {found['failed']} of {found['requests']}: {found['error']}")
        return float(found["requests"] / found["seconds"])

    def megabytes(self, source: Place, target: Place, address: str) -> float:
        """Megabytes (10^6) a second from container to container, as they arrive."""
        life = int(self._seconds + LIMIT_S)
        line = target.inside(PROGRAM, "sink", str(SINK_PORT), str(life))
        lab = self._bench.lab
        with subprocess.Popen(
            [str(COMMAND), "ssh", f"--name={lab.name}", target.node, "--", line], stdout=subprocess.PIPE, text=True
        ) as sink:
            assert sink.stdout is not None
            if sink.stdout.readline() != "ready\n":
                raise BenchFailed(f"nobody listens on {address}:{SINK_PORT}")
            words = ["stream", address, str(SINK_PORT), str(self._seconds)]
            lab.ssh(source.node, source.inside(PROGRAM, *words), timeout_s=life)
            found = json.loads(sink.stdout.readline() or "{}")
        if not found or found["seconds"] < self._seconds / 2:
            raise BenchFailed(f"the stream to {address} broke off: {found}")
        return float(found["bytes"] / found["seconds"] / 1e6)


@contextmanager
def tracking(bench: Bench) -> Iterator[None]:
    """Have the machines track as many connections as those of a usual size do."""
    folder, before = "/proc/sys/net/netfilter", {}
    for name in bench.machines.names:
        values = bench.lab.ssh(name, "; ".join(f"cat {folder}/{key}" for key in TRACKED)).split()
        before[name] = dict(zip(TRACKED, values, strict=True))

    def write(name: str, values: dict[str, str]) -> None:
        bench.lab.ssh(name, "; ".join(f"echo {value} >{folder}/{key}" for key, value in values.items()))

    try:
        for name in before:
            write(name, TRACKED)
        yield
    finally:
        for name, values in before.items():
            write(name, values)


@contextmanager
def given_ports(lab: Lab) -> Iterator[None]:
    """Have whoever names no port outside the machines, our manager and its sessions too, come from ports apart."""
    setting = "net.ipv4.ip_local_port_range"
    before = " ".join(lab.run("sysctl", "-n", setting).split())
    try:
        lab.run("sysctl", "-qw", f"{setting}={GIVEN}")
        yield
    finally:
        lab.run("sysctl", "-qw", f"{setting}={before}")


def stand(bench: Bench, side: Side) -> Standing:
    """Make one side's networks and services; returns when both tasks answer through every node."""
    _, back, front = bench.machines.names[:3]
    overlays = Overlays(side)
    networks = [overlays.make("plain"), overlays.make("sealed", encrypted=True)]

    def create(name: str, replicas: int, node: str, port: int = 0) -> str:
        constraint = f"node.hostname=={node}"
        spec: Json = networked_spec(name, bench.image, replicas, networks, port=port, constraint=constraint)
        made = side.create(spec)
        side.wait_running(made, replicas)
        return made

    service = create("web", 2, back, PORTS[side.name])
    client = create("client", 1, front)
    Watch(bench, PORTS[side.name], 2).run(PATIENCE_S)
    return Standing(side, overlays, service, places(bench, side, service), places(bench, side, client)[0])


def measures(bench: Bench, load: Load, standing: Standing) -> dict[str, Callable[[], float]]:
    """What is measured of a side, by name; each returns a number a second."""
    at = {name: node.address for name, node in bench.machines.status.nodes.items()}
    other, back = bench.machines.names[:2]
    side, made, port = standing.side, standing.overlays.made, PORTS[standing.side.name]
    found: dict[str, Callable[[], float]] = {}
    for kind in ("new", "keep"):
        for what, source, address, to_port in (
            ("vip", standing.client, vip(side, standing.service, made["plain"]), 80),
            ("sealed vip", standing.client, vip(side, standing.service, made["sealed"]), 80),
            ("mesh", None, at[back], port),
            ("mesh, other node", None, at[other], port),
        ):
            ports = cycle(FROM.get(what, (0,)) if kind == "new" else (0,))
            found[f"{what}, {kind}"] = _asker(load, source, address, to_port, kind, ports)
    for network in ("plain", "sealed"):
        found[network] = _sender(load, standing.client, standing.web[0], made[network])
    return found


def _asker(
    load: Load, source: Place | None, address: str, port: int, kind: str, own_ports: Iterator[int]
) -> Callable[[], float]:
    return lambda: load.requests(source, address, port, kind, next(own_ports))


def _sender(load: Load, source: Place, target: Place, network: str) -> Callable[[], float]:
    return lambda: load.megabytes(source, target, target.addresses[network])


def main() -> None:
    made = parser(__doc__, compares=True)
    made.add_argument("--seconds", type=float, default=4.0, help="of each load (default: 4)")
    made.add_argument("--strands", type=int, default=8, help="clients at once (default: 8)")
    made.add_argument("--only", default="", help="measures whose name begins so")
    options = made.parse_args()
    rates = Times()
    with given_ports(Lab(options.lab)), Bench.of(options) as bench, ExitStack() as stack:
        print(bench.header())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmsh-load-")))
        stack.enter_context(tracking(bench))
        load = Load(bench, directory, options.seconds, options.strands)
        sides = {}
        for name, side in (("swarm", bench.swarm), ("ours", bench.ours.side)):
            sides[name] = measures(bench, load, stand(bench, side))
        chosen = [what for what in sides["ours"] if what.startswith(options.only)]
        for what in chosen:  # the first of each kind finds caches and neighbours empty
            for name in sides:
                sides[name][what]()
        for number in range(options.rounds):
            for what in chosen:
                for name in tuple(sides) if number % 2 == 0 else reversed(tuple(sides)):
                    rates.add(f"{what}: {name}", sides[name][what]())
    rates.print("a second", every=options.times)
    print()
    rows, worst = [], {}
    for what in chosen:
        ours, swarm = rates.median(f"{what}: ours"), rates.median(f"{what}: swarm")
        pairs = zip(rates.values[f"{what}: ours"], rates.values[f"{what}: swarm"], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        rows.append((what, ours, swarm, ours / swarm, ratios[0], ratios[-1]))
        worst[what] = swarm / ours
    heads = ("a second", "ours", "Swarm", "ratio", "least of a round", "most")
    print(tabulate(rows, heads, tablefmt="simple", floatfmt=".2f"))
    print()
    print_targets([Target(f"{what}: Swarm's / ours", value, 1 / ASKED) for what, value in worst.items()])


if __name__ == "__main__":
    run(main)
