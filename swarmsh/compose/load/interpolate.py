"""Variables filled into a document: values only, never keys; top-level `x-*` keys are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from swarmsh.compose.errors import ComposeError, Path
from swarmsh.compose.load.template import Lookup, TemplateError, substitute
from swarmsh.compose.load.tree import Mapping, Node, Scalar, Sequence

OnUnset = Callable[[str, Path], None]


def interpolate(node: Node, lookup: Lookup, on_unset: OnUnset, path: Path = ()) -> Node:
    """The document with its variables replaced. Raises ComposeError naming the path."""
    if isinstance(node, Scalar):
        return _scalar(node, lookup, on_unset, path)
    if isinstance(node, Sequence):
        items = [interpolate(item, lookup, on_unset, (*path, i)) for i, item in enumerate(node.items)]
        return replace(node, items=items)
    if isinstance(node, Mapping):
        return replace(
            node,
            items={
                key: value
                if not path and key.startswith("x-")
                else interpolate(value, lookup, on_unset, (*path, key))
                for key, value in node.items.items()
            },
        )
    return node


def _scalar(node: Scalar, lookup: Lookup, on_unset: OnUnset, path: Path) -> Scalar:
    if not isinstance(node.value, str) or "$" not in node.value:
        return node
    try:
        text = substitute(node.value, lookup, lambda name: on_unset(name, path))
    except TemplateError as e:
        raise ComposeError(str(e), node.place, path, e.hint) from e
    return replace(node, value=text, text=text)
