"""What a check of the ways between nodes makes of what was sent and heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmsh.core.paths import Place, Seen, judge, largest_mtu, size_on_the_wire, sizes_needed, sizes_to_try
from swarmsh.model.objects import Cluster, NodeDescription
from swarmsh.model.paths import KINDS, Heard
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from tests.fakes.networked import NET1
from tests.fakes.objects import a_node

ONE, TWO = Place("id1", "n1", 1, "10.98.0.11"), Place("id2", "n2", 2, "10.98.0.12")
BOTH = [(ONE, TWO), (TWO, ONE)]
NEEDED = {1500: "the default MTU of networks"}


def all_heard(n: int) -> Heard:
    return Heard(n=n, source=f"10.98.0.{10 + n}", arrived=KINDS, let_in=KINDS, size=1500)


def seen(**there: object) -> Seen:
    """All well, but for what n2 heard of n1: fields of `Heard`."""
    found = Seen()
    found.heard = {"id2": {1: replace(all_heard(1), **there)}, "id1": {2: all_heard(2)}}
    return found


def lines(found: Seen) -> list[tuple[str, str, str]]:
    """Of the faults: node, detail, fix."""
    items = judge([ONE, TWO], BOTH, found, NEEDED)
    return [(item.node_id, item.detail, item.fix) for item in items if not item.ok]


def without(*kinds: str) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if kind not in kinds)


# --- sizes ---
def test_sizes_are_those_that_were_seen_on_the_wire() -> None:
    assert size_on_the_wire(1450, encrypted=False) == 1500
    assert size_on_the_wire(1410, encrypted=True) == 1496  # networking.md, 12


@given(size=st.integers(200, 9000), encrypted=st.booleans())
def test_the_largest_mtu_fits_and_one_more_does_not(size: int, encrypted: bool) -> None:
    mtu = largest_mtu(size, encrypted=encrypted)
    assert size_on_the_wire(mtu, encrypted=encrypted) <= size < size_on_the_wire(mtu + 1, encrypted=encrypted)


def test_sizes_that_networks_need_are_tried() -> None:
    large = replace(NET1, mtu=8950)
    snapshot = ClusterSnapshot().apply(Changes(put_networks=(large,)), 1)
    needed = sizes_needed(snapshot)
    assert needed == {1500: "the default MTU of networks", 9000: "network net1 (MTU 8950)"}
    narrow = replace(a_node(1), description=NodeDescription(mtus=(("10.0.0.1", 1460),)))
    cluster = Cluster(id="c", version=1, created_at=0.0, updated_at=0.0, egress_mtu=1400)
    there = ClusterSnapshot().apply(Changes(cluster=cluster, put_nodes=(narrow,)), 1)
    assert sizes_needed(there) == {1460: "the default MTU of networks", 1450: "the way of published ports"}
    tried = sizes_to_try(needed)
    assert tried[:2] == (9000, 1500)
    assert list(tried) == sorted(tried, reverse=True)
    assert len(sizes_to_try(range(2000, 9000))) <= 60


# --- all is well ---
def test_a_node_whose_packets_all_arrive_has_one_line() -> None:
    items = judge([ONE, TWO], BOTH, seen(), NEEDED)
    assert [(item.node_id, item.ok) for item in items] == [("id1", True), ("id2", True)]
    assert items[0].detail == (
        "UDP 4789, UDP 4790 and ESP (IP protocol 50) reach 1 node, in packets of 1500 bytes: "
        "MTU 1450 fits, encrypted 1416"
    )


# --- faults ---
@pytest.mark.parametrize(
    ("kind", "words"), [("udp4789", "UDP 4789"), ("udp4790", "UDP 4790"), ("esp", "ESP (IP protocol 50)")]
)
def test_what_does_not_arrive_is_for_firewalls_between(kind: str, words: str) -> None:
    ((node, detail, fix),) = lines(seen(arrived=without(kind), let_in=without(kind)))
    assert (node, detail) == ("id1", f"{words} from 10.98.0.11 does not arrive at n2 (10.98.0.12)")
    assert fix.startswith("Let firewalls between them")
    assert f"pass {words} from 10.98.0.11 to 10.98.0.12" in fix


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("udp4789", "-p udp --dport 4789"), ("udp4790", "-p udp --dport 4790"), ("esp", "-p esp")],
)
def test_what_arrives_and_is_not_let_in_is_for_the_receivers_own(kind: str, rule: str) -> None:
    ((_, detail, fix),) = lines(seen(let_in=without(kind)))
    assert detail.endswith("arrives at n2, whose own firewall drops it")
    assert fix.startswith(f"On n2: iptables -I INPUT -s 10.98.0.11 {rule} -j ACCEPT (")


def test_what_the_senders_kernel_refuses_is_for_the_senders_own() -> None:
    found = seen(arrived=without("esp"), let_in=without("esp"))
    found.refused = {"id1": {2: {"esp": "Operation not permitted"}}}
    ((node, detail, fix),) = lines(found)
    assert (node, fix) == ("id1", "On n1: iptables -I OUTPUT -d 10.98.0.12 -p esp -j ACCEPT")
    assert detail.endswith("may not leave n1: Operation not permitted")


def test_one_fault_of_all_kinds_is_one_line() -> None:
    ((_, detail, _),) = lines(seen(arrived=(), let_in=(), size=0))
    assert detail.startswith("UDP 4789, UDP 4790 and ESP (IP protocol 50) from 10.98.0.11 does not arrive")


def test_an_address_that_the_node_does_not_have() -> None:
    found = seen(arrived=(), let_in=(), size=0, source="")
    found.refused = {"id1": {2: dict.fromkeys(KINDS, "Cannot assign requested address")}}
    ((_, detail, fix),) = lines(found)
    assert detail == "nothing can be sent from 10.98.0.11 to n2 (10.98.0.12): Cannot assign requested address"
    assert "swarmsh_underlay" in fix


def test_a_translated_address_is_a_fault() -> None:
    ((_, detail, fix),) = lines(seen(source="192.0.2.1"))
    assert detail == "packets of n1 reach n2 from 192.0.2.1, not from 10.98.0.11"
    assert "swarmsh_underlay" in fix


def test_packets_that_are_too_long_are_told_with_the_mtu_that_fits() -> None:
    ((_, detail, fix),) = lines(seen(size=1450))
    assert detail == "at most 1450 bytes pass from n1 to n2 in one packet; the default MTU of networks needs 1500"
    assert "driver.mtu=1400 (encrypted: 1364)" in fix


def test_the_mtu_is_not_judged_where_nothing_arrives_to_judge_by() -> None:
    assert len(lines(seen(arrived=without("udp4789"), let_in=without("udp4789"), size=0))) == 1


# --- nodes with networks: our own rules close UDP 4790 to plaintext ---
@pytest.mark.parametrize(
    ("guarded", "refused", "arrived", "let_in", "fault"),
    [
        # No key between them: the kernel, or our rule, sends nothing.
        ({"id1", "id2"}, {"udp4790": "Operation not permitted"}, without("udp4790"), without("udp4790"), ""),
        # The sender knows of no network yet; the receiver's own rule drops what arrives.
        ({"id2"}, {}, KINDS, without("udp4790"), ""),
        ({"id2"}, {}, without("udp4790"), without("udp4790"), "does not arrive"),
        # Sent in ESP, which arrives, and not let in after decryption.
        ({"id1", "id2"}, {}, without("udp4790"), without("udp4790"), "whose own firewall drops it"),
        # ESP itself is lost: that is the fault, once.
        ({"id1", "id2"}, {}, ("udp4789",), ("udp4789",), "ESP (IP protocol 50) from"),
    ],
)
def test_port_4790_where_there_are_networks(guarded, refused, arrived, let_in, fault) -> None:  # type: ignore[no-untyped-def]
    found = seen(arrived=arrived, let_in=let_in)
    found.guarded, found.refused = guarded, {"id1": {2: refused}}
    told = lines(found)
    assert len(told) == bool(fault), told
    if fault:
        assert fault in told[0][1]
    else:
        first = judge([ONE, TWO], BOTH, found, NEEDED)[0]
        assert ("not tried" in first.detail) == ("udp4790" not in arrived)


# --- who cannot be asked ---
def test_a_node_that_does_not_answer_is_one_line_and_no_pair_is_judged_by_it() -> None:
    found = seen()
    found.failed = {"id2": "it could not be asked: no answer"}
    (item,) = judge([ONE], BOTH, found, NEEDED)
    assert (item.node_id, item.ok, item.detail) == ("id2", False, "it could not be asked: no answer")
