"""Names of services and networks."""

from __future__ import annotations

import pytest

from swarmsh.core.names import check_name
from swarmsh.errors import InvalidSpec


@pytest.mark.parametrize("name", ["a", "7", "web-1", "a--_b", "Web", "x" * 63])
def test_names_that_swarmkit_takes_are_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "_", "a.b", "a b", "ä", "a\n", "x" * 64])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="name"):
        check_name(name)


def test_a_long_wrong_name_is_refused_at_once() -> None:
    # With a pattern that backtracks this line would take years.
    with pytest.raises(InvalidSpec):
        check_name("a" * 5000 + "!")
