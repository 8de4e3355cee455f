"""IPVS: message bytes against the table of the design's section 6, /proc/net/ip_vs, and what differs."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.net import ipvs, netlink
from remote_helpers.net.ipvs import Change, Service
from tests.unit.helpers.net.states import node_state

SHOWN = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A620001:0050 rr
  -> 0A620005:0050      Masq    1      0          0
FWM  53000001 rr
  -> 0A320102:0000      Masq    1      2          7
  -> 0A320103:0000      Masq    0      0          0
FWM  53000004 wlc persistent 30000 FFFFFFFF
  -> 0AFF020B:0050      Route   1      0          0
FWM  00000007 rr
  -> 0A320109:0000      Masq    1      0          0
"""


def fields(data: bytes) -> dict[int, bytes]:
    return dict(netlink.parse_attributes(data))


def test_a_service_is_added_with_the_attributes_of_the_table() -> None:
    payload = ipvs.pack_change(Change(1, 0x53000001, Service("wlc", 300, {})))
    assert payload[:4] == bytes([1, 1, 0, 0])
    service = fields(fields(payload[4:])[1])
    assert service == {
        1: struct.pack("=H", 2),
        5: struct.pack("=I", 0x53000001),
        6: b"wlc\0",
        7: struct.pack("=II", 1, 0xFFFFFFFF),
        8: struct.pack("=I", 300),
        9: b"\xff\xff\xff\xff",
    }
    assert len(payload) % 4 == 0


@pytest.mark.parametrize(
    ("scheduler", "persist_s", "flags"), [("rr", 0, 0), ("sh", 0, 8), ("mh", 60, 9), ("wlc", 60, 1), ("", 0, 0)]
)
def test_what_chooses_by_address_may_fall_back_from_a_backend_that_drains(
    scheduler: str, persist_s: int, flags: int
) -> None:
    state = node_state()
    state["ports"][0].update(scheduler=scheduler, persist_s=persist_s, port=80)  # where its backends listen
    service = ipvs.wanted(state)[0x53000004]
    payload = ipvs.pack_change(Change(1, 0x53000004, service))
    assert fields(fields(payload[4:])[1])[7] == struct.pack("=II", flags, 0xFFFFFFFF)
    # One that lost the flag is set again.
    without = {0x53000004: service._replace(flags=0)}
    now, _, words = ipvs.plan_changes({0x53000004: service}, without)
    assert [one.command for one in now] == ([ipvs.SET_SERVICE] if flags & 8 else []) and bool(words) == bool(now)


@pytest.mark.parametrize(("scheduler", "chosen"), [("rr", "mh"), ("wlc", "mh"), ("mh", "mh"), ("sh", "sh")])
def test_a_client_of_another_port_than_its_backends_is_kept_by_its_address(scheduler: str, chosen: str) -> None:
    """The kernel translates no port of what is persistent by a mark."""
    state = node_state()
    state["ports"][0].update(scheduler=scheduler, persist_s=60, port=8080)
    state["vips"][0].update(scheduler=scheduler, persist_s=60)
    service = ipvs.wanted(state)[0x53000004]
    assert (service.scheduler, service.persist_s, service.flags) == (chosen, 0, ipvs.FALLBACK)
    of_vip = ipvs.wanted(state)[0x53000001]
    assert (of_vip.scheduler, of_vip.persist_s) == (scheduler, 60)


def test_the_bytes_of_a_whole_message() -> None:
    payload = ipvs.pack_change(Change(7, 0x53000004, None, ("10.255.2.11", 80)))
    message = netlink.pack_message(0x1C, netlink.REQUEST | netlink.ACK, 9, payload)
    assert message == bytes.fromhex(
        "50000000" "1c00" "0500" "09000000" "00000000"  # length 80, family, REQUEST|ACK, number, port
        "07010000"  # DEL_DEST, version 1
        "1400" "0180" "0600" "0100" "0200" "0000" "0800" "0500" "04000053"  # service: af, fwmark
        "2800" "0280" "1400" "0100" "0aff020b" "00000000" "00000000" "00000000"  # dest: address
        "0600" "0200" "0050" "0000" "0600" "0b00" "0200" "0000"  # port in network order, family
    )  # fmt: skip


def test_a_dest_is_masqueraded_and_has_no_limits() -> None:
    payload = ipvs.pack_change(Change(5, 0x53000001, None, ("10.50.1.2", 0), 3))
    dest = fields(fields(payload[4:])[2])
    zero = struct.pack("=I", 0)
    assert dest == {
        1: bytes([10, 50, 1, 2]) + bytes(12),
        2: b"\0\0",
        11: struct.pack("=H", 2),
        3: zero,
        4: struct.pack("=I", 3),
        5: zero,
        6: zero,
    }


def test_timeouts_are_one_message() -> None:
    payload = ipvs.pack_timeouts((432000, 120, 300))
    assert payload[0] == 12
    found = {number: netlink.u32(value) for number, value in fields(payload[4:]).items()}
    assert found == {4: 432000, 5: 120, 6: 300}


def test_what_the_kernel_shows_is_read() -> None:
    assert ipvs.parse_services(SHOWN) == {
        0x53000001: Service("rr", 0, {("10.50.1.2", 0): 1, ("10.50.1.3", 0): 0}),
        0x53000004: Service("wlc", -1, {("10.255.2.11", 80): -1}),
        7: Service("rr", 0, {("10.50.1.9", 0): 1}),
    }


def test_counters_of_connections_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    read, parsed = ipvs.Parse(), []
    parse = ipvs.parse_services
    monkeypatch.setattr(ipvs, "parse_services", lambda text: (parsed.append(text), parse(text))[1])
    assert read(SHOWN) == parse(SHOWN)
    busy = SHOWN.replace("2          7\n", "31         1234567890\n")
    assert busy != SHOWN and read(busy) == parse(SHOWN) and len(parsed) == 1
    for one, other in (
        ("Masq    1      0", "Masq    65535  0"),
        ("0A320102:0000      Masq ", "0A320102:0000      Route"),
        ("wlc persistent 30000 FFFFFFFF", "wlc"),
    ):
        changed = SHOWN.replace(one, other)
        assert changed != SHOWN and read(changed) == parse(changed) != parse(SHOWN)


def test_only_what_differs_is_changed_and_only_ours() -> None:
    have = ipvs.parse_services(SHOWN)
    now, last, words = ipvs.plan_changes(ipvs.wanted(node_state()), have)
    assert [str(one) for one in now] == [
        "set 10.50.1.3:0 of service 0x53000001",
        "set service 0x53000004",
        "set 10.255.2.11:80 of service 0x53000004",  # it was not masqueraded
        "add 10.255.3.11:80 of service 0x53000004",
    ]
    assert last == [] and len(words) == 4
    now, last, words = ipvs.plan_changes({}, have)
    assert now == [] and [one.mark for one in last] == [0x53000001, 0x53000004]


def test_a_state_that_is_there_needs_nothing() -> None:
    want = ipvs.wanted(node_state())
    assert ipvs.plan_changes(want, want) == ([], [], [])


_addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
_dests = st.dictionaries(st.tuples(_addresses, st.just(80)), st.integers(0, 3))
_services = st.dictionaries(
    st.integers(0x53000000, 0x53000004) | st.integers(1, 3),
    st.builds(Service, st.sampled_from(["rr", "wlc"]), st.sampled_from([0, 300]), _dests),
)


@given(want=_services, have=_services)
def test_changes_carried_out_lead_to_what_is_wanted(want: dict[int, Service], have: dict[int, Service]) -> None:
    want = {mark: one for mark, one in want.items() if ipvs.is_ours(mark)}
    now, last, words = ipvs.plan_changes(want, have)
    after: dict[int, Any] = {mark: one._replace(dests=dict(one.dests)) for mark, one in have.items()}
    for one in [*now, *last]:
        if one.command == ipvs.ADD_SERVICE:
            assert one.mark not in after and one.service
            after[one.mark] = one.service._replace(dests={})
        elif one.command == ipvs.SET_SERVICE:
            assert one.service
            after[one.mark] = one.service._replace(dests=after[one.mark].dests)
        elif one.command == ipvs.DEL_SERVICE:
            del after[one.mark]
        elif one.command == ipvs.DEL_DEST:
            del after[one.mark].dests[one.dest]
        else:
            assert (one.dest in after[one.mark].dests) == (one.command == ipvs.SET_DEST)
            after[one.mark].dests[one.dest] = one.weight
    foreign = {mark: one for mark, one in have.items() if not ipvs.is_ours(mark)}
    assert after == {**foreign, **want}
    assert bool(words) == bool(now or last)
