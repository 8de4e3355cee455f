"""Hosts become nodes: pinned, added, waited for, checked. What `up` and `node add` share."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import click
import msgspec

from swarmsh.adapters.inventory import describe_changes, regrouped
from swarmsh.cli.common import node_name
from swarmsh.cli.node_change import change_node
from swarmsh.cli.node_show import check_node
from swarmsh.cli.output import note
from swarmsh.cli.progress import Display
from swarmsh.cli.trust import pin_targets
from swarmsh.client import ApiError, ManagerClient, segment
from swarmsh.errors import Kind, SwarmshError
from swarmsh.model.objects import SshTarget

Json = dict[str, Any]

READY_S = 90.0
RETRIED_S = 10.0
POLL_S = 0.2
_FINAL = ("untrusted",)


class NewHost(NamedTuple):
    name: str
    target: SshTarget
    labels: dict[str, str]
    role: str
    availability: str


def initialise(manager: ManagerClient) -> None:
    """Make a cluster if the manager has none."""
    if (manager.get("/info").get("Swarm") or {}).get("LocalNodeState") == "active":
        return
    manager.post("/swarm/init", {"ListenAddr": "0.0.0.0:2377"})
    note("Cluster initialised")


def current_nodes(manager: ManagerClient) -> dict[str, Json]:
    """Nodes by name; none where there is no cluster yet."""
    try:
        return {node_name(node): node for node in manager.nodes()}
    except ApiError as error:
        if error.kind is Kind.UNAVAILABLE:
            return {}
        raise


def connected_nodes(manager: ManagerClient) -> set[str]:
    """Names of nodes that the manager has a session with."""
    return {session["name"] for session in manager.get("/swarmsh/status")["sessions"] if session["connected"]}


def _is_ready(status: Json) -> bool:
    return status.get("State") == "ready"


class Joining:
    """Adding hosts; `failures` counts what did not work and was told."""

    def __init__(self, *, accept_new: bool, never_ask: bool) -> None:
        self._accept_new = accept_new
        self._never_ask = never_ask
        self.failures = 0
        self._moved: set[str] = set()

    def pin(self, hosts: list[NewHost]) -> list[NewHost]:
        """Hosts with pinned keys; those that cannot be reached are told and left out."""
        pinned = pin_targets(
            {host.name: host.target for host in hosts}, accept_new=self._accept_new, never_ask=self._never_ask
        )
        for name, error in pinned.failures.items():
            self._tell(f"{name}: {error}")
        return [host._replace(target=pinned.targets[host.name]) for host in hosts if host.name in pinned.targets]

    def move(self, manager: ManagerClient, hosts: list[NewHost], stored: dict[str, SshTarget]) -> None:
        """Tell the manager how hosts of the cluster are reached now, and the user what of it changed."""
        for host in hosts:
            changes = describe_changes(stored[host.name], host.target)
            try:
                manager.post(f"/swarmsh/nodes/{segment(host.name)}/target", target_json(host.target))
            except ApiError as error:
                self._tell(f"{host.name}: {error}")
            else:
                note(f"{host.name}: {changes}")
                self._moved.add(host.name)

    def regroup(self, manager: ManagerClient, hosts: list[NewHost]) -> None:
        """Give nodes of the cluster the labels of their groups; their other labels stay."""
        nodes = current_nodes(manager)
        for host in hosts:
            if host.name not in nodes:
                continue
            before = nodes[host.name]["Spec"].get("Labels") or {}
            after = regrouped(before, host.labels)
            if before == after:
                continue

            def change(spec: Json, labels: dict[str, str] = host.labels) -> Json:
                return spec | {"Labels": regrouped(spec.get("Labels") or {}, labels)}

            try:
                change_node(manager, host.name, change)
            except ApiError as error:
                self._tell(f"{host.name}: {error}")
            else:
                words = [f"+{label}" for label in sorted(after.keys() - before.keys())]
                words += [f"-{label}" for label in sorted(before.keys() - after.keys())]
                note(f"{host.name}: labels {' '.join(words) or 'of its groups changed'}")

    def add(self, manager: ManagerClient, hosts: list[NewHost]) -> None:
        """Tell the manager of pinned hosts."""
        for host in hosts:
            body = {
                "Name": host.name,
                "Target": target_json(host.target),
                "Labels": host.labels,
                "Role": host.role,
                "Availability": host.availability,
            }
            try:
                manager.post("/swarmsh/nodes", body)
            except ApiError as error:
                self._tell(f"{host.name}: {error}")

    def await_ready(self, manager: ManagerClient, names: list[str]) -> list[str]:
        """Wait for nodes; the names of those that are ready and answer. Others are told with the reason."""
        display = Display()
        begin = time.monotonic()
        deadline = begin + READY_S
        while True:
            nodes = current_nodes(manager)
            states = {name: nodes[name].get("Status", {}) for name in names if name in nodes}
            for name, status in states.items():
                display.set(name, " ".join(filter(None, (status.get("State", ""), status.get("Message", "")))))
            # A manager that was just started remembers states from before: ready is who answers it.
            answering = connected_nodes(manager)
            # Untrusted is how it ends, but for a node that is only now tried another way.
            tried = time.monotonic() > begin + RETRIED_S
            waiting = [
                name
                for name, status in states.items()
                if (status.get("State") not in _FINAL or (name in self._moved and not tried))
                and not (_is_ready(status) and name in answering)
            ]
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        for name, status in states.items():
            if not _is_ready(status):
                self._tell(f"{name} is {status.get('State')}: {status.get('Message') or 'no reason given'}")
            elif name in waiting:
                self._tell(f"{name} does not answer: {status.get('Message') or 'there is no session with it yet'}")
        return [name for name in names if name in states and _is_ready(states[name]) and name not in waiting]

    def check(self, manager: ManagerClient, names: list[str]) -> None:
        """Print what is missing on nodes, with the way out."""
        for name in names:
            for item in check_node(manager, name):
                if not item["OK"]:
                    fix = f"\n    fix: {item['Fix']}" if item["Fix"] else ""
                    self._tell(f"{name}: {item['Name']}: {item['Detail']}{fix}")

    def _tell(self, message: str) -> None:
        self.failures += 1
        click.echo(message, err=True)


def target_json(target: SshTarget) -> Json:
    """A target as POST /swarmsh/nodes takes it."""
    return {
        "Address": target.address,
        "Port": target.port,
        "User": target.user,
        "IdentityFiles": list(target.identity_files),
        "HostKeys": list(target.host_keys),
        "Become": target.become,
        "Python": target.python,
        "Jump": [target_json(hop) for hop in target.jump],
        **({"Underlay": target.underlay} if target.underlay else {}),
    }


def parse_target(text: str) -> SshTarget:
    """`[user@]address[:port]`, as in ssh's ProxyJump."""
    user, at, place = text.rpartition("@")
    address, colon, port = place.rpartition(":")
    if (
        colon
        and port.isdecimal()
        and not address.endswith(":")
        and (":" not in address or address.startswith("["))
    ):
        place, number = address, int(port)
    else:
        number = 22
    if not place or number > 65535:
        raise SwarmshError(f"{text!r} is not of the form [USER@]ADDRESS[:PORT]")
    target = SshTarget(address=place.removeprefix("[").removesuffix("]"), port=number)
    return msgspec.structs.replace(target, user=user) if at else target
