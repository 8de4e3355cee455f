"""NodeSessions against a scripted helper behind a real SSH server on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from swarmsh.adapters.nodes import sessions as sessions_module
from swarmsh.errors import HelperRefused, NetworkFailed, NodeDeadline, NodeRequestFailed, NodeUnreachable
from swarmsh.manager.ports import Connected, Described, Disconnected, NetworkChecked, Refused, TasksReported
from swarmsh.model.actions import Batch, ContentPart, ContentParts, EnsureTask, RemoveTask, StopTask
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.netstate import EspEpoch, EspKeys, EspPeer, NetworkChange, OwnNode
from swarmsh.model.paths import Listen, Send
from swarmsh.model.trace import TraceSend, TraceWatch
from tests.component.conftest import TinyHelper, eventually
from tests.component.scripted_helper import HELLO


def batch(*actions: EnsureTask | StopTask | RemoveTask) -> Batch:
    return Batch(cluster_id="cluster1", epoch=1, index=42, actions=actions)


async def test_a_kept_node_is_attached_and_described(serve, make_sessions, helper, key_file: Path) -> None:
    helper.hello = HELLO | {"tasks": [{"task_id": "t1", "state": "running", "ready": True}]}
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    event = await sessions.next_event()

    assert isinstance(event, Connected)
    described = event.report.description
    assert described.address == "127.0.0.1"
    assert (described.hostname, described.platform.architecture, described.memory_bytes) == (
        "n1",
        "x86_64",
        1 << 30,
    )
    gpu, ssd = described.generic_resources
    assert gpu.named_resource_spec is not None
    assert gpu.named_resource_spec.value == "UUID1"
    assert ssd.discrete_resource_spec is not None
    assert ssd.discrete_resource_spec.value == 3
    assert event.report.tasks["t1"].ready
    assert sessions.connected("node1")
    assert sessions.report("node1") == event.report
    attach = helper.requests[0]
    assert attach["op"] == "attach"
    assert attach["args"] == {
        "cluster_id": "cluster1",
        "epoch": 1,
        "index": 42,
        "node_id": "node1",
        "lease_s": 10.0,
        "heartbeat_s": 1.0,
    }
    assert helper.commands == ["python3 -c stub"]


async def test_requests_name_the_last_heartbeat_that_was_heard(
    serve, make_sessions, helper, key_file: Path
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions(lease_s=0.4)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    await eventually(lambda: sum(r["op"] == "lease" for r in helper.requests) >= 3)
    await sessions.apply("node1", batch())
    beats = [r["beat"] for r in helper.requests if "beat" in r]
    assert helper.requests[-1]["op"] in ("apply", "lease")
    assert "beat" in helper.requests[-1]
    assert beats == sorted(beats)
    assert 0 < beats[-1] <= helper.sessions[0].seq


async def test_the_archive_is_pushed_only_if_the_node_lacks_it(
    serve, make_sessions, helper, key_file: Path
) -> None:
    helper.has_archive = False
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert helper.pushed == [TinyHelper.archive]

    server.drop_all()
    await sessions.until(Disconnected)
    await sessions.until(Connected)
    assert len(helper.pushed) == 1


async def test_a_greeting_of_the_shell_does_no_harm(serve, make_sessions, helper, key_file: Path) -> None:
    helper.greeting = b"Welcome to n1!\nHave a nice day.\n"
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)


async def test_sudo_is_used_where_the_target_says_so(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file, become=True, python="/opt/python3"))
    await sessions.until(Connected)
    assert helper.commands == ["sudo -n /opt/python3 -c stub"]


# --- what the node has seen of us -----------------------------------------------------------------------------
async def test_a_node_that_has_seen_a_higher_index_raises_ours_before_we_attach(
    serve, make_sessions, helper, key_file: Path
) -> None:
    helper.hello = HELLO | {"cluster_id": "cluster1", "epoch": 1, "index": 57}
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert sessions.index == 57
    assert helper.requests[0]["args"]["index"] == 57
    assert sessions.behind == []


async def test_a_node_that_has_seen_a_higher_epoch_tells_that_the_database_is_behind(
    serve, make_sessions, helper, key_file: Path
) -> None:
    helper.hello = HELLO | {"cluster_id": "cluster1", "epoch": 12, "index": 57}
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    refused = await sessions.until(Refused)
    assert refused.code == "stale_epoch"
    assert "node n1 has seen session epoch 12" in refused.reason
    assert "the database is behind its nodes" in refused.reason
    assert sessions.behind == [refused.reason]
    assert sessions.index == 42
    assert helper.requests == []


async def test_what_a_node_has_seen_of_another_cluster_does_not_matter(
    serve, make_sessions, helper, key_file: Path
) -> None:
    helper.hello = HELLO | {"cluster_id": "cluster2", "epoch": 12, "index": 57}
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert (sessions.index, sessions.behind) == (42, [])


# --- reports ------------------------------------------------------------------------------------------------
async def test_task_events_are_merged_and_come_together(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    for i in range(50):
        helper.sessions[0].task(f"t{i}", "running", container_id=f"c{i}")
    helper.sessions[0].task("t3", "gone")

    seen = []
    while len(seen) < 51:
        event = await sessions.until(TasksReported)
        seen += event.tasks
    assert [t.task_id for t in seen] == [*(f"t{i}" for i in range(50)), "t3"]
    assert sum(isinstance(e, TasksReported) for e in sessions.seen) < 10
    report = sessions.report("node1")
    assert report is not None
    assert len(report.tasks) == 49
    assert report.tasks["t4"].container_id == "c4"


async def test_reports_right_behind_hello_are_not_lost(serve, make_sessions, helper, key_file: Path) -> None:
    more = [{"event": "task", "data": {"task_id": f"t{i}", "state": "running"}} for i in range(1, 300)]
    lines = [
        {"event": "hello", "data": HELLO | {"tasks": [{"task_id": "t0", "state": "running"}], "more": True}},
        *more,
        {"event": "synced", "data": {}},
    ]
    helper.first_lines = lines  # in one piece
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    report = (await sessions.until(Connected)).report
    assert report.tasks.keys() == {f"t{i}" for i in range(300)}


async def test_a_report_once_read_does_not_change(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    first = (await sessions.until(Connected)).report
    helper.sessions[0].task("t1", "running")
    await sessions.until(TasksReported)
    assert first.tasks == {}
    assert sessions.report("node1").tasks.keys() == {"t1"}


async def test_an_engine_that_stops_answering_is_told(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    helper.heartbeat_s = None
    helper.sessions[0].send({"event": "engine", "data": {"ok": False, "message": "timeout"}})
    report = (await sessions.until(Described)).report
    assert (report.engine_ok, report.engine_message) == (False, "timeout")
    assert report.engine_since > 0

    helper.sessions[0].send({"event": "description", "data": {"hostname": "renamed"}})
    report = (await sessions.until(Described)).report
    assert (report.description.hostname, report.description.address) == ("renamed", "127.0.0.1")
    assert not report.engine_ok

    helper.sessions[0].send({"event": "heartbeat", "data": {"seq": 9, "engine_ok": True}})
    assert (await sessions.until(Described)).report.engine_ok


# --- requests -----------------------------------------------------------------------------------------------
async def test_apply_is_one_round_trip(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    before = sessions.counters("node1").requests
    task = EnsureTask(
        task_id="t1", service_id="s1", index=3, name="web.1.t1", desired="running", image="web:1", config={}
    )
    await sessions.apply("node1", batch(task, StopTask(task_id="t2"), RemoveTask(task_id="t3")))
    assert sessions.counters("node1").requests == before + 1
    sent = helper.requests[-1]
    assert (sent["op"], sent["args"]["cluster_id"], sent["args"]["index"]) == ("apply", "cluster1", 42)
    assert [(a["do"], a["task_id"]) for a in sent["args"]["actions"]] == [
        ("ensure_task", "t1"),
        ("stop_task", "t2"),
        ("remove_task", "t3"),
    ]


async def test_a_batch_too_long_for_one_line_goes_in_parts(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    big = [
        EnsureTask(
            task_id=f"t{i}",
            service_id="s",
            index=1,
            name="n",
            desired="ready",
            image="i",
            config={"x": "y" * 300_000},
        )
        for i in range(5)
    ]
    await sessions.apply("node1", batch(*big))
    sent = [r["args"]["actions"] for r in helper.requests if r["op"] == "apply"]
    assert [a["task_id"] for part in sent for a in part] == ["t0", "t1", "t2", "t3", "t4"]
    assert [len(part) for part in sent] == [3, 2]


@pytest.mark.parametrize("code", ["stale_epoch", "stale_index", "other_cluster"])
async def test_a_refused_batch_says_so(serve, make_sessions, helper, key_file: Path, code: str) -> None:
    server = await serve(helper.serve)
    helper.answers["apply"] = {"error": {"code": code, "message": "have seen 7", "hint": "restore"}}
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    with pytest.raises(HelperRefused, match=r"have seen 7\. restore") as e:
        await sessions.apply("node1", batch())
    assert e.value.fields["code"] == code
    event = await sessions.next_event()
    assert isinstance(event, Refused) and event.code == code
    assert "have seen 7" in event.reason
    await sessions.until(Connected)  # a new session, which settles it


async def test_contents_of_secrets_are_given_in_a_line_and_in_no_log(
    serve, make_sessions, helper, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(helper.serve)
    with caplog.at_level("DEBUG"):
        sessions = make_sessions()
        sessions.keep("node1", "n1", server.target(key_file))
        await sessions.until(Connected)
        part = ContentPart(task_id="t1", id="s1", size=7, data=b"hunter2")
        parts = ContentParts(cluster_id="cluster1", epoch=1, index=3, items=(part,))
        await sessions.contents("node1", parts)
        sent = helper.requests[-1]
        item = {"task_id": "t1", "id": "s1", "size": 7, "data": "aHVudGVyMg=="}
        assert sent["op"] == "contents"
        assert sent["args"] == {"cluster_id": "cluster1", "epoch": 1, "index": 42, "items": [item]}
        helper.answers["contents"] = {"error": {"code": "contents_failed", "message": "No space left on device"}}
        with pytest.raises(NodeRequestFailed, match="No space left"):
            await sessions.contents("node1", parts)
        assert sessions.connected("node1")
        helper.answers["contents"] = {"error": {"code": "stale_index", "message": "have seen 77"}}
        with pytest.raises(HelperRefused):
            await sessions.contents("node1", parts)
        assert isinstance(await sessions.next_event(), Refused)
    assert "hunter2" not in caplog.text and "aHVudGVyMg" not in caplog.text


async def test_network_state_and_keys_are_given_and_answered(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    helper.answers |= {"network": {"drift": ["link sv1000 was missing"]}, "secure": {"lost": [3]}}
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    own = OwnNode(n=2, underlay="10.0.0.2")
    change = NetworkChange(cluster_id="cluster1", epoch=1, index=42, put={"node": own}, drop={"ports": [4]})
    assert await sessions.network("node1", change) == ("link sv1000 was missing",)
    assert helper.requests[-1]["args"] == {
        "cluster_id": "cluster1",
        "epoch": 1,
        "index": 42,
        "fresh": False,
        "more": False,
        "put": {"node": {"n": 2, "underlay": "10.0.0.2"}},
        "drop": {"ports": [4]},
    }
    epoch = EspEpoch(epoch=7, inbound="ab" * 36, outbound="cd" * 36)
    peer = EspPeer(n=1, address="10.0.0.1", sends=7, epochs=(epoch,))
    keys = EspKeys(n=2, address="10.0.0.2", closed=True, peers=(peer,))
    assert "abab" not in repr(keys) and "cdcd" not in repr(keys)
    assert await sessions.secure("node1", keys) == (3,)
    assert helper.requests[-1]["args"] == {
        "n": 2,
        "address": "10.0.0.2",
        "closed": True,
        "peers": [
            {
                "n": 1,
                "address": "10.0.0.1",
                "sends": 7,
                "keep": False,
                "epochs": [{"epoch": 7, "in": "ab" * 36, "out": "cd" * 36}],
            }
        ],
    }
    helper.answers["network"] = {"error": {"code": "network_failed", "message": "no module ip_vs"}}
    with pytest.raises(NetworkFailed, match="no module ip_vs"):
        await sessions.network("node1", change)
    assert sessions.connected("node1")
    told = {"ok": False, "message": "no module ip_vs", "drift": ["link sv1000 was missing"]}
    helper.sessions[-1].send({"event": "network", "data": told})
    event = await sessions.until(NetworkChecked)
    assert event == NetworkChecked(
        node_id="node1", ok=False, message="no module ip_vs", drift=("link sv1000 was missing",)
    )


async def test_a_request_without_an_answer_has_a_deadline(serve, make_sessions, helper, key_file: Path) -> None:
    helper.silent_ops.add("apply")
    server = await serve(helper.serve)
    sessions = make_sessions(request_s=0.2)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    with pytest.raises(NodeDeadline, match="n1 did not answer apply"):
        await sessions.apply("node1", batch())
    assert sessions.connected("node1")


async def test_a_request_ends_with_its_session(serve, make_sessions, helper, key_file: Path) -> None:
    helper.silent_ops.add("apply")
    server = await serve(helper.serve)
    sessions = make_sessions(request_s=30.0)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    waiting = asyncio.create_task(sessions.apply("node1", batch()))
    await eventually(lambda: any(r["op"] == "apply" for r in helper.requests))
    server.drop_all()
    with pytest.raises(NodeUnreachable, match="session with node n1 ended"):
        await waiting


async def test_the_other_questions(serve, make_sessions, helper, key_file: Path) -> None:
    helper.answers |= {
        "check_peers": {"reached": {"node2": True, "node3": False}},
        "resolve_image": {"digest": "sha256:12", "platforms": [["linux", "amd64"]]},
        "check": {"items": [{"name": "ip_vs", "ok": False, "detail": "no module", "fix": "modprobe ip_vs"}]},
    }
    server = await serve(helper.serve)
    sessions = make_sessions()
    target = server.target(key_file)
    sessions.keep("node1", "n1", target)
    await sessions.until(Connected)
    assert await sessions.check_peers("node1", [("node2", target)]) == {"node2": True, "node3": False}
    assert helper.requests[-1]["args"]["peers"] == [{"node": "node2", "address": "127.0.0.1", "port": server.port}]
    assert await sessions.resolve_image("node1", "web:1", "") == ("sha256:12", (("linux", "amd64"),))
    assert (await sessions.check("node1"))[0]["fix"] == "modprobe ip_vs"
    assert abs(helper.requests[-1]["args"]["now"] - time.time()) < 5
    helper.answers["end_processes"] = {"ended": ["t1"]}
    assert await sessions.end_processes("node1", ["t1", "t2"]) == {"t1"}
    assert helper.requests[-1]["args"] == {"task_ids": ["t1", "t2"]}
    helper.answers["listeners"] = {"listeners": [{"protocol": "tcp", "address": "::", "port": 80}]}
    asked = (PortRange(protocol="tcp", first=80, last=81),)
    found = await sessions.listeners("node1", asked, 2.0)
    assert found == (Listener(protocol="tcp", address="::", port=80),)
    assert helper.requests[-1]["args"] == {"ports": [{"protocol": "tcp", "first": 80, "last": 81}]}
    assert helper.requests[-1]["deadline_s"] == 2.0
    helper.answers |= {
        "check_listen": {"guarded": True},
        "check_send": {"sent": [{"n": 2, "refused": {"esp": "Operation not permitted"}}]},
        "check_heard": {"heard": [{"n": 2, "source": "10.0.0.2", "arrived": ["esp"], "let_in": [], "size": 0}]},
    }
    assert await sessions.listen_on_paths("node1", Listen(token="00" * 8, seconds=1, enough=0, senders=(2,)))
    assert helper.requests[-1]["args"]["from"] == [2]
    helper.answers |= {
        "trace_watch": {},
        "trace_send": {"outcome": "refused", "words": "Connection refused", "source": "10.48.1.2"},
        "trace_seen": {"seen": [{"device": "eth0", "way": "out", "src": "a:1", "dst": "b:2", "forth": True}]},
    }
    watch = TraceWatch(token="t", seconds=9, tasks=("t1",), protocol="udp", port=61000)
    await sessions.trace_watch("node1", watch)
    assert helper.requests[-1]["args"]["tasks"] == ["t1"]
    trial = TraceSend(task="t1", to="10.48.8.1", to_port=53, protocol="udp", port=61000, timeout_s=1)
    assert (await sessions.trace_send("node1", trial)).outcome == "refused"
    assert (await sessions.trace_seen("node1", "t"))[0].device == "eth0"
    send = Send(token="00" * 8, n=1, address="10.0.0.1", to=(), sizes=(1500,))
    assert (await sessions.send_on_paths("node1", send))[0].refused == {"esp": "Operation not permitted"}
    assert (await sessions.heard_on_paths("node1", "00" * 8, 0.1))[0].arrived == ("esp",)
    assert helper.requests[-1]["args"] == {"token": "00" * 8, "wait_s": 0.1}
    helper.answers["resolve_image"] = {"error": {"code": "failed", "message": "manifest unknown"}}
    with pytest.raises(NodeRequestFailed, match="manifest unknown"):
        await sessions.resolve_image("node1", "web:2", "")


async def test_without_a_session_a_request_says_why(make_sessions, key_file: Path, serve, helper) -> None:
    server = await serve(helper.serve)
    await server.stop()
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Disconnected)
    with pytest.raises(NodeUnreachable, match="nothing listens on that port"):
        await sessions.apply("node1", batch())
    assert sessions.last_heard("node1") is None
    with pytest.raises(NodeUnreachable, match="not kept"):
        await sessions.apply("node2", batch())


@pytest.mark.parametrize(
    ("answer", "shell", "left"),
    [
        ({"tasks": [], "left": []}, b"", ()),
        ({"tasks": [], "left": []}, b"/run/swarmsh\nlock\n", ("/run/swarmsh is still there, with lock",)),
        ({"tasks": [], "left": ["device swgw0 is busy"]}, None, ("device swgw0 is busy",)),
        ({"tasks": ["t1"], "left": []}, None, ("task t1: its container could not be removed",)),
    ],
)
async def test_a_node_is_left_and_what_is_there_still_is_told(
    serve, make_sessions, helper, key_file: Path, answer, shell, left
) -> None:
    """Once the helper ends no session can tell: then the node's shell is asked whether its files are gone."""
    asked: list[str] = []

    async def serve_shell_too(process) -> None:
        if "/run/swarmsh" in (process.command or ""):
            asked.append(process.command)
            process.stdout.write(shell or b"")
            process.exit(0)
        else:
            await helper.serve(process)

    helper.answers["release"] = answer
    server = await serve(serve_shell_too)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert await sessions.leave("node1") == left
    assert helper.requests[-1]["args"] == {"clear": True}
    assert len(asked) == (shell is not None)
    assert not sessions.connected("node1")
    with pytest.raises(NodeUnreachable, match="not kept"):
        await sessions.leave("node1")


def test_the_shell_waits_for_the_end_of_the_files(tmp_path: Path) -> None:
    """The line that is run on a node, here with folders that go, stay and are not there."""
    folder = tmp_path / "swarmsh"
    wait = sessions_module._wait_for_end(str(folder))
    assert subprocess.run(["sh", "-c", wait], capture_output=True, check=True, timeout=20).stdout == b""
    folder.mkdir()
    waiting = subprocess.Popen(["sh", "-c", wait], stdout=subprocess.PIPE)
    folder.rmdir()
    assert waiting.communicate(timeout=20)[0] == b""
    (folder / "inside").mkdir(parents=True)
    quick = wait.replace("seq 100", "seq 1")
    shown = subprocess.run(["sh", "-c", quick], capture_output=True, check=True, timeout=20).stdout
    assert shown.decode().split() == [str(folder), "inside"]
