"""Stacks over a real unix socket: deployed, planned, gone back to, pruned, removed; on both stores."""

from __future__ import annotations

import base64
import copy

import pytest
from msgspec.structs import replace

from swarmsh.adapters.store import SqliteStore
from swarmsh.manager.usecases.credentials import registry_auth
from swarmsh.manager.usecases.stacks import drop_leftovers
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_node, a_task
from tests.fakes.serving import WallClock, served

NAMESPACE = "com.docker.stack.namespace"


@pytest.fixture(params=["memory", "sqlite"])
async def api(request, tmp_path):
    if request.param == "memory":
        async with served() as running:
            yield running
        return
    store = await SqliteStore.open(tmp_path, WallClock())
    async with served(store=store) as running:
        yield running
    await store.close()


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def service(short: str, image: str = "web:1", **template) -> dict:
    return {
        "Name": f"shop_{short}",
        "Labels": {"com.docker.stack.image": image},
        "TaskTemplate": {
            "ContainerSpec": {"Image": image},
            "Networks": [{"Target": "shop_default", "Aliases": [short]}],
            **template,
        },
        "Mode": {"Replicated": {"Replicas": 1}},
    }


def shop() -> dict:
    """web -> db, a network, a secret and a config."""
    web, db = service("web"), service("db", "db:1")
    db["TaskTemplate"]["ContainerSpec"]["Secrets"] = [
        {"SecretName": "shop_pw", "File": {"Name": "pw", "UID": "0", "GID": "0", "Mode": 292}}
    ]
    web["TaskTemplate"]["ContainerSpec"]["Configs"] = [
        {"ConfigName": "shop_conf", "File": {"Name": "/conf", "UID": "0", "GID": "0", "Mode": 292}}
    ]
    web["EndpointSpec"] = {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]}
    return {
        "Name": "shop",
        "Services": {"web": web, "db": db},
        "Networks": {"default": {"Spec": {"Name": "shop_default", "Driver": "overlay"}}},
        "Secrets": {"pw": {"Name": "shop_pw", "Data": data("hunter2")}},
        "Configs": {"conf": {"Name": "shop_conf", "Data": data("listen 80")}},
        "DependsOn": {"web": {"db": {"Condition": "healthy", "Required": True}}},
    }


async def deploy(api, stack, status=200, **query):
    code, answer = await api.call("POST", "/swarmsh/stacks/shop/deploy", stack, params=query)
    assert code == status, answer
    return answer


def actions(answer) -> dict[str, str]:
    return {f"{part['Kind']} {part['Name']}": part["Action"] for part in answer["Parts"]}


# --- deploying ----------------------------------------------------------------------------------------------
async def test_a_deploy_makes_all_parts_in_one_write_and_one_revision(api):
    index = api.store.snapshot.index
    answer = await deploy(api, shop())
    assert api.store.snapshot.index == index + 1
    assert actions(answer) == dict.fromkeys(
        ("network shop_default", "secret shop_pw", "config shop_conf", "service shop_web", "service shop_db"),
        "create",
    )
    assert answer["Revision"] == 1
    found = {s["Spec"]["Name"]: s["Spec"] for s in await api.get("/services")}
    snapshot = api.store.snapshot
    network, secret = snapshot.network_ids["shop_default"], snapshot.secret_ids["shop_pw"]
    db = found["shop_db"]["TaskTemplate"]
    assert db["Networks"][0]["Target"] == network
    assert db["ContainerSpec"]["Secrets"][0]["SecretID"] == secret
    assert found["shop_web"]["Labels"][NAMESPACE] == "shop"
    assert found["shop_web"]["Labels"]["swarmsh.depends-on"] == "db:healthy"
    assert await api.store.secret_data(secret) == b"hunter2"
    assert snapshot.secrets[secret].spec.labels == {NAMESPACE: "shop"}
    assert await api.get("/swarmsh/stacks") == [
        {"Name": "shop", "Services": 2, "Networks": 1, "Secrets": 1, "Configs": 1, "TasksLeft": 0, "Leaving": []}
    ]


async def test_a_second_deploy_touches_nothing(api):
    await deploy(api, shop())
    index = api.store.snapshot.index
    answer = await deploy(api, shop(), prune="true")
    assert set(actions(answer).values()) == {"unchanged"}
    assert (answer["Revision"], answer["Services"]) == (0, [])
    assert api.store.snapshot.index == index


async def test_a_deploy_reads_no_revisions(api, monkeypatch):
    await deploy(api, shop())
    monkeypatch.setattr(api.store, "stack_revisions", None)
    changed = shop()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    assert (await deploy(api, changed))["Revision"] == 2


async def test_only_what_differs_is_updated(api):
    await deploy(api, shop())
    before = {s["Spec"]["Name"]: s["Version"]["Index"] for s in await api.get("/services")}
    changed = shop()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    answer = await deploy(api, changed)
    assert [name for name, action in actions(answer).items() if action != "unchanged"] == ["service shop_web"]
    after = {s["Spec"]["Name"]: s["Version"]["Index"] for s in await api.get("/services")}
    assert after["shop_db"] == before["shop_db"] and after["shop_web"] > before["shop_web"]


async def test_a_changed_secret_is_another_version_and_its_services_follow_in_the_same_write(api):
    await deploy(api, shop())
    old = api.store.snapshot.secret_ids["shop_pw"]
    changed = shop()
    changed["Secrets"]["pw"]["Data"] = data("correct horse")
    index = api.store.snapshot.index
    answer = await deploy(api, changed)
    assert api.store.snapshot.index == index + 1
    assert actions(answer)["secret shop_pw"] == actions(answer)["service shop_db"] == "update"
    assert actions(answer)["service shop_web"] == "unchanged"
    new = api.store.snapshot.secret_ids["shop_pw"]
    assert new != old and api.store.snapshot.secrets[new].number == 2
    assert await api.store.secret_data(new) == b"correct horse"
    assert await api.store.secret_data(old) == b"hunter2"
    db = await api.get("/services/shop_db")
    assert db["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretID"] == new
    assert "hunter2" not in str(answer) and data("hunter2") not in str(answer)
    # The old contents again: the version that has them, not a third one.
    await deploy(api, shop())
    assert api.store.snapshot.secret_ids["shop_pw"] == old
    assert len(api.store.snapshot.secrets) == 2


async def test_a_port_may_go_from_one_service_to_another(api):
    await deploy(api, shop())
    moved = shop()
    moved["Services"]["db"]["EndpointSpec"] = moved["Services"]["web"].pop("EndpointSpec")
    moved["Services"] = {"db": moved["Services"]["db"], "web": moved["Services"]["web"]}
    assert actions(await deploy(api, moved))["service shop_db"] == "update"


@pytest.mark.parametrize("mode", ["ingress", "host"])
async def test_services_may_swap_their_ports(api, mode):
    def ports(*published):
        return {
            "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port, "PublishMode": mode}
                for port in published
            ]
        }

    stack = shop()
    web, db = stack["Services"]["web"], stack["Services"]["db"]
    web["EndpointSpec"], db["EndpointSpec"] = ports(8080, 9000), ports(8081)
    await deploy(api, stack)
    before = await api.get("/services/shop_web")
    web["EndpointSpec"], db["EndpointSpec"] = ports(8081, 9000), ports(8080)
    found = await deploy(api, stack)
    assert actions(found)["service shop_web"] == actions(found)["service shop_db"] == "update"
    after = {name: await api.get(f"/services/shop_{name}") for name in ("web", "db")}
    assert [p["PublishedPort"] for p in after["web"]["Spec"]["EndpointSpec"]["Ports"]] == [8081, 9000]
    assert [p["PublishedPort"] for p in after["db"]["Spec"]["EndpointSpec"]["Ports"]] == [8080]
    assert after["web"]["PreviousSpec"] == before["Spec"]
    assert set(actions(await deploy(api, stack)).values()) == {"unchanged"}
    web["EndpointSpec"], db["EndpointSpec"] = ports(8080, 8080), ports(8081)
    index = api.store.snapshot.index
    await deploy(api, stack, status=400)
    assert api.store.snapshot.index == index


async def test_one_bad_part_leaves_everything_as_it_was(api):
    index = api.store.snapshot.index
    bad = shop()
    bad["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = ""
    answer = await deploy(api, bad, status=400)
    assert "image" in answer["message"]
    assert api.store.snapshot.index == index


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda s: s["DependsOn"].update(db={"web": {}}), 400, "web waits for db waits for web"),
        (lambda s: s["DependsOn"]["web"].update(dbb={}), 400, "Did you mean db?"),
        (lambda s: s["Secrets"].pop("pw"), 400, "secret not found: shop_pw"),
        (lambda s: s["Secrets"]["pw"].update(External=True), 404, "docker secret create shop_pw"),
        (lambda s: s["Secrets"]["pw"].pop("Data"), 400, "neither data nor is it external"),
        (lambda s: s["Networks"]["default"].update(External=True), 404, "could not be found"),
        (lambda s: s["Services"]["db"].update(Name="shop_web"), 400, "have one name: shop_web"),
        (
            lambda s: s["Services"]["web"].update(Mode={"Replicated": {"Replicas": 10**9}}),
            400,
            "more than the 100000",
        ),
        (lambda s: s.update(Name="other"), 400, "the path names stack shop, the body other"),
    ],
)
async def test_what_cannot_be_deployed_is_refused_by_name(api, change, status, says):
    stack = shop()
    change(stack)
    assert says in (await deploy(api, stack, status=status))["message"]


async def test_what_is_not_the_stacks_is_not_taken_over(api):
    await api.create("shop_web")
    answer = await deploy(api, shop(), status=409)
    assert "service shop_web exists already and is not of stack shop" in answer["message"]


async def test_a_network_that_would_have_to_be_another_one_is_refused_and_labels_are_changed(api):
    await deploy(api, shop())
    other = shop()
    other["Networks"]["default"]["Spec"]["Options"] = {"encrypted": ""}
    answer = await deploy(api, other, status=400)
    assert "network shop_default cannot be changed" in answer["message"]
    assert "encrypted" in answer["message"]
    labelled = shop()
    labelled["Networks"]["default"]["Spec"]["Labels"] = {"tier": "back"}
    assert actions(await deploy(api, labelled))["network shop_default"] == "update"
    found = await api.get("/networks/shop_default")
    assert found["Labels"] == {"tier": "back", NAMESPACE: "shop"}


async def test_credentials_come_along_by_service(api):
    stack = shop() | {"RegistryAuth": {"web": "eyJ1c2VybmFtZSI6ImEifQ=="}}
    await deploy(api, stack)
    ids = api.store.snapshot.service_ids
    assert await registry_auth(api.store, ids["shop_web"]) == "eyJ1c2VybmFtZSI6ImEifQ=="
    assert await registry_auth(api.store, ids["shop_db"]) == ""
    changed = copy.deepcopy(stack)
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    del changed["RegistryAuth"]
    await deploy(api, changed)
    assert await registry_auth(api.store, ids["shop_web"]) == "eyJ1c2VybmFtZSI6ImEifQ=="


async def test_a_digest_that_was_found_before_stays_while_the_tag_does(api):
    pinned = shop()
    pinned["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:1@sha256:" + "a" * 64
    await deploy(api, pinned)
    assert set(actions(await deploy(api, shop())).values()) == {"unchanged"}
    other = shop()
    other["Services"]["web"]["Labels"]["com.docker.stack.image"] = "web:2"
    other["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    assert actions(await deploy(api, other))["service shop_web"] == "update"


async def test_forced_updates_are_neither_taken_back_nor_repeated(api):
    await deploy(api, shop())
    web = await api.get("/services/shop_web")
    web["Spec"]["TaskTemplate"]["ForceUpdate"] = 3
    path = f"/services/shop_web/update?version={web['Version']['Index']}"
    status, _ = await api.call("POST", path, web["Spec"])
    assert status == 200
    assert set(actions(await deploy(api, shop())).values()) == {"unchanged"}


async def test_what_depends_with_restart_is_replaced_along_with_what_it_depends_on(api):
    stack = shop()
    stack["DependsOn"]["web"]["db"]["Restart"] = True
    await deploy(api, stack)
    web = (await api.get("/services/shop_web"))["Spec"]["TaskTemplate"]["ForceUpdate"]
    stack["Services"]["db"]["TaskTemplate"]["ContainerSpec"]["Image"] = "db:2"
    found = await deploy(api, stack)
    assert actions(found)["service shop_web"] == "update"
    assert (await api.get("/services/shop_web"))["Spec"]["TaskTemplate"]["ForceUpdate"] == web + 1
    assert set(actions(await deploy(api, stack)).values()) == {"unchanged"}


async def test_restarts_go_on_from_what_is_replaced_along(api):
    stack = shop()
    stack["Services"] = {"edge": service("edge"), **stack["Services"]}
    stack["DependsOn"]["web"]["db"]["Restart"] = True
    stack["DependsOn"] = {"edge": {"web": {"Condition": "started", "Restart": True}}, **stack["DependsOn"]}
    await deploy(api, stack)
    stack["Services"]["db"]["TaskTemplate"]["ContainerSpec"]["Image"] = "db:2"
    found = actions(await deploy(api, stack))
    assert {found[f"service shop_{name}"] for name in ("db", "web", "edge")} == {"update"}


async def test_many_large_configs_come_along(api):
    stack = shop()
    for number in range(6):
        name = f"shop_c{number}"
        stack["Configs"][f"c{number}"] = {"Name": name, "Data": data(str(number) * 1_000_000)}
    await deploy(api, stack)
    assert len(api.store.snapshot.config_ids) == 7
    stack["Configs"]["c1"]["Data"] = data("1" * 1_024_000)
    answer = await deploy(api, stack, status=400)
    assert "config data must be larger than 0 and less than 1024000 bytes" in answer["message"]
    assert len(answer["message"]) < 200


# --- plans --------------------------------------------------------------------------------------------------
async def test_a_plan_tells_parts_fields_tasks_and_order_and_does_nothing(api):
    index = api.store.snapshot.index
    plan = await deploy(api, shop(), plan="true")
    assert (plan["Action"], plan["Changed"], plan["Whole"]) == ("create", True, True)
    assert plan["Order"] == [["db"], ["web"]]
    starts = {task["Task"]: task["Order"] for task in plan["Tasks"]}
    assert starts["shop_db.1"] < starts["shop_web.1"]
    assert api.store.snapshot.index == index and not api.store.snapshot.services
    await deploy(api, shop())
    assert (await deploy(api, shop(), plan="true"))["Changed"] is False
    changed = shop()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    changed["Secrets"]["pw"]["Data"] = data("correct horse")
    plan = await deploy(api, changed, plan="true")
    fields = {part["Name"]: part["Changes"] for part in plan["Parts"] if part["Changes"]}
    assert fields["shop_web"] == [
        {"Field": "TaskTemplate.ContainerSpec.Image", "Before": "web:1", "After": "web:2", "Hidden": False}
    ]
    assert fields["shop_pw"] == [{"Field": "Data", "Before": "…", "After": "…", "Hidden": True}]
    assert "horse" not in str(plan) and data("correct horse") not in str(plan)


@pytest.mark.parametrize("mode", ["Replicated", "ReplicatedJob"])
async def test_a_plan_has_what_others_wait_for_to_be_done_end(api, mode):
    stack = shop()
    stack["DependsOn"]["web"]["db"]["Condition"] = "completed"
    db = stack["Services"]["db"]
    db["TaskTemplate"]["RestartPolicy"] = {"Condition": "on-failure"}
    db["Mode"] = {mode: {"Replicas": 1} if mode == "Replicated" else {"MaxConcurrent": 1, "TotalCompletions": 1}}
    plan = await deploy(api, stack, plan="true")
    assert plan["Whole"] is True
    db_step, web_step = sorted(plan["Tasks"], key=lambda task: task["Order"])
    assert (db_step["Service"], db_step["Action"], db_step["Waits"]) == ("shop_db", "start", "")
    assert (web_step["Service"], web_step["Action"], web_step["Waits"]) == ("shop_web", "start", "")


async def test_a_deploy_is_bound_to_its_plan(api):
    plan = await deploy(api, shop(), plan="true")
    await deploy(api, shop(), digest=plan["Digest"])
    changed = shop()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    plan = await deploy(api, changed, plan="true")
    db = await api.get("/services/shop_db")
    db["Spec"]["Mode"] = {"Replicated": {"Replicas": 2}}
    await api.call("POST", f"/services/shop_db/update?version={db['Version']['Index']}", db["Spec"])
    answer = await deploy(api, changed, status=409, digest=plan["Digest"])
    assert "has changed since the plan was made" in answer["message"]
    other = copy.deepcopy(changed)
    other["Secrets"]["pw"]["Data"] = data("something else")
    fresh = await deploy(api, changed, plan="true")
    await deploy(api, other, status=409, digest=fresh["Digest"])
    await deploy(api, changed, status=409, digest=fresh["Digest"], prune="true")
    await deploy(api, changed, digest=fresh["Digest"])


# --- pruning ------------------------------------------------------------------------------------------------
def without_db() -> dict:
    less = shop()
    del less["Services"]["db"], less["Secrets"]["pw"], less["DependsOn"]
    return less


async def test_without_prune_what_left_the_file_stays_and_is_named(api):
    await deploy(api, shop())
    found = actions(await deploy(api, without_db()))
    assert (found["service shop_db"], found["secret shop_pw"]) == ("leftover", "leftover")
    assert "shop_db" in api.store.snapshot.service_ids


async def test_prune_removes_services_networks_secrets_and_configs(api):
    await deploy(api, shop())
    nothing = {"Name": "shop", "Services": {"cron": service("cron")}}
    nothing["Services"]["cron"]["TaskTemplate"].pop("Networks")
    found = actions(await deploy(api, nothing, prune="true"))
    assert {name for name, action in found.items() if action == "remove"} == {
        *("service shop_web", "service shop_db", "network shop_default", "secret shop_pw", "config shop_conf")
    }
    snapshot = api.store.snapshot
    assert list(snapshot.service_ids) == ["shop_cron"]
    assert not snapshot.network_ids and not snapshot.secrets and not snapshot.configs


async def test_what_is_in_use_yet_is_pruned_when_its_last_user_is_gone(api):
    await deploy(api, shop())
    network = api.store.snapshot.network_ids["shop_default"]
    await api.create("other", Networks=[{"Target": "shop_default"}])
    less = {"Name": "shop", "Services": {"web": service("web")}}
    less["Services"]["web"]["TaskTemplate"].pop("Networks")
    answer = await deploy(api, less, prune="true")
    note = next(part["Note"] for part in answer["Parts"] if part["Kind"] == "network")
    assert note == "once service other has left it"
    await drop_leftovers(api.store, api.deps.clock)
    assert api.store.snapshot.network_ids["shop_default"] == network
    status, _ = await api.call("DELETE", "/services/other")
    assert status == 200
    await drop_leftovers(api.store, api.deps.clock)
    assert "shop_default" not in api.store.snapshot.network_ids


async def test_a_part_that_comes_back_before_it_was_pruned_stays(api):
    await deploy(api, shop())
    await api.create("other", Networks=[{"Target": "shop_default"}])
    less = {"Name": "shop", "Services": {"web": service("web")}}
    less["Services"]["web"]["TaskTemplate"].pop("Networks")
    await deploy(api, less, prune="true")
    await deploy(api, shop(), prune="true")
    await api.call("DELETE", "/services/other")
    await drop_leftovers(api.store, api.deps.clock)
    assert "shop_default" in api.store.snapshot.network_ids


# --- revisions ----------------------------------------------------------------------------------------------
async def test_the_history_names_what_each_deploy_changed(api):
    await deploy(api, shop())
    changed = shop()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    changed["Secrets"]["pw"]["Data"] = data("correct horse")
    await deploy(api, changed)
    second, first = await api.get("/swarmsh/stacks/shop/revisions")
    assert (first["Number"], first["Action"], first["Current"]) == (1, "deploy", False)
    assert (second["Number"], second["Current"]) == (2, True)
    assert {p["Name"]: p["Action"] for p in second["Parts"]} == {"shop_web": "update", "shop_pw": "update"}
    diff = await api.get("/swarmsh/stacks/shop/diff", **{"from": "1", "to": "2"})
    assert {p["Name"] for p in diff["Parts"]} == {"shop_web", "shop_pw"}
    assert "hunter2" not in str(diff) and "horse" not in str(diff)
    status, answer = await api.call("GET", "/swarmsh/stacks/shop/diff?from=7")
    assert (status, "Revisions 1 to 2 are kept" in answer["message"]) == (404, True)


async def test_a_rollback_puts_services_secrets_and_configs_back_in_one_write(api):
    await deploy(api, shop())
    changed = without_db()
    changed["Services"]["web"]["TaskTemplate"]["ContainerSpec"]["Image"] = "web:2"
    changed["Services"]["cron"] = service("cron")
    changed["Configs"]["conf"]["Data"] = data("listen 81")
    await deploy(api, changed, prune="true")
    assert "shop_pw" not in api.store.snapshot.secret_ids
    index = api.store.snapshot.index
    path = "/swarmsh/stacks/shop/rollback?to=1"
    status, plan = await api.call("POST", path + "&plan=1")
    assert (status, plan["Changed"], api.store.snapshot.index) == (200, True, index)
    status, answer = await api.call("POST", path)
    assert status == 200, answer
    snapshot = api.store.snapshot
    assert snapshot.index == index + 1
    assert sorted(snapshot.service_ids) == ["shop_db", "shop_web"]
    assert await api.store.secret_data(snapshot.secret_ids["shop_pw"]) == b"hunter2"
    assert await api.store.config_data(snapshot.config_ids["shop_conf"]) == b"listen 80"
    web = await api.get("/services/shop_web")
    assert web["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "web:1"
    assert (await api.get("/swarmsh/stacks/shop/revisions"))[0]["Action"] == "rollback to 1"
    assert set(actions(await deploy(api, shop(), prune="true")).values()) == {"unchanged"}


async def test_as_many_revisions_are_kept_as_of_services_and_their_contents_go_with_them(api):
    await api.call("POST", "/swarmsh/cluster/update", {"RevisionsKept": 2})
    for number in range(4):
        changed = shop()
        changed["Secrets"]["pw"]["Data"] = data(f"password {number}")
        await deploy(api, changed)
    assert [r["Number"] for r in await api.get("/swarmsh/stacks/shop/revisions")] == [4, 3]
    kept = [key for key in api.store.secret_keys() if key.startswith("stack/shop/")]
    held = sorted([await api.store.get_secret(key) for key in kept])
    assert held == [b"listen 80", b"password 2", b"password 3"]


async def test_a_stack_that_others_made_is_recorded_as_it_was_found(api):
    for name in ("web", "db"):
        await api.create(f"shop_{name}", 1)
        found = await api.get(f"/services/shop_{name}")
        found["Spec"]["Labels"] = {NAMESPACE: "shop"}
        path = f"/services/shop_{name}/update?version={found['Version']['Index']}"
        await api.call("POST", path, found["Spec"])
    await deploy(api, shop())
    _, first = await api.get("/swarmsh/stacks/shop/revisions")
    assert (first["Number"], first["Action"], first["Client"]) == (1, "as it was found", "manager")
    status, answer = await api.call("POST", "/swarmsh/stacks/shop/rollback?to=1")
    assert status == 200, answer
    assert not api.store.snapshot.secret_ids and len(api.store.snapshot.service_ids) == 2


# --- removal ------------------------------------------------------------------------------------------------
async def test_a_stack_is_removed_whole_and_can_be_deployed_again_at_once(api):
    await deploy(api, shop())
    status, answer = await api.call("DELETE", "/swarmsh/stacks/shop")
    assert (status, len(answer["Parts"])) == (200, 5)
    snapshot = api.store.snapshot
    assert not snapshot.service_ids and not snapshot.network_ids
    assert not snapshot.secrets and not snapshot.configs
    assert not [key for key in api.store.secret_keys() if key.startswith(("secret/", "config/", "stack/"))]
    assert await api.get("/swarmsh/stacks") == []
    status, answer = await api.call("GET", "/swarmsh/stacks/shop/revisions")
    assert status == 404
    await deploy(api, shop())
    status, answer = await api.call("DELETE", "/swarmsh/stacks/none")
    assert (status, "nothing found in stack: none" in answer["message"]) == (404, True)


async def test_what_dockers_removal_leaves_of_a_stack_can_be_removed(api):
    await deploy(api, shop())
    for path in ("services/shop_web", "services/shop_db", "networks/shop_default"):
        assert (await api.call("DELETE", f"/{path}"))[0] in (200, 204)
    for path in ("secrets/shop_pw", "configs/shop_conf"):
        assert (await api.call("DELETE", f"/{path}"))[0] == 204
    assert [key for key in api.store.secret_keys() if key.startswith("stack/")]
    assert await api.call("DELETE", "/swarmsh/stacks/shop") == (200, {"Parts": []})
    assert not api.store.secret_keys()
    assert (await api.call("DELETE", "/swarmsh/stacks/shop"))[0] == 404


async def test_tasks_of_services_that_were_removed_are_told_by_node(api):
    await deploy(api, shop())
    node = a_node(1)
    there = a_task(api.store.snapshot.services[api.store.snapshot.service_ids["shop_web"]], 1, node.id)
    there = replace(there, status=replace(there.status, state=TaskState.RUNNING))
    left = replace(there, id="left", service_id="gone")
    await api.store.commit(lambda _: Changes(put_nodes=(node,), put_tasks=(left, there)))
    found = await api.get("/swarmsh/stacks/shop")
    assert found["Leaving"] == [{"NodeID": node.id, "Node": node.spec.name, "State": "ready", "Tasks": 1}]


async def test_a_stack_whose_network_others_use_stays_as_it_is(api):
    await deploy(api, shop())
    await api.create("other", Networks=[{"Target": "shop_default"}])
    status, answer = await api.call("DELETE", "/swarmsh/stacks/shop")
    assert (status, "in use by service other" in answer["message"]) == (400, True)
    assert len(api.store.snapshot.service_ids) == 3


async def test_without_a_cluster_it_says_so(tmp_path):
    async with served(initialised=False) as api:
        for method, path in (
            ("GET", ""),
            ("POST", "/shop/deploy"),
            ("DELETE", "/shop"),
            ("GET", "/shop/revisions"),
        ):
            status, _ = await api.call(method, f"/swarmsh/stacks{path}", shop() if method == "POST" else None)
            assert status == 503
