"""Who holds which address or mark: an index of the stored objects, kept step by step, never stored itself.

A pool is a set of numbers. That of a network has the addresses in it (its VIPs and its tasks' alike), that of all
egress subnets together the tasks' addresses there, both by their low 16 bits; a third one has the marks. Published
ports are numbers of the pool of their protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

import msgspec
from immutables import Map

from swarmsh.model.objects import Release, Service, Task

EGRESS, MARKS = "egress", "marks"  # beside those of networks, which have the networks' ids
# Numbers of removed nodes, that have left for certain and that may still run. Nobody living holds any of these.
NODES, LOST_NODES = "nodes", "lost-nodes"
BALANCED = ("tcp", "udp")  # protocols of published ports; pools of these names, too
_LOW = 0xFFFF  # no subnet has more addresses


class Holding(msgspec.Struct, frozen=True):
    holder: str  # id of a service or a task
    released_at: float | None = None  # of one that ended, or is gone: not given again for a while


class Pool(msgspec.Struct, frozen=True):
    holdings: Map[int, Holding] = Map()
    taken: int = 0  # bit n: there is a holding of n. The lowest free number is found without a walk.


Pools = Map[str, Pool]
Claim = tuple[str, int]  # pool, number


def key_of(address: str) -> int:
    """An IPv4 address as a number of its pool."""
    return int(IPv4Address(address)) & _LOW


def claims_of(holder: Service | Task) -> Iterator[Claim]:
    """All that an object holds."""
    if isinstance(holder, Task):
        for given in holder.addresses:
            yield given.network_id, key_of(given.address)
        if holder.egress_address:
            yield EGRESS, key_of(holder.egress_address)
        return
    for vip in holder.endpoint.virtual_ips:
        yield vip.network_id, key_of(vip.address)
        yield MARKS, vip.mark
    for port in holder.endpoint.ports:
        yield MARKS, port.mark
        yield port.protocol, port.published_port


def released_at(holder: Service | Task) -> float | None:
    """When an object that is still there gave up what it holds: a task at its end, a service never."""
    ended = isinstance(holder, Task) and holder.status.state.terminal
    return holder.status.since if ended and isinstance(holder, Task) else None


def follow(pools: Pools, before: Service | Task | None, after: Service | Task | None) -> Pools:
    """The pools after an object changed; most changes of objects concern none."""
    kept = set() if after is None else set(claims_of(after))
    had = set() if before is None else set(claims_of(before))
    if before is not None and after is not None and had == kept and released_at(before) == released_at(after):
        return pools
    if before is not None:
        for pool, key in had - kept:
            pools = _drop(pools, pool, key, before.id)
    if after is not None:
        for pool, key in kept:
            pools = _hold(pools, pool, key, Holding(after.id, released_at(after)))
    return pools


def follow_releases(pools: Pools, put: Iterable[Release], deleted: Iterable[Release]) -> Pools:
    for release in deleted:
        known = pools.get(release.pool, Pool()).holdings.get(release.key)
        # The one who had it may have it again: then there is nothing to forget of it.
        if known is not None and known.released_at is not None:
            pools = _drop(pools, release.pool, release.key, release.holder)
    for release in put:
        pools = _hold(pools, release.pool, release.key, Holding(release.holder, release.released_at))
    return pools


def _hold(pools: Pools, pool: str, key: int, holding: Holding) -> Pools:
    """Note a holding. Of two, a living one counts, else the later one: so the order of notes does not matter."""
    known = pools.get(pool, Pool())
    present = known.holdings.get(key)
    if present is not None and present.holder != holding.holder and _rank(present) >= _rank(holding):
        return pools
    return pools.set(pool, Pool(known.holdings.set(key, holding), known.taken | 1 << key))


def _rank(holding: Holding) -> tuple[float, str]:
    return float("inf") if holding.released_at is None else holding.released_at, holding.holder


def _drop(pools: Pools, pool: str, key: int, holder: str) -> Pools:
    known = pools.get(pool)
    if known is None or key not in known.holdings or known.holdings[key].holder != holder:
        return pools
    rest = known.holdings.delete(key)
    return pools.set(pool, Pool(rest, known.taken & ~(1 << key))) if rest else pools.delete(pool)
