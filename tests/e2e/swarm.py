"""A real manager on a lab's machines, driven as users drive it: through its socket, the docker CLI and ours."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .labctl import Lab

# Another build can be tried: an installed wheel, for one.
SWARMSH = os.environ.get("SWARMSH_TEST_COMMAND") or str(Path(sys.executable).with_name("swarmsh"))
# Containers start in 3 to 5 s on these machines, six at once in 20; much more when another job has the cores.
PATIENCE_S = 120.0


class Swarm:
    """One manager's process and its state. Every wait has a deadline and says what it saw instead."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.state = directory / "state"
        self.socket = directory / "swarmsh.sock"
        self.log = directory / "manager.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.directory = directory
        self.inventory: Path | None = lab.inventory

    # --- the process ---
    def start(self, *, ready: bool = True, python_path: Path | None = None) -> None:
        """Start the manager and wait for its socket; with `ready`, for all its nodes too.

        `python_path` runs another copy of swarmsh.
        """
        program = [SWARMSH] if python_path is None else [sys.executable, "-P", "-m", "swarmsh"]
        options = ["--state", str(self.state), "--socket", str(self.socket)]
        if self.inventory is not None:
            options += ["--inventory", str(self.inventory)]
        env = os.environ if python_path is None else {**os.environ, "PYTHONPATH": str(python_path)}
        with self.log.open("ab") as log:
            self.process = self.lab.popen(
                *(*program, "manager", "run", *options), stdout=subprocess.PIPE, stderr=log, env=env, cwd="/"
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.strip() == f"unix://{self.socket}".encode(), f"{line!r}; log:\n{self.log_tail()}"
        if ready:
            self.wait(lambda: all(n["Status"]["State"] == "ready" for n in self.nodes()), "all nodes ready")

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut of the laptop would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """SIGTERM; it must end by itself with exit code 0. It is none of ours then: `wait` does not miss it."""
        process, self.process = self.process, None
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0, self.log_tail()
        except subprocess.TimeoutExpired:
            self.process = process  # still to be ended
            raise

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def beside(self, name: str) -> Swarm:
        """Another manager, with a state of its own and without nodes."""
        directory = self.directory / name
        directory.mkdir()
        other = Swarm(self.lab, directory)
        other.inventory = None
        return other

    def command(self, *argv: str) -> None:
        """A command of this host that must work."""
        subprocess.run(argv, check=True, timeout=60)

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- clients ---
    def environment(self) -> dict[str, str]:
        host = f"unix://{self.socket}"
        return {**os.environ, "DOCKER_HOST": host, "SWARMSH_HOST": host, "NO_COLOR": "1"}

    def docker(self, *argv: str, suite: str = "forky", check: bool = True, timeout: float = 300) -> str:
        """Standard output of the docker CLI of a suite (bookworm 20.10, trixie 26.1, forky 28.5)."""
        return self._output(cli(self.lab, suite), *argv, check=check, timeout=timeout)

    def swarmsh(self, *argv: str, check: bool = True, timeout: float = 300) -> str:
        """Standard output of our own CLI."""
        return self._output(SWARMSH, *argv, check=check, timeout=timeout)

    def run(self, *argv: str, timeout: float = 300, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Any client's command, its exit code and both of its streams."""
        return subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, timeout=timeout, input=stdin.decode()
        )

    def ssh(self, node: str, *argv: str, check: bool = True) -> str:
        """Standard output of a command on a machine as root: one word is a shell line, several an argv."""
        return self.lab.ssh(node, *argv, check=check)

    def _output(self, *argv: str, check: bool, timeout: float) -> str:
        done = self.run(*argv, timeout=timeout)
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request on the socket: status and parsed JSON (or text)."""
        connection = _UnixConnection(str(self.socket))
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw) if raw else None
        except ValueError:
            return response.status, raw.decode(errors="replace")

    def get(self, path: str) -> Any:
        status, answer = self.call("GET", path)
        assert status == 200, f"GET {path}: {status} {answer}"
        return answer

    # --- looking ---
    def nodes(self) -> list[dict[str, Any]]:
        return list(self.get("/nodes"))

    def node(self, name: str) -> dict[str, Any]:
        """A node by its name in the inventory."""
        return next(n for n in self.nodes() if n["Spec"]["Name"] == name)

    def tasks(self, service: str) -> list[dict[str, Any]]:
        filters = quote(json.dumps({"service": {service: True}}))
        return list(self.get(f"/tasks?filters={filters}"))

    def running(self, service: str) -> list[dict[str, Any]]:
        """Tasks that are wanted and run."""
        return [
            t for t in self.tasks(service) if t["Status"]["State"] == "running" and t["DesiredState"] == "running"
        ]

    def spread(self, service: str) -> Counter[str]:
        """How many tasks run on each node, by the inventory's names."""
        names = {n["ID"]: n["Spec"]["Name"] for n in self.nodes()}
        return Counter(names[t["NodeID"]] for t in self.running(service))

    def connected(self) -> set[str]:
        """Names of the nodes with a session: a restarted manager shows nodes as they were until it hears them."""
        return {s["name"] for s in self.get("/swarmsh/status")["sessions"] if s["connected"]}

    def logins(self, node: str) -> set[str]:
        """address:port that a node has SSH connections from, by the node itself; also those that nobody ended."""
        shown = self.ssh(node, "ss", "-Htn", "state", "established", "sport", "=", ":22")
        return {line.split()[3] for line in shown.splitlines()}

    def containers(self, node: str, *, all: bool = False) -> dict[str, str]:
        """Our containers on a node, asked of its own Engine: task id -> container id."""
        listed = self.ssh(
            node,
            *("docker", "ps", "--no-trunc", *(["-a"] if all else []), "--filter", "label=swarmsh.cluster"),
            *("--format", '{{.Label "com.docker.swarm.task.id"}} {{.ID}}'),
        )
        return dict(line.split() for line in listed.splitlines() if line.strip())

    def started_at(self, node: str) -> dict[str, str]:
        """Container id -> when its process was started, by the Engine: what a restart would change."""
        ids = list(self.containers(node).values())
        if not ids:
            return {}
        shown = self.ssh(node, "docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *ids)
        return dict(line.split() for line in shown.splitlines() if line.strip())

    # --- waiting ---
    def wait(self, reached: Callable[[], bool], what: str, timeout: float = PATIENCE_S) -> None:
        """Poll until `reached`; on the deadline fail with all that can be seen."""
        deadline = time.monotonic() + timeout
        while not reached():
            if self.process is not None and self.process.poll() not in (None, -signal.SIGKILL):
                raise AssertionError(f"the manager ended: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:.0f} s: {what}\n{self.picture()}")
            time.sleep(0.1)

    def wait_running(self, service: str, count: int, timeout: float = PATIENCE_S) -> None:
        self.wait(lambda: len(self.running(service)) == count, f"{count} tasks of {service} running", timeout)

    def picture(self) -> str:
        """Nodes, tasks and the manager's log, for a failed test's report."""
        try:
            nodes = [(n["Spec"]["Name"], n["Status"]) for n in self.nodes()]
            tasks = [
                (t["ServiceID"][:6], t.get("Slot"), t.get("NodeID", "")[:6], t["DesiredState"], t["Status"])
                for t in self.get("/tasks")
            ]
            seen = "\n".join(str(x) for x in (*nodes, *tasks))
        except (OSError, AssertionError) as e:
            seen = f"(the manager does not answer: {e})"
        return f"{seen}\n--- manager's log\n{self.log_tail()}"

    def clear(self) -> None:
        """Remove all services and wait until no node has a container of ours."""
        for service in self.get("/services"):
            self.call("DELETE", f"/services/{service['ID']}")
        self.wait(lambda: self.get("/tasks") == [], "no tasks left")


@cache
def cli(lab: Lab, suite: str) -> str:
    """Path of the docker client of a suite."""
    return lab.docker_cli(suite)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
