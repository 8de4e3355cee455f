"""Sessions with the helper: the order of things, refusals, limits, and messages as in the samples."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from swarmsh.model.actions import Batch, TaskReport
from tests.unit.helpers.conftest import MESSAGES, World, ensure, sample

msgspec: Any = pytest.importorskip("msgspec")


def shape(value: Any) -> Any:
    """Types in place of values; a list by its first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize("path", sorted(MESSAGES.glob("*.json")), ids=lambda path: path.stem)
def test_a_sample_fits_a_line_and_the_managers_types(path: Any) -> None:
    message = json.loads(path.read_text())
    assert len(json.dumps(message)) < 2**20
    if message.get("event") == "task":
        msgspec.convert(message["data"], TaskReport)
    if message.get("op") == "apply":
        msgspec.convert(message["args"], Batch)
    if message.get("ok") is False:
        assert set(message["error"]) >= {"code", "message", "hint"}


async def test_a_session_speaks_as_in_the_samples(world: World) -> None:
    manager = await world.manager(attach=False)
    hello = await manager.event("hello")
    assert shape(hello) == shape({**sample("hello")["data"], "tasks": []})
    attach = sample("attach")
    assert shape(await manager.request("attach", attach["args"])) == shape(sample("attach_reply"))
    network_args = sample("network")["args"]
    assert (await manager.request("network", network_args))["result"] == {"drift": []}
    reply = await manager.request("contents", sample("contents")["args"])
    assert shape(reply) == shape(sample("contents_reply"))
    apply = sample("apply_ensure_task")
    apply["args"]["actions"][0].pop("probe")
    reply = await manager.request("apply", apply["args"])
    assert shape(reply) == shape(sample("apply_reply"))
    task_id = apply["args"]["actions"][0]["task_id"]
    running = await manager.task(task_id, "running")
    assert set(running) <= set(sample("task_running")["data"])
    assert (await manager.request("apply", sample("apply_refresh_secrets")["args"]))["ok"]
    missing = await manager.task(
        task_id, "running", missing=[sample("apply_refresh_secrets")["args"]["actions"][0]["files"][0]["id"]]
    )
    assert set(missing) <= set(sample("task_missing")["data"]) | set(running)
    assert shape(await manager.event("heartbeat")) == shape(sample("heartbeat")["data"])
    for op in ("lease", "report", "check", "end_processes", "resolve_image", "listeners"):
        request, wanted = sample(op), sample(f"{op}_reply")
        reply = await manager.request(op, request["args"])
        assert reply["ok"], reply
        assert set(reply["result"]) == set(wanted["result"])
    assert (await manager.request("network", sample("network_change")["args"]))["ok"]
    more, rest = sample("network_more")["args"], {**network_args, "fresh": False, "index": 347}
    assert (await manager.request("network", more))["result"] == {"drift": []}
    world.drift.append(["link sv1000 was missing"])
    assert shape(await manager.request("network", rest)) == shape(sample("network_reply"))
    assert shape(await manager.request("secure", sample("secure")["args"])) == shape(sample("secure_reply"))
    for name in ("apply_stop_task", "apply_remove_task"):
        assert (await manager.request("apply", sample(name)["args"]))["ok"]
    gone = await manager.task(task_id, "gone")
    assert set(gone) <= set(sample("task_gone")["data"])
    assert (await manager.request("release"))["ok"]


async def test_refusals_are_as_in_the_samples(world: World) -> None:
    manager = await world.manager(attach=False)

    async def code(op: str, args: dict[str, Any] | None = None) -> str:
        reply = await manager.request(op, args)
        assert set(reply["error"]) == {"code", "message", "hint"}
        return str(reply["error"]["code"])

    assert await code("report") == "not_attached"
    assert await code("dance") == "unknown_op"
    assert await code("attach", {"cluster_id": "a"}) == "bad_request"
    assert (await manager.attach(epoch=5))["ok"]
    await manager.apply(ensure(), index=7, epoch=5)
    batch = {"cluster_id": "clustera", "epoch": 5, "index": 7, "actions": []}
    assert await code("apply", {**batch, "index": 6}) == "stale_index"
    assert await code("apply", {**batch, "epoch": 4}) == "stale_epoch"
    assert await code("apply", {**batch, "cluster_id": "b"}) == "other_cluster"
    assert await code("apply", {**batch, "actions": [{"do": "dance"}]}) == "bad_request"
    assert await code("apply", {**batch, "actions": None}) == "bad_request"


async def test_a_refused_batch_changes_nothing(world: World) -> None:
    manager = await world.manager()
    wrong = ensure("t2")
    del wrong["image"]
    reply = await manager.apply(ensure("t1"), wrong, index=9)
    assert "image" in reply["error"]["message"]
    assert not world.engine.containers
    assert (await manager.apply(index=2))["ok"]  # nor was its index taken over


async def test_a_newer_session_supersedes_an_older_one(world: World) -> None:
    first = await world.manager(epoch=1)
    second = await world.manager(attach=False)
    assert (await second.attach(epoch=2))["ok"]
    assert "epoch 2" in (await first.event("superseded"))["reason"]
    await first.until(lambda: first.ended)
    third = await world.manager(attach=False)
    assert (await third.attach(epoch=1))["error"]["code"] == "stale_epoch"
    assert (await second.request("lease"))["ok"]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b"x" * (2**20 + 1)])
async def test_a_broken_line_ends_the_session_with_a_reason_and_never_the_helper(
    world: World, line: bytes
) -> None:
    manager = await world.manager()
    manager.writer.write(line)
    assert (await manager.event("goodbye"))["reason"]
    await manager.until(lambda: manager.ended)
    assert (await world.manager(epoch=2)).events[0]["event"] == "hello"


async def test_the_stubs_process_ends_with_the_session(world: World) -> None:
    manager = await world.manager()
    manager.writer.write(b"nonsense\n")
    await manager.until(lambda: manager.ended)
    assert await asyncio.to_thread(manager.link.recv, 1) == b""


async def test_a_manager_that_reads_nothing_is_dropped_and_never_waited_for(world: World) -> None:
    silent = await world.manager()
    silent.reader._transport.pause_reading()  # type: ignore[attr-defined]
    assert world.helper is not None
    session = world.helper.session
    sent = 0
    while session.open:
        session.event("description", {"padding": "x" * 500_000})
        sent += 1
        assert sent < 40
    assert sent * 500_000 > 8 * 2**20
    assert (await world.manager(epoch=2)).events[0]["event"] == "hello"


async def test_a_hello_that_fits_no_line_is_sent_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remote_helpers.helper.REPORT_ROOM", 2000)
    for number in range(30):
        body = {"Labels": {"swarmsh.cluster": "clustera", "com.docker.swarm.task.id": f"task{number:021d}"}}
        one = world.engine.add({**body}, f"n{number}")
        one["State"].update(Status="exited", StartedAt="2026-01-01T00:00:00Z")
    await world.crash()
    world.resume()
    manager = await world.manager(attach=False)
    hello = await manager.event("hello")
    assert hello["more"]
    assert 0 < len(hello["tasks"]) < 30
    await manager.event("synced")
    assert len(manager.tasks) == 30


async def test_a_description_that_came_after_the_hello_is_told_on_attach(world: World) -> None:
    await world.crash()
    await world.engine.stop()
    world.resume()
    manager = await world.manager(attach=False)
    await world.engine.start()
    assert world.helper is not None
    await world.helper.watch.synced.wait()
    await world.helper._described.wait()
    await manager.attach()
    assert shape(await manager.event("description")) == shape(sample("description")["data"])


async def test_a_deadline_is_answered(world: World) -> None:
    manager = await world.manager()
    await world.engine.stop()
    manager.send({"id": 99, "op": "report", "deadline_s": 0.05, "args": {}})
    reply = await manager.until(lambda: manager.replies.get(99))
    assert reply["error"]["code"] in ("deadline", "engine_gone")


async def test_an_engine_that_is_down_does_not_keep_the_hello(world: World) -> None:
    await world.crash()
    await world.engine.stop()
    world.resume()
    manager = await world.manager(attach=False)
    hello = await manager.event("hello")
    assert shape(hello) == shape(sample("hello_engine_down")["data"])
