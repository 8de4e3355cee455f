"""Secrets and configs: what is accepted, who refers to which, and what a change of one means for those who do.

Limits and messages are swarmkit's (`manager/controlapi/secret.go`, `config.go`, `service.go`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeVar

from msgspec.structs import replace

from swarmsh.errors import InvalidSpec, Unimplemented
from swarmsh.model.objects import Config, Secret
from swarmsh.model.snapshot import ClusterSnapshot
from swarmsh.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    Driver,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)

SECRET_BELOW, CONFIG_BELOW = 500 * 1024, 1000 * 1024  # bytes
VERSIONS_KEPT = 10  # of each name, beside those in use

Kind = Literal["secret", "config"]
Kept = Secret | Config
R = TypeVar("R", SecretReference, ConfigReference)

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
_LONGEST = 64
_INVALID = "rpc error: code = InvalidArgument desc = "


# --- accepted -------------------------------------------------------------------------------------------------
def accept_spec(spec: SecretSpec | ConfigSpec) -> None:
    """Raises InvalidSpec, or Unimplemented for a secret that a driver is to fetch."""
    if not spec.name:
        raise InvalidSpec(f"{_INVALID}name must be provided")
    if len(spec.name) > _LONGEST or not _NAME.fullmatch(spec.name):
        raise InvalidSpec(
            f"{_INVALID}invalid name, only {_LONGEST} [a-zA-Z0-9-_.] characters allowed, and the start and end "
            "character must be [a-zA-Z0-9]"
        )
    if isinstance(spec, SecretSpec) and spec.driver is not None:
        if not spec.driver.name:
            raise InvalidSpec(f"{_INVALID}secret driver must have a name")
        raise Unimplemented(
            f"secret driver {spec.driver.name} is not supported",
            hint="Give the value itself: `swarmsh secret create NAME --from-command 'COMMAND'` takes what a "
            "command prints",
        )
    _check_templating(spec.templating)


def _check_templating(driver: Driver | None) -> None:
    if driver is not None and driver.name not in ("", "golang"):
        raise InvalidSpec(f"{_INVALID}unrecognized template type {driver.name}", hint="There is one: golang")


def accept_data(kind: Kind, data: bytes) -> None:
    """Raises InvalidSpec; the message never holds any of it."""
    below = SECRET_BELOW if kind == "secret" else CONFIG_BELOW
    if not 0 < len(data) < below:
        raise InvalidSpec(f"{_INVALID}{kind} data must be larger than 0 and less than {below} bytes")


# --- references -----------------------------------------------------------------------------------------------
def check_references(spec: ContainerSpec) -> None:
    """What can be said of a container's references without the cluster. Raises InvalidSpec."""
    _check("secret", [(r.secret_id, r.secret_name, r) for r in spec.secrets])
    _check("config", [(r.config_id, r.config_name, r) for r in spec.configs])


def _check(kind: Kind, references: Iterable[tuple[str, str, SecretReference | ConfigReference]]) -> None:
    targets: dict[str, str] = {}
    for ref, name, reference in references:
        if not ref or not name:
            raise InvalidSpec(
                f"{_INVALID}malformed {kind} reference", hint=f"Give both {kind.title()}ID and {kind.title()}Name"
            )
        file = reference.file
        if file is None:
            if isinstance(reference, ConfigReference) and reference.runtime is not None:
                continue
            raise InvalidSpec(f"{_INVALID}malformed {kind} reference, no target provided")
        if not file.name:
            raise InvalidSpec(f"{_INVALID}malformed file {kind} reference, invalid target file name provided")
        if file.name in targets:
            raise InvalidSpec(
                f"{_INVALID}{kind} references '{targets[file.name]}' and '{name}' have a conflicting target: "
                f"'{file.name}'"
            )
        targets[file.name] = name


def check_there(snapshot: ClusterSnapshot, spec: ServiceSpec) -> None:
    """That all that a service refers to is there, under the name that it gives. Raises InvalidSpec."""
    container = spec.task_template.container_spec
    if container is None:
        return
    secrets = [(r.secret_id, r.secret_name) for r in container.secrets]
    configs = [(r.config_id, r.config_name) for r in container.configs]
    _check_there("secret", {i: s.spec.name for i, _ in secrets if (s := snapshot.secrets.get(i))}, secrets)
    _check_there("config", {i: c.spec.name for i, _ in configs if (c := snapshot.configs.get(i))}, configs)


def _check_there(kind: Kind, there: Mapping[str, str], wanted: Iterable[tuple[str, str]]) -> None:
    missing = [name for ref, name in wanted if there.get(ref) != name]
    if missing:
        raise InvalidSpec(f"{_INVALID}{kind}{'s' if len(missing) > 1 else ''} not found: {', '.join(missing)}")


def ids_of(spec: TaskSpec) -> Iterator[str]:
    """Of all secrets and configs that a task refers to."""
    container = spec.container_spec
    if container is None:
        return
    yield from (reference.secret_id for reference in container.secrets)
    yield from (reference.config_id for reference in container.configs)


def needs_contents(spec: TaskSpec) -> bool:
    """Whether a task can begin only when secrets or configs are on its node."""
    return next(ids_of(spec), None) is not None


def with_other_ids(spec: TaskSpec, ids: Mapping[str, str]) -> TaskSpec:
    """The spec with these ids (old -> new) in its references; the same object if it has none of them."""
    if not any(i in ids for i in ids_of(spec)):
        return spec
    container = spec.container_spec
    assert container is not None
    secrets = tuple(replace(r, secret_id=ids.get(r.secret_id, r.secret_id)) for r in container.secrets)
    configs = tuple(replace(r, config_id=ids.get(r.config_id, r.config_id)) for r in container.configs)
    return replace(spec, container_spec=replace(container, secrets=secrets, configs=configs))
