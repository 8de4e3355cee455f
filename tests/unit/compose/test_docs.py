"""The page on compose files says what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmsh.compose.load.tables import SERVICE, TOP
from tests.unit.compose.example import EVERY_KEY

PAGE = (Path(__file__).parents[3] / "docs" / "compose.md").read_text()


@pytest.mark.parametrize("key", [*SERVICE, *TOP])
def test_every_key_is_in_the_docs(key: str) -> None:
    assert f"`{key}`" in PAGE


def test_the_example_uses_every_key_of_a_service() -> None:
    """But those that are a subject of their own, and those that are not looked into."""
    used = set(EVERY_KEY["services"]["web"]) | {"extends", "models", "provider", "pull_refresh_after"}
    assert set(SERVICE) <= used
