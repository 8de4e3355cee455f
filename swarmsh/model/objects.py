"""What is stored and seen: services, tasks, nodes, the cluster, events. Times are seconds since the epoch."""

from __future__ import annotations

from msgspec import field

from swarmsh.model.specs import (
    EndpointSpec,
    GenericResource,
    NodeSpec,
    Platform,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from swarmsh.model.states import NodeState, TaskState
from swarmsh.model.wire import Record


# --- services -----------------------------------------------------------------------------------------------
class UpdateStatus(Record):
    state: str = ""  # updating | paused | completed | rollback_started | rollback_paused | rollback_completed
    started_at: float | None = None
    completed_at: float | None = None
    message: str = ""


class Service(Record, kw_only=True):
    """`spec_version` is the generation of the part of the spec that a change of replaces tasks.

    Removing a service deletes it at once, so that its name is free; its tasks get the desired state REMOVE in the
    same write, and each is deleted when it has ended.
    """

    id: str
    version: int  # the cluster's version index at its last stored write; clients send it back on update
    created_at: float
    updated_at: float
    spec: ServiceSpec
    spec_version: int = 1
    previous_spec: ServiceSpec | None = None
    update_status: UpdateStatus | None = None


# --- tasks --------------------------------------------------------------------------------------------------
class TaskStatus(Record):
    """The observed half of a task, written by reports only."""

    state: TaskState = TaskState.NEW
    since: float = 0.0
    message: str = ""  # Docker's words: "started", "preparing", …
    err: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    ports: tuple[PortConfig, ...] = ()  # what the Engine really bound (host mode)
    ready: bool = False  # takes traffic (design decision 6); RUNNING alone is Docker's word
    restarts: int = 0  # restarts on the node while no manager held its lease


class Task(Record, kw_only=True):
    """One attempt to run one container of a service in a slot (replicated) or on a node (global).

    It is immutable in what it runs; `desired` is the manager's wish, `status` what was seen.
    """

    id: str
    version: int
    created_at: float
    updated_at: float
    service_id: str
    service_name: str
    slot: int = 0  # 0: a global service's task
    node_id: str = ""
    spec: TaskSpec
    spec_version: int = 1
    endpoint: EndpointSpec | None = None
    labels: dict[str, str] = field(default_factory=dict)  # the service's, copied for `label` filters
    desired: TaskState = TaskState.RUNNING
    status: TaskStatus = field(default_factory=TaskStatus)
    generic_resources: tuple[GenericResource, ...] = ()  # what the scheduler dealt out
    # A replacement waits at READY until this time (restart delay), and until what it follows has stopped.
    start_after: float | None = None
    # The task on a lost node that this one stands in for: one of the two is removed (design decision 8).
    replaces: str = ""
    # Times of the restarts that led to this task in its slot and spec version: what max attempts is judged by.
    restarted_at: tuple[float, ...] = ()
    # Why the manager took it off its node, if it did: empty for a drained node, else it ends as REJECTED with this
    # as its error. Its place is free again, whatever the restart policy says.
    withdrawn: str | None = None
    # When it was first seen RUNNING; the monitor period of an update counts from here.
    running_since: float | None = None

    @property
    def name(self) -> str:
        """`web.1.<id>`; a global service's task has its node's id in the slot's place (Docker's naming)."""
        return f"{self.service_name}.{self.slot or self.node_id}.{self.id}"

    @property
    def placed(self) -> bool:
        """A node was found for it: from here on its node may have been told of it, and must say that it ended."""
        return self.status.state >= TaskState.ASSIGNED

    @property
    def live(self) -> bool:
        """Wanted, and not ended: it occupies its slot."""
        return self.desired <= TaskState.RUNNING and not self.status.state.terminal


# --- nodes --------------------------------------------------------------------------------------------------
class SshTarget(Record):
    """How a node is reached. `jump` is a chain of further targets, the first hop first."""

    address: str
    port: int = 22
    user: str = "root"
    identity_files: tuple[str, ...] = ()  # empty: the agent and the user's default keys
    host_keys: tuple[str, ...] = ()  # pins, any may match: "SHA256:…" or "ssh-ed25519 AAAA…"
    become: bool = False  # run the helper through `sudo -n`
    python: str = "python3"
    jump: tuple[SshTarget, ...] = ()


class NodeDescription(Record):
    """What the node's helper and Engine say of it at session start."""

    hostname: str = ""
    platform: Platform = field(default_factory=Platform)
    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] = ()
    engine_version: str = ""
    engine_api: str = ""  # highest Engine API version: "1.41"
    engine_labels: dict[str, str] = field(default_factory=dict)
    plugins: tuple[tuple[str, str], ...] = ()  # (type, name): ("Volume", "local")
    python: str = ""
    kernel: str = ""
    boot_id: str = ""


class NodeStatus(Record):
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    since: float = 0.0
    # Three heartbeats missed: its backends leave the mesh, nothing else changes yet.
    silent: bool = False
    # Its Engine does not answer: what runs goes on, but nothing new is given to it.
    engine_hung: bool = False
    # Of a node that is down and not in touch. `unseen_since`: it was neither heard nor reached by a peer since.
    # `heard_at`: its last line, or 0 if this manager never had one. Only fenced tasks depend on them.
    unseen_since: float | None = None
    heard_at: float = 0.0


class Node(Record, kw_only=True):
    id: str
    number: int  # small, from 1, stable for the node's lifetime: addresses and marks derive from it
    version: int
    created_at: float
    updated_at: float
    spec: NodeSpec
    target: SshTarget
    description: NodeDescription = field(default_factory=NodeDescription)
    status: NodeStatus = field(default_factory=NodeStatus)

    @property
    def hostname(self) -> str:
        """The name Docker shows; the inventory's until the node was seen."""
        return self.description.hostname or self.spec.name


# --- the cluster --------------------------------------------------------------------------------------------
class Cluster(Record):
    """There is one; without it the manager answers as an Engine that is no swarm manager."""

    id: str
    version: int
    created_at: float
    updated_at: float
    task_history: int = 5  # ended tasks kept for each slot
    down_after_s: float = 10.0
    labels: dict[str, str] = field(default_factory=dict)


class Event(Record):
    """A line of `docker events`; `attributes` as in Docker (name, replicas.old, …), all strings."""

    time: float
    type: str  # service | node | …
    action: str  # create | update | remove, and ours: …
    id: str
    attributes: dict[str, str] = field(default_factory=dict)
