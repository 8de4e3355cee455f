"""What the manager needs of the outside world, as narrow Protocols; adapters and fakes implement them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from swarmsh.model.actions import Batch, ContentParts, NodeReport, TaskReport
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.netstate import EspKeys, NetworkChange
from swarmsh.model.objects import Event, SshTarget
from swarmsh.model.paths import Heard, Listen, Send, Sent
from swarmsh.model.revisions import Revision
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.stacks import StackRevision
from swarmsh.model.trace import Sighting, Traced, TraceSend, TraceWatch
from swarmsh.model.volumes import EngineVolume


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never jump, and that go on while the machine sleeps if the platform can tell."""


class IdSource(Protocol):
    def new_id(self) -> str:
        """25 characters of base36, as swarmkit's identity package makes them."""


Decide = Callable[[ClusterSnapshot], Changes]


class DecisionStore(Protocol):
    """What passes need of a store."""

    @property
    def snapshot(self) -> ClusterSnapshot:
        """The newest acknowledged state; never blocks."""

    async def commit_orchestration(self, decide: Decide) -> ClusterSnapshot:
        """`Store.commit` for the manager's own decisions: survives the process's death, not the machine's."""

    def observe(self, decide: Decide) -> ClusterSnapshot:
        """Take over observed state in memory at once, without a new index; on disk within about 100 ms."""


class Store(DecisionStore, Protocol):
    """Desired and observed state. One writer: decisions run one after another, each on the newest snapshot."""

    async def commit(self, decide: Decide) -> ClusterSnapshot:
        """Run `decide` on the newest snapshot and write what it returns, on disk before this returns.

        Every object put gets the next version index and `updated_at`. Nothing is written, and no index used,
        for empty changes. What `decide` raises passes through and changes nothing. Raises StoreReadOnly.
        """

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[tuple[ClusterSnapshot, Changes]]]:
        """Every change after entering, in order: the snapshot after it, and the stamped changes themselves."""

    async def events(self, since: float | None, until: float | None) -> Sequence[Event]:
        """Kept events with since <= time <= until, oldest first."""

    async def revisions(self, service_id: str) -> Sequence[Revision]:
        """Kept revisions of a service's spec, oldest first. Each write that gives it another spec adds one.

        As many are kept as the cluster says, the current and the previous one always.
        """

    async def stack_revisions(self, stack: str) -> Sequence[StackRevision]:
        """Kept revisions of a stack, oldest first; as many as of a service's spec."""

    async def newest_stack_revision(self, stack: str) -> int:
        """The number of the newest kept revision of a stack, 0 if it has none; read without its contents."""

    async def next_epoch(self) -> int:
        """One higher than ever before, on disk."""

    async def get_secret(self, key: str) -> bytes | None:
        """A value that is encrypted at rest (registry credentials)."""

    async def put_secret(self, key: str, value: bytes | None) -> None:
        """Store it, or delete it with None; on disk before this returns."""

    def secret_keys(self) -> Sequence[str]:
        """Keys of all values that `put_secret` stored, sorted; never blocks."""

    async def secret_data(self, secret_id: str) -> bytes:
        """What a secret holds. Raises NotFound, Locked."""

    async def config_data(self, config_id: str) -> bytes:
        """What a config holds. Raises NotFound, Locked."""

    @property
    def locked(self) -> str:
        """Why nothing that is sealed can be read or written now; empty if it can. Never blocks.

        While it is so, what reads or writes such values raises Locked, and all else goes on.
        """

    @property
    def key_place(self) -> str:
        """Where the key to sealed values is: file | keyring | passphrase."""

    async def unlock(self, passphrase: str = "") -> None:
        """Open what is sealed. Raises InvalidSpec for a wrong passphrase, Locked if its key is not to be had."""

    async def rotate_key(self, place: str = "", passphrase: str = "", *, forget: bool = False) -> None:
        """Seal all with new keys, kept at `place` ("" for where they are). `forget`: delete all of it instead.

        Raises Locked, InvalidSpec, Unavailable.
        """

    async def close(self) -> None:
        """Flush what was observed, and close."""


class ContentSource(Protocol):
    """What secrets and configs hold. Both raise NotFound, and other errors while it cannot be read."""

    async def secret_data(self, secret_id: str) -> bytes: ...

    async def config_data(self, config_id: str) -> bytes: ...


# --- nodes --------------------------------------------------------------------------------------------------
class Connected(msgspec.Struct, frozen=True):
    """A session stands and the helper accepted us; `report` is all that the node holds."""

    node_id: str
    report: NodeReport


class Disconnected(msgspec.Struct, frozen=True):
    """The session ended or could not be opened; it is tried again by itself, with back-off."""

    node_id: str
    reason: str


class Untrusted(msgspec.Struct, frozen=True):
    """The node showed a host key that is not pinned; nothing was sent. Tried again slowly."""

    node_id: str
    shown: str  # fingerprint
    pinned: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True):
    """The helper refused us: held by another cluster, or it has seen a higher epoch or index than ours."""

    node_id: str
    code: str  # other_cluster | stale_epoch | stale_index
    reason: str


class TasksReported(msgspec.Struct, frozen=True):
    node_id: str
    tasks: tuple[TaskReport, ...]


class Described(msgspec.Struct, frozen=True):
    """The node's description, or whether its Engine answers, changed."""

    node_id: str
    report: NodeReport


class NetworkChecked(msgspec.Struct, frozen=True):
    """The helper's own check of its network state found drift, began to fail, or works again."""

    node_id: str
    ok: bool
    message: str
    drift: tuple[str, ...]
    lost: tuple[int, ...] = ()  # numbers of peers with whom a new epoch of keys is needed


NodeEvent = Connected | Disconnected | Untrusted | Refused | TasksReported | Described | NetworkChecked


class NodeClient(Protocol):
    """Sessions to all nodes. Heartbeats stay inside; `last_heard` tells their time."""

    def keep(self, node_id: str, name: str, target: SshTarget) -> None:
        """Keep a session to this node from now on (idempotent; a changed target reconnects)."""

    async def drop(self, node_id: str, *, release: bool = False) -> bool:
        """End the session for good; with `release` the helper forgets the cluster first: whether it said so."""

    async def leave(self, node_id: str) -> tuple[str, ...]:
        """End the session for good, and leave nothing of ours on the node; words about what is left all the same.

        The node's tasks are to have been removed before. Waits until the helper has ended and its files are gone.
        Raises NodeUnreachable without a session, and what requests raise; then the session has ended as well.
        """

    def events(self) -> AsyncIterator[NodeEvent]:
        """What happens on the nodes, in the order it was read; one consumer."""

    def connected(self, node_id: str) -> bool:
        """Whether an attached session stands."""

    def last_heard(self, node_id: str) -> float | None:
        """Monotonic time of the last line read from the node in this process; None if there was none."""

    def report(self, node_id: str) -> NodeReport | None:
        """All that the node has said in the standing session; None without one."""

    async def apply(self, node_id: str, batch: Batch) -> None:
        """Give a batch, one round trip. Raises NodeUnreachable, NodeDeadline, HelperRefused."""

    async def contents(self, node_id: str, parts: ContentParts) -> None:
        """Give parts of contents of secrets and configs, in one line; in the node's memory when this returns.

        Raises as `apply`, and NodeRequestFailed, whose words hold nothing of them.
        """

    async def network(self, node_id: str, change: NetworkChange) -> tuple[str, ...]:
        """Change the node's network state, and wait until kernel, Engine and DNS have it; gives what had drifted.

        Raises as `apply`, and NetworkFailed, after which the node holds the state all the same; NodeRequestFailed
        if it does not.
        """

    async def secure(self, node_id: str, keys: EspKeys) -> tuple[int, ...]:
        """Give the node all its ESP keys; numbers of peers to whom only a new epoch can be sent.

        Raises as `apply`, and NodeRequestFailed, whose words hold no key.
        """

    async def check_peers(self, node_id: str, peers: Sequence[tuple[str, SshTarget]]) -> dict[str, bool]:
        """Ask this node which of the others (id, target) it reaches. Raises NodeUnreachable, NodeDeadline."""

    async def end_processes(self, node_id: str, task_ids: Sequence[str]) -> frozenset[str]:
        """End the processes of tasks although the Engine hangs; gives the tasks of which none is left.

        Raises as `apply`, and NodeRequestFailed.
        """

    async def resolve_image(self, node_id: str, image: str, auth: str) -> tuple[str, Sequence[tuple[str, str]]]:
        """Digest and (os, architecture) platforms of an image, as this node's Engine finds them in the registry.

        Raises NodeUnreachable, NodeDeadline, or NodeRequestFailed with the registry's own words.
        """

    async def check(self, node_id: str) -> Sequence[dict[str, object]]:
        """What the node offers: items with name, ok, detail, fix. Raises as `apply`."""

    async def listeners(self, node_id: str, ranges: Sequence[PortRange], timeout_s: float) -> Sequence[Listener]:
        """Sockets of the node itself, but for the helper's, to which anybody may send. Raises as `check`."""

    async def listen_on_paths(self, node_id: str, listen: Listen) -> bool:
        """Let the node listen for a check of the ways between nodes, from when this returns.

        Whether it has networks or ports, so that no plaintext passes its UDP 4790. This and the next two raise as
        `check`.
        """

    async def send_on_paths(self, node_id: str, send: Send) -> Sequence[Sent]:
        """Let the node send what the check needs; returns when it has, after some seconds."""

    async def heard_on_paths(self, node_id: str, token: str, wait_s: float) -> Sequence[Heard]:
        """What the node heard; it waits that long for what may be under way, and listens no more."""

    async def trace_watch(self, node_id: str, watch: TraceWatch) -> None:
        """Let the node look for packets of a connection, from when this returns. All three raise as `check`."""

    async def trace_send(self, node_id: str, send: TraceSend) -> Traced:
        """Let the node try the connection."""

    async def trace_seen(self, node_id: str, token: str) -> Sequence[Sighting]:
        """What the node saw of it, oldest first; it looks no more."""

    async def engine_socket(self, node_id: str) -> str:
        """Path of a private unix socket that leads to this node's Engine over the standing session."""


class EngineVolumes(Protocol):
    """Volumes of a node's Engine. Each raises NodeUnreachable, NodeRequestFailed (field status)."""

    async def volumes(self, node_id: str, *, sizes: bool) -> Sequence[EngineVolume]:
        """All of them; with `sizes` the Engine counts their bytes, which may take its time."""

    async def remove_volume(self, node_id: str, name: str, *, force: bool) -> None:
        """Remove one; one that a container has is refused (409)."""


class ContentClient(Protocol):
    """The part of NodeClient that gives contents."""

    async def contents(self, node_id: str, parts: ContentParts) -> None: ...


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run in a container (`POST /containers/{id}/exec`, then `POST /exec/{id}/start`)."""

    argv: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    privileged: bool = False
    height: int = 0
    width: int = 0


class ExecSession(Protocol):
    """A running command. Output chunks are (stream, bytes): 1 standard output (and a tty), 2 standard error."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Chunks until the command's output ends."""

    async def write(self, data: bytes) -> None:
        """To its standard input."""

    async def write_eof(self) -> None:
        """End its standard input."""

    async def resize(self, height: int, width: int) -> None:
        """Tell its tty the size in characters."""

    async def exit_code(self) -> int:
        """Wait for the end; 137 if the container died under it."""


class EngineStreams(Protocol):
    """The Engine of a node through its standing session (design decision 12)."""

    def logs(
        self, node_id: str, container_id: str, query: dict[str, str], *, tty: bool
    ) -> AsyncIterator[tuple[int, bytes]]:
        """(stream, line with its newline) of `GET /containers/{id}/logs` with `query` as the Engine takes it.

        Streams: 1 standard output (and a tty), 2 standard error. Raises NodeUnreachable, NodeRequestFailed.
        """

    def exec(
        self, node_id: str, container_id: str, request: ExecRequest
    ) -> AbstractAsyncContextManager[ExecSession]:
        """Run a command; leaving the context closes its streams. Raises NodeUnreachable, NodeRequestFailed."""
