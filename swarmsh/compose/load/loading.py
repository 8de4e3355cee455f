"""The whole of loading: variables, files, profiles, what services take from files, and the project made of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import cast

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.load import tree
from swarmsh.compose.load.check import (
    check_dependencies,
    check_name,
    check_objects,
    check_references,
    entries,
    is_active,
    items,
)
from swarmsh.compose.load.files import Files, Read, read_file
from swarmsh.compose.load.forms import node_text
from swarmsh.compose.load.layers import Context, Layers
from swarmsh.compose.load.merge import settled
from swarmsh.compose.load.template import TemplateError, substitute
from swarmsh.compose.load.tree import Node, places, plain, scalar
from swarmsh.compose.project import Marks, Notice, Project

_SECTIONS = ("networks", "volumes", "secrets", "configs")


def load(
    files: Sequence[str | PurePath],
    *,
    environment: Mapping[str, str],
    working_dir: str | PurePath | None = None,
    profiles: Iterable[str] = (),
    env_files: Sequence[str | PurePath] | None = None,
    read: Read = read_file,
    name: str = "",
) -> Project:
    """Load compose files into a project, later files on top of earlier ones. Raises ComposeError, nothing else.

    `working_dir` is what relative paths in the files start from: by default the folder of the first file.
    Variables come from `environment`, then from `env_files` (by default `.env` in `working_dir`, if it is
    there). `profiles` are the active ones, by default those of the variable COMPOSE_PROFILES. `read` gives a
    file's content by its path and raises OSError; `-` among `files` is the standard input. The variable
    COMPOSE_PROJECT_NAME is `name`, else the name that the files give at their top.
    """
    names = [str(file) for file in files]
    if not names:
        raise ComposeError("no compose file was given")
    folder = os.path.dirname(names[0]) if working_dir is None and names[0] != "-" else str(working_dir or "")
    directory = os.path.abspath(folder)
    return _Loading(read, directory).project(names, environment, list(profiles), env_files, name)


class _Loading:
    def __init__(self, read: Read, directory: str) -> None:
        self._directory = directory
        self._files = Files(read)
        self._layers = Layers(self._files, self._hear_of_unset)
        self._unset: dict[str, Path] = {}
        self._warnings: list[Notice] = []

    def _hear_of_unset(self, name: str, path: Path) -> None:
        self._unset.setdefault(name, path)

    def project(
        self,
        names: list[str],
        environment: Mapping[str, str],
        profiles: list[str],
        env_files: Sequence[str | PurePath] | None,
        name: str,
    ) -> Project:
        variables = dict(self._environment(environment, env_files))
        documents = self._layers.documents(names)
        if known := name or _name_at_top(documents, variables):
            variables["COMPOSE_PROJECT_NAME"] = known
        whole = self._layers.merged(documents, Context(self._directory, variables))
        model = cast(tree.Mapping, settled(whole))
        if "models" in model.items:
            message = "models are run by Docker Desktop, not by Engines: run the model as a service"
            self._warnings.append(Notice(("models",), message))
        profiles = profiles or [word for word in variables.get("COMPOSE_PROFILES", "").split(",") if word]
        model = self._checked(model, profiles, variables.get)
        _refuse_what_is_no_text(model, ())
        self._warnings += [
            Notice(path, f"the variable {name} is not set; it stands for an empty text")
            for name, path in self._unset.items()
        ]
        content = plain(model)
        return Project(
            name=content.get("name"),
            services=content.get("services", {}),
            **{section: content.get(section, {}) for section in _SECTIONS},
            extensions={key: value for key, value in content.items() if key.startswith("x-")},
            environment=variables,
            marks=Marks(places(model)),
            warnings=self._warnings,
        )

    def _environment(
        self, environment: Mapping[str, str], env_files: Sequence[str | PurePath] | None
    ) -> Mapping[str, str]:
        default = os.path.join(self._directory, ".env")
        if env_files is None:
            files = [default] if self._files.exists(default) else []
        else:
            files = [str(file) for file in env_files]
        return self._layers.environment(files, environment)

    # --- the whole ---
    def _checked(
        self, model: tree.Mapping, profiles: list[str], lookup: Callable[[str], str | None]
    ) -> tree.Mapping:
        if "name" in model.items:
            check_name(model.items["name"])
        services = entries(model, "services")
        sections = {section: entries(model, section) for section in _SECTIONS}
        if not services and not any(sections.values()):
            hint = "A compose file has services at its top"
            place = model.keys.get("services", model.place)
            raise ComposeError("there is no service", place, ("services",), hint)
        for section, found in sections.items():
            check_objects(section, found)
        inactive = {name: node for name, node in services.items() if not is_active(node, profiles)}
        active = {
            name: self._without_missing(node, services, inactive)
            for name, node in services.items()
            if name not in inactive
        }
        check_dependencies(active, inactive, {name: entries(node, "depends_on") for name, node in active.items()})
        check_references(active, sections)
        made: dict[str, Node] = {name: self._filled(name, node, lookup) for name, node in active.items()}
        top = model.items.get("services")
        if not isinstance(top, tree.Mapping):
            return model
        return replace(model, items={**model.items, "services": replace(top, items=made)})

    @staticmethod
    def _without_missing(
        node: tree.Mapping, services: Mapping[str, Node], inactive: Mapping[str, Node]
    ) -> tree.Mapping:
        """A service without the dependencies that it says it does not require and that are not there."""
        depends_on = node.items.get("depends_on")
        if not isinstance(depends_on, tree.Mapping):
            return node
        kept = {
            other: how
            for other, how in depends_on.items.items()
            if (other in services and other not in inactive) or plain(how).get("required", True)
        }
        return replace(node, items={**node.items, "depends_on": replace(depends_on, items=kept)})

    # --- what services take from files ---
    def _filled(self, name: str, node: tree.Mapping, lookup: Callable[[str], str | None]) -> tree.Mapping:
        path: Path = ("services", name)
        environment = tree.Mapping(place=node.place)
        for i, entry in enumerate(items(node.items.get("env_file"))):
            self._add_env_file(environment, cast(tree.Mapping, entry), lookup, (*path, "env_file", i))
        labels = tree.Mapping(place=node.place)
        for i, file in enumerate(items(node.items.get("label_file"))):
            here = (*path, "label_file", i)
            hear = partial(self._hear_of_unset, path=here)
            found = self._files.variables(node_text(file), lookup, file.place, here, on_unset=hear)
            for key, value in found.items():
                labels.put(key, scalar(value, file.place))
        made = _laid_under(node, "environment", environment, lookup)
        return _laid_under(made, "labels", labels, lambda key: None)

    def _add_env_file(
        self, environment: tree.Mapping, entry: tree.Mapping, lookup: Callable[[str], str | None], path: Path
    ) -> None:
        file, place = node_text(entry.items["path"]), entry.place
        if not plain(entry).get("required", True) and not self._files.exists(file):
            return
        how = entry.items.get("format")
        raw = node_text(how) == "raw"
        above = {key: node_text(node) for key, node in environment.items.items()}

        def find(name: str) -> str | None:
            known = lookup(name)
            return above.get(name) if known is None else known

        hear = partial(self._hear_of_unset, path=path)
        found = self._files.variables(file, find, place, path, raw=raw, on_unset=hear)
        if raw and isinstance(how, tree.Scalar) and not how.text:
            self._warn_of_raw(file, found, lookup, path)
        for key, value in found.items():
            environment.put(key, scalar(value, place))

    def _warn_of_raw(
        self, file: str, found: Mapping[str, str], lookup: Callable[[str], str | None], path: Path
    ) -> None:
        """Docker's stacks and compose read a file of variables differently; say so where it makes a difference."""
        try:
            other = self._files.variables(file, lookup)
        except ComposeError:
            other = {}
        differing = sorted(key for key in {*found, *other} if found.get(key) != other.get(key))
        if differing:
            self._warnings.append(
                Notice(
                    path,
                    f"{file} is read as docker stack reads it, quotes and all, because of version: 3; "
                    f"compose would give another value for {', '.join(differing[:5])}",
                )
            )


def _name_at_top(documents: Sequence[tuple[str, tree.Mapping]], variables: Mapping[str, str]) -> str:
    """The last top-level `name` of the files; empty if there is none, or none that could be read."""
    for _, document in reversed(documents):
        node = document.items.get("name")
        if isinstance(node, tree.Scalar) and isinstance(node.value, str):
            with suppress(TemplateError):  # said when the files are read whole
                return substitute(node.value, variables.get)
    return ""


def _refuse_what_is_no_text(node: Node, path: Path) -> None:
    """Variables may hold any bytes, and what comes of others than UTF-8 cannot be sent."""
    if isinstance(node, tree.Mapping):
        for key, value in node.items.items():
            _refuse_what_is_no_text(value, (*path, key))
    elif isinstance(node, tree.Sequence):
        for i, item in enumerate(node.items):
            _refuse_what_is_no_text(item, (*path, i))
    elif isinstance(node, tree.Scalar) and isinstance(node.value, str):
        try:
            node.value.encode()
        except UnicodeEncodeError:
            hint = "Put what is no text into a secret or config, with `environment:` or `file:`"
            raise ComposeError("the value of its variable is not UTF-8", node.place, path, hint) from None


def _laid_under(
    node: tree.Mapping, key: str, below: tree.Mapping, lookup: Callable[[str], str | None]
) -> tree.Mapping:
    """A service whose map `key` has `below` under it; entries without a value take that of `lookup`, if any."""
    own = node.items.get(key)
    if not isinstance(own, tree.Mapping) and not below.items:
        return node
    made = tree.Mapping(place=own.place if own else node.place, items=dict(below.items), keys=dict(below.keys))
    if isinstance(own, tree.Mapping):
        for name, value in own.items.items():
            if isinstance(value, tree.Scalar) and value.value is None and (known := lookup(name)) is not None:
                value = scalar(known, value.place)
            made.put(name, value, own.keys[name])
    keys = {**node.keys, key: node.keys.get(key, node.place)}
    return replace(node, items={**node.items, key: made}, keys=keys)
