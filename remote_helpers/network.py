"""The resident part of the node's networks: what the manager told of them, and keeping the node so.

Nothing of the data plane is loaded before there is a network or a published port. One worker brings the node to
what is held, pass after pass; DNS answers from the helper's own loop, whatever a pass waits for.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque

from . import resolvconf
from .engine import EngineGone
from .fence import Refused
from .log import log
from .netstate import DRAINS, EGRESS, OUT, PING, SINGLE, BadChange, Held, named, probed, unnamed, with_standing
from .timing import wait_event

FILE, BEFORE = "network.json", "net-before.json"
CHECK_S = 2.0  # from the start of a whole pass to the end of the next: what drifts is to be back within 5 s
LEAST_PAUSE_S = 1.0  # between two, however long they take
RETRY_S = (1.0, 2.0)  # then each CHECK_S
REMIND_S = 60.0  # drift that comes back with each pass is told again so often
CLEAR_TRIES = 5
LAST_PASS_S = 3.0  # for the pass that is under way when the process ends


def standing_of(task):
    """What a task of this node is to the balancers: None if it takes connections, DRAINS or OUT."""
    if task.terminal or task.exited or not task.pid:
        return OUT
    # A draining task keeps the connections it has; without its entry they would be reset.
    return None if task.ready and task.goal not in ("stop", "remove") else DRAINS


class _Pass:
    def __init__(self, held: Held, number: int, whole: bool, told: bool, changes) -> None:
        self.held, self.number, self.whole = held, number, whole
        self.changes = changes  # (put, drop) of each since the last pass; None: not to be told one by one
        self.told = told  # the manager asked for it, and gets its words as the answer
        self.done: list = []  # futures of (drift, errors)


class _Keys:
    def __init__(self, message: dict, done: asyncio.Future) -> None:
        self.message, self.done = message, done


class _Leave:
    def __init__(self, done: asyncio.Future) -> None:
        self.done = done


class Network:
    """`by_id`: the helper's tasks. `tell(data)` sends the event `network`; `engine_ok()` says whether it answers;
    `unsaved()` why the helper's own state is in no file, or "".

    `make_plane(path, root, engine_path, esp_state)` and `make_dns(names)` are replaced by tests.
    """

    dns_port = None  # None: the data plane's, to which its rules lead what is asked at port 53
    resolver_port = 53

    def __init__(self, root: str, engine_path: str, by_id: dict, tell, spawn, engine_ok, unsaved) -> None:
        self._unsaved = unsaved
        self._root, self._engine_path, self._path = root, engine_path, f"{root}/{FILE}"
        self._by_id, self._tell, self._spawn, self._engine_ok = by_id, tell, spawn, engine_ok
        self._held = Held()
        self._number = 0  # of the held state; each change has another
        self._begun = None  # (session, Held, fresh) of a change whose parts have not all come
        self._queue: deque = deque()  # of _Pass and _Keys, in the order of their requests
        self._standing: dict = {}  # own task -> DRAINS or OUT
        self._unsure = False  # what is to be named is looked at anew soon
        self._unnamed: dict = {}  # what no name leads to: those, and tasks elsewhere that are silent
        self._prober = None
        self._probing = None
        self._plane = None
        self._esp_state: dict = {}
        self._dns = None
        self._names = None
        self._given: dict = {}  # servers of a task's own -> Resolvers
        self._applied = 0  # number of the state of the last pass
        self._passed = asyncio.Event()  # set, and replaced, after each pass
        self._kick = asyncio.Event()
        self._worker = None
        self._hairpin = False
        self._due = 0.0  # monotonic: of the next check
        self._failures = 0  # in a row
        self._trouble = ""
        self._told: tuple = ()  # (drift, when) last told
        self._alone = False
        self._unclear = False  # the last clear did not take all away: it is tried again
        self._ending = False
        self.make_plane, self.make_dns = _make_plane, _make_dns

    @property
    def active(self) -> bool:
        """Whether there is anything to keep."""
        return not self._held.empty or self._unclear or (self._plane is not None and self._plane.closed)

    # --- requests ---------------------------------------------------------------------------------------------
    def change(self, session: int, args: dict, admit):
        """Op `network`: put it into the queue, and return what is to be awaited for its result.

        `admit()` lets it pass the fence. Raises Refused, as the awaiting does.
        """
        begun, self._begun = self._begun, None
        put, drop = _object(args, "put"), _object(args, "drop")
        _, base, fresh = begun if begun and begun[0] == session else (session, self._held, False)
        if args.get("fresh"):
            base, fresh = Held(), True
        try:
            held = base.changed(put, drop)
        except BadChange as e:
            raise Refused("bad_request", str(e)) from e
        if args.get("more"):
            admit()
            self._begun = (session, held, fresh)
            return _nothing_yet()
        change = (put, drop) if base is self._held else None
        self._check(held, change)
        admit()
        self._take(held, change if "egress" not in put else None)
        done = asyncio.get_running_loop().create_future()
        self._want_pass(fresh, told=True, changes=None if change is None else [change]).done.append(done)
        return self._outcome(done)

    async def _outcome(self, done: asyncio.Future) -> dict:
        drift, errors = await asyncio.shield(done)  # who waits no longer does not end the pass
        if errors:
            raise Refused("network_failed", "; ".join(errors), "The helper tries again by itself")
        return {"drift": drift}

    def _check(self, held: Held, change) -> None:
        """Refuse what the data plane cannot make. `change`: (put, drop), if the rest was checked before."""
        if held.empty:
            return
        from .net.numbers import BadState, check_state

        try:
            check_state(held.effective({}, {}) if change is None else held.around(*change))
        except (BadChange, BadState) as e:
            raise Refused("bad_request", str(e)) from e

    def _take(self, held: Held, delta) -> None:
        """Hold another state; names are answered by it from now on. `delta`: (put, drop), if that is all."""
        if held.empty:
            self._names = None
        else:
            standing = self._standing_in(held)
            away = self._away(held, standing)
            self._name(held, away, delta)
            self._standing, self._unnamed = standing, away
        self._held = held
        self._number += 1
        self._probe()

    def _standing_in(self, held: Held) -> dict:
        found = {}
        for task_id in held.tables["tasks"]:
            task = self._by_id.get(task_id)
            # One that has gone stays out until the manager has heard of it.
            is_so = standing_of(task) if task is not None else self._standing.get(task_id)
            if is_so is not None:
                found[task_id] = is_so
        return found

    def _away(self, held: Held, standing: dict) -> dict:
        return unnamed(held, self._by_id, standing, self._silent)

    def _name(self, held: Held, away: dict, delta) -> None:
        from .net.names import BadNames, Names, check_names

        try:
            if away:  # what is left out of the table now comes into it some time
                check_names(held.whole()["names"] if delta is None else delta[0].get("names") or [])
            if delta is None or self._names is None:
                whole = held.whole()
                self._names = Names({**whole, "names": with_standing(whole["names"], away)})
            else:
                put, drop = delta
                put = {key: put[key] for key in ("networks", "tasks", "names") if put.get(key)}
                if "names" in put:
                    put["names"] = with_standing(put["names"], away)
                drop = {key: drop[key] for key in ("networks", "tasks", "names") if drop.get(key)}
                self._names.change({"put": put, "drop": drop})
                self._rename(held, away)
        except BadNames as e:
            raise Refused("bad_request", f"names: {e}") from e
        if self._dns is not None:
            self._dns.names = self._names

    def _rename(self, held: Held, after: dict) -> None:
        """Tasks that stand otherwise now come into the names, or leave them."""
        put, drop = [], []
        changed = self._unnamed.keys() ^ after.keys()
        for network, service, task in named(held, changed) if changed else ():
            if task["id"] in after:
                drop.append([network, service, task["id"]])
            else:
                put.append({"network": network, "service": service, "task": task})
        if put or drop:
            self._names.change({"put": {"name_tasks": put}, "drop": {"name_tasks": drop}})

    def secure(self, message: dict):
        """Op `secure`: as `change`."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append(_Keys(message, done))
        self._wake()
        return self._lost(done)

    async def _lost(self, done: asyncio.Future) -> dict:
        return {"lost": await asyncio.shield(done)}

    def _want_pass(self, whole: bool, told: bool = False, changes=()) -> _Pass:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Pass):  # nothing between them: both are done by what the later one wants
            last.held, last.number = self._held, self._number
            last.whole, last.told = last.whole or whole, last.told or told
            last.changes = None if last.changes is None or changes is None else [*last.changes, *changes]
        else:
            last = _Pass(self._held, self._number, whole, told, changes)
            self._queue.append(last)
        self._wake()
        return last

    # --- what others see ----------------------------------------------------------------------------------------
    async def joinable(self, names: list) -> str:
        """Wait until the networks of these names were made; else why one of them cannot be. Raises EngineGone."""
        unknown = [name for name in names if not self._held.has_network(name)]
        if unknown:
            return f"network {unknown[0]}: this node was not told of it"
        wanted = self._number
        while self._applied < wanted:
            await self._passed.wait()
        if self._failed_of(names):
            # That may have been for a moment, and be mended but for the next try: this task is to have its own.
            done = asyncio.get_running_loop().create_future()
            self._want_pass(whole=True).done.append(done)
            await asyncio.shield(done)
        words = self._failed_of(names)
        if words and not self._engine_ok():
            raise EngineGone(words)
        return words

    def _failed_of(self, names: list) -> str:
        """Why the last pass could not make one of these networks; "" if it made all."""
        failed = self._plane.failed if self._plane is not None else {}
        return next((failed[name] for name in names if failed.get(name)), "")

    def task_changed(self, task) -> None:
        """A report of an own task: what has ended or is not ready leaves at once, without a word from anybody."""
        if task.id not in self._held.tables["tasks"]:
            return
        is_so, was = standing_of(task), self._standing.get(task.id)
        if is_so == was:
            return
        self._standing = {**self._standing, task.id: is_so}
        if is_so is None:
            del self._standing[task.id]
        if not self._silent:
            self._name_again()
        elif not self._unsure:  # then it costs something, and tasks of a node often change together
            self._unsure = True
            asyncio.get_running_loop().call_soon(self._name_again)
        self._want_pass(whole=False)

    def _name_again(self) -> None:
        """Who may be named is no longer what it was; the state is."""
        self._unsure = False
        away = self._away(self._held, self._standing)
        if self._names is not None:
            self._rename(self._held, away)
        self._unnamed = away

    def saw_start(self) -> None:
        """A container of ours has started: its ports are new, without hairpin."""
        if not self._held.empty:
            self._hairpin = True
            self._wake()

    def engine_is_back(self) -> None:
        """Whatever it did to the bridges, do not wait with the next look; nor judge by one while it was away."""
        if not self._held.empty:
            self._number += 1
            self._want_pass(whole=True)

    # --- without a manager --------------------------------------------------------------------------------------
    def set_alone(self, alone: bool) -> None:
        """The lease was lost, or is back: then what fell silent is tried on until it answers or is not wanted."""
        self._alone = alone
        self._probe()

    def _probe(self) -> None:
        if self._ending or (self._probing is not None and not self._probing.done()) or not self._targets():
            return
        if self._prober is None:
            from .backends import Prober

            self._prober = Prober(self._targets, self._on_silence)
        self._probing = self._spawn(self._prober.run())

    def _targets(self) -> list:
        if self._held.empty or not (self._alone or self._silent):
            return []
        found = probed(self._held, self._by_id)
        # A container that answers no echo would stay out for ever: what the manager says of it is better.
        return found if self._alone else [one for one in found if one in self._silent and one[1] != PING]

    @property
    def _silent(self) -> dict:
        return self._prober.silent if self._prober is not None else {}

    def _on_silence(self) -> None:
        if not self._held.empty:
            self._name_again()
            self._want_pass(whole=False)

    # --- the worker ---------------------------------------------------------------------------------------------
    def _wake(self) -> None:
        self._kick.set()
        if (self._worker is None or self._worker.done()) and not self._ending:
            self._worker = self._spawn(self._work())

    async def _work(self) -> None:
        while not self._ending:
            self._kick.clear()
            left = self._due - time.monotonic()
            if self._queue:
                await self._take_on(self._queue.popleft())
            elif self._hairpin:
                self._hairpin = False
                await self._open_hairpins()
            elif not self.active:
                self._rest()
                return
            elif left <= 0:
                await self._look()
            else:
                await wait_event(self._kick, left)

    async def _take_on(self, job) -> None:
        if isinstance(job, _Pass):
            await self._bring(job)
        elif isinstance(job, _Keys):
            await self._give_keys(job)
        else:
            await self._leave(job)

    def _rest(self) -> None:
        """Nothing is to be kept: no thread, no sockets."""
        if self._plane is not None:
            self._plane.stop()
            self._plane, self._esp_state = None, self._plane.esp_state
        if self._dns is not None:
            self._dns.close()
            self._dns = None

    async def _bring(self, job: _Pass) -> None:
        began = time.monotonic()
        try:
            drift, errors = await self._clear() if job.held.empty else await self._apply(job)
        except Exception as e:  # a bug must not end the worker, nor leave anybody waiting
            log("network_pass_failed", kind=type(e).__name__, cause=e)
            drift, errors = [], [f"{type(e).__name__}: {e}"]
        self._applied = job.number
        self._settle(began, job.whole, errors)
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()
        for done in job.done:
            if not done.done():
                done.set_result((drift, errors))
        # What a clear took away was no drift, if it comes a second time either.
        self._report([] if job.told or job.held.empty else drift, errors)

    async def _apply(self, job: _Pass) -> tuple:
        listening = self._listen(job.held)
        state = job.held.effective(self._standing, self._silent)
        drift, errors = await self._get_plane().bring(job.held, job.changes, state, job.whole)
        unsaved = self._unsaved()
        return drift, [*([unsaved] if unsaved else ()), *listening, *errors]

    async def _look(self) -> None:
        """A check by the helper itself, of what it holds now."""
        if not self._held.empty or self._unclear:
            await self._bring(_Pass(self._held, self._number, whole=True, told=False, changes=()))
            return
        began = time.monotonic()
        drift, errors = await self._get_plane().repair()
        self._settle(began, True, errors)
        self._report(drift, errors)

    def _settle(self, began: float, whole: bool, errors: list) -> None:
        """When to look next."""
        self._failures = self._failures + 1 if errors else 0
        if 0 < self._failures <= len(RETRY_S):
            self._due = began + RETRY_S[self._failures - 1]
        elif whole or errors or self._due < began:
            now = time.monotonic()
            self._due = max(began + CHECK_S - (now - began), now + min(LEAST_PAUSE_S, CHECK_S))

    def _report(self, drift: list, errors: list) -> None:
        trouble = "; ".join(errors)
        if trouble == self._trouble and not drift:
            return
        now = time.monotonic()
        again = bool(self._told) and self._told[0] == drift and now < self._told[1] + REMIND_S
        if trouble == self._trouble and again:
            return
        self._trouble, self._told = trouble, (drift, now)
        log("network_checked", cause=trouble[:2000], drift="; ".join(drift[:8]))
        lost = self._plane.lost if self._plane is not None else []
        event = {"ok": not trouble, "message": trouble, "drift": drift}
        self._tell({**event, "lost": lost} if lost else event)

    async def _open_hairpins(self) -> None:
        if self._held.empty:
            return
        try:
            await self._get_plane().hairpin()
        except Exception as e:  # netlink, or a port that has gone: a whole pass looks again, and tells
            log("hairpin_failed", kind=type(e).__name__, cause=e)
            self._want_pass(whole=True)

    async def _give_keys(self, job: _Keys) -> None:
        opens = job.message.get("closed") is False and not job.message.get("peers")
        if opens and not (self._plane.closed if self._plane is not None else self._esp_state.get("closed")):
            # Said to each node without encrypted networks, once a session: nothing is to be loaded for it.
            if not job.done.done():
                job.done.set_result([])
            return
        try:
            result = await self._get_plane().secure(job.message)
        except Exception as e:
            kind = type(e).__name__  # BadKeys is not to be imported for its name alone
            words = str(e) if kind in ("BadKeys", "EspError", "CommandFailed") else kind  # others may hold a key
            log("keys_not_taken", kind=kind)
            if not job.done.done():
                job.done.set_exception(Refused("bad_request" if kind == "BadKeys" else "network_failed", words))
            return
        self._due = min(self._due, time.monotonic() + CHECK_S)
        if not job.done.done():
            job.done.set_result(result)

    def _get_plane(self):
        if self._plane is None:
            self._plane = self.make_plane(self._path, self._root, self._engine_path, self._esp_state)
        return self._plane

    # --- DNS ----------------------------------------------------------------------------------------------------
    def _listen(self, held: Held) -> list:
        """Listen where tasks ask, and nowhere else; what failed."""
        from .net.numbers import DNS_PORT, egress_gateway

        self._serve_names()
        state, port = held.single, self.dns_port or DNS_PORT
        gateways = [network["gateway"] for network in held.tables["networks"].values()]
        places = [(address, port) for address in (egress_gateway(state["node"]["n"], state), *gateways)]
        return list(self._dns.listen(places).values())

    def _serve_names(self) -> None:
        if self._dns is None:
            self._dns = self.make_dns(self._names)
            self._dns.resolvers_of = self._resolvers_of

    def name_server(self, names: list) -> str:
        """Where a task on these networks asks; "" if they are not known here."""
        from .net.numbers import egress_gateway

        single = self._held.single
        if EGRESS in names and len(single) == len(SINGLE):
            return egress_gateway(single["node"]["n"], single)
        gateways = {one["name"]: one["gateway"] for one in self._held.tables["networks"].values()}
        return next((gateways[name] for name in names if name in gateways), "")

    def _resolvers_of(self, source: str):
        """For names that are none of ours: the servers that a task's spec names, if it does."""
        task = self._by_id.get(self._names.task_of(source) or "") if self._names is not None else None
        servers = resolvconf.servers_of(task.action.get("config") or {}) if task is not None else ()
        own = {address for address, _ in self._dns.places}
        servers = tuple(server for server in servers if server not in own)
        if not servers:
            return None
        if servers not in self._given:
            from .net.upstream import Given

            self._given[servers] = Given(servers, self.resolver_port)
        return self._given[servers]

    # --- leaving ------------------------------------------------------------------------------------------------
    def _anything_here(self) -> bool:
        """Whether something of ours may be on the node, told without the data plane's own code."""
        devices = os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []
        if any(name in ("swgw0", "swgwv") for name in devices) or self._plane is not None:
            return True
        return any(os.path.exists(f"{self._root}/{name}") for name in (FILE, BEFORE))

    async def _clear(self, keys_too: bool = False) -> tuple:
        if self._dns is not None:
            self._dns.close()
            self._dns = None
        if not self._anything_here():
            self._unclear = False
            return [], []
        self._unclear = True
        words, errors = await self._get_plane().purge(keys_too)
        self._unclear = bool(errors)
        return words, errors

    async def release(self) -> list:
        """Leave the node as it was found. What cannot be taken away in a few tries is left, logged, and told."""
        self._held, self._names, self._begun = Held(), None, None
        self._standing = self._unnamed = {}
        self._number += 1
        done = asyncio.get_running_loop().create_future()
        self._queue.append(_Leave(done))
        self._wake()
        return await asyncio.shield(done)

    async def _leave(self, job: _Leave) -> None:
        for number in range(CLEAR_TRIES):
            if number:
                await asyncio.sleep(RETRY_S[-1])  # what holds a device says nothing when it lets it go
            try:
                _, errors = await self._clear(keys_too=True)
            except Exception as e:  # a bug here must not keep the helper for ever
                errors = [f"{type(e).__name__}: {e}"]
            if not errors:
                break
            log("network_not_cleared", cause="; ".join(errors))
        self._unclear = False  # what is left now is the manager's to tell of
        if not job.done.done():
            job.done.set_result(errors)

    # --- other processes ----------------------------------------------------------------------------------------
    def restore(self, fds: list) -> None:
        """Go on with what a former process held. `fds`: its name server's sockets, where questions wait."""
        held = self._held
        if os.path.exists(self._path):
            from .netfile import load

            held, self._esp_state = load(self._path)
        try:
            self._check(held, None)
            self._take(held, None)
        except Refused as e:
            log("network_state_unreadable", path=self._path, error=e)
            held = self._held
        if held.empty:
            for fd in fds:
                os.close(fd)
        else:
            self._serve_names()
            self._dns.adopt(fds)
            self._listen(held)  # first of all: somebody waits
            self._want_pass(whole=True, changes=None)
        if self._esp_state.get("closed"):
            self._get_plane()
            self._wake()

    async def end(self, hand_over: bool) -> list:
        """Leave the node as it is, for another process; the name server's sockets for it, ready for an exec."""
        self._ending = True
        self._kick.set()
        if self._probing is not None:
            self._probing.cancel()
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=LAST_PASS_S)
        if any(isinstance(job, _Pass) for job in self._queue):
            from .netfile import NetFile

            try:
                esp_state = self._plane.esp_state if self._plane is not None else self._esp_state
                NetFile(self._path).write(self._held, esp_state)
            except OSError as e:
                log("network_state_not_written", path=self._path, error=e)
        if self._dns is None:
            return []
        if hand_over:
            return await self._dns.hand_over()
        self._dns.close()
        return []


async def _nothing_yet() -> dict:
    return {"drift": []}


def _object(args: dict, key: str) -> dict:
    found = args.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refused("bad_request", f"field {key} is no object")
    return found


def _make_plane(path: str, root: str, engine_path: str, esp_state: dict):
    from .plane import Plane

    return Plane(path, root, engine_path, esp_state)


def _make_dns(names):
    from .net.dns import DnsServer

    return DnsServer(names)
