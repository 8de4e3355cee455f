"""The kernel modules that networks need, and plain words about one that the kernel does not have."""

from __future__ import annotations

import os

from ..check import module_state
from . import ipsets, kernel
from .commands import CommandFailed, run

NEEDED = {
    "vxlan": "overlay networks",
    "br_netfilter": "services' virtual addresses",
    "ip_vs": "services' virtual addresses and published ports",
    "cls_matchall": "the guards of overlay devices",
    "cls_u32": "the guards of overlay devices",
    "act_skbedit": "the guards of overlay devices",
    "act_gact": "the guards of overlay devices",
    "sch_ingress": "the guards of overlay devices",
    "veth": "published ports on the node's own loopback",
}
FOR_ENCRYPTED = {"esp4": "encrypted networks", "xfrm_user": "encrypted networks"}
# Loaded by the kernel itself where it may load any: a scheduler, and matches and targets of rules.
USEFUL = (
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_wlc",
    "ip_vs_sh",
    "ip_vs_mh",
    "xt_CT",
    "xt_policy",
    "xt_NFQUEUE",
    *ipsets.MODULES,
)


class Modules:
    """Loads what a state needs; remembers what need not be looked for again."""

    def __init__(self) -> None:
        self._built_in: set = set()
        self._tried: set = set()

    async def load(self, state: dict) -> list:
        """Words about what is missing, each time anew; no process where nothing is."""
        encrypted = any(network["encrypted"] for network in state["networks"])
        needed = {**NEEDED, **(FOR_ENCRYPTED if encrypted else {})}
        missing = self._missing(needed)
        useful = self._missing(name for name in USEFUL if name not in self._tried)
        self._tried.update(useful)
        if not missing and not useful:
            return []
        said = "modprobe found nothing wrong"
        try:
            await run(["modprobe", "-a", *missing, *useful])
        except CommandFailed as e:
            said = str(e)  # of one that is merely useful as well
        missing = self._missing(missing)
        return [f"kernel module {name} is missing, which {needed[name]} need ({said})" for name in missing]

    def has(self, name: str) -> bool:
        """Whether a module is loaded or built in."""
        return not self._missing([name])

    def _missing(self, names) -> list:
        """Those that are neither loaded nor built in: of the latter some have no folder in /sys."""
        missing = []
        for name in names:
            if name in self._built_in or kernel.exists(f"/sys/module/{name}"):
                continue
            if module_state(name, os.uname().release) == "built in":
                self._built_in.add(name)
            else:
                missing.append(name)
        return missing
