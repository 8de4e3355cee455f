"""A synchronous HTTP client of the manager's unix socket, on the standard library: it must import fast.

It speaks the Docker Engine API and `/swarmsh/…` in plain JSON objects; what they mean is the caller's business.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from swarmsh import __version__
from swarmsh.errors import Kind, SwarmshError, Unavailable
from swarmsh.paths import manager_socket

Json = dict[str, Any]
Filters = Mapping[str, list[str]]

API_VERSION = "1.51"
_GRPC = re.compile(r"^rpc error: code = \w+ desc = ")
_KINDS = {
    400: Kind.INVALID,
    403: Kind.FORBIDDEN,
    404: Kind.NOT_FOUND,
    409: Kind.CONFLICT,
    501: Kind.UNIMPLEMENTED,
    503: Kind.UNAVAILABLE,
}


class NoManager(Unavailable):
    """Nothing answers at the socket."""

    def __init__(self, path: Path, cause: str = "") -> None:
        detail = f" ({cause})" if cause else ""
        super().__init__(
            f"no manager is running at {path}{detail}; start one with `swarmsh manager start`, "
            "or name another socket in SWARMSH_HOST"
        )


class ManagerLost(Unavailable):
    """The connection ended before the answer did."""


class ApiError(SwarmshError):
    """The manager refused a request: `message` is its own, `kind` follows the HTTP status.

    Some messages begin as gRPC writes them, because Docker's clients look for that; people need not read it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(_GRPC.sub("", message, count=1))
        self.status = status
        self.kind = _KINDS.get(status, Kind.INTERNAL)

    @property
    def out_of_sequence(self) -> bool:
        """Whether an update was based on an older version of the object (Docker answers 500 with these words)."""
        return "out of sequence" in self.message


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("swarmsh", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Stream:
    """The body of an answer that is read as it comes. Close it, or use it as a context manager."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.content_type = response.headers.get_content_type()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the answer and its connection; repeating it does nothing."""
        self._connection.close()

    def chunks(self) -> Iterator[bytes]:
        """Bytes as they arrive."""
        try:
            while chunk := self._response.read1(65536):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise ManagerLost(f"the connection to the manager was lost: {error}") from error

    def lines(self) -> Iterator[bytes]:
        """Lines without their newline, as they arrive."""
        rest = b""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(stream, payload) of Docker's multiplexed stream: stream byte, 3 zeros, length as big-endian 32 bits."""
        rest = b""
        for chunk in self.chunks():
            rest += chunk
            while len(rest) >= 8 and len(rest) >= 8 + (size := int.from_bytes(rest[4:8], "big")):
                yield rest[0], rest[8 : 8 + size]
                rest = rest[8 + size :]


class ManagerClient:
    """One manager, named by its socket; `SWARMSH_HOST` or the XDG default if none is given.

    Every method raises NoManager if nothing listens, ApiError if the manager refuses. One connection is kept.
    """

    def __init__(self, path: Path | None = None, timeout: float | None = None) -> None:
        self.path = path or manager_socket()
        self._timeout = timeout
        self._kept: _UnixConnection | None = None

    def close(self) -> None:
        """Close the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    # --- requests -------------------------------------------------------------------------------------------
    def get(self, path: str, **query: Any) -> Any:
        """The decoded answer of a GET; queries that are None are left out."""
        return self.request("GET", path, query)

    def post(self, path: str, body: object = None, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        return self.request("POST", path, query, body, headers)

    def delete(self, path: str, **query: Any) -> Any:
        return self.request("DELETE", path, query)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One exchange; the decoded JSON (None for an empty body, text for another content type)."""
        response = self._send(method, path, query, body, headers)
        try:
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ManagerLost(f"the connection to the manager was lost: {error}") from error
        if response.will_close:
            self.close()
        if response.status >= 400:
            raise ApiError(response.status, _message(response.status, raw))
        if not raw:
            return None
        if response.headers.get_content_type() != "application/json":
            return raw.decode(errors="replace")
        return json.loads(raw)

    def stream(self, path: str, *, timeout_s: float | None = None, **query: Any) -> Stream:
        """A GET whose body is read as it comes, on a connection of its own; no timeout unless given."""
        own = ManagerClient(self.path, timeout_s)
        response = own._send("GET", path, query)
        assert own._kept is not None
        if response.status >= 400:
            raw = response.read()
            own.close()
            raise ApiError(response.status, _message(response.status, raw))
        return Stream(own._kept, response)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        sent = {"Host": "swarmsh", "User-Agent": f"swarmsh/{__version__}", **(headers or {})}
        data = b""
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        fresh = self._kept is None
        connection = self._kept or _UnixConnection(self.path, self._timeout)
        try:
            connection.request(method, f"/v{API_VERSION}{path}{_query(query)}", data or None, sent)
            response = connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            self._kept = None
            if not fresh and method == "GET" and isinstance(error, ConnectionError):
                # The server closed the kept connection meanwhile. Only what changes nothing is sent twice.
                return self._send(method, path, query, body, headers)
            raise self._unreachable(error) from error
        self._kept = connection
        return response

    def _unreachable(self, error: Exception) -> SwarmshError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
            return NoManager(self.path)
        if isinstance(error, TimeoutError):
            return Unavailable(f"the manager at {self.path} does not answer", hint="See its log")
        if isinstance(error, PermissionError):
            return Unavailable(
                f"no permission to use the manager's socket {self.path}",
                hint="It belongs to the user who started it",
            )
        if isinstance(error, OSError) and "path too long" in str(error):
            return Unavailable(
                f"the socket path {self.path} is too long for a unix socket",
                hint="Name a shorter one in SWARMSH_HOST",
            )
        return ManagerLost(
            f"the connection to the manager at {self.path} was lost: {error or type(error).__name__}"
        )

    # --- Engine API -----------------------------------------------------------------------------------------
    def ping(self) -> bool:
        """Whether a manager answers at the socket."""
        try:
            self.get("/_ping")
        except SwarmshError:
            return False
        return True

    def nodes(self, filters: Filters | None = None) -> list[Json]:
        return list(self.get("/nodes", filters=encode_filters(filters)))

    def node(self, name: str) -> Json:
        return dict(self.get(f"/nodes/{segment(name)}"))

    def services(self, filters: Filters | None = None, *, status: bool = False) -> list[Json]:
        """Services; with `status` each has ServiceStatus (running, desired)."""
        return list(self.get("/services", filters=encode_filters(filters), status="true" if status else None))

    def service(self, name: str, *, defaults: bool = False) -> Json:
        return dict(self.get(f"/services/{segment(name)}", insertDefaults="true" if defaults else None))

    def networks(self, filters: Filters | None = None) -> list[Json]:
        return list(self.get("/networks", filters=encode_filters(filters)))

    def tasks(self, filters: Filters | None = None) -> list[Json]:
        return list(self.get("/tasks", filters=encode_filters(filters)))

    def task(self, task_id: str) -> Json:
        return dict(self.get(f"/tasks/{segment(task_id)}"))

    # --- stacks ---------------------------------------------------------------------------------------------
    def stacks(self) -> list[Json]:
        """All stacks, whatever deployed them: how many services, networks, secrets and configs each has."""
        return list(self.get("/swarmsh/stacks"))

    def stack(self, name: str) -> Json:
        """As in `stacks`, with the tasks that have not ended; of a stack that is not there, nothing but those."""
        return dict(self.get(f"/swarmsh/stacks/{segment(name)}"))

    def plan_stack(self, name: str, spec: Json, *, prune: bool = False) -> Json:
        """What `deploy_stack` would do. `spec`: a StackSpec's JSON, RegistryAuth by service with it."""
        return dict(self.post(_stack_path(name, "deploy"), spec, plan="true", prune=_flag(prune)))

    def deploy_stack(self, name: str, spec: Json, *, prune: bool = False, digest: str = "") -> Json:
        """Make a stack so; with a plan's digest only as long as that is what happens."""
        return dict(self.post(_stack_path(name, "deploy"), spec, prune=_flag(prune), digest=digest or None))

    def plan_stack_rollback(self, name: str, to: str) -> Json:
        return dict(self.post(_stack_path(name, "rollback"), plan="true", to=to))

    def rollback_stack(self, name: str, to: str, *, digest: str = "") -> Json:
        """Put a stack back as a revision has it: a number, current or previous."""
        return dict(self.post(_stack_path(name, "rollback"), to=to, digest=digest or None))

    def stack_revisions(self, name: str) -> list[Json]:
        """Newest first."""
        return list(self.get(_stack_path(name, "revisions")))

    def stack_diff(self, name: str, a: str, b: str) -> Json:
        return dict(self.get(_stack_path(name, "diff"), **{"from": a, "to": b}))

    def remove_stack(self, name: str) -> Json:
        """All at once, but for its tasks, which are told to stop: `stack(name)["Leaving"]` is empty in the end."""
        return dict(self.delete(f"/swarmsh/stacks/{segment(name)}"))


def _stack_path(name: str, verb: str) -> str:
    return f"/swarmsh/stacks/{segment(name)}/{verb}"


def _flag(given: bool) -> str | None:
    return "true" if given else None


def segment(text: str) -> str:
    """Text as one segment of a URL's path."""
    return quote(text, safe="")


def encode_filters(filters: Filters | None) -> str | None:
    """Docker's JSON of filters: `{"label":{"a=b":true}}`; None if there is none."""
    if not filters:
        return None
    return json.dumps({key: dict.fromkeys(values, True) for key, values in filters.items()})


def _query(query: Mapping[str, Any] | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given) if given else ""


def _message(status: int, raw: bytes) -> str:
    try:
        message = json.loads(raw)["message"]
    except (ValueError, KeyError, TypeError):
        message = raw.decode(errors="replace").strip()
    return str(message) or f"the manager answered with status {status} and no reason"
