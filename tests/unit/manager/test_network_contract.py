"""What the manager says of networks and keys is what the helper's own code reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from remote_helpers.net.esp import parse_wanted
from remote_helpers.net.names import Names
from remote_helpers.net.numbers import check_state, egress_gateway
from remote_helpers.netstate import Held
from swarmsh.core import netstate
from swarmsh.model.netstate import NetworkChange
from swarmsh.model.objects import Task
from swarmsh.model.snapshot import Changes
from swarmsh.model.states import TaskState
from tests.fakes.networked import HTTP, NET1, NET2, networked, placed
from tests.fakes.objects import a_node, a_service

from ..core.test_netstate import a_cluster
from .test_node_networks import LONE, N1, N2, N3, SECRET, WEB, Scene, encrypted, scene_of

BOTH = networked(a_service("both"), NET1, NET2, first_mark=10)
NAMED = networked(a_service("named"), NET1, mode="dnsrr", first_mark=20)
UDP = networked(
    a_service("udp"), ports=(replace(HTTP, protocol="udp", target_port=53, published_port=5353),), first_mark=30
)


def said_to(scene: Scene, node_id: str) -> list[dict[str, Any]]:
    changes = [c for c in scene.nodes.said("network", node_id) if isinstance(c, NetworkChange)]
    return [msgspec.json.decode(msgspec.json.encode(change)) for change in changes]


def held_by_helper(changes: list[dict[str, Any]]) -> Held:
    held = Held()
    for change in changes:
        held = (Held() if change["fresh"] else held).changed(change["put"], change["drop"])
    return held


def by_key(state: dict[str, Any]) -> dict[str, Any]:
    """Lists in any order."""
    return {k: sorted(v, key=repr) if isinstance(v, list) else v for k, v in state.items()}


async def test_every_state_on_the_way_is_one_that_the_data_plane_and_dns_can_read() -> None:
    tasks = [placed(WEB, 1, N1), placed(WEB, 2, N2), placed(NAMED, 3, N1), placed(UDP, 4, N3)]
    async with scene_of(WEB, LONE, NAMED, UDP, *tasks) as scene:
        more: list[Task] = [placed(LONE, 5, N3, state=TaskState.ASSIGNED)]
        await scene.put(*more)
        await scene.nodes.until(lambda: more[0].id in scene.nodes.tasks[N3.id])
        await scene.stop(tasks[1])
        await scene.nodes.until(lambda: scene.followed(tasks[1], TaskState.SHUTDOWN))
        await scene.settled()
        for node in (N1, N2, N3):
            changes = said_to(scene, node.id)
            assert len(changes) > 1
            for end in range(1, len(changes) + 1):
                held = held_by_helper(changes[:end])
                state = {"v": 1, **held.whole()}
                if held.empty:
                    continue
                check_state(state)
                Names(state)
                assert egress_gateway(node.number, state) == netstate.egress_gateway(scene.store.snapshot, node)
            wanted = scene.manager._networks.states.whole(node.id)
            whole: dict[str, Any] = {section: [] for section in Held().tables}
            for (section, _), entry in wanted.items():
                if section in ("node", "egress"):
                    whole[section] = entry
                else:
                    whole[section].append(entry)
            assert by_key(held_by_helper(changes).whole()) == by_key(
                msgspec.json.decode(msgspec.json.encode(whole))
            )


async def test_keys_are_such_as_the_helper_takes() -> None:
    async with encrypted(placed(LONE, 1, N1), placed(LONE, 2, N2), placed(LONE, 3, N3)) as scene:
        scene.manager.rotate_keys()
        await scene.nodes.until(lambda: all(p.sends == 2 for k in scene.nodes.keys.values() for p in k.peers))
        for node in (N1, N2, N3):
            said = [(what, m) for n, what, m in scene.nodes.log if n == node.id and what in ("secure", "network")]
            wanted = {
                i: parse_wanted(msgspec.json.decode(msgspec.json.encode(m)))
                for i, (what, m) in enumerate(said)
                if what == "secure"
            }
            first = min(i for i, keys in wanted.items() if keys.closed)
            # As its session began it had no encrypted network, and was told that nothing of ours is left. From its
            # first keys on, which come before the network, it is never without them.
            assert all(keys.closed == (i >= first) for i, keys in wanted.items())
            assert all(not keys.peers for i, keys in wanted.items() if i < first)
            needing = [
                i for i, (_, m) in enumerate(said) if isinstance(m, NetworkChange) and m.put.get("networks")
            ]
            assert needing and first < min(needing)
            assert len([i for i in wanted if i >= first]) >= 2
        ends = {n: parse_wanted(msgspec.to_builtins(scene.nodes.keys[n])) for n in (N1.id, N2.id, N3.id)}
        one, two = ends[N1.id].peers[2].keys(2), ends[N2.id].peers[1].keys(2)
        assert one is not None and two is not None
        assert one.outbound == two.inbound and one.inbound == two.outbound


async def test_two_nodes_of_one_address_keep_no_others_keys_from_being_read() -> None:
    forwarded = [replace(n, target=replace(n.target, address="192.0.2.1", port=n.number)) for n in (N3, a_node(4))]
    tasks = [placed(LONE, slot, node) for slot, node in enumerate((N1, N2, *forwarded), 1)]
    async with scene_of(LONE, *forwarded, connected=False) as scene:
        scene.nodes.connect(N1.id, N2.id, *(node.id for node in forwarded))
        await scene.nodes.until(lambda: len(scene.nodes.said("told")) >= 4)
        await scene.store.commit(lambda s: Changes(put_networks=(SECRET,)))
        scene.running(*tasks)
        await scene.put(*tasks)
        await scene.keys_settled()
        for node in (N1, N2):
            (peer,) = parse_wanted(msgspec.to_builtins(scene.nodes.keys[node.id])).peers.values()
            assert peer.sends and peer.address in ("10.0.0.1", "10.0.0.2")
        for keys in scene.nodes.said("secure"):
            parse_wanted(msgspec.to_builtins(keys))
        scene.manager._networks.touch_all()
        await scene.nodes.until(lambda: len(scene.events("network_failed")) == 2)
        shown = next(e for e in scene.events("network_failed") if e["name"] == "n3")
        assert "192.0.2.1 is that of n4 as well" in shown["message"] and "swarmsh_underlay" in shown["message"]


@pytest.mark.parametrize("networks", [(NET1,), (NET1, NET2)])
def test_joined_networks_have_the_names_that_the_state_has(networks: tuple[Any, ...]) -> None:
    service = networked(a_service("x"), *networks)
    task = placed(service, 1, N1)
    snapshot = a_cluster(N1, NET1, NET2, service, task)
    state = netstate.NetStates.of(snapshot).whole(N1.id)
    put: dict[str, list[object]] = {}
    for (section, _), entry in state.items():
        if section not in ("node", "egress"):
            put.setdefault(section, []).append(msgspec.to_builtins(entry))
    held = Held.of(put)
    joined = [join.name for join in netstate.joins_of(snapshot, task, N1).networks]
    assert joined[-1] == "swgw" and all(held.has_network(name) for name in joined)
