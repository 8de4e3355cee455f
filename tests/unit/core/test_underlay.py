"""By which address nodes reach each other: one that two have is neither's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.core.underlay import lack_of_underlay, sharing, underlays
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


def test_why_a_node_has_none_is_said() -> None:
    nodes = [at(n, "192.0.2.1") for n in range(1, 7)]
    assert sharing(nodes[0], nodes[:2]) == "n2"
    assert sharing(nodes[0], nodes) == "n2, n3, n4 and 2 more"
    assert "192.0.2.1 is that of n1 as well" in lack_of_underlay(nodes[1], nodes[:2])
    assert "no IPv4 address is known" in lack_of_underlay(at(1, "n1.example"), nodes)
    assert sharing(nodes[0], nodes[:1]) == lack_of_underlay(nodes[0], nodes[:1]) == ""
