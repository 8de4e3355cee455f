from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.constraints import Constraint, parse_constraints, satisfied
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import Platform
from swarmsh.model.states import Role
from tests.unit.core import samples

NODE = samples.node(
    3,
    labels={"disk": "SSD", "Rack": "a1"},
    role=Role.MANAGER,
    address="192.168.7.12",
    engine_labels={"storage": "fast"},
)


@pytest.mark.parametrize(
    "text",
    [
        "node.id==node3",
        "node.id==NODE3",
        "node.id!=node4",
        "node.hostname==host3",
        "node.hostname==n3",
        "node.hostname!=host4",
        "NODE.ROLE==Manager",
        "node.role != worker",
        "node.ip==192.168.7.12",
        "node.ip==192.168.7.0/24",
        "node.ip==192.168.7.99/24",
        "node.ip!=10.0.0.0/8",
        "node.ip!=::1",
        "node.platform.os==linux",
        "node.platform.arch==x86_64",
        "node.platform.arch==amd64",
        "node.platform.arch!=arm64",
        "node.labels.disk==ssd",
        "  node.labels.disk  ==  ssd  ",
        "Node.Labels.Rack==A1",
        "node.labels.rack!=a1",
        "node.labels.none!=x",
        "engine.labels.storage==fast",
    ],
)
def test_a_constraint_that_holds(text: str) -> None:
    assert satisfied(parse_constraints([text]), NODE)


@pytest.mark.parametrize(
    "text",
    [
        "node.id==node30",
        "node.hostname!=n3",
        "node.hostname!=host3",
        "node.ip==192.168.8.0/24",
        "node.ip!=192.168.7.12",
        "node.labels.disk==ssd1",
        "node.labels.rack==a1",
        "node.labels.none==x",
        "engine.labels.disk==ssd",
        "node.platform.arch==aarch64",
    ],
)
def test_a_constraint_that_does_not_hold(text: str) -> None:
    assert not satisfied(parse_constraints([text]), NODE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node.id", "constraint expected one operator from ==, !="),
        ("node.id=x", "constraint expected one operator from ==, !="),
        ("==x", "key '' is invalid"),
        ("1node==x", "key '1node' is invalid"),
        ("node id==x", "key 'node id' is invalid"),
        ("node.id==", "value '' is invalid"),
        ("node.id==a,b", "value 'a,b' is invalid"),
        ("node.id==<b", "value '<b' is invalid"),
    ],
)
def test_malformed_constraints_are_refused_with_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        parse_constraints(["node.role==worker", text])
    assert refusal.value.message == message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("node.lables.disk==ssd", "node.labels.disk"),
        ("node.label.disk==ssd", "node.labels.disk"),
        ("engine.label.disk==ssd", "engine.labels.disk"),
        ("node.host==x", "node.hostname"),
        ("node.rol==manager", "node.role"),
        ("platform.os==linux", "node.platform.os"),
        ("node.labels.==x", "node.labels"),
    ],
)
def test_an_unknown_key_is_refused_naming_the_nearest(text: str, meant: str) -> None:
    with pytest.raises(InvalidSpec, match="is not known") as refusal:
        parse_constraints([text])
    assert f"Did you mean {meant}" in refusal.value.hint


@pytest.mark.parametrize("value", ["300.1.1.1", "10.0.0.0/33", "host"])
def test_an_address_that_is_none_is_refused_where_swarmkit_would_never_match(value: str) -> None:
    with pytest.raises(InvalidSpec, match="is invalid"):
        parse_constraints([f"node.ip=={value}"])


def test_a_node_reached_by_name_has_no_address() -> None:
    by_name = samples.node(address="n1.example.org")
    assert not satisfied(parse_constraints(["node.ip==10.0.0.1"]), by_name)
    assert satisfied(parse_constraints(["node.ip!=10.0.0.1"]), by_name)


def test_arm_has_two_names() -> None:
    arm = samples.node(platform=Platform(architecture="aarch64", os="linux"))
    assert satisfied(parse_constraints(["node.platform.arch==arm64"]), arm)
    assert not satisfied(parse_constraints(["node.platform.arch!=aarch64"]), arm)


KEYS = st.sampled_from(["node.id", "node.hostname", "node.role", "node.platform.os", "node.labels.disk"])


@given(key=KEYS, value=st.text("abcdefgSsdnodehost123._-/:", min_size=1, max_size=8))
def test_equal_and_not_equal_are_opposites(key: str, value: str) -> None:
    equal, different = parse_constraints([f"{key}=={value}", f"{key}!={value}"])
    assert equal.matches(NODE) is not different.matches(NODE)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        (constraint,) = parse_constraints([text])
    except InvalidSpec:
        return
    assert isinstance(constraint, Constraint)
    assert parse_constraints([str(constraint)]) == (constraint,)
    constraint.matches(NODE)
