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
    """service -> the services it waits for, if it waits for any. Raises ComposeError, also for a circle."""
    found = {short: _of(service, services) for short, service in services.items() if service["depends_on"]}
    circle = _circle({short: list(others) for short, others in found.items()})
    if circle:
        spot = services[circle[0]]["depends_on"]
        raise spot.wrong(f"services wait for each other in a circle: {' -> '.join(circle)}")
    return found


def _of(service: Spot, services: Spot) -> dict[str, Dependency]:
    found: dict[str, Dependency] = {}
    for other, spot in service["depends_on"].items():
        condition = spot["condition"].text("service_started")
        if condition not in _CONDITIONS:
            raise spot["condition"].wrong(
                f"there is no condition '{condition}'", hint=f"Use one of {', '.join(_CONDITIONS)}"
            )
        required = not spot["required"].given or spot["required"].flag()
        if other not in services:
            if required:
                raise spot.wrong(f"undefined service '{other}'", hint="Add it, or say `required: false`")
            continue
        found[other] = Dependency(
            condition=_CONDITIONS[condition], required=required, restart=spot["restart"].flag()
        )
    return found


def _circle(waits: Mapping[str, list[str]]) -> list[str]:
    """Services that wait for each other, the first one again at the end; [] if there is no circle."""
    done: set[str] = set()
    for start in waits:
        way = [start]
        ahead = [iter(waits[start])]
        while ahead:
            following = next(ahead[-1], None)
            if following is None:
                ahead.pop()
                done.add(way.pop())
            elif following in way:
                return [*way[way.index(following) :], following]
            elif following not in done:
                way.append(following)
                ahead.append(iter(waits.get(following, [])))
    return []
