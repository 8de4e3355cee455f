"""The few tests of the lab that have failed, once more, with nothing beside them: how `make test` may end.

    python -m tests.again CODE      the exit code of the whole run of pytest, which has just ended

Two strands of tests, each with three machines, share two cores: a machine may stand still for seconds, and one
test of some hundred then takes its time for a fault. So those that failed are run once more: on machines of their
own, one after another, as strictly as before. What the first run told of them stays in the output. It ends with
CODE at once if other tests failed, or more than FEW: that is no accident.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

FEW = 3
LAB = "tests/e2e/"
CACHE = Path(".pytest_cache/v/cache/lastfailed")


def chosen(code: int, failed: list[str]) -> list[str]:
    """The tests to run once more: all that failed, or none."""
    accident = code == pytest.ExitCode.TESTS_FAILED and 0 < len(failed) <= FEW
    return failed if accident and all(one.startswith(LAB) for one in failed) else []


def main() -> None:
    code = int(sys.argv[1])
    tests = chosen(code, sorted(json.loads(CACHE.read_text())) if CACHE.is_file() else [])
    if not tests:
        sys.exit(code)
    print("\nFailed beside other tests, and now once more by themselves:", *tests, sep="\n  ", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-n", "0", *tests])


if __name__ == "__main__":
    main()
