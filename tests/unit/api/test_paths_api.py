"""POST /swarmsh/nodes/check-paths: three questions a node, however many there are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.model.snapshot import Changes
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def node(number: int) -> str:
    return f"node{number:021d}"


async def items(api, names=None):
    body = {} if names is None else {"Nodes": names}
    status, answer = await api.call("POST", "/swarmsh/nodes/check-paths", body)
    assert status == 200, answer
    return answer["items"]


async def test_all_listen_before_any_sends_and_each_is_asked_three_times(api):
    found = await items(api)
    assert [(item["node_name"], item["name"], item["ok"]) for item in found] == [
        (name, "ways", True) for name in ("n1", "n2", "n3")
    ]
    assert "reach 2 nodes, in packets of 1500 bytes" in found[0]["detail"]
    assert api.nodes.ways == ["listen"] * 3 + ["send"] * 3 + ["hear"] * 3


async def test_a_fault_names_the_pair_and_what_to_allow(api):
    api.nodes.blocked.add((1, node(3)))
    (fault,) = [item for item in await items(api) if not item["ok"]]
    assert (fault["node"], fault["node_name"], fault["name"]) == (node(1), "n1", "to n3")
    assert fault["detail"] == "ESP (IP protocol 50) from 10.0.0.1 does not arrive at n3 (10.0.0.3)"
    assert "from 10.0.0.1 to 10.0.0.3" in fault["fix"]


async def test_of_one_node_its_ways_in_both_directions_are_tried(api):
    api.nodes.blocked |= {(1, node(3)), (3, node(2))}
    found = await items(api, ["n2"])
    assert [(item["node_name"], item["ok"]) for item in found] == [("n3", False), ("n2", True)]


async def test_nodes_without_session_or_answer(api):
    api.nodes.away.add(node(1))
    api.nodes.silent.add((node(2), "send"))
    (fault,) = await items(api)
    assert (fault["node_name"], fault["ok"]) == ("n2", False)
    assert fault["detail"] == f"it could not be asked: node {node(2)} cannot be reached: no route to host"
    api.nodes.away.add(node(2))
    assert await items(api) == [], "one node alone has no way to try"


async def test_a_node_whose_address_is_not_known(api):
    member = api.store.snapshot.nodes[node(2)]
    named = replace(member, target=replace(member.target, address="two.example"))
    await api.store.commit(lambda _: Changes(put_nodes=(named,)))
    found = {item["node_name"]: item for item in await items(api)}
    assert found["n2"]["detail"] == "no IPv4 address is known by which other nodes reach it"
    assert "swarmsh_underlay" in found["n2"]["fix"]
    assert found["n1"]["ok"]
    assert "reach 1 node," in found["n1"]["detail"]


async def test_nodes_of_one_address_are_shown_with_the_way_out(api):
    one, two = (api.store.snapshot.nodes[node(n)] for n in (1, 2))
    await api.store.commit(lambda _: Changes(put_nodes=(replace(two, target=replace(one.target, port=2222)),)))
    found = {item["node_name"]: item for item in await items(api)}
    for name, other in (("n1", "n2"), ("n2", "n1")):
        assert f"its address 10.0.0.1 is that of {other} as well" in found[name]["detail"]
        assert "swarmsh_underlay" in found[name]["fix"] and not found[name]["ok"]
    _, listed = await api.call("GET", "/nodes")
    shown = {n["Spec"]["Name"]: n["Status"].get("Message", "") for n in listed}
    assert shown == {
        "n1": "set swarmsh_underlay: 10.0.0.1 is also n2, so no networks here",
        "n2": "set swarmsh_underlay: 10.0.0.1 is also n1, so no networks here",
        "n3": "",
    }
    # The object of node 1 is the same, but what is shown of it is not.
    await api.store.commit(lambda _: Changes(put_nodes=(two,)))
    _, inspected = await api.call("GET", f"/nodes/{node(1)}")
    assert "Message" not in inspected["Status"]


async def test_an_unknown_node_is_refused(api):
    status, answer = await api.call("POST", "/swarmsh/nodes/check-paths", {"Nodes": ["nope"]})
    assert (status, api.nodes.ways) == (404, [])
    assert "nope" in answer["message"]
