"""Keys between the nodes of encrypted networks: who shares which, in which epoch they send, what they still hear.

Each pair of nodes with a common encrypted network has keys of its own for each direction, new ones for each epoch.
An epoch goes through three steps, each when what it needs was acknowledged, pair by pair:

1. both ends are told the keys, and hear the new epoch besides the old one;
2. an end whose peer hears the new epoch sends in it;
3. when both send in it, and what was under way has arrived, the old one is dropped.

A manager that starts anew knows no keys. Its first epoch takes the place of what the ends may still have, in the
same three steps: until the third they are told to keep that.

A node that is away keeps its pairs at the step they are at. One that was rebooted never gets old keys again, for
AES-GCM would count from the start with them: its pairs have none until the next epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from heapq import heappop, heappush

from swarmsh.model.netstate import EspEpoch, EspKeys, EspPeer, PeerNode

Pair = tuple[str, str]  # ids of two nodes, the lower first
LINGER_S = 5.0  # packets of the old epoch may be under way for that long
ROTATE_S = 12 * 3600.0
SPI_EPOCHS = 4096  # an SPI has an epoch's number modulo this one, and no pair may have two of one SPI


def pair_of(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _other(pair: Pair, node_id: str) -> str:
    return pair[1] if pair[0] == node_id else pair[0]


@dataclass(slots=True)
class _Epoch:
    number: int
    keys: Mapping[str, str] = field(repr=False)  # by the node that sends with it


@dataclass(slots=True)
class _Between:
    """What a pair has; epochs oldest first."""

    epochs: list[_Epoch] = field(default_factory=list)
    drop_at: float | None = None  # when all but the newest go
    renew_at: float | None = None  # None: there is none yet
    listed: bool = False  # among the renewals, perhaps too early: so it is there once however often it begins
    keeps: bool = False  # the ends may have an epoch of a former manager, which goes with the old ones
    told: dict[str, EspPeer] = field(default_factory=dict, repr=False)  # what each end is told, made when asked


@dataclass(frozen=True, slots=True)
class _Held:
    """What a node acknowledged of one peer."""

    sends: int = 0
    hears: frozenset[int] = frozenset()


_NOTHING = _Held()


# At; a number that no other has, for what cannot be compared follows; the pair, and what it had then.
_Timer = tuple[float, int, Pair, _Between]


def _newest(between: _Between) -> int:
    """0 if there is none yet."""
    return between.epochs[-1].number if between.epochs else 0


@dataclass(slots=True)
class KeyRing:
    """The keys of the whole cluster, in this process alone. Times are of a clock that never jumps.

    `wanting`: pairs that need a new epoch. What methods return are the nodes whose keys may have changed.
    """

    wanting: set[Pair] = field(default_factory=set)
    _nodes: dict[str, PeerNode] = field(default_factory=dict)
    _closed: frozenset[str] = frozenset()  # nodes with an encrypted network
    _pairs: dict[Pair, _Between] = field(default_factory=dict)
    _of: dict[str, dict[str, _Between]] = field(default_factory=dict)  # the same by node, and its peer
    # Last acknowledged by the node, since it booted; by the peer's number.
    _given: dict[str, dict[int, _Held]] = field(default_factory=dict)
    _boots: dict[str, str] = field(default_factory=dict)
    _wanted: dict[str, EspKeys] = field(default_factory=dict)  # what `wanted` found, until something of it changes
    # When pairs are to be looked at, the next first; what a pair does not say of itself any more is passed over.
    _drops: list[_Timer] = field(default_factory=list)
    _renewals: list[_Timer] = field(default_factory=list)
    _timers: int = 0

    # --- what the keys are for ---
    def follow(self, nodes: Mapping[str, PeerNode], closed: Set[str], pairs: Set[Pair]) -> set[str]:
        """`closed` nodes have an encrypted network, `pairs` of them a common one."""
        changed = set(closed ^ self._closed)
        for pair in pairs ^ self._pairs.keys():
            changed.update(pair)
            if pair in pairs:
                self._add(pair)
            else:
                self._remove(pair)
        for node_id in self._nodes.keys() | nodes.keys():
            if self._nodes.get(node_id) != nodes.get(node_id):
                changed.add(node_id)
                for peer_id, between in self._of.get(node_id, {}).items():
                    changed.add(peer_id)
                    between.told.clear()
        self._nodes, self._closed = dict(nodes), frozenset(closed)
        # Which boot it was is remembered: one that lost its address may have it back within its session, and
        # reboot after that.
        for gone in self._given.keys() - nodes.keys():
            del self._given[gone]
        return self._forget(changed)

    def _add(self, pair: Pair) -> None:
        low, high = pair
        between = self._pairs[pair] = _Between(keeps=True)
        self._of.setdefault(low, {})[high] = self._of.setdefault(high, {})[low] = between
        self.wanting.add(pair)

    def _remove(self, pair: Pair) -> None:
        low, high = pair
        del self._pairs[pair]
        self.wanting.discard(pair)
        for one, other in ((low, high), (high, low)):
            del self._of[one][other]
            if not self._of[one]:
                del self._of[one]

    def _forget(self, changed: set[str]) -> set[str]:
        """What these nodes are to have is made again when it is asked for."""
        for node_id in changed:
            self._wanted.pop(node_id, None)
        return changed

    def boot(self, node_id: str) -> str:
        """The kernel's boot that the node's keys are for; "" if it is not known."""
        return self._boots.get(node_id, "")

    def booted(self, node_id: str, boot_id: str) -> set[str]:
        """The node's kernel, as a session begins: another one than before, or one that cannot be told from it."""
        known, before = node_id in self._boots, self._boots.get(node_id)
        self._boots[node_id] = boot_id
        if not known or (boot_id and boot_id == before):
            return set()
        self._given.pop(node_id, None)
        peers = self._of.get(node_id, {})
        for between in peers.values():
            between.epochs, between.drop_at, between.renew_at, between.keeps = [], None, None, False
            between.told.clear()
        self._forget({node_id, *peers})
        return self._renew(pair_of(node_id, peer_id) for peer_id in peers)

    def renew_all(self) -> set[str]:
        """A rotation is asked for, or due."""
        return self._renew(self._pairs)

    def lost(self, node_id: str, numbers: Iterable[int]) -> set[str]:
        """What the node has with these peers can be used no longer. Pairs that are being renewed need no more."""
        ids = {node.n: i for i, node in self._nodes.items()}
        pairs = [pair_of(node_id, ids[n]) for n in numbers if n in ids and ids[n] != node_id]
        there = [pair for pair in pairs if pair in self._pairs]
        return self._renew(p for p in there if self._newest(p) == self._held(node_id, _other(p, node_id)).sends)

    def _renew(self, pairs: Iterable[Pair]) -> set[str]:
        wanting = set(pairs)
        self.wanting |= wanting
        return {node_id for pair in wanting for node_id in pair}

    def _newest(self, pair: Pair) -> int:
        return _newest(self._pairs[pair])

    def newest(self) -> dict[Pair, int]:
        """The number of each pair's newest epoch; 0 where it has none yet."""
        return {pair: self._newest(pair) for pair in self._pairs}

    def renewed(self, pair: Pair, before: int) -> bool:
        """Whether both ends are known to send in a newer epoch than this; so for a pair that is none any more."""
        if pair not in self._pairs:
            return True
        (low, high), newest = pair, self._newest(pair)
        return before < newest == self._held(low, high).sends == self._held(high, low).sends

    def behind(self, before: Mapping[Pair, int]) -> set[str]:
        """Of pairs that had these as their newest epochs: nodes that keep their pair from sending in a newer one.

        A node that has not acknowledged that it hears it keeps its peer from sending, and is named alone.
        """
        found: set[str] = set()
        for pair in before.keys() & self._pairs.keys():
            newest = self._newest(pair)
            if newest <= before[pair]:
                found.update(pair)  # no number yet: the store's trouble
                continue
            ends = {end: self._held(end, _other(pair, end)) for end in pair}
            deaf = {end for end, held in ends.items() if newest not in held.hears}
            found |= deaf or {end for end, held in ends.items() if held.sends != newest}
        return found

    # --- epochs ---
    def begin(self, epoch: int, new_key: Callable[[], str], now: float) -> set[str]:
        """Begin an epoch, higher than any before, for the pairs that want one. `new_key` gives 40 hex digits.

        Those still want one that have an epoch of the same SPI, 4096 epochs ago: the next will do for them.
        """
        wanting, self.wanting = self.wanting, set()
        begun: set[str] = set()
        for pair in sorted(wanting):
            between, (low, high) = self._pairs[pair], pair
            held = self._held(low, high), self._held(high, low)
            used, heard = [h.sends for h in held], held[0].hears | held[1].hears
            if not any(used):  # what one hears the other may have been told to send in, and not have answered yet
                used = [e.number for e in between.epochs if e.number in heard]
            # Older ones, and those that never came to be used, are not needed by anybody.
            needed = [e for e in between.epochs if used and e.number >= min(used)]
            if any(e.number % SPI_EPOCHS == epoch % SPI_EPOCHS for e in needed):
                self.wanting.add(pair)
                continue
            between.epochs = [*needed, _Epoch(epoch, {low: new_key(), high: new_key()})]
            between.drop_at, between.renew_at = None, now + ROTATE_S
            if not between.listed:
                between.listed = True
                self._list(self._renewals, between.renew_at, pair, between)
            between.told.clear()
            begun.update(pair)
        return self._forget(begun)

    def _held(self, node_id: str, peer_id: str) -> _Held:
        """What the node last acknowledged of the peer."""
        return self._given.get(node_id, {}).get(self._nodes[peer_id].n, _NOTHING)

    # --- nodes ---
    def wanted(self, node_id: str) -> EspKeys | None:
        """All that the node is to have; None if it never needed any. The same object until that changes."""
        own = self._nodes.get(node_id)
        if own is None or (node_id not in self._closed and node_id not in self._given):
            return None
        if node_id not in self._wanted:
            peers = (self._peer(node_id, peer_id, b) for peer_id, b in self._of.get(node_id, {}).items())
            self._wanted[node_id] = EspKeys(
                n=own.n,
                address=own.underlay,
                closed=node_id in self._closed,
                peers=tuple(sorted(peers, key=lambda p: p.n)),
            )
        return self._wanted[node_id]

    def nothing(self, node_id: str) -> EspKeys | None:
        """What ends whatever the node may have of another manager's; None if it has no address for others."""
        own = self._nodes.get(node_id)
        return EspKeys(n=own.n, address=own.underlay, closed=False) if own is not None else None

    def _peer(self, node_id: str, peer_id: str, between: _Between) -> EspPeer:
        if node_id not in between.told:
            other = self._nodes[peer_id]
            between.told[node_id] = EspPeer(
                n=other.n,
                address=other.underlay,
                sends=self._may_send(between, self._held(peer_id, node_id)),
                epochs=tuple(
                    EspEpoch(epoch=e.number, inbound=e.keys[peer_id], outbound=e.keys[node_id])
                    for e in between.epochs
                ),
                keep=between.keeps,
            )
        return between.told[node_id]

    def _may_send(self, between: _Between, peer: _Held) -> int:
        """The newest epoch that the peer is known to hear; 0 for none."""
        return next((e.number for e in reversed(between.epochs) if e.number in peer.hears), 0)

    def acknowledged(self, node_id: str, keys: EspKeys, now: float) -> set[str]:
        """The node has these keys. Named are its peers that may send to it in another epoch now."""
        number = self._nodes[node_id].n if node_id in self._nodes else 0
        before = self._given.pop(node_id, {})
        given = {p.n: _Held(p.sends, frozenset(e.epoch for e in p.epochs)) for p in keys.peers}
        if keys.closed:
            self._given[node_id] = given
        changed: set[str] = set()
        for peer_id, between in self._of.get(node_id, {}).items():
            peer = self._nodes[peer_id].n
            held, newest = given.get(peer, _NOTHING), _newest(between)
            if held == before.get(peer, _NOTHING):
                continue
            told = between.told.get(peer_id)
            if told is None or told.sends != self._may_send(between, held):
                between.told.pop(peer_id, None)
                changed.add(peer_id)
            both = newest and held.sends == newest == self._given.get(peer_id, {}).get(number, _NOTHING).sends
            if both and (len(between.epochs) > 1 or between.keeps) and between.drop_at is None:
                between.drop_at = now + LINGER_S
                self._list(self._drops, between.drop_at, pair_of(node_id, peer_id), between)
        return self._forget(changed)

    # --- time ---
    def due_at(self) -> float | None:
        """When the next old epoch is to be dropped, or to be followed by a new one."""
        while self._drops and not (self._is(timer := self._drops[0]) and timer[3].drop_at == timer[0]):
            heappop(self._drops)
        while self._renewals and not (self._is(timer := self._renewals[0]) and timer[3].renew_at == timer[0]):
            self._put_off(heappop(self._renewals))
        return min((heap[0][0] for heap in (self._drops, self._renewals) if heap), default=None)

    def _list(self, heap: list[_Timer], at: float, pair: Pair, between: _Between) -> None:
        self._timers += 1
        heappush(heap, (at, self._timers, pair, between))

    def _is(self, timer: _Timer) -> bool:
        """Whether the pair is still what it was then."""
        return self._pairs.get(timer[2]) is timer[3]

    def _put_off(self, timer: _Timer) -> None:
        """A renewal whose time was not yet the pair's."""
        _, _, pair, between = timer
        between.listed = self._is(timer) and between.renew_at is not None
        if between.listed and between.renew_at is not None:
            self._list(self._renewals, between.renew_at, pair, between)

    def renew_old(self, now: float) -> None:
        """Let pairs want a new epoch that have had theirs for long enough.

        Not those of which an end does not send in the newest yet: it is away, and would find one more each time.
        """
        while self._renewals and self._renewals[0][0] <= now:
            timer = heappop(self._renewals)
            _, _, pair, between = timer
            due = self._is(timer) and between.renew_at is not None and between.renew_at <= now
            if due and self.renewed(pair, 0):
                between.listed = False
                self.wanting.add(pair)
            else:
                if due:
                    between.renew_at = now + ROTATE_S
                self._put_off(timer)

    def drop(self, now: float) -> set[str]:
        """Drop what both ends have ceased to send in long enough ago."""
        changed: set[str] = set()
        while self._drops and self._drops[0][0] <= now:
            timer = heappop(self._drops)
            at, _, pair, between = timer
            if self._is(timer) and between.drop_at == at:
                between.epochs, between.drop_at, between.keeps = between.epochs[-1:], None, False
                between.told.clear()
                changed.update(pair)
        return self._forget(changed)
