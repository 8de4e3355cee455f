"""POST /swarmsh/networks/rotate-keys."""

from __future__ import annotations

import pytest

from swarmsh.manager.key_keeper import Rotation
from tests.fakes.serving import served


@pytest.fixture
async def api():
    async with served() as running:
        yield running


def node(number: int) -> str:
    return f"node{number:021d}"


async def test_all_have_new_keys(api):
    assert await api.call("POST", "/swarmsh/networks/rotate-keys", {}) == (200, {"Pairs": 3, "Missing": []})
    assert api.nodes.waited_s == [60.0]


async def test_who_did_not_acknowledge_is_named_with_the_reason(api):
    api.nodes.rotation = Rotation(3, frozenset({node(3), node(2)}))
    api.nodes.away.add(node(2))
    _, answer = await api.call("POST", "/swarmsh/networks/rotate-keys", {"TimeoutS": 2})
    assert answer["Missing"] == [
        {"ID": node(2), "Name": "n2", "Message": "there is no session with it"},
        {"ID": node(3), "Name": "n3", "Message": "it has not acknowledged within 2 s"},
    ]


@pytest.mark.parametrize("seconds", [0, -1, 1e9, "x"])
async def test_a_time_that_cannot_be_is_refused(api, seconds):
    status, answer = await api.call("POST", "/swarmsh/networks/rotate-keys", {"TimeoutS": seconds})
    assert (status, api.nodes.waited_s) == (400, [])
    assert "TimeoutS" in answer["message"]


async def test_without_a_cluster_there_are_no_keys():
    async with served(initialised=False) as api:
        assert (await api.call("POST", "/swarmsh/networks/rotate-keys", {}))[0] == 503
