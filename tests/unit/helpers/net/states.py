"""Network states for tests: the node of the design's section 9, and changes of it."""

from __future__ import annotations

import copy
from typing import Any

NET1 = "net1net1net1net1net1net1n"


def node_state() -> dict[str, Any]:
    """Node 2 of 3: one overlay with one VIP, port 8080 published, a task here and one on node 3."""
    return copy.deepcopy(_STATE)


_STATE: dict[str, Any] = {
    "v": 1,
    "node": {"n": 2, "underlay": "10.98.0.12"},
    "egress": {"pool": "10.255.0.0/16", "prefix": 24, "mtu": 1450},
    "peers": [{"n": 1, "underlay": "10.98.0.11"}, {"n": 3, "underlay": "10.98.0.13"}],
    "networks": [
        {
            "id": NET1,
            "name": "net1",
            "vni": 4096,
            "subnet": "10.50.0.0/16",
            "gateway": "10.50.0.2",
            "vips": "10.50.128.0/17",
            "mtu": 1450,
            "encrypted": False,
            "internal": False,
            "labels": {},
            "peers": [1, 3],
        }
    ],
    "vips": [
        {
            "id": 1,
            "network": NET1,
            "address": "10.50.128.5",
            "scheduler": "rr",
            "persist_s": 0,
            "dests": [{"address": "10.50.1.2", "weight": 1}, {"address": "10.50.1.3", "weight": 1}],
        }
    ],
    "ports": [
        {
            "id": 4,
            "protocol": "tcp",
            "port": 8080,
            "bind": "",
            "scheduler": "rr",
            "persist_s": 0,
            "dests": [
                {"address": "10.255.2.11", "port": 80, "weight": 1},
                {"address": "10.255.3.11", "port": 80, "weight": 1},
            ],
        }
    ],
    "tasks": [{"id": "task1", "addresses": ["10.50.1.2", "10.255.2.11"]}],
    "names": [],
}
