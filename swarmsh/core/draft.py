"""A working copy of one service's tasks while a plan is made, and the plan that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from swarmsh.core.difference import outdated
from swarmsh.core.fence import over_at
from swarmsh.core.filters import takes_new
from swarmsh.core.gate import OPEN, Gate, begun
from swarmsh.core.labels import fenced, may_leave_volumes
from swarmsh.core.resources import reservations_of
from swarmsh.core.scheduler import surplus
from swarmsh.core.tasks import new_task, wish
from swarmsh.core.volumes import Home, last_home, local_mounts
from swarmsh.model.objects import Event, Node, Service, Task
from swarmsh.model.specs import Reservations
from swarmsh.model.states import NodeState, TaskState

Place = int | str  # a slot number (replicated), or a node id (global)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """What one pass over a service wants written. Empty when there is nothing to do."""

    put_tasks: tuple[Task, ...] = ()
    delete_tasks: tuple[str, ...] = ()
    put_service: Service | None = (
        None  # only if the status of its update or job, or by a rollback its spec, changed
    )
    wake_at: float | None = None  # when time alone will change the plan
    events: tuple[Event, ...] = ()


@dataclass(slots=True)
class Draft:
    """The tasks as they will be; every change is remembered. Used by one plan only, then thrown away.

    `on_node` gives all tasks of a node, other services' too, as they were before.
    """

    service: Service
    nodes: Mapping[str, Node]
    ids: Iterator[str]
    now: float
    history: int  # tasks kept for each place, the living one included
    on_node: Callable[[str], Iterable[Task]] = lambda node_id: ()
    # Whether the node has been in touch with this process of the manager: what is known of others is from before.
    met: Callable[[str], bool] = lambda node_id: True
    since: float = 0.0  # before, nobody could have done anything: it counts for no deadline
    # A service with what its spec needs of the cluster; raises SwarmshError if that is not to be had.
    attach: Callable[[Service], Service] = lambda service: service
    gate: Gate = OPEN  # what the service waits for before it first starts
    tasks: dict[str, Task] = field(default_factory=dict)
    # What is prepared for places whose turn has not come: no task of them yet, and in none of the lists of tasks.
    ahead: dict[Place, Task] = field(default_factory=dict)
    # The same tasks by place, oldest first; and which other versions of the spec are outdated, asked once each.
    _at: dict[Place, dict[str, Task]] = field(default_factory=dict)
    _outdated: dict[tuple[int, int], bool] = field(default_factory=dict)
    # By node: the tasks that were there when it was first asked, and those that may not stay.
    _own: dict[str, list[str]] = field(default_factory=dict)
    _surplus: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _changed: dict[str, None] = field(default_factory=dict)
    _apart: dict[str, Task] = field(default_factory=dict)  # prepared by this plan
    _deleted: list[str] = field(default_factory=list)
    _new: set[str] = field(default_factory=set)
    _service: Service | None = None
    _held: bool | None = None
    _wake_at: float | None = None

    @classmethod
    def of(
        cls, service: Service, tasks: Iterable[Task], nodes: Mapping[str, Node], ids: Iterator[str], now: float,
        history: int, on_node: Callable[[str], Iterable[Task]], attach: Callable[[Service], Service],
        met: Callable[[str], bool], since: float, gate: Gate = OPEN,
    ) -> Draft:  # fmt: skip
        ordered = sorted(tasks, key=lambda t: (t.created_at, t.id))
        ahead = {place_of(t): t for t in ordered if _waits_apart(t)}
        ordered = [t for t in ordered if not _waits_apart(t)]
        draft = cls(service, nodes, ids, now, history, on_node, met, since, attach, gate)
        draft.tasks = {t.id: t for t in ordered}
        draft.ahead = ahead
        for task in ordered:
            draft._at.setdefault(place_of(task), {})[task.id] = task
        return draft

    def part(self, service: Service, tasks: Iterable[Task]) -> Draft:
        """A draft of some of the tasks, with a service that may differ; `take` brings its changes back."""
        rest = (self.nodes, self.ids, self.now, self.history, self.on_node, self.attach, self.met, self.since)
        return Draft.of(service, tasks, *rest, self.gate)

    def take(self, part: Draft) -> None:
        """Change here what was changed in a part, but for its service."""
        for task_id in part._changed:
            self.put(part.tasks[task_id])
        for task_id in part._deleted:
            self.delete(self.tasks[task_id])
        self._new |= part._new
        if part._wake_at is not None:
            self.wake(part._wake_at)

    # --- looking ---
    def all(self) -> list[Task]:
        """All tasks, oldest first; safe to change the draft while walking it."""
        return list(self.tasks.values())

    def places(self) -> list[Place]:
        """All places that have tasks, but for those whose tasks are all to be removed."""
        return [place for place in self._at if self.at(place)]

    def at(self, place: Place) -> list[Task]:
        """Tasks of a place, oldest first; ended and leaving ones included, those to be removed left out."""
        return [t for t in self._at.get(place, {}).values() if t.desired < TaskState.REMOVE]

    def beside(self, task: Task) -> list[Task]:
        """All other tasks of the task's place, those to be removed too."""
        return [t for t in self._at[place_of(task)].values() if t.id != task.id]

    def living(self, place: Place) -> list[Task]:
        """Live tasks of a place, oldest first."""
        return [t for t in self._at.get(place, {}).values() if t.live]

    def outdated(self, task: Task) -> bool:
        """As `difference.outdated`, worked out once for all tasks of a version."""
        key = (task.spec_version, self.service.spec_version)
        if key not in self._outdated:
            self._outdated[key] = outdated(task, self.service)
        return self._outdated[key]

    def surplus_on(self, node: Node) -> Mapping[str, str]:
        """As `scheduler.surplus`, worked out once for each node."""
        if not self._own:
            for task in self.tasks.values():
                self._own.setdefault(task.node_id, []).append(task.id)
        if node.id not in self._surplus:
            tasks = [self.tasks[i] for i in self._own.get(node.id, ()) if i in self.tasks]
            # What reserves nothing fits beside anything: then a node's other tasks need no look.
            if any(reservations_of(t.spec) != Reservations() for t in tasks):
                tasks += [t for t in self.on_node(node.id) if t.service_id != self.service.id]
            self._surplus[node.id] = surplus(node, tasks)
        return self._surplus[node.id]

    def stood_in_for(self, task: Task) -> Task | None:
        """The task on a lost node that this one replaces, if that still lives."""
        old = self.tasks.get(task.replaces)
        return old if old is not None and old.live else None

    def lost(self, task: Task) -> bool:
        """The task's node is down: what runs there can neither be known nor changed.

        A fenced one is waited for until it must have ended.
        """
        if not self.down(task):
            return False
        if not fenced(task.labels):
            return True
        at = over_at(task, self.nodes)
        if at is not None:
            self.wake(at)
        return at is not None and at <= self.now

    def stands(self, task: Task) -> bool:
        """It takes connections for all that is known, and its node is in touch: others may leave because of it."""
        node = self.nodes.get(task.node_id)
        if node is None or not task.live or not task.status.ready:
            return False
        return node.status.state is NodeState.READY and not node.status.silent and self.met(node.id)

    def down(self, task: Task) -> bool:
        node = self.nodes.get(task.node_id)
        return node is not None and node.status.state is NodeState.DOWN

    @property
    def held(self) -> str:
        """Why none of the service's tasks may start yet; empty once one was let go before."""
        if self._held is None:
            ran = self.service.let_go or begun(self.tasks.values())
            self._held = bool(self.gate.unmet) and not ran
        return self.gate.words if self._held else ""

    def note_let_go(self) -> None:
        """Remember of a service that waits for others that it was let go: its tasks may all be removed later."""
        if self.gate.others and not self.service.let_go and begun(self.tasks.values()):
            self.put_service(replace(self.service, let_go=True))

    def home(self, task: Task) -> Home | None:
        """Where the data of the task's slot is, if it may not be placed away from it."""
        mounts = local_mounts(task.spec)
        if not mounts or not task.slot or may_leave_volumes(self.service.spec.labels):
            return None
        return last_home(task, mounts, self.nodes, self._at.get(task.slot, {}).values())

    # --- changing ---
    def put(self, task: Task) -> None:
        if self.tasks.get(task.id) != task:
            self.tasks[task.id] = task
            self._at.setdefault(place_of(task), {})[task.id] = task
            self._changed[task.id] = None

    def wish(self, task: Task, desired: TaskState) -> None:
        self.put(wish(self.tasks[task.id], desired))

    def hold(self, task: Task) -> bool:
        """Note on a prepared task why it may not start yet, or that nothing holds it; whether it is held."""
        if task.held != self.held:
            self.put(replace(task, held=self.held))
        return bool(self.held)

    def delete(self, task: Task) -> None:
        del self.tasks[task.id]
        del self._at[place_of(task)][task.id]
        self._changed.pop(task.id, None)
        if task.id not in self._new:
            self._deleted.append(task.id)

    def add(
        self,
        place: Place,
        *,
        desired: TaskState = TaskState.RUNNING,
        start_after: float | None = None,
        replaces: str = "",
        restarted_at: tuple[float, ...] = (),
        node_id: str = "",
    ) -> Task:
        """A new task of the service as specified now. A fenced or held one is let go at the end of the pass, if it
        may.

        What was prepared ahead for the place is taken, where it is still right, as if it were made now.
        `node_id`: where the task of a slot is to be, and nowhere else; a global service's has its place.
        """
        if self.held or fenced(self.service.spec.labels):
            desired = min(desired, TaskState.READY)
        wanted: dict[str, Any] = {
            "desired": desired, "start_after": start_after, "replaces": replaces, "restarted_at": restarted_at,
        }  # fmt: skip
        if self.still_right(place) and node_id in ("", self.ahead[place].node_id):
            found, labels = self.ahead.pop(place), self.service.spec.labels
            made = replace(found, ahead=False, created_at=self.now, labels=labels, **wanted)
        else:
            made = self._made(place, node_id=node_id, **wanted)
            self._new.add(made.id)
        self.put(made)
        return made

    def still_right(self, place: Place) -> bool:
        """Whether something is prepared ahead for the place, as the service is now, where it could start."""
        task = self.ahead.get(place)
        if task is None or task.spec_version != self.service.spec_version:
            return False
        if not task.node_id:
            return True
        node = self.nodes.get(task.node_id)
        return node is not None and takes_new(node)

    def prepare(self, place: Place) -> None:
        """Have a task of the service as specified now made for a place whose turn comes next."""
        task = replace(self._made(place, desired=TaskState.READY), ahead=True)
        self.ahead[place] = task
        self._apart[task.id] = task

    def drop_ahead(self, place: Place) -> None:
        """Have what was prepared ahead for a place removed."""
        self.put(replace(wish(self.ahead.pop(place), TaskState.REMOVE), ahead=False))

    def _made(self, place: Place, *, node_id: str = "", **wanted: Any) -> Task:
        return new_task(
            self.service,
            next(self.ids),
            self.now,
            slot=place if isinstance(place, int) else 0,
            node_id=place if isinstance(place, str) else node_id,
            **wanted,
        )

    def put_service(self, service: Service) -> None:
        """Replace the service: its update status, or its whole spec by a rollback."""
        self.service = self._service = service

    def wake(self, at: float) -> None:
        """Look again at time `at`, if nothing happens before."""
        if at > self.now and (self._wake_at is None or at < self._wake_at):
            self._wake_at = at

    def plan(self) -> ServicePlan:
        return ServicePlan(
            put_tasks=(*(self.tasks[i] for i in self._changed), *self._apart.values()),
            delete_tasks=tuple(self._deleted),
            put_service=self._service,
            wake_at=self._wake_at,
        )


def _waits_apart(task: Task) -> bool:
    """It was prepared ahead and still may come. One that ended counts as the first attempt in its place."""
    return task.ahead and task.desired is TaskState.READY and not task.status.state.terminal


def place_of(task: Task) -> Place:
    """What a task stands for: its slot, or for a global service its node."""
    return task.slot or task.node_id
