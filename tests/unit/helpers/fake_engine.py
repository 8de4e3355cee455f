"""An Engine on a unix socket that keeps containers in memory: what the helper asks of a real one, no more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NEVER = "0001-01-01T00:00:00Z"
BEGAN = datetime(2026, 11, 22, 15, tzinfo=UTC).timestamp()  # its clock goes a second with each start


class FakeEngine:
    """Containers by id. Tests turn its knobs and call `die`, `unhealthy` …, as the world would."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.images = {"web:1"}
        self.registry: set[str] = set()
        self.calls: list[str] = []  # "POST /containers/c1/start", reads left out
        self.reads: list[str] = []  # "/containers/c1/json"
        self.auths: list[str] = []
        self.hold_pulls: asyncio.Event | None = None
        self.create_breaks_off = False
        self.start_error = ""
        self.connect_error = ""
        self.delete_error = ""
        self.bodies: list[tuple[str, Any]] = []  # (path, body) of creates and connects
        self.refuses_updates = False
        self.runtime = "runc"
        self.api = "1.45"
        self.ignores_term = False
        self.exit_on_start: int | None = None
        self.health_at_start = ""
        self.clock = time.time
        self.logs = b""  # of every container, as they are sent
        self.hold_logs: asyncio.Event | None = None
        self._numbers = 0
        self._streams: set[asyncio.StreamWriter] = set()
        self._volume_streams: set[asyncio.StreamWriter] = set()
        self.volumes: dict[str, dict[str, Any]] = {"pgdata": {"Name": "pgdata", "Driver": "local"}}
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Refuse connections and break those that stand."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._connections):
                writer.transport.abort()
            self._server = None

    # --- the world ---
    def container_of(self, task_id: str) -> dict[str, Any]:
        found = [
            one
            for one in self.containers.values()
            if one["Config"]["Labels"]["com.docker.swarm.task.id"] == task_id
        ]
        assert len(found) == 1, found
        return found[0]

    def state_of(self, task_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.container_of(task_id)["State"]
        return state

    def die(self, task_id: str, code: int, **state: Any) -> None:
        one = self.container_of(task_id)
        self._end(one, code, **state)

    def _end(self, one: dict[str, Any], code: int, **state: Any) -> None:
        one["State"].update(Running=False, Status="exited", Pid=0, ExitCode=code, Restarting=False, **state)
        if state.get("OOMKilled"):
            self.event("oom", one)
        self.event("die", one, exitCode=str(code))

    def run(self, task_id: str) -> None:
        """The Engine's own restart of a container that died."""
        self._begin(self.container_of(task_id))

    def set_health(self, task_id: str, status: str) -> None:
        one = self.container_of(task_id)
        one["State"]["Health"] = {"Status": status}
        self.event(f"health_status: {status}", one)

    def add(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        self._numbers += 1
        one = {
            "Id": f"c{self._numbers}",
            "Name": f"/{name}",
            "Config": {
                "Labels": body.get("Labels", {}),
                "StopSignal": body.get("StopSignal", ""),
                "Env": body.get("Env"),
            },
            "HostConfig": {"RestartPolicy": {"Name": "no"}},
            "State": {"Status": "created", "Running": False, "Pid": 0, "ExitCode": 0, "StartedAt": NEVER},
            "NetworkSettings": {
                "Ports": {},
                "Networks": dict((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}),
            },
        }
        self.containers[one["Id"]] = one
        self.event("create", one)
        return one

    def event(self, action: str, one: dict[str, Any], *, at: float | None = None, **more: str) -> None:
        attributes = {**one["Config"]["Labels"], **more}
        event = {
            "Type": "container",
            "Action": action,
            "Actor": {"ID": one["Id"], "Attributes": attributes},
            "timeNano": int((BEGAN + self._numbers + 0.5 if at is None else at) * 1e9),
        }
        for writer in self._streams:
            line = json.dumps(event).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))

    def add_volume(self, name: str, driver: str = "local", **options: str) -> None:
        self.volumes[name] = {"Name": name, "Driver": driver, "Options": options or None}
        self._volume_event("create", name)

    def remove_volume(self, name: str) -> None:
        del self.volumes[name]
        self._volume_event("destroy", name)

    def _volume_event(self, action: str, name: str) -> None:
        line = json.dumps({"Type": "volume", "Action": action, "Actor": {"ID": name}}).encode() + b"\n"
        for writer in self._volume_streams:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _begin(self, one: dict[str, Any]) -> None:
        self._numbers += 1
        state = {"Status": "running", "Running": True, "Restarting": False, "Pid": 10**8 + self._numbers}
        started = datetime.fromtimestamp(BEGAN + self._numbers, UTC)
        one["State"].update(state, StartedAt=f"{started:%Y-%m-%dT%H:%M:%S}.25Z", ExitCode=0, OOMKilled=False)
        if self.health_at_start:
            one["State"]["Health"] = {"Status": self.health_at_start}
        self.event("start", one)

    # --- HTTP ---
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n")[0].split(" ")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            url = urlsplit(target)
            path = unquote(url.path)
            if path.startswith("/v1."):
                path = "/" + path.split("/", 2)[2]
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            if method == "GET":
                self.reads.append(path)
            else:
                self.calls.append(f"{method} {path}")
            if path == "/events":
                of_volumes = "volume" in json.loads(query["filters"])["type"]
                await self._events(reader, writer, self._volume_streams if of_volumes else self._streams)
            elif path == "/images/create":
                await self._pull(writer, query, headers)
            else:
                status, answer = await self._route(method, path, query, json.loads(body) if body else {})
                data = (
                    answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
                )
                if path.endswith("/logs") and self.hold_logs is not None:
                    await self.hold_logs.wait()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            self._streams.discard(writer)
            self._volume_streams.discard(writer)
            writer.close()

    async def _events(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: set[asyncio.StreamWriter]
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        streams.add(writer)
        await reader.read(1)

    async def _pull(self, writer: asyncio.StreamWriter, query: dict[str, str], headers: dict[str, str]) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status":"Pulling"}\r\n')
        await writer.drain()
        self.auths.append(headers.get("x-registry-auth", ""))
        if self.hold_pulls is not None:
            await self.hold_pulls.wait()
        reference = f"{query['fromImage']}:{query['tag']}"
        if reference in self.registry:
            self.images.add(reference)
        else:
            writer.write(b'{"error":"pull access denied"}\r\n')

    async def _route(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        words = path.strip("/").split("/")
        if words[0] == "images":
            image = "/".join(words[1:-1])
            return (200, {}) if image in self.images else (404, {"message": f"No such image: {image}"})
        if words[0] == "networks":
            return self._connect(words[1], body)
        if words[0] != "containers":
            return 200, self._small(words[0])
        if words[1] == "json":
            return 200, self._list(query)
        if words[1] == "create":
            return self._create(query["name"], body)
        one = next((c for c in self.containers.values() if words[1] in (c["Id"], c["Name"][1:])), None)
        if one is None:
            return 404, {"message": f"No such container: {words[1]}"}
        handler: Callable[..., tuple[int, Any]] = getattr(
            self, "_do_" + (words[2] if len(words) > 2 else "delete")
        )
        return handler(one, query, body)

    def _small(self, word: str) -> Any:
        return {
            "_ping": "OK",
            "version": {"Version": "26.1.5", "ApiVersion": self.api, "MinAPIVersion": "1.24"},
            "info": {"Name": "n2", "OSType": "linux", "Architecture": "x86_64", "NCPU": 1, "MemTotal": 10**9,
                     "ServerVersion": "26.1.5", "Labels": ["disk=ssd"], "Plugins": {"Volume": ["local"]},
                     "DockerRootDir": "/", "DefaultRuntime": self.runtime, "CgroupVersion": "2",
                     "Runtimes": {"runc": {"path": "runc"}, "crun": {"path": "/nosuch/crun"}},
                     "GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "UUID1"}},
                                          {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}}]},
            "volumes": {"Volumes": list(self.volumes.values()), "Warnings": None},
            "distribution": {"Descriptor": {"digest": "sha256:abc"},
                             "Platforms": [{"architecture": "amd64", "os": "linux"}]},
        }[word]  # fmt: skip

    def _list(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = [label.partition("=") for label in json.loads(query["filters"])["label"]]

        def fits(labels: dict[str, str]) -> bool:
            return all(key in labels and value in ("", labels[key]) for key, _, value in wanted)

        found = [(one["Id"], one["Config"]["Labels"]) for one in self.containers.values()]
        return [{"Id": container, "Labels": labels} for container, labels in found if fits(labels)]

    def _create(self, name: str, body: Any) -> tuple[int, Any]:
        if body["Image"] not in self.images:
            return 404, {"message": f"No such image: {body['Image']}"}
        if any(one["Name"] == f"/{name}" for one in self.containers.values()):
            return 409, {"message": f'Conflict. The container name "/{name}" is already in use'}
        if (
            len((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or ()) > 1
        ):  # as Engines before API 1.44
            return 400, {"message": "Container cannot be connected to network endpoints"}
        self.bodies.append(("/containers/create", body))
        for mount in (body.get("HostConfig") or {}).get("Mounts") or ():
            if mount["Type"] == "volume":
                self.volumes.setdefault(mount["Source"], {"Name": mount["Source"], "Driver": "local"})
        one = self.add(body, name)
        if self.create_breaks_off:
            self.create_breaks_off = False
            raise OSError
        return 201, {"Id": one["Id"]}

    def _connect(self, network: str, body: Any) -> tuple[int, Any]:
        if self.connect_error:
            return 500, {"message": self.connect_error}
        joined = self.containers[body["Container"]]["NetworkSettings"]["Networks"]
        if network in joined:
            return 403, {"message": f"endpoint already exists in network {network}"}
        self.bodies.append((f"/networks/{network}/connect", body))
        joined[network] = body["EndpointConfig"]
        return 200, None

    def _do_json(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        return 200, one

    def _do_logs(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        return 200, self.logs

    def _do_start(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        if self.start_error:
            return 500, {"message": self.start_error}
        self._begin(one)
        if self.exit_on_start is not None:
            self._end(one, self.exit_on_start)
        return 204, None

    def _do_restart(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        self._begin(one)
        return 204, None

    def _do_kill(self, one: dict[str, Any], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if not one["State"]["Running"]:
            return 409, {"message": "is not running"}
        if query["signal"] == "SIGKILL" or not self.ignores_term:
            code = 137 if query["signal"] == "SIGKILL" else 143
            self._end(one, code)
        return 204, None

    def _do_update(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        if self.refuses_updates:
            return 500, {"message": "Cannot update container: cannot set kernel memory with cgroupv2"}
        one["HostConfig"]["RestartPolicy"] = body["RestartPolicy"]
        return 200, {}

    def _do_delete(self, one: dict[str, Any], query: Any, body: Any) -> tuple[int, Any]:
        if self.delete_error:
            return 500, {"message": self.delete_error}
        del self.containers[one["Id"]]
        self.event("destroy", one)
        return 204, None
