"""`volumes` and `tmpfs` of a service as mounts."""

from __future__ import annotations

import posixpath

from msgspec.structs import replace

from swarmsh.compose.convert.names import Names
from swarmsh.compose.convert.spot import Spot, Warn
from swarmsh.model.specs import (
    BindOptions,
    Driver,
    ImageOptions,
    Mount,
    TmpfsOptions,
    VolumeOptions,
)

_OPTIONS = ("bind", "volume", "tmpfs", "image")
_KINDS = ("volume", "bind", "tmpfs", "image")
_RECURSIVE = {
    "enabled": BindOptions(),
    "disabled": BindOptions(non_recursive=True),
    "writable": BindOptions(read_only_non_recursive=True),
    "readonly": BindOptions(read_only_force_recursive=True),
}


def mounts_of(service: Spot, volumes: Spot, names: Names, warn: Warn) -> tuple[Mount, ...]:
    """Mounts in the file's order, `tmpfs` last. Raises ComposeError."""
    mounts = [_mount(spot, volumes, names, warn) for spot in service["volumes"].each()]
    mounts += [_tmpfs_entry(spot, warn) for spot in service["tmpfs"].each()]
    return tuple(mounts)


def _mount(spot: Spot, volumes: Spot, names: Names, warn: Warn) -> Mount:
    kind = spot["type"].text("volume")
    if kind not in _KINDS:
        raise spot["type"].wrong(*_foreign_kind(kind))
    for other in _OPTIONS:
        if other != kind and spot[other]:
            raise spot[other].wrong(f"{other} options are incompatible with type {kind}")
    base = Mount(
        type=kind,
        source=spot["source"].text(),
        target=spot["target"].text(),
        read_only=spot["read_only"].flag(),
        consistency=spot["consistency"].text(),
    )
    match kind:
        case "bind":
            return _bind(spot, base, warn)
        case "tmpfs":
            return _tmpfs(spot, base)
        case "image":
            return _image(spot, base)
        case _:
            return _volume(spot, base, volumes, names)


def _foreign_kind(kind: str) -> tuple[str, str]:
    match kind:
        case "npipe":
            return "mounts of type npipe are for Windows, and nodes run Linux", "Mount a socket with type bind"
        case "cluster":
            return "cluster volumes are not supported", "Use a volume with a volume driver"
    return f"there is no mount of type '{kind}'", f"Use {', '.join(_KINDS)}"


# --- volumes ------------------------------------------------------------------------------------------------
def _volume(spot: Spot, base: Mount, volumes: Spot, names: Names) -> Mount:
    asked = spot["volume"]
    if not base.source:
        # An anonymous volume; Docker's clients say nothing of its options.
        labels = asked["labels"].pairs()
        options = VolumeOptions(no_copy=asked["nocopy"].flag(), labels=labels)
        return base if options == VolumeOptions() else replace(base, volume_options=options)
    if base.source not in volumes:
        raise spot["source"].wrong(
            f"undefined volume '{base.source}'",
            hint=f"Declare it at the top: `volumes: {{{base.source}: }}`; a path of the nodes starts with /",
        )
    declared = volumes[base.source]
    options = VolumeOptions(no_copy=asked["nocopy"].flag(), subpath=asked["subpath"].text())
    if declared["external"].flag():
        options = replace(options, labels=asked["labels"].pairs())
    else:
        labels = {**declared["labels"].pairs(), **asked["labels"].pairs()}
        options = replace(options, labels=names.labelled(labels), driver_config=_driver(declared))
    return replace(base, source=names.of(declared, base.source), volume_options=options)


def _driver(declared: Spot) -> Driver | None:
    if not declared["driver"] and not declared["driver_opts"].given:
        return None
    return Driver(name=declared["driver"].text(), options=declared["driver_opts"].pairs())


# --- binds --------------------------------------------------------------------------------------------------
def _bind(spot: Spot, base: Mount, warn: Warn) -> Mount:
    if not base.source:
        raise spot["source"].wrong("a bind mount needs a source, a path of the nodes")
    if not base.source.startswith("/"):
        raise spot["source"].wrong(
            f"'{base.source}' is relative to this machine, and tasks run on nodes that have no such directory",
            hint="Give an absolute path that is there on the nodes, a named volume, or a config for files",
        )
    asked = spot["bind"]
    if asked["selinux"]:
        warn(
            asked["selinux"], "mounts of services are not relabelled for SELinux: label the directory on the nodes"
        )
    if not any(asked[key] for key in ("propagation", "create_host_path", "recursive")):
        # Docker's clients send the options, empty ones too, if and only if the file has the block.
        return replace(base, bind_options=BindOptions()) if asked.given else base
    recursive = asked["recursive"].text("enabled")
    if recursive not in _RECURSIVE:
        raise asked["recursive"].wrong(f"'{recursive}' is none of {', '.join(_RECURSIVE)}")
    options = replace(
        _RECURSIVE[recursive],
        propagation=asked["propagation"].text(),
        create_mountpoint=asked["create_host_path"].flag(),
    )
    return replace(base, bind_options=options)


# --- tmpfs and images ---------------------------------------------------------------------------------------
def _tmpfs(spot: Spot, base: Mount) -> Mount:
    if base.source:
        raise spot["source"].wrong("a tmpfs has no source")
    asked = spot["tmpfs"]
    if not asked.given:
        return base
    options = TmpfsOptions(size_bytes=asked["size"].size() or 0, mode=asked["mode"].mode() or 0)
    return replace(base, tmpfs_options=options)


def _tmpfs_entry(spot: Spot, warn: Warn) -> Mount:
    """`/run` or `/run:size=64m,mode=1777`: as `docker run --tmpfs` takes it."""
    target, _, words = spot.text().partition(":")
    size, mode, flags = 0, 0, []
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        inner = Spot(spot.project, spot.path, value)
        match key:
            case "size":
                size = inner.size() or 0
            case "mode":
                mode = inner.mode() or 0
            case "exec" | "noexec":
                flags.append((key,))
            case "rw" | "nosuid" | "nodev":
                pass  # as they are in any case
            case _:
                warn(spot, f"option {word} of a tmpfs is not known to services, and has no effect")
    options = TmpfsOptions(size_bytes=size, mode=mode, options=tuple(flags))
    return Mount(
        type="tmpfs",
        target=posixpath.normpath(target) if target else "",
        tmpfs_options=options if options != TmpfsOptions() else None,
    )


def _image(spot: Spot, base: Mount) -> Mount:
    if not base.source:
        raise spot["source"].wrong("an image mount needs a source, the image")
    subpath = spot["image"]["subpath"].text()
    return replace(base, image_options=ImageOptions(subpath=subpath) if subpath else None)
