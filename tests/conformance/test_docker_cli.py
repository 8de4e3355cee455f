"""The docker CLI's commands of swarm mode: what users type, and what they see."""

from __future__ import annotations

import asyncio
import json
import re
import shlex

import pytest

from swarmsh.model.volumes import EngineVolume
from tests.conformance.conftest import DockerCli
from tests.fakes.serving import served


def rows(table):
    """Lines of a table as lists of cells, without the head."""
    return [re.split(r"\s{2,}", line.strip()) for line in table.strip().splitlines()[1:]]


# --- services -----------------------------------------------------------------------------------------------
async def test_create_waits_until_the_service_converged(docker):
    out = await docker("service", "create", "--name", "web", "--replicas", "2", "web:1", "--flag", "argument")
    assert "overall progress: 2 out of 2 tasks" in out
    assert "converged" in out
    spec = json.loads(await docker("service", "inspect", "web"))[0]["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Args"] == ["--flag", "argument"]


async def test_a_service_without_a_name_is_created_and_listed(docker):
    service_id = (await docker("service", "create", "-q", "-d", "web:1")).strip()
    assert len(service_id) == 25
    listed = await docker("service", "ls", "--format", "{{.ID}} {{.Name}} {{.Replicas}} {{.Image}} {{.Mode}}")
    assert re.fullmatch(rf"{service_id[:12]} \w+_\w+ 1/1 web:1 replicated\n", listed)


async def create(docker, name="web", *flags):
    return (await docker("service", "create", "-q", "-d", "--name", name, *flags, "web:1")).strip()


async def test_ls_and_ps_print_dockers_tables(docker):
    await create(docker, "web", "--replicas", "3")
    await create(docker, "everywhere", "--mode", "global")
    table = await docker("service", "ls")
    assert re.match(r"ID\s+NAME\s+MODE\s+REPLICAS\s+IMAGE\s+PORTS", table)
    assert [row[1:5] for row in rows(table)] == [
        ["everywhere", "global", "3/3", "web:1"],
        ["web", "replicated", "3/3", "web:1"],
    ]
    table = await docker("service", "ps", "web")
    assert re.match(r"ID\s+NAME\s+IMAGE\s+NODE\s+DESIRED STATE\s+CURRENT STATE\s+ERROR\s+PORTS", table)
    assert [row[1:5] for row in rows(table)] == [[f"web.{n}", "web:1", f"n{n}", "Running"] for n in (1, 2, 3)]
    assert all(re.match(r"Running (less than )?\w+ (a )?seconds? ago", row[5]) for row in rows(table))
    quiet = await docker("service", "ps", "-q", "--filter", "name=web.2", "web")
    assert len(quiet.split()) == 1


async def test_inspect_pretty_shows_what_was_asked_for(docker):
    flags = shlex.split(
        "--label a=b --env C=D --constraint node.role==worker --limit-memory 64m --reserve-cpu 0.5 --replicas 2 "
        "--update-parallelism 2 --update-delay 3s --restart-condition on-failure --stop-grace-period 7s "
        "--publish mode=host,target=80,published=8080 --mount type=volume,source=v,target=/v --hostname h "
        "--health-cmd true --user me --workdir /w"
    )
    await create(docker, "web", *flags)
    pretty = await docker("service", "inspect", "--pretty", "web")
    for line in (
        r"Name:\s+web",
        r"a=b",
        r"Service Mode:\s+Replicated",
        r"Replicas:\s+2",
        r"Constraints:\s+\[node.role==worker\]",
        r"Parallelism:\s+2",
        r"Delay:\s+3s",
        r"Image:\s+web:1",
        r"Env:\s+C=D",
        r"Dir:\s+/w",
        r"User:\s+me",
        r"Memory:\s+64MiB",
        r"CPU:\s+0.5",
        r"PublishedPort = 8080",
        r"PublishMode = host",
        r"Source = v|Source:\s+v",
    ):
        assert re.search(line, pretty), f"{line} is not in\n{pretty}"


async def test_run_options_survive_updates_of_the_docker_cli(docker):
    """They are container labels: any client's update keeps them, and a change of one replaces the tasks."""
    run = "swarmsh.run.shm-size=64m", "swarmsh.run.device=/dev/fuse,/dev/kvm:r"
    service_id = await create(docker, "web", *(part for label in run for part in ("--container-label", label)))
    before = await docker("service", "ps", "-q", "--filter", "desired-state=running", service_id)
    await docker("service", "update", "-q", "--limit-pids", "100", "--label-add", "a=b", "web")
    spec = json.loads(await docker("service", "inspect", "web"))[0]["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Labels"] == dict(label.split("=", 1) for label in run)
    limited = await docker("service", "ps", "-q", "--filter", "desired-state=running", service_id)
    await docker("service", "update", "-q", "--container-label-add", "swarmsh.run.shm-size=128m", "web")
    changed = await docker("service", "ps", "-q", "--filter", "desired-state=running", service_id)
    assert len({before, limited, changed}) == 3
    wrong = await docker.fails("service", "update", "--container-label-add", "swarmsh.run.shm=1m", "web")
    assert "Did you mean swarmsh.run.shm-size?" in wrong


async def test_volumes_of_all_nodes_are_listed_inspected_removed_and_pruned(docker, api):
    n1, n2 = (node.id for node in sorted(api.store.snapshot.nodes.values(), key=lambda n: n.number)[:2])
    api.streams.disks = {
        n1: [EngineVolume(name="pg", in_use=True), EngineVolume(name="old")],
        n2: [EngineVolume(name="pg", labels={"a": "b"}), EngineVolume(name="ab" * 32, size_bytes=2000)],
    }
    assert rows(await docker("volume", "ls"))[:2] == [["local", "n1/old"], ["local", "n1/pg"]]
    assert (await docker("volume", "ls", "-q", "--filter", "label=a")).split() == ["n2/pg"]
    (found,) = json.loads(await docker("volume", "inspect", "n2/pg"))
    assert (found["Name"], found["Labels"], found["Status"]["Node"]) == ("n2/pg", {"a": "b"}, "n2")
    assert "Name one of n1/pg, n2/pg" in await docker.fails("volume", "inspect", "pg")
    assert "volume n1/pg is in use" in await docker.fails("volume", "rm", "n1/pg")
    assert await docker("volume", "rm", "old") == "old\n"
    out = await docker("volume", "prune", "--force", "--filter", "label!=a")
    assert "n2/" + "ab" * 32 in out
    assert "docker -H ssh://NODE volume create" in await docker.fails("volume", "create", "x")


async def test_update_scale_and_rollback(docker):
    service_id = await create(docker)
    await docker("service", "update", "-d", service_id, "--replicas", "3")  # flags after the name, as people type
    assert "3/3" in await docker("service", "ls")
    assert "web scaled to 4" in await docker("service", "scale", "-d", "web=4")
    await docker("service", "update", "-q", "--image", "web:2", "--env-add", "A=B", "web")
    assert "web:2" in await docker("service", "ls")
    assert re.search(r"State:\s+completed", await docker("service", "inspect", "--pretty", "web"))
    await docker("service", "rollback", "-q", "web")
    assert await docker("service", "ls", "--format", "{{.Image}} {{.Replicas}}") == "web:1 4/4\n"
    await docker("service", "update", "-q", "--force", "web")
    spec = json.loads(await docker("service", "inspect", "web"))[0]["Spec"]
    assert spec["TaskTemplate"]["ForceUpdate"] == 1
    history = await docker("service", "ps", "web")
    assert r"\_ web.1" in history
    assert "Shutdown" in history


# --- jobs ---------------------------------------------------------------------------------------------------
async def test_create_of_a_job_waits_until_it_is_complete(docker):
    flags = ("--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2", "--name", "job")
    out = await docker("service", "create", *flags, "job:1")
    assert out.endswith("active tasks: 0 out of 0 tasks\njob complete\n")
    listed = await docker("service", "ls", "--format", "{{.Mode}}: {{.Replicas}}")
    assert listed == "replicated job: 0/2 (5/5 completed)\n"
    assert "job complete" in await docker("service", "create", "--mode", "global-job", "--name", "all", "job:1")
    listed = await docker("service", "ls", "--filter", "mode=global-job", "--format", "{{.Name}} {{.Replicas}}")
    assert listed == "all 0/0 (3/3 completed)\n"


async def test_a_job_is_listed_while_it_runs(docker, api):
    api.orchestrator.endless.add("job:1")
    await docker(
        "service", "create", "-d", "--mode", "replicated-job", "--replicas", "3", "--name", "job", "job:1"
    )
    listed = await docker("service", "ls", "--format", "{{.Mode}}: {{.Replicas}}")
    assert listed == "replicated job: 3/3 (0/3 completed)\n"
    table = rows(await docker("service", "ps", "job"))
    # The CLI takes slot 0 for none, and shows the node's id.
    assert sorted(row[1] for row in table)[:2] == ["job.1", "job.2"]
    assert {row[4] for row in table} == {"Complete"}
    assert all(row[5].startswith("Running") for row in table)


async def test_each_update_of_a_job_is_a_new_run(docker):
    create = ("service", "create", "-d", "--name", "job", "--mode", "replicated-job", "--replicas", "2")
    await docker(*create, "job:1")
    for command in (("update", "--force", "job"), ("update", "--label-add", "a=b", "job"), ("scale", "job=4")):
        out = await docker("service", *command)
        assert "job complete" in out, command
    inspected = json.loads(await docker("service", "inspect", "job"))[0]
    assert inspected["JobStatus"]["JobIteration"] == {"Index": 3}
    assert inspected["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 4}}
    assert "job complete" in await docker("service", "rollback", "job")
    assert (await docker("service", "ls", "--format", "{{.Replicas}}")) == "0/2 (2/2 completed)\n"
    assert "Name:" in await docker("service", "inspect", "--pretty", "job")


async def test_what_a_job_cannot_have_is_said(docker):
    await docker("service", "create", "-d", "-q", "--mode", "global-job", "--name", "job", "job:1")
    assert "Jobs may not have an update config" in await docker.fails(
        "service", "update", "-d", "--update-delay", "3s", "job"
    )
    flags = ("--mode", "replicated", "--label", "swarmsh.schedule=@daily")
    assert "only jobs run by a schedule" in await docker.fails("service", "create", "-d", *flags, "job:1")


async def test_a_scheduled_job_is_neither_run_nor_waited_for(docker):
    flags = ("--mode", "replicated-job", "--label", "swarmsh.schedule=0 3 * * *", "--name", "job")
    await docker("service", "create", *flags, "job:1")
    assert await docker("service", "ps", "-q", "job") == ""
    pretty = await docker("service", "inspect", "--pretty", "job")
    assert re.search(r"Message:\s+scheduled: it runs next at \S+T03:00:00Z", pretty)
    await docker("service", "update", "--image", "job:2", "job")
    assert await docker("service", "ps", "-q", "job") == ""
    assert "job complete" in await docker("service", "update", "--force", "job")
    assert len((await docker("service", "ps", "-q", "job")).split()) == 1


async def test_rm_frees_the_name_at_once(docker):
    await create(docker)
    assert await docker("service", "rm", "web") == "web\n"
    assert rows(await docker("service", "ls")) == []
    await create(docker)
    await docker("service", "rm", "web")
    message = await docker.fails("service", "rm", "web")
    assert re.search("service web not found|No such service: web", message)  # the latter is 20.10's own


async def test_errors_are_dockers(docker):
    await create(docker)
    message = await docker.fails("service", "create", "-d", "--name", "web", "web:1")
    assert "name conflicts with an existing object: service web already exists" in message
    assert "no such service: nothing" in (await docker.fails("service", "inspect", "nothing")).lower()
    assert "no such service: nothing" in (await docker.fails("service", "ps", "nothing")).lower()
    assert "DNS name component" in await docker.fails("service", "create", "-d", "--name", "a.b", "web:1")
    assert "docker service ps" in await docker.fails("ps")


async def test_an_image_gets_its_digest_from_the_registry(docker, api):
    digest = "sha256:" + "ab" * 32
    api.nodes.registry["docker.io/library/web:1"] = digest
    service_id = await create(docker)
    image = api.store.snapshot.services[service_id].spec.task_template.container_spec.image
    assert image == f"web:1@{digest}"


# --- logs ---------------------------------------------------------------------------------------------------
async def test_logs_name_task_and_node_for_each_line(docker, api):
    service_id = await create(docker, "web", "--replicas", "2")
    tasks = sorted(api.store.snapshot.tasks_of_service(service_id), key=lambda t: t.slot)
    for number, task in enumerate(tasks):
        api.streams.say(task.status.container_id, f"hello {task.slot}", at=number, stream=1 + number)
    code, out, err = await docker.run("service", "logs", "web")
    assert code == 0, err
    assert re.fullmatch(r"web\.1\.\w+@n1\s+\| hello 1\n", out)
    assert re.fullmatch(r"web\.2\.\w+@n2\s+\| hello 2\n", err)
    raw = await docker("service", "logs", "--raw", "-t", tasks[0].id)
    assert raw == "2023-11-14T22:13:00.000000000Z hello 1\n"


async def test_followed_logs_show_new_lines(docker, api):
    service_id = await create(docker)
    (task,) = api.store.snapshot.tasks_of_service(service_id)
    process = await docker.start("service", "logs", "-f", "web")
    try:
        for text in ("first", "second"):
            api.streams.say(task.status.container_id, text)
            async with asyncio.timeout(60):
                assert text.encode() in await process.stdout.readline()
    finally:
        process.kill()
        await process.wait()


# --- nodes --------------------------------------------------------------------------------------------------
async def test_node_ls_marks_the_manager(docker):
    table = await docker("node", "ls")
    assert re.match(r"ID\s+HOSTNAME\s+STATUS\s+AVAILABILITY\s+MANAGER STATUS\s+ENGINE VERSION", table)
    first, second, _ = rows(table)
    assert first[0].endswith(" *")
    assert first[1:] == ["n1", "Ready", "Active", "Leader", "28.5.1"]
    assert second[1:] == ["n2", "Ready", "Active", "28.5.1"]


async def test_nodes_are_inspected_updated_and_removed(docker):
    pretty = await docker("node", "inspect", "--pretty", "self")
    assert re.search(r"Hostname:\s+n1", pretty)
    assert re.search(r"Leader:\s+Yes", pretty)
    await docker("node", "update", "--availability", "drain", "--label-add", "disk=ssd", "n2")
    shown = json.loads(await docker("node", "inspect", "n2"))[0]["Spec"]
    assert (shown["Availability"], shown["Labels"]) == ("drain", {"disk": "ssd"})
    assert "Drain" in await docker("node", "ls")
    await docker("node", "promote", "n2")
    assert "Reachable" in await docker("node", "ls")
    await docker("node", "demote", "n2")
    assert "is not down and can't be removed" in await docker.fails("node", "rm", "n3")
    assert await docker("node", "rm", "--force", "n3") == "n3\n"
    await create(docker, "web", "--replicas", "2")
    assert [row[1] for row in rows(await docker("node", "ps", "n2"))] == ["web.2"]


# --- networks -----------------------------------------------------------------------------------------------
async def test_networks_are_created_listed_inspected_and_removed(docker):
    flags = "--attachable --internal --label a=b --opt encrypted --opt com.docker.network.driver.mtu=1300"
    network_id = (await docker("network", "create", "-d", "overlay", *flags.split(), "net1")).strip()
    assert len(network_id) == 25
    ranged = "--subnet 10.9.0.0/24 --gateway 10.9.0.1 --ip-range 10.9.0.128/25 --aux-address router=10.9.0.70"
    await docker("network", "create", "--driver", "overlay", *ranged.split(), "net2")
    table = await docker("network", "ls")
    assert re.match(r"NETWORK ID\s+NAME\s+DRIVER\s+SCOPE", table)
    assert [row[1:] for row in rows(table)] == [
        ["bridge", "bridge", "local"],
        ["host", "host", "local"],
        ["net1", "overlay", "swarm"],
        ["net2", "overlay", "swarm"],
        ["none", "null", "local"],
    ]
    assert (
        await docker("network", "ls", "-q", "--no-trunc", "-f", "driver=overlay", "-f", "label=a")
        == f"{network_id}\n"
    )
    shown = json.loads(await docker("network", "inspect", "net1", network_id))
    assert shown[0] == shown[1]
    assert (shown[0]["Internal"], shown[0]["Attachable"], shown[0]["Labels"]) == (True, True, {"a": "b"})
    assert shown[0]["Options"]["com.docker.network.driver.mtu"] == "1300"
    assert "encrypted" in shown[0]["Options"]
    subnet = await docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}} {{.Scope}}", "net2")
    assert subnet == "10.9.0.0/24 swarm\n"
    verbose = json.loads(await docker("network", "inspect", "--verbose", "net1"))[0]
    assert verbose["Id"] == network_id
    assert await docker("network", "rm", "net1", "net2") == "net1\nnet2\n"
    assert re.search("network net1 not found|No such network: net1", await docker.fails("network", "rm", "net1"))
    assert len(rows(await docker("network", "ls"))) == 3


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("network create -d overlay taken", "network with name taken already exists"),
        ("network create -d overlay bridge", "operation is not permitted on predefined bridge network"),
        ("network create -d overlay --ipv6 x", "overlays have no IPv6"),
        ("network create -d overlay --subnet 10.0.0.0/24 x", "Pool overlaps with other one on this address space"),
        ("network create -d overlay --subnet 10.0.0.0/8 x", "/16 to /28"),
        ("network create -d overlay --ingress x", "no ingress network"),
        ("network create x", "--driver overlay"),
        ("network rm host", "host is a pre-defined network and cannot be removed"),
        ("network connect taken web.1", "service's spec"),
        ("network inspect nothing", "nothing"),
    ],
)
async def test_what_networks_refuse_is_said_in_dockers_words(docker, command, words):
    await docker("network", "create", "-d", "overlay", "taken")
    assert words in await docker.fails(*command.split())


async def test_prune_removes_networks(docker):
    for name, label in (("old", "keep=no"), ("kept", "keep=yes")):
        await docker("network", "create", "-d", "overlay", "--label", label, name)
    assert await docker("network", "prune", "-f", "--filter", "label=keep=no") == "Deleted Networks:\nold\n\n"
    assert await docker("network", "prune", "-f", "--filter", "until=1h") == ""
    assert "kept" in await docker("network", "ls")
    assert "kept" in await docker("network", "prune", "-f")


async def test_events_tell_of_networks(docker, api):
    network_id = (await docker("network", "create", "-d", "overlay", "net1")).strip()
    until = str(int(api.deps.clock.now()) + 1)
    seen = await docker("events", "--since", "1h", "--until", until, "--filter", "type=network")
    assert re.search(rf"network create {network_id} \(name=net1\)", seen)


# --- services on networks -----------------------------------------------------------------------------------
async def endpoint_of(docker, name="web"):
    return json.loads(await docker("service", "inspect", name))[0]["Endpoint"]


async def test_a_service_is_created_on_a_network_with_a_published_port(docker, api):
    network_id = (await docker("network", "create", "-d", "overlay", "net1")).strip()
    flags = (
        "--replicas 2 --network name=net1,alias=db --publish 8080:80 --publish published=53,target=53,protocol=udp"
    )
    await create(docker, "web", *flags.split())
    spec = json.loads(await docker("service", "inspect", "web"))[0]["Spec"]
    assert spec["TaskTemplate"]["Networks"] == [{"Target": network_id, "Aliases": ["db"]}]
    endpoint = await endpoint_of(docker)
    assert endpoint["Spec"]["Mode"] == "vip"
    assert [(p["Protocol"], p["TargetPort"], p["PublishedPort"], p["PublishMode"]) for p in endpoint["Ports"]] == [
        ("tcp", 80, 8080, "ingress"),
        ("udp", 53, 53, "ingress"),
    ]
    assert endpoint["VirtualIPs"] == [{"NetworkID": network_id, "Addr": "10.48.8.0/20"}]
    (row,) = rows(await docker("service", "ls"))
    assert row[1:] == ["web", "replicated", "2/2", "web:1", "*:8080->80/tcp, *:53->53/udp"]
    pretty = await docker("service", "inspect", "--pretty", "web")
    assert re.search(r"Networks:\s+net1", pretty)
    assert re.search(r"PublishedPort\s*=\s*8080", pretty)
    verbose = json.loads(await docker("network", "inspect", "--verbose", "net1"))[0]
    assert verbose["Services"]["web"]["VIP"] == "10.48.8.0"
    assert {task["EndpointIP"] for task in verbose["Services"]["web"]["Tasks"]} == {"10.48.1.0", "10.48.1.1"}
    assert [(peer["Name"], peer["IP"]) for peer in verbose["Peers"]] == [("n1", "10.0.0.1"), ("n2", "10.0.0.2")]
    assert verbose["Services"]["web"]["Ports"] == ["Target: 80, Publish: 8080", "Target: 53, Publish: 53"]
    message = await docker.fails("network", "rm", "net1")
    service_id = (await docker("service", "inspect", "-f", "{{.ID}}", "web")).strip()
    assert f"network {network_id} is in use by service {service_id}" in message
    assert await docker("network", "prune", "-f") == ""
    await docker("service", "rm", "web")


async def test_networks_and_ports_are_added_and_removed(docker):
    ids = [(await docker("network", "create", "-d", "overlay", name)).strip() for name in ("net1", "net2")]
    await create(docker, "web", "--network", "net1", "--publish", "80")
    before = await endpoint_of(docker)
    assert [p["PublishedPort"] for p in before["Ports"]] == [30000]
    await docker("service", "update", "-d", "--network-add", "net2", "--publish-add", "8080:81", "web")
    after = await endpoint_of(docker)
    assert {(p["TargetPort"], p["PublishedPort"]) for p in after["Ports"]} == {(80, 30000), (81, 8080)}
    assert before["VirtualIPs"][0] in after["VirtualIPs"]
    assert {vip["NetworkID"] for vip in after["VirtualIPs"]} == set(ids)
    assert "already attached to network" in await docker.fails("service", "update", "--network-add", "net2", "web")
    await docker("service", "update", "-d", "--network-rm", "net1", "--publish-rm", "80", "web")
    after = await endpoint_of(docker)
    assert [p["PublishedPort"] for p in after["Ports"]] == [8080]
    assert [vip["NetworkID"] for vip in after["VirtualIPs"]] == [ids[1]]
    message = await docker.fails("service", "update", "-d", "--endpoint-mode", "dnsrr", "web")
    assert "port published with ingress mode can't be used with dnsrr mode" in message
    await docker("service", "update", "-d", "--endpoint-mode", "dnsrr", "--publish-rm", "81", "web")
    assert await endpoint_of(docker) == {"Spec": {"Mode": "dnsrr"}}
    await docker("service", "rollback", "-d", "web")
    assert [p["PublishedPort"] for p in (await endpoint_of(docker))["Ports"]] == [8080]
    assert await docker("network", "rm", "net1") == "net1\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--network nothing", "nothing"),  # 20.10 says the rest in its own words
        ("--publish 8080:80", "port '8080' is already in use by service 'taken' ("),
        ("--publish mode=host,published=8080,target=80", "as an ingress port"),
        ("--publish 9090:80", "as a host-published port"),
        ("--publish 4789:80/udp", "carries overlays between the nodes"),
        ("--publish 22:22", "port '22' is that of SSH on node"),
        ("--publish 99:99/sctp", "is for tcp and udp"),
        ("--network host --publish 81:81", "on network host"),
        ("--label swarmsh.lb.scheduler=magic", "rr, wlc, sh, mh"),
        ("--label swarmsh.publish.bind=everywhere", "is no IPv4 address"),
    ],
)
async def test_what_cannot_be_had_is_said(docker, flags, words):
    await create(docker, "taken", "--publish", "8080:80", "--publish", "mode=host,published=9090,target=90")
    assert words in await docker.fails("service", "create", "-d", *flags.split(), "web:1")


async def test_a_stack_has_its_own_network_with_short_names(docker, tmp_path):
    compose = tmp_path / "stack.yml"
    compose.write_text(
        "version: '3.8'\nservices:\n  web:\n    image: web:1\n    ports: ['8080:80']\n"
        "  db:\n    image: db:1\n    networks: {default: {aliases: [store]}}\n    deploy: {endpoint_mode: dnsrr}\n"
    )
    for _ in range(2):  # and again: what is as it should be is left alone
        await docker("stack", "deploy", "-c", str(compose), "shop")
    assert "shop_default" in await docker("network", "ls")
    network_id = json.loads(await docker("network", "inspect", "shop_default"))[0]["Id"]
    web, db = json.loads(await docker("service", "inspect", "shop_web", "shop_db"))
    assert web["Spec"]["TaskTemplate"]["Networks"] == [{"Target": network_id, "Aliases": ["web"]}]
    assert sorted(db["Spec"]["TaskTemplate"]["Networks"][0]["Aliases"]) == ["db", "store"]
    assert web["Endpoint"]["Ports"][0]["PublishedPort"] == 8080
    assert "VirtualIPs" not in db["Endpoint"]
    assert "UpdateStatus" not in web
    await docker("stack", "rm", "shop")
    assert "shop_default" not in await docker("network", "ls")


# --- the cluster --------------------------------------------------------------------------------------------
async def test_info_version_and_events(docker, api):
    info = await docker("info")
    for line in (r"Swarm: active", r"Is Manager: true", r"Managers: 1", r"Nodes: 3", r"Node Address: 10.0.0.1"):
        assert re.search(line, info), info
    version = json.loads(await docker("version", "--format", "{{json .Server}}"))
    assert version["ApiVersion"] == "1.51"
    await create(docker)
    until = str(int(api.deps.clock.now()) + 1)
    seen = await docker("events", "--since", "1h", "--until", until, "--filter", "type=service")
    assert re.search(r"service create \w{25} \(name=web\)", seen)


async def test_swarm_commands_answer_with_what_to_use_instead(docker):
    assert "already part of a swarm" in await docker.fails("swarm", "init")
    assert "swarmsh node add" in await docker.fails("swarm", "join", "--token", "x", "10.0.0.1:2377")
    assert "--force" in await docker.fails("swarm", "leave")
    assert "swarmsh-node-add" in await docker("swarm", "join-token", "worker")
    await docker("swarm", "update", "--task-history-limit", "3")
    assert "autolock" in await docker.fails("swarm", "update", "--autolock")
    assert "heartbeat cannot be set" in await docker.fails("swarm", "update", "--dispatcher-heartbeat", "10s")
    assert "certificates" in await docker.fails("swarm", "update", "--cert-expiry", "1h")
    assert "Raft" in await docker.fails("swarm", "update", "--snapshot-interval", "5")


async def test_init_on_a_fresh_manager(docker_binary, tmp_path):
    async with served(initialised=False) as api:
        docker = DockerCli(docker_binary, api.socket, tmp_path)
        assert "not a swarm manager" in await docker.fails("service", "ls")
        assert "Swarm initialized" in await docker("swarm", "init")
        assert rows(await docker("service", "ls")) == []
        await docker("swarm", "leave", "--force")
        assert "Swarm: inactive" in await docker("info")


@pytest.mark.parametrize(
    "command",
    [
        "volume create v",
        "image ls",
    ],
)
async def test_what_is_not_there_is_refused_with_a_sentence(docker, command):
    message = await docker.fails(*command.split())
    assert "Error response from daemon: " in message
    assert len(message.strip()) > 60


async def test_a_stack_is_deployed_and_removed(docker, tmp_path):
    compose = tmp_path / "stack.yml"
    compose.write_text(
        "version: '3.8'\nservices:\n  web:\n    image: web:1\n    networks: [hostnet]\n    deploy: {replicas: 2}\n"
        "networks:\n  hostnet: {external: true, name: host}\n"
    )
    await docker("stack", "deploy", "-c", str(compose), "shop")
    assert "shop_web" in await docker("stack", "services", "shop")
    assert "shop_web.1" in await docker("stack", "ps", "shop")
    assert "shop" in await docker("stack", "ls")
    await docker("stack", "rm", "shop")
    assert rows(await docker("service", "ls")) == []


# --- secrets and configs --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_secrets_and_configs_are_created_listed_inspected_and_removed(docker, api, tmp_path, kind):
    (tmp_path / "value.txt").write_bytes(b"sword\x00fish\n")
    made = (await docker(kind, "create", "-l", "a=b", "user", str(tmp_path / "value.txt"))).strip()
    piped = (await docker(kind, "create", "pass", "-", stdin=b"from a pipe\n")).strip()
    assert api.store.secrets == {f"{kind}/{made}": b"sword\x00fish\n", f"{kind}/{piped}": b"from a pipe\n"}
    listed = rows(await docker(kind, "ls"))
    assert [(line[0], line[1]) for line in sorted(listed, key=lambda line: line[1])] == [
        (piped, "pass"),
        (made, "user"),
    ]
    assert (await docker(kind, "ls", "-q", "--filter", "name=us", "--filter", "label=a=b")).strip() == made
    (found,) = json.loads(await docker(kind, "inspect", "user"))
    assert (found["ID"], found["Spec"]["Name"], found["Spec"]["Labels"]) == (made, "user", {"a": "b"})
    assert ("Data" in found["Spec"]) is (kind == "config")
    pretty = await docker(kind, "inspect", "--pretty", "user")
    assert "a=b" in pretty and ("fish" in pretty) is (kind == "config")
    assert "already exists" in await docker.fails(kind, "create", "user", str(tmp_path / "value.txt"))
    assert "only 64" in await docker.fails(kind, "create", "not/a/name", str(tmp_path / "value.txt"))
    (tmp_path / "empty").write_bytes(b"")
    refused = await docker.fails(kind, "create", "e", str(tmp_path / "empty"))
    assert f"{kind} data must be larger than 0" in refused or "data is empty" in refused  # by newer clients
    assert await docker(kind, "rm", "user", "pass") == "user\npass\n"
    gone = await docker.fails(kind, "rm", "user")
    assert f"{kind} user not found" in gone or f"No such {kind}: user" in gone  # by 20.10
    assert not api.store.secrets


@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_a_service_is_given_secrets_and_configs_and_they_are_taken_away(docker, api, kind):
    word = kind.title()
    ids = {}
    for name in ("one", "two"):
        ids[name] = (await docker(kind, "create", name, "-", stdin=name.encode())).strip()
    long = "source=two,target=/etc/two,uid=33,gid=34,mode=0400"
    await create(docker, "web", f"--{kind}", "one", f"--{kind}", long)

    async def references():
        (service,) = json.loads(await docker("service", "inspect", "web"))
        found = service["Spec"]["TaskTemplate"]["ContainerSpec"].get(f"{word}s") or []
        return {one[f"{word}Name"]: (one[f"{word}ID"], one["File"]) for one in found}

    file = {"Name": "one", "UID": "0", "GID": "0", "Mode": 0o444}
    second = (ids["two"], {"Name": "/etc/two", "UID": "33", "GID": "34", "Mode": 0o400})
    assert await references() == {"one": (ids["one"], file), "two": second}
    assert f"{kind} 'one' is in use by the following service: web" in await docker.fails(kind, "rm", "one")
    await docker("service", "update", "-q", "-d", f"--{kind}-rm", "one", "web")
    assert await references() == {"two": second}
    await docker(kind, "rm", "one")
    assert f"{kind} not found: one" in await docker.fails("service", "update", f"--{kind}-add", "one", "web")
    assert f"{kind} not found: none" in await docker.fails("service", "create", f"--{kind}", "none", "web:1")
    # Rotated meanwhile: the name means the new one to the docker CLI too, and what it does not name stays.
    body = {"Data": "bmV3", "Follow": "leave"}
    _, turned = await api.call("POST", f"/swarmsh/{kind}s/two/rotate", body)
    await docker("service", "update", "-q", "-d", "--env-add", "A=1", "web")
    assert await references() == {"two": second}
    assert (await docker(kind, "ls", "-q")).split() == [turned["ID"]]
    await docker("service", "update", "-q", "-d", f"--{kind}-rm", "two", "web")
    await docker("service", "update", "-q", "-d", f"--{kind}-add", long, "web")
    assert await references() == {"two": (turned["ID"], second[1])}


async def test_a_stack_with_secrets_and_configs_is_deployed_twice_and_removed(docker, api, tmp_path):
    (tmp_path / "pw").write_text("swordfish")
    (tmp_path / "site.conf").write_text("listen 80;")
    compose = tmp_path / "stack.yml"
    compose.write_text(
        "version: '3.8'\nservices:\n  web:\n    image: web:1\n    secrets: [pw, outer]\n"
        "    configs: [{source: site, target: /etc/site.conf}]\n    networks: [hostnet]\n"
        "networks:\n  hostnet: {external: true, name: host}\n"
        f"secrets:\n  pw: {{file: {tmp_path}/pw}}\n  outer: {{external: true}}\n"
        f"configs:\n  site: {{file: {tmp_path}/site.conf}}\n"
    )
    assert "not found: outer" in await docker.fails("stack", "deploy", "-c", str(compose), "shop")
    await docker("secret", "create", "outer", "-", stdin=b"x")
    await docker("stack", "deploy", "-c", str(compose), "shop")
    (service,) = json.loads(await docker("service", "inspect", "shop_web"))
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert {one["SecretName"] for one in container["Secrets"]} == {"shop_pw", "outer"}
    assert [one["ConfigName"] for one in container["Configs"]] == ["shop_site"]
    await docker("stack", "deploy", "-c", str(compose), "shop")
    (tmp_path / "pw").write_text("other")
    assert "only updates to Labels are allowed" in await docker.fails(
        "stack", "deploy", "-c", str(compose), "shop"
    )
    await docker("stack", "rm", "shop")
    assert {line[1] for line in rows(await docker("secret", "ls"))} == {"outer"}
    assert rows(await docker("config", "ls")) == []


async def test_events_tell_of_secrets_and_configs(docker, api):
    for kind in ("secret", "config"):
        await docker(kind, "create", "a", "-", stdin=b"needle")
        await docker(kind, "rm", "a")
    until = str(int(api.deps.clock.now()) + 1)
    filters = ("--filter", "type=secret", "--filter", "type=config")
    out = await docker("events", "--since", "1h", "--until", until, *filters)
    told = [re.sub(r"^\S+ ", "", line) for line in out.splitlines()]
    assert [line.split()[:2] for line in told] == [
        [kind, action] for kind in ("secret", "config") for action in ("create", "remove")
    ]
    assert "name=a" in told[0] and "needle" not in out
