"""The root command, and what becomes of errors: one line and an exit code, never a traceback for a known one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from swarmsh.cli.lazy import LazyGroup
from swarmsh.errors import SwarmshError

EXIT_INTERRUPTED = 130


class RootGroup(LazyGroup):
    """Ends quietly when its reader has gone, and with 130 when interrupted; click would say 1 to both."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output (head, grep -q) has what it wanted.
            _drop_stdout()
            raise click.exceptions.Exit(0) from None
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


ROOT = RootGroup(
    name="swarmsh",
    help="""Docker Swarm Mode over ordinary SSH, without agents.

    Commands speak to a manager on its unix socket, named by SWARMSH_HOST=unix://PATH or found in its default
    place. The docker CLI speaks to the same socket: `export DOCKER_HOST=unix://PATH`.""",
    lazy={
        "up": ("swarmsh.cli.up:up", "From an inventory of hosts to a working cluster."),
        "manager": ("swarmsh.cli.manager:GROUP", "Run, start and stop the manager."),
        "node": ("swarmsh.cli.node:GROUP", "Add, look at and change nodes."),
        "network": ("swarmsh.cli.network:GROUP", "Create, look at and remove overlay networks."),
        "service": ("swarmsh.cli.service:GROUP", "Create, look at and change services."),
        "stack": ("swarmsh.cli.stack:GROUP", "Deploy compose files as stacks, and look at stacks."),
        "secret": ("swarmsh.cli.kept:SECRET", "Create, look at, rotate and remove secrets."),
        "config": ("swarmsh.cli.kept:CONFIG", "Create, look at, rotate and remove configs."),
        "volume": ("swarmsh.cli.volume:GROUP", "Look at and remove volumes on all nodes."),
        "rebalance": ("swarmsh.cli.rebalance:rebalance", "Spread tasks of services again over the nodes."),
        "why": ("swarmsh.cli.why:why", "Say why tasks are where they are and as they are."),
        "purge": ("swarmsh.cli.purge:purge", "Remove swarmsh from all nodes."),
        "events": ("swarmsh.cli.system:events", "Follow what happens in the cluster."),
        "info": ("swarmsh.cli.system:info", "Show the cluster and its manager."),
        "version": ("swarmsh.cli.system:version", "Show the versions of this client and the manager."),
        "completion": ("swarmsh.cli.completion:completion", "Print the completion script of a shell."),
    },
)


def run(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    code = invoke(args)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    sys.exit(code)


def invoke(args: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default); its exit code, with errors printed on standard error."""
    try:
        result = ROOT.main(list(args) if args is not None else None, prog_name="swarmsh", standalone_mode=False)
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except click.ClickException as error:
        # Also click's own usage errors (exit code 2).
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted", err=True)
        return EXIT_INTERRUPTED
    except SwarmshError as error:
        click.echo(f"Error: {_one_line(str(error))}", err=True)
        return 1
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        return 1


def _one_line(message: str) -> str:
    return " ".join(message.split("\n")).strip()


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
