"""/tasks: list and inspect."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import Deps, filters_of, raw_json, segment
from swarmsh.manager.usecases import lookup


async def index(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    found = lookup.list_tasks(deps.snapshot, filters_of(request))
    return raw_json(await deps.encoded.many(found, partial(render.task_json, networks=deps.snapshot.networks)))


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    task = lookup.find_task(deps.snapshot, segment(request))
    return raw_json(deps.encoded.one(task, partial(render.task_json, networks=deps.snapshot.networks)))


ROUTES = (("GET", "/tasks", index), ("GET", "/tasks/{id}", inspect))
