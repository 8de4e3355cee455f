"""A node's network state in lines: as few as will do, none too long, and together just what was to be said."""

from __future__ import annotations

from typing import Any

import msgspec

from swarmsh.adapters.nodes.sessions import _network_parts
from swarmsh.model.netstate import Dest, NetworkChange, OwnNode, Vip

LIMIT = 4000


def a_vip(number: int, dests: int = 2) -> Vip:
    return Vip(
        id=number,
        network="net",
        service=f"svc{number}",
        address="10.50.128.5",
        scheduler="rr",
        persist_s=0,
        dests=tuple(Dest(task=f"t{n}", address="10.50.1.2", weight=1) for n in range(dests)),
        tcp_ports=(80,),
    )


def a_change(**more: Any) -> NetworkChange:
    return NetworkChange(cluster_id="c", epoch=3, index=9, **more)


def test_what_fits_is_one_line_with_every_key_that_a_helper_may_look_for() -> None:
    change = a_change(put={"vips": [a_vip(1, 1)]})
    assert _network_parts(change, LIMIT) == [change]
    assert msgspec.json.decode(msgspec.json.encode(change)) == {
        "cluster_id": "c",
        "epoch": 3,
        "index": 9,
        "fresh": False,
        "more": False,
        "put": {
            "vips": [
                {
                    "id": 1,
                    "network": "net",
                    "service": "svc1",
                    "address": "10.50.128.5",
                    "scheduler": "rr",
                    "persist_s": 0,
                    "dests": [{"task": "t0", "address": "10.50.1.2", "weight": 1}],
                    "tcp_ports": [80],
                }
            ]
        },
        "drop": {},
    }


def test_what_does_not_goes_in_parts_that_are_one_change() -> None:
    node = OwnNode(n=2, underlay="10.0.0.2")
    vips = [a_vip(n) for n in range(1, 60)]
    drop: dict[str, list[Any]] = {"names": [["net", f"svc{n}"] for n in range(100)], "ports": [4, 5]}
    parts = _network_parts(a_change(fresh=True, put={"node": node, "vips": vips}, drop=drop), LIMIT)
    assert len(parts) > 3
    assert all(len(msgspec.json.encode(part)) <= LIMIT + 1024 for part in parts)
    assert [part.fresh for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {(part.cluster_id, part.epoch, part.index) for part in parts} == {("c", 3, 9)}
    assert [vip for part in parts for vip in part.put.get("vips", [])] == vips
    assert [part.put["node"] for part in parts if "node" in part.put] == [node]
    assert [key for part in parts for key in part.drop.get("names", [])] == drop["names"]
    assert [key for part in parts for key in part.drop.get("ports", [])] == drop["ports"]
    # Nothing that was put is dropped by a later part.
    last_drop = max(n for n, part in enumerate(parts) if part.drop)
    first_put = min(n for n, part in enumerate(parts) if part.put)
    assert last_drop <= first_put
