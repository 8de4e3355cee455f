"""The helper's decisions without a node: container views, references, readiness, fencing, cgroups."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.cgroups import parse_cgroup
from remote_helpers.check import module_state
from remote_helpers.container import View, bound_ports, judge_end, may_restart
from remote_helpers.engine import parse_version, split_reference
from remote_helpers.facts import from_info
from remote_helpers.fence import Fence, Refused
from remote_helpers.ready import is_loopback, parse_listening
from remote_helpers.runtimes import crun_version
from remote_helpers.tasks import BadAction, check_action
from swarmsh.model.states import TaskState
from tests.unit.helpers.conftest import ensure, sample

HERE = Path(__file__).resolve().parents[3]
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0B00007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   3: 020011AC:0016 010011AC:D431 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   4: 020011AC:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4 1 0 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: 0000000000000000FFFF00000100007F:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000
   3: 0000000000000000FFFF0000020011AC:1F94 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_only_listeners_beyond_the_loopback_count() -> None:
    assert parse_listening(TCP) == {80, 443}
    assert parse_listening(TCP6) == {0x1F91, 0x1F94}
    assert parse_listening("") == set()
    assert is_loopback("0100007F")
    assert not is_loopback("7F000001")  # 1.0.0.127


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("web", ("web", "latest")),
        ("web:1", ("web", "1")),
        ("10.98.0.1:5000/web", ("10.98.0.1:5000/web", "latest")),
        ("10.98.0.1:5000/a/web:2", ("10.98.0.1:5000/a/web", "2")),
        ("web@sha256:ab", ("web", "sha256:ab")),
        ("reg:5000/web:1@sha256:ab", ("reg:5000/web", "sha256:ab")),
    ],
)
def test_image_references_are_split_as_the_engine_wants_them(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


def test_versions_of_crun() -> None:
    assert crun_version("crun version 0.17\ncommit: 0e92\n") == (0, 17)
    assert crun_version("crun version 1.14.1") >= (1, 0)
    assert crun_version("runc version 1.1") == crun_version("") == (0, 0)


def test_api_versions_compare_as_numbers() -> None:
    assert parse_version("1.41") < parse_version("1.51")
    assert parse_version("1.9") < parse_version("1.41")
    assert parse_version("") == (1, 41)


def view(**state: Any) -> View:
    return View({"Id": "c1", "State": {"StartedAt": "2026-01-01T00:00:00Z", **state}})


@pytest.mark.parametrize(
    ("state", "unhealthy", "judged"),
    [
        ({"ExitCode": 0}, "", ("complete", "finished", "")),
        ({"ExitCode": 3}, "", ("failed", "started", "task: non-zero exit (3)")),
        ({"ExitCode": 3, "Error": "why"}, "", ("failed", "started", "task: non-zero exit (3): why")),
        (
            {"ExitCode": 137, "OOMKilled": True},
            "",
            ("failed", "started", "task: non-zero exit (137): out of memory (OOM killed)"),
        ),
        (
            {"ExitCode": 137},
            "dockerexec: unhealthy container",
            ("failed", "started", "task: non-zero exit (137): dockerexec: unhealthy container"),
        ),
        (
            {"ExitCode": 0},
            "dockerexec: unhealthy container",
            ("failed", "started", "dockerexec: unhealthy container"),
        ),
    ],
)
def test_an_end_is_judged_as_docker_does(state: dict[str, Any], unhealthy: str, judged: tuple[str, ...]) -> None:
    assert judge_end(view(**state), unhealthy) == judged


def test_the_states_are_words_of_the_ladder_in_its_order() -> None:
    from remote_helpers.container import LADDER, TERMINAL

    ranks = [TaskState[word.upper()] for word in LADDER if word != "gone"]
    assert ranks == sorted(ranks)
    assert {word for word in LADDER if word != "gone" and TaskState[word.upper()].terminal} | {"gone"} == TERMINAL


def test_restart_conditions() -> None:
    assert may_restart("any", 0)
    assert may_restart("on-failure", 1)
    assert not may_restart("on-failure", 0)
    assert not may_restart("none", 1)


def test_a_restarting_container_does_not_run() -> None:
    waiting = view(Running=True, Restarting=True)
    assert waiting.restarting
    assert not waiting.running


@given(began=st.integers(0, 4 * 10**18), after=st.integers(1, 10**12))
def test_which_run_an_event_is_of(began: int, after: int) -> None:
    seconds, nanos = divmod(began, 10**9)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for written in {f"{whole}.{nanos:09d}Z", f"{whole}.{nanos:09d}".rstrip("0").rstrip(".") + "Z"}:
        one = view(Running=True, StartedAt=written)
        assert one.started_before(began + after)
        assert not one.started_before(began)


def test_each_port_binding_is_reported_once() -> None:
    both = [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    assert bound_ports({"80/tcp": both, "53/udp": None}) == [
        {"protocol": "tcp", "target_port": 80, "published_port": 8080}
    ]


def test_cgroup_lines_of_both_versions() -> None:
    assert parse_cgroup("0::/docker/abc\n") == [("", "/docker/abc")]
    assert parse_cgroup("12:pids:/system.slice/docker-abc.scope\n1:name=systemd:/\n0::/\n") == [
        ("pids", "/system.slice/docker-abc.scope")
    ]


def test_modules_are_found_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "sys/xfrm_user").mkdir(parents=True)
    (tmp_path / "lib/6.1").mkdir(parents=True)
    (tmp_path / "lib/6.1/modules.builtin").write_text("kernel/net/esp4.ko\n")
    (tmp_path / "lib/6.1/modules.dep").write_text(
        "kernel/net/netfilter/ipvs/ip_vs.ko.xz: a.ko\nkernel/ip-vs-x.ko:\n"
    )
    found = {
        name: module_state(name, "6.1", str(tmp_path / "sys"), str(tmp_path / "lib"))
        for name in ("xfrm_user", "esp4", "ip_vs", "ip_vs_x", "vxlan")
    }
    assert found == {
        "xfrm_user": "loaded",
        "esp4": "built in",
        "ip_vs": "can be loaded",
        "ip_vs_x": "can be loaded",
        "vxlan": "",
    }


def test_the_description_is_as_in_the_samples() -> None:
    info = {
        "Name": "n2",
        "Architecture": "x86_64",
        "OSType": "linux",
        "NCPU": 1,
        "MemTotal": 1033224192,
        "ServerVersion": "26.1.5",
        "Labels": ["disk=ssd"],
        "Plugins": {"Volume": ["local"], "Log": ["json-file"], "Network": ["bridge"], "Authorization": None},
        "GenericResources": [
            {"NamedResourceSpec": {"Kind": "gpu", "Value": "UUID1"}},
            {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
        ],
    }
    wanted = sample("hello")["data"]["description"]
    for key in ("python", "kernel", "boot_id", "routes", "mtus", "volumes", "volumes_cut"):
        del wanted[key]
    assert from_info(info, {"ApiVersion": "1.45"}) == wanted


# --- actions and fences ---
@pytest.mark.parametrize(
    "name",
    [
        "apply_ensure_task",
        "apply_ensure_task_minimal",
        "apply_stop_task",
        "apply_remove_task",
        "apply_refresh_secrets",
    ],
)
def test_the_sample_actions_are_understood(name: str) -> None:
    for action in sample(name)["args"]["actions"]:
        check_action(action)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([], "object"),
        ({"do": "dance"}, "dance"),
        (ensure(task_id=""), "task_id"),
        (ensure(config=[]), "config"),
        (ensure(desired="stop"), "desired"),
        ({"do": "remove_task"}, "task_id"),
        ({"do": "stop_task", "task_id": "t", "grace_s": "x"}, "grace_s"),
        ({"do": "stop_task", "task_id": "t", "drain_s": "x"}, "drain_s"),
        (ensure(networks={"name": "n"}), "networks"),
        (ensure(networks=[{"name": "n", "address": "10.0.0"}]), "networks"),
        (ensure(networks=[{"name": "", "address": "10.0.0.1"}]), "networks"),
    ],
)
def test_a_wrong_action_names_its_field(action: Any, words: str) -> None:
    with pytest.raises(BadAction, match=words):
        check_action(action)


def attach(
    fence: Fence, cluster: str, epoch: int, held_by: frozenset[str] = frozenset(), leased: bool = False
) -> str:
    """The code of the refusal, or nothing."""
    try:
        fence.attach({"cluster_id": cluster, "epoch": epoch}, set(held_by), leased)
    except Refused as e:
        return e.code
    return ""


def batch(fence: Fence, cluster: str, epoch: int, index: int) -> str:
    try:
        fence.batch({"cluster_id": cluster, "epoch": epoch, "index": index})
    except Refused as e:
        return e.code
    return ""


def test_epochs_and_indexes_never_go_back() -> None:
    fence = Fence()
    assert attach(fence, "a", 5) == ""
    assert attach(fence, "a", 4) == "stale_epoch"
    assert attach(fence, "a", 5) == ""
    assert batch(fence, "a", 5, 10) == ""
    assert batch(fence, "a", 5, 10) == ""
    assert batch(fence, "a", 5, 9) == "stale_index"
    assert batch(fence, "a", 4, 11) == "stale_epoch"
    assert batch(fence, "b", 9, 99) == "other_cluster"
    assert (fence.epoch, fence.index) == (5, 10)


def test_another_cluster_waits_for_tasks_and_lease_to_end() -> None:
    fence = Fence()
    attach(fence, "a", 5)
    assert attach(fence, "b", 1, frozenset({"a"})) == "other_cluster"
    assert attach(fence, "b", 1, leased=True) == "other_cluster"
    assert attach(fence, "b", 1) == ""
    assert (fence.cluster_id, fence.epoch, fence.index) == ("b", 1, 0)


def test_containers_of_another_cluster_hold_a_node_that_was_rebooted() -> None:
    fence = Fence()
    with pytest.raises(Refused, match=r"cluster a; cluster b") as caught:
        fence.attach({"cluster_id": "b", "epoch": 1}, {"a"}, False)
    assert "docker rm" in caught.value.hint


def test_a_released_node_takes_another_cluster_although_tasks_are_left() -> None:
    fence = Fence()
    attach(fence, "a", 5)
    fence.release()
    assert attach(fence, "b", 1, frozenset({"a"})) == ""
    restored = Fence()
    restored.restore(fence.to_state())
    assert vars(restored) == vars(fence)


def test_missing_fields_are_named() -> None:
    with pytest.raises(Refused, match="epoch"):
        Fence().attach({"cluster_id": "a"}, set(), False)
    with pytest.raises(Refused, match="cluster_id"):
        Fence().batch({"epoch": 1, "index": 1})


# --- the code itself ---
@pytest.mark.parametrize("path", sorted((HERE / "remote_helpers").glob("*.py")), ids=lambda path: path.name)
def test_the_code_is_python_3_9(path: Path) -> None:
    """Syntax only; that it runs is for the tests on real nodes."""
    source = path.read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    if path.name not in ("__init__.py", "__main__.py", "stub.py"):
        assert "from __future__ import annotations" in source
