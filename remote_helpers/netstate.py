"""The node's network state by sections and keys, as the manager tells it in parts: pure.

What the data plane is given is this state with what the node knows better: which of its own tasks take connections
at this moment; and, while no manager is there, which backends elsewhere do not answer.
"""

from __future__ import annotations

SINGLE = ("node", "egress")
LISTED = ("peers", "networks", "vips", "ports", "tasks", "names")
BALANCED = ("vips", "ports")
EGRESS = "swgw"
PING = 0  # stands for a port where none is known: the address is asked for an ICMP echo
# How a task of this node stands, where it does not simply take connections.
DRAINS, OUT = "drains", "out"


class BadChange(Exception):
    """A part of a network state cannot be read; the message names the field."""


class Held:
    """One network state. Never changed: `changed` gives another one that shares what stayed the same."""

    def __init__(self) -> None:
        self.single: dict = {}  # node, egress
        self.tables: dict = {section: {} for section in LISTED}  # each: key -> entry

    @classmethod
    def of(cls, whole: dict) -> Held:
        """The state that `whole` gave. Raises BadChange."""
        return cls().changed(whole, {})

    def changed(self, put: dict, drop: dict) -> Held:
        """The state after a part of the manager's; what is dropped is dropped first. Raises BadChange."""
        made = Held()
        made.single = {**self.single, **{key: _entry(key, put[key]) for key in SINGLE if key in put}}
        for section, before in self.tables.items():
            entries, keys = _list("put", put, section), _list("drop", drop, section)
            after = made.tables[section] = dict(before) if entries or keys else before
            for key in keys:
                after.pop(_dropped(section, key), None)
            for entry in entries:
                after[_key(section, entry)] = entry
        return made

    def whole(self) -> dict:
        """All of it in the form of `put`."""
        return {**self.single, **{section: list(table.values()) for section, table in self.tables.items()}}

    @property
    def empty(self) -> bool:
        """Nothing of ours is to be on the node."""
        return not any(self.tables[section] for section in ("networks", "ports", "tasks"))

    def has_network(self, name: str) -> bool:
        """Whether this node was told of a network, by the Engine's name for it."""
        if name == EGRESS:
            return not self.empty
        return any(one.get("name") == name for one in self.tables["networks"].values())

    def effective(self, standing: dict, silent: dict) -> dict:
        """What the data plane is to make of it.

        `standing`: task id -> DRAINS or OUT. `silent`: (address, port) -> when it fell silent, above 0. If all
        backends of an entry are silent, the one stays that was heard last: it is better than none.
        """
        state = {"v": 1, **self.single, **{section: list(self.tables[section].values()) for section in LISTED}}
        if standing or silent:
            for section in BALANCED:
                state[section] = [_standing_entry(entry, standing, silent) for entry in state[section]]
        state["names"] = []  # the DNS server has them
        return state

    def around(self, put: dict, drop: dict) -> dict:
        """What of this state is to be checked after a change: all, where other entries hang on what changed.

        Raises BadChange for what can be seen only beside the rest.
        """
        if {"node", "egress", "peers", "networks"} & {*put, *drop}:
            return self.effective({}, {})
        for section, other in (BALANCED, BALANCED[::-1]):
            for entry in put.get(section) or ():
                if entry["id"] in self.tables[other]:
                    raise BadChange(f"id {entry['id']} is in {section} and in {other}")
        state = {"v": 1, **self.single, **{section: list(put.get(section) or ()) for section in LISTED}}
        for section in ("peers", "networks"):
            state[section] = list(self.tables[section].values())
        return state


def _standing_entry(entry: dict, standing: dict, silent: dict) -> dict:
    dests = entry["dests"]
    if not any(one.get("task") in standing for one in dests) and not silent:
        return entry
    kept = []
    for dest in dests:
        is_so = standing.get(dest.get("task"))
        if is_so != OUT:
            kept.append({**dest, "weight": 0} if is_so == DRAINS else dest)
    if silent:
        since = {id(one): _silent_since(one, entry, silent) for one in kept if one["weight"] > 0}
        if since and all(since.values()):
            last = max(since, key=lambda one: since[one])
            since[last] = 0
        kept = [one for one in kept if not since.get(id(one))]
    return {**entry, "dests": kept}


def _silent_since(dest: dict, entry: dict, silent: dict) -> float:
    """Since when none of its ports answers; 0 if one does.

    A declared port that nobody serves, as 443 of many images, is silent at each backend: it says nothing of any.
    """
    since = [silent.get(place, 0) for place in _places(dest, entry)]
    return max(since) if all(since) else 0


def _places(dest: dict, entry: dict) -> list:
    return [(dest["address"], port) for port in entry.get("tcp_ports") or (PING,)]


def probed(held: Held, own_tasks) -> list:
    """(address, port) of backends elsewhere that take new connections, each once, in the order of the state.

    What only a name leads to is among them, with PING for its port, if the name leads to others as well.
    """
    found: dict = {}
    for section in BALANCED:
        for entry in held.tables[section].values():
            for dest in entry["dests"]:
                if dest["weight"] > 0 and dest.get("task") not in own_tasks:
                    found.update(dict.fromkeys(_places(dest, entry)))
    known = {address for address, _ in found}
    for entry in held.tables["names"].values():
        tasks = entry.get("tasks") or ()
        for task in tasks if len(tasks) > 1 else ():
            if task["id"] not in own_tasks and task["address"] not in known:
                found[task["address"], PING] = None
    return list(found)


def unnamed(held: Held, own_tasks, standing: dict, silent: dict) -> dict:
    """Tasks that no name is to lead to, as `standing` or, of those elsewhere, OUT.

    Silent is a task if all is that is probed at its address. As with backends, if no other is left, one stays.
    """
    if not silent:
        return standing
    since: dict = {}  # address -> of each of its ports
    for place in probed(held, own_tasks):
        since.setdefault(place[0], []).append(silent.get(place, 0))
    gone: dict = {}
    kept = set()
    for entry in held.tables["names"].values():
        tasks = [one for one in entry.get("tasks") or () if one["id"] not in standing]
        quiet = {one["id"]: max(times) for one in tasks if all(times := since.get(one["address"], (0,)))}
        gone.update(quiet)
        kept.update(one["id"] for one in tasks if one["id"] not in quiet)
        if quiet and len(quiet) == len(tasks):
            kept.add(max(quiet, key=lambda one: quiet[one]))
    return {**standing, **{task_id: OUT for task_id in gone if task_id not in kept}}


def with_standing(names: list, standing: dict) -> list:
    """Entries of `names` without the tasks that take no connections."""
    return [
        {**one, "tasks": [task for task in one["tasks"] if task["id"] not in standing]}
        if any(task["id"] in standing for task in one.get("tasks") or ())
        else one
        for one in names
    ]


def named(held: Held, task_ids):
    """(network, service, entry of the task) in `names` of each of these tasks."""
    for (network, service), entry in held.tables["names"].items():
        for task in entry.get("tasks") or ():
            if task["id"] in task_ids:
                yield network, service, task


def _list(kind: str, given: dict, section: str) -> list:
    found = given.get(section)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadChange(f"field {kind}.{section} is no list")
    return found


def _entry(section: str, entry) -> dict:
    if not isinstance(entry, dict):
        raise BadChange(f"an entry of {section} is no object")
    return entry


def _key(section: str, entry):
    """The key of an entry, which is checked as far as what is here looks into it."""
    _entry(section, entry)
    try:
        if section == "names":
            key = (entry["network"], entry["service"])
            [(task["id"], hash(task["address"])) for task in entry.get("tasks") or ()]
        else:
            key = entry["n" if section == "peers" else "id"]
        if section in BALANCED:
            for dest in entry["dests"]:
                _check_dest(dest)
            for port in entry.get("tcp_ports") or ():
                if not isinstance(port, int):
                    raise TypeError("a port is no number")
        hash(key)
    except (KeyError, TypeError, AttributeError) as e:
        raise BadChange(f"an entry of {section} cannot be read: {type(e).__name__}: {e}") from e
    return key


def _check_dest(dest: dict) -> None:
    if not isinstance(dest["address"], str) or not isinstance(dest["weight"], int):
        raise TypeError("a backend's address is no text, or its weight no number")
    hash(dest.get("task"))


def _dropped(section: str, key):
    try:
        found = (key[0], key[1]) if section == "names" else key
        hash(found)
    except (TypeError, IndexError, KeyError) as e:
        raise BadChange(f"a key of drop.{section} cannot be read: {e}") from e
    return found
