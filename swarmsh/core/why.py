"""Why tasks are where they are and as they are, in words: from the snapshot and the scheduler's own scoring.

Nothing is decided here. What is told of a place (a slot, or a global service's node) is about its newest task, or
about a task that was asked for by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from swarmsh.core.causes import Causes, spec_words
from swarmsh.core.choice import NodeStory, advantage, node_story
from swarmsh.core.draft import Place, place_of
from swarmsh.core.history import Moment, history_of
from swarmsh.core.jobs import time_words
from swarmsh.core.labels import fenced, probe_of
from swarmsh.core.restart import should_restart
from swarmsh.core.scheduler import SchedulingView, Standing, eligible, survey
from swarmsh.core.tasks import new_task
from swarmsh.core.words import counted
from swarmsh.model.objects import Event, JobStatus, Node, Service, Task
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import RestartPolicy
from swarmsh.model.states import Availability, NodeState, TaskState

MOST_PLACED = 20  # places of a service of which is told why they are there: each takes a look at all nodes


class PlaceStory(Struct, frozen=True, kw_only=True):
    """A place and its task: `verdict` is a line, `reasons` are sentences, `fix` is the nearest way out, if any.

    `nodes` are as the scheduler sees them now, the best first; only where that says something.
    """

    place: str
    verdict: str
    ok: bool  # it is as it is wanted
    task: str = ""  # id; empty if there is none
    node: str = ""
    state: str = ""
    desired: str = ""
    since: float = 0.0
    reasons: tuple[str, ...] = ()
    fix: str = ""
    nodes: tuple[NodeStory, ...] = ()
    log: tuple[str, ...] = ()  # the last lines of the newest task here that failed or was not ready in time
    history: tuple[Moment, ...] = ()  # oldest first


class ServiceStory(Struct, frozen=True, kw_only=True):
    """A service: `summary` are sentences about all of it."""

    service: str
    service_id: str
    summary: tuple[str, ...]
    places: tuple[PlaceStory, ...]


class Evidence(Struct, frozen=True, kw_only=True):
    """All that a story is told from. `events`: of the services and nodes concerned, or more, oldest first."""

    snapshot: ClusterSnapshot
    view: SchedulingView
    events: Sequence[Event]
    now: float


def why_service(evidence: Evidence, service: Service) -> ServiceStory:
    """All places of a service, in their order; of a global one also the nodes that have none of its tasks."""
    tasks = _tasks(evidence, service.id)
    places: set[Place] = {
        place_of(t) for t in tasks if t.desired < TaskState.REMOVE or not t.status.state.terminal
    }
    if service.spec.mode.global_ is not None:
        places |= {n.id for n in evidence.snapshot.nodes.values()}
    elif not service.spec.mode.is_job:
        places |= set(range(1, replicas_of(service) + 1))
    ordered = sorted(places, key=lambda p: _place_order(evidence, p))
    brief = len(ordered) > MOST_PLACED
    stories = tuple(_Teller(evidence, service, service.spec.name, tasks, p, brief=brief).story() for p in ordered)
    return ServiceStory(
        service=service.spec.name,
        service_id=service.id,
        summary=_summary(service, tasks, evidence.now),
        places=stories,
    )


def why_place(evidence: Evidence, service: Service, place: Place) -> PlaceStory:
    """A place of a service: a slot number, or a node's id for a global one. It need not have a task."""
    return _Teller(evidence, service, service.spec.name, _tasks(evidence, service.id), place).story()


def why_task(evidence: Evidence, task: Task) -> PlaceStory:
    """A task, whether it is the newest of its place or not, and its place."""
    service = evidence.snapshot.services.get(task.service_id)
    tasks = _tasks(evidence, task.service_id)
    return _Teller(evidence, service, task.service_name, tasks, place_of(task), asked=task.id).story()


def number_of(service: Service | None, slot: int) -> int:
    """A slot as clients know it: those of jobs are counted from 0, as in Docker."""
    return slot - 1 if service is not None and service.spec.mode.is_job else slot


def replicas_of(service: Service) -> int:
    """Of a replicated service."""
    mode = service.spec.mode.replicated
    return 1 if mode is None or mode.replicas is None else mode.replicas


def _tasks(evidence: Evidence, service_id: str) -> list[Task]:
    return sorted(evidence.snapshot.tasks_of_service(service_id), key=lambda t: (t.created_at, t.id))


def _place_order(evidence: Evidence, place: Place) -> tuple[int, int, str]:
    if isinstance(place, int):
        return (0, place, "")
    node = evidence.snapshot.nodes.get(place)
    return (1, node.number if node is not None else 1 << 16, place)


def _summary(service: Service, tasks: Sequence[Task], now: float) -> tuple[str, ...]:
    running = len({place_of(t) for t in tasks if t.live and t.status.state is TaskState.RUNNING})
    if service.spec.mode.is_job:
        found = [f"a job: {counted(running, 'task')} running", *_schedule_words(service.job_status)]
    elif service.spec.mode.global_ is not None:
        found = [f"a global service: one task on each node that fits, {running} running"]
    else:
        found = [f"{running} of {counted(replicas_of(service), 'replica')} running"]
    status = service.update_status
    if status is not None and status.state not in ("completed", "rollback_completed"):
        found.append(status.message or status.state.replace("_", " "))
    return tuple(found)


def _schedule_words(status: JobStatus | None) -> Iterator[str]:
    if status is None:
        return
    if status.next_execution is not None:
        yield f"by its schedule it runs next at {time_words(status.next_execution)}"
    if status.skipped and status.skipped_at is not None:
        last = f"{time_words(status.skipped_at)}: {status.skipped_because}"
        yield f"{counted(status.skipped, 'run')} skipped, the last at {last}"


class _Teller:
    """Tells of one place; made for one story, then thrown away."""

    def __init__(
        self,
        evidence: Evidence,
        service: Service | None,
        name: str,
        tasks: Sequence[Task],
        place: Place,
        *,
        asked: str = "",
        brief: bool = False,
    ) -> None:
        self.evidence, self.service, self.place, self.brief = evidence, service, place, brief
        self.nodes = evidence.snapshot.nodes
        self.here = [t for t in tasks if place_of(t) == place]
        self.name = f"{name}.{number_of(service, place) if isinstance(place, int) else self._node(place)}"
        self.causes = Causes(self.nodes, service, self.here, evidence.events)
        live = [t for t in self.here if t.live and not t.ahead]
        self.task = next((t for t in self.here if t.id == asked), None)
        if self.task is None and self.here:
            self.task = (live or self.here)[-1]
        self.reasons: list[str] = []
        self.fix = ""
        self.seen: tuple[NodeStory, ...] = ()
        self.ok = False

    def story(self) -> PlaceStory:
        task = self.task
        verdict = self._without_task() if task is None else self._of_task(task)
        history = () if self.brief else history_of(self.here, self.causes, self.evidence.events)
        if task is None:
            return PlaceStory(
                place=self.name, verdict=verdict, ok=self.ok, reasons=tuple(self.reasons), fix=self.fix,
                nodes=self.seen, history=history,
            )  # fmt: skip
        return PlaceStory(
            place=self.name,
            verdict=verdict,
            ok=self.ok,
            task=task.id,
            node=self._node(task.node_id),
            state=task.status.state.word,
            desired=task.desired_word,
            since=task.status.since,
            reasons=tuple(self.reasons),
            fix=self.fix,
            nodes=self.seen,
            log=next((t.status.log for t in reversed(self.here) if t.status.log), ()),
            history=history,
        )

    def _node(self, node_id: str) -> str:
        node = self.nodes.get(node_id)
        return node.spec.name if node is not None else node_id

    # --- places without a task ------------------------------------------------------------------------------
    def _without_task(self) -> str:
        service = self.service
        if service is None:
            return "there is none: its service was removed"
        if service.spec.mode.is_job:
            return "there is none: no run of the job has it"
        if isinstance(self.place, int):
            wanted = replicas_of(service)
            if self.place <= wanted:
                return "not made yet"
            self.fix = f"`swarmsh service scale {service.spec.name}={self.place}`"
            return f"there is no such slot: {service.spec.name} has {counted(wanted, 'replica')}"
        node = self.nodes.get(self.place)
        if node is None:
            return "there is none: the node is not in the cluster"
        return self._global_without_task(service, node)

    def _global_without_task(self, service: Service, node: Node) -> str:
        (here,) = (
            s for s in self._survey(new_task(service, "", self.evidence.now, node_id=node.id)) if s.node is node
        )
        self._show([here])
        if not eligible(node, service.spec.task_template):
            self.ok = True
            return "none belongs here: the node does not fit"
        if node.spec.availability is Availability.DRAIN:
            self.ok = True
            return "none belongs here: the node is drained"
        return "not made yet" if here.rank is not None else "not made: the node takes no tasks now"

    # --- what a task does -----------------------------------------------------------------------------------
    def _of_task(self, task: Task) -> str:
        self._note_predecessor(task)
        if task.status.state.terminal:
            verdict = self._ended(task)
        elif task.desired > TaskState.RUNNING:
            verdict = f"being stopped on {self._node(task.node_id)}" if task.placed else "given up"
            self.reasons.append(f"it leaves: {self.causes.of(task)}")
            if self._state(task.node_id) is NodeState.DOWN:
                self.reasons.append(
                    f"{self._node(task.node_id)} is down: that it has stopped is seen when it is back"
                )
        elif not task.placed:
            verdict = self._pending(task)
        elif task.status.state is TaskState.RUNNING:
            verdict = self._running(task)
        else:
            verdict = self._starting(task)
        self._note_others(task)
        return verdict

    def _note_predecessor(self, task: Task) -> None:
        before = self.causes.before(task)
        if before is None:
            return
        cause = self.causes.of(before)
        if before.node_id and task.node_id and before.node_id != task.node_id:
            way = f"moved from {self._node(before.node_id)} to {self._node(task.node_id)}"
        else:
            way = "made anew"
        leaving = before.live and cause == ""
        self.reasons.append(f"{way} after {before.id}: {'that still runs' if leaving else cause}")

    def _note_others(self, task: Task) -> None:
        """Tasks of the place that are there beside it."""
        for other in self.here:
            if other.id == task.id or not other.placed or other.status.state.terminal:
                continue
            what = "is being stopped" if other.desired > TaskState.RUNNING else f"is {other.status.state.word}"
            self.reasons.append(
                f"beside it {other.id} {what} on {self._node(other.node_id)}{self._version(other)}"
            )

    def _version(self, task: Task) -> str:
        if self.service is None or task.spec_version == self.service.spec_version:
            return ""
        return f" ({spec_words(task.spec_version)})"

    def _pending(self, task: Task) -> str:
        standings = self._survey(task)
        if task.node_id:
            standings = [s for s in standings if s.node.id == task.node_id]
        self._show(standings)
        fitting = [s for s in standings if s.rank is not None]
        if not standings:
            self.fix = "Add a node: `swarmsh node add`"
            return "pending: there is no node"
        if not fitting:
            best = standings[0]
            self.fix = "; ".join(f"{best.node.spec.name}: {words.fix}" for _, words in best.refusals if words.fix)
            where = f"{best.node.spec.name} does not take it" if task.node_id else "no node takes it"
            return f"pending: {where}"
        if task.status.err:
            # A node fits, and something else is missing that only the allocation can tell: an address.
            return f"pending: {task.status.err}"
        return f"pending: {fitting[0].node.spec.name} takes it in the next pass"

    def _starting(self, task: Task) -> str:
        node = self._node(task.node_id)
        self._note_node(task)
        self._note_choice(task)
        state = task.status.state
        if task.desired is TaskState.READY:
            self._note_wait(task)
            return f"prepared on {node}, waits"
        match state:
            case TaskState.ASSIGNED if task.status.err:
                return f"given to {node}: {task.status.err}"
            case TaskState.ASSIGNED:
                return f"given to {node}, which has not answered yet"
            case TaskState.ACCEPTED | TaskState.PREPARING:
                self.reasons.append("its image is being pulled or its mounts and networks are made")
                return f"being prepared on {node}"
            case TaskState.STARTING:
                self.reasons.append(self._gate(task))
                return f"starting on {node}"
        return f"{state.word} on {node}"

    def _note_wait(self, task: Task) -> None:
        if task.ahead:
            self.reasons.append("its turn in the update has not come")
            return
        if task.held:
            self.reasons.append(f"{task.held} (label swarmsh.depends-on)")
        if task.start_after is not None and task.start_after > self.evidence.now:
            left = task.start_after - self.evidence.now
            self.reasons.append(f"the restart delay is over in {left:.1f} s")
        for other in self.here:
            leaving = other.id != task.id and other.placed and not other.status.state.terminal
            if leaving and other.desired > TaskState.RUNNING:
                self.reasons.append(f"it starts when {other.id} has stopped on {self._node(other.node_id)}")
            elif leaving and fenced(other.labels) and self._state(other.node_id) is NodeState.DOWN:
                name = self._node(other.node_id)
                self.reasons.append(
                    f"{name} is down and may still run {other.id}: swarmsh.fence=stop lets no two run"
                )

    def _running(self, task: Task) -> str:
        node = self._node(task.node_id)
        self._note_node(task)
        self._note_move(task)
        self._note_choice(task)
        self._note_restarts(task)
        if self.service is not None and task.spec_version != self.service.spec_version and self._version(task):
            newest = self.service.spec_version
            self.reasons.append(f"it runs {spec_words(task.spec_version)}, the service is at version {newest}")
        if task.late_at is not None and not task.status.ready:
            self.reasons.append(f"it was not ready in time: {task.status.message}")
        if not task.status.ready:
            self.reasons.append(f"it takes no traffic yet: {self._gate(task)}")
            return f"runs on {node}, not ready"
        self.ok = self._state(task.node_id) is NodeState.READY
        return f"runs on {node}"

    def _gate(self, task: Task) -> str:
        """What makes it ready (design decision 6)."""
        if probe_of(task.labels) is not None:
            return f"its probe {task.labels['swarmsh.probe']} has to pass"
        container = task.spec.container_spec
        health = container.healthcheck if container is not None else None
        if health is not None and health.test and health.test[0] != "NONE":
            return "its health check has to pass"
        return "the image's health check has to pass if it has one, else its published ports are to listen"

    def _note_restarts(self, task: Task) -> None:
        if task.status.restarts:
            times = counted(task.status.restarts, "time")
            self.reasons.append(f"its node restarted it {times} while no manager was in touch")

    def _note_move(self, task: Task) -> None:
        if task.moving_since is not None:
            self.reasons.append(
                f"it leaves {self._node(task.node_id)} as soon as another one is ready in its place"
            )
        if task.rebalance is None or task.rebalance.done_at is not None:
            return
        to = self._node(task.rebalance.node_id)
        if task.rebalance.stopped:
            self.reasons.append(f"a rebalance was to move it to {to}, and did not: {task.rebalance.stopped}")
        elif task.rebalance.begun_at is None:
            self.reasons.append(f"it waits to be moved to {to} by a rebalance")
        else:
            self.reasons.append(f"it leaves for {to} as soon as another one is ready there, by a rebalance")

    def _note_node(self, task: Task) -> None:
        node = self.nodes.get(task.node_id)
        if node is None or (node.status.state is NodeState.READY and not node.status.silent):
            return
        message = f" ({node.status.message})" if node.status.message else ""
        if node.status.state is NodeState.DOWN:
            stays = task.slot == 0
            then = "a global service's task waits for its node" if stays else "another task stands in for it"
            self.reasons.append(f"{node.spec.name} is down{message}: {then}")
            self.fix = f"`swarmsh node check {node.spec.name}`"
        else:
            word = "silent" if node.status.silent else node.status.state.value
            self.reasons.append(f"{node.spec.name} is {word}{message}: what runs there is left as it is")

    def _state(self, node_id: str) -> NodeState | None:
        node = self.nodes.get(node_id)
        return node.status.state if node is not None else None

    def _ended(self, task: Task) -> str:
        cause = self.causes.of(task)
        live = [t for t in self.here if t.live]
        node = f" on {self._node(task.node_id)}" if task.node_id else ""
        if live:
            self.reasons.append(f"{live[-1].id} stands in its place")
            return f"ended{node}: {cause}"
        if self.service is not None and self.service.spec.mode.is_job:
            self.ok = task.status.state is TaskState.COMPLETE
        elif self.service is not None and task is self.here[-1]:
            self.reasons.append(self._given_up(self.service, task))
            again = f"swarmsh service update --force {self.service.spec.name}"
            self.fix = f"`swarmsh service logs {self.name}`, then `{again}`"
        return f"ended{node}, not followed: {cause}" if not self.ok else f"ended{node}: {cause}"

    def _given_up(self, service: Service, task: Task) -> str:
        """Why the restart policy makes no further task."""
        policy = service.spec.task_template.restart_policy or RestartPolicy()
        if should_restart(task, policy, service.spec_version, self.evidence.now):
            return "another task follows in the next pass"
        if policy.condition == "none":
            return "its restart condition is none: tasks that end are not followed"
        if policy.condition == "on-failure" and task.status.state is TaskState.COMPLETE:
            return "it completed, and its restart condition is on-failure"
        window = f" within {policy.window / 1e9:g} s" if policy.window else ""
        most = counted(policy.max_attempts or 0, "restart")
        return f"all of {most} that its restart policy allows{window} are used up"

    # --- the scheduler's view -------------------------------------------------------------------------------
    def _survey(self, task: Task) -> list[Standing]:
        return survey(task, self.evidence.view)

    def _show(self, standings: Sequence[Standing]) -> None:
        self.seen = tuple(node_story(s, self.service.spec.name if self.service else "") for s in standings)

    def _note_choice(self, task: Task) -> None:
        """Why it is on its node: how the scheduler would choose now, were the task to be placed anew."""
        if self.brief or task.node_id not in self.nodes:
            return
        if not task.slot:
            self.reasons.append("a global service has a task on each node that fits")
            return
        standings = self._survey(task)
        self._show(standings)
        own = next(s for s in standings if s.node.id == task.node_id)
        others = [s for s in standings if s.rank is not None and s is not own]
        name = own.node.spec.name
        if own.rank is None:
            why = "; ".join(words.why for _, words in own.refusals)
            self.reasons.append(f"{name} would not take it now: {why}")
        elif not others:
            self.reasons.append(f"{name} is the only node that takes it")
        elif own is standings[0] and others[0].rank is not None:
            better = advantage(own.rank, others[0].rank, name, others[0].node.spec.name, task.service_name)
            self.reasons.append(f"{name} is the best node for it now, before {others[0].node.spec.name}: {better}")
        elif (best := standings[0]).rank is not None:
            other = best.node.spec.name
            better = advantage(best.rank, own.rank, other, name, task.service_name)
            self.reasons.append(f"placed now it would go to {other}, not {name}: {better}")
