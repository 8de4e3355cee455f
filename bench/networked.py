"""What the measurements of networks share: overlays and published ports on either side, and who answers there."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from common import POLL_S, Bench, BenchFailed, Json, Side, poll, service_spec

VNI_LIST = "com.docker.network.driver.overlay.vxlanid_list"
# A kernel has each VNI of a UDP port once, and both sides begin with 4096: ours get others, named in the create.
FIRST_VNI = 70000
ANSWER_S = 1.0  # for one request from outside: a SYN that was dropped is sent again after so long
OPTIONS_ENCRYPTED = {"encrypted": ""}


# --- both sides alike -----------------------------------------------------------------------------------
class Overlays:
    """Overlay networks of one side: made with names and VNIs that the other side does not have."""

    def __init__(self, side: Side) -> None:
        self.side, self.made = side, dict[str, str]()
        self._next_vni = FIRST_VNI

    def make(self, name: str, *, encrypted: bool = False) -> str:
        """A network's id."""
        options = dict(OPTIONS_ENCRYPTED) if encrypted else {}
        if self.side.name == "ours":
            options[VNI_LIST] = str(self._next_vni)
            self._next_vni += 1
        body = {
            "Name": f"{self.side.name}-{name}",
            "Driver": "overlay",
            "CheckDuplicate": True,
            "Options": options,
        }
        self.made[name] = str(self.side.api.ask("POST", "/networks/create", body)["Id"])
        return self.made[name]

    def remove(self, name: str) -> None:
        """Wait until nobody uses it, and remove it."""
        network = self.made.pop(name)
        poll(
            lambda: self.side.api.call("DELETE", f"/networks/{network}")[0] in (204, 404),
            f"{self.side.name}: network {name} removed",
            120,
        )


def networked_spec(
    name: str, image: str, replicas: int, networks: Sequence[str], *, port: int = 0, constraint: str = ""
) -> Json:
    """As service_spec, on these networks (ids), `port` published for its port 80; what it writes is not kept.

    The image writes a line a request: keeping them would be most of what a request costs.
    """
    spec = service_spec(name, image, replicas, constraint=constraint)
    spec["TaskTemplate"]["LogDriver"] = {"Name": "none"}
    spec["TaskTemplate"]["Networks"] = [{"Target": network} for network in networks]
    if port:
        published = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port, "PublishMode": "ingress"}
        spec["EndpointSpec"] = {"Mode": "vip", "Ports": [published]}
    return spec


def vip(side: Side, service: str, network: str) -> str:
    """The service's address in a network, both by id."""
    virtual = side.api.ask("GET", f"/services/{service}")["Endpoint"]["VirtualIPs"]
    return str(next(one["Addr"] for one in virtual if one["NetworkID"] == network)).partition("/")[0]


# --- tasks as places to act in --------------------------------------------------------------------------
@dataclass(frozen=True)
class Place:
    """A running task's container: its machine, a process in it, and its addresses by network id."""

    node: str
    pid: int
    addresses: dict[str, str]

    def inside(self, *argv: str) -> str:
        """A shell line that runs a program of the machine in the container's network."""
        return shlex.join(["nsenter", "-t", str(self.pid), "-n", *argv])


def places(bench: Bench, side: Side, service: str) -> list[Place]:
    """Where the service's tasks run, by machine."""
    names, found = side.nodes(), []
    for task in side.running(service):
        node, container = names[task["NodeID"]], task["Status"]["ContainerStatus"]["ContainerID"]
        pid = bench.machines.engines[node].ask("GET", f"/containers/{container}/json")["State"]["Pid"]
        addresses = {
            one["Network"]["ID"]: one["Addresses"][0].partition("/")[0]
            for one in task["NetworksAttachments"]
            if one["Addresses"]
        }
        found.append(Place(node, pid, addresses))
    return sorted(found, key=lambda place: (place.node, place.pid))


# --- who answers, from outside --------------------------------------------------------------------------
@contextmanager
def inside_lab(bench: Bench) -> Iterator[None]:
    """Have this thread, and threads that it starts, in the lab's network, as a client outside the machines.

    Unix sockets go by file, so the APIs stay in reach.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with open(path, "rb") as there:
            if libc.setns(there.fileno(), 0x40000000) != 0:
                raise BenchFailed(f"setns {path}: {ctypes.get_errno()}")

    with open("/proc/self/ns/net", "rb") as own:
        enter(f"/var/run/netns/{bench.machines.status.namespace}")
        try:
            yield
        finally:
            if libc.setns(own.fileno(), 0x40000000) != 0:
                raise BenchFailed(f"setns back: {ctypes.get_errno()}")


def who_answers(address: str, port: int) -> str:
    """The host name of the task that answers a request on a new connection; "" if none does in time."""
    try:
        with socket.create_connection((address, port), timeout=ANSWER_S) as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while part := link.recv(4096):
                data += part
    except OSError:
        return ""
    return data.decode(errors="replace").partition("hostname=")[2].partition("\n")[0]


@dataclass
class Watch:
    """Asks a published port through every node at once, until `count` tasks answered through each of them."""

    bench: Bench
    port: int
    count: int
    first: dict[str, float] = field(default_factory=dict)  # node -> monotonic time of the first answer
    whole: dict[str, float] = field(default_factory=dict)  # and of that by which all had answered

    def run(self, timeout_s: float) -> float:
        """The monotonic time at which all answered through every node. Raises BenchFailed."""
        machines = self.bench.machines
        with inside_lab(self.bench), ThreadPoolExecutor(len(machines.names)) as pool:
            nodes = [(name, machines.status.nodes[name].address) for name in machines.names]
            list(pool.map(lambda node: self._ask(*node, time.monotonic() + timeout_s), nodes))
        missing = [name for name in machines.names if name not in self.whole]
        if missing:
            raise BenchFailed(f"not {self.count} tasks on port {self.port} through {', '.join(missing)}")
        return max(self.whole.values())

    def _ask(self, node: str, address: str, deadline: float) -> None:
        """Each 50 ms, so often that every backend there is has its turn."""
        seen: set[str] = set()
        while (began := time.monotonic()) < deadline:
            turn: set[str] = set()
            while (name := who_answers(address, self.port)) and name not in turn:
                self.first.setdefault(node, time.monotonic())
                turn.add(name)
            seen |= turn
            if len(seen) == self.count:
                self.whole[node] = time.monotonic()
                return
            time.sleep(max(0.0, began + POLL_S - time.monotonic()))
