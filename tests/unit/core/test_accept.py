from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.accept import accept_node_spec, accept_service, accept_update
from swarmsh.errors import InvalidSpec, SwarmshError, Unimplemented
from swarmsh.model.objects import Service
from swarmsh.model.specs import NodeSpec, ServiceSpec
from swarmsh.model.states import Availability
from swarmsh.model.wire import from_wire, to_wire
from tests.unit.core.samples import service_spec, with_container, with_template


def refusal_of(spec: ServiceSpec) -> SwarmshError:
    with pytest.raises((InvalidSpec, Unimplemented)) as refusal:
        accept_service(spec)
    return refusal.value


def test_words_left_out_are_filled_in_as_docker_answers_them() -> None:
    sent = service_spec(
        TaskTemplate={
            "ContainerSpec": {"Image": "web:1", "Mounts": [{"Source": "/s", "Target": "/t", "VolumeOptions": {}}]},
            "RestartPolicy": {"Delay": 1},
        },
        UpdateConfig={"Parallelism": 2},
        RollbackConfig={},
        EndpointSpec={"Ports": [{"TargetPort": 80, "PublishMode": "host"}]},
    )
    assert json.loads(json.dumps(to_wire(accept_service(sent)))) == {
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "web:1",
                "Mounts": [{"Type": "bind", "Source": "/s", "Target": "/t"}],
                "Isolation": "default",
            },
            "RestartPolicy": {"Condition": "any", "Delay": 1, "MaxAttempts": 0},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {
            "Parallelism": 2,
            "FailureAction": "pause",
            "MaxFailureRatio": 0.0,
            "Order": "stop-first",
        },
        "RollbackConfig": {
            "Parallelism": 0,
            "FailureAction": "pause",
            "MaxFailureRatio": 0.0,
            "Order": "stop-first",
        },
        "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "host"}]},
    }


ACCEPTED = [
    service_spec(Name="a"),
    service_spec(Name="a" * 63),
    service_spec(Name="Stack_web-1"),
    service_spec(Mode={"Replicated": {"Replicas": 0}}),
    service_spec(Mode={"Global": {}}),
    service_spec(EndpointSpec={"Mode": "vip"}),
    service_spec(EndpointSpec={"Mode": "dnsrr"}),
    service_spec(
        EndpointSpec={
            "Mode": "dnsrr",
            "Ports": [
                {"TargetPort": 53, "PublishedPort": 53, "PublishMode": "host", "Protocol": "udp"},
                {"TargetPort": 53, "PublishedPort": 53, "PublishMode": "host", "Protocol": "tcp"},
                {"TargetPort": 9, "PublishMode": "host", "Protocol": "sctp"},
                {"TargetPort": 8, "PublishMode": "host", "Protocol": "sctp"},
            ],
        }
    ),
    service_spec(Networks=[{"Target": "host"}]),
    service_spec(Labels={"team": "x", "swarmsh.probe": "tcp:80"}),
    service_spec(
        UpdateConfig={"Parallelism": 0, "FailureAction": "rollback", "Order": "start-first", "Monitor": 1}
    ),
    with_template(Networks=[{"Target": "bridge"}]),
    with_template(Runtime="container"),
    with_template(RestartPolicy={"Condition": "on-failure", "MaxAttempts": 3, "Window": 5}),
    with_template(Resources={"Limits": {"NanoCPUs": 1_000_000, "MemoryBytes": 4 << 20, "Pids": 10}}),
    with_template(
        Resources={"Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "g", "Value": 1}}]}}
    ),
    with_template(Placement={"Constraints": ["node.role==worker"], "MaxReplicas": 2}),
    with_template(Placement={"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]}),
    with_container(Env=["A", "A=", "A=b=c", "lower=1"]),
    with_container(Hosts=["1.2.3.4 a b", "host-gateway host"]),
    with_container(Healthcheck={"Test": ["NONE"]}),
    with_container(Healthcheck={"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000}),
    with_container(Healthcheck={"Interval": 0}),
    with_container(StopGracePeriod=0),
    with_container(Mounts=[{"Type": "Volume", "Target": "/t"}]),
    with_container(Mounts=[{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": [["noexec"]]}}]),
    with_container(
        Mounts=[{"Type": "image", "Source": "web:1", "Target": "/t", "ImageOptions": {"Subpath": "a"}}]
    ),
    with_container(Mounts=[{"Type": "volume", "Source": "{{.Service.Name}}", "Target": "/{{.Task.Slot}}"}]),
    with_container(Ulimits=[{"Name": "nofile", "Soft": 5, "Hard": -1}]),
    with_container(Privileges={"Seccomp": {"Mode": "custom", "Profile": "e30="}, "AppArmor": {"Mode": "default"}}),
    with_container(Image="10.9.0.1:5000/web:1@sha256:" + "a" * 64),
]


@pytest.mark.parametrize("spec", ACCEPTED)
def test_a_good_spec_is_accepted_and_accepting_it_again_changes_nothing(spec: ServiceSpec) -> None:
    accepted = accept_service(spec)
    assert accept_service(accepted) == accepted


def test_old_networks_move_into_the_task_template() -> None:
    accepted = accept_service(service_spec(Networks=[{"Target": "host"}]))
    assert accepted.networks == ()
    assert [n.target for n in accepted.task_template.networks] == ["host"]


def container(key: str, value: Any) -> ServiceSpec:
    return with_container(**{key: value})


def mount(**fields: Any) -> ServiceSpec:
    return with_container(Mounts=[{"Type": "bind", "Source": "/s", "Target": "/t"} | fields])


def port(**fields: Any) -> ServiceSpec:
    return service_spec(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishMode": "host"} | fields]})


ROOT_TARGET = "invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
HOST_80 = {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}
REFUSED = [
    # names
    (service_spec(Name=""), "meta: name must be provided"),
    (service_spec(Name="a.b"), "name must be valid as a DNS name component"),
    (service_spec(Name="-a"), "name must be valid as a DNS name component"),
    (service_spec(Name="a-"), "name must be valid as a DNS name component"),
    (service_spec(Name="a" * 64), "name must be 63 characters or fewer"),
    (service_spec(Labels={"swarmsh.prob": "x"}), "label swarmsh.prob is not known"),
    # mode
    (service_spec(Mode={"Global": {}, "Replicated": {}}), "must specify only one service mode"),
    (service_spec(Mode={"Replicated": {"Replicas": -1}}), "Number of replicas must be non-negative"),
    (
        service_spec(
            Mode={"Global": {}}, TaskTemplate={"ContainerSpec": {"Image": "a"}, "Placement": {"MaxReplicas": 1}}
        ),
        "replicas-max-per-node can only be used with replicated or replicated-job mode",
    ),
    # task template
    (service_spec(TaskTemplate={}), "mismatched Runtime and *Spec fields"),
    (with_template(Runtime="wasm"), "unsupported runtime"),
    (with_template(Runtime="attachment"), 'invalid task spec: spec type "attachment" not supported'),
    (with_template(RestartPolicy={"Condition": "always"}), 'invalid RestartCondition: "always"'),
    (with_template(RestartPolicy={"Delay": -1}), "TaskSpec: restart-delay cannot be negative"),
    (with_template(RestartPolicy={"Window": -1}), "TaskSpec: restart-window cannot be negative"),
    (with_template(RestartPolicy={"MaxAttempts": -1}), "TaskSpec: restart-max-attempts cannot be negative"),
    (
        with_template(Resources={"Limits": {"NanoCPUs": 500_000}}),
        "invalid cpu value 0.0005: Must be at least 0.001",
    ),
    (
        with_template(Resources={"Reservations": {"MemoryBytes": 4_000_000}}),
        "invalid memory value 4000000: Must be at least 4MiB",
    ),
    (
        with_template(
            Resources={
                "Reservations": {"GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}]}
            }
        ),
        "invalid argument for resource gpu",
    ),
    (with_template(Resources={"SwapBytes": 1}), "TaskSpec: SwapBytes needs a memory limit"),
    (with_template(Placement={"Constraints": ["node.role=x"]}), "constraint expected one operator from ==, !="),
    (with_template(Placement={"Constraints": ["node.labels==x"]}), "key 'node.labels' is not known"),
    (with_template(Placement={"Preferences": [{}]}), "placement preference without spread"),
    (
        with_template(Placement={"Preferences": [{"Spread": {"SpreadDescriptor": "zone"}}]}),
        "placement preference spread=zone is not known",
    ),
    (with_template(Placement={"MaxReplicas": -1}), "Placement: MaxReplicas cannot be negative"),
    (
        with_template(Networks=[{"Target": "host"}, {"Target": "bridge"}]),
        "a service can use only one of the networks host, bridge and none",
    ),
    # container
    (service_spec(TaskTemplate={"ContainerSpec": {}}), "ContainerSpec: image reference must be provided"),
    (container("Image", "We b"), 'ContainerSpec: "We b" is not a valid repository/tag'),
    (container("Env", ["=x"]), "invalid environment variable: =x"),
    (container("Env", [""]), "invalid environment variable: "),
    (
        container("Env", ["A={{.Foo}}"]),
        'expanding env failed: expanding env "A={{.Foo}}": placeholder {{.Foo}} is not known',
    ),
    (container("Hostname", "{{.Foo}}"), "expanding hostname failed: placeholder {{.Foo}} is not known"),
    (container("Hosts", ["web"]), "ContainerSpec: host 'web' is not of the form 'IP name'"),
    (container("Hosts", ["web 1.2.3.4"]), "invalid IP address in add-host: web"),
    (container("DNSConfig", {"Nameservers": ["dns"]}), "ContainerSpec: dns is not an ip address"),
    (container("Sysctls", {"": "1"}), "ContainerSpec: a sysctl needs a name"),
    (container("Labels", {"swarmsh.probe": "tcp:1"}), "container label swarmsh.probe is not allowed"),
    (container("StopGracePeriod", -1), "ContainerSpec: stop-grace-period cannot be negative"),
    (container("OomScoreAdj", 1001), "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    (
        container("Ulimits", [{"Name": "nofile", "Soft": 2, "Hard": 1}]),
        "ulimit nofile soft limit must be less than or equal to hard limit: 2 > 1",
    ),
    (
        container("Healthcheck", {"Interval": 999_999}),
        "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
    ),
    (container("Healthcheck", {"Timeout": -1}), "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms"),
    (container("Healthcheck", {"Retries": -1}), "ContainerSpec: Retries in HealthConfig cannot be negative"),
    (container("Healthcheck", {"Test": ["true"]}), "ContainerSpec: Test in HealthConfig is ['true']"),
    (container("Healthcheck", {"Test": ["CMD"]}), "ContainerSpec: Test in HealthConfig is ['CMD']"),
    (container("Isolation", "hyperv"), "Invalid isolation: \"hyperv\" - linux only supports 'default'"),
    (
        container("Privileges", {"CredentialSpec": {}}),
        'invalid CredentialSpec: must either provide "file", "registry", or "config" for credential spec',
    ),
    (
        container("Privileges", {"CredentialSpec": {"File": "a", "Registry": "b"}}),
        'invalid CredentialSpec: cannot specify both "file" and "registry" credential specs',
    ),
    (container("Privileges", {"Seccomp": {"Mode": "off"}}), "invalid Seccomp mode 'off'"),
    (
        container("Privileges", {"Seccomp": {"Mode": "custom"}}),
        "Seccomp mode custom and a profile need each other",
    ),
    (
        container("Privileges", {"Seccomp": {"Mode": "custom", "Profile": "{"}}),
        "ContainerSpec: Privileges.Seccomp.Profile is not base64 of a JSON text",
    ),
    (container("Privileges", {"AppArmor": {"Mode": "off"}}), "invalid AppArmor mode 'off'"),
    # mounts
    (mount(Type="nfs"), 'invalid MountType: "nfs"'),
    (mount(Type="npipe"), "mounts of type npipe are for Windows, and nodes run Linux"),
    (mount(Target=""), 'invalid mount config for type "bind": field Target must not be empty'),
    (mount(Target="t"), "invalid mount target, must be an absolute path: t"),
    (mount(Target="/x/.."), ROOT_TARGET),
    (mount(Source="s"), "invalid bind mount source, must be an absolute path: s"),
    (mount(Type="volume"), "invalid volume mount source, must not be an absolute path: /s"),
    (mount(Type="tmpfs"), "invalid tmpfs source, source must be empty"),
    (
        mount(Type="volume", Source="", ReadOnly=True),
        'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes',
    ),
    (
        mount(VolumeOptions={"NoCopy": True}),
        'invalid mount config for type "bind": field VolumeOptions must not be specified',
    ),
    (mount(BindOptions={"Propagation": "public"}), 'invalid MountPropagation: "public"'),
    (mount(Consistency="eventual"), 'invalid MountConsistency: "eventual"'),
    (
        mount(Type="volume", Source="v", VolumeOptions={"Subpath": "../x"}),
        'invalid mount config for type "volume": subpath must be a relative path within the volume',
    ),
    (
        mount(Type="tmpfs", Source="", TmpfsOptions={"Options": [["suid"]]}),
        'invalid mount config for type "tmpfs": invalid option: suid',
    ),
    (
        container("Mounts", [{"Source": "/a", "Target": "/t"}, {"Source": "/b", "Target": "/t/"}]),
        "ContainerSpec: duplicate mount point: /t/",
    ),
    # updates
    (service_spec(UpdateConfig={"FailureAction": "stop"}), "unrecognized update failure action stop"),
    (service_spec(RollbackConfig={"Order": "random"}), "unrecognized update order random"),
    (service_spec(UpdateConfig={"Delay": -1}), "TaskSpec: update-delay cannot be negative"),
    (service_spec(UpdateConfig={"Monitor": -1}), "TaskSpec: update-monitor cannot be negative"),
    (service_spec(UpdateConfig={"Parallelism": -1}), "TaskSpec: update-parallelism cannot be negative"),
    (
        service_spec(UpdateConfig={"MaxFailureRatio": 1.1}),
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
    ),
    # ports
    (service_spec(EndpointSpec={"Mode": "lb"}), 'invalid resolution mode: "lb"'),
    (port(Protocol="icmp"), "invalid protocol 'icmp'"),
    (port(PublishMode="bridge"), "invalid publish mode 'bridge'"),
    (port(TargetPort=0), "invalid target port 0"),
    (port(TargetPort=65536), "invalid target port 65536"),
    (port(PublishedPort=-1), "invalid published port -1"),
    (
        service_spec(EndpointSpec={"Ports": [HOST_80, HOST_80 | {"TargetPort": 81}]}),
        "EndpointSpec: duplicate published ports provided",
    ),
    (
        service_spec(EndpointSpec={"Mode": "dnsrr", "Ports": [{"TargetPort": 80}]}),
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    ),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_a_bad_spec_is_refused_with_dockers_words(spec: ServiceSpec, message: str) -> None:
    refusal = refusal_of(spec)
    assert isinstance(refusal, InvalidSpec)
    assert refusal.message == message


@pytest.mark.parametrize(
    ("spec", "what", "instead"),
    [
        (port(Protocol="sctp", PublishMode=""), "port 80/sctp cannot be published in ingress", "mode=host"),
        (container("Privileges", {"CredentialSpec": {"Config": "x"}}), "config x is for Windows", "--config"),
        (mount(Type="cluster"), "cluster volumes", "volume driver"),
        (with_template(Runtime="plugin", PluginSpec={"Name": "p"}), "plugins", "docker plugin install"),
    ],
)
def test_what_is_not_built_is_refused_with_what_to_use_instead(spec: ServiceSpec, what: str, instead: str) -> None:
    refusal = refusal_of(spec)
    assert isinstance(refusal, Unimplemented)
    assert what in refusal.message
    assert instead in refusal.hint


# --- updates ------------------------------------------------------------------------------------------------
STORED = Service(
    id="s", version=3, created_at=0.0, updated_at=0.0, spec=accept_service(service_spec(Mode={"Replicated": {}}))
)


def test_an_update_may_change_all_but_name_and_mode() -> None:
    updated = accept_update(STORED, service_spec(Mode={"Replicated": {"Replicas": 5}}))
    assert updated.mode.replicated is not None
    assert updated.mode.replicated.replicas == 5
    assert accept_update(STORED, service_spec(Name="")).name == "web"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (service_spec(Name="other"), "renaming services is not supported"),
        (service_spec(Mode={"Global": {}}), "service mode change is not allowed"),
        (service_spec(Mode={"Global": {}}, Name="other"), "service mode change is not allowed"),
    ],
)
def test_name_and_mode_cannot_be_changed(spec: ServiceSpec, message: str) -> None:
    with pytest.raises(Unimplemented) as refusal:
        accept_update(STORED, spec)
    assert refusal.value.message == message


# --- nodes --------------------------------------------------------------------------------------------------
def test_a_nodes_name_stays_the_inventorys() -> None:
    stored = NodeSpec(name="n1")
    sent = NodeSpec(labels={"a": "b"}, availability=Availability.DRAIN)
    assert accept_node_spec(sent, stored) == NodeSpec(
        name="n1", labels={"a": "b"}, availability=Availability.DRAIN
    )
    with pytest.raises(Unimplemented, match="renaming nodes"):
        accept_node_spec(NodeSpec(name="n2"), stored)


@pytest.mark.parametrize("key", ["", " a", "a "])
def test_a_node_label_needs_a_key(key: str) -> None:
    with pytest.raises(InvalidSpec):
        accept_node_spec(NodeSpec(labels={key: "x"}))


# --- whatever comes -----------------------------------------------------------------------------------------
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.text("aA/:{}.-= ", max_size=8), st.none())
_WORDS = "Image Env Mounts Type Source Target Healthcheck Test Hosts Ports TargetPort PublishMode Constraints Mode"
WORDS = st.sampled_from(_WORDS.split())
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8
)


@given(
    container=st.dictionaries(WORDS, JSON),
    endpoint=JSON,
    placement=JSON,
    mode=JSON,
)
def test_garbage_is_refused_with_an_error_of_ours_or_accepted_for_good(
    container: dict[str, Any], endpoint: Any, placement: Any, mode: Any
) -> None:
    wire = {
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": "a"} | container, "Placement": placement},
        "EndpointSpec": endpoint,
        "Mode": mode,
    }
    try:
        accepted = accept_service(from_wire(ServiceSpec, wire))
    except SwarmshError:
        return
    assert accept_service(from_wire(ServiceSpec, to_wire(accepted))) == accepted
