"""docs/cli.md names every command and every option."""

from __future__ import annotations

import click
import pytest

from .reference import MARK, PAGE, commands, render

ALL = {" ".join(path): command for path, command in commands()}


def test_the_page_is_what_the_commands_say() -> None:
    page = PAGE.read_text().partition(MARK)[2]
    assert page.strip() == render().strip(), "run: python -m tests.unit.cli.reference"


@pytest.mark.parametrize("name", ALL)
def test_each_command_and_option_says_what_it_does(name: str) -> None:
    command = ALL[name]
    assert command.help
    page = PAGE.read_text()
    assert f"\n## {name}\n" in page
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or isinstance(option.type, click.Choice), option.name
            assert all(word in page for word in option.opts)


def test_each_command_can_be_reached_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    from swarmsh.cli.entry import invoke

    for name in ALL:
        assert invoke([*name.split(), "--help"]) == 0
        assert "Usage: swarmsh" in capsys.readouterr().out
