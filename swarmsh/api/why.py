"""/swarmsh/why/…: why tasks are where they are and as they are."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from swarmsh.api.context import Deps, json_response, segment
from swarmsh.api.render import rfc3339
from swarmsh.core.why import PlaceStory, ServiceStory
from swarmsh.manager.usecases import why


async def tell(request: web.Request, deps: Deps) -> web.Response:
    found = await why.why(deps.store, deps.clock, deps.failures, segment(request))
    if isinstance(found, ServiceStory):
        return json_response(msgspec.to_builtins(found) | {"places": [_place(place) for place in found.places]})
    return json_response({"summary": [], "places": [_place(found)]})


def _place(story: PlaceStory) -> dict[str, Any]:
    times = {"since": rfc3339(story.since) if story.since else ""}
    history = [msgspec.to_builtins(moment) | {"at": rfc3339(moment.at)} for moment in story.history]
    answer: dict[str, Any] = msgspec.to_builtins(story)
    return answer | times | {"history": history}


ROUTES = (("GET", "/swarmsh/why/{id}", tell),)
