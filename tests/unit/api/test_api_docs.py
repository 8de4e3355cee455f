"""`docs/api.md` lists every endpoint, and what each refused one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmsh.api import refusals
from swarmsh.api.app import _MODULES

DOCS = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
ROUTES = sorted({f"{method} {path}" for module in _MODULES for method, path, _ in module.ROUTES})


@pytest.mark.parametrize("route", ROUTES)
def test_every_endpoint_is_documented(route):
    assert f"`{route}`" in DOCS


def described(refusal):
    path = refusal.path.replace("{rest:.*}", "…")
    methods = "" if len(refusal.methods) == 5 else "/".join(refusal.methods) + " "
    return f"`{methods}{path}`"


@pytest.mark.parametrize("refusal", refusals.REFUSALS, ids=lambda r: r.path)
def test_every_refusal_is_documented_with_its_answer(refusal):
    (line,) = (line for line in DOCS.splitlines() if line.startswith("|") and described(refusal) in line)
    assert refusal.message in line


@pytest.mark.parametrize(
    "name",
    [
        "FORCE_NEW_CLUSTER",
        "CA_ROTATION",
        "CERT_EXPIRY",
        "HEARTBEAT",
        "RAFT",
        "TASK_LOGS",
        "JOIN_TOKENS",
        "AUTOLOCK",
    ],
)
def test_every_sentence_about_the_swarm_is_documented(name):
    assert getattr(refusals, name) in DOCS
