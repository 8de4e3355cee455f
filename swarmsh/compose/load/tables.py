"""Every key of a compose file: those of today's compose specification and of Docker's stack schema 3.0 to 3.13.

What a cluster does with a key, or why it cannot, is not decided here.
"""

from __future__ import annotations

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.load import forms
from swarmsh.compose.load.readers import (
    Reader,
    Table,
    anything,
    as_written,
    boolean,
    choice,
    command,
    decimal,
    duration,
    either,
    filled,
    list_of,
    map_of,
    nothing_or,
    number,
    one_or_list,
    pairs,
    record,
    size,
    size_or_unlimited,
    spelled,
    spelled_or_null,
    spread,
    text,
    whole,
)
from swarmsh.compose.load.tree import Mapping, Node, Scalar, Sequence, scalar

_texts = list_of(text)
_written = list_of(as_written)
_options = map_of(spelled)
_options_or_null = map_of(spelled_or_null)


def _update(*actions: str) -> Reader:
    return record(
        {
            "parallelism": whole(0),
            "delay": duration,
            "failure_action": choice(*actions),
            "monitor": duration,
            "max_failure_ratio": number(0, 1),
            "order": choice("stop-first", "start-first"),
        }
    )


_DEVICE_REQUEST: Table = {
    "capabilities": _texts,
    "count": either((Scalar, as_written), wanted="a number or all"),
    "device_ids": _texts,
    "driver": text,
    "options": pairs(),
}
_GENERIC_RESOURCE = record({"discrete_resource_spec": record({"kind": filled, "value": whole(0)})})
_DEPLOY: Table = {
    "mode": choice("replicated", "global", "replicated-job", "global-job"),
    "endpoint_mode": choice("vip", "dnsrr"),
    "replicas": whole(0),
    "labels": pairs(),
    "update_config": _update("continue", "pause", "rollback"),
    "rollback_config": _update("continue", "pause"),
    "resources": record(
        {
            "limits": record({"cpus": decimal(0), "memory": size, "pids": whole(-1)}),
            "reservations": record(
                {
                    "cpus": decimal(0),
                    "memory": size,
                    "generic_resources": list_of(_GENERIC_RESOURCE),
                    "devices": list_of(record(_DEVICE_REQUEST)),
                }
            ),
        }
    ),
    "restart_policy": record(
        {
            "condition": choice("none", "on-failure", "any"),
            "delay": duration,
            "max_attempts": whole(0),
            "window": duration,
        }
    ),
    "placement": record(
        {
            "constraints": _texts,
            "preferences": list_of(record({"spread": filled})),
            "max_replicas_per_node": whole(0),
        }
    ),
}

_HEALTHCHECK: Table = {
    "test": forms.health_test,
    "interval": duration,
    "timeout": duration,
    "retries": whole(0),
    "start_period": duration,
    "start_interval": duration,
    "disable": boolean,
}

_NETWORK_OF_SERVICE = nothing_or(
    record(
        {
            "aliases": _texts,
            "ipv4_address": text,
            "ipv6_address": text,
            "link_local_ips": _texts,
            "mac_address": text,
            "interface_name": text,
            "driver_opts": _options,
            "priority": number(),
            "gw_priority": number(),
        }
    )
)

_ulimits = map_of(forms.ulimit)
_file_references = list_of(forms.file_reference)
_BUILD: Table = {
    "context": text,
    "dockerfile": text,
    "dockerfile_inline": text,
    "entitlements": _texts,
    "args": pairs(null=None),
    "ssh": either(
        (Mapping, pairs()), (Sequence, pairs()), (Scalar, one_or_list(text)), wanted="a list or a mapping"
    ),
    "labels": pairs(),
    "cache_from": _texts,
    "cache_to": _texts,
    "no_cache": boolean,
    "no_cache_filter": one_or_list(text),
    "additional_contexts": pairs(),
    "network": text,
    "provenance": spelled,
    "sbom": spelled,
    "pull": boolean,
    "target": text,
    "shm_size": size,
    "extra_hosts": forms.extra_hosts,
    "isolation": text,
    "privileged": boolean,
    "secrets": _file_references,
    "tags": _texts,
    "ulimits": _ulimits,
    "platforms": _texts,
}

_HOOKS = list_of(
    record(
        {
            "command": command,
            "user": text,
            "privileged": boolean,
            "working_dir": text,
            "environment": pairs(null=None),
        },
        required=("command",),
    )
)
_BLKIO_RATES = list_of(record({"path": filled, "rate": size}, extensions=False))


def _gpus(node: Node, path: Path) -> Node:
    if isinstance(node, Scalar):
        choice("all")(node, path)
        return Sequence(place=node.place, items=[forms.mapping(node, (("count", "all"),))], override=node.override)
    return list_of(record(_DEVICE_REQUEST))(node, path)


def _extends(node: Node, path: Path) -> Node:
    if isinstance(node, Scalar):
        return forms.mapping(node, (("service", filled(node, path)),))
    return record({"service": filled, "file": filled}, required=("service",), extensions=False)(node, path)


def _or_null(reader: Reader) -> Reader:
    return lambda node, path: node if isinstance(node, Scalar) and node.value is None else reader(node, path)


SERVICE: Table = {
    "annotations": pairs(),
    "attach": boolean,
    "blkio_config": record(
        {
            "device_read_bps": _BLKIO_RATES,
            "device_read_iops": _BLKIO_RATES,
            "device_write_bps": _BLKIO_RATES,
            "device_write_iops": _BLKIO_RATES,
            "weight": whole(0, 1000),
            "weight_device": list_of(record({"path": filled, "weight": whole(0, 1000)}, extensions=False)),
        },
        extensions=False,
    ),
    "build": forms.build(record(_BUILD)),
    "cap_add": _texts,
    "cap_drop": _texts,
    "cgroup": choice("host", "private"),
    "cgroup_parent": text,
    "cgroupns_mode": text,
    "command": command,
    "configs": _file_references,
    "container_name": text,
    "cpu_count": whole(0),
    "cpu_percent": number(0, 100),
    "cpu_period": as_written,
    "cpu_quota": as_written,
    "cpu_rt_period": as_written,
    "cpu_rt_runtime": as_written,
    "cpu_shares": whole(0),
    "cpus": decimal(0),
    "cpuset": text,
    "credential_spec": record({"config": text, "file": text, "registry": text}),
    "depends_on": forms.depends_on,
    "deploy": nothing_or(record(_DEPLOY)),
    "develop": anything,
    "device_cgroup_rules": _texts,
    "devices": list_of(forms.device),
    "dns": one_or_list(text),
    "dns_opt": _texts,
    "dns_search": one_or_list(text),
    "domainname": text,
    "entrypoint": command,
    "env_file": forms.env_file,
    "environment": pairs(null=None),
    "expose": list_of(forms.expose),
    "extends": _extends,
    "external_links": _texts,
    "extra_hosts": forms.extra_hosts,
    "gpus": _gpus,
    "group_add": _written,
    "healthcheck": record(_HEALTHCHECK),
    "hostname": text,
    "image": filled,
    "init": boolean,
    "ipc": text,
    "isolation": text,
    "label_file": one_or_list(filled),
    "labels": pairs(),
    "links": _texts,
    "logging": record({"driver": text, "options": _options_or_null}),
    "mac_address": text,
    "mem_limit": size,
    "mem_reservation": size,
    "mem_swappiness": whole(0, 100),
    "memswap_limit": size_or_unlimited,
    "models": anything,
    "network_mode": text,
    "networks": forms.networks(_NETWORK_OF_SERVICE),
    "oom_kill_disable": boolean,
    "oom_score_adj": whole(-1000, 1000),
    "pid": _or_null(text),
    "pids_limit": whole(-1),
    "platform": text,
    "ports": spread(forms.ports),
    "post_start": _HOOKS,
    "pre_stop": _HOOKS,
    "privileged": boolean,
    "profiles": one_or_list(filled),
    "provider": anything,
    "pull_policy": text,
    "pull_refresh_after": duration,
    "read_only": boolean,
    "restart": forms.restart,
    "runtime": text,
    "scale": whole(0),
    "secrets": _file_references,
    "security_opt": _texts,
    "shm_size": size,
    "stdin_open": boolean,
    "stop_grace_period": duration,
    "stop_signal": text,
    "storage_opt": _options,
    "sysctls": pairs(),
    "tmpfs": one_or_list(filled),
    "tty": boolean,
    "ulimits": _ulimits,
    "use_api_socket": boolean,
    "user": text,
    "userns_mode": text,
    "uts": text,
    "volume_driver": text,
    "volumes": list_of(forms.volume),
    "volumes_from": _texts,
    "working_dir": text,
}

_IPAM: Table = {
    "driver": text,
    "config": list_of(
        record({"subnet": text, "ip_range": text, "gateway": text, "aux_addresses": map_of(text)}),
    ),
    "options": _options,
}
_NETWORK: Table = {
    "name": filled,
    "driver": text,
    "driver_opts": _options,
    "ipam": record(_IPAM),
    "external": forms.external,
    "internal": boolean,
    "attachable": boolean,
    "enable_ipv4": boolean,
    "enable_ipv6": boolean,
    "labels": pairs(),
}
_VOLUME: Table = {
    "name": filled,
    "driver": text,
    "driver_opts": _options,
    "external": forms.external,
    "labels": pairs(),
}
_SECRET: Table = {
    "name": filled,
    "file": filled,
    "environment": filled,
    "external": forms.external,
    "labels": pairs(),
    "driver": text,
    "driver_opts": _options,
    "template_driver": text,
}
_CONFIG: Table = {
    "name": filled,
    "file": filled,
    "environment": filled,
    "content": text,
    "external": forms.external,
    "labels": pairs(),
    "template_driver": text,
}


def _object(table: Table) -> Reader:
    """A network, volume, secret or config, the old `external: {name: …}` as `external` and `name`."""
    read_record = nothing_or(record(table))

    def read(node: Node, path: Path) -> Node:
        made = read_record(node, path)
        old = made.items.get("external") if isinstance(made, Mapping) else None
        if not isinstance(made, Mapping) or not isinstance(old, Mapping):
            return made
        name = old.items.get("name")
        moved = Mapping(place=made.place, override=made.override, items=dict(made.items), keys=dict(made.keys))
        if name is not None and "name" in made.items:
            hint = "Keep the one beside external"
            raise ComposeError("the name is there twice", old.place, (*path, "external", "name"), hint)
        moved.put("external", scalar(True, old.place), made.keys["external"])
        if name is not None:
            moved.put("name", name, old.keys["name"])
        return moved

    return read


_INCLUDE = record(
    {"path": one_or_list(filled), "project_directory": filled, "env_file": one_or_list(filled)},
    required=("path",),
    extensions=False,
)


def _include(node: Node, path: Path) -> Node:
    if isinstance(node, Scalar):
        return forms.mapping(node, (("path", one_or_list(filled)(node, path)),))
    return _INCLUDE(node, path)


# A volume's `x-cluster-spec` passes as any x-* key does.
TOP: Table = {
    "version": text,
    "name": filled,
    "include": list_of(_include),
    "services": map_of(record(SERVICE), names=True),
    "networks": map_of(_object(_NETWORK), names=True),
    "volumes": map_of(_object(_VOLUME), names=True),
    "secrets": map_of(_object(_SECRET), names=True),
    "configs": map_of(_object(_CONFIG), names=True),
    "models": anything,
}
SECTIONS = ("services", "networks", "volumes", "secrets", "configs")
canonical: Reader = record(TOP)
"""A whole document in the canonical form. Raises ComposeError."""
