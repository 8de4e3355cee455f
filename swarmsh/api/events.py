"""/events: kept and live events as a stream of JSON objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from swarmsh.api import render
from swarmsh.api.context import Deps, filters_of, time_of
from swarmsh.api.streaming import ClientGone, send, while_running
from swarmsh.model.objects import Event

# Kinds of objects that can be named in a filter; an event must then be of one of that id or name.
_KINDS = ("service", "node", "container", "image", "volume", "network", "plugin", "secret", "config", "daemon")


async def stream(request: web.Request, deps: Deps) -> web.StreamResponse:
    since, until, filters = time_of(request, "since"), time_of(request, "until"), filters_of(request)
    response = web.StreamResponse()
    response.content_type = "application/json"
    await response.prepare(request)
    try:
        await _send_events(response, deps, since, until, filters)
    except ClientGone:
        return response
    await response.write_eof()
    return response


async def _send_events(
    response: web.StreamResponse,
    deps: Deps,
    since: float | None,
    until: float | None,
    filters: Mapping[str, Sequence[str]],
) -> None:
    now = deps.clock.now()
    async with deps.store.subscribe() as changes:  # before history is read: nothing falls between the two
        kept: Sequence[Event] = ()
        if since is not None:
            kept = await deps.store.events(since, min(until, now) if until is not None else None)
        elif until is not None and until <= now:
            kept = await deps.store.events(None, until)
        for event in kept:
            await _send(response, event, filters)
        left = None if until is None else until - now
        if left is not None and left <= 0:
            return
        newest = kept[-1].time if kept else 0.0
        async for _, change in while_running(changes, deps.stopping, left):
            for event in change.events:
                if event.time > newest or event not in kept:
                    await _send(response, event, filters)


async def _send(response: web.StreamResponse, event: Event, filters: Mapping[str, Sequence[str]]) -> None:
    if matches(event, filters):
        await send(response, msgspec.json.encode(render.event_json(event)) + b"\n")


def matches(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """As dockerd's filter does (moby `daemon/events/filter.go`): names and ids by prefix, the rest exactly."""

    def exactly(name: str, value: str) -> bool:
        return not filters.get(name) or value in filters[name]

    def named(kind: str) -> bool:
        if not filters.get(kind):
            return True
        values = (event.id, event.attributes.get("name", ""))
        return event.type == kind and any(v.startswith(w) for v in values for w in filters[kind])

    return (
        exactly("event", event.action)
        and exactly("type", event.type)
        and exactly("scope", "swarm")
        and all(named(kind) for kind in _KINDS)
        and all(_labelled(event, wanted) for wanted in filters.get("label", ()))
    )


def _labelled(event: Event, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)


ROUTES = (("GET", "/events", stream),)
