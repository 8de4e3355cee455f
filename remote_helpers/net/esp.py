"""Encrypted networks: ESP between each pair of nodes for all VXLAN on UDP 4790, and nothing there without it.

What is wanted is compared with what the kernel shows; the difference is text for `ip -batch -`, so that no key is
ever an argument. Its order is fail closed: after each line, what is not encrypted does not pass. All but `Esp` is
pure. Keys are in this process and in the kernel only.

Numbers: the SPI of an SA is `0x53000000 + (n of the sender << 12) + epoch % 4096`: unique at each receiver. Its
reqid is the epoch. Epochs only grow, each with new keys. An epoch is *spent* between this node and a peer once its
outbound SA was added: added again, AES-GCM would count from the start with the same key, and the peer would take
all for repeated. So an outbound SA that is lost needs a new epoch. An inbound one is added again, for what comes
now is to be taken: but it counts from the start (ESN), and what a peer sends past 2^32 packets of an epoch it can
not take. So that one needs a new epoch as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from dataclasses import dataclass, field, replace

from . import unchanged
from .commands import CommandFailed, run
from .numbers import NotClosed
from .xfrm import (
    ANYWHERE,
    EPOCHS,
    SPI_OURS,
    BadKeys,
    Key,
    Policy,
    Sa,
    parse_policies,
    parse_states,
    without_keys,
)

MOST_NODES = 4096
CLOSED_PRIORITY, PEER_PRIORITY = 2000, 1000  # the lower number decides
TRIES = 3


class EspError(NotClosed):
    """`ip` or the kernel refused, or the manager has not spoken yet; the message holds no key."""


def spi(sender: int, epoch: int) -> int:
    """The SPI of what node number `sender` sends in an epoch. Raises BadKeys where there is none."""
    if not 0 < sender < MOST_NODES or epoch < 1:
        raise BadKeys(f"no SPI for node number {sender} and epoch {epoch}")
    return SPI_OURS + (sender << 12) + epoch % EPOCHS


# --- what is wanted ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class EpochKeys:
    """One epoch with one peer. None: not known to this process, which found the SAs when it started."""

    epoch: int
    inbound: Key | None
    outbound: Key | None


@dataclass(frozen=True)
class Peer:
    """`sends` is the epoch that goes out; 0: none yet, and nothing goes to this peer."""

    n: int
    address: str
    epochs: tuple = ()  # of EpochKeys, oldest first
    sends: int = 0
    keeps: bool = False  # older epochs that are there stay

    def keys(self, epoch: int) -> EpochKeys | None:
        return next((one for one in self.epochs if one.epoch == epoch), None)


@dataclass(frozen=True)
class Wanted:
    """`n` and `address` are this node's. Where not `closed`, nothing of ours is to be left: no peers either."""

    n: int
    address: str
    peers: dict = field(default_factory=dict)  # n -> Peer
    closed: bool = True


def parse_wanted(message: dict) -> Wanted:
    """Read what the manager sends. Raises BadKeys.

    `{"n", "address", "peers": [{"n", "address", "sends", "keep", "epochs": [{"epoch", "in", "out"}]}]}`, with keys
    in hexadecimal; no peers and `"closed": false` to remove all. For `keep` see `with_former`.
    """
    try:
        own, address = int(message["n"]), _address(message["address"])
        peers = [_peer(one) for one in message.get("peers") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        # The words of such an error may repeat what was given: a key.
        raise BadKeys(f"the message cannot be read ({type(e).__name__})") from None
    spi(own, 1)
    if len({own, *(peer.n for peer in peers)}) <= len(peers):
        raise BadKeys("two nodes with one number")
    if len({address, *(peer.address for peer in peers)}) <= len(peers):
        raise BadKeys("two nodes with one address")
    closed = message.get("closed", True) is not False
    if peers and not closed:
        raise BadKeys("peers, but not closed to others")
    return Wanted(own, address, {peer.n: peer for peer in peers}, closed)


def _peer(one: dict) -> Peer:
    epochs = [_epoch_keys(keys) for keys in one.get("epochs") or ()]
    peer = Peer(
        n=int(one["n"]),
        address=_address(one["address"]),
        epochs=tuple(sorted(epochs, key=lambda keys: keys.epoch)),
        sends=int(one.get("sends") or 0),
        keeps=one.get("keep") is True,
    )
    spi(peer.n, 1)
    if peer.sends and peer.keys(peer.sends) is None:
        raise BadKeys(f"peer {peer.n} is to be sent to with epoch {peer.sends}, of which there is no key")
    if len({keys.epoch % EPOCHS for keys in epochs}) < len(epochs):
        raise BadKeys(f"peer {peer.n} has two epochs with one SPI")
    return peer


def _epoch_keys(one: dict) -> EpochKeys:
    epoch = int(one["epoch"])
    if epoch < 1:
        raise BadKeys(f"epoch {epoch}")
    return EpochKeys(epoch, Key(one["in"]), Key(one["out"]))


def _address(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError("an address is no text")
    return str(ipaddress.IPv4Address(text))


def with_former(wanted: Wanted, former: Wanted | None) -> Wanted:
    """`wanted`, and for peers that keep what they have, the older epochs of `former`, sending in them for now.

    A manager that starts anew does not know those keys: so it leads from them to its own without a gap.
    """
    if former is None or (former.n, former.address) != (wanted.n, wanted.address):
        return wanted
    peers = dict(wanted.peers)
    for n, peer in wanted.peers.items():
        before = former.peers.get(n)
        if not peer.keeps or before is None or before.address != peer.address:
            continue
        oldest = min((one.epoch for one in peer.epochs), default=0)
        spis = {one.epoch % EPOCHS for one in peer.epochs}
        older = [one for one in before.epochs if not oldest or one.epoch < oldest]
        old = [one for one in older if one.epoch % EPOCHS not in spis]
        sends = peer.sends or (before.sends if any(one.epoch == before.sends for one in old) else 0)
        peers[n] = replace(peer, epochs=(*old, *peer.epochs), sends=sends)
    return replace(wanted, peers=peers)


# The three steps of a rotation. Each of them must be done on all nodes before the next: what everybody understands
# in both epochs may be sent in either.
def add_inbound(wanted: Wanted, keys: dict) -> Wanted:
    """First: understand a new epoch as well. `keys` is n -> EpochKeys; other peers stay as they are."""
    peers = dict(wanted.peers)
    for n, new in keys.items():
        peer = _known(peers, n)
        found = peer.keys(new.epoch)
        if found is None:
            if peer.epochs and peer.epochs[-1].epoch >= new.epoch:
                raise BadKeys(f"epoch {new.epoch} of peer {n} is older than the one that is there")
            if any(one.epoch % EPOCHS == new.epoch % EPOCHS for one in peer.epochs):
                raise BadKeys(f"peer {n} would have two epochs with one SPI")
        elif not _same(found.inbound, new.inbound) or not _same(found.outbound, new.outbound):
            raise BadKeys(f"epoch {new.epoch} of peer {n} has other keys already")
        others = [one for one in peer.epochs if one.epoch != new.epoch]
        peers[n] = replace(peer, epochs=tuple(sorted([*others, new], key=lambda one: one.epoch)))
    return replace(wanted, peers=peers)


def switch_outbound(wanted: Wanted, epochs: dict) -> Wanted:
    """Second: send in the new epoch. `epochs` is n -> epoch; one that is older than now changes nothing."""
    peers = dict(wanted.peers)
    for n, epoch in epochs.items():
        peer = _known(peers, n)
        if epoch > peer.sends:
            if peer.keys(epoch) is None:
                raise BadKeys(f"there is no key of epoch {epoch} for peer {n}")
            peers[n] = replace(peer, sends=epoch)
    return replace(wanted, peers=peers)


def drop_old(wanted: Wanted, epochs: dict) -> Wanted:
    """Third: understand older epochs no more. `epochs` is n -> oldest one to keep, which is not above `sends`."""
    peers = dict(wanted.peers)
    for n, oldest in epochs.items():
        peer = _known(peers, n)
        if peer.sends < oldest:
            raise BadKeys(f"peer {n} is not yet sent to with epoch {oldest}, but {peer.sends}")
        peers[n] = replace(peer, epochs=tuple(one for one in peer.epochs if one.epoch >= oldest))
    return replace(wanted, peers=peers)


def _known(peers: dict, n: int) -> Peer:
    if n not in peers:
        raise BadKeys(f"node number {n} is no peer")
    return peers[n]


def _same(found: Key | None, new: Key | None) -> bool:
    return found is None or found == new


# --- what must be there -----------------------------------------------------------------------------------------
def closing_policies() -> tuple:
    """What holds for everybody: nothing leaves in plaintext, and nothing that came in plaintext is taken.

    Inbound it is for all of the node's addresses: the kernel's VXLAN listens on each of them.
    """
    return (
        Policy("out", ANYWHERE, ANYWHERE, action="block", priority=CLOSED_PRIORITY),
        Policy("in", ANYWHERE, ANYWHERE, priority=CLOSED_PRIORITY, requires=True),
    )


def peer_policy(wanted: Wanted, peer: Peer) -> Policy:
    """What goes to a peer goes by exactly this SA."""
    ends = (f"{wanted.address}/32", f"{peer.address}/32")
    number = spi(wanted.n, peer.sends)
    return Policy("out", *ends, priority=PEER_PRIORITY, requires=True, spi=number, reqid=peer.sends)


def inbound_sa(wanted: Wanted, peer: Peer, keys: EpochKeys) -> Sa:
    return Sa(peer.address, wanted.address, spi(peer.n, keys.epoch), keys.epoch, keys.inbound)


def outbound_sa(wanted: Wanted, peer: Peer, keys: EpochKeys) -> Sa:
    return Sa(wanted.address, peer.address, spi(wanted.n, keys.epoch), keys.epoch, keys.outbound)


@dataclass(frozen=True)
class Seen:
    """What the kernel has: our SAs, and all policies."""

    sas: tuple = ()
    policies: tuple = ()


@dataclass
class Plan:
    """`batch` is for `ip` alone, for it holds keys; `drift` says what is amiss in words.

    `warnings` are of what is not ours. `spends`: n -> epoch that is spent by it. `lost`: numbers of peers that
    need a new epoch: nothing can be sent to them, or not all that they send can be taken. `hears`: n -> highest
    epoch of which an inbound SA is added; `again`: n -> highest epoch of one that was there before.
    """

    batch: list = field(default_factory=list, repr=False)
    drift: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    spends: dict = field(default_factory=dict)
    lost: list = field(default_factory=list)
    hears: dict = field(default_factory=dict)
    again: dict = field(default_factory=dict)
    news: list = field(default_factory=list)  # of `drift`, what was not said before


def plan(wanted: Wanted, seen: Seen, spent: dict, heard: dict | None = None) -> Plan:
    """What makes the kernel as wanted: close, understand, send, forget.

    `spent`: n -> highest epoch that is; `heard`: n -> highest epoch of which an inbound SA was ever there.
    """
    made = Plan()
    kept = set()
    if wanted.closed:
        kept |= _ensure_policies(made, seen, closing_policies())
    _remove_policies(made, seen, wanted, last=False)
    _warn_of_strangers(made, seen)
    for peer in wanted.peers.values():
        for keys in peer.epochs:
            kept |= _ensure_inbound(made, seen, inbound_sa(wanted, peer, keys), peer.n, heard or {})
        kept |= _ensure_outbound(made, seen, wanted, peer, spent)
        if peer.sends:
            _ensure_policies(made, seen, (peer_policy(wanted, peer),))
    for sa in seen.sas:
        if sa.id not in kept:
            made.batch.append(sa.delete())
            made.drift.append(f"SA {_words(sa)}: not wanted")
    _remove_policies(made, seen, wanted, last=True)
    return made


def _ensure_policies(made: Plan, seen: Seen, policies: tuple) -> set:
    there = {policy.id: policy for policy in seen.policies}
    for policy in policies:
        if there.get(policy.id) != policy:
            made.batch.append(policy.update())
            made.drift.append(f"policy {policy.in_words()}: {'changed' if policy.id in there else 'missing'}")
    return {policy.id for policy in policies}


def _remove_policies(made: Plan, seen: Seen, wanted: Wanted, last: bool) -> None:
    """Without its own policy a peer falls to the closing ones; these go only when all else is gone (`last`)."""
    closing = {policy.id for policy in closing_policies()}
    kept = {peer_policy(wanted, peer).id for peer in wanted.peers.values() if peer.sends}
    if wanted.closed:
        kept |= closing
    for policy in seen.policies:
        if policy.is_ours and policy.id not in kept and (policy.id in closing) == last:
            made.batch.append(policy.delete())
            made.drift.append(f"policy {policy.in_words()}: not wanted")


def _warn_of_strangers(made: Plan, seen: Seen) -> None:
    for policy in seen.policies:
        decides = policy.direction in ("in", "out") and policy.priority < CLOSED_PRIORITY and policy.may_match
        if decides and not policy.is_ours:
            words = f"policy {policy.in_words()}, priority {policy.priority}"
            made.warnings.append(f"{words}: not ours, but it decides before ours; it is left as it is")


def _ensure_inbound(made: Plan, seen: Seen, sa: Sa, n: int, heard: dict) -> set:
    there = _at(seen, sa)
    if sa.key is None:
        if there is None:
            made.drift.append(f"SA {_words(sa)}: missing, and this process was not told the key")
    elif there != sa:
        made.drift.append(f"SA {_words(sa)}: {'changed' if there else 'missing'}")
        if there is not None:
            made.batch.append(there.delete())
        made.batch.append(sa.add())
        made.hears[n] = max(sa.reqid, made.hears.get(n, 0))
        if there is not None or sa.reqid <= heard.get(n, 0):
            made.again[n] = max(sa.reqid, made.again.get(n, 0))
    return {sa.id}


def _ensure_outbound(made: Plan, seen: Seen, wanted: Wanted, peer: Peer, spent: dict) -> set:
    """Of epochs that are not sent in, an SA may be there but need not."""
    kept = set()
    for keys in peer.epochs:
        sa = outbound_sa(wanted, peer, keys)
        there = _at(seen, sa)
        if there is not None and (there == sa or (sa.key is None and there.key is not None)):
            kept.add(sa.id)
        elif keys.epoch == peer.sends:
            kept.add(sa.id)
            made.drift.append(f"SA {_words(sa)}: {'changed' if there else 'missing'}")
            if there is not None:
                made.batch.append(there.delete())
            if keys.epoch > spent.get(peer.n, 0) and sa.key is not None:
                made.batch.append(sa.add())
                made.spends[peer.n] = keys.epoch
            else:
                made.lost.append(peer.n)
    return kept


def spent_in(wanted: Wanted, seen: Seen) -> dict:
    """n -> highest epoch whose outbound SA is there."""
    numbers = {peer.address: peer.n for peer in wanted.peers.values()}
    spent: dict = {}
    for sa in seen.sas:
        if sa.src == wanted.address and sa.dst in numbers:
            n = numbers[sa.dst]
            spent[n] = max(sa.reqid, spent.get(n, 0))
    return spent


def heard_in(wanted: Wanted, seen: Seen) -> dict:
    """n -> highest epoch whose inbound SA is there."""
    numbers = {peer.address: peer.n for peer in wanted.peers.values()}
    heard: dict = {}
    for sa in seen.sas:
        if sa.dst == wanted.address and sa.src in numbers:
            n = numbers[sa.src]
            heard[n] = max(sa.reqid, heard.get(n, 0))
    return heard


def _at(seen: Seen, sa: Sa) -> Sa | None:
    return next((one for one in seen.sas if one.id == sa.id), None)


def _words(sa: Sa) -> str:
    return f"{sa.src} to {sa.dst}, epoch {sa.reqid}"


def resume(n: int, address: str, seen: Seen) -> Wanted | None:
    """What a former process of the helper wanted, told by the kernel; None if there is nothing of ours."""
    found: dict = {}  # n of the peer -> (address, {epoch: [inbound, outbound]})
    for sa in seen.sas:
        sender = (sa.spi - SPI_OURS) >> 12
        if sa.dst == address and sender != n:
            found.setdefault(sender, (sa.src, {}))[1].setdefault(sa.reqid, [None, None])[0] = sa.key
    numbers = {peer_address: peer for peer, (peer_address, _) in found.items()}
    for sa in seen.sas:
        if sa.src == address and sa.dst in numbers:
            found[numbers[sa.dst]][1].setdefault(sa.reqid, [None, None])[1] = sa.key
    sends = {policy.dst: policy.reqid for policy in seen.policies if policy.is_ours and policy.spi}
    peers = {}
    for peer, (peer_address, epochs) in found.items():
        keys = tuple(EpochKeys(epoch, *epochs[epoch]) for epoch in sorted(epochs))
        sent = sends.get(f"{peer_address}/32", 0)
        peers[peer] = Peer(peer, peer_address, keys, sent if sent in epochs else 0)
    closed = any(policy.is_ours for policy in seen.policies)
    return Wanted(n, address, peers) if peers or closed else None


# --- on the node ------------------------------------------------------------------------------------------------
class Esp:
    """Keeps the kernel as wanted. Changes wait for each other; each is read back.

    `save` is called with `to_state()` before an epoch is spent: it returns when that is kept, or raises OSError,
    and then the epoch is not used. `wanted` is None as long as neither the manager nor `resume` said what to keep.
    """

    def __init__(self, save=None) -> None:
        self.wanted: Wanted | None = None
        self.lost: list = []  # numbers of peers that need a new epoch, as of the last call
        self.spent: dict = {}  # n -> highest epoch that was sent in
        self._heard: dict = {}  # n -> highest epoch of which an inbound SA was there
        self._again: dict = {}  # n -> highest epoch of which one was added again
        self._closed = False  # whether anything of ours is, or may be, in the kernel
        self._told: set = set()  # drift that could not be mended, which was said already
        self._save = save
        self._turn = asyncio.Lock()
        self._shown: tuple = (b"", Seen())  # digest of the kernel's, and what it was
        self._planned: tuple = (None, None, None)  # wanted, seen, and the plan for them, if there is nothing to do

    def to_state(self) -> dict:
        """What must outlive this process, as JSON: no keys."""
        return {
            "closed": self._closed or (self.wanted is not None and self.wanted.closed),
            "spent": _to_json(self.spent),
            "heard": _to_json(self._heard),
            "again": _to_json(self._again),
        }

    def restore(self, saved: dict) -> None:
        """Take over what `to_state` gave; before `resume`. Raises BadKeys if that cannot be read."""
        try:
            found = [
                {int(n): int(epoch) for n, epoch in (saved.get(key) or {}).items()}
                for key in ("spent", "heard", "again")
            ]
            self._closed = bool(saved.get("closed"))
        except (AttributeError, TypeError, ValueError) as e:
            raise BadKeys(f"the saved state cannot be read ({type(e).__name__})") from None
        self.spent, self._heard, self._again = found

    async def resume(self, n: int, address: str) -> None:
        """Take over what a former process left, until the manager tells more. Raises EspError.

        What there is comes from the kernel. Where that has nothing any more, but a saved state says that this node
        was closed, it is to be closed again: the next `repair` or `secure` does it.
        """
        async with self._turn:
            self.wanted = resume(n, address, await change([]))
            if self.wanted is None and self._closed:
                self.wanted = Wanted(n, address)

    async def apply(self, wanted: Wanted) -> list:
        """Make it so. Numbers of peers that need a new epoch. Raises EspError."""
        async with self._turn:
            return (await self._settle(with_former(wanted, self.wanted))).lost

    async def repair(self) -> Plan | None:
        """What was amiss (`drift`), and is mended but for `lost` and `warnings`; None if all was right.

        Also None as long as `wanted` is. Raises EspError.
        """
        async with self._turn:
            if self.wanted is None:
                return None
            made = await self._settle(self.wanted)
            return made if made.drift or made.lost or made.warnings else None

    async def secure(self) -> list:
        """For DataPlane: repair, and words about what was amiss. Raises EspError unless this node is closed.

        What cannot be mended before there is a new epoch is said once. It does not keep networks from being made:
        nothing passes to or from such a peer.
        """
        async with self._turn:
            if self.wanted is None or not self.wanted.closed:
                raise EspError("there are no keys yet: the manager must give them first")
            return (await self._settle(self.wanted)).news

    async def add_inbound(self, keys: dict) -> list:
        """The first barrier of a rotation. As `apply`, and raises BadKeys."""
        return await self._step(add_inbound, keys)

    async def switch_outbound(self, epochs: dict) -> list:
        """The second barrier of a rotation. As `apply`, and raises BadKeys."""
        return await self._step(switch_outbound, epochs)

    async def drop_old(self, epochs: dict) -> list:
        """The third barrier of a rotation. As `apply`, and raises BadKeys."""
        return await self._step(drop_old, epochs)

    async def _step(self, step, given: dict) -> list:
        async with self._turn:
            if self.wanted is None:
                raise BadKeys("there are no encrypted networks here")
            return (await self._settle(step(self.wanted, given))).lost

    async def _settle(self, wanted: Wanted) -> Plan:
        """Until the kernel shows what is wanted: others change it as well. The first plan says what was amiss."""
        self.wanted = wanted
        self._closed = self._closed or wanted.closed
        first, seen = None, await self._look()
        for _ in range(TRIES):
            made = self._plan(wanted, seen)
            first = first or made
            if not made.batch:
                self._closed = wanted.closed
                first.lost = self.lost = sorted({*made.lost, *self._deaf(wanted)})
                first.news = [word for word in first.drift if word not in self._told]
                self._told = set(made.drift)
                return first
            self._shown, self._planned = (b"", Seen()), (None, None, None)  # they have keys that may go now
            await self._run(wanted, made)
            seen = await change([])
        raise EspError("the SAs and policies in the kernel are changed again and again by something else")

    def _plan(self, wanted: Wanted, seen: Seen) -> Plan:
        """As `plan`; nothing is thought over again that left nothing to do."""
        if self._planned[0] is not wanted or self._planned[1] is not seen:
            self._note(wanted, seen)
            made = plan(wanted, seen, self.spent, self._heard)
            if made.batch:
                return made
            self._planned = wanted, seen, made
        return replace(self._planned[2])

    async def _look(self) -> Seen:
        """As `change([])`; where the kernel tells the same as before, no process is started."""
        digest = unchanged.xfrm_digest()
        if not digest or digest != self._shown[0]:
            seen = await change([])
            # What came in between may be in it, or may not.
            self._shown = digest if unchanged.xfrm_digest() == digest else b"", seen
        return self._shown[1]

    async def _run(self, wanted: Wanted, made: Plan) -> None:
        before = dict(self.spent), dict(self._heard), dict(self._again)
        for epochs, more in ((self.spent, made.spends), (self._heard, made.hears), (self._again, made.again)):
            _raise_to(epochs, more)
        if made.spends or made.hears:
            try:
                # Before, not after: a process that ends between the two must not spend the epoch a second time.
                self._keep()
            except OSError as e:
                self.spent, self._heard, self._again = before
                raise EspError(f"which epochs are spent cannot be saved: {e.strerror}") from e
        try:
            await run_batch(made.batch)
        except EspError:
            seen = await change([])  # some of it may have been added; unknown is as good as spent
            self.spent, self._heard, self._again = before
            self._note(wanted, seen)
            with suppress(OSError):
                self._keep()
            raise

    def _keep(self) -> None:
        if self._save is not None:
            self._save(self.to_state())

    def _note(self, wanted: Wanted, seen: Seen) -> None:
        _raise_to(self.spent, spent_in(wanted, seen))
        _raise_to(self._heard, heard_in(wanted, seen))

    def _deaf(self, wanted: Wanted) -> list:
        """Peers of whom the newest epoch's inbound SA is one that was added again."""
        return [
            n
            for n, peer in wanted.peers.items()
            if peer.epochs and 0 < peer.epochs[-1].epoch <= self._again.get(n, 0)
        ]


def _to_json(epochs: dict) -> dict:
    return {str(n): epoch for n, epoch in epochs.items()}


def _raise_to(epochs: dict, others: dict) -> None:
    for n, epoch in others.items():
        epochs[n] = max(epoch, epochs.get(n, 0))


async def run_batch(batch: list) -> None:
    """Run lines of `ip -batch`, if there are any. Raises EspError, with no key in it."""
    try:
        if batch:
            await run(["ip", "-batch", "-"], "\n".join([*batch, ""]))
    except CommandFailed as e:
        raise EspError(without_keys(str(e))) from None  # the cause may quote a key


async def change(batch: list) -> Seen:
    """Run the lines, if there are any, and read what is there then. Raises EspError, with no key in it."""
    await run_batch(batch)
    try:
        # Not as two more lines of a batch: after the list of states, that of policies comes out empty
        # (iproute2 5.9 to 7.2).
        states, policies = await run(["ip", "-d", "xfrm", "state"]), await run(["ip", "-d", "xfrm", "policy"])
    except CommandFailed as e:
        raise EspError(without_keys(str(e))) from None
    return Seen(parse_states(states), parse_policies(policies))
