"""The flags of `service create` and `update` for run options: container labels, which any client keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarmsh.cli.values import Value
from swarmsh.core.run_options import RUN_OPTIONS, RUN_PREFIX, RunOption, join_list, split_list

Json = dict[str, Any]


def flag_name(option: RunOption) -> str:
    """The name of its value among the flags, as click makes it."""
    return option.name.replace("-", "_")


def is_switch(option: RunOption) -> bool:
    return option.form == "true or false"


def help_text(option: RunOption) -> str:
    """One line for --help and the reference."""
    form = "" if is_switch(option) else f": {option.form.removesuffix(', …')}"
    return f"{option.meaning[0].upper()}{option.meaning[1:]}{form}; not Docker's"


def scalar_type(option: RunOption, *, may_be_empty: bool) -> Value:
    """Its text, as it was given; empty takes the option away where there is something to take away."""

    def check(text: str) -> str:
        if text or not may_be_empty:
            option.parse(text)
        return text

    return Value("string", check)


def entry_type(option: RunOption) -> Value:
    """One entry of a list."""

    def check(text: str) -> str:
        entry = _with_profile(text) if option.name == "security-opt" else text
        option.parse(join_list([entry]))
        return entry

    return Value("list", check)


def _with_profile(text: str) -> str:
    """`seccomp=FILE` with the file's JSON in the place of its name, as `docker run` sends it."""
    key, _, value = text.partition("=")
    if key != "seccomp" or value in ("", "unconfined", "builtin") or value.lstrip().startswith("{"):
        return text
    try:
        return f"seccomp={json.dumps(json.loads(Path(value).read_text()), separators=(',', ':'))}"
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"opening seccomp profile ({value}) failed: {e}") from e
    except ValueError as e:
        raise ValueError(f"seccomp profile {value} is not JSON: {e}") from e


def run_labels_of(flags: Json) -> dict[str, str]:
    """The container labels for the flags of `service create`."""
    return _changed({}, flags, lambda name: ((), flags[name]))


def changed_run_labels(labels: dict[str, str], flags: Json) -> dict[str, str]:
    """Container labels after the flags of `service update`; of lists, `-rm` before `-add`."""
    return _changed(labels, flags, lambda name: (flags[f"{name}_rm"], flags[f"{name}_add"]))


def _changed(
    labels: dict[str, str], flags: Json, of_list: Callable[[str], tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, str]:
    found = dict(labels)
    for option in RUN_OPTIONS:
        name = flag_name(option)
        if option.is_list:
            remove, add = of_list(name)
            text = _changed_list(option, found.get(option.label), remove, add)
        elif is_switch(option):
            text = None if flags[name] is None else "true" if flags[name] else ""
        else:
            text = flags[name]
        if text:
            found[option.label] = text
        elif text is not None:
            found.pop(option.label, None)
    return found


def _changed_list(
    option: RunOption, current: str | None, remove: tuple[str, ...], add: tuple[str, ...]
) -> str | None:
    """None: as it is. Entries that are added replace those of the same key, at their place."""
    if not remove and not add:
        return None
    gone = set(remove)
    kept = [
        entry
        for entry in (split_list(current) if current else ())
        if entry not in gone and option.key_of(entry) not in gone
    ]
    entries = {option.key_of(entry): entry for entry in (*kept, *add)}
    return join_list(entries.values()) if entries else ""


def split_labels(labels: dict[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Container labels as (run options by their name, the others)."""
    given = labels or {}
    run = {key.removeprefix(RUN_PREFIX): text for key, text in given.items() if key.startswith(RUN_PREFIX)}
    return run, {key: text for key, text in given.items() if not key.startswith(RUN_PREFIX)}
