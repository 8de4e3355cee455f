"""JSON lines of the protocol with helpers (`docs/protocol.md`), read into the model's types once, here."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from swarmsh.model.actions import TaskReport
from swarmsh.model.listeners import Listener
from swarmsh.model.objects import NodeDescription
from swarmsh.model.paths import Heard, Sent
from swarmsh.model.specs import DiscreteGenericResource, GenericResource, NamedGenericResource, Platform
from swarmsh.model.trace import Sighting

PROTOCOL = 1


class MalformedLine(Exception):
    """A line is no message of the protocol."""


class Failure(msgspec.Struct, frozen=True):
    """The `error` of a reply."""

    code: str = ""
    message: str = ""
    hint: str = ""


class Line(msgspec.Struct):
    """Any line from a helper: an event, or a reply by its `id`. The inner part is read by its kind."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")
    id: int | None = None
    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: Failure = Failure()


class StubLine(msgspec.Struct):
    """A line of the stub, or the helper's first event."""

    ok: bool = False
    need: str = ""
    error: str = ""
    hint: str = ""
    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Description(msgspec.Struct):
    """A node's description as the helper writes it; what it does not know is left out or null."""

    hostname: str | None = None
    architecture: str | None = None
    os: str | None = None
    nano_cpus: int | None = None
    memory_bytes: int | None = None
    generic_resources: list[tuple[str, str | int]] | None = None
    engine_version: str | None = None
    engine_api: str | None = None
    engine_labels: dict[str, str] | None = None
    plugins: list[tuple[str, str]] | None = None
    python: str | None = None
    kernel: str | None = None
    boot_id: str | None = None
    routes: list[str] | None = None
    mtus: list[tuple[str, int]] | None = None
    volumes: list[str] | None = None
    volumes_cut: bool = False


class Hello(msgspec.Struct):
    v: int
    helper: str = ""
    pid: int = 0
    description: Description = msgspec.field(default_factory=Description)
    cluster_id: str = ""
    epoch: int = 0
    index: int = 0
    tasks: tuple[TaskReport, ...] = ()
    engine_ok: bool = True
    engine_message: str = ""
    mono: float = 0.0


class Heartbeat(msgspec.Struct):
    seq: int = 0
    engine_ok: bool = True
    engine_down_s: float = 0.0
    busy: int = 0


class EngineState(msgspec.Struct):
    ok: bool
    message: str = ""


class Goodbye(msgspec.Struct):
    reason: str = ""


class Accepted(msgspec.Struct):
    """The result of `apply`."""

    accepted: int = 0


class NetworkState(msgspec.Struct):
    """Of the event `network`."""

    ok: bool
    message: str = ""
    drift: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()


class Drift(msgspec.Struct):
    """The result of `network`."""

    drift: tuple[str, ...] = ()


class LostPeers(msgspec.Struct):
    """The result of `secure`."""

    lost: tuple[int, ...] = ()


class FoundListeners(msgspec.Struct):
    """The result of `listeners`."""

    listeners: tuple[Listener, ...] = ()


class PathsListened(msgspec.Struct):
    """The result of `check_listen`."""

    guarded: bool = False


class PathsSent(msgspec.Struct):
    """The result of `check_send`."""

    sent: tuple[Sent, ...] = ()


class PathsHeard(msgspec.Struct):
    """The result of `check_heard`."""

    heard: tuple[Heard, ...] = ()


class TraceSeen(msgspec.Struct):
    """The result of `trace_seen`."""

    seen: tuple[Sighting, ...] = ()


class Released(msgspec.Struct):
    """The result of `release` with `clear`."""

    tasks: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class EndedProcesses(msgspec.Struct):
    ended: list[str] = []


class ReachedPeers(msgspec.Struct):
    reached: dict[str, bool]


class ResolvedImage(msgspec.Struct):
    digest: str
    platforms: list[tuple[str, str]] = []


class CheckItems(msgspec.Struct):
    items: list[dict[str, object]]


T = TypeVar("T")
_LINE = msgspec.json.Decoder(Line)
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def parse_line(line: bytes) -> Line:
    """Raises MalformedLine."""
    try:
        parsed = _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise MalformedLine(f"{e}: {excerpt(line)}") from e
    if not parsed.event and parsed.id is None:
        raise MalformedLine(f"neither an event nor a reply: {excerpt(line)}")
    return parsed


def parse(kind: type[T], inner: msgspec.Raw | bytes) -> T:
    """Read a line of the stub, or the inner part of a helper's line. Raises MalformedLine."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        parsed: T = decoder.decode(inner)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise MalformedLine(f"no {kind.__name__}: {e}: {excerpt(bytes(inner))}") from e
    return parsed


def encode_line(message: object) -> bytes:
    """One JSON line, with its newline."""
    return _ENCODER.encode(message) + b"\n"


def request_line(number: int, op: str, deadline_s: float, args: object, beat: int = 0) -> bytes:
    """`beat` numbers the last heartbeat that was heard: to the helper a proof of when it was alive to us."""
    heard = {"beat": beat} if beat else {}
    return encode_line({"id": number, "op": op, "deadline_s": deadline_s, **heard, "args": args})


def excerpt(line: bytes) -> str:
    """The start of a line, for a message; control characters escaped."""
    shown = line[:80].decode(errors="backslashreplace")
    return repr(shown + "…" if len(line) > 80 else shown)


def to_description(seen: Description) -> NodeDescription:
    """The helper's description in the model's form; what was left out keeps the model's default."""
    return NodeDescription(
        hostname=seen.hostname or "",
        platform=Platform(architecture=seen.architecture or "", os=seen.os or ""),
        nano_cpus=seen.nano_cpus or 0,
        memory_bytes=seen.memory_bytes or 0,
        generic_resources=tuple(_generic_resource(kind, v) for kind, v in seen.generic_resources or ()),
        engine_version=seen.engine_version or "",
        engine_api=seen.engine_api or "",
        engine_labels=seen.engine_labels or {},
        plugins=tuple((kind, name) for kind, name in seen.plugins or ()),
        python=seen.python or "",
        kernel=seen.kernel or "",
        boot_id=seen.boot_id or "",
        routes=tuple(seen.routes or ()),
        mtus=tuple(seen.mtus or ()),
        volumes=None if seen.volumes is None else tuple(seen.volumes),
        volumes_cut=seen.volumes_cut,
    )


def _generic_resource(kind: str, value: str | int) -> GenericResource:
    """`node-generic-resources` of dockerd: a number is a count, anything else the name of one piece."""
    try:
        count = int(value)
    except ValueError:
        return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=str(value)))
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=count))
