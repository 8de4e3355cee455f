"""POST /swarmsh/purge: tasks, then the archive, then each node, and what is left there."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def node(number: int) -> str:
    return f"node{number:021d}"


async def test_nodes_are_left_once_their_tasks_have_gone(api):
    await api.create("web", replicas=3)
    await api.orchestrator.settle()
    async with api.store.subscribe() as changes:
        asked = asyncio.create_task(api.call("POST", "/swarmsh/purge"))
        after, _ = await anext(changes)
    assert not after.services
    assert after.tasks and not api.nodes.purged, "as long as nodes have tasks they are not left"
    async with api.orchestrator.running():
        status, answer = await asked
    assert (status, answer["Archive"]) == (200, "archive")
    assert answer["Nodes"] == [{"ID": node(n), "Name": f"n{n}", "Left": [], "Fix": ""} for n in (1, 2, 3)]
    assert sorted(api.nodes.purged) == [node(n) for n in (1, 2, 3)]
    assert api.store.snapshot.cluster is None


async def test_what_is_left_and_who_could_not_be_asked_is_told_with_a_way_out(api):
    cluster = api.store.snapshot.cluster.id
    api.nodes.away.add(node(2))
    api.nodes.left[node(3)] = ("device swgw0 is busy", "route 10.255.1.0/24")
    _, answer = await api.call("POST", "/swarmsh/purge")
    one, two, three = answer["Nodes"]
    assert one["Left"] == []
    assert two["Left"] == [f"there is no session with node {node(2)}: no route to host"]
    assert three["Left"] == ["device swgw0 is busy", "route 10.255.1.0/24"]
    for left in (two, three):
        assert f"label=swarmsh.cluster={cluster}" in left["Fix"]


async def test_without_a_cluster_nothing_is_purged(api):
    assert (await api.call("POST", "/swarmsh/purge"))[0] == 200
    assert (await api.call("POST", "/swarmsh/purge"))[0] == 503
