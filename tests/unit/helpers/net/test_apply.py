"""The data plane as a whole on a node made up for tests: order, failures of each part, and what is left behind."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote_helpers.net import apply, unchanged
from remote_helpers.net.apply import ApplyFailed, DataPlane
from remote_helpers.net.kernel import UP
from remote_helpers.net.numbers import BadState, NotClosed, looks_ours
from tests.unit.helpers.net.fake_node import FakeNode, drops, marks, purged
from tests.unit.helpers.net.states import NET1, node_state

VIP_MARK, PORT_MARK = 0x53000001, 0x53000004
EMPTY: dict[str, Any] = {"v": 1, "networks": [], "vips": [], "ports": [], "tasks": [], "names": []}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    made = FakeNode()
    made.install(monkeypatch)
    made.step = lambda: holds(made)
    return made


@pytest.fixture
def plane(node: FakeNode, tmp_path: Path) -> DataPlane:
    return DataPlane(node.engine, str(tmp_path / "swarmsh"))  # type: ignore[arg-type]


def holds(node: FakeNode) -> None:
    """What must be true after every single line, whatever fails."""
    open_ = "swgwv" in node.links and node.links["swgwv"].flags & UP
    local = any(value == "1" for path, value in node.sysctls.items() if path.endswith("/route_localnet"))
    assert drops(node) or not (open_ or local), "open without the rules that drop"
    assert marks(node) <= set(node.services), "a mark that leads to the node itself"
    for name, link in node.links.items():
        is_up = link.kind == "vxlan" and link.flags & UP and looks_ours(name)
        assert not is_up or name in node.guards, f"{name} is up without its guard"


def encrypted() -> dict[str, Any]:
    state = node_state()
    state["networks"][0]["encrypted"] = True
    return state


async def fails(plane: DataPlane, state: dict[str, Any], verb: str = "apply") -> ApplyFailed:
    with pytest.raises(ApplyFailed) as caught:
        await getattr(plane, verb)(*([state] if verb != "purge" else []))
    return caught.value


# --- whole passes --------------------------------------------------------------------------------------------
async def test_a_node_is_brought_to_the_state_once_and_left_as_it_was(node: FakeNode, plane: DataPlane) -> None:
    before = node.everything()
    differed = await plane.apply(node_state())
    assert "link sv1000 was missing" in differed and "link swgw0 was missing" in differed
    assert marks(node) == {VIP_MARK, PORT_MARK} == set(node.services) and plane.failed == {}
    node.ran.clear()
    assert await plane.apply(node_state()) == []
    assert node.ran == ["iptables-save"]
    assert await plane.apply(node_state()) == []
    assert node.ran == ["iptables-save"]  # nobody has changed a rule since then
    assert await plane.purge() != []
    assert node.everything() == before


async def settled(node: FakeNode, plane: DataPlane) -> None:
    """Passes until one starts no process."""
    for _ in range(4):
        node.ran.clear()
        await plane.apply(node_state())
        if not node.ran:
            return
    raise AssertionError(f"each pass runs {node.ran}")


async def test_rules_that_somebody_changed_are_mended_by_the_next_pass(node: FakeNode, plane: DataPlane) -> None:
    await plane.apply(node_state())
    node.step = lambda: None
    for table, chain in [(table, chain) for table, chains in node.tables.items() for chain in chains]:
        await settled(node, plane)
        ours = [rule for rule in node.tables[table][chain] if "SW-" in rule or chain.startswith("SW-")]
        node.tables[table][chain] = [rule for rule in node.tables[table][chain] if rule not in ours]
        found = await plane.apply(node_state())
        assert any(chain in word for word in found) == bool(ours), (table, chain)
        assert set(ours) <= set(node.tables[table][chain])


async def test_rules_are_shown_by_a_process_where_the_kernel_does_not_tell_of_changes(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.apply(node_state())
    await settled(node, plane)
    monkeypatch.setattr(unchanged, "rules_stamp", lambda by: b"")
    for _ in range(3):
        node.ran.clear()
        await plane.apply(node_state())
        assert node.ran == ["iptables-save"]


async def test_rules_that_change_while_they_are_shown_are_looked_at_again(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.apply(node_state())
    stamps = iter([b"1", b"2", b"2", b"2", b"2"])
    monkeypatch.setattr(unchanged, "rules_stamp", lambda by: next(stamps))
    node.ran.clear()
    for expected in (1, 2, 2):  # another after it than before it, the same, and known
        await plane.apply(node_state())
        assert len(node.ran) == expected


async def test_that_another_iptables_was_chosen_is_seen_within_a_minute(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.apply(node_state())
    await settled(node, plane)
    now = apply.time.monotonic() + 61
    monkeypatch.setattr(apply.time, "monotonic", lambda: now)
    await plane.apply(node_state())
    assert node.ran == ["iptables-save"]


async def test_a_state_without_networks_ports_and_tasks_is_a_purge(node: FakeNode, plane: DataPlane) -> None:
    before = node.everything()
    await plane.apply(node_state())
    assert "link sv1000 was left over" in await plane.apply(EMPTY)
    assert node.everything() == before
    await plane.apply(node_state())
    await plane.change({"v": 1})
    assert node.everything() == before


async def test_where_nothing_of_ours_is_a_purge_does_nothing(node: FakeNode, plane: DataPlane) -> None:
    node.loaded, node.has_ipvs = False, False
    node.fails["write"] = "no settings are to be changed"
    assert await plane.apply(EMPTY) == []
    assert await plane.purge() == []
    assert node.ran == [] and node.engine.calls == []


@pytest.mark.parametrize("had", [("filter", "nat"), ("filter", "nat", "mangle")])
async def test_a_table_that_was_not_there_is_gone_afterwards(
    node: FakeNode, plane: DataPlane, had: tuple[str, ...]
) -> None:
    node.tables = {table: node.tables[table] for table in had}
    before = node.everything()
    for _ in range(2):
        await plane.apply(node_state())
        await plane.apply(node_state())
        assert node.tables["raw"]["SW-RAW"] and node.tables["mangle"]
        await plane.purge()
        assert node.everything() == before


async def test_a_table_stays_that_somebody_uses_since(node: FakeNode, plane: DataPlane) -> None:
    del node.tables["raw"], node.tables["mangle"]
    await plane.apply(node_state())
    node.tables["raw"]["PREROUTING"].append("-j ACCEPT")
    node.step = lambda: None
    # Somebody writes the first rule into the other while the tables are looked at.
    node.hurry.append(lambda: node.tables["mangle"]["INPUT"].append("-j ACCEPT"))
    await plane.purge()
    assert node.tables["raw"] == {"PREROUTING": ["-j ACCEPT"], "OUTPUT": []}
    assert node.tables["mangle"] == {"PREROUTING": [], "INPUT": ["-j ACCEPT"], "OUTPUT": []}


async def test_tables_of_legacy_iptables_go_with_their_module_alone(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    del node.tables["raw"]
    monkeypatch.setattr(unchanged, "shown_by", lambda shown: unchanged.LEGACY)
    await plane.apply(node_state())
    await plane.purge()
    assert node.tables["raw"] == {"PREROUTING": [], "OUTPUT": []}


# --- A1: marks -----------------------------------------------------------------------------------------------
async def test_what_has_no_service_is_not_marked_and_the_rest_goes_on(node: FakeNode, plane: DataPlane) -> None:
    state = node_state()
    state["vips"][0]["scheduler"] = "mh"
    failed = await fails(plane, state)
    assert any("add service 0x53000001" in error for error in failed.errors)
    assert marks(node) == {PORT_MARK}
    assert any("10.50.128.0/17 -j REJECT" in rule for rule in node.tables["filter"]["SW-IN"])
    assert plane.failed == {}  # tasks on it reach each other
    # It stays an error, and is no drift of rules.
    assert not any("chain" in word for word in (await fails(plane, state)).differed)
    node.schedulers.add("mh")
    await plane.apply(state)
    assert marks(node) == {VIP_MARK, PORT_MARK}


async def test_without_ip_vs_nothing_is_marked(node: FakeNode, plane: DataPlane) -> None:
    node.has_ipvs = False
    assert any("no IPVS" in error for error in (await fails(plane, node_state())).errors)
    assert marks(node) == set() and node.links["sv1000"].flags & UP


async def test_a_service_that_was_deleted_loses_its_mark_before_it_is_back(
    node: FakeNode, plane: DataPlane
) -> None:
    await plane.apply(node_state())
    node.step = lambda: None
    del node.services[VIP_MARK]
    seen: list[tuple[bool, bool]] = []
    node.step = lambda: seen.append((VIP_MARK in marks(node), VIP_MARK in node.services))
    assert await plane.apply(node_state()) == ["service 0x53000001 was missing"]
    assert seen[0] == (False, False) and seen[-1] == (True, True) and (True, False) not in seen


async def test_a_change_that_the_kernel_refuses_becomes_a_whole_pass(node: FakeNode, plane: DataPlane) -> None:
    state = node_state()
    await plane.apply(state)
    node.step = lambda: None
    node.services.clear()  # ipvsadm -C
    state["vips"][0]["dests"][0]["weight"] = 0
    await plane.change(state)
    assert node.services[VIP_MARK].dests == {("10.50.1.2", 0): 0, ("10.50.1.3", 0): 1}
    assert marks(node) == set(node.services) == {VIP_MARK, PORT_MARK}


async def test_a_kernel_without_the_queue_works_without_it(node: FakeNode, plane: DataPlane) -> None:
    await plane.apply(node_state())
    assert len(node.tables["nat"]["SW-NIN"]) == 2
    node.lacks.add("xt_NFQUEUE")
    plane = DataPlane(node.engine, str(plane._before._root))  # type: ignore[arg-type]
    await plane.apply(node_state())
    assert node.tables["nat"]["SW-NIN"] == [] and plane.failed == {}
    await plane.change(node_state())
    assert node.tables["nat"]["SW-NIN"] == [] and await plane.apply(node_state()) == []


# --- A2: order -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["iptables-restore", "iptables-save", "filter ", "mangle "])
async def test_without_rules_nothing_is_opened(node: FakeNode, plane: DataPlane, part: str) -> None:
    node.fails[part] = "Another app is currently holding the xtables lock"
    failed = await fails(plane, node_state())
    assert any("xtables lock" in error for error in failed.errors)
    assert set(node.links) == {"eth0"} and set(plane.failed) == {"swgw", "net1"}
    assert "xtables lock" in plane.failed["net1"]
    node.fails.clear()
    await plane.apply(node_state())
    assert plane.failed == {} and marks(node) == {VIP_MARK, PORT_MARK}


async def test_a_held_lock_keeps_no_dead_backend(node: FakeNode, plane: DataPlane) -> None:
    state = node_state()
    await plane.apply(state)
    node.fails["iptables-save"] = "holding the xtables lock"
    state["vips"][0]["dests"].pop()
    await fails(plane, state)
    assert node.services[VIP_MARK].dests == {("10.50.1.2", 0): 1}
    assert plane.failed == {}  # what is there works


async def test_what_protects_goes_last(node: FakeNode, plane: DataPlane) -> None:
    await plane.apply(node_state())
    node.engine.containers["web"] = ("swgw", True)
    failed = await fails(plane, {}, "purge")
    assert any("containers still use swgw0" in error for error in failed.errors)
    assert drops(node) and marks(node) == set() and node.services == {}
    node.engine.containers.clear()
    await plane.purge()
    assert purged(node.shown()) and "swgw0" not in node.links


# --- A3: zones -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("held", ["raw ", "raw -A SW-RAW -i swgwv"])  # to the end; or for the first call alone
async def test_a_lock_is_not_taken_for_a_kernel_without_zones(node: FakeNode, plane: DataPlane, held: str) -> None:
    node.fails[held] = "Another app is currently holding the xtables lock"
    assert any("lock" in error for error in (await fails(plane, node_state())).errors)
    node.fails.clear()
    await plane.apply(node_state())
    assert len(node.tables["raw"]["SW-RAW"]) == 2


async def test_a_kernel_without_zones_works_without_them_and_is_asked_again(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("remote_helpers.net.apply.time.monotonic", lambda: now[0])
    node.fails["raw -A SW-RAW -i swgwv"] = "line 4 failed"
    await plane.apply(node_state())
    assert node.tables["raw"]["SW-RAW"] == [] and len(node.tables["raw"]["SW-TUN"]) == 2
    assert sorted(node.tables["raw"]["PREROUTING"]) == ["-j SW-RAW", "-j SW-TUN"]
    node.ran.clear()
    assert await plane.apply(node_state()) == [] and node.ran == ["iptables-save"]
    node.fails.clear()
    now[0] += 601.0
    assert await plane.apply(node_state()) == ["chain SW-RAW was different"]
    assert len(node.tables["raw"]["SW-RAW"]) == 2
    # Another peer is reason enough to try.
    node.fails["raw -A SW-RAW -i swgwv"] = "line 4 failed"
    state = node_state()
    state["peers"].append({"n": 9, "underlay": "10.98.0.19"})
    await plane.apply(state)
    node.fails.clear()
    state["peers"].pop()
    await plane.apply(state)
    assert len(node.tables["raw"]["SW-RAW"]) == 2


async def test_a_kernel_without_the_target_works_without_it(node: FakeNode, plane: DataPlane) -> None:
    node.fails["raw -A SW-RAW"] = node.fails["raw -A SW-TUN"] = "line 4 failed"
    await plane.apply(node_state())
    assert node.tables["raw"]["SW-RAW"] == node.tables["raw"]["SW-TUN"] == []
    node.ran.clear()
    assert await plane.apply(node_state()) == [] and node.ran == ["iptables-save"]
    # One that takes no chain at all has another fault.
    node.fails["raw "] = "line 1 failed"
    node.tables["raw"].clear()
    assert (await fails(plane, node_state())).errors


# --- A4: encrypted networks ----------------------------------------------------------------------------------
class Secure:
    """A hook whose outcome is set by the test."""

    def __init__(self) -> None:
        self.refuses = ""
        self.calls = 0

    async def __call__(self) -> list[str]:
        self.calls += 1
        if self.refuses:
            raise NotClosed(self.refuses)
        return ["policy out: missing"] if self.calls == 1 else []


@pytest.fixture
def secured(node: FakeNode, tmp_path: Path) -> tuple[DataPlane, Secure]:
    hook = Secure()
    return DataPlane(node.engine, str(tmp_path / "swarmsh"), secure=hook), hook  # type: ignore[arg-type]


async def test_an_encrypted_network_that_was_never_closed_is_not_made(
    node: FakeNode, plane: DataPlane, secured: tuple[DataPlane, Secure]
) -> None:
    made, hook = secured
    hook.refuses = "ip: no memory"
    for one, words in ((plane, "there are no keys"), (made, "no memory")):
        failed = await fails(one, encrypted())
        assert any(words in error for error in failed.errors)
        assert set(one.failed) == {"net1"} and words in one.failed["net1"]
        assert "sv1000" not in node.links and "sb1000" not in node.links and "swgwv" in node.links
    hook.refuses = ""
    await made.apply(encrypted())
    assert node.links["sv1000"].vxlan[2] == 4790 and made.failed == {}


async def test_a_hiccup_leaves_what_is_closed_as_it_is(node: FakeNode, secured: tuple[DataPlane, Secure]) -> None:
    made, hook = secured
    assert "policy out: missing" in await made.apply(encrypted())
    before = node.everything()
    hook.refuses = "ip: no memory"
    state = encrypted()
    failed = await fails(made, state)
    assert failed.errors == ["encrypted networks: ip: no memory"] and failed.differed == []
    assert node.everything() == before and made.failed == {}
    # Another process of the helper, which closed nothing itself, keeps it as well; and goes on mending it.
    node.step = lambda: None
    node.fdb.clear()
    await fails(made, state)
    assert ("sv1000", "00:00:00:00:00:00", "10.98.0.11") in node.fdb
    # A device that has gone is not made again meanwhile; its Docker network and its containers stay.
    node.drop_link("sv1000")
    await fails(made, state)
    assert "sv1000" not in node.links and "sb1000" in node.links and "net1" in node.engine.networks
    assert "no memory" in made.failed["net1"]
    hook.refuses = ""
    assert "link sv1000 was missing" in await made.apply(state)


async def test_the_hook_is_not_asked_for_plain_networks(secured: tuple[DataPlane, Secure]) -> None:
    made, hook = secured
    await made.apply(node_state())
    assert hook.calls == 0


# --- A5: errors ----------------------------------------------------------------------------------------------
CONCERNS = {
    "apply": ["read", "ip ", "tc ", "bridge ", "write ", "modprobe", "nat "],
    "purge": ["read", "ip ", "write ", "nat ", "mangle "],
}
FOLLOWS = {
    "without these rules no device is made or brought up",
    "nothing is marked for IPVS: no mark guard on sv1000, swgwv",
}


@pytest.mark.parametrize(("verb", "part"), [(verb, part) for verb, parts in CONCERNS.items() for part in parts])
async def test_whatever_refuses_is_told_and_the_next_pass_mends_it(
    node: FakeNode, plane: DataPlane, part: str, verb: str
) -> None:
    if verb == "purge":
        await plane.apply(node_state())
    node.loaded = part != "modprobe"
    node.fails[part] = "refused"
    told = (await fails(plane, node_state(), verb)).errors
    assert all("refused" in error or error in FOLLOWS for error in told)
    node.fails.clear()
    node.loaded = True
    await plane.apply(node_state())
    assert await plane.apply(node_state()) == [] and plane.failed == {}
    assert marks(node) == {VIP_MARK, PORT_MARK}


async def test_an_engine_that_does_not_answer_fails_the_networks_that_are_missing(
    node: FakeNode, plane: DataPlane
) -> None:
    node.engine.gone = True
    await fails(plane, node_state())
    assert set(plane.failed) == {"swgw", "net1"} and "did not answer" in plane.failed["swgw"]
    node.engine.gone = False
    await plane.apply(node_state())
    node.engine.gone = True
    assert await plane.apply(node_state()) == []


@pytest.mark.parametrize("guarded", [True, False])
async def test_dead_backends_do_not_wait_for_an_engine_with_a_bridge_to_make(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    await plane.apply(node_state())
    state = node_state()
    more = {"id": "another", "name": "net2", "vni": 4097, "subnet": "10.51.0.0/16", "vips": "10.51.128.0/17"}
    state["networks"].append({**state["networks"][0], **more, "gateway": "10.51.0.2"})
    dead = state["vips"][0]["dests"].pop(0)
    if not guarded:
        # A service may be back under a mark that was left only when nothing marked can go round in a circle.
        node.step = lambda: None
        node.guards.discard("sv1000")
        del node.services[PORT_MARK]
    found: list[bool] = []
    call = node.engine.call

    async def slow(method: str, path: str, **options: Any) -> Any:
        found.append((dead["address"], 0) in node.services[VIP_MARK].dests)
        assert guarded or PORT_MARK not in node.services
        return await call(method, path, **options)

    monkeypatch.setattr(node.engine, "call", slow)
    await plane.apply(state)
    assert found and set(found) == {not guarded}
    assert set(node.services) == {VIP_MARK, PORT_MARK} and len(node.services[VIP_MARK].dests) == 1


async def test_nothing_is_changed_that_could_not_be_put_back(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = node.everything()
    monkeypatch.setattr("remote_helpers.net.before.os.makedirs", full)
    plane = DataPlane(node.engine, str(tmp_path / "swarmsh"))  # type: ignore[arg-type]
    failed = await fails(plane, node_state())
    assert "No space left" in failed.errors[0] and set(plane.failed) == {"swgw", "net1"}
    assert node.everything() == before


async def test_a_broken_record_of_settings_is_told_and_ends(
    node: FakeNode, plane: DataPlane, tmp_path: Path
) -> None:
    await plane.apply(node_state())
    for broken in ("{", "[]", '{"sysctls": 3}'):
        (tmp_path / "swarmsh" / "net-before.json").write_text(broken)
        assert any("could not be read" in word for word in await plane.purge())
        assert purged(node.shown()) and not (tmp_path / "swarmsh" / "net-before.json").exists()
        await plane.apply(node_state())


async def test_hairpin_has_one_kind_of_error(
    node: FakeNode, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.apply(node_state())
    node.add_link("veth1", "veth", "", master=node.links["sb1000"].index, hairpin=False)
    monkeypatch.setattr("remote_helpers.net.apply.kernel.write", lambda *_: (_ for _ in ()).throw(OSError(5, "x")))
    with pytest.raises(ApplyFailed):
        plane.hairpin()


async def test_a_bad_state_touches_nothing(node: FakeNode, plane: DataPlane) -> None:
    before = node.everything()
    state = node_state()
    del state["vips"][0]["dests"][1]["weight"]
    for call in (plane.apply, plane.change):
        with pytest.raises(BadState):
            await call(state)
        with pytest.raises(BadState):
            await call([])  # type: ignore[arg-type]
    assert node.everything() == before and node.ran == []


# --- B5, B6: what is somebody's ------------------------------------------------------------------------------
async def test_a_bridge_is_mended_by_hand_while_any_container_is_on_its_network(
    node: FakeNode, plane: DataPlane
) -> None:
    await plane.apply(node_state())
    made = node.engine.networks["net1"]["Id"]
    node.engine.containers["created"] = ("net1", False)
    node.step = lambda: None
    node.drop_link("sb1000")
    node.engine.calls.clear()
    assert "link sb1000 was missing" in await plane.apply(node_state())
    assert "POST /networks/create" not in node.engine.calls and "sb1000" in node.links
    assert node.engine.networks["net1"]["Id"] == made
    assert await plane.apply(node_state()) == []
    # With nobody on it the Engine makes it anew.
    node.engine.containers.clear()
    node.drop_link("sb1000")
    node.engine.calls.clear()
    await plane.apply(node_state())
    assert "POST /networks/create" in node.engine.calls


async def test_a_network_of_ours_that_nobody_wants_gives_its_name_to_the_one_that_is_wanted(
    node: FakeNode, plane: DataPlane
) -> None:
    await plane.apply(node_state())
    anew = node_state()
    anew["networks"][0].update(id="another", vni=4097)
    for section in ("vips", "tasks", "names"):
        anew[section] = []
    node.engine.containers["late"] = ("net1", True)
    node.step = lambda: None
    with pytest.raises(ApplyFailed, match="active endpoints"):
        await plane.apply(anew)
    assert "active endpoints" in plane.failed["net1"]
    assert node.engine.networks["net1"]["Labels"]["swarmsh.network"] != "another"
    node.engine.containers.clear()
    await plane.apply(anew)
    assert plane.failed == {}
    assert node.engine.networks["net1"]["Labels"]["swarmsh.network"] == "another"
    assert "sb1001" in node.links and "sb1000" not in node.links


async def test_devices_of_a_user_with_names_like_ours_stay(node: FakeNode, plane: DataPlane) -> None:
    node.add_bridge("sbcafe", "5a:00:00:00:00:01")
    node.add_link("svbeef", "vxlan", "5a:00:00:00:00:02", vxlan=(7, "10.0.0.1", 8472, True))
    node.add_link("veth9", "veth", "", master=node.links["sbcafe"].index, hairpin=False)
    node.step = lambda: None
    before = node.everything()
    await plane.apply(node_state())
    node.engine.calls.clear()
    assert await plane.apply(node_state()) == []
    assert node.engine.calls == []  # asked once, whose they are
    assert plane.hairpin() == []
    await plane.purge()
    assert node.everything() == before


async def test_a_name_that_was_a_users_may_become_ours_and_is_removed_then(
    node: FakeNode, plane: DataPlane
) -> None:
    node.add_bridge("sb1000", "5a:00:00:00:00:01")
    without = {**node_state(), "networks": [], "vips": []}
    await plane.apply(without)
    node.drop_link("sb1000")
    await plane.apply(node_state())
    await plane.apply(without)
    assert "sb1000" not in node.links and "net1" not in node.engine.networks


async def test_a_bridge_that_has_no_mac_of_ours_is_ours_if_the_engine_knows_it(
    node: FakeNode, plane: DataPlane
) -> None:
    node.add_bridge("sb1000", "5a:00:00:00:00:01")
    failed = await fails(plane, node_state())
    assert any("has a bridge sb1000 that is not swarmsh's" in error for error in failed.errors)
    assert set(plane.failed) == {"net1"} and "not swarmsh's" in plane.failed["net1"]
    assert node.links["sb1000"].mac == "5a:00:00:00:00:01" and not node.links["sv1000"].flags & UP
    node.drop_link("sb1000")
    await plane.apply(node_state())
    # After a boot Docker has made it with another MAC, and all else is gone.
    node.links["sb1000"] = node.links["sb1000"]._replace(mac="02:42:99:00:00:01")
    assert await plane.apply(node_state()) == ["MAC of sb1000 was 02:42:99:00:00:01"]


async def test_a_device_of_a_user_in_the_place_of_ours_is_not_deleted(node: FakeNode, plane: DataPlane) -> None:
    node.add_link("sv1000", "vxlan", "5a:00:00:00:00:02", vxlan=(7, "10.0.0.1", 8472, True))
    node.step = lambda: None
    failed = await fails(plane, node_state())
    assert any("device sv1000 that is not swarmsh's" in error for error in failed.errors)
    assert node.links["sv1000"].vxlan == (7, "10.0.0.1", 8472, True) and set(plane.failed) == {"net1"}


# --- B7, B8 --------------------------------------------------------------------------------------------------
def with_another_port(state: dict[str, Any]) -> dict[str, Any]:
    state = copy.deepcopy(state)
    state["ports"].append({**copy.deepcopy(state["ports"][0]), "id": 5, "port": 8081})
    return state


async def test_a_change_marks_nothing_more_while_a_guard_is_missing(node: FakeNode, plane: DataPlane) -> None:
    state = node_state()
    await plane.apply(state)
    node.guards.discard("sv1000")
    node.fails["tc "] = "refused"
    seen: list[set[int]] = []
    node.step = lambda: seen.append(marks(node))
    with pytest.raises(ApplyFailed, match="no mark guard on sv1000"):
        await plane.change(with_another_port(state))
    assert not any(0x53000005 in found for found in seen) and marks(node) == set()
    node.fails.clear()
    await plane.change(with_another_port(state))
    assert marks(node) == {VIP_MARK, PORT_MARK, 0x53000005}


async def test_settings_that_come_with_a_late_module_are_put_back_too(node: FakeNode, plane: DataPlane) -> None:
    late = {path: node.sysctls.pop(path) for path in list(node.sysctls) if "/vs/" in path}
    node.has_ipvs = False
    await fails(plane, node_state())
    node.sysctls.update(late)
    node.has_ipvs = True
    await plane.apply(node_state())
    assert node.timeouts == (432000, 120, 300) and node.sysctls["net/ipv4/vs/conntrack"] == "1"
    await plane.purge()
    assert node.timeouts == (900, 120, 300) and {path: node.sysctls[path] for path in late} == late


async def test_timeouts_are_those_of_the_state_at_once_and_drift_is_mended(
    node: FakeNode, plane: DataPlane
) -> None:
    state = node_state()
    state["egress"]["timeouts_s"] = {"tcp": 86400, "tcp_fin": 60, "udp": 30}
    await plane.apply(state)
    assert node.timeouts == (86400, 60, 30)
    node.timeouts = (900, 120, 300)
    assert await plane.apply(state) == ["timeouts of IPVS were different"]
    assert node.timeouts == (86400, 60, 30)
    state = copy.deepcopy(state)
    state["egress"]["timeouts_s"]["tcp"] = 7200
    await plane.change(state)  # as a manager that changes the setting tells it: not with the next look
    assert node.timeouts == (7200, 60, 30)
    assert await plane.apply(state) == []
    del (state := copy.deepcopy(state))["egress"]["timeouts_s"]  # an older manager, or the file of an older helper
    await plane.change(state)
    assert node.timeouts == (432000, 120, 300)
    await plane.purge()
    assert node.timeouts == (900, 120, 300)


async def test_a_missing_module_is_named_with_what_needs_it(node: FakeNode, plane: DataPlane) -> None:
    node.loaded = False
    node.fails["modprobe"] = "FATAL: Module esp4 not found in directory /lib/modules/6.1"
    for _ in range(2):  # not the first time alone
        errors = (await fails(plane, encrypted())).errors
        (words,) = [error for error in errors if "module esp4" in error]
        assert "which encrypted networks need" in words and "FATAL: Module esp4 not found" in words
    assert not any("module esp4 is" in error for error in (await fails(plane, node_state())).errors)


# --- change --------------------------------------------------------------------------------------------------
def _more_dests(state: dict[str, Any]) -> None:
    state["ports"][0]["dests"].append({"address": "10.255.3.12", "port": 80, "weight": 1, "task": "t"})


def _drained(state: dict[str, Any]) -> None:
    state["vips"][0]["dests"][0]["weight"] = 0


def _another_vip(state: dict[str, Any]) -> None:
    state["vips"].append({**copy.deepcopy(state["vips"][0]), "id": 7, "address": "10.50.128.6"})


def _no_port(state: dict[str, Any]) -> None:
    state["ports"].clear()


def _another_task(state: dict[str, Any]) -> None:
    state["tasks"].insert(0, {"id": "task0", "addresses": ["10.50.1.9", "10.255.2.19"]})


def _another_peer(state: dict[str, Any]) -> None:
    state["peers"].append({"n": 9, "underlay": "10.98.0.19"})


@pytest.mark.parametrize("lacks", [set(), {"ip_set_hash_netnet"}])
@pytest.mark.parametrize("edit", [_more_dests, _drained, _another_vip, _no_port, _another_task, _another_peer])
async def test_a_change_there_and_back_leaves_nothing_for_a_whole_pass(
    node: FakeNode, plane: DataPlane, edit: Callable[[dict[str, Any]], None], lacks: set[str]
) -> None:
    node.lacks |= lacks
    state = node_state()
    await plane.apply(state)
    edit(state)
    await plane.change(state)
    assert await plane.apply(state) == []
    await plane.change(node_state())
    assert await plane.apply(node_state()) == []


async def test_a_change_reads_nothing_and_writes_what_changed(node: FakeNode, plane: DataPlane) -> None:
    node.lacks.add("xt_set")
    state = node_state()
    for i in range(100):
        _another_vip(state)
        state["vips"][-1].update(id=100 + i, address=f"10.50.129.{i}")
    await plane.apply(state)
    node.ran.clear()
    _drained(state)
    await plane.change(state)
    assert node.ran == []  # IPVS alone
    texts: list[str] = []
    restore = node._restore
    node._restore = lambda text: (texts.append(text), restore(text))[1]  # type: ignore[method-assign,func-returns-value]
    _another_vip(state)
    await plane.change(state)
    assert node.ran == ["iptables-restore"]
    assert texts == [
        "*mangle\n-I SW-MIN 102 -d 10.50.128.6/32 -i sb1000 -j MARK --set-xmark 0x53000007/0xffffffff\nCOMMIT\n"
    ]


@pytest.mark.parametrize("edit", [_more_dests, _drained, _another_vip, _no_port, _another_task])
async def test_where_the_kernel_has_sets_a_change_starts_no_process(
    node: FakeNode, plane: DataPlane, edit: Callable[[dict[str, Any]], None]
) -> None:
    state = node_state()
    await plane.apply(state)
    assert marks(node) == {VIP_MARK, PORT_MARK} and len(node.sets) == 5
    node.ran.clear()
    edit(state)
    await plane.change(state)
    assert node.ran == [] and marks(node) == set(node.services)


async def test_what_differs_in_sets_is_told_and_mended(node: FakeNode, plane: DataPlane) -> None:
    await plane.apply(node_state())
    node.step = lambda: None
    node.sets["swarmsh-vips"].clear()
    node.sets["swarmsh-vips"][("10.50.128.77",)] = 0x53000004
    node.sets["swarmsh-tcp"][(6, 8080)] = 0x53000001
    node.sets["swarmsh-own"].clear()
    node.step = lambda: holds(node)
    assert await plane.apply(node_state()) == [
        "set swarmsh-vips was different",
        "set swarmsh-tcp was different",
        "set swarmsh-own was different",
    ]
    assert node.sets["swarmsh-vips"] == {("10.50.128.5",): VIP_MARK}
    assert node.sets["swarmsh-tcp"] == {(6, 8080): PORT_MARK} and len(node.sets["swarmsh-own"]) == 2
    assert await plane.apply(node_state()) == []


async def test_sets_that_cannot_be_made_keep_everything_closed(node: FakeNode, plane: DataPlane) -> None:
    node.fails["sets"] = "Cannot allocate memory"
    failed = await fails(plane, node_state())
    assert any("Cannot allocate" in error for error in failed.errors)
    assert set(node.links) == {"eth0"} and set(plane.failed) == {"swgw", "net1"}
    node.fails.clear()
    await plane.apply(node_state())
    assert marks(node) == {VIP_MARK, PORT_MARK}


async def test_another_version_without_or_with_sets_takes_over(node: FakeNode, plane: DataPlane) -> None:
    before = node.everything()
    root = str(plane._before._root)
    for lacks in (set(), {"xt_set"}, set()):
        node.lacks = lacks
        plane = DataPlane(node.engine, root)  # type: ignore[arg-type]
        await plane.apply(node_state())
        assert marks(node) == {VIP_MARK, PORT_MARK} and await plane.apply(node_state()) == []
    await plane.purge()
    assert node.everything() == before


async def test_a_change_after_somebodys_change_of_rules_becomes_a_whole_pass(
    node: FakeNode, plane: DataPlane
) -> None:
    node.lacks.add("xt_set")
    state = node_state()
    await plane.apply(state)
    node.tables["nat"]["SW-OUT"].clear()
    _no_port(state)
    await plane.change(state)
    assert await plane.apply(state) == []


async def test_unknown_keys_are_let_be(plane: DataPlane) -> None:
    state = node_state()
    state["vips"][0].update(service="s", tcp_ports=[80])
    state["ports"][0].update(service="s", tcp_ports=[80])
    state["vips"][0]["dests"][0]["task"] = "t"
    state["more"] = {}
    await plane.apply(json.loads(json.dumps(state)))
    assert await plane.apply(state) == []


async def test_a_network_that_goes_takes_its_rules_after_its_devices(node: FakeNode, plane: DataPlane) -> None:
    await plane.apply(node_state())
    state = {**node_state(), "networks": [], "vips": [], "tasks": []}

    def refused() -> None:
        holds(node)
        route = any(route.dst == "10.50.128.0/17" for route in node.routes)
        refuses = any("10.50.128.0/17 -j REJECT" in rule for rule in node.tables["filter"]["SW-IN"])
        assert refuses or not route, "virtual addresses lead to the node itself"

    node.step = refused
    await plane.apply(state)
    assert "sv1000" not in node.links and "net1" not in node.engine.networks
    assert NET1 not in str(node.engine.networks)
