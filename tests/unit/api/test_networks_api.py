"""/networks on a real socket: what clients are told, and how they are refused."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from swarmsh.core.allocate import Allocator
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
    """A service on the network with a task on node 2, as they will be once services may name overlays."""
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
    await create(api, IPAM={"Config": [config | {"AuxiliaryAddresses": {"x": "10.9.0.9"}}]}, Internal=True)
    shown = await api.get("/networks/net1")
    assert shown["IPAM"]["Config"] == [config | {"AuxiliaryAddresses": {"x": "10.9.0.9"}}]
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
