"""Logs, events and exec: what goes on until somebody ends it."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from msgspec.structs import replace

from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def frames(data):
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + size].decode()))
        data = data[8 + size :]
    return found


async def logs(api, path="/services/web/logs", **query):
    params = {"stdout": "1", "stderr": "1"} | query
    async with api.http.get("http://swarmsh/v1.51" + path, params=params) as response:
        assert response.status == 200, await response.text()
        return response.content_type, await response.read()


async def two_tasks(api):
    await api.create(replicas=2)
    await api.orchestrator.settle()
    first, second = await api.get("/tasks")
    return first, second


def container(task):
    return task["Status"]["ContainerStatus"]["ContainerID"]


# --- logs ---------------------------------------------------------------------------------------------------
async def test_lines_of_all_tasks_are_merged_by_time_in_frames(api):
    first, second = await two_tasks(api)
    for number in range(0, 6, 2):
        api.streams.say(container(first), f"line {number}", at=number)
        api.streams.say(container(second), f"line {number + 1}", at=number + 1, stream=2)
    kind, data = await logs(api)
    assert kind == "application/vnd.docker.multiplexed-stream"
    assert frames(data) == [(1 + n % 2, f"line {n}\n") for n in range(6)]


async def test_details_and_timestamps_are_in_the_order_that_the_cli_reads(api):
    first, _ = await two_tasks(api)
    api.streams.say(container(first), "hello world", at=3)
    _, data = await logs(api, details="1", timestamps="true")
    assert frames(data) == [
        (
            1,
            f"2023-11-14T22:13:03.000000000Z com.docker.swarm.node.id={first['NodeID']},"
            f"com.docker.swarm.service.id={first['ServiceID']},com.docker.swarm.task.id={first['ID']} "
            "hello world\n",
        )
    ]


async def test_a_tty_is_streamed_raw_and_old_clients_get_the_old_type(api):
    await api.create("tty", 1, ContainerSpec={"Image": "x", "TTY": True})
    await api.orchestrator.settle()
    (task,) = await api.get("/tasks")
    api.streams.say(container(task), "raw")
    assert await logs(api, "/services/tty/logs") == ("application/vnd.docker.raw-stream", b"raw\n")
    async with api.http.get("http://swarmsh/v1.41/tasks/tty.1/logs?stdout=1") as response:
        assert response.content_type == "application/vnd.docker.raw-stream"


async def test_queries_reach_the_engine_and_bad_ones_are_refused(api):
    first, _ = await two_tasks(api)
    await logs(api, f"/tasks/{first['ID']}/logs", tail="5", since="1700000000.5", until="1700000001", stderr="0")
    (asked,) = api.streams.queries
    assert asked[1] == {
        "stdout": "1",
        "stderr": "0",
        "follow": "0",
        "timestamps": "1",
        "tail": "5",
        "since": "1700000000.500000000",
        "until": "1700000001.000000000",
    }
    for bad in ("tail=x&stdout=1", "since=yesterday&stdout=1", "until=nan&stdout=1", "", "stdout=0&stderr=false"):
        assert (await api.call("GET", f"/services/web/logs?{bad}"))[0] == 400, bad
    assert (await api.call("GET", "/services/none/logs?stdout=1"))[0] == 404


@pytest.mark.parametrize("fault", ["away", "hung"])
async def test_a_dead_node_holds_nobody_up_and_is_named(api, fault, monkeypatch):
    monkeypatch.setattr("swarmsh.api.log_sources.PATIENCE_S", 0.05)
    monkeypatch.setattr("swarmsh.api.log_sources.GIVEN_UP_AFTER_S", 0.1)
    first, second = await two_tasks(api)
    getattr(api.streams if fault == "hung" else api.nodes, fault).add(first["NodeID"])
    for number in range(50):
        api.streams.say(container(second), f"line {number}", at=number)
    _, data = await logs(api)
    *lines, (stream, last) = frames(data)
    assert len(lines) == 50
    assert stream == 3
    assert "incomplete log stream" in last
    assert f"node {first['NodeID']} is not available" in last


class Following:
    """A followed log, read line by line."""

    def __init__(self, api, path="/services/web/logs", **query):
        params = {"stdout": "1", "stderr": "1", "follow": "1"} | query
        self._request = api.http.get("http://swarmsh/v1.51" + path, params=params)

    async def __aenter__(self):
        self._response = await self._request.__aenter__()
        return self

    async def __aexit__(self, *exc):
        self._response.close()

    async def line(self):
        async with asyncio.timeout(10):
            head = await self._response.content.readexactly(8)
            return (await self._response.content.readexactly(int.from_bytes(head[4:], "big"))).decode().strip()

    async def end(self):
        async with asyncio.timeout(10):
            assert await self._response.content.read() == b""


async def test_following_goes_on_and_new_tasks_join(api):
    first, second = await two_tasks(api)
    async with api.orchestrator.running(), Following(api, tail="1") as following:
        api.streams.say(container(first), "one")
        assert await following.line() == "one"
        api.streams.say(container(second), "two")
        assert await following.line() == "two"
        service = await api.get("/services/web")
        service["Spec"]["Mode"]["Replicated"]["Replicas"] = 3
        await api.call("POST", f"/services/web/update?version={service['Version']['Index']}", service["Spec"])
        await api.orchestrator.settle()
        third = (await api.get("/tasks"))[2]
        api.streams.say(container(third), "three")
        assert await following.line() == "three"
        api.streams.say(container(third), "four")
        assert await following.line() == "four"
        assert {c for c, q in api.streams.queries if q["tail"] == "all"} == {container(third)}
        await api.call("DELETE", "/services/web")
        for task in (first, second, third):
            api.streams.end(container(task))
        await following.end()


async def test_a_followed_node_that_was_away_goes_on_where_it_was(api, monkeypatch):
    monkeypatch.setattr("swarmsh.api.log_sources.RETRY_S", 0.01)
    first, _ = await two_tasks(api)
    async with Following(api) as following:
        api.streams.say(container(first), "before", at=1)
        assert await following.line() == "before"
        api.nodes.away.add(first["NodeID"])
        api.streams.say(container(first), "during", at=2)
        assert await following.line() == "during"  # read, and then the connection was lost
        api.streams.say(container(first), "after", at=3)
        api.nodes.away.clear()
        assert await following.line() == "after"


async def test_following_a_task_ends_with_it(api):
    first, _ = await two_tasks(api)
    async with Following(api, f"/tasks/{first['ID']}/logs") as following:
        api.streams.say(container(first), "bye")
        assert await following.line() == "bye"
        task = api.store.snapshot.tasks[first["ID"]]
        ended = replace(task, status=replace(task.status, state=TaskState.COMPLETE))
        api.store.observe(lambda _: Changes(put_tasks=(ended,)))
        api.streams.end(container(first))
        await following.end()


async def test_a_client_that_leaves_leaves_nothing_behind(api):
    await two_tasks(api)
    before = len(asyncio.all_tasks())
    async with Following(api):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before or api.store._subscribers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- events -------------------------------------------------------------------------------------------------
async def events(api, **query):
    async with api.http.get("http://swarmsh/events", params=query) as response:
        assert response.content_type == "application/json"
        return [json.loads(line) for line in (await response.text()).splitlines()]


async def test_kept_events_have_dockers_form_and_attributes(api):
    service_id = await api.create(replicas=1)
    service = await api.get("/services/web")
    spec = service["Spec"]
    spec["Mode"]["Replicated"]["Replicas"] = 4
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    await api.call("POST", f"/services/web/update?version={service['Version']['Index']}", spec)
    await api.call("DELETE", "/services/web")
    until = str(api.deps.clock.now() + 0.01)
    created, updated, removed = await events(api, since="0", until=until, filters='{"type":["service"]}')
    assert [e["Action"] for e in (created, updated, removed)] == ["create", "update", "remove"]
    assert (created["Type"], created["scope"]) == ("service", "swarm")
    assert created["time"] == created["timeNano"] // 1_000_000_000
    assert updated["Actor"] == {
        "ID": service_id,
        "Attributes": {
            "name": "web",
            "replicas.old": "1",
            "replicas.new": "4",
            "image.old": "web:1",
            "image.new": "web:2",
        },
    }


async def test_events_are_filtered(api):
    await api.create("alpha")
    await api.create("beta")
    node = await api.get("/nodes/n1")
    spec = node["Spec"] | {"Availability": "drain"}
    await api.call("POST", f"/nodes/n1/update?version={node['Version']['Index']}", spec)

    async def names(**filters):
        until = str(api.deps.clock.now())
        found = await events(api, since="0", until=until, filters=json.dumps(filters))
        return [e["Actor"]["Attributes"]["name"] for e in found]

    assert await names(service=["alph"]) == ["alpha"]
    assert await names(type=["node"]) == ["n1"]
    assert await names(event=["create"]) == ["alpha", "beta"]
    assert await names(container=["alpha"]) == []
    assert await names(scope=["local"]) == []
    assert await names(label=["availability.new=drain"]) == ["n1"]
    assert (await api.call("GET", "/events?since=never"))[0] == 400


async def test_live_events_come_once_also_if_they_fall_between_history_and_present(api):
    await api.create("old")
    async with api.http.get("http://swarmsh/events", params={"since": "0"}) as response:
        await api.create("new")
        async with asyncio.timeout(10):
            seen = [json.loads(await response.content.readline()) for _ in range(2)]
            await api.create("newest")
            seen.append(json.loads(await response.content.readline()))
        response.close()
    assert [e["Actor"]["Attributes"]["name"] for e in seen] == ["old", "new", "newest"]


# --- exec ---------------------------------------------------------------------------------------------------
def exec_url(ref, argv, **query):
    from urllib.parse import urlencode

    return f"http://swarmsh/v1.51/swarmsh/tasks/{ref}/exec?" + urlencode({"cmd": json.dumps(argv)} | query)


async def test_exec_carries_both_outputs_input_size_and_exit_code(api):
    await two_tasks(api)
    url = exec_url("web.2", ["cat"], stdin=1, tty=1, env='["A=B"]', user="me", workdir="/w", height=24, width=80)
    async with api.http.ws_connect(url) as channel:
        await channel.send_bytes(b"hello")
        assert await channel.receive_bytes() == b"\x01hello"
        await channel.send_bytes(b"!oops")
        assert await channel.receive_bytes() == b"\x02!oops"
        await channel.send_str('{"resize":[50,132]}')
        await channel.send_str('{"eof":true}')
        assert await channel.receive_json() == {"exit": 7}
        assert (await channel.receive()).type is aiohttp.WSMsgType.CLOSE
    (request,) = api.streams.execs
    assert (request.argv, request.tty, request.stdin, request.env) == (("cat",), True, True, ("A=B",))
    assert (request.user, request.workdir, request.height, request.width) == ("me", "/w", 24, 80)
    assert api.streams.resized == [(50, 132)]


async def test_exec_tells_why_it_cannot(api):
    first, _ = await two_tasks(api)

    async def error(url):
        async with api.http.ws_connect(url) as channel:
            return (await channel.receive_json())["error"]

    assert "not found" in await error(exec_url("none.1", ["sh"]))
    assert "cmd is missing" in await error(exec_url("web.1", []))
    assert "invalid cmd" in await error("http://swarmsh/swarmsh/tasks/web.1/exec?cmd=ls")
    api.nodes.away.add(first["NodeID"])
    assert "cannot be reached" in await error(exec_url("web.1", ["sh"]))
    assert (await api.call("GET", "/swarmsh/tasks/web.1/exec"))[0] == 400


async def test_a_malformed_message_ends_the_command_with_a_reason(api):
    await two_tasks(api)
    async with api.http.ws_connect(exec_url("web.1", ["cat"], stdin=1)) as channel:
        await channel.send_str("{")
        assert "invalid message" in (await channel.receive_json())["error"]


# --- the end ------------------------------------------------------------------------------------------------
async def test_streams_end_when_the_manager_stops():
    async with served() as api:
        await two_tasks(api)
        response = await api.http.get("http://swarmsh/events")
        logs_response = await api.http.get("http://swarmsh/services/web/logs?follow=1&stdout=1")
        api.deps.stopping.set()
        async with asyncio.timeout(10):
            assert await response.read() == b""
            assert await logs_response.read() == b""
