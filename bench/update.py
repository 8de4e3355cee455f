"""How long does an update of six replicas take, against Swarm Mode?

    .venv/bin/python bench/update.py [--lab NAME] [--rounds N] [--order start-first] [--published]

Parallelism 2, monitor 1 ms, delay 0. From the update request to `completed` and six tasks of the new image
running, asked of each side's API every 50 ms. Each side's service stands all the time; its image changes
between `web:1` and `web:2` in turn. With --published it has a port in the routing mesh: ours then waits until
new containers listen, and stops none that has connections; Swarm does neither.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from common import (
    Bench,
    BenchFailed,
    Json,
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
PORTS = {"ours": 8080, "swarm": 8090}
ASKED = 0.6
OVER = ("completed", "paused", "rollback_completed", "rollback_paused")


@dataclass
class Standing:
    """One side's service, and the images that it has in turn."""

    side: Side
    images: tuple[str, str]
    order: str
    published: bool
    service: str = field(init=False)
    _turn: int = 0

    def __post_init__(self) -> None:
        self.service = self.side.create(self._spec())
        self.side.wait_running(self.service, REPLICAS)

    def _spec(self) -> Json:
        spec = service_spec("bench", self.images[self._turn % 2], REPLICAS)
        spec["UpdateConfig"] = {"Parallelism": 2, "Monitor": 1_000_000, "Delay": 0, "Order": self.order}
        if self.published:
            port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": PORTS[self.side.name]}
            spec["EndpointSpec"] = {"Mode": "vip", "Ports": [{**port, "PublishMode": "ingress"}]}
        return spec

    def update(self) -> float:
        """Seconds from the request until all is of the other image."""
        self._turn += 1
        spec, api = self._spec(), self.side.api
        version = api.ask("GET", f"/services/{self.service}")["Version"]["Index"]
        began = time.monotonic()
        api.ask("POST", f"/services/{self.service}/update?version={version}", spec)
        poll(self._over, lambda: self.side.story(self.service))
        took = time.monotonic() - began
        state = api.ask("GET", f"/services/{self.service}")["UpdateStatus"]
        if state["State"] != "completed":
            raise BenchFailed(f"{self.side.name}: {state}")
        return took

    def _over(self) -> bool:
        service = self.side.api.ask("GET", f"/services/{self.service}")
        if service.get("UpdateStatus", {}).get("State") not in OVER:
            return False
        image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        running = self.side.running(self.service)
        return len(running) == REPLICAS and all(t["Spec"]["ContainerSpec"]["Image"] == image for t in running)


def main() -> None:
    made = parser(__doc__, compares=True)
    made.add_argument("--order", choices=("stop-first", "start-first"), default="stop-first")
    made.add_argument("--published", action="store_true", help="with a port in the routing mesh")
    options = made.parse_args()
    times = Times()
    with Bench.of(options) as bench:
        print(bench.header())
        images = (bench.image, bench.machines.image_id("web:2"))
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        standing = {name: Standing(side, images, options.order, options.published) for name, side in sides.items()}
        for one in standing.values():  # the first start of an image costs more than the next ones
            one.update()
        for _, what in rounds(options.rounds, tuple(sides)):
            time.sleep(3.0)  # what the last one has left is cleared away
            times.add(what, standing[what].update())
    times.print(every=options.times)
    print_targets([Target("ours / Swarm's", times.median("ours") / times.median("swarm"), ASKED)])


if __name__ == "__main__":
    run(main)
