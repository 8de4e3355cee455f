"""`manager …`: a real process in the background, its log, its end. The daemon in it is a small stand-in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmsh.cli.manager import _usable_places

from .conftest import Recorder, Result

Cli = Callable[..., Result]

STAND_IN = """
import http.server, json, os, socketserver, sys, types

class Server(socketserver.UnixStreamServer):
    pass

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "version": "0", "state_dir": os.getcwd()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return ""

def run(state_dir, socket, inventory):
    print("state", state_dir, "inventory", inventory, flush=True)
    if "broken" in str(state_dir):
        sys.exit("the store is not ours")
    Server(str(socket), Handler).serve_forever()

daemon = types.ModuleType("swarmsh.daemon")
daemon.run = run
sys.modules["swarmsh.daemon"] = daemon
import swarmsh
swarmsh.daemon = daemon
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, in which processes run the stand-in."""
    with tempfile.TemporaryDirectory(prefix="swarmsh-m-") as directory:
        path = Path(directory)
        (path / "site").mkdir()
        (path / "site" / "sitecustomize.py").write_text(STAND_IN)
        checkout = Path(__file__).parents[3]
        monkeypatch.setenv("PYTHONPATH", f"{path / 'site'}:{checkout}")
        monkeypatch.setenv("XDG_STATE_HOME", str(path / "state"))
        monkeypatch.setenv("HOME", str(path))
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.delenv("SWARMSH_HOST", raising=False)
        yield path


def test_start_status_stop(place: Path, cli: Cli) -> None:
    socket = place / "state" / "swarmsh" / "swarmsh.sock"
    assert cli("manager", "status").code == 1
    started = cli("manager", "start")
    try:
        assert (started.code, started.out) == (0, f"unix://{socket}\n")
        assert "SWARMSH_HOST" not in started.err
        again = cli("manager", "start")
        assert (again.code, again.out) == (0, f"unix://{socket}\n")
        assert "running already" in again.err
        status = json.loads(cli("manager", "status", "--format", "json").out)
        assert (status["Running"], status["Socket"]) == (True, str(socket))
        assert status["state_dir"] == "/"  # detached: it holds no directory of ours
        assert os.getsid(status["pid"]) == status["pid"]
        assert "yes" in cli("manager", "status").out
        quiet = cli("manager", "status", "-q")
        assert (quiet.code, quiet.out, quiet.err) == (0, f"unix://{socket}\n", "")
    finally:
        stopped = cli("manager", "stop")
    assert (stopped.code, stopped.out) == (0, "")
    assert cli("manager", "stop").code == 1
    # An empty DOCKER_HOST would be this machine's own Engine: the address is printed all the same.
    quiet = cli("manager", "status", "-q")
    assert (quiet.code, quiet.out) == (1, f"unix://{socket}\n")
    assert "no manager is running" in quiet.err
    assert (place / "state" / "swarmsh").stat().st_mode & 0o777 == 0o700
    assert "inventory None" in (place / "state" / "swarmsh" / "manager.log").read_text()


def test_another_socket_is_named_to_the_user(place: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    started = cli("manager", "start", "--state", str(place / "other"), "--socket", str(place / "o.sock"))
    monkeypatch.setenv("SWARMSH_HOST", f"unix://{place}/o.sock")
    assert cli("manager", "stop").code == 0
    assert f"export SWARMSH_HOST=unix://{place}/o.sock" in started.err


def test_a_manager_that_does_not_start_shows_the_end_of_its_log(place: Path, cli: Cli) -> None:
    result = cli("manager", "start", "--state", str(place / "broken"))
    assert (result.code, result.out) == (1, "")
    assert "    the store is not ours" in result.err
    assert result.err.splitlines()[-1] == (
        f"Error: the manager ended with status 1; its log is {place}/broken/manager.log"
    )


@pytest.mark.parametrize("verb", ["run", "start"])
def test_a_state_that_is_a_file_is_refused_by_name(verb: str, place: Path, cli: Cli) -> None:
    (place / "file").write_text("mine")
    for state in (place / "file", place / "file" / "below"):
        result = cli("manager", verb, "--state", str(state))
        assert (result.code, result.out) == (2, "")
        assert f"--state: {place}/file is a file; name a directory" in result.err
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["run", "start"])
def test_no_directory_is_made_for_a_socket_that_was_named(verb: str, place: Path, cli: Cli) -> None:
    result = cli("manager", verb, "--socket", str(place / "none" / "x" / "y.sock"))
    assert (result.code, result.out) == (2, "")
    assert f"--socket: there is no directory {place}/none/x" in result.err
    assert not (place / "none").exists()


def test_the_default_socket_may_be_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As units and `manager start` do; XDG_RUNTIME_DIR is empty after a boot."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    socket = place / "run" / "swarmsh" / "swarmsh.sock"
    assert _usable_places(None, socket)[1] == _usable_places(None, None)[1] == socket
    beside = place / "new" / "y.sock"
    assert _usable_places(place / "new", beside) == (place / "new", beside)


def test_a_unit_makes_the_directory_of_a_socket_of_its_own(place: Path, cli: Cli) -> None:
    assert "ExecStartPre" not in cli("manager", "systemd-unit").out
    unit = cli("manager", "systemd-unit", "--socket", "/run/mine/y.sock").out
    assert "[Service]\nExecStartPre=/bin/mkdir -p /run/mine\nExecStart=" in unit


def test_the_unit_runs_this_installation(place: Path, cli: Cli) -> None:
    unit = cli("manager", "systemd-unit", "--state", "/srv/my state").out
    assert f'ExecStart={sys.executable} -m swarmsh manager run --state "/srv/my state" --socket' in unit
    assert "WantedBy=default.target" in unit


def test_the_socket_follows_the_xdg_directories(place: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    assert f"no manager is running at {place}/run/swarmsh/swarmsh.sock" in cli("node", "ls").err
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert f"no manager is running at {place}/state/swarmsh/swarmsh.sock" in cli("node", "ls").err
    monkeypatch.delenv("XDG_STATE_HOME")
    assert f"no manager is running at {place}/.local/state/swarmsh/swarmsh.sock" in cli("node", "ls").err


def test_a_manager_that_names_no_process_is_not_stopped(manager: Recorder, cli: Cli) -> None:
    """Signals to the processes 0 and 1 would reach us, or all of the machine."""
    for pid in (0, 1, -1):
        manager.on("GET", "/swarmsh/status", {"pid": pid})
        result = cli("manager", "stop")
        assert (result.code, result.out) == (1, "")
        assert "does not say which process it is" in result.err


def test_update_sends_seconds_and_says_what_holds_now(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", "/swarmsh/cluster/update", {"ID": "c", "DownAfterS": 90.5})
    changed = cli("manager", "update", "--down-after", "1m30.5s")
    (request,) = manager.sent("POST", "/swarmsh/cluster/update")
    assert request.body == {"DownAfterS": 90.5}
    assert (changed.code, changed.out) == (0, "")
    assert "down after 90.5 s" in changed.err


def test_update_of_timeouts_sends_those_given_and_warns_of_one_before_the_first_keepalive(
    manager: Recorder, cli: Cli
) -> None:
    limits = {"TCP": 7201, "TCPFin": 120, "UDP": 60}
    manager.on("POST", "/swarmsh/cluster/update", lambda _: {"ID": "c", "DownAfterS": 10.0, "LBTimeouts": limits})
    changed = cli("manager", "update", "--lb-tcp-timeout", "2h1s", "--lb-udp-timeout", "1m")
    assert changed.code == 0
    assert "TCP 7201 s, TCP after a FIN 120 s, UDP 60 s" in changed.err
    assert "keepalive" not in changed.err and "down after" not in changed.err
    limits["TCP"] = 7200
    assert "keepalive" in cli("manager", "update", "--lb-tcp-timeout", "2h", "--lb-tcp-fin-timeout", "1.5s").err
    bodies = [request.body for request in manager.sent("POST", "/swarmsh/cluster/update")]
    assert bodies == [{"LBTimeouts": {"TCP": 7201, "UDP": 60}}, {"LBTimeouts": {"TCP": 7200, "TCPFin": 1.5}}]


def test_update_hands_on_what_the_manager_refuses(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", "/swarmsh/cluster/update", (400, {"message": "invalid DownAfterS 1: 3 to 3600 seconds"}))
    refused = cli("manager", "update", "--down-after", "1s")
    assert refused.code == 1
    assert "3 to 3600 seconds" in refused.err
    assert cli("manager", "update").code == 2
