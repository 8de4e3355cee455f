"""`up` and `node add` against a real sshd's host key and a recording manager."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest

from swarmsh.cli import join
from swarmsh.model.objects import SshTarget
from swarmsh.model.wire import from_wire

from .conftest import Recorder, Request, Result, make_node

Cli = Callable[..., Result]


class HostKeyServer:
    """An SSH server that nobody can log in to; it is asked for its key only."""

    def __init__(self) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.line = " ".join(self.key.export_public_key().decode().split()[:2])
        self.fingerprint = self.key.get_fingerprint()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> None:
            acceptor = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[self.key])
            self.port = acceptor.get_port()
            self._ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()

    def __enter__(self) -> HostKeyServer:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


@pytest.fixture
def host() -> Iterator[HostKeyServer]:
    with HostKeyServer() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    # Without any key to offer a host is not even asked for its own.
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / ".ssh" / "id_ed25519"))
    return tmp_path


@pytest.fixture
def cluster(manager: Recorder, home: Path) -> Recorder:
    """A manager whose nodes are ready as soon as they were added."""
    nodes: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []

    def add(request: Request) -> Any:
        node = make_node(request.body["Name"], node_id=f"id{len(nodes)}")
        node["Status"]["Addr"] = request.body["Target"]["Address"]
        nodes.append(node)
        targets.append({"ID": node["ID"], "Name": request.body["Name"], "Target": request.body["Target"]})
        return 201, {"ID": node["ID"]}

    state = {"LocalNodeState": "inactive"}
    manager.on("GET", "/info", lambda request: {"Swarm": dict(state)})
    manager.on("POST", "/swarm/init", lambda request: state.update(LocalNodeState="active") or "id")
    manager.on("POST", "/swarmsh/nodes", add)
    manager.on("GET", "/nodes", lambda request: nodes)
    manager.on("GET", "/swarmsh/nodes", lambda request: targets)
    manager.on(
        "GET", "/swarmsh/status", {"sessions": [{"name": name, "connected": True} for name in ("n1", "n2")]}
    )
    manager.on(
        "GET", "/swarmsh/nodes/.*/check", {"items": [{"name": "python", "ok": True, "detail": "", "fix": ""}]}
    )
    return manager


def add_args(host: HostKeyServer, *more: str) -> tuple[str, ...]:
    return ("node", "add", "n1", "--address", "127.0.0.1", "--port", str(host.port), *more)


def test_an_unknown_key_is_refused_where_nobody_can_be_asked(
    host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    for more, why in (((), "there is no terminal to ask on"), (("-y",), "-y does not trust new keys")):
        result = cli(*add_args(host, *more))
        assert (result.code, result.out) == (1, "")
        assert host.fingerprint in result.err
        assert why in result.err
        assert "--accept-new-host-keys" in result.err
    assert not cluster.sent("POST", "/swarmsh/nodes")


def test_an_unknown_key_is_pinned_when_told_to(
    host: HostKeyServer, cluster: Recorder, cli: Cli, home: Path
) -> None:
    identity = home / ".ssh" / "id_ed25519"
    more = (
        "--accept-new-host-keys",
        "--user",
        "ops",
        "--become",
        "--identity",
        str(identity),
        "--label",
        "zone=a",
    )
    result = cli(*add_args(host, *more))
    assert (result.code, result.out) == (0, "n1\n"), result.err
    assert cluster.sent("POST", "/swarm/init")
    assert cluster.sent("POST", "/swarmsh/nodes")[0].body == {
        "Name": "n1",
        "Target": {
            "Address": "127.0.0.1",
            "Port": host.port,
            "User": "ops",
            "IdentityFiles": [str(identity)],
            "HostKeys": [host.line],
            "Become": True,
            "Python": "python3",
            "Jump": [],
        },
        "Labels": {"zone": "a"},
        "Role": "worker",
        "Availability": "active",
    }


def test_known_hosts_counts_as_pinned(host: HostKeyServer, cluster: Recorder, cli: Cli, home: Path) -> None:
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {host.line}\n")
    result = cli(*add_args(host))
    assert result.code == 0
    assert host.fingerprint not in result.err
    assert cluster.sent("POST", "/swarmsh/nodes")[0].body["Target"]["HostKeys"] == [host.line]


def test_a_given_pin_needs_no_connection(cluster: Recorder, cli: Cli) -> None:
    result = cli("node", "add", "n1", "--address", "ops@[2001:db8::1]:2222", "--host-key", "SHA256:abc")
    assert result.code == 0
    target = cluster.sent("POST", "/swarmsh/nodes")[0].body["Target"]
    assert (target["Address"], target["Port"], target["User"]) == ("2001:db8::1", 2222, "ops")
    assert target["HostKeys"] == ["SHA256:abc"]


def test_a_host_that_does_not_answer_is_told(cluster: Recorder, cli: Cli) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # ours, so nothing else can listen there, and nothing does
        result = cli("node", "add", "n1", "--address", f"127.0.0.1:{closed.getsockname()[1]}")
    assert (result.code, result.out) == (1, ""), result
    assert result.err.startswith("n1: "), result
    assert "refused the connection" in result.err
    assert not cluster.sent("POST", "/swarmsh/nodes")


def test_a_taken_name_is_refused(host: HostKeyServer, cluster: Recorder, cli: Cli) -> None:
    cli(*add_args(host, "--accept-new-host-keys"))
    result = cli(*add_args(host, "--accept-new-host-keys"))
    assert (result.code, result.err) == (
        1,
        "Error: there is a node n1 already. Choose another name, or `swarmsh node rm` it\n",
    )


def test_one_question_on_a_terminal(host: HostKeyServer, cluster: Recorder, home: Path) -> None:
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "swarmsh", *add_args(host)], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
        )
        os.close(theirs)
        seen = b""
        while b"Trust this key? [y/N]" not in seen:
            seen += os.read(ours, 1000)
        assert host.fingerprint.encode() in seen
        os.write(ours, answer)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (code, b"n1\n" if code == 0 else b"")
        os.close(ours)


# --- up -----------------------------------------------------------------------------------------------------
@pytest.fixture
def inventory(host: HostKeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hosts at one address, the first pinned, the second not."""
    hosts = [
        SimpleNamespace(
            name=name,
            target=SshTarget(address="127.0.0.1", port=host.port, host_keys=pins),
            labels={"group": "lab"},
            availability="active",
            role=role,
        )
        for name, pins, role in (("n1", (host.fingerprint,), "manager"), ("n2", (), "worker"))
    ]
    monkeypatch.setattr(
        "swarmsh.adapters.inventory.load_inventory", lambda path: SimpleNamespace(hosts=hosts), raising=False
    )
    path = tmp_path / "inventory.yml"
    path.write_text("")
    return path


def test_up_adds_hosts_once_and_says_what_is_next(inventory: Path, cluster: Recorder, cli: Cli) -> None:
    refused = cli("up", "-i", str(inventory))
    assert refused.code == 1
    assert "a host key is unknown" in refused.err
    assert not cluster.sent("POST", ".*")
    result = cli("up", "-i", str(inventory), "-y", "--accept-new-host-keys")
    assert result.code == 0, result.err
    assert [request.body["Name"] for request in cluster.sent("POST", "/swarmsh/nodes")] == ["n1", "n2"]
    assert cluster.sent("POST", "/swarmsh/nodes")[0].body["Role"] == "manager"
    assert "2 of 2 nodes are ready" in result.err
    assert f"export DOCKER_HOST=unix://{cluster.path}" in result.err
    again = cli("up", "-i", str(inventory))
    assert again.code == 0
    assert len(cluster.sent("POST", "/swarmsh/nodes")) == 2
    assert len(cluster.sent("POST", "/swarm/init")) == 1


def test_up_prints_faults_with_their_fixes(inventory: Path, cluster: Recorder, cli: Cli) -> None:
    fault = {"name": "ip_vs", "ok": False, "detail": "module missing", "fix": "modprobe ip_vs"}
    cluster.on("GET", "/swarmsh/nodes/n2/check", {"items": [fault]})
    result = cli("up", "-i", str(inventory), "--accept-new-host-keys")
    assert result.code == 1
    assert "n2: ip_vs: module missing\n    fix: modprobe ip_vs" in result.err


def test_a_node_that_does_not_get_ready_is_told(
    inventory: Path, cluster: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "READY_S", 0.3)
    cluster.on("GET", "/nodes", [make_node("n1"), make_node("n2", "unknown", Message="login refused")])
    result = cli("up", "-i", str(inventory), "--accept-new-host-keys")
    assert result.code == 1
    assert "n2 is unknown: login refused" in result.err
    assert "1 of 2 nodes are ready" in result.err


def stored(name: str, host: HostKeyServer, **target: Any) -> dict[str, Any]:
    """A node as the manager has it: n1 pinned as in the inventory, others by their key."""
    keys = [host.fingerprint] if name == "n1" else [host.line]
    return {
        "ID": name,
        "Name": name,
        "Target": {"Address": "127.0.0.1", "Port": host.port, "HostKeys": keys} | target,
    }


def test_an_address_that_changed_is_taken_over(
    inventory: Path, host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    cluster.on("GET", "/nodes", [make_node("n1"), make_node("n2")])
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host, Address="10.9.9.9"), stored("n2", host)])
    cluster.on("POST", "/swarmsh/nodes/n1/target", {})
    result = cli("up", "-i", str(inventory))
    assert result.code == 0, result.err
    assert "n1: address 10.9.9.9 -> 127.0.0.1\n" in result.err
    assert cluster.sent("POST", "/swarmsh/nodes/n1/target")[0].body["Address"] == "127.0.0.1"
    assert not cluster.sent("POST", "/swarmsh/nodes/n2/target")
    assert not cluster.sent("POST", "/swarmsh/nodes")


@pytest.mark.parametrize(
    ("was", "told"),
    [
        ({"User": "oops"}, "n2: user oops -> root"),
        ({"Port": 1}, "n2: port 1 -> "),
        ({"Become": True, "Python": "python2"}, "n2: become yes -> no, python python2 -> python3"),
        ({"IdentityFiles": ["/old"]}, "n2: key /old -> any"),
        ({"Jump": [{"Address": "10.1.1.1", "User": "ops"}]}, "n2: jump hosts ops@10.1.1.1:22 -> none"),
    ],
)
def test_a_way_that_was_corrected_is_taken_over_and_pins_stay(
    was: dict[str, Any], told: str, inventory: Path, host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    cluster.on("GET", "/nodes", [make_node("n1"), make_node("n2")])
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host), stored("n2", host, **was)])
    cluster.on("POST", "/swarmsh/nodes/n2/target", {})
    result = cli("up", "-i", str(inventory), "-y")  # nothing to ask: n2's pin is the manager's
    assert result.code == 0, result.err
    assert told in result.err
    (request,) = cluster.sent("POST", "/swarmsh/nodes/.*/target")
    assert request.body["HostKeys"] == [host.line]
    assert (request.body["User"], request.body["Port"], request.body["Jump"]) == ("root", host.port, [])


def test_pins_that_the_inventory_gives_replace_stored_ones(
    inventory: Path, host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    cluster.on("GET", "/nodes", [make_node("n1"), make_node("n2")])
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host, HostKeys=["SHA256:old"]), stored("n2", host)])
    cluster.on("POST", "/swarmsh/nodes/n1/target", {})
    result = cli("up", "-i", str(inventory), "-y")
    assert "n1: other pinned host keys\n" in result.err
    (request,) = cluster.sent("POST", "/swarmsh/nodes/.*/target")
    assert request.body["HostKeys"] == [host.fingerprint]


def test_a_node_tried_another_way_is_not_untrusted_for_good(
    inventory: Path, host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    answers = [make_node("n1", "untrusted", Message="shows another key") for _ in range(4)]

    def nodes(request: Request) -> Any:
        return [answers.pop() if answers else make_node("n1"), make_node("n2")]

    cluster.on("GET", "/nodes", nodes)
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host, HostKeys=["SHA256:old"]), stored("n2", host)])
    cluster.on("POST", "/swarmsh/nodes/n1/target", {})
    result = cli("up", "-i", str(inventory), "-y")
    assert result.code == 0, result.err


def test_groups_of_known_hosts_are_taken_over_and_other_labels_stay(
    host: HostKeyServer, cluster: Recorder, cli: Cli, tmp_path: Path
) -> None:
    before = make_node("n1")
    before["Spec"]["Labels"] = {"disk": "ssd", "group.old": "true"}
    (tmp_path / "hosts.ini").write_text(
        f"[web]\nn1 ansible_host=127.0.0.1 ansible_port={host.port} ansible_user=root "
        f"swarmsh_host_key={host.fingerprint} swarmsh_labels=disk=hdd\n"
    )
    cluster.on("GET", "/nodes", [before])
    cluster.on("GET", "/nodes/n1", before)
    cluster.on("POST", "/nodes/node1/update", {})
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host, HostKeys=[host.fingerprint])])
    result = cli("up", "-i", str(tmp_path / "hosts.ini"))
    assert result.code == 0, result.err
    assert "n1: labels +group.web -group.old\n" in result.err
    (request,) = cluster.sent("POST", "/nodes/node1/update")
    assert request.body["Labels"] == {"disk": "ssd", "group.web": "true"}
    assert not cluster.sent("POST", "/swarmsh/nodes.*")


@pytest.fixture
def stopped(cluster: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The cluster's manager, stopped; it answers again when it is started."""

    def start(state: Path, socket: Path, inventory: Path | None = None) -> None:
        cluster.on("HEAD", "/_ping", {})
        cluster.on("GET", "/_ping", {})
        cluster.requests.append(Request("START", str(state), {}, {}, None))

    state = tmp_path / "xdg" / "swarmsh"
    state.mkdir(parents=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    monkeypatch.setattr("swarmsh.cli.manager.start_manager", start)
    for method in ("HEAD", "GET"):
        cluster.on(method, "/_ping", (503, {"message": "stopped"}))
    return cluster


def test_up_after_a_stop_starts_the_manager_and_finds_all_there(
    inventory: Path, host: HostKeyServer, stopped: Recorder, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "xdg" / "swarmsh" / "swarmsh.db").touch()
    stopped.on("GET", "/nodes", [make_node("n1"), make_node("n2")])
    stopped.on("GET", "/swarmsh/nodes", [stored("n1", host), stored("n2", host)])
    result = cli("up", "-i", str(inventory), "-y")  # n2 has no pin: the manager's own is enough
    assert result.code == 0, result.err
    assert len(stopped.sent("START", ".*")) == 1
    assert not stopped.sent("POST", "/swarmsh/nodes.*")
    assert "2 of 2 nodes are ready" in result.err


def test_a_first_up_asks_before_it_starts_a_manager(inventory: Path, stopped: Recorder, cli: Cli) -> None:
    assert cli("up", "-i", str(inventory), "-y").code == 1
    assert not stopped.sent("START", ".*")
    result = cli("up", "-i", str(inventory), "-y", "--accept-new-host-keys")
    assert result.code == 0, result.err
    assert len(stopped.sent("START", ".*")) == 1
    assert len(stopped.sent("POST", "/swarmsh/nodes")) == 2


def test_hosts_that_a_left_cluster_had_are_taken_over_by_the_next(
    inventory: Path, host: HostKeyServer, cluster: Recorder, cli: Cli
) -> None:
    known = [make_node("n1"), make_node("n2")]
    cluster.on("GET", "/swarmsh/nodes", [stored("n1", host), stored("n2", host, User="ops")])
    begun = [False]
    cluster.on("GET", "/nodes", lambda request: known if begun[0] else (503, {"message": "not a swarm manager"}))
    cluster.on("POST", "/swarm/init", lambda request: begun.insert(0, True) or "id")
    cluster.on("POST", "/swarmsh/nodes/n[12]/target", {})
    result = cli("up", "-i", str(inventory), "-y")  # their pins were kept
    assert result.code == 0, result.err
    assert not cluster.sent("POST", "/swarmsh/nodes")
    (request,) = cluster.sent("POST", "/swarmsh/nodes/.*/target")
    assert (request.path, request.body["User"]) == ("/swarmsh/nodes/n2/target", "root")


def test_ready_is_who_answers_the_manager_that_was_just_started(
    inventory: Path, cluster: Recorder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "READY_S", 0.3)
    sessions = [{"name": "n1", "connected": True}, {"name": "n2", "connected": False}]
    cluster.on("GET", "/swarmsh/status", {"sessions": sessions})
    result = cli("up", "-i", str(inventory), "--accept-new-host-keys")
    assert result.code == 1
    assert "n2 does not answer" in result.err
    assert "1 of 2 nodes are ready" in result.err


def test_all_that_an_inventory_says_of_a_host_reaches_the_manager() -> None:
    hop = SshTarget(address="10.0.0.9", port=2222, user="jump", host_keys=("SHA256:h",))
    target = SshTarget(
        address="node.example", port=2022, user="ops", identity_files=("/k",), host_keys=("SHA256:a",),
        become=True, python="/usr/bin/python3.9", jump=(hop,), underlay="10.98.0.12",
    )  # fmt: skip
    assert from_wire(SshTarget, join.target_json(target)) == target
