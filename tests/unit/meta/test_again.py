"""Which failures are tried once more, and that a second one is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.again import CACHE, chosen

CHECKOUT = Path(__file__).parents[3]
LAB = [f"tests/e2e/test_a.py::test_{n}" for n in range(4)]
UNIT = "tests/unit/test_a.py::test_a"


@pytest.mark.parametrize(
    ("code", "failed", "again"),
    [
        (1, LAB[:1], True),
        (1, LAB[:3], True),
        (1, LAB, False),  # too many for an accident
        (1, [LAB[0], UNIT], False),
        (1, [], False),
        (2, LAB[:1], False),  # interrupted
        (3, LAB[:1], False),
    ],
)
def test_a_few_tests_of_the_lab_only(code: int, failed: list[str], again: bool) -> None:
    assert chosen(code, failed) == (failed if again else [])


@pytest.mark.parametrize(("body", "ends"), [("pass", 0), ("assert False", 1)])
def test_the_second_verdict_holds(tmp_path: Path, body: str, ends: int) -> None:
    folder = tmp_path / "tests" / "e2e"
    folder.mkdir(parents=True)
    (folder / "test_a.py").write_text(f"def test_a():\n    {body}\n\ndef test_b():\n    assert False\n")
    (tmp_path / CACHE).parent.mkdir(parents=True)
    (tmp_path / CACHE).write_text(json.dumps({"tests/e2e/test_a.py::test_a": True}))
    again = [sys.executable, "-m", "tests.again", "1"]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(again, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == ends, done.stdout
    assert "once more by themselves:\n  tests/e2e/test_a.py::test_a\n" in done.stdout
    assert "1 passed" in done.stdout or "1 failed" in done.stdout
