"""Our `service create`, `update` and `network create` send what the docker CLI sends for the same command line.

The docker CLI is SWARMSH_TEST_DOCKER_CLI, else that on PATH. Written for 28.x; where an older one lacks a flag,
the line is skipped.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from swarmsh.cli.service import GROUP
from swarmsh.core.run_options import RUN_OPTIONS

from .conftest import Recorder, Result

DOCKER = os.environ.get("SWARMSH_TEST_DOCKER_CLI") or shutil.which("docker")
DIGEST = "sha256:" + "ab" * 32
DISTRIBUTION = {
    "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": DIGEST, "size": 1},
    "Platforms": [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
        {"architecture": "arm64", "os": "linux"},
    ],
}

NETWORKS = """
net1
--attachable --internal --label a=b --label c net1
-o encrypted --opt com.docker.network.driver.mtu=1300 net1
--subnet 10.9.0.0/24 net1
--subnet=10.9.0.0/24 --gateway=10.9.0.1 --ip-range 10.9.0.128/25 net1
--subnet 10.9.0.0/24 --aux-address a=10.9.0.7 --aux-address b=10.9.0.8 net1
--ipam-driver default --ipam-opt a=b net1
--scope swarm net1
--ipv6 net1
--ipv6=false --internal=true net1
--ipv4=false net1
--ingress net1
--config-only net1
--config-from other net1
""".strip().splitlines()

pytestmark = pytest.mark.skipif(
    DOCKER is None, reason="no docker CLI: name one in SWARMSH_TEST_DOCKER_CLI, or put docker on PATH"
)

CREATE = """
nginx
nginx:1.25
nginx sh -c 'exit 1' --init=false
--name web nginx@sha256:abababababababababababababababababababababababababababababababab
--name web docker.io/library/nginx
--name web registry.example:5000/team/app:2
--name web --no-resolve-image localhost/app
--name web --replicas 3 nginx
--name web --replicas=0 nginx
--name web --mode global nginx
--name web --replicas 5 --replicas-max-per-node 2 nginx
--name web --constraint node.role==worker --constraint node.labels.disk!=hdd nginx
--name web --placement-pref spread=node.labels.zone --placement-pref spread=node.labels.rack nginx
--name web --update-parallelism 2 nginx
--name web --update-delay 1m30s --update-monitor 500ms --update-failure-action rollback nginx
--name web --update-max-failure-ratio .25 --update-order start-first --update-parallelism 0 nginx
--name web --update-monitor 0s nginx
--name web --secret one nginx
--name web --secret source=one,target=/etc/x,uid=33,gid=0x21,mode=0400 --secret src=two,mode=288 nginx
--name web --config site --secret one --config source=extra,target=/etc/extra.conf,Mode=0o440 nginx
--name web --rollback-parallelism 3 --rollback-delay 10s --rollback-monitor 1h nginx
--name web --rollback-failure-action continue --rollback-max-failure-ratio 1 --rollback-order start-first nginx
--name web --restart-condition on-failure nginx
--name web --restart-condition none --restart-delay 0s --restart-max-attempts 4 --restart-window 2m nginx
--name web --restart-delay 1.5s nginx
--name web --reserve-cpu 0.5 --reserve-memory 64m nginx
--name web --limit-cpu 1.25 --limit-memory 1.5GiB --limit-pids 100 nginx
--name web --limit-memory 1048576 --reserve-memory 4096kb nginx
--name web --generic-resource gpu=2 --generic-resource ssd=1 nginx
-p 8080:80 --name web nginx
--publish 80 --name web nginx
--publish 53:53/udp -p 53:53/tcp --name web nginx
-p=8000-8002:80-82 --name web nginx
-p 8000-8003:80 --name web nginx
--publish published=8080,target=80 --name web nginx
--publish target=80,mode=host,protocol=udp,published=81 --name web nginx
--publish mode=host,target=80 --name web nginx
--endpoint-mode dnsrr --name web nginx
--endpoint-mode DNSRR --name web nginx
--mount type=volume,source=data,target=/data --name web nginx
--mount type=bind,src=/etc,dst=/host,readonly --mount type=tmpfs,target=/run,tmpfs-size=64m,tmpfs-mode=1770 nginx
--mount source=a,target=/a,volume-nocopy,volume-driver=local,volume-opt=type=nfs,volume-opt=o=addr=1 nginx
--mount type=volume,target=/a,volume-label=a=b,volume-label=c,volume-nocopy=false,ro=true nginx
--mount type=bind,source=/a,target=/b,bind-propagation=rshared,bind-recursive=disabled,consistency=cached nginx
--mount type=bind,source=/a,target=/b,readonly,bind-propagation=rprivate,bind-recursive=readonly nginx
--mount 'type=volume,source=a,"target=/with,comma",volume-subpath=x' nginx
--mount type=bind,source=/a,target=/b,bind-recursive=enabled nginx
-e A=1 --env B= --env C='x y=z' -e A=2 nginx
-e HOME_OF_TEST -e NOT_SET_ANYWHERE nginx
--env-file {envfile} -e FROM_FILE=over nginx
--entrypoint 'sh -c "echo hi there"' nginx arg
-w /srv -u 1000:1000 --group wheel --group 33 nginx
-t --init --read-only nginx
--tty=false --init=true --read-only=false nginx
--detach=true --quiet nginx
--stop-signal SIGINT --stop-grace-period 2m nginx
-l a=b --label c -l d=e=f --container-label x=y nginx
--health-cmd 'curl -f localhost' --health-interval 5s --health-timeout 2s --health-retries 3 nginx
--health-start-period 30s --health-start-interval 1s nginx
--health-interval 0s nginx
--no-healthcheck nginx
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 nginx
--log-driver none nginx
--log-opt max-size=10m nginx
--cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop mknod nginx
--cap-add ALL --cap-drop CHOWN --cap-add sys_time nginx
--cap-drop all --cap-add net_bind_service nginx
--sysctl net.core.somaxconn=1024 --sysctl net.ipv4.ip_forward=1 nginx
--ulimit nofile=1024:2048 --ulimit core=0 --ulimit memlock=-1 nginx
--host db:10.0.0.1 --host v6:[::1] --host alt=10.1.1.1 --hostname box-{{.Task.Slot}} nginx
--dns 8.8.8.8 --dns 2001:4860:4860:0::8888 --dns-search example.com --dns-option ndots:2 nginx
--oom-score-adj -500 nginx
--with-registry-auth --name web registry.example/app:1
--with-registry-auth --name web other.example/app:1
--with-registry-auth --name web nginx
--network host --name web nginx
--network name=none --name web nginx
--network name=Bridge,alias=Web,driver-opt=a=b nginx
--network net1 --network name=net2,alias=a,alias=b nginx
--network net2 --network net1 --publish 8080:80 --endpoint-mode vip nginx
--isolation default nginx
--credential-spec file://cred.json nginx
--credential-spec registry://cred nginx
-dqt nginx
-dp80:80 nginx
-d=true -e=A=b nginx -- x
--mode replicated-job nginx
--mode replicated-job --replicas 3 nginx
--mode replicated-job --replicas 3 --max-concurrent 2 nginx
--mode replicated-job --max-concurrent 2 --replicas-max-per-node 1 nginx
--mode replicated-job --replicas 0 --max-concurrent 0 nginx
--mode replicated-job --restart-condition any --publish 80 nginx
--mode global-job --restart-delay 1s --label a=b nginx
""".strip().splitlines()

UPDATE = """
--image nginx:2
--image nginx:2 --no-resolve-image
--image registry.example/app
--args 'a "b c" d'
--entrypoint 'sh -c'
--entrypoint ''
--replicas 7
--force
--rollback
--rollback --quiet
--env-add A=9
--env-add NEW=1 --env-rm B
--env-rm A --env-rm B
--secret-add one
--secret-rm old
--secret-rm old --secret-add source=one,target=old
--config-add source=site,target=/site --config-rm conf
--config-add extra --secret-add one --secret-add source=two,target=/two
--label-add a=2 --label-add z
--label-rm a --label-rm nope
--container-label-add x=1 --container-label-rm old
--constraint-add node.role==manager
--constraint-rm node.labels.disk==ssd
--constraint-rm node.labels.disk==ssd --constraint-add node.labels.disk==nvme
--placement-pref-add spread=node.labels.rack
--placement-pref-rm spread=node.labels.zone
--publish-add 443:443
--publish-rm 80
--publish-rm 80 --publish-add published=81,target=80
--publish-rm 53/udp
--publish-add 8080:80
--publish-rm target=9,mode=host
--mount-add type=volume,source=new,target=/new
--mount-rm /data
--mount-add type=volume,source=other,target=/data
--host-add db:10.0.0.9
--host-rm db
--host-rm alias:10.0.0.2 --host-add cache:10.0.0.3
--dns-add 9.9.9.9 --dns-rm 8.8.8.8
--dns-option-rm ndots:2 --dns-option-add ndots:3
--dns-search-add example.org --dns-option-add timeout:1 --dns-search-rm example.com
--group-add 44 --group-rm 33
--sysctl-add net.core.somaxconn=2 --sysctl-rm net.ipv4.ip_forward
--ulimit-add nofile=5:6 --ulimit-rm core
--generic-resource-add gpu=4
--generic-resource-rm gpu
--cap-add sys_time
--cap-add net_admin --cap-drop chown
--cap-drop net_admin
--cap-add RESET --cap-drop RESET
--cap-add ALL
--limit-cpu 2
--limit-memory 0 --limit-pids 5
--reserve-memory 1g --reserve-cpu 0
--restart-condition none
--restart-delay 1s --restart-max-attempts 2 --restart-window 1m
--update-parallelism 0 --update-delay 3s
--update-order start-first --update-failure-action continue --update-max-failure-ratio 0.1
--update-monitor 0s
--update-monitor 2m
--rollback-parallelism 2 --rollback-monitor 9s
--rollback-delay 4s --rollback-order start-first --rollback-failure-action continue --rollback-max-failure-ratio 1
--health-cmd 'true'
--health-timeout 4s --health-start-period 8s
--health-cmd ''
--health-interval 9s --health-retries 0
--no-healthcheck
--log-driver syslog --log-opt tag=x
--log-opt tag=x
--stop-grace-period 3s --stop-signal SIGQUIT
--tty --read-only --init
--tty=false --read-only=false --init=false
--user nobody --workdir /x --hostname h
--user '' --workdir '' --hostname ''
--replicas-max-per-node 3
--endpoint-mode dnsrr
--oom-score-adj 7
--network-add bridge
--network-rm host
--network-rm host --network-add none
--network-add net1 --network-add name=net2,alias=a
--network-rm net3 --network-add net1
--isolation default
--credential-spec file://cred.json
--credential-spec ''
--with-registry-auth --image registry.example/app:3
""".strip().splitlines()

FILE = {"UID": "0", "GID": "0", "Mode": 0o444}
STORED = {
    "Name": "web",
    "Labels": {"a": "1", "b": "2"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": f"nginx:1@{DIGEST}",
            "Labels": {"old": "1"},
            "Command": ["/entry"],
            "Args": ["x"],
            "Hostname": "box",
            "Env": ["A=1", "B=2", "C=3"],
            "Dir": "/srv",
            "User": "1000",
            "Groups": ["33"],
            "Init": False,
            "TTY": True,
            "ReadOnly": True,
            "StopGracePeriod": 10_000_000_000,
            "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
            "Healthcheck": {"Test": ["CMD-SHELL", "false"], "Interval": 5_000_000_000, "Retries": 3},
            "Hosts": ["10.0.0.1 db", "10.0.0.2 main alias"],
            "DNSConfig": {"Nameservers": ["8.8.8.8"], "Search": ["example.com"]},
            "Isolation": "default",
            "Sysctls": {"net.ipv4.ip_forward": "1"},
            "CapabilityAdd": ["CAP_NET_ADMIN"],
            "CapabilityDrop": ["CAP_SYS_TIME"],
            "Ulimits": [{"Name": "core", "Hard": 0, "Soft": 0}],
            "Secrets": [{"File": FILE | {"Name": "old"}, "SecretID": "id-of-old", "SecretName": "old"}],
            "Configs": [{"File": FILE | {"Name": "/c"}, "ConfigID": "id-of-conf", "ConfigName": "conf"}],
        },
        "Resources": {
            "Limits": {"NanoCPUs": 1_000_000_000, "MemoryBytes": 1 << 26},
            "Reservations": {
                "NanoCPUs": 500_000_000,
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}],
            },
        },
        "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0},
        "Placement": {
            "Constraints": ["node.labels.disk==ssd", "node.role==worker"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "Platforms": [{"Architecture": "amd64", "OS": "linux"}],
        },
        "Networks": [{"Target": "host"}, {"Target": "id-of-6"}],
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "ForceUpdate": 4,
        "Runtime": "container",
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {
        "Parallelism": 1,
        "Monitor": 5_000_000_000,
        "FailureAction": "pause",
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    },
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 80, "PublishMode": "ingress"},
            {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "ingress"},
            {"Protocol": "tcp", "TargetPort": 9, "PublishedPort": 9, "PublishMode": "host"},
        ],
    },
}
BARE = {
    "Name": "web",
    "Labels": {},
    "TaskTemplate": {"ContainerSpec": {"Image": "nginx:1"}, "ForceUpdate": 0},
    "Mode": {"Replicated": {"Replicas": 1}},
}
# On a bare spec the docker CLI dies of a nil pointer (placement), or there is nothing to remove.
NOT_ON_BARE = ("--replicas-max-per-node", "--generic-resource-rm")


@pytest.fixture
def registry(manager: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    manager.on("POST", "/services/create", (201, {"ID": "new1"}))
    manager.on("GET", "/distribution/.*", (404, {"message": "no such image"}))
    manager.on("GET", "/distribution/(docker.io/library/)?nginx.*/json", DISTRIBUTION)
    for name in ("host", "bridge", "none"):
        manager.on("GET", f"/networks/{name}", {"Name": name, "Id": name, "Scope": "local"})
    for name in ("net1", "net2", "net3"):
        network = {"Name": name, "Id": f"id-of-{9 - int(name[3])}", "Scope": "swarm"}
        manager.on("GET", f"/networks/({name}|{network['Id']})", network)
    for kind, kept in (("secrets", ("one", "two", "old")), ("configs", ("site", "extra", "conf"))):
        manager.on("GET", f"/{kind}", [{"ID": f"id-of-{name}", "Spec": {"Name": name}} for name in kept])
    auth = base64.b64encode(b"ann:pass:word").decode()
    auths = {"registry.example": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}}
    (Path(os.environ["DOCKER_CONFIG"]) / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("HOME_OF_TEST", "/home/test")
    (tmp_path / "env").write_text("# comment\nFROM_FILE=1\n\n  INDENTED=2\nHOME_OF_TEST\nNOT_SET_ANYWHERE\n")
    return manager


def run_docker(*args: str) -> None:
    assert DOCKER is not None
    done = subprocess.run([DOCKER, *args], capture_output=True, text=True, timeout=60, check=False)
    if "unknown flag" in done.stderr or "unexpected key" in done.stderr or "requires API version" in done.stderr:
        pytest.skip(f"this docker CLI does not know it: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr


def posted(manager: Recorder, pattern: str) -> tuple[Any, dict[str, str], Any]:
    """(spec, query, decoded X-Registry-Auth) of the one POST; forgets all requests."""
    (request,) = manager.sent("POST", pattern)
    manager.requests.clear()
    auth = request.headers.get("X-Registry-Auth")
    spec = request.body
    # The order of these is a Go map's, new each time.
    reservations = (spec["TaskTemplate"].get("Resources") or {}).get("Reservations") or {}
    ports = (spec.get("EndpointSpec") or {}).get("Ports") or []
    container = spec["TaskTemplate"]["ContainerSpec"]
    kept = (container.get(list_) or [] for list_ in ("Secrets", "Configs"))
    for entries in (*kept, ports, reservations.get("GenericResources") or []):
        entries.sort(key=lambda entry: json.dumps(entry, sort_keys=True))
    return spec, request.query, json.loads(base64.urlsafe_b64decode(auth)) if auth else None


@pytest.mark.parametrize("line", CREATE)
def test_create_sends_what_docker_sends(
    line: str, registry: Recorder, cli: Callable[..., Result], tmp_path: Path
) -> None:
    words = shlex.split(line.replace("{envfile}", str(tmp_path / "env")))
    run_docker("service", "create", "--detach", *words)
    theirs = posted(registry, "/services/create")
    result = cli("service", "create", "--detach", *words)
    assert (result.code, result.out) == (0, "new1\n"), result.err
    spec, query, auth = posted(registry, "/services/create")
    assert (spec, query, auth) == theirs


def without_empty(value: Any) -> Any:
    """Go leaves empty values out, or writes null or [] for them, by the whim of each field."""
    if isinstance(value, dict):
        cleaned = {key: without_empty(entry) for key, entry in value.items()}
        return {
            key: entry
            for key, entry in cleaned.items()
            if entry is not None and entry not in ("", []) and not (entry == {} and key != "Init")
        }
    return [without_empty(entry) for entry in value] if isinstance(value, list) else value


def comparable(spec: Any) -> Any:
    cleaned = without_empty(spec)
    container = cleaned["TaskTemplate"]["ContainerSpec"]
    container["Env"] = sorted(container.get("Env", []))  # Docker's order is random
    return cleaned


@pytest.mark.parametrize("line", UPDATE)
@pytest.mark.parametrize("stored", ["full", "bare"])
def test_update_sends_what_docker_sends(
    line: str, stored: str, registry: Recorder, cli: Callable[..., Result]
) -> None:
    if stored == "bare" and line.startswith(NOT_ON_BARE):
        pytest.skip("docker cannot do this to a bare spec")
    spec = STORED if stored == "full" else BARE
    service = {"ID": "web1", "Version": {"Index": 9}, "Spec": spec, "PreviousSpec": BARE}
    registry.on("GET", "/services/web", service)
    registry.on("POST", "/services/web1/update", {"Warnings": None})
    words = shlex.split(line)
    run_docker("service", "update", "--detach", *words, "web")
    theirs, their_query, their_auth = posted(registry, "/services/web1/update")
    result = cli("service", "update", "--detach", "web", *words)
    assert (result.code, result.out) == (0, "web\n"), result.err
    ours, query, auth = posted(registry, "/services/web1/update")
    assert comparable(ours) == comparable(theirs)
    assert (query, auth) == (their_query, their_auth)


@pytest.mark.parametrize("command", ["create", "update", "rollback", "scale"])
def test_each_flag_of_dockers_is_there(command: str) -> None:
    assert DOCKER is not None
    done = subprocess.run([DOCKER, "service", command, "--help"], capture_output=True, text=True, check=True)
    theirs = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", done.stdout, re.MULTILINE)) - {"--help"}
    assert "--detach" in theirs
    found = GROUP.get_command(click.Context(GROUP), command)
    assert found is not None
    ours = {name for param in found.params for name in param.opts}
    assert theirs <= ours


@pytest.mark.parametrize(("command", "lines"), [("create", CREATE), ("update", UPDATE)])
def test_each_flag_is_compared_with_dockers(command: str, lines: list[str]) -> None:
    found = GROUP.get_command(click.Context(GROUP), command)
    assert found is not None
    used = {word.partition("=")[0] for line in lines for word in shlex.split(line)}
    ours = {"--plan", "--format", "--detach", "--schedule", "--schedule-zone"}
    ours |= {f"--{option.name}{verb}" for option in RUN_OPTIONS for verb in ("", "-add", "-rm")}
    not_built: set[str] = set()
    if command == "update":
        not_built.add("--max-concurrent")  # of jobs alone, and the service of these tests is none
        not_built.add("--health-start-interval")  # docker's update takes it, and does nothing (28.5)
    options = [param for param in found.params if isinstance(param, click.Option)]
    missing = {option.opts[-1] for option in options if used.isdisjoint(option.opts)}
    assert missing <= ours | not_built


def test_rollback_sends_what_docker_sends(registry: Recorder, cli: Callable[..., Result]) -> None:
    service = {"ID": "web1", "Version": {"Index": 9}, "Spec": STORED, "PreviousSpec": BARE}
    registry.on("GET", "/services/web", service)
    registry.on("POST", "/services/web1/update", {"Warnings": None})
    run_docker("service", "rollback", "--detach", "web")
    theirs, their_query, _ = posted(registry, "/services/web1/update")
    result = cli("service", "rollback", "--detach", "web")
    assert (result.code, result.out) == (0, "web\n"), result.err
    ours, query, _ = posted(registry, "/services/web1/update")
    assert comparable(ours) == comparable(theirs)
    assert query == their_query


@pytest.mark.parametrize("line", NETWORKS)
def test_network_create_sends_what_docker_sends(line: str, manager: Recorder, cli: Callable[..., Result]) -> None:
    manager.on("POST", "/networks/create", (201, {"Id": "new1", "Warning": ""}))
    words = ["network", "create", "-d", "overlay", *shlex.split(line)]
    run_docker(*words)
    result = cli(*words)
    assert (result.code, result.out) == (0, "new1\n"), result.err
    theirs, ours = (request.body for request in manager.sent("POST", "/networks/create"))
    for body in (theirs, ours):
        body.pop("CheckDuplicate", None)  # of clients that speak to older servers, too
    assert without_false(ours) == without_false(theirs)


def without_false(body: Any) -> Any:
    """Switches that are off, and empty values, are sent or left out by the whim of each version."""
    return {key: value for key, value in without_empty(body).items() if value is not False or key == "EnableIPv4"}


@pytest.mark.parametrize(
    "line",
    """
    --publish 127.0.0.1:80:80 nginx
    --publish 80:80/icmp nginx
    --publish mode=bridge,target=80 nginx
    --publish published=80,mode=host nginx
    --publish 70000:80 nginx
    --publish 80-82:90-91 nginx
    --mount type=bind,source=/a nginx
    --mount type=bind,source=/a,target=/b,volume-nocopy nginx
    --mount type=volume,source=a,target=/b,wrong=1 nginx
    --limit-memory 12parsecs nginx
    --limit-cpu 0.0000000001 nginx
    --update-delay 5 nginx
    --ulimit nofile=10:5 nginx
    --ulimit wrong=1 nginx
    --generic-resource gpu=fast nginx
    --placement-pref pack=node.labels.x nginx
    --dns nowhere nginx
    --host onlyname nginx
    --env =x nginx
    --mode sideways nginx
    --mode global --replicas 2 nginx
    --mode global --replicas-max-per-node 2 nginx
    --max-concurrent 2 nginx
    --mode global --max-concurrent 2 nginx
    --mode replicated --max-concurrent 0 nginx
    --mode global-job --max-concurrent 2 nginx
    --mode global-job --replicas 2 nginx
    --mode global-job --replicas-max-per-node 2 nginx
    --mode replicated-job --update-delay 2s nginx
    --mode global-job --rollback-parallelism 2 nginx
    --network alias=a nginx
    --network name=host,wrong=1 nginx
    --credential-spec cred.json nginx
    --no-healthcheck --health-cmd true nginx
    --health-interval -5s nginx
    --init=perhaps nginx
    --unknown-flag nginx
    """.strip().splitlines(),
)
def test_what_docker_refuses_is_refused(line: str, registry: Recorder, cli: Callable[..., Result]) -> None:
    assert DOCKER is not None
    words = shlex.split(line)
    done = subprocess.run(
        [DOCKER, "service", "create", "-d", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    result = cli("service", "create", "-d", *words)
    assert result.code == 2
    assert "Error: " in result.err
    assert "Traceback" not in result.err
    assert not registry.sent("POST", ".*")
