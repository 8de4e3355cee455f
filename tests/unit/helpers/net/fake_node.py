"""A node for the data plane: what iptables, ip, tc, bridge, /proc and IPVS would hold, and an Engine's networks.

Commands are carried out line by line, as the real ones do it; `step` is called after each line, so that a test
can ask what holds at every moment. `fails` makes a command, or the kernel, refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from remote_helpers.engine import EngineError, EngineGone
from remote_helpers.net import apply, before, ipsets, kernel, modules, networks, rules, tables, unchanged
from remote_helpers.net.commands import CommandFailed
from remote_helpers.net.ipvs import (
    ADD_DEST,
    ADD_SERVICE,
    DEL_DEST,
    DEL_SERVICE,
    SET_SERVICE,
    Change,
    Service,
)
from remote_helpers.net.kernel import NOARP, UP, Link, Route, Rule, Seen
from remote_helpers.net.netlink import NetlinkError

DOCKERS = {
    "filter": {
        "INPUT": [],
        "OUTPUT": [],
        "FORWARD": ["-j DOCKER-USER"],
        "DOCKER-USER": ["-j RETURN"],
    },
    "nat": {"PREROUTING": [], "INPUT": [], "OUTPUT": [], "POSTROUTING": []},
    "mangle": {"PREROUTING": [], "INPUT": [], "OUTPUT": []},
    "raw": {"PREROUTING": [], "OUTPUT": []},
}
SYSCTLS = {
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "1",
    "net/ipv4/vs/conntrack": "0",
    "net/ipv4/vs/expire_nodest_conn": "0",
    "net/ipv4/vs/expire_quiescent_template": "0",
    "net/ipv4/vs/conn_reuse_mode": "1",
    "net/ipv4/vs/sloppy_tcp": "0",
}
DEVICE_SYSCTLS = {"rp_filter": "1", "route_localnet": "0", "send_redirects": "1"}


class FakeNode:
    """Its state is in plain dicts and sets; `install` puts it in the place of the real one."""

    def __init__(self) -> None:
        self.tables = {table: {c: list(r) for c, r in chains.items()} for table, chains in DOCKERS.items()}
        self.links: dict[str, Link] = {}
        self.add_link("eth0", "veth", "02:00:00:00:00:01")
        self.addresses: set[Any] = set()
        self.fdb: set[Any] = set()
        self.neighbours: set[Any] = set()
        self.routes: set[Route] = set()
        self.rules: set[Rule] = set()
        self.guards: set[str] = set()
        self.arp_drops: set[Any] = set()
        self.filters: set[Any] = set()
        self.sysctls = dict(SYSCTLS)
        self.services: dict[int, Service] = {}
        self.sets: dict[str, dict[Any, int]] = {}
        self.schedulers = {"rr", "wlc", "sh"}
        self.timeouts: tuple[int, ...] = (900, 120, 300)
        self.has_ipvs = True
        self.loaded = True
        self.lacks: set[str] = set()
        self.fails: dict[str, str] = {}  # the beginning of a command or a line, to the words of its refusal
        self.ran: list[str] = []
        self.step: Callable[[], None] = lambda: None
        self.hurry: list[Callable[[], None]] = []  # what somebody does just before tables are deleted
        self.engine = FakeNetworks(self)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module in (apply, modules):
            patch.setattr(module, "run", self.run)
        for user in (apply, networks):
            patch.setattr(user, "batch", self.batch)
        for owner in (apply, before):
            patch.setattr(owner, "Ipvs", lambda: FakeIpvs(self))
        patch.setattr(apply, "IpSets", lambda: FakeSets(self))
        patch.setattr(ipsets.Read, "read", lambda _, sets: sets.contents())
        patch.setattr(modules, "module_state", lambda name, release: "loaded" if self.loaded else "")
        patch.setattr(kernel, "Netlink", lambda protocol: self)
        patch.setattr(kernel, "read_links", lambda link: dict(self.links))
        patch.setattr(kernel, "read_rules", lambda link: set(self.rules))
        patch.setattr(kernel, "Read", lambda: self.read)
        patch.setattr(unchanged, "rules_stamp", lambda by: self.shown().encode() if by else b"")
        patch.setattr(tables, "delete", self.delete_tables)
        patch.setattr(kernel, "read_guards", lambda ours: self.read(ours, ()))
        patch.setattr(kernel, "read_sysctl", self.sysctls.get)
        patch.setattr(kernel, "write", self.write)
        patch.setattr(kernel, "exists", self.exists)

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # --- what is seen ---
    def read(self, ours: object, sysctls: Any) -> Seen:
        self._may("read")
        found = {path: self.sysctls[path] for path in sysctls if path in self.sysctls}
        copies = (self.addresses, self.fdb, self.neighbours, self.routes, self.rules)
        filters = (self.guards, self.arp_drops, self.filters)
        return Seen(dict(self.links), *map(set, copies), *map(set, filters), found)

    def exists(self, path: str) -> bool:
        if path.startswith("/sys/module/"):
            return self.loaded and path.rpartition("/")[2] not in self.lacks
        if path == "/proc/net/ip_vs":
            return self.has_ipvs
        return path.rpartition("/")[2] in self.links

    def shown(self) -> str:
        """As iptables-save."""
        lines = ["# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 06:15:22 2026"]
        for table, chains in self.tables.items():
            builtin = DOCKERS.get(table, {})
            policies = (f":{chain} {'ACCEPT' if chain in builtin else '-'} [0:0]" for chain in chains)
            lines += [f"*{table}", *policies]
            lines += [f"-A {chain} {rule}" for chain, found in chains.items() for rule in found]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"

    def everything(self) -> tuple[Any, ...]:
        """To be compared before and after."""
        return (
            self.shown(),
            dict(self.links),
            [set(one) for one in (self.addresses, self.fdb, self.neighbours, self.routes, self.rules)],
            dict(self.sysctls),
            dict(self.services),
            {name: dict(each) for name, each in self.sets.items()},
            self.timeouts,
            dict(self.engine.networks),
        )

    # --- what is done ---
    def _may(self, what: str) -> None:
        for begin, words in self.fails.items():
            if what.startswith(begin):
                raise NetlinkError(words) if what in ("read", "sets") else CommandFailed(f"{what}: {words}")

    async def run(self, argv: list[str], text: str = "") -> str:
        self.ran.append(argv[0])
        self._may(argv[0])
        if argv[0] == "iptables-save":
            return self.shown()
        if argv[0] == "iptables-restore":
            self._restore(text)
        return ""

    def _restore(self, text: str) -> None:
        """Each table is one commit: all of it, or nothing."""
        for part in filter(str.strip, text.split("COMMIT\n")):
            lines = part.strip().splitlines()
            name = lines[0][1:]
            there = self.tables.get(name) or dict.fromkeys(DOCKERS[name], ())  # the builtin chains come with it
            chains = {chain: list(found) for chain, found in there.items()}
            for line in lines[1:]:
                self._may(f"{name} {line}")
                if line[:2] in ("-A", "-I") and not set_names(line) <= set(self.sets):
                    raise CommandFailed(f"iptables-restore: Set doesn't exist ({line})")
                self._rule(chains, line)
            self.tables[name] = chains
            self.step()

    @staticmethod
    def _rule(chains: dict[str, list[str]], line: str) -> None:
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if line.startswith(":"):
            chains[verb[1:]] = []
        elif verb == "-A":
            chains[chain].append(rule)
        elif verb == "-I":
            at, _, rule = rule.partition(" ")
            assert 0 < int(at) <= len(chains[chain]) + 1, line
            chains[chain].insert(int(at) - 1, rule)
        elif verb == "-D":
            if rule not in chains.get(chain, ()):
                raise CommandFailed(f"iptables-restore: Bad rule ({line})")
            chains[chain].remove(rule)
        elif verb == "-F":
            chains[chain].clear()
        else:
            assert verb == "-X" and not chains[chain], line
            del chains[chain]

    def delete_tables(self, names: set[str], generation: bytes) -> bool:
        if self.hurry:
            self.hurry.pop()()
        if generation != self.shown().encode():
            return False
        for name in names:
            del self.tables[name]
        return True

    async def batch(self, tool: str, lines: list[str]) -> None:
        """As `-force`: those that fail do not keep the others back."""
        self.ran.append(tool)
        failed = []
        for line in lines:
            try:
                self._may(f"{tool} {line}")
                getattr(self, f"_{tool}")(line.split())
            except CommandFailed as e:
                failed.append(str(e))
            self.step()
        if failed:
            raise CommandFailed("; ".join(failed))

    def write(self, path: str, value: str) -> None:
        self._may(f"write {path}")
        if path.startswith("/proc/sys/"):
            key = path[len("/proc/sys/") :]
            if key not in self.sysctls:
                raise FileNotFoundError(path)
            self.sysctls[key] = value
        self.step()

    def add_link(self, name: str, kind: str, mac: str, **more: Any) -> None:
        self.links[name] = Link(len(self.links) + 1, name, kind, mac, more.pop("mtu", 1500), **{
            "flags": UP, "master": 0, **more
        })  # fmt: skip

    def add_bridge(self, name: str, mac: str = "02:42:11:22:33:44") -> None:
        self.add_link(name, "bridge", mac)
        self.sysctls.update({f"net/ipv4/conf/{name}/{key}": value for key, value in DEVICE_SYSCTLS.items()})

    def drop_link(self, name: str) -> None:
        link = self.links.pop(name)
        for found in (self.addresses, self.fdb, self.neighbours, self.arp_drops, self.filters):
            found -= {one for one in found if one[0] == name}
        self.routes -= {route for route in self.routes if route.device == name}
        self.guards.discard(name)
        for path in [path for path in self.sysctls if f"/conf/{name}/" in path]:
            del self.sysctls[path]
        for other, one in self.links.items():
            if one.master == link.index:
                self.links[other] = one._replace(master=0, hairpin=None)

    def _ip(self, words: list[str]) -> None:
        kind, verb = words[:2]
        value = dict(pairwise(words))
        if kind == "link":
            self._link(verb, words, value)
        elif kind == "address":
            address, _, prefix = words[2].partition("/")
            self.addresses.add((value["dev"], address, int(prefix)))
        elif kind == "neigh":
            self.neighbours -= {one for one in self.neighbours if one[1] == words[2]}
            if verb == "replace":
                self.neighbours.add((value["dev"], words[2], value["lladdr"]))
        elif kind == "route":
            local = words[2] == "local"
            via, src = value.get("via", ""), value.get("src", "")
            dst = words[3] if local else words[2]
            route = Route(dst, value["dev"], via, src, int(value["table"]), local, "onlink" in words)
            (self.routes.add if verb == "replace" else self.routes.discard)(route)
        else:
            mark, mask = (int(part, 16) for part in value.get("fwmark", "0/0").split("/"))
            rule = Rule(value["iif"], mark, mask, int(value["lookup"]), int(value["pref"]))
            (self.rules.add if verb == "add" else self.rules.discard)(rule)

    def _link(self, verb: str, words: list[str], value: dict[str, str]) -> None:
        name = words[2]
        if verb == "add" and value["type"] == "vxlan":
            about = (int(value["id"]), value["local"], int(value["dstport"]), "learning" in words)
            assert name not in self.links
            self.add_link(name, "vxlan", value["address"], mtu=int(value["mtu"]), flags=0, vxlan=about)
            for key, found in DEVICE_SYSCTLS.items():
                self.sysctls[f"net/ipv4/conf/{name}/{key}"] = found
            self.sysctls[f"net/ipv6/conf/{name}/disable_ipv6"] = "0"
        elif verb == "add" and value["type"] == "veth":
            for end, mac in ((name, value["address"]), (words[9], words[11])):
                assert end not in self.links
                self.add_link(end, "veth", mac, flags=0)
                for key, found in DEVICE_SYSCTLS.items():
                    self.sysctls[f"net/ipv4/conf/{end}/{key}"] = found
                self.sysctls[f"net/ipv6/conf/{end}/disable_ipv6"] = "0"
        elif verb == "add":
            self.add_bridge(name)
        elif verb == "del":
            if name in ("swlo0", "swlo1"):  # the other end goes with it
                self.drop_link("swlo1" if name == "swlo0" else "swlo0")
            self.drop_link(name)
        else:
            link = self.links[name]
            if "master" in value:
                link = link._replace(master=self.links[value["master"]].index, hairpin=False)
            if "address" in value:
                link = link._replace(mac=value["address"])
            flags = link.flags | (UP if words[-1] == "up" else 0) | (NOARP if words[-2:] == ["arp", "off"] else 0)
            self.links[name] = link._replace(flags=flags)

    def _tc(self, words: list[str]) -> None:
        value = dict(pairwise(words))
        device, prio = value["dev"], int(value.get("prio", 0))
        if words[0] == "qdisc":
            return
        self.filters.discard((device, prio))
        if words[1] == "add":
            self.filters.add((device, prio))
            if "matchall" in words:
                self.guards.add(device)
            else:
                self.arp_drops.add((device, int(words[words.index("match") + 2], 16), int(words[-5], 16)))

    def _bridge(self, words: list[str]) -> None:
        value = dict(pairwise(words))
        entry = (value["dev"], words[2], value["dst"])
        (self.fdb.add if words[1] == "append" else self.fdb.discard)(entry)


class FakeIpvs:
    """The kernel's services."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        if not node.has_ipvs:
            raise NetlinkError("the kernel has no IPVS: is its module loaded?")

    def __enter__(self) -> FakeIpvs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def services(self, parse: object = None) -> dict[int, Service]:
        return {mark: one._replace(dests=dict(one.dests)) for mark, one in self._node.services.items()}

    def timeouts(self) -> tuple[int, ...]:
        return self._node.timeouts

    def set_timeouts(self, timeouts: tuple[int, ...]) -> None:
        self._node.timeouts = timeouts

    def change(self, changes: list[Change]) -> None:
        failed = []
        for one in changes:
            if not self._change(one):
                failed.append(str(one))
            self._node.step()
        if failed:
            raise NetlinkError(f"IPVS: {'; '.join(failed)}")

    def _change(self, one: Change) -> bool:
        found = self._node.services
        if one.command in (ADD_SERVICE, SET_SERVICE):
            assert one.service
            if one.service.scheduler not in self._node.schedulers:
                return False
            dests = found[one.mark].dests if one.mark in found else {}
            found[one.mark] = one.service._replace(dests=dests)
        elif one.command == DEL_SERVICE:
            found.pop(one.mark, None)
        elif one.mark not in found:
            return False
        elif one.command == DEL_DEST:
            found[one.mark].dests.pop(one.dest, None)
        else:
            assert (one.dest in found[one.mark].dests) == (one.command != ADD_DEST)
            found[one.mark].dests[one.dest] = one.weight
        return True


class FakeSets:
    """The kernel's sets."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        if {"ip_set", "xt_set"} & node.lacks:
            raise NetlinkError("netlink message 1543: Invalid argument")

    def __enter__(self) -> FakeSets:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def contents(self) -> dict[str, dict[Any, int]]:
        self._node._may("sets")
        return {name: dict(each) for name, each in self._node.sets.items()}

    dump = contents

    def change(self, changes: list[ipsets.Change]) -> None:
        for one in changes:
            self._node._may("sets")
            found = self._node.sets
            if one.command == ipsets.CREATE:
                assert one.name not in found
                found[one.name] = {}
            elif one.command == ipsets.DESTROY:
                used = {name for line in self._node.shown().splitlines() for name in set_names(line)}
                assert one.name not in used, "a set that rules refer to cannot be destroyed"
                del found[one.name]
            elif one.command == ipsets.ADD:
                found[one.name][one.element] = one.mark
            else:
                found[one.name].pop(one.element, None)
            self._node.step()


class FakeNetworks:
    """`/networks` and `/containers/json` of an Engine; `containers`: name to (its network, whether it runs)."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self.networks: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, tuple[str, bool]] = {}
        self.gone = False
        self.calls: list[str] = []

    async def inspect(self, container: str) -> dict[str, Any]:
        return {"State": {"Pid": 0}}

    async def call(self, method: str, path: str, *, query: Any = None, body: Any = None, timeout_s: float) -> Any:
        self.calls.append(f"{method} {path}")
        if self.gone:
            raise EngineGone("the Docker daemon did not answer")
        if path == "/containers/json":
            return [{"Id": name} for name, (network, _) in self.containers.items() if network in query["filters"]]
        if path == "/networks":
            return list(self.networks.values())
        if path == "/networks/create":
            self.networks[body["Name"]] = {**body, "Id": f"id-{body['Name']}"}
            self._node.add_bridge(body["Options"]["com.docker.network.bridge.name"])
            config = body["IPAM"]["Config"][0]
            bridge = body["Options"]["com.docker.network.bridge.name"]
            self._node.addresses.add((bridge, config["Gateway"], int(config["Subnet"].partition("/")[2])))
            self._node.tables["filter"]["FORWARD"].append(f"-i {bridge} -o {bridge} -j ACCEPT")
            self._node.step()
            return {"Id": f"id-{body['Name']}"}
        name = path.rpartition("/")[2]
        found = self.networks.get(name.removeprefix("id-"))
        if found is None:
            raise EngineError(404, "no such network")
        running = {c: {} for c, (network, runs) in self.containers.items() if network == found["Name"] and runs}
        if method == "GET":
            return {**found, "Containers": running}
        if running:
            raise EngineError(403, "network has active endpoints")
        del self.networks[found["Name"]]
        bridge = found["Options"]["com.docker.network.bridge.name"]
        self._node.tables["filter"]["FORWARD"].remove(f"-i {bridge} -o {bridge} -j ACCEPT")
        if bridge in self._node.links:
            self._node.drop_link(bridge)
        self._node.step()
        return None


def marks(node: FakeNode) -> set[int]:
    """Those that are set for IPVS."""
    found = set()
    for chain in ("SW-MIN", "SW-PUB"):
        for rule in node.tables.get("mangle", {}).get(chain, ()):
            words = rule.split()
            if "--map-mark" in words:
                found |= set(node.sets[words[words.index("--map-set") + 1]].values())
            if "--set-xmark" in words:
                found.add(int(words[words.index("--set-xmark") + 1].split("/")[0], 16))
    return found


def set_names(rule: str) -> set[str]:
    """Those that a rule refers to."""
    return {after for word, after in pairwise(rule.split()) if word in ("--map-set", "--match-set")}


def drops(node: FakeNode) -> bool:
    """Whether all that protects the node from its own networks is there, and led to."""
    for table, parent, chain, rule in (
        ("mangle", "PREROUTING", "SW-PRE", "-d 127.0.0.0/8 ! -i lo -j DROP"),
        ("filter", "INPUT", "SW-IN", "-p udp -m udp --dport 4789 -j DROP"),
        ("filter", "DOCKER-USER", "SW-FWD", "-o swgwv -j DROP"),
        ("filter", "OUTPUT", "SW-FOUT", "-p udp -m udp --dport 4790 -m policy --dir out --pol none -j DROP"),
    ):
        chains = node.tables.get(table, {})
        if f"-j {chain}" not in chains.get(parent, ()) or rule not in chains.get(chain, ()):
            return False
    return True


def purged(text: str) -> bool:
    """Whether rules as iptables-save shows them have nothing of ours."""
    return rules.plan_removal(rules.parse_save(text)) == ""
