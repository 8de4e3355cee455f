"""The archive and the stub's command line."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import select
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from remote_helpers import handover
from swarmsh.adapters.nodes.payload import load_helper, pack_helper, stub_command

SOURCES = Path(__file__).resolve().parents[3] / "remote_helpers"


def test_equal_sources_make_equal_archives(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    (copy / "net" / "__pycache__").mkdir()
    (copy / "net" / "__pycache__" / "dns.cpython-311.pyc").write_bytes(b"byte-code of some machine")
    packed = pack_helper(copy)
    assert packed == pack_helper(SOURCES)
    (copy / "log.py").write_text("# changed\n")
    assert pack_helper(copy) != packed
    shutil.copy(SOURCES / "log.py", copy)
    assert pack_helper(copy) == packed
    (copy / "net" / "dns.py").write_text("# changed\n")
    assert pack_helper(copy) != packed


def test_an_unpacked_archive_has_the_whole_package_and_keeps_its_byte_code(tmp_path: Path) -> None:
    helper = load_helper()
    archive = tmp_path / f"{helper.sha256}.pyz"
    archive.write_bytes(helper.archive)
    # What the archive's first file does, but for the main loop; the checkout is not in reach.
    program = (
        "import runpy, sys, zipimport\n"
        "loader = zipimport.zipimporter(sys.argv[1])\n"
        "code = compile(loader.get_data(sys.argv[1] + '/__main__.py'), 'main', 'exec')\n"
        "given = {'__name__': 'first', '__loader__': loader}\n"
        "exec(code, given)\n"
        "sys.path[0] = given['unpacked'](sys.argv[1])\n"
        "import remote_helpers.net.apply, remote_helpers.net.esp, remote_helpers.net.dns as dns\n"
        "print(dns.__file__)\n"
    )
    argv = [sys.executable, "-IS", "-c", program, str(archive)]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / f"lib-{helper.sha256}" / "remote_helpers"
    assert done.stdout.strip() == str(folder / "net" / "dns.py")
    assert list((folder / "net" / "__pycache__").glob("dns.*.pyc"))
    sources = {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py")}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    assert there == sources - {"__main__.py", "stub.py"}, "its first file and the stub stay in the archive"


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


@pytest.mark.skipif(os.geteuid() != 0, reason="the helper's folder belongs to root")
def test_a_link_that_dies_while_it_brings_the_helper_keeps_no_other_session_out(tmp_path: Path) -> None:
    helper = load_helper()
    request = {"v": 1, "verb": "session", "helper": helper.sha256, "size": len(helper.archive)}
    line = json.dumps({**request, "root": str(tmp_path / "swarmsh")}).encode() + b"\n"
    argv = shlex.split(stub_command(sys.executable))
    with contextlib.ExitStack() as started:
        for _ in range(2):  # neither brings it
            stub = started.enter_context(subprocess.Popen(argv, stdin=-1, stdout=-1))
            started.callback(stub.kill)
            assert stub.stdin is not None and stub.stdout is not None
            stub.stdin.write(line + helper.archive[:1000])
            stub.stdin.flush()
            assert select.select([stub.stdout], [], [], 20.0)[0], "it waits for the other"
            assert json.loads(stub.stdout.readline()) == {"need": helper.sha256}


@pytest.mark.skipif(os.geteuid() != 0, reason="the helper's folder belongs to root")
@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="would start a unit of this machine")
def test_without_systemd_the_helper_outlives_its_session_and_ends_when_released(tmp_path: Path) -> None:
    root = str(tmp_path / "swarmsh")
    helper = load_helper()
    request = {"v": 1, "verb": "session", "helper": helper.sha256, "size": len(helper.archive), "root": root}

    def open_session() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(shlex.split(stub_command(sys.executable)), stdin=-1, stdout=-1)
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return process

    def read(process: subprocess.Popen[bytes], event: str) -> dict[str, object]:
        assert process.stdout is not None
        for line in process.stdout:
            message: dict[str, object] = json.loads(line)
            if event in (message.get("event"), next(iter(message))):
                return message
        raise AssertionError("the session ended: " + (tmp_path / "swarmsh/helper.log").read_text())

    first = open_session()
    assert first.stdin is not None
    assert read(first, "need") == {"need": helper.sha256}
    first.stdin.write(helper.archive)
    first.stdin.flush()
    pid = read(first, "hello")["data"]["pid"]  # type: ignore[index]
    first.stdin.close()
    assert first.wait(20) == 0
    second = open_session()
    assert second.stdin is not None
    assert read(second, "hello")["data"]["pid"] == pid  # type: ignore[index]
    attach = {"cluster_id": "a", "epoch": 1, "index": 1, "lease_s": 10}
    for number, (op, args) in enumerate((("attach", attach), ("release", {}))):
        second.stdin.write(json.dumps({"id": number, "op": op, "args": args}).encode() + b"\n")
        second.stdin.flush()
        assert read(second, "id")["ok"]
    second.stdin.close()
    assert second.wait(20) == 0
    until = time.monotonic() + 20
    while os.path.exists(root):
        assert time.monotonic() < until, (tmp_path / "swarmsh/helper.log").read_text()
        time.sleep(0.02)


async def test_without_free_descriptors_a_session_waits_and_the_loop_is_not_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "ACCEPT_AGAIN_S", 0.2)
    listening = handover.listening_socket(str(tmp_path))
    tries: list[str] = []
    accept = handover.Doorway._accept

    def counted(self: handover.Doorway) -> None:
        tries.append("")
        accept(self)

    monkeypatch.setattr(handover.Doorway, "_accept", counted)
    handover.Doorway(listening, "own", lambda *_: None, lambda: None)
    loop, taken = asyncio.get_running_loop(), []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as stub:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (stub.fileno() + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(stub.fileno()))
            await loop.sock_connect(stub, f"{tmp_path}/{handover.SOCKET_NAME}")
            await asyncio.sleep(0.5)
            assert 2 <= len(tries) <= 4
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        await loop.sock_sendall(stub, b'{"verb":"session","helper":"other"}\n')
        async with asyncio.timeout(8):
            assert json.loads(await loop.sock_recv(stub, 4096))["helper"] == "own"
    loop.remove_reader(listening.fileno())
    listening.close()


async def test_a_helper_that_gives_way_takes_no_session_and_never_gives_way_to_itself(tmp_path: Path) -> None:
    listening = handover.listening_socket(str(tmp_path))
    ended: list[str] = []
    handover.Doorway(listening, "own", lambda *_: None, lambda: ended.append(""))
    loop = asyncio.get_running_loop()

    async def ask(message: Mapping[str, str], wait_s: float = 8) -> object:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as stub:
            await loop.sock_connect(stub, f"{tmp_path}/{handover.SOCKET_NAME}")
            await loop.sock_sendall(stub, json.dumps(message).encode() + b"\n")
            async with asyncio.timeout(wait_s):
                return json.loads(await loop.sock_recv(stub, 4096))

    with contextlib.closing(listening):
        assert await ask({"verb": "handover", "helper": "own"}) == {"ok": True} and not ended
        assert await ask({"verb": "handover", "helper": "newer"}) == {"ok": True} and ended == [""]
        with pytest.raises(TimeoutError):  # in the queue, for the newer one
            await ask({"verb": "session", "helper": "newer"}, 0.3)
