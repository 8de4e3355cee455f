"""Run options on the command line: container labels, made and changed by flags."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Recorder, Result, make_service

Cli = Callable[..., Result]
OLD = {
    "team": "a",
    "swarmsh.run.device": "/dev/a,/dev/b:r",
    "swarmsh.run.shm-size": "64m",
    "swarmsh.run.privileged": "true",
    "swarmsh.run.storage-opt": "size=1G",
}


def labels_sent(manager: Recorder, path: str) -> dict[str, str]:
    (request,) = manager.sent("POST", path)
    labels: dict[str, str] = request.body["TaskTemplate"]["ContainerSpec"].get("Labels") or {}
    return labels


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ("", {}),
        ("--privileged --shm-size 64m", {"privileged": "true", "shm-size": "64m"}),
        ("--privileged=false", {}),
        ("--device /dev/a --device /dev/b:/dev/c:r", {"device": "/dev/a,/dev/b:/dev/c:r"}),
        ("--gpus device=0,driver=x --pid host", {"gpus": "device=0,driver=x", "pid": "host"}),
        (
            "--security-opt label=disable --annotation a=b,c",
            {"security-opt": "label=disable", "annotation": '["a=b,c"]'},
        ),
        ("--container-label swarmsh.run.ipc=none --ipc host", {"ipc": "host"}),
    ],
)
def test_flags_of_create_become_container_labels(
    manager: Recorder, cli: Cli, line: str, labels: dict[str, str]
) -> None:
    manager.on("POST", "/services/create", (201, {"ID": "x"}))
    result = cli("service", "create", "-d", "--no-resolve-image", *shlex.split(line), "nginx")
    assert result.code == 0, result.err
    sent = labels_sent(manager, "/services/create")
    assert sent == {f"swarmsh.run.{name}": text for name, text in labels.items()}


def test_a_seccomp_profile_is_read_where_the_command_runs(manager: Recorder, cli: Cli, tmp_path: Path) -> None:
    manager.on("POST", "/services/create", (201, {"ID": "x"}))
    profile = tmp_path / "p.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": []}')
    flag = f"--security-opt=seccomp={profile}"
    assert cli("service", "create", "-d", "--no-resolve-image", flag, "nginx").code == 0
    (text,) = labels_sent(manager, "/services/create").values()
    assert json.loads(text) == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}']
    result = cli("service", "create", "--security-opt", "seccomp=/nowhere.json", "nginx")
    assert (result.code, "opening seccomp profile (/nowhere.json) failed" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("--env-add A=B", {}),
        ("--device-add /dev/c", {"device": "/dev/a,/dev/b:r,/dev/c"}),
        ("--device-add /dev/b:rw", {"device": "/dev/a,/dev/b:rw"}),
        ("--device-rm /dev/b --device-add /dev/d", {"device": "/dev/a,/dev/d"}),
        ("--device-rm /dev/a --device-rm /dev/b:r", {"device": None}),
        ("--shm-size 1g", {"shm-size": "1g"}),
        ("--shm-size ''", {"shm-size": None}),
        ("--privileged=false --ipc none", {"privileged": None, "ipc": "none"}),
        ("--storage-opt-rm size", {"storage-opt": None}),
        ("--container-label-rm swarmsh.run.device --device-add /dev/z", {"device": "/dev/z"}),
    ],
)
def test_flags_of_update_change_what_they_name(
    manager: Recorder, cli: Cli, line: str, changes: dict[str, str | None]
) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"] = OLD
    manager.on("GET", "/services/web", service)
    manager.on("POST", f"/services/{service['ID']}/update", {})
    result = cli("service", "update", "-d", *shlex.split(line), "web")
    assert result.code == 0, result.err
    changed = OLD | {f"swarmsh.run.{name}": text for name, text in changes.items()}
    assert labels_sent(manager, f"/services/{service['ID']}/update") == {k: v for k, v in changed.items() if v}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--device fuse", "'--device': 'fuse' names no absolute path"),
        ("--shm-size lots", "'--shm-size': 'lots' is not a size"),
        ("--pid container:x", "names a container of one node"),
        ("--shm-size ''", "'' is not a size"),
    ],
)
def test_a_wrong_flag_is_refused_by_its_name(manager: Recorder, cli: Cli, line: str, message: str) -> None:
    result = cli("service", "create", *shlex.split(line), "nginx")
    assert (result.code, message in result.err) == (2, True), result.err
    assert not manager.requests


def test_inspect_pretty_shows_run_options_apart_from_labels(manager: Recorder, cli: Cli) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"] = OLD
    manager.on("GET", "/services/web", service)
    out = cli("service", "inspect", "--pretty", "web").out
    assert " Labels:\n  team=a\n Run options:\n  device=/dev/a,/dev/b:r\n  shm-size=64m\n" in out
