"""No key of a compose file is dropped silently: it is honoured, done with on loading, warned about or refused."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest

from swarmsh.compose.convert import KEYS, Fate, convert
from swarmsh.compose.errors import ComposeError
from swarmsh.compose.load import forms, tables
from tests.unit.compose.converting import converted, loaded
from tests.unit.compose.reference import END, MARK, PAGE, render

EVERYTHING = (Path(__file__).parent / "everything.yml").read_text()

# Done with once files are loaded; tests of loading show what they do.
OF_LOADING = {key.path for key in KEYS if key.fate is Fate.LOADED}

# Honoured, and yet the specs are the same without them: what they say is what holds anyway.
AS_USUAL = {"networks.*.driver": "overlay is the only one, and the default"}

REFUSED = {
    "services.*.models": "services: {web: {image: x, models: [llm]}}",
    "services.*.post_start": "services: {web: {image: x, post_start: [{command: a}]}}",
    "services.*.pre_stop": "services: {web: {image: x, pre_stop: [{command: a}]}}",
    "services.*.provider": "services: {web: {image: x, provider: {type: a}}}",
    "services.*.use_api_socket": "services: {web: {image: x, use_api_socket: true}}",
    "services.*.volume_driver": "services: {web: {image: x, volume_driver: nfs}}",
    "services.*.volumes_from": "services: {web: {image: x, volumes_from: [a]}, a: {image: y}}",
    "services.*.volumes.*.cluster": "services: {web: {image: x, volumes: [{type: cluster, source: v, target: /v, "
    "cluster: {x-a: b}}]}}\nvolumes: {v: {}}",
    "networks.*.enable_ipv4": "services: {web: {image: x}}\nnetworks: {default: {enable_ipv4: false}}",
    "networks.*.enable_ipv6": "services: {web: {image: x}}\nnetworks: {default: {enable_ipv6: true}}",
    "volumes.*.x-cluster-spec": "services: {web: {image: x}}\nvolumes: {v: {x-cluster-spec: {a: b}}}",
}


# --- the table and the schema -------------------------------------------------------------------------------
def parts_of(reader):
    """What a reader of the schema is made of: tables, and readers."""
    for cell in reader.__closure__ or ():
        yield cell.cell_contents
    if reader.__module__ in (forms.__name__, tables.__name__):
        for name in reader.__code__.co_names:
            yield reader.__globals__.get(name)


def schema_paths(reader, path=(), inside=()):
    """The paths of all keys that a reader of the schema knows, with `*` for names and entries."""
    found = set()
    star = (*path, "*") if reader.__qualname__.split(".")[0] in ("map_of", "list_of", "spread") else path
    for part in parts_of(reader):
        if isinstance(part, dict) and part and all(inspect.isfunction(inner) for inner in part.values()):
            for key, inner in part.items():
                found |= {".".join((*path, key))} | schema_paths(inner, (*path, key), (*inside, reader))
        elif isinstance(part, tuple):
            for inner in (
                entry for pair in part if isinstance(pair, tuple) for entry in pair if inspect.isfunction(entry)
            ):
                found |= schema_paths(inner, star, (*inside, reader))
        elif inspect.isfunction(part) and part not in inside:
            found |= schema_paths(part, star, (*inside, reader))
    return found


def bare(path):
    """Without names and entries: some readers make their lists on the way."""
    return path.replace(".*", "")


def test_every_key_of_the_schema_is_in_the_table():
    known = {bare(key.path) for key in KEYS}
    # What is below a key that is done with, warned about or refused goes with it.
    closed = tuple(f"{bare(key.path)}." for key in KEYS if key.fate is not Fate.HONOURED)
    of_schema = {bare(path) for path in schema_paths(tables.canonical)}
    assert {"services.ports.host_ip", "services.volumes.bind.selinux", "networks.ipam.config.subnet"} <= of_schema
    assert {path for path in of_schema - known if not path.startswith(closed)} == set()


def test_no_key_is_in_the_table_twice():
    paths = [key.path for key in KEYS]
    assert len(paths) == len(set(paths))


def test_the_page_has_the_table():
    assert PAGE.read_text().partition(MARK)[2].partition(END)[0].strip() == render().strip()


# --- what becomes of each -----------------------------------------------------------------------------------
def places_of(value, parts):
    """Every place in a project where a path of the table is."""
    if not parts:
        return [()]
    first, rest = parts[0], parts[1:]
    if first == "*":
        entries = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else [])
    else:
        entries = [(first, value[first])] if isinstance(value, dict) and first in value else []
    return [(key, *place) for key, inner in entries for place in places_of(inner, rest)]


def sections_of(project):
    return {name: getattr(project, name) for name in tables.SECTIONS}


def without(project, place):
    changed = copy.copy(project)
    for name in tables.SECTIONS:
        setattr(changed, name, copy.deepcopy(getattr(project, name)))
    at = sections_of(changed)
    for key in place[:-1]:
        at = at[key]
    if len(place) == 1:
        setattr(changed, place[0], {})
    else:
        del at[place[-1]]
    return changed


def outcome(project, read):
    """What it comes to; what is refused is an outcome too."""
    try:
        return convert(project, "shop", working_dir="/p", warnings=[], read=read)
    except ComposeError as e:
        return str(e)


@pytest.fixture(scope="module")
def everything():
    project, read = loaded(EVERYTHING)
    return project, read, convert(project, "shop", working_dir="/p", warnings=[], read=read)


@pytest.mark.parametrize("key", [k for k in KEYS if k.fate is Fate.HONOURED], ids=lambda key: key.path)
def test_an_honoured_key_makes_a_difference(everything, key):
    project, read, whole = everything
    places = places_of(sections_of(project), key.parts)
    assert places, "give it a place in everything.yml"
    differs = [outcome(without(project, place), read) != whole for place in places]
    assert any(differs) != (key.path in AS_USUAL)


def test_models_at_the_top_are_warned_about_on_loading():
    project, _ = loaded("services: {web: {image: x}}\nmodels: {llm: {model: x}}")
    assert [(n.path, n.message) for n in project.warnings] == [
        (key.parts, key.words) for key in KEYS if key.path == "models"
    ]


@pytest.mark.parametrize(
    "key", [k for k in KEYS if k.fate is Fate.WARNED and k.path != "models"], ids=lambda key: key.path
)
def test_a_key_without_effect_is_warned_about_at_its_place(everything, key):
    project, read, whole = everything
    place, *_ = places_of(sections_of(project), key.parts)
    notices = []
    convert(project, "shop", working_dir="/p", warnings=notices, read=read)
    assert [n.message for n in notices if n.path == place] == [key.words]
    assert outcome(without(project, place), read) == whole


@pytest.mark.parametrize("key", [k for k in KEYS if k.fate is Fate.REFUSED], ids=lambda key: key.path)
def test_a_key_that_cannot_be_is_refused_with_file_line_and_way_out(key):
    text = REFUSED[key.path]
    with pytest.raises(ComposeError) as refused:
        converted(text)
    error = refused.value
    assert key.parts == tuple(
        "*" if expected == "*" else got for got, expected in zip(error.path, key.parts, strict=True)
    )
    assert error.position.file == "/p/compose.yml" and error.position.line >= 1
    assert error.hint and key.words in str(error)


def test_keys_that_loading_is_done_with_are_those():
    assert {
        "version",
        "name",
        "include",
        "services.*.env_file",
        "services.*.extends",
        "services.*.label_file",
        "services.*.profiles",
    } == OF_LOADING


def test_a_key_that_is_not_in_the_table_is_refused():
    project, read = loaded("services: {web: {image: x}}")
    project.services["web"]["unheard_of"] = 1
    with pytest.raises(ComposeError, match=r"services\.web\.unheard_of: is not known"):
        convert(project, "shop", read=read)
