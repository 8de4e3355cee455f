"""Tables, JSON and ids of what is listed; what happens to unknown names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Recorder, Result, make_node, make_service, make_task

Cli = Callable[..., Result]


@pytest.fixture
def cluster(manager: Recorder) -> Recorder:
    web = make_service("web", ServiceStatus={"RunningTasks": 2, "DesiredTasks": 3})
    web["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "nginx:1@sha256:" + "0" * 64
    web["Endpoint"]["Ports"] = [
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
        {"Protocol": "tcp", "TargetPort": 9, "PublishedPort": 9, "PublishMode": "host"},
    ]
    agent = make_service("agent", replicas=None, ServiceStatus={"RunningTasks": 2, "DesiredTasks": 2})
    failed = make_task(web, 2, "failed", CreatedAt="2026-11-22T09:00:00Z", DesiredState="shutdown")
    failed["ID"] = "older"
    failed["Status"]["Err"] = "task: non-zero exit (1)"
    host_port = {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 30000, "PublishMode": "host"}]}
    tasks = [
        make_task(web, 10, node=""),
        failed,
        make_task(web, 2, status={"PortStatus": host_port}),
        make_task(web, 1, node="node2"),
    ]
    nodes = [
        make_node("n2", "unreachable", "node2", Message="no session: timed out after 10 s, but n1 reaches it"),
        make_node("n1"),
    ]
    manager.on("GET", "/services", [web, agent])
    manager.on("GET", "/services/web", web)
    manager.on("GET", "/services/nope", (404, {"message": "service nope not found"}))
    manager.on("GET", "/tasks", tasks)
    manager.on("GET", "/nodes", nodes)
    manager.on("GET", "/nodes/n1", nodes[1])
    manager.on("GET", "/nodes/nope", (404, {"message": "node nope not found"}))
    return manager


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("   ") if cell.strip()]


def test_node_ls_says_why_a_node_is_not_ready(cluster: Recorder, cli: Cli) -> None:
    result = cli("node", "ls")
    assert result.code == 0
    head, first, second = result.out.splitlines()
    assert columns(head) == ["ID", "NAME", "STATE", "AVAILABILITY", "ROLE", "ENGINE", "ADDRESS", "MESSAGE"]
    assert columns(first) == ["node1", "n1", "ready", "active", "worker", "20.10.24", "10.0.0.1"]
    assert columns(second)[2] == "unreachable"
    assert second.endswith("no session: timed out after 10 s, but n1 reaches it")


def test_service_ls_looks_as_dockers(cluster: Recorder, cli: Cli) -> None:
    head, first, second = cli("service", "ls").out.splitlines()
    assert columns(head) == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert columns(first) == ["agent0000000", "agent", "global", "2/2", "nginx:1"]
    assert columns(second) == ["web000000000", "web", "replicated", "2/3", "nginx:1", "*:8080->80/tcp"]
    assert cluster.sent("GET", "/services")[0].query == {"status": "true"}


def test_service_ps_shows_slots_in_order_and_history_under_them(cluster: Recorder, cli: Cli) -> None:
    head, *rows = cli("service", "ps", "web").out.splitlines()
    assert columns(head) == ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"]
    names = [row[15:26].rstrip() for row in rows]
    assert names == ["web.1", "web.2", " \\_ web.2", "web.10"]
    assert columns(rows[0])[3] == "n2"
    assert '"task: non-zero exit (1)"' in rows[2]
    assert rows[1].endswith("*:30000->80/tcp")


def test_json_is_one_array_with_whole_ids(cluster: Recorder, cli: Cli) -> None:
    services = json.loads(cli("service", "ls", "--format", "json").out)
    assert [service["Name"] for service in services] == ["agent", "web"]
    assert services[1]["ID"] == "web0000000000000000000000"
    assert (services[1]["Running"], services[1]["Desired"]) == (2, 3)
    tasks = json.loads(cli("service", "ps", "web", "--format", "json").out)
    assert [task["Name"] for task in tasks] == ["web.1", "web.2", "web.2", "web.10"]
    nodes = json.loads(cli("node", "ls", "--format", "json").out)
    assert nodes[1]["State"] == "unreachable"
    assert nodes[0]["Labels"] == {"disk": "ssd"}


@pytest.mark.parametrize("command", ["node ls", "service ls", "service ps web", "node ps", "node ps n1"])
def test_quiet_prints_whole_ids_only(command: str, cluster: Recorder, cli: Cli) -> None:
    lines = cli(*command.split(), "-q").out.split("\n")
    assert lines.pop() == ""
    assert all(line and " " not in line for line in lines)


def test_filters_are_sent_as_docker_writes_them(cluster: Recorder, cli: Cli) -> None:
    cli("service", "ls", "-f", "label=a=b", "--filter", "label=c", "-f", "name=we")
    sent = cluster.sent("GET", "/services")[0].query["filters"]
    assert json.loads(sent) == {"label": {"a=b": True, "c": True}, "name": {"we": True}}


def test_a_filter_without_a_value_is_a_usage_error(cluster: Recorder, cli: Cli) -> None:
    result = cli("service", "ls", "-f", "label")
    assert (result.code, result.out) == (2, "")


def test_an_unknown_name_is_told_and_the_others_are_shown(cluster: Recorder, cli: Cli) -> None:
    result = cli("service", "ps", "nope", "web", "-q")
    assert result.code == 1
    assert result.err == "Error: service nope not found\n"
    assert len(result.out.splitlines()) == 4


def test_networks_and_ports_of_a_service_are_shown_by_name_and_number(cluster: Recorder, cli: Cli) -> None:
    service = make_service()
    service["Spec"]["TaskTemplate"]["Networks"] = [{"Target": "id1"}, {"Target": "host"}]
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"}
    service["Spec"]["EndpointSpec"] = {"Mode": "vip", "Ports": [port]}
    service["Endpoint"] = {
        "Spec": service["Spec"]["EndpointSpec"],
        "Ports": [port | {"PublishedPort": 30000}],
        "VirtualIPs": [{"NetworkID": "id1", "Addr": "10.48.8.0/20"}],
    }
    cluster.on("GET", "/services/web", service)
    cluster.on("GET", "/services", [service])
    cluster.on("GET", "/networks", [{"Id": "id1", "Name": "net1"}])
    pretty = cli("service", "inspect", "--pretty", "web").out
    for line in (r"Networks:\s+net1, host", r"VIP:\s+10\.48\.8\.0/20 in net1", r"PublishedPort:\s+30000"):
        assert re.search(line, pretty), pretty
    assert cli("service", "inspect", "--format", "table", "web").out == pretty
    assert "*:30000->80/tcp" in cli("service", "ls").out


def test_inspect_prints_json_as_it_came_and_pretty_for_people(cluster: Recorder, cli: Cli) -> None:
    found = json.loads(cli("service", "inspect", "web").out)
    assert found[0]["Version"] == {"Index": 42}
    assert cluster.sent("GET", "/services/web")[-1].query == {"insertDefaults": "true"}
    pretty = cli("service", "inspect", "--pretty", "web").out
    assert "Name:" in pretty
    assert "Replicas:" in pretty
    assert cli("service", "inspect", "--format", "table", "web").out == pretty
    assert json.loads(cli("node", "inspect", "n1").out)[0]["ID"] == "node1"
    assert "20.10.24" in cli("node", "inspect", "--pretty", "n1").out
    table, pretty = (
        cli("node", "inspect", "--format", "table", "n1").out,
        cli("node", "inspect", "--pretty", "n1").out,
    )
    assert table == pretty
    assert json.loads(cli("node", "inspect", "--format", "json", "n1").out)[0]["ID"] == "node1"
    assert cli("node", "inspect", "-q", "n1").out == "node1\n"
    assert cli("service", "inspect", "-q", "web").out == "web0000000000000000000000\n"


WAYS = "/swarmsh/nodes/check-paths"


def test_a_check_tells_of_each_pair_what_the_firewall_must_allow(cluster: Recorder, cli: Cli) -> None:
    cluster.on("GET", "/swarmsh/nodes/node./check", {"items": []})
    fine = {
        "node": "node1",
        "node_name": "n1",
        "name": "ways",
        "ok": True,
        "detail": "all reach 1 node",
        "fix": "",
    }
    fault = {**fine, "node": "node2", "node_name": "n2", "name": "to n1", "ok": False, "detail": "no", "fix": "do"}
    cluster.on("POST", WAYS, {"items": [fine, fault]})
    result = cli("node", "check")
    assert result.code == 1
    rows = [columns(line) for line in result.out.splitlines()]
    assert ["n1", "ways", "ok", "all reach 1 node"] in rows
    assert ["n2", "to n1", "FAULT", "no", "do"] in rows
    assert cluster.sent("POST", WAYS)[0].body == {"Nodes": ["node2", "node1"]}
    assert cli("node", "check", "-q").out == "node2\n"
    # Of one that was not asked for: what it sends to one that was.
    (_, other) = json.loads(cli("node", "check", "n1", "--format", "json").out)
    assert other == {"Node": "n2", "Name": "to n1", "OK": False, "Detail": "no", "Fix": "do"}
    cluster.on("POST", WAYS, {"items": [fine]})
    assert cli("node", "check").code == 0


def test_a_check_tells_faults_with_fixes_and_fails(cluster: Recorder, cli: Cli) -> None:
    cluster.on("POST", WAYS, {"items": []})
    items = [
        {"name": "python", "ok": True, "detail": "3.11", "fix": ""},
        {"name": "ip_vs", "ok": False, "detail": "module missing", "fix": "modprobe ip_vs"},
    ]
    cluster.on("GET", "/swarmsh/nodes/node1/check", {"items": items})
    refused = (503, {"message": "there is no session with node n2: it refused user ops. Name another (--user)"})
    cluster.on("GET", "/swarmsh/nodes/node2/check", refused)
    result = cli("node", "check")
    assert result.code == 1
    assert any(
        columns(line) == ["n1", "ip_vs", "FAULT", "module missing", "modprobe ip_vs"]
        for line in result.out.splitlines()
    )
    assert any(
        columns(line)[2:]
        == ["FAULT", "there is no session with node n2: it refused user ops", "Name another (--user)"]
        for line in result.out.splitlines()
    )
    quiet = cli("node", "check", "-q")
    assert (quiet.code, quiet.out) == (1, "node2\nnode1\n")
    only = json.loads(cli("node", "check", "n1", "--format", "json").out)
    assert [item["OK"] for item in only] == [True, False]
    cluster.on("GET", "/swarmsh/nodes/node1/check", {"items": items[:1]})
    assert cli("node", "check", "n1").code == 0
    assert cli("node", "check", "n1", "-q").out == ""


def test_a_node_that_cannot_be_asked_has_a_way_out_too(cluster: Recorder, cli: Cli) -> None:
    cluster.on("POST", WAYS, {"items": []})
    cluster.on("GET", "/swarmsh/nodes/node1/check", (503, {"message": "there is no session with node n1: none"}))
    (item,) = json.loads(cli("node", "check", "n1", "--format", "json").out)
    assert (item["Node"], item["Name"], item["OK"]) == ("n1", "session", False)
    assert "swarmsh up -i INVENTORY" in item["Fix"]


@pytest.mark.parametrize("command", ["check", "inspect", "ps"])
def test_an_unknown_node_is_an_error_that_names_those_there_are(command: str, cluster: Recorder, cli: Cli) -> None:
    result = cli("node", command, "nope")
    assert result.code == 1
    assert result.err == "Error: node nope not found. There are n1, n2\n"
    assert not cluster.sent("GET", "/swarmsh/.*")


def test_self_is_the_node_of_the_manager_or_nothing(cluster: Recorder, cli: Cli) -> None:
    cluster.on("GET", "/nodes/self", (404, {"message": "node self not found"}))
    cluster.on("GET", "/info", {"Swarm": {"NodeID": "node2"}})
    assert cli("node", "inspect", "self", "-q").out == "node2\n"
    cli("node", "ps", "self")
    assert json.loads(cluster.sent("GET", "/tasks")[-1].query["filters"]) == {"node": {"node2": True}}
    cluster.on("GET", "/info", {"Swarm": {"NodeID": "the-cluster"}})  # no node has the role yet
    result = cli("node", "inspect", "self")
    assert result.code == 1
    assert "Error: there is no node self: the manager is a process and no node" in result.err


def test_a_node_update_keeps_what_is_not_named(cluster: Recorder, cli: Cli) -> None:
    cluster.on("POST", "/nodes/node1/update", {})
    result = cli("node", "update", "--availability", "drain", "--label-add", "zone=a", "--label-rm", "disk", "n1")
    assert (result.code, result.out) == (0, "n1\n")
    request = cluster.sent("POST", "/nodes/node1/update")[0]
    assert request.query == {"version": "7"}
    assert request.body == {"Name": "n1", "Labels": {"zone": "a"}, "Role": "worker", "Availability": "drain"}
    assert cli("node", "update", "n1").code == 2


def test_promote_and_demote_change_the_word_only(cluster: Recorder, cli: Cli) -> None:
    cluster.on("POST", "/nodes/node1/update", {})
    result = cli("node", "promote", "n1", "nope")
    assert (result.code, result.out, result.err) == (
        1,
        "Node n1 is now a manager.\n",
        "Error: node nope not found\n",
    )
    cli("node", "demote", "n1")
    roles = [request.body["Role"] for request in cluster.sent("POST", "/nodes/node1/update")]
    assert roles == ["manager", "worker"]


def test_a_write_that_someone_else_was_quicker_than_is_sent_again(cluster: Recorder, cli: Cli) -> None:
    answers = [(500, {"message": "rpc error: code = Unknown desc = update out of sequence"}), (200, {})]
    cluster.on("POST", "/nodes/node1/update", lambda request: answers.pop(0))
    assert cli("node", "update", "--role", "manager", "n1").code == 0
    assert len(cluster.sent("GET", "/nodes/n1")) == 2


def test_removals_print_what_was_removed(cluster: Recorder, cli: Cli) -> None:
    cluster.on("DELETE", "/services/web", None)
    cluster.on("DELETE", "/services/nope", (404, {"message": "service nope not found"}))
    result = cli("service", "rm", "nope", "web")
    assert (result.code, result.out, result.err) == (1, "web\n", "Error: service nope not found\n")
    cluster.on("DELETE", "/nodes/n1", None)
    assert cli("node", "rm", "-f", "n1").out == "n1\n"
    assert cluster.sent("DELETE", "/nodes/n1")[0].query == {"force": "1"}


def test_info_version_and_events(cluster: Recorder, cli: Cli) -> None:
    info: dict[str, Any] = {"ServerVersion": "0.1.0", "Swarm": {"LocalNodeState": "active", "Nodes": 3}}
    cluster.on("GET", "/info", info)
    cluster.on("GET", "/version", {"Version": "0.1.0", "ApiVersion": "1.51"})
    event = {
        "Type": "service",
        "Action": "update",
        "Actor": {"ID": "web1", "Attributes": {"name": "web", "replicas.new": "3"}},
        "time": 1763800000,
        "timeNano": 1763800000123456789,
    }
    from .conftest import Raw

    cluster.on("GET", "/events", Raw((json.dumps(event) + "\n").encode() * 2))
    assert "active" in cli("info").out
    assert json.loads(cli("info", "--format", "json").out) == info
    info["Swarm"]["Cluster"] = {"ID": "c"}
    limits = {"TCP": 86400, "TCPFin": 60, "UDP": 30}
    cluster.on(
        "GET", "/swarmsh/cluster", {"ID": "c", "DownAfterS": 12.5, "LBTimeouts": limits, "RevisionsKept": 7}
    )
    shown = cli("info").out.splitlines()
    assert "Down after:    12.5 s" in shown
    assert "LB time-outs:  TCP 86400 s, TCP after a FIN 60 s, UDP 30 s" in shown
    assert "1.51" in cli("version").out
    assert json.loads(cli("version", "--format", "json").out)["Server"]["Version"] == "0.1.0"
    lines = cli("events", "--since", "10m", "-f", "type=service").out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("service update web1 (name=web, replicas.new=3)")
    assert json.loads(cli("events", "--format", "json").out.splitlines()[0]) == event
