"""Start of the resident helper: arguments, the socket, signals, and the end."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys

from .engine import SOCKET
from .handover import Doorway, become_newer, inherited_dns, listening_socket
from .helper import EXIT_RELEASED, Helper
from .log import log
from .memoryfs import no_core_dumps, take_away

LOG_LIMIT = 1024 * 1024
DEFAULT_ROOT = "/run/swarmsh"


def main(archive: str) -> None:
    """Run until told to end. `archive` is the path of the zipapp, or of the link to it."""
    root, engine_path = arguments(sys.argv[1:])
    own = os.path.basename(os.path.realpath(archive))
    own_hash = own[: -len(".pyz")] if own.endswith(".pyz") else own
    os.chdir("/")
    os.umask(0o077)
    no_core_dumps()
    code, sock, dns_fds = asyncio.run(_serve(root, own_hash, engine_path))
    if sock is not None:
        become_newer(root, sock, dns_fds)
    if code == EXIT_RELEASED:
        take_away(f"{root}/secrets")
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(code)


def arguments(words: list) -> tuple:
    """(root, path of the Engine's socket) of `[--root DIR] [--engine PATH]`."""
    root, engine_path = DEFAULT_ROOT, SOCKET
    for key, value in zip(words[::2], words[1::2]):
        if key == "--root":
            root = value
        elif key == "--engine":
            engine_path = value
    return root, engine_path


async def _serve(root: str, own_hash: str, engine_path: str):
    sock = listening_socket(root)
    helper = Helper(root, own_hash, engine_path)
    helper.start(inherited_dns())
    newer = []

    def hand_over() -> None:
        newer.append(True)
        helper.finish()

    Doorway(sock, own_hash, helper.open_session, hand_over)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, helper.finish)
    remove_older(root, own_hash)
    _bound_log(loop)
    gc.collect()
    gc.freeze()
    await helper.finished.wait()
    reason = "a newer helper takes over" if newer else "the helper was told to end"
    for session in list(helper.sessions.values()):
        session.end(reason)
    try:
        helper.state.save()
    except OSError as e:
        log("state_not_written", cause=e)
    dns_fds = await helper.network.end(bool(newer))
    log("helper_ends", reason=reason)
    return helper.exit_code, (sock if newer else None), dns_fds


def remove_older(root: str, own_hash: str) -> None:
    """Archives and unpacked code of other versions are of no use any more."""
    for name in os.listdir(root):
        path = f"{root}/{name}"
        if name.startswith("lib-") and name != f"lib-{own_hash}":
            shutil.rmtree(path, ignore_errors=True)
        elif name.endswith(".pyz") and name not in ("helper.pyz", f"{own_hash}.pyz"):
            try:
                os.unlink(path)
            except OSError:
                continue


def _bound_log(loop) -> None:
    """Without a journal standard error is a file in tmpfs: it must not grow for ever."""
    try:
        if os.fstat(2).st_size > LOG_LIMIT:
            os.ftruncate(2, 0)
    except OSError:
        pass
    loop.call_later(60.0, _bound_log, loop)
