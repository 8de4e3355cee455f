"""Which services of a write get a new revision, and by whom; and a revision found by what users call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from swarmsh.errors import InvalidSpec, NotFound
from swarmsh.model.objects import Service
from swarmsh.model.revisions import Author, Revision
from swarmsh.model.snapshot import Changes, ClusterSnapshot
from swarmsh.model.stacks import StackRevision

R = TypeVar("R", Revision, StackRevision)

LEAST_KEPT = 2  # the current one, and the one that `rollback` goes back to
_WORDS = ("current", "previous")


def respecified(before: ClusterSnapshot, changes: Changes) -> tuple[tuple[Service, Author], ...]:
    """Services whose spec `changes` makes another one, as they will be, each with who wanted that."""
    found = []
    for service in changes.put_services:
        stored = before.services.get(service.id)
        if stored is None or stored.spec != service.spec:
            found.append((service, changes.author or _managers(service)))
    return tuple(found)


def _managers(service: Service) -> Author:
    """The manager changes a spec of its own accord only when an update fails."""
    status = service.update_status
    back = status is not None and status.state == "rollback_started"
    return Author(client="manager", action="rollback" if back else "update")


def find_revision(revisions: Sequence[R], name: str, of: str, kind: str = "service") -> R:
    """The revision that a number, `current` or `previous` names; `revisions` are one's, oldest first.

    `of` and `kind` say whose: a service's or a stack's. Raises InvalidSpec for what is none of these, NotFound for
    one that is not kept.
    """
    text = name.strip().lower()
    if text in _WORDS:
        position = _WORDS.index(text)
        if position < len(revisions):
            return revisions[-1 - position]
        raise NotFound(f"{kind} {of} has no {text} revision", hint=_which(revisions, of, kind))
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidSpec(
            f"invalid revision '{name}': it is a number, current or previous", hint=_which(revisions, of, kind)
        )
    for revision in revisions:
        if revision.number == int(text):
            return revision
    raise NotFound(f"{kind} {of} has no revision {int(text)}", hint=_which(revisions, of, kind))


def _which(revisions: Sequence[Revision | StackRevision], of: str, kind: str) -> str:
    if not revisions:
        return "None is kept of it"
    first, last = revisions[0].number, revisions[-1].number
    kept = f"Revision {last} is kept" if first == last else f"Revisions {first} to {last} are kept"
    return f"{kept}: `swarmsh {kind} history {of}` shows them"
