"""Where a connection stopped: told by where its packets were seen last."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmsh.core.trace import Ends, hops_of, judge
from swarmsh.model.trace import Sighting, Traced

ME, VIP, BACKEND = "10.48.1.2:61007", "10.48.128.5:80", "10.48.1.3:80"
TUNNEL = "10.98.0.11 > 10.98.0.12:4789"
ENDS = Ends(
    from_node="id1",
    from_task="a.1",
    nodes={"id1": "n1", "id2": "n2"},
    tasks={"t1": "a.1", "t2": "web.1"},
    to_tasks=frozenset({"t2"}),
)
SILENT = Traced(outcome="silent", words="no answer within 3 s")


def at(
    device: str, way: str, place: str = "", *, dst: str = BACKEND, tunnel: str = "", flags: str = "SYN"
) -> Sighting:
    return Sighting(device=device, way=way, src=ME, dst=dst, place=place, flags=flags, forth=True, tunnel=tunnel)  # type: ignore[arg-type]


def back(one: Sighting) -> Sighting:
    way = "in" if one.way == "out" else "out"
    return replace(one, src=one.dst, dst=one.src, forth=False, flags="SYN,ACK", way=way)  # type: ignore[arg-type]


# All the way: (node, sighting).
THERE = [
    ("id1", at("eth0", "out", "t1", dst=VIP)),
    ("id1", at("sb1000", "in", dst=VIP)),
    ("id1", at("sv1000", "out")),
    ("id1", at("vec0", "out", tunnel=TUNNEL)),
    ("id2", at("vec0", "in", tunnel=TUNNEL)),
    ("id2", at("sv1000", "in")),
    ("id2", at("veth7", "out")),
    ("id2", at("eth0", "in", "t2")),
]
BACK = [(node, back(one)) for node, one in reversed(THERE)]


def hops(seen):  # type: ignore[no-untyped-def]
    by_node: dict[str, list[Sighting]] = {"id2": [], "id1": []}  # answered in any order
    for node, one in seen:
        by_node[node].append(one)
    return hops_of(by_node, ENDS)


def test_hops_are_in_the_order_in_which_they_must_have_been_and_each_once() -> None:
    more = [("id1", replace(THERE[0][1], flags="ACK")), ("id2", replace(THERE[7][1], flags="ACK"))]
    found = hops([*THERE, *more, *BACK])
    assert [hop.seen for hop in found] == [one for _, one in [*THERE, *BACK]]
    assert [(hop.node, hop.task) for hop in found][:2] == [("n1", "a.1"), ("n1", "")]


def test_who_answered_is_named() -> None:
    verdict = judge(Traced(outcome="answered"), hops([*THERE, *BACK]), ENDS)
    assert (verdict.ok, verdict.words) == (True, "answered by web.1 on n2")


def test_who_refused_is_named() -> None:
    refused = Traced(outcome="refused", words="Connection refused")
    assert judge(refused, hops([*THERE, *BACK]), ENDS).words == "refused by web.1 on n2"
    on_way = judge(refused, hops(THERE[:2]), ENDS)
    assert on_way.words == "refused on its way, last seen at n1, on the node itself, sb1000"
    assert "service ps" in on_way.fix


@pytest.mark.parametrize(
    ("last", "words", "fix"),
    [
        (1, "it leaves its container and does not reach n1", "bridge link"),
        (2, "n1 passes it on to nobody", "/proc/net/ip_vs"),
        (3, "no network card of n1 sent it", "bridge fdb show dev sv1000"),
        (4, "it leaves n1, and was not seen to arrive", "swarmsh node check"),
        (5, "it arrives at n2 and is not let in", "iptables -vnL INPUT"),
        (6, "it is on n2, and reaches no container of the service", "iptables -vnL FORWARD"),
        (7, "it is on n2, and reaches no container of the service", "iptables -vnL FORWARD"),
        (8, "it reaches web.1 on n2, which says nothing", "drop it itself"),
    ],
)
def test_where_it_stops_on_the_way_there(last: int, words: str, fix: str) -> None:
    verdict = judge(SILENT, hops(THERE[:last]), ENDS)
    assert not verdict.ok
    assert verdict.words.startswith("no answer within 3 s: ")
    assert verdict.words.endswith(words)
    assert fix in verdict.fix


@pytest.mark.parametrize(
    ("last", "words", "fix"),
    [
        (1, "it does not leave n2", "ip route"),
        (3, "it does not leave n2", "ip route"),
        (4, "did not come back", "swarmsh node check"),
        (5, "n1 does not give it to who asked", "FORWARD"),
        (7, "n1 does not give it to who asked", "FORWARD"),
    ],
)
def test_where_its_answer_stops(last: int, words: str, fix: str) -> None:
    verdict = judge(SILENT, hops([*THERE, *BACK[:last]]), ENDS)
    assert "the answer was last seen at" in verdict.words
    assert verdict.words.endswith(words)
    assert fix in verdict.fix


def test_in_an_encrypted_network_nothing_is_seen_between_nodes() -> None:
    secret = Ends(**{name: getattr(ENDS, name) for name in ENDS.__slots__} | {"encrypted": True})
    verdict = judge(SILENT, hops(THERE[:3]), secret)
    assert "in ESP, where it cannot be seen" in verdict.words
    assert "node check" in verdict.fix


def test_what_was_never_sent_has_the_kernels_words() -> None:
    verdict = judge(Traced(outcome="failed", words="Network is unreachable"), [], ENDS)
    assert verdict.words == "nothing was sent: Network is unreachable"


def test_who_could_not_look_is_named() -> None:
    partly = Ends(**{name: getattr(ENDS, name) for name in ENDS.__slots__} | {"unknown": ("n2",)})
    assert "what n2 saw is not known" in judge(SILENT, hops(THERE[:4]), partly).fix
