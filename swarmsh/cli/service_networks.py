"""Networks that services are to be on, or to leave: from what was typed to the ids that are stored."""

from __future__ import annotations

from typing import Any

from swarmsh.client import ManagerClient, segment

Json = dict[str, Any]

_THEIR_OWN_IDS = ("host", "bridge", "none")


def with_network_ids(manager: ManagerClient, flags: Json) -> Json:
    """The flags of `service create` or `update` with networks' ids for their names. Raises ApiError."""
    found: dict[str, str] = {}

    def id_of(name: str) -> str:
        if name not in found:
            known = name in _THEIR_OWN_IDS
            found[name] = name if known else manager.get(f"/networks/{segment(name)}", scope="swarm")["Id"]
        return found[name]

    resolved = dict(flags)
    for flag in ("network", "network_add"):
        if flags.get(flag):
            resolved[flag] = tuple(network | {"Target": id_of(network["Target"])} for network in flags[flag])
    if flags.get("network_rm"):
        resolved["network_rm"] = tuple(id_of(name) for name in flags["network_rm"])
    return resolved
