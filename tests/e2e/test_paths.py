"""`node check` between nodes of three suites: what passes, what each kind of firewall does to it, and the MTU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .swarm import SWARMSH, Swarm

pytestmark = pytest.mark.e2e

ADDRESS = {f"n{n}": f"10.98.0.{10 + n}" for n in (1, 2, 3)}
PORTS = {"UDP 4789": "-p udp --dport 4789", "UDP 4790": "-p udp --dport 4790", "ESP (IP protocol 50)": "-p esp"}
# What a check must leave alone.
STATE = "ip -br link; ip -br address; ip route show table all | sort; iptables-save | grep -v '^[#:]'; \
cat /proc/net/ip_vs; ip xfrm state; ip xfrm policy; ss -Hlnuw0 | sort; ls /run/swarmsh | sort"


@pytest.fixture
def undo(swarm: Swarm) -> Iterator[Callable[[str, str, str], None]]:
    """Run a command on a node now, and another one at the end."""
    with ExitStack() as stack:

        def run(node: str, command: str, back: str) -> None:
            swarm.ssh(node, command)
            stack.callback(swarm.ssh, node, back, check=False)

        yield run


def ways(swarm: Swarm, *names: str) -> list[dict[str, Any]]:
    """The items of a check that tell of ways between nodes."""
    done = swarm.run(SWARMSH, "node", "check", "--format", "json", *names)
    found = [item for item in json.loads(done.stdout) if item["Name"] == "ways" or item["Name"].startswith("to ")]
    assert found, done.stdout + done.stderr
    return found


def device_of(swarm: Swarm, node: str) -> str:
    """The device by which a node reaches the others."""
    words = swarm.ssh(node, "ip -4 route get 10.98.0.1").split()
    return words[words.index("dev") + 1]


def faults(swarm: Swarm, *names: str) -> list[tuple[str, str, str, str]]:
    return [(i["Node"], i["Name"], i["Detail"], i["Fix"]) for i in ways(swarm, *names) if not i["OK"]]


def at_rest(swarm: Swarm) -> dict[str, str]:
    """The state of each node, once nothing of an earlier test is on its way out any more."""
    looks: list[dict[str, str]] = [{}]

    def same_twice() -> bool:
        looks.append({node: swarm.ssh(node, STATE) for node in ADDRESS})
        return looks[-1] == looks[-2]

    swarm.wait(same_twice, "all nodes are at rest")
    return looks[-1]


def test_without_a_network_all_passes_and_nothing_is_changed(swarm: Swarm) -> None:
    swarm.clear()
    before = at_rest(swarm)
    found = ways(swarm)
    assert [(item["Node"], item["OK"]) for item in found] == [("n1", True), ("n2", True), ("n3", True)], found
    for item in found:
        assert item["Detail"] == (
            "UDP 4789, UDP 4790 and ESP (IP protocol 50) reach 2 nodes, in packets of 1500 bytes: "
            "MTU 1450 fits, encrypted 1416"
        )
    assert {node: swarm.ssh(node, STATE) for node in ADDRESS} == before


@pytest.mark.parametrize("kind", PORTS)
def test_a_nodes_own_firewall_is_told_from_one_between(swarm: Swarm, undo: Any, kind: str) -> None:
    swarm.clear()
    rule = f"-s {ADDRESS['n1']} {PORTS[kind]} -j DROP"
    undo("n2", f"iptables -I INPUT {rule}", f"iptables -D INPUT {rule}")
    # Before any hook of INPUT: as one in the way would, but for the machine's own network card.
    device = device_of(swarm, "n3")
    drop = f"tc filter add dev {device} ingress protocol ip prio 9 u32 match ip src {ADDRESS['n1']}/32"
    match = "match ip protocol 50 0xff" if "ESP" in kind else f"match ip dport {kind.split()[1]} 0xffff"
    undo(
        "n3",
        f"tc qdisc add dev {device} clsact; {drop} {match} action drop",
        f"tc qdisc del dev {device} clsact",
    )
    found = {name: (node, detail, fix) for node, name, detail, fix in faults(swarm, "n1")}
    assert set(found) == {"to n2", "to n3"}, found
    assert found["to n2"][:2] == ("n1", f"{kind} from {ADDRESS['n1']} arrives at n2, whose own firewall drops it")
    # The fix that is told is the fix.
    accept = found["to n2"][2].removeprefix("On n2: ").partition(" (")[0]
    undo("n2", accept, accept.replace(" -I ", " -D "))
    assert [name for _, name, _, _ in faults(swarm, "n1")] == ["to n3"]


def test_the_sender_s_own_firewall(swarm: Swarm, undo: Any) -> None:
    swarm.clear()
    undo("n1", "iptables -A OUTPUT -p esp -j DROP", "iptables -D OUTPUT -p esp -j DROP")
    found = faults(swarm, "n1")
    assert {(node, name) for node, name, _, _ in found} == {("n1", "to n2"), ("n1", "to n3")}
    for _, _, detail, fix in found:
        assert "may not leave n1: Operation not permitted" in detail
        assert fix.startswith("On n1: iptables -I OUTPUT")


def test_the_mtu_of_a_link(swarm: Swarm, undo: Any) -> None:
    swarm.clear()
    device = device_of(swarm, "n2")
    before = swarm.ssh("n2", f"cat /sys/class/net/{device}/mtu").strip()
    undo("n2", f"ip link set {device} mtu 1420", f"ip link set {device} mtu {before}")
    found = {(node, name): detail for node, name, detail, _ in faults(swarm, "n2")}
    assert found[("n2", "to n1")].startswith("at most 1420 bytes pass from n2 to n1 in one packet"), found


def test_with_networks_the_ports_that_vxlan_has_are_tried_too(swarm: Swarm) -> None:
    swarm.clear()
    swarm.docker("network", "create", "-d", "overlay", "--opt", "encrypted", "ways")
    try:
        swarm.docker("service", "create", "-d", "--name", "w", "--mode", "global", "--network", "ways", "web:1")
        swarm.wait_running("w", 3)
        found = ways(swarm)
        assert [item["OK"] for item in found] == [True, True, True], found
        # Between all three there are keys: UDP 4790 went through ESP, and was seen behind it.
        assert all("not tried" not in item["Detail"] for item in found), found
        rule = f"-s {ADDRESS['n1']} -p udp --dport 4790 -j DROP"
        swarm.ssh("n2", f"iptables -A INPUT {rule}")
        ((node, name, detail, _),) = faults(swarm, "n1")
        assert (node, name) == ("n1", "to n2")
        assert detail == f"UDP 4790 from {ADDRESS['n1']} arrives at n2, whose own firewall drops it"
    finally:
        swarm.ssh("n2", f"iptables -D INPUT -s {ADDRESS['n1']} -p udp --dport 4790 -j DROP", check=False)
        swarm.clear()
        swarm.docker("network", "rm", "ways")
