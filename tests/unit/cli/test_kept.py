"""`secret …`, `config …`, `manager unlock` and `rotate-key`: what is sent and what is printed."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Recorder, Result, make_service

Cli = Callable[..., Result]
KINDS = pytest.mark.parametrize("kind", ["secret", "config"])
WHEN = "2026-11-22T10:00:00Z"


def kept(name: str, **spec: Any) -> Any:
    head = {"ID": f"{name}0000000000000000000000000"[:25], "Version": {"Index": 3}}
    return {**head, "CreatedAt": WHEN, "UpdatedAt": WHEN, "Spec": {"Name": name, "Labels": {}} | spec}


def turned(*services: tuple[str, str], changed: bool = True) -> Any:
    return {
        **{"ID": "new1", "Name": "pw", "Number": 2, "Current": True, "Changed": changed},
        "Services": [{"Name": name, "Action": action} for name, action in services],
    }


@pytest.fixture
def shelf(manager: Recorder) -> Recorder:
    for kind in ("secret", "config"):
        manager.on("POST", f"/{kind}s/create", (201, {"ID": "new1"}))
        manager.on("POST", f"/swarmsh/{kind}s/pw/(rotate|rollback)", turned())
        manager.on("GET", f"/{kind}s", [kept("pw", Labels={"a": "b"}), kept("other")])
        manager.on("DELETE", f"/{kind}s/pw", (204, None))
        manager.on("DELETE", f"/{kind}s/nope", (404, {"message": f"{kind} nope not found"}))
    return manager


def given(manager: Recorder, pattern: str) -> bytes:
    (request,) = manager.sent("POST", pattern)
    manager.requests.clear()
    return base64.b64decode(request.body["Data"])


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@KINDS
def test_contents_come_from_a_file_standard_input_a_variable_or_a_command(
    kind: str, shelf: Recorder, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"\x00file\n")
    standard_input(monkeypatch, b"stdin\n")
    monkeypatch.setenv("PW", "variable\n")
    cases: list[tuple[tuple[str, ...], bytes]] = [
        ((str(tmp_path / "f"),), b"\x00file\n"),
        (("-",), b"stdin\n"),
        (("--from-env", "PW"), b"variable\n"),
        (("--from-command", "printf '%s\\n' command | tr c C"), b"Command\n"),
        (("--from-command", "echo trimmed", "--trim-newline"), b"trimmed"),
    ]
    for words, data in cases:
        result = cli(kind, "create", "pw", *words)
        assert (result.code, result.out) == (0, "new1\n"), result.err
        assert given(shelf, f"/{kind}s/create") == data
    cli(kind, "create", "-l", "a=b", "--label", "c", "--template-driver", "golang", "pw", str(tmp_path / "f"))
    (request,) = shelf.sent("POST", ".*")
    spec = {"Name": "pw", "Labels": {"a": "b", "c": ""}, "Templating": {"Name": "golang"}}
    assert {**request.body, "Data": ""} == {**spec, "Data": ""}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "Name one of FILE, - (standard input), --from-env and --from-command."),
        (("f", "--from-env", "PW"), 2, "Name one of"),
        (("/nowhere/f",), 1, "/nowhere/f cannot be read: No such file or directory"),
        (("--from-env", "NOT_SET"), 1, "there is no variable NOT_SET in the environment"),
        (("--from-command", "echo needle; exit 3"), 1, "ended with status 3; nothing was changed"),
        (("--from-command", "kill -9 $$"), 1, "ended with signal 9"),
    ],
)
@pytest.mark.parametrize("verb", ["create", "rotate"])
def test_a_source_that_gives_nothing_changes_nothing(
    verb: str, words: tuple[str, ...], code: int, said: str, shelf: Recorder, cli: Cli
) -> None:
    result = cli("secret", verb, "pw", *words)
    assert (result.code, result.out) == (code, "")
    assert said in result.err and "needle" not in result.err
    assert not shelf.sent("POST", ".*")


@KINDS
def test_services_follow_as_asked(kind: str, shelf: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "x")
    path = f"/swarmsh/{kind}s/pw/rotate"
    for words, body in (
        ((), {"Follow": "roll"}),
        (("--signal", "HUP"), {"Follow": "signal", "Signal": "HUP"}),
        (("--leave",), {"Follow": "leave"}),
    ):
        assert cli(kind, "rotate", "pw", "--from-env", "PW", *words).code == 0
        (request,) = shelf.sent("POST", path)
        assert request.body == {**body, "Data": "eA=="}
        shelf.requests.clear()
    result = cli(kind, "rotate", "pw", "--from-env", "PW", "--leave", "--signal", "HUP")
    assert (result.code, shelf.requests) == (2, [])


def test_a_rotation_tells_what_becomes_of_each_service(
    shelf: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "x")
    answer = turned(("api", "signalled"), ("job", "next run"), ("old", "left"), ("web", "rolled"))
    shelf.on("POST", "/swarmsh/secrets/pw/rotate", answer)
    result = cli("secret", "rotate", "-d", "pw", "--from-env", "PW")
    assert result.out == "new1\n"
    assert result.err.splitlines() == [
        "Secret pw now means version 2.",
        "Service api gets it as its tasks run.",
        "Service job gets it with its next run.",
        "Service old stays with what it has.",
        "Service web is updated to it.",
    ]
    shelf.on("POST", "/swarmsh/secrets/pw/rotate", turned(changed=False))
    assert cli("secret", "rotate", "pw", "--from-env", "PW").err == "Secret pw means already version 2.\n"


def test_updated_services_are_waited_for(shelf: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr("swarmsh.cli.progress.wait_for_service", lambda m, i, quiet: waited.append(i))
    monkeypatch.setenv("PW", "x")
    shelf.on("POST", "/swarmsh/secrets/pw/rotate", turned(("api", "left"), ("web", "rolled")))
    shelf.on("GET", "/services/web", make_service("web"))
    assert cli("secret", "rotate", "pw", "--from-env", "PW").code == 0
    assert waited == [make_service("web")["ID"]]


@KINDS
def test_rollback_names_a_version(kind: str, shelf: Recorder, cli: Cli) -> None:
    assert cli(kind, "rollback", "pw").code == 0
    assert cli(kind, "rollback", "--to", "1", "--signal", "USR1", "pw").code == 0
    first, second = shelf.sent("POST", f"/swarmsh/{kind}s/pw/rollback")
    assert (first.query, first.body) == ({}, {"Follow": "roll"})
    assert (second.query, second.body) == ({"to": "1"}, {"Follow": "signal", "Signal": "USR1"})


@KINDS
def test_lists_and_inspection(kind: str, shelf: Recorder, cli: Cli) -> None:
    head, *rows = cli(kind, "ls").out.splitlines()
    assert head.split() == ["ID", "NAME", "CREATED", "UPDATED"]
    assert [row.split()[:2] for row in rows] == [["pw0000000000", "pw"], ["other0000000", "other"]]
    assert cli(kind, "ls", "-q").out.split() == [kept("pw")["ID"], kept("other")["ID"]]
    assert json.loads(cli(kind, "ls", "--format", "json").out)[0]["Labels"] == {"a": "b"}
    cli(kind, "ls", "-f", "name=p", "-f", "label=a=b")
    assert json.loads(shelf.requests[-1].query["filters"]) == {"name": {"p": True}, "label": {"a=b": True}}
    data = {} if kind == "secret" else {"Data": base64.b64encode(b"listen 80;").decode()}
    shelf.on("GET", f"/{kind}s/pw", kept("pw", **data))
    assert json.loads(cli(kind, "inspect", "pw").out) == [kept("pw", **data)]
    pretty = cli(kind, "inspect", "--pretty", "pw").out
    assert "Name:          pw" in pretty and ("listen 80;" in pretty) is (kind == "config")


@KINDS
def test_rm_tries_each_name(kind: str, shelf: Recorder, cli: Cli) -> None:
    result = cli(kind, "rm", "nope", "pw")
    assert (result.code, result.out, result.err) == (1, "pw\n", f"Error: {kind} nope not found\n")


@KINDS
def test_history_says_who_has_which_version(kind: str, shelf: Recorder, cli: Cli) -> None:
    found = [
        {
            **{"ID": f"v{n}", "Name": "pw", "Number": n, "Current": n == 2, "CreatedAt": WHEN, "Size": 9},
            **{
                "User": "ann",
                "Client": "swarmsh/1",
                "Action": "rotate",
                "Services": ["web"] * (n == 1),
                "Tasks": 1,
            },
        }
        for n in (2, 1)
    ]
    shelf.on("GET", f"/swarmsh/{kind}s/pw/versions", found)
    head, first, second = cli(kind, "history", "pw").out.splitlines()
    assert head.split() == ["VERSION", "CREATED", "BYTES", "USER", "ACTION", "SERVICES", "TASKS"]
    assert first.startswith("2 (current)") and first.split()[-2:] == ["-", "1"]
    assert second.split()[-2:] == ["web", "1"]
    found[0] |= {"Waiting": 2, "Failed": {"web.1.x": "no such file"}}
    assert "1, 2 to get it, web.1.x failed: no such file" in cli(kind, "history", "pw").out
    assert cli(kind, "history", "-q", "pw").out == "2\n1\n"
    assert json.loads(cli(kind, "history", "--format", "json", "pw").out) == found


@KINDS
def test_names_are_completed(kind: str, shelf: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    from swarmsh.cli import complete

    assert complete.kept_names(kind)(None, None, "p") == ["pw"]  # type: ignore[arg-type]


# --- services -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("source=x,target", "invalid field 'target' must be a key=value pair"),
        ("target=x", "source is required"),
        ("source=pw,mode=rw", "invalid mode specified: rw"),
        ("source=pw,size=3", "invalid field in secret request: size"),
    ],
)
def test_a_malformed_reference_is_refused(flag: str, said: str, shelf: Recorder, cli: Cli) -> None:
    result = cli("service", "create", "--secret", flag, "nginx")
    assert result.code == 2
    assert said in result.err
    assert not shelf.requests


def test_what_is_not_there_or_doubled_is_said_before_anything_is_sent(shelf: Recorder, cli: Cli) -> None:
    for words, said in (
        (("--secret", "pw", "--secret", "gone"), "secret not found: gone"),
        (("--config", "gone"), "config not found: gone"),
        (
            ("--secret", "pw", "--secret", "source=other,target=pw"),
            "duplicate secret target for other not allowed",
        ),
    ):
        result = cli("service", "create", *words, "nginx")
        assert result.code in (1, 2) and said in result.err
    assert not shelf.sent("POST", ".*")


# --- the key --------------------------------------------------------------------------------------------------
def test_a_locked_manager_is_given_its_passphrase(
    manager: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.on("GET", "/swarmsh/key", {"Place": "passphrase", "Locked": "the manager is locked"})
    manager.on("POST", "/swarmsh/unlock", {"Place": "passphrase", "Changed": True})
    standard_input(monkeypatch, b"correct horse\n")
    result = cli("manager", "unlock")
    assert (result.code, result.out, result.err) == (0, "", "The manager is unlocked\n")
    assert manager.sent("POST", "/swarmsh/unlock")[0].body == {"Passphrase": "correct horse"}
    manager.on("GET", "/swarmsh/key", {"Place": "passphrase", "Locked": ""})
    assert cli("manager", "unlock").err == "The manager is not locked\n"


def test_keys_are_rotated_and_moved(manager: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.on("GET", "/swarmsh/key", {"Place": "file", "Locked": ""})
    manager.on("POST", "/swarmsh/key/rotate", {"Place": "file"})
    assert "in a file of the state directory" in cli("manager", "rotate-key").err
    standard_input(monkeypatch, b"correct horse\n")
    assert "manager unlock" in cli("manager", "rotate-key", "--to", "passphrase").err
    assert cli("manager", "rotate-key", "--forget", "-y").code == 0
    assert [request.body for request in manager.sent("POST", "/swarmsh/key/rotate")] == [
        {"Place": "file", "Passphrase": "", "Forget": False},
        {"Place": "passphrase", "Passphrase": "correct horse", "Forget": False},
        {"Place": "file", "Passphrase": "", "Forget": True},
    ]


def exchanged(waiting: int, failed: dict[str, str] | None = None, version: str = "") -> list[Any]:
    return [{"ID": version, "Waiting": waiting, "Failed": failed or {}}]


@KINDS
def test_a_signalled_rotation_waits_until_every_task_has_it(
    cli: Cli, shelf: Recorder, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmsh.cli.kept_change.POLL_S", 0.0)
    monkeypatch.setenv("PW", "x")
    answer = turned(("api", "signalled"))
    shelf.on("POST", f"/swarmsh/{kind}s/pw/rotate", answer)
    answers = [
        exchanged(2, version=answer["ID"]),
        exchanged(1, version=answer["ID"]),
        exchanged(0, version=answer["ID"]),
    ]
    shelf.on("GET", f"/swarmsh/{kind}s/pw/versions", lambda _: answers.pop(0))
    result = cli(kind, "rotate", "pw", "--from-env", "PW", "--signal", "HUP")
    assert (result.code, answers) == (0, [])
    assert "2 running tasks are yet to get it." in result.err and "1 running tasks" in result.err
    failed = exchanged(0, {"api.1.x": "no such signal"}, version=answer["ID"])
    shelf.on("GET", f"/swarmsh/{kind}s/pw/versions", failed)
    result = cli(kind, "rotate", "pw", "--from-env", "PW", "--signal", "HUP")
    assert result.code == 1 and "api.1.x could not be given it: no such signal" in result.err
    assert cli(kind, "rotate", "pw", "--from-env", "PW", "--signal", "HUP", "-d").code == 0
