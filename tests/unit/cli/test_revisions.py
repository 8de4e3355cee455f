"""`service history`, `diff`, `rollback`, and `--plan`: what is sent, what is shown, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from swarmsh.cli.spec_words import value_words

from .conftest import Recorder, Result, make_service

Cli = Callable[..., Result]

REVISION = {
    "Number": 2,
    "Version": {"Index": 9},
    "At": "2026-11-22T10:00:00Z",
    "User": "ann",
    "Client": "Docker-Client/28.5.2 (linux)",
    "Action": "update",
    "Image": "web:2",
    "Current": True,
    "Changes": [
        {"Field": "TaskTemplate.ContainerSpec.Image", "Before": "web:1", "After": "web:2", "Hidden": False},
        {"Field": "TaskTemplate.ContainerSpec.Env[A.B]", "Before": None, "After": "1", "Hidden": False},
    ],
}
OLDEST = REVISION | {"Number": 1, "Current": False, "Changes": None, "User": "", "Client": "", "Action": ""}
PLAN: dict[str, Any] = {
    "Service": "web",
    "Action": "update",
    "Changed": True,
    "Changes": [
        {"Field": "TaskTemplate.ContainerSpec.Image", "Before": "web:1", "After": "web:2", "Hidden": False},
        {"Field": "UpdateConfig.Delay", "Before": None, "After": 5_000_000_000, "Hidden": False},
    ],
    "Tasks": [
        {
            "Order": 1,
            "AfterS": 0.0,
            "Action": "replace",
            "Way": "start-first",
            "Task": "web.1",
            "Old": {"TaskID": "t1", "NodeID": "node1", "Node": "n1"},
            "New": {"NodeID": "node2", "Node": "n2"},
            "Waits": "",
        },
        {
            "Order": 2,
            "AfterS": 5.5,
            "Action": "start",
            "Way": "",
            "Task": "web.2",
            "Old": None,
            "New": {"NodeID": "", "Node": ""},
            "Waits": "no suitable node (insufficient resources on 3 nodes)",
        },
    ],
    "Kept": 1,
    "Status": {"State": "updating", "Message": "update in progress"},
    "Whole": True,
}
NOTHING = PLAN | {"Changed": False, "Changes": [], "Tasks": [], "Status": None, "Kept": 3}


@pytest.fixture
def web(manager: Recorder) -> Recorder:
    service = make_service()
    manager.on("GET", "/services/web", service)
    manager.on("GET", "/swarmsh/services/web/revisions", [REVISION, OLDEST])
    manager.on("POST", f"/services/{service['ID']}/update", {"Warnings": None})
    manager.on("POST", f"/swarmsh/services/{service['ID']}/rollback", {"Revision": 1, "Warnings": None})
    manager.on("POST", f"/swarmsh/services/({service['ID']}/)?plan", PLAN)
    manager.on("GET", "/distribution/.*", (404, {"message": "no such image"}))
    return manager


def test_history_is_a_table_json_or_numbers(web: Recorder, cli: Cli) -> None:
    first, newest, oldest = cli("service", "history", "web").out.splitlines()
    assert first.split() == ["REVISION", "CREATED", "USER", "CLIENT", "ACTION", "CHANGED"]
    assert newest.startswith("2 (current)")
    assert newest.endswith("ann    Docker-Client/28.5.2 (linux)   update   Image, Env[A.B]")
    assert oldest.split()[-4:] == ["-", "-", "-", "?"]
    assert json.loads(cli("service", "history", "web", "--format", "json").out) == [REVISION, OLDEST]
    assert cli("service", "history", "web", "-q").out == "2\n1\n"


def test_diff_shows_both_sides_of_each_field(web: Recorder, cli: Cli) -> None:
    answer = {"From": OLDEST, "To": REVISION, "Changes": REVISION["Changes"], "ReplacesTasks": True}
    web.on("GET", "/swarmsh/services/web/diff", answer)
    result = cli("service", "diff", "web", "1", "2")
    assert [line.split() for line in result.out.splitlines()][:3] == [
        ["FIELD", "REVISION", "1", "REVISION", "2"],
        ["TaskTemplate.ContainerSpec.Image", "web:1", "web:2"],
        ["TaskTemplate.ContainerSpec.Env[A.B]", "-", "1"],
    ]
    assert "Tasks are replaced" in result.out
    assert json.loads(cli("service", "diff", "web", "previous", "--format", "json").out) == answer
    assert [r.query for r in web.sent("GET", ".*/diff")] == [
        {"from": "1", "to": "2"},
        {"from": "previous", "to": "current"},
    ]
    web.on("GET", "/swarmsh/services/web/diff", answer | {"Changes": [], "From": REVISION})
    assert cli("service", "diff", "web", "2").out == "web: revisions 2 and 2 do not differ\n"


def test_rollback_goes_back_by_one_or_to_a_revision(web: Recorder, cli: Cli) -> None:
    result = cli("service", "rollback", "web", "-d")
    assert (result.code, result.out) == (0, "web\n")
    assert web.sent("POST", ".*/update")[0].query == {"rollback": "previous", "version": "42"}
    result = cli("service", "rollback", "web", "--to", "1", "-d")
    assert (result.code, result.out) == (0, "web\n")
    (request,) = web.sent("POST", ".*/rollback")
    assert request.query == {"to": "1", "version": "42"}
    assert cli("service", "rollback", "web", "--to", "", "-d").code == 2


def test_rollback_tries_again_on_the_newest_version(web: Recorder, cli: Cli) -> None:
    late = (500, {"message": "rpc error: code = Unknown desc = update out of sequence"})
    answers = iter([late, {"Revision": 1, "Warnings": None}])
    web.on("POST", "/swarmsh/services/.*/rollback", lambda _: next(answers))
    assert cli("service", "rollback", "web", "--to", "1", "-d").code == 0
    assert len(web.sent("POST", ".*/rollback")) == 2


def test_a_plan_is_shown_and_ends_with_3(web: Recorder, cli: Cli) -> None:
    result = cli("service", "update", "web", "--image", "web:2", "--plan")
    assert result.code == 3
    assert result.out.splitlines() == [
        "web: update; 1 task started, 1 task replaced, 1 kept",
        "",
        "FIELD                              BEFORE   AFTER",
        "TaskTemplate.ContainerSpec.Image   web:1    web:2",
        "UpdateConfig.Delay                 -        5s",
        "",
        "ORDER   EARLIEST   TASK    CHANGE                 NODE       NOTE",
        "1       0s         web.1   replace, start-first   n1 -> n2",
        "2       5.5s       web.2   start                  ?          "
        "waits: no suitable node (insufficient resources on 3 nodes)",
        "",
        "It would not come to its end until what tasks wait for is there.",
    ]
    (request,) = web.sent("POST", ".*")
    assert request.path.endswith("/plan")
    assert request.body["TaskTemplate"]["ContainerSpec"]["Image"] == "web:2"
    assert request.query["version"] == "42"


@pytest.mark.parametrize(
    "words",
    [
        ("update", "web", "--replicas", "3"),
        ("update", "web", "--rollback"),
        ("rollback", "web"),
        ("rollback", "web", "--to", "1"),
        ("create", "--name", "web", "nginx"),
    ],
)
def test_a_plan_of_nothing_ends_with_0_and_nothing_is_changed(
    words: tuple[str, ...], web: Recorder, cli: Cli
) -> None:
    web.on("POST", "/swarmsh/services/(.*/)?plan", NOTHING)
    command, *rest = words
    result = cli("service", command, "--plan", *rest)
    assert (result.code, result.out) == (0, "web: nothing to do\n")
    web.on("POST", "/swarmsh/services/(.*/)?plan", PLAN)
    result = cli("service", command, "--plan", "--format", "json", *rest)
    assert (result.code, json.loads(result.out)) == (3, PLAN)
    assert all(request.path.endswith("/plan") for request in web.sent("POST", ".*"))


def test_what_is_refused_ends_with_1_and_what_is_mistyped_with_2(web: Recorder, cli: Cli) -> None:
    web.on("POST", "/swarmsh/services/(.*/)?plan", (400, {"message": "unrecognized update order x"}))
    assert cli("service", "update", "web", "--plan", "--update-order", "x").code == 1
    assert cli("service", "update", "web", "--plan", "--no-such-flag").code == 2
    for words in (
        ("update", "web", "--format", "json"),
        ("create", "--format", "json", "nginx"),
        ("rollback", "web", "--format=json"),
    ):
        result = cli("service", *words)
        assert (result.code, "--format is for --plan" in result.err) == (2, True)
    assert len(web.sent("POST", ".*")) == 1


def test_how_a_plan_may_end(web: Recorder, cli: Cli) -> None:
    paused = {"State": "paused", "Message": "update paused due to failure or early termination of task x"}
    web.on("POST", ".*/plan", PLAN | {"Status": paused})
    assert (
        "It would end as paused: update paused due to" in cli("service", "update", "web", "--force", "--plan").out
    )
    web.on("POST", ".*/plan", PLAN | {"Whole": False})
    assert "The plan ends here" in cli("service", "update", "web", "--force", "--plan").out


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("UpdateConfig.Monitor", 1_500_000_000, "1.5s"),
        ("TaskTemplate.Resources.Limits.MemoryBytes", 64 << 20, "64MiB"),
        ("TaskTemplate.Resources.Limits.NanoCPUs", 250_000_000, "0.25"),
        ("TaskTemplate.ForceUpdate", 2, "2"),
        ("TaskTemplate.ContainerSpec.Init", False, "false"),
        ("TaskTemplate.ContainerSpec.Args", ["sh", "-c", "a b"], "sh -c 'a b'"),
        ("TaskTemplate.ContainerSpec.User", "", '""'),
        ("EndpointSpec.Ports[80/tcp]", {"TargetPort": 80}, '{"TargetPort": 80}'),
        ("Labels[a]", None, "-"),
    ],
)
def test_values_are_written_as_people_write_them(field: str, value: Any, words: str) -> None:
    assert value_words(field, value) == words


def test_how_many_revisions_are_kept_is_a_setting_of_the_cluster(manager: Recorder, cli: Cli) -> None:
    manager.on("POST", "/swarmsh/cluster/update", {"ID": "c", "RevisionsKept": 7})
    result = cli("manager", "update", "--revisions-kept", "7")
    assert (result.code, "7 revisions are kept" in result.err) == (0, True)
    assert manager.sent("POST", ".*")[0].body == {"RevisionsKept": 7}
    assert cli("manager", "update", "--revisions-kept", "1").code == 2
