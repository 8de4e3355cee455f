"""The real stub and helper behind OpenSSH's own sshd on loopback; there is no Engine behind them here."""
# ruff: noqa: ASYNC240 (preparing may block)

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from swarmsh.adapters.nodes.payload import load_helper, stub_command
from swarmsh.adapters.nodes.sessions import SessionLimits
from swarmsh.adapters.nodes.stream_links import StreamLinks
from swarmsh.adapters.ssh import ByteChannel, ChannelRefused, SshDialer, SshLink
from swarmsh.errors import NodeRequestFailed, NodeUnreachable
from swarmsh.manager.ports import Connected, Disconnected, Refused, Untrusted
from swarmsh.model.objects import SshTarget
from tests.component.conftest import RealClock, Sessions, eventually

SSHD = Path("/usr/sbin/sshd")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not SSHD.exists(), reason="needs root and Debian's openssh-server"
)


@dataclass
class Sshd:
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def fingerprint(self) -> str:
        return asyncssh.read_public_key(self.folder / "host_key.pub").get_fingerprint()


@pytest.fixture
def sshd(tmp_path: Path, key_file: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    folder.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
    public = asyncssh.read_private_key(key_file).export_public_key().decode()
    (folder / "authorized_keys").write_text(public)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, made by its unit elsewhere
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _await_port(port, process)
        yield Sshd(port, folder, process)
    finally:
        process.terminate()
        process.wait(10)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
    raise AssertionError("sshd did not start")


@pytest.fixture
def root() -> Iterator[Path]:
    """The helper's folder; whatever helper still serves it is ended after the test, by its process id."""
    path = Path(tempfile.mkdtemp(prefix="swarmsh-test-"))
    yield path
    with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path / "helper.sock"))
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def sessions(dialer, tmp_path: Path, root: Path):
    made = Sessions(
        dialer,
        load_helper(),
        stub_command,
        cluster_id=lambda: "cluster1",
        epoch=lambda: 1,
        index=lambda: 1,
        on_index_ahead=lambda index: made.raise_index(index),
        on_epoch_ahead=lambda reason: made.behind.append(reason),
        clock=RealClock(),
        socket_dir=tmp_path / "s",
        root=str(root),
        limits=SessionLimits(lease_s=10, heartbeat_s=1, start_s=30, tick_s=0.1, first_retry_s=0.05),
    )
    made.start_reading()
    yield made
    await made.close()


def target(sshd: Sshd, key_file: Path, pin: str | None = None) -> SshTarget:
    return SshTarget(
        address="127.0.0.1",
        port=sshd.port,
        user="root",
        identity_files=(str(key_file),),
        host_keys=(pin or sshd.fingerprint,),
        python="/usr/bin/python3",
    )


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs the system's Python")
async def test_the_real_helper_is_pushed_once_attached_and_released(
    sshd: Sshd, sessions: Sessions, key_file: Path, root: Path
) -> None:
    sessions.keep("node1", "n1", target(sshd, key_file))
    report = (await sessions.until(Connected)).report
    assert report.description.python
    assert (root / f"{load_helper().sha256}.pyz").read_bytes() == load_helper().archive
    first = sessions.counters("node1").bytes_out
    assert first > len(load_helper().archive)

    # The link breaks; the helper lives on, and is found again.
    for child in Path(f"/proc/{sshd.process.pid}/task/{sshd.process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    await sessions.until(Disconnected)
    await sessions.until(Connected)
    assert sessions.counters("node1").bytes_out < first + 50_000

    with pytest.raises(NodeRequestFailed):
        await sessions.resolve_image("node1", "web:1", "")
    names = {item["name"] for item in await sessions.check("node1")}
    assert {"python", "engine"} <= names
    await sessions.drop("node1", release=True)


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs the system's Python")
async def test_a_second_cluster_with_a_lower_epoch_is_refused(
    sshd: Sshd, sessions: Sessions, key_file: Path
) -> None:
    sessions._epoch = lambda: 5
    sessions.keep("node1", "n1", target(sshd, key_file))
    await sessions.until(Connected)
    await sessions.drop("node1")
    sessions._epoch = lambda: 4
    sessions.keep("node1", "n1", target(sshd, key_file))
    refused = await sessions.until(Refused)
    assert refused.code == "stale_epoch"
    await sessions.drop("node1")
    sessions._epoch = lambda: 5
    sessions.keep("node1", "n1", target(sshd, key_file))
    await sessions.until(Connected)
    await sessions.drop("node1", release=True)


async def test_streams_beyond_what_one_connection_takes_get_more_connections(
    sshd: Sshd, dialer: SshDialer, key_file: Path
) -> None:
    """sshd's MaxSessions is 10 by default."""
    first = await dialer.connect(target(sshd, key_file))
    dialled = []

    async def dial() -> SshLink:
        dialled.append(await dialer.connect(target(sshd, key_file)))
        return dialled[-1]

    links = StreamLinks("n1", first, dial, most=2, idle_s=0.1)

    async def open_stream() -> tuple[ByteChannel, bytearray, asyncio.Event]:
        got, ended = bytearray(), asyncio.Event()
        return await links.exec("cat", got.extend, ended.set), got, ended

    async with asyncio.timeout(60):
        streams = await asyncio.gather(*(open_stream() for _ in range(30)))
        assert len(dialled) == 2
        with pytest.raises(ChannelRefused, match="MaxSessions"):
            await open_stream()
        for number, (channel, _, _) in enumerate(streams):
            channel.send(b"%d" % number)
            channel.send_eof()
        for number, (_, got, ended) in enumerate(streams):
            await ended.wait()
            assert got == b"%d" % number
        await eventually(lambda: all(link.closed for link in dialled))
        assert not first.closed
        streams = await asyncio.gather(*(open_stream() for _ in range(11)))
        assert len(dialled) == 3
        links.close()
        await eventually(lambda: any(ended.is_set() for _, _, ended in streams))
        assert sum(ended.is_set() for _, _, ended in streams) == 1, "those of the session's own connection go on"
    await first.close()


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_wrong_pin_stops_before_sshd_sees_a_user(
    sshd: Sshd, sessions: Sessions, key_file: Path, kind: str, whole: bool
) -> None:
    key = asyncssh.generate_private_key(kind)
    pin = key.export_public_key().decode() if whole else key.get_fingerprint()
    sessions.keep("node1", "n1", target(sshd, key_file, pin))
    event = await sessions.until(Untrusted)
    assert (event.shown, event.pinned) == (sshd.fingerprint, (key.get_fingerprint(),))
    assert b"Accepted" not in (sshd.folder / "log").read_bytes()


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs the system's Python")
async def test_without_an_engine_its_socket_says_so(sshd: Sshd, sessions: Sessions, key_file: Path) -> None:
    if Path("/var/run/docker.sock").exists():
        pytest.skip("there is an Engine")
    from swarmsh.adapters.nodes.engine import NodeEngines

    sessions.keep("node1", "n1", target(sshd, key_file))
    report = (await sessions.until(Connected)).report
    assert not report.engine_ok
    engines = NodeEngines(sessions)
    with pytest.raises(NodeUnreachable, match="Docker"):
        async for _ in engines.logs("node1", "c1", {"stdout": "1"}, tty=False):
            pass
    await engines.close()
    await sessions.drop("node1", release=True)
