"""/nodes, /swarm, /info, /version, /_ping, and what is refused."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from swarmsh.model.objects import NodeStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import NodeState
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


@pytest.fixture
async def fresh():
    async with served(initialised=False) as running:
        yield running


async def refused(api, method, path, body=None, status=400):
    found, answer = await api.call(method, path, body)
    assert found == status, answer
    assert set(answer) == {"message"}
    return answer["message"]


# --- who answers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_ping_tells_version_and_swarm_state(api, method):
    async with api.http.request(method, "http://swarmsh/_ping") as response:
        assert response.status == 200
        assert response.headers["Api-Version"] == "1.51"
        assert response.headers["Ostype"] == "linux"
        assert response.headers["Docker-Experimental"] == "false"
        assert response.headers["Swarm"] == "active/manager"
        assert response.headers["Builder-Version"] == "2"
        assert "Server" in response.headers
        assert await response.text() == ("OK" if method == "GET" else "")


async def test_versions_out_of_range_are_refused_in_dockers_words(api):
    assert await refused(api, "GET", "/v1.52/info") == (
        "client version 1.52 is too new. Maximum supported API version is 1.51"
    )
    assert await refused(api, "GET", "/v1.23/info") == (
        "client version 1.23 is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )
    for version in ("1.24", "1.51"):
        assert (await api.call("GET", f"/v{version}/info"))[0] == 200
    version = await api.get("/version")
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.51", "1.24")


async def test_info_has_the_swarm_block_that_the_cli_reads(api):
    swarm = (await api.get("/info"))["Swarm"]
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("active", True)
    assert (swarm["Nodes"], swarm["Managers"]) == (3, 1)
    assert swarm["NodeID"] == f"node{1:021d}"
    assert swarm["RemoteManagers"] == [{"NodeID": swarm["NodeID"], "Addr": "10.0.0.1:22"}]
    assert swarm["Cluster"]["ID"] == api.store.snapshot.cluster.id


async def test_what_is_not_there_says_so(api):
    assert await refused(api, "GET", "/nothing/here", status=404) == "page not found"
    assert await refused(api, "PATCH", "/services", status=404) == "page not found"
    assert "swarmsh node add" in await refused(api, "POST", "/swarm/join", {}, 501)
    assert "docker service ps" in await refused(api, "GET", "/v1.41/containers/json", status=501)
    assert "docker service ps" in await refused(api, "POST", "/containers/x/exec", {}, 501)
    assert await api.get("/secrets") == await api.get("/configs") == []
    assert [n["Name"] for n in await api.get("/networks")] == ["bridge", "host", "none"]
    assert (await api.get("/networks/host", scope="swarm"))["Id"] == "host"
    assert await refused(api, "GET", "/networks/other", status=404) == "network other not found"


# --- the cluster --------------------------------------------------------------------------------------------
async def test_without_a_cluster_docker_is_told_to_make_one(fresh):
    for path in ("/nodes", "/services", "/tasks", "/swarm", "/nodes/x", "/services/x/logs?stdout=1", "/secrets"):
        assert "This node is not a swarm manager" in await refused(fresh, "GET", path, status=503)
    assert (await fresh.get("/info"))["Swarm"]["LocalNodeState"] == "inactive"
    body = {"TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
    assert "not a swarm manager" in await refused(fresh, "POST", "/services/create", body, 503)
    assert "not part of a swarm" in await refused(fresh, "POST", "/swarm/leave", status=503)


async def test_init_leave_and_init_again(fresh):
    status, node_id = await fresh.call("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377"})
    assert status == 200
    assert (await fresh.get(f"/nodes/{node_id}"))["ID"] == node_id  # the CLI looks at once
    assert "already part of a swarm" in await refused(fresh, "POST", "/swarm/init", {}, 503)
    await fresh.call("POST", "/swarmsh/nodes", {"Name": "a", "Target": {"Address": "10.1.1.1"}})
    async with fresh.orchestrator.running():
        await fresh.create()
        assert "--force" in await refused(fresh, "POST", "/swarm/leave", status=503)
        assert (await fresh.call("POST", "/swarm/leave?force=1"))[0] == 200
    assert (await fresh.get("/info"))["Swarm"]["LocalNodeState"] == "inactive"
    (node,) = fresh.store.snapshot.nodes.values()
    assert fresh.nodes.dropped == [(node.id, True)]
    status, node_id = await fresh.call("POST", "/swarm/init", {})
    assert (status, node_id) == (200, node.id)  # known hosts belong to the new cluster
    assert node.id in fresh.nodes.kept
    assert await fresh.get("/services") == []


async def test_swarm_settings_are_read_and_changed_with_a_version(api):
    swarm = await api.get("/swarm")
    spec, version = swarm["Spec"], swarm["Version"]["Index"]
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = 9
    assert (await api.call("POST", f"/swarm/update?version={version}", spec))[0] == 200
    assert (await api.get("/swarm"))["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 9}
    assert "update out of sequence" in await refused(api, "POST", f"/swarm/update?version={version}", spec, 500)
    spec["EncryptionConfig"]["AutoLockManagers"] = True
    assert "autolock" in await refused(api, "POST", f"/swarm/update?version={version}", spec, 501)
    rotation = f"/swarm/update?version={version}&rotateWorkerToken=true"
    assert "join tokens" in await refused(api, "POST", rotation, {}, 501)
    assert "certificate" in await refused(
        api, "POST", f"/swarm/update?version={version}", {"CAConfig": {"ForceRotate": 1}}, 501
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"Dispatcher": {"HeartbeatPeriod": 10_000_000_000}}, "heartbeat cannot be set"),
        ({"CAConfig": {"NodeCertExpiry": 3_600_000_000_000}}, "no certificates that could expire"),
        ({"CAConfig": {"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://ca"}]}}, "no certificate authority"),
        ({"Raft": {"SnapshotInterval": 5}}, "no Raft snapshots"),
        ({"Raft": {"KeepOldSnapshots": 3}}, "no Raft snapshots"),
        ({"TaskDefaults": {"LogDriver": {"Name": "syslog"}}}, "--log-driver"),
    ],
)
async def test_swarm_settings_that_would_do_nothing_are_refused(api, fresh, change, why):
    swarm = await api.get("/swarm")
    path = f"/swarm/update?version={swarm['Version']['Index']}"
    assert why in await refused(api, "POST", path, swarm["Spec"] | change, 501)
    assert why in await refused(fresh, "POST", "/swarm/init", {"Spec": change}, 501)
    dockers = {
        "Dispatcher": {"HeartbeatPeriod": 5_000_000_000},
        "CAConfig": {"NodeCertExpiry": 7_776_000_000_000_000},
    }
    assert (await fresh.call("POST", "/swarm/init", {"Spec": dockers}))[0] == 200


# --- nodes --------------------------------------------------------------------------------------------------
async def test_nodes_are_shown_as_docker_writes_them(api):
    first, second, _ = await api.get("/nodes")
    assert first["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "10.0.0.1:22"}
    assert "ManagerStatus" not in second
    assert second["Spec"] == {"Labels": {}, "Name": "n2", "Role": "worker", "Availability": "active"}
    assert second["Status"] == {"State": "ready", "Addr": "10.0.0.2"}
    assert second["Description"]["Platform"] == {"Architecture": "x86_64", "OS": "linux"}
    assert second["Description"]["Resources"] == {"NanoCPUs": 2_000_000_000, "MemoryBytes": 2 << 30}
    assert second["Description"]["Engine"]["EngineVersion"] == "28.5.1"


async def test_our_own_node_states_are_shown_as_they_are(api):
    node = api.store.snapshot.nodes[f"node{2:021d}"]
    status = NodeStatus(state=NodeState.UNREACHABLE, message="peers still reach it")
    api.store.observe(lambda _: Changes(put_nodes=(replace(node, status=status),)))
    shown = (await api.get("/nodes/n2"))["Status"]
    assert shown == {"State": "unreachable", "Message": "peers still reach it", "Addr": "10.0.0.2"}
    assert "n2 is unreachable" in str((await api.get("/info"))["Warnings"])


async def test_a_node_is_updated_with_its_version_and_keeps_its_name(api):
    node = await api.get("/nodes/n2")
    version = node["Version"]["Index"]
    spec = {"Labels": {"disk": "ssd"}, "Role": "worker", "Availability": "drain"}
    assert (await api.call("POST", f"/nodes/{node['ID']}/update?version={version}", spec))[0] == 200
    shown = (await api.get("/nodes/n2"))["Spec"]
    assert shown == {"Name": "n2", "Labels": {"disk": "ssd"}, "Role": "worker", "Availability": "drain"}
    assert "out of sequence" in await refused(api, "POST", f"/nodes/n2/update?version={version}", spec, 500)
    version = (await api.get("/nodes/n1"))["Version"]["Index"]
    assert "last manager" in await refused(api, "POST", f"/nodes/n1/update?version={version}", spec)
    bad = {"Role": "boss", "Availability": "active"}
    assert "$.Role" in await refused(api, "POST", f"/nodes/n1/update?version={version}", bad)


async def test_only_a_node_that_is_down_is_removed_without_force(api):
    message = await refused(api, "DELETE", "/nodes/n2")
    assert f"node node{2:021d} is not down and can't be removed" in message
    node = api.store.snapshot.nodes[f"node{2:021d}"]
    down = replace(node, status=NodeStatus(state=NodeState.DOWN))
    api.store.observe(lambda _: Changes(put_nodes=(down,)))
    assert (await api.call("DELETE", "/nodes/n2"))[0] == 200
    assert (await api.call("DELETE", "/nodes/n1?force=true"))[0] == 200
    (left,) = await api.get("/nodes")
    assert (left["Description"]["Hostname"], left["Spec"]["Role"]) == ("n3", "manager")  # the role is inherited


async def test_nodes_are_filtered(api):
    async def names(**filters):
        return [n["Description"]["Hostname"] for n in await api.get("/nodes", filters=json.dumps(filters))]

    assert await names(role=["manager"]) == ["n1"]
    assert await names(name=["n"]) == ["n1", "n2", "n3"]
    assert await names(**{"node.label": ["disk"]}) == []
    assert await names(membership=["pending"]) == []
    assert await refused(api, "GET", '/nodes?filters={"role":["boss"]}') == "Invalid role filter: 'boss'"


async def test_a_host_is_added_over_our_own_endpoint(fresh):
    await fresh.call("POST", "/swarm/init", {})

    async def add(**body):
        return await fresh.call("POST", "/swarmsh/nodes", body)

    status, answer = await add(
        Name="a",
        Target={"Address": "10.1.1.1", "Port": 2222, "HostKeys": ["SHA256:x"], "Jump": [{"Address": "j"}]},
    )
    assert status == 201
    node = fresh.store.snapshot.nodes[answer["ID"]]
    assert (node.number, node.spec.role.value, node.target.port) == (1, "manager", 2222)
    assert node.target.jump[0].address == "j"
    status, answer = await add(Name="b", Target={"Address": "10.1.1.2"}, Labels={"x": "y"})
    assert fresh.store.snapshot.nodes[answer["ID"]].number == 2
    assert (await add(Name="a", Target={"Address": "10.1.1.3"}))[0] == 409
    assert (await add(Name="c", Target={"Address": "10.1.1.2"}))[0] == 409
    for bad in (
        {},
        {"Target": {}},
        {"Target": {"Address": "-oProxyCommand=x"}},
        {"Target": {"Address": "a", "Port": 0}},
    ):
        assert (await add(**bad))[0] == 400
    first = (await fresh.get("/swarmsh/nodes"))[0]
    assert first["Name"] == "a"
    assert first["Target"] == {
        "Address": "10.1.1.1",
        "Port": 2222,
        "HostKeys": ["SHA256:x"],
        "Jump": [{"Address": "j"}],
    }
    assert (await fresh.call("POST", "/swarmsh/nodes/a/target", first["Target"] | {"User": "ops"}))[0] == 200
    assert fresh.nodes.kept[first["ID"]].user == "ops"  # when it is answered, nobody goes the old way
    checked = await fresh.get("/swarmsh/nodes/a/check")
    assert checked["items"][0]["fix"] == "modprobe ip_vs"
    assert checked["items"][-2] == {"name": "routes", "ok": True, "detail": "", "fix": ""}
    status = await fresh.get("/swarmsh/status")
    assert status["nodes"] == {"total": 2, "ready": 0}
    assert [s["connected"] for s in status["sessions"]] == [True, True]


async def test_a_digest_comes_from_the_registry_through_a_node(api):
    api.nodes.registry["docker.io/library/nginx:latest"] = "sha256:" + "cd" * 32
    found = await api.get("/distribution/nginx/json")
    assert found["Descriptor"]["digest"] == "sha256:" + "cd" * 32
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert "manifest unknown" in await refused(api, "GET", "/distribution/a/b/c:1/json", status=500)
    assert "invalid reference format" in await refused(api, "GET", "/distribution/a%20b/json")
    api.nodes.away.update(api.store.snapshot.nodes)
    await refused(api, "GET", "/distribution/nginx/json", status=503)
