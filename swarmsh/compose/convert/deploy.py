"""`deploy` and what older files say instead: mode, updates, restarts, resources, placement."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from swarmsh.compose.convert.spot import Spot
from swarmsh.model.specs import (
    DiscreteGenericResource,
    GenericResource,
    GlobalJobMode,
    GlobalMode,
    Limits,
    Placement,
    PlacementPreference,
    Platform,
    ReplicatedJobMode,
    ReplicatedMode,
    Reservations,
    ResourceRequirements,
    RestartPolicy,
    ServiceMode,
    SpreadOver,
    UpdateConfig,
)

V = TypeVar("V", int, str)
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::(\d+))?")


def _either(newer: Spot, older: Spot, wanted: V | None, other: V | None) -> V | None:
    """The value of a key that has an older name; both may be there if they say the same."""
    if wanted is not None and other is not None and wanted != other:
        raise older.wrong(f"differs from {'.'.join(str(part) for part in newer.path[2:])}, which says the same")
    return other if wanted is None else wanted


# --- mode ---------------------------------------------------------------------------------------------------
def mode_of(service: Spot) -> ServiceMode:
    mode, replicas = service["deploy"]["mode"], service["deploy"]["replicas"]
    wanted = _either(replicas, service["scale"], replicas.number(), service["scale"].number())
    if wanted is not None and wanted < 0:
        raise replicas.wrong("cannot be negative")
    kind = mode.text("replicated")
    if kind in ("global", "global-job"):
        if wanted is not None:
            raise replicas.wrong("replicas can only be used with replicated or replicated-job mode")
        return ServiceMode(global_=GlobalMode()) if kind == "global" else ServiceMode(global_job=GlobalJobMode())
    if kind == "replicated-job":
        return ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=wanted, total_completions=wanted))
    if kind != "replicated":
        raise mode.wrong(f"unknown mode '{kind}'", hint="Use replicated, global, replicated-job or global-job")
    return ServiceMode(replicated=ReplicatedMode(replicas=wanted))


def update_config_of(config: Spot) -> UpdateConfig | None:
    if not config.given:
        return None
    parallelism = config["parallelism"].number()
    return UpdateConfig(
        parallelism=1 if parallelism is None else parallelism,
        delay=config["delay"].duration() or 0,
        failure_action=config["failure_action"].text(),
        monitor=config["monitor"].duration() or 0,
        max_failure_ratio=config["max_failure_ratio"].fraction() or 0.0,
        order=config["order"].text(),
    )


# --- restarts -----------------------------------------------------------------------------------------------
def restart_policy_of(service: Spot, *, run_once: bool = False) -> RestartPolicy | None:
    """`deploy.restart_policy`, else what `restart` means for tasks: unless-stopped and always are both any.

    With `run_once` it is on-failure where the file names no condition, and `no` is none: others wait until it is
    done. Docker's CLI takes no file that says so.
    """
    policy, older = service["deploy"]["restart_policy"], service["restart"]
    if policy.given:
        return RestartPolicy(
            condition=policy["condition"].text() or ("on-failure" if run_once else ""),
            delay=policy["delay"].duration(),
            max_attempts=policy["max_attempts"].number(),
            window=policy["window"].duration(),
        )
    # YAML of old takes an unquoted `no` for false.
    text = "no" if older.value is False else older.text()
    if text in ("", "no"):
        return RestartPolicy(condition="none" if text else "on-failure") if run_once else None
    found = _RESTART.fullmatch(text)
    if found is None or (found[2] and found[1] != "on-failure"):
        raise older.wrong(
            f"'{text}' is no restart policy", hint="Use no, always, unless-stopped, on-failure or on-failure:TIMES"
        )
    condition = "on-failure" if found[1] == "on-failure" else "any"
    return RestartPolicy(condition=condition, max_attempts=int(found[2] or 0) or None)


def warn_of_repeats(service: Spot, warn: Callable[[Spot, str], None]) -> None:
    """Say it of a service that others wait for to be done, and that its file has run again and again."""
    policy = restart_policy_of(service, run_once=True)
    if policy is not None and policy.condition == "any" and not service["deploy"]["mode"].text().endswith("-job"):
        condition = service["deploy"]["restart_policy"]["condition"]
        warn(
            condition if condition.given else service["restart"],
            "others wait until it is done, and it is run again each time: on-failure is right for what runs once",
        )


# --- resources ----------------------------------------------------------------------------------------------
def resources_of(service: Spot) -> ResourceRequirements:
    asked = service["deploy"]["resources"]
    limits = _limits(asked["limits"], service)
    return ResourceRequirements(
        limits=limits,
        reservations=_reservations(asked["reservations"], service),
        swap_bytes=_swap(service["memswap_limit"], limits),
        memory_swappiness=service["mem_swappiness"].number(),
    )


def _limits(asked: Spot, service: Spot) -> Limits | None:
    found = Limits(
        nano_cpus=_either(asked["cpus"], service["cpus"], asked["cpus"].nano_cpus(), service["cpus"].nano_cpus())
        or 0,
        memory_bytes=_either(
            asked["memory"], service["mem_limit"], asked["memory"].size(), service["mem_limit"].size()
        )
        or 0,
        pids=_either(asked["pids"], service["pids_limit"], asked["pids"].number(), service["pids_limit"].number())
        or 0,
    )
    # Docker's clients send the block, an empty one too, if and only if the file has it.
    return found if asked.given or found != Limits() else None


def _reservations(asked: Spot, service: Spot) -> Reservations | None:
    older = service["mem_reservation"]
    found = Reservations(
        nano_cpus=asked["cpus"].nano_cpus() or 0,
        memory_bytes=_either(asked["memory"], older, asked["memory"].size(), older.size()) or 0,
        generic_resources=tuple(_generic(spot) for spot in asked["generic_resources"].each()),
    )
    return found if asked.given or found != Reservations() else None


def _generic(spot: Spot) -> GenericResource:
    asked = spot["discrete_resource_spec"]
    if not asked.given:
        return GenericResource()
    value = asked["value"].number() or 0
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=asked["kind"].text(), value=value))


def _swap(limit: Spot, limits: Limits | None) -> int | None:
    """`memswap_limit` counts memory and swap together, a spec swap alone; -1 is no limit."""
    if not limit:
        return None
    memory = limits.memory_bytes if limits is not None else 0
    if not memory:
        raise limit.wrong("needs a limit of memory", hint="Set deploy.resources.limits.memory")
    if limit.text() == "-1":
        return -1
    both = limit.size() or 0
    if both < memory:
        raise limit.wrong("is of memory and swap together, and less than the limit of memory alone")
    return both - memory


# --- placement ----------------------------------------------------------------------------------------------
def placement_of(service: Spot) -> Placement:
    asked = service["deploy"]["placement"]
    spreads = (preference["spread"].text() for preference in asked["preferences"].each())
    return Placement(
        constraints=asked["constraints"].texts(),
        preferences=tuple(PlacementPreference(spread=SpreadOver(spread_descriptor=spread)) for spread in spreads),
        max_replicas=asked["max_replicas_per_node"].number() or 0,
        platforms=_platforms(service["platform"]),
    )


def _platforms(platform: Spot) -> tuple[Platform, ...]:
    """`linux/amd64`, `linux/arm/v7`; a node says no more of itself than the first two."""
    if not platform:
        return ()
    os, slash, architecture = platform.text().partition("/")
    if not slash:
        raise platform.wrong(f"'{os}' is not OS/ARCHITECTURE, as linux/amd64")
    return (Platform(os=os, architecture=architecture.partition("/")[0]),)
