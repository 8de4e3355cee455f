"""Records and their JSON: one declaration serves the code, the store and the Engine API.

Field names are the Engine API's in PascalCase (moby `api/types/swarm`); a field equal to its default is
omitted, as Go's `omitempty` does, unless it was declared with `always`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, Union

import msgspec

from swarmsh.errors import InvalidSpec

R = TypeVar("R")


# The transform only tells type checkers what the base's arguments do to subclasses.
@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Base of all immutable records. Change one with `msgspec.structs.replace`."""


def always(value: R, name: str | None = None) -> R:
    """A field with a default that is written to JSON even when it has that default (Go without omitempty)."""

    def factory() -> R:
        return value

    # msgspec omits plain defaults and empty builtins; the result of any other factory is always written.
    result: R = msgspec.field(default_factory=factory, name=name)
    return result


def to_wire(record: Any) -> Any:
    """JSON-ready builtins (dicts, lists, str, int, float, bool, None) of a record or a collection of them."""
    return msgspec.to_builtins(record)


def from_wire(kind: type[R], value: Any, *, where: str = "") -> R:
    """Read parsed JSON as `kind`.

    As Go's decoder does: keys match in any case (the docker SDK relies on it), unknown keys are ignored, and
    null leaves the default. Raises InvalidSpec naming the field (`$.TaskTemplate.ForceUpdate`).
    """
    try:
        return msgspec.convert(_fold_keys(kind, value), kind)
    except msgspec.ValidationError as e:
        raise InvalidSpec(f"invalid {where or kind.__name__}: {e}") from e


@cache
def _fields_of(kind: type) -> Mapping[str, tuple[str, Any]]:
    """Lower-cased JSON key -> (exact key, field type) of a record."""
    return {f.encode_name.lower(): (f.encode_name, f.type) for f in msgspec.structs.fields(kind)}


def _fold_keys(kind: Any, value: Any) -> Any:
    fold = _folder(kind)
    return value if fold is None else fold(value)


@cache
def _folder(kind: Any) -> Callable[[Any], Any] | None:
    """What folds the keys of values of type `kind`; None where there is nothing to fold."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        return _folder(inner[0]) if len(inner) == 1 else None
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis and _folder(args[0]):
        return lambda v: [_fold_keys(args[0], x) for x in v] if isinstance(v, (list, tuple)) else v
    if origin is dict and _folder(args[1]):
        return lambda v: {k: _fold_keys(args[1], x) for k, x in v.items()} if isinstance(v, dict) else v
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return lambda v: _fold_struct(kind, v)
    return None


def _fold_struct(kind: type, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    known = _fields_of(kind)
    folded: dict[str, Any] = {}
    for key, inner in value.items():
        field = known.get(str(key).lower())
        if field is not None and inner is not None:
            folded[field[0]] = _fold_keys(field[1], inner)
    return folded
