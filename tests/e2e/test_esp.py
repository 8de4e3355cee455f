"""Encrypted networks on real kernels: two namespaces of one machine for two nodes, on machines of each suite."""

from __future__ import annotations

import io
import json
import tarfile
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .labctl import CHECKOUT, Lab

pytestmark = pytest.mark.e2e
FOLDER = "/run/swarmsh-test-esp"
ROTATIONS = 5
MISSING, CHANGED = "missing", "changed"


def packed() -> str:
    """The helper's package and the script, as a shell line that unpacks them on a node."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted((CHECKOUT / "remote_helpers").rglob("*.py")):
            archive.add(path, str(path.relative_to(CHECKOUT)))
        archive.add(Path(__file__).with_name("esp_pair.py"), "esp_pair.py")
    return b64encode(buffer.getvalue()).decode()


def on(lab: Lab, node: str, archive: str) -> dict[str, Any]:
    script = (
        f"rm -rf {FOLDER}; mkdir -p {FOLDER}; base64 -d | tar -xz -C {FOLDER}; "
        f"cd {FOLDER}; python3 -B esp_pair.py {FOLDER} {ROTATIONS} 2>&1; code=$?; rm -rf {FOLDER}; exit $code"
    )
    text = lab.ssh(node, script, check=False, timeout_s=300, stdin=archive)
    try:
        return dict(json.loads(text.splitlines()[-1]))
    except (ValueError, IndexError):
        raise AssertionError(f"{node}: {text}") from None


@pytest.fixture(scope="module")
def seen(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the script saw on each machine, by suite."""
    nodes = lab.status().nodes
    archive = packed()
    with ThreadPoolExecutor(len(nodes)) as pool:
        found = list(pool.map(lambda name: on(lab, name, archive), nodes))
    return {node.suite: one for node, one in zip(nodes.values(), found, strict=True)}


def all_of(seen: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    return {suite: one.get(key) for suite, one in seen.items()}


def everywhere(seen: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    assert all_of(seen, key) == dict.fromkeys(seen, value)


def test_nothing_passes_before_the_first_key_and_nothing_in_plaintext_after(seen: dict[str, Any]) -> None:
    everywhere(seen, "answered_before_keys", 0)
    everywhere(seen, "plain_before_keys", 0)
    everywhere(seen, "answered_with_keys", 6)
    assert all(count >= 12 for count in all_of(seen, "esp_with_keys").values())
    everywhere(seen, "plain_while_rotating", 0)
    everywhere(seen, "plain_while_drifting", 0)
    everywhere(seen, "answered_while_flushed", 0)
    everywhere(seen, "flushed_for_a_new_process", [2, 0])


def test_without_any_policy_a_rule_still_keeps_plaintext_in(seen: dict[str, Any]) -> None:
    everywhere(seen, "answered_by_rule_alone", 0)
    everywhere(seen, "plain_by_rule_alone", 0)


def test_forged_packets_in_plaintext_are_dropped_from_anyone_at_any_time(seen: dict[str, Any]) -> None:
    everywhere(seen, "forged_before_keys", [])
    everywhere(seen, "forged_with_keys", [])
    # They are good ones: without our policies each of them arrives.
    everywhere(seen, "forged_without", ["a node", "another port", "a stranger", "to another address"])
    everywhere(seen, "plain_without", 3)


def test_rotations_lose_no_packet_and_leave_one_epoch(seen: dict[str, Any]) -> None:
    for one in seen.values():
        assert one["sent"] > 50 and one["received"] == one["sent"]
        assert one["sas_after_rotations"] == [ROTATIONS + 1] * 2


def test_what_was_set_reads_back_as_right_also_for_a_new_process(seen: dict[str, Any]) -> None:
    everywhere(seen, "drift_when_right", [None, None])
    everywhere(seen, "resumed_as_wanted", True)


def test_drift_is_told_and_mended(seen: dict[str, Any]) -> None:
    for one in seen.values():
        words, lost, answered = one["policies_flushed"]
        assert len(words) == 3 and all(MISSING in word for word in words) and (lost, answered) == ([], 3)
        # What comes is taken again; but only a new epoch makes it sure that this lasts.
        words, lost, answered = one["inbound_removed"]
        assert len(words) == 1 and MISSING in words[0] and (lost, answered) == ([2], 3)
        assert one["wrong_key_answered"] == 0
        words, lost, answered = one["inbound_changed"]
        assert len(words) == 1 and CHANGED in words[0] and (lost, answered) == ([2], 3)
        words, warnings = one["stranger"]
        assert words == [] and len(warnings) == 1 and "left as it is" in warnings[0]


def test_an_outbound_sa_that_was_lost_is_not_added_again_but_needs_a_new_epoch(seen: dict[str, Any]) -> None:
    for one in seen.values():
        words, lost, answered = one["states_flushed"]
        # The closing policies are back by then; that of the peer is missing beside both SAs.
        assert len(words) == 3 and (lost, answered) == ([2], 0)
    everywhere(seen, "lost_again", [2])
    everywhere(seen, "after_new_epoch", [3, True])


def test_no_key_is_in_the_words_of_an_error(seen: dict[str, Any]) -> None:
    everywhere(seen, "key_in_words", False)


def test_nothing_of_ours_is_left_when_the_last_encrypted_network_is_gone(seen: dict[str, Any]) -> None:
    everywhere(seen, "left", "")
