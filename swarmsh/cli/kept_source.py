"""Where the contents of a secret or config come from: a file, standard input, a variable, a command's output.

They are never written anywhere, nor part of a message.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from swarmsh import core_dumps
from swarmsh.errors import SwarmshError

_Command = TypeVar("_Command", bound=Any)
MOST = 1 << 20  # bytes; more than the manager takes of either


def source_options(command: _Command) -> _Command:
    """`[FILE|-]`, --from-env, --from-command and --trim-newline."""
    for option in (
        click.option("--trim-newline", is_flag=True, help="Leave out one newline at the end, if there is one."),
        click.option(
            "--from-command",
            metavar="COMMAND",
            help="Take what a shell command prints, such as 'pass show db'; nothing is done if it fails.",
        ),
        click.option("--from-env", metavar="VARIABLE", help="Take the value of an environment variable."),
    ):
        command = option(command)
    return command


def read_source(file: str | None, from_env: str | None, from_command: str | None, trim_newline: bool) -> str:
    """What was named, in base64 as the API takes it. Raises UsageError unless exactly one was, SwarmshError."""
    ways: list[Callable[[], bytes]] = []
    if file is not None:
        ways.append(lambda: _standard_input() if file == "-" else _file(file))
    if from_env is not None:
        ways.append(lambda: _variable(from_env))
    if from_command is not None:
        ways.append(lambda: _output(from_command))
    if len(ways) != 1:
        raise click.UsageError("Name one of FILE, - (standard input), --from-env and --from-command.")
    core_dumps.forbid()
    data = ways[0]()
    if trim_newline:
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    return base64.b64encode(data).decode()


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST)
    except OSError as error:
        raise SwarmshError(f"{path} cannot be read: {error.strerror}") from None


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise SwarmshError("there is no standard input to read from")
    return sys.stdin.buffer.read(MOST)


def _variable(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise SwarmshError(f"there is no variable {name} in the environment")
    return value


def _output(command: str) -> bytes:
    done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        why = f"status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise SwarmshError(f"the command of --from-command ended with {why}; nothing was changed")
    return done.stdout
