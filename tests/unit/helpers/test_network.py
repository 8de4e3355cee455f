"""The resident part of networks: what is held, when the kernel is told, and what leaves by itself."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from remote_helpers import network, resolvconf
from remote_helpers.helper import EXIT_RELEASED
from remote_helpers.net.xfrm import BadKeys
from remote_helpers.netfile import load
from tests.unit.helpers.conftest import Manager, World, ensure, sample
from tests.unit.helpers.test_tasks import poll, remove, stop

NET = "net1net1net1net1net1net1n"
GATEWAY, EGRESS_GATEWAY = "127.50.0.2", "127.64.2.1"
HERE, HERE_EGRESS, ELSEWHERE = "127.50.1.2", "127.64.2.11", "127.50.1.3"
JOINS = [{"name": "net1", "address": HERE}, {"name": "swgw", "address": HERE_EGRESS}]


def dest(task: str, address: str, **more: int) -> dict[str, Any]:
    return {"task": task, "address": address, "weight": 1, **more}


def vip(*dests: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = {
        "id": 1,
        "network": NET,
        "service": "s1",
        "address": "127.50.128.5",
        "scheduler": "rr",
        "persist_s": 0,
    }
    return {**entry, "dests": list(dests), "tcp_ports": [80], **more}


def port(*dests: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = {"id": 4, "service": "s1", "protocol": "tcp", "port": 8080, "bind": "", "scheduler": "rr"}
    return {**entry, "persist_s": 0, "dests": list(dests), "tcp_ports": [80], **more}


def names(*tasks: tuple[str, str], service: str = "s1", name: str = "web", address: str = "") -> dict[str, Any]:
    entries = [{"id": task, "address": one, "names": [f"{name}.{task}"]} for task, one in tasks]
    return {"network": NET, "service": service, "names": [name], "vip": address, "tasks": entries}


def whole(**changes: Any) -> dict[str, Any]:
    """Node 2: one network, its VIP with a task here and one elsewhere, a published port."""
    put = {
        "node": {"n": 2, "underlay": "10.98.0.12"},
        "egress": {"pool": "127.64.0.0/16", "prefix": 24, "mtu": 1450},
        "peers": [{"n": 1, "underlay": "10.98.0.11"}, {"n": 3, "underlay": "10.98.0.13"}],
        "networks": [
            {"id": NET, "name": "net1", "vni": 4096, "subnet": "127.50.0.0/16", "gateway": GATEWAY,
             "vips": "127.50.128.0/17", "mtu": 1450, "encrypted": False, "internal": False, "labels": {},
             "peers": [1, 3]},
        ],
        "vips": [vip(dest("t1", HERE), dest("t2", ELSEWHERE))],
        "ports": [port(dest("t1", HERE_EGRESS, port=80), dest("t2", "127.64.3.11", port=80))],
        "tasks": [{"id": "t1", "addresses": [HERE, HERE_EGRESS]}],
        "names": [names(("t1", HERE), ("t2", ELSEWHERE))],
    }  # fmt: skip
    return {**put, **changes}


async def give(manager: Manager, put: Any = None, **more: Any) -> dict[str, Any]:
    fence = {"cluster_id": "clustera", "epoch": 1, "index": 1}
    return await manager.request("network", {**fence, "put": {} if put is None else put, "drop": {}, **more})


def last(world: World) -> dict[str, Any]:
    return [state for kind, state in world.passes if kind in ("whole", "change")][-1]


def dests(world: World, section: str = "vips") -> list[tuple[str, int]]:
    return [(one["task"], one["weight"]) for entry in last(world)[section] for one in entry["dests"]]


async def ask(world: World, name: str, server: str = EGRESS_GATEWAY, source: str = HERE_EGRESS) -> list[str]:
    """The addresses that the name server tells this source."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((source, 0))
        sock.connect((server, world.dns_port))
        sock.send(question(name))
        async with asyncio.timeout(8):
            return addresses(await asyncio.get_running_loop().sock_recv(sock, 4096))


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def addresses(answer: bytes) -> list[str]:
    count = struct.unpack_from("!H", answer, 6)[0]
    return sorted(socket.inet_ntoa(answer[len(answer) - 16 * i - 4 :][:4]) for i in range(count))


async def running(world: World, **options: Any) -> Manager:
    """A manager with t1 running on its networks."""
    manager = await world.manager(**options)
    assert (await give(manager, whole(), fresh=True))["ok"]
    await manager.apply(ensure(networks=JOINS))
    await manager.task("t1", "running", ready=True)
    return manager


# --- what is held ---
async def test_a_state_reaches_the_kernel_before_it_is_answered_for(world: World) -> None:
    manager = await world.manager()
    world.kernel_answers.clear()
    waiting = asyncio.create_task(give(manager, whole(), fresh=True))
    await poll(lambda: world.passes)
    assert not waiting.done()
    world.kernel_answers.set()
    assert (await waiting)["result"] == {"drift": []}
    ((kind, state),) = world.passes
    assert kind == "whole"
    wanted = {**whole(), "v": 1, "names": []}
    assert {key: state[key] for key in wanted} == wanted
    path = Path(world.root) / "network.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["state"] == whole()
    assert load(str(path))[0].whole() == whole()


async def test_a_change_is_no_more_than_that_and_is_no_whole_pass(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    added = vip(dest("t3", "127.50.1.4"), id=2, address="127.50.128.6")
    assert (await give(manager, {"vips": [added]}, drop={"ports": [4]}))["ok"]
    assert [kind for kind, _ in world.passes] == ["whole", "change"]
    assert last(world)["vips"] == [whole()["vips"][0], added]
    assert last(world)["ports"] == []
    assert last(world)["networks"] == whole()["networks"]


async def test_what_is_dropped_is_dropped_first(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    await give(manager, {"vips": [vip(dest("t9", "127.50.1.9"))]}, drop={"vips": [1, 77], "names": [[NET, "s1"]]})
    assert dests(world) == [("t9", 1)]


async def test_nothing_is_done_before_the_last_part(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    first = {key: whole()[key] for key in ("node", "egress", "peers", "networks", "tasks")}
    assert (await give(manager, first, fresh=True, more=True))["result"] == {"drift": []}
    await give(manager, {"ports": []}, more=True)
    assert len(world.passes) == 1
    assert (await give(manager, {"vips": [vip(dest("t2", ELSEWHERE))]}))["ok"]
    assert world.passes[1][0] == "whole"
    assert last(world)["ports"] == []
    assert last(world)["vips"] == [vip(dest("t2", ELSEWHERE))]


async def test_the_first_parts_of_a_lost_session_are_forgotten(world: World) -> None:
    first = await world.manager()
    await give(first, whole(), fresh=True)
    await give(first, {"node": {"n": 9, "underlay": "10.98.0.19"}}, fresh=True, more=True)
    second = await world.manager(epoch=2)
    assert (await give(second, {"vips": [vip(dest("t2", ELSEWHERE))]}, epoch=2))["ok"]
    assert last(world)["node"]["n"] == 2
    assert dests(world) == [("t2", 1)]


@pytest.mark.parametrize(
    ("code", "args"),
    [
        ("stale_epoch", {"epoch": 0}),
        ("stale_index", {"index": 0}),
        ("other_cluster", {"cluster_id": "clusterb"}),
        ("bad_request", {"put": []}),
        ("bad_request", {"put": {"vips": {}}}),
        ("bad_request", {"put": {"vips": [{"id": 1}]}}),
        ("bad_request", {"put": {"vips": [vip({"address": "x", "weight": 1})]}}),
        ("bad_request", {"put": {"vips": [vip(dest("t1", "$(reboot)"))]}}),
        ("bad_request", {"put": {"vips": [vip(id=4)]}}),
        ("bad_request", {"put": {"ports": [port(id=1)]}}),
        ("bad_request", {"put": {"vips": [vip(network="other")]}}),
        ("bad_request", {"put": {"peers": [{"n": 2, "underlay": "10.98.0.99"}]}}),  # its own number
        ("bad_request", {"drop": {"peers": [3]}}),  # a network has it
        ("bad_request", {"put": {"tasks": [{"id": [], "addresses": []}]}}),
        ("bad_request", {"put": {"node": 7}}),
        ("bad_request", {"put": {"names": [names(("t1", "127.50.1.300"))]}}),
        ("bad_request", {"drop": {"names": ["x"]}}),
        ("bad_request", {"drop": {"vips": [[]]}}),
        ("bad_request", {"drop": {"networks": [NET]}}),  # its VIP would be of none
        ("bad_request", {"put": {"tasks": [{"id": "t1", "addresses": ["127.50.1.2"]}]}, "fresh": True}),
    ],
)
async def test_what_is_refused_changes_nothing(world: World, code: str, args: dict[str, Any]) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    before = len(world.passes)
    assert (await give(manager, **args))["error"]["code"] == code
    assert len(world.passes) == before
    assert world.helper is not None
    assert world.helper.network._held.whole() == whole()
    assert await ask(world, "tasks.web") == [HERE, ELSEWHERE]


async def test_an_older_session_changes_nothing_any_more(world: World) -> None:
    await world.manager()
    assert world.helper is not None
    helper = world.helper
    was = helper.session
    await world.manager(epoch=2)
    for op in ("network", "secure"):
        reply = await asyncio.gather(helper._carry_out(was, op, {}), return_exceptions=True)
        assert getattr(reply[0], "code", "") == "stale_epoch"
    assert not world.passes


async def test_changes_that_wait_for_the_kernel_become_one_and_each_is_answered(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.kernel_answers.clear()
    waiting = [asyncio.create_task(give(manager, {"vips": [vip(dest("t2", "127.50.1.5"))]}))]
    await poll(lambda: len(world.passes) == 2)
    for number in range(6, 10):
        later = give(manager, {"vips": [vip(dest("t2", f"127.50.1.{number}"))]})
        waiting.append(asyncio.create_task(later))
    await manager.request("lease")  # all of them were read
    world.kernel_answers.set()
    assert all(reply["ok"] for reply in await asyncio.gather(*waiting))
    assert len(world.passes) == 3
    assert last(world)["vips"][0]["dests"][0]["address"] == "127.50.1.9"


# --- trouble and drift ---
async def test_what_fails_is_told_held_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RETRY_S", (0.02,))
    manager = await world.manager()
    world.kernel_errors = ["modprobe: no ip_vs", "swgw0: no"]
    reply = await give(manager, whole(), fresh=True)
    assert reply["error"]["code"] == "network_failed"
    assert reply["error"]["message"] == "modprobe: no ip_vs; swgw0: no"
    assert not (await manager.event("network"))["ok"]
    await poll(lambda: len(world.passes) > 1)
    world.kernel_errors = []
    assert (await manager.event("network", ok=True))["message"] == ""
    assert dests(world) == [("t1", 1), ("t2", 1)]


async def test_trouble_is_told_when_it_begins_not_at_each_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "CHECK_S", 0.02)
    monkeypatch.setattr(network, "RETRY_S", ())
    manager = await world.manager()
    world.kernel_errors = ["no"]
    await give(manager, whole(), fresh=True)
    await poll(lambda: len(world.passes) > 5)
    assert len([one for one in manager.events if one["event"] == "network"]) == 1


async def test_drift_is_looked_for_and_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CHECK_S", 0.02)
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.drift = [["link sv1000 was missing"], ["link sv1000 was missing"], ["chain SW-IN was different"]]
    first = await manager.event("network", drift=["link sv1000 was missing"])
    assert first == {"ok": True, "message": "", "drift": ["link sv1000 was missing"]}
    await manager.event("network", drift=["chain SW-IN was different"])
    told = [one["data"]["drift"] for one in manager.events if one["event"] == "network"]
    assert told == [["link sv1000 was missing"], ["chain SW-IN was different"]], "what comes again and again: once"


async def test_a_helper_that_cannot_keep_its_own_state_keeps_no_dead_backends_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remote_helpers.state.AGAIN_S", 0.02)
    monkeypatch.setattr(network, "RETRY_S", (0.02,))
    monkeypatch.setattr(network, "CHECK_S", 0.02)
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    blocked = Path(world.root) / "state.json.new"
    blocked.mkdir()
    reply = await give(manager, {"vips": [vip(dest("t2", ELSEWHERE))]}, index=7)
    words = f"{world.root}/state.json cannot be written: Is a directory"
    assert (reply["error"]["code"], reply["error"]["message"]) == ("network_failed", words)
    assert dests(world) == [("t2", 1)]
    assert (await manager.event("network", ok=False))["message"] == words
    blocked.rmdir()
    await manager.event("network", ok=True)
    assert json.loads((Path(world.root) / "state.json").read_text())["fence"]["index"] == 7


async def test_a_bug_in_a_pass_ends_neither_the_worker_nor_the_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await world.manager()
    assert world.helper is not None
    monkeypatch.setattr(world.helper.network, "_listen", lambda held: 1 / 0)
    assert "ZeroDivisionError" in (await give(manager, whole(), fresh=True))["error"]["message"]
    monkeypatch.undo()
    world.helper.network.dns_port = world.dns_port
    assert (await give(manager, whole(), fresh=True))["ok"]


# --- tasks on networks ---
@pytest.mark.parametrize(("api", "macs"), [("1.41", False), ("1.43", False), ("1.44", True), ("1.51", True)])
async def test_a_container_joins_one_network_by_its_create_and_the_others_before_its_start(
    world: World, api: str, macs: bool
) -> None:
    await world.crash()
    world.engine.api = api
    world.resume()
    manager = await running(world)
    (_, created), (path, connected) = world.engine.bodies
    first: dict[str, Any] = {"IPAMConfig": {"IPv4Address": HERE}}
    second: dict[str, Any] = {"IPAMConfig": {"IPv4Address": HERE_EGRESS}}
    if macs:
        first["MacAddress"], second["MacAddress"] = "02:42:7f:32:01:02", "02:42:7f:40:02:0b"
    assert created["HostConfig"]["NetworkMode"] == "net1"
    assert created["NetworkingConfig"] == {"EndpointsConfig": {"net1": first}}
    assert (path, connected) == ("/networks/swgw/connect", {"Container": "c1", "EndpointConfig": second})
    calls = [call for call in world.engine.calls if "update" not in call]
    assert calls == ["POST /containers/create", "POST /networks/swgw/connect", "POST /containers/c1/start"]
    assert manager.tasks["t1"]["state"] == "running"


async def test_a_task_asks_our_name_server_and_not_the_engines(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(world.root) / "resolv.conf"
    own.write_text("nameserver 127.0.0.53\nsearch old\nsearch corp.example home\noptions edns0 trust-ad\n")
    monkeypatch.setattr(resolvconf, "NODES_OWN", str(own))
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    data = {"Type": "volume", "Source": "v", "Target": "/data"}
    said = {"DnsSearch": ["."], "DnsOptions": ["ndots:2", "timeout:1"], "Mounts": [data], "Dns": ["192.0.2.1"]}
    other = {"Type": "bind", "Source": "/x", "Target": "/etc/resolv.conf"}
    for task, config in (
        ("t1", {}), ("t2", {"Dns": [EGRESS_GATEWAY]}), ("t3", said), ("t4", {"Mounts": [other]}),
        ("t5", {"Binds": ["/x:/etc/resolv.conf:ro"]}),
    ):  # fmt: skip
        await manager.apply(ensure(task, networks=JOINS[1:], config={"HostConfig": config}))
        await manager.task(task, "running")
    await manager.apply(ensure("inner", networks=JOINS[:1]))
    await manager.task("inner", "running")
    mounts = [body["HostConfig"].get("Mounts") for _, body in world.engine.bodies]
    assert mounts[0] == mounts[1] and mounts[3:5] == [[other], None]
    (mine,) = mounts[0]
    assert mounts[2][0] == data
    assert {**mine, "Source": ""} == {"Type": "bind", "Source": "", "Target": "/etc/resolv.conf", "ReadOnly": True}
    usual = "search corp.example home\noptions edns0 trust-ad ndots:0\n"
    assert kept(mine) == (0o644, f"nameserver {EGRESS_GATEWAY}\n{usual}")
    assert kept(mounts[2][1]) == (0o644, f"nameserver {EGRESS_GATEWAY}\noptions ndots:2 timeout:1\n")
    assert kept(mounts[5][0]) == (0o644, f"nameserver {GATEWAY}\n{usual}"), "without a way outside"
    assert len(os.listdir(f"{world.root}/resolv")) == 3


async def test_servers_that_a_task_names_are_asked_for_what_is_not_ours(world: World) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as resolver:
        resolver.bind(("127.0.53.9", 0))
        manager = await world.manager()
        assert world.helper is not None
        world.helper.network.resolver_port = resolver.getsockname()[1]
        await give(manager, whole(), fresh=True)
        config = {"HostConfig": {"Dns": ["127.0.53.9"]}}
        await manager.apply(ensure("t1", networks=JOINS, config=config))
        await manager.task("t1", "running")
        assert await ask(world, "tasks.web") == [HERE, ELSEWHERE], "names of ours all the same"
        asking = asyncio.create_task(ask(world, "www.corp.example"))
        async with asyncio.timeout(8):
            asked, client = await loop.sock_recvfrom(resolver, 4096)
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("192.0.2.77")
        resolver.sendto(asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:] + record, client)
        assert await asking == ["192.0.2.77"]


def kept(mount: dict[str, Any]) -> tuple[int, str]:
    """Mode and content of a file that is mounted."""
    path = Path(mount["Source"])
    return stat.S_IMODE(path.stat().st_mode), path.read_text()


async def test_a_task_without_networks_is_created_as_ever(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure())
    await manager.task("t1", "running")
    ((_, body),) = world.engine.bodies
    assert "NetworkingConfig" not in body and "HostConfig" not in body
    assert not world.passes


async def test_a_container_waits_for_the_pass_that_makes_its_networks(world: World) -> None:
    manager = await world.manager()
    world.kernel_answers.clear()
    asking = asyncio.create_task(give(manager, whole(), fresh=True))
    await poll(lambda: world.passes)
    await manager.apply(ensure(networks=JOINS), ensure("free"))
    await manager.task("free", "running")
    assert manager.tasks["t1"]["state"] == "preparing"
    world.kernel_answers.set()
    await manager.task("t1", "running")
    assert (await asking)["ok"]


async def test_a_task_that_waits_for_its_networks_can_be_removed(world: World) -> None:
    manager = await world.manager()
    world.kernel_answers.clear()
    asking = asyncio.create_task(give(manager, whole(), fresh=True))
    await poll(lambda: world.passes)
    await manager.apply(ensure(networks=JOINS))
    await manager.task("t1", "preparing")
    await manager.apply(remove())
    await manager.task("t1", "gone")
    world.kernel_answers.set()
    await asking
    assert not world.engine.containers


async def test_a_task_is_rejected_in_the_data_planes_words_if_its_network_cannot_be_made(world: World) -> None:
    manager = await world.manager()
    world.cannot_be_made = {"net1": "the node has a device sb1000 that is not swarmsh's"}
    world.kernel_errors = ["the node has a device sb1000 that is not swarmsh's"]
    await give(manager, whole(), fresh=True)
    await manager.apply(ensure(networks=JOINS), ensure("t2", networks=JOINS[1:]))
    rejected = await manager.task("t1", "rejected")
    assert rejected["err"] == "the node has a device sb1000 that is not swarmsh's"
    await manager.task("t2", "running")  # what fails elsewhere is no matter to it


async def test_a_failure_that_lasted_a_moment_rejects_no_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "RETRY_S", (60.0,))  # as long before the next try
    manager = await world.manager()
    world.cannot_be_made = dict.fromkeys(("net1", "swgw"), "vxlan: device or resource busy")
    world.kernel_errors = ["vxlan: device or resource busy"]
    assert (await give(manager, whole(), fresh=True))["error"]["code"] == "network_failed"
    world.cannot_be_made, world.kernel_errors = {}, []
    world.kernel_answers.clear()
    await manager.apply(ensure(networks=JOINS))
    await manager.task("t1", "preparing")
    await manager.request("lease")
    assert manager.tasks["t1"]["state"] == "preparing"
    world.kernel_answers.set()
    await manager.task("t1", "running")


async def test_a_task_on_a_network_of_which_nothing_was_told_is_rejected(world: World) -> None:
    manager = await world.manager()
    await manager.apply(ensure(networks=JOINS))
    assert "not told" in (await manager.task("t1", "rejected"))["err"]


async def test_an_engine_that_was_away_rejects_no_task(world: World) -> None:
    manager = await world.manager()
    world.cannot_be_made = dict.fromkeys(("net1", "swgw"), "cannot connect to the Docker daemon")
    world.kernel_errors = ["cannot connect to the Docker daemon"]
    assert world.helper is not None
    watch = world.helper.watch
    await world.engine.stop()
    await poll(lambda: not watch.synced.is_set())
    await give(manager, whole(), fresh=True)
    await manager.apply(ensure(networks=JOINS))
    await manager.task("t1", "preparing")
    world.cannot_be_made, world.kernel_errors = {}, []
    await world.engine.start()
    await manager.task("t1", "running")


async def test_a_connect_that_fails_rejects_the_task(world: World) -> None:
    world.engine.connect_error = "Address already in use"
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    await manager.apply(ensure(networks=JOINS))
    assert (await manager.task("t1", "rejected"))["err"] == "Address already in use"


async def test_a_container_that_a_crash_left_half_joined_is_completed(world: World) -> None:
    world.engine.create_breaks_off = True
    manager = await running(world)
    assert set(world.engine.container_of("t1")["NetworkSettings"]["Networks"]) == {"net1", "swgw"}
    assert len(world.engine.containers) == 1
    await manager.apply(ensure("t2", networks=JOINS, desired="ready"))
    await manager.task("t2", "ready")
    del world.engine.container_of("t2")["NetworkSettings"]["Networks"]["swgw"]
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    await world.crash()
    world.resume()
    manager = await world.manager(epoch=2)
    await manager.apply(ensure("t2", networks=JOINS), epoch=2)
    await manager.task("t2", "running")
    assert set(world.engine.container_of("t2")["NetworkSettings"]["Networks"]) == {"net1", "swgw"}


async def test_a_start_opens_the_hairpins(world: World) -> None:
    await running(world)
    await poll(lambda: ("hairpin", {}) in world.passes)


# --- what leaves by itself ---
async def test_a_task_that_ends_leaves_at_once_and_no_pass_puts_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "CHECK_S", 0.05)
    manager = await running(world)
    assert await ask(world, "tasks.web") == [HERE, ELSEWHERE]
    world.engine.die("t1", 1)
    await manager.task("t1", "failed")
    await poll(lambda: dests(world) == [("t2", 1)])
    assert dests(world, "ports") == [("t2", 1)]
    assert await ask(world, "tasks.web") == [ELSEWHERE]
    count = len(world.passes)
    await poll(lambda: len(world.passes) > count + 2)
    assert dests(world) == [("t2", 1)]
    # The manager may not have heard of it yet.
    await give(manager, {"vips": whole()["vips"], "names": whole()["names"]})
    assert dests(world) == [("t2", 1)]
    assert await ask(world, "tasks.web") == [ELSEWHERE]


async def test_a_process_that_ends_is_out_before_the_engine_tells_of_it(world: World) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        manager = await running(world)
        world.engine.state_of("t1")["Pid"] = process.pid
        await manager.request("report")
        await poll(lambda: world.helper is not None and world.helper.tasks.by_id["t1"]._followed[0] == process.pid)
        assert dests(world) == [("t1", 1), ("t2", 1)]
    finally:
        process.kill()
        await process.wait()
    await manager.until(lambda: not manager.tasks["t1"].get("ready"))
    assert manager.tasks["t1"]["state"] == "running"
    await poll(lambda: dests(world) == [("t2", 1)])
    assert await ask(world, "tasks.web") == [ELSEWHERE]
    await manager.request("report")  # the Engine still has it running
    assert not manager.tasks["t1"].get("ready")
    world.engine.die("t1", 137)
    await manager.task("t1", "failed")
    assert world.helper is not None
    assert world.helper.tasks.by_id["t1"]._followed == (0, -1)


async def test_a_container_that_the_engine_started_again_is_followed_anew(world: World) -> None:
    first, second = [await asyncio.create_subprocess_exec("sleep", "600") for _ in range(2)]
    try:
        manager = await running(world, lease_s=0.5)
        await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "always")
        world.engine.state_of("t1")["Pid"] = first.pid
        assert world.helper is not None
        task = world.helper.tasks.by_id["t1"]
        task.renew()
        await poll(lambda: task._followed[0] == first.pid)
        first.kill()
        await poll(lambda: dests(world) == [("t2", 1)])
        world.engine.die("t1", 137)
        world.engine.run("t1")
        world.engine.state_of("t1")["Pid"] = second.pid
        task.renew()
        await poll(lambda: ("t1", 1) in dests(world))
        assert task._followed[0] == second.pid and not task.exited
        assert manager.tasks["t1"]["state"] == "running"
    finally:
        for process in (first, second):
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_a_task_that_is_not_ready_any_more_takes_no_new_connection_and_keeps_its_own(world: World) -> None:
    world.engine.health_at_start = "healthy"
    world.engine.ignores_term = True
    manager = await running(world)
    world.engine.set_health("t1", "unhealthy")
    await manager.task("t1", "running")
    await poll(lambda: dests(world) == [("t1", 0), ("t2", 1)])
    assert await ask(world, "tasks.web") == [ELSEWHERE]


async def test_a_task_that_is_ready_again_comes_back_by_itself(world: World) -> None:
    manager = await running(world, lease_s=0.5)
    await poll(lambda: world.engine.container_of("t1")["HostConfig"]["RestartPolicy"]["Name"] == "always")
    world.engine.die("t1", 1)
    await poll(lambda: ("t1", 1) not in dests(world))
    world.engine.run("t1")
    await poll(lambda: ("t1", 1) in dests(world))
    assert HERE in await ask(world, "tasks.web")
    assert manager.tasks["t1"]["state"] == "running"


async def test_a_task_that_drains_keeps_its_connections_until_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remote_helpers.ready.has_clients", lambda pid: True)
    manager = await running(world)
    await give(manager, {"vips": [vip({**dest("t1", HERE), "weight": 0}, dest("t2", ELSEWHERE))]})
    await manager.apply({**stop(), "drain_s": 30.0})
    await poll(lambda: dests(world, "ports") == [("t1", 0), ("t2", 1)])
    assert dests(world) == [("t1", 0), ("t2", 1)]
    world.engine.die("t1", 0)
    await manager.task("t1", "shutdown")
    await poll(lambda: dests(world) == dests(world, "ports") == [("t2", 1)])


async def test_a_task_that_is_gone_stays_out_until_the_manager_has_heard_of_it(world: World) -> None:
    manager = await running(world)
    await manager.apply(remove())
    await manager.task("t1", "gone")
    await poll(lambda: dests(world) == [("t2", 1)])
    await give(manager, {"vips": whole()["vips"]})
    assert dests(world) == [("t2", 1)]


async def test_tasks_of_no_network_make_no_pass(world: World) -> None:
    manager = await running(world)
    await poll(lambda: ("hairpin", {}) in world.passes)
    await manager.apply(ensure("other"))
    await manager.task("other", "running")
    await manager.request("report")
    states = [kind for kind, _ in world.passes if kind == "change"]
    await manager.apply(remove("other"))
    await manager.task("other", "gone")
    assert [kind for kind, _ in world.passes if kind == "change"] == states


# --- names ---
async def test_names_follow_the_same_changes(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    assert await ask(world, "web.t2", GATEWAY, HERE) == [ELSEWHERE], "on the network's own gateway as well"
    await give(manager, {"names": [names(("t7", "127.50.1.7"), service="s2", name="db", address="127.50.128.9")]})
    assert await ask(world, "db") == ["127.50.128.9"]
    await give(manager, drop={"names": [[NET, "s2"]]})
    assert await ask(world, "web.t2") == [ELSEWHERE]
    assert await ask(world, "tasks.web", GATEWAY, HERE) == [HERE, ELSEWHERE]


async def test_a_place_where_nobody_can_listen_is_a_failure_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "RETRY_S", (0.02,))
    monkeypatch.setattr(network, "CHECK_S", 0.02)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((EGRESS_GATEWAY, world.dns_port))
        manager = await world.manager()
        assert "DNS cannot listen" in (await give(manager, whole(), fresh=True))["error"]["message"]
    await manager.event("network", ok=True)
    assert await ask(world, "tasks.web") == [HERE, ELSEWHERE]


# --- other processes ---
async def test_another_process_goes_on_with_what_was_held(world: World) -> None:
    await running(world)
    await asyncio.sleep(0.06)  # the state is written within 50 ms
    await world.crash()
    world.engine.die("t1", 1)
    world.passes.clear()
    world.resume()
    assert await ask(world, "web.t2") == [ELSEWHERE]
    await poll(lambda: world.passes and dests(world) == [("t2", 1)])
    assert world.passes[0][0] == "whole"


async def test_a_question_asked_during_a_hand_over_is_answered_by_the_next_process(world: World) -> None:
    await running(world)
    assert world.helper is not None
    fds = await world.helper.network.end(True)
    assert len(fds) == 4 and all(os.get_inheritable(fd) for fd in fds)
    await world.crash()
    asking = asyncio.create_task(ask(world, "web.t2"))
    await asyncio.sleep(0.05)  # it has been sent, and nobody reads
    assert not asking.done()
    world.resume(fds)
    assert await asking == [ELSEWHERE]


async def test_sockets_of_a_name_server_that_nobody_needs_are_closed(world: World) -> None:
    await world.crash()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fd = os.dup(sock.fileno())
    world.resume([fd])
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("state", [{"vips": [7]}, {"tasks": [{"id": "a", "addresses": []}]}])
async def test_a_state_that_cannot_be_does_not_keep_the_helper(world: World, state: dict[str, Any]) -> None:
    await world.crash()
    (Path(world.root) / "network.json").write_text(json.dumps({"v": 1, "state": state, "esp": {}}) + "\n")
    world.resume()
    assert (await give(await world.manager(), whole(), fresh=True))["ok"]


async def test_another_process_has_the_last_change_too(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    await give(manager, {"vips": [vip(dest("t2", ELSEWHERE))]}, drop={"ports": [4]})
    await world.crash()
    world.passes.clear()
    world.resume()
    await poll(lambda: world.passes)
    assert dests(world) == [("t2", 1)] and last(world)["ports"] == []


# --- keys ---
async def test_keys_are_given_in_the_order_of_requests(world: World) -> None:
    manager = await world.manager()
    keys = {"n": 2, "address": "10.98.0.12", "closed": True, "peers": []}
    replies = await asyncio.gather(manager.request("secure", keys), give(manager, whole(), fresh=True))
    assert replies[0]["result"] == {"lost": [1]}
    off = {**keys, "closed": False}
    await asyncio.gather(give(manager, fresh=True), manager.request("secure", off))
    assert [kind for kind, _ in world.passes] == ["secure", "whole", "purge", "secure"]


async def test_a_node_that_is_not_closed_opens_without_loading_anything(world: World) -> None:
    manager = await world.manager()
    off = {"n": 2, "address": "10.98.0.12", "closed": False, "peers": []}
    assert (await manager.request("secure", off))["result"] == {"lost": []}
    assert world.helper is not None
    own = world.helper.network
    assert own._plane is None and not world.passes
    await give(manager, whole(), fresh=True)
    assert (await manager.request("secure", off))["result"] == {"lost": []}
    assert [kind for kind, _ in world.passes] == ["whole"]


async def test_another_process_opens_what_its_former_one_had_closed(world: World) -> None:
    await world.crash()
    (Path(world.root) / "network.json").write_text('{"v":1,"state":{},"esp":{"closed":true}}\n')
    world.resume()
    manager = await world.manager()
    await manager.request("secure", {"n": 2, "address": "10.98.0.12", "closed": False, "peers": []})
    assert "secure" in [kind for kind, _ in world.passes]


async def test_keys_that_cannot_be_read_are_refused_without_a_word_of_theirs(world: World) -> None:
    manager = await world.manager()
    for error, code, words in (
        (BadKeys("two nodes with one number"), "bad_request", "two nodes with one number"),
        (ValueError("0f0f0f0f"), "network_failed", "ValueError"),
    ):
        world.key_error = error
        reply = await manager.request("secure", {"n": 2})
        assert (reply["error"]["code"], reply["error"]["message"]) == (code, words)


async def test_keys_alone_are_checked_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CHECK_S", 0.02)
    manager = await world.manager()
    await manager.request("secure", {"n": 2, "closed": True})
    world.drift = [["policy out: missing"]]
    told = await manager.event("network", drift=["policy out: missing"])
    assert told["ok"]


# --- the end ---
async def test_an_empty_state_takes_all_away_and_nothing_is_kept(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    assert (await give(manager, drop={"networks": [NET], "vips": [1], "ports": [4], "tasks": ["t1"]}))["ok"]
    assert world.passes[-1] == ("purge", {"keys_too": False})
    assert not (Path(world.root) / "network.json").exists()
    assert world.helper is not None
    own = world.helper.network
    await poll(lambda: own._plane is None and own._dns is None)
    assert not own.active
    await poll(lambda: own._worker.done())


async def test_what_could_not_be_taken_away_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RETRY_S", (0.02,))
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.kernel_errors = ["containers still use swgw0"]
    reply = await give(manager, fresh=True)
    assert reply["error"]["message"] == "containers still use swgw0"
    assert not (await manager.event("network"))["ok"]
    assert world.helper is not None
    own = world.helper.network
    await poll(lambda: [kind for kind, _ in world.passes].count("purge") > 1)
    assert own.active
    world.kernel_errors = []
    assert await manager.event("network", ok=True) == {"ok": True, "message": "", "drift": []}
    await poll(lambda: own._plane is None and own._worker.done())
    assert not own.active


async def test_a_network_that_comes_while_the_node_is_not_cleared_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "RETRY_S", (60.0,))
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.kernel_errors = ["containers still use swgw0"]
    await give(manager, fresh=True)
    world.kernel_errors = []
    assert (await give(manager, whole(), fresh=True))["ok"]
    assert [kind for kind, _ in world.passes] == ["whole", "purge", "whole"]
    assert (await give(manager, fresh=True))["ok"]
    assert world.helper is not None
    own = world.helper.network
    await poll(lambda: own._plane is None)


async def test_a_node_that_has_nothing_is_told_so_without_loading_anything(world: World) -> None:
    manager = await world.manager()
    assert (await give(manager, fresh=True))["result"] == {"drift": []}
    assert not world.passes
    assert world.helper is not None and world.helper.network._plane is None


async def test_a_released_node_is_left_as_it_was_found(world: World) -> None:
    manager = await running(world)
    await manager.request("secure", {"n": 2, "closed": True})
    await manager.request("release")
    assert ("purge", {"keys_too": True}) not in world.passes, "its task still runs"
    await manager.close()
    assert world.helper is not None
    helper = world.helper
    await poll(lambda: not helper.sessions)
    assert not helper.finished.is_set()
    world.engine.event("destroy", world.engine.containers.pop("c1"))
    await poll(helper.finished.is_set)
    assert world.passes[-1] == ("purge", {"keys_too": True})
    assert not (Path(world.root) / "network.json").exists()


async def test_a_release_that_clears_is_answered_when_networks_and_keys_have_gone(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    await manager.request("secure", {"n": 2, "closed": True})
    reply = await manager.request("release", sample("release_clear")["args"])
    assert reply["result"] == {"tasks": [], "left": []}
    assert ("purge", {"keys_too": True}) in world.passes
    assert world.helper is not None
    assert world.helper.network._dns is None
    assert not (Path(world.root) / "network.json").exists()
    await manager.close()
    await poll(world.helper.finished.is_set)
    assert world.helper.exit_code == EXIT_RELEASED


async def test_a_release_that_clears_says_what_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RETRY_S", (0.01, 0.01))
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.kernel_errors = ["containers still use swgw0"]
    reply = await manager.request("release", {"clear": True})
    assert reply["result"] == {"tasks": [], "left": ["containers still use swgw0"]}


async def test_a_release_that_clears_removes_what_is_still_there(world: World) -> None:
    manager = await running(world)
    reply = await manager.request("release", {"clear": True})
    assert reply["result"] == {"tasks": [], "left": []}
    assert not world.engine.containers
    assert world.passes[-1] == ("purge", {"keys_too": True})


async def test_a_release_takes_no_network_from_a_task_that_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remote_helpers.helper.CLEAR_S", 0.1)
    manager = await running(world)
    world.engine.delete_error = "device or resource busy"
    reply = await manager.request("release", {"clear": True})
    assert reply["result"]["left"] == []
    assert len(reply["result"]["tasks"]) == 1
    assert ("purge", {"keys_too": True}) not in world.passes


async def test_a_released_helper_whose_networks_cannot_be_taken_away_ends_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "RETRY_S", (0.01, 0.01))
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    world.kernel_errors = ["containers still use swgw0"]
    await manager.request("release")
    await manager.close()
    assert world.helper is not None
    await poll(world.helper.finished.is_set)
    assert [kind for kind, _ in world.passes].count("purge") == network.CLEAR_TRIES


async def test_who_comes_while_a_released_node_is_cleared_is_served(world: World) -> None:
    manager = await world.manager()
    await give(manager, whole(), fresh=True)
    assert world.helper is not None
    helper = world.helper
    cleared, go_on = asyncio.Event(), asyncio.Event()
    purge = helper.network._plane.purge

    async def slow(keys_too: bool) -> Any:
        cleared.set()
        await go_on.wait()
        return await purge(keys_too)

    helper.network._plane.purge = slow
    await manager.request("release")
    await manager.close()
    await cleared.wait()
    second = await world.manager(cluster="clusterb")
    asking = asyncio.create_task(give(second, whole(), fresh=True, cluster_id="clusterb"))
    go_on.set()
    assert (await asking)["ok"]
    assert not helper.finished.is_set()
    assert [kind for kind, _ in world.passes][-2:] == ["purge", "whole"]
