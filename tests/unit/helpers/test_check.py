"""What a node's checks find."""

from __future__ import annotations

import pytest

from remote_helpers.check import _user_namespace


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (None, []),
        (["name=seccomp,profile=builtin", "name=cgroupns"], []),
        (["name=seccomp,profile=builtin", "name=userns"], ["userns"]),
    ],
)
def test_an_engine_that_shifts_users_is_found(options: list[str] | None, names: list[str]) -> None:
    found = _user_namespace({"SecurityOptions": options})
    assert [(one["name"], one["ok"]) for one in found] == [(name, False) for name in names]
    assert all("--userns host" in one["fix"] for one in found)
