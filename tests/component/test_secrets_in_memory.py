"""The real helper process with secrets: in memory of its own, kept over its end, and gone with what had them.

It runs in a mount namespace of the test, and its Engine is a fake one on a unix socket.
"""
# ruff: noqa: ASYNC220, ASYNC240 (preparing and looking may block)

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from swarmsh.adapters.nodes.payload import load_helper
from tests.component.conftest import eventually
from tests.unit.helpers.conftest import Manager, ensure
from tests.unit.helpers.fake_engine import FakeEngine

PASS = "hunter2-" + "s3cret" * 8
FILES = [
    {"id": "sec1", "target": "/run/secrets/pass", "uid": 1000, "gid": 1001, "mode": 0o400},
    {"id": "sec1", "target": "/etc/pass"},
]


def usable() -> bool:
    """Whether a mount namespace can be made, and something be mounted in it."""
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        return False
    command = "mount -t tmpfs none /mnt"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not usable(), reason="needs root, and a mount namespace")


class Node:
    """A mount namespace, and the helper in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = FakeEngine(str(root.parent / "engine.sock"))
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "cat"], stdin=-1, stdout=-1
        )
        self.archive = root / f"{load_helper().sha256}.pyz"
        self.log = root.parent / "log"
        self.managers: list[Manager] = []
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """The helper, as its unit starts it."""
        await eventually(
            lambda: os.readlink(f"/proc/{self.holder.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        )
        if not self.archive.exists():
            self.archive.write_bytes(load_helper().archive)
            (self.root / "helper.pyz").symlink_to(self.archive.name)
        command = [sys.executable, "-ISu", f"{self.root}/helper.pyz", "--root", str(self.root)]
        enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", *command, "--engine", self.engine.path]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(enter, stdout=log, stderr=log)
        await eventually(self.answers)

    def answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.root}/helper.sock")
            return True
        return False

    def open_session(self, fd_in: int, fd_out: int, link: socket.socket, leftover: bytes) -> None:
        """What a stub does."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.root}/helper.sock")
            message = json.dumps({"verb": "session", "helper": load_helper().sha256}).encode() + b"\n"
            socket.send_fds(sock, [message], [fd_in, fd_out])
            assert sock.recv(4096) == b'{"ok":true}\n'
            self.links = [*getattr(self, "links", []), os.dup(sock.fileno())]
        os.close(fd_in)
        os.close(fd_out)
        link.close()

    def hand_over(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.root}/helper.sock")
            sock.sendall(b'{"verb":"handover","helper":"newer"}\n')
            assert sock.recv(4096) == b'{"ok":true}\n'

    async def manager(self, epoch: int = 1) -> Manager:
        manager = Manager(self)  # type: ignore[arg-type]
        self.managers.append(manager)
        await manager.open()
        assert (await manager.attach(epoch=epoch))["ok"]
        return manager

    def seen(self, path: str) -> Path:
        """A path as the helper sees it."""
        return Path(f"/proc/{self.holder.pid}/root{path}")

    def mounts(self) -> list[list[str]]:
        lines = Path(f"/proc/{self.holder.pid}/mountinfo").read_text().splitlines()
        return [line.split() for line in lines if f" {self.root}/" in line]

    def crash(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    async def end(self) -> None:
        for manager in self.managers:
            await manager.close()
        for link in getattr(self, "links", []):
            os.close(link)
        self.crash()
        await self.engine.stop()
        self.holder.kill()
        self.holder.wait(10)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="swarmsh-test-") as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o700)
        node = Node(root)
        await node.engine.start()
        await node.start()
        yield node
        await node.end()


async def give(manager: Manager, task_id: str, epoch: int = 1) -> None:
    data = base64.b64encode(PASS.encode()).decode()
    item = {"task_id": task_id, "id": "sec1", "size": len(PASS), "data": data}
    reply = await manager.request(
        "contents", {"cluster_id": "clustera", "epoch": epoch, "index": 1, "items": [item]}
    )
    assert reply["ok"], reply


def sources(node: Node, task_id: str) -> dict[str, str]:
    """Where the mounts of a task's container come from, by target."""
    (body,) = (
        b for path, b in node.engine.bodies if (b.get("Labels") or {}).get("com.docker.swarm.task.id") == task_id
    )
    return {mount["Target"]: mount["Source"] for mount in body["HostConfig"]["Mounts"] if mount["ReadOnly"]}


async def test_secrets_are_in_memory_that_is_never_swapped_and_in_nothing_else(node: Node) -> None:
    manager = await node.manager()
    await give(manager, "t1")
    await manager.apply(ensure("t1", files=FILES))
    await manager.task("t1", "running")
    (mount,) = node.mounts()
    kind, options = mount[mount.index("-") + 1], mount[-1]
    assert kind == "ramfs" or (kind == "tmpfs" and "noswap" in options.split(","))
    assert {"nosuid", "nodev"} <= set(mount[5].split(","))
    folder = node.seen(f"{node.root}/secrets")
    assert folder.stat().st_mode & 0o777 == 0o700
    found = sources(node, "t1")
    inside = [node.seen(found["/run/secrets"] + "/pass"), node.seen(found["/etc/pass"])]
    assert [path.read_text() for path in inside] == [PASS, PASS]
    status = [path.stat() for path in inside]
    assert [(s.st_uid, s.st_gid, s.st_mode & 0o777) for s in status] == [(1000, 1001, 0o400), (0, 0, 0o444)]
    # What is below the mount is what a disk would have of it.
    assert list((node.root / "secrets").iterdir()) == []
    kept = [path for path in node.root.rglob("*") if path.is_file()] + [node.log]
    assert node.root / "state.json" in kept
    needles = (PASS.encode(), base64.b64encode(PASS.encode()))
    assert not [path for path in kept if any(needle in path.read_bytes() for needle in needles)]
    assert node.process is not None
    for name in ("cmdline", "environ"):
        assert PASS.encode() not in Path(f"/proc/{node.process.pid}/{name}").read_bytes()


def test_a_process_that_is_not_dumpable_stays_so() -> None:
    tell = (
        "import ctypes; from remote_helpers import memoryfs; memoryfs.not_dumpable();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    asked = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert asked.stdout == "0\n"


async def test_a_crash_of_the_helper_writes_no_memory_to_a_disk(node: Node) -> None:
    assert node.process is not None
    pid = node.process.pid
    assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("end", ["crash", "hand-over"])
async def test_another_process_of_the_helper_finds_them_and_restarts_nothing(node: Node, end: str) -> None:
    manager = await node.manager()
    await give(manager, "t1")
    await manager.apply(ensure("t1", files=FILES))
    await manager.task("t1", "running")
    assert node.process is not None
    if end == "crash":
        node.crash()
        await node.start()
    else:
        before = (node.root / "helper.pyz").resolve()
        node.hand_over()
        await manager.until(lambda: manager.ended)
        assert node.process.poll() is None and (node.root / "helper.pyz").resolve() == before
    newer = await node.manager(epoch=2)
    report = await newer.task("t1", "running", ready=True)
    assert "missing" not in report
    assert len(node.mounts()) == 1
    assert node.seen(sources(node, "t1")["/etc/pass"]).read_text() == PASS
    assert node.engine.calls.count("POST /containers/c1/start") == 1
    await give(newer, "t2", epoch=2)
    await newer.apply(ensure("t2", files=FILES), epoch=2)
    await newer.task("t2", "running")
    await newer.apply({"do": "remove_task", "task_id": "t1"}, epoch=2)
    await newer.task("t1", "gone")
    assert [path.name for path in node.seen(f"{node.root}/secrets").iterdir()] == ["t2"]


async def test_a_node_that_is_left_has_nothing_mounted_any_more(node: Node) -> None:
    manager = await node.manager()
    await give(manager, "t1")
    await manager.apply(ensure("t1", files=FILES))
    await manager.task("t1", "running")
    reply = await manager.request("release", {"clear": True})
    assert reply["result"]["tasks"] == []
    assert node.process is not None
    await manager.close()
    node.managers.remove(manager)
    await eventually(lambda: node.process is not None and node.process.poll() is not None)
    assert node.process.returncode == 64
    assert node.mounts() == []
    assert not node.seen(str(node.root)).exists()


def test_without_leave_to_mount_a_folder_in_memory_will_do_and_no_other() -> None:
    """Where even root may not mount, what /run is must be enough; what is on a disk never is."""
    program = """
import os, sys, tempfile
from remote_helpers import memoryfs
def refuse(*_): raise OSError(1, "not permitted")
memoryfs._mount = refuse
print(memoryfs.ensure_mounted(sys.argv[1] + "/memory/secrets"))
try:
    memoryfs.ensure_mounted(sys.argv[1] + "/disk/secrets")
except OSError as e:
    print(e.strerror)
"""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("memory", "disk"):
            (Path(folder) / name).mkdir()
        if Path(folder).stat().st_dev == Path("/dev/shm").stat().st_dev:
            pytest.skip("temporary files are in memory here")
        shell = f'mount -t tmpfs none {folder}/memory && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, "-c", program, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["tmpfs", "not permitted"]
