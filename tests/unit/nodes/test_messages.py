"""The sample messages that the helper's tests read are what the manager says and understands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmsh.adapters.nodes.messages import (
    Description,
    Drift,
    FoundListeners,
    Line,
    LostPeers,
    NetworkState,
    PathsHeard,
    PathsListened,
    PathsSent,
    Released,
    TraceSeen,
    to_description,
)
from swarmsh.model.actions import Batch, ContentParts, TaskReport
from swarmsh.model.listeners import Listener, PortRange
from swarmsh.model.netstate import (
    Egress,
    EspKeys,
    NetworkChange,
    NodeNetwork,
    NodeTask,
    OwnNode,
    PeerNode,
    Port,
    ServiceNames,
    Vip,
)
from swarmsh.model.paths import Heard, Listen, Send
from swarmsh.model.trace import Traced, TraceSend, TraceWatch

SAMPLES = Path(__file__).parents[2] / "messages"
SECTIONS: dict[str, Any] = {
    "node": OwnNode,
    "egress": Egress,
    "peers": list[PeerNode],
    "networks": list[NodeNetwork],
    "vips": list[Vip],
    "ports": list[Port],
    "tasks": list[NodeTask],
    "names": list[ServiceNames],
}


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return found


def as_json(message: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(message))


@pytest.mark.parametrize("name", ["network", "network_change", "network_more"])
def test_network_state_is_written_as_in_the_sample(name: str) -> None:
    args = sample(name)["args"]
    change = msgspec.convert(args, NetworkChange)
    put = {section: msgspec.convert(found, SECTIONS[section]) for section, found in change.put.items()}
    written = as_json(msgspec.structs.replace(change, put=put))
    assert written == {"fresh": False, "more": False, "put": {}, "drop": {}} | args


@pytest.mark.parametrize("name", ["secure", "secure_off"])
def test_keys_are_written_as_in_the_sample(name: str) -> None:
    args = sample(name)["args"]
    assert as_json(msgspec.convert(args, EspKeys)) == {"peers": []} | args


def test_contents_are_written_as_in_the_sample_and_never_shown() -> None:
    args = sample("contents")["args"]
    parts = msgspec.convert(args, ContentParts)
    assert as_json(parts) == args
    assert [part.data for part in parts.items] == [b"sample1", b"listen", b" 8080;"]
    assert "sample1" not in repr(parts) and "c2Ft" not in repr(parts)


@pytest.mark.parametrize("name", ["task_missing", "task_refreshed"])
def test_what_a_task_says_of_its_contents_is_read(name: str) -> None:
    data = sample(name)["data"]
    report = msgspec.convert(data, TaskReport)
    assert data.keys() <= set(report.__struct_fields__)
    assert as_json(report) == data


@pytest.mark.parametrize(
    "name", ["apply_ensure_task", "apply_ensure_task_minimal", "apply_stop_task", "apply_refresh_secrets"]
)
def test_actions_are_written_as_in_the_sample(name: str) -> None:
    args = sample(name)["args"]
    batch = msgspec.convert(args, Batch)
    assert msgspec.convert(as_json(batch), Batch) == batch
    for given, action in zip(args["actions"], batch.actions, strict=True):
        # What the helper's tests speak of is known here; defaults may be left out.
        assert given.keys() - {"do"} <= set(action.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("network_event", NetworkState(ok=True, drift=("link sv1000 was missing",))),
        ("network_event_lost", None),
        ("network_event_failed", None),
    ],
)
def test_what_the_helper_says_of_networks_is_read(name: str, read: NetworkState | None) -> None:
    line = msgspec.convert(sample(name), dict[str, Any])
    assert line["event"] == "network"
    found = msgspec.convert(line["data"], NetworkState)
    assert as_json(found) == {"message": "", "drift": [], "lost": []} | line["data"]
    assert read is None or found == read


def test_a_check_of_ways_is_said_and_read_as_in_the_samples() -> None:
    for name, kind in (("check_listen", Listen), ("check_send", Send)):
        args = sample(name)["args"]
        assert as_json(msgspec.convert(args, kind)) == args
    assert msgspec.convert(sample("check_listen_reply")["result"], PathsListened).guarded
    sent = msgspec.convert(sample("check_send_reply")["result"], PathsSent).sent
    assert [one.refused for one in sent] == [{}, {"esp": "Operation not permitted"}]
    heard = msgspec.convert(sample("check_heard_reply")["result"], PathsHeard).heard
    assert heard[0].let_in == ("udp4789", "esp")
    assert heard[1] == Heard(n=3)


def test_a_question_for_listeners_is_said_and_read_as_in_the_samples() -> None:
    asked = sample("listeners")["args"]
    assert as_json({"ports": msgspec.convert(asked["ports"], list[PortRange])}) == asked
    found = msgspec.convert(sample("listeners_reply")["result"], FoundListeners).listeners
    assert found[1] == Listener(protocol="udp", address="::", port=30001)


def test_a_trace_is_said_and_read_as_in_the_samples() -> None:
    for name, kind in (("trace_watch", TraceWatch), ("trace_send", TraceSend)):
        args = sample(name)["args"]
        assert as_json(msgspec.convert(args, kind)) == args
    assert msgspec.convert(sample("trace_send_reply")["result"], Traced).outcome == "silent"
    seen = msgspec.convert(sample("trace_seen_reply")["result"], TraceSeen).seen
    assert [(one.place == "", one.tunnel) for one in seen][-1] == (True, "10.98.0.12 > 10.98.0.13:4789")


def test_what_a_node_that_is_left_still_has_is_read() -> None:
    left = msgspec.convert(sample("release_clear_reply")["result"], Released)
    assert (left.tasks, left.left) == ((), ("network swgw: containers still use it",))


def test_answers_are_read() -> None:
    assert msgspec.convert(sample("network_reply")["result"], Drift).drift
    assert msgspec.convert(sample("secure_reply")["result"], LostPeers).lost
    failed = msgspec.json.decode(msgspec.json.encode(sample("error_network_failed")), type=Line)
    assert failed.error.code == "network_failed" and failed.error.message


def test_a_node_without_volumes_is_told_from_one_that_cannot_tell_them() -> None:
    said = sample("description")["data"]
    assert to_description(msgspec.convert(said, Description)).volumes == ("pgdata",)
    assert not to_description(msgspec.convert(said, Description)).volumes_cut
    assert to_description(msgspec.convert(said | {"volumes_cut": True}, Description)).volumes_cut
    assert to_description(msgspec.convert(said | {"volumes": []}, Description)).volumes == ()
    assert to_description(msgspec.convert(said | {"volumes": None}, Description)).volumes is None
    said.pop("volumes")
    assert to_description(msgspec.convert(said, Description)).volumes is None
