"""What a deploy of a stack changes: its spec checked, its parts held against what is stored. Pure.

Services, networks, secrets and configs of a stack carry its name as a label, as with Docker's CLI; so whatever
made them, they are found again. What has the name of a part but belongs to nobody or to another stack is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from swarmsh.core.accept_network import accept_network
from swarmsh.core.depends import DEPENDS_ON, depends_on_label, find_cycle, parse_depends_on
from swarmsh.core.secrets import ids_of
from swarmsh.core.spec_diff import FieldChange, diff_specs
from swarmsh.core.versions import versions_of
from swarmsh.core.words import near
from swarmsh.errors import InvalidSpec, NameConflict, NotFound
from swarmsh.model.objects import Config, Network, Secret, Service
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ContainerSpec, NetworkSpec, ServiceSpec, TaskSpec
from swarmsh.model.stacks import NAMESPACE, STACK_IMAGE, StackFile, StackRevision, StackSpec
from swarmsh.model.states import TaskState
from swarmsh.model.wire import Record, to_wire

# Of a network, secret or config that a deploy is to prune and that something uses yet: it goes when nothing does.
LEAVING = "swarmsh.stack.leaving"
KINDS = ("service", "network", "secret", "config")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LONGEST = 63


class PartChange(Record, kw_only=True):
    """What a deploy does to one part. `short` is empty for what is not in the file."""

    kind: str  # of KINDS
    name: str
    short: str = ""
    action: str = "unchanged"  # create | update | unchanged | remove | leftover (not in the file, and stays)
    fields: tuple[FieldChange, ...] = ()
    note: str = ""

    @property
    def changes(self) -> bool:
        return self.action not in ("unchanged", "leftover")


# --- the spec -----------------------------------------------------------------------------------------------
def accept_stack(spec: StackSpec) -> StackSpec:
    """The stack with its labels on all that is its own. Raises InvalidSpec naming the part.

    What can be wrong with a single service or network is said where that is accepted.
    """
    check_stack_name(spec.name)
    for kind, names in (
        ("service", {s: service.name for s, service in spec.services.items()}),
        ("network", {s: network.spec.name for s, network in spec.networks.items()}),
        ("secret", {s: secret.name for s, secret in spec.secrets.items()}),
        ("config", {s: config.name for s, config in spec.configs.items()}),
    ):
        _check_names(kind, names)
    _check_dependencies(spec)
    own = {NAMESPACE: spec.name}
    return replace(
        spec,
        services={
            short: replace(service, labels={**service.labels, **own, **_dependency_label(spec, short)})
            for short, service in spec.services.items()
        },
        networks={
            short: network
            if network.external
            else replace(network, spec=replace(network.spec, labels={**network.spec.labels, **own}))
            for short, network in spec.networks.items()
        },
        secrets={s: f if f.external else replace(f, labels={**f.labels, **own}) for s, f in spec.secrets.items()},
        configs={s: f if f.external else replace(f, labels={**f.labels, **own}) for s, f in spec.configs.items()},
    )


def check_stack_name(name: str) -> None:
    """Raises InvalidSpec."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise InvalidSpec(
            f"invalid stack name: {name!r}",
            hint=f"Use at most {_LONGEST} letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )


def _check_names(kind: str, names: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for short, name in names.items():
        if not name:
            raise InvalidSpec(f"{kind} {short} of the stack has no name")
        if name in seen:
            raise InvalidSpec(f"{kind}s {seen[name]} and {short} of the stack have one name: {name}")
        seen[name] = short


def _check_dependencies(spec: StackSpec) -> None:
    for service, dependencies in spec.depends_on.items():
        if service not in spec.services:
            raise InvalidSpec(f"depends_on of {service}: the stack has no such service")
        for other, wanted in dependencies.items():
            if other not in spec.services and wanted.required:
                like = near(other, spec.services)
                raise InvalidSpec(
                    f"service {service} depends on {other}, which is not in the stack",
                    hint=f"Did you mean {like[0]}?" if like else "Add it, or set required: false",
                )
    if cycle := find_cycle(spec.depends_on, lambda name: spec.depends_on.get(name, {})):
        raise InvalidSpec(
            f"depends_on: {' waits for '.join(cycle)}: none of them would ever start", hint="Leave one of them out"
        )


def _dependency_label(spec: StackSpec, short: str) -> dict[str, str]:
    """What the file says under depends_on; a label of the service itself has the last word on what it names."""
    dependencies = {o: d for o, d in spec.depends_on.get(short, {}).items() if o in spec.services}
    if not dependencies:
        return {}
    said = spec.services[short].labels.get(DEPENDS_ON)
    return {DEPENDS_ON: depends_on_label({**dependencies, **(parse_depends_on(said) if said else {})})}


# --- what a stack has ---------------------------------------------------------------------------------------
class Parts(Record, frozen=True):
    """All that carries a stack's name; each by its own name. Of secrets and configs those that names mean."""

    services: dict[str, Service]
    networks: dict[str, Network]
    secrets: dict[str, Secret]
    configs: dict[str, Config]

    def __bool__(self) -> bool:
        return any((self.services, self.networks, self.secrets, self.configs))

    def all(self) -> Iterator[tuple[str, Service | Network | Secret | Config]]:
        """(kind, part), by kind and name."""
        found: tuple[tuple[str, Mapping[str, Service | Network | Secret | Config]], ...] = (
            ("service", self.services),
            ("network", self.networks),
            ("secret", self.secrets),
            ("config", self.configs),
        )
        for kind, parts in found:
            yield from ((kind, part) for _, part in sorted(parts.items()))


def parts_of(snapshot: ClusterSnapshot, stack: str) -> Parts:
    """What the stack has now; falsy if there is no such stack."""
    return _all_parts(snapshot, stack).get(stack) or Parts(services={}, networks={}, secrets={}, configs={})


def all_stacks(snapshot: ClusterSnapshot) -> dict[str, Parts]:
    """By name, in order."""
    return dict(sorted(_all_parts(snapshot).items()))


def _all_parts(snapshot: ClusterSnapshot, only: str = "") -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    current: tuple[tuple[str, Iterable[Service | Network | Secret | Config]], ...] = (
        ("services", snapshot.services.values()),
        ("networks", (snapshot.networks[i] for i in snapshot.network_ids.values())),
        ("secrets", (snapshot.secrets[i] for i in snapshot.secret_ids.values())),
        ("configs", (snapshot.configs[i] for i in snapshot.config_ids.values())),
    )
    for kind, parts in current:
        for part in parts:
            stack = part.spec.labels.get(NAMESPACE, "")
            if stack and only in ("", stack):
                if stack not in found:
                    found[stack] = Parts(services={}, networks={}, secrets={}, configs={})
                getattr(found[stack], kind)[part.spec.name] = part
    return found


def refuse_foreign(kind: str, name: str, labels: Mapping[str, str], stack: str) -> None:
    """Refuse to take over what has a part's name and is not the stack's. Raises NameConflict."""
    owner = labels.get(NAMESPACE, "")
    if owner != stack:
        whose = f"is of stack {owner}" if owner else f"is not of stack {stack}"
        hint = "Choose another name" if kind == "service" else "Declare it with external: true, or choose another"
        raise NameConflict(f"{kind} {name} exists already and {whose}", hint=hint)


# --- networks -----------------------------------------------------------------------------------------------
def network_change(
    stored: Network | None, wanted: NetworkSpec, short: str, stack: str
) -> tuple[PartChange, NetworkSpec]:
    """What becomes of a network, and its spec then. Raises InvalidSpec where it would have to be another one."""
    accepted = accept_network(wanted)
    if stored is None:
        return PartChange(kind="network", name=accepted.name, short=short, action="create"), accepted
    refuse_foreign("network", accepted.name, stored.spec.labels, stack)
    differing = _fields(_shape(stored.spec), _shape(accepted))
    if differing:
        what = ", ".join(f"{f.field} {_value(f.before)} -> {_value(f.after)}" for f in differing)
        raise InvalidSpec(
            f"network {accepted.name} cannot be changed while it is there: {what}",
            hint=f"Leave it as it is, give it another name, or run `swarmsh stack rm {stack}` first",
        )
    labels = _fields({"Labels": stored.spec.labels}, {"Labels": accepted.labels})
    action = "update" if labels else "unchanged"
    change = PartChange(kind="network", name=accepted.name, short=short, action=action, fields=labels)
    return change, replace(stored.spec, labels=accepted.labels)


def _shape(spec: NetworkSpec) -> dict[str, Any]:
    """What makes it another network, without what means the same as nothing."""
    ipam = spec.ipam if spec.ipam is not None and spec.ipam.config else None
    plain = replace(spec, name="", labels={}, ipam=ipam and replace(ipam, driver=""), enable_ipv4=None)
    wire: dict[str, Any] = to_wire(replace(plain, enable_ipv6=plain.enable_ipv6 or None))
    return wire


def _fields(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> tuple[FieldChange, ...]:
    found: list[FieldChange] = []
    for key in dict.fromkeys((*before, *after)):
        a, b = before.get(key), after.get(key)
        inner = f"{path}[{key}]" if path == "Labels" else f"{path}.{key}" if path else key
        if a == b:
            continue
        if isinstance(a, dict) or isinstance(b, dict):
            found += _fields(a or {}, b or {}, inner)
        else:
            found.append(FieldChange(field=inner, before=a, after=b))
    return tuple(found)


def _value(value: Any) -> str:
    return "none" if value is None else json.dumps(value, default=str)


# --- secrets and configs ------------------------------------------------------------------------------------
def file_change(
    kind: str, stored: Secret | Config | None, wanted: StackFile, short: str, stack: str, *, same: bool
) -> PartChange:
    """What becomes of a secret or config; `same`: whether the stored one has these contents.

    Contents are never shown, their size is. Raises NotFound for an external one that is missing, InvalidSpec.
    """
    if wanted.external:
        if stored is None:
            raise NotFound(
                f"{kind} {wanted.name} is not there, and external in the stack",
                hint=f"Create it first: `docker {kind} create {wanted.name} FILE`",
            )
        return PartChange(kind=kind, name=wanted.name, short=short, note="external")
    if wanted.data is None:
        raise InvalidSpec(f"{kind} {short} has neither data nor is it external")
    if stored is None:
        return PartChange(
            kind=kind, name=wanted.name, short=short, action="create", note=f"{len(wanted.data)} bytes"
        )
    refuse_foreign(kind, wanted.name, stored.spec.labels, stack)
    fields = list(_fields({"Labels": stored.spec.labels}, {"Labels": wanted.labels}))
    note = ""
    if not same or stored.spec.templating != wanted.templating:
        note = f"new contents: {stored.size} -> {len(wanted.data)} bytes"
        fields.append(FieldChange(field="Data", before="…", after="…", hidden=True))
    action = "update" if fields else "unchanged"
    return PartChange(kind=kind, name=wanted.name, short=short, action=action, fields=tuple(fields), note=note)


def by_names(snapshot: ClusterSnapshot, spec: ServiceSpec) -> ServiceSpec:
    """A stored service's spec as a stack has it: what it refers to named, without ids."""
    template = spec.task_template
    networks = tuple(
        replace(n, target=snapshot.networks[n.target].spec.name) if n.target in snapshot.networks else n
        for n in template.networks
    )
    named = replace(spec, task_template=replace(template, networks=networks))
    container = template.container_spec
    if container is None:
        return named
    secrets = tuple(replace(r, secret_id="") for r in container.secrets)
    configs = tuple(replace(r, config_id="") for r in container.configs)
    return _with_container(named, replace(container, secrets=secrets, configs=configs))


# --- services -----------------------------------------------------------------------------------------------
def adopted(stored: ServiceSpec, wanted: ServiceSpec) -> ServiceSpec:
    """`wanted` with what a deploy leaves as it is: forced updates, and a digest that nobody could look up again.

    As Docker's CLI: a deploy neither forces an update nor takes one back. A tag without a digest stays at the one
    that was found for it before.
    """
    spec = replace(
        wanted, task_template=replace(wanted.task_template, force_update=stored.task_template.force_update)
    )
    had, asked = stored.task_template.container_spec, spec.task_template.container_spec
    tagged = stored.labels.get(STACK_IMAGE, "")
    if had is None or asked is None or not tagged or "@" in asked.image or "@" not in had.image:
        return spec
    if tagged != wanted.labels.get(STACK_IMAGE):
        return spec
    platforms = stored.task_template.placement.platforms if stored.task_template.placement is not None else ()
    spec = _with_container(spec, replace(asked, image=had.image))
    placement = spec.task_template.placement
    if placement is None or placement.platforms or not platforms:
        return spec
    return replace(
        spec, task_template=replace(spec.task_template, placement=replace(placement, platforms=platforms))
    )


def _with_container(spec: ServiceSpec, container: ContainerSpec) -> ServiceSpec:
    return replace(spec, task_template=replace(spec.task_template, container_spec=container))


# --- what leaves --------------------------------------------------------------------------------------------
def users_of(snapshot: ClusterSnapshot) -> dict[str, str]:
    """Ids of all networks, secrets and configs that something needs -> who, in words.

    What an update under way could be rolled back to needs them as well.
    """
    needed: dict[str, str] = {}
    for task in snapshot.tasks.values():
        if task.live:
            needed.update(dict.fromkeys(_references(task.spec), f"task {task.name}"))
    for service in snapshot.services.values():
        status = service.update_status
        specs = [service.spec]
        if service.previous_spec is not None and status is not None and status.completed_at is None:
            specs.append(service.previous_spec)
        for spec in specs:
            needed.update(dict.fromkeys(_references(spec.task_template), f"service {service.spec.name}"))
    return needed


def _references(spec: TaskSpec) -> Iterator[str]:
    yield from (network.target for network in spec.networks)
    yield from ids_of(spec)


def user_of_part(snapshot: ClusterSnapshot, part: Network | Secret | Config, needed: Mapping[str, str]) -> str:
    """Who of `users_of` needs a network, or any version of a secret or config; empty if nobody does."""
    match part:
        case Network():
            ids = [part.id]
        case Secret():
            ids = [one.id for one in versions_of(snapshot, "secret", part.spec.name)]
        case Config():
            ids = [one.id for one in versions_of(snapshot, "config", part.spec.name)]
    return next((needed[i] for i in ids if i in needed), "")


def leftovers(snapshot: ClusterSnapshot) -> tuple[Network | Secret | Config, ...]:
    """What deploys were to prune and what nothing uses any more."""
    known: tuple[Iterable[Network | Secret | Config], ...] = (
        (snapshot.networks[i] for i in snapshot.network_ids.values()),
        (snapshot.secrets[i] for i in snapshot.secret_ids.values()),
        (snapshot.configs[i] for i in snapshot.config_ids.values()),
    )
    marked = [part for parts in known for part in parts if LEAVING in part.spec.labels]
    needed = users_of(snapshot) if marked else {}
    return tuple(part for part in marked if not user_of_part(snapshot, part, needed))


def tasks_left(snapshot: ClusterSnapshot, stack: str) -> int:
    """How many tasks of the stack have not ended on their nodes, whether their service is there or not."""
    return sum(
        task.labels.get(NAMESPACE) == stack and task.placed and not task.status.state.terminal
        for task in snapshot.tasks.values()
        if task.desired is not TaskState.NEW
    )


def tasks_leaving(snapshot: ClusterSnapshot, stack: str) -> dict[str, int]:
    """How many tasks of services of the stack that are gone have not ended yet, by the ids of their nodes."""
    found: dict[str, int] = {}
    for task in snapshot.tasks.values():
        gone = task.service_id not in snapshot.services and task.labels.get(NAMESPACE) == stack
        if gone and task.placed and not task.status.state.terminal and task.node_id in snapshot.nodes:
            found[task.node_id] = found.get(task.node_id, 0) + 1
    return found


# --- revisions ----------------------------------------------------------------------------------------------
def diff_stacks(before: StackRevision | None, after: StackRevision) -> tuple[PartChange, ...]:
    """What differs between two revisions, in the order of `after`; from None on, all that `after` has."""
    found: list[PartChange] = []
    a = _parts_in(before) if before is not None else {}
    b = _parts_in(after)
    for kind, short in dict.fromkeys((*b, *a)):
        was, is_ = a.get((kind, short)), b.get((kind, short))
        name = (is_ or was or ("", None, ""))[0]
        if was is None or is_ is None:
            action = "create" if was is None else "remove"
            found.append(PartChange(kind=kind, name=name, short=short, action=action))
            continue
        if isinstance(is_[1], ServiceSpec) and isinstance(was[1], ServiceSpec):
            fields = diff_specs(was[1], is_[1])
        else:
            fields = _fields(to_wire(was[1]), to_wire(is_[1]))
        if was[2] != is_[2]:
            fields = (*fields, FieldChange(field="Data", before="…", after="…", hidden=True))
        if fields:
            found.append(PartChange(kind=kind, name=name, short=short, action="update", fields=fields))
    return tuple(found)


def _parts_in(revision: StackRevision) -> dict[tuple[str, str], tuple[str, Record, str]]:
    """(kind, short name) -> (name, what it is but for its contents, where those are)."""
    spec, keys = revision.spec, revision.contents
    found: dict[tuple[str, str], tuple[str, Record, str]] = {}
    found |= {("service", short): (s.name, s, "") for short, s in spec.services.items()}
    found |= {("network", short): (n.spec.name, n, "") for short, n in spec.networks.items()}
    found |= {("secret", s): (f.name, f, keys.get(f"secret/{s}", "")) for s, f in spec.secrets.items()}
    return found | {("config", s): (f.name, f, keys.get(f"config/{s}", "")) for s, f in spec.configs.items()}


# --- binding a plan to its deploy ---------------------------------------------------------------------------
def digest_of(snapshot: ClusterSnapshot, spec: StackSpec, key: bytes, *, prune: bool) -> str:
    """What a plan was made from: the spec, and the versions of all that it may touch.

    Keyed, for the contents of secrets go into it, and who sees it must not be able to guess them by it.
    """
    state = {(kind, part.id, part.version) for kind, part in parts_of(snapshot, spec.name).all()}
    ids = {snapshot.service_ids.get(service.name, "") for service in spec.services.values()}
    state |= {("service", i, snapshot.services[i].version) for i in ids if i}
    # Those of others, that the file names as external.
    ids = {snapshot.network_ids.get(network.spec.name, "") for network in spec.networks.values()}
    state |= {("network", i, 0) for i in ids}
    ids = {snapshot.secret_ids.get(secret.name, "") for secret in spec.secrets.values()}
    state |= {("secret", i, 0) for i in ids}
    ids = {snapshot.config_ids.get(config.name, "") for config in spec.configs.values()}
    state |= {("config", i, 0) for i in ids}
    said = json.dumps([to_wire(spec), prune, sorted(state)], sort_keys=True).encode()
    return hmac.new(key, said, hashlib.sha256).hexdigest()
