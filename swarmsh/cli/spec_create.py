"""Flags of `service create` as a ServiceSpec: the docker CLI's JSON. Pure, but for reading env files."""

from __future__ import annotations

from itertools import chain
from typing import Any

import click

from swarmsh.cli.run_flags import run_labels_of
from swarmsh.cli.values import pairs, read_env_file
from swarmsh.core.quantities import effective_capabilities, hosts_entry

Json = dict[str, Any]

# swarmkit `api/defaults`: sent in full as soon as one of a group is given.
RESTART_DEFAULTS: Json = {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
ROLLOUT_DEFAULTS: Json = {
    "Parallelism": 1,
    "Monitor": 5_000_000_000,
    "FailureAction": "pause",
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}


JOB_MODES = ("replicated-job", "global-job")
MODES = ("replicated", "global", *JOB_MODES)


class Conflict(click.UsageError):
    """Flags that contradict each other."""


def compact(fields: Json) -> Json:
    """Without what was not given: None and empty texts and lists; empty objects and False stay."""
    return {
        key: value for key, value in fields.items() if value is not None and value != "" and value not in ([], ())
    }


def create_spec(flags: Json, image: str, args: list[str]) -> Json:
    """The spec for POST /services/create. Raises Conflict for flags that do not go together."""
    return compact(
        {
            "Name": flags["name"],
            "Labels": pairs(flags["label"]) | schedule_labels(flags),
            "TaskTemplate": compact(
                {
                    "ContainerSpec": _container(flags, image, args),
                    "Resources": {"Limits": limits(flags), "Reservations": _reservations(flags)},
                    "RestartPolicy": restart_policy(flags, None),
                    "Placement": compact(
                        {
                            "Constraints": list(flags["constraint"]),
                            "Preferences": list(flags["placement_pref"]),
                            "MaxReplicas": flags["replicas_max_per_node"] or None,
                        }
                    ),
                    "Networks": sorted(flags["network"], key=lambda network: str(network["Target"])),
                    "LogDriver": log_driver(flags),
                    "ForceUpdate": 0,
                }
            ),
            "Mode": _mode(flags),
            **_rollouts(flags),
            "EndpointSpec": compact(
                {
                    "Mode": "vip" if flags["endpoint_mode"] is None else flags["endpoint_mode"].lower(),
                    "Ports": list(chain.from_iterable(flags["publish"])),
                }
            ),
        }
    )


def _container(flags: Json, image: str, args: list[str]) -> Json:
    add, drop = effective_capabilities(flags["cap_add"], flags["cap_drop"])
    return compact(
        {
            "Image": image,
            "Labels": pairs(flags["container_label"]) | run_labels_of(flags) or None,
            "Command": flags["entrypoint"],
            "Args": args,
            "Hostname": flags["hostname"],
            "Env": _environment(flags["env_file"], flags["env"]),
            "Dir": flags["workdir"],
            "User": flags["user"],
            "Groups": list(flags["group"]),
            "Init": bool(flags["init"]),
            "Isolation": flags["isolation"],
            "Privileges": _privileges(flags["credential_spec"]),
            "StopSignal": flags["stop_signal"],
            "TTY": flags["tty"] or None,
            "ReadOnly": flags["read_only"] or None,
            "Mounts": list(flags["mount"]),
            "StopGracePeriod": flags["stop_grace_period"],
            "Healthcheck": _healthcheck(flags),
            "Hosts": [hosts_entry(host) for host in flags["host"]],
            "DNSConfig": compact(
                {
                    "Nameservers": list(flags["dns"]),
                    "Search": list(flags["dns_search"]),
                    "Options": list(flags["dns_option"]),
                }
            ),
            "Sysctls": pairs(flags["sysctl"]) or None,
            "CapabilityAdd": add,
            "CapabilityDrop": drop,
            "Ulimits": sorted(
                {limit["Name"]: limit for limit in flags["ulimit"]}.values(), key=lambda u: u["Name"]
            ),
            "OomScoreAdj": flags["oom_score_adj"] or None,
            "Secrets": list(flags["secret"]),
            "Configs": sorted(flags["config"], key=lambda reference: str(reference["ConfigName"])),
        }
    )


def _privileges(credential_spec: Json | None) -> Json | None:
    if not credential_spec:
        return None
    return {"CredentialSpec": credential_spec, "SELinuxContext": None, "NoNewPrivileges": False}


def _environment(files: tuple[str, ...], variables: tuple[str, ...]) -> list[str]:
    """Files first, then flags; of one name the last wins, and takes the last place."""
    try:
        read = [line for path in files for line in read_env_file(path)]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--env-file") from None
    found: dict[str, str] = {}
    for variable in (*read, *variables):
        name = variable.partition("=")[0]
        found.pop(name, None)
        found[name] = variable
    return list(found.values())


def schedule_labels(flags: Json) -> dict[str, str]:
    """The labels that `--schedule` and `--schedule-zone` stand for."""
    names = {"swarmsh.schedule": "schedule", "swarmsh.schedule.zone": "schedule_zone"}
    return {label: flags[name] for label, name in names.items() if flags[name] is not None}


def _rollouts(flags: Json) -> Json:
    found = {"UpdateConfig": rollout(flags, "update", None), "RollbackConfig": rollout(flags, "rollback", None)}
    if any(found.values()) and flags["mode"] in JOB_MODES:
        raise Conflict("update and rollback configuration is not supported for jobs")
    return found


def _mode(flags: Json) -> Json:
    replicas, most, mode = flags["replicas"], flags["replicas_max_per_node"], flags["mode"] or "replicated"
    if mode in ("replicated", "global") and flags["max_concurrent"] is not None:
        raise Conflict("max-concurrent can only be used with replicated-job mode")
    if mode == "replicated-job":
        concurrent = replicas if flags["max_concurrent"] is None else flags["max_concurrent"]
        return {"ReplicatedJob": compact({"MaxConcurrent": concurrent, "TotalCompletions": replicas})}
    if mode == "global-job":
        if most:
            raise Conflict("replicas-max-per-node can only be used with replicated or replicated-job mode")
        if flags["max_concurrent"] is not None:
            raise Conflict("max-concurrent can only be used with replicated-job mode")
        if replicas is not None:
            raise Conflict("replicas can only be used with replicated or replicated-job mode")
        return {"GlobalJob": {}}
    if mode == "replicated":
        return {"Replicated": {} if replicas is None else {"Replicas": replicas}}
    if mode == "global":
        if replicas is not None:
            raise Conflict("replicas can only be used with replicated mode")
        if most:
            raise Conflict("replicas-max-per-node can only be used with replicated mode")
        return {"Global": {}}
    raise Conflict(f"unknown mode: {mode}, known are {', '.join(MODES)}")


def limits(flags: Json) -> Json:
    return compact(
        {
            "NanoCPUs": flags["limit_cpu"] or None,
            "MemoryBytes": flags["limit_memory"] or None,
            "Pids": flags["limit_pids"] or None,
        }
    )


def _reservations(flags: Json) -> Json:
    return compact(
        {
            "NanoCPUs": flags["reserve_cpu"] or None,
            "MemoryBytes": flags["reserve_memory"] or None,
            "GenericResources": list(flags["generic_resource"]),
        }
    )


def _given(flags: Json, names: dict[str, str]) -> Json:
    """API field -> value of the flags that were given."""
    return {field: flags[name] for field, name in names.items() if flags[name] is not None}


def restart_policy(flags: Json, current: Json | None) -> Json | None:
    """The policy with the given flags over `current`, or over the defaults where there is none."""
    names = {
        "Condition": "restart_condition",
        "Delay": "restart_delay",
        "MaxAttempts": "restart_max_attempts",
        "Window": "restart_window",
    }
    given = _given(flags, names)
    return {**(current or RESTART_DEFAULTS), **given} if given else current


def rollout(flags: Json, kind: str, current: Json | None) -> Json | None:
    """UpdateConfig (`kind` update) or RollbackConfig (rollback), in the same way."""
    names = {
        "Parallelism": f"{kind}_parallelism",
        "Delay": f"{kind}_delay",
        "Monitor": f"{kind}_monitor",
        "FailureAction": f"{kind}_failure_action",
        "MaxFailureRatio": f"{kind}_max_failure_ratio",
        "Order": f"{kind}_order",
    }
    given = _given(flags, names)
    if not given:
        return current
    config = {**(current or ROLLOUT_DEFAULTS), **given}
    # Go leaves these out when they are zero, and the server takes its default then.
    return {
        key: value for key, value in config.items() if value or key in ("Parallelism", "MaxFailureRatio", "Order")
    }


def log_driver(flags: Json) -> Json | None:
    if not flags["log_driver"]:
        return None
    options = pairs(flags["log_opt"])
    return {"Name": flags["log_driver"], **({"Options": options} if options else {})}


HEALTH_FIELDS = {
    "Interval": "health_interval",
    "Timeout": "health_timeout",
    "StartPeriod": "health_start_period",
    "StartInterval": "health_start_interval",
    "Retries": "health_retries",
}


def _healthcheck(flags: Json) -> Json | None:
    given = _given(flags, HEALTH_FIELDS)
    if flags["no_healthcheck"]:
        if given or flags["health_cmd"]:
            raise Conflict("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given and not flags["health_cmd"]:
        return None
    test = ["CMD-SHELL", flags["health_cmd"]] if flags["health_cmd"] else None
    return compact({"Test": test, **{field: value or None for field, value in given.items()}})
