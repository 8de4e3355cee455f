"""Completion: live names, quick and silent when there is no manager."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from swarmsh.cli.entry import ROOT

from .conftest import Recorder, Result, make_node, make_service, make_task

Cli = Callable[..., Result]


@pytest.fixture
def cluster(manager: Recorder) -> Recorder:
    web, worker = make_service("web"), make_service("worker", replicas=None)
    manager.on("GET", "/services", [web, worker])
    manager.on("GET", "/nodes", [make_node("n1"), make_node("n2", node_id="node2")])
    manager.on("GET", "/tasks", [make_task(web, 1), make_task(web, 2)])
    return manager


def complete(line: str) -> list[str]:
    *words, incomplete = line.split(" ")
    kind = get_completion_class("bash")
    assert kind is not None
    return [
        item.value for item in kind(ROOT, {}, "swarmsh", "_SWARMSH_COMPLETE").get_completions(words, incomplete)
    ]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("serv", ["service"]),
        ("node in", ["inspect"]),
        ("service ps w", ["web", "worker"]),
        ("service update we", ["web"]),
        ("service update --force we", ["web"]),
        ("service rm web wo", ["worker"]),
        ("service scale w", ["web="]),
        ("service logs web.", ["web.1", "web.2"]),
        ("service exec web.2.", ["web.2.task2node1" + "0" * 15]),
        ("node ps n", ["n1", "n2"]),
        ("node update --availability d", ["drain"]),
        ("node update --availability drain n", ["n1", "n2"]),
        ("service create --rollback-or", ["--rollback-order"]),
        ("completion f", ["fish"]),
    ],
)
def test_what_is_offered(line: str, offers: list[str], cluster: Recorder) -> None:
    assert complete(line) == offers


def test_without_a_manager_nothing_is_offered_and_nothing_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SWARMSH_HOST", f"unix://{tmp_path}/none.sock")
    assert complete("service ps ") == []
    assert complete("node ps ") == []
    assert capfd.readouterr() == ("", "")


def test_bash_takes_the_script_and_completes(cluster: Recorder, cli: Cli, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    # A console script of that name, wherever this checkout is installed.
    program = tmp_path / "swarmsh"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m swarmsh "$@"\n')
    program.chmod(0o755)
    script = cli("completion", "bash").out
    run = f"{script}\nCOMP_WORDS=(swarmsh service ps w); COMP_CWORD=3; _swarmsh_completion swarmsh\n"
    run += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        [bash, "-c", run],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert (done.stdout.split(), done.stderr) == (["web", "worker"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, cli: Cli) -> None:
    result = cli("completion", shell)
    assert result.code == 0
    assert "_SWARMSH_COMPLETE" in result.out
