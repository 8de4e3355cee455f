"""Names of networks: who is told which, and what the server makes of any packet. No sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.net import dns, dnswire
from remote_helpers.net.dns import DnsServer, judge
from remote_helpers.net.dnswire import AAAA, ANY, PTR, A, Malformed, Query
from remote_helpers.net.names import BadNames, Names
from remote_helpers.net.upstream import parse_resolv_conf

NET1, NET2, NET3 = "n1" * 12 + "a", "n2" * 12 + "a", "n3" * 12 + "a"
ON_NET1, ON_BOTH, ON_NET3 = "10.255.2.11", "10.255.2.12", "10.60.1.2"
NOBODYS, STRANGER = "10.255.2.99", "192.0.2.1"
MX, CHAOS = 15, 3


def service(network: str, name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """An entry of `names` whose tasks have the ids t-ADDRESS."""
    tasks = [{"id": f"t-{a}", "address": a, "names": [f"{name}.{i}.x"]} for i, a in enumerate(addresses, 1)]
    return {"network": network, "service": f"s-{name}", "names": [name], "vip": "", "tasks": tasks} | more


def state() -> dict[str, Any]:
    """Three networks on this node; `db` is on two of them, `secret` and `shop` on one that ON_NET1 has not."""
    return {
        "v": 1,
        "egress": {"pool": "10.255.0.0/16", "prefix": 24, "mtu": 1450},
        "networks": [
            {"id": NET1, "name": "front-4097", "dns_name": "front", "subnet": "10.50.0.0/16"},
            {"id": NET2, "name": "back", "subnet": "10.51.0.0/16"},
            {"id": NET3, "name": "inner.net", "subnet": "10.60.0.0/16", "internal": True},
        ],
        "tasks": [
            {"id": "a", "addresses": ["10.50.1.2", ON_NET1]},
            {"id": "b", "addresses": ["10.51.1.2", "10.50.1.3", ON_BOTH]},
            {"id": "c", "addresses": [ON_NET3]},
        ],
        "names": [
            service(NET1, "web", "10.50.1.2", "10.50.1.3", vip="10.50.128.5", names=["web", "www.example.com"]),
            service(NET1, "rr", "10.50.1.4", "10.50.1.5", "10.50.1.6"),
            service(NET1, "db", "10.50.1.7", vip="10.50.128.6"),
            service(NET2, "db", "10.51.1.7", vip="10.51.128.6"),
            service(NET2, "secret", "10.51.1.8", vip="10.51.128.7", names=["secret", "shop.example.com"]),
            service(NET3, "vault", "10.60.1.2", vip="10.60.128.1"),
        ],
    }


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(state())


def ask(
    name: str, kind: int = A, *, family: int = 1, flags: int = 0x0100, edns: int = 0, number: int = 7
) -> bytes:
    """A question; `edns` is the size that the client offers, 0: it knows nothing of EDNS."""
    opt = b"\0" + struct.pack("!HHIH", 41, edns, 0, 0) if edns else b""
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, 1 if edns else 0)
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"
    return head + question + struct.pack("!HH", kind, family) + opt


def told(names: Names, source: str, name: str, kind: int = A, **more: Any) -> tuple[int, list[str]]:
    """(rcode, addresses or names); rcode -1: it goes to the resolvers."""
    found = judge(names, ask(name, kind, **more), source, over_tcp=True)
    if isinstance(found, Query):
        return -1, []
    assert found is not None
    return read(found)


def read(data: bytes) -> tuple[int, list[str]]:
    flags, questions, answers = struct.unpack_from("!2xHHH", data)
    assert flags & 0x8000
    at, found = 12, []
    for _ in range(questions):
        at = dnswire.read_name(data, at)[1] + 4
    for _ in range(answers):
        assert data[at : at + 2] == b"\xc0\x0c"
        kind, family, ttl, length = struct.unpack_from("!HHIH", data, at + 2)
        body = data[at + 12 : at + 12 + length]
        assert family == 1 and ttl <= 5
        found.append(socket.inet_ntoa(body) if kind == A else dnswire.read_name(body, 0)[0])
        at += 12 + length
    return flags & 15, sorted(found)


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        (ON_NET1, "web", ["10.50.128.5"]),
        (ON_NET1, "WEB", ["10.50.128.5"]),
        (ON_NET1, "web.front", ["10.50.128.5"]),
        (ON_NET1, "www.example.com", ["10.50.128.5"]),  # an alias, where it is one
        (ON_NET1, "tasks.web", ["10.50.1.2", "10.50.1.3"]),
        (ON_NET1, "tasks.www.example.com", ["10.50.1.2", "10.50.1.3"]),
        (ON_NET1, "web.2.x", ["10.50.1.3"]),
        (ON_NET1, "rr", ["10.50.1.4", "10.50.1.5", "10.50.1.6"]),
        (ON_NET1, "db", ["10.50.128.6"]),
        (ON_BOTH, "db", ["10.51.128.6"]),  # of the first of its networks
        (ON_BOTH, "db.front", ["10.50.128.6"]),
        (ON_BOTH, "tasks.db.front", ["10.50.1.7"]),
        ("10.50.1.2", "web", ["10.50.128.5"]),  # by any address of the container
        (ON_NET3, "vault", ["10.60.128.1"]),
        (ON_NET3, "vault.inner.net", ["10.60.128.1"]),
    ],
)
def test_a_name_of_the_askers_networks_is_answered(
    names: Names, source: str, name: str, expected: list[str]
) -> None:
    assert told(names, source, name) == (dnswire.NOERROR, expected)


@pytest.mark.parametrize("name", ["secret", "tasks.secret", "vault", "SECRET", "tasks.vault"])
@pytest.mark.parametrize("source", [ON_NET1, NOBODYS])
def test_a_name_of_another_network_is_neither_answered_nor_asked_for_elsewhere(
    names: Names, source: str, name: str
) -> None:
    assert told(names, source, name) == (dnswire.NXDOMAIN, [])


@pytest.mark.parametrize("name", ["example.com", "shop.example.com", "printer", "db.back", "", "web.front.x"])
def test_all_other_names_go_to_the_resolvers(names: Names, name: str) -> None:
    # shop.example.com is an alias of another network: that must not take the real one from this container.
    assert told(names, ON_NET1, name) == (-1, [])


def test_a_container_that_is_no_task_learns_of_the_outside_alone(names: Names) -> None:
    assert told(names, NOBODYS, "example.com") == (-1, [])
    assert told(names, NOBODYS, "web") == (dnswire.NXDOMAIN, [])


def test_who_is_not_of_the_egress_pool_is_refused(names: Names) -> None:
    for name in ("example.com", "web"):
        assert told(names, STRANGER, name) == (dnswire.REFUSED, [])
    assert judge(names, b"x" * 40, STRANGER, over_tcp=False) is None


def test_a_container_of_internal_networks_alone_is_told_of_nothing_outside(names: Names) -> None:
    assert told(names, ON_NET3, "example.com") == (dnswire.REFUSED, [])


@pytest.mark.parametrize("kind", [AAAA, MX, 65])
def test_other_types_of_a_known_name_are_empty_and_no_error(names: Names, kind: int) -> None:
    assert told(names, ON_NET1, "web", kind) == (dnswire.NOERROR, [])
    assert told(names, ON_NET1, "web", ANY) == (dnswire.NOERROR, ["10.50.128.5"])


def test_a_known_name_without_a_task_is_empty_and_asked_for_nowhere() -> None:
    names = Names(state())
    names.change({"drop": {"name_tasks": [[NET1, "s-rr", f"t-10.50.1.{i}"] for i in (4, 5, 6)]}})
    assert told(names, ON_NET1, "rr") == (dnswire.NOERROR, [])
    assert told(names, ON_NET1, "tasks.rr") == (dnswire.NOERROR, [])


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        (ON_NET1, "5.128.50.10.in-addr.arpa", (dnswire.NOERROR, ["web.front"])),
        (ON_NET1, "3.1.50.10.in-addr.arpa", (dnswire.NOERROR, ["web.2.x.front"])),
        (ON_NET1, "7.128.51.10.in-addr.arpa", (dnswire.NXDOMAIN, [])),  # another network's VIP
        (ON_NET1, "12.2.255.10.in-addr.arpa", (dnswire.NXDOMAIN, [])),  # somebody's egress address
        (ON_NET1, "1.2.0.192.in-addr.arpa", (-1, [])),
        (ON_NET1, "1.2.3.in-addr.arpa", (-1, [])),
        (ON_NET1, "1.2.3.4.5.in-addr.arpa", (-1, [])),
        (ON_NET1, "1.2.3.999.in-addr.arpa", (-1, [])),
    ],
)
def test_reverse_names_are_those_of_the_askers_networks(
    names: Names, source: str, name: str, expected: tuple[int, list[str]]
) -> None:
    assert told(names, source, name, PTR) == expected


def test_a_name_of_a_pointer_leads_back_to_its_address(names: Names) -> None:
    assert told(names, ON_NET1, "web.2.x.front") == (dnswire.NOERROR, ["10.50.1.3"])


def test_answers_of_many_addresses_are_shuffled(names: Names) -> None:
    def backwards(found: list[bytes]) -> None:
        found.reverse()

    first = judge(names, ask("rr"), ON_NET1, False, shuffle=lambda found: None)
    second = judge(names, ask("rr"), ON_NET1, False, shuffle=backwards)
    assert first[-4:] == socket.inet_aton("10.50.1.6") and second[-4:] == socket.inet_aton("10.50.1.4")


def test_what_does_not_fit_udp_is_marked_and_comes_over_tcp() -> None:
    names = Names(state())
    addresses = [f"10.50.7.{i}" for i in range(1, 200)]
    names.change({"put": {"names": [service(NET1, "many", *addresses)]}})
    for edns, most in ((0, 512), (1024, 1024), (8192, 1232)):
        found = judge(names, ask("tasks.many", edns=edns), ON_NET1, over_tcp=False)
        assert isinstance(found, bytes)
        assert len(found) <= most and found[2] & 0x02  # TC
        assert len(read(found)[1]) > (most - 60) // 16 - 2  # a client that knows no TCP has some
    whole = judge(names, ask("tasks.many"), ON_NET1, over_tcp=True)
    assert not whole[2] & 0x02 and read(whole)[1] == sorted(addresses)


def test_the_question_comes_back_as_it_was_asked(names: Names) -> None:
    asked = ask("wEb", edns=1232, number=0xBEEF)
    found = judge(names, asked, ON_NET1, over_tcp=False)
    assert found[:2] == b"\xbe\xef" and asked[12:21] in found
    assert found[3] & 0x80 and found[2] & 0x01  # recursion is available, and was wanted
    assert found[-11:] == b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (ask("web", flags=0x2900), dnswire.NOTIMP),  # an update
        (ask("example.com", 252), dnswire.REFUSED),  # a transfer of the zone
        (ask("version.bind", 16, family=CHAOS), dnswire.REFUSED),
        (struct.pack("!HHHHHH", 7, 0, 0, 0, 0, 0), dnswire.FORMERR),
        (struct.pack("!HHHHHH", 7, 0, 2, 0, 0, 0) + ask("web")[12:] * 2, dnswire.FORMERR),
        (ask("web")[:-1], dnswire.FORMERR),
        (ask("web")[:12] + b"\xc0\x0c\0\1\0\1", dnswire.FORMERR),  # a name that is itself
        (ask("web", edns=512)[:-3], dnswire.FORMERR),
    ],
)
def test_what_cannot_be_answered_is_an_error_with_its_id(names: Names, data: bytes, rcode: int) -> None:
    found = judge(names, data, ON_NET1, over_tcp=False)
    assert isinstance(found, bytes)
    assert found[:2] == b"\0\x07" and found[3] & 15 == rcode


@pytest.mark.parametrize("data", [b"", b"x" * 11, ask("web", flags=0x8180), ask("web") + b"\0" * 5000], ids=len)
def test_what_is_no_question_is_ignored(names: Names, data: bytes) -> None:
    assert judge(names, data, ON_NET1, over_tcp=False) is None


# --- changes --------------------------------------------------------------------------------------------------
def test_a_change_of_one_service_leaves_the_others() -> None:
    names = Names(state())
    names.change({"put": {"names": [service(NET1, "web", "10.50.1.9", vip="10.50.128.9")]}})
    assert told(names, ON_NET1, "web") == (0, ["10.50.128.9"])
    assert told(names, ON_NET1, "tasks.web") == (0, ["10.50.1.9"])
    assert told(names, ON_NET1, "www.example.com") == (-1, [])  # the alias is gone
    assert told(names, ON_NET1, "5.128.50.10.in-addr.arpa", PTR) == (dnswire.NXDOMAIN, [])
    assert told(names, ON_NET1, "rr")[1] == ["10.50.1.4", "10.50.1.5", "10.50.1.6"]


def test_one_task_comes_and_goes_without_the_rest_of_its_service() -> None:
    names = Names(state())
    one = {"id": "new", "address": "10.50.1.10", "names": ["host-of-new"]}
    names.change({"put": {"name_tasks": [{"network": NET1, "service": "s-rr", "task": one}]}})
    assert "10.50.1.10" in told(names, ON_NET1, "rr")[1]
    assert told(names, ON_NET1, "host-of-new") == (0, ["10.50.1.10"])
    names.change({"drop": {"name_tasks": [[NET1, "s-rr", "new"], [NET1, "s-rr", "t-10.50.1.4"]]}})
    assert told(names, ON_NET1, "rr") == (0, ["10.50.1.5", "10.50.1.6"])
    assert told(names, ON_NET1, "host-of-new") == (-1, [])


def test_two_services_with_one_alias_answer_together() -> None:
    names = Names(state())
    blue = service(NET1, "blue", "10.50.1.20", vip="10.50.128.20", names=["blue", "web"])
    names.change({"put": {"names": [blue]}})
    assert told(names, ON_NET1, "web") == (0, ["10.50.128.20", "10.50.128.5"])
    names.change({"drop": {"names": [[NET1, "s-web"]]}})
    assert told(names, ON_NET1, "web") == (0, ["10.50.128.20"])


def test_a_task_that_ended_is_told_nothing_any_more() -> None:
    names = Names(state())
    names.change({"drop": {"tasks": ["a"]}})
    assert told(names, ON_NET1, "web") == (dnswire.NXDOMAIN, [])


def test_an_address_that_went_to_another_task_stays_with_that_one() -> None:
    names = Names(state())
    names.change({"put": {"tasks": [{"id": "new", "addresses": ["10.51.1.9", ON_NET1]}]}})
    names.change({"drop": {"tasks": ["a"]}})
    assert told(names, ON_NET1, "secret") == (0, ["10.51.128.7"])
    assert told(names, ON_NET1, "web") == (dnswire.NXDOMAIN, [])


@pytest.mark.parametrize(
    "change",
    [
        {"put": {"names": [{"network": NET1}]}},
        {"put": {"names": [service(NET1, "x", "10.50.1.300")]}},
        {"put": {"names": [service(NET1, "x", vip="fd00::1")]}},
        {"put": {"names": [service(NET1, "x") | {"names": [7]}]}},
        {"put": {"names": [service(NET1, "x") | {"tasks": [{"id": "", "address": "10.50.1.1"}]}]}},
        {"put": {"tasks": [{"id": "a"}]}},
        {"put": {"networks": [{"id": NET1, "name": "front-4097", "dns_name": "front", "subnet": "10.50"}]}},
        {"put": {"name_tasks": [{"network": NET1, "service": "no", "task": {"id": "t", "address": "10.50.1.1"}}]}},
        {"drop": {"names": [NET1]}},
        {"drop": {"tasks": [["a"]]}},
        {"put": 7},
    ],
)
def test_a_change_that_cannot_be_read_changes_nothing(change: dict[str, Any]) -> None:
    names = Names(state())
    good = {"put": {"names": [service(NET1, "fine", "10.50.1.30")]}, "drop": {"tasks": ["a"]}}
    if isinstance(change.get("put", {}), dict):
        change = {
            "put": {**good["put"], **change.get("put", {})},
            "drop": {**good["drop"], **change.get("drop", {})},
        }
    with pytest.raises(BadNames):
        names.change(change)
    assert told(names, ON_NET1, "web") == (0, ["10.50.128.5"])
    assert told(names, ON_NET1, "fine") == (-1, [])


# --- whatever comes -------------------------------------------------------------------------------------------
NAME = st.sampled_from(["web", "rr", "db", "secret", "vault", "www.example.com", "a"])
TASK = st.builds(lambda i: {"id": f"t{i}", "address": f"10.50.1.{i}", "names": [f"h{i}"]}, st.integers(1, 6))
ENTRY = st.builds(
    lambda network, names, vip, tasks: {
        "network": network,
        "service": f"s-{names[0]}",
        "names": names,
        "vip": vip,
        "tasks": tasks,
    },
    st.sampled_from([NET1, NET2]),
    st.lists(NAME, min_size=1, max_size=3),
    st.sampled_from(["", "10.50.128.5", "10.50.128.6"]),
    st.lists(TASK, max_size=4),
)


@given(st.lists(st.one_of(ENTRY, st.tuples(st.sampled_from([NET1, NET2]), NAME)), max_size=12))
def test_a_table_that_was_changed_equals_one_made_afresh(steps: list[Any]) -> None:
    changed, wanted = Names(state() | {"names": []}), {}
    for step in steps:
        if isinstance(step, dict):
            changed.change({"put": {"names": [step]}})
            wanted[step["network"], step["service"]] = step
        else:
            changed.change({"drop": {"names": [[step[0], f"s-{step[1]}"]]}})
            wanted.pop((step[0], f"s-{step[1]}"), None)
    fresh = Names(state() | {"names": list(wanted.values())})
    reverse = [f"{i}.{x}.50.10.in-addr.arpa" for i in range(1, 7) for x in (1, 128)]
    for name in ["web", "rr", "db", "secret", "vault", "www.example.com", "a", *(f"h{i}" for i in range(1, 7))]:
        for asked in (name, f"tasks.{name}"):
            assert told(changed, ON_BOTH, asked) == told(fresh, ON_BOTH, asked)
    for asked in reverse:
        assert told(changed, ON_BOTH, asked, PTR)[0] == told(fresh, ON_BOTH, asked, PTR)[0]


@given(data=st.binary(max_size=600), source=st.sampled_from([ON_NET1, NOBODYS, STRANGER]), tcp=st.booleans())
def test_any_bytes_are_survived(data: bytes, source: str, tcp: bool) -> None:
    found = judge(Names(state()), data, source, tcp)
    assert found is None or isinstance(found, (bytes, Query))


@given(data=st.binary(max_size=80), kept=st.integers(0, 60), edns=st.sampled_from([0, 4096]))
def test_a_question_that_goes_wrong_half_way_is_survived(data: bytes, kept: int, edns: int) -> None:
    found = judge(Names(state()), ask("tasks.web.front", edns=edns)[:kept] + data, ON_NET1, over_tcp=False)
    assert found is None or isinstance(found, Query) or len(found) <= 1232


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_name_is_read_or_malformed(data: bytes, at: int) -> None:
    try:
        name, end = dnswire.read_name(data, at)
    except Malformed:
        return
    assert at < end <= len(data)
    if name:
        assert dnswire.encode_name(name) == data[at:end].lower()


@given(st.text(max_size=80))
def test_a_name_as_users_write_it_is_found_as_packets_have_it(name: str) -> None:
    canonical = dnswire.canonical(name)
    if canonical:
        assert dnswire.read_name(dnswire.encode_name(canonical), 0)[0] == canonical


@given(st.binary(max_size=100))
def test_no_foreign_bytes_are_an_answer_to_a_question(data: bytes) -> None:
    question = ask("example.com")[12:]
    assert dnswire.is_answer_to(data, 7, question) == (
        data[:2] == b"\0\x07" and len(data) > 12 and data[2] & 0x80 != 0 and data[4:6] == b"\0\1"
        and data[12:].lower().startswith(question)
    )  # fmt: skip
    good = ask("EXAMPLE.com", flags=0x8180)
    assert dnswire.is_answer_to(good, 7, question)
    assert not dnswire.is_answer_to(good, 8, question)
    assert not dnswire.is_answer_to(ask("example.org", flags=0x8180), 7, question)
    assert not dnswire.is_answer_to(ask("example.com", AAAA, flags=0x8180), 7, question)


def test_resolvers_are_read_as_the_c_library_reads_them() -> None:
    text = "# nameserver 9.9.9\nsearch x\nnameserver 192.0.2.1\nnameserver\nnameserver x\n nameserver fe80::1%e\n"
    assert parse_resolv_conf(text) == ["192.0.2.1", "fe80::1%e"]
    assert parse_resolv_conf("nameserver 192.0.2.1\n" * 5) == ["192.0.2.1"] * 3


def use_up(fd: int, taken: list[int]) -> None:
    while True:
        taken.append(os.dup(fd))


# --- its sockets ----------------------------------------------------------------------------------------------
async def test_without_free_descriptors_connections_wait_and_the_loop_is_not_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns, "ACCEPT_AGAIN_S", 0.2)
    tries: list[socket.socket] = []
    taken: list[int] = []
    accept = DnsServer._on_connections

    def counted(self: DnsServer, listening: socket.socket) -> None:
        tries.append(listening)
        accept(self, listening)

    monkeypatch.setattr(DnsServer, "_on_connections", counted)
    server = DnsServer(Names(state()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    assert server.listen([place]) == {}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
            with pytest.raises(OSError, match="Too many open files"):
                use_up(client.fileno(), taken)
            await loop.sock_connect(client, place)
            await asyncio.sleep(0.5)
            assert 2 <= len(tries) <= 4
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        asked = ask("web")
        await loop.sock_sendall(client, len(asked).to_bytes(2, "big") + asked)
        async with asyncio.timeout(8):
            found = await loop.sock_recv(client, 4096)
        assert read(found[2:])[0] == dnswire.REFUSED  # of a stranger, but answered
    server.close()
