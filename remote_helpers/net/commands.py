"""Commands of the node that read a batch on standard input (ip, tc, bridge, iptables-restore), and their words."""

from __future__ import annotations

import asyncio
import os

from ..check import PATH
from ..timing import Expired, deadline

LIMIT_S = 60.0


class CommandFailed(Exception):
    """A command ended with an error; the message has its words."""


async def run(argv: list, text: str = "") -> str:
    """Standard output of a command that is given `text`. Raises CommandFailed."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "PATH": PATH, "LC_ALL": "C"}
        )
    except OSError as e:
        raise CommandFailed(f"{argv[0]}: {e.strerror}") from e
    try:
        async with deadline(LIMIT_S):
            output, said = await process.communicate(text.encode())
    except Expired:
        raise CommandFailed(f"{argv[0]}: no end within {LIMIT_S:g} s") from None
    finally:
        if process.returncode is None:  # too late, or nobody waits for it any more
            process.kill()
    if process.returncode:
        words = "; ".join(said.decode("utf-8", "replace").split("\n")[:6]).strip("; ")
        raise CommandFailed(f"{' '.join(argv)}: {words or f'exit status {process.returncode}'}")
    return output.decode("utf-8", "replace")


async def batch(tool: str, lines: list) -> None:
    """Lines for `ip`, `tc` or `bridge`. One that fails does not keep the others back. Raises CommandFailed."""
    try:
        await run([tool, "-force", "-batch", "-"], "".join(f"{line}\n" for line in lines))
    except CommandFailed as e:
        raise CommandFailed(_with_lines(str(e), lines)) from None


def _with_lines(message: str, lines: list) -> str:
    """`Command failed -:3` names the line that failed."""
    number = message.rpartition("Command failed -:")[2].split(";")[0].strip()
    return f"{message} ({lines[int(number) - 1]})" if number.isdigit() and int(number) <= len(lines) else message
