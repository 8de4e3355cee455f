"""Fields of a spec that are newer than the oldest Engine we speak to, and the Engine API version that has them.

Design decision 1: such a field is no reason to refuse a service, it only rules out nodes with an older Engine.
Versions are those of `moby/moby:api/docs/CHANGELOG.md` for `POST /containers/create`, which is what a node is
asked for: what services got late but containers had all along (OomScoreAdj, seccomp) rules out nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmsh.core.run_options import newest_option, parse_run_options
from swarmsh.model.specs import BindOptions, ContainerSpec, Mount, TaskSpec

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """A field by its name in the Engine API, the version that has it, and whether a spec uses it."""

    name: str
    since: Version
    used: Callable[[ContainerSpec], bool]


def _mounts(test: Callable[[Mount], object]) -> Callable[[ContainerSpec], bool]:
    return lambda spec: any(test(mount) for mount in spec.mounts)


def _binds(test: Callable[[BindOptions], bool]) -> Callable[[ContainerSpec], bool]:
    return _mounts(lambda mount: mount.bind_options is not None and test(mount.bind_options))


FIELDS: tuple[Field, ...] = (
    Field("CapabilityAdd", (1, 41), lambda spec: bool(spec.capability_add)),
    Field("CapabilityDrop", (1, 41), lambda spec: bool(spec.capability_drop)),
    Field("Ulimits", (1, 41), lambda spec: bool(spec.ulimits)),
    Field("BindOptions.CreateMountpoint", (1, 42), _binds(lambda bind: bind.create_mountpoint)),
    Field("BindOptions.ReadOnlyNonRecursive", (1, 44), _binds(lambda bind: bind.read_only_non_recursive)),
    Field("BindOptions.ReadOnlyForceRecursive", (1, 44), _binds(lambda bind: bind.read_only_force_recursive)),
    Field(
        "Healthcheck.StartInterval",
        (1, 44),
        lambda spec: bool(spec.healthcheck and spec.healthcheck.start_interval),
    ),
    Field("VolumeOptions.Subpath", (1, 45), _mounts(lambda m: m.volume_options and m.volume_options.subpath)),
    Field("TmpfsOptions.Options", (1, 46), _mounts(lambda m: m.tmpfs_options and m.tmpfs_options.options)),
    Field("Mount.Type image", (1, 48), _mounts(lambda mount: mount.type == "image")),
)


def newest_field(spec: TaskSpec) -> Field | None:
    """The field in use that asks for the newest Engine; None if every Engine will do."""
    if spec.container_spec is None:
        return None
    used = [field for field in FIELDS if field.used(spec.container_spec)]
    if option := newest_option(parse_run_options(spec.container_spec.labels)):
        used.append(Field(*option, used=lambda spec: True))
    return max(used, key=lambda field: field.since, default=None)


def parse_version(text: str) -> Version | None:
    """(1, 41) of "1.41"; None if it is no version, as for a node not seen yet."""
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None
