"""What NodeSessions does when nodes, helpers and connections misbehave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from swarmsh.errors import NodeUnreachable
from swarmsh.manager.ports import Connected, Disconnected, NodeClient, Refused, TasksReported, Untrusted
from swarmsh.model.actions import Batch
from tests.component.conftest import eventually
from tests.component.ssh_server import run_locally


async def test_a_dropped_connection_is_opened_again(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    client: NodeClient = sessions
    client.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    for _ in range(3):
        server.drop_all()
        assert "connection ended" in (await sessions.until(Disconnected)).reason
        await sessions.until(Connected)
    assert sessions.counters("node1").sessions == 4


async def test_what_the_node_holds_is_read_anew_in_each_session(
    serve, make_sessions, helper, key_file: Path
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    helper.sessions[0].task("t1", "running")
    await sessions.until(TasksReported)
    server.drop_all()
    await sessions.until(Disconnected)
    assert sessions.report("node1") is None
    assert sessions.last_heard("node1") is not None
    assert (await sessions.until(Connected)).report.tasks == {}


async def test_a_changed_host_key_is_untrusted_and_nothing_is_sent(
    serve, make_sessions, helper, key_file: Path
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    pinned = server.host_key
    target = server.target(key_file)
    sessions.keep("node1", "n1", target)
    await sessions.until(Connected)

    await server.stop()
    server.host_key = asyncssh.generate_private_key("ssh-ed25519")
    server.users_seen.clear()
    await server.start()
    event = await sessions.until(Untrusted)
    assert event.shown == server.host_key.get_fingerprint()
    assert event.pinned == (pinned.get_fingerprint(),)
    assert server.users_seen == []
    assert len(helper.sessions) == 1

    await server.stop()
    server.host_key = pinned
    await server.start()
    await sessions.until(Connected)


async def test_the_same_trouble_is_told_once(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    target = server.target(key_file)
    await server.stop()
    sessions = make_sessions()
    sessions.keep("node1", "n1", target)
    await sessions.until(Disconnected)
    await asyncio.sleep(0.5)  # several attempts
    await server.start()
    await sessions.until(Connected)
    assert [type(e) for e in sessions.seen] == [Disconnected, Connected]


async def test_a_poke_ends_the_back_off(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    target = server.target(key_file)
    await server.stop()
    sessions = make_sessions(first_retry_s=1e6, last_retry_s=1e6)
    sessions.keep("node1", "n1", target)
    await sessions.until(Disconnected)
    await server.start()
    sessions.poke("node1")
    await sessions.until(Connected)


async def test_back_off_grows_with_full_jitter(make_sessions) -> None:
    sessions = make_sessions(first_retry_s=0.2, last_retry_s=10.0)
    for failures, longest in ((0, 0.2), (1, 0.4), (4, 3.2), (6, 10.0), (500, 10.0)):
        delays = [sessions._back_off(failures) for _ in range(200)]
        assert max(delays) <= longest
        assert max(delays) > longest * 0.9
        assert min(delays) < longest * 0.1


@pytest.mark.parametrize("code", ["other_cluster", "stale_epoch"])
async def test_a_refused_attach_is_told_and_tried_slowly(
    serve, make_sessions, helper, key_file: Path, code: str
) -> None:
    helper.answers["attach"] = {"error": {"code": code, "message": "held by cluster2"}}
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    event = await sessions.until(Refused)
    assert event.code == code
    assert "held by cluster2" in event.reason
    assert not sessions.connected("node1")
    helper.answers.clear()
    await sessions.until(Connected)
    assert len(helper.sessions) == 2


# --- silence, lease, slow peers -----------------------------------------------------------------------------
async def test_a_silent_node_is_given_up(serve, make_sessions, helper, key_file: Path) -> None:
    helper.heartbeat_s = None
    server = await serve(helper.serve)
    sessions = make_sessions(silence_s=0.4)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert "no line for" in (await sessions.until(Disconnected)).reason
    await sessions.until(Connected)


async def test_heartbeats_keep_it(serve, make_sessions, helper, key_file: Path) -> None:
    helper.heartbeat_s = 0.05
    server = await serve(helper.serve)
    sessions = make_sessions(silence_s=0.4)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    first = sessions.last_heard("node1")
    assert first is not None
    await eventually(lambda: helper.sessions[0].seq > 20)  # in twice the silence that ends a session
    assert sessions.connected("node1")
    assert sessions.counters("node1").sessions == 1
    heard = sessions.last_heard("node1")
    assert heard is not None
    assert heard > first


async def test_the_lease_is_renewed_only_when_idle(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions(lease_s=1.2)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    await eventually(lambda: sum(r["op"] == "lease" for r in helper.requests) >= 2)

    renewals = sum(r["op"] == "lease" for r in helper.requests)
    for _ in range(10):  # something to say every 0.1 s
        await sessions.apply("node1", Batch(cluster_id="c", epoch=1, index=1, actions=()))
        await asyncio.sleep(0.1)
    assert sum(r["op"] == "lease" for r in helper.requests) <= renewals + 1


async def test_a_refused_renewal_ends_the_session(serve, make_sessions, helper, key_file: Path) -> None:
    helper.answers["lease"] = {"error": {"code": "not_attached", "message": "attach first"}}
    server = await serve(helper.serve)
    sessions = make_sessions(lease_s=0.4)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert "attach first" in (await sessions.until(Disconnected)).reason


async def test_after_a_standstill_longer_than_the_lease_it_attaches_again(
    serve, make_sessions, helper, key_file: Path
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions(lease_s=1.0)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    session = sessions._kept["node1"].session
    assert session is not None
    session.last_sent -= 100
    await eventually(lambda: sum(r["op"] == "attach" for r in helper.requests) == 2)
    assert len(helper.sessions) == 1


async def test_a_node_that_does_not_read_is_given_up(serve, make_sessions, key_file: Path, helper) -> None:
    async def deaf(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await process.stdin.readline()
        process.stdout.write(b'{"event":"hello","data":{"v":1}}\n')
        await process.stdin.readline()
        process.stdout.write(b'{"id":1,"ok":true,"result":{}}\n')
        while True:
            await asyncio.sleep(0.1)
            process.stdout.write(b'{"event":"heartbeat","data":{}}\n')

    server = await serve(deaf)
    sessions = make_sessions(silence_s=0.5, request_s=0.3, line_bytes=32 << 20)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    session = sessions._kept["node1"].session
    assert session is not None
    with pytest.raises(Exception, match="did not answer"):
        await session.request("apply", {"x": "y" * (24 << 20)}, 0.3)
    assert "has not read" in (await sessions.until(Disconnected)).reason


# --- what is no protocol ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"Traceback (most recent call last):\n", "no message"),
        (b"{}\n", "neither an event nor a reply"),
        (b'{"event":"task","data":{"state":"running"}}\n', "no TaskReport"),
        (b'{"event":"task","data":7}\n', "no TaskReport"),
        (b'{"event":3}\n', "no message"),
        (b"\xff\xfe{}\n", "no message"),
        (b"x" * 70_000, "line of more than 65536 bytes"),
        (b'{"event":"superseded","data":{"reason":"epoch 9"}}\n', "superseded: epoch 9"),
        (b'{"event":"goodbye","data":{"reason":"upgrade"}}\n', "goodbye: upgrade"),
    ],
)
async def test_a_line_that_is_no_message_ends_the_session(
    serve, make_sessions, helper, key_file: Path, line: bytes, reason: str
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions(line_bytes=65536)
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    helper.sessions[0].raw(line)
    assert reason in (await sessions.until(Disconnected)).reason
    await sessions.until(Connected)


async def test_unknown_events_and_keys_are_passed_over(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    helper.sessions[0].send({"event": "weather", "data": {"sun": True}})
    helper.sessions[0].send({"id": 999, "ok": True, "result": {}})
    helper.sessions[0].task("t1", "running", colour="blue")
    assert (await sessions.until(TasksReported)).tasks[0].task_id == "t1"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 127", "Install python3 there"),
        ("echo 'sudo: a password is required' >&2; exit 1", "NOPASSWD"),
        ("echo 'This account is not available.'; exit 1", "This account is not available"),
        (
            """echo '{"error":"no space left on /run","hint":"free some"}'; exit 1""",
            "no space left on /run. free some",
        ),
        ("""echo '{"event":"hello","data":{"v":2}}'; cat >/dev/null""", "version 2 of the protocol"),
        ("""echo '{"event":"hello","data":{"v":"x"}}'; cat >/dev/null""", "cannot be understood"),
        ("""echo '{"need":"ffff"}'; cat >/dev/null""", "which is not ours"),
        ("exec sleep 30", "did not start within 0.5 s"),
    ],
)
async def test_a_helper_that_does_not_start_says_why(
    serve, make_sessions, key_file: Path, command: str, reason: str
) -> None:
    server = await serve(run_locally)
    sessions = make_sessions(start_s=0.5)
    sessions._stub_command = lambda python, become: command
    sessions.keep("node1", "n1", server.target(key_file))
    assert reason in (await sessions.until(Disconnected)).reason


async def test_a_node_whose_stub_always_fails_is_never_heard(serve, make_sessions, key_file: Path) -> None:
    server = await serve(run_locally)
    sessions = make_sessions()
    sessions._stub_command = lambda python, become: (
        """echo 'Welcome!'; echo '{"error":"no space left on /run"}'; exit 1"""
    )
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Disconnected)
    assert sessions.last_heard("node1") is None


async def test_a_stub_that_fails_does_not_renew_when_its_node_was_heard(
    serve, make_sessions, helper, key_file: Path
) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    helper.first_lines = [{"error": "no space left on /run"}]
    server.drop_all()
    await sessions.until(Disconnected)
    heard = sessions.last_heard("node1")
    assert heard is not None
    assert "no space left" in (await sessions.until(Disconnected)).reason
    assert sessions.last_heard("node1") == heard


# --- keeping and dropping -----------------------------------------------------------------------------------
async def test_a_changed_target_reconnects(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    other = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    sessions.keep("node1", "n1", server.target(key_file))
    sessions.keep("node1", "n1", other.target(key_file))
    await sessions.until(Connected)
    assert len(helper.sessions) == 2
    assert len(other.connections) == 1


async def test_a_dropped_node_is_released_and_stays_away(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    await sessions.drop("node1", release=True)
    assert helper.requests[-1]["op"] == "release"
    assert not sessions.connected("node1")
    assert sessions.last_heard("node1") is None
    sessions.keep("node1", "n1", server.target(key_file))
    await sessions.until(Connected)
    assert len(helper.sessions) == 2


async def test_without_a_cluster_no_node_is_dialled(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions(slow_retry_s=1e6)
    sessions.cluster = ""
    sessions.keep("node1", "n1", server.target(key_file))
    for _ in range(20):
        sessions.poke("node1")
        await asyncio.sleep(0)
    with pytest.raises(NodeUnreachable, match="there is no cluster"):
        await sessions.apply("node1", Batch(cluster_id="", epoch=1, index=1, actions=()))
    sessions.cluster = "cluster1"
    sessions.keep("node1", "n1", server.target(key_file))  # as the use case that begins a cluster does
    await sessions.until(Connected)
    assert helper.requests[0]["args"]["cluster_id"] == "cluster1"
    assert len(server.connections) == 1


async def test_many_nodes_come_back_together(serve, make_sessions, helper, key_file: Path) -> None:
    server = await serve(helper.serve)
    sessions = make_sessions()
    names = [f"node{i}" for i in range(40)]
    for name in names:
        sessions.keep(name, name, server.target(key_file))
    await eventually(lambda: all(sessions.connected(n) for n in names))
    server.drop_all()
    await eventually(lambda: not any(sessions.connected(n) for n in names))
    await eventually(lambda: all(sessions.connected(n) for n in names))
