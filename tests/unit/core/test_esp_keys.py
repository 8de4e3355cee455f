"""Keys between nodes: what one sends the other hears, at every moment and in whatever order nodes answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swarmsh.core.esp_keys import LINGER_S, ROTATE_S, KeyRing
from swarmsh.model.netstate import EspKeys, PeerNode

NODES = {name: PeerNode(n=n, underlay=f"10.0.0.{n}") for n, name in enumerate("abc", 1)}
NAMES = {peer.n: name for name, peer in NODES.items()}


@dataclass
class Kernels:
    """What nodes have, as told by a ring; a key is never sent with twice after it was forgotten."""

    ring: KeyRing = field(default_factory=KeyRing)
    have: dict[str, EspKeys] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NODES})  # before a reboot
    boots: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    numbers: count[int] = field(default_factory=lambda: count(5))
    now: float = 100.0

    def share(self, pairs: set[tuple[str, str]]) -> None:
        self.ring.follow(NODES, {name for pair in pairs for name in pair}, pairs)

    def begin(self) -> int:
        epoch = next(self.numbers)
        made = count()
        self.ring.begin(epoch, lambda: f"{epoch:036d}{next(made):036d}", self.now)
        return epoch

    def take(self, name: str, *, heard: bool = True) -> None:
        """The node takes what it is to have; its answer may be lost."""
        keys = self.ring.wanted(name)
        if keys is None:
            return
        self.have[name] = keys
        if heard:
            self.ring.acknowledged(name, keys, self.now)

    def settle(self) -> int:
        """Until nobody is to be told anything; how many messages that took."""
        told = 0
        for _ in range(20):
            behind = [name for name in NODES if self.ring.wanted(name) not in (None, self.have.get(name))]
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
        self.ring.booted(name, f"boot{self.boots[name]}")


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
    kernels.settle()
    kernels.take("b")
    assert ring.behind(before) == set()
    assert ring.behind({("a", "c"): 1}) == set(), "a pair that shares nothing any more keeps nobody waiting"


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
        self.kernels.ring.drop(self.kernels.now)

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
        self.kernels.ring.drop(self.kernels.now)

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
