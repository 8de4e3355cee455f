from __future__ import annotations

import base64
from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.core.accept import accept_service
from swarmsh.core.container import Joins, container_config, ensure_action, stop_grace_s
from swarmsh.model.actions import NetworkJoin, Probe
from swarmsh.model.objects import Task
from swarmsh.model.specs import DNSConfig, EndpointSpec, PortConfig, RestartPolicy, TaskSpec
from swarmsh.model.wire import from_wire
from tests.unit.core import samples

NODE = samples.node(1)
DIGEST = "sha256:" + "ab" * 32


def made_of(template: dict[str, Any], **fields: Any) -> Task:
    """A task on NODE with this task template, given as JSON; the image is web:1 unless it says otherwise."""
    wire = template | {"ContainerSpec": {"Image": "web:1"} | template.get("ContainerSpec", {})}
    return samples.task(1, spec=from_wire(TaskSpec, wire), on=NODE, **fields)


def config_of(template: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return container_config(made_of(template, **fields), NODE, "cluster1")


def test_the_smallest_task_says_only_what_it_must() -> None:
    assert config_of({}) == {
        "Image": "web:1",
        "Labels": {
            "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": "web-1",
            "com.docker.swarm.task.name": "web.1.web-1",
            "com.docker.swarm.node.id": "node1",
            "com.docker.swarm.service.id": "id-web",
            "com.docker.swarm.service.name": "web",
            "swarmsh.cluster": "cluster1",
            "swarmsh.index": "7",
        },
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
    }


CONTAINER = [
    ({"Image": "nginx"}, "Image", "nginx:latest"),
    ({"Image": f"nginx:1@{DIGEST}"}, "Image", f"nginx:1@{DIGEST}"),
    ({"Hostname": "{{.Service.Name}}-{{.Task.Slot}}"}, "Hostname", "web-1"),
    ({"User": "1000:1000"}, "User", "1000:1000"),
    ({"Dir": "/srv"}, "WorkingDir", "/srv"),
    ({"Env": ["A=1", "N={{.Node.Hostname}}"]}, "Env", ["A=1", "N=host1"]),
    ({"Command": ["/bin/sh", "-c"], "Args": ["x"]}, "Entrypoint", ["/bin/sh", "-c"]),
    ({"Command": ["/bin/sh", "-c"], "Args": ["x"]}, "Cmd", ["x"]),
    ({"Args": ["--flag"]}, "Cmd", ["--flag"]),
    ({"StopSignal": "SIGQUIT"}, "StopSignal", "SIGQUIT"),
    ({"TTY": True}, "Tty", True),
    ({"OpenStdin": True}, "OpenStdin", True),
    (
        {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_000_000_000, "Retries": 2}},
        "Healthcheck",
        {"Test": ["CMD", "true"], "Interval": 2_000_000_000, "Retries": 2},
    ),
    (
        {"Healthcheck": {"StartPeriod": 5, "StartInterval": 6, "Timeout": 7}},
        "Healthcheck",
        {"StartPeriod": 5, "StartInterval": 6, "Timeout": 7},
    ),
]


@pytest.mark.parametrize(("spec", "key", "value"), CONTAINER)
def test_a_field_of_the_spec_becomes_one_of_the_container(spec: dict[str, Any], key: str, value: object) -> None:
    assert config_of({"ContainerSpec": spec})[key] == value


HOST = [
    ({"ReadOnly": True}, "ReadonlyRootfs", True),
    ({"Init": True}, "Init", True),
    ({"Init": False}, "Init", False),
    ({"Groups": ["adm", "1001"]}, "GroupAdd", ["adm", "1001"]),
    ({"Sysctls": {"net.core.somaxconn": "1024"}}, "Sysctls", {"net.core.somaxconn": "1024"}),
    ({"CapabilityAdd": ["CAP_NET_ADMIN"]}, "CapAdd", ["CAP_NET_ADMIN"]),
    ({"CapabilityDrop": ["ALL"]}, "CapDrop", ["ALL"]),
    ({"OomScoreAdj": 200}, "OomScoreAdj", 200),
    ({"Hosts": ["10.0.0.1 db alias", "::1 six"]}, "ExtraHosts", ["db:10.0.0.1", "alias:10.0.0.1", "six:::1"]),
    ({"DNSConfig": {"Nameservers": ["1.1.1.1"]}}, "Dns", ["1.1.1.1"]),
    ({"DNSConfig": {"Search": ["example.org"]}}, "DnsSearch", ["example.org"]),
    ({"DNSConfig": {"Options": ["ndots:1"]}}, "DnsOptions", ["ndots:1"]),
    (
        {"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}]},
        "Ulimits",
        [{"Name": "nofile", "Soft": 10, "Hard": 20}],
    ),
    (
        {"Mounts": [{"Type": "bind", "Source": "/s", "Target": "/t", "BindOptions": {"Propagation": "rslave"}}]},
        "Mounts",
        [{"Type": "bind", "Source": "/s", "Target": "/t", "BindOptions": {"Propagation": "rslave"}}],
    ),
    (
        {"Mounts": [{"Type": "volume", "Source": "v{{.Task.Slot}}", "Target": "/t", "ReadOnly": True}]},
        "Mounts",
        [{"Type": "volume", "Source": "v1", "Target": "/t", "ReadOnly": True}],
    ),
    (
        {"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}}]},
        "Mounts",
        [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}}],
    ),
    (
        {
            "Privileges": {
                "CredentialSpec": {"File": "spec.json"},
                "SELinuxContext": {"User": "u", "Role": "r", "Level": "l", "Type": "t"},
                "NoNewPrivileges": True,
                "AppArmor": {"Mode": "disabled"},
                "Seccomp": {"Mode": "unconfined"},
            }
        },
        "SecurityOpt",
        [
            "credentialspec=file://spec.json",
            "label=user:u",
            "label=role:r",
            "label=level:l",
            "label=type:t",
            "seccomp=unconfined",
            "apparmor=unconfined",
            "no-new-privileges=true",
        ],
    ),
    ({"Privileges": {"SELinuxContext": {"Disable": True}}}, "SecurityOpt", ["label=disable"]),
    (
        {"Privileges": {"Seccomp": {"Mode": "custom", "Profile": base64.b64encode(b'{"a":1}').decode()}}},
        "SecurityOpt",
        ['seccomp={"a":1}'],
    ),
]


@pytest.mark.parametrize(("spec", "key", "value"), HOST)
def test_a_field_of_the_spec_becomes_one_of_the_host_config(spec: dict[str, Any], key: str, value: object) -> None:
    assert config_of({"ContainerSpec": spec})["HostConfig"][key] == value


TEMPLATE = [
    (
        {"Resources": {"Limits": {"NanoCPUs": 5, "MemoryBytes": 6, "Pids": 7}}},
        {"NanoCpus": 5, "Memory": 6, "PidsLimit": 7},
    ),
    ({"Resources": {"Reservations": {"NanoCPUs": 5, "MemoryBytes": 6}}}, {}),
    (
        {"Resources": {"Limits": {"MemoryBytes": 100}, "SwapBytes": 50, "MemorySwappiness": 0}},
        {"Memory": 100, "MemorySwap": 150, "MemorySwappiness": 0},
    ),
    ({"Resources": {"Limits": {"MemoryBytes": 100}, "SwapBytes": -1}}, {"Memory": 100, "MemorySwap": -1}),
    (
        {"LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}},
        {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}},
    ),
    ({"Networks": [{"Target": "host"}]}, {"NetworkMode": "host"}),
    ({"Networks": [{"Target": "none", "Aliases": ["web"]}]}, {"NetworkMode": "none"}),
]


@pytest.mark.parametrize(("template", "expected"), TEMPLATE)
def test_what_stands_beside_the_container_spec_reaches_the_host_config(
    template: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert config_of(template)["HostConfig"] == {"RestartPolicy": {"Name": "no"}} | expected


def test_labels_of_the_system_win_over_those_of_the_container() -> None:
    labels = config_of({"ContainerSpec": {"Labels": {"a": "b", "com.docker.swarm.task.id": "x"}}})["Labels"]
    assert (labels["a"], labels["com.docker.swarm.task.id"]) == ("b", "web-1")


PORTS = EndpointSpec(
    ports=(
        PortConfig(protocol="tcp", target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(protocol="tcp", target_port=80, published_port=8081, publish_mode="host"),
        PortConfig(protocol="udp", target_port=53, publish_mode="host"),
        PortConfig(protocol="tcp", target_port=443, published_port=443, publish_mode="ingress"),
    )
)


def test_ports_of_mode_host_are_exposed_and_bound() -> None:
    config = config_of({}, endpoint=PORTS)
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert config["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostPort": "8080"}, {"HostPort": "8081"}],
        "53/udp": [{"HostPort": ""}],
    }


def test_generic_resources_are_told_in_the_environment() -> None:
    dealt = (*samples.named("gpu", "a", "b"), samples.counted("seat", 2))
    config = config_of({"ContainerSpec": {"Env": ["A=1"]}}, generic_resources=dealt)
    assert config["Env"] == ["A=1", "DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SEAT=2"]


@pytest.mark.parametrize(("grace", "seconds"), [(None, 10.0), (0, 0.0), (1_500_000_000, 1.5)])
def test_the_stop_grace_is_ten_seconds_unless_said_otherwise(grace: int | None, seconds: float) -> None:
    assert stop_grace_s(samples.task_spec(stop_grace_period=grace)) == seconds


def test_an_action_has_all_that_the_helper_needs() -> None:
    policy = RestartPolicy(condition="on-failure", delay=2_000_000_000)
    spec = replace(samples.task_spec(image="nginx", stop_grace_period=30_000_000_000), restart_policy=policy)
    labels = {"swarmsh.probe": "http:80/health"}
    task = samples.task(2, spec=spec, on=NODE, endpoint=PORTS, labels=labels)
    action = ensure_action(task, NODE, "c1", "ready", "secret")
    assert (action.task_id, action.service_id, action.index, action.name) == ("web-2", "id-web", 7, "web.2.web-2")
    assert (action.desired, action.image, action.auth) == ("ready", "nginx:latest", "secret")
    assert (action.restart, action.restart_delay_s, action.stop_grace_s) == ("on-failure", 2.0, 30.0)
    assert action.tcp_ports == (80, 443)
    assert action.probe == Probe(kind="http", port=80, path="/health")
    assert action.config == container_config(task, NODE, "c1")


def test_dns_is_asked_through_our_network_unless_the_spec_names_its_own() -> None:
    joins = Joins((NetworkJoin(name="net1", address="10.48.17.1"),), "10.255.1.1")
    task = samples.task(1, on=NODE)
    action = ensure_action(task, NODE, "c1", "ready", joins=joins)
    assert action.networks == joins.networks
    assert action.config["HostConfig"]["Dns"] == ["10.255.1.1"]
    own = samples.task(1, on=NODE, spec=samples.task_spec(dns_config=DNSConfig(nameservers=("192.0.2.53",))))
    assert ensure_action(own, NODE, "c1", "ready", joins=joins).config["HostConfig"]["Dns"] == ["192.0.2.53"]
    assert "Dns" not in ensure_action(task, NODE, "c1", "ready").config["HostConfig"]


def test_without_a_policy_any_end_is_followed_by_a_start_after_five_seconds() -> None:
    action = ensure_action(samples.task(1, on=NODE), NODE, "c1", "running", "")
    assert (action.restart, action.restart_delay_s, action.tcp_ports, action.probe) == ("any", 5.0, (), None)


def test_what_was_accepted_can_be_built() -> None:
    accepted = accept_service(samples.with_container(Env=["A={{.Task.ID}}"], Hostname="{{.Node.ID}}"))
    task = samples.task(1, spec=accepted.task_template, on=NODE)
    assert container_config(task, NODE, "c")["Hostname"] == "node1"
