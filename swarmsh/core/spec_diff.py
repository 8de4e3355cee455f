"""Two specs of a service, field by field, in words that may be shown to anybody.

Fields are named by their path in the Engine API's JSON; entries of lists that have names are told apart by these
(`TaskTemplate.ContainerSpec.Env[DEBUG]`). What is a set is compared as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from swarmsh.core.masking import HIDDEN, masked, masked_words, names_a_secret
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.wire import Record, to_wire

Json = dict[str, Any]


class FieldChange(Record):
    """`before` is None where the field was not there, `after` where it will not be; JSON's own kinds else.

    `hidden`: the values are not shown whole, since they look like credentials.
    """

    field: str
    before: Any = None
    after: Any = None
    hidden: bool = False


# Lists whose entries have names, by field: the name of an entry.
_NAMED: Mapping[str, Callable[[Any], str]] = {
    "Env": lambda entry: str(entry).partition("=")[0],
    "Mounts": lambda mount: str(mount.get("Target", "")),
    "Networks": lambda network: str(network.get("Target", "")),
    "Ports": lambda port: _port(port),
    "Secrets": lambda secret: _file(secret, "SecretName"),
    "Configs": lambda config: _file(config, "ConfigName"),
    "Ulimits": lambda limit: str(limit.get("Name", "")),
    "GenericResources": lambda resource: _kind(resource),
}
_SETS = frozenset({"Constraints", "Groups", "CapabilityAdd", "CapabilityDrop", "Platforms"})
_COMMANDS = frozenset({"Args", "Command", "Test"})
# Keys in these were chosen by users, and say what the values are.
_USERS_KEYS = frozenset({"Env", "Labels", "Options", "DriverOpts"})


def diff_specs(
    before: ServiceSpec | None, after: ServiceSpec, called: Mapping[str, str] | None = None
) -> tuple[FieldChange, ...]:
    """What differs, in the order of the fields; without `before` all that `after` says.

    `called`: what to call networks, secrets and configs, by id.
    """
    names = called or {}
    a = {} if before is None else _readable(before, names)
    return tuple(_diff("", a, _readable(after, names)))


def _readable(from_: ServiceSpec, called: Mapping[str, str]) -> Json:
    spec: Json = _lists(to_wire(from_))
    template = spec.get("TaskTemplate") or {}
    for attachment in (*(spec.get("Networks") or ()), *(template.get("Networks") or ())):
        attachment["Target"] = called.get(attachment.get("Target", ""), attachment.get("Target", ""))
    container = template.get("ContainerSpec") or {}
    for list_, key in (("Secrets", "SecretID"), ("Configs", "ConfigID")):
        for reference in container.get(list_) or ():
            reference[key] = called.get(reference.get(key, ""), reference.get(key, ""))
    return spec


def _lists(value: Any) -> Any:
    """A copy with lists for tuples, as JSON has them."""
    match value:
        case dict():
            return {key: _lists(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_lists(inner) for inner in value]
        case _:
            return value


def _keys(before: Json, after: Json) -> list[str]:
    """Of both, in the order of `after`; what is gone stands behind what it stood behind."""
    keys, at = list(after), 0
    for key in before:
        if key in after:
            at = keys.index(key) + 1
        else:
            keys.insert(at, key)
            at += 1
    return keys


def _diff(path: str, before: Json, after: Json) -> Iterator[FieldChange]:
    """Of two objects. An empty one is as good as none, but for modes, which may have nothing more to say."""
    for key in _keys(before, after):
        a, b = before.get(key), after.get(key)
        if a == b:
            continue
        inner = f"{path}.{key}" if path else key
        if key in _NAMED:
            yield from _diff_entries(inner, key, a or [], b or [])
        elif key == "Mode" and not path:
            yield from _diff_mode(inner, a or {}, b or {})
        elif key in _USERS_KEYS and isinstance(a or b, dict):
            yield from _diff_users(inner, a or {}, b or {})
        elif isinstance(a, dict) or isinstance(b, dict):
            yield from _diff(inner, a or {}, b or {})
        elif not (key in _SETS and _as_set(a) == _as_set(b)):
            yield _changed(inner, key, a, b)


def _diff_entries(path: str, key: str, before: list[Any], after: list[Any]) -> Iterator[FieldChange]:
    name = _NAMED[key]
    a, b = {name(entry): entry for entry in before}, {name(entry): entry for entry in after}
    for entry in _keys(a, b):
        inner, was, is_ = f"{path}[{entry}]", a.get(entry), b.get(entry)
        if was == is_:
            continue
        if key == "Env":
            values = (None if one is None else one.partition("=")[2] for one in (was, is_))
            yield _users(inner, entry, *values)
        elif was is None or is_ is None:
            yield _changed(inner, key, was, is_)
        else:
            yield from _diff(inner, was, is_)


def _diff_users(path: str, before: Json, after: Json) -> Iterator[FieldChange]:
    for key in _keys(before, after):
        if before.get(key) != after.get(key):
            yield _users(f"{path}[{key}]", key, before.get(key), after.get(key))


def _diff_mode(path: str, before: Json, after: Json) -> Iterator[FieldChange]:
    for mode in _keys(before, after):
        if (mode in before) != (mode in after) and not (before.get(mode) or after.get(mode)):
            yield FieldChange(field=f"{path}.{mode}", before=before.get(mode), after=after.get(mode))
        else:
            yield from _diff(f"{path}.{mode}", before.get(mode) or {}, after.get(mode) or {})


def _users(path: str, key: str, before: Any, after: Any) -> FieldChange:
    """A value whose name a user chose."""
    if not names_a_secret(key):
        return _changed(path, key, before, after)
    was, is_ = (None if value is None else HIDDEN for value in (before, after))
    return FieldChange(field=path, before=was, after=is_, hidden=True)


def _changed(path: str, key: str, before: Any, after: Any) -> FieldChange:
    shown = tuple(_shown(key, value) for value in (before, after))
    return FieldChange(field=path, before=shown[0], after=shown[1], hidden=shown != (before, after))


def _shown(key: str, value: Any) -> Any:
    """The value without what looks like a credential, at any depth."""
    match value:
        case str():
            return masked(value)
        case list() if key in _COMMANDS:
            return masked_words(value)
        case list():
            return [_shown(key, entry) for entry in value]
        case dict():
            users = key in _USERS_KEYS
            return {k: HIDDEN if users and names_a_secret(k) else _shown(k, v) for k, v in value.items()}
        case _:
            return value


def _as_set(entries: Any) -> list[str]:
    return sorted(map(repr, entries or ()))


def _port(port: Json) -> str:
    published, mode = port.get("PublishedPort", 0), port.get("PublishMode") or "ingress"
    text = f"{port.get('TargetPort', 0)}/{port.get('Protocol') or 'tcp'}"
    return (f"{published}:{text}" if published else text) + ("" if mode == "ingress" else f" {mode}")


def _file(reference: Json, name: str) -> str:
    target = (reference.get("File") or {}).get("Name", "")
    return str(reference.get(name, "")) + (f":{target}" if target else "")


def _kind(resource: Json) -> str:
    found = resource.get("NamedResourceSpec") or resource.get("DiscreteResourceSpec") or {}
    named = "NamedResourceSpec" in resource
    return f"{found.get('Kind', '')}={found.get('Value', '')}" if named else str(found.get("Kind", ""))
