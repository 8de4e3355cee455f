"""All tasks of this node: actions and Engine events to their workers, their reports to whoever listens."""

from __future__ import annotations

import asyncio
import time

from .container import RANK
from .engine import LABEL_CLUSTER, LABEL_TASK, Engine
from .joins import is_join
from .log import log
from .secretfiles import is_file
from .task import Node, Task
from .timing import wait_event

NEEDED = {
    "task_id": str,
    "service_id": str,
    "index": int,
    "name": str,
    "desired": str,
    "image": str,
    "config": dict,
}


class BadAction(Exception):
    """An action of a batch cannot be understood; the message names the field."""


def check_action(action) -> None:
    """Raises BadAction unless the helper can carry it out."""
    if not isinstance(action, dict):
        raise BadAction("an action must be an object")
    kind = action.get("do")
    if kind not in ("ensure_task", "stop_task", "remove_task", "refresh_secrets"):
        raise BadAction(f"unknown action {kind!r}")
    needed = {"ensure_task": NEEDED, "refresh_secrets": {"task_id": str, "number": int, "files": list}}.get(
        kind, {"task_id": str}
    )
    for key, kinds in needed.items():
        if not isinstance(action.get(key), kinds) or action[key] == "":
            raise BadAction(f"{kind}: field {key} is missing or of the wrong type")
    if kind == "ensure_task" and action["desired"] not in ("ready", "running"):
        raise BadAction(f"ensure_task: desired must be ready or running, not {action['desired']!r}")
    files = action.get("files") or []
    if not (isinstance(files, list) and all(map(is_file, files))):
        raise BadAction(f"{kind}: field files is no list of files with id and target")
    earlier = action.get("earlier") or []
    if not (isinstance(earlier, list) and all(isinstance(name, str) for name in earlier)):
        raise BadAction(f"{kind}: field earlier is no list of signals")
    joins = action.get("networks") or []
    if kind == "ensure_task" and not (isinstance(joins, list) and all(map(is_join, joins))):
        raise BadAction("ensure_task: field networks is no list of networks with an address each")
    for key in ("grace_s", "drain_s"):
        if kind == "stop_task" and not isinstance(action.get(key, 0.0), (int, float)):
            raise BadAction(f"stop_task: field {key} is no number")


class Tasks:
    """The tasks by id. `on_report(task)` is called whenever what a task reports has changed."""

    def __init__(self, engine: Engine, wait_engine, on_report, save_soon) -> None:
        self._on_report = on_report
        self._save_soon = save_soon
        self.by_id: dict = {}
        self._went = asyncio.Event()  # a task has gone
        self.node = Node(engine, wait_engine, self._reported, self._gone, save_soon)

    # --- orders -----------------------------------------------------------------------------------------------
    def apply(self, actions: list, cluster_id: str, *, begin: bool = True) -> None:
        """Take on checked actions, in order; returns before any of them is carried out.

        Without `begin` new tasks wait for the next list of the Engine.
        """
        for action in actions:
            task = self._get(action["task_id"])
            if task.cluster_id and task.cluster_id != cluster_id:
                log("action_of_another_cluster", task=task.id, holder=task.cluster_id, cluster=cluster_id)
                continue
            task.cluster_id = cluster_id
            if action["do"] == "ensure_task":
                task.ensure({key: value for key, value in action.items() if key != "do"}, cluster_id)
            elif action["do"] == "refresh_secrets":
                task.refresh({key: value for key, value in action.items() if key != "do"})
            elif action["do"] == "stop_task":
                task.stop(float(action.get("grace_s", 10.0)), float(action.get("drain_s", 0.0)))
            else:
                task.remove()
            if begin:
                task.run()

    async def remove_all(self, cluster_id: str, seconds: float) -> None:
        """Remove all of a cluster, and wait until they are gone, at most so long."""
        named = [{"do": "remove_task", "task_id": task.id} for task in self.of(cluster_id)]
        self.apply(named, cluster_id)
        until = time.monotonic() + seconds
        while self.of(cluster_id):
            self._went.clear()
            if not await wait_event(self._went, until - time.monotonic()):
                return

    def let_go(self, but: str = "") -> None:
        """Nothing more is done for any cluster (`but` this one): what runs here runs on as it is."""
        for task in self.by_id.values():
            if not but or task.cluster_id != but:
                task.let_go()

    def set_alone(self, alone: bool) -> None:
        """The lease was lost, or is back: the Engine's restart policies follow."""
        if self.node.alone != alone:
            self.node.alone = alone
            for task in self.by_id.values():
                task.kick()

    def set_harmless_runtimes(self, names: frozenset) -> None:
        """Containers of these runtimes may be given the Engine's restart policy."""
        if names != self.node.harmless_runtimes:
            self.node.harmless_runtimes = names
            for task in self.by_id.values():
                task.kick(dirty=False)

    def _get(self, task_id: str) -> Task:
        task = self.by_id.get(task_id)
        if task is None:
            task = self.by_id[task_id] = Task(self.node, task_id)
        return task

    # --- what the Engine says ---------------------------------------------------------------------------------
    def on_connected(self, containers: list) -> None:
        """A new event stream stands; `containers` is what the Engine lists after it began."""
        for container in containers:
            self._adopt(container.get("Labels") or {}, container["Id"])
        for task in list(self.by_id.values()):
            task.renew()
            task.run()

    def on_event(self, event: dict) -> None:
        """An Engine event of a container with our label."""
        actor = event.get("Actor") or {}
        labels, kind = actor.get("Attributes") or {}, str(event.get("Action") or event.get("status") or "")
        task = self.by_id.get(labels.get(LABEL_TASK, ""))
        if task is None:
            if kind != "destroy":
                self._adopt(labels, actor.get("ID", ""))
            return
        if kind == "start":
            task.saw_start()
        elif kind == "oom":
            task.saw_oom()
        elif kind == "die" and str(actor.get("ID", "")) == task.container_id:
            task.saw_end(str(labels.get("exitCode", "")), int(event.get("timeNano") or 0))
        elif kind != "create":  # its own worker made it
            task.kick()

    def _adopt(self, labels: dict, container_id: str) -> None:
        task_id = labels.get(LABEL_TASK, "")
        if not task_id or not labels.get(LABEL_CLUSTER) or not container_id:
            return
        known = task_id in self.by_id
        task = self._get(task_id)
        task.adopt(labels, container_id)
        if not known:
            log("task_found", task=task_id, container=container_id[:12])
            task.run()

    # --- what is told -----------------------------------------------------------------------------------------
    def _reported(self, task: Task) -> None:
        self._save_soon()
        self._on_report(task)

    def _gone(self, task: Task) -> None:
        self.by_id.pop(task.id, None)
        self._went.set()
        self._save_soon()

    def of(self, cluster_id: str) -> list:
        """The tasks of a cluster, in order of their ids: no other one is told of them, nor may act on them."""
        return [task for _, task in sorted(self.by_id.items()) if cluster_id and task.cluster_id == cluster_id]

    def with_files(self) -> set:
        """Ids of tasks whose secrets and configs may still be needed."""
        return {task.id for task in self.by_id.values() if not task.terminal}

    def contents_came(self, task_ids: set) -> None:
        """Contents of secrets and configs were given for these tasks."""
        for task_id in task_ids & self.by_id.keys():
            self.by_id[task_id].contents_came()

    @property
    def busy(self) -> int:
        """Tasks that are on their way to what was asked for."""
        return sum(1 for task in self.by_id.values() if task.busy)

    def clusters(self) -> set:
        """Ids of the clusters whose containers are here: a task without one keeps nobody out."""
        return {task.cluster_id for task in self.by_id.values() if task.cluster_id and task.has_container}

    # --- what outlives the process ----------------------------------------------------------------------------
    def to_state(self) -> dict:
        return {task.id: task.to_state() for task in self.by_id.values()}

    def restore(self, state: dict) -> None:
        """Tasks as a former process left them; their workers start with the first list of the Engine."""
        for task_id, one in state.items():
            if one.get("state") in RANK and one["state"] != "gone":
                self.by_id[task_id] = Task.from_state(self.node, task_id, one)
