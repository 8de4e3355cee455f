"""Revisions: every spec of a service that was accepted, with who wanted it, when, and as what."""

from __future__ import annotations

from swarmsh.model.specs import ServiceSpec
from swarmsh.model.wire import Record

REVISIONS_KEPT = 50  # of each service, as long as the cluster does not say otherwise


class Author(Record):
    """Who wanted a change. All empty where that was not recorded (before it was kept)."""

    user: str = ""  # who spoke to the socket, by its login name; empty for the manager itself
    client: str = ""  # as it names itself: "Docker-Client/28.5.2 (linux)"; "manager" for the manager itself
    action: str = ""  # create | update | rollback | rollback to N


class Revision(Record, kw_only=True):
    """`number` counts a service's revisions from 1, without gaps; `version` is the index that it was stored at."""

    service_id: str
    number: int
    version: int
    time: float
    author: Author
    spec: ServiceSpec
