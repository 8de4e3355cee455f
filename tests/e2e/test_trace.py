"""`network trace` on machines of three suites: each hop that it tells of was seen, and so was where it stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .swarm import SWARMSH, Swarm

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def traced(swarm: Swarm) -> Iterator[Swarm]:
    """`one` on n1, `web` on n2 with a published port, on the plain network `seen`; and both on `hidden`."""
    swarm.clear()
    swarm.docker("network", "create", "-d", "overlay", "seen")
    swarm.docker("network", "create", "-d", "overlay", "--opt", "encrypted", "hidden")
    for name, node, more in (("one", "n1", ()), ("web", "n2", ("-p", "8080:80"))):
        for network, service in (("seen", name), ("hidden", f"{name}-hidden")):
            swarm.docker(
                *("service", "create", "-d", "--name", service, "--network", network),
                *("--constraint", f"node.hostname=={swarm.node(node)['Description']['Hostname']}"),
                *(more if network == "seen" else ()),
                "web:1",
            )
    for service in ("one", "web", "one-hidden", "web-hidden"):
        swarm.wait_running(service, 1)
    swarm.wait(lambda: trace(swarm, "one.1", "web", "--port", "80")["ok"], "web answers")
    swarm.wait(lambda: trace(swarm, "one-hidden.1", "web-hidden", "--port", "80")["ok"], "web-hidden answers")
    yield swarm
    swarm.clear()
    swarm.docker("network", "prune", "-f")


def trace(swarm: Swarm, *words: str) -> dict[str, Any]:
    done = swarm.run(SWARMSH, "network", "trace", "--format", "json", *words)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


def places(found: dict[str, Any], *, answer: bool) -> list[tuple[str, str, bool]]:
    """Node, task and whether it was between nodes, of each hop there or back; repeated ones once."""
    listed = [(h["node"], h["task"], bool(h["tunnel"])) for h in found["hops"] if h["answer"] is answer]
    return list(dict.fromkeys(listed))


WAY = [
    *(("n1", "one.1", False), ("n1", "", False), ("n1", "", True)),
    *(("n2", "", True), ("n2", "", False), ("n2", "web.1", False)),
]


def test_a_connection_to_a_vip_is_seen_at_each_hop_there_and_back(traced: Swarm) -> None:
    found = trace(traced, "one.1", "web")
    assert (found["ok"], found["words"]) == (True, "answered by web.1 on n2")
    assert places(found, answer=False) == WAY, found
    assert places(found, answer=True) == WAY[::-1], found
    vip = found["to"]
    assert found["hops"][0]["dst"] == vip
    assert found["hops"][-1]["src"] == vip, "translated back"
    (arrived,) = {h["dst"] for h in found["hops"] if h["task"] == "web.1" and not h["answer"]}
    assert arrived != vip and arrived.endswith(":80"), "IPVS chose a backend"


def test_a_port_where_nobody_listens_is_refused_by_the_task(traced: Swarm) -> None:
    found = trace(traced, "one.1", "web.1", "--port", "81")
    assert (found["ok"], found["words"]) == (False, "refused by web.1 on n2")


def test_a_firewall_of_the_other_node_is_found(traced: Swarm) -> None:
    rule = "-p udp --dport 4789 -s 10.98.0.11 -j DROP"
    traced.ssh("n2", f"iptables -I INPUT {rule}")
    try:
        found = trace(traced, "one.1", "web")
    finally:
        traced.ssh("n2", f"iptables -D INPUT {rule}")
    assert not found["ok"]
    assert found["words"].endswith("it arrives at n2 and is not let in"), found
    assert "On n2: iptables" in found["fix"]


def test_an_answer_that_is_dropped_on_its_way_back_is_found(traced: Swarm) -> None:
    rule = "-p udp --dport 4789 -s 10.98.0.12 -j DROP"
    traced.ssh("n1", f"iptables -I INPUT {rule}")
    try:
        found = trace(traced, "one.1", "web")
    finally:
        traced.ssh("n1", f"iptables -D INPUT {rule}")
    assert "the answer was last seen at n1" in found["words"], found


def test_in_an_encrypted_network_nothing_is_seen_between_the_nodes(traced: Swarm) -> None:
    found = trace(traced, "one-hidden.1", "web-hidden", "--port", "80")
    assert found["ok"], found
    assert not any(hop["tunnel"] and hop["way"] == "in" for hop in found["hops"]), found
    assert {hop["task"] for hop in found["hops"]} >= {"one-hidden.1", "web-hidden.1"}


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_a_published_port_from_a_node_itself(traced: Swarm, node: str) -> None:
    found = trace(traced, node, "web")
    assert found["ok"], found
    assert found["to"] == f"10.98.0.1{node[1:]}:8080"
    assert found["words"] == "answered by web.1 on n2"


def test_what_shares_no_network_is_said_so(traced: Swarm) -> None:
    done = traced.run(SWARMSH, "network", "trace", "one.1", "web-hidden", "--port", "80")
    assert done.returncode == 1
    assert "one.1 and web-hidden share no network" in done.stderr
