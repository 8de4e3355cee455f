"""What happened to a place, oldest first: its tasks, its nodes and its service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from swarmsh.core.causes import Causes, spec_words
from swarmsh.model.objects import Event, Task
from swarmsh.model.states import TaskState

MOST_MOMENTS = 100  # the newest are kept
_WORDS = {
    "state": "{name} was {old}, is {new}",
    "availability": "availability of {name} changed from {old} to {new}",
    "replicas": "scaled from {old} to {new} replicas",
    "image": "image changed from {old} to {new}",
    "updatestate": "update: {new}",
}


class Moment(Struct, frozen=True, kw_only=True):
    """Something that happened, in words; `task` is an id and `node` a name, both empty where they say nothing."""

    at: float
    what: str
    task: str = ""
    node: str = ""


def history_of(here: Sequence[Task], causes: Causes, events: Iterable[Event]) -> tuple[Moment, ...]:
    """`here` are the tasks of one place, oldest first; `events` may be anybody's."""
    if not here:
        return ()
    since = here[0].created_at
    concerned = {here[0].service_id, *(t.node_id for t in here if t.node_id)}
    found = [moment for task in here for moment in _of_task(task, causes)]
    for event in events:
        if event.time >= since and event.id in concerned:
            found.extend(_of_event(event, causes))
    return tuple(sorted(found, key=lambda m: m.at)[-MOST_MOMENTS:])


def _of_task(task: Task, causes: Causes) -> Iterator[Moment]:
    node = causes.nodes[task.node_id].spec.name if task.node_id in causes.nodes else task.node_id
    before, status = causes.before(task), task.status
    follows = f", after {before.id}" if before is not None else ""
    yield Moment(at=task.created_at, task=task.id, what=f"task made with {spec_words(task.spec_version)}{follows}")
    if task.running_since is not None:
        yield Moment(at=task.running_since, task=task.id, node=node, what="runs")
    if status.state.terminal:
        cause = causes.of(task)
        yield Moment(at=status.since, task=task.id, node=node, what=f"ended: {cause}" if cause else "ended")
    elif task.running_since is None:
        word = "waits for a node" if status.state < TaskState.ASSIGNED else status.state.word
        more = status.err or status.message
        yield Moment(at=status.since, task=task.id, node=node, what=f"{word}: {more}" if more else word)


def _of_event(event: Event, causes: Causes) -> Iterator[Moment]:
    told = event.attributes
    node = causes.nodes.get(event.id) if event.type == "node" else None
    name = node.spec.name if node is not None else told.get("name", event.id)
    for key, words in _WORDS.items():
        if f"{key}.new" in told:
            old, new = told.get(f"{key}.old") or "nothing", told[f"{key}.new"]
            if old != new and new:
                what = words.format(name=name, old=old, new=new)
                yield Moment(at=event.time, node=name if node is not None else "", what=what)
    if event.action == "remove":
        yield Moment(at=event.time, what=f"{event.type} {name} was removed")
