"""Compose files, as the stack commands read them: the only place that knows the loader and the converter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmsh import core_dumps
from swarmsh.compose.convert import convert
from swarmsh.compose.load import load
from swarmsh.compose.project import Project
from swarmsh.errors import InvalidSpec
from swarmsh.model.wire import to_wire

Json = dict[str, Any]

# In the order in which compose looks for them; each with the file that goes on top of it if it is there.
_DEFAULTS = (
    ("compose.yaml", "compose.override.yaml"),
    ("compose.yml", "compose.override.yml"),
    ("docker-compose.yml", "docker-compose.override.yml"),
    ("docker-compose.yaml", "docker-compose.override.yaml"),
)


@dataclass(frozen=True, slots=True)
class StackFiles:
    """Files that were read, for a stack of that name: `spec` as the manager takes it."""

    name: str
    project: Project
    spec: Json
    warnings: tuple[str, ...]


def read_project(
    files: Sequence[str], *, env_files: Sequence[str] = (), profiles: Sequence[str] = (), name: str = ""
) -> tuple[Project, str]:
    """The project of these files, by default those that compose looks for here; and the folder of the first.

    Raises ComposeError naming file, line and column; InvalidSpec if there is no file.
    """
    core_dumps.forbid()  # environment and files may hold secrets
    names = list(files) or _found_here()
    folder = os.path.dirname(names[0]) if names[0] != "-" else ""
    chosen = list(env_files) or None
    project = load(names, environment=os.environ, profiles=profiles, env_files=chosen, name=name)
    return project, folder or "."


def read_stack(
    name: str | None, files: Sequence[str], *, env_files: Sequence[str] = (), profiles: Sequence[str] = ()
) -> StackFiles:
    """The stack that the files describe, under `name` or the one that they give. Raises as `read_project`."""
    project, folder = read_project(files, env_files=env_files, profiles=profiles, name=name or "")
    stack = name or project.name or ""
    if not stack:
        raise InvalidSpec(
            "the stack has no name", hint="Name it after the command, or in the file with a top-level `name:`"
        )
    spec: Json = to_wire(convert(project, stack, working_dir=folder))
    return StackFiles(stack, project, spec, tuple(project.noted()))


def canonical(project: Project) -> Json:
    """The project as one compose file in the long syntax, for people and programs; read again it means the same.

    So a `$` of a value is `$$`, as variables were filled in, and services that are there belong to no profile.
    """
    sections = ("services", "networks", "volumes", "secrets", "configs")
    found = {name: _escaped(getattr(project, name)) for name in sections if getattr(project, name)}
    for service in found.get("services", {}).values():
        service.pop("profiles", None)
    return {**({"name": project.name} if project.name else {}), **found, **project.extensions}


def _escaped(value: Any) -> Any:
    match value:
        case dict():
            return {key: _escaped(inner) for key, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
        case str():
            return value.replace("$", "$$")
        case _:
            return value


def _found_here() -> list[str]:
    for base, override in _DEFAULTS:
        if Path(base).is_file():
            return [base, *([override] if Path(override).is_file() else [])]
    names = ", ".join(base for base, _ in _DEFAULTS)
    raise InvalidSpec(
        f"there is no compose file here ({names})", hint="Name one with -c FILE; - is standard input"
    )
