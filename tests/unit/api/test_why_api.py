"""GET /swarmsh/why/…: what can be asked about, and what is answered."""

from __future__ import annotations

import pytest

from swarmsh.model.snapshot import Changes
from tests.fakes.objects import a_node
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        await running.create("web", 2)
        await running.create("web-cache", 1, Placement={"Constraints": ["node.labels.disk==ssd"]})
        await running.call("POST", "/services/create", {**AGENT})
        yield running


AGENT = {"Name": "agent", "TaskTemplate": {"ContainerSpec": {"Image": "agent:1"}}, "Mode": {"Global": {}}}


async def why(api, ref):
    return await api.get(f"/swarmsh/why/{ref}")


async def test_a_service_is_told_by_its_slots(api):
    await api.orchestrator.settle()
    answer = await why(api, "web")
    assert answer["service"] == "web"
    assert answer["summary"] == ["2 of 2 replicas running"]
    assert [(p["place"], p["node"], p["state"]) for p in answer["places"]] == [
        ("web.1", "n1", "running"),
        ("web.2", "n2", "running"),
    ]


@pytest.mark.parametrize(
    ("ref", "place"),
    [("web.2", "web.2"), ("agent.n3", "agent.n3"), ("web.9", "web.9"), ("web-cache.1", "web-cache.1")],
)
async def test_a_place_is_told_alone(api, ref, place):
    await api.orchestrator.settle()
    answer = await why(api, ref)
    assert [p["place"] for p in answer["places"]] == [place]
    assert answer["summary"] == []


async def test_a_task_is_found_by_its_id_and_its_whole_name(api):
    await api.orchestrator.settle()
    (task, _) = await api.get("/tasks", filters='{"service":["web"]}')
    for ref in (task["ID"], f"web.{task['Slot']}.{task['ID']}"):
        assert (await why(api, ref))["places"][0]["task"] == task["ID"]


async def test_times_are_those_of_the_engine_api(api):
    await api.orchestrator.settle()
    (place,) = (await why(api, "web.1"))["places"]
    assert place["since"].endswith("Z")
    assert next(m["what"] for m in place["history"]) == "task made with version 1 of the spec"
    assert all(m["at"].endswith("Z") for m in place["history"])


async def test_a_node_that_does_not_take_it_is_told_with_filter_numbers_and_fix(api):
    (place,) = (await why(api, "web-cache.1"))["places"]
    assert place["verdict"] == "not made yet"
    await api.store.commit(lambda s: Changes(delete_nodes=(a_node(2).id, a_node(3).id)))

    def made(snapshot):
        return api.orchestrator._plan(snapshot)

    await api.store.commit_orchestration(made)
    (place,) = (await why(api, "web-cache.1"))["places"]
    assert place["verdict"] == "pending: no node takes it"
    (node,) = place["nodes"]
    assert (node["node"], node["fits"]) == ("n1", False)
    assert node["refusals"] == [
        {
            "filter": "constraints",
            "why": "node.labels.disk==ssd is asked for, it has no such label",
            "fix": "`swarmsh node update --label-add disk=ssd n1`",
        }
    ]
    assert place["fix"] == "n1: `swarmsh node update --label-add disk=ssd n1`"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("wbe", "wbe is no service and no task. Did you mean web?"),
        ("webcache.1", "Did you mean web-cache?"),
        ("quite-another", "There are agent, web, web-cache"),
        ("agent.n9", "agent has no task on n9: there is no such node. agent is global"),
        ("web.x", "web.x is no task. Name a slot as web.1, or give a task's id"),
        ("web.0", "web.0 is no task"),
    ],
)
async def test_an_unknown_name_is_answered_with_near_ones(api, ref, words):
    status, answer = await api.call("GET", f"/swarmsh/why/{ref}")
    assert status == 404
    assert words in answer["message"]


async def test_without_a_cluster_it_is_dockers_refusal():
    async with served(initialised=False) as api:
        status, answer = await api.call("GET", "/swarmsh/why/web")
    assert (status, "not a swarm manager" in answer["message"]) == (503, True)
