"""A task turned into its container: the body of `POST /containers/create` (Engine API 1.41 to 1.51).

The mapping is that of moby's `daemon/cluster/executor/container/container.go`. Fields with their default are left
out, so that an older Engine never sees a word it does not know.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swarmsh.core.labels import fenced, probe_of
from swarmsh.core.reference import parse_reference
from swarmsh.core.resources import generic_env
from swarmsh.core.restart import restart_delay_s
from swarmsh.core.run_options import RunOptions, host_config_of, parse_run_options
from swarmsh.core.task_files import task_files
from swarmsh.core.template import context_of, expand_container
from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import EnsureTask, NetworkJoin
from swarmsh.model.objects import Node, Task
from swarmsh.model.specs import ContainerSpec, HealthConfig, Mount, PortConfig, Privileges, TaskSpec
from swarmsh.model.wire import to_wire

# Networks that every Engine has and that services may name (moby `runconfig.IsPreDefinedNetwork`).
PREDEFINED_NETWORKS = ("host", "bridge", "none")
DEFAULT_STOP_GRACE_S = 10.0  # swarmkit `api/defaults/service.go`


@dataclass(frozen=True, slots=True)
class Joins:
    """The networks of ours that a container joins on its node, and the address where DNS answers it."""

    networks: tuple[NetworkJoin, ...] = ()
    dns: str = ""


def ensure_action(
    task: Task, node: Node, cluster_id: str, desired: str, auth: str = "", joins: Joins = Joins()
) -> EnsureTask:
    """What the task's node is told so that its container becomes `desired`: "ready" or "running"."""
    policy = task.spec.restart_policy
    return EnsureTask(
        task_id=task.id,
        service_id=task.service_id,
        index=task.version,
        name=task.name,
        desired=desired,
        image=image_name(container_spec(task.spec).image),
        config=container_config(task, node, cluster_id, joins.dns),
        auth=auth,
        restart=_restart_condition(task),
        restart_delay_s=restart_delay_s(policy),
        stop_grace_s=stop_grace_s(task.spec),
        tcp_ports=tuple(sorted({p.target_port for p in _ports(task) if (p.protocol or "tcp") == "tcp"})),
        probe=probe_of(task.labels),
        fence=fenced(task.labels),
        networks=joins.networks,
        files=task_files(task.spec),
    )


def _restart_condition(task: Task) -> str:
    """What the node does by itself while no manager is there; a job that is complete is never run again."""
    policy = task.spec.restart_policy
    condition = (policy.condition if policy is not None else "") or "any"
    return "on-failure" if condition == "any" and task.job_iteration is not None else condition


def container_config(task: Task, node: Node, cluster_id: str, dns: str = "") -> dict[str, Any]:
    """The body of `POST /containers/create` for this task on this node; JSON-ready. Raises InvalidSpec.

    `dns` is asked where the spec names no server of its own. What concerns networks of ours is added on the node.
    """
    spec = expand_container(container_spec(task.spec), context_of(task, node))
    ports = _host_ports(task)
    run = parse_run_options(spec.labels)
    config: dict[str, Any] = {
        "Image": image_name(spec.image),
        "Labels": _labels(task, spec, cluster_id),
        "HostConfig": _host_config(task, spec, ports, dns, run),
    }
    optional: dict[str, Any] = {
        "Hostname": spec.hostname,
        "Domainname": run.domainname,
        "User": spec.user,
        "Env": [*spec.env, *generic_env(task.generic_resources)],
        "WorkingDir": spec.dir,
        "StopSignal": spec.stop_signal,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "Entrypoint": list(spec.command),
        # Without a command the arguments are for the image's own entrypoint.
        "Cmd": list(spec.args),
        "ExposedPorts": {_port_key(port): {} for port in ports},
        "Healthcheck": _healthcheck(spec.healthcheck),
    }
    return config | _given(optional)


def container_spec(spec: TaskSpec) -> ContainerSpec:
    """The container half of a task's spec; specs without one are not accepted."""
    if spec.container_spec is None:
        raise InvalidSpec("mismatched Runtime and *Spec fields")
    return spec.container_spec


def image_name(image: str) -> str:
    """An image as the Engine is asked for it: its familiar name, with a tag if it has no digest."""
    return parse_reference(image).tagged().familiar


def stop_grace_s(spec: TaskSpec) -> float:
    """Seconds between the stop signal and SIGKILL."""
    grace = spec.container_spec.stop_grace_period if spec.container_spec is not None else None
    return DEFAULT_STOP_GRACE_S if grace is None else grace / 1e9


def _labels(task: Task, spec: ContainerSpec, cluster_id: str) -> dict[str, str]:
    return {
        **spec.labels,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": task.name,
        "com.docker.swarm.node.id": task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_name,
        "swarmsh.cluster": cluster_id,
        "swarmsh.index": str(task.version),
    }


def _host_config(
    task: Task, spec: ContainerSpec, ports: Iterable[PortConfig], server: str, run: RunOptions
) -> dict[str, Any]:
    dns, driver = spec.dns_config, task.spec.log_driver
    asked = host_config_of(run)
    servers = list(dns.nameservers) if dns else []
    optional: dict[str, Any] = {
        "PortBindings": _port_bindings(ports),
        "Mounts": [_mount(mount) for mount in spec.mounts],
        "GroupAdd": list(spec.groups),
        "ReadonlyRootfs": spec.read_only,
        "Isolation": spec.isolation if spec.isolation != "default" else "",
        "Init": spec.init,
        "Sysctls": spec.sysctls,
        "CapAdd": list(spec.capability_add),
        "CapDrop": list(spec.capability_drop),
        "OomScoreAdj": spec.oom_score_adj,
        "SecurityOpt": _security_options(spec.privileges) + asked.pop("SecurityOpt", []),
        "ExtraHosts": _extra_hosts(spec.hosts),
        "Dns": servers or ([server] if server else []),
        "DnsSearch": list(dns.search) if dns else None,
        "DnsOptions": list(dns.options) if dns else None,
        "LogConfig": {"Type": driver.name, "Config": driver.options} if driver else None,
        "NetworkMode": next((n.target for n in task.spec.networks if n.target in PREDEFINED_NETWORKS), ""),
    }
    # Restarts are ours: the Engine's own policy is set by the helper only while no manager is there.
    own = {"RestartPolicy": {"Name": "no"}} | _resources(task.spec, spec) | _given(optional, keep=("Init",))
    return own | asked


def _resources(task: TaskSpec, spec: ContainerSpec) -> dict[str, Any]:
    """Limits only: reservations are the scheduler's business and no cgroup's, as in Docker."""
    requirements = task.resources
    limits = requirements.limits if requirements is not None else None
    optional: dict[str, Any] = {
        "Ulimits": [{"Name": u.name, "Soft": u.soft, "Hard": u.hard} for u in spec.ulimits],
        "PidsLimit": max(limits.pids, 0) if limits else 0,
        "Memory": limits.memory_bytes if limits else 0,
        "NanoCpus": limits.nano_cpus if limits else 0,
    }
    if (
        requirements is not None
        and requirements.swap_bytes is not None
        and limits is not None
        and limits.memory_bytes
    ):
        # The Engine wants memory and swap together; -1 is no limit of swap.
        swap = requirements.swap_bytes
        optional["MemorySwap"] = -1 if swap < 0 else limits.memory_bytes + swap
    if requirements is not None:
        optional["MemorySwappiness"] = requirements.memory_swappiness
    return _given(optional, keep=("MemorySwappiness",))


def _ports(task: Task) -> tuple[PortConfig, ...]:
    return task.endpoint.ports if task.endpoint is not None else ()


def _host_ports(task: Task) -> tuple[PortConfig, ...]:
    return tuple(port for port in _ports(task) if port.publish_mode == "host")


def _port_key(port: PortConfig) -> str:
    return f"{port.target_port}/{port.protocol or 'tcp'}"


def _port_bindings(ports: Iterable[PortConfig]) -> dict[str, list[dict[str, str]]]:
    """An empty HostPort lets the Engine choose. Several published ports may lead to one target."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        bindings.setdefault(_port_key(port), []).append({"HostPort": str(port.published_port or "")})
    return bindings


def _healthcheck(health: HealthConfig | None) -> dict[str, Any] | None:
    if health is None:
        return None
    return _given(
        {
            "Test": list(health.test),
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
            "Retries": health.retries,
        }
    )


def _mount(mount: Mount) -> dict[str, Any]:
    # The field names of services and of containers are the same (moby `api/types/mount`).
    wire: dict[str, Any] = to_wire(mount)
    return wire


def _extra_hosts(hosts: Iterable[str]) -> list[str]:
    """`IP name [alias…]` of hosts(5) into the Engine's `name:IP`; each alias becomes an entry of its own."""
    return [f"{name}:{entry.split()[0]}" for entry in hosts for name in entry.split()[1:]]


def _security_options(privileges: Privileges | None) -> list[str]:
    if privileges is None:
        return []
    options: list[str] = []
    if (credentials := privileges.credential_spec) is not None:
        for kind, value in (("file", credentials.file), ("registry", credentials.registry)):
            if value:
                options.append(f"credentialspec={kind}://{value}")
    if (selinux := privileges.selinux_context) is not None:
        if selinux.disable:
            options.append("label=disable")
        for kind in ("user", "role", "level", "type"):
            if value := getattr(selinux, kind):
                options.append(f"label={kind}:{value}")
    if (seccomp := privileges.seccomp) is not None:
        if seccomp.mode == "unconfined":
            options.append("seccomp=unconfined")
        elif seccomp.mode == "custom":
            options.append(f"seccomp={decode_profile(seccomp.profile)}")
    if privileges.app_armor is not None and privileges.app_armor.mode == "disabled":
        options.append("apparmor=unconfined")
    if privileges.no_new_privileges:
        options.append("no-new-privileges=true")
    return options


def decode_profile(profile: str) -> str:
    """A seccomp profile's JSON text out of its base64. Raises InvalidSpec."""
    try:
        return base64.b64decode(profile, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidSpec("ContainerSpec: Privileges.Seccomp.Profile is not base64 of a JSON text") from None


def _given(optional: Mapping[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Without what is empty; in `keep` only None counts as empty, where false or 0 says something."""
    return {key: value for key, value in optional.items() if (value is not None if key in keep else value)}
