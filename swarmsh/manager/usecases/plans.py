"""What creating or changing a service would do, with nothing done: the same code on a copy of the state."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from swarmsh.core.allocate import with_releases
from swarmsh.core.rehearsal import Step
from swarmsh.core.spec_diff import FieldChange, diff_specs
from swarmsh.manager.ports import Clock, Decide, IdSource, Store
from swarmsh.manager.rehearse import rehearse
from swarmsh.manager.usecases.listeners import Askable
from swarmsh.manager.usecases.lookup import find_service, require_cluster
from swarmsh.manager.usecases.revisions import find, names_of
from swarmsh.manager.usecases.services import change, creation
from swarmsh.model.objects import Service, UpdateStatus
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.wire import Record


class Plan(Record, kw_only=True):
    """`steps` in their order; `kept`: how many tasks are left alone.

    `status`: of the update at the end, if there is one. `whole`: False if the plan was cut off after many steps.
    """

    action: str  # create | update | rollback
    service: Service
    fields: tuple[FieldChange, ...]
    steps: tuple[Step, ...]
    kept: int
    status: UpdateStatus | None = None
    whole: bool = True

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.fields or self.steps)


async def plan_creation(
    store: Store, ids: IdSource, clock: Clock, spec: ServiceSpec, *, nodes: Askable | None = None
) -> Plan:
    """What `create_service` would lead to. Raises what that raises."""
    before = store.snapshot
    service_id = ids.new_id()
    decide = await creation(before, clock, service_id, spec, nodes=nodes)
    return await _played(before, decide, service_id, clock.now(), "create")


async def plan_change(
    store: Store,
    clock: Clock,
    ref: str,
    version: int,
    spec: ServiceSpec | None = None,
    *,
    nodes: Askable | None = None,
    rollback: str = "",
    to: str = "",
) -> Plan:
    """What `update_service` would lead to, or `rollback_to` if `to` is given. Raises what these raise."""
    before = store.snapshot
    require_cluster(before)
    service = find_service(before, ref)
    if to:
        spec = (await find(store, service, to)).spec
    decide = await change(before, clock, ref, version, spec or service.spec, nodes=nodes, rollback=rollback)
    action = "rollback" if to or rollback == "previous" else "update"
    return await _played(before, decide, service.id, clock.now(), action)


async def _played(before: ClusterSnapshot, decide: Decide, service_id: str, now: float, action: str) -> Plan:
    after = before.apply(with_releases(before, decide(before), now), before.index + 1)
    stored = before.services.get(service_id)
    service = after.services[service_id]
    fields = diff_specs(stored.spec if stored is not None else None, service.spec, names_of(after))
    plan = await _rehearsed(after, service_id, now, action, fields)
    if fields or stored is None or not plan.steps:
        return plan
    # What goes on anyhow, such as an update that is under way, is not this change's.
    anyhow = await _rehearsed(before, service_id, now, action, ())
    return replace(plan, steps=()) if _touched(anyhow) == _touched(plan) else plan


def _touched(plan: Plan) -> set[tuple[str, int, str, str]]:
    return {(step.action, step.slot, step.old_task, step.old_node or step.node) for step in plan.steps}


async def _rehearsed(
    snapshot: ClusterSnapshot, service_id: str, now: float, action: str, fields: tuple[FieldChange, ...]
) -> Plan:
    # Of a large service this takes seconds, and the event loop must not stand still.
    rehearsal, end = await asyncio.to_thread(asyncio.run, rehearse(snapshot, service_id, now))
    return Plan(
        action=action,
        service=snapshot.services[service_id],
        fields=fields,
        steps=rehearsal.steps(end.nodes),
        kept=rehearsal.kept,
        status=rehearsal.service.update_status,
        whole=not rehearsal.cut_short,
    )
