"""Revisions and plans over a real unix socket."""

from __future__ import annotations

import asyncio
import getpass

import pytest

from swarmsh.adapters.store import SqliteStore
from swarmsh.manager.usecases.credentials import registry_auth
from tests.fakes.serving import WallClock, served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


async def change(api, name="web", headers=None, **container):
    service = await api.get(f"/services/{name}")
    spec = service["Spec"]
    spec["TaskTemplate"]["ContainerSpec"] |= container
    path = f"/services/{name}/update?version={service['Version']['Index']}"
    status, answer = await api.call("POST", path, spec, headers=headers or {})
    assert status == 200, answer


async def post(api, path, body=None, name="web"):
    """With the service's newest version."""
    service = await api.get(f"/services/{name}")
    mark = "&" if "?" in path else "?"
    return await api.call("POST", f"{path}{mark}version={service['Version']['Index']}", body)


async def history(api, name="web"):
    return await api.get(f"/swarmsh/services/{name}/revisions")


async def test_the_history_tells_who_did_what_and_when_newest_first(api):
    await api.create()
    await change(api, Image="web:2", headers={"User-Agent": "Docker-Client/28.5.2 (linux)"})
    second, first = await history(api)
    assert (first["Number"], first["Action"], first["Current"], first["Image"]) == (1, "create", False, "web:1")
    assert (second["Number"], second["Action"], second["Current"]) == (2, "update", True)
    assert (second["User"], second["Client"]) == (getpass.getuser(), "Docker-Client/28.5.2 (linux)")
    assert second["At"].endswith("Z")
    field = "TaskTemplate.ContainerSpec.Image"
    assert second["Changes"] == [{"Field": field, "Before": "web:1", "After": "web:2", "Hidden": False}]
    assert first["Changes"] == []


async def test_what_changed_is_not_known_where_the_revision_before_is_not_kept(api):
    await api.create()
    status, answer = await api.call("POST", "/swarmsh/cluster/update", {"RevisionsKept": 2})
    assert (status, answer["RevisionsKept"]) == (200, 2)
    for n in range(2, 5):
        await change(api, Image=f"web:{n}")
    kept = await history(api)
    assert [(r["Number"], r["Changes"] is None) for r in kept] == [(4, False), (3, True)]
    for wrong in (1, 0, -1, 1001, "5"):
        status, answer = await api.call("POST", "/swarmsh/cluster/update", {"RevisionsKept": wrong})
        assert (status, "RevisionsKept" in answer["message"]) == (400, True)
    assert (await api.get("/swarmsh/cluster"))["RevisionsKept"] == 2


async def test_two_revisions_are_compared_field_by_field(api):
    await api.create()
    await change(api, Image="web:2", Env=["A=1", "DB_PASSWORD=sesame"])
    answer = await api.get("/swarmsh/services/web/diff", **{"from": "1", "to": "2"})
    assert (answer["From"]["Number"], answer["To"]["Number"], answer["ReplacesTasks"]) == (1, 2, True)
    assert [(c["Field"].rpartition(".")[2], c["After"]) for c in answer["Changes"]] == [
        ("Image", "web:2"),
        ("Env[A]", "1"),
        ("Env[DB_PASSWORD]", "(hidden)"),
    ]
    assert answer == await api.get("/swarmsh/services/web/diff")
    assert (await api.get("/swarmsh/services/web/diff", **{"from": "2"}))["Changes"] == []


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/swarmsh/services/nobody/revisions", 404, "service nobody not found"),
        ("/swarmsh/services/web/diff?from=7", 404, "service web has no revision 7. Revision 1 is kept: `swarmsh"),
        ("/swarmsh/services/web/diff?from=previous", 404, "no previous revision"),
        ("/swarmsh/services/web/diff?from=-1", 400, "invalid revision '-1': it is a number, current or previous"),
        ("/swarmsh/services/web/diff?to=x", 404, "no previous revision"),
        ("/swarmsh/services/web/diff?from=1&to=%C2%B2", 400, "invalid revision"),
    ],
)
async def test_what_is_not_there_is_said_with_what_is(api, path, status, words):
    await api.create()
    got, answer = await api.call("GET", path)
    assert (got, words in answer["message"]) == (status, True), answer


async def test_a_rollback_to_a_revision_is_an_ordinary_update_to_its_spec(api):
    await api.create()
    for n in (2, 3):
        await change(api, Image=f"web:{n}", headers={"X-Registry-Auth": "abc"})
    status, answer = await post(api, "/swarmsh/services/web/rollback?to=1")
    assert (status, answer) == (200, {"Revision": 1, "Warnings": None})
    service = await api.get("/services/web")
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "web:1"
    assert service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "web:3"
    assert "UpdateStatus" not in service  # an update begins anew, unlike Docker's own rollback
    newest, *_ = await history(api)
    assert (newest["Number"], newest["Action"]) == (4, "rollback to 1")
    assert await registry_auth(api.store, service["ID"]) == "abc"


async def test_dockers_rollback_goes_to_the_previous_spec_and_is_a_revision(api):
    await api.create()
    await change(api, Image="web:2")
    spec = (await api.get("/services/web"))["Spec"]
    assert (await post(api, "/services/web/update?rollback=previous", spec))[0] == 200
    newest, *_ = await history(api)
    assert (newest["Number"], newest["Action"], newest["Image"]) == (3, "rollback", "web:1")


async def test_a_rollback_needs_a_revision_and_the_newest_version(api):
    await api.create()
    assert (await post(api, "/swarmsh/services/web/rollback"))[0] == 400
    status, answer = await api.call("POST", "/swarmsh/services/web/rollback?to=1&version=1")
    assert (status, "out of sequence" in answer["message"]) == (500, True)
    status, answer = await post(api, "/swarmsh/services/web/rollback?to=5")
    assert (status, "Revision 1 is kept" in answer["message"]) == (404, True)


async def test_credentials_of_the_registry_are_in_no_revision(tmp_path):
    store = await SqliteStore.open(tmp_path / "state", WallClock())
    async with served(store=store) as api:
        await api.create()
        await change(api, Image="web:2", headers={"X-Registry-Auth": "c2VzYW1l"})
        assert "c2VzYW1l" not in str(await history(api))
        assert "c2VzYW1l" not in str(await store.revisions(next(iter(store.snapshot.services))))
    await store.close()


# --- plans --------------------------------------------------------------------------------------------------
async def plan(api, path="/swarmsh/services/web/plan", **container):
    spec = (await api.get("/services/web"))["Spec"]
    spec["TaskTemplate"]["ContainerSpec"] |= container
    index = api.store.snapshot.index
    status, answer = await post(api, path, spec)
    assert status == 200, answer
    assert api.store.snapshot.index == index, "a plan writes nothing"
    return answer


async def test_a_plan_of_an_update_names_fields_and_tasks_in_their_order_and_changes_nothing(api):
    await api.create(replicas=2)
    await api.orchestrator.settle()
    answer = await plan(api, Image="web:2")
    assert (answer["Service"], answer["Action"], answer["Changed"], answer["Kept"]) == ("web", "update", True, 0)
    assert [c["After"] for c in answer["Changes"]] == ["web:2"]
    assert [(t["Order"], t["Task"], t["Action"], t["Way"]) for t in answer["Tasks"]] == [
        (1, "web.1", "replace", "stop-first"),
        (2, "web.2", "replace", "stop-first"),
    ]
    tasks = {t["ID"]: t["NodeID"] for t in await api.get("/tasks")}
    assert {t["Old"]["TaskID"]: t["Old"]["NodeID"] for t in answer["Tasks"]} == tasks
    assert {t["New"]["Node"] for t in answer["Tasks"]} <= {"n1", "n2", "n3"}
    assert answer["Status"] == {"State": "completed", "Message": "update completed"}
    assert answer["Whole"]
    assert len(await history(api)) == 1


async def test_a_plan_of_nothing_has_nothing(api):
    await api.create()
    await api.orchestrator.settle()
    answer = await plan(api)
    assert (answer["Changed"], answer["Changes"], answer["Tasks"], answer["Kept"]) == (False, [], [], 2)


async def test_what_goes_on_anyhow_is_not_part_of_the_plan(api):
    await api.create()  # its tasks are not made yet
    answer = await plan(api)
    assert (answer["Changed"], answer["Tasks"]) == (False, [])
    answer = await plan(api, Image="web:2")
    assert [t["Action"] for t in answer["Tasks"]] == ["start", "start"]


async def test_a_plan_of_a_new_service_has_all_its_fields_and_tasks(api):
    body = {"Name": "new", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Global": {}}}
    status, answer = await api.call("POST", "/swarmsh/services/plan", body)
    assert (status, answer["Action"], answer["Changed"]) == (200, "create", True)
    assert [(t["Task"], t["Action"], t["Old"]) for t in answer["Tasks"]] == [
        (f"new.n{n}", "start", None) for n in (1, 2, 3)
    ]
    assert {"Field": "Name", "Before": None, "After": "new", "Hidden": False} in answer["Changes"]
    assert await api.get("/services") == []


async def test_a_plan_is_refused_as_the_change_itself_would_be(api):
    await api.create()
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
    assert (await api.call("POST", "/swarmsh/services/plan", body))[0] == 409
    status, answer = await api.call("POST", "/swarmsh/services/web/plan?version=1", body)
    assert (status, "out of sequence" in answer["message"]) == (500, True)
    bad = body | {"UpdateConfig": {"Order": "sideways"}}
    status, answer = await post(api, "/swarmsh/services/web/plan", bad)
    assert (status, answer["message"]) == (400, "unrecognized update order sideways")
    assert (await post(api, "/swarmsh/services/web/plan?to=8"))[0] == 404
    assert (await post(api, "/swarmsh/services/web/plan?rollback=previous"))[0] == 400
    assert (await post(api, "/swarmsh/services/nobody/plan", body))[0] == 404


async def test_plans_of_rollbacks(api):
    await api.create()
    await api.orchestrator.settle()
    await change(api, Image="web:2")
    await api.orchestrator.settle()
    for query in ("to=1", "to=previous", "rollback=previous"):
        status, answer = await post(api, f"/swarmsh/services/web/plan?{query}")
        assert (status, answer["Action"]) == (200, "rollback")
        assert [(c["Before"], c["After"]) for c in answer["Changes"]] == [("web:2", "web:1")]
        assert len(answer["Tasks"]) == 2
    assert not (await post(api, "/swarmsh/services/web/plan?to=current"))[1]["Changed"]


async def test_the_loop_goes_on_while_a_long_plan_is_made(api):
    await api.create(replicas=300)
    await api.orchestrator.settle()
    made = asyncio.create_task(plan(api, Image="web:2"))
    answers = 0
    while not made.done():
        await api.call("GET", "/_ping")
        answers += 1
    assert answers > 5
    assert len((await made)["Tasks"]) > 50
