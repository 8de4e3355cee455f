"""/networks on a real socket: what clients are told, and how they are refused."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from swarmsh.core.allocate import Allocator
from swarmsh.model.objects import TaskStatus
from swarmsh.model.snapshot import Changes
from swarmsh.model.specs import NetworkAttachment
from swarmsh.model.states import TaskState
from tests.fakes.objects import a_service, a_task
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


async def refused(api, method, path, body=None, status=400, **query):
    found, answer = await api.call(method, path, body, params=query)
    assert found == status, answer
    assert set(answer) == {"message"}
    return answer["message"]


async def create(api, name="net1", **body):
    status, answer = await api.call("POST", "/networks/create", {"Name": name, "Driver": "overlay"} | body)
    assert status == 201, answer
    assert answer["Warning"] == ""
    return answer["Id"]


def named(found):
    return [network["Name"] for network in found]


async def used(api, network_id, state=TaskState.RUNNING):
    """A service on the network with a task on node 2."""
    snapshot = api.store.snapshot
    service = a_service()
    template = replace(service.spec.task_template, networks=(NetworkAttachment(target=network_id),))
    service = replace(service, spec=replace(service.spec, task_template=template))
    allocator = Allocator(snapshot, api.deps.clock.now())
    service = replace(service, endpoint=allocator.endpoint(service))
    node = next(n for n in snapshot.nodes.values() if n.number == 2)
    task = allocator.task(a_task(service, 1, node.id, state), node)
    await api.store.commit(lambda _: Changes(put_services=(service,), put_tasks=(task,)))
    return service, task


async def test_a_created_network_is_found_by_id_name_and_prefix(api):
    network_id = await create(api, Labels={"a": "b"}, Options={"encrypted": ""}, Attachable=True)
    assert len(network_id) == 25
    by_id, *others = [await api.get(f"/networks/{ref}") for ref in (network_id, "net1", network_id[:12])]
    assert all(other == by_id for other in others)
    assert by_id.pop("Created").startswith("20")
    assert by_id == {
        "Name": "net1",
        "Id": network_id,
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": "10.48.0.0/20", "Gateway": "10.48.0.1"}],
        },
        "Internal": False,
        "Attachable": True,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {"encrypted": "", "com.docker.network.driver.overlay.vxlanid_list": "4096"},
        "Labels": {"a": "b"},
    }


async def test_what_was_asked_for_is_shown(api):
    config = {"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.254", "IPRange": "10.9.0.128/25"}
    await create(api, IPAM={"Config": [config | {"AuxiliaryAddresses": {"x": "10.9.0.70"}}]}, Internal=True)
    shown = await api.get("/networks/net1")
    assert shown["IPAM"]["Config"] == [config | {"AuxiliaryAddresses": {"x": "10.9.0.70"}}]
    assert shown["Internal"]


async def test_those_that_every_engine_has_are_there(api):
    assert named(await api.get("/networks")) == ["bridge", "host", "none"]
    assert (await api.get("/networks/host", scope="swarm"))["Id"] == "host"
    assert (await api.get("/networks/none"))["Driver"] == "null"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": ["net"]}, ["net1", "net2"]),
        ({"name": {"et2": True}}, ["net2"]),
        ({"name": ["^net1$"]}, ["net1"]),
        ({"name": ["^et"]}, []),
        ({"driver": ["overlay"]}, ["net1", "net2"]),
        ({"driver": ["null", "host"]}, ["host", "none"]),
        ({"scope": ["swarm"]}, ["net1", "net2"]),
        ({"scope": ["local"]}, ["bridge", "host", "none"]),
        ({"type": ["custom"]}, ["net1", "net2"]),
        ({"type": ["builtin"]}, ["bridge", "host", "none"]),
        ({"label": ["tier=front"]}, ["net2"]),
        ({"label": ["tier"]}, ["net2"]),
        ({"label": ["tier=back"]}, []),
        ({"dangling": ["true"]}, ["net2"]),
        ({"dangling": ["0"]}, ["bridge", "host", "net1", "none"]),
    ],
)
async def test_lists_are_filtered(api, filters, expected):
    await used(api, await create(api))
    await create(api, "net2", Labels={"tier": "front"})
    assert named(await api.get("/networks", filters=json.dumps(filters))) == expected


async def test_an_id_filters_by_its_parts(api):
    network_id = await create(api)
    assert named(await api.get("/networks", filters=json.dumps({"id": [network_id[:8]]}))) == ["net1"]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"colour": ["red"]}, "invalid filter 'colour'"),
        ({"type": ["odd"]}, "invalid filter: 'type'='odd'"),
        ({"dangling": ["perhaps"]}, "invalid value for filter 'dangling'"),
        ({"dangling": ["1", "0"]}, 'got more than one value for filter key "dangling"'),
    ],
)
async def test_wrong_filters_are_refused(api, filters, words):
    assert words in await refused(api, "GET", "/networks", filters=json.dumps(filters))


async def test_a_taken_name_is_a_conflict(api):
    await create(api)
    message = await refused(api, "POST", "/networks/create", {"Name": "net1", "Driver": "overlay"}, 409)
    assert message == "network with name net1 already exists"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "host", "Driver": "overlay"}, 403, "operation is not permitted on predefined host network"),
        ({"Name": "x", "Driver": "bridge"}, 501, "--driver overlay"),
        ({"Name": "x", "EnableIPv6": True}, 501, "overlays have no IPv6"),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.0.0.0/16"}]}},
            403,
            "invalid pool request: Pool overlaps",
        ),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "a"}]}}, 400, "invalid CIDR block notation"),
        ({"Name": "x", "IPAM": {"Config": "a"}}, 400, "invalid CreateRequest"),
        ({"Name": 7}, 400, "invalid CreateRequest"),
        ({"Driver": "overlay"}, 400, "name must be provided"),
    ],
)
async def test_a_wrong_request_is_refused(api, body, status, words):
    assert words in await refused(api, "POST", "/networks/create", body, status)
    assert not api.store.snapshot.networks


async def test_a_removed_network_is_gone_and_its_name_is_free(api):
    network_id = await create(api)
    status, answer = await api.call("DELETE", "/networks/net1")
    assert (status, answer) == (204, "")
    assert await refused(api, "GET", f"/networks/{network_id}", status=404) == f"network {network_id} not found"
    assert await refused(api, "DELETE", "/networks/net1", status=404) == "network net1 not found"
    assert await create(api) != network_id
    # Not the numbers of the old one, which nodes may still have.
    assert (await api.get("/networks/net1"))["IPAM"]["Config"][0]["Subnet"] == "10.48.16.0/20"


async def test_a_network_that_every_engine_has_is_not_removed(api):
    message = await refused(api, "DELETE", "/networks/bridge", status=403)
    assert message == "bridge is a pre-defined network and cannot be removed"


async def test_a_network_in_use_is_not_removed(api):
    network_id = await create(api)
    service, task = await used(api, network_id)
    prefix = f"rpc error: code = FailedPrecondition desc = network {network_id} is in use by"
    assert await refused(api, "DELETE", "/networks/net1") == f"{prefix} service {service.id}"
    await api.store.commit(lambda _: Changes(delete_services=(service.id,)))
    assert await refused(api, "DELETE", "/networks/net1") == f"{prefix} task {task.id}"
    stopping = replace(task, desired=TaskState.SHUTDOWN)
    await api.store.commit(lambda _: Changes(put_tasks=(stopping,)))
    assert (await api.call("DELETE", "/networks/net1"))[0] == 204


async def test_prune_removes_what_nothing_uses(api):
    await used(api, await create(api, "busy"))
    await create(api, "idle")
    await create(api, "kept", Labels={"keep": "1"})
    query = {"filters": json.dumps({"label!": ["keep"]})}
    assert await api.call("POST", "/networks/prune", params=query) == (200, {"NetworksDeleted": ["idle"]})
    young = {"filters": json.dumps({"until": ["1h30m"]})}
    assert await api.call("POST", "/networks/prune", params=young) == (200, {"NetworksDeleted": None})
    assert await api.call("POST", "/networks/prune") == (200, {"NetworksDeleted": ["kept"]})
    assert named(await api.get("/networks", filters=json.dumps({"type": ["custom"]}))) == ["busy"]


@pytest.mark.parametrize("filters", [{"name": ["x"]}, {"until": ["soon"]}, {"until": ["1h", "2h"]}])
async def test_prune_refuses_other_filters(api, filters):
    await refused(api, "POST", "/networks/prune", filters=json.dumps(filters))


async def test_verbose_shows_nodes_services_and_tasks(api):
    network_id = await create(api)
    _, task = await used(api, network_id)
    plain = await api.get("/networks/net1")
    assert "Services" not in plain and "Peers" not in plain
    shown = await api.get("/networks/net1", verbose="true")
    assert shown["Peers"] == [{"Name": "n2", "IP": "10.0.0.2"}]
    assert shown["Services"] == {
        "web": {
            "VIP": "10.48.8.0",
            "Ports": [],
            "LocalLBIndex": 1,
            "Tasks": [
                {
                    "Name": task.name,
                    "EndpointID": "",
                    "EndpointIP": "10.48.1.0",
                    "Info": {"Host IP": "10.0.0.2"},
                }
            ],
        }
    }


async def test_services_and_tasks_show_their_addresses_as_in_docker(api):
    network_id = await create(api)
    service, task = await used(api, network_id)
    shown = await api.get(f"/services/{service.id}")
    assert shown["Endpoint"]["VirtualIPs"] == [{"NetworkID": network_id, "Addr": "10.48.8.0/20"}]
    (attachment,) = (await api.get(f"/tasks/{task.id}"))["NetworksAttachments"]
    assert attachment["Addresses"] == ["10.48.1.0/20"]
    assert attachment["Network"]["ID"] == network_id
    assert attachment["Network"]["Spec"]["Name"] == "net1"
    assert attachment["Network"]["IPAMOptions"]["Configs"] == [{"Subnet": "10.48.0.0/20", "Gateway": "10.48.0.1"}]


def on(name, **more):
    return {"Networks": [{"Target": name} | more]}


async def make(api, name, template=None, ports=(), mode="vip"):
    body = {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}} | (template or {}),
        "EndpointSpec": {"Mode": mode, "Ports": list(ports)},
    }
    return await api.call("POST", "/services/create", body)


async def update(api, name, **changes):
    stored = await api.get(f"/services/{name}")
    spec = stored["Spec"] | changes
    query = {"version": stored["Version"]["Index"]}
    return await api.call("POST", f"/services/{name}/update", spec, params=query)


async def test_a_service_names_networks_as_it_likes_and_ids_are_stored(api):
    ids = [await create(api, name) for name in ("net1", "net2", "net3")]
    networks = [{"Target": "net2", "Aliases": ["db"]}, {"Target": ids[0][:20] + ids[0][20:]}, {"Target": "net3"}]
    status, answer = await make(api, "web", {"Networks": networks})
    assert status == 201, answer
    shown = await api.get("/services/web")
    assert shown["Spec"]["TaskTemplate"]["Networks"] == [
        {"Target": ids[1], "Aliases": ["db"]},
        {"Target": ids[0]},
        {"Target": ids[2]},
    ]
    assert shown["Endpoint"] == {
        "Spec": {"Mode": "vip"},
        "VirtualIPs": [
            {"NetworkID": ids[1], "Addr": "10.48.24.0/20"},
            {"NetworkID": ids[0], "Addr": "10.48.8.0/20"},
            {"NetworkID": ids[2], "Addr": "10.48.40.0/20"},
        ],
    }


async def test_published_ports_are_shown_with_the_numbers_they_got(api):
    ports = [
        {"TargetPort": 80},
        {"TargetPort": 443, "PublishedPort": 8443, "Protocol": "tcp", "PublishMode": "ingress"},
        {"TargetPort": 53, "Protocol": "udp"},
        {"TargetPort": 9, "PublishedPort": 99, "PublishMode": "host"},
    ]
    await make(api, "web", ports=ports)
    shown = await api.get("/services/web")
    asked = shown["Spec"]["EndpointSpec"]["Ports"]
    assert [port.get("PublishedPort", 0) for port in asked] == [0, 8443, 0, 99]
    assert shown["Endpoint"]["Spec"] == {"Mode": "vip", "Ports": asked}
    assert [
        (p["Protocol"], p["TargetPort"], p["PublishedPort"], p["PublishMode"]) for p in shown["Endpoint"]["Ports"]
    ] == [
        ("tcp", 80, 30000, "ingress"),
        ("tcp", 443, 8443, "ingress"),
        ("udp", 53, 30000, "ingress"),
        ("tcp", 9, 99, "host"),
    ]


async def test_an_update_keeps_vips_and_chosen_ports_and_changes_the_rest(api):
    ids = [await create(api, name) for name in ("net1", "net2")]
    await make(api, "web", on("net1"), [{"TargetPort": 80}])
    before = (await api.get("/services/web"))["Endpoint"]
    template = {"ContainerSpec": {"Image": "web:1"}, "Networks": [{"Target": "net2"}, {"Target": "net1"}]}
    ports = [{"TargetPort": 81}, {"TargetPort": 80}]
    status, answer = await update(api, "web", TaskTemplate=template, EndpointSpec={"Ports": ports})
    assert status == 200, answer
    after = (await api.get("/services/web"))["Endpoint"]
    assert after["VirtualIPs"] == [{"NetworkID": ids[1], "Addr": "10.48.24.0/20"}, before["VirtualIPs"][0]]
    assert [p["PublishedPort"] for p in after["Ports"]] == [30001, 30000]
    await update(api, "web", EndpointSpec={"Mode": "dnsrr"})
    assert (await api.get("/services/web"))["Endpoint"] == {"Spec": {"Mode": "dnsrr"}}
    await update(api, "web", EndpointSpec={"Mode": "vip"})
    # Nobody else is given an address that was given back a moment ago, not even its last owner.
    again = (await api.get("/services/web"))["Endpoint"]["VirtualIPs"]
    assert [vip["Addr"] for vip in again] == ["10.48.24.1/20", "10.48.8.1/20"]


async def test_a_rollback_brings_networks_and_ports_back_if_they_are_to_be_had(api):
    await create(api, "net1")
    await make(api, "web", on("net1"), [{"TargetPort": 80, "PublishedPort": 8080}])
    await update(api, "web", TaskTemplate={"ContainerSpec": {"Image": "web:1"}}, EndpointSpec={})
    assert (await api.get("/services/web"))["Endpoint"] == {"Spec": {}}

    async def roll_back():
        version = (await api.get("/services/web"))["Version"]["Index"]
        query = {"version": version, "rollback": "previous"}
        return await api.call("POST", "/services/web/update", {}, params=query)

    await make(api, "thief", ports=[{"TargetPort": 80, "PublishedPort": 8080}])
    thief = (await api.get("/services/thief"))["ID"]
    status, answer = await roll_back()
    assert status == 400
    assert answer["message"].endswith(
        f"port '8080' is already in use by service 'thief' ({thief}) as an ingress port"
    )
    await api.call("DELETE", "/services/thief")
    assert (await roll_back())[0] == 200
    endpoint = (await api.get("/services/web"))["Endpoint"]
    assert [p["PublishedPort"] for p in endpoint["Ports"]] == [8080]
    assert len(endpoint["VirtualIPs"]) == 1
    assert (await roll_back())[0] == 200
    await api.call("DELETE", "/networks/net1")
    status, answer = await roll_back()
    assert (status, answer["message"].startswith("network ")) == (404, True)


@pytest.mark.parametrize(
    ("template", "ports", "status", "words"),
    [
        (on("nope"), [], 404, "network nope not found"),
        (on("ingress"), [], 400, "Service cannot be explicitly attached to the ingress network"),
        (on("docker_gwbridge"), [], 403, "The network docker_gwbridge cannot be used with services."),
        ({"Networks": [{"Target": "net1"}, {"Target": "net1"}]}, [], 400, "already attached to network net1"),
        (
            {"Networks": [{"Target": "net1"}, {"Target": "host"}]},
            [],
            400,
            "on network host can be on no other one",
        ),
        (on("net1", Aliases=["a b"]), [], 400, "invalid alias 'a b'"),
        (on("host", Aliases=["a"]), [], 400, "network host knows no names"),
        (on("host"), [{"TargetPort": 80}], 400, "in ingress mode by a service on network host"),
        ({}, [{"TargetPort": 80, "PublishedPort": 22}], 400, "port '22' is that of SSH on node n"),
        ({}, [{"TargetPort": 9, "PublishedPort": 4789, "Protocol": "udp"}], 400, "4789/udp carries overlays"),
        (
            {},
            [{"TargetPort": 9, "PublishedPort": 4792, "PublishMode": "host"}],
            400,
            "port 4792 is where nodes answer",
        ),
        (
            {},
            [{"TargetPort": 9, "PublishedPort": 4790, "Protocol": "udp", "PublishMode": "host"}],
            400,
            "4790/udp carries overlays",
        ),
        ({}, [{"TargetPort": 9, "Protocol": "sctp"}], 501, "9/sctp cannot be published in ingress mode"),
        ({}, [{"TargetPort": 80, "PublishedPort": 80}], 400, "port '80' is already in use by service 'web' ("),
        ({}, [{"TargetPort": 80, "PublishedPort": 30000}], 400, "30000' is already in use by service 'web' ("),
        ({}, [{"TargetPort": 80, "PublishedPort": 99}], 400, ") as a host-published port"),
        ({}, [{"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}], 400, ") as an ingress port"),
    ],
)
async def test_what_a_service_cannot_have_is_refused(api, template, ports, status, words):
    await create(api)
    theirs = [
        {"TargetPort": 80, "PublishedPort": 80},
        {"TargetPort": 81},
        {"TargetPort": 82, "PublishedPort": 99, "PublishMode": "host"},
    ]
    await make(api, "web", ports=theirs)
    found, answer = await make(api, "other", template, ports)
    assert (found, words in answer["message"]) == (status, True), answer
    assert [s.spec.name for s in api.store.snapshot.services.values()] == ["web"]


async def test_the_same_host_port_may_be_several_services(api):
    port = {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}
    assert [(await make(api, name, ports=[port]))[0] for name in ("a", "b")] == [201, 201]


async def test_a_network_that_only_an_unplaced_task_names_is_in_use(api):
    network_id = await create(api)
    service, task = await used(api, network_id)
    waiting = replace(
        task, node_id="", addresses=(), egress_address="", status=TaskStatus(state=TaskState.PENDING)
    )
    await api.store.commit(lambda _: Changes(put_tasks=(waiting,), delete_services=(service.id,)))
    assert f"in use by task {task.id}" in await refused(api, "DELETE", "/networks/net1")


async def test_containers_are_not_connected_by_hand(api):
    await create(api)
    for verb in ("connect", "disconnect"):
        assert "service's spec" in await refused(api, "POST", f"/networks/net1/{verb}", {"Container": "x"}, 501)


async def test_networks_are_told_in_events(api):
    network_id = await create(api)
    await api.call("DELETE", "/networks/net1")
    events = [e for e in await api.store.events(None, None) if e.type == "network"]
    assert [(e.action, e.id, e.attributes) for e in events] == [
        ("create", network_id, {"name": "net1"}),
        ("remove", network_id, {"name": "net1"}),
    ]


async def test_without_a_cluster_none_is_made(api):
    async with served(initialised=False) as fresh:
        message = await refused(fresh, "POST", "/networks/create", {"Name": "x", "Driver": "overlay"}, 403)
        assert "This node is not a swarm manager" in message
        assert named(await fresh.get("/networks")) == ["bridge", "host", "none"]


async def test_the_pool_is_shown(api):
    shown = await api.get("/swarm")
    assert (shown["DefaultAddrPool"], shown["SubnetSize"]) == (["10.48.0.0/12"], 20)
