"""Finding what somebody asks about (a service, a slot, a task), and gathering what the answer is told from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from swarmsh.core.allocate import Allocator
from swarmsh.core.draft import Place
from swarmsh.core.scheduler import Failures, SchedulingView
from swarmsh.core.why import Evidence, PlaceStory, ServiceStory, why_place, why_service, why_task
from swarmsh.core.words import near
from swarmsh.errors import NotFound
from swarmsh.manager.ports import Clock, Store
from swarmsh.manager.usecases.lookup import find_node, find_service, find_task, require_cluster
from swarmsh.model.objects import Event, Service
from swarmsh.model.snapshot import ClusterSnapshot

MOST_NAMES = 10  # in a message
_MOST_EVENTS = 2000  # of the newest, in which is looked for those concerned


async def why(store: Store, clock: Clock, failures: Callable[[], Failures], ref: str) -> ServiceStory | PlaceStory:
    """What is to be told of `ref`: a service, a place (`web.2`, `agent.n1`) or a task id.

    Raises NotFound, Ambiguous. The words are made off the event loop: they look at every node for every task.
    """
    snapshot = store.snapshot
    require_cluster(snapshot)
    tell = find(snapshot, ref)
    events = (await store.events(None, None))[-_MOST_EVENTS:]
    return await asyncio.to_thread(lambda: tell(evidence_of(snapshot, clock.now(), failures(), events)))


def view_of(snapshot: ClusterSnapshot, now: float, failures: Failures, enough: int = 1) -> SchedulingView:
    """All that a schedule depends on, as it is now; `enough`: so many tasks are to be placed at most."""
    left = Allocator(snapshot, now).egress_left(snapshot.nodes.values(), enough)
    return SchedulingView.of(snapshot, now, failures, left)


def evidence_of(snapshot: ClusterSnapshot, now: float, failures: Failures, events: Sequence[Event]) -> Evidence:
    return Evidence(snapshot=snapshot, view=view_of(snapshot, now, failures), events=events, now=now)


def find(snapshot: ClusterSnapshot, ref: str) -> Callable[[Evidence], ServiceStory | PlaceStory]:
    """How the story of `ref` is told. Raises NotFound naming the nearest services, Ambiguous."""
    try:
        service = find_service(snapshot, ref)
    except NotFound:
        pass
    else:
        return lambda evidence: why_service(evidence, service)
    name, dot, place_text = ref.rpartition(".")
    if dot and name in snapshot.service_ids:
        asked = snapshot.services[snapshot.service_ids[name]]
        place = _place(snapshot, asked, place_text)
        if place is not None:
            return lambda evidence: why_place(evidence, asked, place)
    try:
        task = find_task(snapshot, ref)
    except NotFound:
        raise _nothing(snapshot, ref) from None
    return lambda evidence: why_task(evidence, task)


def _place(snapshot: ClusterSnapshot, service: Service, text: str) -> Place | None:
    """A slot or, of a global service, a node; None if the text can only be a task's id. Raises NotFound."""
    if service.spec.mode.global_ is None:
        # A task's id may consist of digits alone, but not of so few.
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            return None
        return int(text) + (1 if service.spec.mode.is_job else 0) or None
    if text in snapshot.tasks:
        return None
    try:
        return find_node(snapshot, text).id
    except NotFound:
        names = sorted(n.spec.name for n in snapshot.nodes.values())
        hint = f"{service.spec.name} is global, its tasks are named by their node: {_like(text, names)}"
        raise NotFound(f"{service.spec.name} has no task on {text}: there is no such node", hint=hint) from None


def _nothing(snapshot: ClusterSnapshot, ref: str) -> NotFound:
    services = sorted(snapshot.service_ids)
    stem, dot, _ = ref.rpartition(".")
    if dot and stem in snapshot.service_ids:
        return NotFound(f"{ref} is no task", hint=f"Name a slot as {stem}.1, or give a task's id")
    hint = _like(stem if dot else ref, services) if services else "There are no services"
    return NotFound(f"{ref} is no service and no task", hint=hint)


def _like(word: str, names: list[str]) -> str:
    if found := near(word, names):
        return f"Did you mean {' or '.join(found)}?"
    more = " and others" if len(names) > MOST_NAMES else ""
    return f"There are {', '.join(names[:MOST_NAMES])}{more}"
