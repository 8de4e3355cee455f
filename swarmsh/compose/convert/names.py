"""Full names of a stack's objects: `<stack>_<short>`, or what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarmsh.compose.convert.spot import Spot
from swarmsh.model.stacks import NAMESPACE


@dataclass(frozen=True, slots=True)
class Names:
    stack: str

    def scoped(self, short: str) -> str:
        return f"{self.stack}_{short}"

    def of(self, declared: Spot, short: str) -> str:
        """The full name of what is declared there; an external object's is the short one unless `name` says it."""
        return declared["name"].text() or (short if declared["external"].flag() else self.scoped(short))

    def labelled(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Labels with the one by which clients know what belongs to the stack."""
        return {**labels, NAMESPACE: self.stack}
