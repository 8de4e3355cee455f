"""The files that a task has of secrets and configs: where they are in its container, and what its node lacks.

Defaults are Docker's: secrets are below /run/secrets, configs below /, owned by root, mode 0444.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Set

from swarmsh.errors import InvalidSpec
from swarmsh.model.actions import TaskFile, TaskReport
from swarmsh.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference, TaskSpec

SECRETS = "/run/secrets"
_HIGHEST_ID = 2**32 - 2  # -1 means «leave it» to chown(2)


def task_files(spec: TaskSpec) -> tuple[TaskFile, ...]:
    """All files of a task's secrets and configs, secrets first. Raises InvalidSpec, as `check_files`."""
    container = spec.container_spec
    return () if container is None else tuple(file for _, file in _named_files(container))


def check_files(spec: ContainerSpec) -> None:
    """That each file can be in its place, beside the others and what is mounted. Raises InvalidSpec."""
    taken: dict[str, str] = {}
    for name, file in _named_files(spec):
        for other, whose in taken.items():
            if file.target == other:
                raise InvalidSpec(
                    f"{whose} and {name} have a conflicting target: {file.target}", hint="Give one another target"
                )
            if _is_below(file.target, other) or _is_below(other, file.target):
                raise InvalidSpec(
                    f"{whose} ({other}) and {name} ({file.target}) cannot both be there: one would be a folder",
                    hint="Give one another target",
                )
        taken[file.target] = name
    for mount in spec.mounts:
        for target, name in taken.items():
            at = posixpath.normpath(mount.target) if mount.target else ""
            if at == target:
                raise InvalidSpec(
                    f"{name} and a mount have a conflicting target: {target}", hint="Give one another target"
                )
            if at.startswith(target + "/"):
                raise InvalidSpec(
                    f"the mount at {mount.target} cannot be below {target}, which is the file of {name}",
                    hint="Give one another target",
                )


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


def _named_files(spec: ContainerSpec) -> Iterator[tuple[str, TaskFile]]:
    """(`secret pass`, its file) of each reference that is a file."""
    for secret in spec.secrets:
        if secret.file is not None:
            name = f"secret {secret.secret_name or secret.secret_id}"
            yield name, _file(name, secret.secret_id, secret.file, SECRETS)
    for config in spec.configs:
        if config.file is not None:
            name = f"config {config.config_name or config.config_id}"
            yield name, _file(name, config.config_id, config.file, "/")


def _file(name: str, object_id: str, file: FileTarget, base: str) -> TaskFile:
    target = posixpath.normpath(posixpath.join(base, file.name))
    if target.startswith("//"):  # which POSIX lets mean something else
        target = target[1:]
    if not file.name or target in ("/", SECRETS) or "\0" in target or file.name.endswith("/"):
        raise InvalidSpec(f"{name}: invalid target {file.name!r}", hint="Name the file that it is to be")
    return TaskFile(
        id=object_id,
        target=target,
        uid=_owner(name, "uid", file.uid),
        gid=_owner(name, "gid", file.gid),
        mode=file.mode & 0o777,  # Go's own bits for setuid and the like are above; Docker sets none of them
    )


def _owner(name: str, which: str, value: str) -> int:
    """The number; empty is root, as in Docker."""
    if not value:
        return 0
    if not (value.isascii() and value.isdigit() and int(value) <= _HIGHEST_ID):
        raise InvalidSpec(
            f"{name}: {which} must be a number, not {value!r}", hint=f"Give the number: `id -{which[0]} NAME`"
        )
    return int(value)


def target_of(reference: SecretReference | ConfigReference) -> str:
    """The target as it was given: what templates call it by. Empty if it is no file."""
    return reference.file.name if reference.file is not None else ""


def lacking(files: tuple[TaskFile, ...], found: TaskReport | None, given: Set[str]) -> tuple[str, ...]:
    """Ids of what a node must be given before it brings a task to its goal, each once, in order of the files.

    A node that was told of the task says itself what is missing; `given` is what it acknowledged since.
    """
    ids = tuple(dict.fromkeys(file.id for file in files))
    if found is not None and found.wanted in ("ready", "running"):
        return tuple(i for i in found.missing if i not in given)
    return tuple(i for i in ids if i not in given)
