"""The docker SDK for Python against the socket."""

from __future__ import annotations

import asyncio

import docker
import pytest
from docker.types import (
    EndpointSpec,
    NetworkAttachmentConfig,
    Resources,
    RestartPolicy,
    RollbackConfig,
    ServiceMode,
    UpdateConfig,
)

from swarmsh.model.volumes import EngineVolume


@pytest.fixture(params=["auto", "1.41"])
async def client(request, api):
    made = await asyncio.to_thread(docker.DockerClient, f"unix://{api.socket}", version=request.param)
    yield made
    made.close()


async def test_services_are_created_listed_updated_scaled_and_removed(client, api):
    def work():
        service = client.services.create(
            "web:1",
            command=["sleep", "1000"],
            name="web",
            mode=ServiceMode("replicated", replicas=2),
            labels={"tier": "front"},
            env=["A=B"],
            constraints=["node.role==worker"],
            endpoint_spec=EndpointSpec(mode="vip", ports={8080: (80, "tcp", "host")}),
            resources=Resources(cpu_limit=500_000_000, mem_reservation=4 << 20),
            restart_policy=RestartPolicy(condition="on-failure", delay=1_000_000_000),
            update_config=UpdateConfig(parallelism=2, order="start-first"),
            rollback_config=RollbackConfig(parallelism=1),
        )
        assert service.name == "web"
        assert [s.id for s in client.services.list(filters={"label": "tier=front"})] == [service.id]
        assert service.version == client.services.get("web").version
        spec = client.services.get("web", insert_defaults=True).attrs["Spec"]
        assert spec["UpdateConfig"]["Order"] == "start-first"
        assert spec["TaskTemplate"]["RestartPolicy"]["Condition"] == "on-failure"
        service.reload()
        assert service.scale(3)
        service.reload()
        assert service.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 3
        assert service.update(image="web:2")
        service.reload()
        assert service.force_update()
        service.reload()
        assert service.attrs["Spec"]["TaskTemplate"]["ForceUpdate"] == 1
        assert service.attrs["Spec"]["Labels"] == {"tier": "front"}
        assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "web:2"
        tasks = service.tasks(filters={"desired-state": "running"})
        service.remove()
        with pytest.raises(docker.errors.NotFound):
            client.services.get("web")
        return tasks

    tasks = await asyncio.to_thread(work)
    assert len(tasks) == 3
    assert {t["Status"]["State"] for t in tasks} == {"running"}


async def test_networks_are_created_listed_and_removed(client):
    def work():
        pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.9.0.0/24")])
        network = client.networks.create("net1", driver="overlay", ipam=pool, attachable=True, labels={"a": "b"})
        assert client.networks.get("net1").id == network.id
        assert client.networks.get(network.id, verbose=True, scope="swarm").attrs["Services"] == {}
        assert [n.name for n in client.networks.list(filters={"driver": "overlay", "label": "a=b"})] == ["net1"]
        assert client.networks.list(names=["net1"])[0].attrs["IPAM"]["Config"][0]["Subnet"] == "10.9.0.0/24"
        with pytest.raises(docker.errors.APIError) as conflict:
            client.networks.create("net1", driver="overlay")
        assert conflict.value.status_code == 409
        assert client.networks.prune() == {"NetworksDeleted": ["net1"]}
        with pytest.raises(docker.errors.NotFound):
            network.remove()

    await asyncio.to_thread(work)


@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_secrets_and_configs_are_created_referred_to_listed_and_removed(client, api, kind):
    word = kind.title()
    reference = {"secret": docker.types.SecretReference, "config": docker.types.ConfigReference}[kind]

    def work():
        shelf = getattr(client, f"{kind}s")
        made = shelf.create(name="password", data=b"\x00swordfish\xff", labels={"a": "b"})
        assert shelf.get(made.id).name == shelf.get("password").name == "password"
        assert [one.id for one in shelf.list(filters={"name": "pass", "label": ["a=b"]})] == [made.id]
        assert shelf.list(filters={"names": ["other"]}) == []
        with pytest.raises(docker.errors.APIError) as conflict:
            shelf.create(name="password", data=b"x")
        assert conflict.value.status_code == 409
        references = {f"{kind}s": [reference(made.id, "password", "app/pw", uid="33", mode=0o400)]}
        service = client.services.create("web:1", name="web", **references)
        container = service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
        (stored,) = container[f"{word}s"]
        assert stored["File"] == {"Name": "app/pw", "UID": "33", "GID": "0", "Mode": 0o400}
        with pytest.raises(docker.errors.APIError, match="in use by the following service: web"):
            made.remove()
        service.remove()
        assert made.remove()
        with pytest.raises(docker.errors.NotFound):
            shelf.get("password")
        return made.id

    made = await asyncio.to_thread(work)
    assert f"{kind}/{made}" not in api.store.secrets


async def test_services_are_on_networks_by_name_and_tell_their_addresses(client, api):
    def create():
        for name in ("net1", "net2"):
            client.networks.create(name, driver="overlay")
        return client.services.create(
            "web:1",
            name="web",
            networks=["net1", NetworkAttachmentConfig("net2", aliases=["db"])],
            endpoint_spec=EndpointSpec(ports={8080: 80, 5353: (53, "udp")}),
        )

    def look(web):
        web.reload()
        endpoint = web.attrs["Endpoint"]
        assert {p["PublishedPort"]: (p["TargetPort"], p["Protocol"]) for p in endpoint["Ports"]} == {
            8080: (80, "tcp"),
            5353: (53, "udp"),
        }
        assert [vip["Addr"] for vip in endpoint["VirtualIPs"]] == ["10.48.8.0/20", "10.48.24.0/20"]
        (task,) = web.tasks()
        attachments = task["NetworksAttachments"]
        assert [a["Network"]["Spec"]["Name"] for a in attachments] == ["net1", "net2"]
        assert [a["Addresses"] for a in attachments] == [["10.48.1.0/20"], ["10.48.17.0/20"]]
        with pytest.raises(docker.errors.APIError, match="is in use by service"):
            client.networks.get("net1").remove()

    web = await asyncio.to_thread(create)
    await api.orchestrator.settle()
    await asyncio.to_thread(look, web)


async def test_errors_are_the_sdks(client):
    def work():
        client.services.create("web:1", name="web")
        with pytest.raises(docker.errors.APIError) as conflict:
            client.services.create("web:1", name="web")
        assert conflict.value.status_code == 409
        with pytest.raises(docker.errors.APIError) as refused:
            client.containers.list()
        assert refused.value.status_code == 501
        assert "docker service ps" in refused.value.explanation

    await asyncio.to_thread(work)


async def test_nodes_and_swarm(client):
    def work():
        assert {n.attrs["Description"]["Hostname"] for n in client.nodes.list()} == {"n1", "n2", "n3"}
        assert [n.attrs["ManagerStatus"]["Leader"] for n in client.nodes.list(filters={"role": "manager"})] == [
            True
        ]
        node = client.nodes.get(client.nodes.list(filters={"name": "n2"})[0].id)
        assert node.update({"Availability": "drain", "Role": "worker", "Labels": {"a": "b"}})
        node.reload()
        assert node.attrs["Spec"]["Availability"] == "drain"
        client.swarm.reload()
        assert client.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 5
        assert client.info()["Swarm"]["ControlAvailable"]
        assert client.ping()
        assert client.version()["ApiVersion"] == "1.51"

    await asyncio.to_thread(work)


async def test_logs_and_events(client, api):
    service_id = await api.create("talk", 1)
    await api.orchestrator.settle()
    (task,) = api.store.snapshot.tasks_of_service(service_id)
    api.streams.say(task.status.container_id, "hello")

    def work():
        service = client.services.get("talk")
        text = b"".join(service.logs(stdout=True, stderr=True))
        assert b"hello\n" in text
        until = int(api.deps.clock.now()) + 1
        seen = client.events(since=0, until=until, decode=True, filters={"type": "service"})
        return [(e["Action"], e["Actor"]["Attributes"]["name"]) for e in seen]

    assert ("create", "talk") in await asyncio.to_thread(work)


async def test_a_digest_is_asked_of_the_registry(client, api):
    api.nodes.registry["docker.io/library/web:1"] = "sha256:" + "ab" * 32

    def work():
        data = client.images.get_registry_data("web:1")
        return data.id, data.has_platform("linux/amd64")

    assert await asyncio.to_thread(work) == ("sha256:" + "ab" * 32, True)


async def test_jobs_are_created_read_and_run_again(client, api):
    def work():
        job = client.services.create("job:1", name="job", mode=ServiceMode("replicated-job", 3, concurrency=2))
        client.services.create("job:1", name="all", mode=ServiceMode("global-job"))
        job.reload()
        assert job.attrs["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}}
        assert job.attrs["JobStatus"]["JobIteration"] == {"Index": 0}
        assert job.force_update()
        job.reload()
        assert job.attrs["JobStatus"]["JobIteration"] == {"Index": 1}
        return job

    job = await asyncio.to_thread(work)
    for _ in range(8):
        await api.orchestrator.settle()
    tasks = await asyncio.to_thread(job.tasks, filters={"desired-state": "complete"})
    newest = [t for t in tasks if t["JobIteration"] == {"Index": 1}]
    assert sorted(t["Slot"] for t in newest) == [0, 1, 2]
    assert {t["Status"]["State"] for t in newest} == {"complete"}


async def test_volumes_of_all_nodes_are_listed_read_and_removed(client, api):
    first = next(node.id for node in api.store.snapshot.nodes.values() if node.number == 1)
    api.streams.disks = {first: [EngineVolume(name="pg", labels={"a": "b"}), EngineVolume(name="ab" * 32)]}

    def work():
        assert sorted(volume.name for volume in client.volumes.list()) == [f"n1/{'ab' * 32}", "n1/pg"]
        volume = client.volumes.get("pg")
        assert (volume.id, volume.attrs["Labels"]) == ("n1/pg", {"a": "b"})
        volume.remove()
        assert client.volumes.prune()["VolumesDeleted"] == [f"n1/{'ab' * 32}"]
        assert client.volumes.list() == []

    await asyncio.to_thread(work)
