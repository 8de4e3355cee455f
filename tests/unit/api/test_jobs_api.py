"""Jobs over the API: what clients read of them, and what starts a run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.model.snapshot import Changes
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


async def create(api, mode, name="job", version="", labels=None, **template):
    body = {
        "Name": name,
        "Labels": labels or {},
        "TaskTemplate": {"ContainerSpec": {"Image": "job:1"}, **template},
        "Mode": mode,
    }
    return await api.call("POST", f"{version}/services/create", body)


async def update(api, name="job", **changes):
    service = await api.get(f"/services/{name}")
    return await api.call(
        "POST",
        f"/services/{name}/update",
        service["Spec"] | changes,
        params={"version": service["Version"]["Index"]},
    )


async def settle(api, times=8):
    for _ in range(times):
        await api.orchestrator.settle()


async def test_a_job_has_a_status_and_its_tasks_say_which_run_they_are_of(api):
    assert (await create(api, {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}}))[0] == 201
    service = await api.get("/services/job")
    assert service["JobStatus"] == {"JobIteration": {"Index": 0}, "LastExecution": service["CreatedAt"]}
    assert service["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}}
    await api.orchestrator.settle()
    tasks = await api.get("/tasks")
    assert [(t["Slot"], t["DesiredState"], t["JobIteration"]) for t in tasks] == [
        (0, "complete", {"Index": 0}),
        (1, "complete", {"Index": 0}),
    ]
    (listed,) = await api.get("/services", status="true")
    assert listed["ServiceStatus"] == {"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0}
    await settle(api)
    (listed,) = await api.get("/services", status="true")
    assert listed["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 3}
    assert (await api.get("/tasks/job.0"))["Slot"] == 0
    ended = await api.get("/tasks", filters='{"desired-state":["complete"]}')
    assert [t["Status"]["State"] for t in ended] == ["complete"] * 3
    assert await api.get("/tasks", filters='{"desired-state":["running"]}') == []


async def test_an_update_is_a_new_run_and_only_its_tasks_are_up_to_date(api):
    await create(api, {"GlobalJob": {}})
    await settle(api)
    assert (await update(api))[0] == 200
    service = await api.get("/services/job")
    assert service["JobStatus"]["JobIteration"] == {"Index": 1}
    # Docker's CLI takes what is listed for the tasks of this run.
    assert await api.get("/tasks", filters='{"_up-to-date":["true"]}') == []
    await api.orchestrator.settle()
    now = await api.get("/tasks", filters='{"_up-to-date":["true"]}')
    assert [t["JobIteration"]["Index"] for t in now] == [1, 1, 1]
    (listed,) = await api.get("/services", status="true")
    assert listed["ServiceStatus"] == {"RunningTasks": 3, "DesiredTasks": 3, "CompletedTasks": 0}
    await settle(api)
    (listed,) = await api.get("/services", status="true")
    assert listed["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 0, "CompletedTasks": 3}


async def test_a_rollback_runs_the_previous_spec_and_is_done(api):
    await create(api, {"ReplicatedJob": {}})
    await update(api, Labels={"a": "b"})
    service = await api.get("/services/job")
    status, _ = await api.call(
        "POST",
        "/services/job/update",
        service["Spec"],
        params={"version": service["Version"]["Index"], "rollback": "previous"},
    )
    assert status == 200
    service = await api.get("/services/job")
    assert (service["Spec"]["Labels"], service["JobStatus"]["JobIteration"]) == ({}, {"Index": 2})
    assert service["UpdateStatus"]["State"] == "rollback_completed"


async def test_a_rollback_that_runs_nothing_is_done_too(api):
    await create(api, {"ReplicatedJob": {}})
    await update(api, Labels={"swarmsh.drain": "1s"})
    service = await api.get("/services/job")
    params = {"version": service["Version"]["Index"], "rollback": "previous"}
    assert (await api.call("POST", "/services/job/update", service["Spec"], params=params))[0] == 200
    service = await api.get("/services/job")
    assert (service["Spec"]["Labels"], service["JobStatus"]["JobIteration"]) == ({}, {"Index": 0})
    assert service["UpdateStatus"]["State"] == "rollback_completed"


async def test_plans_and_stories_of_a_job_name_its_tasks_as_clients_do(api):
    await create(api, {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}})
    await api.orchestrator.settle()
    service = await api.get("/services/job")
    version = service["Version"]["Index"]
    _, plan = await api.call("POST", f"/swarmsh/services/job/plan?version={version}", service["Spec"])
    assert [task["Task"] for task in plan["Tasks"]] == ["job.0", "job.1"]
    story = await api.get("/swarmsh/why/job")
    assert [(p["place"], p["desired"]) for p in story["places"]] == [("job.0", "complete"), ("job.1", "complete")]


async def test_a_scheduled_job_tells_when_it_runs_and_what_it_skipped(api):
    labels = {"swarmsh.schedule": "0 3 * * *", "swarmsh.schedule.zone": "Europe/Berlin"}
    await create(api, {"ReplicatedJob": {}}, labels=labels)
    service = await api.get("/services/job")
    status = service["JobStatus"]
    assert status["LastExecution"] == "0001-01-01T00:00:00Z" and "Skipped" not in status
    assert status["NextExecution"].endswith(("T01:00:00Z", "T02:00:00Z"))
    assert service["UpdateStatus"]["State"] == "completed"
    assert service["UpdateStatus"]["Message"] == f"scheduled: it runs next at {status['NextExecution']}"
    await settle(api)
    assert await api.get("/tasks") == []
    stored = api.store.snapshot.services[service["ID"]]
    missed = replace(stored.job_status, skipped=2, skipped_at=1.7e9, skipped_because="no manager was awake")
    await api.store.commit(lambda _: Changes(put_services=(replace(stored, job_status=missed),)))
    assert (await api.get("/services/job"))["JobStatus"]["Skipped"] == {
        "Runs": 2,
        "Last": "2023-11-14T22:13:20Z",
        "Reason": "no manager was awake",
    }
    assert (await api.get("/swarmsh/why/job"))["summary"] == [
        "a job: 0 tasks running",
        f"by its schedule it runs next at {status['NextExecution']}",
        "2 runs skipped, the last at 2023-11-14T22:13:20Z: no manager was awake",
    ]
    await update(api, TaskTemplate={"ContainerSpec": {"Image": "job:1"}, "ForceUpdate": 1})
    service = await api.get("/services/job")
    assert service["JobStatus"]["JobIteration"] == {"Index": 1} and "UpdateStatus" not in service


async def test_clients_from_before_jobs_are_refused_them(api):
    for mode in ({"ReplicatedJob": {}}, {"GlobalJob": {}}):
        status, answer = await create(api, mode, version="/v1.40")
        assert status == 400 and "jobs need API version 1.41" in answer["message"]
        assert (await create(api, mode, name=next(iter(mode)), version="/v1.41"))[0] == 201


async def test_what_jobs_cannot_have_is_refused(api):
    status, answer = await create(api, {"ReplicatedJob": {"TotalCompletions": 10**9}})
    assert status == 400 and "completions are more than the 100000" in answer["message"]
    status, answer = await create(api, {"ReplicatedJob": {}, "GlobalJob": {}})
    assert status == 400 and "must specify only one service mode" in answer["message"]
    status, answer = await create(api, {"Replicated": {}}, labels={"swarmsh.schedule": "@daily"})
    assert status == 400 and "only jobs run by a schedule" in answer["message"]
    status, answer = await create(api, {"GlobalJob": {}}, labels={"swarmsh.schedule": "at three"})
    assert status == 400 and "'at three' is no cron expression" in answer["message"]


async def test_defaults_of_a_job_are_those_that_it_can_have(api):
    await create(api, {"ReplicatedJob": {}})
    spec = (await api.get("/services/job", insertDefaults="true"))["Spec"]
    assert spec["TaskTemplate"]["RestartPolicy"]["Condition"] == "on-failure"
    assert not {"UpdateConfig", "RollbackConfig"} & spec.keys()


async def test_a_services_complete_tasks_are_no_completions(api):
    await api.create(replicas=1)
    await settle(api)
    (listed,) = await api.get("/services", status="true")
    assert listed["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 1, "CompletedTasks": 0}
