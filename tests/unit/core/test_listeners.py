"""Ports that programs of nodes have: which of them are in a service's way, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from swarmsh.core.listeners import (
    Conflict,
    NewPort,
    conflicts,
    excused,
    item_of,
    new_ports,
    occupied,
    ports_of_tasks,
    ranges_of,
    refusal,
)
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.objects import Node, NodeDescription, Service, Task
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.specs import EndpointSpec, NetworkAttachment, PortConfig
from swarmsh.model.states import TaskState
from tests.fakes.networked import HTTP, networked
from tests.fakes.objects import a_node, a_service, a_task

N1, N2 = a_node(1), a_node(2)
WEB = networked(a_service("web"), ports=(HTTP,))
HOST = replace(HTTP, publish_mode="host")


def labelled(service: Service, bind: str) -> Service:
    return replace(service, spec=replace(service.spec, labels={"swarmsh.publish.bind": bind}))


def tcp(address: str, port: int = 8080) -> Listener:
    return Listener(protocol="tcp", address=address, port=port)


def in_the_way(bind: str, address: str, node: Node = N1) -> bool:
    port = NewPort("tcp", 8080, bind)
    return bool(conflicts([port], [node], {node.id: [tcp(address)]}, {}))


# --- which ports are new ------------------------------------------------------------------------------------
def test_only_ports_that_the_service_does_not_have_are_new() -> None:
    more = networked(
        a_service("web"), ports=(HTTP, replace(HTTP, published_port=9090), replace(HOST, published_port=7))
    )
    assert new_ports(None, WEB) == (NewPort("tcp", 8080, ""),)
    assert new_ports(WEB, WEB) == ()
    assert new_ports(WEB, more) == (NewPort("tcp", 9090, ""),)
    assert new_ports(more, WEB) == ()
    udp = networked(a_service("web"), ports=(replace(HTTP, protocol="udp"),))
    assert new_ports(WEB, udp) == (NewPort("udp", 8080, ""),)


def test_a_port_at_another_address_is_new_unless_it_was_at_all() -> None:
    one, other = labelled(WEB, "10.0.0.1"), labelled(WEB, "10.0.0.2")
    assert new_ports(one, one) == new_ports(WEB, one) == ()
    assert new_ports(one, other) == (NewPort("tcp", 8080, "10.0.0.2"),)
    assert new_ports(one, WEB) == (NewPort("tcp", 8080, ""),)


def test_of_a_port_to_choose_all_are_asked_for_and_none_is_in_the_way() -> None:
    chosen = replace(
        WEB, spec=replace(WEB.spec, endpoint_spec=EndpointSpec(ports=(replace(HTTP, published_port=0),)))
    )
    (port,) = ports = new_ports(None, chosen)
    assert port == NewPort("tcp", 8080, "", chosen=True)
    assert ranges_of(ports) == (PortRange(protocol="tcp", first=30000, last=32767),)
    assert conflicts(ports, [N1], {N1.id: [tcp("0.0.0.0")]}, {}) == []
    heard = {
        N1.id: [tcp("0.0.0.0", 30000)],
        N2.id: [tcp("::1", 30001), Listener(protocol="udp", address="::", port=3)],
    }
    assert occupied(heard) == {"tcp": 1 << 30000 | 1 << 30001, "udp": 1 << 3}


def test_each_port_is_asked_for_once_and_very_many_as_one_span() -> None:
    ports = [NewPort("udp", 53, ""), NewPort("tcp", 80, ""), NewPort("tcp", 80, "10.0.0.1")]
    assert ranges_of(ports) == (
        PortRange(protocol="tcp", first=80, last=80),
        PortRange(protocol="udp", first=53, last=53),
    )
    many = [*ports, *(NewPort("tcp", number, "") for number in range(20000, 21000))]
    assert ranges_of(many) == (
        PortRange(protocol="tcp", first=80, last=20999),
        PortRange(protocol="udp", first=53, last=53),
    )


# --- who is in the way --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bind", "address", "expected"),
    [
        ("", "0.0.0.0", True),
        ("", "10.0.0.1", True),
        ("", "192.168.122.1", True),  # whatever of the node's own: a published port answers there, too
        ("", "127.0.0.1", True),
        ("", "127.0.0.53", True),
        ("", "::", True),
        ("", "::ffff:10.0.0.1", True),
        ("", "::ffff:0.0.0.0", True),
        ("", "::1", False),
        ("", "fe80::1", False),
        ("", "224.0.0.251", False),
        ("10.0.0.1", "0.0.0.0", True),
        ("10.0.0.1", "::", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "127.0.0.1", False),
        ("10.0.0.1", "10.9.0.1", False),
        ("10.0.0.99", "0.0.0.0", False),  # an address that this node has not
        ("10.9.0.1", "0.0.0.0", True),  # of another link of it
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.53", False),
    ],
)
def test_a_listener_is_in_the_way_where_the_port_would_take_its_connections(
    bind: str, address: str, expected: bool
) -> None:
    description = NodeDescription(mtus=(("10.0.0.1", 1500), ("10.9.0.1", 1500)))
    node = replace(N1, target=replace(N1.target, address="10.0.0.1"), description=description)
    assert in_the_way(bind, address, node) is expected


def test_another_port_or_protocol_is_in_nobodys_way() -> None:
    heard = {N1.id: [tcp("0.0.0.0", 8081), Listener(protocol="udp", address="0.0.0.0", port=8080)]}
    assert conflicts([NewPort("tcp", 8080, "")], [N1], heard, {}) == []
    assert len(conflicts([NewPort("udp", 8080, "")], [N1], heard, {})) == 1
    assert conflicts([NewPort("udp", 8080, "")], [N1], heard, {N1.id: {("udp", 8080)}}) == []
    assert conflicts([NewPort("udp", 8080, "")], [N1], heard, {N2.id: {("udp", 8080)}}) != []


# --- who makes room -----------------------------------------------------------------------------------------
def a_cluster(*tasks: Task) -> ClusterSnapshot:
    return ClusterSnapshot().apply(Changes(put_nodes=(N1, N2), put_services=(WEB,), put_tasks=tasks), 1)


def on_host(service: Service, slot: int, ports: Iterable[PortConfig] = (HOST,), **changes: object) -> Task:
    task = a_task(service, slot, N1.id, TaskState.RUNNING)
    return replace(task, endpoint=EndpointSpec(ports=tuple(ports)), **changes)


def test_own_tasks_and_those_told_to_stop_make_room() -> None:
    other = a_service("other")
    own = on_host(WEB, 1)
    stays = on_host(other, 1, [replace(HOST, published_port=9)])
    leaves = on_host(other, 2, [replace(HOST, published_port=10)], desired=TaskState.SHUTDOWN)
    ended = on_host(WEB, 3, [replace(HOST, published_port=11)])
    ended = replace(ended, status=replace(ended.status, state=TaskState.FAILED))
    bound = replace(HOST, published_port=32768)  # by the Engine's choice
    unnumbered = on_host(WEB, 4, [replace(HOST, published_port=0)])
    unnumbered = replace(unnumbered, status=replace(unnumbered.status, ports=(bound,)))
    in_ingress = on_host(WEB, 5, [replace(HTTP, published_port=12)])
    snapshot = a_cluster(own, stays, leaves, ended, unnumbered, in_ingress)
    assert excused(snapshot, N1.id, WEB.id) == {("tcp", 8080), ("tcp", 10), ("tcp", 32768)}
    assert excused(snapshot, N1.id, "new") == {("tcp", 10)}
    assert excused(snapshot, N2.id, WEB.id) == set()
    assert ports_of_tasks(snapshot, N1.id) == {("tcp", 8080), ("tcp", 9), ("tcp", 10), ("tcp", 32768)}


def test_where_a_task_on_the_nodes_own_network_makes_room_nobody_knows_what_it_leaves() -> None:
    task = on_host(WEB, 1, ())
    task = replace(task, spec=replace(task.spec, networks=(NetworkAttachment(target="host"),)))
    assert excused(a_cluster(task), N1.id, WEB.id) is None
    assert excused(a_cluster(task), N2.id, WEB.id) == set()
    assert excused(a_cluster(task), N1.id, "new") == set()  # it stays, and so does what it listens on
    assert excused(a_cluster(replace(task, desired=TaskState.REMOVE)), N1.id, "new") is None


# --- in words -----------------------------------------------------------------------------------------------
def found(ports: list[NewPort], *addresses: str) -> list[Conflict]:
    nodes = [a_node(n) for n in range(1, len(addresses) + 1)]
    heard = {node.id: [tcp(address)] for node, address in zip(nodes, addresses, strict=True)}
    return conflicts(ports, reversed(nodes), heard, {})


def test_a_refusal_names_port_nodes_addresses_and_the_way_out() -> None:
    ports = [NewPort("tcp", 8080, "")]
    assert str(refusal(found(ports, "0.0.0.0"))) == (
        "rpc error: code = InvalidArgument desc = port '8080' is already in use: something listens on 8080/tcp of "
        "node n1 (0.0.0.0). Publish another port, use mode=host where it is free, or stop that program: "
        "`ss -ltnp` on the node shows it"
    )
    words = str(refusal(found(ports, "::", "127.0.0.1", "10.0.0.3", "::", "0.0.0.0")))
    assert "of nodes n1 (::), n2 (127.0.0.1), n3 (10.0.0.3) and 2 more." in words
    assert "loopback" not in words


def test_one_on_the_loopback_alone_is_told_why_that_matters_and_how_to_leave_it() -> None:
    words = str(refusal(found([NewPort("tcp", 8080, "")], "127.0.0.53")))
    assert "n1 (127.0.0.53), and a published port answers on the loopback too" in words
    assert "swarmsh.publish.bind" in words
    bound = str(refusal(found([NewPort("tcp", 8080, "127.0.0.53")], "127.0.0.53")))
    assert "on the loopback too" in bound and "swarmsh.publish.bind" not in bound


def test_who_listens_beside_the_loopback_is_the_one_that_is_named() -> None:
    heard = {N1.id: [tcp("127.0.0.1"), tcp("10.0.0.1")]}
    (conflict,) = conflicts([NewPort("tcp", 8080, "")], [N1], heard, {})
    assert conflict.address == "10.0.0.1"


def test_the_item_of_a_check_names_each_port_once() -> None:
    assert item_of([]) == {"name": "ports", "ok": True, "detail": "", "fix": ""}
    item = item_of(found([NewPort("tcp", 8080, "")], "0.0.0.0"))
    assert item["name"] == "ports" and item["ok"] is False
    assert "8080/tcp (0.0.0.0)" in str(item["detail"]) and "ss -ltnp" in str(item["fix"])
