"""Finding objects as Docker does: full id, then exact name, then id prefix; and its list filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from swarmsh.core.difference import outdated
from swarmsh.core.find import find_one
from swarmsh.errors import InvalidSpec, Unavailable
from swarmsh.model.objects import Cluster, Node, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import ServiceMode
from swarmsh.model.states import Role, TaskState

Filters = Mapping[str, Sequence[str]]

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
    "swarm and try again."
)


def require_cluster(snapshot: ClusterSnapshot) -> Cluster:
    if snapshot.cluster is None:
        raise Unavailable(NOT_A_MANAGER)
    return snapshot.cluster


# --- one object ---------------------------------------------------------------------------------------------
def find_service(snapshot: ClusterSnapshot, ref: str) -> Service:
    named = snapshot.service_ids.get(ref)
    return find_one("service", snapshot.services, ref, [snapshot.services[named]] if named is not None else [])


def find_node(snapshot: ClusterSnapshot, ref: str) -> Node:
    """`ref` may be the host name of the node's Docker or its name in the inventory; the latter goes first."""
    nodes = snapshot.nodes.values()
    named = [n for n in nodes if n.spec.name == ref] or [n for n in nodes if n.hostname == ref]
    return find_one("node", snapshot.nodes, ref, named)


def find_task(snapshot: ClusterSnapshot, ref: str) -> Task:
    """`ref` may also be `NAME.SLOT` (`NAME.NODE` if global): the newest task there, a live one first."""
    if ref in snapshot.tasks:
        return snapshot.tasks[ref]
    named: list[Task] = []
    name, dot, place = ref.rpartition(".")
    service_id = snapshot.service_ids.get(name) if dot else None
    if service_id is not None:
        there = [t for t in snapshot.tasks_of_service(service_id) if _is_place(snapshot, t, place)]
        named = sorted(there, key=lambda t: (t.live, t.created_at, t.id))[-1:]
    elif dot and place in snapshot.tasks:
        named = [snapshot.tasks[place]]  # the whole name: web.1.<id>
    return find_one("task", snapshot.tasks, ref, named)


def _is_place(snapshot: ClusterSnapshot, task: Task, place: str) -> bool:
    if task.number is not None:
        return str(task.number) == place
    node = snapshot.nodes.get(task.node_id)
    return place in (task.node_id, *((node.spec.name, node.hostname) if node is not None else ()))


# --- lists --------------------------------------------------------------------------------------------------
def list_services(snapshot: ClusterSnapshot, filters: Filters) -> list[Service]:
    """By name. Raises InvalidSpec for a filter that Docker does not know."""
    accept_filters(filters, {"id", "name", "label", "mode", "runtime"})

    def wanted(service: Service) -> bool:
        return (
            prefixed(filters, "id", service.id)
            and prefixed(filters, "name", service.spec.name)
            and labelled(filters, "label", service.spec.labels)
            and _among(filters, "mode", mode_word(service.spec.mode))
            and _among(filters, "runtime", service.spec.task_template.runtime or "container")
        )

    return sorted(filter(wanted, snapshot.services.values()), key=lambda s: s.spec.name)


def list_nodes(snapshot: ClusterSnapshot, filters: Filters) -> list[Node]:
    """By number. `label` means the Engine's own labels, `node.label` those of the node's spec, as in Docker."""
    accept_filters(filters, {"id", "name", "label", "node.label", "role", "membership"})
    _check_words(filters, "role", {r.value for r in Role})
    _check_words(filters, "membership", {"accepted", "pending"})

    def wanted(node: Node) -> bool:
        return (
            prefixed(filters, "id", node.id)
            and prefixed(filters, "name", node.hostname, node.spec.name)
            and labelled(filters, "label", node.description.engine_labels)
            and labelled(filters, "node.label", node.spec.labels)
            and _among(filters, "role", node.spec.role.value)
            and _among(filters, "membership", "accepted")
        )

    return sorted(filter(wanted, snapshot.nodes.values()), key=lambda n: n.number)


def list_tasks(snapshot: ClusterSnapshot, filters: Filters) -> list[Task]:
    """By service, slot and age. A service or node named in a filter must exist, as in Docker."""
    accept_filters(filters, {"id", "name", "label", "service", "node", "desired-state", "runtime", "_up-to-date"})
    _check_words(filters, "desired-state", {s.word for s in TaskState})
    services = {find_service(snapshot, ref).id for ref in filters.get("service", ())}
    nodes = {find_node(snapshot, ref).id for ref in filters.get("node", ())}
    current = _truth(filters, "_up-to-date")

    def wanted(task: Task) -> bool:
        return (
            (not nodes or task.node_id in nodes)
            and (not services or task.service_id in services)
            and prefixed(filters, "id", task.id)
            and prefixed(filters, "name", task.name)
            and labelled(filters, "label", task.labels)
            and _among(filters, "desired-state", task.desired_word)
            and _among(filters, "runtime", task.spec.runtime or "container")
            and (not current or _up_to_date(snapshot, task))
        )

    def candidates() -> Iterable[Task]:
        if services:
            return (t for s in services for t in snapshot.tasks_of_service(s))
        if nodes:
            return (t for n in nodes for t in snapshot.tasks_of_node(n))
        return snapshot.tasks.values()

    return sorted(filter(wanted, candidates()), key=lambda t: (t.service_name, t.slot, t.created_at, t.id))


def _up_to_date(snapshot: ClusterSnapshot, task: Task) -> bool:
    service = snapshot.services.get(task.service_id)
    if service is not None and service.job_status is not None:
        return task.job_iteration == service.job_status.iteration
    return service is not None and not outdated(task, service)


def mode_word(mode: ServiceMode) -> str:
    words: tuple[tuple[object, str], ...] = (
        (mode.global_, "global"),
        (mode.replicated_job, "replicated-job"),
        (mode.global_job, "global-job"),
    )
    return next((word for found, word in words if found is not None), "replicated")


def accept_filters(filters: Filters, known: set[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidSpec(f"invalid filter '{name}'", hint=f"Known ones: {', '.join(sorted(known))}")


def _check_words(filters: Filters, name: str, known: set[str]) -> None:
    for value in filters.get(name, ()):
        if value.lower() not in known:
            raise InvalidSpec(f"Invalid {name.replace('-', '_')} filter: '{value}'")


def prefixed(filters: Filters, name: str, *values: str) -> bool:
    """One of the values begins as one asked for does; or none was asked for."""
    wanted = filters.get(name)
    return not wanted or any(v.startswith(w) for v in values for w in wanted)


def _among(filters: Filters, name: str, value: str) -> bool:
    wanted = filters.get(name)
    return not wanted or any(value == w.lower() for w in wanted)


def labelled(filters: Filters, name: str, labels: Mapping[str, str]) -> bool:
    """Every one asked for is there; one asked for without a value may have any."""
    for wanted in filters.get(name, ()):
        key, _, value = wanted.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True


def _truth(filters: Filters, name: str) -> bool:
    words: dict[str, bool] = {"1": True, "true": True, "0": False, "false": False}
    read: Callable[[str], bool | None] = lambda v: words.get(v.lower())  # noqa: E731
    values = [read(v) for v in filters.get(name, ())]
    if None in values:
        raise InvalidSpec(f"invalid filter '{name}={list(filters[name])}'")
    return any(values)
