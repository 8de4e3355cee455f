"""`depends_on` as what a deploy waits for."""

from __future__ import annotations

from collections.abc import Mapping

from swarmsh.compose.convert.spot import Spot
from swarmsh.model.stacks import Condition, Dependency

_CONDITIONS = {
    "service_started": Condition.STARTED,
    "service_healthy": Condition.HEALTHY,
    "service_completed_successfully": Condition.COMPLETED,
}


def dependencies_of(services: Spot) -> dict[str, dict[str, Dependency]]:
    """service -> the services it waits for, if it waits for any; that they are there was seen on loading."""
    return {short: _of(service) for short, service in services.items() if service["depends_on"]}


def awaited_to_the_end(depends_on: Mapping[str, Mapping[str, Dependency]]) -> frozenset[str]:
    """The services that others wait for to be done."""
    return frozenset(
        other
        for others in depends_on.values()
        for other, wanted in others.items()
        if wanted.condition is Condition.COMPLETED
    )


def _of(service: Spot) -> dict[str, Dependency]:
    found: dict[str, Dependency] = {}
    for other, spot in service["depends_on"].items():
        condition = spot["condition"].text("service_started")
        if condition not in _CONDITIONS:
            raise spot["condition"].wrong(
                f"there is no condition '{condition}'", hint=f"Use one of {', '.join(_CONDITIONS)}"
            )
        required = not spot["required"].given or spot["required"].flag()
        found[other] = Dependency(
            condition=_CONDITIONS[condition], required=required, restart=spot["restart"].flag()
        )
    return found
