"""Entries of `networks` as the Engine takes them."""

from __future__ import annotations

from typing import Any

import pytest

from remote_helpers.joins import endpoint, is_join

JOIN = {"name": "net1", "address": "10.50.1.2"}
OPTIONS = {"com.docker.network.endpoint.ifname": "front0"}


def test_options_of_the_driver_are_passed_on_where_there_are_any() -> None:
    plain = {"IPAMConfig": {"IPv4Address": "10.50.1.2"}}
    assert endpoint(JOIN, (1, 43)) == plain
    assert endpoint(JOIN | {"driver_opts": {}}, (1, 43)) == plain
    assert endpoint(JOIN | {"driver_opts": OPTIONS}, (1, 44)) == plain | {
        "MacAddress": "02:42:0a:32:01:02",
        "DriverOpts": OPTIONS,
    }


@pytest.mark.parametrize(
    ("entry", "usable"),
    [
        (JOIN, True),
        (JOIN | {"driver_opts": OPTIONS}, True),
        (JOIN | {"driver_opts": {"a": 1}}, False),
        (JOIN | {"driver_opts": ["a"]}, False),
        (JOIN | {"address": "10.50.1.256"}, False),
        (JOIN | {"name": ""}, False),
        ([], False),
    ],
)
def test_what_no_engine_would_take_is_refused_before(entry: Any, usable: bool) -> None:
    assert is_join(entry) is usable
