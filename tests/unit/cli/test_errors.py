"""What goes wrong ends in one line, the right exit code, and never in a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmsh.client import ApiError, ManagerClient
from swarmsh.errors import Kind

from .conftest import Raw, Recorder, Result, make_service

Cli = Callable[..., Result]


@pytest.mark.parametrize(
    "command", ["node ls", "service ls", "service create nginx", "events", "info", "manager stop"]
)
def test_without_a_manager_the_way_out_is_named(
    command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWARMSH_HOST", f"unix://{tmp_path}/none.sock")
    result = cli(*command.split())
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        f"Error: no manager is running at {tmp_path}/none.sock; start one with `swarmsh manager start`"
    )
    assert result.err.count("\n") == 1


def test_a_socket_that_nobody_listens_on_is_no_manager(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    monkeypatch.setenv("SWARMSH_HOST", f"unix://{tmp_path}/dead.sock")
    assert "no manager is running" in cli("node", "ls").err


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:2375", "unix://", "/run/x.sock"])
def test_an_address_that_is_no_unix_socket_is_refused(
    address: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMSH_HOST", address)
    result = cli("node", "ls")
    assert result.code == 1
    assert "unix:///path/to/swarmsh.sock" in result.err


def test_the_managers_own_words_are_printed(manager: Recorder, cli: Cli) -> None:
    manager.on(
        "POST",
        "/services/create",
        (
            409,
            {
                "message": "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
                "service web already exists"
            },
        ),
    )
    result = cli("service", "create", "--no-resolve-image", "--name", "web", "nginx")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: name conflicts with an existing object: service web already exists\n"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, Raw(b"", "text/plain"), "the manager answered with status 500 and no reason"),
        (502, Raw(b"<html>bad</html>", "text/html"), "<html>bad</html>"),
        (400, {"message": ""}, "the manager answered with status 400 and no reason"),
        (400, ["odd"], '["odd"]'),
    ],
)
def test_answers_that_are_no_engine_errors_are_told_too(
    status: int, body: object, message: str, manager: Recorder, cli: Cli
) -> None:
    manager.on("GET", "/nodes", (status, body))
    assert cli("node", "ls").err == f"Error: {message}\n"


def test_errors_carry_their_kind(manager: Recorder) -> None:
    manager.on("GET", "/services/x", (404, {"message": "service x not found"}))
    with pytest.raises(ApiError) as caught:
        ManagerClient(manager.path).service("x")
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    "command",
    [
        "nope",
        "node nope",
        "service create",
        "service scale web",
        "service scale web=x",
        "node ls --format yaml",
        "up",
    ],
)
def test_a_wrong_command_line_is_exit_code_2(command: str, manager: Recorder, cli: Cli) -> None:
    result = cli(*command.split())
    assert (result.code, result.out) == (2, "")
    assert not manager.requests


def test_rollback_goes_with_nothing_else(manager: Recorder, cli: Cli) -> None:
    manager.on("GET", "/services/web", make_service())
    result = cli("service", "update", "--rollback", "--force", "web")
    assert result.code == 2
    assert "other flags may not be combined with --rollback" in result.err


def test_a_network_is_the_servers_to_refuse(manager: Recorder, cli: Cli) -> None:
    sentence = "network mynet not found"
    manager.on("GET", "/networks/mynet", (404, {"message": sentence}))
    for words in (
        ("create", "--no-resolve-image", "--network", "mynet", "nginx"),
        ("update", "--network-add", "mynet", "web"),
        ("update", "--network-rm", "mynet", "web"),
    ):
        result = cli("service", *words)
        assert (result.code, result.err) == (1, f"Error: {sentence}\n")
    assert {request.query["scope"] for request in manager.sent("GET", "/networks/mynet")} == {"swarm"}
    assert not manager.sent("POST", ".*")


def test_a_network_is_attached_once(manager: Recorder, cli: Cli) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["Networks"] = [{"Target": "host"}]
    manager.on("GET", "/services/web", service)
    result = cli("service", "update", "-d", "--network-add", "host", "web")
    assert result.code == 2
    assert "service is already attached to network host" in result.err


def test_a_relative_bind_source_is_refused(manager: Recorder, cli: Cli) -> None:
    result = cli("service", "create", "--mount", "type=bind,source=./data,target=/data", "nginx")
    assert result.code == 2
    assert "relative" in result.err


def test_an_entry_can_be_replaced_by_one_update(manager: Recorder, cli: Cli) -> None:
    """-rm before -add: the docker CLI would lose the mount and the constraint."""
    service = make_service()
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Mounts"] = [
        {"Type": "volume", "Source": "a", "Target": "/data"}
    ]
    service["Spec"]["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==worker"]}
    manager.on("GET", "/services/web", service)
    manager.on("POST", "/services/.*/update", {})
    cli(
        *("service", "update", "-d", "--mount-rm", "/data", "--mount-add", "source=b,target=/data"),
        *("--constraint-rm", "node.role==worker", "--constraint-add", "node.role==worker", "web"),
    )
    task = manager.sent("POST", "/services/.*/update")[0].body["TaskTemplate"]
    assert task["ContainerSpec"]["Mounts"] == [{"Type": "volume", "Source": "b", "Target": "/data"}]
    assert task["Placement"]["Constraints"] == ["node.role==worker"]


def test_an_update_of_nothing_sends_the_spec_as_it_is(manager: Recorder, cli: Cli) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] = ["B=1", "A=2"]
    manager.on("GET", "/services/web", service)
    manager.on("POST", "/services/.*/update", {})
    cli("service", "update", "-d", "--env-add", "B=1", "web")
    assert manager.sent("POST", "/services/.*/update")[0].body == service["Spec"]


def test_a_failed_credential_helper_says_which(
    manager: Recorder, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(os.environ["DOCKER_CONFIG"]) / "config.json").write_text(
        '{"credsStore": "test", "credHelpers": {"b.example": "gone"}}'
    )
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread server\necho "{\\"Username\\":\\"ann\\",\\"Secret\\":\\"s at $server\\"}"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    manager.on("POST", "/services/create", (201, {"ID": "x"}))
    manager.on("GET", "/distribution/.*", {"Descriptor": {"digest": "sha256:" + "0" * 64}})
    assert cli("service", "create", "-d", "--with-registry-auth", "a.example/app").code == 0
    import base64
    import json

    sent = manager.sent("POST", "/services/create")[0].headers["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(sent)) == {
        "username": "ann",
        "password": "s at a.example",
        "serveraddress": "a.example",
    }
    assert manager.sent("GET", "/distribution/.*")[0].headers["X-Registry-Auth"] == sent
    result = cli("service", "create", "-d", "--with-registry-auth", "b.example/app")
    assert result.code == 1
    assert "docker-credential-gone" in result.err


def spawn(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "swarmsh", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_closed_pipe_is_quiet(manager: Recorder) -> None:
    manager.on("GET", "/events", Raw(b'{"Type":"node"}\n' * 20000))
    process = spawn("events")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) == 0


def test_an_interrupt_is_exit_code_130(manager: Recorder) -> None:
    over = threading.Event()

    def hang(request: object) -> Raw:
        over.wait(20)
        return Raw(b"")

    manager.on("GET", "/events", hang)
    # A background job of a shell ignores SIGINT, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = spawn("events")
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 20
    while not manager.sent("GET", "/events") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    over.set()
    assert (process.returncode, err) == (130, "Interrupted\n")


def test_light_commands_import_nothing_heavy(manager: Recorder) -> None:
    manager.on("GET", "/nodes", [])
    code = (
        "import sys; from swarmsh.cli.entry import invoke; assert invoke(['node', 'ls']) == 0; "
        "print(sorted({'aiohttp', 'asyncssh', 'asyncio', 'msgspec', 'yaml', 'ssl', 'docker'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "['ssl']" or done.stdout.splitlines()[-1] == "[]"
