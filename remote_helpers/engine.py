"""A client of the Engine's socket: one connection a request, streams, and two kinds of failure.

EngineError is the Engine's own refusal; EngineGone means that it did not answer, so that nothing is known.
"""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote, urlencode

from .httpwire import AnswerParser, BadAnswer, JsonLines
from .timing import Expired, deadline

SOCKET = "/var/run/docker.sock"
HIGHEST_API = (1, 51)  # what was tested; a newer Engine still speaks it
LABEL_CLUSTER = "swarmsh.cluster"
LABEL_INDEX = "swarmsh.index"
LABEL_TASK = "com.docker.swarm.task.id"
LABEL_SERVICE = "com.docker.swarm.service.id"


class EngineGone(Exception):
    """The Engine cannot be reached, broke off, or did not answer in time."""


class EngineError(Exception):
    """The Engine refused: its HTTP status and its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Answer:
    """An answer whose body is still being read."""

    def __init__(self, reader: asyncio.StreamReader, parser: AnswerParser, first: bytes) -> None:
        self.status = parser.status
        self._reader, self._parser, self._first = reader, parser, first

    async def parts(self):
        """Body parts as they come. Raises EngineGone if the connection breaks."""
        if self._first:
            yield self._first
        while not self._parser.done:
            part = await _feed(self._reader, self._parser)
            if part:
                yield part

    async def objects(self):
        """The JSON objects of a stream that has one on each line."""
        lines = JsonLines()
        async for part in self.parts():
            try:
                found = lines.feed(part)
            except BadAnswer as e:
                raise EngineGone(str(e)) from e
            for one in found:
                yield one

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self.parts()])


async def _feed(reader: asyncio.StreamReader, parser: AnswerParser) -> bytes:
    try:
        data = await reader.read(65536)
        if data:
            return parser.feed(data)
        parser.feed_eof()
        return b""
    except (OSError, BadAnswer) as e:
        raise EngineGone(f"the Engine broke off: {e}") from e


class _Call:
    """One request as an async context: connects on entering, closes on leaving."""

    def __init__(self, path: str, head: bytes, body: bytes) -> None:
        self._path, self._head, self._body = path, head, body
        self._writer = None

    async def __aenter__(self) -> Answer:
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path)
            self._writer.write(self._head + self._body)
            await self._writer.drain()
        except OSError as e:
            self._close()
            raise EngineGone(f"cannot connect to the Docker daemon at unix://{self._path}: {e.strerror}") from e
        except BaseException:
            self._close()
            raise
        try:
            parser, first = AnswerParser(), b""
            while not parser.status:
                first = await _feed(reader, parser)
            return Answer(reader, parser, first)
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, kind, value, trace) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class Engine:
    """The Engine API; paths are given without a version, which `negotiate` found out."""

    def __init__(self, path: str = SOCKET) -> None:
        self.path = path
        self.version: dict = {}  # GET /version
        self._prefix = ""
        self._looks = asyncio.Semaphore(16)  # a list of many containers must not become as many requests at once

    async def negotiate(self, timeout_s: float = 10.0) -> None:
        """Learn which API version to speak: the Engine's highest, as far as tested."""
        self.version = await self._json_of("GET", "/version", timeout_s=timeout_s, versioned=False)
        lowest = parse_version(self.version.get("MinAPIVersion", "1.24"))
        self._prefix = "/v%d.%d" % max(self.api, lowest)

    @property
    def api(self) -> tuple:
        """The API version that is spoken, as (1, 45)."""
        return min(parse_version(self.version.get("ApiVersion", "1.41")), HIGHEST_API)

    @property
    def tells_ends_early(self) -> bool:
        """Whether `die` comes before ports and mounts are free: Docker before 23.0 (moby, daemon/monitor.go)."""
        return parse_version(self.version.get("ApiVersion", "1.41")) < (1, 42)

    async def ping(self, timeout_s: float = 3.0) -> None:
        """Raises EngineGone unless the Engine answers in time."""
        await self._json_of("GET", "/_ping", timeout_s=timeout_s, versioned=False, raw=True)

    def open(self, method, path, *, query=None, body=None, headers=None, versioned=True) -> _Call:
        """A request whose answer is read as a stream: `async with engine.open(…) as answer`."""
        target = (self._prefix if versioned else "") + quote(path, safe="/:@+")
        if query:
            target += "?" + urlencode(query)
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: docker", "User-Agent: swarmsh-helper", "Connection: close"]
        if body is not None:
            lines.append("Content-Type: application/json")
        if method == "POST":
            lines.append(f"Content-Length: {len(payload)}")
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        return _Call(self.path, ("\r\n".join(lines) + "\r\n\r\n").encode(), payload)

    async def call(self, method, path, *, query=None, body=None, headers=None, timeout_s=60.0):
        """The JSON of a whole answer (None if it has no body). Raises EngineError, EngineGone."""
        return await self._json_of(method, path, query=query, body=body, headers=headers, timeout_s=timeout_s)

    async def _json_of(self, method, path, *, timeout_s, raw=False, **more):
        try:
            async with deadline(timeout_s), self.open(method, path, **more) as answer:
                data = await answer.body()
        except Expired:
            raise EngineGone(f"the Docker daemon did not answer {method} {path} within {timeout_s:g} s") from None
        if answer.status >= 400:
            raise EngineError(answer.status, error_words(answer.status, data))
        if raw or not data:
            return None
        try:
            return json.loads(data)
        except ValueError as e:
            raise EngineGone(f"the Docker daemon answered {method} {path} with garbage") from e

    # --- containers -----------------------------------------------------------------------------------------
    async def inspect(self, container: str) -> dict | None:
        """`GET /containers/{id}/json`; None if there is none of that id or name."""
        try:
            async with self._looks:
                return await self.call("GET", f"/containers/{container}/json", timeout_s=30.0)
        except EngineError as e:
            if e.status == 404:
                return None
            raise

    async def list(self, *labels: str) -> list:
        """Containers, running or not, that carry all `labels` (a key, or key=value)."""
        query = {"all": "1", "filters": json.dumps({"label": list(labels)})}
        return await self.call("GET", "/containers/json", query=query, timeout_s=60.0) or []

    async def signal(self, container: str, name: str) -> None:
        """Send a signal to the container's first process; nothing if it does not run."""
        try:
            await self.call("POST", f"/containers/{container}/kill", query={"signal": name}, timeout_s=30.0)
        except EngineError as e:
            if e.status not in (404, 409):
                raise

    async def log_tail(self, container: str, lines: int, most: int, timeout_s: float) -> bytes:
        """The end of its log as the Engine sends it, so many bytes of that; empty where it cannot be read."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        data = b""
        try:
            async with (
                deadline(timeout_s),
                self.open("GET", f"/containers/{container}/logs", query=query) as answer,
            ):
                if answer.status >= 400:
                    return b""  # it has a log driver that cannot be read, or it is gone
                async for part in answer.parts():
                    data += part
                    if len(data) >= most:
                        break
        except (Expired, EngineGone):
            pass
        return data[:most]

    async def set_restart_policy(self, container: str, name: str) -> None:
        """`no`, `on-failure` (without a limit) or `always`."""
        policy = {"RestartPolicy": {"Name": name, "MaximumRetryCount": 0}}
        await self.call("POST", f"/containers/{container}/update", body=policy, timeout_s=30.0)

    # --- images ---------------------------------------------------------------------------------------------
    async def has_image(self, reference: str) -> bool:
        """Whether an image of that reference (name, tag, digest) is local."""
        try:
            await self.call("GET", f"/images/{reference}/json", timeout_s=30.0)
            return True
        except EngineError as e:
            if e.status in (400, 404):
                return False
            raise

    async def pull(self, reference: str, auth: str) -> None:
        """Pull an image. Raises EngineError with the registry's words; cancelling ends the pull."""
        name, tag = split_reference(reference)
        headers = {"X-Registry-Auth": auth} if auth else {}
        query = {"fromImage": name, "tag": tag}
        async with self.open("POST", "/images/create", query=query, headers=headers) as answer:
            if answer.status >= 400:
                raise EngineError(answer.status, error_words(answer.status, await answer.body()))
            async for progress in answer.objects():
                if isinstance(progress, dict) and progress.get("error"):
                    raise EngineError(500, progress["error"])


def parse_version(text: str) -> tuple:
    """`1.41` to (1, 41)."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and (minor or "0").isdigit() else (1, 41)


def error_words(status: int, data: bytes) -> str:
    """The message of an error body `{"message":…}`, or what there is."""
    try:
        message = json.loads(data)["message"]
        return message.strip() if isinstance(message, str) else str(message)
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace").strip()[:500] or f"HTTP status {status}"


def split_reference(reference: str) -> tuple:
    """An image reference as (name, tag or digest), as `POST /images/create` takes it; the digest wins."""
    name, _, digest = reference.partition("@")
    last = name.rpartition("/")[2]
    tag = ""
    if ":" in last:
        name, _, tag = name.rpartition(":")
    return name, digest or tag or "latest"
