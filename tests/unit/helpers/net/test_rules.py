"""The iptables text of a node: that of the design's section 9, what differs, and what purge takes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.net import rules
from tests.unit.helpers.net.states import node_state

# What iptables-save (legacy 1.8.9) shows of the chains of section 9, the node being number 2 of 3.
SHOWN = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:SW-RAW - [0:0]
:SW-TUN - [0:0]
-A PREROUTING -j SW-TUN
-A PREROUTING -j SW-RAW
-A OUTPUT -j SW-TUN
-A SW-RAW -i swgwv -m mac --mac-source 02:5f:0a:ff:01:01 -j CT --zone-orig 1
-A SW-RAW -i swgwv -m mac --mac-source 02:5f:0a:ff:03:01 -j CT --zone-orig 3
-A SW-TUN -p udp -m udp --dport 4789 -j CT --notrack
-A SW-TUN -p udp -m udp --dport 4790 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:SW-MIN - [0:0]
:SW-MOUT - [0:0]
:SW-PRE - [0:0]
:SW-PUB - [0:0]
-A PREROUTING -j SW-PRE
-A INPUT -j SW-MIN
-A OUTPUT -j SW-MOUT
-A SW-MIN -d 10.50.128.0/17 -i sb1000 -j SET --map-set swarmsh-vips dst --map-mark
-A SW-MIN -i sb+ -j RETURN
-A SW-MIN -d 10.255.2.1/32 -i swgw0 -p udp -m udp --dport 4792 -j RETURN
-A SW-MIN -d 10.255.2.1/32 -i swgw0 -p tcp -m tcp --dport 4792 -j RETURN
-A SW-MIN -i swlo1 -j SW-PUB
-A SW-MIN -m addrtype --dst-type LOCAL -j SW-PUB
-A SW-MOUT -m mark --mark 0x53000000/0xff000000 -j MARK --set-xmark 0x0/0xffffffff
-A SW-MOUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j SW-PUB
-A SW-PRE -d 127.0.0.0/8 ! -i lo -j DROP
-A SW-PRE -d 10.255.0.1/32 ! -i swlo1 -j DROP
-A SW-PRE -d 10.255.0.2/32 ! -i swlo0 -j DROP
-A SW-PRE ! -s 10.255.0.2/32 -i swlo1 -j DROP
-A SW-PRE -i swgwv -m conntrack --ctstate NEW -m mac --mac-source 02:5f:0a:ff:01:01 -j CONNMARK --set-xmark 0x5f01/0xffff
-A SW-PRE -i swgwv -m conntrack --ctstate NEW -m mac --mac-source 02:5f:0a:ff:03:01 -j CONNMARK --set-xmark 0x5f03/0xffff
-A SW-PRE -i swgw0 -m conntrack --ctdir REPLY -m connmark --mark 0x5f00/0xff00 -j CONNMARK --restore-mark --nfmask 0xffff --ctmask 0xffff
-A SW-PUB -p tcp -j SET --map-set swarmsh-tcp dst --map-mark
-A SW-PUB -p udp -j SET --map-set swarmsh-udp dst --map-mark
-A SW-PUB -j SET --map-set swarmsh-bound dst,dst --map-mark
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:SW-DNS - [0:0]
:SW-MOVE - [0:0]
:SW-NIN - [0:0]
:SW-OUT - [0:0]
:SW-POST - [0:0]
-A PREROUTING -j SW-DNS
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A INPUT -j SW-NIN
-A OUTPUT -j SW-OUT
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.255.2.0/24 ! -o swgw0 -j MASQUERADE
-A POSTROUTING -j SW-POST
-A POSTROUTING -j SW-MOVE
-A SW-DNS -d 10.255.2.1/32 -i swgw0 -p udp -m udp --dport 53 -j DNAT --to-destination 10.255.2.1:4792
-A SW-DNS -d 10.255.2.1/32 -i swgw0 -p tcp -m tcp --dport 53 -j DNAT --to-destination 10.255.2.1:4792
-A SW-DNS -d 10.50.0.2/32 -i sb1000 -p udp -m udp --dport 53 -j DNAT --to-destination 10.50.0.2:4792
-A SW-DNS -d 10.50.0.2/32 -i sb1000 -p tcp -m tcp --dport 53 -j DNAT --to-destination 10.50.0.2:4792
-A SW-MOVE ! -s 10.255.0.0/16 -o swgwv -p tcp -j SNAT --to-source :1024-32767
-A SW-MOVE ! -s 10.255.0.0/16 -o swgwv -p udp -j SNAT --to-source :1024-32767
-A SW-NIN -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark --mark 0x53000000/0xff000000 -j NFQUEUE --queue-num 53000
-A SW-NIN -p udp -m mark --mark 0x53000000/0xff000000 -j NFQUEUE --queue-num 53000
-A SW-OUT -d 127.0.0.0/8 -p tcp -m set --match-set swarmsh-tcp dst -j DNAT --to-destination 10.255.0.1
-A SW-OUT -d 127.0.0.0/8 -p udp -m set --match-set swarmsh-udp dst -j DNAT --to-destination 10.255.0.1
-A SW-OUT -d 127.0.0.0/8 -m set --match-set swarmsh-bound dst,dst -j DNAT --to-destination 10.255.0.1
-A SW-POST -s 127.0.0.0/8 -o swlo0 -j SNAT --to-source 10.255.0.2
-A SW-POST -s 10.255.0.2/32 -j MASQUERADE
-A SW-POST -s 10.98.0.11/32 -o swgwv -j MASQUERADE
-A SW-POST -s 10.98.0.13/32 -o swgwv -j MASQUERADE
-A SW-POST -m set --match-set swarmsh-own src,dst -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:SW-END - [0:0]
:SW-FOUT - [0:0]
:SW-FWD - [0:0]
:SW-IN - [0:0]
-A INPUT -j SW-IN
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DROP
-A FORWARD -j SW-END
-A OUTPUT -j SW-FOUT
-A DOCKER-USER -j SW-FWD
-A DOCKER-USER -j RETURN
-A SW-END -i sb1000 -o sb1000 -j ACCEPT
-A SW-END -i swgw0 -o sb+ -j DROP
-A SW-END -i swgw0 ! -o swgw0 -j ACCEPT
-A SW-END -o swgw0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SW-FOUT -p udp -m udp --dport 4790 -m policy --dir out --pol none -j DROP
-A SW-FWD -i swlo0 -j DROP
-A SW-FWD -i swlo1 -j DROP
-A SW-FWD -i swgwv -o swgw0 -j ACCEPT
-A SW-FWD -i swgwv -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SW-FWD -o swgwv -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SW-FWD -o swgwv -j DROP
-A SW-FWD -i swgw0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SW-IN -p udp -m udp --dport 4790 -m policy --dir in --pol none -j DROP
-A SW-IN -s 10.98.0.11/32 -p udp -m udp --dport 4789 -j RETURN
-A SW-IN -s 10.98.0.13/32 -p udp -m udp --dport 4789 -j RETURN
-A SW-IN -p udp -m udp --dport 4789 -j DROP
-A SW-IN -m mark --mark 0x53000000/0xff000000 -j ACCEPT
-A SW-IN -i swlo0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SW-IN -d 10.255.2.1/32 -i swgw0 -p udp -m udp --dport 4792 -j ACCEPT
-A SW-IN -d 10.255.2.1/32 -i swgw0 -p tcp -m tcp --dport 4792 -j ACCEPT
-A SW-IN -d 10.50.128.0/17 -j REJECT --reject-with icmp-port-unreachable
-A SW-IN -i sb1000 -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A SW-IN -i sb1000 -p icmp -j RETURN
-A SW-IN -i sb1000 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""  # noqa: E501


# What a kernel without sets has in these chains.
BY_RULES = """\
-A SW-MIN -d 10.50.128.5/32 -i sb1000 -j MARK --set-xmark 0x53000001/0xffffffff
-A SW-MIN -i sb+ -j RETURN
-A SW-MIN -d 10.255.2.1/32 -i swgw0 -p udp -m udp --dport 4792 -j RETURN
-A SW-MIN -d 10.255.2.1/32 -i swgw0 -p tcp -m tcp --dport 4792 -j RETURN
-A SW-MIN -i swlo1 -j SW-PUB
-A SW-MIN -m addrtype --dst-type LOCAL -j SW-PUB
-A SW-PUB -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x53000004/0xffffffff
-A SW-OUT -d 127.0.0.0/8 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.255.0.1
-A SW-POST -s 127.0.0.0/8 -o swlo0 -j SNAT --to-source 10.255.0.2
-A SW-POST -s 10.255.0.2/32 -j MASQUERADE
-A SW-POST -s 10.98.0.11/32 -o swgwv -j MASQUERADE
-A SW-POST -s 10.98.0.13/32 -o swgwv -j MASQUERADE
-A SW-POST -s 10.50.1.2/32 -d 10.50.1.2/32 -j MASQUERADE
-A SW-POST -s 10.255.2.11/32 -d 10.255.2.11/32 -j MASQUERADE
"""


def plan(state: dict[str, Any], shown: str = SHOWN, sets: bool = True) -> rules.Restore:
    return rules.plan_restore(rules.wanted(state, sets=sets), rules.parse_save(shown))


def test_the_rules_are_those_of_the_design() -> None:
    assert plan(node_state()) == rules.Restore("", "", [])


def test_a_kernel_without_sets_has_a_rule_for_each_service_and_task() -> None:
    by_rules = rules.parse_save(f"*all\n{BY_RULES}COMMIT\n")["all"]
    found, by_sets = rules.wanted(node_state(), sets=False), rules.wanted(node_state())
    for table, chains in found.items():
        for chain, each in chains.items():
            assert each == by_rules.get(chain, by_sets[table][chain]), chain
            assert (each == by_sets[table][chain]) == (chain not in by_rules), chain


def test_with_sets_the_rules_do_not_depend_on_services_and_tasks() -> None:
    state = node_state()
    state.update(vips=[], ports=[], tasks=[])
    assert rules.wanted(state) == rules.wanted(node_state()) == rules.wanted(node_state(), marks=set())


def test_a_bare_node_gets_all_chains_and_each_jump_once() -> None:
    docker = (
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n"
        "-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n"
    )
    made = plan(node_state(), docker)
    assert made.raw.startswith("*raw\n:SW-RAW - [0:0]\n:SW-TUN - [0:0]\n")
    assert made.raw.endswith(
        "-I PREROUTING 1 -j SW-RAW\n-I PREROUTING 1 -j SW-TUN\n-I OUTPUT 1 -j SW-TUN\nCOMMIT\n"
    )
    lines = made.rest.splitlines()
    shown = [line for line in SHOWN.splitlines() if line.startswith("-A SW-") and not rules.of_raw(line)]
    assert sorted(line for line in lines if line.startswith("-A SW-")) == sorted(shown)
    assert [line for line in lines if line[:2] in ("-I", "-D") or line[:6] in ("-A FOR", "-A POS")] == [
        "-I PREROUTING 1 -j SW-PRE",
        "-I INPUT 1 -j SW-MIN",
        "-I OUTPUT 1 -j SW-MOUT",
        "-I PREROUTING 1 -j SW-DNS",
        "-I INPUT 1 -j SW-NIN",
        "-I OUTPUT 1 -j SW-OUT",
        "-I POSTROUTING 1 -j SW-POST",
        "-A POSTROUTING -j SW-MOVE",
        "-I INPUT 1 -j SW-IN",
        "-I OUTPUT 1 -j SW-FOUT",
        "-I DOCKER-USER 1 -j SW-FWD",
        "-A FORWARD -j SW-END",
    ]
    # The clearing of marks and the setting of them come in one commit.
    for found, mark in ((made, "--map-set swarmsh-tcp"), (plan(node_state(), docker, False), "0x53000004/")):
        mangle = found.rest.split("COMMIT")[0]
        assert mangle.startswith("*mangle") and "--set-xmark 0x0/" in mangle and mark in mangle


def test_only_the_chain_that_differs_is_written_again() -> None:
    state = node_state()
    state["networks"][0]["internal"] = True
    made = plan(state)
    assert made.words == ["chain SW-IN was different"]
    assert made.raw == "" and made.rest.startswith("*filter\n:SW-IN - [0:0]\n-A SW-IN ")
    assert made.rest.count("COMMIT") == 1 and "SW-FWD" not in made.rest


@pytest.mark.parametrize(
    ("gone", "words", "line"),
    [
        ("-A INPUT -j SW-MIN\n", "jump INPUT to SW-MIN was missing", "-I INPUT 1 -j SW-MIN"),
        ("-A POSTROUTING -j SW-POST\n", "jump POSTROUTING to SW-POST was missing", "-I POSTROUTING 1 -j SW-POST"),
        ("-A FORWARD -j SW-END\n", "jump FORWARD to SW-END was missing", "-A FORWARD -j SW-END"),
    ],
)
def test_a_jump_that_was_deleted_is_put_back(gone: str, words: str, line: str) -> None:
    made = plan(node_state(), SHOWN.replace(gone, ""))
    assert made.words == [words] and line in made.rest.splitlines()


def test_a_jump_that_comes_too_late_or_twice_is_moved() -> None:
    late = SHOWN.replace("-A INPUT -j SW-IN\n", "-A INPUT -j ufw\n-A INPUT -j SW-IN\n-A INPUT -j SW-IN\n")
    made = plan(node_state(), late)
    assert made.words == ["jump INPUT to SW-IN was out of place"]
    assert made.rest == "*filter\n-D INPUT -j SW-IN\n-D INPUT -j SW-IN\n-I INPUT 1 -j SW-IN\nCOMMIT\n"


def test_clients_ports_are_moved_behind_the_rules_by_which_containers_get_an_address_of_the_node() -> None:
    jump = "-A POSTROUTING -j SW-MOVE\n"
    for other, right in (
        ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n", False),
        (
            "-A POSTROUTING -s 192.168.1.0/24 ! -d 192.168.1.0/24 -j MASQUERADE --to-ports 1024-65535\n",
            False,
        ),
        ("-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE\n", True),
        ("-A POSTROUTING -j LIBVIRT_PRT\n", True),
    ):
        assert plan(node_state(), SHOWN.replace(jump, other + jump)).words == []
        made = plan(node_state(), SHOWN.replace(jump, jump + other))
        assert made.words == ([] if right else ["jump POSTROUTING to SW-MOVE was out of place"])
        put = "*nat\n-D POSTROUTING -j SW-MOVE\n-A POSTROUTING -j SW-MOVE\nCOMMIT\n"
        assert made.rest == ("" if right else put)


def test_where_dockers_rules_were_flushed_forward_itself_leads_to_ours() -> None:
    flushed = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\nCOMMIT\n"
    made = plan(node_state(), flushed)
    assert "-I FORWARD 1 -j SW-FWD" in made.rest and "DOCKER-USER" not in made.rest
    # Docker is back: the jump moves to where Docker wants it.
    back = SHOWN.replace("-A DOCKER-USER -j SW-FWD\n", "").replace(
        "-A FORWARD -o docker0", "-A FORWARD -j SW-FWD\n-A FORWARD -o docker0"
    )
    made = plan(node_state(), back)
    assert made.words == ["jump DOCKER-USER to SW-FWD was missing", "jump FORWARD to SW-FWD was left over"]
    assert made.rest == "*filter\n-I DOCKER-USER 1 -j SW-FWD\n-D FORWARD -j SW-FWD\nCOMMIT\n"


def test_a_containers_port_53_of_the_host_does_not_come_before_the_tasks_own_questions() -> None:
    docker, ours = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n", "-A PREROUTING -j SW-DNS\n"
    made = plan(node_state(), SHOWN.replace(ours + docker, docker + ours))
    assert made.words == ["jump PREROUTING to SW-DNS was out of place"]
    assert made.rest == "*nat\n-D PREROUTING -j SW-DNS\n-I PREROUTING 1 -j SW-DNS\nCOMMIT\n"


def test_other_versions_of_iptables_write_the_same_rules_differently() -> None:
    older = SHOWN.replace("02:5f:0a:ff:01:01", "02:5F:0A:FF:01:01").replace(
        "RELATED,ESTABLISHED", "ESTABLISHED,RELATED"
    )
    assert older != SHOWN
    assert plan(node_state(), older) == rules.Restore("", "", [])


def test_without_marks_nothing_reaches_ipvs_and_the_guard_stays() -> None:
    mangle = rules.wanted(node_state(), marks=set(), sets=False)["mangle"]
    assert mangle["SW-PUB"] == [] and not any("0x5300000" in rule and "set" in rule for rule in mangle["SW-MIN"])
    assert "--set-xmark 0x0/" in mangle["SW-MOUT"][0]
    tables = rules.wanted(node_state(), marks={0x53000004}, sets=False)
    assert len(tables["mangle"]["SW-PUB"]) == 1 and len(tables["mangle"]["SW-MIN"]) == 5
    # What is sent to the loopback goes the way round only where it leads to a service.
    assert len(tables["nat"]["SW-OUT"]) == 1
    assert rules.wanted(node_state(), marks={0x53000001}, sets=False)["nat"]["SW-OUT"] == []


def test_names_may_be_asked_at_the_gateways_that_have_a_server() -> None:
    state = node_state()
    asked = [rule for rule in rules.wanted(state)["filter"]["SW-IN"] if "--dport 4792" in rule]
    assert len(asked) == 2 and all("-d 10.255.2.1/32 -i swgw0" in rule for rule in asked)
    state["networks"][0]["internal"] = True  # it is not accompanied by swgw
    asked = [rule for rule in rules.wanted(state)["filter"]["SW-IN"] if "--dport 4792" in rule]
    assert sorted(rule.split(" -p ")[0] for rule in asked[2:]) == ["-d 10.50.0.2/32 -i sb1000"] * 2


@pytest.mark.parametrize(
    ("bind", "published", "loopback"),
    [
        ("", "-p tcp", "-d 127.0.0.0/8 -p tcp"),
        ("0.0.0.0", "-p tcp", "-d 127.0.0.0/8 -p tcp"),
        ("10.98.0.12", "-d 10.98.0.12/32 -p tcp", None),
        ("127.0.0.1", "-d 10.255.0.1/32 -p tcp", "-d 127.0.0.1/32 -p tcp"),
    ],
)
def test_a_port_may_be_bound_to_one_address(bind: str, published: str, loopback: str | None) -> None:
    state = node_state()
    state["ports"][0]["bind"] = bind
    tables = rules.wanted(state, sets=False)
    for found, begin in ((tables["mangle"]["SW-PUB"], published), (tables["nat"]["SW-OUT"], loopback)):
        assert bool(found) == (begin is not None)
        assert all(rule.startswith(begin or "") for rule in found)


def test_a_change_writes_only_the_chains_it_concerns() -> None:
    before, after = node_state(), node_state()
    after["vips"][0]["dests"] = []
    after["ports"][0]["dests"] = after["ports"][0]["dests"][:1]
    for sets in (True, False):  # IPVS alone
        assert rules.plan_change(rules.wanted(after, sets=sets), rules.wanted(before, sets=sets)) == ""
    after["ports"].append({**after["ports"][0], "id": 9, "port": 9090})
    assert rules.plan_change(rules.wanted(after), rules.wanted(before)) == ""
    made = rules.plan_change(rules.wanted(after, sets=False), rules.wanted(before, sets=False))
    assert "*mangle\n" in made and "*nat\n" in made and made.count("--dport 9090") == 2


def run_edits(text: str, chains: dict[str, list[str]]) -> dict[str, list[str]]:
    """What iptables-restore makes of one table's text."""
    found = {chain: list(each) for chain, each in chains.items()}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if verb.startswith(":"):
            found[verb[1:]] = []
        elif verb == "-A":
            found[chain].append(rule)
        elif verb == "-D":
            found[chain].remove(rule)
        elif verb == "-I":
            at, _, rule = rule.partition(" ")
            assert 0 < int(at) <= len(found[chain]) + 1
            found[chain].insert(int(at) - 1, rule)
    return found


_chain = st.lists(st.sampled_from([f"-s 10.0.0.{i}/32 -j X" for i in range(12)]), max_size=14)


@given(want=_chain, have=_chain)
def test_edits_carried_out_make_the_chain_as_wanted(want: list[str], have: list[str]) -> None:
    tables = {"mangle": {}, "nat": {}, "filter": {}}
    wanted, there = {**tables, "nat": {"SW-OUT": want}}, {**tables, "nat": {"SW-OUT": have}}
    text = rules.plan_change(wanted, there)
    assert run_edits(text, there["nat"])["SW-OUT"] == want
    assert (text == "") == (want == have)


def test_one_rule_more_among_many_is_one_line() -> None:
    have = [f"-s 10.0.{i // 250}.{i % 250}/32 -j X" for i in range(1000)]
    tables: dict[str, dict[str, list[str]]] = {"mangle": {}, "nat": {}, "filter": {}}
    for want, line in (
        ([*have, "-j Y"], "-I SW-OUT 1001 -j Y"),
        (["-j Y", *have], "-I SW-OUT 1 -j Y"),
        (have[:500] + have[501:], "-D SW-OUT -s 10.0.2.0/32 -j X"),
    ):
        text = rules.plan_change({**tables, "nat": {"SW-OUT": want}}, {**tables, "nat": {"SW-OUT": have}})
        assert text == f"*nat\n{line}\nCOMMIT\n"


def test_purge_takes_jumps_before_chains_and_leaves_the_rest() -> None:
    text = rules.plan_removal(rules.parse_save(SHOWN))
    for table in text.split("COMMIT\n")[:-1]:
        verbs = [line[:2] for line in table.splitlines()[1:]]
        assert verbs == sorted(verbs, key=["-D", "-F", "-X"].index)
    assert text.count("-D ") == 15 and "DOCKER-USER -j RETURN" not in text and "docker0" not in text
    assert rules.plan_unmark(rules.parse_save(SHOWN)) == "*mangle\n-F SW-MIN\n-F SW-PUB\nCOMMIT\n"
    assert rules.plan_unmark({}) == ""
    assert rules.plan_removal(rules.parse_save("*nat\n:DOCKER - [0:0]\n-A DOCKER -i docker0 -j RETURN\n")) == ""
