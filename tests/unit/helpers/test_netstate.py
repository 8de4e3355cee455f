"""What networks need of pure decisions: routes, clients of a container, what stands of a network state."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers import ready
from remote_helpers.facts import is_ours, own_mtus, parse_addresses, parse_routes
from remote_helpers.net.numbers import looks_ours
from remote_helpers.netstate import OUT, PING, Held, probed, unnamed

# --- routes, connections ---
ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 0100000A 0003 0 0 100 00000000 0 0 0
eth0 0000000A 00000000 0001 0 0 100 00FFFFFF 0 0 0
wg0 0000000A 00000000 0001 0 0 100 00FFFFFF 0 0 0
docker0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0
br-12ab34cd 000012AC 00000000 0001 0 0 0 0000FFFF 0 0 0
sb1000 0000320A 00000000 0001 0 0 0 0000FFFF 0 0 0
swgw0 0002FF0A 00000000 0001 0 0 0 00FFFFFF 0 0 0
swlo0 0100FF0A 00000000 0001 0 0 0 FFFFFFFF 0 0 0
swgwv 0001FF0A 0101FF0A 0003 0 0 0 00FFFFFF 0 0 0
eth1 0000A8C0 0100000A 0003 0 0 0 0000FFFF 0 0 0
eth1 0000640A 00000000 0000 0 0 0 0000FFFF 0 0 0
* 0000A8AC 00000000 0201 0 0 0 0000FFFF 0 0 0
sb10 0000C0C0 00000000 0001 0 0 0 0000FFFF 0 0 0
"""


def test_routes_are_subnets_that_are_reached_without_us() -> None:
    assert parse_routes(ROUTES) == [
        "10.0.0.0/24",
        "172.17.0.0/16",
        "172.18.0.0/16",
        "192.168.0.0/16",
        "192.192.0.0/16",
    ]


def test_addresses_are_those_of_devices_whatever_they_are_called() -> None:
    def ifreq(label: str, address: str) -> bytes:
        return struct.pack("16sHH4s16x", label.encode(), socket.AF_INET, 0, socket.inet_aton(address))

    answer = ifreq("eth0", "10.0.0.2") + ifreq("eth0:1", "10.0.0.3") + ifreq("a-name-of-15-ch", "192.0.2.7")
    assert parse_addresses(answer) == [
        ("eth0", "10.0.0.2"),
        ("eth0", "10.0.0.3"),
        ("a-name-of-15-ch", "192.0.2.7"),
    ]


def test_this_machine_says_the_mtu_of_each_address_of_its_own() -> None:
    found = own_mtus()
    assert all(1 < mtu < 65536 and not address.startswith("127.") for address, mtu in found)
    # By another way: the address from which it would send something far away.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.200", 9))
        except OSError:
            pytest.skip("this machine has no way to others")
        assert sock.getsockname()[0] in dict(found)


def test_the_devices_left_out_are_those_of_the_data_plane() -> None:
    for name in (
        "swgw0",
        "swgwv",
        "swlo0",
        "swlo1",
        "sb1000",
        "svffffff",
        "sbfff",
        "sb1000000",
        "sbxyzw",
        "eth0",
        "sb",
        "docker0",
    ):
        assert is_ours(name) == looks_ours(name), name


TCP = """  sl  local_address rem_address   st tx_queue rx_queue
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000
   1: 0201320A:0050 0500620A:C001 01 00000000:00000000 00:00000000 00000000
   2: 0201320A:C002 0500620A:0050 01 00000000:00000000 00:00000000 00000000
   3: 0100007F:0051 0100007F:C003 01 00000000:00000000 00:00000000 00000000
   4: 0201320A:0052 0201320A:C004 01 00000000:00000000 00:00000000 00000000
   5: 0201320A:0053 0500620A:C005 06 00000000:00000000 00:00000000 00000000
"""
TCP6 = """  sl  local_address remote_address st
   0: 0000000000000000FFFF00000201320A:0054 0000000000000000FFFF00000500620A:C006 01
   1: 0000000000000000FFFF00000100007F:0055 0000000000000000FFFF00000100007F:C007 01
"""


def test_clients_are_connections_of_others_that_are_not_over() -> None:
    assert ready.parse_clients(TCP) == {80, 0xC002}
    for state in ("03", "04", "08", "09", "0B"):  # SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING
        assert ready.parse_clients(TCP.replace(" 06 ", f" {state} ")) == {80, 0x53, 0xC002}
    for state in ("05", "06", "07", "0A"):  # FIN_WAIT2, TIME_WAIT, CLOSE, LISTEN
        assert ready.parse_clients(TCP.replace(" 06 ", f" {state} ")) == {80, 0xC002}
    assert ready.parse_clients(TCP6) == {84}
    assert ready.parse_clients("") == set()


def test_clients_count_at_ports_that_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = open

    def read(path: str, **options: Any) -> Any:
        return proc(tmp_path / path.rpartition("/")[2], **options)

    monkeypatch.setattr("builtins.open", read)
    (tmp_path / "tcp").write_text(TCP)
    assert ready.has_clients(1)
    (tmp_path / "tcp").write_text("\n".join(line for line in TCP.splitlines() if " 1:" not in line))
    assert not ready.has_clients(1), "what it connects to itself keeps nobody waiting"
    (tmp_path / "tcp6").write_text(TCP6)
    assert not ready.has_clients(1), "nothing listens at 84"


# --- the network state ---
def entry(*dests: dict[str, Any], ports: tuple[int, ...] = (80,)) -> dict[str, Any]:
    return {"id": 1, "dests": list(dests), "tcp_ports": list(ports)}


def backend(number: int, weight: int = 1) -> dict[str, Any]:
    return {"task": f"t{number}", "address": f"10.0.0.{number}", "weight": weight}


@pytest.mark.parametrize(
    ("standing", "silent", "left"),
    [
        ({}, {}, {1: 1, 2: 1, 3: 0}),
        ({"t1": "out"}, {}, {2: 1, 3: 0}),
        ({"t1": "drains"}, {}, {1: 0, 2: 1, 3: 0}),
        ({"t9": "out"}, {}, {1: 1, 2: 1, 3: 0}),
        ({}, {1: 5.0}, {2: 1, 3: 0}),
        ({}, {1: 5.0, 2: 7.0}, {2: 1, 3: 0}),  # the one that was heard last
        ({}, {1: 8.0, 2: 7.0}, {1: 1, 3: 0}),
        ({}, {3: 1.0}, {1: 1, 2: 1, 3: 0}),  # it takes no new ones as it is
        ({"t1": "out"}, {2: 7.0}, {2: 1, 3: 0}),
        ({"t1": "out", "t2": "out", "t3": "out"}, {1: 1.0}, {}),
    ],
)
def test_what_the_kernel_is_given_is_what_stands(
    standing: dict[str, str], silent: dict[int, float], left: dict[int, int]
) -> None:
    given = entry(backend(1), backend(2), backend(3, 0))
    held = Held.of({"vips": [given]})
    quiet = {(f"10.0.0.{number}", 80): since for number, since in silent.items()}
    (vip,) = held.effective(standing, quiet)["vips"]
    assert {int(one["task"][1:]): one["weight"] for one in vip["dests"]} == left
    assert given == entry(backend(1), backend(2), backend(3, 0)), "the state itself stays"


@pytest.mark.parametrize(
    ("silent", "left"),
    [
        ({(1, 443): 3.0}, ["t1", "t2", "t3"]),
        ({(1, 443): 3.0, (2, 443): 3.1, (3, 443): 3.2}, ["t1", "t2", "t3"]),  # nobody serves it
        ({(1, 443): 3.0, (2, 443): 3.1, (3, 443): 3.2, (3, 80): 9.0}, ["t1", "t2"]),
        ({(1, 443): 3.0, (1, 80): 9.0, (2, 443): 3.1, (2, 80): 7.0, (3, 443): 3.2, (3, 80): 8.0}, ["t1"]),
    ],
)
def test_a_backend_is_silent_when_all_of_its_ports_are(
    silent: dict[tuple[int, int], float], left: list[str]
) -> None:
    held = Held.of({"ports": [entry(backend(1), backend(2), backend(3), ports=(80, 443))]})
    quiet = {(f"10.0.0.{number}", port): since for (number, port), since in silent.items()}
    (found,) = held.effective({}, quiet)["ports"]
    assert [one["task"] for one in found["dests"]] == left


def test_backends_elsewhere_that_take_connections_are_tried_once_each() -> None:
    held = Held.of(
        {
            "vips": [entry(backend(1), backend(2), backend(3, 0)), {**entry(backend(2)), "id": 2}],
            "ports": [
                entry(backend(2), backend(4), ports=(80, 81)),
                {**entry(backend(5)), "id": 2, "tcp_ports": []},
            ],
        }
    )
    assert probed(held, {"t1"}) == [
        ("10.0.0.2", 80), ("10.0.0.2", 81), ("10.0.0.4", 80), ("10.0.0.4", 81), ("10.0.0.5", PING)
    ]  # fmt: skip


def three_named() -> Held:
    tasks = [{"id": f"t{n}", "address": f"10.0.0.{n}"} for n in (1, 2, 3)]
    return Held.of({"vips": [entry(backend(2))], "names": [{"network": "n", "service": "s", "tasks": tasks}]})


def test_what_only_a_name_leads_to_is_tried_by_an_echo() -> None:
    held = three_named()
    assert probed(held, {"t1"}) == [("10.0.0.2", 80), ("10.0.0.3", PING)]


@pytest.mark.parametrize(
    ("standing", "silent", "away"),
    [
        ({}, {}, set()),
        ({}, {2: 5.0}, {"t2"}),
        ({}, {2: 5.0, 3: 6.0}, {"t2", "t3"}),  # the own one is left
        ({"t1": OUT}, {2: 5.0}, {"t1", "t2"}),
        ({"t1": OUT}, {2: 5.0, 3: 6.0}, {"t1", "t2"}),  # the one that was heard last
        ({"t1": OUT}, {2: 6.0, 3: 5.0}, {"t1", "t3"}),
    ],
)
def test_no_name_leads_to_what_is_silent_but_to_the_last(
    standing: dict[str, str], silent: dict[int, float], away: set[str]
) -> None:
    quiet = {(f"10.0.0.{n}", 80 if n == 2 else PING): since for n, since in silent.items()}
    assert set(unnamed(three_named(), {"t1"}, standing, quiet)) == away


KEYS = st.integers(1, 4)
CHANGE = st.fixed_dictionaries(
    {},
    optional={
        "put": st.lists(st.builds(lambda key, mtu: {"id": key, "mtu": mtu}, KEYS, st.integers(1, 9)), max_size=3),
        "drop": st.lists(KEYS, max_size=3),
    },
)


@given(st.lists(CHANGE, max_size=8))
def test_a_state_is_what_its_changes_say_and_earlier_ones_stay(changes: list[dict[str, Any]]) -> None:
    held, wanted, before = Held(), {}, []
    for change in changes:
        before.append((held, held.whole()))
        held = held.changed({"networks": change.get("put")}, {"networks": change.get("drop")})
        for key in change.get("drop") or ():
            wanted.pop(key, None)
        wanted.update({one["id"]: one for one in change.get("put") or ()})
    assert {one["id"]: one for one in held.whole()["networks"]} == wanted
    assert all(old.whole() == was for old, was in before)
