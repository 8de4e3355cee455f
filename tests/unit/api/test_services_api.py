"""/services and /tasks over a real unix socket."""

from __future__ import annotations

import json

import pytest

from swarmsh.manager.usecases.credentials import registry_auth
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


async def spec_of(api, service_id):
    service = await api.get(f"/services/{service_id}")
    return service["Version"]["Index"], service["Spec"]


async def test_a_created_service_is_inspected_as_docker_writes_it(api):
    service_id = await api.create(replicas=3)
    service = await api.get("/v1.41/services/web")
    assert service["ID"] == service_id
    assert service["Version"] == {"Index": api.store.snapshot.index}
    assert service["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert service["Spec"]["TaskTemplate"]["ForceUpdate"] == 0
    assert service["Spec"]["Labels"] == {}
    assert service["Endpoint"] == {"Spec": {}}
    assert service["CreatedAt"].endswith("Z")
    assert not {"PreviousSpec", "UpdateStatus", "ServiceStatus"} & set(service)


async def test_a_service_without_a_name_gets_one(api):
    first, second = await api.create(""), await api.create("")
    names = {(await api.get(f"/services/{i}"))["Spec"]["Name"] for i in (first, second)}
    assert len(names) == 2
    assert all("_" in n for n in names)


async def test_json_keys_are_read_in_any_case_and_bodies_in_chunks(api):
    async def chunks():
        yield b'{"name":"golang","tasktemplate":{"containerspec":{"image":"go'
        yield b'lang:1"}},"mode":{"replicated":{}}}'

    status, answer = await api.call("POST", "/services/create", data=chunks())
    assert status == 201
    assert (await spec_of(api, answer["ID"]))[1]["Mode"] == {"Replicated": {"Replicas": 1}}


async def test_lookup_goes_by_id_then_name_then_prefix(api):
    first, second = await api.create("alpha"), await api.create("beta")
    assert (await api.get(f"/services/{first}"))["ID"] == first
    assert (await api.get("/services/beta"))["ID"] == second
    assert (await api.get(f"/services/{first[:25]}"))["ID"] == first
    status, answer = await api.call("GET", f"/services/{first[:5]}")
    assert (status, answer) == (400, {"message": f"service {first[:5]} is ambiguous (2 matches found)"})
    status, answer = await api.call("GET", "/services/gamma")
    assert (status, answer) == (404, {"message": "service gamma not found"})


async def test_a_taken_name_is_a_conflict(api):
    await api.create()
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
    status, answer = await api.call("POST", "/services/create", body)
    assert status == 409
    assert "name conflicts with an existing object: service web already exists" in answer["message"]


async def test_an_update_needs_the_version_that_is_stored(api):
    service_id = await api.create()
    version, spec = await spec_of(api, service_id)
    spec["Mode"]["Replicated"]["Replicas"] = 5
    assert (await api.call("POST", f"/services/{service_id}/update?version={version}", spec))[0] == 200
    status, answer = await api.call("POST", f"/services/{service_id}/update?version={version}", spec)
    assert (status, answer) == (500, {"message": "rpc error: code = Unknown desc = update out of sequence"})
    for bad in ("", "x", "-1", "1.0", "9" * 40):
        assert (await api.call("POST", f"/services/{service_id}/update?version={bad}", spec))[0] == 400


async def test_scaling_is_no_new_generation_and_an_image_is(api):
    service_id = await api.create()
    version, spec = await spec_of(api, service_id)
    spec["Mode"]["Replicated"]["Replicas"] = 5
    await api.call("POST", f"/services/{service_id}/update?version={version}", spec)
    assert api.store.snapshot.services[service_id].spec_version == 1
    version, spec = await spec_of(api, service_id)
    spec["TaskTemplate"]["ForceUpdate"] += 1
    await api.call("POST", f"/services/{service_id}/update?version={version}", spec)
    assert api.store.snapshot.services[service_id].spec_version == 2


async def test_a_rollback_exchanges_the_two_specs_and_twice_is_redo(api):
    service_id = await api.create(replicas=1)
    version, spec = await spec_of(api, service_id)
    status, answer = await api.call("POST", f"/services/web/update?version={version}&rollback=previous", spec)
    assert (status, answer["message"]) == (400, "service web does not have a previous spec")
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    await api.call("POST", f"/services/web/update?version={version}", spec)
    for image, previous in (("web:1", "web:2"), ("web:2", "web:1")):
        version, spec = await spec_of(api, service_id)
        path = f"/services/web/update?version={version}&rollback=previous"
        assert (await api.call("POST", path, spec))[0] == 200
        service = await api.get("/services/web")
        assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == image
        assert service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == previous
        assert service["UpdateStatus"]["State"] == "rollback_started"


async def test_a_removed_service_is_gone_at_once_and_its_name_free(api):
    async with api.orchestrator.running():
        first = await api.create()
        assert (await api.call("DELETE", "/services/web"))[0] == 200
        assert await api.get("/services") == []
        assert await api.create() != first
    assert (await api.call("DELETE", f"/services/{first}"))[0] == 404


async def test_registry_credentials_follow_the_spec_and_are_shown_nowhere(api):
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "private/web:1"}}}
    _, answer = await api.call("POST", "/services/create", body, headers={"X-Registry-Auth": "Zmlyc3Q="})
    service_id = answer["ID"]

    async def update(query="", auth=""):
        version, spec = await spec_of(api, service_id)
        headers = {"X-Registry-Auth": auth} if auth else {}
        return await api.call("POST", f"/services/web/update?version={version}{query}", spec, headers=headers)

    assert await registry_auth(api.store, service_id) == "Zmlyc3Q="
    await update()
    assert await registry_auth(api.store, service_id) == "Zmlyc3Q="
    await update(auth="c2Vjb25k")
    assert await registry_auth(api.store, service_id) == "c2Vjb25k"
    await update("&registryAuthFrom=previous-spec")
    assert await registry_auth(api.store, service_id) == "Zmlyc3Q="
    await update("&rollback=previous")
    assert await registry_auth(api.store, service_id) == "c2Vjb25k"
    status, answer = await update("&registryAuthFrom=elsewhere")
    assert (status, answer["message"]) == (400, "unsupported registryAuthFrom value: elsewhere")
    stale = await api.call(
        "POST",
        "/services/web/update?version=1",
        (await spec_of(api, service_id))[1],
        headers={"X-Registry-Auth": "eA=="},
    )
    assert stale[0] == 500
    assert await registry_auth(api.store, service_id) == "c2Vjb25k"
    shown = json.dumps(await api.get("/services/web"))
    assert "c2Vjb25k" not in shown
    assert "Zmlyc3Q" not in shown
    await api.call("DELETE", "/services/web")
    assert api.store.secrets == {}


async def test_filters_are_taken_as_map_and_as_list(api):
    for name, labels in (("alpha", {"tier": "a"}), ("alphabet", {}), ("beta", {"tier": "b"})):
        body = {"Name": name, "Labels": labels, "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
        await api.call("POST", "/services/create", body)

    async def names(filters):
        return [s["Spec"]["Name"] for s in await api.get("/services", filters=json.dumps(filters))]

    assert await names({"name": {"alpha": True}}) == ["alpha", "alphabet"]
    assert await names({"name": ["alpha", "beta"]}) == ["alpha", "alphabet", "beta"]
    assert await names({"label": ["tier"]}) == ["alpha", "beta"]
    assert await names({"label": {"tier=b": True}}) == ["beta"]
    assert await names({"mode": ["replicated"]}) == ["alpha", "alphabet", "beta"]
    assert await names({"mode": ["global"]}) == []
    assert await names({}) == ["alpha", "alphabet", "beta"]
    for bad in ('{"colour":["red"]}', "{", "[]", '{"name":5}', '{"name":[{}]}', '"x"'):
        status, answer = await api.call("GET", "/services", params={"filters": bad})
        assert status == 400, bad
        assert answer["message"].startswith("invalid filter")


async def test_status_counts_are_there_only_when_asked_for(api):
    async with api.orchestrator.running():
        await api.create(replicas=3)
        await api.orchestrator.settle()
        for true in ("1", "true", "True"):
            (service,) = await api.get("/services", status=true)
            assert service["ServiceStatus"] == {"RunningTasks": 3, "DesiredTasks": 3, "CompletedTasks": 0}
        for false in ("0", "false", "False", ""):
            (service,) = await api.get("/services", status=false)
            assert "ServiceStatus" not in service


async def test_defaults_are_inserted_when_asked_for(api):
    await api.create()
    spec = (await api.get("/services/web", insertDefaults="true"))["Spec"]
    assert spec["UpdateConfig"] == {
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": 5_000_000_000,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    }
    assert spec["RollbackConfig"] == spec["UpdateConfig"]
    assert spec["TaskTemplate"]["RestartPolicy"]["Condition"] == "any"
    assert spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000
    assert "UpdateConfig" not in (await api.get("/services/web"))["Spec"]


async def test_tasks_are_listed_by_service_node_state_and_version(api):
    service_id = await api.create(replicas=3)
    await api.create("other", replicas=1)
    await api.orchestrator.settle()

    async def tasks(**filters):
        return await api.get("/tasks", filters=json.dumps(filters))

    assert [t["Slot"] for t in await tasks(service=["web"])] == [1, 2, 3]
    assert {t["ServiceID"] for t in await tasks(service={service_id: True})} == {service_id}
    assert {t["NodeID"] for t in await tasks(node=["n2"])} == {api.store.snapshot.nodes[f"node{2:021d}"].id}
    assert len(await tasks(**{"desired-state": ["running"]})) == 4
    assert len(await tasks(name=["web.2"])) == 1
    assert (await api.call("GET", "/tasks", params={"filters": '{"desired-state":["odd"]}'}))[0] == 400
    assert (await api.call("GET", "/tasks", params={"filters": '{"service":["none"]}'}))[0] == 404
    version, spec = await spec_of(api, service_id)
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    await api.call("POST", f"/services/{service_id}/update?version={version}", spec)
    assert await tasks(service=["web"], **{"_up-to-date": ["true"]}) == []
    await api.orchestrator.settle()
    assert len(await tasks(service=["web"], **{"_up-to-date": {"true": True}})) == 3
    assert len(await tasks(service=["web"])) == 6


async def test_a_task_is_found_by_id_prefix_name_and_slot(api):
    await api.create(replicas=2)
    await api.orchestrator.settle()
    task = (await api.get("/tasks", filters='{"name":["web.2"]}'))[0]
    for ref in (task["ID"], "web.2", f"web.2.{task['ID']}"):
        assert (await api.get(f"/tasks/{ref}"))["ID"] == task["ID"]
    assert task["Status"]["State"] == "running"
    assert task["DesiredState"] == "running"
    assert task["Status"]["ContainerStatus"] == {"ContainerID": f"c{task['ID']}", "PID": 42, "ExitCode": 0}
    assert task["Status"]["PortStatus"] == {}
    assert (await api.call("GET", "/tasks/web.9"))[0] == 404


async def test_old_clients_get_their_image_pinned_by_the_server(api):
    api.nodes.registry["docker.io/library/web:1"] = "sha256:" + "ab" * 32
    body = {"Name": "old", "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}}
    await api.call("POST", "/v1.29/services/create", body)
    assert (await spec_of(api, "old"))[1]["TaskTemplate"]["ContainerSpec"]["Image"].startswith("web:1@sha256:abab")
    body["Name"], body["TaskTemplate"]["ContainerSpec"]["Image"] = "unknown", "missing:1"
    _, answer = await api.call("POST", "/v1.29/services/create", body)
    assert "unable to pin image missing:1" in answer["Warnings"][0]


async def test_a_full_disk_is_a_clear_refusal(api):
    api.store.full = True
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
    status, answer = await api.call("POST", "/services/create", body, headers={"X-Registry-Auth": "x"})
    assert (status, answer["message"]) == (503, "the disk is full")


async def test_an_absurd_number_of_replicas_is_refused(api):
    body = {"TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Replicated": {"Replicas": 10**12}}}
    status, answer = await api.call("POST", "/services/create", body)
    assert status == 400
    assert "replicas" in answer["message"]
