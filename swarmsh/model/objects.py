"""What is stored and seen: networks, services, tasks, nodes, the cluster, events.

Times are seconds since the epoch.
"""

from __future__ import annotations

from msgspec import field

from swarmsh.model.revisions import REVISIONS_KEPT, Author
from swarmsh.model.specs import (
    ConfigSpec,
    EndpointSpec,
    GenericResource,
    NetworkSpec,
    NodeSpec,
    Platform,
    PortConfig,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmsh.model.states import NodeState, TaskState
from swarmsh.model.wire import Record


# --- networks -----------------------------------------------------------------------------------------------
class Network(Record, kw_only=True):
    """An overlay, with all that was allocated to it; how the subnet is split is decided once, at its creation.

    A removed network loses its name at once. The rest is kept until no task of it runs and its numbers may be
    used again.
    """

    id: str
    version: int
    created_at: float
    updated_at: float
    spec: NetworkSpec
    vni: int
    subnet: str  # CIDR, as all ranges here: 10.48.0.0/20
    gateways: str  # the bridge of node number n has the n-th address of it
    vips: str
    first_task: str  # tasks have the addresses from this one …
    last_task: str  # … to this one
    mtu: int
    encrypted: bool = False
    removed_at: float | None = None
    engine_name: str = ""  # decided at its creation, and kept: containers join it by that name; "" is the spec's

    @property
    def docker_name(self) -> str:
        """Of the Docker network that it is on nodes. That of a removed one may still be there under its name."""
        return self.engine_name or self.spec.name


class Release(Record):
    """An address or a mark that nobody holds any more, and that is not given again yet."""

    id: str  # "<pool>/<key>"
    pool: str
    key: int
    holder: str  # who had it
    released_at: float
    node_id: str = ""  # where, if it was a task


# --- services -----------------------------------------------------------------------------------------------
class UpdateStatus(Record):
    state: str = ""  # updating | paused | completed | rollback_started | rollback_paused | rollback_completed
    started_at: float | None = None
    completed_at: float | None = None
    message: str = ""


class VirtualIP(Record):
    """A service's address on a network; nodes know its packets by `mark` (24 bits; no other has it)."""

    network_id: str = field(default="", name="NetworkID")
    address: str = ""
    mark: int = 0


class PortMark(Record):
    """A port that every node answers on, and its mark: one for each ingress port of the spec, in their order."""

    name: str = ""
    protocol: str = ""  # tcp | udp
    target_port: int = 0
    published_port: int = 0  # chosen, where the spec has 0
    mark: int = 0


class Endpoint(Record):
    """What was allocated to a service."""

    virtual_ips: tuple[VirtualIP, ...] = field(default=(), name="VirtualIPs")
    ports: tuple[PortMark, ...] = ()


class JobRun(Record):
    """One iteration of a job; its numbers are those of the spec that it began with."""

    iteration: int
    began_at: float
    completions: int = 0  # of a replicated job
    spec_version: int = 0


class JobStatus(Record):
    """How far a job is; an ordinary service has none.

    An update that does not run the job leaves `iteration` as it is: that of a job with a schedule is 0 until it
    first runs.
    """

    iteration: int = 0
    run: JobRun | None = None  # of that iteration; None: it never ran
    earlier: tuple[JobRun, ...] = ()  # those before it that are still on, where a schedule lets them overlap
    next_execution: float | None = None  # when its schedule is due next
    skipped: int = 0  # runs that its schedule was due for and that were not made
    skipped_at: float | None = None  # when the newest of them was due
    skipped_because: str = ""


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
    endpoint: Endpoint = Endpoint()
    job_status: JobStatus | None = None
    let_go: bool = False  # its tasks waited for other services and were let start: they never wait again


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
    log: tuple[str, ...] = ()  # the container's last lines, where it failed or was not ready in time


class TaskAddress(Record):
    """A task's address on an overlay."""

    network_id: str = field(default="", name="NetworkID")
    address: str = ""


class Rebalance(Record):
    """That a task is to move to this node, once another one is ready there; asked for with others at one time."""

    node_id: str = ""
    asked_at: float = 0.0
    begun_at: float | None = None  # when another one was made for it
    done_at: float | None = None  # when that was ready, and this one told to leave
    stopped: str = ""  # why nothing came of it; empty while it is wanted, and after it was done

    @property
    def wanted(self) -> bool:
        """Still to be done."""
        return self.done_at is None and not self.stopped


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
    slot: int = 0  # from 1; 0: a global service's task
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
    # When it was first seen RUNNING, and when first ready: the monitor period of an update counts from there.
    running_since: float | None = None
    ready_since: float | None = None
    # When it was first said not to be ready in time, if it was not ready before.
    late_at: float | None = None
    # Since when it is to leave its node as soon as another one is ready in its slot.
    moving_since: float | None = None
    # The same, because somebody asked for it: nothing is wrong with its node.
    rebalance: Rebalance | None = None
    # Why it is only prepared and not started, where its service waits for others; empty once it was let go.
    held: str = ""
    # Allocated when its node is known: overlays, and the network of that node which leads outside and to the mesh.
    addresses: tuple[TaskAddress, ...] = ()
    egress_address: str = ""
    # The newest exchange of its secrets and configs under it: its spec has the new ids already.
    refresh: Refresh | None = None
    # Prepared (READY) for a place whose turn in an update has not come: until then it stands for nothing there.
    ahead: bool = False
    # Of a job: which run of it. Its desired RUNNING means «until it is complete», and COMPLETE tasks keep it.
    job_iteration: int | None = None

    @property
    def name(self) -> str:
        """`web.1.<id>`; a global service's task has its node's id in the slot's place (Docker's naming)."""
        return f"{self.service_name}.{self.place_word}.{self.id}"

    @property
    def number(self) -> int | None:
        """The slot as clients know it: those of jobs are counted from 0. None without a slot."""
        if not self.slot:
            return None
        return self.slot if self.job_iteration is None else self.slot - 1

    @property
    def place_word(self) -> str:
        """The number, or the node's id where there is none."""
        return self.node_id if self.number is None else str(self.number)

    @property
    def desired_word(self) -> str:
        """The desired state in the Engine API: tasks of jobs are wanted `complete`, where others are `running`."""
        job = self.job_iteration is not None and self.desired is TaskState.RUNNING
        return TaskState.COMPLETE.word if job else self.desired.word

    @property
    def placed(self) -> bool:
        """A node was found for it: from here on its node may have been told of it, and must say that it ended."""
        return self.status.state >= TaskState.ASSIGNED

    @property
    def live(self) -> bool:
        """Wanted, and not ended: it occupies its slot."""
        return self.desired <= TaskState.RUNNING and not self.status.state.terminal


# --- secrets and configs ------------------------------------------------------------------------------------
class _Kept(Record, kw_only=True):
    """One version of what has a name. Its contents never change, and are not here: the store has them by its id.

    The name means the version that is `current`; the others are kept to go back to, and for services that were
    left with them. Docker's lists have the current ones only.
    """

    id: str
    version: int
    created_at: float
    updated_at: float
    number: int = 1  # of the versions of this name, from 1; one that is not kept any more leaves a gap
    current: bool = True
    size: int = 0  # bytes
    author: Author = Author()  # who made it, and by what: "create", "rotate", …


class Secret(_Kept, kw_only=True):
    spec: SecretSpec


class Config(_Kept, kw_only=True):
    spec: ConfigSpec


class Refresh(Record):
    """That a running task is given other contents of its secrets and configs, without a restart."""

    number: int = 0  # of the task's refreshes, from 1
    signal: str = ""  # sent to its container when they are in place: "SIGHUP"
    earlier: tuple[str, ...] = ()  # sent before it, of refreshes that this one overtook
    asked_at: float = 0.0
    done_at: float | None = None  # when its node said so
    err: str = ""  # why nothing came of it


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
    underlay: str = ""  # IPv4 by which other nodes reach it, where that is not the one by which the manager does


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
    address: str = ""  # IPv4 at which our connection reached it; empty behind a jump host
    routes: tuple[str, ...] = ()  # subnets in CIDR that the node reaches without us: no overlay may overlap them
    # Names of its volumes with data of its own: neither anonymous nor remote ones. None: it could not tell.
    volumes: tuple[str, ...] | None = None
    volumes_cut: bool = False  # it has more than it could tell
    mtus: tuple[tuple[str, int], ...] = ()  # its IPv4 addresses, each with the MTU of the device that has it


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
    number: int  # 1 to 255, stable for the node's lifetime: its gateways and its egress subnet derive from it
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
class LBTimeouts(Record, rename={"tcp_s": "TCP", "tcp_fin_s": "TCPFin", "udp_s": "UDP"}):
    """Seconds after which the load balancer of nodes forgets a connection on which nothing passes.

    The kernel's own 900 s for TCP would reset what is idle until the first keepalive (2 h by default).
    """

    tcp_s: int = 432000  # established; as long as conntrack keeps it
    tcp_fin_s: int = 120  # after a FIN
    udp_s: int = 300


class Cluster(Record):
    """There is one; without it the manager answers as an Engine that is no swarm manager."""

    id: str
    version: int
    created_at: float
    updated_at: float
    task_history: int = 5  # ended tasks kept for each slot
    revisions_kept: int = REVISIONS_KEPT  # of each service's spec, the current and the previous one included
    down_after_s: float = 10.0
    lb_timeouts: LBTimeouts = field(default_factory=LBTimeouts, name="LBTimeouts")
    # Where overlays without a subnet of their own get one. 256 of them, each with a gateway for all nodes.
    default_addr_pool: tuple[str, ...] = ("10.48.0.0/12",)
    subnet_size: int = 20  # prefix length
    egress_pool: str = ""  # "": the usual one (`core.reach`); chosen before the first address is given
    egress_mtu: int = 0  # 0: the usual one; chosen with the pool
    labels: dict[str, str] = field(default_factory=dict)


class Event(Record):
    """A line of `docker events`; `attributes` as in Docker (name, replicas.old, …), all strings."""

    time: float
    type: str  # service | node | …
    action: str  # create | update | remove, and ours: …
    id: str
    attributes: dict[str, str] = field(default_factory=dict)
