"""Devices and what is on them: the order that is safe, each kind of drift, and nothing for nothing."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from remote_helpers.net import kernel, links, netlink
from remote_helpers.net.kernel import Link, Route, Rule, Seen
from remote_helpers.net.networks import LABEL, bodies
from remote_helpers.net.numbers import BadState, check_state, egress_mac, is_empty, looks_ours
from tests.unit.helpers.net.states import NET1, node_state

UP = kernel.UP


def settled(want: links.Wanted) -> Seen:
    """What a node shows that has all that is wanted, and a container's port with hairpin."""
    found = {}
    for i, (name, mac) in enumerate(sorted(want.bridges.items())):
        found[name] = Link(10 + i, name, "bridge", mac, 1500, UP, 0)
    for i, (name, one) in enumerate(sorted(want.vxlans.items())):
        flags = UP if one.bridge else UP | kernel.NOARP
        master = found[one.bridge].index if one.bridge else 0
        hairpin = False if one.bridge else None
        found[name] = Link(20 + i, name, "vxlan", one.mac, one.mtu, flags, master, one.fixed, hairpin)
    for i, (name, mac) in enumerate(sorted(want.pair.items())):
        found[name] = Link(40 + i, name, "veth", mac, 1500, UP | kernel.NOARP, 0)
    found["veth1"] = Link(30, "veth1", "veth", "02:42:0a:32:01:02", 1450, UP, found["sb1000"].index, (), True)
    found["docker0"] = Link(3, "docker0", "bridge", "02:42:00:00:00:01", 1500, UP, 0)
    filters = {(name, 2) for name in want.vxlans} | {(name, 1) for name, _, _ in want.arp_drops}
    return Seen(
        links=found,
        addresses=set(want.addresses),
        fdb=set(want.fdb),
        neighbours=set(want.neighbours),
        routes=set(want.routes),
        rules=set(want.rules),
        guards=set(want.vxlans),
        arp_drops=set(want.arp_drops),
        filters=filters,
        sysctls=dict(want.sysctls),
    )


WANT = links.wanted(node_state())
EMPTY = Seen({}, set(), set(), set(), set(), set(), set(), set(), set(), {})


def lines(plan: links.Plan, *tools: str) -> list[str]:
    return [line for step in plan.steps if not tools or step.tool in tools for line in step.lines]


def test_a_node_that_has_all_needs_nothing() -> None:
    seen = settled(WANT)
    assert links.plan_links(WANT, seen) == links.Plan([], [])
    assert links.plan_removal(WANT, seen) == links.Plan([], [])
    assert links.plan_hairpin(seen.links) == links.Plan([], [])
    assert links.unguarded(seen) == []


def test_a_new_node_gets_its_guards_before_a_device_is_up() -> None:
    bridges = {name: one for name, one in settled(WANT).links.items() if one.kind == "bridge"}
    plan = links.plan_links(WANT, EMPTY._replace(links=bridges), frozenset(WANT.bridges))
    assert [step.tool for step in plan.steps] == ["ip", "write", "tc", "bridge", "ip"]
    assert plan.steps[0].lines[:6] == (
        "link add sv1000 address 02:5e:0a:32:00:02 mtu 1450 type vxlan id 4096 local 10.98.0.12 dstport 4789 "
        "learning ttl 64 noudpcsum",
        "link add swgwv address 02:5f:0a:ff:02:01 mtu 1450 type vxlan id 4095 local 10.98.0.12 dstport 4789 "
        "nolearning ttl 64 noudpcsum",
        "link set swgwv arp off",
        "link add swlo0 address 02:5c:0a:ff:00:01 type veth peer name swlo1 address 02:5c:0a:ff:00:01",
        "link set swlo0 arp off",
        "link set swlo1 arp off",
    )
    assert not any(" up" in line or "master" in line for step in plan.steps[:-1] for line in map(str, step.lines))
    assert plan.steps[2].lines == (
        "qdisc replace dev sv1000 clsact",
        "filter add dev sv1000 egress protocol all prio 2 matchall action skbedit mark 0",
        DROP_ARP,
        "qdisc replace dev swgwv clsact",
        "filter add dev swgwv egress protocol all prio 2 matchall action skbedit mark 0",
    )
    assert plan.steps[3].lines == (
        "fdb append 00:00:00:00:00:00 dev sv1000 dst 10.98.0.11 self permanent",
        "fdb append 00:00:00:00:00:00 dev sv1000 dst 10.98.0.13 self permanent",
        "fdb append 02:5f:0a:ff:01:01 dev swgwv dst 10.98.0.11 self permanent",
        "fdb append 02:5f:0a:ff:03:01 dev swgwv dst 10.98.0.13 self permanent",
    )
    assert plan.steps[4].lines == (
        "link set sv1000 master sb1000",
        "link set sv1000 up",
        "link set swgwv up",
        "link set swlo0 up",
        "link set swlo1 up",
        "neigh replace 10.255.1.1 lladdr 02:5f:0a:ff:01:01 dev swgwv nud permanent",
        "neigh replace 10.255.3.1 lladdr 02:5f:0a:ff:03:01 dev swgwv nud permanent",
        "route replace 10.255.0.1/32 dev swlo0 table 254",
        "route replace local 10.255.0.1/32 dev swlo1 table 24200",
        "route replace 10.255.0.2/32 dev swlo1 table 254",
        "route replace 10.255.1.0/24 via 10.255.1.1 dev swgwv onlink src 10.255.2.1 table 254",
        "route replace 10.255.3.0/24 via 10.255.3.1 dev swgwv onlink src 10.255.2.1 table 254",
        "route replace local 10.50.128.0/17 dev sb1000 table 255",
        "route replace default via 10.255.1.1 dev swgwv onlink table 24201",
        "route replace default via 10.255.3.1 dev swgwv onlink table 24203",
        "rule add iif swgw0 fwmark 0x5f01/0xffff lookup 24201 pref 1000",
        "rule add iif swgw0 fwmark 0x5f03/0xffff lookup 24203 pref 1000",
        "rule add iif swlo1 lookup 24200 pref 1000",
    )
    assert [word for word in plan.words if word.startswith("link")] == [
        "link sv1000 was missing",
        "link swgwv was missing",
        "link swlo0 was missing",
        "link swlo1 was missing",
    ]


def test_a_deleted_device_is_made_whole_and_told_in_one_line() -> None:
    seen = settled(WANT)
    del seen.links["sv1000"]
    for found in (seen.fdb, seen.arp_drops, seen.filters):
        found -= {one for one in found if one[0] == "sv1000"}
    seen.guards.discard("sv1000")
    plan = links.plan_links(WANT, seen)
    assert plan.words == ["link sv1000 was missing"]
    assert [step.tool for step in plan.steps] == ["ip", "write", "tc", "bridge", "ip"]
    assert links.unguarded(seen) == []


def test_a_device_with_another_vni_is_made_anew() -> None:
    seen = settled(WANT)
    seen.links["sv1000"] = seen.links["sv1000"]._replace(vxlan=(9, "10.98.0.12", 4789, True))
    plan = links.plan_links(WANT, seen)
    assert plan.words == ["link sv1000 was different"]
    assert lines(plan)[0] == "link del sv1000"
    assert "filter add dev sv1000 egress protocol all prio 2 matchall action skbedit mark 0" in lines(plan, "tc")


DROP_ARP = "filter add dev sv1000 egress protocol arp prio 1 u32 match u32 0xa328000 0xffff8000 at 24 action drop"
FLOOD = ("sv1000", "00:00:00:00:00:00", "10.98.0.11")
LEFT = "10.98.0.99"


def changed(**changes: Any) -> Seen:
    return settled(WANT)._replace(**changes)


@pytest.mark.parametrize(
    ("seen", "word", "line"),
    [
        (
            changed(fdb=WANT.fdb - {FLOOD}),
            "FDB entry 00:00:00:00:00:00 to 10.98.0.11 of sv1000 was missing",
            "fdb append 00:00:00:00:00:00 dev sv1000 dst 10.98.0.11 self permanent",
        ),
        (
            changed(fdb=WANT.fdb | {("sv1000", "00:00:00:00:00:00", LEFT)}),
            f"FDB entry 00:00:00:00:00:00 to {LEFT} of sv1000 was left over",
            f"fdb del 00:00:00:00:00:00 dev sv1000 dst {LEFT} self",
        ),
        (
            changed(neighbours=set()),
            "neighbour 10.255.1.1 of swgwv was missing",
            "neigh replace 10.255.1.1 lladdr 02:5f:0a:ff:01:01 dev swgwv nud permanent",
        ),
        (
            changed(routes=WANT.routes - {Route("10.50.128.0/17", "sb1000", "", "", 255, True, False)}),
            "route 10.50.128.0/17 by sb1000 was missing",
            "route replace local 10.50.128.0/17 dev sb1000 table 255",
        ),
        (
            changed(routes=WANT.routes | {Route("10.255.9.0/24", "swgwv", "10.255.9.1", "", 254, False, True)}),
            "route 10.255.9.0/24 by swgwv was left over",
            "route del 10.255.9.0/24 via 10.255.9.1 dev swgwv onlink table 254",
        ),
        (
            changed(rules=WANT.rules - {Rule("swgw0", 0x5F03, 0xFFFF, 24203, 1000)}),
            "rule for mark 0x5f03 was missing",
            "rule add iif swgw0 fwmark 0x5f03/0xffff lookup 24203 pref 1000",
        ),
        (
            changed(rules=WANT.rules | {Rule("swgw0", 0x5F09, 0xFFFF, 24209, 1000)}),
            "rule for mark 0x5f09 was left over",
            "rule del iif swgw0 fwmark 0x5f09/0xffff lookup 24209 pref 1000",
        ),
        (
            changed(guards={"sv1000"}, filters={("sv1000", 1), ("sv1000", 2), ("swgwv", 2)}),
            "mark guard of swgwv was missing",
            "filter del dev swgwv egress prio 2",  # another filter had its place
        ),
        (
            changed(arp_drops=set(), filters={("sv1000", 2), ("swgwv", 2)}),
            "ARP filter of sv1000 was missing",
            DROP_ARP,
        ),
        (
            changed(addresses={one for one in WANT.addresses if one[0] != "swgwv"}),
            "address 10.255.2.1 of swgwv was missing",
            "address add 10.255.2.1/32 dev swgwv",
        ),
        (
            changed(sysctls={**WANT.sysctls, "net/ipv4/vs/conntrack": "0"}),
            "sysctl net.ipv4.vs.conntrack was 0",
            ("/proc/sys/net/ipv4/vs/conntrack", "1"),
        ),
    ],
)
def test_drift_is_told_and_mended(seen: Seen, word: str, line: object) -> None:
    plan = links.plan_links(WANT, seen)
    assert word in plan.words
    assert line in lines(plan)


@pytest.mark.parametrize(
    ("device", "changes", "word", "line"),
    [
        ("sv1000", {"flags": 0}, "link sv1000 was down", "link set sv1000 up"),
        ("sv1000", {"master": 0}, "link sv1000 was not in sb1000", "link set sv1000 master sb1000"),
        ("sb1000", {"mac": "02:42:ac:00:00:01"}, "MAC of sb1000 was 02:42:ac:00:00:01",
         "link set sb1000 address 02:5d:0a:32:00:02"),
        ("swgwv", {"flags": UP}, "ARP of swgwv was on", "link set swgwv arp off"),
        ("swgwv", {"mtu": 1400}, "MTU of swgwv was 1400", "link set swgwv mtu 1450"),
    ],
)  # fmt: skip
def test_a_changed_device_is_changed_back(device: str, changes: dict[str, Any], word: str, line: str) -> None:
    seen = settled(WANT)
    seen.links[device] = seen.links[device]._replace(**changes)
    plan = links.plan_links(WANT, seen)
    assert plan.words == [word] and lines(plan) == [line]


def test_a_bridge_that_is_not_there_leaves_its_device_down() -> None:
    seen = settled(WANT)
    del seen.links["sb1000"]
    seen.links["sv1000"] = seen.links["sv1000"]._replace(flags=0, master=0)
    assert not any("sb1000" in line or "sv1000 up" in line for line in lines(links.plan_links(WANT, seen)))


def test_what_no_network_wants_any_more_goes() -> None:
    state = node_state()
    state["networks"], state["peers"] = [], state["peers"][:1]
    want, seen = links.wanted(state), settled(WANT)
    plan = links.plan_links(want, seen)
    assert "fdb del 02:5f:0a:ff:03:01 dev swgwv dst 10.98.0.13 self" in lines(plan)
    assert "neigh del 10.255.3.1 dev swgwv" in lines(plan)
    removal = links.plan_removal(want, seen)
    assert lines(removal)[0] == "link del sv1000"
    assert "route del local 10.50.128.0/17 dev sb1000 table 255" in lines(removal)
    everything = lines(links.plan_removal(links.NOTHING, seen))
    assert everything[:2] == ["link del sv1000", "link del swgwv"] and "docker0" not in " ".join(everything)


def test_a_naked_device_is_told() -> None:
    seen = settled(WANT)
    seen.guards.discard("sv1000")
    assert links.unguarded(seen) == ["sv1000"]


def test_hairpin_is_for_containers_ports_of_our_bridges() -> None:
    seen = settled(WANT)
    seen.links["veth1"] = seen.links["veth1"]._replace(hairpin=False)
    seen.links["veth2"] = Link(31, "veth2", "veth", "", 1500, UP, seen.links["docker0"].index, (), False)
    plan = links.plan_hairpin(seen.links)
    assert lines(plan) == [("/sys/class/net/veth1/brport/hairpin_mode", "1")]
    assert plan.words == ["hairpin of veth1 in sb1000 was off"]


def test_docker_networks_are_internal_but_for_the_way_out() -> None:
    made = bodies(node_state())
    assert made["swgw0"]["Internal"] is False and made["sb1000"]["Internal"] is True
    assert made["swgw0"]["IPAM"]["Config"] == [{"Subnet": "10.255.2.0/24", "Gateway": "10.255.2.1"}]
    assert made["swgw0"]["Options"] == {
        "com.docker.network.bridge.name": "swgw0",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected",
        "com.docker.network.driver.mtu": "1450",
    }
    assert made["sb1000"]["Name"] == "net1" and made["sb1000"]["Labels"] == {LABEL: NET1}


def test_numbers_that_would_collide_are_refused() -> None:
    check_state(node_state())
    for n in (256, 0, True, "2", 1):  # 1 is a peer's
        state = node_state()
        state["node"]["n"] = n
        with pytest.raises(BadState, match="node number"):
            check_state(state)
    state = node_state()
    state["networks"][0]["vni"] = 4095
    with pytest.raises(BadState, match="VNI"):
        check_state(state)
    state = node_state()
    state["networks"][0]["peers"] = [9]
    with pytest.raises(BadState, match="peers"):
        check_state(state)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("ports", "bind", "10.0.0.1 -j ACCEPT", "illegal IP"),
        ("ports", "protocol", "sctp", "sctp"),
        ("vips", "address", "10.50.128.5/8", "illegal IP"),
        ("vips", "network", "another", "not in networks"),
        ("vips", "dests", [{"address": "web", "weight": 1}], "illegal IP"),
        ("peers", "underlay", "", "illegal IP"),
        ("tasks", "addresses", None, "TypeError"),
        ("ports", "port", "80 -j ACCEPT", "port '80 -j ACCEPT' is not in"),
        ("ports", "port", 0, "port 0 is not in"),
        ("ports", "scheduler", "rr -x", "scheduler"),
        ("ports", "persist_s", -1, "persist_s"),
        ("ports", "dests", [{"address": "10.255.2.11", "weight": 1}], "KeyError: 'port'"),
        ("ports", "dests", [{"address": "10.255.2.11", "port": 80, "weight": "1"}], "weight '1'"),
        ("ports", "id", 1, "one id is there twice"),
        ("vips", "dests", [{"address": "10.50.1.2"}], "KeyError: 'weight'"),
        ("networks", "subnet", "10.50.0.1/16", "host bits"),
        ("networks", "vips", "10.50.128.0/255.255.128.0", "is to be written 10.50.128.0/17"),
        ("networks", "vips", "10.51.0.0/17", "is not in 10.50.0.0/16"),
        ("networks", "gateway", "10.51.0.2", "is not in 10.50.0.0/16"),
        ("networks", "mtu", None, "MTU None"),
        ("networks", "encrypted", "no", "encrypted is 'no'"),
        ("networks", "labels", {"a": 1}, "label 'a'"),
        ("networks", "labels", [], "AttributeError"),
        ("networks", "name", "swgw", "one network name is there twice"),
    ],
)
def test_what_cannot_be_gets_into_no_text(part: str, key: str, value: object, words: str) -> None:
    state = node_state()
    state[part][0][key] = value
    with pytest.raises(BadState, match=words):
        check_state(state)


def test_timeouts_are_whole_seconds_that_the_kernel_can_count() -> None:
    state = node_state()
    for given in ({"tcp": 1, "tcp_fin": 1, "udp": 1}, {"tcp": 2147482, "tcp_fin": 120, "udp": 300, "sctp": 0}):
        state["egress"]["timeouts_s"] = given
        check_state(state)
    for kind in ("tcp", "tcp_fin", "udp"):
        for wrong in (0, -1, 2147483, 60.5, "60", True, None):
            state["egress"]["timeouts_s"] = {"tcp": 60, "tcp_fin": 60, "udp": 60, kind: wrong}
            with pytest.raises(BadState, match=f"timeout {kind} "):
                check_state(state)
        del state["egress"]["timeouts_s"][kind]
        with pytest.raises(BadState, match=kind):
            check_state(state)


@pytest.mark.parametrize("section", ["node", "egress", "peers", "networks", "vips", "ports", "tasks", "v"])
def test_a_section_that_is_missing_is_refused_before_anything(section: str) -> None:
    state = node_state()
    del state[section]
    with pytest.raises(BadState):
        check_state(state)


def test_nothing_wanted_is_told_from_nonsense() -> None:
    assert is_empty({}) and is_empty({"v": 1, "networks": [], "ports": [], "tasks": [], "peers": [{"n": 1}]})
    assert not is_empty(node_state()) and not is_empty({"ports": [{}]})
    for nonsense in ([], None, {"networks": 3}):
        with pytest.raises(BadState):
            is_empty(nonsense)  # type: ignore[arg-type]


def test_macs_tell_the_node() -> None:
    assert egress_mac(1, node_state()) == "02:5f:0a:ff:01:01"
    names = ("swgw0", "sv1000", "sb1", "svc-lan0", "sbcafe")
    assert [name for name in names if looks_ours(name)] == ["swgw0", "sv1000", "sbcafe"]


@pytest.mark.parametrize(
    ("link", "ours"),
    [
        (Link(1, "sb1000", "bridge", "02:5d:0a:32:00:02", 1500, UP, 0), True),
        (Link(1, "sbcafe", "bridge", "5a:01:02:03:04:05", 1500, UP, 0), False),
        (Link(1, "swgw0", "bridge", "02:42:01:02:03:04", 1500, UP, 0), True),
        (Link(1, "sbcafe", "veth", "02:5d:0a:32:00:02", 1500, UP, 0), False),
        (Link(1, "sv1000", "vxlan", "5a:01:02:03:04:05", 1500, UP, 0, (4096, "10.0.0.1", 4790, True)), True),
        (Link(1, "sv1000", "vxlan", "02:5e:0a:32:00:02", 1500, UP, 0, (9, "10.0.0.1", 4789, True)), True),
        (Link(1, "svbeef", "vxlan", "5a:01:02:03:04:05", 1500, UP, 0, (4096, "10.0.0.1", 4789, True)), False),
        (Link(1, "svbeef", "vxlan", "5a:01:02:03:04:05", 1500, UP, 0, (0xBEEF, "10.0.0.1", 8472, True)), False),
        (Link(1, "swgwv", "vxlan", "5a:01:02:03:04:05", 1500, UP, 0, (4095, "10.0.0.1", 4789, True)), True),
        (Link(1, "br1000", "bridge", "02:5d:0a:32:00:02", 1500, UP, 0), False),
    ],
)
def test_whose_a_device_is_its_name_alone_does_not_tell(link: Link, ours: bool) -> None:
    assert links.is_ours(link) is ours


# --- what the kernel says -----------------------------------------------------------------------------------
def test_a_vxlan_device_is_read_from_its_message() -> None:
    data = struct.pack("=BxHiII", 0, 1, 7, UP, 0) + b"".join(
        (
            netlink.pack_attribute(3, b"sv1000\0"),
            netlink.pack_attribute(1, bytes.fromhex("025e0a320002")),
            netlink.pack_u32(4, 1450),
            netlink.pack_u32(10, 5),
            netlink.pack_nested(
                18,
                netlink.pack_attribute(1, b"vxlan\0"),
                netlink.pack_nested(
                    2,
                    netlink.pack_u32(1, 4096),
                    netlink.pack_attribute(4, bytes([10, 98, 0, 12])),
                    netlink.pack_attribute(15, struct.pack("!H", 4789)),
                    netlink.pack_attribute(7, b"\1"),
                ),
                netlink.pack_attribute(4, b"bridge\0"),
                netlink.pack_nested(5, netlink.pack_attribute(4, b"\0")),
            ),
        )
    )
    assert kernel.parse_link(data) == Link(
        7, "sv1000", "vxlan", "02:5e:0a:32:00:02", 1450, UP, 5, (4096, "10.98.0.12", 4789, True), False
    )


def test_messages_that_follow_each_other_are_parted() -> None:
    data = netlink.pack_message(2, 0, 1, b"abcde") + netlink.pack_message(3, 2, 2, b"")
    assert list(netlink.parse_messages(data)) == [(2, 0, 1, b"abcde"), (3, 2, 2, b"")]
    assert list(netlink.parse_messages(data[:5])) == []


# --- reading at little cost ---
class Dumps:
    """Answers to dumps, by their kind; asked for as `kernel.Netlink`."""

    def __init__(self) -> None:
        self.entries: dict[int, list[bytes]] = {}

    def __enter__(self) -> Dumps:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        return list(self.entries.get(kind, []))


def link_entry(index: int, name: str, mtu: int = 1500) -> bytes:
    head = struct.pack("=BxHiII", 0, 0, index, UP, 0)
    return head + netlink.pack_attribute(3, name.encode() + b"\0") + netlink.pack_u32(4, mtu)


def address_entry(index: int, address: bytes) -> bytes:
    return struct.pack("=BBBBI", 2, 24, 0, 0, index) + netlink.pack_attribute(2, address)


def test_what_is_told_as_before_is_not_taken_apart_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps, taken = Dumps(), []
    monkeypatch.setattr(kernel, "Netlink", lambda protocol: dumps)
    parse = kernel.parse_link
    monkeypatch.setattr(kernel, "parse_link", lambda data: taken.append(data) or parse(data))
    dumps.entries = {
        kernel.GET_LINK: [link_entry(5, "swgw0"), link_entry(6, "eth0")],
        kernel.GET_ADDRESS: [address_entry(5, b"\x0a\xff\2\1"), address_entry(6, b"\x0a\0\0\1")],
    }
    read = kernel.Read()
    first = read(looks_ours, ())
    assert first.addresses == {("swgw0", "10.255.2.1", 24)} and len(taken) == 2
    assert read(looks_ours, ()) == first and len(taken) == 2
    dumps.entries[kernel.GET_LINK][0] = link_entry(5, "swgw0", 1400)
    assert read(looks_ours, ()).links["swgw0"].mtu == 1400 and len(taken) == 3
    # The same words about an index that is another device's by now mean another thing.
    dumps.entries[kernel.GET_LINK] = [link_entry(6, "swgw0"), link_entry(5, "eth0")]
    assert read(looks_ours, ()).addresses == {("swgw0", "10.0.0.1", 24)}
    dumps.entries.clear()
    assert read(looks_ours, ()) == EMPTY


def test_a_setting_is_read_without_its_line_end_and_one_that_is_not_there_is_none() -> None:
    assert kernel.read_sysctl("kernel/ostype") == "Linux"
    assert kernel.read_sysctl("net/ipv4/nosuch") is None
