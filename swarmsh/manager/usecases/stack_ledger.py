"""A deploy decided: each part taken on in turn on a copy of the state, and all of it gathered in one write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.core import allocate
from swarmsh.core.accept import accept_service, accept_update
from swarmsh.core.accept_attachments import resolve_networks
from swarmsh.core.allocate import with_releases
from swarmsh.core.container import PREDEFINED_NETWORKS
from swarmsh.core.secrets import VERSIONS_KEPT, Kind, accept_data, accept_spec
from swarmsh.core.spec_diff import diff_specs
from swarmsh.core.stacks import (
    LEAVING,
    PartChange,
    adopted,
    file_change,
    network_change,
    parts_of,
    refuse_foreign,
    users_of,
    with_file_ids,
)
from swarmsh.errors import NotFound, SwarmshError
from swarmsh.manager.ports import IdSource
from swarmsh.manager.usecases import networks, services
from swarmsh.manager.usecases.happenings import network_event
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.manager.usecases.revisions import network_names
from swarmsh.model.objects import Cluster, Config, Event, Network, Secret, Service, Task
from swarmsh.model.revisions import Author
from swarmsh.model.snapshot import Changes, ClusterSnapshot, Contents, config_key, secret_key
from swarmsh.model.specs import ConfigSpec, SecretSpec, ServiceSpec
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
        versions = [v for v in _versions(self.at, kind) if v.spec.name == wanted.name]
        stored = next((v for v in versions if v.current), None)
        same = stored is not None and self.known.contents.get(stored.id) == wanted.data
        change = file_change(kind, stored, wanted, short, self.spec.name, same=same)
        self.note(change)
        if not change.changes or wanted.data is None:
            return
        spec = _file_spec(wanted)
        accept_spec(spec)
        accept_data(kind, wanted.data)
        fitting = [v for v in versions if self.known.contents.get(v.id) == wanted.data]
        fitting = [v for v in fitting if v.spec.templating == spec.templating]
        # The one that the name means goes before an older one with the same contents.
        found = next(iter(sorted(fitting, key=lambda v: (not v.current, -v.number))), None)
        if found is None:
            new_id = self.known.new_id(kind, short)
            found = _version(new_id, spec, self.now, max((v.number for v in versions), default=0) + 1)
            found = replace(found, size=len(wanted.data), author=self.author)
            key = secret_key(new_id) if kind == "secret" else config_key(new_id)
            self.apply(Changes(put_contents=(Contents(key=key, data=wanted.data),)))
        if stored is not None and stored.id != found.id:
            self.apply(_put(replace(stored, current=False)))
        self.apply(_put(replace(found, current=True, spec=spec)))
        event = _file_event(kind, "create" if stored is None else "update", found, self.now)
        self.apply(Changes(events=(event,)))

    # --- services ---
    def all_services(self) -> None:
        """Take on each service. One may need what another one gives up (a port), so the order is tried out."""
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
            if len(refused) == tried:
                raise refused[0]

    def _service(self, short: str, wanted: ServiceSpec) -> None:
        names = network_names(self.at)
        stored = self.at.services.get(self.at.service_ids.get(wanted.name, ""))
        if stored is None:
            spec = accept_service(with_file_ids(self.at, wanted))
            made = services.created(
                self.at, self.known.new_id("service", short), spec, self.now, occupied=self.occupied
            )
            (service,) = made.put_services
            fields = diff_specs(None, service.spec, names)
            self._take(made, service, PartChange(kind="service", name=wanted.name, short=short, action="create",
                                                 fields=fields))  # fmt: skip
            return
        refuse_foreign("service", wanted.name, stored.spec.labels, self.spec.name)
        spec = with_file_ids(self.at, adopted(stored.spec, wanted))
        accepted = resolve_networks(self.at, accept_update(stored, spec))
        fields = diff_specs(stored.spec, accepted, names)
        change = PartChange(kind="service", name=wanted.name, short=short, fields=fields)
        if not fields:
            self.note(change)
            return
        made = services.changed(self.at, stored, spec, self.now, occupied=self.occupied)
        self._take(made, made.put_services[0], replace(change, action="update"))

    def _take(self, made: Changes, service: Service, change: PartChange) -> None:
        self.apply(made)
        self.touched.append(service.id)
        self.note(change)

    # --- what is the stack's and not in the file ---
    def unwanted(self, *, prune: bool) -> None:
        """Remove it, or mark what is in use yet; and forget versions of secrets and configs beyond those kept."""
        wanted = {kind_name for kind_name, change in self.parts.items() if change.short}
        needed = users_of(self.at)
        for kind, part in parts_of(self.at, self.spec.name).all():
            if isinstance(part, Service) or (kind, part.spec.name) in wanted:
                continue
            user = needed.get(part.id, "") if prune else ""
            self.leaves(kind, part.spec.name, pruned=prune, note=f"once {user} has left it" if user else "")
            if prune and user:
                labels = {**part.spec.labels, LEAVING: "true"}
                self.apply(_put(replace(part, spec=replace(part.spec, labels=labels))))
            elif prune:
                self.apply(part_removal(self.at, kind, part, self.now))
        self._forget_versions(needed)

    def _forget_versions(self, needed: Mapping[str, str]) -> None:
        names = {one.spec.name for one in (*self._secrets.values(), *self._configs.values())}
        for name in sorted(names):
            secrets = [v.id for v in _surplus(self.at.secrets.values(), name) if v.id not in needed]
            configs = [v.id for v in _surplus(self.at.configs.values(), name) if v.id not in needed]
            if secrets or configs:
                self.apply(Changes(delete_secrets=tuple(secrets), delete_configs=tuple(configs)))


def _versions(snapshot: ClusterSnapshot, kind: Kind) -> Iterable[Secret | Config]:
    return snapshot.secrets.values() if kind == "secret" else snapshot.configs.values()


def _file_spec(wanted: StackSecret | StackConfig) -> SecretSpec | ConfigSpec:
    if isinstance(wanted, StackConfig):
        return ConfigSpec(name=wanted.name, labels=wanted.labels, templating=wanted.templating)
    return SecretSpec(name=wanted.name, labels=wanted.labels, driver=wanted.driver, templating=wanted.templating)


def _version(new_id: str, spec: SecretSpec | ConfigSpec, now: float, number: int) -> Secret | Config:
    if isinstance(spec, SecretSpec):
        return Secret(id=new_id, version=0, created_at=now, updated_at=now, number=number, spec=spec)
    return Config(id=new_id, version=0, created_at=now, updated_at=now, number=number, spec=spec)


def _put(part: Network | Secret | Config) -> Changes:
    match part:
        case Network():
            return Changes(put_networks=(part,))
        case Secret():
            return Changes(put_secrets=(part,))
        case Config():
            return Changes(put_configs=(part,))


def _surplus(versions: Iterable[Secret] | Iterable[Config], name: str) -> list[Secret | Config]:
    """Those that are neither current nor among the newest that are kept."""
    older = sorted((v for v in versions if v.spec.name == name and not v.current), key=lambda v: -v.number)
    return older[VERSIONS_KEPT:]


def _file_event(kind: str, action: str, part: Secret | Config, now: float) -> Event:
    return Event(time=now, type=kind, action=action, id=part.id, attributes={"name": part.spec.name})


def part_removal(snapshot: ClusterSnapshot, kind: str, part: Network | Secret | Config, now: float) -> Changes:
    """The removal of a network that nothing uses, or of a secret or config with all of its versions."""
    match part:
        case Network():
            return networks.removal((part,), now)
        case Secret():
            ids = tuple(s.id for s in snapshot.secrets.values() if s.spec.name == part.spec.name)
            return Changes(delete_secrets=ids, events=(_file_event(kind, "remove", part, now),))
        case Config():
            ids = tuple(c.id for c in snapshot.configs.values() if c.spec.name == part.spec.name)
            return Changes(delete_configs=ids, events=(_file_event(kind, "remove", part, now),))
