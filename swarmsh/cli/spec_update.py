"""Flags of `service update` applied to a stored ServiceSpec. Pure.

Of every pair `-rm` is applied before `-add`, so that one command can replace an entry. (The docker CLI does it the
other way round for constraints, mounts, groups, DNS and generic resources, and loses the entry.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

from swarmsh.cli.run_flags import changed_run_labels
from swarmsh.cli.spec_create import (
    HEALTH_FIELDS,
    Conflict,
    compact,
    log_driver,
    restart_policy,
    rollout,
    schedule_labels,
)
from swarmsh.cli.values import pairs
from swarmsh.core.quantities import hosts_entry, normal_capability

Json = dict[str, Any]


def updated_spec(current: Json, flags: Json) -> Json:
    """A new spec; `current` is left alone. Raises Conflict for flags that do not fit it or each other."""
    spec = copy.deepcopy(current)
    task = spec.setdefault("TaskTemplate", {})
    container = task.setdefault("ContainerSpec", {})
    _update_map(spec, "Labels", flags["label_rm"], flags["label_add"])
    _update_schedule(spec, flags)
    _update_container(container, flags)
    _update_resources(task, flags)
    _update_placement(task, flags)
    _update_networks(spec, flags["network_rm"], flags["network_add"])
    _set(task, "RestartPolicy", restart_policy(flags, task.get("RestartPolicy")))
    _set(task, "LogDriver", log_driver(flags))
    _set(spec, "UpdateConfig", rollout(flags, "update", spec.get("UpdateConfig")))
    _set(spec, "RollbackConfig", rollout(flags, "rollback", spec.get("RollbackConfig")))
    _update_mode(spec, flags)
    _update_endpoint(spec, flags)
    if flags["force"]:
        task["ForceUpdate"] = task.get("ForceUpdate", 0) + 1
    return spec


def _set(where: Json, key: str, value: Any) -> None:
    if value is not None:
        where[key] = value


def _put(where: Json, key: str, value: Any) -> None:
    """Set, or leave out if it is empty."""
    if value:
        where[key] = value
    else:
        where.pop(key, None)


def _update_map(where: Json, key: str, remove: tuple[str, ...], add: tuple[str, ...]) -> None:
    if remove or add:
        kept = {name: value for name, value in (where.get(key) or {}).items() if name not in pairs(remove)}
        where[key] = kept | pairs(add)


def _update_list(where: Json, key: str, remove: Iterable[str], add: Iterable[str], *, ordered: bool) -> None:
    """Entries that are their own keys. Sorted unless their order means something, as Docker does."""
    kept = [entry for entry in where.get(key) or [] if entry not in set(remove)]
    entries = list(dict.fromkeys([*kept, *add]))
    _put(where, key, entries if ordered else sorted(entries))


# --- containers ---------------------------------------------------------------------------------------------
def _update_container(container: Json, flags: Json) -> None:
    texts = {
        "Image": "image",
        "Dir": "workdir",
        "User": "user",
        "Hostname": "hostname",
        "StopSignal": "stop_signal",
        "Isolation": "isolation",
    }
    for field, name in texts.items():
        if flags[name] is not None:
            _put(container, field, flags[name])
    for field, name in {"Args": "args", "Command": "entrypoint", "TTY": "tty", "ReadOnly": "read_only"}.items():
        if flags[name] is not None:
            _put(container, field, flags[name])
    _set(container, "Init", flags["init"])
    if flags["credential_spec"] is not None:
        privileges = {"NoNewPrivileges": False} | (container.get("Privileges") or {})
        _put(privileges, "CredentialSpec", flags["credential_spec"])
        _put(container, "Privileges", privileges if any(privileges.values()) else None)
    _set(container, "StopGracePeriod", flags["stop_grace_period"])
    if flags["oom_score_adj"] is not None:
        _put(container, "OomScoreAdj", flags["oom_score_adj"])
    _update_map(container, "Labels", flags["container_label_rm"], flags["container_label_add"])
    _update_run_options(container, flags)
    _update_map(container, "Sysctls", flags["sysctl_rm"], flags["sysctl_add"])
    _update_environment(container, flags["env_rm"], flags["env_add"])
    if flags["mount_rm"] or flags["mount_add"]:
        _update_mounts(container, flags["mount_rm"], flags["mount_add"])
    if flags["group_rm"] or flags["group_add"]:
        _update_list(container, "Groups", flags["group_rm"], flags["group_add"], ordered=False)
    if flags["host_rm"] or flags["host_add"]:
        _update_hosts(container, flags["host_rm"], flags["host_add"])
    if flags["ulimit_rm"] or flags["ulimit_add"]:
        named = {limit["Name"]: limit for limit in container.get("Ulimits") or []}
        named = {name: limit for name, limit in named.items() if name not in pairs(flags["ulimit_rm"])}
        named |= {limit["Name"]: limit for limit in flags["ulimit_add"]}
        _put(container, "Ulimits", [named[name] for name in sorted(named)])
    for kind in ("secret", "config"):
        _update_references(container, kind, flags[f"{kind}_rm"], flags[f"{kind}_add"])
    _update_dns(container, flags)
    if flags["cap_add"] or flags["cap_drop"]:
        _update_capabilities(container, flags["cap_add"], flags["cap_drop"])
    _update_health(container, flags)


def _update_run_options(container: Json, flags: Json) -> None:
    labels = container.get("Labels") or {}
    changed = changed_run_labels(labels, flags)
    if changed != labels:
        container["Labels"] = changed


def _update_environment(container: Json, remove: tuple[str, ...], add: tuple[str, ...]) -> None:
    if not remove and not add:
        return
    named = {variable.partition("=")[0]: variable for variable in container.get("Env") or []}
    # A variable keeps its place, so that a change of nothing restarts nothing (Docker's order is random).
    kept = {name: variable for name, variable in named.items() if name not in set(remove)}
    _put(container, "Env", list((kept | {variable.partition("=")[0]: variable for variable in add}).values()))


def _update_mounts(container: Json, remove: tuple[str, ...], add: tuple[Json, ...]) -> None:
    targets = [mount["Target"] for mount in add]
    if len(set(targets)) != len(targets):
        raise Conflict("duplicate mount target")
    kept = {
        mount["Target"]: mount for mount in container.get("Mounts") or [] if mount["Target"] not in set(remove)
    }
    kept |= {mount["Target"]: mount for mount in add}
    _put(container, "Mounts", sorted(kept.values(), key=lambda mount: (mount.get("Source", ""), mount["Target"])))


def _update_references(container: Json, kind: str, remove: tuple[str, ...], add: tuple[Json, ...]) -> None:
    """Of secrets or configs; one that is added takes the place of what had its file."""
    if not remove and not add:
        return
    name, field = f"{kind.title()}Name", f"{kind.title()}s"
    files = {reference["File"]["Name"] for reference in add}
    kept = [
        reference
        for reference in container.get(field) or []
        if reference[name] not in set(remove) and (reference.get("File") or {}).get("Name") not in files
    ]
    _put(container, field, [*kept, *add])


def _update_hosts(container: Json, remove: tuple[str, ...], add: tuple[str, ...]) -> None:
    entries = []
    for entry in container.get("Hosts") or []:
        address, *names = entry.split()
        for removal in remove:
            host, _, at = removal.partition(":")
            if not at or at == address:
                names = [name for name in names if name != host]
        if names:
            entries.append(" ".join((address, *names)))
    _put(container, "Hosts", list(dict.fromkeys(entries + [hosts_entry(host) for host in add])))


def _update_dns(container: Json, flags: Json) -> None:
    lists = {"Nameservers": "dns", "Search": "dns_search", "Options": "dns_option"}
    if not any(flags[f"{name}_{verb}"] for name in lists.values() for verb in ("rm", "add")):
        return
    config = container.setdefault("DNSConfig", {})
    for field, name in lists.items():
        _update_list(config, field, flags[f"{name}_rm"], flags[f"{name}_add"], ordered=False)


def _update_capabilities(container: Json, add: tuple[str, ...], drop: tuple[str, ...]) -> None:
    """A capability leaves the other list first; only what was in neither enters one (Docker's three states)."""
    added = {normal_capability(name) for name in container.get("CapabilityAdd") or []}
    dropped = {normal_capability(name) for name in container.get("CapabilityDrop") or []}
    to_add = {normal_capability(name) for name in add}
    to_drop = {normal_capability(name) for name in drop}
    if "RESET" in to_add:
        added = set()
    if "RESET" in to_drop:
        dropped = set()
    to_add -= {"RESET"}
    to_drop -= to_add | {"RESET"}
    lost = to_drop & added
    added, dropped = added - lost, dropped | (to_drop - lost)
    regained = to_add & dropped
    dropped, added = dropped - regained, added | (to_add - regained)
    _put(container, "CapabilityAdd", ["ALL"] if "ALL" in added else sorted(added))
    _put(container, "CapabilityDrop", ["ALL"] if "ALL" in dropped else sorted(dropped))


def _update_health(container: Json, flags: Json) -> None:
    given = {field: flags[name] for field, name in HEALTH_FIELDS.items() if flags[name] is not None}
    if flags["no_healthcheck"]:
        if given or flags["health_cmd"] is not None:
            raise Conflict("--no-healthcheck conflicts with --health-* options")
        container["Healthcheck"] = {"Test": ["NONE"]}
        return
    if not given and flags["health_cmd"] is None:
        return
    health: Json = dict(container.get("Healthcheck") or {})
    if health.get("Test", [])[:1] == ["NONE"]:
        del health["Test"]
    for field, value in given.items():
        _put(health, field, value)
    if flags["health_cmd"] is not None:
        _put(health, "Test", ["CMD-SHELL", flags["health_cmd"]] if flags["health_cmd"] else None)
    container["Healthcheck"] = health


# --- tasks and services -------------------------------------------------------------------------------------
def _update_resources(task: Json, flags: Json) -> None:
    sides = {
        "Limits": {"NanoCPUs": "limit_cpu", "MemoryBytes": "limit_memory", "Pids": "limit_pids"},
        "Reservations": {"NanoCPUs": "reserve_cpu", "MemoryBytes": "reserve_memory"},
    }
    for side, fields in sides.items():
        for field, name in fields.items():
            if flags[name] is not None:
                resources = task.get("Resources") or {}
                task["Resources"] = {"Limits": {}, "Reservations": {}} | compact(resources)
                _put(task["Resources"][side], field, flags[name])
    if flags["generic_resource_rm"] or flags["generic_resource_add"]:
        _update_generic(task, flags["generic_resource_rm"], flags["generic_resource_add"])


def _update_generic(task: Json, remove: tuple[str, ...], add: tuple[Json, ...]) -> None:
    resources = task["Resources"] = compact(task.get("Resources") or {})
    reservations = resources.setdefault("Reservations", {})
    kinds = {entry["DiscreteResourceSpec"]["Kind"]: entry for entry in reservations.get("GenericResources") or []}
    for kind in remove:
        if kind not in kinds:
            raise Conflict(f"could not find generic-resource `{kind}` to remove it")
        del kinds[kind]
    kinds |= {entry["DiscreteResourceSpec"]["Kind"]: entry for entry in add}
    _put(reservations, "GenericResources", list(kinds.values()))


def _update_placement(task: Json, flags: Json) -> None:
    names = ("constraint_rm", "constraint_add", "placement_pref_rm", "placement_pref_add")
    if not any(flags[name] for name in names) and flags["replicas_max_per_node"] is None:
        return
    placement = task["Placement"] = task.get("Placement") or {}
    if flags["constraint_rm"] or flags["constraint_add"]:
        _update_list(placement, "Constraints", flags["constraint_rm"], flags["constraint_add"], ordered=False)
    if flags["placement_pref_rm"] or flags["placement_pref_add"]:
        kept = [pref for pref in placement.get("Preferences") or [] if pref not in flags["placement_pref_rm"]]
        _put(placement, "Preferences", kept + list(flags["placement_pref_add"]))
    if flags["replicas_max_per_node"] is not None:
        _put(placement, "MaxReplicas", flags["replicas_max_per_node"])


def _update_networks(spec: Json, remove: tuple[str, ...], add: tuple[Json, ...]) -> None:
    if not remove and not add:
        return
    task = spec["TaskTemplate"]
    attached = task.get("Networks") or spec.get("Networks") or []
    spec.pop("Networks", None)  # where they were before API 1.25
    kept = {network["Target"]: network for network in attached if network["Target"] not in set(remove)}
    for network in add:
        if network["Target"] in kept:
            raise Conflict(f"service is already attached to network {network['Target']}")
        kept[network["Target"]] = network
    _put(task, "Networks", [kept[target] for target in sorted(kept)])


def _update_mode(spec: Json, flags: Json) -> None:
    job = (spec.get("Mode") or {}).get("ReplicatedJob")
    if flags["max_concurrent"] is not None and job is None:
        raise Conflict("max-concurrent can only be used with replicated-job mode")
    if job is not None:
        _set(job, "MaxConcurrent", flags["max_concurrent"])
        _set(job, "TotalCompletions", flags["replicas"])
        return
    if flags["replicas"] is None:
        return
    if "Replicated" not in (spec.get("Mode") or {}):
        raise Conflict("replicas can only be used with replicated or replicated-job mode")
    spec["Mode"] = {"Replicated": {"Replicas": flags["replicas"]}}


def _update_schedule(spec: Json, flags: Json) -> None:
    """An empty `--schedule` takes the schedule away, with all that was said of it."""
    labels = spec.get("Labels") or {}
    if flags["schedule"] == "":
        spec["Labels"] = {key: value for key, value in labels.items() if not key.startswith("swarmsh.schedule")}
    elif added := schedule_labels(flags):
        spec["Labels"] = labels | added


def _update_endpoint(spec: Json, flags: Json) -> None:
    remove = list(chain.from_iterable(flags["publish_rm"]))
    add = list(chain.from_iterable(flags["publish_add"]))
    if flags["endpoint_mode"] is None and not remove and not add:
        return
    endpoint = spec["EndpointSpec"] = spec.get("EndpointSpec") or {}
    _set(endpoint, "Mode", flags["endpoint_mode"])
    if remove or add:
        gone = {_target_key(port) for port in remove}
        kept = [port for port in endpoint.get("Ports") or [] if _target_key(port) not in gone]
        whole = {_port_text(port): port for port in [*kept, *add]}
        _put(endpoint, "Ports", [whole[text] for text in sorted(whole)])


def _target_key(port: Json) -> tuple[str, int, str]:
    return port.get("Protocol") or "tcp", port.get("TargetPort", 0), port.get("PublishMode") or "ingress"


def _port_text(port: Json) -> str:
    protocol, target, mode = _target_key(port)
    return f"{port.get('PublishedPort', 0)}:{target}/{protocol}/{mode}"
