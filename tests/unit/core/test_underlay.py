"""By which address nodes reach each other: one that two have is neither's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.core.underlay import lack_of_underlay, least_mtu, sharing, underlay_mtu, underlays
from swarmsh.model.objects import Node
from tests.fakes.objects import a_node


def at(number: int, address: str, underlay: str = "", seen: str = "") -> Node:
    node = a_node(number)
    return replace(
        node,
        target=replace(node.target, address=address, underlay=underlay),
        description=replace(node.description, address=seen),
    )


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([at(1, "192.0.2.1"), at(2, "192.0.2.2")], {1: "192.0.2.1", 2: "192.0.2.2"}),
        ([at(1, "192.0.2.1"), at(2, "192.0.2.1"), at(3, "192.0.2.3")], {3: "192.0.2.3"}),
        # By name, and by the address that the name led to.
        ([at(1, "gate.example", seen="192.0.2.1"), at(2, "192.0.2.1")], {}),
        # The inventory's word counts more than where the manager got to.
        ([at(1, "192.0.2.1", "192.0.2.1"), at(2, "192.0.2.1")], {1: "192.0.2.1"}),
        ([at(1, "192.0.2.1", "10.0.0.1"), at(2, "192.0.2.1", "10.0.0.2")], {1: "10.0.0.1", 2: "10.0.0.2"}),
        ([at(1, "192.0.2.1", "10.0.0.1"), at(2, "192.0.2.2", "10.0.0.1")], {}),
        ([at(1, "n1.example"), at(2, "n2.example")], {}),
    ],
)
def test_an_address_is_a_nodes_if_no_other_has_it(nodes: list[Node], found: dict[int, str]) -> None:
    assert underlays(nodes) == {a_node(n).id: address for n, address in found.items()}
    for node in nodes:
        assert bool(lack_of_underlay(node, nodes)) == (node.number not in found)


def with_mtu(node: Node, *mtus: tuple[str, int]) -> Node:
    return replace(node, description=replace(node.description, mtus=mtus))


def test_the_least_mtu_is_that_of_the_devices_that_have_the_underlay_addresses() -> None:
    one = with_mtu(at(1, "192.0.2.1", "10.0.0.1"), ("192.0.2.1", 1280), ("10.0.0.1", 9000))
    two = with_mtu(at(2, "192.0.2.2"), ("172.17.0.1", 1500), ("192.0.2.2", 8900))
    mapped = with_mtu(at(3, "192.0.2.3"), ("10.1.1.1", 1300))  # has its address from somebody else's translation
    assert [underlay_mtu(node) for node in (one, two, mapped)] == [9000, 8900, 0]
    assert least_mtu([one, two]) == 8900
    assert least_mtu([one, two, mapped]) == 1500, "who does not say it has what is usual"
    assert least_mtu([one, with_mtu(two, ("192.0.2.2", 1460))]) == 1460
    assert least_mtu([]) == 1500
    # Of a node that can have no networks nothing depends.
    assert least_mtu([one, at(4, "n4.example")]) == 9000


def test_why_a_node_has_none_is_said() -> None:
    nodes = [at(n, "192.0.2.1") for n in range(1, 7)]
    assert sharing(nodes[0], nodes[:2]) == "n2"
    assert sharing(nodes[0], nodes) == "n2, n3, n4 and 2 more"
    assert "192.0.2.1 is that of n1 as well" in lack_of_underlay(nodes[1], nodes[:2])
    assert "no IPv4 address is known" in lack_of_underlay(at(1, "n1.example"), nodes)
    assert sharing(nodes[0], nodes[:1]) == lack_of_underlay(nodes[0], nodes[:1]) == ""
