"""How long does a stack of 10 services with 2 replicas each take to converge, against `docker stack deploy`?

    .venv/bin/python bench/stack_deploy.py [--lab NAME] [--rounds N] [--services N]

From the start of the command (`swarmsh stack deploy -y -d`, `docker stack deploy`) until all tasks run, asked of
each side's API every 50 ms; the docker CLI of the newest suite drives Swarm. Each round begins without the stack.
Then how long a second deploy of the same file takes, and whether it touches anything.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from common import SWARMSH, Bench, BenchFailed, Json, Side, Target, Times, parser, poll, print_targets, rounds, run

REPLICAS = 2
ASKED, AIMED = 0.8, 0.6
SECOND_S = 1.0
STACK = "bench"
_MINE = quote(f'{{"label":{{"com.docker.stack.namespace={STACK}":true}}}}')


@dataclass
class Standing:
    """One side, and the command that deploys on it."""

    side: Side
    deploy: tuple[str, ...]
    remove: tuple[str, ...]
    services: int

    def command(self, *argv: str) -> None:
        host = f"unix://{self.side.api.path}"
        environment = {**os.environ, "DOCKER_HOST": host, "SWARMSH_HOST": host}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise BenchFailed(f"{self.side.name}: {' '.join(argv)}: {done.returncode}\n{done.stderr}")

    def first(self) -> float:
        """Seconds from the command's start until all tasks run."""
        began = time.monotonic()
        self.command(*self.deploy)
        poll(lambda: len(self.running()) == self.services * REPLICAS, self.story)
        return time.monotonic() - began

    def second(self) -> float:
        """Seconds that a deploy of the same file takes; none of its tasks may be another one then."""
        before = {task["ID"] for task in self.running()}
        began = time.monotonic()
        self.command(*self.deploy)
        took = time.monotonic() - began
        if {task["ID"] for task in self.running()} != before:
            raise BenchFailed(f"{self.side.name}: a second deploy replaced tasks")
        return took

    def gone(self) -> None:
        self.command(*self.remove)
        poll(lambda: not self.tasks(), self.story)

    def tasks(self) -> list[Json]:
        return list(self.side.api.ask("GET", f"/tasks?filters={_MINE}"))

    def running(self) -> list[Json]:
        wanted = ("running", "running")
        return [t for t in self.tasks() if (t["Status"]["State"], t["DesiredState"]) == wanted]

    def story(self) -> str:
        return "; ".join(f"{t['DesiredState']} {t['Status']['State']}" for t in self.tasks())


def compose(image: str, services: int) -> str:
    """One network, no ports; the image by its id, so that nobody asks a registry."""
    each = f"    image: {image}\n    stop_grace_period: 1s\n    deploy: {{replicas: {REPLICAS}}}\n"
    return 'version: "3.8"\nservices:\n' + "".join(f"  s{n}:\n{each}" for n in range(1, services + 1))


def main() -> None:
    made = parser(__doc__, compares=True)
    made.add_argument("--services", type=int, default=10)
    options = made.parse_args()
    times = Times()
    with tempfile.TemporaryDirectory() as directory, Bench.of(options) as bench:
        print(bench.header())
        file = Path(directory) / "stack.yml"
        file.write_text(compose(bench.image, options.services))
        docker = bench.machines.lab.docker_cli("forky")
        never = ("--resolve-image", "never")
        ours = (SWARMSH, "stack", "deploy", "-y", "-d", "-q", *never, "-c", str(file), STACK)
        theirs = (docker, "stack", "deploy", *never, "-c", str(file), STACK)
        standing = {
            "ours": Standing(bench.ours.side, ours, (SWARMSH, "stack", "rm", STACK), options.services),
            "swarm": Standing(bench.swarm, theirs, (docker, "stack", "rm", STACK), options.services),
        }
        for one in standing.values():  # the first start of an image costs more than the next ones
            one.first()
            one.gone()
        for _, what in rounds(options.rounds, tuple(standing)):
            bench.machines.wait_empty()
            times.add(what, standing[what].first())
            if what == "ours":
                index = bench.ours.side.api.ask("GET", "/swarmsh/status")["index"]
            times.add(f"{what}, second deploy", standing[what].second())
            if what == "ours" and bench.ours.side.api.ask("GET", "/swarmsh/status")["index"] != index:
                raise BenchFailed("ours: a second deploy wrote something")
            standing[what].gone()
    times.print(every=options.times)
    ratio = times.median("ours") / times.median("swarm")
    print_targets(
        [
            Target(f"ours / Swarm's (aiming at {AIMED})", ratio, ASKED),
            Target("our second deploy", times.median("ours, second deploy"), SECOND_S),
        ]
    )


if __name__ == "__main__":
    run(main)
