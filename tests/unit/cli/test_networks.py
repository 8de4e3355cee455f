"""`network …`: what is sent and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from swarmsh.cli.network_create import ipam_config

from .conftest import Recorder, Result

Cli = Callable[..., Result]


def make_network(name: str, driver: str = "overlay", scope: str = "swarm", subnet: str = "", **extra: Any) -> Any:
    config = [{"Subnet": subnet, "Gateway": "10.48.0.1"}] if subnet else []
    return {
        "Name": name,
        "Id": f"{name}0000000000000000000000000"[:25],
        "Created": "2026-11-22T10:00:00Z",
        "Driver": driver,
        "Scope": scope,
        "IPAM": {"Driver": "default", "Config": config},
        "Options": {},
        "Labels": {},
    } | extra


@pytest.fixture
def networks(manager: Recorder) -> Recorder:
    net1 = make_network("net1", subnet="10.48.0.0/20", Internal=True, Labels={"a": "b"})
    task = {"Name": "web.1.x", "EndpointIP": "10.48.1.0"}
    verbose = net1 | {
        "Peers": [{"Name": "n1", "IP": "10.0.0.1"}],
        "Services": {"web": {"VIP": "10.48.8.0", "Tasks": [task]}},
    }
    manager.on("GET", "/networks", [net1, make_network("bridge", "bridge", "local")])
    manager.on("GET", "/networks/net1", lambda request: verbose if request.query.get("verbose") else net1)
    manager.on("GET", "/networks/nope", (404, {"message": "network nope not found"}))
    manager.on("POST", "/networks/create", (201, {"Id": "new1", "Warning": ""}))
    manager.on("DELETE", "/networks/net1", (204, None))
    manager.on("DELETE", "/networks/nope", (404, {"message": "network nope not found"}))
    manager.on("POST", "/networks/prune", {"NetworksDeleted": ["net1", "net2"]})
    return manager


def test_ls_is_a_table_with_subnets(networks: Recorder, cli: Cli) -> None:
    head, *rows = cli("network", "ls").out.splitlines()
    assert head.split("   ")[0] == "NETWORK ID"
    assert [row.split() for row in rows] == [
        ["bridge000000", "bridge", "bridge", "local"],
        ["net100000000", "net1", "overlay", "swarm", "10.48.0.0/20"],
    ]
    assert cli("network", "ls", "-q").out == "bridge0000000000000000000\nnet1000000000000000000000\n"
    assert json.loads(cli("network", "ls", "--format", "json").out)[1]["Labels"] == {"a": "b"}


def test_filters_are_the_servers(networks: Recorder, cli: Cli) -> None:
    cli("network", "ls", "-f", "driver=overlay", "-f", "label=a=b")
    sent = networks.sent("GET", "/networks")[0].query["filters"]
    assert json.loads(sent) == {"driver": {"overlay": True}, "label": {"a=b": True}}


def test_inspect_is_json_and_pretty_for_people(networks: Recorder, cli: Cli) -> None:
    result = cli("network", "inspect", "net1", "nope")
    assert (result.code, result.err) == (1, "Error: network nope not found\n")
    assert [found["Name"] for found in json.loads(result.out)] == ["net1"]
    assert cli("network", "inspect", "-q", "net1").out == "net1000000000000000000000\n"
    pretty = cli("network", "inspect", "--pretty", "--verbose", "net1").out
    for words in ("10.48.0.0/20", "internal", "a=b", "n1 (10.0.0.1)", "web, VIP 10.48.8.0", "web.1.x 10.48.1.0"):
        assert words in pretty
    assert "VIP" not in cli("network", "inspect", "--pretty", "net1").out


def test_create_prints_the_id(networks: Recorder, cli: Cli) -> None:
    assert cli("network", "create", "x").out == "new1\n"
    (request,) = networks.sent("POST", "/networks/create")
    assert (request.body["Name"], request.body["Driver"]) == ("x", "overlay")


def test_rm_tells_what_is_not_there_unless_forced(networks: Recorder, cli: Cli) -> None:
    result = cli("network", "rm", "nope", "net1")
    assert (result.code, result.out, result.err) == (1, "net1\n", "Error: network nope not found\n")
    result = cli("network", "rm", "--force", "nope", "net1")
    assert (result.code, result.out, result.err) == (0, "net1\n", "")


def test_prune_prints_names(networks: Recorder, cli: Cli) -> None:
    assert cli("network", "prune", "-f", "--filter", "label!=keep").out == "net1\nnet2\n"
    (request,) = networks.sent("POST", "/networks/prune")
    assert json.loads(request.query["filters"]) == {"label!": {"keep": True}}


def test_prune_asks(networks: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: "n")
    assert cli("network", "prune").code == 1
    assert not networks.sent("POST", "/networks/prune")


@pytest.mark.parametrize(
    ("subnets", "ranges", "gateways", "auxiliary", "words"),
    [
        ((), ("10.1.0.0/24",), (), {}, "must have a corresponding subnet"),
        ((), (), ("10.1.0.1",), {}, "must have a corresponding subnet"),
        (("10.1.0.0",), (), (), {}, "ADDRESS/LENGTH"),
        (("10.1.0.0/33",), (), (), {}, "invalid subnet"),
        (("10.1.0.0/24", "10.1.0.128/25"), (), (), {}, "overlapping subnet"),
        (("10.1.0.0/24",), ("10.2.0.0/25",), (), {}, "no matching subnet for range 10.2.0.0/25"),
        (("10.1.0.0/24",), (), ("10.2.0.1",), {}, "no matching subnet for gateway 10.2.0.1"),
        (("10.1.0.0/24",), (), ("nowhere",), {}, "no IP address|not an IP address"),
        (("10.1.0.0/24",), (), (), {"a": "10.2.0.1"}, "no matching subnet for aux-address 10.2.0.1"),
        (("10.1.0.0/24", "10.2.0.0/24"), (), ("10.1.0.1", "10.1.0.2"), {}, "for the same subnet"),
    ],
)
def test_addresses_that_fit_no_subnet_are_refused(
    subnets: tuple[str, ...],
    ranges: tuple[str, ...],
    gateways: tuple[str, ...],
    auxiliary: dict[str, str],
    words: str,
) -> None:
    with pytest.raises(ValueError, match=words):
        ipam_config(subnets, ranges, gateways, auxiliary)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (3, "Keys between 3 pairs of nodes are new\n"),
        (1, "Keys between 1 pair of nodes are new\n"),
        (0, "No two nodes share an encrypted network: there are no keys\n"),
    ],
)
def test_keys_are_rotated(pairs: int, words: str, manager: Recorder, cli: Cli) -> None:
    manager.on("POST", "/swarmsh/networks/rotate-keys", {"Pairs": pairs, "Missing": []})
    result = cli("network", "rotate-keys", "--timeout", "1m30s")
    assert (result.code, result.out, result.err) == (0, words, "")
    assert manager.sent("POST", "/swarmsh/networks/rotate-keys")[0].body == {"TimeoutS": 90.0}


def test_nodes_that_did_not_take_new_keys_are_named(manager: Recorder, cli: Cli) -> None:
    missing = [{"ID": "node3", "Name": "n3", "Message": "there is no session with it"}]
    manager.on("POST", "/swarmsh/networks/rotate-keys", {"Pairs": 3, "Missing": missing})
    result = cli("network", "rotate-keys")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: n3: there is no session with it; it gets the new keys when it answers\n"


def test_a_trace_shows_each_hop_and_where_it_stops(manager: Recorder, cli: Cli) -> None:
    hop = {
        "node": "n1",
        "task": "a.1",
        "device": "eth0",
        "way": "out",
        "src": "10.48.1.2:61001",
        "dst": "10.48.8.1:80",
    }
    hops = [
        {**hop, "tunnel": "", "flags": "SYN", "answer": False},
        {**hop, "tunnel": "x > y:4789", "answer": True},
    ]
    found = {"to": "10.48.8.1:80", "hops": hops, "ok": False, "words": "no answer: it stops", "fix": "look at n1"}
    manager.on("POST", "/swarmsh/networks/trace", found)
    result = cli("network", "trace", "--port", "80", "--protocol", "udp", "--timeout", "5s", "a.1", "web")
    assert result.code == 1
    assert manager.sent("POST", "/swarmsh/networks/trace")[0].body == {
        "From": "a.1",
        "To": "web",
        "Port": 80,
        "Protocol": "udp",
        "TimeoutS": 5.0,
    }
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[1] == ["n1", "a.1", "eth0", "out", "10.48.1.2:61001", "10.48.8.1:80", "-", "SYN"]
    assert lines[2][6:] == ["x", ">", "y:4789", "answer"]
    assert result.out.endswith("no answer: it stops\n    look here: look at n1\n")
    assert result.err == "udp to 10.48.8.1:80\n"
    assert json.loads(cli("network", "trace", "--format", "json", "a.1", "web").out) == found
    manager.on(
        "POST", "/swarmsh/networks/trace", {**found, "ok": True, "words": "answered by web.1 on n2", "fix": ""}
    )
    result = cli("network", "trace", "a.1", "web")
    assert (result.code, result.out.splitlines()[-1]) == (0, "answered by web.1 on n2")
