"""Keys between nodes: what one sends the other hears, at every moment and in whatever order nodes answer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations, count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from remote_helpers.net.xfrm import EPOCHS
from swarmsh.core.esp_keys import LINGER_S, ROTATE_S, SPI_EPOCHS, KeyRing
from swarmsh.model.netstate import EspKeys, PeerNode

NODES = {name: PeerNode(n=n, underlay=f"10.0.0.{n}") for n, name in enumerate("abc", 1)}
NAMES = {peer.n: name for name, peer in NODES.items()}


@dataclass
class Kernels:
    """What nodes have, as told by a ring; a key is never sent with twice after it was forgotten."""

    ring: KeyRing = field(default_factory=KeyRing)
    have: dict[str, EspKeys] = field(default_factory=dict)
    unheard: set[str] = field(default_factory=set)  # whose answer was lost: they are told again
    used: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NODES})  # before a reboot
    boots: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    numbers: count[int] = field(default_factory=lambda: count(5))
    now: float = 100.0
    named: set[str] = field(default_factory=set)  # by the ring, as those whose keys may have changed

    def share(self, pairs: set[tuple[str, str]]) -> None:
        self.named |= self.ring.follow(NODES, {name for pair in pairs for name in pair}, pairs)

    def begin(self) -> int:
        epoch = next(self.numbers)
        made = count()
        self.named |= self.ring.begin(epoch, lambda: f"{epoch:036d}{next(made):036d}", self.now)
        return epoch

    def take(self, name: str, *, heard: bool = True) -> None:
        """The node takes what it is to have; its answer may be lost."""
        keys = self.ring.wanted(name)
        if keys is None:
            return
        self.have[name] = keys
        self.unheard.add(name)
        if heard:
            self.unheard.discard(name)
            self.named |= self.ring.acknowledged(name, keys, self.now)

    def settle(self) -> int:
        """Until nobody is to be told anything; how many messages that took."""
        told = 0
        for _ in range(20):
            wanted = {name: self.ring.wanted(name) for name in NODES}
            behind = [
                n for n, w in wanted.items() if w is not None and (w != self.have.get(n) or n in self.unheard)
            ]
            if not behind:
                return told
            for name in behind:
                self.take(name)
                told += 1
        raise AssertionError("the ring does not settle")

    def sends(self, sender: str, receiver: str) -> int:
        return next((p.sends for p in self.peers(sender) if NAMES[p.n] == receiver), 0)

    def hears(self, receiver: str, sender: str) -> dict[int, str]:
        return {e.epoch: e.inbound for p in self.peers(receiver) if NAMES[p.n] == sender for e in p.epochs}

    def key(self, sender: str, receiver: str) -> str:
        """With which it sends; "" if it does not."""
        sends = self.sends(sender, receiver)
        keys = [
            e.outbound for p in self.peers(sender) if NAMES[p.n] == receiver for e in p.epochs if e.epoch == sends
        ]
        return keys[0] if keys else ""

    def peers(self, name: str):
        return self.have[name].peers if name in self.have else ()

    def reboot(self, name: str) -> None:
        self.used[name] |= {self.key(name, other) for other in NODES if other != name} - {""}
        self.have.pop(name, None)
        self.boots[name] += 1
        self.named |= self.ring.booted(name, f"boot{self.boots[name]}")

    def drop(self) -> None:
        self.named |= self.ring.drop(self.now)

    def wanted_afresh(self, name: str) -> EspKeys | None:
        """What a ring that remembers no answer says."""
        ring = copy.copy(self.ring)
        ring._wanted = {}
        ring._of = {name: {peer: replace(b, told={}) for peer, b in ring._of.get(name, {}).items()}}
        return ring.wanted(name)


def a_settled_pair() -> Kernels:
    kernels = Kernels()
    for name in NODES:
        kernels.ring.booted(name, "boot0")
    kernels.share({("a", "b")})
    kernels.begin()
    kernels.settle()
    kernels.ring.drop(kernels.now + LINGER_S)
    kernels.settle()
    return kernels


def test_each_pair_has_keys_of_its_own_each_way_and_others_have_none() -> None:
    kernels = a_settled_pair()
    assert kernels.sends("a", "b") == kernels.sends("b", "a") == 5
    assert (
        kernels.key("a", "b") == kernels.hears("b", "a")[5] != kernels.key("b", "a") == kernels.hears("a", "b")[5]
    )
    assert kernels.ring.wanted("c") is None
    wanted = kernels.ring.wanted("a")
    assert wanted is not None and wanted.closed and [p.address for p in wanted.peers] == ["10.0.0.2"]


def test_a_rotation_has_three_steps_each_after_the_acknowledgement_of_the_one_before() -> None:
    kernels = a_settled_pair()
    kernels.ring.renew_all()
    kernels.begin()
    # First both hear it too; a peer that has not acknowledged that is not sent to in it.
    kernels.take("a")
    assert set(kernels.hears("a", "b")) == {5, 6} and kernels.sends("a", "b") == 5
    wanted = kernels.ring.wanted("a")
    assert wanted is not None and wanted.peers[0].sends == 5
    kernels.take("b")
    assert kernels.sends("b", "a") == 6, "a has said that it hears it"
    kernels.take("a")
    assert kernels.sends("a", "b") == 6
    # What was under way in the old one is waited for.
    assert kernels.ring.due_at() == kernels.now + LINGER_S
    assert kernels.ring.drop(kernels.now + LINGER_S - 1) == set()
    assert kernels.ring.drop(kernels.now + LINGER_S) == {"a", "b"}
    kernels.settle()
    assert set(kernels.hears("a", "b")) == set(kernels.hears("b", "a")) == {6}


def test_a_peer_that_is_away_is_sent_to_in_what_it_still_hears() -> None:
    kernels = a_settled_pair()
    for _ in range(3):
        kernels.ring.renew_all()
        kernels.begin()
        kernels.take("a")
    assert kernels.sends("a", "b") == 5
    assert kernels.ring.drop(kernels.now + 3600) == set()
    kernels.settle()
    assert kernels.sends("a", "b") == kernels.sends("b", "a") == 8


def test_a_rebooted_node_gets_new_keys_only_and_until_then_nothing_is_sent() -> None:
    kernels = a_settled_pair()
    kernels.reboot("a")
    assert kernels.ring.wanting == {("a", "b")}
    kernels.settle()
    assert kernels.key("a", "b") == kernels.key("b", "a") == ""
    kernels.begin()
    kernels.settle()
    assert (
        kernels.key("a", "b") not in kernels.used["a"] and kernels.sends("a", "b") == kernels.sends("b", "a") == 6
    )


def test_a_reboot_is_seen_of_a_node_that_had_no_address_for_a_while() -> None:
    kernels = a_settled_pair()
    kernels.ring.follow({name: node for name, node in NODES.items() if name != "a"}, set(), set())
    kernels.share({("a", "b")})  # within the same session
    kernels.begin()
    kernels.settle()
    kernels.reboot("a")
    kernels.settle()
    assert kernels.key("a", "b") == kernels.key("b", "a") == ""


def test_what_a_node_was_told_to_send_in_stays_heard_though_its_answer_is_still_on_its_way() -> None:
    kernels = a_settled_pair()
    kernels.reboot("a")  # so nothing of before is kept
    kernels.settle()
    epoch = kernels.begin()
    for name in ("a", "b"):
        kernels.take(name, heard=False)
    for name in ("a", "b"):  # both answer when both were told to hear it
        kernels.ring.acknowledged(name, kernels.have[name], kernels.now)
    kernels.take("b", heard=False)
    assert kernels.sends("b", "a") == epoch
    kernels.ring.renew_all()
    newer = kernels.begin()
    kernels.take("a")
    assert [e.epoch for e in kernels.have["a"].peers[0].epochs] == [epoch, newer]
    kernels.settle()
    assert kernels.sends("a", "b") == kernels.sends("b", "a") == newer


def test_the_same_boot_goes_on_with_its_keys_and_an_unknown_one_does_not() -> None:
    kernels = a_settled_pair()
    assert kernels.ring.booted("a", "boot0") == set() and not kernels.ring.wanting
    assert kernels.ring.booted("a", "") == {"a", "b"}
    assert kernels.ring.booted("a", "") == {"a", "b"}


def test_what_the_ends_have_of_a_former_manager_goes_as_an_old_epoch_does() -> None:
    kernels = Kernels()
    kernels.ring.booted("b", "boot0")
    kernels.share({("a", "b")})

    def keeps() -> list[bool]:
        kernels.settle()
        return [peer.keep for name in "ab" for peer in kernels.peers(name)]

    assert keeps() == [True, True] and kernels.key("a", "b") == "", "there is no epoch yet"
    kernels.begin()
    assert keeps() == [True, True] and kernels.sends("a", "b") == kernels.sends("b", "a") == 5
    kernels.ring.drop(kernels.now + LINGER_S - 1)
    assert keeps() == [True, True]
    kernels.ring.drop(kernels.now + LINGER_S)
    assert keeps() == [False, False] and set(kernels.hears("a", "b")) == {5}
    # What a reboot has taken cannot be kept.
    kernels.share({("a", "b"), ("b", "c")})
    kernels.reboot("b")
    assert not any(keeps())


def test_each_pair_is_renewed_after_twelve_hours_whatever_others_do() -> None:
    kernels = a_settled_pair()
    began = kernels.now
    assert kernels.ring.due_at() == began + ROTATE_S
    kernels.now += 3600
    kernels.share({("a", "b"), ("b", "c")})
    kernels.begin()
    kernels.settle()
    kernels.ring.renew_old(began + ROTATE_S - 1)
    assert kernels.ring.wanting == set()
    kernels.ring.renew_old(began + ROTATE_S)
    assert kernels.ring.wanting == {("a", "b")}
    kernels.begin()
    kernels.ring.renew_old(began + ROTATE_S)
    assert kernels.ring.wanting == set()


def test_what_is_lost_is_renewed_once() -> None:
    kernels = a_settled_pair()
    assert kernels.ring.lost("a", [2, 9]) == {"a", "b"}
    kernels.begin()
    # The old one is still lost while the new one is on its way.
    kernels.take("a")
    assert kernels.ring.lost("a", [2]) == set() and not kernels.ring.wanting
    kernels.settle()
    assert kernels.ring.lost("b", []) == set()


def test_a_node_that_has_no_encrypted_network_any_more_is_opened_once() -> None:
    kernels = a_settled_pair()
    kernels.share(set())
    wanted = kernels.ring.wanted("a")
    assert wanted is not None and not wanted.closed and wanted.peers == ()
    kernels.take("a")
    assert kernels.ring.wanted("a") is None


def test_who_keeps_a_rotation_from_its_end_is_known_at_each_step() -> None:
    kernels = Kernels()
    kernels.share({("a", "b"), ("b", "c")})
    kernels.begin()
    kernels.settle()
    ring, before = kernels.ring, kernels.ring.newest()
    ring.renew_all()
    assert ring.behind(before) == {"a", "b", "c"}, "not begun"
    kernels.begin()
    assert ring.behind(before) == {"a", "b", "c"}
    kernels.take("b")
    assert ring.behind(before) == {"a", "c"}, "b hears it, and cannot send in it yet"
    kernels.take("a")
    kernels.take("b", heard=False)  # its answer is lost
    assert ring.behind(before) == {"b", "c"}, "a is done; b may send in it to a, but that is not known"
    assert not any(ring.renewed(pair, number) for pair, number in before.items())
    kernels.settle()
    kernels.take("b")
    assert ring.behind(before) == set()
    assert all(ring.renewed(pair, number) for pair, number in before.items())
    assert ring.renewed(("a", "c"), 1)
    assert ring.behind({("a", "c"): 1}) == set(), "a pair that shares nothing any more keeps nobody waiting"


def test_a_pair_never_has_two_epochs_of_one_spi() -> None:
    assert SPI_EPOCHS == EPOCHS
    kernels = a_settled_pair()
    kernels.share({("a", "b"), ("b", "c")})
    kernels.numbers = count(5 + SPI_EPOCHS)
    kernels.ring.renew_all()
    kernels.begin()
    assert kernels.ring.newest() == {("a", "b"): 5, ("b", "c"): 5 + SPI_EPOCHS}
    assert kernels.ring.wanting == {("a", "b")}, "it wants the next one"
    kernels.begin()
    kernels.settle()
    assert kernels.sends("a", "b") == kernels.sends("b", "a") == 6 + SPI_EPOCHS


def test_who_is_away_does_not_find_an_epoch_for_each_time_that_passed() -> None:
    kernels = a_settled_pair()
    kernels.ring.renew_all()
    kernels.begin()
    kernels.take("a")
    for _ in range(20):
        kernels.now += ROTATE_S
        due_at = kernels.ring.due_at()
        assert due_at is not None and due_at <= kernels.now
        kernels.ring.renew_old(kernels.now)
        assert kernels.ring.wanting == set()
    assert kernels.ring.due_at() == kernels.now + ROTATE_S
    kernels.settle()
    kernels.now += ROTATE_S
    kernels.ring.renew_old(kernels.now)
    assert kernels.ring.wanting == {("a", "b")}, "now that it sends in the newest it goes on as others do"


def test_epochs_that_begin_often_leave_one_entry_for_a_pair_to_be_renewed() -> None:
    kernels = a_settled_pair()
    for _ in range(50):
        kernels.now += 1.0
        kernels.ring.renew_all()
        kernels.begin()
    assert kernels.ring.due_at() == kernels.now + ROTATE_S
    assert len(kernels.ring._renewals) == 1


# --- cost -------------------------------------------------------------------------------------------------------
def calls(do: Callable[[], object]) -> int:
    """How many functions are called by it: what time it takes, on any machine alike."""
    found = 0

    def count_it(frame: object, what: str, arg: object) -> None:
        nonlocal found
        found += what in ("call", "c_call")

    sys.setprofile(count_it)
    try:
        do()
    finally:
        sys.setprofile(None)
    return found


def settled_ring(size: int) -> tuple[KeyRing, list[str]]:
    """Nodes that all share a network, each with all keys of its first epoch."""
    names = [f"{n:03d}" for n in range(1, size + 1)]
    ring, made = KeyRing(), count()
    ring.follow(
        {name: PeerNode(n=int(name), underlay=f"10.0.0.{int(name)}") for name in names},
        set(names),
        set(combinations(names, 2)),
    )
    ring.begin(1, lambda: f"{next(made):072d}", 0.0)
    for _ in range(2):
        for name in names:
            keys = ring.wanted(name)
            assert keys is not None
            ring.acknowledged(name, keys, 0.0)
    ring.drop(LINGER_S)
    return ring, names


def test_what_is_wanted_is_made_once() -> None:
    ring, names = settled_ring(10)
    first = ring.wanted(names[0])
    assert ring.wanted(names[0]) is first
    ring.lost(names[1], [3])
    ring.begin(2, lambda: "0" * 40, 0.0)
    assert ring.wanted(names[0]) is first, "keys of others"
    assert ring.wanted(names[1]) is not ring.wanted(names[0])


def test_an_acknowledgement_names_those_alone_that_may_send_in_another_epoch() -> None:
    ring, names = settled_ring(10)
    for name in names:
        keys = ring.wanted(name)
        assert keys is not None
        ring.acknowledged(name, keys, 0.0)
    ring.lost(names[0], [2])
    ring.begin(2, lambda: "0" * 40, 0.0)
    keys = ring.wanted(names[0])
    assert keys is not None
    assert ring.acknowledged(names[0], keys, 0.0) == {names[1]}
    assert ring.acknowledged(names[0], keys, 0.0) == set(), "nothing new"


@pytest.mark.parametrize("what", ["acknowledged", "wanted", "due"])
def test_what_a_node_costs_grows_with_its_peers_and_not_with_all_pairs(what: str) -> None:
    def cost(size: int) -> int:
        ring, names = settled_ring(size)
        own = names[size // 2]
        keys = ring.wanted(own)
        assert keys is not None
        ring.acknowledged(names[0], keys, 0.0)  # of which the peer's keys follow
        match what:
            case "acknowledged":
                return calls(lambda: ring.acknowledged(own, keys, 0.0))
            case "wanted":
                ring._wanted.clear()
                return calls(lambda: ring.wanted(own))
            case _:
                return calls(lambda: (ring.due_at(), ring.drop(0.0), ring.renew_old(0.0)))

    assert cost(80) < 5 * cost(20)


def test_keys_are_not_shown() -> None:
    kernels = a_settled_pair()
    assert kernels.key("a", "b") not in repr(kernels.ring) + repr(kernels.ring.wanted("a"))


class Life(RuleBasedStateMachine):
    """Nodes answer or not, in any order; networks come and go; nodes are rebooted; epochs begin."""

    @initialize()
    def start(self) -> None:
        self.kernels = Kernels()
        for name in NODES:
            self.kernels.ring.booted(name, "boot0")
        self.shared: set[tuple[str, str]] = set()
        self.before: dict[str, EspKeys | None] = {}

    @rule(pair=st.sampled_from(list(combinations("abc", 2))))
    def share_or_part(self, pair: tuple[str, str]) -> None:
        self.shared ^= {pair}
        self.kernels.share(self.shared)

    @rule(name=st.sampled_from("abc"), heard=st.booleans())
    def take(self, name: str, heard: bool) -> None:
        self.kernels.take(name, heard=heard)

    @rule()
    def rotate(self) -> None:
        self.kernels.ring.renew_all()

    @rule()
    def begin(self) -> None:
        if self.kernels.ring.wanting:
            self.kernels.begin()

    @rule(name=st.sampled_from("abc"))
    def reboot(self, name: str) -> None:
        self.kernels.reboot(name)

    @rule()
    def later(self) -> None:
        self.kernels.now += LINGER_S
        self.kernels.drop()

    @invariant()
    def what_is_remembered_is_what_is_wanted_and_who_is_to_be_told_is_named(self) -> None:
        if not hasattr(self, "kernels"):
            return
        named, self.kernels.named = self.kernels.named, set()
        for name in NODES:
            wanted = self.kernels.wanted_afresh(name)
            assert self.kernels.ring.wanted(name) == wanted
            assert wanted is None or wanted == self.before.get(name) or name in named
            self.before[name] = wanted

    @invariant()
    def no_key_counts_from_the_start_again(self) -> None:
        for name in NODES:
            for other in NODES.keys() - {name}:
                assert self.kernels.key(name, other) not in self.kernels.used[name] or not self.kernels.key(
                    name, other
                )

    @invariant()
    def both_ways_have_other_keys(self) -> None:
        for low, high in combinations(NODES, 2):
            key = self.kernels.key(low, high)
            assert not key or key != self.kernels.key(high, low)

    def teardown(self) -> None:
        if not hasattr(self, "kernels"):
            return
        kernels = self.kernels
        kernels.ring.wanting |= {p for p in self.shared if not kernels.ring._pairs[p].epochs}
        if kernels.ring.wanting:
            kernels.begin()
        kernels.settle()
        kernels.now += LINGER_S
        kernels.ring.drop(kernels.now)
        kernels.settle()
        for low, high in self.shared:
            assert kernels.sends(low, high) == kernels.sends(high, low) > 0
            assert list(kernels.hears(low, high)) == list(kernels.hears(high, low)) == [kernels.sends(low, high)]


class Rotations(RuleBasedStateMachine):
    """As long as nobody is rebooted and nothing parts, every packet that is sent can be heard."""

    @initialize()
    def start(self) -> None:
        self.kernels = a_settled_pair()
        self.kernels.share({("a", "b"), ("b", "c"), ("a", "c")})
        self.kernels.begin()
        self.kernels.settle()

    @rule()
    def rotate(self) -> None:
        self.kernels.ring.renew_all()
        self.kernels.begin()

    @rule(name=st.sampled_from("abc"), heard=st.booleans())
    def take(self, name: str, heard: bool) -> None:
        self.kernels.take(name, heard=heard)

    @rule()
    def later(self) -> None:
        self.kernels.now += LINGER_S
        self.kernels.drop()

    @invariant()
    def what_is_sent_is_heard(self) -> None:
        if not hasattr(self, "kernels"):
            return
        for sender in NODES:
            for receiver in NODES.keys() - {sender}:
                key = self.kernels.key(sender, receiver)
                assert key and key in self.kernels.hears(receiver, sender).values()


TestLife = Life.TestCase
TestRotations = Rotations.TestCase
TestLife.settings = TestRotations.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
