"""What handlers work with, and how they read a request."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from swarmsh import __version__
from swarmsh.api.encoded import EncodedObjects
from swarmsh.core.scheduler import Failures
from swarmsh.errors import InvalidSpec
from swarmsh.manager.key_keeper import Rotation
from swarmsh.manager.ports import Clock, EngineStreams, EngineVolumes, IdSource, NodeClient
from swarmsh.manager.usecases.cluster import ArchivingStore
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.wire import from_wire

API_VERSION, MIN_API_VERSION = (1, 51), (1, 24)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Deps:
    """All that the API needs; the daemon names the classes."""

    store: ArchivingStore
    ids: IdSource
    clock: Clock
    nodes: NodeClient
    streams: EngineStreams
    volumes: EngineVolumes
    rotate_keys: Callable[[float], Awaitable[Rotation]]  # with the seconds to wait for acknowledgements
    failures: Callable[[], Failures] = dict  # what the scheduler remembers of nodes, for words about its choice
    on_unlocked: Callable[[], None] = lambda: None  # what waits for secrets may go on
    state_dir: Path
    socket_path: Path
    name: str = "swarmsh"  # what `docker info` calls the machine
    version: str = __version__
    pid: int = field(default_factory=os.getpid)
    started_at: float = 0.0
    encoded: EncodedObjects = field(default_factory=EncodedObjects)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # ends streams

    @property
    def snapshot(self) -> ClusterSnapshot:
        return self.store.snapshot


DEPS = web.AppKey("deps", Deps)
Handler = Callable[[web.Request, Deps], Awaitable[web.StreamResponse]]


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def raw_json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def error_response(status: int, message: str) -> web.Response:
    return json_response({"message": message}, status)


# --- versions -----------------------------------------------------------------------------------------------
def version_of(request: web.Request) -> tuple[int, ...]:
    """The API version in the request's path; ours if it has none."""
    text = request.match_info.get("version", "")
    return tuple(int(p) if p.isdecimal() else 0 for p in text.split(".")) if text else API_VERSION


def version_refusal(asked: tuple[int, ...], text: str) -> str:
    """Docker's words for a version out of range; empty if it is within."""
    if asked > API_VERSION:
        newest = ".".join(map(str, API_VERSION))
        return f"client version {text} is too new. Maximum supported API version is {newest}"
    if asked < MIN_API_VERSION:
        oldest = ".".join(map(str, MIN_API_VERSION))
        return (
            f"client version {text} is too old. Minimum supported API version is {oldest}, "
            "please upgrade your client to a newer version"
        )
    return ""


# --- queries ------------------------------------------------------------------------------------------------
def flag(request: web.Request, name: str) -> bool:
    """A boolean as dockerd reads it (`httputils.BoolValue`): everything but a few words is true."""
    return request.query.get(name, "").strip().lower() not in ("", "0", "no", "false", "none")


def index_of(request: web.Request, kind: str) -> int:
    """The `version` that an update is based on. Raises InvalidSpec."""
    text = request.query.get("version", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise InvalidSpec(f"invalid {kind} version '{text}': it is the Version.Index that was read before")
    return int(text)


def filters_of(request: web.Request) -> Mapping[str, tuple[str, ...]]:
    """`filters` as name -> values; both `{"label":{"a=b":true}}` and `{"label":["a=b"]}` are sent."""
    text = request.query.get("filters", "")
    if not text:
        return {}
    try:
        parsed = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise InvalidSpec(f"invalid filter: {e}") from e
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise InvalidSpec("invalid filter: not an object")
    return {name: _filter_values(name, values) for name, values in parsed.items()}


def _filter_values(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, dict):
        return tuple(values)
    if isinstance(values, list) and all(isinstance(v, (str, bool, int)) for v in values):
        return tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
    raise InvalidSpec(f"invalid filter '{name}'")


def time_of(request: web.Request, name: str) -> float | None:
    """`since` and `until`: seconds since the epoch with a fraction, or RFC 3339."""
    text = request.query.get(name, "")
    if not text:
        return None
    return parse_time(name, text)


def parse_time(name: str, text: str) -> float:
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError) as e:
            raise InvalidSpec(f"invalid value for {name}: {text!r} is no time") from e
    if not math.isfinite(value):
        raise InvalidSpec(f"invalid value for {name}: {text!r} is no time")
    return value


def registry_auth_of(request: web.Request) -> str:
    """The credentials a client sends along, base64 as they are. Raises InvalidSpec without repeating them."""
    auth = request.headers.get("X-Registry-Auth", "")
    if not (auth.isascii() and auth.isprintable()):
        raise InvalidSpec("invalid X-Registry-Auth: it is not base64")
    return auth


def segment(request: web.Request, name: str = "id") -> str:
    return request.match_info[name]


# --- bodies -------------------------------------------------------------------------------------------------
async def body_of(request: web.Request, kind: type[T], *, where: str = "") -> T:
    """The JSON body as `kind`. Raises InvalidSpec naming the field."""
    try:
        raw = await request.read()
    except (HttpProcessingError, web.RequestPayloadError) as e:
        raise InvalidSpec("invalid body: it does not have the encoding that its headers name") from e
    if not raw.strip():
        raise InvalidSpec("invalid JSON: got EOF while reading request body")
    try:
        value = msgspec.json.decode(raw)
        _check_numbers(value)
        return from_wire(kind, value, where=where)
    except RecursionError as e:
        raise InvalidSpec("invalid JSON: nested too deeply") from e
    except (msgspec.MsgspecError, UnicodeError) as e:
        raise InvalidSpec(f"invalid JSON: {e}") from e


def _check_numbers(value: Any) -> None:
    """Refuse what Go could not read into 64 bits."""
    match value:
        case dict():
            for inner in value.values():
                _check_numbers(inner)
        case list():
            for inner in value:
                _check_numbers(inner)
        case bool():
            return
        case int() if not -(2**63) <= value < 2**64:
            raise InvalidSpec(f"invalid JSON: number {str(value)[:40]} is out of range")
