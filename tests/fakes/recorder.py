"""An engine that takes whatever a client of stacks makes, and keeps it as it was sent.

It checks nothing and runs nothing: it is for what clients *send*, before any manager fills in or refuses. Objects
are kept by kind in the order of their creation, as in the Engine API (`ID`, `Version`, `Spec`; a network is flat).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]
_KINDS = ("services", "networks", "secrets", "configs")


class Recorder:
    """`objects[kind][id]`, and the unix socket at which clients reach them."""

    def __init__(self, socket: Path, outside: Iterable[str] = ()) -> None:
        self.socket = socket
        self.outside = tuple(outside)  # names of networks, secrets and configs that are there already
        self.objects: dict[str, dict[str, Json]] = {kind: {} for kind in _KINDS}
        self._made = 0
        for name in self.outside:
            for kind in ("networks", "secrets", "configs"):
                self.add(kind, {"Name": name, "Labels": {}})

    def add(self, kind: str, body: Json) -> str:
        """The id of the new object; `body` as `POST /KIND/create` has it."""
        self._made += 1
        new_id = f"{kind[:1]}{self._made:024}"
        if kind == "networks":
            self.objects[kind][new_id] = {"Id": new_id, "Scope": "swarm", **body}
        else:
            self.objects[kind][new_id] = {"ID": new_id, "Version": {"Index": self._made}, "Spec": body}
        return new_id

    def specs(self, kind: str) -> dict[str, Json]:
        """Bodies as they were sent, by name."""
        bodies = (item if kind == "networks" else item["Spec"] for item in self.objects[kind].values())
        return {body["Name"]: body for body in bodies}

    def find(self, kind: str, word: str) -> Json | None:
        for new_id, item in self.objects[kind].items():
            if word in (new_id, (item if kind == "networks" else item["Spec"])["Name"]):
                return item
        return None


async def _ping(_: web.Request) -> web.Response:
    return web.Response(text="OK", headers={"Api-Version": "1.51", "Ostype": "linux", "Swarm": "active/manager"})


async def _info(_: web.Request) -> web.Response:
    swarm = {"NodeID": "n" * 25, "LocalNodeState": "active", "ControlAvailable": True}
    return web.json_response({"ID": "recorder", "Name": "recorder", "OSType": "linux", "Swarm": swarm})


async def _tasks(_: web.Request) -> web.Response:
    return web.json_response([])


def _app(recorder: Recorder) -> web.Application:
    async def create(request: web.Request) -> web.Response:
        new_id = recorder.add(request.match_info["kind"], await request.json())
        return web.json_response({"ID": new_id, "Id": new_id}, status=201)

    async def inspect(request: web.Request) -> web.Response:
        found = recorder.find(request.match_info["kind"], request.match_info["word"])
        if found is None:
            return web.json_response({"message": f"{request.match_info['word']} not found"}, status=404)
        return web.json_response(found)

    async def listed(request: web.Request) -> web.Response:
        filters = json.loads(request.query.get("filters", "{}"))
        names = filters.get("name", {})
        kept = [
            item
            for item in recorder.objects[request.match_info["kind"]].values()
            if "label" not in filters and (not names or item.get("Spec", item)["Name"] in names)
        ]
        return web.json_response(kept)

    app = web.Application()
    for prefix in ("", r"/v{version:[\d.]+}"):
        app.router.add_route("GET", prefix + "/_ping", _ping)
        app.router.add_route("GET", prefix + "/info", _info)
        app.router.add_route("GET", prefix + "/tasks", _tasks)
        app.router.add_route("POST", prefix + "/{kind:" + "|".join(_KINDS) + "}/create", create)
        app.router.add_route("GET", prefix + "/{kind:" + "|".join(_KINDS) + "}", listed)
        app.router.add_route("GET", prefix + "/{kind:" + "|".join(_KINDS) + "}/{word}", inspect)
    return app


@asynccontextmanager
async def recording(outside: Iterable[str] = ()) -> AsyncIterator[Recorder]:
    with tempfile.TemporaryDirectory(prefix="swarmsh-") as directory:  # short: socket paths may have 107 bytes
        recorder = Recorder(Path(directory) / "docker.sock", outside)
        runner = web.AppRunner(_app(recorder))
        await runner.setup()
        try:
            await web.UnixSite(runner, str(recorder.socket)).start()
            yield recorder
        finally:
            await runner.cleanup()
