from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarmsh.core.difference import placement_only, task_outdated, template_changed
from swarmsh.model.specs import ServiceSpec
from tests.unit.core import samples
from tests.unit.core.samples import service_spec, with_container, with_template

PORT = {"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}


def both(key: str, a: Any, b: Any) -> tuple[ServiceSpec, ServiceSpec]:
    return with_container(**{key: a}), with_container(**{key: b})


SAME = [
    (service_spec(Labels={"a": "1"}), service_spec(Labels={"b": "2"})),
    (service_spec(Mode={"Replicated": {"Replicas": 1}}), service_spec(Mode={"Replicated": {"Replicas": 9}})),
    (service_spec(UpdateConfig={"Parallelism": 1}), service_spec(UpdateConfig={"Parallelism": 9})),
    (service_spec(RollbackConfig={"Parallelism": 1}), service_spec()),
    both("Env", ["A=1", "B=2"], ["B=2", "A=1"]),
    both("Labels", {"a": "1", "b": "2"}, {"b": "2", "a": "1"}),
    both("Groups", ["a", "b"], ["b", "a"]),
    both("CapabilityAdd", ["CAP_A", "CAP_B"], ["CAP_B", "CAP_A"]),
    both("DNSConfig", {}, None),
    both("Isolation", "default", ""),
    both("Mounts", [{"Target": "/a"}, {"Target": "/b"}], [{"Type": "bind", "Target": "/b"}, {"Target": "/a"}]),
    (with_template(Resources={"Limits": {}, "Reservations": {}}), with_template()),
    (with_template(Placement={}), with_template()),
    (with_template(Placement={"Constraints": ["a", "b"]}), with_template(Placement={"Constraints": ["b", "a"]})),
    (with_template(Runtime="container"), with_template()),
    (with_template(RestartPolicy={"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}), with_template()),
    (service_spec(EndpointSpec={"Mode": "vip"}), service_spec()),
    (
        service_spec(EndpointSpec={"Ports": [PORT, PORT | {"PublishedPort": 81}]}),
        service_spec(
            EndpointSpec={"Mode": "vip", "Ports": [PORT | {"PublishedPort": 81}, PORT | {"Protocol": "tcp"}]}
        ),
    ),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_what_changes_no_container_replaces_no_task(a: ServiceSpec, b: ServiceSpec) -> None:
    assert not template_changed(a, b)
    assert not template_changed(b, a)
    assert not placement_only(a, b)


DIFFERENT = [
    both("Image", "web:1", "web:2"),
    both("Env", ["A=1"], ["A=2"]),
    both("Env", ["A=1", "A=2"], ["A=2", "A=1"]),
    both("Args", ["a", "b"], ["b", "a"]),
    both("Labels", {"a": "1"}, {}),
    both("Init", None, False),
    both("DNSConfig", {"Nameservers": ["1.1.1.1", "2.2.2.2"]}, {"Nameservers": ["2.2.2.2", "1.1.1.1"]}),
    both("Healthcheck", {"Test": ["NONE"]}, None),
    (with_template(ForceUpdate=1), with_template()),
    (with_template(RestartPolicy={"Condition": "none"}), with_template()),
    (with_template(RestartPolicy={"Delay": 0}), with_template()),
    (with_template(RestartPolicy={"MaxAttempts": 3}), with_template()),
    (with_template(Resources={"Limits": {"Pids": 3}}), with_template()),
    (with_template(LogDriver={"Name": "journald"}), with_template()),
    (with_template(Networks=[{"Target": "host"}]), with_template()),
    (service_spec(EndpointSpec={"Mode": "dnsrr"}), service_spec()),
    (service_spec(EndpointSpec={"Ports": [PORT]}), service_spec()),
    (
        service_spec(EndpointSpec={"Ports": [PORT]}),
        with_template(Placement={"Constraints": ["node.role==worker"]}),
    ),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_what_changes_a_container_or_its_endpoint_replaces_tasks(a: ServiceSpec, b: ServiceSpec) -> None:
    assert template_changed(a, b)
    assert template_changed(b, a)
    assert not placement_only(a, b)


@pytest.mark.parametrize(
    "placement",
    [
        {"Constraints": ["node.role==worker"]},
        {"MaxReplicas": 2},
        {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]},
        {"Platforms": [{"OS": "linux"}]},
    ],
)
def test_a_change_of_placement_alone_is_told_apart(placement: dict[str, Any]) -> None:
    a, b = with_template(), with_template(Placement=placement)
    assert template_changed(a, b)
    assert placement_only(a, b)
    assert placement_only(b, a)


def test_a_task_is_outdated_when_its_services_spec_has_changed() -> None:
    spec = with_container(Env=["A=1", "B=2"])
    task = samples.task(1, spec=spec.task_template, endpoint=spec.endpoint_spec)
    assert not task_outdated(task, spec)
    assert not task_outdated(task, with_container(Env=["B=2", "A=1"]))
    assert task_outdated(task, with_container(Env=["B=2"]))
    assert task_outdated(replace(task, endpoint=samples.host_port(80)), spec)
