"""One machine as processes of the host: start, find again, freeze, cut the power.

Each machine is a process namespace of its own: its first process is a small supervisor, and killing
that makes the kernel end everything in it, at once and with certainty. The supervisor starts the kernel
anew when the guest reboots, as a mainboard does, and ends when the guest powers off.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from . import network
from .compile import ensure_program
from .errors import LabError
from .paths import LabPaths
from .process import ProcessId, end, identify, wait_until

CLONE_NEWPID = 0x20000000
_libc = ctypes.CDLL(None, use_errno=True)


class Power(Enum):
    """What a machine is, seen from outside."""

    RUNNING = "running"
    OFF = "off"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Machine:
    """What makes a machine: its place in the lab and the files that it boots from."""

    paths: LabPaths
    name: str
    index: int  # from 1; gives address, hardware address and tap
    image: Path
    memory_mb: int

    @property
    def folder(self) -> Path:
        return self.paths.node(self.name)

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def umid(self) -> str:
        return f"{self.paths.tag}-{self.name}"

    def command(self) -> list[str]:
        """The kernel's command line."""
        return [
            "/usr/bin/linux.uml",
            f"umid={self.umid}",
            f"uml_dir={self.paths.run}/uml/",
            f"mem={self.memory_mb}M",
            f"ubda={self.folder}/disk.cow,{self.image}",
            f"ubdbr={self.folder}/seed.tar",
            "root=/dev/ubda",
            "rw",
            "init=/usr/sbin/lab-init",
            f"vec0:transport=tap,ifname=tap{self.index},mac={network.node_mac(self.index)},depth=128,gro=1",
            "con=null",
            "con0=null,fd:1",
            "console=tty0",
            "quiet",
            "panic=-1",
            "selinux=0",
            "systemd.show_status=0",
            "systemd.log_target=journal",
        ]


def power(machine: Machine) -> Power:
    """Whether the machine runs, is off, or is frozen."""
    supervisor = _recorded(machine)
    if supervisor is None or not supervisor.alive():
        return Power.OFF
    kernel = kernel_process(machine)
    stat = kernel.stat() if kernel else None
    return Power.FROZEN if stat is not None and stat[0] == "T" else Power.RUNNING


def supervisor_process(machine: Machine) -> ProcessId | None:
    """The machine's first process if it is alive."""
    supervisor = _recorded(machine)
    return supervisor if supervisor is not None and supervisor.alive() else None


def kernel_process(machine: Machine) -> ProcessId | None:
    """The user-mode kernel itself, a child of the supervisor."""
    supervisor = supervisor_process(machine)
    if supervisor is None:
        return None
    try:
        children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return identify(int(children[0])) if children else None


def power_on(machine: Machine) -> None:
    """Start the machine, if it is off, on the disk that it had."""
    if power(machine) is not Power.OFF:
        return
    for folder in (machine.paths.run / "uml", machine.paths.memory):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(machine.paths.run / "uml" / machine.umid, ignore_errors=True)  # of a kernel that was killed
    supervisor = str(ensure_program("machine/supervisor.c"))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _launch(machine, supervisor, read_end, write_end)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text.isdigit():
        raise LabError(f"machine {machine.name} could not be started: {text or 'its launcher died'}")
    # The supervisor waits for its record: no moment at which it runs and nobody could find it again.
    process = identify(int(text))
    if process is None or not wait_until(lambda: _recorded(machine) == process, timeout_s=5):
        raise LabError(f"machine {machine.name} ended at once", f"See {machine.console}")


def power_off(machine: Machine) -> None:
    """Cut the power: every process of the machine is killed; what it had not written is lost."""
    supervisor = supervisor_process(machine)
    if supervisor is not None:
        end(supervisor)


def freeze(machine: Machine) -> None:
    """Stop the machine's clock: it keeps its memory and does nothing, as a suspended one."""
    _signal_kernel(machine, signal.SIGSTOP)
    _await_power(machine, Power.FROZEN)


def thaw(machine: Machine) -> None:
    """Let a frozen machine go on."""
    _signal_kernel(machine, signal.SIGCONT)
    _await_power(machine, Power.RUNNING)


def console_tail(machine: Machine, lines: int = 25) -> str:
    """The last lines of the console, for error messages."""
    try:
        text = machine.console.read_bytes()[-8000:].decode(errors="replace")
    except FileNotFoundError:
        return "(no console log)"
    return "\n".join(text.replace("\r", "").splitlines()[-lines:])


def _signal_kernel(machine: Machine, sign: signal.Signals) -> None:
    kernel = kernel_process(machine)
    if kernel is None:
        raise LabError(f"machine {machine.name} is off", f"`fault {machine.name} power-on` starts it.")
    os.kill(kernel.pid, sign)


def _await_power(machine: Machine, wanted: Power) -> None:
    if not wait_until(lambda: power(machine) is wanted, timeout_s=10):
        raise LabError(f"machine {machine.name} did not become {wanted.value} within 10 s")


def _record_file(machine: Machine) -> Path:
    return machine.paths.run / f"{machine.name}.process"  # of this boot of the host, as the process is


def _recorded(machine: Machine) -> ProcessId | None:
    try:
        return ProcessId(**json.loads(_record_file(machine).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _launch(machine: Machine, supervisor: str, read_end: int, write_end: int) -> None:
    """In the forked child: enter the lab's network, make the process namespace, report, and end."""
    try:
        os.close(read_end)
        os.setsid()
        network.enter(machine.paths.namespace)
        if _libc.unshare(CLONE_NEWPID) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        go_read, go_write = os.pipe()
        first = os.fork()
        if first == 0:
            _supervise(machine, supervisor, go_read, go_write, write_end)
        os.close(go_read)
        process = identify(first)
        assert process is not None  # it waits for our word
        temporary = _record_file(machine).with_suffix(".partial")
        temporary.write_text(json.dumps(asdict(process)))
        temporary.rename(_record_file(machine))
        os.write(go_write, b"go")
        os.write(write_end, str(first).encode())
        os._exit(0)
    except BaseException as err:
        os.write(write_end, f"{type(err).__name__}: {err}".encode())
        os._exit(1)


def _supervise(machine: Machine, supervisor: str, go_read: int, go_write: int, write_end: int) -> None:
    """First process of the machine's namespace; becomes the program that outlives reboots."""
    os.close(go_write)
    os.close(write_end)
    if os.read(go_read, 2) != b"go":
        os._exit(1)
    console = os.open(machine.console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(console, 1)
    os.dup2(console, 2)
    os.closerange(3, 1024)
    os.chdir("/")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "TMPDIR": str(machine.paths.memory)}
    os.execve(supervisor, [supervisor, *machine.command()], env)
