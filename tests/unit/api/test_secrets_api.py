"""/secrets and /configs on a real socket: as Docker answers, and what we have beside it."""

from __future__ import annotations

import base64
import json

import pytest
from msgspec.structs import replace

from swarmsh.errors import Locked, NotFound, StoreCorrupt
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_task
from tests.fakes.serving import served

KINDS = pytest.mark.parametrize("kind", ["secret", "config"])


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def coded(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


async def create(api, kind="secret", name="password", data="swordfish", **body):
    status, answer = await api.call("POST", f"/{kind}s/create", {"Name": name, "Data": coded(data)} | body)
    assert status == 201, answer
    return answer["ID"]


async def refused(api, method, path, body=None, status=400, **query):
    found, answer = await api.call(method, path, body, params=query)
    assert (found, set(answer)) == (status, {"message"}), answer
    return answer["message"].removeprefix("rpc error: code = InvalidArgument desc = ")


async def listed(api, kind, filters=None, **query):
    query |= {"filters": json.dumps(filters)} if filters is not None else {}
    return [found["Spec"]["Name"] for found in await api.get(f"/{kind}s", **query)]


def reference(kind, kept_id, name="password", target="password"):
    word = kind.title()
    return {
        f"{word}ID": kept_id,
        f"{word}Name": name,
        "File": {"Name": target, "UID": "0", "GID": "0", "Mode": 292},
    }


async def serve_with(api, name, *references, kind="secret", **more):
    return await api.create(name, ContainerSpec={"Image": "web:1", f"{kind.title()}s": list(references)}, **more)


# --- Docker's -------------------------------------------------------------------------------------------------
@KINDS
async def test_what_is_created_is_found_by_id_name_and_prefix(api, kind):
    made = await create(api, kind, Labels={"a": "b"})
    by_id, *others = [await api.get(f"/{kind}s/{ref}") for ref in (made, "password", made[:12])]
    assert all(other == by_id for other in others)
    assert by_id.pop("CreatedAt").endswith("Z") and by_id.pop("UpdatedAt").endswith("Z")
    spec = {"Name": "password", "Labels": {"a": "b"}} | ({} if kind == "secret" else {"Data": coded("swordfish")})
    assert by_id == {"ID": made, "Version": {"Index": api.store.snapshot.index}, "Spec": spec}
    missing = await refused(api, "GET", f"/{kind}s/nothing", status=404)
    assert missing == f"{kind} nothing not found"


async def test_a_secret_is_in_no_answer_and_no_event(api):
    made = await create(api, data="needle-5a1")
    await api.call("POST", "/swarmsh/secrets/password/rotate", {"Data": coded("needle-5a2")})
    await serve_with(api, "web", reference("secret", (await api.get("/secrets/password"))["ID"]))
    for path in (
        *("/secrets", f"/secrets/{made}", "/services", "/services/web", "/swarmsh/secrets/password/versions"),
        *("/swarmsh/services/web/revisions", "/swarmsh/status", "/info"),
    ):
        status, answer = await api.call("GET", path)
        text = json.dumps(answer)
        assert status == 200
        assert "needle-5a" not in text and coded("needle-5a1") not in text and coded("needle-5a2") not in text
    assert "needle" not in repr(api.store.kept_events) + repr(api.store.snapshot) + repr(api.store.kept_revisions)


@KINDS
async def test_lists_take_one_of_names_and_ids_and_all_labels(api, kind):
    ids = {n: await create(api, kind, n, Labels={"k": n, "all": ""}) for n in ("alpha", "alpine", "beta")}
    assert await listed(api, kind) == ["alpha", "alpine", "beta"]
    assert await listed(api, kind, {"name": ["alp"]}) == ["alpha", "alpine"]
    assert await listed(api, kind, {"names": {"alpha": True}}) == ["alpha"]
    assert await listed(api, kind, {"id": [ids["beta"]]}) == ["beta"]
    assert await listed(api, kind, {"id": [ids["beta"]], "name": ["alpha"]}) == ["alpha", "beta"]
    assert await listed(api, kind, {"label": ["k=alpha", "all"]}) == ["alpha"]
    assert await listed(api, kind, {"label": ["none"]}) == []
    assert "invalid filter 'driver'" in await refused(api, "GET", f"/{kind}s", filters='{"driver":["x"]}')


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("secret", {"Name": ""}, "name must be provided"),
        ("secret", {"Name": "-a"}, "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"),
        ("secret", {"Name": "a" * 65}, "invalid name, only 64"),
        ("secret", {"Name": "a\n"}, "invalid name"),
        ("secret", {"Data": None}, "secret data must be larger than 0 and less than 512000 bytes"),
        ("secret", {"Data": ""}, "secret data must be larger than 0"),
        ("secret", {"Data": coded(b"x" * 512_000)}, "less than 512000 bytes"),
        (
            "config",
            {"Data": coded(b"x" * 1_024_000)},
            "config data must be larger than 0 and less than 1024000 bytes",
        ),
        ("secret", {"Data": "needle!"}, "invalid SecretSpec: Data is not base64"),
        ("config", {"Data": 5}, "invalid ConfigSpec: Expected `str | null`, got `int` - at `$.Data`"),
        ("secret", {"Templating": {"Name": "jinja"}}, "unrecognized template type jinja"),
        ("secret", {"Driver": {"Options": {}}}, "secret driver must have a name"),
    ],
)
async def test_what_swarmkit_refuses_is_refused_in_its_words(api, kind, body, words):
    body = {"Name": "a", "Data": coded("x")} | body
    message = await refused(api, "POST", f"/{kind}s/create", body)
    assert words in message
    assert "needle" not in message


@KINDS
async def test_the_largest_and_any_bytes_are_taken(api, kind):
    most = 511_999 if kind == "secret" else 1_023_999
    made = await create(api, kind, data=(bytes(range(256)) * 4000)[:most])
    assert len(api.store.secrets[f"{kind}/{made}"]) == most
    await create(api, kind, "a.b_c-D" + "x" * 57, data=b"\x00")
    await create(api, kind, "t", Templating={"Name": "golang"})
    assert (await api.get(f"/{kind}s/t"))["Spec"]["Templating"] == {"Name": "golang"}


async def test_a_driver_of_secrets_is_refused_with_what_to_use(api):
    answer = await refused(api, "POST", "/secrets/create", {"Name": "a", "Driver": {"Name": "vault"}}, status=501)
    assert "--from-command" in answer


@KINDS
async def test_a_taken_name_is_a_conflict(api, kind):
    await create(api, kind)
    message = await refused(api, "POST", f"/{kind}s/create", {"Name": "password", "Data": coded("x")}, status=409)
    assert message == f"rpc error: code = AlreadyExists desc = {kind} password already exists"


@KINDS
async def test_labels_may_change_and_nothing_else(api, kind):
    made = await create(api, kind)
    index = (await api.get(f"/{kind}s/{made}"))["Version"]["Index"]
    spec = {"Name": "password", "Labels": {"x": "y"}}
    for bad in ({**spec, "Name": "other"}, {**spec, "Data": coded("other")}):
        message = await refused(api, "POST", f"/{kind}s/{made}/update", bad, version=index)
        assert message == "only updates to Labels are allowed"
    same = {**spec, "Data": coded("swordfish")}  # as `docker stack deploy` sends it
    status, _ = await api.call("POST", f"/{kind}s/{made}/update", same, params={"version": index})
    assert status == 200
    assert (await api.get(f"/{kind}s/{made}"))["Spec"]["Labels"] == {"x": "y"}
    stale = await refused(api, "POST", f"/{kind}s/{made}/update", spec, status=500, version=index)
    assert stale == "rpc error: code = Unknown desc = update out of sequence"


@KINDS
async def test_one_in_use_is_not_removed_and_its_services_are_named(api, kind):
    made = await create(api, kind)
    await serve_with(api, "web", reference(kind, made), kind=kind)
    words = f"{kind} 'password' is in use by the following"
    assert await refused(api, "DELETE", f"/{kind}s/password") == f"{words} service: web"
    await serve_with(api, "api", reference(kind, made), kind=kind)
    assert await refused(api, "DELETE", f"/{kind}s/{made}") == f"{words} services: api, web"
    for name in ("web", "api"):
        await api.call("DELETE", f"/services/{name}")
    status, _ = await api.call("DELETE", f"/{kind}s/password")
    assert status == 204
    assert await listed(api, kind) == [] and not api.store.secrets
    assert await refused(api, "DELETE", f"/{kind}s/password", status=404) == f"{kind} password not found"


@KINDS
async def test_events_are_docker_s(api, kind):
    made = await create(api, kind)
    index = (await api.get(f"/{kind}s/{made}"))["Version"]["Index"]
    await api.call("POST", f"/{kind}s/{made}/update", {"Name": "password"}, params={"version": index})
    await api.call("DELETE", f"/{kind}s/{made}")
    found = [(e.action, e.id, e.attributes) for e in api.store.kept_events if e.type == kind]
    assert found == [(action, made, {"name": "password"}) for action in ("create", "update", "remove")]


@KINDS
async def test_a_service_refers_only_to_what_is_there(api, kind):
    word = kind.title()
    made = await create(api, kind)
    cases = [
        ([reference(kind, "nowhere", "gone")], f"{kind} not found: gone"),
        ([reference(kind, "a", "x", "x"), reference(kind, "b", "y", "y")], f"{kind}s not found: x, y"),
        ([reference(kind, made, "other")], f"{kind} not found: other"),
        ([reference(kind, "", "password")], f"malformed {kind} reference"),
        ([{f"{word}ID": made, f"{word}Name": "password"}], f"malformed {kind} reference, no target provided"),
        (
            [reference(kind, made, target="")],
            f"malformed file {kind} reference, invalid target file name provided",
        ),
        (
            [reference(kind, made), reference(kind, made, "second")],
            f"{kind} references 'password' and 'second' have a conflicting target: 'password'",
        ),
    ]
    await api.create("web")
    for references, words in cases:
        container = {"Image": "web:1", f"{word}s": references}
        body = {"Name": "bad", "TaskTemplate": {"ContainerSpec": container}}
        assert words in await refused(api, "POST", "/services/create", body)
        version = (await api.get("/services/web"))["Version"]["Index"]
        update = {**body, "Name": "web", "Mode": {"Replicated": {"Replicas": 2}}}
        assert words in await refused(api, "POST", "/services/web/update", update, version=version)
    await serve_with(api, "good", reference(kind, made), kind=kind)


@KINDS
async def test_without_a_cluster_there_is_none(kind):
    async with served(initialised=False) as api:
        for method, path, body in (
            ("GET", f"/{kind}s", None),
            ("GET", f"/{kind}s/x", None),
            ("DELETE", f"/{kind}s/x", None),
            ("POST", f"/{kind}s/create", {"Name": "a", "Data": coded("x")}),
            ("POST", f"/swarmsh/{kind}s/x/rotate", {"Data": coded("x")}),
        ):
            assert "not a swarm manager" in await refused(api, method, path, body, status=503)


# --- versions -------------------------------------------------------------------------------------------------
async def rotate(api, kind="secret", data="new", name="password", **body):
    status, answer = await api.call("POST", f"/swarmsh/{kind}s/{name}/rotate", {"Data": coded(data)} | body)
    assert status == 200, answer
    return answer


async def history(api, kind="secret"):
    return await api.get(f"/swarmsh/{kind}s/password/versions")


def ids_used(api, name, kind="secret"):
    service = api.store.snapshot.services[api.store.snapshot.service_ids[name]]
    container = service.spec.task_template.container_spec
    return [getattr(one, f"{kind}_id") for one in getattr(container, f"{kind}s")], service


@KINDS
async def test_a_rotated_name_means_the_new_one_and_services_are_updated_to_it(api, kind):
    first = await create(api, kind, Labels={"a": "b"})
    await serve_with(api, "web", reference(kind, first), kind=kind)
    before = ids_used(api, "web", kind)[1]
    index = api.store.snapshot.index
    turned = await rotate(api, kind)
    assert (turned["Number"], turned["Changed"]) == (2, True)
    assert turned["Services"] == [{"Name": "web", "Action": "rolled"}]
    assert api.store.snapshot.index == index + 1  # one write
    used, after = ids_used(api, "web", kind)
    assert used == [turned["ID"]] != [first]
    assert (after.spec_version, after.previous_spec) == (before.spec_version + 1, before.spec)
    found = await api.get(f"/{kind}s/password")
    assert (found["ID"], found["Spec"]["Labels"]) == (turned["ID"], {"a": "b"})
    assert await listed(api, kind) == ["password"]
    assert (await api.get(f"/{kind}s/{first}"))["ID"] == first
    assert api.store.secrets == {f"{kind}/{first}": b"swordfish", f"{kind}/{turned['ID']}": b"new"}
    revisions = await api.get("/swarmsh/services/web/revisions")
    assert [r["Action"] for r in revisions] == [f"rotate {kind} password", "create"]
    (change,) = revisions[0]["Changes"]
    assert (change["Before"], change["After"]) == ("version 1", "version 2")


async def test_the_same_contents_are_no_new_version_but_bring_up_who_was_left(api):
    first = await create(api)
    await serve_with(api, "web", reference("secret", first))
    turned = await rotate(api, Follow="leave")
    assert turned["Services"] == [{"Name": "web", "Action": "left"}]
    assert ids_used(api, "web")[0] == [first]
    again = await rotate(api)
    assert (again["ID"], again["Changed"]) == (turned["ID"], False)
    assert again["Services"] == [{"Name": "web", "Action": "rolled"}]
    index = api.store.snapshot.index
    assert (await rotate(api))["Services"] == []
    assert api.store.snapshot.index == index  # nothing to do, nothing written


async def test_signalled_tasks_keep_running_with_the_new_one(api):
    first = await create(api)
    service_id = await serve_with(api, "web", reference("secret", first))
    service = api.store.snapshot.services[service_id]
    running = a_task(service, 1, state=TaskState.RUNNING)
    waiting = a_task(service, 2, state=TaskState.PENDING)
    over = a_task(service, 3, state=TaskState.FAILED)
    running, over = (replace(t, node_id=next(iter(api.store.snapshot.nodes))) for t in (running, over))
    await api.store.commit(lambda _: Changes(put_tasks=(running, waiting, over)))
    turned = await rotate(api, Follow="signal", Signal="hup")
    assert turned["Services"] == [{"Name": "web", "Action": "signalled"}]
    used, after = ids_used(api, "web")
    assert used == [turned["ID"]] and after.spec_version == service.spec_version
    tasks = {t.slot: t for t in api.store.snapshot.tasks.values()}
    assert tasks[1].spec == tasks[2].spec == after.spec.task_template
    assert (tasks[1].refresh.number, tasks[1].refresh.signal, tasks[2].refresh) == (1, "SIGHUP", None)
    assert tasks[3].spec == service.spec.task_template
    await rotate(api, data="third", Follow="signal", Signal="SIGUSR1")
    assert next(t for t in api.store.snapshot.tasks.values() if t.slot == 1).refresh.number == 2
    newest, *others = await history(api)
    assert (newest["Tasks"], newest["Waiting"], newest["Failed"]) == (1, 1, {})
    assert [(one["Tasks"], one["Waiting"]) for one in others] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Follow": "signal", "Signal": "WAKE"}, "invalid signal 'WAKE'"),
        ({"Follow": "signal", "Signal": ""}, "invalid signal"),
        ({"Follow": "signal", "Signal": "KILL"}, "SIGKILL"),
        ({"Follow": "roll", "Signal": "HUP"}, "tasks that are not replaced"),
        ({"Follow": "maybe"}, "invalid Follow 'maybe'. It is one of roll, signal, leave"),
        ({"Data": ""}, "secret data must be larger than 0"),
        ({"Data": "%"}, "not base64"),
    ],
)
async def test_a_rotation_that_makes_no_sense_is_refused_and_changes_nothing(api, body, words):
    await create(api)
    index = api.store.snapshot.index
    message = await refused(api, "POST", "/swarmsh/secrets/password/rotate", {"Data": coded("x")} | body)
    assert words in message
    assert api.store.snapshot.index == index


@KINDS
async def test_a_name_goes_back_to_a_kept_version_and_forward_again(api, kind):
    ids = [await create(api, kind)]
    await serve_with(api, "web", reference(kind, ids[0]), kind=kind)
    ids += [(await rotate(api, kind, data))["ID"] for data in ("two", "three")]
    status, back = await api.call("POST", f"/swarmsh/{kind}s/password/rollback", {})
    assert (status, back["Number"], back["ID"]) == (200, 2, ids[1])
    assert ids_used(api, "web", kind)[0] == [ids[1]]
    status, back = await api.call("POST", f"/swarmsh/{kind}s/password/rollback?to=3", {"Follow": "leave"})
    assert (status, back["Number"]) == (200, 3)
    assert ids_used(api, "web", kind)[0] == [ids[1]]
    found = [(one["Number"], one["Current"], one["Services"]) for one in await history(api, kind)]
    assert found == [(3, True, []), (2, False, ["web"]), (1, False, [])]
    assert (await rotate(api, kind, "four"))["Number"] == 4
    gone = await refused(api, "POST", f"/swarmsh/{kind}s/password/rollback", {}, status=404, to="9")
    assert "has no version 9. Kept ones: 1, 2, 3, 4" in gone
    assert "invalid version 'x'" in await refused(api, "POST", f"/swarmsh/{kind}s/password/rollback", {}, to="x")


@KINDS
async def test_contents_never_go_to_another_one_by_a_prefix_of_its_id(api, kind):
    made = await create(api, kind)
    for verb in ("rotate", "rollback"):
        words = await refused(api, "POST", f"/swarmsh/{kind}s/{made[:5]}/{verb}", {"Data": coded("x")}, status=404)
        assert f"{kind} {made[:5]} not found" in words
    assert (await api.call("POST", f"/swarmsh/{kind}s/{made}/rotate", {"Data": coded("x")}))[0] == 200


@KINDS
async def test_a_version_whose_contents_were_given_up_is_not_gone_back_to(api, kind):
    made = await create(api, kind)
    await rotate(api, kind, "two")
    await api.store.put_secret(f"{kind}/{made}", None)
    words = await refused(api, "POST", f"/swarmsh/{kind}s/password/rollback", {})
    assert words.startswith(
        f"version 1 of {kind} password has no contents: they were given up with their key. Give"
    )
    assert [one["Current"] for one in await history(api, kind)] == [True, False]


@KINDS
async def test_contents_that_do_not_open_are_given_again(api, kind, monkeypatch):
    await create(api, kind)

    async def damaged(_):
        raise StoreCorrupt("it does not open")

    monkeypatch.setattr(api.store, f"{kind}_data", damaged)
    assert (await rotate(api, kind, "swordfish"))["Number"] == 2


async def test_there_is_nothing_before_the_first_version(api):
    await create(api)
    message = await refused(api, "POST", "/swarmsh/secrets/password/rollback", {}, status=404)
    assert message.startswith("secret password has no earlier version")


async def test_ten_earlier_versions_are_kept_and_those_in_use(api):
    ids = [await create(api)]
    await serve_with(api, "web", reference("secret", ids[0]))
    for number in range(2, 15):
        ids.append((await rotate(api, data=str(number), Follow="leave"))["ID"])
    assert [one["Number"] for one in await history(api)] == [*range(14, 3, -1), 1]
    assert set(api.store.secrets) == {f"secret/{ids[n - 1]}" for n in (1, *range(4, 15))}
    # An older version alone is removed by its id, all of them by the name.
    assert "in use" in await refused(api, "DELETE", f"/secrets/{ids[0]}")
    assert (await api.call("DELETE", f"/secrets/{ids[4]}"))[0] == 204
    assert "in use" in await refused(api, "DELETE", "/secrets/password")
    await api.call("DELETE", "/services/web")
    assert (await api.call("DELETE", "/secrets/password"))[0] == 204
    assert not api.store.secrets and not api.store.snapshot.secrets


async def test_a_job_takes_the_new_one_with_its_next_run(api):
    first = await create(api)
    body = {
        "Name": "backup",
        "TaskTemplate": {"ContainerSpec": {"Image": "web:1", "Secrets": [reference("secret", first)]}},
        "Mode": {"ReplicatedJob": {}},
    }
    assert (await api.call("POST", "/services/create", body))[0] == 201
    iteration = ids_used(api, "backup")[1].job_status.iteration
    turned = await rotate(api)
    assert turned["Services"] == [{"Name": "backup", "Action": "next run"}]
    used, service = ids_used(api, "backup")
    assert (used, service.job_status.iteration) == ([turned["ID"]], iteration)


# --- locked ---------------------------------------------------------------------------------------------------
async def test_while_locked_secrets_wait_and_all_else_goes_on(api):
    made = await create(api)
    config = await create(api, "config", "site")
    api.store.locked = "the manager is locked"
    assert await api.get("/swarmsh/key") == {"Place": "file", "Locked": "the manager is locked"}
    assert (await api.get("/swarmsh/status"))["locked"] == "the manager is locked"
    assert (await api.get(f"/secrets/{made}"))["ID"] == made
    await api.create("web")
    for method, path, body in (
        ("POST", "/secrets/create", {"Name": "a", "Data": coded("x")}),
        ("POST", "/swarmsh/secrets/password/rotate", {"Data": coded("x")}),
        ("GET", f"/configs/{config}", None),
    ):
        assert "the manager is locked" in await refused(api, method, path, body, status=503)
    status, answer = await api.call("POST", "/swarmsh/unlock", {"Passphrase": "x"})
    assert (status, answer) == (200, {"Place": "file", "Changed": True})
    assert "locked" not in await api.get("/swarmsh/status")
    assert (await api.get(f"/configs/{config}"))["Spec"]["Data"] == coded("swordfish")
    status, answer = await api.call("POST", "/swarmsh/key/rotate", {"Place": "passphrase", "Passphrase": "y"})
    assert (status, answer) == (200, {"Place": "passphrase"})


@pytest.mark.parametrize("error", [Locked("locked"), NotFound("not found"), StoreCorrupt("does not open")])
async def test_a_config_without_contents_keeps_no_other_from_the_list(api, monkeypatch, error):
    ids = {name: await create(api, "config", name) for name in ("a", "gone", "z")}
    read = api.store.config_data

    async def data_of(config_id):
        if config_id == ids["gone"]:
            await api.store.commit(lambda _: Changes(delete_configs=(config_id,)))
        if config_id != ids["a"]:
            raise error
        return await read(config_id)

    monkeypatch.setattr(api.store, "config_data", data_of)
    found = await api.get("/configs")
    assert [(f["Spec"]["Name"], f["Spec"].get("Data")) for f in found] == [("a", coded("swordfish")), ("z", None)]
    assert (await api.call("GET", "/configs/z"))[0] >= 400


def test_what_clients_send_is_in_no_repr():
    from swarmsh.api.secrets import KeyRequest, SpecRequest, TurnRequest

    for request in (
        SpecRequest(name="a", data="needle"),
        TurnRequest(data="needle"),
        KeyRequest(passphrase="needle"),
    ):
        assert "needle" not in repr(request)
