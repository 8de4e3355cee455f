"""The archive and the stub's command line."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from swarmsh.adapters.nodes.payload import load_helper, pack_helper, stub_command

SOURCES = Path(__file__).resolve().parents[3] / "remote_helpers"


def test_equal_sources_make_equal_archives(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    assert pack_helper(copy) == pack_helper(SOURCES)
    (copy / "log.py").write_text("# changed\n")
    assert pack_helper(copy) != pack_helper(SOURCES)


def test_the_hash_names_the_archive() -> None:
    helper = load_helper()
    assert hashlib.sha256(helper.archive).hexdigest() == helper.sha256


def test_the_command_survives_a_shell() -> None:
    words = shlex.split(stub_command("/opt/my python", become=True))
    assert words[:4] == ["sudo", "-n", "/opt/my python", "-IS"]
    assert len(stub_command()) < 8192


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        ({"verb": "dance"}, "dance"),
        ({"verb": "engine"}, "Docker daemon"),
        ({"no": "verb"}, "KeyError"),
    ],
)
def test_a_fault_of_the_stub_is_one_line(request_line: dict[str, str], words: str) -> None:
    if words == "Docker daemon" and os.path.exists("/var/run/docker.sock"):
        pytest.skip("an Engine runs here")
    argv = shlex.split(stub_command(sys.executable))
    done = subprocess.run(argv, input=json.dumps(request_line) + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert words in json.loads(line)["error"]
    assert "hint" in json.loads(line)


def test_the_engine_verb_copies_both_ways_and_half_closes(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def echo_after_eof() -> None:
        link, _ = listening.accept()
        data = b""
        while part := link.recv(65536):
            data += part
        link.sendall(data)
        link.close()

    thread = threading.Thread(target=echo_after_eof)
    thread.start()
    source = (SOURCES / "stub.py").read_text().replace("/var/run/docker.sock", path)
    sent = b"x" * 300_000
    first = json.dumps({"v": 1, "verb": "engine"}).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", source], input=first + sent, capture_output=True, check=False, timeout=20
    )
    thread.join()
    listening.close()
    head, _, rest = done.stdout.partition(b"\n")
    assert json.loads(head) == {"ok": True}
    assert rest == sent
