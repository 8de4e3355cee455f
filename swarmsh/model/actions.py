"""What a node can be told to do, and what it reports: the typed side of the messages to a helper.

Each action is «ensure»: given twice, the second changes nothing. `docs/protocol.md` has the JSON.
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec
from msgspec import field

from swarmsh.model.objects import NodeDescription


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what travels to and from helpers: snake_case JSON."""


class Probe(Message):
    """How readiness is judged when a service has `swarmsh.probe` (design decision 6)."""

    kind: str  # http | tcp
    port: int
    path: str = ""
    interval_s: float = 2.0
    timeout_s: float = 2.0
    retries: int = 3


class NetworkJoin(Message):
    """A network of the Engine's that a container is on, and its address there."""

    name: str
    address: str
    driver_opts: dict[str, str] = {}  # of the Engine's, such as com.docker.network.endpoint.ifname


class TaskFile(Message):
    """A file of a secret or config in a task's container; its contents are given apart, by `id`."""

    id: str  # of the secret or config
    target: str  # absolute
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


class EnsureTask(Message, tag_field="do", tag="ensure_task"):
    """Bring the task's container to `desired`: "ready" (image there, created) or "running" (started)."""

    task_id: str
    service_id: str
    index: int  # version index at which the task was created; a label on its container
    name: str  # container name
    desired: str
    image: str
    config: dict[str, Any]  # body of POST /containers/create
    auth: str = ""  # X-Registry-Auth for the pull; kept in the helper's memory only
    pull: str = "missing"  # missing | always
    restart: str = "any"  # none | on-failure | any: for the Engine's own policy while no manager is there
    restart_delay_s: float = 5.0
    stop_grace_s: float = 10.0
    tcp_ports: tuple[int, ...] = ()  # declared targets: ready when all of them listen
    probe: Probe | None = None
    fence: bool = False  # stopped when nobody is in reach of its node (`swarmsh.fence=stop`)
    networks: tuple[NetworkJoin, ...] = ()  # in the order in which the container joins them; `swgw` is the last
    files: tuple[TaskFile, ...] = ()  # of secrets and configs


class StopTask(Message, tag_field="do", tag="stop_task"):
    """Stop the task's container (its stop signal, then SIGKILL after `grace_s`); it stays for inspection."""

    task_id: str
    grace_s: float = 10.0
    drain_s: float = 0.0  # so long the stop signal waits at most while clients are connected


class RemoveTask(Message, tag_field="do", tag="remove_task"):
    """Remove the task's container with its anonymous volumes and forget the task; running or not."""

    task_id: str


class RefreshSecrets(Message, tag_field="do", tag="refresh_secrets"):
    """Exchange the contents of a ready or running task's secrets and configs for those that it was given last,
    each file whole or not at all; then send its container `signal`, if it runs and that is not empty.

    Done once for each `number`, the highest of which the task's reports repeat from then on.
    """

    task_id: str
    number: int
    signal: str = ""  # SIGHUP
    earlier: tuple[str, ...] = ()  # sent before it: signals of exchanges that this one overtook
    files: tuple[TaskFile, ...] = ()  # all of the task's, at the targets of before


Action = EnsureTask | StopTask | RemoveTask | RefreshSecrets


class Peer(Message):
    """A node as another one tries to reach it."""

    node: str
    address: str
    port: int = 22


class Batch(Message):
    """All actions for one node, in order; refused as a whole if `epoch` or `index` is below what was seen."""

    cluster_id: str
    epoch: int
    index: int
    actions: tuple[Action, ...]
    # The node itself and those it tries before it stops fenced tasks; None: as told before.
    peers: tuple[Peer, ...] | None = None


class ContentPart(Message):
    """A part of what a secret or config holds, for one task. Never shown."""

    task_id: str
    id: str
    size: int  # bytes of the whole
    offset: int = 0
    data: bytes = b""  # base64 in JSON

    def __repr__(self) -> str:
        return f"ContentPart(task_id={self.task_id!r}, id={self.id!r}, size={self.size}, data=…)"


class ContentParts(Message):
    """Parts for a node, in order; as many as fit a line. Refused as a batch is."""

    cluster_id: str
    epoch: int
    index: int
    items: tuple[ContentPart, ...]


class BoundPort(Message):
    protocol: str  # tcp | udp | sctp
    target_port: int
    published_port: int


class TaskReport(Message, kw_only=True):
    """What a node says of one of our containers; found again by its labels when the helper had forgotten it."""

    task_id: str
    service_id: str = ""
    index: int = 0
    state: str  # a word of the ladder, from "accepted" up; "gone" once removed
    wanted: str = ""  # what the helper is bringing it to: "ready" | "running" | "stop" | "remove" | ""
    since: float = 0.0  # seconds since the epoch on the node's clock
    message: str = ""
    err: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    ports: tuple[BoundPort, ...] = ()
    ready: bool = False
    late: bool = False  # not ready although the time for that is over
    log: tuple[str, ...] = ()  # its last lines, of a container that failed or is late
    restarts: int = 0
    refreshed: int = 0  # the newest `refresh_secrets` that was carried out, by its number
    refresh_err: str = ""  # why that one failed; it is not tried again
    missing: tuple[str, ...] = ()  # ids of secrets and configs whose contents it waits for


class NodeReport(Message):
    """All that a node has said in this session: its description, and every task of ours that it holds."""

    description: NodeDescription = field(default_factory=NodeDescription)
    tasks: dict[str, TaskReport] = field(default_factory=dict)
    engine_ok: bool = True
    engine_message: str = ""
    engine_since: float = 0.0  # when `engine_ok` last changed, on the manager's monotonic clock
