"""Sets of what is marked: message bytes, a dump as a kernel told it, what is wanted and what differs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.net import ipsets, netlink
from remote_helpers.net.ipsets import ADD, BOUND, CREATE, DEL, DESTROY, OWN, TCP, UDP, VIPS, Change
from remote_helpers.net.netlink import NetlinkError
from tests.unit.helpers.net.states import node_state

VIP_MARK, PORT_MARK = 0x53000001, 0x53000004
# Dumps of Linux 6.18, each the payload of one answer.
DUMPS: dict[str, list[str]] = {
    VIPS: [
        "02000000050001000600000011000200737761726d73682d76697073000000000c000300686173683a69700005000500"
        "0200000005000400040000003400078008001240000004000800134000100000080019400000000008001a4000000168"
        "080018400000000208000840000000403c0008801c0007800c000180080001000a0102030c001b4053000001ffffffff"
        "1c0007800c000180080001000a0102040c001b4053000009ffffffff",
    ],
    TCP: [
        "02000000050001000600000010000200737761726d73682d74637000100003006269746d61703a706f72740005000500"
        "00000000050004000300000034000780060004400000000006000540ffff0000080019400000000008001a4000102048"
        "08001840000000020800084000000040340008801800078006000440005000000c001b4053000005ffffffff18000780"
        "060004401f9000000c001b4053000004ffffffff",
    ],
    UDP: [
        "02000000050001000600000010000200737761726d73682d75647000100003006269746d61703a706f72740005000500"
        "00000000050004000300000034000780060004400000000006000540ffff0000080019400000000008001a4000102048"
        "0800184000000000080008400000004004000880",
    ],
    BOUND: [
        "02000000050001000600000012000200737761726d73682d626f756e6400000011000300686173683a69702c706f7274"
        "000000000500050002000000050004000500000034000780080012400000040008001340001000000800194000000000"
        "08001a400000012808001840000000010800084000000040300008802c0007800c000180080001007f00000106000440"
        "0050000005000700060000000c001b4053000006ffffffff",
    ],
}


def fields(data: bytes) -> dict[int, bytes]:
    return dict(netlink.parse_attributes(data))


def test_what_is_wanted_has_a_mark_for_each_service_and_each_own_address() -> None:
    assert ipsets.wanted(node_state()) == {
        VIPS: {("10.50.128.5",): VIP_MARK},
        TCP: {(6, 8080): PORT_MARK},
        UDP: {},
        BOUND: {},
        OWN: {("10.50.1.2", 32, "10.50.1.2", 32): 0, ("10.255.2.11", 32, "10.255.2.11", 32): 0},
    }
    found = ipsets.with_marks(ipsets.wanted(node_state()), {VIP_MARK})
    assert found[VIPS] and not found[TCP] and len(found[OWN]) == 2


@pytest.mark.parametrize(
    ("bind", "bound"),
    [
        ("0.0.0.0", {}),
        ("10.98.0.12", {("10.98.0.12", 17, 8080): PORT_MARK}),
        # To the second it is sent on.
        ("127.0.0.1", {("127.0.0.1", 17, 8080): PORT_MARK, ("10.255.0.1", 17, 8080): PORT_MARK}),
    ],
)
def test_a_port_may_be_bound_to_one_address(bind: str, bound: dict[Any, int]) -> None:
    state = node_state()
    state["ports"][0].update(bind=bind, protocol="udp")
    found = ipsets.wanted(state)
    assert found[BOUND] == bound and found[TCP] == {}
    assert found[UDP] == ({} if bound else {(17, 8080): PORT_MARK})


def test_a_set_is_made_for_marks() -> None:
    payload = ipsets.pack_change(Change(CREATE, TCP))
    found = fields(payload[4:])
    assert payload[:4] == bytes([2, 0, 0, 0])
    assert (found[1], found[2], found[3], found[4]) == (b"\6", b"swarmsh-tcp\0", b"bitmap:port\0", b"\3")
    assert fields(found[7]) == {8: b"\0\0\0\x40", 4: b"\0\0", 5: b"\xff\xff"}
    assert 8 not in fields(fields(ipsets.pack_change(Change(CREATE, OWN))[4:])[7])


def test_numbers_of_elements_are_in_network_order_and_say_so() -> None:
    payload = ipsets.pack_change(Change(ADD, BOUND, ("127.0.0.1", 6, 8080), PORT_MARK))
    assert payload[32:] == bytes.fromhex(
        "2c000780"  # data
        "0c000180" "08000140" "7f000001"  # address
        "06000440" "1f900000" "05000700" "06000000"  # port, protocol
        "0c001b40" "53000004ffffffff"  # mark and mask
    )  # fmt: skip
    assert 27 not in fields(fields(ipsets.pack_change(Change(DEL, TCP, (6, 80)))[4:])[7])
    assert 7 not in fields(ipsets.pack_change(Change(DESTROY, TCP))[4:])


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_of_a_kernel_is_read(name: str) -> None:
    told = [bytes.fromhex(one) for one in DUMPS[name]]
    want = {
        VIPS: {("10.1.2.3",): VIP_MARK, ("10.1.2.4",): 0x53000009},
        TCP: {(6, 80): 0x53000005, (6, 8080): PORT_MARK},
        UDP: {},
        BOUND: {("127.0.0.1", 6, 80): 0x53000006},
    }
    assert ipsets.parse_set(name, told) == want[name]
    other = TCP if name == VIPS else VIPS
    with pytest.raises(NetlinkError, match=f"has a set {other} that is not swarmsh's"):
        ipsets.parse_set(other, told)


class Told:
    """Sets as they are told."""

    def __init__(self) -> None:
        self.dumps = {name: [bytes.fromhex(one) for one in each] for name, each in DUMPS.items()}

    def dump(self) -> dict[str, list[bytes]]:
        return self.dumps


def test_what_is_told_as_before_is_not_taken_apart_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told, read, parsed = Told(), ipsets.Read(), []
    parse = ipsets.parse_set
    monkeypatch.setattr(ipsets, "parse_set", lambda name, data: (parsed.append(name), parse(name, data))[1])
    first = read.read(told)  # type: ignore[arg-type]
    assert parsed == list(DUMPS) and read.read(told) == first  # type: ignore[arg-type]
    assert parsed == list(DUMPS)
    told.dumps[TCP] = told.dumps[TCP][:1]
    told.dumps[TCP][0] = told.dumps[TCP][0].replace(b"\x1f\x90", b"\x1f\x91")
    assert read.read(told)[TCP] != first[TCP] and parsed == [*DUMPS, TCP]  # type: ignore[arg-type]
    del told.dumps[TCP]
    assert TCP not in read.read(told)  # type: ignore[arg-type]


_elements = st.dictionaries(st.integers(1, 5).map(lambda port: (6, port)), st.integers(1, 3), max_size=5)


@given(want=_elements, have=st.none() | _elements)
def test_changes_carried_out_lead_to_what_is_wanted(want: dict[Any, int], have: dict[Any, int] | None) -> None:
    less, more, words = ipsets.plan_changes({TCP: want}, {} if have is None else {TCP: have})
    after = None if have is None else dict(have)
    for one in [*less, *more]:
        if one.command == CREATE:
            assert after is None
            after = {}
        elif one.command == ADD:
            assert after is not None and one in more
            after[one.element] = one.mark
        else:
            assert after is not None and one in less
            del after[one.element]
    assert after == want and bool(words) == bool(less or more)
    assert ipsets.adds_marks({TCP: want}, {TCP: have or {}}) == bool(more)
