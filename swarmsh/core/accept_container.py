"""The container half of a task template: its part of accepting a spec.

Beside swarmkit's checks (`manager/controlapi/service.go`, validateContainerSpec) there are those that dockerd
makes only when a task starts (`executor/container/validate.go`, `volume/mounts/linux_parser.go`), with the same
words: better a refused service than one whose every task is rejected.
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from swarmsh.core.container import decode_profile
from swarmsh.core.labels import PREFIX
from swarmsh.core.reference import parse_reference
from swarmsh.core.run_options import RUN_PREFIX
from swarmsh.core.secrets import check_references
from swarmsh.core.task_files import check_files
from swarmsh.core.template import expand_container, sample_context
from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.specs import (
    ContainerSpec,
    CredentialSpec,
    HealthConfig,
    Mount,
    Privileges,
    TmpfsOptions,
    Ulimit,
)

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_CONSISTENCIES = ("", "default", "consistent", "cached", "delegated")
_MILLISECOND = 1_000_000


def accept_container(spec: ContainerSpec, service_name: str, labels: Mapping[str, str]) -> ContainerSpec:
    """The container spec to store. Raises InvalidSpec or Unimplemented."""
    accepted = replace(
        spec,
        mounts=tuple(_accept_mount_words(mount) for mount in spec.mounts),
        isolation=_accept_isolation(spec.isolation),
    )
    _check_privileges(spec.privileges)
    _check_not_built(spec)
    check_references(spec)
    # Placeholders are tried with made-up values; what they make of mounts is checked as it would be on a node.
    tried = expand_container(accepted, sample_context(service_name, labels))
    _check_image(tried.image)
    _check_mounts(tried.mounts)
    check_files(tried)
    _check_health(tried.healthcheck)
    _check_process(tried)
    return accepted


def _check_not_built(spec: ContainerSpec) -> None:
    credentials = spec.privileges.credential_spec if spec.privileges else None
    if credentials is not None and credentials.config:
        raise Unimplemented(
            f"the credential spec in config {credentials.config} is for Windows, and nodes run Linux",
            hint="Leave the credential spec out; give the config itself with --config",
        )


def _check_image(image: str) -> None:
    if not image:
        raise InvalidSpec("ContainerSpec: image reference must be provided")
    try:
        parse_reference(image)
    except InvalidSpec as e:
        raise InvalidSpec(f'ContainerSpec: "{image}" is not a valid repository/tag', hint=e.message) from e


def _check_process(spec: ContainerSpec) -> None:
    for entry in spec.env:
        if not entry.partition("=")[0]:
            raise InvalidSpec(f"invalid environment variable: {entry}")
    for entry in spec.hosts:
        _check_host(entry)
    for address in spec.dns_config.nameservers if spec.dns_config else ():
        if not _is_address(address):
            raise InvalidSpec(f"ContainerSpec: {address} is not an ip address", hint="DNS servers need addresses")
    for key in spec.sysctls:
        if not key.strip():
            raise InvalidSpec("ContainerSpec: a sysctl needs a name")
    for key in spec.labels:
        if key.startswith(PREFIX) and not key.startswith(RUN_PREFIX):
            raise InvalidSpec(
                f"container label {key} is not allowed", hint=f"Labels that start with {PREFIX} go on the service"
            )
    if spec.stop_grace_period is not None and spec.stop_grace_period < 0:
        raise InvalidSpec("ContainerSpec: stop-grace-period cannot be negative")
    if not -1000 <= spec.oom_score_adj <= 1000:
        raise InvalidSpec(f"Invalid value {spec.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    _check_ulimits(spec.ulimits)


def _check_host(entry: str) -> None:
    """hosts(5): an address and at least one name; `host-gateway` is the Engine's word for its own host."""
    parts = entry.split()
    if len(parts) < 2:
        raise InvalidSpec(f"ContainerSpec: host '{entry}' is not of the form 'IP name'")
    if parts[0] != "host-gateway" and not _is_address(parts[0]):
        raise InvalidSpec(f"invalid IP address in add-host: {parts[0]}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    for limit in ulimits:
        if not limit.name:
            raise InvalidSpec("ContainerSpec: an ulimit needs a name")
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            values = f"{limit.soft} > {limit.hard}"
            raise InvalidSpec(f"ulimit {limit.name} soft limit must be less than or equal to hard limit: {values}")


def _check_health(health: HealthConfig | None) -> None:
    if health is None:
        return
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < _MILLISECOND:
            raise InvalidSpec(f"ContainerSpec: {name} in HealthConfig cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidSpec("ContainerSpec: Retries in HealthConfig cannot be negative")
    kind, rest = health.test[:1], health.test[1:]
    if kind and (kind[0] not in ("NONE", "CMD", "CMD-SHELL") or (kind[0] != "NONE" and not rest)):
        raise InvalidSpec(
            f"ContainerSpec: Test in HealthConfig is {list(health.test)}",
            hint='It is ["NONE"], ["CMD", PROGRAM, …] or ["CMD-SHELL", COMMAND]',
        )


def _accept_isolation(isolation: str) -> str:
    if isolation.lower() not in ("", "default"):
        raise InvalidSpec(f"Invalid isolation: \"{isolation}\" - linux only supports 'default'")
    return "default"


def _check_privileges(privileges: Privileges | None) -> None:
    if privileges is None:
        return
    if privileges.credential_spec is not None:
        _check_credentials(privileges.credential_spec)
    if (seccomp := privileges.seccomp) is not None:
        if seccomp.mode not in ("", "default", "unconfined", "custom"):
            raise InvalidSpec(f"invalid Seccomp mode '{seccomp.mode}'", hint="Use default, unconfined or custom")
        if (seccomp.mode == "custom") != bool(seccomp.profile):
            raise InvalidSpec("Seccomp mode custom and a profile need each other")
        decode_profile(seccomp.profile)
    if privileges.app_armor is not None and privileges.app_armor.mode not in ("", "default", "disabled"):
        raise InvalidSpec(f"invalid AppArmor mode '{privileges.app_armor.mode}'", hint="Use default or disabled")


def _check_credentials(credentials: CredentialSpec) -> None:
    given = [f'"{name}"' for name in ("config", "file", "registry") if getattr(credentials, name)]
    if not given:
        raise InvalidSpec(
            'invalid CredentialSpec: must either provide "file", "registry", or "config" for credential spec'
        )
    if len(given) > 1:
        joined = ", ".join(given[:-1]) + ("," if len(given) > 2 else "")
        raise InvalidSpec(f"invalid CredentialSpec: cannot specify both {joined} and {given[-1]} credential specs")


# --- mounts -------------------------------------------------------------------------------------------------
def _accept_mount_words(mount: Mount) -> Mount:
    """Types and propagations in lower case; a mount without a type is a bind mount, as in Docker."""
    kind = mount.type.lower() or "bind"
    if kind not in ("bind", "volume", "tmpfs", "npipe", "cluster", "image"):
        raise InvalidSpec(f'invalid MountType: "{mount.type}"')
    if kind == "cluster":
        raise Unimplemented("cluster volumes are not supported", hint="Use a volume with a volume driver")
    if kind == "npipe":
        raise InvalidSpec("mounts of type npipe are for Windows, and nodes run Linux")
    if mount.consistency.lower() not in _CONSISTENCIES:
        raise InvalidSpec(f'invalid MountConsistency: "{mount.consistency}"')
    bind = mount.bind_options
    if bind is not None and bind.propagation:
        if bind.propagation.lower() not in _PROPAGATIONS:
            raise InvalidSpec(f'invalid MountPropagation: "{bind.propagation}"')
        bind = replace(bind, propagation=bind.propagation.lower())
    return _without_foreign_blanks(replace(mount, type=kind, bind_options=bind))


def _without_foreign_blanks(mount: Mount) -> Mount:
    """Without option blocks of other types that say nothing: some clients send them all."""
    names = (f"{kind}_options" for kind in ("bind", "volume", "image", "tmpfs") if kind != mount.type)
    foreign = ((name, getattr(mount, name)) for name in names)
    blank = {name: None for name, block in foreign if block is not None and block == type(block)()}
    return replace(mount, **blank)


def _check_mounts(mounts: Iterable[Mount]) -> None:
    targets: set[str] = set()
    for mount in mounts:
        _check_mount(mount)
        target = posixpath.normpath(mount.target)
        if target in targets:
            raise InvalidSpec(f"ContainerSpec: duplicate mount point: {mount.target}")
        targets.add(target)


def _check_mount(mount: Mount) -> None:
    if not mount.target:
        raise _mount_error(mount, "field Target must not be empty")
    if not mount.target.startswith("/"):
        raise InvalidSpec(f"invalid mount target, must be an absolute path: {mount.target}")
    if posixpath.normpath(mount.target) in ("/", "//"):
        raise _mount_error(mount, "invalid specification: destination can't be '/'")
    _check_mount_options(mount)
    match mount.type:
        case "bind" if not mount.source.startswith("/"):
            raise InvalidSpec(f"invalid bind mount source, must be an absolute path: {mount.source}")
        case "volume" if mount.source.startswith("/"):
            raise InvalidSpec(f"invalid volume mount source, must not be an absolute path: {mount.source}")
        case "volume" if mount.read_only and not mount.source:
            raise _mount_error(mount, "must not set ReadOnly mode when using anonymous volumes")
        case "tmpfs" if mount.source:
            raise InvalidSpec("invalid tmpfs source, source must be empty")
        case "image" if not mount.source:
            raise _mount_error(mount, "field Source must not be empty")


def _check_mount_options(mount: Mount) -> None:
    """Options of another type of mount are refused by Engines."""
    for kind, name, options in (
        ("bind", "BindOptions", mount.bind_options),
        ("volume", "VolumeOptions", mount.volume_options),
        ("image", "ImageOptions", mount.image_options),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
    ):
        if options is not None and mount.type != kind:
            raise _mount_error(mount, f"field {name} must not be specified")
    if mount.volume_options is not None and mount.volume_options.subpath:
        _check_subpath(mount, mount.volume_options.subpath)
    if mount.image_options is not None and mount.image_options.subpath:
        _check_subpath(mount, mount.image_options.subpath)
    if mount.tmpfs_options is not None:
        _check_tmpfs(mount, mount.tmpfs_options)


def _check_subpath(mount: Mount, subpath: str) -> None:
    if not mount.source:
        raise _mount_error(mount, "must not set Subpath when using anonymous volumes")
    if subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == "..":
        raise _mount_error(mount, "subpath must be a relative path within the volume")


def _check_tmpfs(mount: Mount, options: TmpfsOptions) -> None:
    if options.size_bytes < 0 or options.mode < 0:
        raise _mount_error(mount, "tmpfs size and mode cannot be negative")
    for option in options.options:
        if not 1 <= len(option) <= 2:
            raise _mount_error(mount, "invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise _mount_error(mount, f"invalid option: {option[0]}")


def _mount_error(mount: Mount, what: str) -> InvalidSpec:
    return InvalidSpec(f'invalid mount config for type "{mount.type}": {what}')
