"""/swarmsh/services/…: revisions of services, and plans of what a change would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from swarmsh.api.context import Deps, body_of, index_of, json_response, registry_auth_of, segment
from swarmsh.api.render import rfc3339
from swarmsh.api.who import author_of
from swarmsh.core.rehearsal import Step
from swarmsh.core.spec_diff import FieldChange
from swarmsh.core.why import number_of
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases import plans, revisions
from swarmsh.manager.usecases.plans import Plan
from swarmsh.model.objects import Service
from swarmsh.model.revisions import Revision
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ServiceSpec

Json = dict[str, Any]


async def history(request: web.Request, deps: Deps) -> web.Response:
    entries = await revisions.history(deps.store, segment(request))
    answer = []
    for position, entry in enumerate(entries):
        fields = None if entry.fields is None else fields_json(entry.fields)
        answer.append({**_revision(entry.revision), "Current": position == 0, "Changes": fields})
    return json_response(answer)


async def difference(request: web.Request, deps: Deps) -> web.Response:
    names = (query_word(request, "from", "previous"), query_word(request, "to", "current"))
    found = await revisions.difference(deps.store, segment(request), *names)
    return json_response(
        {
            "From": _revision(found.a),
            "To": _revision(found.b),
            "Changes": fields_json(found.fields),
            "ReplacesTasks": found.replaces,
        }
    )


async def rollback(request: web.Request, deps: Deps) -> web.Response:
    to = query_word(request, "to", "")
    if not to:
        raise InvalidSpec("to which revision? Name it with to=; without one, use rollback=previous of an update")
    revision = await revisions.rollback_to(
        *(deps.store, deps.clock, segment(request), index_of(request, "service"), to),
        nodes=deps.nodes,
        auth=registry_auth_of(request),
        author=author_of(request),
    )
    return json_response({"Revision": revision.number, "Warnings": None})


async def plan_creation(request: web.Request, deps: Deps) -> web.Response:
    spec = await body_of(request, ServiceSpec)
    plan = await plans.plan_creation(deps.store, deps.ids, deps.clock, spec, nodes=deps.nodes)
    return json_response(_plan(plan, deps.snapshot))


async def plan_change(request: web.Request, deps: Deps) -> web.Response:
    to, back = query_word(request, "to", ""), request.query.get("rollback", "")
    plan = await plans.plan_change(
        *(deps.store, deps.clock, segment(request), index_of(request, "service")),
        None if to or back == "previous" else await body_of(request, ServiceSpec),
        nodes=deps.nodes,
        rollback=back,
        to=to,
    )
    return json_response(_plan(plan, deps.snapshot))


def query_word(request: web.Request, name: str, default: str) -> str:
    return request.query.get(name, "").strip() or default


# --- as JSON ------------------------------------------------------------------------------------------------
def _revision(revision: Revision) -> Json:
    container = revision.spec.task_template.container_spec
    return {
        "Number": revision.number,
        "Version": {"Index": revision.version},
        "At": rfc3339(revision.time),
        "User": revision.author.user,
        "Client": revision.author.client,
        "Action": revision.author.action,
        "Image": container.image if container is not None else "",
    }


def fields_json(fields: Sequence[FieldChange]) -> list[Json]:
    return [{"Field": f.field, "Before": f.before, "After": f.after, "Hidden": f.hidden} for f in fields]


def _plan(plan: Plan, snapshot: ClusterSnapshot) -> Json:
    return {
        "Service": plan.service.spec.name,
        "Action": plan.action,
        "Changed": plan.changes,
        "Changes": fields_json(plan.fields),
        "Tasks": [step_json(plan.service, step, snapshot) for step in plan.steps],
        "Kept": plan.kept,
        "Status": None if plan.status is None else {"State": plan.status.state, "Message": plan.status.message},
        "Whole": plan.whole,
    }


def step_json(service: Service, step: Step, snapshot: ClusterSnapshot) -> Json:
    place = number_of(service, step.slot) if step.slot else _name(snapshot, step.node or step.old_node)
    old = {"TaskID": step.old_task, "NodeID": step.old_node, "Node": _name(snapshot, step.old_node)}
    return {
        "Order": step.order,
        "AfterS": step.after_s,
        "Action": step.action,
        "Way": step.way,
        "Task": f"{service.spec.name}.{place}",
        "Old": old if step.old_task else None,
        "New": None if step.action == "stop" else {"NodeID": step.node, "Node": _name(snapshot, step.node)},
        "Waits": step.waits,
    }


def _name(snapshot: ClusterSnapshot, node_id: str) -> str:
    node = snapshot.nodes.get(node_id)
    return (node.spec.name or node.hostname) if node is not None else node_id


ROUTES = (
    ("GET", "/swarmsh/services/{id}/revisions", history),
    ("GET", "/swarmsh/services/{id}/diff", difference),
    ("POST", "/swarmsh/services/{id}/rollback", rollback),
    ("POST", "/swarmsh/services/plan", plan_creation),
    ("POST", "/swarmsh/services/{id}/plan", plan_change),
)
