"""`swarmsh manager …`: the process that keeps the cluster, in the foreground, in the background, as a unit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from swarmsh import core_dumps
from swarmsh.cli.output import format_option, lb_timeouts_words, note, print_json
from swarmsh.cli.values import POSITIVE_DURATION
from swarmsh.client import ManagerClient, NoManager
from swarmsh.errors import SwarmshError
from swarmsh.paths import default_socket, default_state_dir, manager_socket

LOG_NAME = "manager.log"
LOG_TAIL = 20
START_S = 30.0
STOP_S = 30.0
POLL_S = 0.05
FIRST_KEEPALIVE_S = 7200  # net.ipv4.tcp_keepalive_time, see tcp(7)
PATH = click.Path(path_type=Path)


@click.group("manager")
def GROUP() -> None:
    """Run, start and stop the manager: the process that keeps the cluster."""


_state = click.option("--state", type=PATH, help="Directory of its state (XDG state directory by default).")
_socket = click.option("--socket", type=PATH, help="Its socket (SWARMSH_HOST or the XDG default otherwise).")


_inventory = click.option(
    "--inventory",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Hosts to add; keys pinned in it.",
)


def _places(state: Path | None, socket: Path | None) -> tuple[Path, Path]:
    directory = (state or default_state_dir()).absolute()
    return directory, (socket or manager_socket(directory)).absolute()


def _usable_places(state: Path | None, socket: Path | None) -> tuple[Path, Path]:
    """Where a manager is to run. Raises BadParameter for a place that a slip of the finger must have named."""
    directory, path = _places(state, socket)
    there = next(place for place in (directory, *directory.parents) if place.exists())
    if not there.is_dir():
        raise click.BadParameter(
            f"{there} is a file; name a directory, which is made if it is not there", param_hint="--state"
        )
    # The default place in XDG_RUNTIME_DIR is made anew after each boot, and units name it as others would.
    ours = (directory, manager_socket(directory).absolute().parent)
    if path.parent not in ours and not path.parent.is_dir():
        raise click.BadParameter(
            f"there is no directory {path.parent}; make it, or name another socket", param_hint="--socket"
        )
    return directory, path


@GROUP.command("run")
@_state
@_socket
@_inventory
def run(state: Path | None, socket: Path | None, inventory: Path | None) -> None:
    """Run the manager in the foreground until it is told to stop; it prints its socket when it is ready.

    Cluster and hosts of --inventory are set up if they are not there yet; their host keys must be pinned in it. A
    cluster that was left stays left: `swarmsh up` or `docker swarm init` begins a new one.
    """
    from swarmsh import daemon

    directory, path = _usable_places(state, socket)
    daemon.run(directory, path, inventory)


@GROUP.command("start")
@_state
@_socket
@_inventory
def start(state: Path | None, socket: Path | None, inventory: Path | None) -> None:
    """Start the manager in the background, and return when it answers."""
    directory, path = _usable_places(state, socket)
    if ManagerClient(path).ping():
        note(f"A manager is running already at {path}")
    else:
        start_manager(directory, path, inventory)
        note(f"The manager runs; its log is {directory / LOG_NAME}")
    if path != manager_socket():
        note("Other commands find it with:")
        note(f"    export SWARMSH_HOST=unix://{path}")
    click.echo(f"unix://{path}")


def start_manager(state: Path, socket: Path, inventory: Path | None = None) -> None:
    """Run `manager run` detached from us. Raises SwarmshError with the log's end if it does not come to answer."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = state / LOG_NAME
    command = [sys.executable, "-m", "swarmsh", "manager", "run", "--state", str(state), "--socket", str(socket)]
    if inventory is not None:
        command += ["--inventory", str(inventory.absolute())]
    with log_path.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    client = ManagerClient(socket, timeout=START_S)
    deadline = time.monotonic() + START_S
    while not client.ping():
        if process.poll() is not None:
            raise SwarmshError(f"the manager ended with status {process.returncode}{_tail(log_path, begin)}")
        if time.monotonic() > deadline:
            process.terminate()
            raise SwarmshError(f"the manager did not answer within {START_S:g} s{_tail(log_path, begin)}")
        time.sleep(POLL_S)


def _tail(path: Path, begin: int) -> str:
    """Show what the log got since `begin`; where the rest of it is."""
    with path.open("rb") as log:
        log.seek(begin)
        lines = log.read().decode(errors="replace").splitlines()
    for line in lines[-LOG_TAIL:]:
        note(f"    {line}")
    return f"; its log is {path}"


@GROUP.command("stop")
def stop() -> None:
    """Stop the manager. What runs on the nodes goes on."""
    manager = ManagerClient(timeout=STOP_S)
    pid = int(_status(manager)["pid"])
    if pid <= 1:  # kill(2) takes these for groups of processes, ours first
        raise SwarmshError(f"the manager at {manager.path} does not say which process it is")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise SwarmshError(f"no permission to stop the manager (pid {pid}): it belongs to another user") from None
    deadline = time.monotonic() + STOP_S
    while _alive(pid):
        if time.monotonic() > deadline:
            raise SwarmshError(f"the manager (pid {pid}) did not stop within {STOP_S:g} s", hint=f"kill -9 {pid}")
        time.sleep(POLL_S)
    note("The manager has stopped; what runs on the nodes goes on")


def _alive(pid: int) -> bool:
    """A zombie counts as gone: its parent only has not asked for it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


@GROUP.command("status")
@format_option
@click.option("-q", "--quiet", is_flag=True, help="Only print its address, for DOCKER_HOST.")
def status(form: str, quiet: bool) -> None:
    """Whether a manager runs, and where; exit code 1 if none does.

    A docker CLI speaks to it after: export DOCKER_HOST=$(swarmsh manager status -q)
    """
    manager = ManagerClient(timeout=STOP_S)
    if quiet:
        # Also if none runs: an empty DOCKER_HOST would mean this machine's own Engine.
        click.echo(f"unix://{manager.path}")
    try:
        found = _status(manager)
    except NoManager as error:
        if quiet:
            note(f"Error: {error}")
        elif form == "json":
            print_json({"Running": False, "Socket": str(manager.path)})
        else:
            click.echo(str(error))
        raise click.exceptions.Exit(1) from None
    if quiet:
        return
    if form == "json":
        print_json({"Running": True, "Socket": str(manager.path), **found})
        return
    click.echo(f"{'Running:':<14} yes")
    click.echo(f"{'Socket:':<14} {manager.path}")
    for key, value in found.items():
        if key != "socket" and not isinstance(value, dict | list):
            click.echo(f"{key + ':':<14} {value}")


def _status(manager: ManagerClient) -> dict[str, Any]:
    return dict(manager.get("/swarmsh/status"))


@GROUP.command("update")
@click.option(
    "--down-after",
    type=POSITIVE_DURATION,
    help="Silence after which a node is down if no other node reaches it (3s to 1h; 10s at first).",
)
@click.option(
    "--lb-tcp-timeout",
    type=POSITIVE_DURATION,
    help="Idle TCP connections to services are forgotten after this (1m to 576h; 120h at first).",
)
@click.option(
    "--lb-tcp-fin-timeout",
    type=POSITIVE_DURATION,
    help="Idle TCP connections that one side has closed are forgotten after this (10s to 1h; 2m at first).",
)
@click.option(
    "--lb-udp-timeout",
    type=POSITIVE_DURATION,
    help="UDP clients that are idle for this long may get another task (10s to 24h; 5m at first).",
)
@click.option(
    "--revisions-kept",
    type=click.IntRange(2),
    help="Revisions kept of each service, the current and the previous one included (2 to 1000; 50 at first).",
)
def update(
    down_after: int | None,
    lb_tcp_timeout: int | None,
    lb_tcp_fin_timeout: int | None,
    lb_udp_timeout: int | None,
    revisions_kept: int | None,
) -> None:
    """Change a setting of the cluster that Docker has no word for; holds at once.

    Connections that are idle for longer than --lb-tcp-timeout are reset when they are used again. Programs that
    hold such ones ask the kernel for keepalives, which come after 2h by default: below that they come too late.
    """
    given = {"TCP": lb_tcp_timeout, "TCPFin": lb_tcp_fin_timeout, "UDP": lb_udp_timeout}
    timeouts = {name: _seconds(value) for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {} if down_after is None else {"DownAfterS": down_after / 1e9}
    if timeouts:
        settings["LBTimeouts"] = timeouts
    if revisions_kept is not None:
        settings["RevisionsKept"] = revisions_kept
    if not settings:
        raise click.UsageError("Name a setting to change; `swarmsh info` shows those there are.")
    changed = ManagerClient().post("/swarmsh/cluster/update", settings)
    if down_after is not None:
        note(f"A silent node that no other node reaches is down after {changed['DownAfterS']:g} s.")
    if timeouts:
        limits = changed["LBTimeouts"]
        note(f"Idle connections to services are forgotten after: {lb_timeouts_words(limits)}.")
        if limits["TCP"] <= FIRST_KEEPALIVE_S:
            note("That is before the kernel's first keepalive of a TCP connection (2 h by default).")
    if revisions_kept is not None:
        note(f"Of each service {changed['RevisionsKept']} revisions are kept; others go within a minute or so.")


def _seconds(nanoseconds: int) -> int | float:
    """Whole where it is: the manager takes no other time-outs, and says so."""
    return nanoseconds // 10**9 if nanoseconds % 10**9 == 0 else nanoseconds / 1e9


@GROUP.command("unlock")
def unlock() -> None:
    """Give the passphrase that secrets are encrypted with, to a manager that has just started.

    It is asked for, or read from standard input if that is no terminal. Until then all goes on but what needs
    secrets or configs. Where the key is in a file or keyring, that is looked for again.
    """
    manager = ManagerClient()
    key = manager.get("/swarmsh/key")
    if not key["Locked"]:
        note("The manager is not locked")
        return
    passphrase = _passphrase(confirm=False) if key["Place"] == "passphrase" else ""
    manager.post("/swarmsh/unlock", {"Passphrase": passphrase})
    note("The manager is unlocked")


@GROUP.command("rotate-key")
@click.option(
    "--to",
    type=click.Choice(["file", "keyring", "passphrase"]),
    help="Keep the key in a 0600 file beside the database, in the OS keyring, or make it of a passphrase.",
)
@click.option("--forget", is_flag=True, help="The key is lost: delete all that is encrypted, and begin anew.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --forget.")
def rotate_key(to: str | None, forget: bool, yes: bool) -> None:
    """Encrypt secrets, configs and registry credentials with new keys; no container notices.

    The key stays where it is unless --to is given. A new passphrase is asked for, or read from standard input if
    that is no terminal. Copies of the database made before need the key of before.
    """
    manager = ManagerClient()
    question = "Delete the contents of all secrets and configs, and registry credentials?"
    if forget and not yes and not click.confirm(question, err=True):
        raise click.exceptions.Exit(1)
    place = to or manager.get("/swarmsh/key")["Place"]
    passphrase = _passphrase(confirm=True) if place == "passphrase" else ""
    manager.post("/swarmsh/key/rotate", {"Place": place, "Passphrase": passphrase, "Forget": forget})
    where = {"file": "in a file of the state directory", "keyring": "in the OS keyring"}
    note(f"All is encrypted with new keys; the key is {where.get(place, 'made of the passphrase')}")
    if place == "passphrase":
        note("After each start of the manager it is needed once: `swarmsh manager unlock`")


def _passphrase(*, confirm: bool) -> str:
    core_dumps.forbid()
    if sys.stdin.isatty():
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@GROUP.command("systemd-unit")
@_state
@_socket
def systemd_unit(state: Path | None, socket: Path | None) -> None:
    """Print a systemd user unit that runs the manager.

    \b
    swarmsh manager systemd-unit > ~/.config/systemd/user/swarmsh.service
    systemctl --user enable --now swarmsh
    loginctl enable-linger    # also while you are not logged in
    """
    directory, path = _places(state, socket)
    words = [sys.executable, "-m", "swarmsh", "manager", "run", "--state", str(directory), "--socket", str(path)]
    made = "" if path.parent in (directory, default_socket(directory).parent) else str(path.parent)
    before = f"ExecStartPre=/bin/mkdir -p {_quoted(made)}\n" if made else ""  # it may be gone after a boot
    click.echo(UNIT.format(before=before, command=" ".join(_quoted(word) for word in words)), nl=False)


UNIT = """\
[Unit]
Description=swarmsh manager
After=network-online.target
Wants=network-online.target

[Service]
{before}ExecStart={command}
# Keys that only an agent holds need its socket here:
#Environment=SSH_AUTH_SOCK=%t/ssh-agent.socket
Restart=always
RestartSec=1
# Containers run on the nodes: nothing of theirs ends with this process.
KillSignal=SIGTERM
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(letter in word for letter in " \t\"'\\") else escaped
