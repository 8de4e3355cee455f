"""A deploy decided: each part taken on in turn on a copy of the state, and all of it gathered in one write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core import allocate, versions
from swarmsh.core.accept import accept_service, accept_update
from swarmsh.core.accept_attachments import resolve_networks
from swarmsh.core.allocate import with_releases
from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.depends import start_levels
from swarmsh.core.secrets import Kind, accept_spec, named_to_ids
from swarmsh.core.spec_diff import diff_specs
from swarmsh.core.stacks import (
    LEAVING,
    PartChange,
    adopted,
    file_change,
    network_change,
    parts_of,
    refuse_foreign,
    user_of_part,
    users_of,
)
from swarmsh.errors import NotFound, SwarmshError
from swarmsh.manager.ports import IdSource
from swarmsh.manager.usecases import networks, services
from swarmsh.manager.usecases.happenings import network_event
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.manager.usecases.revisions import names_of
from swarmsh.model.objects import Cluster, Config, Event, Network, Secret, Service, Task
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents
from swarmsh.model.specs import ConfigSpec, PortConfig, SecretSpec, ServiceSpec
from swarmsh.model.stacks import StackConfig, StackNetwork, StackSecret, StackSpec


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deploy decided. `changes` are empty where nothing differs; `touched`: ids of services made or changed."""

    changes: Changes
    parts: tuple[PartChange, ...]
    after: ClusterSnapshot
    touched: tuple[str, ...]


@dataclass(slots=True)
class Known:
    """What a decision may not fetch: ids for new parts, the same each time, and stored contents by id."""

    ids: IdSource
    contents: Mapping[str, bytes]
    _given: dict[tuple[str, str], str] = field(default_factory=dict)

    def new_id(self, kind: str, short: str) -> str:
        if (kind, short) not in self._given:
            self._given[kind, short] = self.ids.new_id()
        return self._given[kind, short]


def decide_stack(
    before: ClusterSnapshot,
    spec: StackSpec,
    known: Known,
    now: float,
    *,
    prune: bool,
    occupied: Mapping[str, int] | None = None,
    author: Author | None = None,
) -> Deployment:
    """Bring the stack from what is stored to an accepted `spec`. Raises what its parts raise."""
    require_cluster(before)
    ledger = _Ledger(before, spec, known, now, occupied or {}, author or Author())
    there = parts_of(before, spec.name)
    wanted = {service.name for service in spec.services.values()}
    gone = [service for name, service in sorted(there.services.items()) if name not in wanted]
    if prune and gone:
        ledger.apply(services.removal(before, gone, now))  # first: what they held may be wanted
    for service in gone:
        ledger.leaves("service", service.spec.name, pruned=prune)
    for short, network in spec.networks.items():
        ledger.network(short, network)
    for short, secret in spec.secrets.items():
        ledger.file("secret", short, secret)
    for short, config in spec.configs.items():
        ledger.file("config", short, config)
    ledger.all_services()
    ledger.restarts()
    ledger.unwanted(prune=prune)
    return ledger.deployment()


@dataclass(slots=True)
class _Ledger:
    """Made for one decision, then thrown away. `at` is the state as far as it was taken."""

    before: ClusterSnapshot
    spec: StackSpec
    known: Known
    now: float
    occupied: Mapping[str, int]
    author: Author
    at: ClusterSnapshot = field(init=False)
    parts: dict[tuple[str, str], PartChange] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)
    _freed: dict[str, Service] = field(default_factory=dict)  # as they were before they gave up ports
    _cluster: Cluster | None = None
    _services: dict[str, Service] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)
    _networks: dict[str, Network] = field(default_factory=dict)
    _secrets: dict[str, Secret] = field(default_factory=dict)
    _configs: dict[str, Config] = field(default_factory=dict)
    _contents: list[Contents] = field(default_factory=list)
    _deleted: dict[str, list[str]] = field(default_factory=dict)
    _events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at = self.before

    # --- keeping the books ---
    def apply(self, changes: Changes) -> None:
        self._cluster = changes.cluster or self._cluster
        self._services.update((s.id, s) for s in changes.put_services)
        self._tasks.update((t.id, t) for t in changes.put_tasks)
        self._networks.update((n.id, n) for n in changes.put_networks)
        self._secrets.update((s.id, s) for s in changes.put_secrets)
        self._configs.update((c.id, c) for c in changes.put_configs)
        self._contents += changes.put_contents
        for kind in ("services", "tasks", "networks", "secrets", "configs", "releases"):
            self._deleted.setdefault(kind, []).extend(getattr(changes, f"delete_{kind}"))
        self._events += changes.events
        self.at = self.at.apply(with_releases(self.at, changes, self.now), self.at.index)

    def note(self, change: PartChange) -> None:
        self.parts[change.kind, change.name] = change

    def leaves(self, kind: str, name: str, *, pruned: bool, note: str = "") -> None:
        words = "" if pruned else "not in the file; --prune removes it"
        self.note(PartChange(kind=kind, name=name, action="remove" if pruned else "leftover", note=note or words))

    def deployment(self) -> Deployment:
        gone = {kind: tuple(dict.fromkeys(ids)) for kind, ids in self._deleted.items()}
        deleted = {i for ids in gone.values() for i in ids}
        changes = Changes(
            cluster=self._cluster if self._cluster != self.before.cluster else None,
            put_services=tuple(s for i, s in self._services.items() if i not in deleted),
            put_tasks=tuple(t for i, t in self._tasks.items() if i not in deleted),
            put_networks=tuple(self._networks.values()),
            put_secrets=tuple(s for i, s in self._secrets.items() if i not in deleted),
            put_configs=tuple(c for i, c in self._configs.items() if i not in deleted),
            put_contents=tuple(self._contents),
            delete_services=gone.get("services", ()),
            delete_tasks=gone.get("tasks", ()),
            delete_networks=gone.get("networks", ()),
            delete_secrets=gone.get("secrets", ()),
            delete_configs=gone.get("configs", ()),
            delete_releases=gone.get("releases", ()),
            events=tuple(self._events),
        )
        if changes:
            changes = replace(changes, author=replace(self.author, action=f"stack {self.author.action}"))
        return Deployment(changes, tuple(self.parts.values()), self.at, tuple(dict.fromkeys(self.touched)))

    # --- networks ---
    def network(self, short: str, wanted: StackNetwork) -> None:
        name = wanted.spec.name
        stored = self.at.networks.get(self.at.network_ids.get(name, ""))
        if wanted.external:
            if stored is None and name not in PREDEFINED_NETWORKS:
                raise NotFound(
                    f'network "{name}" is declared as external, but could not be found',
                    hint=f"Create it first: `docker network create --driver overlay {name}`",
                )
            self.note(PartChange(kind="network", name=name, short=short, note="external"))
            return
        change, spec = network_change(stored, wanted.spec, short, self.spec.name)
        self.note(change)
        if stored is not None:
            if change.changes:
                self.apply(Changes(put_networks=(replace(stored, spec=spec),)))
            return
        cluster = require_cluster(self.at)
        lapsed = allocate.forget_lapsed(self.at, self.now)
        self.apply(lapsed)
        network = allocate.new_network(self.at, cluster, self.known.new_id("network", short), spec, self.now)
        self.apply(Changes(put_networks=(network,), events=(network_event("create", network, self.now),)))

    # --- secrets and configs ---
    def file(self, kind: Kind, short: str, wanted: StackSecret | StackConfig) -> None:
        """Other contents are another version, which the name means from then on; an earlier one is taken again."""
        kept = versions.versions_of(self.at, kind, wanted.name)
        stored = next((one for one in kept if one.current), None)
        same = stored is not None and self.known.contents.get(stored.id) == wanted.data
        change = file_change(kind, stored, wanted, short, self.spec.name, same=same)
        self.note(change)
        if not change.changes or wanted.data is None:
            return
        spec = _file_spec(wanted)
        accept_spec(spec)
        new_id, now = self.known.new_id(kind, short), self.now
        if stored is None:
            self.apply(versions.creation(self.at, kind, new_id, spec, wanted.data, now, self.author))
            return
        if not (same and stored.spec.templating == spec.templating):
            fitting = [one for one in kept if self.known.contents.get(one.id) == wanted.data]
            again = next((one for one in reversed(fitting) if one.spec.templating == spec.templating), None)
            if again is not None:
                self.apply(versions.other_version(self.at, kind, again, now))
            else:
                self.apply(
                    versions.next_version(self.at, kind, new_id, wanted.name, wanted.data, now, self.author)
                )
        current = versions.find_kept(self.at, kind, wanted.name)
        if current.spec != spec:
            self.apply(versions.update_of(kind, replace(current, spec=spec), now))

    # --- services ---
    def all_services(self) -> None:
        """Take on each service. One may need what another one gives up (a port), so the order is tried out.

        Where each needs what another one has, all that they give up is freed first.
        """
        left = dict(self.spec.services)
        while left:
            tried = len(left)
            refused: list[SwarmshError] = []
            for short, wanted in list(left.items()):
                try:
                    self._service(short, wanted)
                except SwarmshError as e:
                    refused.append(e)
                else:
                    del left[short]
            if len(refused) == tried and not self._give_up_ports(left):
                raise refused[0]

    def _give_up_ports(self, left: Mapping[str, ServiceSpec]) -> bool:
        """Free the published ports that these services have and are not to have; whether there are any.

        For this decision only: each is taken on, with all that it was, or nothing is written.
        """
        freed = []
        for wanted in left.values():
            stored = self.at.services.get(self.at.service_ids.get(wanted.name, ""))
            if stored is None or stored.id in self._freed:
                continue
            less = _without_ports(stored, wanted)
            if less is not stored:
                self._freed[stored.id] = stored
                freed.append(less)
        changes = with_releases(self.at, Changes(put_services=tuple(freed)), self.now)
        self.at = self.at.apply(changes, self.at.index)
        return bool(freed)

    def _service(self, short: str, wanted: ServiceSpec) -> None:
        names = names_of(self.at)
        stored = self.at.services.get(self.at.service_ids.get(wanted.name, ""))
        if stored is None:
            spec = accept_service(named_to_ids(self.at, wanted))
            made = services.created(
                self.at, self.known.new_id("service", short), spec, self.now, occupied=self.occupied
            )
            (service,) = made.put_services
            fields = diff_specs(None, service.spec, names)
            self._take(made, service, PartChange(kind="service", name=wanted.name, short=short, action="create",
                                                 fields=fields))  # fmt: skip
            return
        stored = self._freed.get(stored.id, stored)
        refuse_foreign("service", wanted.name, stored.spec.labels, self.spec.name)
        spec = named_to_ids(self.at, adopted(stored.spec, wanted))
        accepted = resolve_networks(self.at, accept_update(stored, spec))
        fields = diff_specs(stored.spec, accepted, names)
        change = PartChange(kind="service", name=wanted.name, short=short, fields=fields)
        if not fields:
            self.note(change)
            return
        made = services.changed(self.at, stored, spec, self.now, occupied=self.occupied)
        self._take(made, made.put_services[0], replace(change, action="update"))

    def restarts(self) -> None:
        """Replace the tasks of what asks for it (`restart: true`) where those of another service are replaced.

        In the order of starts, for what is replaced may have others replaced in its turn.
        """
        replaced = {short for short in self.spec.services if self._replaced(short)}
        waits = {short: list(others) for short, others in self.spec.depends_on.items()}
        levels = start_levels(list(self.spec.services), waits)
        for short in (short for level in levels for short in level):
            others = self.spec.depends_on.get(short, {})
            if short in replaced or not any(o in replaced and wanted.restart for o, wanted in others.items()):
                continue
            stored = self._stored(short)
            if stored is None or stored.id not in self.before.services:
                continue
            template = stored.spec.task_template
            template = replace(template, force_update=template.force_update + 1)
            spec = replace(stored.spec, task_template=template)
            at = self.at if stored.id not in self.touched else self.before
            made = services.changed(self.at, at.services[stored.id], spec, self.now, occupied=self.occupied)
            change = self.parts["service", stored.spec.name]
            fields = diff_specs(self.before.services[stored.id].spec, spec, names_of(self.at))
            self._take(made, made.put_services[0], replace(change, action="update", fields=fields))
            replaced.add(short)

    def _replaced(self, short: str) -> bool:
        """Whether the deploy replaces tasks that the service had before."""
        stored = self._stored(short)
        before = self.before.services.get(stored.id) if stored is not None else None
        return stored is not None and before is not None and stored.spec_version > before.spec_version

    def _stored(self, short: str) -> Service | None:
        return self.at.services.get(self.at.service_ids.get(self.spec.services[short].name, ""))

    def _take(self, made: Changes, service: Service, change: PartChange) -> None:
        self.apply(made)
        self.touched.append(service.id)
        self.note(change)

    # --- what is the stack's and not in the file ---
    def unwanted(self, *, prune: bool) -> None:
        """Remove it, or mark what is in use yet."""
        wanted = {kind_name for kind_name, change in self.parts.items() if change.short}
        needed = users_of(self.at)
        for kind, part in parts_of(self.at, self.spec.name).all():
            if isinstance(part, Service) or (kind, part.spec.name) in wanted:
                continue
            user = user_of_part(self.at, part, needed) if prune else ""
            self.leaves(kind, part.spec.name, pruned=prune, note=f"once {user} has left it" if user else "")
            if prune and user:
                self.apply(_marked(part, self.now))
            elif prune:
                self.apply(part_removal(self.at, part, self.now))


def _file_spec(wanted: StackSecret | StackConfig) -> SecretSpec | ConfigSpec:
    if isinstance(wanted, StackConfig):
        return ConfigSpec(name=wanted.name, labels=wanted.labels, templating=wanted.templating)
    return SecretSpec(name=wanted.name, labels=wanted.labels, driver=wanted.driver, templating=wanted.templating)


def _without_ports(stored: Service, wanted: ServiceSpec) -> Service:
    """The service without ports, published by number, that `wanted` has not; itself if there are none."""
    endpoint = stored.spec.endpoint_spec
    asked = {(p.protocol or "tcp", p.published_port) for p in _ports(wanted)}
    gone = {(p.protocol, p.published_port) for p in _ports(stored.spec) if p.published_port} - asked
    if endpoint is None or not gone:
        return stored
    kept = tuple(p for p in endpoint.ports if (p.protocol, p.published_port) not in gone)
    marks = tuple(p for p in stored.endpoint.ports if (p.protocol, p.published_port) not in gone)
    return replace(
        stored,
        spec=replace(stored.spec, endpoint_spec=replace(endpoint, ports=kept)),
        endpoint=replace(stored.endpoint, ports=marks),
    )


def _ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    return spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()


def part_removal(snapshot: ClusterSnapshot, part: Network | Secret | Config, now: float) -> Changes:
    """The removal of a network, or of a secret or config with all of its versions, that nothing uses."""
    match part:
        case Network():
            return networks.removal((part,), now)
        case Secret():
            return versions.removal(snapshot, "secret", part.id, now)
        case Config():
            return versions.removal(snapshot, "config", part.id, now)


def _marked(part: Network | Secret | Config, now: float) -> Changes:
    spec = replace(part.spec, labels={**part.spec.labels, LEAVING: "true"})
    match part:
        case Network():
            return Changes(put_networks=(replace(part, spec=spec),))
        case Secret():
            return versions.update_of("secret", replace(part, spec=spec), now)
        case Config():
            return versions.update_of("config", replace(part, spec=spec), now)
