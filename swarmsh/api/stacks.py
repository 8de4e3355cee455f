"""/swarmsh/stacks…: stacks deployed whole, planned, listed, compared, gone back to, removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from swarmsh.api.context import Deps, body_of, flag, json_response, segment
from swarmsh.api.revisions import fields_json, query_word, stamp_json, step_json
from swarmsh.api.who import author_of
from swarmsh.core.revisions import find_revision
from swarmsh.core.stacks import PartChange, diff_stacks
from swarmsh.errors import InvalidSpec
from swarmsh.manager.usecases import lookup, stacks
from swarmsh.manager.usecases.stacks import Deployed, StackPlan, StackSummary
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.stacks import StackRequest, StackSpec

Json = dict[str, Any]

# Secrets and configs of up to 1 MB each come along, in base64.
LONGEST_BODY = 64 << 20


async def index(request: web.Request, deps: Deps) -> web.Response:
    lookup.require_cluster(deps.snapshot)
    return json_response([_summary(found) for found in stacks.list_stacks(deps.snapshot)])


async def inspect(request: web.Request, deps: Deps) -> web.Response:
    """Also of a stack that was removed: how many of its tasks have not ended yet."""
    return json_response(_summary(stacks.stack_state(deps.snapshot, segment(request))))


async def deploy(request: web.Request, deps: Deps) -> web.Response:
    wanted = await body_of(request.clone(client_max_size=LONGEST_BODY), StackRequest)
    name = segment(request)
    if wanted.name not in ("", name):
        raise InvalidSpec(f"the path names stack {name}, the body {wanted.name}")
    spec = StackSpec(
        name=name,
        services=wanted.services,
        networks=wanted.networks,
        secrets=wanted.secrets,
        configs=wanted.configs,
        depends_on=wanted.depends_on,
    )
    return await _deployed(request, deps, spec, prune=flag(request, "prune"), auths=wanted.registry_auth)


async def rollback(request: web.Request, deps: Deps) -> web.Response:
    to = query_word(request, "to", "previous")
    spec, number = await stacks.rollback_spec(deps.store, segment(request), to)
    return await _deployed(request, deps, spec, prune=True, action=f"rollback to {number}")


async def _deployed(
    request: web.Request,
    deps: Deps,
    spec: StackSpec,
    *,
    prune: bool,
    action: str = "deploy",
    auths: dict[str, str] | None = None,
) -> web.Response:
    if flag(request, "plan"):
        plan = await stacks.plan_stack(deps.store, deps.ids, deps.clock, spec, prune=prune, nodes=deps.nodes)
        return json_response(_plan(plan, deps.snapshot))
    done = await stacks.deploy_stack(
        *(deps.store, deps.ids, deps.clock, spec),
        prune=prune,
        digest=query_word(request, "digest", ""),
        auths=auths,
        nodes=deps.nodes,
        author=replace(author_of(request), action=action),
    )
    return json_response(_done(done, deps.snapshot))


async def history(request: web.Request, deps: Deps) -> web.Response:
    kept = await stacks.stack_history(deps.store, segment(request))
    answer = []
    for position, revision in enumerate(kept):
        before = kept[position + 1] if position + 1 < len(kept) else None
        unknown = before is None and revision.number > 1
        parts = None if unknown else _parts(diff_stacks(before, revision))
        answer.append({**stamp_json(revision), "Current": position == 0, "Parts": parts})
    return json_response(answer)


async def difference(request: web.Request, deps: Deps) -> web.Response:
    name = segment(request)
    kept = (await stacks.stack_history(deps.store, name))[::-1]
    a, b = (
        find_revision(kept, query_word(request, key, default), name, "stack")
        for key, default in (("from", "previous"), ("to", "current"))
    )
    return json_response({"From": stamp_json(a), "To": stamp_json(b), "Parts": _parts(diff_stacks(a, b))})


async def remove(request: web.Request, deps: Deps) -> web.Response:
    removed = await stacks.remove_stack(deps.store, deps.clock, segment(request))
    return json_response({"Parts": _parts(removed)})


# --- as JSON ------------------------------------------------------------------------------------------------
def _summary(found: StackSummary) -> Json:
    return {
        "Name": found.name,
        "Services": found.services,
        "Networks": found.networks,
        "Secrets": found.secrets,
        "Configs": found.configs,
        "TasksLeft": found.tasks_left,
        "Leaving": [
            {"NodeID": node.id, "Node": node.spec.name, "State": node.status.state.value, "Tasks": tasks}
            for node, tasks in found.leaving
        ],
    }


def _parts(parts: Sequence[PartChange]) -> list[Json]:
    return [
        {
            "Kind": part.kind,
            "Name": part.name,
            "Short": part.short,
            "Action": part.action,
            "Changes": fields_json(part.fields),
            "Note": part.note,
        }
        for part in parts
    ]


def _plan(plan: StackPlan, snapshot: ClusterSnapshot) -> Json:
    return {
        "Stack": plan.stack,
        "Action": plan.action,
        "Changed": plan.changes,
        "Parts": _parts(plan.parts),
        "Tasks": [
            {"Service": name, **step_json(plan.services[name], step, snapshot)} for name, step in plan.steps
        ],
        "Order": [list(level) for level in plan.levels],
        "Kept": plan.kept,
        "Whole": plan.whole,
        "Digest": plan.digest,
    }


def _done(done: Deployed, snapshot: ClusterSnapshot) -> Json:
    names = {i: snapshot.services[i].spec.name for i in done.touched if i in snapshot.services}
    return {
        "Stack": done.stack,
        "Revision": done.revision,
        "Parts": _parts(done.parts),
        "Services": [{"ID": i, "Name": name} for i, name in names.items()],
    }


ROUTES = (
    ("GET", "/swarmsh/stacks", index),
    ("GET", "/swarmsh/stacks/{id}", inspect),
    ("DELETE", "/swarmsh/stacks/{id}", remove),
    ("POST", "/swarmsh/stacks/{id}/deploy", deploy),
    ("POST", "/swarmsh/stacks/{id}/rollback", rollback),
    ("GET", "/swarmsh/stacks/{id}/revisions", history),
    ("GET", "/swarmsh/stacks/{id}/diff", difference),
)
