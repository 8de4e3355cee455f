"""How much processor time does `swarmsh node ls` take, beside `docker node ls` at the same socket?

    .venv/bin/python bench/cli.py [--lab NAME] [--runs N]

User and system seconds of the process (getrusage of ended children), warm: the first runs do not count.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from common import SWARMSH, Bench, Target, Times, parser, print_targets, run

WARM_RUNS = 3


def cpu_of(argv: list[str], environment: dict[str, str]) -> float:
    """User and system seconds of a command that succeeds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=environment, capture_output=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = parser(__doc__, rounds=20)
    options.add_argument(
        "--docker-suite", default="forky", help="suite of the docker client (default: forky, 28.5)"
    )
    given = options.parse_args()
    times = Times()
    with Bench.of(given, with_swarm=False) as bench:
        print(bench.header())
        socket = f"unix://{bench.ours.socket}"
        environment = {**os.environ, "SWARMSH_HOST": socket, "DOCKER_HOST": socket}
        docker = bench.lab.docker_cli(given.docker_suite)
        commands = {
            "swarmsh node ls": [SWARMSH, "node", "ls"],
            "docker node ls": [docker, "node", "ls"],
            "python -c pass": [str(Path(sys.executable)), "-c", "pass"],
        }
        for number in range(WARM_RUNS + given.rounds):
            for what, argv in commands.items():
                used = cpu_of(argv, environment)
                if number >= WARM_RUNS:
                    times.add(what, used)
    times.print("CPU s", every=given.times)
    print_targets([Target("swarmsh node ls", times.median("swarmsh node ls"), 0.3, "s CPU")])


if __name__ == "__main__":
    run(main)
