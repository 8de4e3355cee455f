"""A small real HTTP server on a unix socket that records what it is sent and answers canned Engine API JSON."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from swarmsh.cli.entry import invoke


@dataclass
class Request:
    method: str
    path: str  # without the version prefix
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Raw:
    """An answer that is no JSON."""

    body: bytes
    content_type: str = "application/octet-stream"


Answer = Any | tuple[int, Any] | Callable[[Request], Any]


@dataclass
class Recorder:
    path: Path
    requests: list[Request] = field(default_factory=list)
    answers: list[tuple[str, re.Pattern[str], Answer]] = field(default_factory=list)

    def on(self, method: str, pattern: str, answer: Answer) -> None:
        """Answer requests whose whole path fits; what was said last is asked first."""
        self.answers.insert(0, (method, re.compile(pattern), answer))

    def sent(self, method: str, pattern: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and re.fullmatch(pattern, r.path)]

    def answer(self, request: Request) -> tuple[int, Any]:
        self.requests.append(request)
        for method, pattern, answer in self.answers:
            if method == request.method and pattern.fullmatch(request.path):
                found = answer(request) if callable(answer) else answer
                return found if isinstance(found, tuple) else (200, found)
        return 404, {"message": f"page not found: {request.method} {request.path}"}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is no news; its traceback would stand in whichever test runs by then.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(recorder: Recorder) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = re.sub(r"^/v1\.\d+", "", url.path)
            query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
            body = json.loads(data) if data else None
            status, found = recorder.answer(Request(self.command, path, query, dict(self.headers), body))
            raw = found if isinstance(found, Raw) else Raw(json.dumps(found).encode(), "application/json")
            self.send_response(status)
            self.send_header("Api-Version", "1.51")
            self.send_header("Ostype", "linux")
            self.send_header("Swarm", "active/manager")
            self.send_header("Content-Type", raw.content_type)
            self.send_header("Content-Length", str(len(raw.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw.body)

        do_GET = do_POST = do_DELETE = do_HEAD = handle_any

        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture(autouse=True)
def dumpable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the process of the tests, which nobody can undo this for."""
    monkeypatch.setattr("swarmsh.core_dumps.forbid", lambda: None)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A recording manager, named to our CLI and to Docker's by the environment."""
    directory = Path(tempfile.mkdtemp(prefix="swarmsh-cli-"))
    recorder = Recorder(directory / "s.sock")
    recorder.on("HEAD", "/_ping", Raw(b"OK", "text/plain"))
    recorder.on("GET", "/_ping", Raw(b"OK", "text/plain"))
    server = _Server(str(recorder.path), _handler(recorder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("SWARMSH_HOST", f"unix://{recorder.path}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{recorder.path}")
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    yield recorder
    server.shutdown()
    server.server_close()
    shutil.rmtree(directory)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run our command line in this process."""

    def run(*args: str) -> Result:
        capfd.readouterr()
        code = invoke(args)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


# --- canned objects -----------------------------------------------------------------------------------------
def make_service(name: str = "web", replicas: int | None = 3, **extra: Any) -> dict[str, Any]:
    """A service as the Engine API answers it; global without `replicas`."""
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    return {
        "ID": f"{name}0000000000000000000000000"[:25],
        "Version": {"Index": 42},
        "CreatedAt": "2026-11-22T10:00:00.000000000Z",
        "UpdatedAt": "2026-11-22T10:00:00.000000000Z",
        "Spec": {
            "Name": name,
            "Labels": {},
            "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}, "ForceUpdate": 0},
            "Mode": mode,
        },
        "Endpoint": {"Spec": {}},
    } | extra


def make_task(
    service: dict[str, Any], slot: int, state: str = "running", node: str = "node1", **extra: Any
) -> Any:
    status = {"Timestamp": "2026-11-22T10:00:00.123456789Z", "State": state, "Message": "started"}
    return {
        "ID": f"task{slot}{node}0000000000000000000000"[:25],
        "Version": {"Index": 43},
        "CreatedAt": "2026-11-22T10:00:00.000000000Z",
        "ServiceID": service["ID"],
        "Slot": slot,
        "NodeID": node,
        "DesiredState": "running",
        "Spec": service["Spec"]["TaskTemplate"],
        "Status": status | extra.pop("status", {}),
    } | extra


def make_node(name: str = "n1", state: str = "ready", node_id: str = "node1", **status: Any) -> dict[str, Any]:
    return {
        "ID": node_id,
        "Version": {"Index": 7},
        "Spec": {"Name": name, "Labels": {"disk": "ssd"}, "Role": "worker", "Availability": "active"},
        "Description": {"Hostname": f"{name}.example", "Engine": {"EngineVersion": "20.10.24"}},
        "Status": {"State": state, "Addr": "10.0.0.1"} | status,
    }
