"""One task on this node: a worker that brings its container, step by step, to what was last asked for.

Level-triggered: each step looks at the container as it is and does one thing, so that a step which was cut
off (by the death of this process, or of the Engine) is simply taken again.
"""

from __future__ import annotations

import asyncio
import os
import time

from . import joins, lastwords, ready, resolvconf, secretfiles
from .cgroups import cgroup_of, end_cgroup, find_cgroup, pids_in
from .container import (
    GOALS,
    POLICIES,
    RANK,
    TERMINAL,
    UNHEALTHY,
    View,
    index_of,
    judge_end,
    labels_of,
    may_restart,
)
from .engine import LABEL_CLUSTER, LABEL_SERVICE, LABEL_TASK, Engine, EngineError, EngineGone
from .log import log
from .timing import wait_event

ERR_LIMIT = 4000
ENDED = "ended by its cgroup"
CUT_OFF = "stopped by its node: no manager and no other node in reach"
CUT_OFF_GRACE_S = 60.0  # at most, for a fenced task: the manager waits for the end of it
LOG_WITHIN_S = 1.0  # what failed is told of then, with its last lines or without
# While clients are connected to a task that is to stop: the kernel tells nobody of the last one.
DRAIN_LOOK_S = 0.25
LOOK_AGAIN_S = 10.0  # while the end of a container is awaited: should its event have been lost


class Node:
    """What a task needs of the helper around it."""

    def __init__(self, engine: Engine, wait_engine, on_report, on_gone, save_soon) -> None:
        self.engine = engine
        self.root = ""  # the helper's folder
        self.files = None  # SecretFiles: what tasks are given of secrets and configs
        self.wait_engine = wait_engine  # returns when the Engine answers
        self.on_report = on_report  # (task): its report changed
        self.on_gone = on_gone  # (task): it may be forgotten
        self.save_soon = save_soon
        self.alone = False  # the lease is lost: the Engine's restart policies are in charge
        self.harmless_runtimes: frozenset = frozenset()  # none, until the Engine told which it has
        self.manager_missing = lambda: False  # the lease still holds, but nobody may be there to act
        self.may_start = lambda first: True  # a fenced task: somebody is in reach
        self.name_server = lambda names: ""  # where a task on these networks asks
        self.joinable = _nothing_to_join  # (names): waits until the Engine has these networks; why not, or ""
        self.cluster_id = ""
        self.slots = asyncio.Semaphore(8)  # creates and starts at once; more only slow each other down


async def _nothing_to_join(names: list) -> str:
    return f"network {names[0]}: this node was not told of it"


class Task:
    """State of one task, and its worker. Other modules call `ensure`, `stop`, `remove`, `kick`."""

    def __init__(self, node: Node, task_id: str) -> None:
        self.node = node
        self.id = task_id
        self.cluster_id = ""
        self.service_id = ""
        self.index = 0
        self.action: dict = {}  # the last ensure_task, without `auth`; empty for what labels alone told
        self.goal = ""
        self.grace_s = 10.0
        self.drain_s = 0.0
        self.state = "accepted"
        self.since = time.time()
        self.message = "accepted"
        self.err = ""
        self.container_id = ""
        self.pid = 0
        self.exit_code = None
        self.ports: list = []
        self.ready = False
        self.late = False  # it runs, and was not ready in time
        self.log: list = []  # its last lines, where it failed or is late
        self.restarts = 0
        self.missing: list = []  # ids of the contents that it waits for
        self.refreshed = 0  # number of the newest exchange of contents that was carried out
        self.refresh_err = ""
        self.busy = False
        self.looked = asyncio.Event()  # the container was looked at since the last `renew`
        self._auth = ""
        self._auth_lost = False
        self._refresh: dict = {}  # the exchange that is still to be carried out
        self._pulled = False
        self._started_at = ""
        self._starts_seen = 0
        self._running_since = 0.0  # monotonic
        self._drains_until = None  # monotonic: so long the stop signal waits at most
        self._signalled_at = None  # monotonic: when the stop signal was sent
        self._unhealthy = ""  # why it is being stopped although it is wanted
        self._cgroup = ""
        self._policy = ""  # the restart policy last given to the Engine
        self._policy_tried = None
        self._view = None
        self._told_end = None  # the container as it is by the event of its end, until the worker takes it over
        self._oom = False  # the Engine told of it since the last start
        self._absent = False  # looked for, and there was none
        self._dirty = True
        self._search = False  # a container may exist whose id is not known
        self._watch = None
        self._was_ready = False  # a former process found this start of the container ready
        self.exited = False  # its process has ended, by the kernel's word: the Engine's comes seconds later
        self._followed = (0, -1)  # process whose end the kernel will tell, and by which descriptor
        self._ended_seen = 0.0
        self._kick = asyncio.Event()
        self._goal_changed = asyncio.Event()
        self._worker = None

    # --- from outside ---------------------------------------------------------------------------------------
    def ensure(self, action: dict, cluster_id: str) -> None:
        """Bring it to `action["desired"]`; nothing if it already goes further than that."""
        self._auth = action.pop("auth", "") or self._auth
        self._auth_lost = False
        self.cluster_id = cluster_id
        self.service_id, self.index = action["service_id"], action["index"]
        self.action = action
        self._set_goal(action["desired"])

    def refresh(self, action: dict) -> None:
        """Exchange its files, once for each number."""
        if not self.terminal and action["number"] > max(self.refreshed, self._refresh.get("number", 0)):
            self._refresh = action
            self.node.save_soon()
        self.kick(dirty=False)

    def contents_came(self) -> None:
        """Some of what it waits for may be there."""
        if self.missing:
            # At once: the manager holds what it gave against this.
            self._set(missing=self.node.files.missing(self.id, self._files()))
            self.kick(dirty=False)

    def stop(self, grace_s: float, drain_s: float = 0.0) -> None:
        """Stop it; the stop signal waits at most `drain_s` for clients that are connected."""
        self.grace_s, self.drain_s = grace_s, drain_s
        self._stop_watch()
        self._set(ready=False)  # from now on it is to get no new connection
        if not self.container_id:
            self._search = self._dirty = True
        self._set_goal("stop")

    def remove(self) -> None:
        self._search = self._dirty = True
        self._set(ready=False)
        self._set_goal("remove")

    def let_go(self) -> None:
        """Its cluster left the node: nothing is pulled, started, stopped or handed over for it any more."""
        self.action, self.goal, self._auth, self._auth_lost, self._unhealthy = {}, "", "", False, ""
        self._stop_watch()
        self._goal_changed.set()
        self.kick()

    def cut_off(self) -> None:
        """Nobody is in reach: a fenced task ends, and stays ended whoever returns."""
        if self.goal == "stop":
            self.grace_s, self.drain_s = min(self.grace_s, CUT_OFF_GRACE_S), 0.0
            self.kick(dirty=False)
        if not self.terminal and self.goal == "running" and not self.is_cut_off:
            self._unhealthy = CUT_OFF
            self.node.save_soon()
            self.kick(dirty=False)

    def adopt(self, labels: dict, container_id: str) -> None:
        """A container with this task's labels was seen."""
        if self.cluster_id and labels.get(LABEL_CLUSTER) != self.cluster_id:
            log("container_of_another_cluster", task=self.id, container=container_id[:12])
            return
        if not self.container_id or self._absent:
            self.container_id = container_id
        self._absent = self._absent and container_id != self.container_id
        if not self.action:
            self.cluster_id = labels.get(LABEL_CLUSTER, "")
            self.service_id = labels.get(LABEL_SERVICE, "")
            self.index = index_of(labels)

    def saw_start(self) -> None:
        self._starts_seen += 1
        self._oom = False
        self.kick()

    def saw_oom(self) -> None:
        """The Engine tells of this before it tells of the end."""
        self._oom = True

    def saw_end(self, exit_code: str, at_ns: int) -> None:
        """Its process ended; what the event says is all there is to know, but for three cases.

        The Engine may start it again; before 23.0 it tells of the end before ports and mounts are free (and
        answers an inspection only after that); and if containerd did not answer it, it says 255.
        """
        view = self._view
        holds = self.node.engine.tells_ends_early and self._holds_what_others_may_want()
        known = (
            view is not None
            and view.running
            and not self._dirty
            and not self.node.alone
            and view.policy == "no"
            and self._policy in ("", "no")
            and not holds
            and exit_code.isdigit()
            and exit_code != "255"
            and view.started_before(at_ns)  # else it is the end of an earlier run
        )
        if known:
            self._told_end = view.after_end(int(exit_code), self._oom or view.oom_killed)
        elif view is None or view.started_before(at_ns):
            self._set(ready=False)  # at once, however long the Engine takes to say more
        self.kick(dirty=not known)

    def _holds_what_others_may_want(self) -> bool:
        host = (self.action.get("config") or {}).get("HostConfig") or {}
        return bool(not self.action or host.get("PortBindings") or host.get("Mounts") or host.get("Binds"))

    def kick(self, *, dirty: bool = True) -> None:
        """Something may have changed: take a step."""
        self._dirty = self._dirty or dirty
        self._kick.set()

    def renew(self) -> None:
        """Read everything afresh; `looked` is set when that is done."""
        self.looked.clear()
        self.kick()

    def run(self) -> None:
        """Start the worker (once)."""
        if self._worker is None:
            self._worker = asyncio.ensure_future(self._work())

    def _set_goal(self, goal: str) -> None:
        if GOALS[goal] > GOALS[self.goal]:
            self.goal = goal
        self._goal_changed.set()
        self.node.on_report(self)
        self.kick(dirty=False)

    @property
    def has_container(self) -> bool:
        """As far as is known; what a former process knew counts until it was looked for."""
        return bool(self.container_id) and not self._absent

    @property
    def fenced(self) -> bool:
        """It must never run twice: not while nobody is in reach, and never by the Engine's own decision."""
        return bool(self.action.get("fence"))

    @property
    def is_cut_off(self) -> bool:
        return self._unhealthy == CUT_OFF

    @property
    def fenced_grace_s(self) -> float:
        return min(CUT_OFF_GRACE_S, float(self.action.get("stop_grace_s", 10.0)))

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    def report(self) -> dict:
        """The TaskReport; what has its empty default is left out."""
        full = {
            "task_id": self.id,
            "service_id": self.service_id,
            "index": self.index,
            "state": self.state,
            "wanted": "" if self._auth_lost else self.goal,
            "since": round(self.since, 3),
            "message": self.message,
            "err": self.err[:ERR_LIMIT],
            "container_id": self.container_id,
            "pid": self.pid,
            "exit_code": self.exit_code,
            "ports": self.ports,
            "ready": self.ready,
            "late": self.late,
            "log": self.log,
            "restarts": self.restarts,
            "missing": self.missing,
            "refreshed": self.refreshed,
            "refresh_err": self.refresh_err,
        }
        empty = {"exit_code": (None,)}  # 0 is no default there
        return {key: value for key, value in full.items() if value not in empty.get(key, ("", 0, [], False))}

    # --- what outlives the process ----------------------------------------------------------------------------
    def to_state(self) -> dict:
        return {
            "action": self.action, "goal": self.goal, "grace_s": self.grace_s, "drain_s": self.drain_s,
            "drains_until": self._drains_until, "cluster_id": self.cluster_id,
            "service_id": self.service_id, "index": self.index, "state": self.state, "since": self.since,
            "message": self.message, "err": self.err, "container_id": self.container_id, "pid": self.pid,
            "exit_code": self.exit_code, "ports": self.ports, "ready": self.ready, "late": self.late,
            "log": self.log, "restarts": self.restarts,
            "refreshed": self.refreshed, "refresh_err": self.refresh_err, "refresh": self._refresh,
            "auth": bool(self._auth) or self._auth_lost, "started_at": self._started_at,
            "signalled_at": self._signalled_at, "unhealthy": self._unhealthy, "cgroup": self._cgroup,
            "policy": self._policy,
        }  # fmt: skip

    @classmethod
    def from_state(cls, node: Node, task_id: str, state: dict) -> Task:
        """A task as a former process of this helper left it; its container may exist without a known id."""
        task = cls(node, task_id)
        for key in ("action", "goal", "grace_s", "drain_s", "cluster_id", "service_id", "index", "state", "since",
                    "message", "err", "container_id", "pid", "exit_code", "ports", "ready",
                    "late", "log", "restarts", "refreshed", "refresh_err"):  # fmt: skip
            if key in state:
                setattr(task, key, state[key])
        task._refresh = state.get("refresh") or {}
        task._started_at = state.get("started_at", "")
        task._drains_until = state.get("drains_until")
        task._signalled_at = state.get("signalled_at")
        task._unhealthy = state.get("unhealthy", "")
        task._cgroup = state.get("cgroup", "")
        task._policy = state.get("policy", "")
        task._was_ready = task.ready
        task._search = not task.container_id
        task._auth_lost = bool(state.get("auth")) and RANK[task.state] < RANK["ready"]
        return task

    # --- the worker -------------------------------------------------------------------------------------------
    async def _work(self) -> None:
        delay = 0.0
        pause = 0.2
        while self.state != "gone":
            if delay is None or delay > 0:
                self.busy = delay is not None
                if not await wait_event(self._kick, delay):
                    self._dirty = True
            self._kick.clear()
            self.busy = True
            try:
                delay = await self._step()
                pause = 0.2
            except EngineGone as e:
                log("task_waits_for_engine", task=self.id, cause=e)
                self._dirty = True
                await self.node.wait_engine()
                delay, pause = pause, min(5.0, pause * 2)
            except EngineError as e:
                # Not part of a create or start: the Engine is in trouble, and the next try may pass.
                log("engine_refused", task=self.id, cause=e)
                self._set(err=e.message)
                self._dirty = True
                delay, pause = pause, min(5.0, pause * 2)
            except Exception as e:  # a bug must not end the worker silently
                log("task_step_failed", task=self.id, kind=type(e).__name__, cause=e)
                self._dirty = True
                delay, pause = pause, min(30.0, pause * 2)

    async def _step(self):
        """Do one thing. Returns 0 to be called again, seconds to wait, or None to wait for an event."""
        if self.goal == "remove":
            return await self._remove()
        view = await self._look()
        self.looked.set()
        if view is None and not self.action:
            return self._forget()
        if view is not None:
            await self._ensure_policy(view)
        if self.terminal:
            return await self._stay_ended(view)
        if self.goal == "stop":
            return await self._stop(view)
        if self._refresh and self.action:
            await self._exchange(view)
        if view is None:
            return await self._prepare()
        if not view.started_at and not view.restarting:
            return await self._start(view)
        if view.restarting:
            self._set(ready=False, pid=0)
            return 2.0
        if view.running:
            return await self._judge(view)
        return await self._ended(view)

    async def _ensure_policy(self, view: View) -> None:
        """Have the Engine's restart policy fit who is in charge."""
        wanted = self._policy_for(view)
        if not (view.started_at or view.restarting) or wanted == view.policy == (self._policy or wanted):
            return
        attempt = (wanted, view.running, view.started_at)
        if attempt == self._policy_tried:
            return
        self._policy_tried = attempt
        self._dirty = self._dirty or view.restarting
        try:
            await self.node.engine.set_restart_policy(view.id, wanted)
            log("restart_policy_set", task=self.id, policy=wanted)
        except EngineError as e:
            # If it is the runtime that refused, the Engine follows the new policy but stores the former, so it
            # must be taken back although it does not show. What the Engine leaves ended is started from here.
            log("restart_policy_refused", task=self.id, policy=wanted, cause=e)
            self._dirty = True
        view.policy = self._policy = wanted
        self.node.save_soon()

    def _policy_for(self, view: View) -> str:
        if not self.action:
            return view.policy  # only seen, never given to us: leave it as it is
        if view.runtime not in self.node.harmless_runtimes:
            # It would not survive: what ends is started from here.
            return (self._policy or view.policy) if view.running else "no"
        if not self.node.alone or self.goal != "running" or self.terminal or self._unhealthy or self.fenced:
            return "no"
        return POLICIES.get(self.action.get("restart", "any"), "no")

    # --- looking ----------------------------------------------------------------------------------------------
    async def _look(self):
        """The container as it is (read only if something may have changed), or None."""
        told, self._told_end = self._told_end, None
        if told is not None and (self._view is None or self._view.started_at != told.started_at):
            self._dirty = True  # it was read meanwhile, and is another run
        if not self._dirty:
            if told is not None:
                self._view = told
                self._note(told)
            return self._view
        self._dirty = False  # before the await: an event during it makes it dirty again
        try:
            inspected = await self.node.engine.inspect(self.container_id) if self.container_id else None
            if inspected is None and self._search:
                inspected = await self._find()
                self._search = False
        except BaseException:
            self._dirty = True
            raise
        self._view = View(inspected) if inspected else None
        self._note(self._view)
        return self._view

    async def _find(self):
        for found in await self._list():
            inspected = await self.node.engine.inspect(found["Id"])
            if inspected:
                return inspected
        return None

    async def _list(self) -> list:
        """What the Engine lists for this task, of its own cluster only."""
        labels = [f"{LABEL_TASK}={self.id}"] + ([f"{LABEL_CLUSTER}={self.cluster_id}"] if self.cluster_id else [])
        return await self.node.engine.list(*labels)

    def _note(self, view) -> None:
        """Take over what an inspection says."""
        self._absent = view is None
        if view is None:
            self._follow(0)
            self._set(pid=0, ready=False)
            self._stop_watch()
            return
        self.container_id = view.id
        if view.started_at and view.started_at != self._started_at:
            if self._started_at:
                self.restarts += max(1, self._starts_seen)
                log("container_restarted", task=self.id, restarts=self.restarts)
            self._started_at = view.started_at
            self._running_since = time.monotonic()
            self._was_ready = False
            self._stop_watch()
        self._starts_seen = 0
        if view.running and view.pid != self.pid:
            self._cgroup = cgroup_of(view.pid, view.id)
        self._follow(view.pid if view.running else 0)
        if view.running:
            self._ended_seen = 0.0
            self._set(pid=view.pid, ports=view.ports, container_id=view.id)
        else:
            self._stop_watch()
            self._signalled_at = None
            self._set(pid=0, ready=False, container_id=view.id)

    def _set(self, **fields) -> None:
        """Change what is reported; a state never falls."""
        state = fields.get("state", self.state)
        if RANK[state] < RANK[self.state]:
            fields.pop("state")
        changed = {k: v for k, v in fields.items() if getattr(self, k) != v}
        if not changed:
            return
        for key, value in changed.items():
            setattr(self, key, value)
        if "state" in changed:
            self.since = time.time()
            log("task_" + self.state, task=self.id, container=self.container_id[:12], err=self.err)
        self.node.on_report(self)

    def _follow(self, pid: int) -> None:
        """Hear of the end of a process that takes connections on networks; 0: of none any more.

        Engines tell of an end (from 23.0 on) only after they have taken the container's networks apart.
        """
        known, fd = self._followed
        if pid == known:
            return
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._followed, self.exited = (0, -1), False
        if pid and self.action.get("networks") and hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                return  # Linux before 5.3, no descriptor free, or it has ended: then the Engine tells
            self._followed = (pid, fd)
            asyncio.get_running_loop().add_reader(fd, self._saw_exit)

    def _saw_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._followed[1])
        self.exited = True
        self._set(ready=False)
        self.node.on_report(self)  # also one that was not ready holds connections

    def _end(self, state: str, message: str, err: str, exit_code=None) -> None:
        self._follow(0)
        self._stop_watch()
        self._refresh, self.missing = {}, []
        self.node.files.remove(self.id)
        self._set(state=state, message=message, err=err, exit_code=exit_code, ready=False, pid=0)

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    # --- to created -------------------------------------------------------------------------------------------
    async def _prepare(self):
        if RANK[self.state] >= RANK["ready"]:
            self._end("failed", self.message, f"No such container: {self.container_id}")
            return None
        if self._auth_lost and await self._lacks_image():
            return None  # the manager is told by an empty `wanted`, and gives the task again
        self._set(state="preparing", message="preparing")
        pull_error = await self._pull() if self.action.get("pull") == "always" and not self._pulled else ""
        while self.goal in ("ready", "running"):
            if not await self._may_join():
                return None if self.terminal else 0.0
            if not self._has_files():
                return None  # it is kicked when they come
            try:
                async with self.node.slots:
                    if self.goal in ("ready", "running"):
                        await self._create()
                break
            except EngineError as e:
                # Most often the image is there: the create is asked first, and says so if it is not.
                if e.status == 404 and not self._pulled and not pull_error and await self._lacks_image():
                    pull_error = await self._pull()
                    if not pull_error:
                        continue
                err = f"{e.message} ({pull_error})" if e.status == 404 and pull_error else e.message
                self._end("rejected", "preparing", err)
                return None
        if self.container_id:
            self._auth = ""
        return 0.0

    async def _lacks_image(self) -> bool:
        return not await self.node.engine.has_image(self.action["image"])

    async def _pull(self) -> str:
        """Pull the image. Returns why that failed; a new goal ends it early."""
        reference = self.action["image"]
        pull = asyncio.ensure_future(self.node.engine.pull(reference, self._auth))
        try:
            if not await self._while_wanted(pull):
                log("pull_cancelled", task=self.id, image=reference)
                return ""
            pull.result()
            self._pulled = True
            return ""
        except EngineError as e:
            # As Docker does: a local image of that name is good enough, and without one the create says so.
            log("pull_failed", task=self.id, image=reference, cause=e)
            return e.message
        finally:
            pull.cancel()

    async def _while_wanted(self, job: asyncio.Future) -> bool:
        """Wait for it, but only as long as the task is to run; whether it is done."""
        while not job.done():
            self._goal_changed.clear()
            changed = asyncio.ensure_future(self._goal_changed.wait())
            await asyncio.wait({job, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self.goal not in ("ready", "running"):
                return False
        return True

    async def _may_join(self) -> bool:
        """Wait until its networks were made. False if one cannot be, which ends it, or if it is not to run."""
        wanted = self.action.get("networks")
        if not wanted:
            return True
        made = asyncio.ensure_future(self.node.joinable([join["name"] for join in wanted]))
        try:
            if not await self._while_wanted(made):
                return False
            words = made.result()
        finally:
            made.cancel()
        if words:
            self._end("rejected", "preparing", words)
        return not words

    def _files(self) -> list:
        """What it is to have of secrets and configs, also after an exchange that is under way."""
        return (self._refresh or self.action).get("files") or []

    def _has_files(self) -> bool:
        """Have its secrets and configs in their places. False if some must be given first, or if it ended so."""
        files = self._files()
        missing = self.node.files.missing(self.id, files)
        self._set(missing=missing)
        if missing:
            log("task_waits_for_contents", task=self.id, missing=len(missing))
            return False
        try:
            self.node.files.place(self.id, files, self.action["config"])
        except OSError as e:
            self._end("rejected", "preparing", f"secrets and configs: {e.strerror}")
        return not self.terminal

    async def _exchange(self, view) -> None:
        """Put other contents in place, and tell its process."""
        refresh, words = self._refresh, ""
        signals = [name for name in (*refresh.get("earlier", ()), refresh.get("signal")) if name]
        missing = self.node.files.missing(self.id, refresh["files"])
        self._set(missing=missing)
        if missing:
            return
        try:
            self.node.files.place(self.id, refresh["files"], self.action["config"])
            self.action = dict(self.action, files=refresh["files"])
        except OSError as e:
            words, signals = f"secrets and configs: {e.strerror}", []
        for name in signals if view is not None and view.running else ():
            try:
                path = f"/containers/{view.id}/kill"
                await self.node.engine.call("POST", path, query={"signal": name}, timeout_s=30.0)
            except EngineError as e:
                words = f"signal {name}: {e.message}"
        if self._refresh is refresh:
            self._refresh = {}
        self._set(refreshed=refresh["number"], refresh_err=words)
        log("task_refreshed", task=self.id, number=refresh["number"], err=words)

    async def _create(self) -> None:
        body = dict(self.action["config"])
        body["Image"] = self.action["image"]
        body["Labels"] = dict(body.get("Labels") or {}, **labels_of(self.action, self.cluster_id))
        name = self.action["name"]
        engine = self.node.engine
        files = self.action.get("files") or []
        mounts = self.node.files.mounts(self.id, files, self.action["config"])
        body = secretfiles.with_mounts(body, mounts)
        wanted = self.action.get("networks") or []
        if wanted:
            server = self.node.name_server([join["name"] for join in wanted])
            body = resolvconf.with_file(joins.with_first(body, wanted, engine.api), self.node.root, server)
        try:
            made = await engine.call(
                "POST", "/containers/create", query={"name": name}, body=body, timeout_s=300.0
            )
            self.container_id, self._absent = made["Id"], False
            # What was just created needs no inspection.
            joined = {"Networks": {join["name"]: {} for join in wanted[:1]}}
            told = {
                "Id": made["Id"],
                "Config": body,
                "HostConfig": body.get("HostConfig"),
                "NetworkSettings": joined,
            }
            self._view = View(told)
            self._note(self._view)
        except EngineError as e:
            if e.status != 409:
                raise
            there = await engine.inspect(name)
            labels = ((there or {}).get("Config") or {}).get("Labels") or {}
            if there is None or (labels.get(LABEL_TASK), labels.get(LABEL_CLUSTER)) != (self.id, self.cluster_id):
                raise
            self.container_id, self._absent = there["Id"], False  # made before a crash, ours or the Engine's
            self._dirty = True
        self.node.save_soon()

    # --- to running -------------------------------------------------------------------------------------------
    async def _join(self, view: View) -> bool:
        """Have it on all of its networks, also one that was made before a crash. As `_may_join` else."""
        left = joins.left_to_join(self.action.get("networks") or [], view.networks)
        if left and not await self._may_join():
            return False
        engine = self.node.engine
        for join in left:
            body = {"Container": view.id, "EndpointConfig": joins.endpoint(join, engine.api)}
            try:
                async with self.node.slots:
                    await engine.call("POST", f"/networks/{join['name']}/connect", body=body, timeout_s=60.0)
            except EngineError as e:
                self._end("rejected", "preparing", e.message)
                return False
            view.networks.add(join["name"])
        return True

    async def _start(self, view: View):
        if not await self._join(view):
            return None if self.terminal else 0.0
        self._set(state="ready", message="prepared")
        if self.goal != "running":
            return None
        if self.fenced and not self.is_cut_off and not self.node.may_start(True):
            return 1.0
        if not self._has_files():
            return None
        self._set(state="starting", message="starting")
        try:
            async with self.node.slots:
                if self.goal != "running":
                    return 0.0
                if self._unhealthy:
                    self._end("failed", "starting", self._unhealthy)
                    return None
                await self.node.engine.call("POST", f"/containers/{view.id}/start", timeout_s=300.0)
        except EngineError as e:
            self._end("failed", "starting", f"starting container failed: {e.message}")
            return None
        self._dirty = True
        return 0.0

    async def _judge(self, view: View):
        """It runs: which state that is, and whether it is ready."""
        if self.exited:
            return LOOK_AGAIN_S  # the Engine is about to tell
        if RANK[self.state] < RANK["starting"]:
            self._set(state="starting", message="starting")
        if self._unhealthy:
            grace = self.fenced_grace_s if self.is_cut_off else float(self.action.get("stop_grace_s", 10.0))
            return await self._wind_down(view, grace)
        by_ports = bool(self.action.get("tcp_ports")) and not view.health
        if self._watch is None and (self.action.get("probe") or by_ports):
            # Else it would be out of balancers and names until the first probe has passed.
            passed, self._was_ready = self._was_ready, False
            self._watch = ready.Watch(
                view.pid, view.address, self.action, self._on_watch, start_s=view.start_period_s, passed=passed
            )
        watch = self._watch
        if view.health == "unhealthy" or (watch is not None and watch.failed):
            return await self._on_unhealthy(view, UNHEALTHY if view.health == "unhealthy" else watch.why)
        healthy = view.health in ("", "healthy")
        probed = not self.action.get("probe") or (watch is not None and watch.passed_once)
        is_ready = healthy and (watch is None or watch.passing)
        if is_ready:
            self._set(state="running", message="started", ready=True, late=False, log=[], err="")
            return None
        message = self.message
        limit_s = max(ready.LATE_S, view.start_period_s)
        left = self._running_since + limit_s - time.monotonic()
        if left <= 0:
            why = watch.why if watch is not None and watch.why else f"health: {view.health}"
            message = f"started, but not ready after {limit_s:g} s: {why}"
            if not self.late:
                await self._read_log(view)
        elif healthy and probed:
            message = "started"
        state = "running" if healthy and probed else "starting"
        self._set(state=state, message=message, ready=False, late=left <= 0)
        return left if left > 0 else None

    def _on_watch(self) -> None:
        self.kick(dirty=False)

    async def _on_unhealthy(self, view: View, cause: str):
        log("task_unhealthy", task=self.id, cause=cause)
        self._set(ready=False)
        if not self.action:
            return None  # only seen, never given to us
        if self.node.alone and not self.fenced and may_restart(self.action.get("restart", "any"), 1):
            grace = float(self.action.get("stop_grace_s", 10.0))
            self._stop_watch()
            query = {"t": str(int(grace + 0.999))}
            self._dirty = True
            path = f"/containers/{view.id}/restart"
            await self.node.engine.call("POST", path, query=query, timeout_s=grace + 120.0)
            return 0.0
        self._unhealthy = cause
        self.node.save_soon()
        return 0.0

    async def _ended(self, view: View):
        """The container ended although it was wanted."""
        code = 1 if self._unhealthy else view.exit_code
        wanted = self.goal == "running" and not self.is_cut_off
        if wanted and may_restart(self.action.get("restart", "any"), code):
            if self.node.alone:
                return await self._start_again(view)
            if self.node.manager_missing():
                # It may be dead already, and never act on this end: told on its return, else mended here.
                self._set(ready=False, pid=0)
                return 1.0
        state, message, err = judge_end(view, self._unhealthy)
        self._set(ready=False, pid=0)  # at once: its log may take a moment
        early = time.monotonic() - self._running_since < ready.LATE_S
        if state == "failed" and early:
            await self._read_log(view)  # an update may fail by this end, and shows them
        self._end(state, message, err, exit_code=view.exit_code)
        if state == "failed" and not early:
            await self._read_log(view)  # it is replaced meanwhile
            self.node.on_report(self)
        return None

    async def _read_log(self, view: View) -> None:
        data = await self.node.engine.log_tail(view.id, lastwords.LINES, lastwords.BYTES_LIMIT, LOG_WITHIN_S)
        self.log = lastwords.last_lines(data)  # told with what is said next

    async def _start_again(self, view: View):
        """Without a manager: it died before the Engine's policy was set, or the Engine gave up on it."""
        now = time.monotonic()
        if not self._ended_seen:
            self._ended_seen = now
        left = self._ended_seen + max(1.0, float(self.action.get("restart_delay_s", 5.0))) - now
        if left > 0:
            return left
        if self.fenced and not self.node.may_start(False):
            return 1.0
        self._ended_seen = 0.0
        self._dirty = True
        try:
            await self.node.engine.call("POST", f"/containers/{view.id}/start", timeout_s=300.0)
        except EngineError as e:
            log("restart_failed", task=self.id, cause=e)
            return 5.0
        if not self.is_cut_off:  # as it may have become meanwhile
            self._unhealthy = ""
        return 0.0

    # --- to stopped and gone ------------------------------------------------------------------------------------
    async def _stop(self, view):
        if view is None or (not view.running and not view.restarting):
            code = view.exit_code if view is not None and view.started_at else None
            self._end("shutdown", "shutdown", "", exit_code=code)
            return None
        if self._signalled_at is None and not await self._drain(view):
            return 0.0
        return await self._wind_down(view, self.grace_s)

    async def _drain(self, view: View) -> bool:
        """Let connected clients finish, for a while. False if something else is to be seen to.

        Nobody may be there at two looks: what was sent here before all nodes ceased to may have been under way.
        """
        if self._drains_until is None:
            self._drains_until = time.monotonic() + self.drain_s
            self.node.save_soon()
        loop, pause, quiet = asyncio.get_running_loop(), 0.0, False
        while self.drain_s > 0 and not self.node.alone:  # alone, nobody sends clients elsewhere
            left = self._drains_until - time.monotonic()
            if left > 0 and await wait_event(self._kick, min(left, pause)):
                return False
            began = time.monotonic()
            if left <= 0 or not view.pid:
                break
            was_quiet, quiet = quiet, not await loop.run_in_executor(None, ready.has_clients, view.pid)
            if quiet and was_quiet:
                break
            # With very many connections a look takes long itself.
            pause = max(DRAIN_LOOK_S, 10 * (time.monotonic() - began))
        return True

    async def _wind_down(self, view: View, grace_s: float):
        """Stop signal, the whole grace period, SIGKILL; the end comes as an event."""
        engine = self.node.engine
        self._set(ready=False)
        if view.restarting:
            self._dirty = True
            await engine.call("POST", f"/containers/{view.id}/stop", query={"t": "0"}, timeout_s=60.0)
            return 0.5
        now = time.monotonic()
        if self._signalled_at is None:
            await engine.signal(view.id, view.stop_signal)
            self._signalled_at = now
            self.node.save_soon()
        left = self._signalled_at + grace_s - now
        if left <= 0:
            log("task_killed", task=self.id, grace_s=grace_s)
            await engine.signal(view.id, "SIGKILL")
            return 5.0
        return min(left, LOOK_AGAIN_S)

    async def _stay_ended(self, view):
        """What has ended stays so: the Engine may have started it again before its policy was taken back."""
        if view is not None and (view.running or view.restarting) and self.action:
            return await self._wind_down(view, self.grace_s)
        return None

    async def _remove(self):
        engine = self.node.engine
        self._stop_watch()
        found = {one["Id"] for one in await self._list()}
        for container in sorted(found):
            try:
                query = {"force": "1", "v": "1"}
                await engine.call("DELETE", f"/containers/{container}", query=query, timeout_s=120.0)
            except EngineError as e:
                if e.status == 409:
                    return 0.5  # already being removed
                if e.status != 404:
                    raise
        return self._forget()

    def _forget(self) -> None:
        """Nothing of it is left here."""
        self._end("gone", "removed", self.err, exit_code=self.exit_code)
        self.looked.set()
        self.node.on_gone(self)

    async def end_processes(self) -> bool:
        """Kill its processes without the Engine; whether none is left."""
        if not self.pid and not self.terminal and RANK[self.state] >= RANK["starting"]:
            # Its start may be under way in the Engine, or have been missed: no known process proves nothing.
            loop = asyncio.get_running_loop()
            self._cgroup = await loop.run_in_executor(None, find_cgroup, self.container_id)
            if not self._cgroup or not pids_in(self._cgroup):
                self._unhealthy = self._unhealthy or ENDED  # should it start after all, it is wound down
                self.node.save_soon()
                self.kick(dirty=False)
                return False
        elif not self.pid or not self._cgroup:
            return self.terminal or not self.pid
        if not await end_cgroup(self._cgroup):
            return False
        if not self.terminal:
            cause = CUT_OFF if self.is_cut_off else ENDED
            self._end("failed", "started", f"task: non-zero exit (137): {cause}", exit_code=137)
        return True
