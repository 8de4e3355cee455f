"""Corrupted compose files: a ComposeError that says where, never another exception, and never silence for a key.

The number of examples is SWARMSH_COMPOSE_EXAMPLES, a few hundred by default.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmsh.compose.errors import ComposeError, Path, show_path
from swarmsh.compose.project import Project
from tests.unit.compose.example import BESIDE, EVERY_KEY, load_text, load_texts

EXAMPLES = int(os.environ.get("SWARMSH_COMPOSE_EXAMPLES", "400"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = yaml.safe_dump(EVERY_KEY, sort_keys=False)
PROFILES = {"profiles": ("prod",)}


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    """All paths below a value, in order."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


def changed(path: Path, change: Any) -> dict[str, Any]:
    """EVERY_KEY with `change(container, key)` applied at a path."""
    document = copy.deepcopy(EVERY_KEY)
    container: Any = document
    for part in path[:-1]:
        container = container[part]
    change(container, path[-1])
    return document


def refusal(load: Callable[[], object]) -> ComposeError | None:
    """The error that loading ends in; None if the files were taken."""
    try:
        load()
    except ComposeError as error:
        return error
    return None


def load_document(document: Any) -> Project:
    # JSON is YAML, and quicker to write.
    text = json.dumps(document, ensure_ascii=False, indent=1)
    return load_texts({"compose.yml": text, **BESIDE}, **PROFILES)


def only(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A document with no more than what a path leads through: enough where the value itself is refused."""
    section = document[path[0]]
    if len(path) < 2 or not isinstance(section, dict):
        return {path[0]: section}
    entry = section[path[1]]
    return {path[0]: {path[1]: {path[2]: entry[path[2]]} if len(path) > 2 else entry}}


PATHS = list(paths_of(EVERY_KEY))
FREE = ("x-common", "x-note", "develop")  # whatever is in there is the user's own


def is_free(path: Path) -> bool:
    return any(part in FREE for part in path)


def names_the_place(error: ComposeError, path: Path) -> bool:
    """Whether a message names the path, something in it or what it is in; or, of a name that is gone, the name."""
    shorter = min(len(error.path), len(path))
    related = shorter > 0 and error.path[:shorter] == path[:shorter]
    named = (f"{path[-1]!r}", f"under {path[-1]}")
    return (related and show_path(error.path) in str(error)) or any(words in str(error) for words in named)


def test_the_example_is_right() -> None:
    load_document(EVERY_KEY)


@pytest.mark.parametrize("path", [p for p in PATHS if not is_free(p)], ids=show_path)
def test_no_key_takes_what_it_has_no_use_for(path: Path) -> None:
    def corrupt(container: Any, key: Any) -> None:
        container[key] = [{"zz": [{"zz": 1}]}]

    error = refusal(lambda: load_document(only(changed(path, corrupt), path)))
    assert error is not None and error.path[: len(path)] == path
    assert re.search(r"/shop/compose\.yml:\d+:\d+: " + re.escape(show_path(path)), str(error))


@pytest.mark.parametrize("path", [p for p in PATHS if isinstance(p[-1], str) and not is_free(p)], ids=show_path)
def test_a_misspelt_key_is_refused_with_the_nearest_one(path: Path) -> None:
    """Where keys are the user's own, another is as good, unless something names it."""

    def corrupt(container: Any, key: Any) -> None:
        container[key + "q"] = container.pop(key)

    error = refusal(lambda: load_document(changed(path, corrupt)))
    misspelt = (*path[:-1], f"{path[-1]}q")
    if error is None:
        assert path[-2] in NAMES_OF_ONES_OWN
    elif error.path == misspelt and "unknown key" in error.reason:
        assert "the nearest known one is" in error.reason
    else:
        assert names_the_place(error, path)


NAMES_OF_ONES_OWN = {
    *("annotations", "args", "labels", "options", "driver_opts", "additional_contexts", "aux_addresses"),
    *("environment", "sysctls", "ulimits", "storage_opt", "extra_hosts", *EVERY_KEY),
}

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**70, "", " ", "zz", "${", "${A:?gone}", "$", "\0", "a:b:c:d:e", "-5s",
    "9" * 500, "../..", "0x", "1e999", [], {}, [None], [[]], [""], {"": ""}, {"zz": None}, {"a b": "c"},
    ["=x", 5, "y"], "é\U0001f600",
    {"external": "zz"}, [{"source": "gone"}], {"type": "volume"}, [{"type": "volume", "source": "x"}], {"soft": 1},
    "99999:1", "1-0:5", "[::1", "a" * 100_000, {"zz": {"zz": {"zz": []}}},
]  # fmt: skip


@many
@given(path=st.sampled_from(PATHS), value=st.sampled_from(HOSTILE), how=st.sampled_from(["put", "drop", "add"]))
def test_a_corrupted_value_is_taken_or_refused_by_its_path(path: Path, value: Any, how: str) -> None:
    added = "zz" if isinstance(path[-1], str) else path[-1]

    def corrupt(container: Any, key: Any) -> None:
        if how == "put":
            container[key] = value
        elif how == "drop":
            del container[key]
        elif isinstance(container, dict):
            container["zz"] = value
        else:
            container.insert(key, value)

    error = refusal(lambda: load_document(changed(path, corrupt)))
    if error is not None:
        # Of networks and dependencies in a list the long form has a map: their name stands for the index.
        places = (path, (*path[:-1], added), (*path[:-1], value if isinstance(value, str) else added))
        assert any(names_the_place(error, place) for place in places)
        assert error.position is not None and error.position.line > 0 and error.position.column > 0
        assert len(str(error)) < 1000


PIECES = [
    "\t", "\n", "  ", ":", "- ", "{", "}", "[", "]", "&a ", "*a", "*", "!reset ", "!zz ", "!!int ", "!!binary ",
    "<<: ",
    '"', "'", "|\n", ">", "#", "%", "@", "`", "?", "? ", "---\n", "...\n", "\x00", "\x07", "\ufeff", "\ud7ff", "é",
    '"\\ud800"', '"\\UFFFFFFFF"', "%YAML 9.9\n", "<<: *a\n", "0" * 5000, "[" * 200, "{a: " * 200, "$", "${", "~",
]  # fmt: skip


@many
@given(
    at=st.integers(0, len(TEXT)),
    cut=st.integers(0, 40),
    piece=st.sampled_from(PIECES) | st.text(max_size=8).filter(lambda text: text.isprintable()),
)
def test_a_corrupted_text_is_taken_or_refused_with_line_and_column(at: int, cut: int, piece: str) -> None:
    text = TEXT[:at] + piece + TEXT[at + cut :]
    error = refusal(lambda: load_texts({"compose.yml": text, **BESIDE}, **PROFILES))
    if error is not None:
        assert error.position is not None
        assert f"{error.position.file}:{error.position.line}:{error.position.column}" in str(error)
        assert error.position.line <= text.count("\n") + 2


@many
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_compose_file_are_refused_with_line_and_column(content: bytes) -> None:
    error = refusal(lambda: load_texts({"compose.yml": content}))
    if error is not None:
        assert re.match(r"/shop/compose\.yml:\d+:\d+: ", str(error))


@many
@given(text=st.text(st.sampled_from("AB=:'\"\\$ {}#\n\t-?+x\r\0é"), max_size=40), raw=st.booleans())
def test_a_corrupted_file_of_variables_is_taken_or_refused_with_its_line(text: str, *, raw: bool) -> None:
    version = 'version: "3"\n' if raw else ""
    compose = f"{version}services: {{web: {{image: a, env_file: web.env}}}}"
    files = {"compose.yml": compose, "web.env": text, ".env": "" if raw else text}
    error = refusal(lambda: load_texts(files))
    if error is not None:
        assert re.match(r"/shop/(web)?\.env:\d+:\d+: ", str(error))


def test_aliases_cannot_make_a_file_endless() -> None:
    lines = ["x-a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [
        f"x-{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(ComposeError, match=r"compose\.yml:6:\d+: x-f.*more than 100000 values"):
        load_text("\n".join([*lines, "services: {web: {image: a}}"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services:\n  web:\n    image: a\n    image: b\n", r"4:5: services\.web\.image: .*twice.*line 3"),
        ("services:\n  web:\n  - &a [*a]\n", r"3:9: .*contains itself"),
        ("services:\n  web: *gone\n", r"2:8: services\.web: there is no anchor &gone"),
        ("services:\n  web: !rest {}\n", r"2:8: services\.web: unknown tag !rest"),
        ("services:\n  1: {}\n", r"2:3: services: a key must be text, not the number 1. Put it into quotes"),
        ("services:\n\tweb: {}\n", r"2:1: not YAML: .*Indent with spaces"),
        ("services: {web: {<<: 5}}\n", r"1:22: services\.web\.<<: << takes a mapping"),
        ("- services\n", r"1:1: the top of a compose file must be a mapping, not a list"),
        ("# nothing\n", r"1:1: the file is empty"),
        ("services:\n  web:\n    imge: a\n", r"3:5: services\.web\.imge: unknown key 'imge'; .* 'image'"),
        ("services:\n  web:\n    image: a\n    tty: maybe\n", r"4:10: services\.web\.tty: must be true or false"),
        ("services:\n  web:\n    image: 5\n", r'3:12: services\.web\.image: must be text, .*"5"'),
        ("version: 3.8\nservices: {web: {image: a}}\n", r'1:10: version: must be text, .*"3\.8"'),
        ("a: " + "[" * 150, r"1:\d+: a.*more than 100 levels"),
    ],
)
def test_the_message_says_where_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ComposeError, match=r"/shop/compose\.yml:" + message):
        load_text(text)
