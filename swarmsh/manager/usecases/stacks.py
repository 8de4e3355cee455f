"""Stacks: planned, deployed, rolled back, removed; each in one transaction, by the code that services have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core.depends import start_levels
from swarmsh.core.listeners import new_ports
from swarmsh.core.rehearsal import Rehearsal, Step
from swarmsh.core.revisions import find_revision
from swarmsh.core.stacks import (
    PartChange,
    accept_stack,
    all_stacks,
    by_names,
    check_stack_name,
    digest_of,
    leftovers,
    parts_of,
    tasks_leaving,
    tasks_left,
    user_of_part,
    users_of,
)
from swarmsh.errors import InvalidSpec, NotFound, StalePlan, StoreCorrupt
from swarmsh.manager.ports import Clock, IdSource, Store
from swarmsh.manager.rehearse import rehearse_all
from swarmsh.manager.usecases import credentials, listeners, services
from swarmsh.manager.usecases.listeners import Askable
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.manager.usecases.stack_ledger import Deployment, Known, decide_stack, part_removal
from swarmsh.model.objects import Node, Service
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents
from swarmsh.model.stacks import (
    StackConfig,
    StackNetwork,
    StackRevision,
    StackSecret,
    StackSpec,
    contents_prefix,
)

# Digests of plans are good for as long as this process lives: nobody can compute one without it.
_PLANS_KEY = os.urandom(32)
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What a deploy would do. `steps`: (service's full name, step) in order; `levels`: the order of starts."""

    stack: str
    action: str  # create | update
    parts: tuple[PartChange, ...]
    services: Mapping[str, Service]  # by full name, as they will be
    steps: tuple[tuple[str, Step], ...]
    levels: tuple[tuple[str, ...], ...]
    kept: int
    whole: bool
    digest: str

    @property
    def changes(self) -> bool:
        return any(part.changes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What a deploy did. `touched`: ids of services that were made or changed; `revision` 0: nothing was to do."""

    stack: str
    parts: tuple[PartChange, ...]
    touched: tuple[str, ...]
    revision: int = 0


@dataclass(slots=True)
class _Attempt:
    """A deploy on the state that was there when it began."""

    store: Store
    clock: Clock
    spec: StackSpec
    prune: bool
    author: Author
    known: Known
    before: ClusterSnapshot
    state: str = ""
    found: tuple[StackRevision, ...] = ()
    deployment: Deployment = field(init=False)

    @classmethod
    async def of(
        cls, store: Store, ids: IdSource, clock: Clock, spec: StackSpec, *, prune: bool, author: Author
    ) -> _Attempt:
        before = store.snapshot
        require_cluster(before)
        known = Known(ids=ids, contents=await _contents_of(store, before, spec))
        attempt = cls(store, clock, spec, prune, author, known, before)
        attempt.state = digest_of(before, spec, _PLANS_KEY, prune=prune)
        if parts_of(before, spec.name) and not await store.newest_stack_revision(spec.name):
            attempt.found = (_as_found(before, spec.name),)
        attempt.deployment = attempt.decide(before)
        return attempt

    def decide(self, snapshot: ClusterSnapshot, occupied: Mapping[str, int] | None = None) -> Deployment:
        now = self.clock.now()
        deployment = decide_stack(
            snapshot, self.spec, self.known, now, prune=self.prune, occupied=occupied, author=self.author
        )
        if not deployment.changes:
            return deployment
        after = deployment.after
        recorded = (*self.found, _recorded(after, self.spec, self.author))
        kept = set(self.store.secret_keys())
        contents = {c.key: c for c in _kept_contents(recorded, after, self.known, self.spec) if c.key not in kept}
        changes = replace(
            deployment.changes,
            put_stack_revisions=recorded,
            put_contents=(*deployment.changes.put_contents, *contents.values()),
        )
        return Deployment(changes, deployment.parts, after, deployment.touched)

    async def look(self, nodes: Askable | None) -> Mapping[str, int]:
        """Ask nodes what listens on ports that are to be published. Raises InvalidSpec."""
        if nodes is None:
            return {}
        after, before = self.deployment.after, self.before
        asked = [(i, new_ports(before.services.get(i), after.services[i])) for i in self.deployment.touched]
        answers = await asyncio.gather(*(listeners.look(before, nodes, i, ports) for i, ports in asked))
        occupied: dict[str, int] = {}
        for answer in answers:
            for protocol, bits in answer.items():
                occupied[protocol] = occupied.get(protocol, 0) | bits
        return occupied


class _Moved(Exception):
    """The state is another one than that on which the deploy was tried."""


# --- deploying ----------------------------------------------------------------------------------------------
async def deploy_stack(
    store: Store,
    ids: IdSource,
    clock: Clock,
    spec: StackSpec,
    *,
    prune: bool = False,
    digest: str = "",
    auths: Mapping[str, str] | None = None,
    nodes: Askable | None = None,
    author: Author | None = None,
) -> Deployed:
    """Make the stack as `spec` says, in one write and one revision; nothing at all where nothing differs.

    `digest` of a plan: refuse if the state has moved since. `auths`: registry credentials by short name. With
    `prune` what is the stack's and not in `spec` goes; what is in use yet as soon as it is not. Raises StalePlan,
    and what creating and changing its parts raises.
    """
    spec = accept_stack(spec)
    who = author or Author()
    who = who if who.action else replace(who, action="deploy")
    for _ in range(_TRIES):
        attempt = await _Attempt.of(store, ids, clock, spec, prune=prune, author=who)
        if digest and digest != attempt.state:
            raise _stale(spec.name)
        if not attempt.deployment.changes:
            return Deployed(stack=spec.name, parts=attempt.deployment.parts, touched=())
        occupied = await attempt.look(nodes)
        try:
            return await _committed(attempt, occupied, auths or {})
        except _Moved:
            if digest:
                raise _stale(spec.name) from None
    raise StalePlan(f"stack {spec.name} is being changed all the time", hint="Try again when others are done")


def _stale(name: str) -> StalePlan:
    return StalePlan(
        f"stack {name} or what it uses has changed since the plan was made", hint="Make the plan again"
    )


async def _committed(attempt: _Attempt, occupied: Mapping[str, int], auths: Mapping[str, str]) -> Deployed:
    spec, store, last = attempt.spec, attempt.store, attempt.deployment

    def decide(snapshot: ClusterSnapshot) -> Changes:
        nonlocal last
        if digest_of(snapshot, spec, _PLANS_KEY, prune=attempt.prune) != attempt.state:
            raise _Moved
        last = attempt.decide(snapshot, occupied)
        return last.changes

    shorts = {service.name: short for short, service in spec.services.items()}
    async with AsyncExitStack() as held:
        for service_id in sorted(last.touched):
            auth = auths.get(shorts[last.after.services[service_id].spec.name], "")
            if service_id in attempt.before.services:
                await held.enter_async_context(
                    credentials.changing(store, service_id, given=auth, source="spec", rollback=False)
                )
            else:
                await held.enter_async_context(credentials.storing(store, service_id, auth))
        await store.commit(decide)
    for service_id in last.changes.delete_services:
        await credentials.forget(store, service_id)
    number = await store.newest_stack_revision(spec.name)
    return Deployed(stack=spec.name, parts=last.parts, touched=last.touched, revision=number)


async def _contents_of(store: Store, snapshot: ClusterSnapshot, spec: StackSpec) -> dict[str, bytes]:
    """By id, of all versions of the secrets and configs of the stack, and of those that it is to have."""
    parts = parts_of(snapshot, spec.name)
    secrets = {*parts.secrets, *(s.name for s in spec.secrets.values() if not s.external)}
    configs = {*parts.configs, *(c.name for c in spec.configs.values() if not c.external)}
    found: dict[str, bytes] = {}
    # What was forgotten with its key, or does not open, differs from whatever the file says.
    for secret in snapshot.secrets.values():
        if secret.spec.name in secrets:
            with suppress(NotFound, StoreCorrupt):
                found[secret.id] = await store.secret_data(secret.id)
    for config in snapshot.configs.values():
        if config.spec.name in configs:
            with suppress(NotFound, StoreCorrupt):
                found[config.id] = await store.config_data(config.id)
    return found


# --- revisions ----------------------------------------------------------------------------------------------
def _recorded(after: ClusterSnapshot, spec: StackSpec, author: Author) -> StackRevision:
    """The deploy as it can be gone back to: services as they were accepted, contents by their keys."""
    taken = {
        short: by_names(after, after.services[after.service_ids[service.name]].spec)
        for short, service in spec.services.items()
    }
    return StackRevision(
        stack=spec.name,
        author=author,
        spec=replace(
            spec,
            services=taken,
            secrets={short: replace(s, data=None) for short, s in spec.secrets.items()},
            configs={short: replace(c, data=None) for short, c in spec.configs.items()},
        ),
        contents=_content_keys(after, spec),
    )


def _content_keys(snapshot: ClusterSnapshot, spec: StackSpec) -> dict[str, str]:
    prefix = contents_prefix(spec.name)
    secrets = {s: snapshot.secret_ids[f.name] for s, f in spec.secrets.items() if not f.external}
    configs = {s: snapshot.config_ids[f.name] for s, f in spec.configs.items() if not f.external}
    return {f"secret/{s}": prefix + i for s, i in secrets.items()} | {
        f"config/{s}": prefix + i for s, i in configs.items()
    }


def _as_found(snapshot: ClusterSnapshot, name: str) -> StackRevision:
    """A stack that others made (Docker's CLI), as it is: so that one can go back from the first deploy of ours."""
    parts = parts_of(snapshot, name)

    def short(full: str) -> str:
        return full.removeprefix(f"{name}_")

    spec = StackSpec(
        name=name,
        services={short(n): by_names(snapshot, s.spec) for n, s in parts.services.items()},
        networks={short(n): StackNetwork(spec=found.spec) for n, found in parts.networks.items()},
        secrets={
            short(n): StackSecret(name=n, labels=s.spec.labels, templating=s.spec.templating)
            for n, s in parts.secrets.items()
        },
        configs={
            short(n): StackConfig(name=n, labels=c.spec.labels, templating=c.spec.templating)
            for n, c in parts.configs.items()
        },
    )
    author = Author(client="manager", action="as it was found")
    return StackRevision(stack=name, author=author, spec=spec, contents=_content_keys(snapshot, spec))


def _kept_contents(
    recorded: Sequence[StackRevision], after: ClusterSnapshot, known: Known, spec: StackSpec
) -> list[Contents]:
    """What the revisions need that lies in the store under no key of theirs yet."""
    new = {after.secret_ids[s.name]: s.data for s in spec.secrets.values() if s.data is not None}
    new |= {after.config_ids[c.name]: c.data for c in spec.configs.values() if c.data is not None}
    found = []
    for revision in recorded:
        for key in revision.contents.values():
            object_id = key.removeprefix(contents_prefix(spec.name))
            data = known.contents.get(object_id, new.get(object_id))
            if data is not None:
                found.append(Contents(key=key, data=data))
    return found


async def stack_history(store: Store, name: str) -> Sequence[StackRevision]:
    """Newest first. Raises NotFound for a stack without any."""
    require_cluster(store.snapshot)
    kept = await store.stack_revisions(name)
    if not kept:
        there = bool(parts_of(store.snapshot, name))
        raise NotFound(
            f"stack {name} has no revisions" if there else f"stack {name} not found",
            hint="Only deploys by `swarmsh stack deploy` make them" if there else "`swarmsh stack ls` shows them",
        )
    return tuple(reversed(kept))


async def spec_of_revision(store: Store, revision: StackRevision) -> StackSpec:
    """The stack of a revision, with the data of its secrets and configs."""

    async def data(kind: str, short: str) -> bytes | None:
        key = revision.contents.get(f"{kind}/{short}", "")
        return await store.get_secret(key) if key else None

    spec = revision.spec
    return replace(
        spec,
        secrets={s: replace(f, data=await data("secret", s)) for s, f in spec.secrets.items()},
        configs={s: replace(f, data=await data("config", s)) for s, f in spec.configs.items()},
    )


async def rollback_spec(store: Store, name: str, to: str) -> tuple[StackSpec, int]:
    """What a rollback deploys (with `prune`), and the revision's number. Raises NotFound, InvalidSpec."""
    check_stack_name(name)
    revision = find_revision((await stack_history(store, name))[::-1], to, name, "stack")
    return await spec_of_revision(store, revision), revision.number


# --- planning -----------------------------------------------------------------------------------------------
async def plan_stack(
    store: Store,
    ids: IdSource,
    clock: Clock,
    spec: StackSpec,
    *,
    prune: bool = False,
    nodes: Askable | None = None,
) -> StackPlan:
    """What `deploy_stack` would do, with nothing done: the same code on a copy of the state. Raises the same."""
    spec = accept_stack(spec)
    attempt = await _Attempt.of(store, ids, clock, spec, prune=prune, author=Author(action="deploy"))
    await attempt.look(nodes)
    deployment, before = attempt.deployment, attempt.before
    now = clock.now()
    after = deployment.after
    played, end = await _played(after, deployment.touched, now)
    updated = [i for i in deployment.touched if i in before.services]
    anyhow, _ = await _played(before, updated, now)
    looks = set().union(*(r.begins() for r in played.values()))
    steps: list[tuple[str, Step]] = []
    for service_id, rehearsal in played.items():
        found = rehearsal.steps(end.nodes, looks)
        # What goes on anyhow, such as an update that is under way, is not this deploy's.
        if service_id in anyhow and _touched(found) == _touched(anyhow[service_id].steps(end.nodes)):
            continue
        steps += [(after.services[service_id].spec.name, step) for step in found]
    steps.sort(key=lambda one: (one[1].order, one[0], one[1].slot))
    waits = {short: list(others) for short, others in spec.depends_on.items()}
    return StackPlan(
        stack=spec.name,
        action="update" if parts_of(before, spec.name) else "create",
        parts=deployment.parts,
        services={s.name: after.services[after.service_ids[s.name]] for s in spec.services.values()},
        steps=tuple(steps),
        levels=tuple(map(tuple, start_levels(list(spec.services), waits))),
        kept=sum(rehearsal.kept for rehearsal in played.values()),
        whole=not any(rehearsal.cut_short for rehearsal in played.values()),
        digest=attempt.state,
    )


async def _played(
    snapshot: ClusterSnapshot, service_ids: Sequence[str], now: float
) -> tuple[dict[str, Rehearsal], ClusterSnapshot]:
    if not service_ids:
        return {}, snapshot
    # Of large services this takes seconds, and the event loop must not stand still.
    return await asyncio.to_thread(asyncio.run, rehearse_all(snapshot, service_ids, now))


def _touched(steps: Sequence[Step]) -> set[tuple[str, int, str, str]]:
    return {(step.action, step.slot, step.old_task, step.old_node or step.node) for step in steps}


# --- removal ------------------------------------------------------------------------------------------------
async def remove_stack(store: Store, clock: Clock, name: str) -> tuple[PartChange, ...]:
    """Remove all that is the stack's, and its revisions, in one write; its names are free at once.

    Its tasks are told to stop, and go when they have (`tasks_leaving`). Raises NotFound, and InvalidSpec, with
    nothing done, where services of others use a network, secret or config of it.
    """
    removed: tuple[PartChange, ...] = ()
    gone: tuple[str, ...] = ()
    recorded = bool(await store.newest_stack_revision(name))  # all that others (Docker's CLI) leave of it

    def decide(snapshot: ClusterSnapshot) -> Changes:
        nonlocal removed, gone
        require_cluster(snapshot)
        parts = parts_of(snapshot, name)
        if not parts and not recorded:
            raise NotFound(f"nothing found in stack: {name}", hint="`swarmsh stack ls` shows the stacks")
        now = clock.now()
        changes = services.removal(snapshot, parts.services.values(), now)
        after = snapshot.apply(changes, snapshot.index)
        needed = users_of(after)
        for kind, part in parts.all():
            if not isinstance(part, Service) and (user := user_of_part(after, part, needed)):
                raise InvalidSpec(
                    f"{kind} {part.spec.name} of stack {name} is in use by {user}",
                    hint="Nothing was removed; remove that first, or take it off",
                )
        others = [part_removal(after, part, now) for _, part in parts.all() if not isinstance(part, Service)]
        removed = tuple(PartChange(kind=k, name=p.spec.name, action="remove") for k, p in parts.all())
        gone = changes.delete_services
        return replace(_joined(changes, others), delete_stacks=(name,))

    await store.commit(decide)
    for service_id in gone:
        await credentials.forget(store, service_id)
    return removed


async def drop_leftovers(store: Store, clock: Clock) -> None:
    """Remove what deploys were to prune and nothing uses any more."""
    if not leftovers(store.snapshot):
        return

    def decide(snapshot: ClusterSnapshot) -> Changes:
        return _joined(Changes(), [part_removal(snapshot, part, clock.now()) for part in leftovers(snapshot)])

    await store.commit(decide)


def _joined(first: Changes, removals: Sequence[Changes]) -> Changes:
    """`first`, and removals of networks, secrets and configs beside it."""
    return replace(
        first,
        put_networks=tuple(n for c in removals for n in c.put_networks),
        delete_secrets=tuple(i for c in removals for i in c.delete_secrets),
        delete_configs=tuple(i for c in removals for i in c.delete_configs),
        events=(*first.events, *(e for c in removals for e in c.events)),
    )


# --- what clients are told ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class StackSummary:
    name: str
    services: int
    networks: int
    secrets: int
    configs: int
    tasks_left: int  # of tasks of it that have not ended, also when it was removed
    leaving: tuple[tuple[Node, int], ...] = ()  # those of services that were removed, by node


def list_stacks(snapshot: ClusterSnapshot) -> tuple[StackSummary, ...]:
    """By name."""
    return tuple(_summary(snapshot, name) for name in all_stacks(snapshot))


def _summary(snapshot: ClusterSnapshot, name: str) -> StackSummary:
    parts = parts_of(snapshot, name)
    return StackSummary(
        name=name,
        services=len(parts.services),
        networks=len(parts.networks),
        secrets=len(parts.secrets),
        configs=len(parts.configs),
        tasks_left=tasks_left(snapshot, name),
        leaving=tuple((snapshot.nodes[i], n) for i, n in sorted(tasks_leaving(snapshot, name).items())),
    )


def stack_state(snapshot: ClusterSnapshot, name: str) -> StackSummary:
    """Of any name: one that is not there has nothing, but perhaps tasks that are being stopped."""
    require_cluster(snapshot)
    return _summary(snapshot, name)
