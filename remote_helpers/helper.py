"""The resident helper: its parts, its sessions, and the requests that a manager may make."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from .check import run_checks
from .container import index_of
from .engine import LABEL_CLUSTER, Engine, EngineError, EngineGone
from .facts import from_info, own_facts
from .fence import Fence, Refused
from .isolation import Isolation, now
from .lease import Lease
from .log import log
from .network import Network
from .peers import check_peers
from .runtimes import harmless_runtimes
from .secretfiles import SecretFiles
from .session import LINE_LIMIT, Session, split_reports, to_line
from .state import StateFile
from .tasks import BadAction, Tasks, check_action
from .timing import Expired, deadline, wait_event
from .volumes import Volumes, made_with
from .watch import EngineWatch

VERSION = 1
HELLO_WAITS_S = 3.0
ATTACH_WITHIN_S = 60.0
REPORT_ROOM = LINE_LIMIT - 256 * 1024  # of a line, for reports: the rest is for the description
CLEAR_S = 40.0  # for containers to be removed before a node is left; the manager waits for 60 s
EXIT_RELEASED = 64  # the unit does not start it again


class Helper:
    """One for each node. `hash` is the archive's; `root` the folder in tmpfs."""

    def __init__(self, root: str, own_hash: str, engine_path: str) -> None:
        self.root, self.hash = root, own_hash
        self.engine = Engine(engine_path)
        self.state = StateFile(root + "/state.json", self._collect)
        self.fence = Fence()
        self.lease = Lease(self._on_lease)
        self.watch = EngineWatch(self.engine, self._on_connected, self._on_event, self._on_health)
        self.tasks = Tasks(self.engine, self.watch.wait_ok, self._on_report, self.state.save_soon)
        self.files = self.tasks.node.files = SecretFiles(root)
        self._given: set = set()  # tasks whose contents came in this session: they are told of in a moment
        self.isolation = Isolation(
            self.tasks, self.lease, lambda: self.fence.node_id, self._spawn, self.state.save_soon
        )
        self.network = Network(
            root,
            engine_path,
            self.tasks.by_id,
            self._tell_network,
            self._spawn,
            self.watch.synced.is_set,
            lambda: self.state.trouble,
        )
        self.volumes = Volumes(self.engine, self.watch.wait_ok, self._on_volumes)
        self.sessions: dict = {}
        self.session = None  # the attached one
        self.description = own_facts()
        self.finished = asyncio.Event()
        self.exit_code = 0
        self._numbers = 0
        self._running: set = set()  # background jobs, kept from the garbage collector
        self._heart = None
        self._heartbeat_s = 1.0
        self._beats = 0
        self._listed = False  # the Engine has told its containers, once in this process
        self._seen = asyncio.Event()  # and each of them was looked at, or too slow for it
        self._described = asyncio.Event()
        self._leaving = False
        self._turn = asyncio.Lock()  # of requests that are carried out in their order
        self._paths = self._tracing = None  # made by the first check of ways between nodes, the first trace
        self._changed: dict = {}  # tasks whose report goes out in this turn of the loop

    def start(self, dns_fds: list = ()) -> None:
        """Resume from the saved state, and follow the Engine from now on.

        `dns_fds`: sockets of a former process's name server.
        """
        saved = self.state.load()
        self.fence.restore(saved.get("fence") or {})
        self.lease.restore(saved.get("lease") or {})
        self.tasks.node.alone = self.lease.alone
        self.tasks.node.manager_missing = self._manager_missing
        self.tasks.node.may_start = self.isolation.may_start
        self.isolation.restore(saved.get("isolation") or {})
        self.tasks.node.root, self.tasks.node.joinable = self.root, self.network.joinable
        self.tasks.node.name_server = self.network.name_server
        self.tasks.restore(saved.get("tasks") or {})
        self.network.restore(dns_fds)
        self.network.set_alone(self.lease.alone)
        log("helper_started", helper=self.hash[:12], pid=os.getpid(), tasks=len(self.tasks.by_id))
        self._spawn(self.watch.run())
        self._spawn(self.volumes.run())
        self._spawn(self.isolation.run())
        # Released by a former process of this helper: a session that is about to begin comes first.
        asyncio.get_running_loop().call_later(ATTACH_WITHIN_S, self._leave_if_released)

    def _collect(self) -> dict:
        return {
            "fence": self.fence.to_state(),
            "lease": self.lease.to_state(),
            "isolation": self.isolation.to_state(),
            "tasks": self.tasks.to_state(),
        }

    def _spawn(self, coroutine) -> asyncio.Task:
        job = asyncio.ensure_future(coroutine)
        self._running.add(job)
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, job) -> None:
        self._running.discard(job)
        if not job.cancelled() and job.exception() is not None:
            log("job_failed", kind=type(job.exception()).__name__, cause=job.exception())

    # --- sessions ---------------------------------------------------------------------------------------------
    def open_session(self, fd_in: int, fd_out: int, link, leftover: bytes) -> None:
        """A stub handed over its standard input and output."""
        self._numbers += 1
        session = Session(self._numbers, fd_in, fd_out, link, self._on_message, self._on_closed)
        self.sessions[session.number] = session
        log("session_opened", session=session.number)
        self._spawn(self._greet(session, leftover))

    async def _greet(self, session: Session, leftover: bytes) -> None:
        until = time.monotonic() + HELLO_WAITS_S
        for event in (self.watch.synced, self._described, self._seen):
            await wait_event(event, until - time.monotonic())
        for task in list(self.tasks.by_id.values()):
            await wait_event(task.looked, until - time.monotonic())
        if not session.open:
            return
        reports = self._reports()
        first, rest = split_reports(reports, REPORT_ROOM)
        session.sent = {report["task_id"]: report for report in reports}
        hello = {
            "v": VERSION,
            "helper": self.hash,
            "pid": os.getpid(),
            "description": self.description,
            "cluster_id": self._cluster_id(),
            "epoch": self.fence.epoch,
            "index": self.fence.index,
            "tasks": first,
            "engine_ok": self._engine_ok and self.watch.synced.is_set(),
            "engine_message": self.watch.message,
            "mono": round(time.monotonic(), 3),
        }
        if rest:
            hello["more"] = True
        session.described = self.description
        session.said_at = now()
        session.event("hello", hello)
        for report in rest:
            session.event("task", report)
        if rest:
            session.event("synced", {})
        session.start(leftover)
        asyncio.get_running_loop().call_later(ATTACH_WITHIN_S, self._attach_due, session)

    def _cluster_id(self) -> str:
        """The cluster that holds this node; after a reboot its containers tell."""
        clusters = self.tasks.clusters()
        return self.fence.cluster_id or (clusters.pop() if len(clusters) == 1 and not self.fence.released else "")

    def _reports(self) -> list:
        """What is told of: the tasks of the cluster that holds this node, never those of another."""
        return [task.report() for task in self.tasks.of(self._cluster_id())]

    def _attach_due(self, session: Session) -> None:
        if session.open and not session.attached:
            session.end(f"no attach within {ATTACH_WITHIN_S:g} s")

    def _on_closed(self, session: Session) -> None:
        self.sessions.pop(session.number, None)
        if self.session is session:
            self.session = None
            self._stop_heart()
            self._sweep(new_session=True)
        self._leave_if_released()

    def _sweep(self, *, new_session: bool = False) -> None:
        """Remove contents whose tasks are not here and will not come: those of the standing session may."""
        if new_session:
            self._given.clear()
        if self._listed:  # before, tasks may be here that are not known
            self.files.sweep(self.tasks.with_files() | self._given)

    def _leave_if_released(self) -> None:
        if self._is_released and not self._leaving:
            self._leaving = True
            self._spawn(self._leave())

    @property
    def _is_released(self) -> bool:
        return self.fence.released and not self.sessions and not self.tasks.by_id

    async def _leave(self) -> None:
        try:
            await self.network.release()
        finally:
            self._leaving = False
        if self._is_released:  # else somebody came meanwhile
            log("helper_released")
            self.finish(EXIT_RELEASED)

    def finish(self, code: int = 0) -> None:
        """End the process soon."""
        self.exit_code = code
        self.finished.set()

    # --- what goes out by itself ------------------------------------------------------------------------------
    def _on_report(self, task) -> None:
        self.network.task_changed(task)
        if task.has_container:
            self.volumes.made(made_with(task.action))  # told before the task is
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._send_reports)
        self._changed[task.id] = task

    def _send_reports(self) -> None:
        """What changed step by step within one turn of the loop is told once."""
        changed, self._changed = self._changed, {}
        session = self.session
        self._leave_if_released()
        if session is None or not session.open:
            return
        cluster_id = self._cluster_id()
        for task in changed.values():
            if task.cluster_id != cluster_id:
                continue
            report = task.report()
            if session.sent.get(task.id) != report:
                session.sent[task.id] = report
                session.event("task", report)
                if report["state"] == "gone":
                    session.sent.pop(task.id, None)

    def _manager_missing(self) -> bool:
        return self.lease.living and not (self.session is not None and self.lease.fresh)

    def _on_lease(self, alone: bool) -> None:
        self.tasks.set_alone(alone)
        self.network.set_alone(alone)
        self.state.save_soon()

    def _on_connected(self, containers: list) -> None:
        self._check_holder(containers)
        if not self._listed:
            self._spawn(self._see_all())
        self._listed = True
        self.tasks.on_connected(containers)
        self._sweep()
        self.network.engine_is_back()
        self._spawn(self._describe())

    async def _see_all(self) -> None:
        """After the first list: once all tasks were told, what is not told is not here."""
        await asyncio.sleep(0)  # the list is being taken in
        until = time.monotonic() + HELLO_WAITS_S
        for task in list(self.tasks.by_id.values()):
            await wait_event(task.looked, until - time.monotonic())
        for task in list(self.tasks.by_id.values()):
            self._on_report(task)
        await asyncio.sleep(0)
        self._seen.set()
        if self.watch.ok:
            self._on_health()

    @property
    def _engine_ok(self) -> bool:
        """Without the first list of containers the reports lack some: that must not read as their end."""
        return self.watch.ok and self._seen.is_set()

    def _check_holder(self, containers: list) -> None:
        """After a reboot a manager may have attached before the Engine could tell whose containers are here."""
        found = [container.get("Labels") or {} for container in containers]
        refused = self.fence.check({labels.get(LABEL_CLUSTER, "") for labels in found} - {""})
        if refused is not None:
            log("attach_taken_back", cause=refused)
            self.lease.drop()
            self.tasks.let_go()
            session, self.session = self.session, None
            self._stop_heart()
            if session is not None:
                session.end(f"other_cluster: {refused.message}. {refused.hint}")
        own = [labels for labels in found if labels.get(LABEL_CLUSTER) == self.fence.cluster_id]
        highest = max((index_of(labels) for labels in own), default=0)
        if highest > self.fence.index:
            self.fence.index = highest
            if self.session is not None and self.session.index < highest:
                # Its manager would only meet refusals: from the next hello it learns what it has lost.
                self.session.end(f"this node has seen version index {highest}")
        self.state.save_soon()

    def _on_event(self, event) -> None:
        if not isinstance(event, dict):
            return
        if (event.get("Action") or event.get("status")) == "start":
            self.network.saw_start()
        self.tasks.on_event(event)

    def _on_health(self) -> None:
        if self.session is not None and self._engine_ok == self.watch.ok:  # else it follows the first list
            self.session.event("engine", {"ok": self.watch.ok, "message": self.watch.message})

    async def _describe(self) -> None:
        try:
            info = await self.engine.call("GET", "/info", timeout_s=30.0)
        except (EngineGone, EngineError) as e:
            log("not_described", cause=e)  # the stream of events breaks as well, and this runs again
            return
        if self.volumes.known is None:
            await self.volumes.refresh()
        self.description = dict(own_facts(), **from_info(info, self.engine.version), **self._volumes_told())
        self._described.set()
        self._tell_description()
        self.tasks.set_harmless_runtimes(await harmless_runtimes(info))

    def _on_volumes(self) -> None:
        self.description = dict(self.description, **self._volumes_told())
        self._tell_description()

    def _volumes_told(self) -> dict:
        return {"volumes": self.volumes.known, "volumes_cut": self.volumes.cut}

    def _tell_description(self) -> None:
        session = self.session
        if session is not None and session.described != self.description:
            session.described = self.description
            session.event("description", self.description)

    def _tell_network(self, data: dict) -> None:
        if self.session is not None:
            self.session.event("network", data)

    def _beat(self) -> None:
        session = self.session
        if session is None or not session.open:
            return
        self._beats += 1
        self._heart = asyncio.get_running_loop().call_later(self._heartbeat_s, self._beat)
        down_s = round(self.watch.down_s, 1)
        data = {"seq": self._beats, "engine_ok": self._engine_ok, "engine_down_s": down_s, "busy": self.tasks.busy}
        self.isolation.said(self._beats)
        session.event("heartbeat", data)

    def _stop_heart(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None

    # --- requests ---------------------------------------------------------------------------------------------
    def _on_message(self, session: Session, message: dict) -> None:
        if session.attached and session is self.session:
            self.lease.renew()
            self.isolation.heard(message.get("beat"), session.said_at)
        if "op" not in message:
            return  # an event of a newer manager: nothing that we know
        self._spawn(self._answer(session, message))

    async def _answer(self, session: Session, message: dict) -> None:
        reply = {"id": message.get("id")}
        try:
            seconds = message.get("deadline_s") or 3600.0
            async with deadline(float(seconds)):
                result = await self._carry_out(session, str(message["op"]), message.get("args") or {})
            reply.update(ok=True, result=result)
        except Refused as e:
            reply.update(ok=False, error={"code": e.code, "message": e.message, "hint": e.hint})
        except Expired:
            words = f"op {message['op']} took longer than its deadline of {seconds:g} s"
            reply.update(ok=False, error={"code": "deadline", "message": words, "hint": ""})
        except EngineGone as e:
            reply.update(ok=False, error={"code": "engine_gone", "message": str(e), "hint": ""})
        except EngineError as e:
            reply.update(
                ok=False, error={"code": "engine_error", "message": e.message, "hint": "", "status": e.status}
            )
        except Exception as e:  # a bug here must not leave the manager without an answer
            log("op_failed", op=message.get("op"), kind=type(e).__name__, cause=e)
            reply.update(ok=False, error={"code": "internal", "message": f"{type(e).__name__}: {e}", "hint": ""})
        self._send_reply(session, reply)

    def _send_reply(self, session: Session, reply: dict) -> None:
        try:
            to_line(reply)
        except ValueError as e:
            reply = {"id": reply["id"], "ok": False, "error": {"code": "too_long", "message": str(e), "hint": ""}}
        session.send(reply)

    async def _carry_out(self, session: Session, op: str, args: dict):
        if not isinstance(args, dict):
            raise Refused("bad_request", "args must be an object")
        known = getattr(self, "_op_" + op, None) if op.isidentifier() else None
        if known is None:
            raise Refused(
                "unknown_op", f"op {op!r} is not known to this helper", "Use a manager of the same version"
            )
        if op != "attach" and not session.attached:
            raise Refused("not_attached", f"op {op} before attach")
        return await known(session, args)

    async def _op_attach(self, session: Session, args: dict) -> dict:
        self.fence.attach(args, self.tasks.clusters(), self.lease.living, self._listed)
        self.tasks.let_go(but=self.fence.cluster_id)  # those without a container are forgotten with that
        older, self.session = self.session, session
        self._sweep(new_session=older is not session)
        session.attached = True
        session.index = max(session.index, int(args.get("index") or 0))
        self._heartbeat_s = max(0.1, float(args.get("heartbeat_s") or 1.0))
        self.lease.grant(max(0.5, float(args.get("lease_s") or 10.0)))
        self.isolation.heard(None, session.said_at)
        self.state.save()
        if older is not None and older is not session:
            older.end(f"a session with epoch {self.fence.epoch} took over", kind="superseded")
        log("attached", cluster=self.fence.cluster_id, epoch=self.fence.epoch, session=session.number)
        self._stop_heart()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._beat)
        loop.call_soon(self._tell_description)
        for task in list(self.tasks.by_id.values()):
            self._on_report(task)
            task.kick(dirty=False)
        for task_id in set(session.sent) - {task.id for task in self.tasks.of(self.fence.cluster_id)}:
            session.sent.pop(task_id)
            loop.call_soon(session.event, "task", {"task_id": task_id, "state": "gone"})
        return {}

    async def _op_lease(self, session: Session, args: dict) -> dict:
        return {}

    async def _op_apply(self, session: Session, args: dict) -> dict:
        self._only_newest(session)
        actions = args.get("actions")
        if not isinstance(actions, list):
            raise Refused("bad_request", "field actions is missing or no list")
        for action in actions:
            try:
                check_action(action)
            except BadAction as e:
                raise Refused("bad_request", str(e)) from e
        peers = _peers(args)
        self.fence.batch(args)
        if peers is not None:
            self.isolation.take_peers(peers)
        session.index = max(session.index, self.fence.index)
        self.tasks.apply(actions, self.fence.cluster_id, begin=not self.fence.unchecked)
        self.isolation.wake()
        self.state.save()
        return {"accepted": len(actions)}

    async def _op_contents(self, session: Session, args: dict) -> dict:
        """Nothing is awaited before all is written: parts are taken in the order in which they came."""
        self._only_newest(session)
        items = args.get("items")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Refused("bad_request", "field items is missing or no list of contents")
        self.fence.batch(args)
        session.index = max(session.index, self.fence.index)
        self.state.save_soon()
        try:
            for item in items:
                task = self.tasks.by_id.get(item.get("task_id"))
                # It may have ended meanwhile, and has none any more.
                if task is None or (not task.terminal and task.cluster_id in ("", self.fence.cluster_id)):
                    self.files.take(item)
                    self._given.add(item["task_id"])
        except OSError as e:
            raise Refused(
                "contents_failed", f"contents cannot be kept in memory: {e.strerror}", "Free memory on the node"
            ) from e
        self.tasks.contents_came(self._given)
        return {}

    async def _op_network(self, session: Session, args: dict) -> dict:
        def admit() -> None:
            self.fence.batch(args)
            session.index = max(session.index, self.fence.index)
            # On a full file system dead backends are to leave all the same; the pass's errors tell of it.
            with suppress(OSError):
                self.state.save()

        async with self._turn:
            await self._wait_until_ours(session)
            outcome = self.network.change(session.number, args, admit)
        return await outcome

    async def _op_secure(self, session: Session, args: dict) -> dict:
        async with self._turn:
            await self._wait_until_ours(session)
            outcome = self.network.secure(args)
        return await outcome

    async def _wait_until_ours(self, session: Session) -> None:
        """Until the Engine has told its containers nothing is begun: another cluster may hold this node."""
        if self.fence.unchecked:
            await self.watch.synced.wait()
        self._only_newest(session)

    def _only_newest(self, session: Session) -> None:
        if session is not self.session:
            raise Refused("stale_epoch", "another session holds this node by now")

    async def _op_check_peers(self, session: Session, args: dict) -> dict:
        return {"reached": await check_peers(_peers(args) or [], float(args.get("timeout_s") or 2.0))}

    async def _op_report(self, session: Session, args: dict) -> dict:
        containers = await self.engine.list(LABEL_CLUSTER)
        self._check_holder(containers)
        self.tasks.on_connected(containers)
        await self._describe()
        for task in list(self.tasks.by_id.values()):
            await task.looked.wait()
        reports = self._reports()
        first, rest = split_reports(reports, REPORT_ROOM)
        for report in rest:
            session.event("task", report)
        return {"tasks": first, "description": self.description}

    async def _op_check(self, session: Session, args: dict) -> dict:
        return {"items": await run_checks(self.engine, args.get("now"), self.root)}

    async def _op_listeners(self, session: Session, args: dict) -> dict:
        from .listeners import listeners

        return {"listeners": listeners(args)}

    async def _op_check_listen(self, session: Session, args: dict) -> dict:
        if self._paths is None:
            from .paths import Paths

            self._paths = Paths()
        self._paths.listen(args)
        return {"guarded": self.network.active}

    async def _op_check_send(self, session: Session, args: dict) -> dict:
        from .paths import send

        return {"sent": await send(args)}

    async def _op_check_heard(self, session: Session, args: dict) -> dict:
        if self._paths is None:
            raise Refused("bad_request", "this node does not listen for any check")
        return {"heard": await self._paths.heard(args)}

    async def _op_trace_watch(self, session: Session, args: dict) -> dict:
        self._get_tracing().watch(args)
        return {}

    async def _op_trace_send(self, session: Session, args: dict) -> dict:
        return await self._get_tracing().send(args)

    async def _op_trace_seen(self, session: Session, args: dict) -> dict:
        return {"seen": self._get_tracing().seen(args)}

    def _get_tracing(self):
        if self._tracing is None:
            from .tracing import Tracing

            def pid_of(task_id: str) -> int:
                task = self.tasks.by_id.get(task_id)
                return task.pid if task is not None and task.cluster_id == self.fence.cluster_id else 0

            self._tracing = Tracing(pid_of)
        return self._tracing

    async def _op_end_processes(self, session: Session, args: dict) -> dict:
        self._only_newest(session)
        named = set(args.get("task_ids") or [])
        wanted = [task for task in self.tasks.of(self.fence.cluster_id) if task.id in named]
        ended = await asyncio.gather(*(task.end_processes() for task in wanted))
        return {"ended": [task.id for task, done in zip(wanted, ended) if done]}

    async def _op_resolve_image(self, session: Session, args: dict) -> dict:
        headers = {"X-Registry-Auth": args["auth"]} if args.get("auth") else {}
        found = await self.engine.call(
            "GET",
            f"/distribution/{args.get('image', '')}/json",
            headers=headers,
            timeout_s=float(args.get("timeout_s") or 10.0),
        )
        platforms = [[one.get("os", ""), one.get("architecture", "")] for one in found.get("Platforms") or ()]
        return {"digest": (found.get("Descriptor") or {}).get("digest", ""), "platforms": platforms}

    async def _op_release(self, session: Session, args: dict) -> dict:
        self._only_newest(session)
        if args.get("clear"):
            await self.tasks.remove_all(self.fence.cluster_id, CLEAR_S)
            self._only_newest(session)
        self.fence.release()
        self.tasks.let_go()
        self.lease.drop()
        self.state.save()
        log("released")
        if not args.get("clear"):
            return {}
        tasks = [task.id for task in self.tasks.by_id.values()]
        return {"tasks": tasks, "left": [] if tasks else await self.network.release()}


def _peers(args: dict):
    """The peers that a request names, None if it names none. Raises Refused."""
    peers = args.get("peers")
    whole = isinstance(peers, list) and all(
        isinstance(one, dict) and isinstance(one.get("node"), str) and isinstance(one.get("address"), str)
        for one in peers
    )
    if peers is not None and not whole:
        raise Refused("bad_request", "field peers is no list of nodes with their addresses")
    return peers
