"""`completion`: what a shell needs to complete our command lines, names of live objects included."""

from __future__ import annotations

import click

WAYS = {
    "bash": 'eval "$(swarmsh completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(swarmsh completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "swarmsh completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command("completion", epilog="\b\n" + "\n".join(WAYS.values()))
@click.argument("shell", type=click.Choice(list(WAYS)))
def completion(shell: str) -> None:
    """Print the completion script of a shell; names of services, nodes and tasks are asked of the manager."""
    from click.shell_completion import get_completion_class

    from swarmsh.cli.entry import ROOT

    kind = get_completion_class(shell)
    assert kind is not None
    # The source alone: click's own command would start a bash first, only to read its version.
    script = kind(ROOT, {}, "swarmsh", "_SWARMSH_COMPLETE")
    click.echo(script.source_template % script.source_vars())
