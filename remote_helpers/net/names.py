"""Who may know which name: the part of a node's network state that its DNS server answers from. No I/O.

A table is made of the whole network state, or changed by `{"put": {…}, "drop": {…}}`, whose `put` has the shape of
the state: what it holds takes the place of what had the same key. What is dropped is dropped first.

* `networks` (key `id`): here `dns_name` (`name` if there is none) and `subnet` count.
* `tasks` (key `id`): `addresses`, all that the task's container has. Each of them names the asker; those in the
  subnet of a network make the container a member of it, in their order. A task with an address of the egress pool
  may ask for names of the outside world, one on internal networks alone may not.
* `names` (key `network`, `service`): one service in one network:
  `{"network": id, "service": id, "names": ["web", <aliases>], "vip": "10.50.128.5",
    "tasks": [{"id": id, "address": "10.50.1.2", "names": [<container and host names>]}]}`.
  `vip` is empty for the endpoint mode dnsrr. `tasks` are those of all nodes that take connections. What has no
  service (an attached container) is one with an id of its own and no names.
* `name_tasks`: `{"network", "service", "task": {…}}`, one task of one of `names`. It is dropped as
  `[network, service, task id]`, an entry of `names` as `[network, service]`, others as their id.

In each network a name of `names` is the VIP or else all tasks, `tasks.NAME` all tasks, a name of a task that task.
`NAME.NETWORK` is NAME in that network alone, as Docker has it. A name in several networks of the asker is taken
from the first; in one network two services of one name answer together.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field

from .dnswire import canonical

FRONT, TASKS = "", "tasks."  # what a record stands for, if not for one task by its id
LONGEST = 253  # of a name as text


class BadNames(Exception):
    """The state or a change cannot be read; the table is as it was."""


@dataclass(frozen=True)
class Asker:
    """What the source address of a question tells."""

    networks: tuple = ()  # ids, in the order of the container's addresses
    outside: bool = True  # may ask for names that are none of ours


@dataclass
class _Task:
    address: str
    packed: bytes
    names: tuple


@dataclass
class _Service:
    network: str
    id: str
    names: tuple
    vip: str
    tasks: dict = field(default_factory=dict)  # id -> _Task

    def addresses(self, part: str) -> list:
        """Packed addresses that a record with this part stands for."""
        if part == FRONT and self.vip:
            return [socket.inet_aton(self.vip)]
        if part in (FRONT, TASKS):
            return [task.packed for task in self.tasks.values()]
        return [self.tasks[part].packed]

    def own_records(self):
        """(name, part) of what is there without any task."""
        for name in self.names:
            yield name, FRONT
            yield TASKS + name, TASKS

    def task_records(self, task_id: str):
        for name in self.tasks[task_id].names:
            yield name, task_id


class Names:
    """The table. Changes cost what they hold, look-ups nothing that grows with the table."""

    def __init__(self, state: dict | None = None) -> None:
        self._pools: list = []
        self._networks: dict = {}  # id -> (name, subnet)
        self._tasks: dict = {}  # id -> addresses
        self._sources: dict = {}  # address -> task id
        self._services: dict = {}  # (network, service) -> _Service
        self._records: dict = {}  # (network, name) -> [(_Service, part)]
        self._pointers: dict = {}  # (network, address) -> [(_Service, part)]
        self._askers: dict = {}  # address -> Asker, worked out when first asked for
        if state:
            self._fill(state)

    def _fill(self, state: dict) -> None:
        try:
            pool = (state.get("egress") or {}).get("pool")
            self._pools = [ipaddress.IPv4Network(pool)] if pool else []
        except (ValueError, TypeError, AttributeError) as e:
            raise BadNames(f"egress pool: {e}") from e
        self.change({"put": {key: state.get(key) or [] for key in ("networks", "tasks", "names")}})

    # --- changes ----------------------------------------------------------------------------------------------
    def change(self, change: dict) -> None:
        """Take all of a change or, raising BadNames, nothing of it. Dropping what is not there is no error."""
        try:
            put, drop = change.get("put") or {}, change.get("drop") or {}
            networks = {one["id"]: _network(one) for one in put.get("networks") or ()}
            tasks = {one["id"]: [_address(a) for a in one["addresses"]] for one in put.get("tasks") or ()}
            services = [_service(one) for one in put.get("names") or ()]
            parts = [(one["network"], one["service"], _task(one["task"])) for one in put.get("name_tasks") or ()]
            drops = {key: list(drop.get(key) or ()) for key in ("networks", "tasks", "names", "name_tasks")}
            pairs = [(network, service) for network, service in drops["names"]]
            triples = [(network, service, task_id) for network, service, task_id in drops["name_tasks"]]
            hash((*drops["networks"], *drops["tasks"], *pairs, *triples))
            kept = {(one.network, one.id) for one in services}
            for network, service, (task_id, _) in parts:
                key = (network, service)
                if key not in kept and (key in pairs or key not in self._services):
                    raise ValueError(f"task {task_id}: service {service} has no names in network {network}")
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise BadNames(f"{type(e).__name__}: {e}") from e
        self._drop(drops["networks"], drops["tasks"], pairs, triples)
        self._networks.update(networks)
        for task_id, addresses in tasks.items():
            self._put_task(task_id, addresses)
        for service in services:
            self._remove_service((service.network, service.id))
            self._services[service.network, service.id] = service
            self._enter(service, service.own_records(), service.vip, FRONT)
            for task_id, task in service.tasks.items():
                self._enter(service, service.task_records(task_id), task.address, task_id)
        for network, service_id, (task_id, task) in parts:
            self._put_name_task(self._services[network, service_id], task_id, task)
        self._askers.clear()

    def _drop(self, networks: list, tasks: list, pairs: list, triples: list) -> None:
        for network in networks:
            self._networks.pop(network, None)
        for task_id in tasks:
            self._remove_task(task_id)
        for pair in pairs:
            self._remove_service(pair)
        for network, service_id, task_id in triples:
            service = self._services.get((network, service_id))
            if service is not None:
                self._remove_name_task(service, task_id)

    def _put_task(self, task_id: str, addresses: list) -> None:
        self._remove_task(task_id)
        self._tasks[task_id] = addresses
        for address in addresses:
            self._sources[address] = task_id

    def _remove_task(self, task_id: str) -> None:
        for address in self._tasks.pop(task_id, ()):
            if self._sources.get(address) == task_id:  # else a newer task has it by now
                del self._sources[address]

    def _remove_service(self, key: tuple) -> None:
        service = self._services.pop(key, None)
        if service is None:
            return
        for task_id in list(service.tasks):
            self._remove_name_task(service, task_id)
        self._forget(service, service.own_records(), service.vip, FRONT)

    def _put_name_task(self, service: _Service, task_id: str, task: _Task) -> None:
        self._remove_name_task(service, task_id)
        service.tasks[task_id] = task
        self._enter(service, service.task_records(task_id), task.address, task_id)

    def _remove_name_task(self, service: _Service, task_id: str) -> None:
        if task_id in service.tasks:
            self._forget(service, service.task_records(task_id), service.tasks[task_id].address, task_id)
            del service.tasks[task_id]

    def _enter(self, service: _Service, records, address: str, part: str) -> None:
        for name, of in records:
            self._records.setdefault((service.network, name), []).append((service, of))
        if address:
            self._pointers.setdefault((service.network, address), []).append((service, part))

    def _forget(self, service: _Service, records, address: str, part: str) -> None:
        places = [(self._records, (service.network, name), of) for name, of in records]
        places.append((self._pointers, (service.network, address), part))
        for index, key, of in places:
            left = [one for one in index.get(key, ()) if one[0] is not service or one[1] != of]
            if left:
                index[key] = left
            else:
                index.pop(key, None)

    # --- look-ups ---------------------------------------------------------------------------------------------
    def asker(self, source: str) -> Asker | None:
        """Who asks from this address; None if it is nobody whom this server serves."""
        found = self._askers.get(source)
        if found is None:
            task_id = self._sources.get(source)
            if task_id is None:
                return Asker() if self._in_pool(source) else None  # not kept: there may be many
            found = self._askers[source] = self._member(self._tasks[task_id])
        return found

    def task_of(self, source: str) -> str | None:
        """The id of the task that has this address."""
        return self._sources.get(source)

    def _member(self, addresses: list) -> Asker:
        networks: list = []
        for address in addresses:
            for network, (_, subnet) in self._networks.items():
                if ipaddress.IPv4Address(address) in subnet and network not in networks:
                    networks.append(network)
        return Asker(tuple(networks), outside=any(map(self._in_pool, addresses)))

    def _in_pool(self, address: str) -> bool:
        try:
            packed = ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return any(packed in pool for pool in self._pools)

    def addresses(self, name: str, networks: tuple) -> list | None:
        """Packed addresses of a name (as `canonical` gives it), each once; None if it is not known there."""
        for network in networks:
            found = self._in_network(name, network)
            if found is not None:
                return found
        for network in networks:
            ending = "." + self._network_name(network)
            if name.endswith(ending):
                found = self._in_network(name[: -len(ending)], network)
                if found is not None:
                    return found
        return None

    def _in_network(self, name: str, network: str) -> list | None:
        records = self._records.get((network, name))
        if records is None:
            return None
        found: dict = {}
        for service, part in records:
            found.update(dict.fromkeys(service.addresses(part)))
        return list(found)

    def _network_name(self, network: str) -> str:
        return self._networks[network][0] if network in self._networks else ""

    def pointer(self, address: str, networks: tuple) -> str:
        """The name of a VIP or a task's address, `NAME.NETWORK`; "" if none of the networks knows it."""
        for network in networks:
            for service, part in self._pointers.get((network, address), ()):
                names = service.names if part == FRONT else service.tasks[part].names + service.names
                if names:
                    whole = f"{names[0]}.{self._network_name(network)}".rstrip(".")
                    return whole if len(whole) <= LONGEST else names[0]
        return ""

    def is_secret(self, name: str) -> bool:
        """Whether a name that the asker does not know must not be asked for elsewhere either.

        So are single labels that other networks of this node know, and `tasks.` before one of them. A longer name
        may be one of the outside world that somebody uses as an alias in their network.
        """
        base = name[len(TASKS) :] if name.startswith(TASKS) else name
        return "." not in base and any((network, base) in self._records for network in self._networks)

    def is_ours(self, address: str) -> bool:
        """Whether an address lies in the egress pool or one of the networks: nobody else has a name for it."""
        try:
            packed = ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return self._in_pool(address) or any(packed in subnet for _, subnet in self._networks.values())


def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(_text(text)))


def _text(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _network(one: dict) -> tuple:
    return canonical(_text(one.get("dns_name", one["name"]))), ipaddress.IPv4Network(one["subnet"])


def check_names(entries: list) -> None:
    """Raises BadNames for entries of `names` that no table can take."""
    try:
        for one in entries:
            _service(one)
    except (KeyError, ValueError, TypeError, AttributeError) as e:
        raise BadNames(f"{type(e).__name__}: {e}") from e


def _service(one: dict) -> _Service:
    vip = one.get("vip") or ""
    return _Service(
        network=_text(one["network"]),
        id=_text(one["service"]),
        names=_names(one.get("names") or ()),
        vip=_address(vip) if vip else "",
        tasks=dict(_task(task) for task in one.get("tasks") or ()),
    )


def _task(one: dict) -> tuple:
    address = _address(one["address"])
    if one["id"] in (FRONT, TASKS):
        raise ValueError("a task without an id")
    return _text(one["id"]), _Task(address, socket.inet_aton(address), _names(one.get("names") or ()))


def _names(names) -> tuple:
    """Each once, in the form of questions; what no question can hold is left out."""
    return tuple(dict.fromkeys(name for name in map(canonical, map(_text, names)) if name))
