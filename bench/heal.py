"""A container is killed: how long until its replacement runs, above what a bare Engine needs to start one?

    .venv/bin/python bench/heal.py [--lab NAME] [--rounds N]

One replica on each side, held on one worker by a constraint, restart delay 0. SIGKILL through that node's Engine
(or, `--by kernel`, to the process itself, as a crash would be); from that to another task `running` in the side's
API, asked every 50 ms. The floor: one container created and started by the same Engine. A second floor kills a
bare container first: what killing one and clearing it away costs the Engine is the same for either side, and slows
the next start.
"""

from __future__ import annotations

import contextlib
import subprocess
import time

from common import (
    CHECKOUT,
    LABEL,
    Bench,
    Side,
    Target,
    Times,
    above,
    parser,
    poll,
    print_targets,
    rounds,
    run,
    service_spec,
)


def container_of(side: Side, service: str) -> str:
    """The container of the one task that runs; "" while there is none."""
    running = side.running(service)
    return str(running[0]["Status"].get("ContainerStatus", {}).get("ContainerID", "")) if running else ""


class Killer:
    """SIGKILL to a container's process: through its Engine, or by the machine's kernel as in a crash."""

    def __init__(self, bench: Bench, node: str, *, by_engine: bool) -> None:
        self.engine = bench.machines.engines[node]
        self._shell = None
        if not by_engine:
            # Kept open, so that the signal is sent as soon as its line is written.
            self._shell = subprocess.Popen(
                [str(CHECKOUT / "vagrant" / "lab"), "ssh", f"--name={bench.lab.name}", node, "--", "sh"],
                stdin=subprocess.PIPE,
            )

    def kill(self, container: str) -> float:
        """Returns when the Engine has answered, or at once; the monotonic time at which it began."""
        if self._shell is None:
            began = time.monotonic()
            self.engine.ask("POST", f"/containers/{container}/kill?signal=KILL")
            return began
        pid = self.engine.ask("GET", f"/containers/{container}/json")["State"]["Pid"]
        assert self._shell.stdin is not None
        began = time.monotonic()
        self._shell.stdin.write(f"kill -9 {pid}\n".encode())
        self._shell.stdin.flush()
        return began

    def close(self) -> None:
        if self._shell is not None:
            self._shell.terminate()
            self._shell.wait(10)


def kill_and_heal(side: Side, service: str, killer: Killer) -> float:
    """Seconds from the kill to another container running."""
    victim = container_of(side, service)
    began = killer.kill(victim)
    poll(lambda: container_of(side, service) not in ("", victim), lambda: f"healed: {side.story(service)}")
    return time.monotonic() - began


def kill_and_start_bare(bench: Bench, killer: Killer) -> float:
    """Seconds that the Engine needs by itself while a container of it dies and another one is started."""
    body = {"Image": bench.image, "Labels": {LABEL: "floor"}}
    victim = killer.engine.ask("POST", "/containers/create", body)["Id"]
    killer.engine.ask("POST", f"/containers/{victim}/start")
    time.sleep(3.0)
    began = killer.kill(victim)
    made = killer.engine.ask("POST", "/containers/create", body)["Id"]
    killer.engine.ask("POST", f"/containers/{made}/start")
    took = time.monotonic() - began
    bench.machines.remove_bare()
    return took


def main() -> None:
    made = parser(__doc__, rounds=7, compares=True)
    made.add_argument("--by", choices=("engine", "kernel"), default="engine", help="who kills (default: engine)")
    options = made.parse_args()
    times = Times()
    with Bench.of(options) as bench, contextlib.ExitStack() as cleanup:
        print(bench.header())
        node = bench.machines.names[1]
        spec = service_spec("bench", bench.image, 1, constraint=f"node.hostname=={node}")
        sides = {"ours": bench.ours.side, "swarm": bench.swarm}
        services = {name: side.create(spec) for name, side in sides.items()}
        for name, side in sides.items():
            side.wait_running(services[name], 1)
        killer = Killer(bench, node, by_engine=options.by == "engine")
        cleanup.callback(killer.close)
        for _, what in rounds(options.rounds, ("floor", "ours", "kill and start", "swarm")):
            time.sleep(3.0)  # Swarm removes ended containers with a delay of its own
            if what == "floor":
                times.add(what, bench.machines.start_bare(bench.image, [node]))
            elif what == "kill and start":
                times.add(what, kill_and_start_bare(bench, killer))
            else:
                times.add(what, kill_and_heal(sides[what], services[what], killer))
    times.print(every=options.times)
    floor, ours, swarm = (times.median(what) for what in ("floor", "ours", "swarm"))
    killing = times.median("kill and start")
    print_targets(
        [
            Target("time above the Engine's start, ours / Swarm's", above(ours, swarm, floor), 0.5),
            Target("above the Engine's kill and start, ours / Swarm's", above(ours, swarm, killing), 0.5),
        ]
    )


if __name__ == "__main__":
    run(main)
