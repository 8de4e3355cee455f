"""From files to one document: each read, checked and made canonical; included ones taken in; services extended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from swarmsh.compose.errors import ComposeError, Path, Position, show_path
from swarmsh.compose.load import tree
from swarmsh.compose.load.files import Files, absolute
from swarmsh.compose.load.forms import node_text
from swarmsh.compose.load.interpolate import OnUnset, interpolate
from swarmsh.compose.load.merge import merge, settled
from swarmsh.compose.load.parse import parse_documents
from swarmsh.compose.load.tables import SECTIONS, canonical
from swarmsh.compose.load.tree import Empty, Node, Reset, Sequence, plain, scalar, shorten
from swarmsh.core.words import nearest

_LONGEST_CHAIN = 50  # of `extends` and of `include`


@dataclass(frozen=True, slots=True)
class Context:
    """Of which files a document is read: what relative paths start from, the variables, and who included it."""

    directory: str
    environment: Mapping[str, str]
    chain: tuple[str, ...] = ()  # absolute paths of the files that include one another
    bases: dict[str, tree.Mapping] = field(default_factory=dict, compare=False)  # services of files, once read


@dataclass(slots=True)
class Layers:
    """Reads files into canonical documents. `on_unset` hears of variables that are not set."""

    files: Files
    on_unset: OnUnset

    def model(
        self, names: list[str], context: Context, place: Position | None = None, path: Path = ()
    ) -> tree.Mapping:
        """Files merged in their order. `place` and `path` say who named them. Raises ComposeError."""
        return self.merged(self.documents(names, place, path), context, place, path)

    def documents(
        self, names: list[str], place: Position | None = None, path: Path = ()
    ) -> list[tuple[str, tree.Mapping]]:
        """The documents of files as they were written, each with its file. Raises ComposeError."""
        documents: list[tuple[str, tree.Mapping]] = []
        for name in names:
            found = parse_documents(self.files.text(name, place, path), name)
            if not found:
                raise ComposeError("the file is empty", Position(name, 1, 1), path)
            documents += [(name, document) for document in found]
        return documents

    def merged(
        self,
        documents: list[tuple[str, tree.Mapping]],
        context: Context,
        place: Position | None = None,
        path: Path = (),
    ) -> tree.Mapping:
        """Documents made whole and merged in their order. Raises ComposeError."""
        model: Node | None = None
        for name, document in documents:
            whole = self._whole(name, document, context)
            model = whole if model is None else merge(model, whole)
        if model is None:
            raise ComposeError("no compose file was given", place, path)
        return cast(tree.Mapping, model)

    def _canonical(self, document: tree.Mapping, context: Context) -> tree.Mapping:
        filled = interpolate(document, context.environment.get, self.on_unset)
        return _with_paths(cast(tree.Mapping, canonical(filled, ())), context.directory)

    def _whole(self, name: str, document: tree.Mapping, context: Context) -> tree.Mapping:
        made = self._canonical(document, context)
        includes = made.items.get("include")
        if isinstance(includes, Sequence):
            for i, entry in enumerate(includes.items):
                made = self._include(made, cast(tree.Mapping, settled(entry)), name, context, ("include", i))
        made = replace(made, items={key: value for key, value in made.items.items() if key != "include"})
        return self._extended(name, made, context)

    # --- include ---
    def _include(
        self, model: tree.Mapping, entry: tree.Mapping, name: str, context: Context, path: Path
    ) -> tree.Mapping:
        place = entry.place
        paths = [absolute(context.directory, text) for text in _texts(entry, "path")]
        if not paths:
            raise ComposeError("names no file", place, path)
        chain = (*context.chain, os.path.abspath(name))
        for one in paths:
            if os.path.abspath(one) in chain:
                raise ComposeError(
                    f"{shorten(one, 400)} includes itself", place, path, "Take one of the includes away"
                )
        if len(chain) > _LONGEST_CHAIN:
            raise ComposeError(f"more than {_LONGEST_CHAIN} files include one another", place, path)
        directory = os.path.dirname(paths[0])
        if "project_directory" in entry.items:
            directory = absolute(context.directory, node_text(entry.items["project_directory"]))
        environment = self._included_environment(entry, directory, context, path)
        included = self.model(paths, Context(directory, environment, chain), place, path)
        return _take_in(model, included, path)

    def _included_environment(
        self, entry: tree.Mapping, directory: str, context: Context, path: Path
    ) -> Mapping[str, str]:
        files = [absolute(context.directory, text) for text in _texts(entry, "env_file")]
        default = os.path.join(directory, ".env")
        if not files and self.files.exists(default):
            files = [default]
        return self.environment(files, context.environment, entry.place, path)

    def environment(
        self, files: list[str], environment: Mapping[str, str], place: Position | None = None, path: Path = ()
    ) -> Mapping[str, str]:
        """`environment` with what files of variables add to it; it wins, and of files the later one."""
        found: dict[str, str] = {}
        for file in files:
            lookup: Callable[[str], str | None] = {**found, **environment}.get
            found |= self.files.variables(file, lookup, place, path, on_unset=lambda n: self.on_unset(n, path))
        return {**found, **environment}

    # --- extends ---
    def _extended(self, name: str, document: tree.Mapping, context: Context) -> tree.Mapping:
        services = document.items.get("services")
        if not isinstance(services, tree.Mapping):
            return document
        done: dict[str, Node] = {}
        made = {
            service: self._extend(service, services, name, context.directory, context, (), done)
            for service in services.items
        }
        return replace(document, items={**document.items, "services": replace(services, items=made)})

    def _extend(
        self,
        service: str,
        services: tree.Mapping,
        file: str,
        directory: str,
        context: Context,
        chain: tuple[tuple[str, str], ...],
        done: dict[str, Node],
    ) -> Node:
        """One service with what it extends, that first extended itself."""
        if service in done:
            return done[service]
        node = services.items[service]
        extends = node.items.get("extends") if isinstance(node, tree.Mapping) else None
        if not isinstance(node, tree.Mapping) or not isinstance(extends, tree.Mapping):
            return node
        path: Path = ("services", service, "extends")
        place = extends.place
        link = (os.path.abspath(file), service)
        if link in chain:
            raise ComposeError(f"{service} extends itself", place, path, "Take one of the extends away")
        if len(chain) >= _LONGEST_CHAIN:
            raise ComposeError(f"more than {_LONGEST_CHAIN} services extend one another", place, path)
        wanted = node_text(extends.items["service"])
        if "file" in extends.items:
            file = absolute(directory, node_text(extends.items["file"]))
            services, directory = self._base(file, context, place, path), os.path.dirname(file)
        if wanted not in services.items:
            near = nearest(shorten(wanted), services.items) if services.items else ""
            hint = f"The nearest is {near!r}" if near else ""
            raise ComposeError(f"there is no service {shorten(wanted)!r} in {file}", place, path, hint)
        others = {} if "file" in extends.items else done
        base = self._extend(wanted, services, file, directory, context, (*chain, link), others)
        own = replace(node, items={key: value for key, value in node.items.items() if key != "extends"})
        done[service] = merge(base, own, ("services", service))
        return done[service]

    def _base(self, file: str, context: Context, place: Position, path: Path) -> tree.Mapping:
        """The services of another file, as that file has them: what it includes is not theirs to extend."""
        if file not in context.bases:
            base_context = replace(context, directory=os.path.dirname(file))
            model: Node | None = None
            for document in parse_documents(self.files.text(file, place, path), file):
                made = self._canonical(document, base_context)
                model = made if model is None else merge(model, made)
            services = model.items.get("services") if isinstance(model, tree.Mapping) else None
            if not isinstance(services, tree.Mapping):
                raise ComposeError(f"{file} has no services", place, path)
            context.bases[file] = services
        return context.bases[file]


def _texts(entry: tree.Mapping, key: str) -> list[str]:
    found = entry.items.get(key)
    return [node_text(item) for item in found.items] if isinstance(found, Sequence) else []


def _take_in(model: tree.Mapping, included: tree.Mapping, path: Path) -> tree.Mapping:
    """The model with the services, networks and so on of an included one. The same name twice is refused."""
    items, keys = dict(model.items), dict(model.keys)
    for section in SECTIONS:
        theirs = included.items.get(section)
        if not isinstance(theirs, tree.Mapping):
            continue
        ours = items.get(section)
        made = tree.Mapping(place=theirs.place)
        if isinstance(ours, tree.Mapping):
            made = replace(ours, items=dict(ours.items), keys=dict(ours.keys))
        for name, value in theirs.items.items():
            if name in made.items and plain(made.items[name]) != plain(value):
                raise ComposeError(
                    f"{show_path((section, name))} is in the included file {value.place.file} too, and differs",
                    made.keys[name],
                    (section, name),
                    "Rename one, or put the changes into a file that include names as a second path",
                )
            if name not in made.items:
                made.put(name, value, theirs.keys[name])
        items[section] = made
        keys.setdefault(section, theirs.place)
    return replace(model, items=items, keys=keys)


# --- paths ---
def _with_paths(document: tree.Mapping, directory: str) -> tree.Mapping:
    """The document with absolute paths where a file is read by us: files of variables, labels, secrets, configs.

    In a file with `version: 3…`, files of variables are read as Docker's stacks read them.
    """
    raw = node_text(document.items.get("version")).startswith("3")
    items = dict(document.items)

    def content(node: Node) -> Node:
        return _changed(node, "file", lambda one: _path(one, directory))

    def service(node: Node) -> Node:
        return _service_paths(node, directory, raw=raw)

    for section, change in (("services", service), ("secrets", content), ("configs", content)):
        found = items.get(section)
        if isinstance(found, tree.Mapping):
            items[section] = replace(found, items={name: change(value) for name, value in found.items.items()})
    return replace(document, items=items)


def _changed(node: Node, key: str, change: Callable[[Node], Node]) -> Node:
    if not isinstance(node, tree.Mapping) or key not in node.items or isinstance(node.items[key], Reset | Empty):
        return node
    return replace(node, items={**node.items, key: change(node.items[key])})


def _path(node: Node, directory: str) -> Node:
    return scalar(absolute(directory, node_text(node)), node.place)


def _service_paths(node: Node, directory: str, *, raw: bool) -> Node:
    def each(change: Callable[[Node], Node]) -> Callable[[Node], Node]:
        def change_all(found: Node) -> Node:
            if not isinstance(found, Sequence):
                return found
            return replace(found, items=[change(item) for item in found.items])

        return change_all

    def env_file(entry: Node) -> Node:
        made = _changed(entry, "path", lambda one: _path(one, directory))
        if raw and isinstance(made, tree.Mapping) and "format" not in made.items:
            # Its text is empty: nobody wrote it.
            given = tree.Scalar(place=made.place, value="raw", text="")
            made = replace(made, items={**made.items, "format": given}, keys={**made.keys, "format": made.place})
        return made

    node = _changed(node, "env_file", each(env_file))
    return _changed(node, "label_file", each(lambda one: _path(one, directory)))
