"""The node's data plane as a whole: bring it to a network state, tell what differed, take all of it away again.

The order is what keeps a kernel from a panic: guards, then services and their backends, then the rules that mark
packets for them; in reverse when something goes. A vxlan device without its guard means no marks at all.
"""

from __future__ import annotations

import json
import os

from ..engine import Engine, EngineError, EngineGone
from ..log import log
from . import ipvs, kernel, links, rules
from .commands import CommandFailed, batch, run
from .ipvs import Ipvs
from .netlink import NetlinkError
from .networks import Taken, bodies, make_bridge, remove_networks
from .numbers import check_state, is_ours

BEFORE = "net-before.json"
VERSION = 1
MODULES = (
    "vxlan", "br_netfilter", "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh", "xt_ipvs",
    "cls_matchall", "cls_u32", "act_skbedit", "act_gact", "sch_ingress",
)  # fmt: skip
_RESTORE = ["iptables-restore", "--noflush", "--wait=10"]
_FAILURES = (CommandFailed, EngineError, EngineGone, NetlinkError, Taken, OSError)


class ApplyFailed(Exception):
    """Some of it could not be done; the rest was. `differed` is what was mended."""

    def __init__(self, errors: list, differed: list) -> None:
        super().__init__("; ".join(errors))
        self.errors, self.differed = errors, differed


class DataPlane:
    """The data plane of this node. One call at a time.

    `secure` is awaited with the state before any device is made, where a network is encrypted: without it such
    networks stay closed. `root` is the helper's folder in tmpfs.
    """

    def __init__(self, engine: Engine, root: str = "/run/swarmsh", secure=None) -> None:
        self._engine, self._root, self._secure = engine, root, secure
        self._modules_tried = False
        self._left = None  # what the last pass left behind, as (links, services, rules); None: not sure
        self._errors: list = []
        self._words: list = []

    # --- whole passes ---------------------------------------------------------------------------------------
    async def apply(self, state: dict) -> list:
        """Bring the node to the state; what differed, empty if nothing. Raises ApplyFailed, BadState."""
        check_state(state)
        self._errors, self._words, self._left = [], [], None
        await self._load_modules()
        state = await self._open_part(state)
        want = links.wanted(state)
        self._remember_before(want)
        seen = await self._mend_links(state, want)
        naked = links.unguarded(want, seen)
        if naked:
            self._errors.append(f"nothing is marked for IPVS: no mark guard on {', '.join(naked)}")
        services = ipvs.wanted(state)
        last = await self._try(self._mend_services(services)) or []
        # A mark that leads to no service any more would lead to the node's own sshd.
        if await self._try(self._mend_rules(state, marks=not naked)):
            await self._try(self._change_services(last))
        await self._try(self._remove_links(want, seen))
        if self._errors:
            raise ApplyFailed(self._errors, self._words)
        self._left = want, services, rules.wanted(state)
        return self._words

    async def change(self, state: dict) -> None:
        """As apply, but what is there is taken to be what the last call left: the cost follows the change alone.

        What drifted meanwhile is left to the next whole pass. Raises ApplyFailed, BadState.
        """
        check_state(state)
        wanted = links.wanted(state), ipvs.wanted(state), rules.wanted(state)
        left, self._left = self._left, None
        if left is None or left[0] != wanted[0]:
            await self.apply(state)
            return
        self._errors, self._words = [], []
        now, last, _ = ipvs.plan_changes(wanted[1], left[1])
        await self._try(self._change_services(now))
        texts = rules.plan_chains(wanted[2], left[2])
        if texts:
            await self._try(run(_RESTORE, texts))
        if not self._errors:
            await self._try(self._change_services(last))
        if self._errors:
            raise ApplyFailed(self._errors, [])
        self._left = wanted

    def hairpin(self) -> list:
        """Hairpin on for the ports of containers that have started; what was off. No process, no Engine."""
        with kernel.Netlink(kernel.ROUTE) as link:
            plan = links.plan_hairpin(kernel.read_links(link))
        for step in plan.steps:
            _write(step.lines)
        return plan.words

    async def purge(self) -> list:
        """Leave the node as it was found; what was there. Raises ApplyFailed."""
        self._errors, self._words, self._left = [], [], None
        want = links.NOTHING
        await self._try(self._remove_rules())
        await self._try(self._remove_services())
        await self._try(self._remove_links(want, kernel.read(is_ours, ()), everything=True))
        if not self._errors:
            await self._try(self._restore_before())
        if self._errors:
            raise ApplyFailed(self._errors, self._words)
        return self._words

    async def _try(self, work):
        """The rest goes on where one thing fails: each of them mends something by itself."""
        try:
            return await work
        except _FAILURES as e:
            self._errors.append(str(e) or type(e).__name__)
            return None

    # --- before anything ------------------------------------------------------------------------------------
    async def _load_modules(self) -> None:
        missing = [name for name in MODULES if not kernel.exists(f"/sys/module/{name}")]
        if missing and not self._modules_tried:  # one that is built in may have no folder there
            self._modules_tried = True
            await self._try(run(["modprobe", "-a", *missing]))

    async def _open_part(self, state: dict) -> dict:
        """The state without encrypted networks, if they cannot be closed to plain packets first."""
        closed = {network["id"]: network["name"] for network in state["networks"] if network["encrypted"]}
        if not closed:
            return state
        if self._secure is not None:
            before = len(self._errors)
            self._words += await self._try(self._secure(state)) or []
            if len(self._errors) == before:
                return state
        self._errors.append(f"encrypted networks stay closed: {', '.join(sorted(closed.values()))}")
        return {
            **state,
            "networks": [network for network in state["networks"] if network["id"] not in closed],
            "vips": [vip for vip in state["vips"] if vip["network"] not in closed],
        }

    def _remember_before(self, want: links.Wanted) -> None:
        """Keep what settings were before our first change, for purge; those of our devices go with them."""
        if self._load_before():
            return
        try:
            with Ipvs() as balancer:
                timeouts = list(balancer.timeouts())
        except NetlinkError:
            timeouts = []  # told when services are to be made
        found = {path: kernel.read_sysctl(path) for path in links.GLOBAL_SYSCTLS}
        made = not os.path.isdir(self._root)
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        before = {"v": VERSION, "sysctls": found, "timeouts": timeouts, "root_made": made}
        self._save_before(before)

    def _load_before(self) -> dict:
        try:
            with open(os.path.join(self._root, BEFORE), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return {}

    def _save_before(self, before: dict) -> None:
        path = os.path.join(self._root, BEFORE)
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(before, file)
        os.rename(path + ".new", path)

    async def _restore_before(self) -> None:
        before = self._load_before()
        if not before:
            return
        for path, value in before["sysctls"].items():
            if value is not None and kernel.read_sysctl(path) not in (value, None):
                kernel.write(f"/proc/sys/{path}", value)
        if before["timeouts"]:
            with Ipvs() as balancer:
                balancer.set_timeouts(tuple(before["timeouts"]))
        os.unlink(os.path.join(self._root, BEFORE))
        if before["root_made"] and not os.listdir(self._root):
            os.rmdir(self._root)

    # --- links ----------------------------------------------------------------------------------------------
    async def _mend_links(self, state: dict, want: links.Wanted) -> kernel.Seen:
        """Bridges by the Engine, then all else; what is there afterwards."""
        seen = kernel.read(is_ours, want.sysctls)
        wanted_bodies, made = bodies(state), set()
        for bridge in sorted(set(want.bridges) - set(seen.links)):
            count = len(self._errors)
            await self._try(make_bridge(self._engine, wanted_bodies[bridge]))
            if len(self._errors) == count:
                made.add(bridge)
                self._words.append(f"link {bridge} was missing")
        if made:
            seen = kernel.read(is_ours, want.sysctls)
        plan = links.plan_links(want, seen, frozenset(made))
        if plan.steps:
            await self._take(plan)
            seen = kernel.read(is_ours, want.sysctls)
        await self._take(links.plan_hairpin(seen.links))
        return seen

    async def _take(self, plan: links.Plan) -> None:
        self._words += plan.words
        for step in plan.steps:
            await self._try(_write_all(step.lines) if step.tool == "write" else batch(step.tool, step.lines))

    async def _remove_links(self, want: links.Wanted, seen: kernel.Seen, everything: bool = False) -> None:
        await self._take(links.plan_removal(want, seen))
        spare = {name for name in seen.links if links.is_bridge(name, seen) and name not in want.bridges}
        if not spare and not everything:
            return
        kept = await remove_networks(self._engine, set(want.bridges))
        if kept and everything:
            self._errors.append(f"containers still use {', '.join(sorted(kept))}")
        self._words += [f"link {name} was left over" for name in sorted(spare - kept)]
        # What the Engine knew it has removed by now.
        orphans = [name for name in sorted(spare - kept) if kernel.exists(f"/sys/class/net/{name}")]
        if orphans:
            await batch("ip", [f"link del {name}" for name in orphans])

    # --- services -------------------------------------------------------------------------------------------
    async def _mend_services(self, want: dict) -> list:
        """Add and set; the changes that must wait until nothing is marked for them."""
        with Ipvs() as balancer:
            if balancer.timeouts() != ipvs.TIMEOUTS:
                self._words.append("timeouts of IPVS were different")
                balancer.set_timeouts(ipvs.TIMEOUTS)
            now, last, words = ipvs.plan_changes(want, balancer.services())
            self._words += words
            try:
                balancer.change(now)
            except NetlinkError as e:
                self._errors.append(str(e))
        return last

    async def _change_services(self, changes: list) -> None:
        if changes:
            with Ipvs() as balancer:
                balancer.change(changes)

    async def _remove_services(self) -> None:
        if kernel.exists(ipvs.SERVICES):
            with Ipvs() as balancer:
                _, last, words = ipvs.plan_changes({}, balancer.services())
                self._words += words
                balancer.change(last)

    # --- rules ----------------------------------------------------------------------------------------------
    async def _mend_rules(self, state: dict, marks: bool) -> bool:
        """True; raises CommandFailed."""
        want = rules.wanted(state, marks)
        before = self._load_before()
        if before.get("no_zones"):
            del want[rules.RAW]
        plan = rules.plan_restore(want, rules.parse_save(await run(["iptables-save"])))
        words = plan.words
        if plan.raw:
            try:
                await run(_RESTORE, plan.raw)
            except CommandFailed as e:
                # Without CONFIG_NF_CONNTRACK_ZONES one client port by two nodes at once is the only loss.
                log("no_conntrack_zones", error=e)
                self._save_before({**before, "no_zones": True})
                words = [word for word in words if "SW-RAW" not in word]
        self._words += words
        if plan.rest:
            await run(_RESTORE, plan.rest)
        return True

    async def _remove_rules(self) -> None:
        text = rules.plan_removal(rules.parse_save(await run(["iptables-save"])))
        if text:
            self._words.append("rules were there")
            await run(_RESTORE, text)


async def _write_all(pairs) -> None:
    _write(pairs)


def _write(pairs) -> None:
    for path, value in pairs:
        try:
            kernel.write(path, value)
        except FileNotFoundError:
            pass  # the kernel has no IPv6, or a container's port has gone with it
