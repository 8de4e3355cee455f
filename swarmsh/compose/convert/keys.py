"""What becomes of each key of a compose file: the one table. `docs/compose.md` says the same to users.

A path has `*` for a name of the user's own and for the entries of a list. What is below a path without keys of its
own in the table (labels, options, `x-*`) belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    HONOURED = "honoured"  # it is in the specs
    LOADED = "read"  # it is done with once the files are loaded
    WARNED = "warned"  # it has no effect, and a warning says so
    REFUSED = "refused"  # the file is not deployed


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `words`: what it becomes, or why not; `hint`: the way out where it is refused."""

    path: str
    fate: Fate
    words: str
    hint: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))


_H, _L, _W, _R = Fate.HONOURED, Fate.LOADED, Fate.WARNED, Fate.REFUSED
_RUN = "container label swarmsh.run."


def _below(path: str, *rows: tuple[str, Fate, str] | tuple[str, Fate, str, str]) -> Iterator[Key]:
    for name, *rest in rows:
        yield Key(f"{path}.{name}" if path else name, *rest)  # type: ignore[arg-type]


_TOP = (
    ("version", _L, "not needed; nothing depends on it"),
    ("name", _L, "the stack's name, if none is given to the command"),
    ("include", _L, "other files are read in"),
    ("services", _H, "the stack's services"),
    ("networks", _H, "the stack's overlays"),
    ("volumes", _H, "what services mount"),
    ("secrets", _H, "the stack's secrets"),
    ("configs", _H, "the stack's configs"),
    ("models", _W, "models are run by Docker Desktop, not by Engines: run the model as a service"),
)

_SERVICE = (
    ("annotations", _H, _RUN + "annotation"),
    ("attach", _W, "is of `compose up`; `swarmsh stack logs` shows what services print"),
    ("blkio_config", _H, "weights and rates of block devices"),
    ("build", _W, "images are not built here: build and push the image that the service names"),
    ("cap_add", _H, "capabilities added"),
    ("cap_drop", _H, "capabilities dropped"),
    ("cgroup", _H, _RUN + "cgroupns"),
    ("cgroup_parent", _H, _RUN + "cgroup-parent"),
    ("cgroupns_mode", _H, _RUN + "cgroupns"),
    ("command", _H, "arguments of the image's entry point"),
    ("configs", _H, "files in the container"),
    (
        "container_name",
        _W,
        "containers are named after tasks, of which there may be several; the service's own name reaches them",
    ),
    ("cpu_count", _W, "is for Windows, and nodes run Linux: use cpus"),
    ("cpu_percent", _W, "is for Windows, and nodes run Linux: use cpus"),
    ("cpu_period", _H, _RUN + "cpu-period"),
    ("cpu_quota", _H, _RUN + "cpu-quota"),
    ("cpu_rt_period", _H, _RUN + "cpu-rt-period"),
    ("cpu_rt_runtime", _H, _RUN + "cpu-rt-runtime"),
    ("cpu_shares", _H, _RUN + "cpu-shares"),
    ("cpus", _H, "as deploy.resources.limits.cpus"),
    ("cpuset", _H, _RUN + "cpuset-cpus"),
    ("credential_spec", _H, "credential spec; one of its keys"),
    ("depends_on", _H, "the first tasks wait for the other services"),
    ("deploy", _H, "how the service is run"),
    ("develop", _W, "is of `compose watch`, and changes nothing in what runs"),
    ("device_cgroup_rules", _H, _RUN + "device-cgroup-rule"),
    ("devices", _H, _RUN + "device; they must be there on the nodes"),
    ("dns", _H, "name servers"),
    ("dns_opt", _H, "resolver options"),
    ("dns_search", _H, "search domains"),
    ("domainname", _H, _RUN + "domainname"),
    ("entrypoint", _H, "command in place of the image's entry point"),
    ("env_file", _L, "its variables are in environment"),
    ("environment", _H, "environment, sorted"),
    ("expose", _W, "services of a common network reach each other on any port"),
    ("extends", _L, "the other service is read in"),
    (
        "external_links",
        _W,
        "containers of other stacks are reached through a common external network, by their service's name",
    ),
    ("extra_hosts", _H, "lines of /etc/hosts"),
    ("gpus", _H, _RUN + "gpus"),
    ("group_add", _H, "more groups of the user"),
    ("healthcheck", _H, "health check"),
    ("hostname", _H, "host name, with placeholders"),
    ("image", _H, "image; pinned to its digest on deploy"),
    ("init", _H, "an init process"),
    ("ipc", _H, _RUN + "ipc"),
    ("isolation", _H, "isolation; only `default` on Linux"),
    ("label_file", _L, "its labels are in labels"),
    ("labels", _H, "labels of the containers"),
    ("links", _W, "a service is reached by its name, or an alias, on a network that both have"),
    ("logging", _H, "log driver"),
    ("mac_address", _W, "the addresses of tasks are swarmsh's to choose"),
    ("mem_limit", _H, "as deploy.resources.limits.memory"),
    ("mem_reservation", _H, "as deploy.resources.reservations.memory"),
    ("mem_swappiness", _H, "swappiness; of Engines that know it for services"),
    ("memswap_limit", _H, "limit of swap, less the memory"),
    (
        "models",
        _R,
        "models are run by Docker Desktop, not by Engines",
        "Run the model as a service, and name it in environment",
    ),
    ("network_mode", _H, "host, none and bridge; those of another container are refused"),
    ("networks", _H, "attachments; the short name is an alias in the stack's own networks only"),
    ("oom_kill_disable", _H, _RUN + "oom-kill-disable"),
    ("oom_score_adj", _H, "how soon the kernel kills it when memory is short"),
    ("pid", _H, _RUN + "pid; only `host`"),
    ("pids_limit", _H, "as deploy.resources.limits.pids"),
    ("platform", _H, "only nodes of that platform"),
    ("ports", _H, "published ports"),
    (
        "post_start",
        _R,
        "commands after the start are not run in tasks",
        "Start it from the image's entry point, or as a job of its own",
    ),
    (
        "pre_stop",
        _R,
        "commands before the stop are not run in tasks",
        "Let the program act on its stop signal (stop_signal, stop_grace_period)",
    ),
    ("privileged", _H, _RUN + "privileged"),
    ("profiles", _L, "services of other profiles are left out"),
    (
        "provider",
        _R,
        "a provider is a program of the caller's machine, and runs nothing on nodes",
        "Run it before the deploy, and give its results in environment",
    ),
    ("pull_policy", _W, "each deploy asks the registry what the tag means now, and nodes pull what they have not"),
    ("pull_refresh_after", _W, "each deploy asks the registry what the tag means now"),
    ("read_only", _H, "read-only root file system"),
    ("restart", _H, "restart policy, if deploy.restart_policy is not there"),
    ("runtime", _H, _RUN + "runtime"),
    ("scale", _H, "as deploy.replicas"),
    ("secrets", _H, "files in the container"),
    ("security_opt", _H, _RUN + "security-opt; the file of a seccomp profile is read in"),
    ("shm_size", _H, _RUN + "shm-size"),
    ("stdin_open", _H, "standard input stays open"),
    ("stop_grace_period", _H, "time from the stop signal to the kill"),
    ("stop_signal", _H, "stop signal"),
    ("storage_opt", _H, _RUN + "storage-opt"),
    ("sysctls", _H, "kernel parameters of the container"),
    ("tmpfs", _H, "mounts of type tmpfs"),
    ("tty", _H, "a terminal"),
    ("ulimits", _H, "limits, sorted by name"),
    (
        "use_api_socket",
        _R,
        "the Engine's socket and the caller's credentials are not given to tasks",
        "Mount /var/run/docker.sock of the node, if the service may have all of the node",
    ),
    ("user", _H, "user"),
    ("userns_mode", _H, _RUN + "userns"),
    ("uts", _H, _RUN + "uts"),
    ("volume_driver", _R, "a driver belongs to a volume", "Declare the volume at the top, with its driver"),
    ("volumes", _H, "mounts"),
    (
        "volumes_from",
        _R,
        "containers of one node are nothing that tasks can count on",
        "Declare a volume at the top, and mount it in both services",
    ),
    ("working_dir", _H, "working directory"),
)

_UPDATE = (
    ("parallelism", _H, "tasks at a time; 1 if the block does not say"),
    ("delay", _H, "time between them"),
    ("failure_action", _H, "pause, continue or rollback"),
    ("monitor", _H, "how long a new task is watched"),
    ("max_failure_ratio", _H, "share of tasks that may fail"),
    ("order", _H, "stop-first or start-first"),
)
_DEPLOY = (
    ("mode", _H, "replicated, global, replicated-job or global-job"),
    ("endpoint_mode", _H, "vip or dnsrr"),
    ("replicas", _H, "number of tasks; of a replicated job, of runs"),
    ("labels", _H, "labels of the service; swarmsh.* among them"),
    ("update_config", _H, "how updates go"),
    ("rollback_config", _H, "how rollbacks go"),
    ("resources", _H, "limits and reservations"),
    ("restart_policy", _H, "restart policy"),
    ("placement", _H, "on which nodes"),
)
_FILE_REFERENCE = (
    ("source", _H, "which one"),
    ("target", _H, "name of the file, or an absolute path"),
    ("uid", _H, "owner; 0 if it does not say"),
    ("gid", _H, "group; 0 if it does not say"),
    ("mode", _H, "permissions; 0444 if it does not say"),
)
_DEVICE_REQUEST = (
    ("capabilities", _H, "what the device must be able to do"),
    ("count", _H, "how many; all if neither this nor device_ids is there"),
    ("device_ids", _H, "which"),
    ("driver", _H, "the driver that gives them"),
    ("options", _H, "the driver's options"),
)
_ADDRESSES = "the addresses of tasks are swarmsh's to choose; a service is reached by its name"
_FILE_OBJECT = (
    ("name", _H, "its full name, in place of the stack's and the key's"),
    ("file", _H, "contents from a file of the caller's machine"),
    ("environment", _H, "contents from a variable of the caller"),
    ("external", _H, "it is there already; its name is the key's, or `name`"),
    ("labels", _H, "labels"),
    ("template_driver", _H, "golang: placeholders are filled in for each task"),
)

KEYS: tuple[Key, ...] = (
    *_below("", *_TOP),
    *_below("services.*", *_SERVICE),
    *_below("services.*.deploy", *_DEPLOY),
    *_below("services.*.deploy.update_config", *_UPDATE),
    *_below("services.*.deploy.rollback_config", *_UPDATE),
    *_below(
        "services.*.deploy.resources",
        ("limits", _H, "most of"),
        ("limits.cpus", _H, "CPUs"),
        ("limits.memory", _H, "memory"),
        ("limits.pids", _H, "processes"),
        ("reservations", _H, "kept free on the node"),
        ("reservations.cpus", _H, "CPUs"),
        ("reservations.memory", _H, "memory"),
        ("reservations.generic_resources", _H, "generic resources"),
        ("reservations.generic_resources.*.discrete_resource_spec", _H, "a number of one kind"),
        ("reservations.generic_resources.*.discrete_resource_spec.kind", _H, "kind"),
        ("reservations.generic_resources.*.discrete_resource_spec.value", _H, "number"),
        ("reservations.devices", _H, _RUN + "device-request"),
    ),
    *_below("services.*.deploy.resources.reservations.devices.*", *_DEVICE_REQUEST),
    *_below(
        "services.*.deploy.restart_policy",
        ("condition", _H, "none, on-failure or any"),
        ("delay", _H, "time before a restart"),
        ("max_attempts", _H, "restarts in a window"),
        ("window", _H, "the time in which they are counted"),
    ),
    *_below(
        "services.*.deploy.placement",
        ("constraints", _H, "what a node must be"),
        ("preferences", _H, "what tasks are spread over"),
        ("preferences.*.spread", _H, "a label of nodes"),
        ("max_replicas_per_node", _H, "most tasks on one node"),
    ),
    *_below(
        "services.*.healthcheck",
        ("test", _H, "the command"),
        ("interval", _H, "time between two checks"),
        ("timeout", _H, "time after which one has failed"),
        ("retries", _H, "failures in a row"),
        ("start_period", _H, "time in which failures do not count"),
        ("start_interval", _H, "time between checks in it"),
        ("disable", _H, "without the image's health check"),
    ),
    *_below(
        "services.*.ports.*",
        ("name", _H, "the port's name"),
        ("mode", _H, "ingress or host"),
        (
            "host_ip",
            _H,
            "service label swarmsh.publish.bind, if all ports of the service have the same; else refused",
        ),
        ("target", _H, "port in the container"),
        ("published", _H, "port of the nodes"),
        ("protocol", _H, "tcp, udp or sctp"),
        ("app_protocol", _W, "nodes pass connections on as they are, whatever is spoken in them"),
    ),
    *_below(
        "services.*.networks.*",
        ("aliases", _H, "more names"),
        ("driver_opts", _H, "the driver's options"),
        ("ipv4_address", _W, _ADDRESSES),
        ("ipv6_address", _W, _ADDRESSES),
        ("link_local_ips", _W, _ADDRESSES),
        ("mac_address", _W, _ADDRESSES),
        ("interface_name", _W, "interfaces are named by the Engine, in the order of networks"),
        ("priority", _W, "the order in which a task is attached is not to be chosen"),
        ("gw_priority", _W, "tasks leave the cluster through their node, whatever networks they have"),
    ),
    *_below(
        "services.*.volumes.*",
        ("type", _H, "volume, bind, tmpfs or image; cluster and npipe are refused"),
        ("source", _H, "a volume's key, a path of the nodes (a relative one is refused), or an image"),
        ("target", _H, "path in the container"),
        ("read_only", _H, "read-only"),
        ("consistency", _H, "consistency; without effect on Linux"),
        ("bind", _H, "options of bind mounts"),
        ("bind.propagation", _H, "propagation"),
        ("bind.create_host_path", _H, "the directory is made on the node"),
        ("bind.recursive", _H, "what becomes of mounts below"),
        (
            "bind.selinux",
            _W,
            "mounts of services are not relabelled for SELinux: label the directory on the nodes",
        ),
        ("volume", _H, "options of volumes"),
        ("volume.labels", _H, "labels of the volume, if it is made"),
        ("volume.nocopy", _H, "what the image has there is not copied"),
        ("volume.subpath", _H, "a directory of the volume"),
        ("tmpfs", _H, "options of tmpfs"),
        ("tmpfs.size", _H, "size"),
        ("tmpfs.mode", _H, "permissions"),
        ("image", _H, "options of images"),
        ("image.subpath", _H, "a directory of the image"),
        ("cluster", _R, "cluster volumes are not supported", "Use a volume with a volume driver"),
    ),
    *_below("services.*.secrets.*", *_FILE_REFERENCE),
    *_below("services.*.configs.*", *_FILE_REFERENCE),
    *_below(
        "services.*.depends_on.*",
        ("condition", _H, "started, healthy or completed"),
        ("required", _H, "false: nothing is waited for where the service is not there"),
        ("restart", _H, "replaced after an update of the other one"),
    ),
    *_below(
        "services.*.devices.*",
        ("source", _H, "the device on the node, or a CDI name"),
        ("target", _H, "its path in the container"),
        ("permissions", _H, "r, w and m"),
    ),
    *_below("services.*.gpus.*", *_DEVICE_REQUEST),
    *_below(
        "services.*.blkio_config",
        ("weight", _H, _RUN + "blkio-weight"),
        ("weight_device", _H, _RUN + "blkio-weight-device"),
        ("device_read_bps", _H, _RUN + "device-read-bps"),
        ("device_read_iops", _H, _RUN + "device-read-iops"),
        ("device_write_bps", _H, _RUN + "device-write-bps"),
        ("device_write_iops", _H, _RUN + "device-write-iops"),
        ("weight_device.*.path", _H, "the device"),
        ("weight_device.*.weight", _H, "its weight"),
        *(
            (f"device_{way}_{unit}.*.{key}", _H, words)
            for way in ("read", "write")
            for unit in ("bps", "iops")
            for key, words in (("path", "the device"), ("rate", "most in a second"))
        ),
    ),
    *_below(
        "services.*.credential_spec",
        ("config", _H, "a config of the file"),
        ("file", _H, "a file"),
        ("registry", _H, "a value of the registry"),
    ),
    *_below("services.*.logging", ("driver", _H, "log driver"), ("options", _H, "its options")),
    *_below("services.*.ulimits.*", ("soft", _H, "soft limit"), ("hard", _H, "hard limit")),
    *_below(
        "networks.*",
        ("name", _H, "its full name, in place of the stack's and the key's"),
        ("driver", _H, "overlay; others are refused"),
        ("driver_opts", _H, "options, as encrypted"),
        ("ipam", _H, "addresses"),
        ("ipam.driver", _H, "default"),
        ("ipam.config", _H, "one subnet"),
        ("ipam.config.*.subnet", _H, "subnet"),
        ("ipam.config.*.ip_range", _H, "the part of it for tasks"),
        ("ipam.config.*.gateway", _H, "gateway"),
        ("ipam.config.*.aux_addresses", _H, "addresses kept free"),
        ("ipam.options", _H, "options"),
        ("external", _H, "it is there already; its name is the key's, or `name`"),
        ("internal", _H, "no way out of the cluster"),
        ("attachable", _H, "attachable"),
        ("enable_ipv4", _R, "overlays have IPv4", "Leave it out"),
        ("enable_ipv6", _R, "overlays have no IPv6", "Leave it out: services get IPv4 addresses"),
        ("labels", _H, "labels"),
    ),
    *_below(
        "volumes.*",
        ("name", _H, "its full name, in place of the stack's and the key's"),
        ("driver", _H, "volume driver"),
        ("driver_opts", _H, "its options"),
        ("external", _H, "it is there already; its name is the key's, or `name`"),
        ("labels", _H, "labels"),
        ("x-cluster-spec", _R, "cluster volumes are not supported", "Use a volume with a volume driver"),
    ),
    *_below(
        "secrets.*",
        *_FILE_OBJECT,
        ("driver", _H, "secret driver; none is built in"),
        ("driver_opts", _H, "its options"),
    ),
    *_below("configs.*", *_FILE_OBJECT, ("content", _H, "contents, with variables filled in")),
)
