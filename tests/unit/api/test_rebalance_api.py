"""POST and GET /swarmsh/rebalance: what would move, what is to move, and what is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.model.objects import UpdateStatus
from swarmsh.model.snapshot import Changes
from tests.fakes.objects import a_node
from tests.fakes.serving import served

PATH = "/swarmsh/rebalance"


@pytest.fixture
async def api():
    async with served(nodes=1) as running:
        await running.create("web", 4)
        await running.create("db", 1)
        await running.orchestrator.settle()
        await running.store.commit(lambda _: Changes(put_nodes=(a_node(2),)))
        yield running


async def ask(api, **body):
    status, answer = await api.call("POST", PATH, body)
    assert status == 200, answer
    return answer


async def test_a_plan_says_what_would_move_and_changes_nothing(api):
    before = api.deps.snapshot.index
    answer = await ask(api, Plan=True)
    assert [(m["service"], m["slot"], m["from"], m["to"]) for m in answer["moves"]] == [
        ("web", 4, "n1", "n2"),
        ("web", 3, "n1", "n2"),
    ]
    assert answer["moves"][0]["why"] == "4 tasks of web on n1, 0 on n2"
    assert api.deps.snapshot.index == before
    assert (await api.get(PATH))["moves"] == []


async def test_what_is_asked_for_is_marked_on_the_tasks_and_told(api):
    answer = await ask(api, Services=["web"])
    told = (await api.get(PATH))["moves"]
    assert [m["task"] for m in told] == [m["task"] for m in answer["moves"]]
    assert {(m["from"], m["to"], m["state"]) for m in told} == {("n1", "n2", "waits")}
    (event,) = [e for e in await api.store.events(None, None) if e.action == "rebalance"]
    assert event.attributes == {"name": "web", "tasks": "2"}


async def test_the_marks_are_on_disk_before_the_answer(api):
    await ask(api)
    marks = [t.rebalance for t in api.store.snapshot.tasks.values() if t.rebalance is not None]
    assert [m.node_id for m in marks] == [a_node(2).id] * 2


async def test_moves_can_be_stopped(api):
    await ask(api)
    assert await ask(api, Stop=True) == {"stopped": 2}
    assert {(m["state"], m["why"]) for m in (await api.get(PATH))["moves"]} == {("stopped", "it was told to stop")}
    assert await ask(api, Stop=True) == {"stopped": 0}


async def test_a_service_in_the_middle_of_an_update_is_left_alone_with_why(api):
    (web,) = [s for s in api.deps.snapshot.services.values() if s.spec.name == "web"]
    paused = replace(web, update_status=UpdateStatus(state="paused", message="update paused"))
    await api.store.commit(lambda _: Changes(put_services=(paused,)))
    answer = await ask(api, Plan=True, Services=["web"])
    assert answer == {"moves": [], "skipped": [{"service": "web", "why": "its update is not through: paused"}]}


async def test_an_unknown_service_is_404_and_nothing_is_marked(api):
    status, answer = await api.call("POST", PATH, {"Services": ["web", "wbe"]})
    assert (status, answer["message"]) == (404, "service wbe not found")
    assert (await api.get(PATH))["moves"] == []


async def test_without_a_cluster_it_is_dockers_refusal():
    async with served(initialised=False) as api:
        for method, body in (("POST", {}), ("GET", None)):
            status, answer = await api.call(method, PATH, body)
            assert (status, "not a swarm manager" in answer["message"]) == (503, True)
