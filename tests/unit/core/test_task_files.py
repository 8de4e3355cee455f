"""Where the files of secrets and configs are in a container, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from swarmsh.core.container import ensure_action
from swarmsh.core.task_files import check_files, lacking, task_files
from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import TaskFile, TaskReport
from swarmsh.model.specs import ContainerSpec, TaskSpec
from swarmsh.model.wire import from_wire
from tests.unit.core.test_container import NODE, made_of


def secret(target: str, name: str = "pass", **file: Any) -> dict[str, Any]:
    found = {"Name": target, "UID": "0", "GID": "0", "Mode": 0o444} | file
    return {"SecretID": f"id-{name}", "SecretName": name, "File": found}


def config(target: str, name: str = "conf", **file: Any) -> dict[str, Any]:
    found = {"Name": target, "UID": "0", "GID": "0", "Mode": 0o444} | file
    return {"ConfigID": f"id-{name}", "ConfigName": name, "File": found}


def files_of(**container: Any) -> tuple[TaskFile, ...]:
    return task_files(from_wire(TaskSpec, {"ContainerSpec": {"Image": "web"} | container}))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("pass", "/run/secrets/pass"),
        ("sub/pass", "/run/secrets/sub/pass"),
        ("/etc/pass", "/etc/pass"),
        ("../pass", "/run/pass"),
        ("//etc//pass", "/etc/pass"),
    ],
)
def test_a_secret_is_below_run_secrets_unless_its_target_is_absolute(name: str, target: str) -> None:
    assert [file.target for file in files_of(Secrets=[secret(name)])] == [target]


def test_a_config_is_below_the_root() -> None:
    found = files_of(Configs=[config("app.conf"), config("/etc/x", "x", UID="33", GID="34", Mode=0o755)])
    assert found == (
        TaskFile(id="id-conf", target="/app.conf"),
        TaskFile(id="id-x", target="/etc/x", uid=33, gid=34, mode=0o755),
    )


def test_a_config_for_a_credential_spec_is_no_file() -> None:
    assert files_of(Configs=[{"ConfigID": "c", "ConfigName": "c", "Runtime": {}}]) == ()


def test_a_node_is_told_of_the_files_and_of_no_contents() -> None:
    task = made_of({"ContainerSpec": {"Secrets": [secret("pass")]}})
    assert ensure_action(task, NODE, "c", "running").files == (TaskFile(id="id-pass", target="/run/secrets/pass"),)
    assert "secrets" not in str(ensure_action(task, NODE, "c", "running").config)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"Secrets": [secret("")]}, "secret pass: invalid target ''"),
        ({"Secrets": [secret(".")]}, "secret pass: invalid target '.'"),
        ({"Configs": [config("/")]}, "config conf: invalid target '/'"),
        ({"Configs": [config("/etc/")]}, "config conf: invalid target '/etc/'"),
        ({"Secrets": [secret("a", UID="root")]}, "secret pass: uid must be a number, not 'root'"),
        ({"Secrets": [secret("a", GID="-1")]}, "secret pass: gid must be a number, not '-1'"),
        ({"Secrets": [secret("a", UID="4294967295")]}, "secret pass: uid must be a number"),
        (
            {"Secrets": [secret("a")], "Configs": [config("/run/secrets/a")]},
            "secret pass and config conf have a conflicting target: /run/secrets/a",
        ),
        (
            {"Secrets": [secret("a"), secret("a/b", "other")]},
            r"secret pass \(/run/secrets/a\) and secret other \(/run/secrets/a/b\) cannot both be there",
        ),
        (
            {"Configs": [config("/data")], "Mounts": [{"Type": "volume", "Target": "/data/"}]},
            "config conf and a mount have a conflicting target: /data",
        ),
        (
            {"Configs": [config("/data")], "Mounts": [{"Type": "volume", "Target": "/data/x"}]},
            "the mount at /data/x cannot be below /data, which is the file of config conf",
        ),
    ],
)
def test_files_that_cannot_be_there_are_refused(container: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        check_files(from_wire(ContainerSpec, {"Image": "web"} | container))


def test_files_beside_mounts_are_accepted() -> None:
    mounts = [{"Type": "volume", "Target": "/run/secrets/more"}, {"Type": "tmpfs", "Target": "/run"}]
    check_files(
        from_wire(
            ContainerSpec,
            {"Image": "w", "Secrets": [secret("a")], "Configs": [config("/data/a")], "Mounts": mounts},
        )
    )


FILES = (TaskFile(id="a", target="/a"), TaskFile(id="b", target="/b"), TaskFile(id="a", target="/c"))


@pytest.mark.parametrize(
    ("found", "given", "wanted"),
    [
        (None, (), ("a", "b")),
        (None, ("a",), ("b",)),
        (TaskReport(task_id="t", state="ready", wanted="ready"), (), ()),  # it has what it was told of
        (TaskReport(task_id="t", state="preparing", wanted="running", missing=("b",)), (), ("b",)),
        (TaskReport(task_id="t", state="preparing", wanted="running", missing=("b",)), ("b",), ()),
        (TaskReport(task_id="t", state="ready"), (), ("a", "b")),  # found by its labels, after a reboot
    ],
)
def test_what_a_node_lacks(found: TaskReport | None, given: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    assert lacking(FILES, found, set(given)) == wanted
