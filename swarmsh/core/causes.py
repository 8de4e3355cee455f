"""Why a task ended, or is to end: from what its node reported, what followed it, and what happened to its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import fields

from swarmsh.model.objects import Event, Node, Service, Task
from swarmsh.model.specs import TaskSpec
from swarmsh.model.states import NodeState, TaskState
from swarmsh.model.wire import Record

# Exit codes of shells and of signals, as `docker run` and Linux have them.
_CODES = {
    125: "the container could not be made",
    126: "its command cannot be run",
    127: "its command was not found",
    134: "it aborted: SIGABRT",
    137: "killed: SIGKILL",
    139: "it crashed: SIGSEGV",
    143: "ended by SIGTERM",
}
_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


class Causes:
    """Of the tasks of one place, given oldest first."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        service: Service | None,
        here: Sequence[Task],
        events: Sequence[Event],
    ) -> None:
        self.nodes, self.service, self.here = nodes, service, here
        self._down = [e for e in events if e.type == "node" and "state.new" in e.attributes]

    def before(self, task: Task) -> Task | None:
        """The task that this one follows."""
        at = self.here.index(task)
        return self.here[at - 1] if at else None

    def after(self, task: Task) -> Task | None:
        at = self.here.index(task) + 1
        return self.here[at] if at < len(self.here) else None

    def of(self, task: Task) -> str:
        """Why the task ended or leaves, in a few words; empty if it is to stay."""
        if task.rebalance is not None and task.rebalance.done_at is not None:
            return f"it was moved to {self._node(task.rebalance.node_id)} by a rebalance"
        if task.status.state is TaskState.ORPHANED:
            return "its node was removed from the cluster"
        if task.withdrawn is not None:
            name = self._node(task.node_id)
            return f"{name} no longer fits: {task.withdrawn}" if task.withdrawn else f"{name} was drained"
        if task.status.state in _BY_ITSELF:
            return _by_itself(task)
        if self.service is None:
            return "its service was removed"
        after = self.after(task)
        if after is not None and after.replaces == task.id:
            return f"{self._node(task.node_id)} is down, and a task stands in for it"
        if task.live:
            return ""
        return self._told_to(task, after, self.service)

    def _told_to(self, task: Task, after: Task | None, service: Service) -> str:
        """Why the manager told it to end."""
        if task.replaces and task.desired is TaskState.REMOVE:
            return "the task that it stood in for is back"
        if task.desired is TaskState.REMOVE and task.slot:
            return f"{service.spec.name} was scaled down"
        if after is None:
            return "it was told to stop"
        if self._lost_before(task, after):
            return f"{self._node(task.node_id)} was down, and another task took its place"
        if after.spec_version != task.spec_version:
            changed = changed_words(task.spec, after.spec)
            back = "rolled back" if after.spec_version < task.spec_version else "updated"
            return f"{back} to {spec_words(after.spec_version)}" + (f": {changed}" if changed else "")
        return "another task took its place"

    def _lost_before(self, task: Task, after: Task) -> bool:
        """Whether its node was down when the next task was made."""
        told = [e for e in self._down if e.id == task.node_id and task.created_at <= e.time <= after.created_at]
        return bool(told) and told[-1].attributes["state.new"] == NodeState.DOWN.value

    def _node(self, node_id: str) -> str:
        node = self.nodes.get(node_id)
        return node.spec.name if node is not None else node_id


def _by_itself(task: Task) -> str:
    state, code = task.status.state, task.status.exit_code
    if state is TaskState.COMPLETE:
        return "it completed"
    ended = "it failed" if state is TaskState.FAILED else "it was rejected"
    said = [task.status.err or task.status.message]
    if code is not None:
        said.append(f"exit code {code}" + (f", {_CODES[code]}" if code in _CODES else ""))
    return ended + "".join(f": {words}" if i == 0 else f"; {words}" for i, words in enumerate(filter(None, said)))


def spec_words(spec_version: int) -> str:
    """A generation of what a service's tasks are made of."""
    return f"version {spec_version} of the spec"


def changed_words(old: TaskSpec, new: TaskSpec) -> str:
    """What differs between two task specs: both images, and else names of fields, for values may be secret."""
    found = []
    for name, _, _ in _differing(old, new):
        if name == "ContainerSpec" and old.container_spec is not None and new.container_spec is not None:
            for inner, was, became in _differing(old.container_spec, new.container_spec):
                found.append(f"{inner} {_image(was)} to {_image(became)}" if inner == "Image" else inner)
        else:
            found.append(name)
    return ", ".join(found)


def _differing(old: Record, new: Record) -> list[tuple[str, object, object]]:
    pairs = [(f.encode_name, getattr(old, f.name), getattr(new, f.name)) for f in fields(old)]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _image(value: object) -> str:
    return str(value).partition("@")[0]
