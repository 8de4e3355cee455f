"""The node's data plane as a whole: bring it to a network state, tell what differed, take all of it away again.

Two orders matter. What protects comes first and goes last: rules that drop stand before a device or a setting that
needs them. And what keeps a kernel from a panic: guards, then services and their backends, then the rules that
mark packets for them; in reverse when something goes. A vxlan device without its guard means that nothing more is
marked, and a mark is set only where it leads to a service: behind it is the node itself, past its firewall.
"""

from __future__ import annotations

import hashlib
import marshal
import time

from ..engine import Engine, EngineError, EngineGone
from ..log import log
from . import ipsets, ipvs, kernel, links, rules, tables, unchanged
from .before import Before
from .commands import CommandFailed, batch, run
from .ipsets import IpSets
from .ipvs import Ipvs
from .modules import Modules
from .netlink import NetlinkError
from .networks import Taken, bodies, check_bridge, make_bridge, remove_networks
from .numbers import (
    EGRESS,
    EGRESS_BRIDGE,
    EGRESS_VXLAN,
    NotClosed,
    bridge_name,
    check_state,
    is_empty,
    looks_ours,
    vxlan_name,
)

SHOWN_AGAIN_S = 60.0  # another iptables may have been chosen (Debian: alternatives), to which no stamp counts
REFUSED_AGAIN_S = 600.0  # after so long a kernel that refused rules of the raw table is asked again
TABLE_TRIES = 5
_RESTORE = ["iptables-restore", "--noflush", "--wait=10"]


class ApplyFailed(Exception):
    """Some of it could not be done, said in `errors`; the rest was. `differed` is what was mended."""

    def __init__(self, errors: list, differed: list) -> None:
        super().__init__("; ".join(errors))
        self.errors, self.differed = errors, differed


_FAILURES = (CommandFailed, EngineError, EngineGone, NetlinkError, NotClosed, Taken, OSError)


class DataPlane:
    """The data plane of this node. One call at a time; each raises what it says and nothing else.

    `root` is the helper's folder in tmpfs. `secure` is awaited without arguments in each whole pass over a state
    with an encrypted network, before anything of it is made: it returns words about what it had to mend, or raises
    NotClosed (`Esp.secure` is one). After a failure the devices that are there stay, as what closed them does, and
    none is made. Without a `secure` none is ever made.
    """

    def __init__(self, engine: Engine, root: str = "/run/swarmsh", secure=None) -> None:
        self._engine, self._secure = engine, secure
        self._before, self._modules = Before(root), Modules()
        self._left = None  # what the last pass left behind, as (links, services, rules, sets); None: not sure
        self._known, self._wanted = b"", ()  # the last state that was applied, and (links, services, sets) for it
        self._timeouts = ipvs.TIMEOUTS  # of that state
        self._by_sets: bool | None = None  # None: the kernel has not been asked yet
        self._read, self._read_sets, self._parse_services = kernel.Read(), ipsets.Read(), ipvs.Parse()
        self._shown: tuple = (
            "",
            b"",
            0.0,
            {},
        )  # by which iptables, stamp, until when it counts, the rules of then
        self._tables_kept = False  # whether `before` has them
        self._made_rules: tuple = ((), {})  # of what, and what `rules.wanted` made of it
        # Rules that the kernel refused, by their chain, and until when they are not tried again.
        self._refused: tuple = ({}, 0.0)
        self._others: set = set()  # bridges with a name like ours that are somebody's
        self._errors: list = []
        self._words: list = []
        self._bridge_errors: dict = {}
        self._made: set = set()
        self.failed: dict = {}  # name of each network that the last pass could not make, `swgw` as well, to words

    # --- whole passes ---------------------------------------------------------------------------------------
    async def apply(self, state: dict) -> list:
        """Bring the node to the state; what differed, in words, empty if nothing. Raises ApplyFailed, BadState.

        A state without networks, ports and tasks is the same as `purge`. After BadState nothing was touched.
        """
        if is_empty(state):
            return await self.purge()
        self._check(state)
        self._begin()
        self._left = None
        done = await self._try(self._apply(state))
        if done is None:
            self.failed = {name: self._why() for name in [EGRESS, *(one["name"] for one in state["networks"])]}
        if self._errors:
            raise ApplyFailed(self._errors, self._words)
        self._left = done
        return self._words

    async def _apply(self, state: dict) -> tuple:
        """What is there afterwards, for the next change. Raises one of _FAILURES where nothing could be done."""
        self._errors += await self._modules.load(state)
        if self._by_sets is None:
            self._by_sets = all(map(self._modules.has, ipsets.MODULES))
            log("marks", by="sets" if self._by_sets else "rules")
        self._before.keep(links.GLOBAL_SYSCTLS)
        full, services, _ = self._wanted
        seen = self._read(looks_ours, full.sysctls)
        open_links, refused = await self._leave_out(state, full, seen)
        removal = links.plan_removal(open_links, seen)
        if removal.steps:
            # What no network wants goes before the rules that stand in front of it.
            await self._take(removal)
            seen = self._read(looks_ours, full.sysctls)
        have = await self._try(self._read_services())
        left = await self._try(self._mend_rules(state, ipvs.balanced(services, have or {}), seen))
        # Before bridges, for which the Engine is asked: it may take minutes, and dead backends are not to wait for
        # it. A device that lost its guard has it back first: what is marked may have lost its service as well.
        early = not links.unguarded(seen)
        mended = await self._mend_balancer(services, have) if early else None
        if left is None:
            self._errors.append("without these rules no device is made or brought up")
        else:
            seen = await self._mend_links(state, open_links, seen)
        last, there = mended or await self._mend_balancer(services, have)
        if left is not None:
            left = await self._try(self._mark(state, there, seen, left))
        if left is not None:
            await self._try(self._change_services(last))
        await self._try(self._remove_bridges(open_links, seen))
        self.failed = self._not_made(state, full, seen, refused)
        return full, services, *(left or (None, None))

    async def change(self, state: dict) -> None:
        """As apply, but what is there is taken to be what the last call left: the cost follows the change.

        What drifted meanwhile is left to the next whole pass. Where peers or networks changed, or something was
        not as the last call left it, this is a whole pass. Raises ApplyFailed, BadState.
        """
        if self._left is None or is_empty(state):
            await self.apply(state)
            return
        check_state(state)
        sets = ipsets.wanted(state) if self._by_sets else {}
        wanted = links.wanted(state), ipvs.wanted(state), self._rules(state), sets
        left, self._left = self._left, None
        if left[0] != wanted[0] or self._timeouts != ipvs.timeouts(state):
            await self.apply(state)
            return
        self._begin()
        # The raw table follows peers alone, and may hold less than is wanted: a kernel without zones.
        wanted[2][rules.RAW] = left[2][rules.RAW]
        await self._try(self._change(wanted, left))
        if self._errors:
            log("network_change_failed", error="; ".join(self._errors))
            await self.apply(state)
            return
        self._left = wanted

    async def _change(self, wanted: tuple, left: tuple) -> None:
        now, last, _ = ipvs.plan_changes(wanted[1], left[1])
        if rules.adds_marks(wanted[2], left[2]) or ipsets.adds_marks(wanted[3], left[3]):
            naked = links.unguarded(kernel.read_guards(looks_ours))
            if naked:
                raise NetlinkError(f"no mark guard on {', '.join(naked)}")
        self._change_ipvs(now)
        less, more, _ = ipsets.plan_changes(wanted[3], left[3])
        self._change_sets(less + more)
        text = rules.plan_change(wanted[2], left[2])
        if text:
            await run(_RESTORE, text)
        # A mark that leads to no service any more would lead to the node's own sshd.
        self._change_ipvs(last)

    def hairpin(self) -> list:
        """Hairpin on for the ports of containers that have started; what was off. Raises ApplyFailed.

        For Engine `start` events: no process, and the Engine is not asked.
        """
        try:
            with kernel.Netlink(kernel.ROUTE) as link:
                plan = links.plan_hairpin(kernel.read_links(link))
            for step in plan.steps:
                _write(step.lines)
        except (NetlinkError, OSError) as e:
            raise ApplyFailed([str(e) or type(e).__name__], []) from e
        return plan.words

    async def purge(self) -> list:
        """Leave the node as it was found; what was there. Raises ApplyFailed.

        Where nothing of ours is, no process is started and the Engine is not asked. What protects a network goes
        only when it is gone: while containers use it, it is an error.
        """
        self._begin()
        self._left = None
        await self._try(self._purge())
        self.failed = {}
        if self._errors:
            raise ApplyFailed(self._errors, self._words)
        return self._words

    async def _purge(self) -> None:
        if not self._before.exists() and _is_untouched():
            return
        if await self._try(self._unmark()):
            await self._try(self._remove_services())
        seen = self._read(looks_ours, ())
        await self._take(links.plan_removal(links.NOTHING, seen))
        await self._try(self._remove_bridges(links.NOTHING, seen, everything=True))
        if self._errors:
            return
        await self._remove_rules()
        self._remove_sets()
        self._words += self._before.restore()
        self._tables_kept = False

    # --- what all of them need ------------------------------------------------------------------------------
    def _check(self, state: dict) -> None:
        """Raises BadState. The same state comes every few seconds: it is looked through when it is another."""
        try:
            packed = hashlib.blake2b(marshal.dumps(state, 2)).digest()
        except ValueError:
            packed = b""  # it is not made of what JSON is made of
        if not packed or packed != self._known:
            check_state(state)
            self._wanted = links.wanted(state), ipvs.wanted(state), ipsets.wanted(state)
            self._timeouts = ipvs.timeouts(state)
            self._known = packed

    def _begin(self) -> None:
        self._errors, self._words, self._bridge_errors, self._made = [], [], {}, set()

    async def _try(self, work):
        """The rest goes on where one thing fails: each of them mends something by itself. None after a failure."""
        try:
            return await work
        except _FAILURES as e:
            self._errors.append(_words_of(e))
            return None

    def _why(self) -> str:
        return "; ".join(self._errors[:3])

    def _not_made(self, state: dict, full: links.Wanted, seen: kernel.Seen, refused: dict) -> dict:
        found = {EGRESS: (EGRESS_BRIDGE, EGRESS_VXLAN)}
        found.update({one["name"]: (bridge_name(one), vxlan_name(one)) for one in state["networks"]})
        return {
            name: self._bridge_errors.get(bridge) or refused.get(device) or self._why()
            for name, (bridge, device) in found.items()
            if bridge in self._bridge_errors or not links.is_whole(device, full, seen)
        }

    # --- what may be made -----------------------------------------------------------------------------------
    async def _leave_out(self, state: dict, full: links.Wanted, seen: kernel.Seen) -> tuple:
        """What is wanted but for devices that must not be made, and these: name to words."""
        refused = {}
        for name in links.strangers(full, seen):
            refused[name] = f"the node has a device {name} that is not swarmsh's: rename or remove it"
            self._errors.append(refused[name])
        closed = {vxlan_name(one): one["name"] for one in state["networks"] if one["encrypted"]}
        try:
            if closed:
                self._words += await self._close()
        except _FAILURES as e:
            self._errors.append(f"encrypted networks: {_words_of(e)}")
            for name in closed:
                # One that is there was closed when it was made, and what closed it is not taken away by a failure.
                if name not in seen.links or seen.links[name].vxlan != full.vxlans[name].fixed:
                    refused[name] = f"it is encrypted, and stays closed: {_words_of(e)}"
        for name, device in full.vxlans.items():
            if device.bridge in refused:
                refused.setdefault(name, refused[device.bridge])
        for bridge in set(full.bridges) & set(refused):
            self._bridge_errors[bridge] = refused[bridge]
        return links.without(full, set(refused)), refused

    async def _close(self) -> list:
        if self._secure is None:
            raise NotClosed("there are no keys")
        return await self._secure() or []

    # --- links ----------------------------------------------------------------------------------------------
    async def _mend_links(self, state: dict, want: links.Wanted, seen: kernel.Seen) -> kernel.Seen:
        """Bridges by the Engine, then all else; what is there afterwards. Raises NetlinkError, OSError."""
        made = self._made = await self._mend_bridges(state, want, seen)
        if made:
            seen = self._read(looks_ours, want.sysctls)
        plan = links.plan_links(want, self._without_strangers(seen), frozenset(made))
        if plan.steps and not await self._take(plan, until="tc"):
            # Those that did not get their guard stay as they are: down, if they are new.
            seen = self._read(looks_ours, want.sysctls)
            want = links.without(want, set(links.unguarded(seen)))
            plan = links.plan_links(want, self._without_strangers(seen), frozenset(made))
            await self._take(plan._replace(words=[]))
        if plan.steps:
            seen = self._read(looks_ours, want.sysctls)
        await self._take(links.plan_hairpin(seen.links))
        return seen

    async def _mend_bridges(self, state: dict, want: links.Wanted, seen: kernel.Seen) -> set:
        """The bridges that were made. Those that are another's are kept in `_bridge_errors`."""
        wanted_bodies, made = bodies(state), set()
        devices = {device.bridge for device in want.vxlans.values() if device.bridge} | {EGRESS_BRIDGE}
        for bridge in sorted(set(want.bridges) - set(seen.links)):
            if bridge not in devices:
                continue  # it would be a network that leads nowhere
            try:
                await make_bridge(self._engine, wanted_bodies[bridge])
                made.add(bridge)
                self._words.append(f"link {bridge} was missing")
            except _FAILURES as e:
                self._refuse_bridge(bridge, e)
        for bridge in links.strange_bridges(want, seen):
            try:
                await check_bridge(self._engine, wanted_bodies[bridge])
            except _FAILURES as e:
                self._refuse_bridge(bridge, e)
        return made

    def _refuse_bridge(self, bridge: str, error: Exception) -> None:
        self._errors.append(_words_of(error))
        self._bridge_errors[bridge] = _words_of(error)

    def _without_strangers(self, seen: kernel.Seen) -> kernel.Seen:
        """A bridge that is not ours is as good as none: nothing is put into it."""
        there = {name: link for name, link in seen.links.items() if name not in self._bridge_errors}
        return seen._replace(links=there)

    async def _take(self, plan: links.Plan, until: str = "") -> bool:
        """Whether all steps were taken: not those after one by the tool `until` that failed."""
        self._words += plan.words
        for step in plan.steps:
            count = len(self._errors)
            await self._try(_write_all(step.lines) if step.tool == "write" else batch(step.tool, step.lines))
            if step.tool == until and len(self._errors) > count:
                return False
        return True

    async def _remove_bridges(self, want: links.Wanted, seen: kernel.Seen, everything: bool = False) -> None:
        self._others &= set(seen.links) - set(want.bridges)  # the name may become one of ours
        spare = {name: ours for name, ours in links.spare_bridges(want, seen).items() if name not in self._others}
        if not spare and not everything:
            return
        kept = await remove_networks(self._engine, set(want.bridges))
        if kept and everything:
            self._errors.append(f"containers still use {', '.join(sorted(kept))}")
        # What the Engine knew as ours it has removed by now.
        left = {name: ours for name, ours in spare.items() if kernel.exists(f"/sys/class/net/{name}")}
        self._others |= {name for name, ours in left.items() if not ours and name not in kept}
        self._words += [f"link {name} was left over" for name in spare if name not in kept | self._others]
        orphans = [name for name, ours in left.items() if ours and name not in kept]
        if orphans:
            await batch("ip", [f"link del {name}" for name in orphans])

    # --- services -------------------------------------------------------------------------------------------
    async def _read_services(self) -> dict:
        with Ipvs() as balancer:
            return balancer.services(self._parse_services)

    async def _mend_balancer(self, want: dict, have: dict | None) -> tuple:
        """As `_mend_services`, and nothing is there where it failed, or what is there could not be read (None)."""
        found = None if have is None else await self._try(self._mend_services(want, have))
        return found or ([], set())

    async def _mend_services(self, want: dict, have: dict) -> tuple:
        """Add and set: (changes that must wait until nothing is marked for them, marks of what is there now).

        Raises NetlinkError, OSError.
        """
        with Ipvs() as balancer:
            found = balancer.timeouts()
            if found != self._timeouts:
                self._before.keep_timeouts(found)
                self._words.append("timeouts of IPVS were different")
                balancer.set_timeouts(self._timeouts)
            now, last, words = ipvs.plan_changes(want, have)
            self._words += words
            try:
                balancer.change(now)
            except NetlinkError as e:
                self._errors.append(str(e))
                return last, ipvs.balanced(want, balancer.services(self._parse_services))
        return last, set(want)

    def _change_ipvs(self, changes: list) -> None:
        if changes:
            with Ipvs() as balancer:
                balancer.change(changes)

    async def _change_services(self, changes: list) -> None:
        self._change_ipvs(changes)

    async def _remove_services(self) -> None:
        if kernel.exists(ipvs.SERVICES):
            with Ipvs() as balancer:
                _, last, words = ipvs.plan_changes({}, balancer.services())
                self._words += words
                balancer.change(last)

    # --- sets -----------------------------------------------------------------------------------------------

    def _change_sets(self, changes: list) -> None:
        if changes:
            with IpSets() as sets:
                sets.change(changes)

    def _plan_sets(self, there: set) -> tuple:
        """(what makes sets and takes marks away, what adds marks, what is in sets after the first, after both)."""
        if not self._by_sets:
            return [], [], {}, {}
        with IpSets() as sets:
            have = self._read_sets.read(sets)
        full = self._wanted[2]
        want = ipsets.with_marks(full, there)
        less, more, words = ipsets.plan_changes(want, have)
        # As with rules: a mark that had to go with its service was right.
        right = {f"set {name} was different" for name, elements in have.items() if elements == full[name]}
        self._words += [word for word in words if word not in right]
        kept = {
            name: {one: mark for one, mark in have.get(name, {}).items() if one in elements}
            for name, elements in want.items()
        }
        return less, more, kept, want

    def _remove_sets(self) -> None:
        """Nothing of ours refers to them any more."""
        if self._modules.has("ip_set"):
            with IpSets() as sets:
                sets.change([ipsets.Change(ipsets.DESTROY, name) for name in sets.dump()])

    # --- rules ----------------------------------------------------------------------------------------------
    def _rules(self, state: dict, marks=None) -> dict:
        return rules.wanted(state, marks, queue=self._modules.has("xt_NFQUEUE"), sets=bool(self._by_sets))

    def _rules_of_pass(self, state: dict, marks: set) -> dict:
        """As `_rules`, of the state of a whole pass: mostly it is that of the last one."""
        by_sets = bool(self._by_sets)
        of = (self._known, by_sets or frozenset(marks), self._modules.has("xt_NFQUEUE"), by_sets)
        if not self._known or of != self._made_rules[0]:
            self._made_rules = of, self._rules(state, marks)
        return {table: dict(chains) for table, chains in self._made_rules[1].items()}

    async def _read_rules(self) -> dict:
        """As `rules.parse_save`, for reading only; without a process where nothing has changed.

        Raises CommandFailed.
        """
        by, known, until, have = self._shown
        began, stamp = time.monotonic(), unchanged.rules_stamp(by)
        if stamp and stamp == known and began < until:
            return have
        shown = await run(["iptables-save"])
        by, have = unchanged.shown_by(shown), rules.parse_save(shown)
        # One that was another before is not known to be that of what was shown.
        known = stamp if unchanged.rules_stamp(by) == stamp else b""
        self._shown = by, known, began + SHOWN_AGAIN_S, have
        return have

    async def _mend_rules(self, state: dict, there: set, seen: kernel.Seen) -> tuple:
        """The rules that are there then and what is in sets, with marks for the services in `there`.

        Raises CommandFailed, NetlinkError.
        """
        have = await self._read_rules()
        if not self._tables_kept:
            self._before.keep_tables(have)
            self._tables_kept = True
        want = self._rules_of_pass(state, there)
        less, more, kept, sets = self._plan_sets(there)
        if links.unguarded(seen):
            want, more, sets = rules.keep_marks(want, have), [], kept
        # Rules name sets; and what sets mark needs the rules that clear it.
        self._change_sets(less)
        refused, until = self._refused
        if time.monotonic() < until and all(want[rules.RAW][chain] == lost for chain, lost in refused.items()):
            want[rules.RAW].update({chain: [] for chain in refused})
        plan = rules.plan_restore(want, have)
        # Those that drop come first, and by themselves: the raw table only keeps clients apart, and spares work.
        if plan.rest:
            await run(_RESTORE, plan.rest)
        # A mark that had to go with its service was right: that the service has gone is said.
        right = rules.same_chains(self._rules(state), have) if plan.words else set()
        self._words += [word for word in plan.words if word not in right and not rules.of_raw(word)]
        self._change_sets(more)
        if plan.raw and await self._try(self._mend_raw(plan.raw, want, have)):
            self._words += [word for word in plan.words if rules.of_raw(word)]
        return want, sets

    async def _mend_raw(self, text: str, want: dict, have: dict) -> bool:
        """Whether all of it is there; raises CommandFailed.

        Without CONFIG_NF_CONNTRACK_ZONES one client port by two nodes at once is the only loss; without the target
        CT what nodes send each other is tracked.
        """
        whole, error = dict(want[rules.RAW]), None
        # What kernels and versions of iptables say to it differs. If the same chains go in without these rules,
        # then it is they that the kernel does not take, and no lock or lack of memory.
        for left_out in ((), ("SW-RAW",), ("SW-RAW", "SW-TUN")):
            refused = {chain: whole[chain] for chain in left_out if whole[chain]}
            want[rules.RAW] = {**whole, **{chain: [] for chain in refused}}
            text = rules.plan_restore({rules.RAW: want[rules.RAW]}, have).raw if left_out else text
            try:
                if text:
                    await run(_RESTORE, text)
                break
            except CommandFailed as e:
                error = error or e
                if "lock" in str(e) or left_out == tuple(whole):
                    raise
        if error is None:
            return True
        self._refused = refused, time.monotonic() + REFUSED_AGAIN_S
        log("not_taken_by_kernel", chains=" ".join(refused), error=error)
        return False

    async def _mark(self, state: dict, there: set, seen: kernel.Seen, left: tuple) -> tuple:
        """Mark for the services that are there now; the rules and sets that are there then.

        Raises CommandFailed, NetlinkError.
        """
        naked = links.unguarded(seen)
        if naked:
            self._errors.append(f"nothing is marked for IPVS: no mark guard on {', '.join(naked)}")
            there = set()
        want = self._rules_of_pass(state, there)
        sets = ipsets.with_marks(self._wanted[2], there) if self._by_sets else {}
        want[rules.RAW] = left[0][rules.RAW]
        # What is not to be marked any more first, and all else when it is sure that marks are cleared.
        less, more, _ = ipsets.plan_changes(sets, left[1])
        self._change_sets(less)
        if self._made:
            # The Engine puts its rules for a new network behind ours.
            text = rules.plan_restore(want, rules.parse_save(await run(["iptables-save"]))).rest
        else:
            text = rules.plan_change(want, left[0])
        if text:
            await run(_RESTORE, text)
        self._change_sets(more)
        return want, sets

    async def _unmark(self) -> bool:
        """True; raises CommandFailed."""
        text = rules.plan_unmark(rules.parse_save(await run(["iptables-save"])))
        if text:
            await run(_RESTORE, text)
        return True

    async def _remove_rules(self) -> None:
        text = rules.plan_removal(rules.parse_save(await run(["iptables-save"])))
        if text:
            self._words.append("rules were there")
            await run(_RESTORE, text)
        before = self._before.tables()
        if before is not None:
            await _remove_tables(before)


async def _remove_tables(before) -> None:
    """Those that hold nothing and were not there before; legacy tables go with their module.

    Raises CommandFailed, NetlinkError, OSError.
    """
    for _ in range(TABLE_TRIES):
        generation = unchanged.rules_stamp(unchanged.NFT)
        shown = await run(["iptables-save"])
        if unchanged.shown_by(shown) != unchanged.NFT or not generation:
            return
        if tables.delete(tables.without_rules(shown).difference(before), generation):
            return
    log("tables_left", error="rules of the node change all the time")


def _is_untouched() -> bool:
    """Raises NetlinkError, OSError."""
    with kernel.Netlink(kernel.ROUTE) as link:
        if not links.is_untouched(kernel.read_links(link), kernel.read_rules(link)):
            return False
    if not kernel.exists(ipvs.SERVICES):
        return True
    with open(ipvs.SERVICES, encoding="ascii") as file:
        return not any(map(ipvs.is_ours, ipvs.parse_services(file.read())))


def _words_of(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _write_all(pairs) -> None:
    _write(pairs)


def _write(pairs) -> None:
    for path, value in pairs:
        try:
            kernel.write(path, value)
        except FileNotFoundError:
            pass  # the kernel has no IPv6, or a container's port has gone with it
