"""Volumes of all nodes on a real socket: Docker's endpoints, and ours."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from swarmsh.manager.usecases import volumes as usecase
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState, TaskState
from swarmsh.model.volumes import EngineVolume
from tests.fakes.objects import a_task
from tests.fakes.serving import served

ANONYMOUS = "ab" * 32


def node_id(number: int) -> str:
    return f"node{number:021d}"


@pytest.fixture
async def api():
    async with served() as running:
        running.streams.disks = {
            node_id(1): [EngineVolume(name="pg", in_use=True, size_bytes=1 << 20), EngineVolume(name="old")],
            node_id(2): [
                EngineVolume(name="pg", labels={"a": "b"}),
                EngineVolume(name=ANONYMOUS, size_bytes=5),
                EngineVolume(name="data-7", size_bytes=7),
            ],
        }
        yield running


def ids(answer):
    return [volume["id"] for volume in answer["volumes"]]


async def mounted(api):
    """A service with volume pg, and its task running on node 1."""
    mount = {"Type": "volume", "Source": "pg", "Target": "/data"}
    service_id = await api.create("db", 1, ContainerSpec={"Image": "web:1", "Mounts": [mount]})
    task = a_task(api.store.snapshot.services[service_id], 1, node_id(1), TaskState.RUNNING)
    await api.store.commit(lambda _: Changes(put_tasks=(task,)))


async def down(api, number):
    node = api.store.snapshot.nodes[node_id(number)]
    seen = replace(
        node,
        status=replace(node.status, state=NodeState.DOWN),
        description=replace(node.description, volumes=("pg", "data-7")),
    )
    await api.store.commit(lambda _: Changes(put_nodes=(seen,)))


async def refused(api, method, path, status):
    found, answer = await api.call(method, path)
    assert found == status, answer
    return answer["message"]


async def test_volumes_of_all_nodes_are_listed_with_their_services(api):
    await api.create("db", 0, ContainerSpec={"Image": "web:1", "Mounts": [
        {"Type": "volume", "Source": "pg", "Target": "/d"},
        {"Type": "volume", "Source": "data-{{.Task.Slot}}", "Target": "/e"},
    ]})  # fmt: skip
    answer = await api.get("/swarmsh/volumes")
    assert ids(answer) == ["n1/old", "n1/pg", f"n2/{ANONYMOUS}", "n2/data-7", "n2/pg"]
    assert [volume["services"] for volume in answer["volumes"]] == [[], ["db"], [], ["db"], ["db"]]
    assert [volume["anonymous"] for volume in answer["volumes"]] == [False, False, True, False, False]
    assert {volume["size_bytes"] for volume in answer["volumes"]} == {None}
    assert answer["silent"] == []
    sized = await api.get("/swarmsh/volumes", size="1", filters=json.dumps({"name": ["n1/pg"]}))
    assert [volume["size_bytes"] for volume in sized["volumes"]] == [1 << 20]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"name": ["data"]}, ["n2/data-7"]),
        ({"node": ["n1"]}, ["n1/old", "n1/pg"]),
        ({"node": [node_id(2)], "name": ["pg"]}, ["n2/pg"]),
        ({"label": ["a"]}, ["n2/pg"]),
        ({"label": ["a=c"]}, []),
        ({"label!": ["a=b"], "name": ["pg"]}, ["n1/pg"]),
        ({"dangling": ["false"]}, ["n1/pg"]),
        ({"driver": ["rbd"]}, []),
        ({"service": ["web"]}, []),
    ],
)
async def test_filters_let_through_what_they_name(api, filters, found):
    assert ids(await api.get("/swarmsh/volumes", filters=json.dumps(filters))) == found


async def test_a_filter_or_node_that_is_not_known_is_refused(api):
    assert "invalid filter 'colour'" in await refused(api, "GET", '/volumes?filters={"colour":["red"]}', 400)
    assert "invalid filter 'dangling=x'" in await refused(api, "GET", '/volumes?filters={"dangling":["x"]}', 400)
    assert "node n9 not found" in await refused(api, "GET", '/volumes?filters={"node":["n9"]}', 404)


async def test_a_silent_node_is_named_and_the_others_are_listed(api):
    await down(api, 2)
    api.nodes.away.add(node_id(3))
    answer = await api.get("/swarmsh/volumes")
    assert ids(answer) == ["n1/old", "n1/pg"]
    assert answer["silent"] == [
        {"node": "n2", "why": "it is down", "volumes": ["pg", "data-7"]},
        {"node": "n3", "why": f"node {node_id(3)} cannot be reached: no route to host", "volumes": []},
    ]
    listed = await api.get("/volumes")
    assert [volume["Name"] for volume in listed["Volumes"]] == ["n1/old", "n1/pg"]
    assert "volumes of node n2 are missing: it is down" in listed["Warnings"]


async def test_a_node_that_hangs_holds_up_nobody_for_ever(api, monkeypatch):
    monkeypatch.setattr(usecase, "ASK_S", 0.05)
    api.streams.hung.add(node_id(2))
    answer = await api.get("/swarmsh/volumes")
    assert ids(answer) == ["n1/old", "n1/pg"]
    assert answer["silent"][0]["why"] == "it did not answer within 0.05 s"


async def test_a_volume_is_found_by_its_name_alone_if_one_node_has_it(api):
    assert (await api.get("/volumes/old"))["Name"] == "n1/old"
    assert (await api.get("/volumes/n2/pg"))["Status"]["Node"] == "n2"
    assert (await api.get("/swarmsh/volumes/n2/pg"))["labels"] == {"a": "b"}
    message = await refused(api, "GET", "/volumes/pg", 400)
    assert message == "volume pg is on 2 nodes. Name one of n1/pg, n2/pg"
    assert await refused(api, "GET", "/volumes/nope", 404) == "get nope: no such volume"
    assert "node n9 not found" in await refused(api, "GET", "/volumes/n9/pg", 404)
    await down(api, 2)
    assert "n2 has not told its volumes: it is down" in await refused(api, "GET", "/volumes/data-7", 503)
    assert "Not asked, since they do not answer: n2" in await refused(api, "GET", "/volumes/nope", 404)
    assert "Name one of n1/pg, n2/pg" in await refused(api, "DELETE", "/volumes/pg", 400)


async def test_a_volume_is_removed_unless_it_is_in_use(api):
    await mounted(api)
    message = await refused(api, "DELETE", "/volumes/n1/pg", 409)
    assert message == "volume n1/pg is in use by db.1: volume is in use - [c1]"
    status, _ = await api.call("DELETE", "/volumes/n2/pg")
    assert status == 204
    assert (await api.get("/volumes/pg"))["Name"] == "n1/pg"


async def test_a_prune_takes_anonymous_volumes_that_nothing_uses(api):
    status, answer = await api.call("POST", "/volumes/prune")
    assert (status, answer) == (200, {"VolumesDeleted": [f"n2/{ANONYMOUS}"], "SpaceReclaimed": 5})


async def test_a_prune_of_all_leaves_what_a_service_names_though_it_has_no_task(api):
    await api.create("db", 0, ContainerSpec={"Image": "web:1", "Mounts": [
        {"Type": "volume", "Source": "data-{{.Task.Slot}}", "Target": "/e"},
    ]})  # fmt: skip
    status, answer = await api.call("POST", '/swarmsh/volumes/prune?filters={"all":["true"]}')
    assert status == 200
    assert answer == {
        "removed": ["n1/old", f"n2/{ANONYMOUS}", "n2/pg"],
        "failed": [],
        "freed_bytes": 5,
        "silent": [],
    }
    assert ids(await api.get("/swarmsh/volumes")) == ["n1/pg", "n2/data-7"]


async def test_clients_of_old_prune_named_volumes_too(api):
    _, answer = await api.call("POST", '/v1.41/volumes/prune?filters={"label":["a"]}')
    assert answer["VolumesDeleted"] == ["n2/pg"]


async def test_volumes_are_not_made_by_hand(api):
    assert "docker -H ssh://NODE volume create" in await refused(api, "POST", "/volumes/create", 501)


async def test_what_is_not_there_is_removed_by_force_unless_a_node_is_silent(api):
    assert (await api.call("DELETE", "/volumes/nothing?force=1"))[0] == 204
    assert (await api.call("DELETE", "/volumes/n1/nothing?force=1"))[0] == 204
    assert "no such volume" in await refused(api, "DELETE", "/volumes/nothing", 404)
    assert "node n9 not found" in await refused(api, "DELETE", "/volumes/n9/nothing?force=1", 404)
    api.nodes.away.add(node_id(3))
    assert "Not asked" in await refused(api, "DELETE", "/volumes/nothing?force=1", 404)
