"""The command line: one more client of the manager's socket. A command imports only what it uses."""

from __future__ import annotations


def main() -> None:
    """Entry of the console script; ends the process with the command's exit code."""
    from swarmsh.cli.entry import run

    run()
