"""Specs of networks: what is stored, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from swarmsh.core.accept_network import accept_network, asked_vni, encrypted, mtu
from swarmsh.core.paths import size_on_the_wire
from swarmsh.errors import Forbidden, Kind, SwarmshError
from swarmsh.model.specs import NetworkSpec
from swarmsh.model.wire import from_wire


def spec(**fields: Any) -> NetworkSpec:
    return from_wire(NetworkSpec, {"Name": "net1"} | fields)


def with_config(**config: Any) -> NetworkSpec:
    return spec(IPAM={"Driver": "default", "Config": [{"Subnet": "10.9.0.0/24"} | config]})


def test_what_the_docker_cli_sends_is_accepted() -> None:
    sent = {
        "CheckDuplicate": True,
        "Driver": "overlay",
        "Scope": "",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": []},
        "Internal": True,
        "Attachable": True,
        "Ingress": False,
        "ConfigOnly": False,
        "ConfigFrom": None,
        "Options": {"encrypted": ""},
        "Labels": {"a": "b"},
    }
    accepted = accept_network(spec(**sent))
    assert (accepted.driver, accepted.scope) == ("overlay", "swarm")
    assert accepted.internal and accepted.attachable and accepted.labels == {"a": "b"}
    assert encrypted(accepted)


def test_a_network_without_a_driver_is_an_overlay() -> None:
    assert accept_network(spec()).driver == "overlay"


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (spec(Name=""), Kind.INVALID, "name must be provided"),
        (spec(Name="a.b"), Kind.INVALID, "DNS name component"),
        (spec(Name="x" * 64), Kind.INVALID, "63 characters"),
        (spec(Name="bridge"), Kind.FORBIDDEN, "operation is not permitted on predefined bridge network"),
        (spec(Name="ingress"), Kind.FORBIDDEN, "predefined ingress network"),
        (spec(Driver="bridge"), Kind.UNIMPLEMENTED, "--driver overlay"),
        (spec(Scope="local"), Kind.INVALID, "scope"),
        (spec(EnableIPv6=True), Kind.UNIMPLEMENTED, "IPv6"),
        (spec(EnableIPv4=False), Kind.UNIMPLEMENTED, "IPv4"),
        (spec(Ingress=True), Kind.UNIMPLEMENTED, "ingress network"),
        (spec(ConfigOnly=True), Kind.UNIMPLEMENTED, "configuration"),
        (spec(ConfigFrom={"Network": "x"}), Kind.UNIMPLEMENTED, "configuration"),
        (spec(IPAM={"Driver": "dhcp"}), Kind.INVALID, "invalid IPAM specified"),
        (spec(IPAM={"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "10.2.0.0/24"}]}), Kind.INVALID, "2 subnets"),
        (spec(Options={"encrypted": "perhaps"}), Kind.INVALID, "encrypted=perhaps"),
        (spec(Options={"com.docker.network.driver.mtu": "12"}), Kind.INVALID, "576 to 65535"),
        (spec(Options={"com.docker.network.driver.mtu": "١٤٥٠"}), Kind.INVALID, "576 to 65535"),
        (spec(Options={"com.docker.network.driver.overlay.vxlanid_list": "7"}), Kind.INVALID, "4096"),
        (with_config(Subnet=""), Kind.INVALID, "invalid subnet : invalid CIDR block notation"),
        (with_config(Subnet="10.9.0.0"), Kind.INVALID, "invalid subnet 10.9.0.0: invalid CIDR block notation"),
        (with_config(Subnet="10.9.0.0/255.255.255.0"), Kind.INVALID, "invalid CIDR block notation"),
        (with_config(Subnet="10.9.0.1/24"), Kind.INVALID, "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        (with_config(Subnet="10.0.0.0/8"), Kind.INVALID, "/16 to /28"),
        (with_config(Subnet="10.9.0.0/29"), Kind.INVALID, "/16 to /28"),
        (with_config(Subnet="127.1.0.0/16"), Kind.INVALID, "hosts have no such addresses"),
        (with_config(Subnet="fd00::/64"), Kind.UNIMPLEMENTED, "IPv6"),
        (with_config(IPRange="10.9.1.0/25"), Kind.INVALID, "parent subnet 10.9.0.0/24 doesn't contain ip-range"),
        (with_config(IPRange="10.9.0.0/16"), Kind.INVALID, "CIDR block is bigger than its parent subnet"),
        (with_config(IPRange="10.9.0.0/30"), Kind.INVALID, "size /28 or larger"),
        (with_config(Gateway="10.9.1.1"), Kind.INVALID, "invalid gateway 10.9.1.1: parent subnet 10.9.0.0/24"),
        (with_config(Gateway="nowhere"), Kind.INVALID, "invalid gateway nowhere: invalid address"),
        (with_config(AuxiliaryAddresses={"router": "10.8.0.1"}), Kind.INVALID, "auxiliary address router"),
        (
            with_config(AuxiliaryAddresses={"router": "10.9.0.63"}),
            Kind.INVALID,
            "10.9.0.0/26 is for the nodes' own",
        ),
        (
            with_config(IPRange="10.9.0.16/28", AuxiliaryAddresses={"router": "10.9.0.15"}),
            Kind.INVALID,
            "Give one above 10.9.0.15",
        ),
    ],
)
def test_a_wrong_spec_is_refused_and_says_why(wrong: NetworkSpec, kind: Kind, words: str) -> None:
    with pytest.raises(SwarmshError) as refusal:
        accept_network(wrong)
    assert refusal.value.kind is kind
    assert words in str(refusal.value)


def test_a_predefined_name_is_no_ones() -> None:
    with pytest.raises(Forbidden):
        accept_network(spec(Name="swgw"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (False, 1450)),
        ({"encrypted": ""}, (True, 1410)),
        ({"encrypted": "true"}, (True, 1410)),
        ({"encrypted": "false"}, (False, 1450)),
        ({"com.docker.network.driver.mtu": "1300"}, (False, 1300)),
        ({"encrypted": "", "com.docker.network.driver.mtu": "1390"}, (True, 1390)),
    ],
)
def test_encryption_takes_its_part_of_the_mtu(options: dict[str, str], expected: tuple[bool, int]) -> None:
    asked = spec(Options=options)
    assert (encrypted(asked), mtu(asked)) == expected


@pytest.mark.parametrize("links", [576, 1280, 1459, 1460, 1492, 1500, 9000, 9001])
def test_what_a_network_carries_fits_the_links_and_what_was_asked_for_wins(links: int) -> None:
    for secret in (False, True):
        options = {"encrypted": ""} if secret else {}
        found = mtu(spec(Options=options), links)
        assert found == max(576, min(links, 1500) - (90 if secret else 50))
        assert links < 700 or size_on_the_wire(found, encrypted=secret) <= links
        assert mtu(spec(Options=options | {"com.docker.network.driver.mtu": "1300"}), links) == 1300


def test_a_vni_can_be_asked_for() -> None:
    assert asked_vni(spec(Options={"com.docker.network.driver.overlay.vxlanid_list": "5000"})) == 5000
    assert asked_vni(spec()) is None
