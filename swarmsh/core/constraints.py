"""Placement constraints: `node.labels.disk==ssd`, read once and matched against nodes.

Keys, operators and the characters of values are swarmkit's (`manager/constraint/constraint.go`). Where swarmkit
would accept a key it does not know and then never match it, such a key is refused here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from msgspec import Struct

from swarmsh.core.words import nearest
from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Node

NODE_LABEL = "node.labels."
ENGINE_LABEL = "engine.labels."
_FIXED_KEYS = ("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch")
_OPERATORS = ("==", "!=")
_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_SAME_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


class Constraint(Struct, frozen=True):
    """One condition on a node. `key` is in lower case but for a label's name, whose case counts."""

    key: str
    equal: bool  # == rather than !=
    value: str

    def matches(self, node: Node) -> bool:
        """Whether the node satisfies it. A label or a name that the node lacks equals the empty word."""
        return self._holds(node) is self.equal

    def found(self, node: Node) -> str:
        """What the node has of the key; empty if it lacks the label."""
        if self.key == "node.ip":
            return node.target.address
        words = (
            self._words(node) if self.key != "node.platform.arch" else (node.description.platform.architecture,)
        )
        return " or ".join(dict.fromkeys(words))

    def _holds(self, node: Node) -> bool:
        if self.key == "node.ip":
            return _address_is(node.target.address, self.value)
        wanted = self.value.casefold()
        if self.key == "node.platform.arch":
            return normal_architecture(node.description.platform.architecture) == normal_architecture(wanted)
        return any(word.casefold() == wanted for word in self._words(node))

    def _words(self, node: Node) -> tuple[str, ...]:
        if self.key.startswith((NODE_LABEL, ENGINE_LABEL)):
            return (label_value(self.key, node),)
        match self.key:
            case "node.id":
                return (node.id,)
            case "node.hostname":
                # Design decision 13: the inventory's name resolves beside the node's own host name.
                return (node.hostname, node.spec.name)
            case "node.role":
                return (node.spec.role.value,)
            case "node.platform.os":
                return (node.description.platform.os,)
        raise AssertionError(f"constraint key {self.key} was accepted but is not known")

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.equal else '!='}{self.value}"


def parse_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Read constraints, in order. Raises InvalidSpec with Docker's words, or naming the nearest known key."""
    return tuple(_parse(text) for text in texts)


def satisfied(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether the node satisfies all of them."""
    return all(constraint.matches(node) for constraint in constraints)


def normal_architecture(word: str) -> str:
    """The kernel's words for an architecture turned into Go's: x86_64 is amd64, aarch64 is arm64."""
    word = word.casefold()
    return _SAME_ARCHITECTURE.get(word, word)


def parse_label_key(text: str) -> str | None:
    """`node.labels.X` or `engine.labels.X` with its prefix in lower case; None if it is neither."""
    for prefix in (NODE_LABEL, ENGINE_LABEL):
        if len(text) > len(prefix) and text[: len(prefix)].lower() == prefix:
            return prefix + text[len(prefix) :]
    return None


def label_value(key: str, node: Node) -> str:
    """The node's value of a key that `parse_label_key` returned; empty without that label."""
    if key.startswith(NODE_LABEL):
        return node.spec.labels.get(key[len(NODE_LABEL) :], "")
    return node.description.engine_labels.get(key[len(ENGINE_LABEL) :], "")


def _parse(text: str) -> Constraint:
    operator = next((op for op in _OPERATORS if op in text), None)
    if operator is None:
        raise InvalidSpec(f"constraint expected one operator from {', '.join(_OPERATORS)}")
    left, _, right = text.partition(operator)
    key, value = left.strip(), right.strip()
    if not _KEY.fullmatch(key):
        raise InvalidSpec(f"key '{key}' is invalid")
    if not _VALUE.fullmatch(value):
        raise InvalidSpec(f"value '{value}' is invalid")
    constraint = Constraint(_known_key(key), operator == "==", value)
    if constraint.key == "node.ip":
        _check_address(value)
    return constraint


def _known_key(key: str) -> str:
    if key.lower() in _FIXED_KEYS:
        return key.lower()
    label = parse_label_key(key)
    if label is not None:
        return label
    stem, dot, name = key.rpartition(".")
    guess = nearest(key, _FIXED_KEYS)
    for prefix in (NODE_LABEL, ENGINE_LABEL):
        if dot and nearest(f"{stem}.", (*_FIXED_KEYS, NODE_LABEL, ENGINE_LABEL)) == prefix:
            guess = prefix + name
    known = ", ".join((*_FIXED_KEYS, f"{NODE_LABEL}NAME", f"{ENGINE_LABEL}NAME"))
    raise InvalidSpec(f"key '{key}' is not known", hint=f"Did you mean {guess}? Known are {known}")


def _check_address(value: str) -> None:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise InvalidSpec(
            f"value '{value}' is invalid", hint="node.ip takes an address (10.0.0.7) or a network (10.0.0.0/24)"
        ) from None


def _address_is(address: str, wanted: str) -> bool:
    """`wanted` is an address or a network; a node reached by a name has no address to compare."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False
