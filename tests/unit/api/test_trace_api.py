"""POST /swarmsh/networks/trace: which connection is tried, who looks, what is told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from swarmsh.model.trace import Sighting, Traced
from tests.fakes.networked import HTTP, NET1, NET2, networked, placed
from tests.fakes.objects import a_node, a_service
from tests.fakes.serving import served

N1, N2, N3 = (a_node(n) for n in (1, 2, 3))
WEB = networked(a_service("web"), NET1, ports=(HTTP,))
LONE = networked(a_service("lone"), NET2, first_mark=5)
RR = networked(a_service("rr"), NET1, mode="dnsrr")
ASKER = networked(a_service("asker"), NET1, first_mark=9)
TASKS = {
    "asker": placed(ASKER, 1, N1),
    "web": placed(WEB, 2, N2),
    "web3": placed(WEB, 3, N3),
    "lone": placed(LONE, 1, N3),
    "rr": placed(RR, 4, N2),
    "dead": placed(WEB, 9, N1, state=TaskState.FAILED),
}


@pytest.fixture
async def api():
    async with served() as running:
        change = Changes(
            put_networks=(replace(NET1, encrypted=True), NET2),
            put_services=(WEB, LONE, RR, ASKER),
            put_tasks=tuple(TASKS.values()),
        )
        await running.store.commit(lambda _: change)
        yield running


async def trace(api, source, target, **more):
    status, answer = await api.call("POST", "/swarmsh/networks/trace", {"From": source, "To": target, **more})
    assert status == 200, answer
    return answer


async def test_a_services_vip_is_tried_and_all_nodes_with_its_tasks_look(api):
    answer = await trace(api, "asker.1", "web")
    node, send = api.nodes.tried
    assert (node, send.task, send.to, send.to_port) == (
        N1.id,
        TASKS["asker"].id,
        WEB.endpoint.virtual_ips[0].address,
        80,
    )
    assert answer["to"] == f"{send.to}:80"
    assert 25000 <= send.port < 29000
    assert {n: set(w.tasks) for n, w in api.nodes.watches.items()} == {
        N1.id: {TASKS["asker"].id},
        N2.id: {TASKS["web"].id},
        N3.id: {TASKS["web3"].id},
    }
    assert api.nodes.ways == ["watch"] * 3 + ["try"] + ["seen"] * 3, "all look before the connection is tried"


async def test_what_was_seen_is_told_with_names(api):
    one = Sighting(
        device="eth0",
        way="out",
        src="10.48.17.1:61001",
        dst="10.48.24.1:80",
        place=TASKS["asker"].id,
        flags="SYN",
        forth=True,
    )
    api.nodes.sightings = {N1.id: (one, replace(one, device="sv1000", place=""))}
    api.nodes.traced = Traced(outcome="silent", words="no answer within 3 s")
    answer = await trace(api, "asker.1", "web")
    assert answer["hops"][0] == {
        **{"node": "n1", "task": "asker.1", "device": "eth0", "way": "out", "src": one.src, "dst": one.dst},
        **{"tunnel": "", "flags": "SYN", "answer": False},
    }
    assert not answer["ok"]
    assert "in ESP" in answer["words"], "the network that they share is encrypted"


@pytest.mark.parametrize(
    ("source", "target", "more", "task", "to"),
    [
        ("asker.1", "web.3", {"Port": 81}, "asker", "10.48.17.3:81"),
        ("asker", "rr", {"Port": 5}, "asker", "10.48.17.4:5"),
        ("n1", "web", {}, "", "10.0.0.1:8080"),
        ("n1", "web.2", {}, "", "10.255.2.12:80"),
        ("web.2", "n3", {"Port": 22}, "web", "10.0.0.3:22"),
        ("n1", "n2", {"Port": 53, "Protocol": "udp"}, "", "10.0.0.2:53"),
    ],
)
async def test_tasks_services_and_nodes_at_both_ends(api, source, target, more, task, to):
    assert (await trace(api, source, target, **more))["to"] == to
    node, send = api.nodes.tried
    assert send.task == (TASKS[task].id if task else "")
    assert node == (TASKS[task].node_id if task else N1.id)
    assert send.protocol == more.get("Protocol", "tcp")


@pytest.mark.parametrize(
    ("source", "target", "more", "status", "words"),
    [
        ("nope", "web", {}, 404, "nope is no task, service or node"),
        ("asker.1", "lone", {"Port": 1}, 400, "asker.1 and lone share no network"),
        ("asker.1", "rr", {}, 400, "Give --port"),
        ("asker.1", "n1", {}, 400, "Give --port"),
        ("n1", "rr", {"Port": 80}, 400, "publishes no tcp port 80"),
        ("n1", "web", {"Protocol": "udp"}, 400, "publishes no udp port"),
        ("web.9", "asker", {"Port": 1}, 400, "does not run"),
        ("asker.1", "web", {"Port": 70000}, 400, "Port"),
        ("asker.1", "web", {"TimeoutS": 1e9}, 400, "TimeoutS"),
        ("asker.1", "web", {"Protocol": "icmp"}, 400, "Protocol"),
    ],
)
async def test_what_cannot_be_traced_is_refused(api, source, target, more, status, words):
    body = {"From": source, "To": target, **more}
    found, answer = await api.call("POST", "/swarmsh/networks/trace", body)
    assert (found, api.nodes.tried) == (status, None), answer
    assert words in answer["message"]


async def test_a_node_that_cannot_look_is_named_and_one_that_cannot_send_is_an_error(api):
    api.nodes.away.add(N2.id)
    api.nodes.traced = Traced(outcome="silent", words="no answer within 3 s")
    api.nodes.sightings = {N1.id: (Sighting(device="sb1000", way="in", src="a:1", dst="b:2", forth=True),)}
    assert "what n2 saw is not known" in (await trace(api, "asker.1", "web"))["fix"]
    api.nodes.away.add(N1.id)
    status, answer = await api.call("POST", "/swarmsh/networks/trace", {"From": "asker.1", "To": "web"})
    assert status == 503
    assert "no route to host" in answer["message"]
