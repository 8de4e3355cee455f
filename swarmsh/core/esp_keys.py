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

from swarmsh.model.netstate import EspEpoch, EspKeys, EspPeer, PeerNode

Pair = tuple[str, str]  # ids of two nodes, the lower first
LINGER_S = 5.0  # packets of the old epoch may be under way for that long
ROTATE_S = 12 * 3600.0


def pair_of(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


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
    keeps: bool = False  # the ends may have an epoch of a former manager, which goes with the old ones


@dataclass(slots=True)
class KeyRing:
    """The keys of the whole cluster, in this process alone. Times are of a clock that never jumps.

    `wanting`: pairs that need a new epoch. What methods return are the nodes whose keys may have changed.
    """

    wanting: set[Pair] = field(default_factory=set)
    _nodes: dict[str, PeerNode] = field(default_factory=dict)
    _closed: frozenset[str] = frozenset()  # nodes with an encrypted network
    _pairs: dict[Pair, _Between] = field(default_factory=dict)
    _given: dict[str, EspKeys] = field(default_factory=dict)  # last acknowledged by the node, since it booted
    _boots: dict[str, str] = field(default_factory=dict)

    # --- what the keys are for ---
    def follow(self, nodes: Mapping[str, PeerNode], closed: Set[str], pairs: Set[Pair]) -> set[str]:
        """`closed` nodes have an encrypted network, `pairs` of them a common one."""
        changed = set(closed ^ self._closed)
        for node_id in self._nodes.keys() | nodes.keys():
            if self._nodes.get(node_id) != nodes.get(node_id):
                changed.update(n for pair in pairs | self._pairs.keys() if node_id in pair for n in pair)
        for pair in pairs ^ self._pairs.keys():
            changed.update(pair)
            if pair in pairs:
                self._pairs[pair] = _Between(keeps=True)
                self.wanting.add(pair)
            else:
                del self._pairs[pair]
                self.wanting.discard(pair)
        self._nodes, self._closed = dict(nodes), frozenset(closed)
        for gone in self._given.keys() - nodes.keys():
            del self._given[gone]
            self._boots.pop(gone, None)
        return changed

    def booted(self, node_id: str, boot_id: str) -> set[str]:
        """The node's kernel, as a session begins: another one than before, or one that cannot be told from it."""
        known, before = node_id in self._boots, self._boots.get(node_id)
        self._boots[node_id] = boot_id
        if not known or (boot_id and boot_id == before):
            return set()
        self._given.pop(node_id, None)
        concerned = [pair for pair in self._pairs if node_id in pair]
        for pair in concerned:
            self._pairs[pair] = _Between()
        return self._renew(concerned)

    def renew_all(self) -> set[str]:
        """A rotation is asked for, or due."""
        return self._renew(self._pairs)

    def lost(self, node_id: str, numbers: Iterable[int]) -> set[str]:
        """What the node has with these peers can be used no longer. Pairs that are being renewed need no more."""
        known = self._given.get(node_id)
        sends = {peer.n: peer.sends for peer in known.peers} if known is not None else {}
        ids = {self._nodes[i].n: i for i in self._nodes}
        pairs = [pair_of(node_id, ids[n]) for n in numbers if n in ids and ids[n] != node_id]
        there = [pair for pair in pairs if pair in self._pairs]
        return self._renew(p for p in there if self._newest(p) == sends.get(self._number(p, node_id)))

    def _renew(self, pairs: Iterable[Pair]) -> set[str]:
        wanting = set(pairs)
        self.wanting |= wanting
        return {node_id for pair in wanting for node_id in pair}

    def _newest(self, pair: Pair) -> int:
        epochs = self._pairs[pair].epochs
        return epochs[-1].number if epochs else 0

    def newest(self) -> dict[Pair, int]:
        """The number of each pair's newest epoch; 0 where it has none yet."""
        return {pair: self._newest(pair) for pair in self._pairs}

    def behind(self, before: Mapping[Pair, int]) -> set[str]:
        """Of pairs that had these as their newest epochs: nodes that keep their pair from sending in a newer one.

        A node that has not acknowledged that it hears it keeps its peer from sending, and is named alone.
        """
        found: set[str] = set()
        for pair in before.keys() & self._pairs.keys():
            ends, newest = ((pair[0], pair[1]), (pair[1], pair[0])), self._newest(pair)
            if newest <= before[pair]:
                found.update(pair)  # no number yet: the store's trouble
                continue
            deaf = {end for end, peer in ends if newest not in self._hears(end, peer)}
            found |= deaf or {end for end, peer in ends if self._sends_now(end, peer) != newest}
        return found

    def _number(self, pair: Pair, node_id: str) -> int:
        """The number of the other end."""
        return self._nodes[pair[1] if pair[0] == node_id else pair[0]].n

    # --- epochs ---
    def begin(self, epoch: int, new_key: Callable[[], str], now: float) -> set[str]:
        """Begin an epoch, higher than any before, for all pairs that want one. `new_key` gives 72 hex digits."""
        begun, self.wanting = self.wanting, set()
        for pair in sorted(begun):
            between, (low, high) = self._pairs[pair], pair
            sent = {self._sends_now(low, high), self._sends_now(high, low)}
            # Older ones, and those that never came to be used, are not needed by anybody.
            between.epochs = [e for e in between.epochs if any(sent) and e.number >= min(sent)]
            between.epochs.append(_Epoch(epoch, {low: new_key(), high: new_key()}))
            between.drop_at, between.renew_at = None, now + ROTATE_S
        return {node_id for pair in begun for node_id in pair}

    def _peer_as_given(self, node_id: str, peer_id: str) -> EspPeer | None:
        given, number = self._given.get(node_id), self._nodes[peer_id].n
        return next((p for p in given.peers if p.n == number), None) if given is not None else None

    def _sends_now(self, node_id: str, peer_id: str) -> int:
        """The epoch in which the node sends to the peer, as it last acknowledged."""
        peer = self._peer_as_given(node_id, peer_id)
        return peer.sends if peer is not None else 0

    def _hears(self, node_id: str, peer_id: str) -> set[int]:
        peer = self._peer_as_given(node_id, peer_id)
        return {e.epoch for e in peer.epochs} if peer is not None else set()

    # --- nodes ---
    def wanted(self, node_id: str) -> EspKeys | None:
        """All that the node is to have; None if it never needed any."""
        own = self._nodes.get(node_id)
        if own is None or (node_id not in self._closed and node_id not in self._given):
            return None
        peers = [
            self._peer(node_id, high if low == node_id else low, between)
            for (low, high), between in self._pairs.items()
            if node_id in (low, high)
        ]
        return EspKeys(
            n=own.n,
            address=own.underlay,
            closed=node_id in self._closed,
            peers=tuple(sorted(peers, key=lambda p: p.n)),
        )

    def _peer(self, node_id: str, peer_id: str, between: _Between) -> EspPeer:
        hears = self._hears(peer_id, node_id)
        other = self._nodes[peer_id]
        return EspPeer(
            n=other.n,
            address=other.underlay,
            sends=max((e.number for e in between.epochs if e.number in hears), default=0),
            epochs=tuple(
                EspEpoch(epoch=e.number, inbound=e.keys[peer_id], outbound=e.keys[node_id]) for e in between.epochs
            ),
            keep=between.keeps,
        )

    def acknowledged(self, node_id: str, keys: EspKeys, now: float) -> set[str]:
        """The node has these keys. Its peers may send in an epoch that it hears now, or drop one."""
        if not keys.closed:
            self._given.pop(node_id, None)
            return set()
        self._given[node_id] = keys
        changed: set[str] = set()
        for pair, between in self._pairs.items():
            if node_id not in pair:
                continue
            changed.update(pair)
            low, high = pair
            newest = self._newest(pair)
            both = newest and self._sends_now(low, high) == newest == self._sends_now(high, low)
            if both and (len(between.epochs) > 1 or between.keeps) and between.drop_at is None:
                between.drop_at = now + LINGER_S
        return changed - {node_id}

    # --- time ---
    def due_at(self) -> float | None:
        """When the next old epoch is to be dropped, or to be followed by a new one."""
        times = (at for b in self._pairs.values() for at in (b.drop_at, b.renew_at) if at is not None)
        return min(times, default=None)

    def renew_old(self, now: float) -> None:
        """Let pairs want a new epoch that have had theirs for long enough."""
        for pair, between in self._pairs.items():
            if between.renew_at is not None and between.renew_at <= now:
                self.wanting.add(pair)

    def drop(self, now: float) -> set[str]:
        """Drop what both ends have ceased to send in long enough ago."""
        changed: set[str] = set()
        for pair, between in self._pairs.items():
            if between.drop_at is not None and between.drop_at <= now:
                between.epochs, between.drop_at, between.keeps = between.epochs[-1:], None, False
                changed.update(pair)
        return changed
