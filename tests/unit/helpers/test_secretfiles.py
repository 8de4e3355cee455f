"""Secrets and configs on a node: files in memory, given before a task, gone with it, and told of nowhere."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import secretfiles
from remote_helpers.engine import Engine, EngineError
from remote_helpers.fence import Refused
from remote_helpers.secretfiles import SecretFiles, in_folder, is_file, with_mounts
from tests.unit.helpers.conftest import Manager, World, ensure
from tests.unit.helpers.test_tasks import poll

PASS = "hunter2-" + "x" * 40
FILE = {"id": "sec1", "target": "/run/secrets/pass", "uid": 0, "gid": 0, "mode": 0o440}


def content(text: str = PASS, task_id: str = "t1", object_id: str = "sec1", **changes: Any) -> dict[str, Any]:
    data = text.encode()
    item = {"task_id": task_id, "id": object_id, "size": len(data), "data": base64.b64encode(data).decode()}
    return {**item, **changes}


async def give(manager: Manager, *items: dict[str, Any], epoch: int = 1) -> dict[str, Any]:
    args = {"cluster_id": "clustera", "epoch": epoch, "index": 1, "items": list(items)}
    return await manager.request("contents", args)


def refresh(number: int, *files: dict[str, Any], signal: str = "") -> dict[str, Any]:
    return {"do": "refresh_secrets", "task_id": "t1", "number": number, "signal": signal, "files": list(files)}


def kept(world: World) -> list[str]:
    """All files below the folder of secrets."""
    folder = Path(world.root) / "secrets"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- files -----------------------------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path, memory_is_a_folder: None) -> SecretFiles:
    return SecretFiles(str(tmp_path))


def test_a_file_has_the_content_and_the_mode_that_were_asked_for(files: SecretFiles, tmp_path: Path) -> None:
    files.take(content())
    assert files.missing("t1", [FILE]) == []
    files.place("t1", [FILE], {})
    path = tmp_path / "secrets/t1/run/pass"
    assert path.read_text() == PASS
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    folders = ("secrets/t1", "secrets/t1/run")
    assert [stat.S_IMODE((tmp_path / one).stat().st_mode) for one in folders] == [0o700, 0o755]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_has_the_owner_that_was_asked_for(files: SecretFiles, tmp_path: Path) -> None:
    files.take(content())
    files.take(content(object_id="conf"))
    single = {"id": "conf", "target": "/etc/app.conf", "uid": 33, "gid": 34, "mode": 0o400}
    files.place("t1", [{**FILE, "uid": 1000, "gid": 1001}, single], {})
    found = [path.stat() for path in sorted((tmp_path / "secrets/t1").glob("*/*"))]
    assert [(one.st_uid, one.st_gid, stat.S_IMODE(one.st_mode)) for one in found] == [
        (1000, 1001, 0o440),
        (33, 34, 0o400),
    ]


def test_targets_below_run_secrets_are_one_mount_and_others_one_each(files: SecretFiles, tmp_path: Path) -> None:
    targets = ("/run/secrets/a", "/run/secrets/sub/b", "/etc/app.conf", "/top")
    wanted = [{"id": "sec1", "target": target} for target in targets]
    files.take(content())
    files.place("t1", wanted, {})
    mounts = files.mounts("t1", wanted, {})
    assert [(one["Type"], one["Target"], one["ReadOnly"]) for one in mounts] == [
        ("bind", "/etc/app.conf", True),
        ("bind", "/run/secrets", True),
        ("bind", "/top", True),
    ]
    assert (Path(mounts[1]["Source"]) / "sub/b").read_text() == PASS
    assert Path(mounts[0]["Source"]).read_text() == PASS
    assert stat.S_IMODE((Path(mounts[1]["Source"]) / "sub").stat().st_mode) == 0o755
    assert stat.S_IMODE(Path(mounts[0]["Source"]).stat().st_mode) == 0o444


@pytest.mark.parametrize(
    "host",
    [
        {"Mounts": [{"Type": "volume", "Target": "/run/secrets"}]},
        {"Mounts": [{"Type": "volume", "Target": "/run/secrets/more/"}]},
        {"Binds": ["/srv:/run/secrets:ro"]},
        {"Tmpfs": {"/run/secrets": ""}},
    ],
)
def test_where_the_task_mounts_something_there_itself_each_secret_is_a_mount(
    files: SecretFiles, host: dict[str, Any]
) -> None:
    config = {"HostConfig": host}
    assert not in_folder(config, [FILE])
    assert [one["Target"] for one in files.mounts("t1", [FILE], config)] == ["/run/secrets/pass"]
    assert in_folder({"HostConfig": {"Mounts": [{"Target": "/run"}], "Binds": ["/a:/run/secrets2"]}}, [FILE])


@pytest.mark.parametrize(
    ("host", "more"),
    [({}, [{"id": "c1", "target": "/var/run/secrets/token"}]), ({"Binds": ["/srv:/var/run/secrets/x:ro"]}, [])],
)
def test_where_something_is_below_the_link_to_run_each_secret_is_a_mount(
    files: SecretFiles, host: dict[str, Any], more: list[dict[str, Any]]
) -> None:
    targets = [one["Target"] for one in files.mounts("t1", [FILE, *more], {"HostConfig": host})]
    assert targets == ["/run/secrets/pass", *(one["target"] for one in more)]


def test_an_exchange_that_breaks_off_leaves_no_record_of_what_is_not_there(
    files: SecretFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = {"id": "c1", "target": "/etc/app.conf"}
    newer = {**single, "id": "c2"}
    files.take(content("old content", object_id="c1"))
    files.place("t1", [single], {})
    path = Path(files.mounts("t1", [single], {})[0]["Source"])
    files.take(content("newer content", object_id="c2"))
    real = secretfiles._write_all

    def full(fd: int, data: bytes) -> None:
        if bytes(data) == b"newer content":
            real(fd, data[:5])
            raise OSError(28, "No space left on device")
        real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(secretfiles, "_write_all", full)
        with pytest.raises(OSError, match="No space left"):
            files.place("t1", [newer], {})
    assert path.read_text() == "newerontent"
    assert files.missing("t1", [single]) == ["c1"]  # it is not what it was
    assert files.missing("t1", [newer]) == []
    files.place("t1", [newer], {})
    assert path.read_text() == "newer content"


def test_an_exchanged_secret_takes_the_others_place_at_once(files: SecretFiles, tmp_path: Path) -> None:
    files.take(content())
    files.place("t1", [FILE], {})
    path = tmp_path / "secrets/t1/run/pass"
    with path.open() as open_before:
        files.take(content("new", object_id="sec2"))
        newer = {**FILE, "id": "sec2"}
        assert files.missing("t1", [newer]) == []
        files.place("t1", [newer], {})
        assert open_before.read() == PASS  # whole: it is another file now
    assert path.read_text() == "new"
    assert kept_below(tmp_path) == ["t1/placed.json", "t1/run/pass"]


def test_an_exchanged_file_that_is_a_mount_stays_the_same_inode(files: SecretFiles, tmp_path: Path) -> None:
    single = {"id": "c1", "target": "/etc/app.conf"}
    files.take(content("long content", object_id="c1"))
    files.place("t1", [single], {})
    path = Path(files.mounts("t1", [single], {})[0]["Source"])
    inode = path.stat().st_ino
    files.take(content("new", object_id="c2"))
    files.place("t1", [{**single, "id": "c2", "mode": 0o400}], {})
    assert (path.read_text(), path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == ("new", inode, 0o400)


def kept_below(root: Path) -> list[str]:
    folder = root / "secrets"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_large_contents_come_in_parts(files: SecretFiles, tmp_path: Path) -> None:
    whole = os.urandom(900)
    for at in (0, 400, 800):
        assert files.missing("t1", [FILE]) == ["sec1"]
        data = base64.b64encode(whole[at : at + 400]).decode()
        files.take({"task_id": "t1", "id": "sec1", "offset": at, "size": 900, "data": data})
    files.place("t1", [FILE], {})
    assert (tmp_path / "secrets/t1/run/pass").read_bytes() == whole


def test_contents_that_broke_off_begin_anew(files: SecretFiles, tmp_path: Path) -> None:
    files.take(content("abc", size=6))
    files.take(content("xyz"))
    files.place("t1", [FILE], {})
    assert (tmp_path / "secrets/t1/run/pass").read_text() == "xyz"


def test_nothing_is_a_content_too(files: SecretFiles, tmp_path: Path) -> None:
    files.take(content(""))
    files.place("t1", [FILE], {})
    assert (tmp_path / "secrets/t1/run/pass").read_bytes() == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"task_id": "../x"},
        {"id": "a/b"},
        {"id": 3},
        {"offset": -1},
        {"offset": 3},
        {"size": "9"},
        {"size": 1},
        {"size": 2**40},
        {"data": "hunter2!!"},
        {"data": 5},
    ],
)
def test_parts_that_cannot_be_are_refused_without_a_word_of_them(
    files: SecretFiles, changes: dict[str, Any]
) -> None:
    with pytest.raises(Refused) as caught:
        files.take(content(**changes))
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [{"id": "../a"}, {"target": "a"}, {"target": "/a/../b"}, {"target": "/"}, {"mode": "0444"}, {"uid": -1}],
)
def test_files_that_cannot_be_are_known(changes: dict[str, Any]) -> None:
    assert is_file(FILE)
    assert not is_file({**FILE, **changes})


def test_mounts_are_added_to_those_of_the_task() -> None:
    body = {"HostConfig": {"Mounts": [{"Target": "/a"}], "Init": True}}
    added = with_mounts(body, [{"Target": "/b"}])
    assert added == {"HostConfig": {"Mounts": [{"Target": "/a"}, {"Target": "/b"}], "Init": True}}
    assert with_mounts(body, []) is body


# --- the life of a task ----------------------------------------------------------------------------------------
async def test_a_task_begins_with_what_it_was_given(world: World) -> None:
    manager = await world.manager()
    assert (await give(manager, content()))["ok"]
    await manager.apply(ensure(files=[FILE]))
    report = await manager.task("t1", "running")
    assert "missing" not in report
    host = world.engine.bodies[0][1]["HostConfig"]
    source = f"{world.root}/secrets/t1/run"
    assert host["Mounts"] == [{"Type": "bind", "Source": source, "Target": "/run/secrets", "ReadOnly": True}]
    assert (Path(source) / "pass").read_text() == PASS
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]


async def test_a_task_waits_for_what_it_was_not_given_and_says_so(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(files=[FILE, {"id": "sec2", "target": "/b"}]))
    assert (await manager.task("t1", "preparing", missing=["sec1", "sec2"]))["wanted"] == "running"
    assert not world.engine.containers
    await give(manager, content())
    await manager.task("t1", "preparing", missing=["sec2"])
    await give(manager, content(object_id="sec2"))
    assert "missing" not in await manager.task("t1", "running")


@pytest.mark.parametrize("end", ["stop", "remove", "die"])
async def test_contents_are_gone_with_the_task(world: World, end: str) -> None:
    manager = await world.manager()
    await give(manager, content(), content("other", task_id="t2"))
    await manager.apply(ensure(files=[FILE]), ensure("t2", files=[FILE]))
    await manager.task("t1", "running")
    await manager.task("t2", "running")
    if end == "die":
        world.engine.die("t1", 1)
        await manager.task("t1", "failed")
    else:
        await manager.apply({"do": f"{end}_task", "task_id": "t1"})
        await manager.task("t1", {"stop": "shutdown", "remove": "gone"}[end])
    assert kept(world) == ["t2/placed.json", "t2/run/pass"]
    assert (await give(manager, content()))["ok"]  # too late: under way when the task ended
    if end != "remove":
        assert kept(world) == ["t2/placed.json", "t2/run/pass"]


async def test_a_restarted_helper_finds_them_in_place_and_asks_for_none(world: World) -> None:
    manager = await world.manager()
    await give(manager, content(), content(task_id="t2"))
    await manager.apply(ensure(files=[FILE]), ensure("t2", desired="ready", files=[FILE]))
    await manager.task("t1", "running")
    await manager.task("t2", "ready")
    await world.crash()
    world.resume()
    manager = await world.manager(epoch=2)
    assert "missing" not in manager.tasks["t1"] and "missing" not in manager.tasks["t2"]
    await manager.apply(ensure("t2", files=[FILE]), epoch=2)
    await manager.task("t2", "running")
    assert world.engine.calls.count("POST /containers/c1/start") == 1
    assert len(kept(world)) == 4


async def test_without_a_manager_what_the_engine_starts_again_finds_its_files(world: World) -> None:
    manager = await world.manager(lease_s=0.5)
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "always")
    world.engine.die("t1", 1)
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]
    world.engine.run("t1")
    await manager.task("t1", "running", restarts=1)
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]


async def test_what_a_former_helper_left_of_tasks_that_are_gone_is_swept(world: World) -> None:
    manager = await world.manager()
    await give(manager, content(), content(task_id="t2"))
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    await world.crash()
    world.resume()
    await world.manager(epoch=2)
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]


async def test_contents_whose_task_never_came_go_with_their_session(world: World) -> None:
    manager = await world.manager()
    await give(manager, content())
    await manager.request("report")  # lists all containers, as after a restart of the Engine
    assert kept(world) == ["t1/sec1.given"]
    await world.manager(epoch=2)
    assert kept(world) == []


async def test_after_a_reboot_a_created_container_starts_only_once_its_files_are_back(world: World) -> None:
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(desired="ready", files=[FILE]))
    await manager.task("t1", "ready")
    await world.crash()
    for name in ("state.json", *(f"secrets/{one}" for one in kept(world))):
        os.unlink(f"{world.root}/{name}")
    world.resume()
    manager = await world.manager(epoch=2)
    await manager.apply(ensure(files=[FILE]), epoch=2)
    await manager.task("t1", "ready", missing=["sec1"])
    assert "POST /containers/c1/start" not in world.engine.calls
    await give(manager, content(), epoch=2)
    await manager.task("t1", "running")
    assert (Path(world.root) / "secrets/t1/run/pass").read_text() == PASS


async def test_contents_are_in_no_state_log_or_refusal(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    manager = await world.manager()
    encoded = base64.b64encode(PASS.encode()).decode()
    replies = [await give(manager, content()), await give(manager, content(offset=1), content(data=PASS))]
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    assert world.helper is not None
    world.helper.state.save()
    said = capfd.readouterr()
    told = [said.err, said.out, str(replies), str(manager.events), str(world.engine.bodies)]
    everywhere = "".join([(Path(world.root) / "state.json").read_text(), *told])
    assert PASS not in everywhere and encoded not in everywhere
    assert replies[1]["error"]["code"] == "bad_request"


async def test_contents_of_an_older_session_are_refused(world: World) -> None:
    newer = await world.manager(epoch=3)
    assert (await give(newer, content(), epoch=2))["error"]["code"] == "stale_epoch"
    assert (await newer.request("contents", {"items": 5}))["error"]["code"] == "bad_request"
    assert kept(world) == []


async def test_a_place_that_cannot_be_made_rejects_the_task(world: World) -> None:
    manager = await world.manager()
    await give(manager, content())
    nested = {**FILE, "target": "/run/secrets/pass/more"}
    await manager.apply(ensure(files=[FILE, nested]))
    report = await manager.task("t1", "rejected")
    assert report["err"] == "secrets and configs: /run/secrets/pass/more cannot be made: File exists"
    assert kept(world) == []


# --- exchanged under a running task ----------------------------------------------------------------------------
async def test_an_exchange_puts_new_contents_in_place_and_sends_the_signal_once(world: World) -> None:
    world.engine.ignores_term = True
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    newer = {**FILE, "id": "sec2"}
    await give(manager, content("new", object_id="sec2"))
    await manager.apply(refresh(1, newer, signal="SIGHUP"))
    report = await manager.task("t1", "running", refreshed=1)
    assert "refresh_err" not in report
    await manager.apply(refresh(1, newer, signal="SIGHUP"))
    await manager.request("report")
    assert [call for call in world.engine.calls if call.endswith("/kill")] == ["POST /containers/c1/kill"]
    assert (Path(world.root) / "secrets/t1/run/pass").read_text() == "new"
    await world.crash()
    world.resume()
    manager = await world.manager(epoch=2)
    assert manager.tasks["t1"]["refreshed"] == 1
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]


async def test_signals_of_exchanges_that_were_overtaken_are_sent_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    real = Engine.call

    async def call(engine: Engine, method: str, path: str, **more: Any) -> Any:
        if path.endswith("/kill"):
            sent.append(more["query"]["signal"])
            if sent[-1] == "SIGFOO":
                raise EngineError(400, "no such signal")
            return None
        return await real(engine, method, path, **more)

    monkeypatch.setattr(Engine, "call", call)
    await give(manager, content("new"))
    await manager.apply({**refresh(3, FILE, signal="SIGHUP"), "earlier": ["SIGFOO", "SIGUSR1"]})
    report = await manager.task("t1", "running", refreshed=3)
    assert sent == ["SIGFOO", "SIGUSR1", "SIGHUP"]
    assert "SIGFOO" in report["refresh_err"]


async def test_an_exchange_takes_what_was_given_again_under_the_same_id(world: World) -> None:
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    await give(manager, content("expanded anew"))
    await manager.apply(refresh(1, FILE))
    await manager.task("t1", "running", refreshed=1)
    assert (Path(world.root) / "secrets/t1/run/pass").read_text() == "expanded anew"
    assert kept(world) == ["t1/placed.json", "t1/run/pass"]


async def test_an_exchange_waits_for_contents_that_were_not_given(world: World) -> None:
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    await manager.apply(refresh(3, {**FILE, "id": "sec2"}))
    await manager.task("t1", "running", missing=["sec2"])
    assert (Path(world.root) / "secrets/t1/run/pass").read_text() == PASS
    await give(manager, content("new", object_id="sec2"))
    assert "missing" not in await manager.task("t1", "running", refreshed=3)
    assert (Path(world.root) / "secrets/t1/run/pass").read_text() == "new"


async def test_a_signal_that_the_engine_refuses_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = await world.manager()
    await give(manager, content())
    await manager.apply(ensure(files=[FILE]))
    await manager.task("t1", "running")
    monkeypatch.setattr(world.engine, "_do_kill", lambda *_: (400, {"message": "invalid signal: SIGFOO"}))
    await manager.apply(refresh(1, FILE, signal="SIGFOO"))
    report = await manager.task("t1", "running", refreshed=1)
    assert report["refresh_err"] == "signal SIGFOO: invalid signal: SIGFOO"


async def test_an_exchange_without_its_files_is_no_action(world: World) -> None:
    manager = await world.manager()
    action = refresh(1, {"id": "sec1"})
    assert "files" in (await manager.apply(action))["error"]["message"]
    assert "files" in (await manager.apply(ensure(files="x")))["error"]["message"]
