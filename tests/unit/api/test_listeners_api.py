"""Ports on which nodes themselves listen: refused before anything is stored, and only new ones are asked for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState
from tests.fakes.serving import served

AUTH = {"X-Registry-Auth": "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ=="}


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def node_id(api, number):
    return next(n.id for n in api.store.snapshot.nodes.values() if n.number == number)


def listen(api, number, *found):
    api.nodes.listening[node_id(api, number)] = tuple(
        Listener(protocol=protocol, address=address, port=port) for protocol, address, port in found
    )


def spec(*ports, name="web", **labels):
    published = [{"TargetPort": 80, "PublishedPort": port, "Protocol": protocol} for protocol, port in ports]
    template = {"ContainerSpec": {"Image": "web:1"}}
    return {"Name": name, "TaskTemplate": template, "EndpointSpec": {"Ports": published}, "Labels": labels}


async def create(api, body, status=201):
    found, answer = await api.call("POST", "/services/create", body, headers=AUTH)
    assert found == status, answer
    return answer


async def update(api, body, status=200, **query):
    stored = await api.get("/services/web")
    query["version"] = stored["Version"]["Index"]
    found, answer = await api.call("POST", "/services/web/update", body, params=query)
    assert found == status, answer
    return answer


async def test_a_port_that_something_listens_on_is_refused_and_nothing_is_stored(api):
    listen(api, 2, ("tcp", "0.0.0.0", 8080), ("tcp", "::", 8080))
    index = api.store.snapshot.index
    message = (await create(api, spec(("tcp", 8080)), 400))["message"]
    assert "port '8080' is already in use" in message and "node n2 (0.0.0.0)" in message and "ss -ltnp" in message
    assert api.store.snapshot.index == index and not api.store.snapshot.services
    assert api.store.secret_keys() == []
    assert {asked for asked, _ in api.nodes.asked_ports} == {node_id(api, n) for n in (1, 2, 3)}
    await create(api, spec(("udp", 8080)))  # tcp alone is taken
    listen(api, 2)
    await create(api, spec(("tcp", 8080), name="web2"))


async def test_nodes_that_do_not_answer_are_passed_over(api):
    for number in (1, 2, 3):
        listen(api, number, ("tcp", "0.0.0.0", 8080))
    api.nodes.away.add(node_id(api, 1))
    api.nodes.silent.add((node_id(api, 2), "listeners"))
    third = api.store.snapshot.nodes[node_id(api, 3)]
    down = replace(third, status=replace(third.status, state=NodeState.DOWN))
    await api.store.commit(lambda _: Changes(put_nodes=(down,)))
    await create(api, spec(("tcp", 8080)))
    assert [asked for asked, _ in api.nodes.asked_ports] == [node_id(api, 2)]


async def test_without_new_ports_in_ingress_mode_nobody_is_asked(api):
    await create(api, {**spec(), "Name": "none"})
    body = spec(("tcp", 8080))
    body["EndpointSpec"]["Ports"][0]["PublishMode"] = "host"
    await create(api, body)
    assert api.nodes.asked_ports == []


async def test_an_update_is_asked_for_what_it_adds(api):
    await create(api, spec(("tcp", 8080)))
    api.nodes.asked_ports.clear()
    listen(api, 1, ("tcp", "0.0.0.0", 8080), ("tcp", "127.0.0.1", 9090))
    await update(api, spec(("tcp", 8080), tier="front"))
    assert api.nodes.asked_ports == []
    message = (await update(api, spec(("tcp", 8080), ("tcp", 9090)), 400))["message"]
    assert "port '9090'" in message and "loopback" in message
    assert {ranges for _, ranges in api.nodes.asked_ports} == {(PortRange(protocol="tcp", first=9090, last=9090),)}
    assert (await api.get("/services/web"))["Endpoint"]["Ports"][0]["PublishedPort"] == 8080
    await update(api, spec())
    message = (await update(api, spec(), 400, rollback="previous"))["message"]  # the port comes back
    assert "port '8080'" in message


async def test_a_port_from_host_mode_to_ingress_is_its_own_tasks_to_make_room_for(api):
    body = spec(("tcp", 8080))
    body["EndpointSpec"]["Ports"][0]["PublishMode"] = "host"
    await create(api, body)
    await api.orchestrator.settle()
    (task,) = api.store.snapshot.tasks.values()
    there = api.store.snapshot.nodes[task.node_id].number
    other = there % 3 + 1
    listen(api, there, ("tcp", "0.0.0.0", 8080))  # Docker's proxy of that task
    listen(api, other, ("tcp", "0.0.0.0", 8080))
    assert f"node n{other} (" in (await update(api, spec(("tcp", 8080)), 400))["message"]
    listen(api, other)
    await update(api, spec(("tcp", 8080)))


async def test_a_node_whose_own_network_a_task_leaves_is_passed_over(api):
    on_host = spec()
    on_host["TaskTemplate"]["Networks"] = [{"Target": "host"}]
    await create(api, on_host)
    await api.orchestrator.settle()
    (task,) = api.store.snapshot.tasks.values()
    listen(api, api.store.snapshot.nodes[task.node_id].number, ("tcp", "0.0.0.0", 80))
    assert "port '80'" in (await create(api, spec(("tcp", 80), name="other"), 400))["message"]
    await update(api, spec(("tcp", 80)))


async def test_a_chosen_port_is_one_on_which_nobody_listens(api):
    listen(api, 1, ("tcp", "0.0.0.0", 30000), ("udp", "0.0.0.0", 30001))
    listen(api, 3, ("tcp", "127.0.0.1", 30001), ("tcp", "::1", 30003))
    await create(api, spec(("tcp", 0), ("tcp", 30002)))
    ports = (await api.get("/services/web"))["Endpoint"]["Ports"]
    assert [port["PublishedPort"] for port in ports] == [30004, 30002]
    listen(api, 1, ("tcp", "0.0.0.0", 30004))  # it came later, and the port is the service's
    await update(api, spec(("tcp", 0), ("tcp", 30002)))
    assert [p["PublishedPort"] for p in (await api.get("/services/web"))["Endpoint"]["Ports"]] == [30004, 30002]


async def test_a_nodes_check_tells_of_what_came_to_listen_later(api):
    await create(api, spec(("tcp", 8080), ("udp", 5353)))
    listen(api, 1, ("tcp", "0.0.0.0", 8080), ("udp", "224.0.0.251", 5353))
    items = [(await api.get(f"/swarmsh/nodes/n{n}/check"))["items"][-1] for n in (1, 2)]
    assert items[0]["name"] == "ports" and not items[0]["ok"]
    assert "8080/tcp (0.0.0.0)" in items[0]["detail"] and "5353" not in items[0]["detail"]
    assert items[1] == {"name": "ports", "ok": True, "detail": "", "fix": ""}
