"""What users ask for: the spec side of the Engine API, field by field (API 1.51, moby `api/types/swarm`).

Durations are nanoseconds, memory bytes, CPUs billionths of one. Defaults are what the API leaves out; what
an omitted value *means* is resolved where it is used, and stored specs stay as their authors wrote them.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from swarmsh.model.states import Availability, Role
from swarmsh.model.wire import Record, always


# --- containers ---------------------------------------------------------------------------------------------
class CredentialSpec(Record):
    config: str = ""
    file: str = ""
    registry: str = ""


class SELinuxContext(Record):
    disable: bool = always(False)
    user: str = always("")
    role: str = always("")
    type: str = always("")
    level: str = always("")


class Seccomp(Record):
    mode: str = ""
    profile: str = ""  # base64 of the JSON profile


class AppArmor(Record):
    mode: str = ""


class Privileges(Record):
    credential_spec: CredentialSpec | None = None
    selinux_context: SELinuxContext | None = field(default=None, name="SELinuxContext")
    seccomp: Seccomp | None = None
    app_armor: AppArmor | None = None
    no_new_privileges: bool = False


class Driver(Record):
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class BindOptions(Record):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeOptions(Record):
    no_copy: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    subpath: str = ""
    driver_config: Driver | None = None


class ImageOptions(Record):
    subpath: str = ""


class TmpfsOptions(Record):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(Record):
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, Any] | None = None


class HealthConfig(Record):
    """HEALTHCHECK; an empty `test` inherits the image's, ("NONE",) switches it off."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class DNSConfig(Record):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class FileTarget(Record):
    name: str = always("")
    uid: str = always("", "UID")
    gid: str = always("", "GID")
    mode: int = always(0)


class SecretReference(Record):
    file: FileTarget | None = None
    secret_id: str = always("", "SecretID")
    secret_name: str = always("")


class ConfigReference(Record):
    file: FileTarget | None = None
    runtime: dict[str, Any] | None = None
    config_id: str = always("", "ConfigID")
    config_name: str = always("")


class Ulimit(Record):
    name: str = always("")
    hard: int = always(0)
    soft: int = always(0)


class ContainerSpec(Record):
    image: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = field(default=False, name="TTY")
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_grace_period: int | None = None
    healthcheck: HealthConfig | None = None
    hosts: tuple[str, ...] = ()  # "IP name [alias…]", as in /etc/hosts
    dns_config: DNSConfig | None = field(default=None, name="DNSConfig")
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    isolation: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0


# --- tasks --------------------------------------------------------------------------------------------------
class NamedGenericResource(Record):
    kind: str = ""
    value: str = ""


class DiscreteGenericResource(Record):
    kind: str = ""
    value: int = 0


class GenericResource(Record):
    named_resource_spec: NamedGenericResource | None = None
    discrete_resource_spec: DiscreteGenericResource | None = None


class Limits(Record):
    nano_cpus: int = field(default=0, name="NanoCPUs")
    memory_bytes: int = 0
    pids: int = 0


class Reservations(Record):
    nano_cpus: int = field(default=0, name="NanoCPUs")
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] = ()


class ResourceRequirements(Record):
    limits: Limits | None = None
    reservations: Reservations | None = None
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


class RestartPolicy(Record):
    condition: str = ""  # none | on-failure | any
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(Record):
    spread_descriptor: str = ""


class PlacementPreference(Record):
    spread: SpreadOver | None = None


class Platform(Record):
    architecture: str = ""
    os: str = field(default="", name="OS")


class Placement(Record):
    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = 0
    platforms: tuple[Platform, ...] = ()


class NetworkAttachment(Record):
    target: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)


class TaskSpec(Record):
    container_spec: ContainerSpec | None = None
    plugin_spec: dict[str, Any] | None = None
    network_attachment_spec: dict[str, Any] | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: tuple[NetworkAttachment, ...] = ()
    log_driver: Driver | None = None
    force_update: int = always(0)  # the docker SDK reads it unconditionally
    runtime: str = ""


# --- services -----------------------------------------------------------------------------------------------
class ReplicatedMode(Record):
    replicas: int | None = None


class GlobalMode(Record):
    pass


class ReplicatedJobMode(Record):
    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJobMode(Record):
    pass


class ServiceMode(Record):
    """Exactly one of the four is set once a spec was accepted."""

    replicated: ReplicatedMode | None = None
    global_: GlobalMode | None = field(default=None, name="Global")
    replicated_job: ReplicatedJobMode | None = None
    global_job: GlobalJobMode | None = None

    @property
    def is_job(self) -> bool:
        """Its tasks run to their end, and are done then."""
        return self.replicated_job is not None or self.global_job is not None


class UpdateConfig(Record):
    parallelism: int = always(0)
    delay: int = 0
    failure_action: str = ""  # pause | continue | rollback
    monitor: int = 0
    max_failure_ratio: float = always(0.0)
    order: str = always("")  # stop-first | start-first


class PortConfig(Record):
    name: str = ""
    protocol: str = ""  # tcp | udp | sctp
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = ""  # ingress | host


class EndpointSpec(Record):
    mode: str = ""  # vip | dnsrr
    ports: tuple[PortConfig, ...] = ()


class ServiceSpec(Record):
    name: str = always("")
    labels: dict[str, str] = field(default_factory=dict)
    task_template: TaskSpec = field(default_factory=TaskSpec)
    mode: ServiceMode = field(default_factory=ServiceMode)
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachment, ...] = ()  # before API 1.25; folded into the task template on accept
    endpoint_spec: EndpointSpec | None = None


# --- networks -----------------------------------------------------------------------------------------------
class IPAMConfig(Record):
    """A subnet; addresses of tasks and VIPs come from `ip_range` if there is one. All in CIDR but the gateway."""

    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = field(default_factory=dict)  # kept free


class IPAM(Record):
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    config: tuple[IPAMConfig, ...] = ()


class ConfigFrom(Record):
    network: str = ""


class NetworkSpec(Record):
    """The body of `POST /networks/create` (moby `api/types/network`, CreateRequest)."""

    name: str = always("")
    labels: dict[str, str] = field(default_factory=dict)
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    scope: str = ""
    ipam: IPAM | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    config_only: bool = False
    config_from: ConfigFrom | None = None


# --- secrets and configs ------------------------------------------------------------------------------------
class SecretSpec(Record):
    """A secret but for its data, which is in no record: it lies sealed in the store, under the secret's id."""

    name: str = always("")
    labels: dict[str, str] = field(default_factory=dict)
    driver: Driver | None = None  # where the data is to be had, if not with us
    templating: Driver | None = None  # named golang: the data is a template, expanded for each task


class ConfigSpec(Record):
    """A config but for its data, which is kept as that of secrets."""

    name: str = always("")
    labels: dict[str, str] = field(default_factory=dict)
    templating: Driver | None = None


# --- nodes and the cluster ----------------------------------------------------------------------------------
class NodeSpec(Record):
    name: str = ""  # the inventory's name
    labels: dict[str, str] = field(default_factory=dict)
    role: Role = always(Role.WORKER)
    availability: Availability = always(Availability.ACTIVE)
