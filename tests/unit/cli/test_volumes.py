"""`volume …`: what is sent and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Recorder, Result, make_node, make_service, make_task

Cli = Callable[..., Result]


def make_volume(node: str, name: str, **extra: Any) -> dict[str, Any]:
    return {
        "id": f"{node}/{name}", "name": name, "node": node, "node_id": f"id-{node}", "driver": "local",
        "mountpoint": f"/var/lib/docker/volumes/{name}/_data", "created_at": "2026-11-22T10:00:00Z", "labels": {},
        "options": {}, "scope": "local", "anonymous": False, "in_use": False, "size_bytes": None, "services": [],
        "tasks": [],
    } | extra  # fmt: skip


PG = make_volume("n1", "pg", in_use=True, services=["db"], tasks=["db.1"])


@pytest.fixture
def volumes(manager: Recorder) -> Recorder:
    anonymous = make_volume("n2", "ab" * 32, anonymous=True, in_use=True)

    def listed(request: Any) -> Any:
        size = 1536 if request.query.get("size") else None
        silent = [{"node": "n3", "why": "it is down", "volumes": ["pg"]}]
        return {"volumes": [PG | {"size_bytes": size}, anonymous], "silent": silent}

    manager.on("GET", "/swarmsh/volumes", listed)
    manager.on("GET", "/swarmsh/volumes/n1/pg", PG)
    manager.on("GET", "/swarmsh/volumes/nope", (404, {"message": "get nope: no such volume"}))
    manager.on("DELETE", "/volumes/n1/pg", (204, None))
    manager.on("DELETE", "/volumes/nope", (404, {"message": "get nope: no such volume"}))
    return manager


def test_ls_names_nodes_services_and_who_is_silent(volumes: Recorder, cli: Cli) -> None:
    result = cli("volume", "ls")
    assert [line.split() for line in result.out.splitlines()] == [
        ["NODE", "VOLUME", "DRIVER", "SERVICES", "IN", "USE"],
        ["n1", "pg", "local", "db", "db.1"],
        ["n2", "abababababab…", "local", "yes"],
    ]
    assert "node n3 did not tell: it is down; it had pg" in result.err
    assert "1.5KiB" in cli("volume", "ls", "--size").out
    assert cli("volume", "ls", "-q").out.splitlines()[0] == "n1/pg"
    assert json.loads(cli("volume", "ls", "-o", "json").out)[0]["services"] == ["db"]
    cli("volume", "ls", "-f", "node=n1", "-f", "dangling=true")
    sent = volumes.sent("GET", "/swarmsh/volumes")[-1].query["filters"]
    assert set(json.loads(sent)) == {"node", "dangling"}


def test_inspect_shows_one_and_fails_for_what_is_not_there(volumes: Recorder, cli: Cli) -> None:
    result = cli("volume", "inspect", "n1/pg", "nope")
    assert (result.code, json.loads(result.out)) == (1, [PG])
    assert "get nope: no such volume" in result.err
    assert "Tasks:       db.1" in cli("volume", "inspect", "--pretty", "n1/pg").out


def test_rm_prints_what_went(volumes: Recorder, cli: Cli) -> None:
    result = cli("volume", "rm", "n1/pg", "nope")
    assert (result.code, result.out) == (1, "n1/pg\n")
    assert cli("volume", "rm", "--force", "nope").code == 0


def test_prune_asks_for_named_volumes_only_if_told(volumes: Recorder, cli: Cli) -> None:
    answer = {
        "removed": ["n1/old"],
        "failed": [],
        "freed_bytes": 2048,
        "silent": [{"node": "n3", "why": "it is down", "volumes": []}],
    }
    volumes.on("POST", "/swarmsh/volumes/prune", answer)
    result = cli("volume", "prune", "--force")
    assert (result.code, result.out) == (0, "n1/old\n")
    assert "Total reclaimed space: 2KiB" in result.err
    assert "node n3 did not tell" in result.err
    cli("volume", "prune", "--force", "--all", "--filter", "label!=keep")
    plain, everything = [r.query.get("filters") for r in volumes.sent("POST", "/swarmsh/volumes/prune")]
    assert plain is None
    assert set(json.loads(everything or "")) == {"all", "label!"}
    volumes.on("POST", "/swarmsh/volumes/prune", answer | {"failed": [{"name": "n2/x", "why": "in use"}]})
    result = cli("volume", "prune", "--force")
    assert (result.code, "n2/x: in use" in result.err) == (1, True)


def test_a_drain_names_the_tasks_that_stop_because_their_data_is_there(manager: Recorder, cli: Cli) -> None:
    mounts = [{"Type": "volume", "Source": "pg", "Target": "/data"}]
    template = {"ContainerSpec": {"Image": "pg", "Mounts": mounts}}
    db, cache, web = make_service("db"), make_service("cache"), make_service("web")
    cache["Spec"]["Labels"] = {"swarmsh.volume.move": "allow"}
    tasks = [make_task(db, 1, Spec=template), make_task(cache, 1, Spec=template), make_task(web, 1)]
    manager.on("GET", "/nodes/n1", make_node("n1"))
    manager.on("POST", "/nodes/node1/update", None)
    manager.on("GET", "/services", [db, cache, web])
    manager.on("GET", "/tasks", tasks)
    result = cli("node", "update", "--availability", "drain", "n1")
    assert (result.code, result.out) == (0, "n1\n")
    assert result.err == "db.1 stops and waits until n1 is active again: its data is there, in pg\n"
    assert cli("node", "update", "--availability", "active", "n1").err == ""
