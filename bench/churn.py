"""An hour of everything at once: does a request fail, does anything grow?

    .venv/bin/python bench/churn.py [--lab NAME] [--minutes M] [--seed S]

Ours alone. A web service with a published port is asked through every node all the time, while the dice choose:
scales between 3 and 6, updates of both orders, a killed container, a node cut off for 10 s, a manager killed
with SIGKILL and started again. Each change is waited for before the next one. A failed request counts if it did
not begin in a cut (from 1 s before to 15 s after it: connections that were under way), and not within a second
of a killed container's end, whose own requests nothing can save; those are told apart.

After each fifth change, with six replicas and nothing under way, it looks at what must stay flat: memory and
descriptors of manager and helpers, the database's size, rules, IPVS entries, links and routes of each node.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from common import Bench, BenchFailed, Json, Target, parser, poll, print_targets, run, service_spec
from tabulate import tabulate

from tests.e2e.steady import steady

PORT = 8080
MOST = 6
CUT_S = 10.0
BEFORE_S, AFTER_S = 1.0, 15.0
KILLED_S = 1.0
SETTLED_S = 240.0
CLIENTS = ("--new", "2", "--keep", "2", "--slow", "1", "--pause", "0.3")
GROWS = 1.15  # the last third to the first, at most: what is measured breathes a little
# On a machine: rules, IPVS lines, links, routes of all tables, the helper's kB of memory and its descriptors.
LOOK = (
    "iptables-save | grep -c SW-; wc -l </proc/net/ip_vs; ls /sys/class/net | wc -l; "
    "ip route show table all | wc -l; pid=$(systemctl show -p MainPID --value swarmsh-helper); "
    "awk '/VmRSS/{print $2}' /proc/$pid/status; ls /proc/$pid/fd | wc -l"
)
SEEN = ("rules", "IPVS entries", "links", "routes", "helper kB", "helper descriptors")


class Churn:
    """The service, what was done to it, and when requests may fail."""

    def __init__(self, bench: Bench, dice: random.Random) -> None:
        self.bench, self.dice, self.side = bench, dice, bench.ours.side
        self.images = (bench.image, bench.machines.image_id("web:2"))
        self.replicas, self.turn = MOST, 0
        self.service = self.side.create(self._spec("stop-first"))
        self.cuts: list[tuple[float, float]] = []
        self.kills: list[float] = []
        self.done: Counter[str] = Counter()
        self.seen: list[dict[str, float]] = []
        self.wait()

    def _spec(self, order: str) -> Json:
        spec = service_spec("churn", self.images[self.turn % 2], self.replicas)
        spec["TaskTemplate"]["LogDriver"] = {"Name": "none"}
        spec["TaskTemplate"]["ContainerSpec"] |= {"StopGracePeriod": 10_000_000_000, "Env": ["START_DELAY=1"]}
        spec["UpdateConfig"] = {"Parallelism": 2, "Monitor": 1_000_000_000, "Order": order}
        port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": PORT, "PublishMode": "ingress"}
        spec["EndpointSpec"] = {"Mode": "vip", "Ports": [port]}
        return spec

    def wait(self) -> None:
        """Until all runs as it is wanted, and nothing else is left."""

        def settled() -> bool:
            service = self.side.api.ask("GET", f"/services/{self.service}")
            if service.get("UpdateStatus", {}).get("State", "completed") not in (
                "completed",
                "rollback_completed",
            ):
                return False
            tasks = [t for t in self.side.tasks(self.service) if t["DesiredState"] in ("ready", "running")]
            image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
            return len(tasks) == self.replicas and all(
                t["Status"]["State"] == "running" and t["Spec"]["ContainerSpec"]["Image"] == image for t in tasks
            )

        poll(settled, lambda: self.side.story(self.service), SETTLED_S)

    def _put(self, order: str = "stop-first") -> None:
        version = self.side.api.ask("GET", f"/services/{self.service}")["Version"]["Index"]
        self.side.api.ask("POST", f"/services/{self.service}/update?version={version}", self._spec(order))

    def scale(self) -> None:
        self.replicas = self.dice.choice([n for n in (3, 4, 5, 6) if n != self.replicas])
        self._put()

    def update(self) -> None:
        self.turn += 1
        self._put(self.dice.choice(("stop-first", "start-first")))

    def kill(self) -> None:
        names = self.side.nodes()
        task = self.dice.choice(self.side.running(self.service))
        node, container = names[task["NodeID"]], task["Status"]["ContainerStatus"]["ContainerID"]
        pid = self.bench.machines.engines[node].ask("GET", f"/containers/{container}/json")["State"]["Pid"]
        self.kills.append(time.monotonic())
        self.bench.lab.ssh(node, f"kill -9 {pid}")
        self.kills.append(time.monotonic())

    def cut(self) -> None:
        node = self.dice.choice(self.bench.machines.names)
        began = time.monotonic()
        self.bench.lab.fault(node, "cut")
        time.sleep(CUT_S)
        self.bench.lab.fault(node, "heal")
        self.cuts.append((began, time.monotonic()))
        poll(lambda: node in self.bench.ours.connected(), f"{node} has a session again", 120)

    def restart(self) -> None:
        ours = self.bench.ours
        assert ours.process is not None
        ours.process.kill()
        ours.process.wait(30)
        ours.stop()
        ours.start()

    def one(self) -> None:
        name = self.dice.choice(("scale", "update", "update", "kill", "cut", "restart"))
        self.done[name] += 1
        getattr(self, name)()
        self.wait()

    def look(self) -> None:
        """At what must stay flat, with all replicas and nothing under way."""
        if self.replicas != MOST:
            self.replicas = MOST
            self._put()
        self.wait()
        time.sleep(5.0)  # what ends is cleared away
        ours = self.bench.ours
        found = {
            "manager MB": ours.use().pss_mb,
            "manager descriptors": len(list(Path(f"/proc/{ours.pid}/fd").iterdir())),
            "database kB": sum(p.stat().st_size for p in ours.state.glob("*.db*")) / 1024,
        }
        for node in self.bench.machines.names:
            numbers = map(float, self.bench.lab.ssh(node, LOOK).split())
            for what, number in zip(SEEN, numbers, strict=True):
                found[what] = max(found.get(what, 0.0), number)
        self.seen.append(found)

    def blamed(self, when: float) -> str:
        """What a request that began then may have failed of; "" for nothing."""
        if any(began - BEFORE_S <= when <= ended + AFTER_S for began, ended in self.cuts):
            return "cut"
        pairs = zip(self.kills[::2], self.kills[1::2], strict=True)
        return "kill" if any(began - KILLED_S <= when <= ended + KILLED_S for began, ended in pairs) else ""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = made.parse_args()
    with Bench.of(options, with_swarm=False) as bench:
        print(bench.header(), f"; seed {options.seed}", sep="")
        churn = Churn(bench, random.Random(options.seed))
        urls = [f"http://{node.address}:{PORT}/" for node in bench.machines.status.nodes.values()]
        limit = str(options.minutes * 60 + 2 * SETTLED_S)
        with steady(bench.lab, urls, *CLIENTS, "--limit", limit) as load:
            until = time.monotonic() + options.minutes * 60
            churn.look()
            while time.monotonic() < until:
                for _ in range(5):
                    churn.one()
                churn.look()
    blamed = Counter(churn.blamed(load.began + began) for began, *_ in load.failed)
    print(f"changes: {dict(churn.done)}; requests: {load.told()}")
    print(f"failed in cuts {blamed['cut']}, of killed containers {blamed['kill']}, else {blamed['']}")
    for began, url, kind, words in load.failed:
        if not churn.blamed(load.began + began):
            print(f"  {began:.1f} s, {url}, {kind}: {words}")
    if len(churn.seen) < 3:
        raise BenchFailed(f"too short to see growth: {len(churn.seen)} looks")
    third = len(churn.seen) // 3
    rows, targets = [], [Target("failed requests outside cuts and kills", blamed[""], 0)]
    for what in churn.seen[0]:
        values = [one[what] for one in churn.seen]
        first, last = sum(values[:third]) / third, sum(values[-third:]) / third
        rows.append((what, values[0], first, last, max(values)))
        targets.append(Target(f"{what}: last third / first", last / first if first else 1.0, GROWS))
    print(tabulate(rows, ("seen", "at first", "first third", "last third", "most"), floatfmt=".1f"))
    print_targets(targets)


if __name__ == "__main__":
    run(main)
