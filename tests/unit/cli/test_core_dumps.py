"""A process that has secrets in its memory leaves no core dump of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_TELL = """
import ctypes, resource
def tell():
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    print(dumpable, resource.getrlimit(resource.RLIMIT_CORE), int(open("/proc/self/coredump_filter").read(), 16))
"""


@pytest.mark.parametrize(
    "begin",
    [
        "async def run(*_): tell()\nfrom swarmsh import daemon; daemon._run = run; daemon.run(None, None)",
        "from swarmsh.cli import kept_source as k; k._variable = lambda _: tell() or b''\n"
        "k.read_source(None, 'PASS', None, False)",
        "from swarmsh.cli import stack_files as s; s.load = lambda *_, **__: tell(); s.read_project(['a.yml'])",
        "import io, sys; sys.stdin = io.StringIO('pass'); from swarmsh.cli import manager\n"
        "manager._passphrase(confirm=False); tell()",
    ],
    ids=["manager", "contents", "stack", "passphrase"],
)
def test_who_has_secrets_in_memory_makes_no_core_dump(begin: str) -> None:
    if not Path("/proc/self/coredump_filter").exists():
        pytest.skip("a kernel without core dumps")
    asked = subprocess.run([sys.executable, "-c", _TELL + begin], capture_output=True, text=True, check=True)
    assert asked.stdout == "0 (0, 0) 0\n"
