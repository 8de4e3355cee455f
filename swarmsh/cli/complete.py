"""Live names for shell completion: quick, and silent when no manager answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import click

from swarmsh.client import ManagerClient
from swarmsh.errors import SwarmshError

TIMEOUT_S = 1.0


def _manager() -> ManagerClient:
    return ManagerClient(timeout=TIMEOUT_S)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name and name.startswith(incomplete)})


def service_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    with suppress(SwarmshError):
        return _matching((service["Spec"]["Name"] for service in _manager().services()), incomplete)
    return []


def node_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    with suppress(SwarmshError):
        nodes = _manager().nodes()
        names = (node.get("Spec", {}).get("Name") or node["Description"].get("Hostname", "") for node in nodes)
        return _matching(names, incomplete)
    return []


def network_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    with suppress(SwarmshError):
        return _matching((network["Name"] for network in _manager().networks()), incomplete)
    return []


def stack_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    with suppress(SwarmshError):
        return _matching((stack["Name"] for stack in _manager().get("/swarmsh/stacks")), incomplete)
    return []


def kept_names(kind: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Names of secrets, or of configs."""

    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        with suppress(SwarmshError):
            return _matching((kept["Spec"]["Name"] for kept in _manager().get(f"/{kind}s")), incomplete)
        return []

    return names


def volume_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    with suppress(SwarmshError):
        found = _manager().get("/swarmsh/volumes")["volumes"]
        return _matching((volume["id"] for volume in found if not volume["anonymous"]), incomplete)
    return []


def service_or_task_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Services, their slots (`web.2`), and, once a slot is typed, whole task names."""
    with suppress(SwarmshError):
        manager = _manager()
        services = {service["ID"]: service["Spec"]["Name"] for service in manager.services()}
        names = list(services.values())
        if "." in incomplete or incomplete in names:
            running = manager.tasks({"desired-state": ["running", "complete"]})
            for task in running:
                name = services.get(task["ServiceID"], "")
                place = task.get("Slot", task.get("NodeID", ""))
                names += [f"{name}.{place}"]
                if incomplete.count(".") == 2:
                    names += [f"{name}.{place}.{task['ID']}"]
        return _matching(names, incomplete)
    return []


def scale_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """`web=` for each replicated service or job."""
    with suppress(SwarmshError):
        scaled = {"Replicated", "ReplicatedJob"}
        replicated = [found for found in _manager().services() if scaled & found["Spec"].get("Mode", {}).keys()]
        return _matching((f"{service['Spec']['Name']}=" for service in replicated), incomplete)
    return []
