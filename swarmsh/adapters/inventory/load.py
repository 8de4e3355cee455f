"""From a file to hosts: groups and precedence as Ansible has them, labels, roles, jump hosts."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import msgspec

from swarmsh.adapters.inventory.ini_format import read_ini
from swarmsh.adapters.inventory.names import nearest
from swarmsh.adapters.inventory.records import Inventory, InventoryHost, RawInventory, RawValue
from swarmsh.adapters.inventory.variables import Jump, Variables, check_keys, read_labels
from swarmsh.adapters.inventory.yaml_format import read_yaml
from swarmsh.errors import InventoryError
from swarmsh.model.objects import SshTarget
from swarmsh.model.states import Role

MANAGER_GROUP = "swarmsh_manager"
_BUILT_IN = ("all", "ungrouped")


def load_inventory(path: Path, *, default_user: str | None = None) -> Inventory:
    """Read an inventory file. `default_user` logs in where ansible_user is not set: the local user, as in Ansible.

    Each group of a host becomes its label `group.NAME=true` (children's hosts are in the parents too).
    Raises InventoryError.
    """
    raw = RawInventory(path)
    text = _read(path)
    (read_yaml if _is_yaml(path, text) else read_ini)(text, raw)
    _refuse_folders(path)
    return _Understanding(raw, default_user or getpass.getuser()).inventory()


def _read(path: Path) -> str:
    if path.is_dir():
        raise InventoryError(f"{path} is a folder: it cannot be read yet", hint="Name one inventory file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise InventoryError(f"{path} is not UTF-8 text") from e
    except OSError as e:
        raise InventoryError(f"{path} cannot be read: {e.strerror}") from e


def _is_yaml(path: Path, text: str) -> bool:
    if path.suffix in (".yml", ".yaml", ".json"):
        return True
    if path.suffix in (".ini", ".cfg"):
        return False
    lines = [line.strip() for line in text.splitlines()]
    first = next((line for line in lines if line and not line.startswith(("#", ";"))), "")
    return first == "---" or first.endswith(":") or first.startswith("{")


def _refuse_folders(path: Path) -> None:
    for name in ("group_vars", "host_vars"):
        if (path.parent / name).is_dir():
            raise InventoryError(
                f"{path.parent / name} cannot be read yet",
                hint=f"Move the inventory to a folder without {name}, and put what swarmsh needs into the file",
            )


class _Understanding:
    def __init__(self, raw: RawInventory, default_user: str) -> None:
        self._raw = raw
        self._default_user = default_user
        self._parents = self._find_parents()
        self._depth: dict[str, int] = {}
        self._targets: dict[str, SshTarget] = {}
        self._vars: dict[str, Variables] = {}

    def inventory(self) -> Inventory:
        raw = self._raw
        if not raw.hosts:
            raise InventoryError(f"{raw.file} names no host", hint="See the examples in inventories/")
        for group in raw.groups.values():
            check_keys(raw, group.vars)
        groups_of = {name: self._groups_of(name) for name in raw.hosts}
        for name, host in raw.hosts.items():
            check_keys(raw, host.vars)
            self._vars[name] = Variables(raw, name, host.line, self._merged(name, groups_of[name]))
        managers = {name for name, groups in groups_of.items() if MANAGER_GROUP in groups}
        managers = managers or {next(iter(raw.hosts))}
        hosts = tuple(self._host(name, groups_of[name], name in managers) for name in raw.hosts)
        names = [g for g in raw.groups if g not in _BUILT_IN]
        members = {g: tuple(h.name for h in hosts if g in groups_of[h.name]) for g in names}
        return Inventory(hosts=hosts, groups=members)

    def _host(self, name: str, groups: list[str], manager: bool) -> InventoryHost:
        mine = sorted(g for g in groups if g not in _BUILT_IN)
        return InventoryHost(
            name=name,
            target=self._target(name, ()),
            labels=self._labels(name, groups),
            availability=self._vars[name].availability(),
            role=Role.MANAGER if manager else Role.WORKER,
            groups=tuple(mine),
            file=self._raw.file,
            line=self._raw.hosts[name].line,
        )

    # --- groups ---
    def _find_parents(self) -> dict[str, list[str]]:
        parents: dict[str, list[str]] = {name: [] for name in self._raw.groups}
        for name, group in self._raw.groups.items():
            for child, line in group.children.items():
                if child not in parents:
                    known = [g for g in parents if g not in _BUILT_IN]
                    raise self._raw.error(line, f"there is no group {child}{nearest(child, known)}")
                parents[child].append(name)
        return parents

    def _depth_of(self, group: str, path: tuple[str, ...] = ()) -> int:
        """Longest way up; a deeper group's variables win."""
        if group in path:
            raise self._raw.error(self._raw.groups[group].line, f"group {group} contains itself")
        if group not in self._depth:
            above = [self._depth_of(p, (*path, group)) for p in self._parents.get(group, ())]
            self._depth[group] = 0 if group == "all" else 1 + max(above, default=0)
        return self._depth[group]

    def _groups_of(self, host: str) -> list[str]:
        """All groups of a host, weakest first: `all`, then by depth, then by name."""
        found: set[str] = {"all"}
        waiting = [name for name, group in self._raw.groups.items() if host in group.hosts]
        while waiting:
            group = waiting.pop()
            if group not in found:
                found.add(group)
                waiting += self._parents[group]
        return sorted(found, key=lambda g: (self._depth_of(g), g))

    def _merged(self, host: str, groups: list[str]) -> Mapping[str, RawValue]:
        merged: dict[str, RawValue] = {}
        for group in groups:
            if group in self._raw.groups:
                merged |= self._raw.groups[group].vars
        return merged | self._raw.hosts[host].vars

    def _labels(self, host: str, groups: list[str]) -> dict[str, str]:
        """Labels add up over the groups (unlike other variables); the host's own win."""
        labels = {f"group.{g}": "true" for g in sorted(groups) if g not in (*_BUILT_IN, MANAGER_GROUP)}
        scopes = [self._raw.groups[g].vars for g in groups if g in self._raw.groups]
        for scope in [*scopes, self._raw.hosts[host].vars]:
            if "swarmsh_labels" in scope:
                labels |= read_labels(self._raw, host, scope["swarmsh_labels"])
        return labels

    # --- targets ---
    def _target(self, name: str, behind: tuple[str, ...]) -> SshTarget:
        """`behind`: hosts whose way leads through this one, to find circles."""
        if name in behind:
            raise self._vars[name].error(
                "ansible_ssh_common_args",
                f"the way to it leads through itself: {' -> '.join([*behind, name])}",
                f"Set ProxyJump in a group that {name} is not in, or ProxyJump=none for {name}",
            )
        if name not in self._targets:
            v = self._vars[name]
            target = SshTarget(
                address=v.text("ansible_host", name),
                port=v.port("ansible_port", 22),
                user=v.text("ansible_user", self._default_user),
                identity_files=v.identity_files(),
                host_keys=v.host_keys(),
                become=v.flag("ansible_become", False),
                python=v.text("ansible_python_interpreter", "python3"),
                underlay=v.underlay(),
            )
            chain = self._chain(name, v, target, (*behind, name))
            self._targets[name] = msgspec.structs.replace(target, jump=chain)
        return self._targets[name]

    def _chain(self, name: str, v: Variables, target: SshTarget, behind: tuple[str, ...]) -> tuple[SshTarget, ...]:
        chain: tuple[SshTarget, ...] = ()
        jumps = v.jumps()
        pins = v.jump_host_keys()
        strangers = [j for j in jumps if self._known(j) is None]
        if isinstance(pins, tuple) and pins and len(strangers) > 1:
            raise v.error(
                "swarmsh_jump_host_key",
                f"there are {len(strangers)} jump hosts that are not in the inventory",
                "Give a mapping from each of their names to its key",
            )
        if isinstance(pins, dict):
            names = [j.host for j in strangers]
            for given in pins:
                if given not in names:
                    raise v.error("swarmsh_jump_host_key", f"{given} is no jump host here{nearest(given, names)}")
        for jump in jumps:
            known = self._known(jump)
            if known is not None:
                hop = self._target(known, behind)
                # The way to the first hop is the hop's own; later ones are reached from the hop before.
                chain = chain or hop.jump
                changes = {"user": jump.user or hop.user, "port": jump.port or hop.port}
                chain += (
                    msgspec.structs.replace(hop, jump=(), become=False, python="python3", underlay="", **changes),
                )
            else:
                mine = pins.get(jump.host, ()) if isinstance(pins, dict) else pins
                chain += (
                    SshTarget(
                        address=jump.host,
                        port=jump.port or 22,
                        user=jump.user or self._default_user,
                        identity_files=target.identity_files,
                        host_keys=mine,
                    ),
                )
        return chain

    def _known(self, jump: Jump) -> str | None:
        """The inventory's host that a jump host is, by its name or its address."""
        if jump.host in self._raw.hosts:
            return jump.host
        for name, variables in self._vars.items():
            if variables.text("ansible_host", name) == jump.host and jump.port in (
                None,
                variables.port("ansible_port", 22),
            ):
                return name
        return None
